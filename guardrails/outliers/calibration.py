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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.outliers.conformal import (
    TIE,
    Groups,
    Judgement,
    lowered,
    p_values,
    rank,
    share_interval,
)
from guardrails.outliers.conformal import threshold as threshold_of
from guardrails.typing import Detector, Mask, Rows, Scores


@dataclass(frozen=True, eq=False)
class CalibratedDetector:
    """A fitted detector and the scores it gave to ordinary rows it had not seen.

    Attributes:
        detector: scores rows; higher is stranger.
        calibration: its scores of the calibration rows, ascending, shape ``(n,)``.
        alpha: the share of ordinary traffic that may be called an outlier.
        fill: what stands in for a missing value, per column; NaN where the reference had none missing.
        centre: a typical row, shape ``(d,)``: what a strange value is compared with; None where it is not known.
        groups: calibration by group, where there is one.
    """

    detector: Detector
    calibration: Scores
    alpha: float
    fill: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64] | None = None
    groups: Groups | None = None

    def __post_init__(self) -> None:
        n = len(self.calibration)
        if not 0.0 < self.alpha < 1.0:
            raise ProfileError(f"alpha={self.alpha!r} is no share of traffic: give a number between 0 and 1.")
        for name, scores in self.by_group.items():
            if rank(self.alpha, len(scores)) < 1:
                n = len(scores)
                where = "" if self.groups is None else f" of group {name}"
                raise ProfileError(
                    f"alpha={self.alpha} cannot be promised with {n} calibration rows{where}: the smallest p-value is "
                    f"1/{n + 1} = {1 / (n + 1):.4f}. Give at least {math.ceil(1 / self.alpha) - 1} calibration rows, "
                    "or a larger alpha."
                )

    def with_alpha(self, alpha: float) -> CalibratedDetector:
        """The same detector, deciding at another alpha."""
        return replace(self, alpha=alpha)

    @property
    def by_group(self) -> dict[str, Scores]:
        """Calibration scores by the name of their group; all of them are one group where there are none."""
        if self.groups is None:
            return {"all": self.calibration}
        return {f"{code:g}": scores for code, scores in self.groups.scores.items()} | {"rest": self.groups.rest}

    @property
    def share(self) -> float:
        """The share of ordinary rows that is flagged on average, where no scores tie: at most alpha."""
        return rank(self.alpha, len(self.calibration)) / (len(self.calibration) + 1)

    def share_interval(self, level: float = 0.99) -> tuple[float, float]:
        """Within which, with probability ``level``, the flagged share lies for this very calibration set."""
        return share_interval(self.alpha, len(self.calibration), level)

    @cached_property
    def threshold(self) -> float:
        """Rows that score higher are outliers: the ``floor(alpha (n + 1))``-th largest calibration score."""
        return threshold_of(self.calibration, self.alpha)

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``; shape ``(n,)``, higher is stranger.

        A row that holds what no row of the reference held (an infinity, a value beyond float32, an unseen category, a
        value missing where none ever was) scores the largest float: the strangest there is, and still a number that
        trace backends keep (they drop infinities).
        """
        return _scores(self.detector, self._checked(rows), self.fill, _numbers)

    def judge(self, rows: Rows) -> Judgement:
        """Scores, p-values, thresholds and verdicts of rows ``(n, d)``."""
        rows = self._checked(rows)
        scores = _scores(self.detector, rows, self.fill, _numbers)
        if self.groups is None:
            thresholds = np.full(len(scores), self.threshold)
            return Judgement(scores, self.p_value_of(scores), thresholds, lowered(scores) > self.threshold)
        shares, thresholds = np.empty(len(scores)), np.empty(len(scores))
        codes = rows[:, self.groups.column]
        for code in np.unique(codes):
            own = np.isnan(codes) if np.isnan(code) else codes == code
            reference = self.groups.of_row(float(code))
            shares[own] = p_values(reference, scores[own])
            thresholds[own] = threshold_of(reference, self.alpha)
        return Judgement(scores, shares, thresholds, lowered(scores) > thresholds)

    def p_value(self, rows: Rows) -> Scores:
        """The conformal p-value of each row, shape ``(n,)``, in [1/(n+1), 1]."""
        return self.judge(rows).p_values

    def is_outlier(self, rows: Rows) -> Mask:
        """Which rows are outliers at `alpha`, shape ``(n,)``."""
        return self.judge(rows).mask

    def judge_one(self, row: Rows, values: list[float]) -> tuple[float, float, float]:
        """Score, p-value and threshold of one row as plain numbers.

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
        ascending, threshold = self._plain if self.groups is None else self._plain_of(values[self.groups.column])
        n = len(ascending)
        return score, (1 + n - bisect_left(ascending, score - TIE * abs(score))) / (n + 1), threshold

    def is_outlier_one(self, score: float, threshold: float) -> bool:
        """The verdict on what `judge_one` said."""
        return score - TIE * abs(score) > threshold

    def p_value_of(self, scores: Scores) -> Scores:
        """The p-values of scores already taken, by the calibration of all groups together."""
        return p_values(self.calibration, scores)

    def contributions(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How much each value of a row made it strange.

        Exact where the detector's score is a sum over columns; otherwise by occlusion: how far the score falls when
        this value alone is replaced by a typical one. A value that no row of the reference could have had is the whole
        reason. Costs up to ``d`` scores: meant for rows that are flagged.

        Args:
            row: shape ``(d,)``.

        Returns:
            Shares, shape ``(d,)``, that add up to one; all zero where no single value is to blame.
        """
        impossible = (np.isnan(row) & np.isnan(self.fill)) | ~(np.isnan(row) | (np.abs(row) < _FLOAT32_MAX))
        if impossible.any():
            return np.asarray(impossible / impossible.sum())
        filled = np.where(np.isnan(row), self.fill, row)
        own: Callable[[Any], npt.NDArray[np.float64]] | None = getattr(self.detector, "contributions", None)
        parts: npt.NDArray[np.float64] = own(filled) if own is not None else self._occlusion(filled)
        parts = np.nan_to_num(np.maximum(parts, 0.0), posinf=0.0)
        total = parts.sum()
        return np.asarray(parts / total if total > 0 else parts)

    def _occlusion(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.centre is None or len(row) > MAX_OCCLUDED:
            return np.zeros(len(row))
        rows = np.tile(row, (len(row) + 1, 1))
        np.fill_diagonal(rows, self.centre)
        scores = _scores(self.detector, rows, self.fill, _numbers)
        return np.asarray(scores[-1] - scores[:-1])

    def _checked(self, rows: Rows) -> Rows:
        if not isinstance(rows, np.ndarray) or rows.dtype != np.float64:
            rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.fill):  # noqa: PLR2004
            raise ValueError(f"rows of shape (n, {len(self.fill)}) are expected, not {rows.shape}")
        return rows

    @cached_property
    def _score_one(self) -> Callable[[npt.NDArray[np.float64]], float] | None:
        return getattr(self.detector, "score_one", None)

    @cached_property
    def _plain(self) -> tuple[list[float], float]:
        return self.calibration.tolist(), self.threshold

    @cached_property
    def _plain_groups(self) -> dict[float, tuple[list[float], float]]:
        groups = {} if self.groups is None else self.groups.scores
        return {code: (scores.tolist(), threshold_of(scores, self.alpha)) for code, scores in groups.items()}

    def _plain_of(self, code: float) -> tuple[list[float], float]:
        return self._plain_groups.get(code) or self._plain_rest

    @cached_property
    def _plain_rest(self) -> tuple[list[float], float]:
        rest = self.calibration if self.groups is None else self.groups.rest
        return rest.tolist(), threshold_of(rest, self.alpha)


MAX_OCCLUDED = 128
"""Columns up to which a row is scored once more for each of them, to find what made it strange."""


STRANGEST = float(np.finfo(np.float64).max)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_MAX_SQUARED = _FLOAT32_MAX**2


def _scores(
    detector: Detector, rows: Rows, fill: npt.NDArray[np.float64], numbers: Callable[[Scores, int], Scores]
) -> Scores:
    """What a detector says of rows, and what is said of those it cannot read."""
    # A detector whose score() of a batch depends on the batch has another that takes each row by itself.
    score = getattr(detector, "score_each", detector.score)
    # One product is all an ordinary request pays: with a NaN, or a value float32 cannot hold, it is not smaller.
    if len(rows) and np.vdot(rows, rows) < _FLOAT32_MAX_SQUARED:
        return numbers(score(rows), len(rows))
    filled = np.where(np.isnan(rows), fill, rows)
    readable = (np.abs(filled) < _FLOAT32_MAX).all(axis=1)
    scores = np.full(len(rows), STRANGEST)
    if readable.any():
        scores[readable] = numbers(score(filled[readable]), int(readable.sum()))
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
    fill: npt.NDArray[np.float64] | None = None,
    seen_once: npt.NDArray[np.bool_] | None = None,
    centre: npt.NDArray[np.float64] | None = None,
    group_by: int | None = None,
) -> CalibratedDetector:
    """Calibrate a fitted detector on rows ``(n, d)`` it has not seen.

    Args:
        detector: scores rows; higher is stranger.
        rows: the calibration rows.
        alpha: the share of ordinary traffic that may be called an outlier.
        fill: what stands in for a missing value, per column; NaN where a missing value is strange, as it is by default.
        seen_once: cells, shape ``(n, d)``, that are known to be legal from this very row only. A fresh row with such a
            cell of its own is the strangest there is, so for alpha to hold this one has to be, too.
        centre: a typical row, shape ``(d,)``; by default the medians of the rows.
        group_by: the column whose value names a row's group, to calibrate each group by itself.

    Raises:
        ProfileError: its scores are no finite numbers, or there are too few rows for this alpha.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:  # noqa: PLR2004
        raise ProfileError(f"calibration rows have shape {rows.shape}; rows of shape (n, d) are needed.")
    fill = np.full(rows.shape[1], np.nan) if fill is None else fill
    known = rows if seen_once is None else np.where(seen_once, np.inf, rows)
    scores = _scores(detector, known, fill, _numbers_only)
    groups = None if group_by is None else Groups.of(group_by, rows[:, group_by], scores, alpha)
    centre = np.nanmedian(rows, axis=0) if centre is None else centre
    return CalibratedDetector(detector, np.sort(scores), alpha, fill, centre, groups)
