"""Reference bins: every watched column cut where training had its quantiles, so that counts are all drift needs.

One table ``int64[feature, bin]`` is the whole state; tables of workers, hours and replicas merge by addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from guardrails.typing import Rows

BINS = 10
MAX_BINS = 64
"""Categories beyond this many (the rarest) share the bin ``other``."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Bins:
    """Where each column is cut, and how many reference rows fell into each bin.

    Attributes:
        names: the watched columns: the features, then outputs (``__prediction__``, ``__confidence__``, ``__output__``).
        edges: inner cut points per column, padded with ``inf``, shape ``(f, b)``; for a category, the codes.
        categorical: which columns are categories, shape ``(f,)``.
        counts: reference counts, shape ``(f, b + 3)``: b + 1 intervals, then ``other``, then missing.
    """

    names: tuple[str, ...]
    edges: npt.NDArray[np.float64]
    categorical: npt.NDArray[np.bool_]
    counts: Counts

    @classmethod
    def fit(cls, names: Sequence[str], X: Rows, categorical: Sequence[bool]) -> Bins:
        """Cut the columns of reference rows ``(n, f)``; constant columns get one cut, next to their value."""
        cuts = [_cut(X[:, j], category=is_category) for j, is_category in enumerate(categorical)]
        width = max(map(len, cuts))
        edges = np.full((len(cuts), width), np.inf)
        for j, cut in enumerate(cuts):
            edges[j, : len(cut)] = cut
        empty = np.zeros((len(cuts), width + 3), np.int64)
        bins = cls(tuple(names), edges, np.asarray(categorical, dtype=bool), empty)
        return cls(bins.names, edges, bins.categorical, bins.count(X))

    @property
    def rows(self) -> int:
        """How many reference rows were counted."""
        return int(self.counts[0].sum())

    def empty(self) -> Counts:
        """A table of nothing."""
        return np.zeros_like(self.counts)

    def count(self, X: Rows) -> Counts:
        """Count rows ``(n, f)`` into a table of the shape of `counts`."""
        codes = np.empty(X.shape, np.int64)
        for j in range(X.shape[1]):
            codes[:, j] = self._code(j, X[:, j])
        flat = codes + np.arange(X.shape[1]) * self.counts.shape[1]
        return np.bincount(flat.ravel(), minlength=self.counts.size).reshape(self.counts.shape).astype(np.int64)

    def _code(self, column: int, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        cut = self._cuts[column]
        other, missing = self.counts.shape[1] - 2, self.counts.shape[1] - 1
        if self.categorical[column]:
            position = np.searchsorted(cut, values)
            known = np.take(cut, np.minimum(position, len(cut) - 1)) == values
            codes = np.where(known, position, other)
        else:
            codes = np.searchsorted(cut, values, side="left")
        return np.asarray(np.where(np.isnan(values), missing, codes), dtype=np.int64)

    @cached_property
    def _cuts(self) -> list[npt.NDArray[np.float64]]:
        return [row[np.isfinite(row)] for row in self.edges]


def _cut(values: npt.NDArray[np.float64], *, category: bool) -> npt.NDArray[np.float64]:
    seen = values[~np.isnan(values)]
    if category:
        codes, counts = np.unique(seen, return_counts=True)
        return np.sort(codes[np.argsort(-counts, kind="stable")[:MAX_BINS]])
    distinct = np.unique(seen)
    if len(distinct) == 1:  # any other value is another bin, be it larger or smaller
        return np.array([np.nextafter(distinct[0], -np.inf), distinct[0]])
    if len(distinct) <= BINS:
        return np.asarray(distinct[:-1])
    cut = np.unique(np.quantile(seen, np.arange(1, BINS) / BINS))
    below = cut < distinct[-1]
    return np.asarray(cut[below] if below.any() else distinct[:1])
