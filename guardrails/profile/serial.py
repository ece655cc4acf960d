"""Serial dependence: how much a row resembles the row before it, and what that makes a row worth.

Tests of drift take rows to be independent. Rows that come in order of time rarely are, and then bring fewer news each:
with autocorrelation rho at lag one, and the exponential decay of an AR(1) process after it, n rows say about a mean
what ``n (1 - rho) / (1 + rho)`` independent rows would (Bartlett 1946).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from guardrails.profile.bins import Bins, Codes, Counts

Floats = npt.NDArray[np.float64]

LARGEST = 0.99
"""Rows more alike than this are worth nothing that could be measured."""
FALSE_ALARM = 1e-3
"""The chance that any column of an independent reference is taken for an autocorrelated one."""


def gamma(rho: Floats) -> Floats:
    """What share of an independent row a row is worth, shape as ``rho``; negative autocorrelation counts as none."""
    rho = np.clip(rho, 0.0, LARGEST)
    return np.asarray((1.0 - rho) / (1.0 + rho))


def normal_scores(bins: Bins, counts: Counts | None = None) -> Floats:
    """What a bin stands for on the scale of a standard normal variable, shape ``(f, bins)``.

    The mean of the normal variable between the quantiles where the bin begins and ends; 0 for missing values.
    """
    from scipy.special import ndtri

    counts = bins.counts if counts is None else counts
    ordered = counts[:, :-2] + 0.5 * (counts[:, :-2].sum(axis=1, keepdims=True) == 0)
    upper = np.cumsum(ordered, axis=1) / ordered.sum(axis=1, keepdims=True)
    lower = np.concatenate([np.zeros((len(upper), 1)), upper[:, :-1]], axis=1)
    share = upper - lower
    middle = ndtri(np.clip((lower + upper) / 2, 1e-6, 1 - 1e-6))
    mean = np.where(share > 1e-9, (_density(lower) - _density(upper)) / np.maximum(share, 1e-9), middle)  # noqa: PLR2004
    return np.concatenate([mean, np.zeros((len(mean), 2))], axis=1)


def _density(quantile: Floats) -> Floats:
    from scipy.special import ndtri

    z = ndtri(np.clip(quantile, 0.0, 1.0))
    return np.asarray(np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi))


SAMPLES, AT_ONCE = 10_000, 50
"""Samples of random pairs."""
CLEAR, MOST_PAIRS = 12.0, 5_000
"""Standard errors at which an autocorrelation is clear: a sample has as many pairs as that takes, up to a bound."""
FEW = 25.0
"""Pairs as far apart as can be: if fewer of them make the difference, no normal error says how likely that is."""


class Neighbours:
    """Measures how far apart neighbouring rows are: squared normal scores for numbers, other or not for categories.

    Args:
        bins: the reference, whose bins say what a value is worth.
    """

    def __init__(self, bins: Bins) -> None:
        self._scores = normal_scores(bins)
        self._categorical = bins.categorical
        self._columns = np.arange(len(bins.names))

    def distances(self, codes: Codes, before: Codes | None) -> tuple[Floats, npt.NDArray[np.int64]]:
        """The distances of neighbours, summed, and how many pairs there were; both of shape ``(f,)``.

        Args:
            codes: bins of rows in the order in which they came, shape ``(n, f)``.
            before: the row before the first, shape ``(f,)``, if there was one.
        """
        rows = codes if before is None else np.concatenate([before[None], codes])
        first, second = rows[:-1], rows[1:]
        both = (first >= 0) & (second >= 0)
        apart = np.square(self._scores[self._columns, second] - self._scores[self._columns, first])
        apart[:, self._categorical] = (first != second)[:, self._categorical]
        return np.where(both, apart, 0.0).sum(axis=0), both.sum(axis=0)

    def values(self, codes: Codes, column: int) -> Floats:
        """What distances of a column are taken between, shape ``(n,)``: scores, or the codes of a category."""
        own = codes[:, column]
        return own.astype(np.float64) if self._categorical[column] else self._scores[column, own]

    def autocorrelation(self, counts: Floats, distances: Floats, pairs: Floats) -> Floats:
        """One minus (mean distance of neighbours) / (mean distance of any two rows), shape ``(f,)``; 0 without pairs.

        Von Neumann's ratio (1941): differences of neighbours do not mind a mean that has moved, which a plain
        autocorrelation takes for dependence. For a category that keeps its value with probability rho, else draws
        anew, it is that rho.

        Args:
            counts: how often each bin occurred, shape ``(f, bins)``.
            distances: of neighbours, summed, shape ``(f,)``.
            pairs: how many there were, shape ``(f,)``.
        """
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
        mean = (share * self._scores).sum(axis=1)
        variance = (share * np.square(self._scores)).sum(axis=1) - np.square(mean)
        any_two = np.where(self._categorical, 1.0 - np.square(share).sum(axis=1), 2.0 * variance)
        known = (pairs > 0) & (any_two > 1e-12)  # noqa: PLR2004
        ratio = distances / np.maximum(pairs, 1e-300) / np.where(known, any_two, 1.0)
        return np.where(known, 1.0 - ratio, 0.0)


def significant(bins: Bins, codes: Codes) -> Floats:
    """The autocorrelation of reference rows, shape ``(f,)``; 0 where independent rows may well show as much.

    A normal error decides; but where a few pairs are all that makes the difference, these have to stand out from pairs
    of random rows, too: a rare value that happens to stand beside itself once is no autocorrelation.
    """
    from scipy.special import ndtri

    neighbours = Neighbours(bins)
    distances, pairs = neighbours.distances(codes, None)
    rho = neighbours.autocorrelation(bins.counts.astype(float), distances, pairs.astype(float))
    least = -ndtri(FALSE_ALARM / len(bins.names)) / np.sqrt(np.maximum(pairs, 1))
    rng = np.random.default_rng(0)
    for column in np.flatnonzero(rho > least).tolist():
        values = neighbours.values(codes[codes[:, column] >= 0], column)
        category = bool(bins.categorical[column])
        spared = rho[column] * distances[column] / (1.0 - min(rho[column], LARGEST)) / _largest(values, category)
        if spared < FEW and not _stands_out(values, bins.categorical[column], rho[column], rng):
            rho[column] = 0.0
    return np.where(rho > least, np.minimum(rho, LARGEST), 0.0)


def _stands_out(values: Floats, category: bool, rho: float, rng: np.random.Generator) -> bool:
    """Whether neighbours are closer than any of many samples, as large, of two random rows each."""
    size = int(min(len(values) - 1, MOST_PAIRS, (CLEAR / rho) ** 2))
    first = rng.choice(len(values) - 1, size, replace=False)
    as_it_is = _apart(values[first], values[first + 1], category)
    for _ in range(SAMPLES // AT_ONCE):
        one, other = rng.integers(len(values), size=(2, AT_ONCE, size))
        if (_apart(values[one], values[other], category) <= as_it_is).any():
            return False
    return True


def _largest(values: Floats, category: bool) -> float:
    """The largest distance of two rows."""
    return 1.0 if category else max(float(np.square(np.ptp(values))), 1e-12)


def _apart(one: Floats, other: Floats, category: bool) -> Floats:
    steps = one != other if category else np.square(one - other)
    return np.asarray(steps.sum(axis=-1, dtype=np.float64))
