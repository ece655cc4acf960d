"""A detector scores, a calibration decides: split-conformal p-values, so that alpha means what it says.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for outliers with
conformal p-values", Annals of Statistics 51 (2023). With n calibration rows that the detector was not fitted on,
``p = (1 + #{calibration scores >= s}) / (n + 1)`` is at most alpha for at most a share alpha of ordinary rows, whatever
the detector and whatever the distribution: exactly ``floor(alpha (n + 1)) / (n + 1)`` of them on average, less with
tied scores.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.typing import Detector, Mask, Rows, Scores


@dataclass(frozen=True, eq=False)
class CalibratedDetector:
    """A fitted detector and the scores it gave to ordinary rows it had not seen.

    Attributes:
        detector: scores rows; higher is stranger.
        calibration: its scores of the calibration rows, ascending, shape ``(n,)``.
        alpha: the share of ordinary traffic that may be called an outlier.
        fill: what stands in for a missing value, per column; NaN where the reference had none missing.
    """

    detector: Detector
    calibration: Scores
    alpha: float
    fill: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.calibration)
        if not 0.0 < self.alpha < 1.0:
            raise ProfileError(f"alpha={self.alpha!r} is no share of traffic: give a number between 0 and 1.")
        if self.alpha * (n + 1) < 1.0:
            raise ProfileError(
                f"alpha={self.alpha} cannot be promised with {n} calibration rows: the smallest p-value is 1/{n + 1} = "
                f"{1 / (n + 1):.4f}. Give at least {math.ceil(1 / self.alpha) - 1} calibration rows, or a larger alpha."
            )

    def with_alpha(self, alpha: float) -> CalibratedDetector:
        """The same detector, deciding at another alpha."""
        return CalibratedDetector(self.detector, self.calibration, alpha, self.fill)

    @cached_property
    def threshold(self) -> float:
        """Rows that score higher are outliers: the ``floor(alpha (n + 1))``-th largest calibration score."""
        n = len(self.calibration)
        # The tolerance keeps alpha=0.05 over n=99 at 5 rows although 0.05 * 100 may fall a hair short of 5.
        return float(self.calibration[n - math.floor(self.alpha * (n + 1) * (1 + 1e-12))])

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``; shape ``(n,)``, higher is stranger.

        A row that holds what no row of the reference held (an infinity, a value beyond float32, an unseen category, a
        value missing where none ever was) scores the largest float: the strangest there is, and still a number that
        trace backends keep (they drop infinities).
        """
        if not isinstance(rows, np.ndarray) or rows.dtype != np.float64:
            rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.fill):  # noqa: PLR2004
            raise ValueError(f"rows of shape (n, {len(self.fill)}) are expected, not {rows.shape}")
        # One product is all an ordinary request pays: with a NaN, or a value float32 cannot hold, it is not smaller.
        if np.vdot(rows, rows) < _FLOAT32_MAX_SQUARED:
            return self.detector.score(rows)
        filled = np.where(np.isnan(rows), self.fill, rows)
        readable = (np.abs(filled) < _FLOAT32_MAX).all(axis=1)
        scores = np.full(len(rows), STRANGEST)
        if readable.any():
            scores[readable] = self.detector.score(filled[readable])
        return scores

    def p_value(self, rows: Rows) -> Scores:
        """The conformal p-value of each row, shape ``(n,)``, in [1/(n+1), 1]."""
        return self.p_value_of(self.score(rows))

    def is_outlier(self, rows: Rows) -> Mask:
        """Which rows are outliers at `alpha`, shape ``(n,)``."""
        return self.score(rows) > self.threshold

    def p_value_of(self, scores: Scores) -> Scores:
        """The p-values of scores already taken."""
        n = len(self.calibration)
        if len(scores) == 1:  # a list's bisect is three times as fast as NumPy's for one value
            return np.array([(1 + n - bisect_left(self._ascending, scores[0])) / (n + 1)])
        return np.asarray((1 + n - np.searchsorted(self.calibration, scores, side="left")) / (n + 1))

    @cached_property
    def _ascending(self) -> list[float]:
        return list(self.calibration.tolist())


STRANGEST = float(np.finfo(np.float64).max)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_MAX_SQUARED = _FLOAT32_MAX**2


def calibrate(detector: Detector, rows: Rows, *, alpha: float, fill: npt.NDArray[np.float64]) -> CalibratedDetector:
    """Calibrate a fitted detector on rows ``(n, d)`` it has not seen.

    Raises:
        ProfileError: its scores are no finite numbers, or there are too few rows for this alpha.
    """
    scores = np.asarray(detector.score(np.where(np.isnan(rows), fill, rows)), dtype=np.float64)
    if scores.shape != (len(rows),):
        raise ProfileError(
            f"{detector!r} scored {len(rows)} rows with shape {scores.shape}; one score per row is meant."
        )
    if not np.isfinite(scores).all():
        raise ProfileError(f"{detector!r} gave calibration rows scores that are no finite numbers.")
    return CalibratedDetector(detector, np.sort(scores), alpha, fill)
