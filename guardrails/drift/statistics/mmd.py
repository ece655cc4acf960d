"""Maximum mean discrepancy in one pass: whole rows compared, through random Fourier features.

A kernel compares distributions rather than columns, so it sees that two columns have stopped moving together, or that
an embedding has a new cluster. Rahimi and Recht ("Random features for large-scale kernel machines", NeurIPS 2007)
replace the Gaussian kernel by random waves; the mean of these over a sample is its embedding, and the distance of two
means is the discrepancy. Measured in units of its own covariance (Hotelling's T^2) it has a known distribution, so no
permutation is needed, and the reference is walked over once. That distribution is a chi-square for normal features and
many rows; here its mean is corrected for the covariance being an estimate, and its variance for the features' kurtosis
(Mardia, "Measures of multivariate skewness and kurtosis with applications", Biometrika 57, 1970), which is what a
window of 50 rows or a heavy-tailed column makes felt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.typing import Rows

Values = npt.NDArray[np.float64]

WAVES = 32
"""Random waves; each gives a sine and a cosine, so 64 features."""
ROWS_PER_FEATURE = 75
"""With fewer reference rows per feature the covariance is not known well enough: fewer features are used then."""
_SAMPLE = 1000
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, eq=False)
class MeanEmbedding:
    """What the features look like over the reference.

    Attributes:
        centre, unit: per column, by which rows are standardised, shape ``(d,)``.
        waves: frequencies, shape ``(d, w)``; the bandwidth is the median distance of reference rows.
        mean: of the features, shape ``(2 w,)``.
        axes: from features to uncorrelated ones of variance one, shape ``(2 w, f)``.
        excess: Mardia's kurtosis of these, less that of normal ones.
        rows: reference rows.
    """

    centre: Values
    unit: Values
    waves: Rows
    mean: Values
    axes: Rows
    excess: float
    rows: int

    @classmethod
    def fit(cls, X: Rows, *, seed: int = 0) -> MeanEmbedding:
        """Learn the features of reference rows ``(n, d)``.

        Raises:
            ProfileError: values are missing or infinite, there are too few rows, or all are the same.
        """
        rng = np.random.default_rng(seed)
        _finite(X, "reference")
        waves = min(WAVES, len(X) // (2 * ROWS_PER_FEATURE))
        if waves < 1:
            raise ProfileError(f"mmd needs a reference of {2 * ROWS_PER_FEATURE} rows at least; there are {len(X)}.")
        centre, unit = _scale(X)
        frequencies = rng.normal(size=(X.shape[1], waves)) / _bandwidth((X - centre) / unit, rng)
        features = _features((X - centre) / unit, frequencies)
        mean = features.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov(features, rowvar=False))
        kept = variances > _NEGLIGIBLE * variances[-1]
        axes = directions[:, kept] / np.sqrt(variances[kept])
        k = axes.shape[1]
        excess = float(((((features - mean) @ axes) ** 2).sum(axis=1) ** 2).mean()) - k * (k + 2)
        return cls(centre, unit, frequencies, mean, axes, excess, len(X))

    def distances(self, rows: Rows) -> Rows:
        """The features of rows ``(n, d)``, uncorrelated, of variance one and mean zero over the reference."""
        return np.asarray((_features((rows - self.centre) / self.unit, self.waves) - self.mean) @ self.axes)

    def compare(self, window: Rows, effective: tuple[float, float]) -> tuple[float, float]:
        """Hotelling's T^2 of a window ``(m, d)``, and its p-value.

        Args:
            window: rows without missing values.
            effective: how many independent rows the reference and the window are worth.

        Raises:
            ProfileError: values are missing or infinite.
        """
        from scipy.special import gammaincc

        _finite(window, "window")
        shift = self.distances(window).mean(axis=0)
        squared = float(shift @ shift)
        k, n = self.axes.shape[1], self.rows
        spread = sum(1 / rows for rows in effective)
        mean = k * (n - 1) / (n - k - 2)
        kurtosis = self.excess * sum(rows**-3 for rows in effective) / spread**2
        variance = 2 * mean**2 * (1 / k + 1 / (n - k)) + max(kurtosis, 0.0)
        # A gamma distribution of that mean and variance; with the chi-square's it is the chi-square.
        p_value = gammaincc(mean**2 / variance, squared / spread * mean / variance)
        return squared / (1 / n + 1 / len(window)), float(p_value)


def _scale(X: Rows) -> tuple[Values, Values]:
    """Median, and the standard deviation that the quartiles would give a normal column: heavy tails do not move it."""
    low, middle, high = np.quantile(X, [0.25, 0.5, 0.75], axis=0)
    unit = np.where(high > low, (high - low) / 1.349, X.std(axis=0))
    return middle, np.where(unit > 0, unit, 1.0)


def _features(standard: Rows, waves: Rows) -> Rows:
    phase = standard @ waves
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def _bandwidth(standard: Rows, rng: np.random.Generator) -> float:
    """The median distance between two of at most a thousand rows."""
    from scipy.spatial.distance import pdist

    chosen = standard[rng.permutation(len(standard))[:_SAMPLE]]
    distances = pdist(chosen)
    apart = distances[distances > 0]
    if not len(apart):
        raise ProfileError("all rows of the reference are the same; mmd has nothing to measure distances with.")
    return float(np.median(apart))


def _finite(X: Rows, which: str) -> None:
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0].tolist()
        raise ProfileError(
            f"row {row}, column {column} of the {which} is {X[row, column]}; mmd compares whole rows, without missing "
            "values or infinities. Leave such rows out, or compare columns with test='ks'."
        )
