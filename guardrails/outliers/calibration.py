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
from collections.abc import Callable
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
        if self._rank < 1:
            raise ProfileError(
                f"alpha={self.alpha} cannot be promised with {n} calibration rows: the smallest p-value is 1/{n + 1} = "
                f"{1 / (n + 1):.4f}. Give at least {math.ceil(1 / self.alpha) - 1} calibration rows, or a larger alpha."
            )

    def with_alpha(self, alpha: float) -> CalibratedDetector:
        """The same detector, deciding at another alpha."""
        return CalibratedDetector(self.detector, self.calibration, alpha, self.fill)

    @property
    def _rank(self) -> int:
        """``floor(alpha (n + 1))``: 0.05 over n=99 is 5, although 0.05 * 100 falls a hair short of it in floats."""
        return math.floor(self.alpha * (len(self.calibration) + 1) * (1 + 1e-12))

    @property
    def share(self) -> float:
        """The share of ordinary rows that is flagged on average, where no scores tie: at most alpha."""
        return self._rank / (len(self.calibration) + 1)

    @cached_property
    def threshold(self) -> float:
        """Rows that score higher are outliers: the ``floor(alpha (n + 1))``-th largest calibration score."""
        return float(self.calibration[len(self.calibration) - self._rank])

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
        return _scores(self.detector, rows, self.fill, _numbers)

    def p_value(self, rows: Rows) -> Scores:
        """The conformal p-value of each row, shape ``(n,)``, in [1/(n+1), 1]."""
        return self.p_value_of(self.score(rows))

    def is_outlier(self, rows: Rows) -> Mask:
        """Which rows are outliers at `alpha`, shape ``(n,)``."""
        return self.score(rows) > self.threshold

    def judge_one(self, row: Rows, values: list[float]) -> tuple[float, float]:
        """Score and p-value of one row as plain numbers.

        Args:
            row: shape ``(1, d)``.
            values: the same ``d`` numbers as a list. Between two requests a worker does so much else that every NumPy
                call starts with cold caches, at several times its price in a loop; Python's own are always warm.
        """
        total = sum(values)
        one = self._score_one
        plain = total == total and min(values) > -_FLOAT32_MAX and max(values) < _FLOAT32_MAX  # noqa: PLR0124  # no NaN
        if one is not None and plain:
            score: float = one(row[0])
        else:
            score = float(_scores(self.detector, row, self.fill, _numbers)[0])
        n = len(self._ascending)
        return score, (1 + n - bisect_left(self._ascending, score)) / (n + 1)

    @cached_property
    def _score_one(self) -> Callable[[npt.NDArray[np.float64]], float] | None:
        return getattr(self.detector, "score_one", None)

    def p_value_of(self, scores: Scores) -> Scores:
        """The p-values of scores already taken."""
        n = len(self.calibration)
        return np.asarray((1 + n - np.searchsorted(self.calibration, scores, side="left")) / (n + 1))

    @cached_property
    def _ascending(self) -> list[float]:
        return list(self.calibration.tolist())


STRANGEST = float(np.finfo(np.float64).max)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_MAX_SQUARED = _FLOAT32_MAX**2


def _scores(
    detector: Detector, rows: Rows, fill: npt.NDArray[np.float64], numbers: Callable[[Scores, int], Scores]
) -> Scores:
    """What a detector says of rows, and what is said of those it cannot read."""
    # One product is all an ordinary request pays: with a NaN, or a value float32 cannot hold, it is not smaller.
    if len(rows) and np.vdot(rows, rows) < _FLOAT32_MAX_SQUARED:
        return numbers(detector.score(rows), len(rows))
    filled = np.where(np.isnan(rows), fill, rows)
    readable = (np.abs(filled) < _FLOAT32_MAX).all(axis=1)
    scores = np.full(len(rows), STRANGEST)
    if readable.any():
        scores[readable] = numbers(detector.score(filled[readable]), int(readable.sum()))
    return scores


def _numbers(scores: Scores, n: int) -> Scores:
    """A live detector's scores of ``n`` rows: what is no number is the strangest there is."""
    scores = np.asarray(scores, dtype=np.float64)
    if n == 1:
        return scores if math.isfinite(scores[0]) else np.array([STRANGEST])
    return np.where(np.isfinite(scores), scores, STRANGEST)


def _numbers_only(scores: Scores, n: int) -> Scores:
    """Scores of calibration rows, which a detector has to be able to score."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (n,):
        raise ProfileError(f"the detector scored {n} rows with shape {scores.shape}; one score per row is meant.")
    if not np.isfinite(scores).all():
        raise ProfileError("the detector gave calibration rows scores that are no finite numbers.")
    return scores


def calibrate(
    detector: Detector,
    rows: Rows,
    *,
    alpha: float,
    fill: npt.NDArray[np.float64],
    seen_once: npt.NDArray[np.bool_] | None = None,
) -> CalibratedDetector:
    """Calibrate a fitted detector on rows ``(n, d)`` it has not seen.

    Args:
        detector: scores rows; higher is stranger.
        rows: the calibration rows.
        alpha: the share of ordinary traffic that may be called an outlier.
        fill: what stands in for a missing value, per column; NaN where a missing value is strange.
        seen_once: cells, shape ``(n, d)``, that are known to be legal from this very row only. A fresh row with such a
            cell of its own is the strangest there is, so for alpha to hold this one has to be, too.

    Raises:
        ProfileError: its scores are no finite numbers, or there are too few rows for this alpha.
    """
    known = rows if seen_once is None else np.where(seen_once, np.inf, rows)
    scores = _scores(detector, known, fill, _numbers_only)
    return CalibratedDetector(detector, np.sort(scores), alpha, fill)
