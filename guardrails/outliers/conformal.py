"""The arithmetic of split-conformal p-values: ranks, thresholds, ties, groups, and what one calibration set promises.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for outliers with
conformal p-values", Annals of Statistics 51 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from guardrails.errors import ProfileError
from guardrails.typing import Mask, Scores

TIE = 1e-12
"""Scores that differ by less, relatively, are tied: one row alone and the same row in a batch may differ in the last
bits, and a tie has to be one however it is asked for. Ties are decided for the row: they flag less, never more."""


class Judgement(NamedTuple):
    """What is said of rows: each entry has shape ``(n,)``."""

    scores: Scores
    p_values: Scores
    thresholds: Scores
    mask: Mask


@dataclass(frozen=True, eq=False)
class Groups:
    """Calibration by group, where ordinary traffic has kinds that differ in how strange they look (Mondrian).

    Vovk, Lindsay, Nouretdinov and Gammerman, "Mondrian confidence machine", 2003: a row is compared with the
    calibration rows of its own group only, so alpha holds within each group and not only on average over all.

    Attributes:
        column: the column whose value names the group.
        scores: of each group large enough for alpha, its calibration scores, ascending.
        rest: those of all other groups together, which judge also a group never seen.
    """

    column: int
    scores: Mapping[float, Scores]
    rest: Scores

    @classmethod
    def of(cls, column: int, codes: Scores, scores: Scores, alpha: float) -> Groups:
        """Sort calibration scores ``(n,)`` by the group of their row; too small a group joins the rest.

        Raises:
            ProfileError: what is left over is too small for alpha even together.
        """
        smallest = math.ceil(1 / alpha * (1 - 1e-12)) - 1
        names, sizes = np.unique(codes, return_counts=True)
        large = names[(sizes >= smallest) & ~np.isnan(names)]
        rest = np.sort(scores[~np.isin(codes, large)])
        if not len(large):
            raise ProfileError(
                f"no group of column {column} has the {smallest} calibration rows that alpha={alpha} needs. Give more "
                "rows, a larger alpha, or leave group_by out."
            )
        if len(rest) < smallest:  # nobody to compare a stranger with: it is compared with everybody
            rest = np.sort(scores)
        return cls(column, {float(code): np.sort(scores[codes == code]) for code in large}, rest)

    def of_row(self, code: float) -> Scores:
        """The calibration scores a row of this group is compared with."""
        return self.scores.get(code, self.rest)


def rank(alpha: float, n: int) -> int:
    """``floor(alpha (n + 1))``: 0.05 over n=99 is 5, although 0.05 * 100 falls a hair short of it in floats."""
    return math.floor(alpha * (n + 1) * (1 + 1e-12))


def threshold(ascending: Scores, alpha: float) -> float:
    """Scores above it are outliers: the ``floor(alpha (n + 1))``-th largest of ascending calibration scores."""
    return float(ascending[len(ascending) - rank(alpha, len(ascending))])


def lowered(scores: Scores) -> Scores:
    """The least that scores may have been, given that their last bits mean nothing."""
    return np.asarray(scores - TIE * np.abs(scores))


def p_values(ascending: Scores, scores: Scores) -> Scores:
    """``(1 + #{calibration scores >= s}) / (n + 1)`` for scores ``(m,)``: shape ``(m,)``."""
    n = len(ascending)
    return np.asarray((1 + n - np.searchsorted(ascending, lowered(scores), side="left")) / (n + 1))


def share_interval(alpha: float, n: int, level: float) -> tuple[float, float]:
    """Within which the flagged share of ordinary traffic lies for one calibration set of ``n`` rows.

    Over all calibration sets the share is ``k / (n + 1)`` on average, k = floor(alpha (n + 1)); with one of them it is
    drawn, once and for all, from Beta(k, n + 1 - k) (Vovk, "Conditional validity of inductive conformal predictors",
    ACML 2012). More calibration rows narrow it.

    Args:
        alpha: the level of the verdict.
        n: how many calibration rows.
        level: the probability that the interval covers the share.
    """
    from scipy.stats import beta

    k = rank(alpha, n)
    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], k, n + 1 - k)
    return float(low), float(high)
