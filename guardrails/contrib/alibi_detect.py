"""alibi-detect's outlier detectors, and the folders it saves them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from guardrails.contrib.frozen_mahalanobis import FrozenMahalanobis
from guardrails.contrib.live import LiveDetector, name_of
from guardrails.contrib.shifted import Shifted
from guardrails.contrib.sklearn import require_fitted
from guardrails.errors import ProfileError
from guardrails.typing import Detector

__all__ = ["FrozenMahalanobis", "adopt", "load"]

_NETWORKS = {"ae", "aegmm", "llr", "seq2seq", "vae", "vaegmm"}
"""Modules of `alibi_detect.od` with TensorFlow networks: they compute in float32, and some read nothing else."""


def adopt(detector: Any) -> Detector:
    """A detector out of a fitted alibi-detect outlier detector, which is neither copied, refitted nor changed.

    Compiled are `IForest` and `Mahalanobis`. The latter learns while it scores, so its present state is frozen: see
    `FrozenMahalanobis`. The others are live: networks are given float32 rows, and of detectors that score features and
    rows, the rows count. `SpectralResidual` and `OutlierSeq2Seq` score the points of one series, so what is scored has
    to be a series, not single rows. The detector's own threshold plays no part: a calibration decides.

    Raises:
        ProfileError: it is not fitted, or its state cannot be used; the message says what helps.
        TypeError: it is no outlier detector, or not one of rows of numbers.
    """
    if (getattr(detector, "meta", None) or {}).get("detector_type") != "outlier":
        raise TypeError(f"{name_of(detector)} is no outlier detector: those of alibi_detect.od are.")
    base = next(base for base in type(detector).__mro__ if base.__module__.startswith("alibi_detect."))
    module = base.__module__.rpartition(".")[2]
    if module == "isolationforest":
        require_fitted(detector.isolationforest)
        return Shifted.compile(detector.isolationforest)
    if module == "mahalanobis":
        return FrozenMahalanobis.compile(detector)
    if module == "prophet":
        raise TypeError(f"{name_of(detector)} scores a DataFrame of timestamps and values, not rows of numbers.")
    if not getattr(getattr(detector, "backend", None), "fitted", True):
        raise ProfileError(f"{name_of(detector)} is not fitted: call its fit(X) with training rows first.")

    def scores(rows: Any) -> Any:
        answer = detector.score(rows)
        return answer[1] if isinstance(answer, tuple) else answer  # (of features, of rows)

    return LiveDetector(detector, scores, np.float32 if module in _NETWORKS else None)


def load(folder: str | Path, *, runs_code: bool = False) -> Any:
    """Load a detector that `alibi_detect.saving.save_detector` saved; `adopt` and `outliers.fit` take it as it is.

    Args:
        folder: the folder.
        runs_code: whether it may. The folder holds pickles, and to read a pickle is to run what it says: load only
            what you or somebody you trust has saved.

    Raises:
        ProfileError: ``runs_code`` is not true, or there is no such folder.

    Example:
        >>> from guardrails.contrib.alibi_detect import load
        >>> load("somebodys-detector")
        Traceback (most recent call last):
        ...
        guardrails.errors.ProfileError: loading somebodys-detector runs code: ...
    """
    if not runs_code:
        raise ProfileError(
            f"loading {folder} runs code: alibi-detect saves detectors as pickles, which can do anything this process "
            "can. If you trust whoever saved it, say load(folder, runs_code=True)."
        )
    if not Path(folder).is_dir():
        raise ProfileError(f"there is no folder {folder}.")
    from alibi_detect.saving import load_detector

    return load_detector(folder)
