"""Images and embeddings: principal components first, then a distance among them and to what they leave over.

Sun, Ming, Zhu and Li, "Out-of-distribution detection with deep nearest neighbors", ICML 2022: in a space of features
the distance to the k-th nearest ordinary row tells strange inputs well. The components are whitened, and what they
leave over has a coordinate of its own in the unit of Tipping and Bishop, "Probabilistic principal component analysis",
JRSS B 61 (1999): the mean variance of the components left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.outliers.calibration import STRANGEST
from guardrails.outliers.mahalanobis import TINY, Mahalanobis, column_unit, usable
from guardrails.outliers.neighbors import NearestNeighbors
from guardrails.typing import Detector, Rows, Scores

_INNER: Mapping[str, type[NearestNeighbors | Mahalanobis]] = {
    NearestNeighbors.kind: NearestNeighbors,
    Mahalanobis.kind: Mahalanobis,
}
_FLAT = 1e-4
"""The least deviation of a component, columns standardised."""
_CHUNK = 1024
"""Rows projected together."""


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Principal components of standardised columns, and a detector over them and the residual.

    Attributes:
        centre: the mean row, shape ``(d,)``.
        weight: one over each column's standard deviation, shape ``(d,)``.
        components: orthonormal, shape ``(c, d)``.
        whiten: one over each component's standard deviation, then one over the residual's unit, shape ``(c + 1,)``.
        inner: scores rows ``(n, c + 1)``: whitened components, then the length of the residual.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from guardrails.outliers.feature_space import FeatureSpace
        >>> images = load_digits().data
        >>> detector = FeatureSpace.fit(images[:1500])
        >>> ordinary, inverted = detector.score(images[1500:]), detector.score(16 - images[1500:])
        >>> bool(inverted.min() > ordinary.max())
        True
    """

    centre: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]
    whiten: npt.NDArray[np.float64]
    inner: NearestNeighbors | Mahalanobis

    kind: ClassVar[str] = "feature_space"

    @classmethod
    def fit(
        cls,
        X: Rows,
        *,
        variance: float = 0.95,
        max_components: int = 64,
        inner: Literal["knn", "mahalanobis"] = "knn",
        k: int = 5,
        max_rows: int = 10_000,
        seed: int = 0,
    ) -> FeatureSpace:
        """Find the components of rows ``(n, d)`` with scikit-learn's PCA, and fit the detector over them.

        The defaults are those that told ordinary digits best from rotated, noisy, inverted, shuffled and foreign ones.

        Args:
            X: ordinary rows without missing values: flattened images, or embeddings.
            variance: the share of variance that components keep.
            max_components: keep no more than these.
            inner: ``"knn"``, or ``"mahalanobis"``, which keeps no rows: the squared distance from the centre under the
                probabilistic model, whose coordinates are independent with a variance of one.
            k: which neighbour's distance is the score.
            max_rows: the most rows that neighbours are sought among.
            seed: of random parts of the fit.

        Raises:
            ProfileError: the rows are unusable or too few, or an option is none.
        """
        X = usable(X)
        _refuse_options(X, variance, max_components, inner)
        centre, weight = X.mean(axis=0), 1.0 / column_unit(X)
        components = _components((X - centre) * weight, variance, max_components, seed)
        own, left_over = _project((X - centre) * weight, components)
        unexplained = min(len(X) - 1, int((np.ptp(X, axis=0) > 0).sum())) - len(components)
        residual = np.sqrt((left_over**2).sum() / len(X) / max(unexplained, 1))
        whiten = 1.0 / np.maximum(np.append(own.std(axis=0), residual), _FLAT)
        if inner == Mahalanobis.kind:
            return cls(centre, weight, components, whiten, Mahalanobis(np.zeros(len(whiten)), np.eye(len(whiten))))
        coordinates = np.column_stack([own, _lengths(left_over)]) * whiten
        neighbours = NearestNeighbors.fit(coordinates, k=k, scale=False, max_rows=max_rows, seed=seed)
        return cls(centre, weight, components, whiten, neighbours)

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: the inner detector's scores, shape ``(n,)``, higher is stranger."""
        rows = np.ascontiguousarray(rows, np.float64)
        parts = [self.inner.score(self._coordinates(rows[at : at + _CHUNK])[0]) for at in range(0, len(rows), _CHUNK)]
        return np.concatenate(parts) if parts else np.empty(0)

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)``: the same bits as in `score`."""
        return self.inner.score_one(self._coordinates(row[None, :])[0][0])

    def contributions(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How much each column of one row ``(d,)`` adds to its strangeness, shape ``(d,)``.

        The whitened difference to the neighbour (or to the centre) is turned back into columns and squared; what the
        residual adds is spread over the columns by their squared residuals. All of it adds up to the squared distance.
        """
        coordinates, left_over = (part[0] for part in self._coordinates(row[None, :]))
        away = self.inner.difference(coordinates) if isinstance(self.inner, NearestNeighbors) else coordinates
        share = left_over**2 / max(float((left_over**2).sum()), TINY)
        return np.asarray((away[:-1] @ self.components) ** 2 + away[-1] ** 2 * share)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects; the inner detector's names begin with its kind."""
        own = {name: getattr(self, name) for name in ("centre", "weight", "components", "whiten")}
        return own | {f"{self.inner.kind}.{name}": array for name, array in self.inner.arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> FeatureSpace:
        """The inverse of `arrays`."""
        kind = next(kind for kind in _INNER if any(name.startswith(f"{kind}.") for name in arrays))
        own = {name.removeprefix(f"{kind}."): arrays[name] for name in arrays if name.startswith(f"{kind}.")}
        centre, weight, components, whiten = (arrays[name] for name in ("centre", "weight", "components", "whiten"))
        return cls(centre, weight, components, whiten, _INNER[kind].from_arrays(own))

    def _coordinates(self, rows: Rows) -> tuple[Rows, Rows]:
        """What the inner detector scores, shape ``(n, c + 1)``, and the residual of each column, shape ``(n, d)``."""
        own, left_over = _project((rows - self.centre) * self.weight, self.components)
        coordinates = np.empty((len(rows), len(self.whiten)))
        coordinates[:, :-1], coordinates[:, -1] = own, _lengths(left_over)
        coordinates *= self.whiten
        return coordinates, left_over


@dataclass(frozen=True, eq=False)
class Embedded:
    """A detector over embeddings: a live one, around a network or any other callable of yours.

    It has `score` only: nothing of the callable can be stored as arrays, so a profile does not take it. Where the
    callable treats each row by itself, so does this.

    Attributes:
        embed: rows ``(n, d)`` to embeddings ``(n, k)``.
        inner: a detector fitted on embeddings.

    Example:
        >>> import numpy as np
        >>> from guardrails.outliers.feature_space import Embedded, FeatureSpace
        >>> def embed(rows):
        ...     return np.column_stack([rows.mean(axis=1), rows.std(axis=1)])
        >>> rows = np.random.default_rng(0).normal(size=(500, 64))
        >>> detector = Embedded(embed, FeatureSpace.fit(embed(rows)))
        >>> bool(detector.score(rows[:1] + 3)[0] > detector.score(rows).max())
        True
    """

    embed: Callable[[Rows], npt.ArrayLike]
    inner: Detector

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: shape ``(n,)``; one whose embedding is no finite numbers is the strangest.

        Raises:
            ValueError: the callable does not make one embedding of each row.
        """
        embedded = np.asarray(self.embed(rows), np.float64)
        if embedded.ndim != 2 or len(embedded) != len(rows):  # noqa: PLR2004
            raise ValueError(
                f"embed made shape {embedded.shape} of {len(rows)} rows; one row of numbers each is meant."
            )
        readable = np.isfinite(embedded).all(axis=1)
        scores = np.full(len(rows), STRANGEST)
        if readable.any():
            scores[readable] = self.inner.score(embedded[readable])
        return scores


def _refuse_options(X: Rows, variance: float, max_components: int, inner: str) -> None:
    if inner not in _INNER:
        raise ProfileError(f"inner={inner!r} is unknown; there is {', '.join(map(repr, _INNER))}.")
    if not 0.0 < variance <= 1.0 or max_components < 1:
        raise ProfileError(f"variance={variance!r}, max_components={max_components!r}: a share and a number are meant.")
    if len(X) < 2:  # noqa: PLR2004
        raise ProfileError("one row has no principal components: give at least two.")


def _components(standard: Rows, variance: float, most: int, seed: int) -> npt.NDArray[np.float64]:
    """The first principal components of standardised rows ``(n, d)`` that keep a share of variance: ``(c, d)``."""
    from sklearn.decomposition import PCA

    if not standard.var(axis=0).any():
        return np.empty((0, standard.shape[1]))
    fitted = PCA(n_components=min(most, *standard.shape), random_state=seed).fit(standard)
    kept = int(np.searchsorted(np.cumsum(fitted.explained_variance_ratio_), variance)) + 1
    return np.ascontiguousarray(fitted.components_[:kept])


def _project(standard: Rows, components: npt.NDArray[np.float64]) -> tuple[Rows, Rows]:
    """Coordinates of standardised rows among the components, ``(n, c)``, and what is left of them, ``(n, d)``.

    One product per row inside of one call: a row has the same bits alone and in a batch.
    """
    own = np.matmul(components, standard[:, :, None])[:, :, 0]
    return own, standard - np.matmul(own[:, None, :], components)[:, 0, :]


def _lengths(rows: Rows) -> Scores:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))
