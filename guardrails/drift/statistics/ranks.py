"""Rank statistics of many columns at once: the reference is sorted when it is fitted, a window only finds its place.

Everything follows from where the m sorted values of a window fall in the n sorted values of the reference: Smirnov's
largest distance of the two distribution functions, Anderson's sum of squared rank differences ("On the distribution of
the two-sample Cramér-von Mises criterion", Annals of Mathematical Statistics 33, 1962) and the area between the
functions, which is the Wasserstein distance. None of it walks over the reference again. Ties are exact throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from guardrails.typing import Rows

Values = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

_BLOCK = 8


@dataclass(frozen=True, eq=False)
class Placed:
    """Columns of a window with equally many values, and where these stand in the reference.

    Attributes:
        columns: which columns of the table, shape ``(k,)``.
        values: sorted, shape ``(k, m)``.
        below, up_to: how many reference values are less than each, and at most each, shape ``(k, m)``.
        n: reference values by column, shape ``(k, 1)``.
        reference: the sorted reference columns.
    """

    columns: npt.NDArray[np.intp]
    values: Values
    below: Places
    up_to: Places
    n: Places
    reference: tuple[SortedColumn, ...]

    @property
    def m(self) -> int:
        """Window values by column."""
        return int(self.values.shape[1])


@dataclass(frozen=True, eq=False)
class SortedColumn:
    """One reference column.

    Attributes:
        values: sorted, without missing ones.
        tied: whether a value occurs twice.
    """

    values: Values
    tied: bool

    @classmethod
    def of(cls, values: Values) -> SortedColumn:
        """A column that is sorted already."""
        return cls(values, bool((values[1:] == values[:-1]).any()))

    @cached_property
    def ties(self) -> float:
        """Sum over groups of equal values of ``(g^3 - g) / 12``: what midranks lose against plain ranks."""
        return _lost_to_ties(self.values) if self.tied else 0.0

    @cached_property
    def centre(self) -> float:
        """The median, from which sums are taken so that they stay small."""
        return float(self.values[len(self.values) // 2])

    @cached_property
    def sums(self) -> Values:
        """Sums of the first 0, 1, ... n values, shape ``(n + 1,)``."""
        return np.concatenate([[0.0], np.cumsum(self.values - self.centre)])


@dataclass(frozen=True, eq=False)
class SortedReference:
    """All columns of a reference, sorted, one after the other in one array.

    NumPy's binary search of one column after the other waits for memory at every step. Every eighth value of a column
    is little enough to stay in the cache; the three steps that remain are taken for all columns at once.

    Attributes:
        columns: views of `flat`.
        flat: the columns, each filled up with infinities to a multiple of eight values.
        starts: where in it each begins, shape ``(d,)``.
        coarse: the last of every eight values, by column.
    """

    columns: tuple[SortedColumn, ...]
    flat: Values
    starts: Places
    coarse: tuple[Values, ...]

    @classmethod
    def of(cls, X: Rows) -> SortedReference:
        """Sort rows ``(n, d)``; NaN is left out."""
        ordered = np.sort(np.ascontiguousarray(X.T), axis=1)
        sizes = (len(X) - np.isnan(ordered).sum(axis=1)).tolist()
        width = -(-len(X) // _BLOCK) * _BLOCK
        padded = np.full((len(ordered), width), np.inf)
        for j, size in enumerate(sizes):
            padded[j, :size] = ordered[j, :size]
        columns = tuple(SortedColumn.of(padded[j, :size]) for j, size in enumerate(sizes))
        coarse = tuple(np.ascontiguousarray(row[_BLOCK - 1 :: _BLOCK]) for row in padded)
        return cls(columns, padded.reshape(-1), np.arange(len(padded)) * width, coarse)

    def place(self, rows: Rows) -> Iterator[Placed]:
        """Find the place of a window's columns, those with equally many values together; empty ones are left out.

        Args:
            rows: the window, shape ``(m, d)``; NaN is missing.
        """
        ordered = np.sort(np.ascontiguousarray(rows.T), axis=1)  # NaN goes to the end
        sizes = len(rows) - np.isnan(ordered).sum(axis=1)
        for size in np.unique(sizes[sizes > 0]).tolist():
            columns = np.flatnonzero(sizes == size)
            yield self._placed(columns, ordered[columns, :size])

    def _placed(self, chosen: npt.NDArray[np.intp], values: Values) -> Placed:
        columns = tuple(self.columns[j] for j in chosen.tolist())
        n = np.array([[len(column.values)] for column in columns])
        starts = self.starts[chosen, None]
        at = np.empty(values.shape, dtype=np.int64)
        for i, j in enumerate(chosen.tolist()):
            at[i] = self.coarse[j].searchsorted(values[i], "right")
        at *= _BLOCK
        at += starts
        step = _BLOCK // 2
        while step:
            at += step * (self.flat.take(at + (step - 1), mode="clip") <= values)
            step //= 2
        up_to = np.minimum(at - starts, n)
        # Without ties at most one reference value equals one of the window: the last of those counted.
        equal = self.flat.take(starts + np.maximum(up_to - 1, 0), mode="clip") == values
        below = up_to - equal
        for i, column in enumerate(columns):
            if column.tied:
                below[i] = column.values.searchsorted(values[i], "left")
        return Placed(chosen, values, below, up_to, n, columns)


def kolmogorov_smirnov(placed: Placed) -> Values:
    """The largest distance of the two distribution functions, shape ``(k,)``: SciPy's `ks_2samp` statistic."""
    step = np.arange(placed.m + 1) / placed.m
    above = (step[1:] - placed.up_to / placed.n).max(axis=1)
    below = (placed.below / placed.n - step[:-1]).max(axis=1)
    return np.asarray(np.maximum(above, below))


