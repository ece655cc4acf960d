"""One histogram per column: a value in a sparse bin is strange, a row is as strange as its values together.

Goldstein and Dengel, "Histogram-based outlier score (HBOS): a fast unsupervised anomaly detection algorithm", KI 2012.
Columns are taken to be independent, which is wrong and often good enough, and the fastest score there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.outliers.mahalanobis import TINY, column_unit, usable
from guardrails.typing import Rows, Scores

_PRIOR = 0.5
"""Rows added to each bin: an empty bin is rare, not impossible."""
_CHUNK = 4096
"""Rows scored together: memory does not grow with the batch."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Bins of equal width over the range of each column. The score is the sum of what each value costs.

    A value costs ``log(height of the fullest bin / height of its bin)``: 0 in the fullest. Out of the range it costs
    what an empty bin does, and one more for each standard deviation of the column beyond it, as an exponential tail
    would: farther is stranger.

    Attributes:
        low: where each column's first bin begins, shape ``(d,)``.
        high: where its last bin ends, shape ``(d,)``.
        per: bins per unit of the column, shape ``(d,)``.
        unit: the standard deviation of the column, shape ``(d,)``.
        cost: what a value in each bin costs, shape ``(d, bins)``.
        outside: what a value just out of the range costs, shape ``(d,)``.

    Example:
        >>> import numpy as np
        >>> from guardrails.outliers.histogram import Histogram
        >>> detector = Histogram.fit(np.random.default_rng(0).normal(size=(500, 2)))
        >>> detector.score(np.array([[0.0, 0.0], [0.0, 2.9], [0.0, 9.0]])).round(1)
        array([ 0.2,  4.3, 11.5])
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    per: npt.NDArray[np.float64]
    unit: npt.NDArray[np.float64]
    cost: npt.NDArray[np.float64]
    outside: npt.NDArray[np.float64]

    kind: ClassVar[str] = "hbos"

    @classmethod
    def fit(cls, X: Rows, *, bins: int | None = None, seed: int = 0) -> Histogram:  # noqa: ARG003  # as all detectors
        """Count rows ``(n, d)`` into bins.

        Args:
            X: ordinary rows without missing values.
            bins: bins per column; by default ``2 n ** (1/3)`` (Rice's rule). Bins of equal width, because the heights
                of quantile bins say little where a column has few distinct values.
            seed: of no effect: nothing is random here.

        Raises:
            ProfileError: the rows are unusable, or there is no bin.
        """
        X = usable(X)
        bins = int(np.ceil(2 * np.cbrt(len(X)))) if bins is None else bins
        if bins < 1:
            raise ProfileError(f"bins={bins}: a histogram needs at least one bin.")
        low, high = X.min(axis=0), X.max(axis=0)
        per = np.where(high > low, bins / np.maximum(high - low, TINY), 0.0)
        heights = np.full((X.shape[1], bins), _PRIOR)
        for column, index in enumerate(_bins(X - low, per, bins).T):
            heights[column] += np.bincount(index, minlength=bins)
        fullest = heights.max(axis=1)
        cost = np.log(fullest[:, None] / heights)
        return cls(low, high, per, column_unit(X), cost, np.log(fullest / _PRIOR))

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: shape ``(n,)``, from 0 on, higher is stranger."""
        rows = np.asarray(rows, np.float64)
        scores = np.zeros(len(rows))
        for start in range(0, len(rows), _CHUNK):
            part = scores[start : start + _CHUNK]
            for column in self._costs(rows[start : start + _CHUNK]).T:
                part += column  # one after the other, as `score_one` adds: the same bits
        return scores

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)``: the same bits as in `score`."""
        score = 0.0
        for value, (low, high, per, unit, cost, outside) in zip(row.tolist(), self._columns, strict=True):
            if value < low:
                score += outside + (low - value) / unit
            elif value > high:
                score += outside + (value - high) / unit
            else:
                score += cost[int((value - low) * per)]
        return score

    def contributions(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What each value of one row ``(d,)`` costs, shape ``(d,)``: adds up to the score."""
        return np.asarray(self._costs(row[None, :])[0])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        return {name: getattr(self, name) for name in ("low", "high", "per", "unit", "cost", "outside")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Histogram:
        """The inverse of `arrays`."""
        return cls(*(arrays[name] for name in ("low", "high", "per", "unit", "cost", "outside")))

    @cached_property
    def _columns(self) -> list[tuple[float, float, float, float, list[float], float]]:
        """Each column's numbers as Python's own: for one row a loop over these is cheaper than NumPy's calls.

        The last bin's cost stands there twice: the largest value lies on its far edge.
        """
        costs = [[*row, row[-1]] for row in self.cost.tolist()]
        low, high, per, unit, outside = (
            part.tolist() for part in (self.low, self.high, self.per, self.unit, self.outside)
        )
        return list(zip(low, high, per, unit, costs, outside, strict=True))

    def _costs(self, rows: Rows) -> npt.NDArray[np.float64]:
        """What each value costs, shape ``(n, d)``."""
        within = np.minimum(np.maximum(rows, self.low), self.high)
        index = _bins(within - self.low, self.per, self.cost.shape[1])
        inside = self.cost[np.arange(rows.shape[1]), index]
        beyond = np.abs(rows - within)
        return np.where(beyond > 0, self.outside + beyond / self.unit, inside)


def _bins(above: Rows, per: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.intp]:
    """The bins of values, given how far above the low end of their column they lie."""
    return np.minimum((above * per).astype(np.intp), bins - 1)
