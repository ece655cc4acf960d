"""Arrays as they come in: made float, of one length, or refused with a sentence on what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ROUNDING = 1e-9
"""How far above 1 the sum of rounded probabilities may come."""
ABSURD = 1e70
"""No weight is that large: its fourth power, which intervals take, would leave the range of numbers."""


def vector(values: npt.ArrayLike, name: str, rows: int | None = None) -> Floats:
    """One finite number per row.

    Args:
        values: shape ``(n,)``.
        name: what to call it in an error.
        rows: how many there must be; None takes any number but none.

    Raises:
        ValueError: it has another shape, is empty, or holds NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has the shape {array.shape}; it must be one number per row, shape (n,).")
    if not len(array):
        raise ValueError(f"{name} is empty: without a single logged row nothing can be estimated.")
    if rows is not None and len(array) != rows:
        raise ValueError(f"{name} has {len(array)} rows where the reward has {rows}: they must be the same rows.")
    return finite(array, name)


def finite(array: Floats, name: str) -> Floats:
    """The array itself, if every number in it is one."""
    # The sum is finite only if all are (or if it overflows, which the slower look then finds harmless).
    if np.isfinite(array.sum()) or np.isfinite(array).all():
        return array
    first = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
    raise ValueError(f"{name} is not a finite number in row {first}. Leave such rows out, or mend the log.")


def probabilities(values: npt.ArrayLike, name: str, rows: int, *, density: bool, zero: bool) -> Floats:
    """One probability per row; with `density`, one density, which may exceed 1.

    Raises:
        ValueError: one is negative, above 1 without `density`, or 0 without `zero`.
    """
    array = vector(values, name, rows)
    wrong = np.flatnonzero(array < 0 if zero else array <= 0)
    if len(wrong):
        least = "not negative" if zero else "above 0, since what was served could be served"
        raise ValueError(f"{name} is {array[wrong[0]]:g} in row {wrong[0]}; it must be {least}.")
    above = np.flatnonzero(array > 1 + ROUNDING)
    if len(above) and not density:
        raise ValueError(
            f"{name} is {array[above[0]]:g} in row {above[0]}: a probability is at most 1. "
            "For densities of continuous actions say density=True."
        )
    return array


def matrix(values: npt.ArrayLike | Sequence[npt.ArrayLike], name: str, rows: int) -> Floats:
    """One row of finite numbers per logged row, shape ``(n, K)``; rows of different lengths are padded with zeros."""
    if isinstance(values, list | tuple) and len({np.size(row) for row in values}) > 1:
        each = [np.asarray(row, dtype=np.float64) for row in values]
        array = np.zeros((len(each), max(row.size for row in each)))
        for padded, row in zip(array, each, strict=True):
            padded[: row.size] = row
    else:
        array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != rows or not array.shape[1]:  # noqa: PLR2004
        raise ValueError(f"{name} has the shape {array.shape}; it must be one row per logged row, ({rows}, K).")
    return finite(array, name)


def numbers(values: npt.ArrayLike, name: str, rows: int, below: int | None) -> Ints:
    """Whole numbers from 0, below `below`, one per row."""
    array = np.asarray(values)
    if array.shape != (rows,) or array.dtype.kind not in "iub":
        raise ValueError(f"{name} must be one whole number per row, shape ({rows},), not {array.dtype} {array.shape}.")
    if array.min() < 0 or (below is not None and array.max() >= below):
        raise ValueError(f"{name} must be numbered from 0{'' if below is None else f' to {below - 1}'}.")
    return array.astype(np.int64)


def groups(unit: npt.ArrayLike | None, rows: int) -> Ints | None:
    """Units as numbers from 0, or None where every row is a unit of its own."""
    if unit is None:
        return None
    array = np.asarray(unit)
    if array.shape != (rows,):
        raise ValueError(f"unit has the shape {array.shape}; it must name one unit per row, shape ({rows},).")
    names, number = np.unique(array, return_inverse=True)
    return None if len(names) == rows else number.reshape(-1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Weighted:
    """Logged rewards with the importance weights of another policy.

    Attributes:
        reward: shape ``(n,)``.
        weight: how much more often the other policy does what was logged, shape ``(n,)``; clipped where asked for.
        clipped: the mean weight that clipping cut off.
        unit: which rows belong together, as numbers; None where each stands alone.
    """

    reward: Floats
    weight: Floats
    clipped: float = 0.0
    unit: Ints | None = None

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def ess(self) -> float:
        """How many rows of the other policy's own log these are worth: (sum w)^2 / sum w^2 (Kish 1965)."""
        return effective_size(self.weight)


def effective_size(weight: Floats) -> float:
    """Kish's effective sample size; 0 where no row weighs anything."""
    largest = float(weight.max())
    if largest <= 0:
        return 0.0
    scaled = weight / largest  # so that neither tiny nor huge weights leave the range when squared
    return float(scaled.sum() ** 2 / (scaled @ scaled))


def weigh(
    reward: npt.ArrayLike,
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
    *,
    density: bool = False,
    clip: float | None = None,
    unit: npt.ArrayLike | None = None,
) -> Weighted:
    """Check the arrays of an estimate and weigh its rows, at most by `clip`."""
    rewards = vector(reward, "reward")
    n = len(rewards)
    logged = probabilities(propensity, "propensity", n, density=density, zero=False)
    target = probabilities(target_propensity, "target_propensity", n, density=density, zero=True)
    weight, clipped = clip_weights(ratio(target, logged), clip)
    return Weighted(rewards, weight, clipped, groups(unit, n))


def ratio(target: Floats, logged: Floats) -> Floats:
    """Importance weights, none of them absurd."""
    with np.errstate(over="ignore"):
        weight = target / logged
    worst = int(np.argmax(weight))
    if not weight[worst] < ABSURD:
        raise ValueError(
            f"row {worst} would weigh {weight[worst]:g}: its propensity {logged[worst]:g} cannot be right."
        )
    return weight


def clip_weights(weight: Floats, clip: float | None) -> tuple[Floats, float]:
    """Weights of at most `clip`, and the mean weight that was cut off."""
    if clip is None:
        return weight, 0.0
    if not 0 < clip < np.inf:
        raise ValueError(f"clip is {clip}; it must be the largest weight allowed, a number above 0.")
    less = np.minimum(weight, clip)
    return less, float((weight - less).mean())


def bounds(reward: Floats, reward_range: tuple[float, float] | None) -> tuple[float, float]:
    """The range that rewards can take: as given, or 0 to 1, widened to hold the rewards seen.

    Raises:
        ValueError: the range is no range, or rewards lie outside of the one that was given.
    """
    if reward_range is None:
        return min(0.0, float(reward.min())), max(1.0, float(reward.max()))
    low, high = (float(end) for end in reward_range)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"reward_range is {reward_range}; it must be (lowest, highest), two finite numbers.")
    outside = np.flatnonzero((reward < low) | (reward > high))
    if len(outside):
        raise ValueError(
            f"{len(outside)} rewards lie outside of reward_range ({low:g} to {high:g}), the first in row {outside[0]}: "
            f"{reward[outside[0]]:g}. The interval rests on the range: name one that holds every possible reward."
        )
    return low, high