def cramer_von_mises(placed: Placed) -> Values:
    """Anderson's T with midranks, shape ``(k,)``: SciPy's `cramervonmises_2samp` statistic."""
    n, m = placed.n[:, 0].astype(np.float64), placed.m
    before, through = _counts(placed.values)
    # The rank of a value less its rank in its own sample: how many of the other sample come before it, ties by half.
    window = ((placed.below + placed.up_to) ** 2).sum(axis=1) / 4.0
    first, last = before == np.arange(m), through == np.arange(1, m + 1)
    beyond = np.concatenate([placed.below[:, 1:], placed.n], axis=1)
    equal = np.where(first, (placed.up_to - placed.below) * (before + through) ** 2 / 4.0, 0.0)
    between = np.where(last, (beyond - placed.up_to) * (through**2).astype(np.float64), 0.0)
    window_ties = np.array([_lost_to_ties(row) for row in placed.values]) if not first.all() else 0.0
    u = n * (equal.sum(axis=1) + between.sum(axis=1) + [column.ties for column in placed.reference])
    u = u + m * (window + window_ties)
    return np.asarray(u / (n * m * (n + m)) - (4 * n * m - 1) / (6 * (n + m)))


def wasserstein(placed: Placed) -> Values:
    """The area between the two distribution functions, shape ``(k,)``: SciPy's `wasserstein_distance`."""
    return np.array([_area(column, row) for column, row in zip(placed.reference, placed.values, strict=True)])


def _area(column: SortedColumn, window: Values) -> float:
    """Between two neighbours of the window its function is flat, and the reference's crosses it once at most."""
    n, m = len(column.values), len(window)
    if not (np.isfinite(window[[0, -1]]).all() and np.isfinite(column.values[[0, -1]]).all()):
        return float("inf")
    window = window - column.centre
    level = np.arange(1, m) / m
    crossing = column.values[-(-np.arange(1, m) * n // m) - 1] - column.centre
    crossing = np.clip(crossing, window[:-1], window[1:])

    def area_below(x: Values) -> Values:
        count = column.values.searchsorted(x + column.centre, "right")
        return np.asarray((count * x - column.sums[count]) / n)

    at, across = area_below(window), area_below(crossing)
    inner = level * (2 * crossing - window[:-1] - window[1:]) + at[:-1] + at[1:] - 2 * across
    after = (column.sums[-1] - n * window[-1]) / n + at[-1]
    return float(at[0] + inner.sum() + after)


def _counts(ordered: Values) -> tuple[Places, Places]:
    """How many values of the same row are less than, and at most, each of its sorted values."""
    k, m = ordered.shape
    new = np.ones((k, m + 1), dtype=bool)
    new[:, 1:-1] = ordered[:, 1:] != ordered[:, :-1]
    before = np.maximum.accumulate(np.where(new[:, :-1], np.arange(m), 0), axis=1)
    through = np.minimum.accumulate(np.where(new[:, 1:], np.arange(1, m + 1), m)[:, ::-1], axis=1)[:, ::-1]
    return before, through


def _lost_to_ties(ordered: Values) -> float:
    sizes = np.diff(np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])))
    return float((sizes**3 - sizes).sum() / 12)
