"""The limiting distribution of the Cramér-von Mises statistic: one table for all samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_LEAST, _FAR, _POINTS, _TERMS = 0.003, 3.0, 257, 12


def survival(statistic: Values, n: Values, m: float, share: Values) -> Values:
    """P(T >= statistic) for two samples, moments matched as SciPy and Anderson (1962) do.

    Args:
        statistic: Anderson's T, shape ``(k,)``.
        n: values in the reference, shape ``(k,)``.
        m: values in the window.
        share: what dependent rows leave of ``n m / (n + m)``, shape ``(k,)``; 1 for independent rows.

    Example:
        >>> import numpy as np
        >>> from guardrails.drift.statistics.cramer import survival
        >>> survival(np.array([0.1, 0.461]), np.array([1e4, 1e4]), 1e4, np.ones(2)).round(3)
        array([0.585, 0.05 ])
    """
    total = n + m
    mean = (1 + 1 / total) / 6
    variance = (total + 1) * (4 * n * m * total - 3 * (n**2 + m**2) - 2 * n * m) / (45 * total**2 * 4 * n * m)
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = 1 / 6 + (statistic - mean) / np.sqrt(45 * variance)
    return np.where(variance > 0, _limit()(normal * share), 1.0)


@lru_cache(maxsize=1)
def _limit() -> Callable[[Values], Values]:
    """Csörgő and Faraway's series (Journal of the Royal Statistical Society B 58, 1996) as a spline of log p."""
    from scipy.interpolate import CubicSpline
    from scipy.special import gammaln, kv

    x = np.geomspace(_LEAST, _FAR, _POINTS)
    k = np.arange(_TERMS)[:, None]
    order, q = 4 * k + 1, (4 * k + 1) ** 2 / (16 * x)
    terms = np.exp(gammaln(k + 0.5) - gammaln(k + 1) - q) / (np.pi**1.5 * np.sqrt(x)) * np.sqrt(order) * kv(0.25, q)
    spline = CubicSpline(np.log(x), np.log1p(-terms.sum(axis=0)))

    def evaluate(statistic: Values) -> Values:
        inner = np.clip(statistic, _LEAST, _FAR)
        beyond = np.maximum(statistic, _FAR)
        # Where the series has no digits left: the tail of the largest weight, 1 / pi^2 (Zolotarev, 1961).
        tail = (beyond - _FAR) * np.pi**2 / 2 + 0.5 * np.log(beyond / _FAR)
        return np.asarray(np.minimum(np.exp(spline(np.log(inner)) - tail), 1.0))

    return evaluate
