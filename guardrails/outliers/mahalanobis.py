"""The squared Mahalanobis distance: how far a row lies from the centre, in units of what is usual in that direction.

Mahalanobis, "On the generalised distance in statistics", 1936: ``(x - m)' P (x - m)`` with the precision ``P``, the
inverse of the covariance. Robust: the minimum covariance determinant of Rousseeuw and Van Driessen, "A fast algorithm
for the minimum covariance determinant estimator", Technometrics 41 (1999).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.typing import Rows, Scores

_FLOAT32_MAX = float(np.finfo(np.float32).max)

_OFF_CONSTANT = 1e-6
"""The unit of a column that never varied, as a share of its value: above what rounding to float32 does (6e-8)."""
_ROUNDING = 1e-12
"""The least unit of a column that varied, as a share of its largest value: what varied less varied by rounding."""
TINY = 1e-100
"""The least unit of all, so that the square of the largest float32, in these units, is still a number."""
_DEGENERATE = 1e-20
"""A variance below this share of the column's own is none: more than half of the rows have the same value."""
_FLAT = 1e-8
"""The least variance of a direction, columns standardised: one that never varied counts in 1e-4 of a deviation."""


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """A centre and a precision. Scores are squared distances, from 0 on.

    Attributes:
        location: the centre, shape ``(d,)``.
        precision: the inverse covariance, shape ``(d, d)``.

    Example:
        >>> import numpy as np
        >>> from guardrails.outliers.mahalanobis import Mahalanobis
        >>> detector = Mahalanobis.fit(np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]]))
        >>> detector.score(np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0]])).round(6)
        array([  0.,   2., 200.])
    """

    location: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]

    kind: ClassVar[str] = "mahalanobis"

    @classmethod
    def fit(cls, X: Rows, *, robust: bool = False, seed: int = 0) -> Mahalanobis:
        """Estimate centre and covariance of rows ``(n, d)`` with scikit-learn.

        Where the covariance can be inverted, scores are those of the scikit-learn estimator. A direction in which the
        rows do not vary (a constant column, one that is the sum of others) has a small unit instead of none: a row
        that leaves it is very strange, and one that keeps to it is not disturbed.

        Args:
            X: ordinary rows without missing values.
            robust: estimate from the half of the rows that lie closest together (`MinCovDet`), for a reference that
                may hold outliers; else from all of them (`EmpiricalCovariance`).
            seed: of the robust estimate's random subsets; the plain one has no randomness.

        Raises:
            ProfileError: the rows are unusable, or too few for a robust estimate: ``2 d`` are needed.
        """
        X = usable(X)
        centre, unit = X.mean(axis=0), column_unit(X)
        varies = np.ptp(X, axis=0) > 0
        location, covariance = np.zeros(len(unit)), np.zeros((len(unit), len(unit)))
        if varies.any():
            # Standardised first: columns may differ by ten orders of magnitude, and the square of that loses digits.
            standard = ((X - centre) / unit)[:, varies]
            location[varies], covariance[np.ix_(varies, varies)] = _estimate(standard, robust, seed)
        precision = _inverse(covariance) / unit / unit[:, None]
        return cls(centre + unit * location, (precision + precision.T) / 2)

    @classmethod
    def compile(cls, fitted: Any) -> Mahalanobis:
        """Take centre and precision of a fitted scikit-learn covariance: empirical, robust, shrunk, or an envelope.

        Raises:
            TypeError: it has no ``location_`` and ``get_precision()``.
            ProfileError: a column varied so little that distances overflow.
        """
        if not hasattr(fitted, "location_") or not hasattr(fitted, "get_precision"):
            raise TypeError(
                f"{fitted!r} is no fitted scikit-learn covariance (EmpiricalCovariance, MinCovDet, EllipticEnvelope, "
                "LedoitWolf, OAS, ShrunkCovariance): location_ and get_precision() are needed."
            )
        location, precision = (np.array(part, np.float64) for part in (fitted.location_, fitted.get_precision()))
        reach = _FLOAT32_MAX + float(np.abs(location).max())
        if not np.abs(precision).max() < np.finfo(np.float64).max / (len(location) * reach) ** 2:
            raise ProfileError(
                "distances by this precision overflow: bring its columns to one scale before fitting it."
            )
        return cls(location, precision)

    def score(self, rows: Rows) -> Scores:
        """Score rows of shape ``(n, d)``: squared distances, shape ``(n,)``, from 0 on, higher is stranger."""
        away = np.ascontiguousarray(rows, np.float64) - self.location
        # One product per row inside of one call: the bits of `score_one`, which a product of all rows would not give.
        scores = np.matmul(np.matmul(away[:, None, :], self.precision), away[:, :, None])[:, 0, 0]
        return np.asarray(np.maximum(scores, 0.0))  # a square near 0 may round to less

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)``: the same bits as in `score`."""
        away = row - self.location
        return max(float(away.dot(self.precision).dot(away)), 0.0)

    def contributions(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What each column of one row ``(d,)`` adds to its score: ``d_j (P d)_j``, shape ``(d,)``.

        These terms add up to the score. One is negative where a column alone would be stranger than together with
        those it is correlated with; it takes nothing from the others, so negative terms are returned as 0.
        """
        away = row - self.location
        return np.asarray(np.maximum(away * away.dot(self.precision), 0.0))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        return {"location": self.location, "precision": self.precision}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Mahalanobis:
        """The inverse of `arrays`."""
        return cls(arrays["location"], arrays["precision"])


