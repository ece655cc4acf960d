"""How far choices are concentrated: measures over arrays, for the model's own choices and for what was shown.

Exploration spreads what is shown by itself, whatever the model learns. Compute each of these twice, and judge the model
by its greedy choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.exploration.exposure import coverage, gini, normalised_entropy, top_share

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_Z = 1.959963984540054

__all__ = [
    "PopularityRates",
    "coverage",
    "gini",
    "hit_rate_by_popularity",
    "homogenisation",
    "mechanical_gini",
    "normalised_entropy",
    "tail_share",
    "top_share",
]


def tail_share(counts: npt.ArrayLike, tail: npt.ArrayLike) -> float:
    """The share of the choices that fell on the tail.

    Args:
        counts: how often each action was chosen, shape ``(K,)``.
        tail: which actions are the tail: their numbers, or a mask of shape ``(K,)``. Fix it at a reference date: a tail
            taken from the same counts is small by definition.

    Returns:
        NaN where nothing was chosen.

    Raises:
        ValueError: the tail names actions that are not there.

    Example:
        >>> tail_share([6, 2, 1, 1], tail=[2, 3])
        0.2
    """
    values = np.asarray(counts, dtype=np.float64)
    mask = mask_of(tail, len(values), "tail")
    total = values.sum()
    return float(values[mask].sum() / total) if total else float("nan")


def mechanical_gini(greedy: float, explored: float) -> float:
    """The Gini coefficient of what is shown if exploration did nothing but mix uniform choices in.

    ``(1 - explored) * greedy``; with the model's own choices spread evenly over m of K actions that is
    ``(1 - explored) (1 - m / K)``. A shown Gini down to here is no evidence that the loop has become weaker.

    Args:
        greedy: the Gini coefficient of the model's own choices.
        explored: the share of the choices that are drawn uniformly.

    Raises:
        ValueError: ``explored`` is no share.

    Example:
        >>> mechanical_gini(0.93, explored=0.1)
        0.837
    """
    if not 0 <= explored <= 1:
        raise ValueError(f"explored={explored!r}: a share lies between 0 and 1")
    return round((1 - explored) * greedy, 15)


def homogenisation(lists: Sequence[Sequence[Any]] | npt.NDArray[Any]) -> float:
    """How alike the segments' lists are: the mean Jaccard index of all pairs (Chaney, Stewart and Engelhardt 2018).

    Compare it with the same number for the lists one would like to see; alike is not wrong where tastes are.

    Args:
        lists: one list of actions per segment, at least two; the order within a list does not count.

    Raises:
        ValueError: fewer than two lists, or an empty one.

    Example:
        >>> round(homogenisation([[1, 2, 3], [3, 2, 9]]), 3)
        0.5
    """
    sets = [set(entry.tolist() if isinstance(entry, np.ndarray) else entry) for entry in lists]
    if len(sets) < 2 or not all(sets):  # noqa: PLR2004  # a pair
        raise ValueError(f"{len(sets)} lists, the shortest of {min(map(len, sets), default=0)}: pairs need two, of one")
    pairs = [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
    return sum(pairs) / len(pairs)


@dataclass(frozen=True, eq=False)
class PopularityRates:
    """Rewards by how popular the item was before, one entry per class, least popular first.

    Attributes:
        edges: popularity above which the next class begins, shape ``(classes - 1,)``.
        items: how many of the items are in the class, shape ``(classes,)``, as all below.
        greedy_n, explored_n: how many choices fell into it, the model's own and explored ones.
        greedy, explored: their mean reward; NaN where there is none.
        ratio: explored over greedy; above one, the model overlooks something there.
        low, high: its 95 % interval (delta method on the logarithm); NaN where a mean is 0 or of fewer than two.
    """

    edges: Array
    items: Counts
    greedy_n: Counts
    explored_n: Counts
    greedy: Array
    explored: Array
    ratio: Array
    low: Array
    high: Array

    def __len__(self) -> int:
        return len(self.items)


def hit_rate_by_popularity(
    rewards: npt.ArrayLike,
    items: npt.ArrayLike,
    popularity: npt.ArrayLike,
    *,
    explored: npt.ArrayLike | None = None,
    deciles: int = 10,
    edges: npt.ArrayLike | None = None,
) -> PopularityRates:
    """Mean reward by popularity of the item, for the model's own choices and for explored ones.

    Slices as Chia et al. 2021 (RecList) take them. Popularity comes from a *past* window, and the classes' edges stay
    as they were then: popularity counted over the same choices makes whatever is shown more both popular and hit.

    Args:
        rewards: what became of each choice, shape ``(n,)``.
        items: which item was chosen, numbers from 0, shape ``(n,)``.
        popularity: of each item, in the past, shape ``(K,)``.
        explored: which choices were not the model's own, shape ``(n,)``; None means none.
        deciles: how many classes of about as many items each; equal popularity stays together.
        edges: those of an earlier call, to go on with.

    Raises:
        ValueError: shapes do not fit, an item is not there, or a reward or popularity is NaN.

    Example:
        >>> rates = hit_rate_by_popularity([1, 0, 1, 1], [0, 0, 1, 1], [5, 90], explored=[0, 0, 0, 1], deciles=2)
        >>> rates.greedy.tolist(), rates.explored_n.tolist()
        ([0.5, 1.0], [0, 1])
    """
    reward, popular = np.asarray(rewards, dtype=np.float64), np.asarray(popularity, dtype=np.float64)
    chosen = np.asarray(items)
    drawn = np.zeros(len(chosen), dtype=bool) if explored is None else np.asarray(explored, dtype=bool)
    _fit(reward, chosen, drawn, popular)
    cuts = _edges(popular, deciles) if edges is None else np.asarray(edges, dtype=np.float64)
    classes = len(cuts) + 1
    of_item = np.searchsorted(cuts, popular, side="left")
    of_choice = of_item[chosen]
    own, tried = (_moments(reward[mask], of_choice[mask], classes) for mask in (~drawn, drawn))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = tried[1] / own[1]
        spread = _Z * np.sqrt(tried[2] / tried[1] ** 2 + own[2] / own[1] ** 2)
        known = (tried[1] > 0) & (own[1] > 0)
        low, high = (np.where(known, ratio * np.exp(sign * spread), np.nan) for sign in (-1, 1))
    return PopularityRates(
        cuts, np.bincount(of_item, minlength=classes), own[0], tried[0], own[1], tried[1], ratio, low, high
    )


def _fit(reward: Array, chosen: npt.NDArray[Any], drawn: npt.NDArray[np.bool_], popular: Array) -> None:
    if not reward.shape == chosen.shape == drawn.shape or reward.ndim != 1 or popular.ndim != 1:
        raise ValueError(
            f"rewards {reward.shape}, items {chosen.shape} and explored {drawn.shape} are of one choice each, (n,), "
            f"and popularity {popular.shape} of one item each, (K,)"
        )
    if chosen.dtype.kind not in "iu" or (len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(popular)):
        raise ValueError(f"items are numbers from 0 to {len(popular) - 1}, one for each popularity")
    if np.isnan(reward).any() or np.isnan(popular).any():
        raise ValueError("a reward or a popularity is NaN: leave such choices out, or say what they are worth")


def _edges(popular: Array, classes: int) -> Array:
    if classes < 1:
        raise ValueError(f"deciles={classes!r}: at least one class")
    ordered = np.sort(popular)
    last = [len(ordered) * at // classes - 1 for at in range(1, classes)]
    # The most popular item of each class, so that an edge lies on it and equal ones stay below.
    return np.unique([ordered[max(at, 0)] for at in last]) if last else np.zeros(0)


def _moments(reward: Array, classes_of: npt.NDArray[Any], classes: int) -> tuple[Counts, Array, Array]:
    """Per class: how many, their mean, and the variance of that mean."""
    n = np.bincount(classes_of, minlength=classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(classes_of, reward, minlength=classes) / n
        squares = np.bincount(classes_of, (reward - mean[classes_of]) ** 2, minlength=classes)
        return n, mean, squares / (n - 1.0) / n


def mask_of(chosen: npt.ArrayLike, n: int, what: str) -> npt.NDArray[np.bool_]:
    """Numbers, or a mask, as a mask of shape ``(n,)``."""
    given = np.asarray(chosen)
    if given.dtype == np.bool_:
        if given.shape != (n,):
            raise ValueError(f"{what} is a mask of shape {given.shape}, and there are {n} actions")
        return given
    mask = np.zeros(n, dtype=bool)
    if given.size:
        if given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= n:
            raise ValueError(f"{what} names actions that are not there: they are numbered from 0 to {n - 1}")
        mask[given] = True
    return mask
