"""Fit a detector and calibrate it, on rows that do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.outliers.calibration import CalibratedDetector, calibrate
from guardrails.outliers.forest import IsolationForest
from guardrails.typing import Detector, Rows

_FITTERS: Mapping[str, Callable[[Rows, int], Detector]] = {
    IsolationForest.kind: lambda rows, seed: IsolationForest.fit(rows, seed=seed),
}
_READERS = {IsolationForest.kind: IsolationForest.from_arrays}


def fit(
    X: npt.ArrayLike,
    *,
    detector: str | Detector = IsolationForest.kind,
    alpha: float = 0.01,
    calibration: float = 0.3,
    seed: int = 0,
) -> CalibratedDetector:
    """Fit a detector on part of the rows and calibrate it on the rest.

    Args:
        X: ordinary rows, shape ``(n, d)``; NaN is a missing value.
        detector: ``"isolation_forest"``, or a fitted detector with ``score(rows)``: that one is not refitted, and all
            of X, which it must not have seen, calibrates it.
        alpha: the share of ordinary traffic that may be called an outlier.
        calibration: the share of rows kept back to calibrate.
        seed: decides the split and the fit.

    Returns:
        A calibrated detector with ``score(rows)``, ``p_value(rows)`` and ``is_outlier(rows)``.

    Raises:
        ProfileError: the rows, the detector's scores or alpha do not allow it; the message says what would.

    Example:
        >>> import numpy as np
        >>> from guardrails import outliers
        >>> rng = np.random.default_rng(0)
        >>> detector = outliers.fit(rng.normal(size=(1000, 3)), alpha=0.05)
        >>> detector.is_outlier(np.array([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]]))
        array([False,  True])
    """
    rows = np.asarray(X, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:  # noqa: PLR2004
        raise ProfileError(f"X has shape {rows.shape}; rows of shape (n, d) are needed.")
    fill = _fill(rows)
    if not isinstance(detector, str):
        return calibrate(detector, rows, alpha=alpha, fill=fill)
    if detector not in _FITTERS:
        raise ProfileError(f"detector={detector!r} is unknown; there is {', '.join(map(repr, _FITTERS))}.")
    if not 0.0 < calibration < 1.0:
        raise ProfileError(f"calibration={calibration!r} is no share of the rows: give a number between 0 and 1.")
    order = np.random.default_rng(seed).permutation(len(rows))
    held = round(calibration * len(rows))
    if held == 0 or held == len(rows):
        raise ProfileError(f"{len(rows)} rows are too few to fit on some and calibrate on others.")
    fitted = _FITTERS[detector](np.where(np.isnan(rows), fill, rows)[order[held:]], seed)
    return calibrate(fitted, rows[order[:held]], alpha=alpha, fill=fill)


def read_detector(kind: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Detector:
    """A compiled detector from its arrays.

    Raises:
        ProfileError: the kind is unknown to this version.
    """
    if kind not in _READERS:
        raise ProfileError(f"this version knows no detector of kind {kind!r}; it knows {', '.join(_READERS)}.")
    return _READERS[kind](arrays)


def _fill(rows: Rows) -> npt.NDArray[np.float64]:
    """Per column, the median where values are missing, and NaN where none is: missing there would be strange."""
    missing = np.isnan(rows)
    if np.isinf(rows).any():
        raise ProfileError(f"X holds infinities in columns {_listed(np.isinf(rows).any(axis=0))}; remove these rows.")
    if missing.all(axis=0).any():
        raise ProfileError(f"columns {_listed(missing.all(axis=0))} of X hold no value at all; leave them out.")
    with np.errstate(all="ignore"):
        return np.where(missing.any(axis=0), np.nanmedian(rows, axis=0), np.nan)


def _listed(mask: npt.NDArray[np.bool_]) -> str:
    return ", ".join(map(str, np.flatnonzero(mask)[:10]))
