"""The distance to the k-th nearest ordinary row, exactly, without a search tree.

Ramaswamy, Rastogi and Shim, "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000. A float32
product over all rows finds the few that can be among the k nearest, with a margin for its rounding; only their
distances are then computed, from float64 differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.outliers.mahalanobis import TINY, column_unit, usable
from guardrails.typing import Rows, Scores

_CHUNK = 1 << 20
"""Closeness values computed together: 4 MB of them, however many rows are scored and kept."""
_GROUPS = 128
"""Groups of reference rows whose minima bound the k-th smallest value of all, at a fraction of its price."""
_ROUNDING = 2.0**-24
"""Half a unit in the last place of a float32."""
_FAR = 1e30
"""Beyond so many radii float32 would overflow, and all reference rows are equally far in float64: any will do."""


class _Search(NamedTuple):
    """The reference rows about their middle, in units of the largest distance from it, in float32."""

    middle: npt.NDArray[np.float64]
    factor: float
    columns: npt.NDArray[np.float32]
    half: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NearestNeighbors:
    """Reference rows. The score is the Euclidean distance to the k-th nearest of them, in scaled columns.

    Attributes:
        reference: scaled ordinary rows, shape ``(n, d)``.
        low: what is taken from each column first, shape ``(d,)``.
        weight: what each column is then multiplied by, shape ``(d,)``.
        k: which neighbour counts.

    Example:
        >>> import numpy as np
        >>> from guardrails.outliers.neighbors import NearestNeighbors
        >>> detector = NearestNeighbors.fit(np.arange(11.0)[:, None], k=2)
        >>> detector.score(np.array([[5.0], [10.0], [30.0]]))
        array([0.1, 0.1, 2.1])
    """

    reference: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]
    k: int

    kind: ClassVar[str] = "knn"

    @classmethod
    def fit(cls, X: Rows, *, k: int = 5, scale: bool = True, max_rows: int = 10_000, seed: int = 0) -> NearestNeighbors:
        """Keep rows ``(n, d)`` as the reference.

        Args:
            X: ordinary rows without missing values.
            k: which neighbour's distance is the score.
            scale: bring each column's range to one; standard deviations would blow up columns of mostly one value.
            max_rows: keep at most so many rows, drawn at random: time and memory of a score grow with them.
            seed: of that draw.

        Raises:
            ProfileError: the rows are unusable, or fewer than ``k`` are kept.
        """
        X = usable(X)
        low, weight = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if scale:
            low, weight = X.min(axis=0), 1.0 / np.maximum(np.ptp(X, axis=0), column_unit(X))
        kept = min(len(X), max_rows)
        if not 1 <= k <= kept:
            raise ProfileError(f"k={k} neighbours cannot be found among {kept} rows.")
        if kept < len(X):
            X = X[np.sort(np.random.default_rng(seed).choice(len(X), kept, replace=False))]
        return cls((X - low) * weight, low, weight, k)

    @classmethod
    def compile(cls, fitted: Any) -> NearestNeighbors:
        """Take the rows and ``n_neighbors`` of a fitted `sklearn.neighbors.NearestNeighbors`.

        Raises:
            TypeError: it is not fitted, on a sparse matrix, or its distance is not the Euclidean one.
        """
        from sklearn.neighbors import NearestNeighbors as Fitted

        if not isinstance(fitted, Fitted) or not isinstance(getattr(fitted, "_fit_X", None), np.ndarray):
            raise TypeError(f"{fitted!r} is no scikit-learn NearestNeighbors fitted on a dense array.")
        if fitted.effective_metric_ != "euclidean":
            raise TypeError(f"{fitted!r} measures {fitted.effective_metric_!r} distances; Euclidean ones are needed.")
        reference = np.array(fitted._fit_X, np.float64)  # noqa: SLF001  # the rows have no public name
        width, k = reference.shape[1], int(fitted.n_neighbors)
        if k > len(reference):
            raise TypeError(f"{fitted!r} asks for {k} neighbours and holds {len(reference)} rows.")
        return cls(reference, np.zeros(width), np.ones(width), k)

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: distances, shape ``(n,)``, from 0 on, higher is stranger.

        A row that is itself in the reference finds itself: fit and score on different rows.
        """
        scaled = (np.asarray(rows, np.float64) - self.low) * self.weight
        chunk = max(1, _CHUNK // len(self.reference))
        found = [self._kth(scaled[start : start + chunk]) for start in range(0, len(scaled), chunk)]
        return np.array([distance for part in found for distance, _ in part], np.float64)

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)``: the same bits as in `score`."""
        return self._kth(((row - self.low) * self.weight)[None, :])[0][0]

    def difference(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """From the k-th neighbour of one row ``(d,)`` to it, in scaled columns: shape ``(d,)``."""
        scaled = (row - self.low) * self.weight
        _, neighbour = self._kth(scaled[None, :])[0]
        return np.asarray(scaled - self.reference[neighbour])

    def contributions(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Squared scaled differences of one row ``(d,)`` to its k-th neighbour: shape ``(d,)``.

        They add up to the square of the score.
        """
        return np.asarray(self.difference(row) ** 2)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        return {
            "reference": self.reference,
            "low": self.low,
            "weight": self.weight,
            "k": np.array([self.k], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> NearestNeighbors:
        """The inverse of `arrays`."""
        return cls(arrays["reference"], arrays["low"], arrays["weight"], int(arrays["k"][0]))

    @cached_property
    def _search(self) -> _Search:
        n, d = self.reference.shape
        middle = self.reference.mean(axis=0)
        about = self.reference - middle
        squares = np.einsum("ij,ij->i", about, about)
        radius = max(math.sqrt(squares.max()), TINY)
        # Rows that fill up the last group are infinitely far.
        columns = np.zeros((d, -(-n // _GROUPS) * _GROUPS), np.float32)
        half = np.full(columns.shape[1], np.inf, np.float32)
        columns[:, :n], half[:n] = about.T / radius, squares / radius**2 / 2
        return _Search(middle, 1.0 / radius, columns, half)

    def _kth(self, scaled: Rows) -> list[tuple[float, int]]:
        """Distance and index of the k-th nearest reference row, for each of scaled rows ``(m, d)``."""
        found = []
        for row, own in zip(scaled, self._candidates(scaled), strict=True):
            away = self.reference.take(own, axis=0) - row
            squares = np.einsum("ij,ij->i", away, away)  # the same bits for a row, whatever the other candidates are
            at = squares.argpartition(self.k - 1)[self.k - 1]
            found.append((math.sqrt(squares[at]), int(own[at])))
        return found

    def _candidates(self, scaled: Rows) -> Iterator[npt.NDArray[np.intp]]:
        """For each row, the indices of all reference rows that can be among its k nearest.

        Half a squared distance, less what all reference rows have in common, is ``r.r / 2 - r.x``. In float32 that is
        wrong by at most e = ``(d + 8) u (|x| + 1)``, as no ``|r|`` exceeds 1 here. A row among the k nearest is
        therefore at most 2e above the k-th smallest of these values, or above anything that is no smaller.
        """
        search = self._search
        about = (scaled - search.middle) * search.factor
        norms = np.sqrt(np.einsum("ij,ij->i", about, about))
        far = norms > _FAR
        if far.any():
            about[far] = norms[far] = 0.0
        close = about.astype(np.float32) @ search.columns
        np.subtract(search.half, close, out=close)
        # The k-th smallest of the groups' minima is no smaller than the k-th smallest of all, and mostly the same.
        grouped = self.k <= _GROUPS // 4
        least = close.reshape(len(close), -1, _GROUPS).min(axis=1) if grouped else close
        bound = np.partition(least, self.k - 1, axis=1)[:, self.k - 1]
        limits = bound + 2 * (scaled.shape[1] + 8) * _ROUNDING * (norms + 1.0)
        for own, limit in zip(close, limits.astype(np.float32), strict=True):
            yield (own <= limit).nonzero()[0]
