"""Confidence intervals for a number of rows fixed ahead: empirical likelihood, studentised means, the bootstrap."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from guardrails.evaluation.off_policy.arrays import Floats, Ints

DEGENERATE = 1e-12
"""Weights that vary less than this, relatively, do not vary: no reweighting of them changes their mean."""
MOST_CELLS = 4_000_000
"""How many numbers the bootstrap holds at once: 32 MB."""


@dataclass(frozen=True)
class Sums:
    """All that the empirical-likelihood interval needs to know of a log: six sums, which add up over parts of it.

    Rewards are counted as shares of their range, 0 at the lowest and 1 at the highest possible.

    Attributes:
        n: rows.
        w, ww: sums of the weights and of their squares.
        wr, wwr, wwrr: sums of weight x reward, weight^2 x reward and (weight x reward)^2.
        smallest, largest: the extreme weights seen.
    """

    n: float = 0.0
    w: float = 0.0
    ww: float = 0.0
    wr: float = 0.0
    wwr: float = 0.0
    wwrr: float = 0.0
    smallest: float = inf
    largest: float = 0.0

    @classmethod
    def of(cls, weight: Floats, reward: Floats, reward_range: tuple[float, float] = (0.0, 1.0)) -> Sums:
        """The sums of rows: weights and rewards, shape ``(n,)``, the rewards within their range."""
        return cls.of_earned(weight, weight * (reward - reward_range[0]) / (reward_range[1] - reward_range[0]))

    @classmethod
    def of_earned(cls, weight: Floats, earned: Floats) -> Sums:
        """The sums of rows that earned something else than weight x reward, if never less than 0."""
        squared = (float(weight @ weight), float(weight @ earned), float(earned @ earned))
        extremes = (float(weight.min()), float(weight.max()))
        return cls(float(len(weight)), float(weight.sum()), squared[0], float(earned.sum()), *squared[1:], *extremes)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.n + other.n,
            self.w + other.w,
            self.ww + other.ww,
            self.wr + other.wr,
            self.wwr + other.wwr,
            self.wwrr + other.wwrr,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
        )

    def mirrored(self) -> Sums:
        """The same rows, with what their rewards fell short of the highest for a reward."""
        wwrr = self.ww - 2 * self.wwr + self.wwrr
        return Sums(
            self.n, self.w, self.ww, self.w - self.wr, self.ww - self.wwr, wwrr, self.smallest, self.largest
        )  # fmt: skip


def cressie_read(
    sums: Sums,
    confidence: float = 0.95,
    *,
    reward_range: tuple[float, float] = (0.0, 1.0),
    weight_range: tuple[float, float] = (0.0, inf),
) -> tuple[float, float]:
    """The interval of all values that a reweighting of the log, not too far from it, could give.

    Among the distributions over the rows, and one more row with the worst reward and an extreme weight, that make the
    mean weight 1 and are within the power divergence CR(-2) that an F quantile allows, it takes the lowest and the
    highest mean of weight x reward: closed forms of six sums. It bounds the value from below by what was earned above
    the lowest reward, from above by what was lost below the highest. Both remain bounds where weights were clipped, or
    where the other policy does what the log cannot have done: the missing weight is taken to have met the worst.

    Source: Karampatziakis, Mineiro, Ramdas: Off-policy Confidence Sequences (ICML 2021), section 3; Mineiro and
    Karampatziakis: Empirical Likelihood for Contextual Bandits (NeurIPS 2020).

    Args:
        sums: of the log.
        confidence: its asymptotic coverage.
        reward_range: the lowest and the highest possible reward, in whose units the interval is.
        weight_range: the smallest and largest weights possible, where the design bounds them; makes it narrower.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> explored = rng.random(5000) < 0.2
        >>> weight, reward = np.where(explored, 5.0, 0.0), rng.random(5000)
        >>> low, high = cressie_read(Sums.of(weight, reward))
        >>> 0.47 < low < 0.5 < high < 0.53
        True
    """
    low = lower_bound(sums, confidence, weight_range)
    high = 1 - lower_bound(sums.mirrored(), confidence, weight_range)
    start, width = reward_range[0], reward_range[1] - reward_range[0]
    return start + width * low, start + width * high


def lower_bound(sums: Sums, confidence: float, weight_range: tuple[float, float]) -> float:
    """The lower end of the two-sided interval, as a share of the range of rewards."""
    from scipy.special import stdtrit

    smallest, largest = (min(weight_range[0], sums.smallest), max(weight_range[1], sums.largest))
    if not smallest < 1 < largest:
        raise ValueError(f"weight_range is {weight_range}; it must hold 1 between its ends, as weights average 1.")
    n = sums.n
    quantile = float(stdtrit(n, (1 + confidence) / 2)) ** 2  # of F(1, n), which is a squared t
    best = _divergence(sums, largest if sums.w < n else smallest)
    slack = -(best + quantile) / (2 * (1 + n))
    found = [_with_extra_row(sums, slack, extra) for extra in (smallest, largest)]
    return min(1.0, max(0.0, min((bound for bound in found if bound is not None), default=0.0)))


def cressie_read_doubly_robust(
    weight: Floats,
    residual: Floats,
    predicted: Floats,
    q_logged: Floats,
    confidence: float,
    *,
    reward_range: tuple[float, float],
    weight_range: tuple[float, float] = (0.0, inf),
) -> tuple[float, float]:
    """The interval of `cressie_read` for doubly robust values, predicted + weight x residual.

    The extra row has the lowest prediction and the worst residual that the range of rewards leaves room for. With a
    model that predicts one constant it is the interval of `cressie_read`. An extension of ours; measured beside it.
    """
    ends = []
    for sign, (lowest, highest) in ((1.0, reward_range), (-1.0, (-reward_range[1], -reward_range[0]))):
        said, q = sign * predicted, sign * q_logged
        worst, least = lowest - float(q.max()), float(said.min())
        width = (highest - float(q.min()) - worst) + (float(said.max()) - least)
        earned = np.maximum(said - least + weight * (sign * residual - worst), 0.0) / width
        ends.append(worst + least + width * lower_bound(Sums.of_earned(weight, earned), confidence, weight_range))
    return max(reward_range[0], ends[0]), min(reward_range[1], -ends[1])


def _divergence(sums: Sums, extra: float) -> float:
    """How far the nearest distribution that makes the mean weight 1 is from the log and one extra row."""
    if extra == inf:
        return 1 + 1 / sums.n
    mean, variance = _moments(sums, extra)
    return (1 + sums.n) * (mean - 1) ** 2 / variance


def _moments(sums: Sums, extra: float) -> tuple[float, float]:
    mean = (extra + sums.w) / (1 + sums.n)
    return mean, (extra**2 + sums.ww) / (1 + sums.n) - mean**2


def _with_extra_row(sums: Sums, slack: float, extra: float) -> float | None:
    """The lowest value with an extra row of the lowest reward and the weight `extra`; None where none is allowed."""
    n = sums.n
    if extra == inf:
        centre = sums.wr / n
        spread = (sums.wr**2 / n - sums.wwrr) / (1 + n)
        slack += 1 / (2 * n)
    else:
        mean, variance = _moments(sums, extra)
        if variance <= DEGENERATE * mean**2:
            return None
        earned = sums.wr / (1 + n)
        together = sums.wwr / (1 + n) - mean * earned
        centre = earned + (1 - mean) * together / variance
        spread = together**2 / variance - (sums.wwrr / (1 + n) - earned**2)
        slack += (1 - mean) ** 2 / (2 * variance)
    if slack > 0:
        return None
    return centre - sqrt(2 * min(spread, 0.0) * slack)


def student(
    top: Floats, bottom: Floats, confidence: float = 0.95, unit: Ints | None = None
) -> tuple[float, float, float]:
    """The interval of a ratio of means from its delta-method standard error and Student's t; rows of a unit count once.

    It takes the ratio for normal, which few effective rows with large weights are not: see the measured coverage of
    `guardrails.evaluation.snips`.

    Args:
        top: what is summed above, shape ``(n,)``.
        bottom: what is summed below, shape ``(n,)``; for a mean 1 everywhere.
        confidence: its asymptotic coverage.
        unit: numbers of the units from 0; the standard error is then that of independent units (Liang and Zeger 1986).

    Returns:
        low, high, and the standard error; infinite for a single unit.
    """
    from scipy.special import stdtrit

    value = float(top.sum() / bottom.sum())
    residual = top - value * bottom
    if unit is not None:
        residual = np.bincount(unit, residual)
    m = len(residual)
    if m == 1:
        return -inf, inf, inf
    error = sqrt(float(residual @ residual) * m / (m - 1)) / abs(float(bottom.sum()))
    half = float(stdtrit(m - 1, (1 + confidence) / 2)) * error
    return value - half, value + half, error


def bootstrap(
    top: Floats,
    bottom: Floats,
    confidence: float = 0.95,
    unit: Ints | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of a ratio of sums, each unit resampled Poisson(1) times.

    Units that add the same are drawn together: a sum of Poisson numbers is one. Logs of few distinct weights and
    rewards therefore cost next to nothing, however long. Source: Chamandy, Muralidharan, Najmi, Naidu: Estimating
    Uncertainty for Massive Data Streams (2012); Efron (1979).

    Args:
        top: as for `student`.
        bottom: as for `student`.
        confidence: its asymptotic coverage.
        unit: numbers of the units from 0, which are resampled whole.
        draws: resamples.
        seed: of the resampling.
    """
    pairs = [top, bottom] if unit is None else [np.bincount(unit, top), np.bincount(unit, bottom)]
    cells, counts = np.unique(np.stack(pairs, axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    step = max(1, MOST_CELLS // len(cells))
    sums = np.concatenate(
        [rng.poisson(counts, (min(step, draws - done), len(cells))) @ cells for done in range(0, draws, step)]
    )
    drawn = sums[sums[:, 1] > 0]
    if not len(drawn):
        return -inf, inf
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [tail, 1 - tail])
    return float(low), float(high)
