"""From weighted rows to an `Estimate`: which interval, and what weakens it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import ROUNDING, Floats, Weighted, bounds, effective_size
from guardrails.evaluation.off_policy.estimate import Estimate
from guardrails.evaluation.off_policy.intervals import Sums, bootstrap, cressie_read, student
from guardrails.evaluation.off_policy.overlap import largest_weight, unsupported_mass

IntervalKind = Literal["cressie_read", "delta", "bootstrap"]

FEW = 30
"""Fewer effective rows than this are few for any interval."""
CLOSE = 2.0
"""Weights of two policies that are nearly the same are allowed to reach this: the interval needs room above 1."""
MUCH = 2.0
"""An interval that would be so many times narrower with a known largest weight says so."""


@dataclass(frozen=True)
class Wanted:
    """Which interval is wanted, and what it may rest on.

    Attributes:
        confidence: of the interval.
        interval: which; None takes the best that the rows allow.
        reward_range: the range of rewards, if named.
        weight_range: the range of weights, if named or known from all candidates' probabilities.
        unsupported: how often the policy does what the log cannot have done; None where it is not known.
        seed: of the bootstrap.
    """

    confidence: float = 0.95
    interval: IntervalKind | None = None
    reward_range: tuple[float, float] | None = None
    weight_range: tuple[float, float] | None = None
    unsupported: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; it must be between 0 and 1, as 0.95.")
        if self.interval not in (None, "cressie_read", "delta", "bootstrap"):
            raise ValueError(f"interval is {self.interval!r}; it must be 'cressie_read', 'delta' or 'bootstrap'.")

    def kind(self, rows: Weighted, usual: IntervalKind) -> IntervalKind:
        """The interval to take, where `usual` is for independent rows."""
        if self.interval is None:
            return usual if rows.unit is None else "bootstrap"
        if self.interval == "cressie_read" and rows.unit is not None:
            raise ValueError(
                "the 'cressie_read' interval takes rows for independent, and some belong to one unit: "
                "take 'bootstrap' or 'delta', which do not."
            )
        return self.interval


def wanted(
    rows: Weighted,
    pmf: npt.ArrayLike | None = None,
    target_pmf: npt.ArrayLike | None = None,
    *,
    weight_range: tuple[float, float] | None = None,
    **options: Any,
) -> Wanted:
    """What an interval may rest on, from the options of an estimator."""
    n = len(rows)
    unsupported = unsupported_mass(pmf, target_pmf, n)
    if weight_range is not None:
        seen = (float(rows.weight.min()), float(rows.weight.max()))
        if seen[0] < weight_range[0] - ROUNDING or seen[1] > weight_range[1] * (1 + ROUNDING):
            raise ValueError(
                f"weights lie between {seen[0]:g} and {seen[1]:g}, outside of weight_range {weight_range}: "
                "the design allows for more than was said, or propensities are wrong."
            )
        if not weight_range[0] < 1 < weight_range[1]:
            raise ValueError(f"weight_range is {weight_range}; it must hold 1 between its ends: weights average 1.")
    elif (largest := largest_weight(pmf, target_pmf, n)) < inf:
        weight_range = (0.0, max(largest, CLOSE))
    if weight_range is not None and (rows.clipped or unsupported):
        weight_range = None  # the mean weight is below 1: what is missing may have weighed anything
    return Wanted(weight_range=weight_range, unsupported=unsupported, **options)


def by_weights(rows: Weighted, method: str, how: Wanted, low_overlap: str) -> Estimate:
    """The estimate of weighted rewards, divided by the rows or (``"snips"``) by their weights."""
    ends = bounds(rows.reward, how.reward_range)
    top = rows.weight * rows.reward
    bottom = rows.weight if method.endswith("snips") else np.ones(len(rows))
    kind = how.kind(rows, "cressie_read")
    notes = doubts(rows, low_overlap, kind, how)
    total = float(bottom.sum())
    if total <= 0:
        return finished(nan, ends, rows, f"{method}, none", how, [*notes, "The policy does nothing that was logged."])
    value = float(top.sum()) / total
    if kind == "cressie_read":
        low, high = _cressie_read(rows, how, ends, notes)
    else:
        low, high = of_ratio(kind, top, bottom, rows, how)
    low, high = _unvaried((low, high), rows, how, ends)
    if not low <= value <= high:
        notes.append(
            f"The value lies outside of its interval, which allows for weights averaging {rows.weight.mean():.3f} "
            "instead of 1: believe the interval, or snips."
        )
    return finished(value, (low, high), rows, f"{method}, {kind}", how, notes)


def _unvaried(
    interval: tuple[float, float], rows: Weighted, how: Wanted, ends: tuple[float, float]
) -> tuple[float, float]:
    """The interval, with room for rewards that were not seen, where all that counts earned the same.

    Intervals that go by variation take that for certainty. But if a share q of rewards is like those seen, m of them
    are alike with probability q^m, which is alpha / 2 at q = (alpha / 2)^(1 / m); the others may be worst or best. For
    rewards of 0 and 1 it is the exact binomial interval (Clopper and Pearson 1934).
    """
    earned = rows.reward[rows.weight > 0]
    if not len(earned) or (earned != earned[0]).any():
        return interval
    alike = rows.ess if rows.unit is None else effective_size(np.bincount(rows.unit, rows.weight).astype(np.float64))
    share = ((1 - how.confidence) / 2) ** (1 / alike)
    low, high = (share * float(earned[0]) + (1 - share) * end for end in ends)
    return min(interval[0], low), max(interval[1], high)


def _cressie_read(rows: Weighted, how: Wanted, ends: tuple[float, float], notes: list[str]) -> tuple[float, float]:
    """The interval, and a note where a known largest weight would make it much narrower."""
    sums = Sums.of(rows.weight, rows.reward, ends)
    low, high = cressie_read(sums, how.confidence, reward_range=ends, weight_range=how.weight_range or (0.0, inf))
    if how.weight_range is None and not rows.clipped and not how.unsupported and sums.largest > 1:
        narrow = cressie_read(sums, how.confidence, reward_range=ends, weight_range=(0.0, sums.largest))
        if high - low > MUCH * (narrow[1] - narrow[0]):
            notes.append(
                f"The interval allows for weights of any size; if none exceeds {sums.largest:.3g}, the largest seen, "
                f"it is {narrow[0]:.3g} to {narrow[1]:.3g}: name the design's largest, such as K/eps, with "
                "weight_range=(0, largest), or give pmf= and target_pmf=."
            )
    return low, high


def of_ratio(kind: IntervalKind, top: Floats, bottom: Floats, rows: Weighted, how: Wanted) -> tuple[float, float]:
    """The interval of a ratio of sums over independent units."""
    if kind == "bootstrap":
        return bootstrap(top, bottom, how.confidence, rows.unit, seed=how.seed)
    return student(top, bottom, how.confidence, rows.unit)[:2]


def doubts(rows: Weighted, low_overlap: str, kind: IntervalKind, how: Wanted) -> list[str]:
    """What weakens an estimate by weights."""
    notes = [low_overlap] if low_overlap else []
    carried = effective_size(rows.weight * abs(rows.reward))
    if kind != "cressie_read" and carried < FEW:
        notes.append(
            f"What was earned rests on rows worth {carried:.0f}: the {kind!r} interval is too narrow for so few, "
            "'cressie_read' is not."
        )
    ends = bounds(rows.reward, how.reward_range)
    if how.reward_range is None and kind == "cressie_read" and ends != (0.0, 1.0):
        notes.append(
            f"The interval takes rewards to lie between {ends[0]:g} and {ends[1]:g}, as those seen do: "
            "if others are possible, name the range with reward_range=."
        )
    if rows.clipped:
        notes.append(f"Clipping cut {rows.clipped:.3g} off the mean weight: so much of the value may be missing.")
    if how.unsupported:
        notes.append(f"{how.unsupported:.1%} of what the policy does the log cannot have done: no weight mends that.")
    return notes


def finished(
    value: float, interval: tuple[float, float], rows: Weighted, method: str, how: Wanted, notes: list[str]
) -> Estimate:
    """The estimate."""
    return Estimate(
        value=value,
        low=interval[0],
        high=interval[1],
        ess=rows.ess,
        n=len(rows),
        max_weight=float(rows.weight.max()),
        mean_weight=float(rows.weight.mean()),
        clipped=rows.clipped,
        unsupported=how.unsupported,
        method=method,
        confidence=how.confidence,
        warnings=tuple(notes),
    )