def usable(X: Rows) -> Rows:
    """Rows to fit on, as float64 ``(n, d)``.

    Raises:
        ProfileError: they are no table, are empty, or hold what float32 cannot.
    """
    rows = np.asarray(X, np.float64)
    if rows.ndim != 2 or not rows.size:  # noqa: PLR2004
        raise ProfileError(f"X has shape {rows.shape}; rows of shape (n, d) are needed.")
    if not (np.abs(rows) <= _FLOAT32_MAX).all():  # a NaN is not smaller either
        raise ProfileError(
            "X holds missing values, infinities or numbers beyond float32; fill them or remove the rows."
        )
    return rows


def column_unit(X: Rows) -> npt.NDArray[np.float64]:
    """What counts as one in each column of rows ``(n, d)``: its standard deviation, shape ``(d,)``, never 0.

    A column that never varied has a unit of a millionth of its value (of one, where the value is zero): far below any
    real change, above what rounding does.
    """
    largest = np.abs(X).max(axis=0)
    varied = np.maximum(X.std(axis=0), _ROUNDING * largest)
    constant = _OFF_CONSTANT * np.where(largest > 0, largest, 1.0)
    return np.maximum(np.where(np.ptp(X, axis=0) > 0, varied, constant), TINY)


def _estimate(rows: Rows, robust: bool, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Location and covariance of rows whose columns all vary."""
    from sklearn.covariance import EmpiricalCovariance, MinCovDet

    n, d = rows.shape
    if robust and n < 2 * d:
        raise ProfileError(f"a robust covariance of {d} columns needs at least {2 * d} rows, not {n}.")
    try:
        fitted = (MinCovDet(random_state=seed) if robust else EmpiricalCovariance()).fit(rows)
    except ValueError as error:
        raise ProfileError(f"these rows have no robust covariance ({error}): use robust=False.") from error
    return fitted.location_, fitted.covariance_


def _inverse(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of a covariance of standardised columns, in which no direction is narrower than `_FLAT` allows."""
    variance = np.diag(covariance)
    degenerate = variance <= _DEGENERATE
    deviation = np.sqrt(np.where(degenerate, 1.0, variance))
    correlation = covariance / deviation / deviation[:, None]
    correlation[degenerate, :] = correlation[:, degenerate] = 0.0
    correlation[degenerate, degenerate] = 1.0
    widths, directions = np.linalg.eigh(correlation)
    inverse = (directions / np.maximum(widths, _FLAT)) @ directions.T
    return np.asarray(inverse / deviation / deviation[:, None])
