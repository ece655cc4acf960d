"""Loop gain: how much of a randomised change in exposure comes back as a change in the model's scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FEWEST = 5
"""Boosted and control items, each; with fewer a bootstrap over items says nothing."""
RESAMPLES = 2000


@dataclass(frozen=True)
class LoopGain:
    """How strong the loop is.

    Attributes:
        value: lambda. 1: scores are proportional to exposure, the loop is closed. 0: exposure does not reach the
            scores, the model is debiased. Above 0 and small: a prior that takes the unseen for bad. Below 0: one that
            takes the unseen for good.
        low, high: its interval.
        items: how many items it is from (over all runs).
        boosted, control: their mean scores.
        factor: how many times more often the boosted were explored.
        runs: how many repetitions.
        level: the interval's.
    """

    value: float
    low: float
    high: float
    items: int
    boosted: float
    control: float
    factor: float
    runs: int = 1
    level: float = 0.95

    @property
    def meaning(self) -> str:
        """In words."""
        if self.low > 0:
            return "exposure comes back as score: the loop is closed" + ("" if self.high >= 1 else ", not fully")
        if self.high < 0:
            return "the model takes what it has not seen for good: an optimistic prior hides the loop"
        return "no sign that exposure comes back as score" if self.high < 1 else "not known: the interval is too wide"

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}] from {self.items} items: {self.meaning}"


def loop_gain(
    scores: npt.ArrayLike,
    boosted: npt.ArrayLike,
    factor: float,
    *,
    among: npt.ArrayLike | None = None,
    before: npt.ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LoopGain:
    """Estimate lambda from an experiment: random items of the exploration pool were drawn ``factor`` times as often.

    ``lambda = log(mean score of boosted / mean score of control items) / log(factor)``, after some retrains. Which
    items are boosted has nothing to do with how good they are (`Boost` takes a hash), so whatever makes their scores
    higher is their exposure: the effect is causal. Means are arithmetic, since weighted scores have zeros and the mean
    of logarithms would be biased by them. The interval is a percentile bootstrap over items, and over the runs where
    there are several.

    Without exploration lambda is not identified: nothing was randomised.

    Args:
        scores: the model's scores of the items now, at least 0 on average: rates, counts, probabilities; no
            log-odds. Shape ``(K,)``, or ``(runs, K)`` for independent repetitions. Of several segments, their means.
        boosted: which items were explored more often, same shape, or ``(K,)`` for all runs.
        factor: how many times as often; positive, and not 1.
        among: which items count, same shape: those of the tail that were not in the model's own lists when the boost
            began. Chosen by what happened *after*, it would bias the estimate.
        before: their scores when the boost began, to be taken off: for learners that add up (counts of clicks), whose
            history would otherwise stand beside the effect.
        level: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: no boost, fewer than five items on a side, a NaN, or means that have no logarithm.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(1)
        >>> boosted = np.arange(200) % 2 == 0
        >>> clicks = rng.poisson(np.where(boosted, 30.0, 10.0))  # three times the exposure, three times the score
        >>> gain = loop_gain(clicks, boosted, 3.0)
        >>> gain.low < 1 < gain.high, gain.items
        (True, 200)
    """
    if not (math.isfinite(factor) and factor > 0 and factor != 1):
        raise ValueError(f"factor={factor!r}: there is no boost. It is a positive number other than 1.")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level={level!r}, resamples={resamples!r}: a level lies in (0, 1), and one resample is least")
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if before is not None:
        values = values - _alike(before, values.shape, "before", np.float64)
    more = _alike(boosted, values.shape, "boosted", bool)
    counted = np.ones(values.shape, bool) if among is None else _alike(among, values.shape, "among", bool)
    if not np.isfinite(values[counted]).all():
        raise ValueError("a score is NaN or infinite; leave its item out with among=")
    sides = [[values[run, counted[run] & side[run]] for run in range(len(values))] for side in (more, ~more)]
    _enough(*sides)
    means = [float(np.concatenate(side).mean()) for side in sides]
    if min(means) <= 0:
        raise ValueError(
            f"the mean scores are {means[0]:.4g} (boosted) and {means[1]:.4g} (control); a ratio needs both above 0. "
            "Give scores on the scale of rates or counts (exp of log-odds), and `before` only for those that add up."
        )
    low, high = _interval(sides[0], sides[1], level, resamples, np.random.default_rng(seed)) / math.log(factor)
    return LoopGain(
        math.log(means[0] / means[1]) / math.log(factor),
        float(min(low, high)),  # a factor below 1 turns them round
        float(max(low, high)),
        int(counted.sum()),
        means[0],
        means[1],
        float(factor),
        len(values),
        level,
    )


def _alike(given: npt.ArrayLike, shape: tuple[int, ...], what: str, dtype: Any) -> npt.NDArray[Any]:
    array = np.asarray(given)
    if dtype is bool and array.dtype != np.bool_:
        raise ValueError(f"{what} is a mask (True or False per item), not {array.dtype}")
    if array.shape[-1:] != shape[-1:] or array.ndim > len(shape) or (array.ndim == len(shape) and array.shape != shape):
        raise ValueError(f"{what} has shape {array.shape}, the scores {shape}: one entry per item")
    return np.broadcast_to(array.astype(dtype), shape)


def _enough(boosted: list[Array], control: list[Array]) -> None:
    for what, side in (("boosted", boosted), ("control", control)):
        fewest = min(map(len, side))
        if fewest < FEWEST:
            raise ValueError(
                f"{fewest} {what} items{' in one run' if len(side) > 1 else ''}; lambda needs {FEWEST} of each. Items "
                "that the model shows by itself do not count: take a larger pool, or a boost of about half of it."
            )


def _interval(boosted: list[Array], control: list[Array], level: float, resamples: int, rng: Any) -> Array:
    """Percentiles of the log ratio: runs drawn with replacement, and within them items."""
    top, bottom = (np.stack([_resampled(run, resamples, rng) for run in side]) for side in (boosted, control))
    sizes = [np.array([len(run) for run in side], dtype=np.float64)[:, None] for side in (boosted, control)]
    runs = len(boosted)
    drawn = np.ones((runs, resamples)) if runs == 1 else rng.multinomial(runs, np.ones(runs) / runs, resamples).T
    with np.errstate(divide="ignore", invalid="ignore"):
        up, down = ((drawn * sums).sum(0) / (drawn * n).sum(0) for sums, n in zip((top, bottom), sizes, strict=True))
        logs = np.log(np.maximum(up, 0) / np.maximum(down, 0))
    logs = logs[~np.isnan(logs)]  # nothing on both sides says nothing
    ends: Array = np.quantile(logs, [(1 - level) / 2, (1 + level) / 2], method="nearest")  # ends may be infinite
    return ends


def _resampled(values: Array, resamples: int, rng: Any) -> Array:
    """Sums of bootstrap samples, shape ``(resamples,)``; some at a time, so that many items do not fill the memory."""
    n, parts = len(values), []
    step = max(1, 4_000_000 // n)
    for begin in range(0, resamples, step):
        picked = rng.integers(0, n, (min(step, resamples - begin), n))
        parts.append(values[picked].sum(axis=1))
    return np.concatenate(parts)
