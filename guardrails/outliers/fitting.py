"""Fit a detector and calibrate it, on rows that do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.outliers.calibration import CalibratedDetector, calibrate
from guardrails.outliers.kinds import fitter
from guardrails.typing import Detector, Rows

DetectorChoice: TypeAlias = "str | Detector | Callable[[Rows], Detector] | Any"
"""A name, a combination, a function that fits one, or anything fitted that `guardrails.contrib.adopt` takes."""


def fit(
    X: npt.ArrayLike,
    *,
    detector: DetectorChoice = "isolation_forest",
    alpha: float = 0.01,
    calibration: float = 0.3,
    group_by: int | None = None,
    seed: int = 0,
) -> CalibratedDetector:
    """Fit a detector on part of the rows and calibrate it on the rest.

    Args:
        X: ordinary rows, shape ``(n, d)``; NaN is a missing value.
        detector: ``"isolation_forest"``, ``"mahalanobis"``, ``"robust_mahalanobis"``, ``"knn"``, ``"hbos"``,
            ``"ecod"``, ``"feature_space"``; several of them by `combine`; a function that fits one of your own, rows
            ``(m, d)`` to a detector; or a fitted detector: an object with ``score(rows)``, any fitted scikit-learn,
            PyOD or alibi-detect outlier detector. A fitted one is not refitted, and all of X, which it must not have
            seen, calibrates it.
        alpha: the share of ordinary traffic that may be called an outlier.
        calibration: the share of rows kept back to calibrate.
        group_by: a column whose value names a row's group. Each group is then calibrated by itself (Mondrian), so that
            alpha holds within each; groups too small for alpha are taken together.
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
    return fit_columns(X, (), detector=detector, alpha=alpha, calibration=calibration, group_by=group_by, seed=seed)


def fit_columns(
    X: npt.ArrayLike,
    categorical: Sequence[int],
    *,
    detector: DetectorChoice,
    alpha: float,
    calibration: float,
    group_by: int | None,
    seed: int,
) -> CalibratedDetector:
    """`fit`, knowing which columns hold the codes of categories."""
    rows = np.asarray(X, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:  # noqa: PLR2004
        raise ProfileError(f"X has shape {rows.shape}; rows of shape (n, d) are needed.")
    _refuse_unusable(rows)
    if group_by is not None and not 0 <= group_by < rows.shape[1]:
        raise ProfileError(f"group_by={group_by!r} names no column of X, which has {rows.shape[1]}.")
    fill, centre = _fill(rows), np.nanmedian(rows, axis=0)
    train = _fitter(detector)
    if train is None:
        once = _seen_once(rows, rows[:0], categorical)
        fitted, kept = _fitted(detector), rows
    else:
        own, kept = _split(rows, calibration, seed)
        once = _seen_once(kept, own, categorical)
        fitted = train(np.where(np.isnan(own), fill, own), seed)
    return calibrate(fitted, kept, alpha=alpha, fill=fill, seen_once=once, centre=centre, group_by=group_by)


def _fitter(detector: DetectorChoice) -> Callable[[Rows, int], Detector] | None:
    """How it is fitted; None when it is."""
    if isinstance(detector, str):
        return fitter(detector)
    own: Callable[[Rows, int], Detector] | None = getattr(detector, "fit_members", None)
    if own is not None:
        return own
    if callable(detector) and not hasattr(detector, "score"):
        return lambda rows, _: _fitted(detector(rows))
    return None


def _fitted(detector: Any) -> Detector:
    from guardrails.contrib import adopt

    return adopt(detector)


def _split(rows: Rows, calibration: float, seed: int) -> tuple[Rows, Rows]:
    """Rows to fit on, and rows kept back to calibrate."""
    if not 0.0 < calibration < 1.0:
        raise ProfileError(f"calibration={calibration!r} is no share of the rows: give a number between 0 and 1.")
    order = np.random.default_rng(seed).permutation(len(rows))
    held = round(calibration * len(rows))
    if held == 0 or held == len(rows):
        raise ProfileError(f"{len(rows)} rows are too few to fit on some and calibrate on others.")
    return rows[order[held:]], rows[order[:held]]


def _seen_once(kept: Rows, own: Rows, categorical: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Cells of calibration rows that only this row makes legal: a gap no other row has, a category of its own."""
    missing = np.isnan(kept)
    once: npt.NDArray[np.bool_] = missing & (missing.sum(axis=0) == 1) & ~np.isnan(own).any(axis=0)
    for column in categorical:
        codes, counts = np.unique(kept[:, column][~missing[:, column]], return_counts=True)
        alone = np.setdiff1d(codes[counts == 1], own[:, column])
        once[:, column] |= np.isin(kept[:, column], alone)
    return once


def _fill(rows: Rows) -> npt.NDArray[np.float64]:
    """Per column, the median where values are missing, and NaN where none is: missing there would be strange."""
    return np.where(np.isnan(rows).any(axis=0), np.nanmedian(rows, axis=0), np.nan)


def _refuse_unusable(rows: Rows) -> None:
    if np.isinf(rows).any():
        raise ProfileError(f"X holds infinities in columns {_listed(np.isinf(rows).any(axis=0))}; remove these rows.")
    empty = np.isnan(rows).all(axis=0)
    if empty.any():
        raise ProfileError(f"columns {_listed(empty)} of X hold no value at all; leave them out.")


def _listed(mask: npt.NDArray[np.bool_]) -> str:
    return ", ".join(map(str, np.flatnonzero(mask)[:10]))
