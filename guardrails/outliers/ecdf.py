"""Empirical tail probabilities per column: a row is strange when its values lie far out in the columns' tails.

Li, Zhao, Hu, Botta, Ionescu and Chen, "ECOD: unsupervised outlier detection using empirical cumulative distribution
functions", TKDE 2022. As in the paper, the score is the largest of three sums over columns of ``-log`` tail
probabilities: of the left tails, of the right tails, and of the tail to which each column is skewed. (PyOD adds up the
larger tail of each column, and counts the rows to be scored into the distribution, so that its scores depend on the
batch. Here only the reference rows and the row itself count.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.outliers.mahalanobis import column_unit, usable
from guardrails.typing import Rows, Scores

_KNOTS = 1024
"""Distinct values kept per column."""
_CHUNK = 4096
"""Rows scored together: memory does not grow with the batch."""
_FEW = 16
"""Rows up to which all columns are searched in one call, rather than column by column."""


@dataclass(frozen=True, eq=False)
class Ecdf:
    """Sorted values of each column, with how many rows lie below and up to each.

    Columns lie one after the other, each closed by an infinite value that no row reaches.

    Attributes:
        starts: where each column begins, and where the last one ends, shape ``(d + 1,)``.
        knots: distinct values of each column, ascending, shape ``(K,)``.
        below: how many rows are smaller, shape ``(K,)``.
        upto: how many rows are not larger, shape ``(K,)``.
        unit: the standard deviation of each column, shape ``(d,)``.
        left: whether each column is skewed to the left, shape ``(d,)``.

    Example:
        >>> import numpy as np
        >>> from guardrails.outliers.ecdf import Ecdf
        >>> detector = Ecdf.fit(np.arange(1.0, 100.0)[:, None])
        >>> detector.score(np.array([[50.0], [99.0], [200.0]])).round(2)
        array([0.67, 3.91, 8.14])
    """

    starts: npt.NDArray[np.intp]
    knots: npt.NDArray[np.float64]
    below: npt.NDArray[np.int64]
    upto: npt.NDArray[np.int64]
    unit: npt.NDArray[np.float64]
    left: npt.NDArray[np.bool_]

    kind: ClassVar[str] = "ecod"

    @classmethod
    def fit(cls, X: Rows, *, seed: int = 0) -> Ecdf:  # noqa: ARG003  # as all detectors
        """Sort each column of rows ``(n, d)``.

        Of more than 1024 distinct values of a column, those stay whose tail probabilities are in geometric
        progression from either end, so that tail probabilities are off by a few percent of themselves at most, and
        those of the outermost rows are exact.

        Args:
            X: ordinary rows without missing values.
            seed: of no effect: nothing is random here.

        Raises:
            ProfileError: the rows are unusable.
        """
        X = usable(X)
        parts = [_knots(column) for column in X.T]
        starts = np.cumsum([0, *(len(knots) for knots, _, _ in parts)])
        knots, below, upto = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        unit = column_unit(X)
        skewness = (((X - X.mean(axis=0)) / unit) ** 3).mean(axis=0)
        return cls(starts.astype(np.intp), knots, below, upto, unit, skewness < 0)

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: shape ``(n,)``, higher is stranger.

        Out of the range of a column its tail probability falls as an exponential tail's would, by a factor of e for
        each standard deviation: farther is stranger.
        """
        rows = np.ascontiguousarray(rows, np.float64)
        scores = np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            left, right = self._tails(rows[start : start + _CHUNK])
            larger = np.maximum(left.sum(axis=1), right.sum(axis=1))
            np.maximum(larger, np.where(self.left, left, right).sum(axis=1), out=scores[start : start + _CHUNK])
        return scores

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)``: the same bits as in `score`."""
        return float(self.score(row[None, :])[0])

    def contributions(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What each column of one row ``(d,)`` adds to the largest of the three sums, shape ``(d,)``."""
        left, right = (tail[0] for tail in self._tails(row[None, :]))
        return max((left, right, np.where(self.left, left, right)), key=np.sum)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        return {
            "starts": self.starts.astype(np.int64),
            "knots": self.knots,
            "below": self.below,
            "upto": self.upto,
            "unit": self.unit,
            "left": self.left.astype(np.int8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Ecdf:
        """The inverse of `arrays`."""
        starts, left = arrays["starts"].astype(np.intp), arrays["left"].astype(bool)
        return cls(starts, arrays["knots"], arrays["below"], arrays["upto"], arrays["unit"], left)

    def _tails(self, rows: Rows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``-log`` of the left and of the right tail probability of each value, each of shape ``(n, d)``."""
        at = self._search(rows)
        state = 2 * at + (self.knots.take(at) == rows)
        low, high = self._range
        left, right = self._surprise
        return (
            left.take(state) + np.maximum(low - rows, 0.0) / self.unit,
            right.take(state) + np.maximum(rows - high, 0.0) / self.unit,
        )

    def _search(self, rows: Rows) -> npt.NDArray[np.intp]:
        """The first knot of its column that is not smaller than each value."""
        starts = self.starts
        if len(rows) <= _FEW:
            # Complex numbers sort by real part, then by imaginary part: a column's number, then a value.
            values = np.empty(rows.shape, np.complex128)
            values.real, values.imag = np.arange(rows.shape[1]), rows
            return self._keys.searchsorted(values)
        at = np.empty(rows.shape, np.intp)
        for j, column in enumerate(rows.T):
            at[:, j] = self.knots[starts[j] : starts[j + 1]].searchsorted(column)
        at += starts[:-1]
        return at

    @cached_property
    def _keys(self) -> npt.NDArray[np.complex128]:
        keys = np.empty(len(self.knots), np.complex128)
        keys.real, keys.imag = np.repeat(np.arange(len(self.unit)), np.diff(self.starts)), self.knots
        return keys

    @cached_property
    def _range(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The smallest and the largest value of each column."""
        return self.knots[self.starts[:-1]], self.knots[self.starts[1:] - 2]

    @cached_property
    def _surprise(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``-log`` tail probabilities, left and right: per knot, of a value before it, and of the knot itself.

        A probability counts the row itself: (1 + rows as far out) / (1 + rows), which is never 0. Where knots were
        left out, all rows between count as farther out, so that no value seems stranger than it is.
        """
        n = self.upto[-1]
        before = np.r_[0, self.upto[:-1]]
        before[self.starts[:-1]] = 0
        left = np.stack([self.below, self.upto], axis=1)
        right = np.stack([n - before, n - self.below], axis=1)
        return np.log((1 + n) / (1 + left.ravel())), np.log((1 + n) / (1 + right.ravel()))


def _knots(
    column: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Values of one column, and how many rows lie below and up to each; closed by infinity."""
    values, counts = np.unique(column, return_counts=True)
    upto = np.cumsum(counts)
    below = upto - counts
    n = len(column)
    if len(values) > _KNOTS:
        ranks = np.geomspace(1, n / 2, _KNOTS // 2)
        kept = np.union1d(np.searchsorted(upto, ranks), np.searchsorted(below, n - ranks, side="right") - 1)
        values, below, upto = values[kept], below[kept], upto[kept]
    return np.append(values, np.inf), np.append(below, n), np.append(upto, n)
