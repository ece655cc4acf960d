"""Confidence sequences: intervals of a policy's value that hold at every look, however often one looks."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, log

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import Floats, Ints, numbers, vector, weigh

SCALES = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
"""Variances (in squared shares of the reward range) to be ready for where no design says which to expect."""
STEPS = 40
"""Bisections: the bounds are exact to 2^-40 of the reward range."""
START = 0.5
"""What is expected of the first row, of rewards between 0 and 1."""


class ConfidenceSequence:
    r"""A policy's value from a growing log, with an interval that holds at all times at once.

    An ordinary interval that is looked at after every batch misses the truth sooner or later: at 30 looks in most
    logs. This one holds at all looks together with probability 1 - `alpha`, so one may stop, switch a policy off, or
    go on whenever one likes. It needs right propensities, chosen before each draw (adaptive policies may be), rewards
    within the range, and a mean reward that stays the same (otherwise it is about the mean of means).

    The lower bound is the $\mu$ at which a gamma-exponential mixture martingale of $\xi_t = w_t r_t$ reaches
    $2/\alpha$: with $S = \sum \xi_t$, $V = \sum (\xi_t - \hat\xi_{t-1})^2$, where $\hat\xi_{t-1}$ is the mean of the
    past, at most 1, and $s = S - t\mu$,

    $\log M = s + V + \rho\log\rho - (V+\rho)\log(s+V+\rho) + \log\gamma(V+\rho, s+V+\rho) - \log\gamma(\rho,\rho)$.

    The upper bound is the lower one of $1 - r$. $\rho$ makes it tightest at one $V$, which only the design may say,
    never the outcomes. Without a design, the mean of six martingales, tuned to variances from 10 to a million, costs
    little at any.

    Source: Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro: Anytime-valid off-policy inference for contextual
    bandits (arXiv 2210.10768); the mixture: Howard, Ramdas, McAuliffe, Sekhon: Time-uniform, nonparametric,
    nonasymptotic confidence sequences (Annals of Statistics 2021), proposition 9.

    Args:
        planned: about how many rows the log will have when the answer matters.
        mean_square_weight: the expected mean of weight^2, from the design: a policy without exploration has between
            1/(1 - eps + eps/K) and K/eps under a log of eps-greedy over K actions.
        alpha: how often the interval may be wrong, ever.
        reward_range: the lowest and highest possible reward; rewards outside are refused.

    Example:
        >>> sequence = ConfidenceSequence()
        >>> rng = np.random.default_rng(0)
        >>> for _ in range(20):
        ...     explored = rng.random(500) < 0.2
        ...     sequence.update(np.where(explored, 5.0, 0.0), rng.random(500) < 0.3)
        >>> low, high = sequence.interval
        >>> 0.2 < low < 0.3 < high < 0.4
        True
    """

    def __init__(
        self,
        *,
        planned: int | None = None,
        mean_square_weight: float | None = None,
        alpha: float = 0.05,
        reward_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; it must be between 0 and 1, as 0.05.")
        if not (np.isfinite(reward_range).all() and reward_range[0] < reward_range[1]):
            raise ValueError(f"reward_range is {reward_range}; it must be (lowest, highest), two finite numbers.")
        self.alpha = alpha
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        self._tuned = tuned(planned, mean_square_weight, alpha / 2)
        self._below = _Side()
        self._above = _Side()

    @property
    def n(self) -> int:
        """Rows so far."""
        return self._below.n

    def update(self, weight: npt.ArrayLike, reward: npt.ArrayLike) -> None:
        """Take one more row, or many, in the order in which they were logged.

        Args:
            weight: target probability over propensity, a number or shape ``(n,)``.
            reward: what was earned, likewise.

        Raises:
            ValueError: a weight is negative, a reward outside of the range, a number NaN.
        """
        if isinstance(weight, float | int) and isinstance(reward, float | int):
            self._take(float(weight), float(reward))
            return
        weights = vector(np.atleast_1d(np.asarray(weight, dtype=np.float64)), "weight")
        rewards = vector(np.atleast_1d(np.asarray(reward, dtype=np.float64)), "reward", len(weights))
        if weights.min() < 0:
            raise ValueError(f"weight is {weights.min():g} in row {int(weights.argmin())}; it must not be negative.")
        share = _shares(rewards, self.reward_range)
        self._below.add(weights * share)
        self._above.add(weights * (1 - share))

    def _take(self, weight: float, reward: float) -> None:
        """One row, without the cost of arrays."""
        low, high = self.reward_range
        if not (low <= reward <= high and isfinite(weight) and weight >= 0):
            self.update(np.array([weight]), np.array([reward]))  # which says what is wrong
            return
        share = (reward - low) / (high - low)
        self._below.take(weight * share)
        self._above.take(weight * (1 - share))

    @property
    def interval(self) -> tuple[float, float]:
        """The interval now: one of those of which all hold together. The whole range before the first row."""
        low, high = (side.bound(self._tuned, self.alpha / 2) for side in (self._below, self._above))
        return _scaled(low, 1 - high, self.reward_range)


def confidence_sequence(
    reward: npt.ArrayLike,
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
    *,
    planned: int | None = None,
    mean_square_weight: float | None = None,
    alpha: float = 0.05,
    reward_range: tuple[float, float] = (0.0, 1.0),
    running: bool | npt.ArrayLike = False,
    density: bool = False,
) -> tuple[float, float] | tuple[Floats, Floats]:
    """An interval of a policy's value that holds at every look together, from the log so far.

    See `ConfidenceSequence` for the method and its conditions. Wider than `ips`' interval at any one look (measured
    1.5 to 2.3 times); but that one is wrong in most logs, if looked at often enough.

    Args:
        reward: shape ``(n,)``, in the order logged, as of `ips`.
        propensity: shape ``(n,)``, in the order logged, as of `ips`.
        target_propensity: shape ``(n,)``, in the order logged, as of `ips`.
        planned: as of `ConfidenceSequence`. `planned` is fixed ahead: it is not
        mean_square_weight: as of `ConfidenceSequence`. `planned` is fixed ahead: it is not
        alpha: as of `ConfidenceSequence`. `planned` is fixed ahead: it is not
        reward_range: as of `ConfidenceSequence`. `planned` is fixed ahead: it is not
            the number of rows there happen to be at this look.
        running: True for the bounds after each row, shape ``(n,)`` each; or the numbers of rows after which to look,
            shape ``(looks,)``. Each is then as tight as any before it.
        density: whether propensities are densities of continuous actions, which may exceed 1.

    Returns:
        low and high: of the last row, or of each look.

    Raises:
        ValueError: as `ips`; a reward lies outside of its range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> agrees, reward = rng.random(5000) < 0.1, rng.random(5000) < 0.4
        >>> low, high = confidence_sequence(reward, np.where(agrees, 0.1, 0.9), agrees)
        >>> 0.2 < low < 0.4 < high < 0.6
        True
    """
    if running is not False:
        rows = weigh(reward, propensity, target_propensity, density=density)
        share = _shares(rows.reward, reward_range)
        every = np.arange(len(rows)) + 1 if running is True else np.asarray(running)
        looks = numbers(every - 1, "running - 1", np.size(every), len(rows))
        rhos = tuned(planned, mean_square_weight, alpha / 2)
        low, high = (_running(rows.weight * part, looks, rhos, alpha / 2) for part in (share, 1 - share))
        start, width = reward_range[0], reward_range[1] - reward_range[0]
        return start + width * low, start + width * (1 - high)
    sequence = ConfidenceSequence(
        planned=planned, mean_square_weight=mean_square_weight, alpha=alpha, reward_range=reward_range
    )
    rows = weigh(reward, propensity, target_propensity, density=density)
    sequence.update(rows.weight, rows.reward)
    return sequence.interval


class _Side:
    """One side of the interval: what was earned (or lost) so far, and how it varied around what was expected."""

    __slots__ = ("n", "total", "variance")

    def __init__(self) -> None:
        self.n = 0
        self.total = 0.0
        self.variance = 0.0

    def add(self, earned: Floats) -> tuple[Floats, Floats, Floats]:
        """Take weight x reward of more rows, in order; returns rows, sum and variance after each."""
        totals = self.total + np.cumsum(earned)
        counts = self.n + np.arange(1, len(earned) + 1, dtype=np.float64)
        before = np.concatenate([[self.total], totals[:-1]])
        expected = np.minimum((START + before) / counts, 1.0)
        variances = self.variance + np.cumsum((earned - expected) ** 2)
        self.n, self.total, self.variance = int(counts[-1]), float(totals[-1]), float(variances[-1])
        return counts, totals, variances

    def take(self, earned: float) -> None:
        """Take one more row."""
        self.n += 1
        self.variance += (earned - min((START + self.total) / self.n, 1.0)) ** 2
        self.total += earned

    def bound(self, rhos: Floats, alpha: float) -> float:
        """The lower bound now."""
        if not self.n:
            return 0.0
        now = (np.array([float(self.n)]), np.array([self.total]), np.array([self.variance]))
        return float(lower_bounds(*now, rhos, alpha)[0])


def _running(earned: Floats, looks: Ints, rhos: Floats, alpha: float) -> Floats:
    """The best lower bound so far, at each look."""
    counts, totals, variances = _Side().add(earned)
    best: Floats = np.maximum.accumulate(lower_bounds(counts[looks], totals[looks], variances[looks], rhos, alpha))
    return best


def tuned(planned: int | None, mean_square_weight: float | None, alpha: float) -> Floats:
    """The rho, or several, that make bounds tight where the variance is what the design says."""
    if mean_square_weight is not None and planned is None:
        raise ValueError("mean_square_weight tunes the bounds together with planned=, the number of rows expected.")
    if planned is not None and planned < 1:
        raise ValueError(f"planned is {planned}; it must be the number of rows that the log will about have.")
    if mean_square_weight is not None and not 0 < mean_square_weight < np.inf:
        raise ValueError(f"mean_square_weight is {mean_square_weight}; it must be a number above 0.")
    if planned is None:
        variances = np.array(SCALES)
    elif mean_square_weight is None:
        variances = planned * np.array([0.05, 0.5, 5.0, 50.0])
    else:
        variances = np.array([planned * mean_square_weight / 2])
    needed = log(1 / alpha)
    return np.maximum(variances, 1.0) / (2 * needed + log(1 + 2 * needed))


def lower_bounds(counts: Floats, totals: Floats, variances: Floats, rhos: Floats, alpha: float) -> Floats:
    """The mean at which the martingale reaches 1 / alpha, by bisection, for each row at once; 0 where none does."""
    low, high = np.zeros(len(counts)), np.minimum(totals / counts, 1.0)
    wealth, needed = log_wealth(variances, rhos), log(1 / alpha)
    for _ in range(STEPS):
        middle = (low + high) / 2
        reached = wealth(totals - counts * middle) >= needed
        low, high = np.where(reached, middle, low), np.where(reached, high, middle)
    return low


def log_wealth(variance: Floats, rhos: Floats) -> Callable[[Floats], Floats]:
    """The logarithm of the martingale (the mean over `rhos`) as a function of the excess, 0 or more, shape ``(n,)``."""
    from scipy.special import gammainc, gammaln

    rho = rhos[:, None]
    a = variance + rho
    constant = rho * np.log(rho) - np.log(gammainc(rho, rho)) - gammaln(rho) - rho + gammaln(a) - log(len(rhos))

    def at(excess: Floats) -> Floats:
        x = excess + a
        each = x - a * np.log(x) + np.log(gammainc(a, x)) + constant
        most = each.max(axis=0)
        total: Floats = most + np.log(np.exp(each - most).sum(axis=0))
        return total

    return at


def _shares(reward: Floats, reward_range: tuple[float, float]) -> Floats:
    """Rewards as shares of their range."""
    low, high = reward_range
    outside = np.flatnonzero((reward < low) | (reward > high))
    if len(outside):
        raise ValueError(
            f"the reward is {reward[outside[0]]:g} in row {outside[0]}, outside of reward_range ({low:g} to {high:g}). "
            "The bounds rest on the range, and it must be fixed ahead: name one that holds every possible reward."
        )
    return (reward - low) / (high - low)


def _scaled(low: float, high: float, reward_range: tuple[float, float]) -> tuple[float, float]:
    start, width = reward_range[0], reward_range[1] - reward_range[0]
    return start + width * low, start + width * high
