"""How many independent rows a series of dependent rows is worth.

Rows that follow each other closely say nearly the same thing twice, and a test that counts both is too sure of itself.
The integrated autocorrelation time is ``1 + 2 (rho_1 + rho_2 + ...)``: so many rows make one. The sum is cut as Geyer
cuts it ("Practical Markov chain Monte Carlo", Statistical Science 7, 1992): neighbours are taken in pairs, no pair
counts more than the one before, and the first that is not positive ends it. Autocorrelations are those of ranks for
numbers, and of the indicators of the values for categories. A sample has to be many such times long to tell its own:
series of 200 rows that are worth 5 each said 9 on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from guardrails.drift.statistics.columns import Columns
from guardrails.typing import Rows

Values = npt.NDArray[np.float64]

NOTICED = 0.2
"""A lag-one autocorrelation below this costs less than a third of the rows, and is not mentioned."""
_CERTAIN = 5.0
"""How many standard errors (``1 / sqrt(n)``) it has to be above zero to be mentioned."""
_MANY = 32
"""So many of the most frequent values of a category are looked at."""


@dataclass(frozen=True, eq=False)
class Dependence:
    """How much the rows of a sample depend on those before them.

    Attributes:
        columns: the sample, in the order in which its rows came.
        categories: which of its columns are categories.
    """

    columns: Columns
    categories: frozenset[int]

    @cached_property
    def noticed(self) -> npt.NDArray[np.bool_]:
        """Whether a column's lag-one correlation is both worth mentioning and no accident, shape ``(d,)``."""
        correlation = np.empty(len(self.columns.names))
        correlation[self._numbers] = lag_one(self.columns.numbers(self._numbers))
        for j in self.categories:
            correlation[j] = lag_one_of_levels(self.columns.codes(j))
        return np.asarray((correlation > NOTICED) & (correlation * np.sqrt(self.columns.rows) > _CERTAIN))

    @cached_property
    def times(self) -> Values:
        """How many rows make one independent row, by column, shape ``(d,)``."""
        found = np.empty(len(self.columns.names))
        found[self._numbers] = times(self.columns.numbers(self._numbers))
        for j in self.categories:
            found[j] = time_of_levels(self.columns.codes(j))
        return found

    def of(self, columns: Columns) -> Dependence:
        """The same of another sample with these columns."""
        return Dependence(columns, self.categories)

    @cached_property
    def _numbers(self) -> list[int]:
        return [j for j in range(len(self.columns.names)) if j not in self.categories]


def times(rows: Rows) -> Values:
    """The integrated autocorrelation time of each numeric column, at least 1, shape ``(d,)``.

    Args:
        rows: shape ``(n, d)``, in the order in which they came; NaN is left out.

    Example:
        >>> import numpy as np
        >>> from guardrails.drift.statistics.autocorrelation import times
        >>> steps = np.random.default_rng(0).normal(size=(5000, 1))
        >>> for i in range(1, 5000):
        ...     steps[i] += 0.8 * steps[i - 1]
        >>> bool(6 < times(steps)[0] < 12)  # (1 + .8) / (1 - .8) is 9
        True
    """
    return np.array([_time(_ranks(column[~np.isnan(column)])[:, None]) for column in rows.T])


def time_of_levels(codes: npt.NDArray[np.int64]) -> float:
    """The integrated autocorrelation time of a category, given by the codes of its values, shape ``(n,)``."""
    return _time(_indicators(codes))


def lag_one(rows: Rows) -> Values:
    """The correlation of each numeric column with itself one row later, shape ``(d,)``; 0 where nothing varies."""
    missing = np.isnan(rows)
    if missing.any():  # a missing value is taken for an average one
        sums = np.where(missing, 0.0, rows).sum(axis=0)
        rows = np.where(missing, sums / np.maximum((~missing).sum(axis=0), 1), rows)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # infinities, and columns that do not vary
        centred = rows - rows.mean(axis=0)
        variance = (centred**2).sum(axis=0)
        found = (centred[1:] * centred[:-1]).sum(axis=0) / variance
    return np.where(np.isfinite(found) & (variance > 0), found, 0.0)


def lag_one_of_levels(codes: npt.NDArray[np.int64]) -> float:
    """How much more often than by chance a category is followed by itself: 0 not at all, 1 always."""
    by_chance = float(((np.bincount(codes) / len(codes)) ** 2).sum())
    if by_chance >= 1 or len(codes) < 2:  # noqa: PLR2004  # nothing varies
        return 0.0
    return float(((codes[1:] == codes[:-1]).mean() - by_chance) / (1 - by_chance))


def _time(series: Rows) -> float:
    """Of one or several columns taken together, weighted by their variances."""
    n = len(series)
    centred = series - series.mean(axis=0) if n else series
    if n < 4 or not (centred**2).sum() > 0:  # noqa: PLR2004  # no second pair of lags
        return 1.0
    padded = 1 << (2 * n - 1).bit_length()
    power = np.abs(np.fft.rfft(centred, padded, axis=0)) ** 2
    covariance = np.fft.irfft(power.sum(axis=1), padded)[:n]
    correlation = covariance / covariance[0]
    pairs = np.minimum.accumulate(correlation[: n // 2 * 2].reshape(-1, 2).sum(axis=1))
    return float(min(max(2 * pairs[pairs > 0].sum() - 1, 1.0), n))


def _ranks(values: Values) -> Values:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)


def _indicators(codes: npt.NDArray[np.int64]) -> Rows:
    counts = np.bincount(codes)
    return np.asarray(codes[:, None] == np.argsort(-counts)[:_MANY], dtype=np.float64)
