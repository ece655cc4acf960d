"""Reference bins: every watched column cut where training had its quantiles, so that counts are all drift needs.

One table ``int64[feature, bin]`` is the whole state; tables of workers, hours and replicas merge by addition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from guardrails.profile import serial
from guardrails.typing import Mask, Rows

BINS = 16
"""Intervals per number. Sixteen find a shift about as soon as the values themselves would; more gain nothing."""
ROWS_A_BIN = 30
"""Reference rows an interval has at least: fewer intervals where the reference is small."""
MAX_BINS = 64
"""Categories beyond this many (the rarest) share the bin ``other``."""
OTHER, MISSING = "other", "nan"
ABSENT = -1
"""The code of a value that nobody could have given: counted nowhere."""

Counts = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Bins:
    """Where each column is cut, and how many reference rows fell into each bin.

    Attributes:
        names: the watched columns: the features, then outputs (``__prediction__``, ``__confidence__``, ``__output__``),
            then ``__outlier__``.
        edges: inner cut points per column, padded with ``inf``, shape ``(f, b)``; for a category, the codes.
        categorical: which columns are categories, shape ``(f,)``.
        counts: reference counts, shape ``(f, b + 3)``: b + 1 intervals, then ``other``, then missing.
        autocorrelation: of neighbouring reference rows, shape ``(f,)``; 0 where it is not distinguishable from 0.
    """

    names: tuple[str, ...]
    edges: npt.NDArray[np.float64]
    categorical: npt.NDArray[np.bool_]
    counts: Counts
    autocorrelation: npt.NDArray[np.float64] | None = None

    @classmethod
    def fit(cls, names: Sequence[str], X: Rows, categorical: Sequence[bool]) -> Bins:
        """Cut the columns of reference rows ``(n, f)``; constant columns get one cut, next to their value.

        The order of the rows matters in one way: rows that resemble their neighbours count for less (`effective_rows`).
        """
        cuts = [_cut(X[:, j], category=is_category) for j, is_category in enumerate(categorical)]
        width = max(map(len, cuts))
        edges = np.full((len(cuts), width), np.inf)
        for j, cut in enumerate(cuts):
            edges[j, : len(cut)] = cut
        empty = np.zeros((len(cuts), width + 3), np.int64)
        bins = cls(tuple(names), edges, np.asarray(categorical, dtype=bool), empty)
        codes = bins.codes(X)
        bins = replace(bins, counts=bins.tally(codes))
        return replace(bins, autocorrelation=serial.significant(bins, codes))

    def beside(self, other: Bins) -> Bins:
        """The columns of both, in this order; each keeps the reference rows it was fitted on."""
        width = max(self.edges.shape[1], other.edges.shape[1])
        parts = [_widened(self, width), _widened(other, width)]
        return Bins(
            self.names + other.names,
            np.concatenate([part.edges for part in parts]),
            np.concatenate([self.categorical, other.categorical]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([self.rho, other.rho]),
        )

    @property
    def rows(self) -> int:
        """How many reference rows were counted."""
        return int(self.counts[0].sum())

    @property
    def rho(self) -> npt.NDArray[np.float64]:
        """The autocorrelation of the reference, shape ``(f,)``."""
        return np.zeros(len(self.names)) if self.autocorrelation is None else self.autocorrelation

    @property
    def effective_rows(self) -> npt.NDArray[np.float64]:
        """How many independent rows the reference of each column is worth, shape ``(f,)``."""
        return np.asarray(self.counts.sum(axis=1) * serial.gamma(self.rho))

    @cached_property
    def ref(self) -> str:
        """A hash of the reference (12 hex digits): the same columns, cuts and counts are the same reference."""
        content = [name.encode() for name in self.names]
        content += [np.ascontiguousarray(a).tobytes() for a in (self.edges, self.categorical, self.counts)]
        return hashlib.sha256(b"\0".join(content)).hexdigest()[:12]

    def used(self, column: int) -> list[int]:
        """The bins a value of this column can fall into."""
        intervals = len(self._cuts[column]) + (0 if self.categorical[column] else 1)
        last = self.counts.shape[1]
        return [*range(intervals), *([last - 2] if self.categorical[column] else []), last - 1]

    def label(self, bin_: int) -> str:
        """A bin as it stands in metrics: ``00``, ``01``, ..., ``other``, ``nan``."""
        from_end = self.counts.shape[1] - bin_
        return {1: MISSING, 2: OTHER}.get(from_end, f"{bin_:02d}")

    def empty(self) -> Counts:
        """A table of nothing."""
        return np.zeros_like(self.counts)

    def count(self, X: Rows) -> Counts:
        """Count rows ``(n, f)`` into a table of the shape of `counts`."""
        return self.tally(self.codes(X))

    def codes(self, X: Rows, absent: Mask | None = None) -> Codes:
        """The bin of every value, shape ``(n, f)``.

        Args:
            X: rows of all watched columns, shape ``(n, f)``.
            absent: values that nobody could have given, shape ``(n, f)``; their code is `ABSENT`.
        """
        codes = np.empty(X.shape, np.int64)
        for j in range(X.shape[1]):
            codes[:, j] = self._code(j, X[:, j])
        if absent is not None:
            codes[absent] = ABSENT
        return codes

    def tally(self, codes: Codes) -> Counts:
        """How often each bin occurs among codes ``(n, f)``."""
        cells = codes + np.arange(codes.shape[1]) * self.counts.shape[1]
        seen = cells[codes != ABSENT]
        return np.bincount(seen, minlength=self.counts.size).reshape(self.counts.shape).astype(np.int64)

    def _code(self, column: int, values: npt.NDArray[np.float64]) -> Codes:
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


def _widened(bins: Bins, width: int) -> Bins:
    """The same bins in a wider table."""
    more = width - bins.edges.shape[1]
    edges = np.pad(bins.edges, ((0, 0), (0, more)), constant_values=np.inf)
    counts = np.concatenate(
        [bins.counts[:, :-2], np.zeros((len(bins.names), more), np.int64), bins.counts[:, -2:]], axis=1
    )
    return replace(bins, edges=edges, counts=counts)


def _cut(values: npt.NDArray[np.float64], *, category: bool) -> npt.NDArray[np.float64]:
    seen = values[~np.isnan(values)]
    if category:
        codes, counts = np.unique(seen, return_counts=True)
        return np.sort(codes[np.argsort(-counts, kind="stable")[:MAX_BINS]])
    distinct, counts = np.unique(seen, return_counts=True)
    if len(distinct) == 1:  # any other value is another bin, be it larger or smaller
        return np.array([np.nextafter(distinct[0], -np.inf), distinct[0]])
    if len(distinct) <= BINS:
        return np.asarray(distinct[:-1])
    intervals = max(2, min(BINS, len(seen) // ROWS_A_BIN))
    often = distinct[counts * intervals > len(seen)]  # a value that fills a bin by itself, such as "no amount"
    others = seen[~np.isin(seen, often)]
    left = max(1, min(intervals - len(often), len(others) // ROWS_A_BIN))
    between = np.quantile(others, np.arange(1, left) / left)
    cut = np.unique(np.concatenate([between, often, np.nextafter(often, -np.inf)]))
    inside = (cut >= distinct[0]) & (cut < distinct[-1])
    return np.asarray(cut[inside] if inside.any() else distinct[:1])
