"""The detectors this library compiles, by name: how each is fitted, and read back from its arrays."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.typing import Detector, Rows

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

_KINDS: Mapping[str, tuple[str, str]] = {
    "isolation_forest": ("guardrails.outliers.forest", "IsolationForest"),
    "mahalanobis": ("guardrails.outliers.mahalanobis", "Mahalanobis"),
    "knn": ("guardrails.outliers.neighbors", "NearestNeighbors"),
    "hbos": ("guardrails.outliers.histogram", "Histogram"),
    "ecod": ("guardrails.outliers.ecdf", "Ecdf"),
    "feature_space": ("guardrails.outliers.feature_space", "FeatureSpace"),
}
_READ_ONLY: Mapping[str, tuple[str, str]] = {
    "alibi_mahalanobis": ("guardrails.contrib.alibi_detect", "FrozenMahalanobis"),
    "shifted": ("guardrails.contrib.shifted", "Shifted"),
}
_ROBUST = "robust_mahalanobis"
_SYNONYMS: Mapping[str, str] = {
    "iforest": "isolation_forest",
    "mcd": _ROBUST,
    "elliptic_envelope": _ROBUST,
    "nearest_neighbors": "knn",
    "histogram": "hbos",
    "ecdf": "ecod",
}
NAMES = (*_KINDS, _ROBUST)


def fitter(name: str) -> Callable[[Rows, int], Detector]:
    """How the detector of this name is fitted, as ``fit(rows, seed)``.

    Raises:
        ProfileError: there is none of this name.
    """
    known = _SYNONYMS.get(name, name)
    if known == _ROBUST:
        return lambda rows, seed: _class("mahalanobis").fit(rows, robust=True, seed=seed)
    if known not in _KINDS:
        raise ProfileError(f"detector={name!r} is unknown; there is {', '.join(map(repr, NAMES))}.")
    return lambda rows, seed: _class(known).fit(rows, seed=seed)


def read_detector(kind: str, arrays: Arrays) -> Detector:
    """A compiled detector from its arrays.

    Raises:
        ProfileError: the kind is unknown to this version.
    """
    if kind == "combined":
        from guardrails.outliers.voting import Combined

        combined: Detector = Combined.from_arrays(arrays, read_detector)
        return combined
    if kind not in _KINDS and kind not in _READ_ONLY:
        raise ProfileError(f"this version knows no detector of kind {kind!r}; it knows {', '.join(_KINDS)}.")
    found: Detector = _class(kind).from_arrays(arrays)
    return found


def _class(kind: str) -> Any:
    # One module a detector, loaded when it is asked for: a service reads one of them, not all.
    module, name = _KINDS.get(kind) or _READ_ONLY[kind]
    return getattr(importlib.import_module(module), name)
