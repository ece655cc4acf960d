"""The distribution of Kolmogorov's statistic for a finite sample, from tables: a p-value for the price of a spline.

SciPy's `kstwo` is exact and takes a millisecond a value (seconds, for large samples). Here it is computed at some two
hundred points per sample size, once, and interpolated in log p, where the curve is nearly a parabola. The points come
from the methods Simard and L'Ecuyer compare in "Computing the two-sided Kolmogorov-Smirnov distribution", Journal of
Statistical Software 39 (2011): `kstwo` itself up to 140 rows, Pelz and Good's expansion (Journal of the Royal
Statistical Society B 38, 1976) beyond, and twice Smirnov's one-sided sum in the tail. A test holds the difference from
`kstwo` below 5e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_DIRECT = 16
"""Up to so many rows the distribution has corners that a spline would round off, and is quickly computed."""
_FEW = 8
"""Fewer values than this are not worth a table that takes as long as a hundred of them."""
_EXPANSION = 140
"""Beyond so many rows Pelz and Good's expansion is right to five digits and more."""
_SUM = 20_000
"""Beyond so many rows Smirnov's sum is as long as it is superfluous."""
_CORNERS = 50
"""From so many rows on half of the points will do."""
_LEAST, _CENTRE, _TAIL = 0.2, 161, 97
_UNDERFLOW = 345.0
"""``exp(-2 * 345)`` is about the smallest number there is."""


def survival(statistic: Values, rows: int) -> Values:
    """P(D >= statistic) for Kolmogorov's two-sided D of so many rows.

    Args:
        statistic: values of D, shape ``(k,)``.
        rows: of the one-sample statistic; for two samples of n and m rows, ``n m / (n + m)`` rounded.

    Example:
        >>> import numpy as np
        >>> from guardrails.drift.statistics.kolmogorov import survival
        >>> survival(np.array([0.0, 0.05, 0.1]), 196).round(4)
        array([1.   , 0.692, 0.037])
    """
    if rows <= _DIRECT or (rows <= _EXPANSION and len(statistic) < _FEW):
        from scipy.stats import kstwo

        distinct, where = np.unique(statistic, return_inverse=True)
        return np.asarray(kstwo.sf(distinct, rows), dtype=np.float64)[where]
    return _table(rows)(statistic)


@lru_cache(maxsize=256)
def _table(rows: int) -> Callable[[Values], Values]:
    """Two splines of log p: the centre over the scaled statistic, the tail over ``-log(1 - D)``."""
    from scipy.interpolate import CubicSpline
    from scipy.stats import kstwo

    turn, root = (2.0, np.sqrt(rows)) if rows <= _EXPANSION else (1.5, np.sqrt(rows))
    scaled = np.linspace(_LEAST, turn, _CENTRE // 2 if _CORNERS <= rows <= _EXPANSION else _CENTRE)
    inner = kstwo.sf(scaled / root, rows) if rows <= _EXPANSION else 1.0 - _pelz_good(scaled, rows)
    centre = CubicSpline(scaled, np.log(np.minimum(inner, 1.0)))
    furthest = np.sqrt(_UNDERFLOW / rows)
    last = -np.log1p(-furthest) if furthest < 0.5 else 1.0 + 2 * _UNDERFLOW / rows  # noqa: PLR2004  # see below
    # In the far half p is about 2 (1 - D)^n, a straight line over -log(1 - D) right up to D = 1.
    outward = np.geomspace(-np.log1p(-turn / root), last, _TAIL)
    tail = CubicSpline(outward, np.log(2) + _log_smirnov(-np.expm1(-outward), rows))

    def evaluate(statistic: Values) -> Values:
        scaled = np.asarray(statistic, dtype=np.float64) * root
        p = np.exp(centre(np.clip(scaled, _LEAST, turn)))
        far = scaled > turn
        if far.any():
            with np.errstate(divide="ignore"):
                outward = -np.log1p(-np.minimum(statistic[far], 1.0))
            p[far] = np.where(outward <= last, np.exp(tail(np.minimum(outward, last))), 0.0)
        return np.asarray(np.minimum(p, 1.0))

    return evaluate


def _log_smirnov(statistic: Values, rows: int) -> Values:
    """The logarithm of the one-sided P(D+ >= d): Smirnov's finite sum, term by term in logarithms."""
    from scipy.special import gammaln, logsumexp

    if rows > _SUM:  # Maag and Dicaire (1971): off by 1e-6 at this size
        return np.asarray(-((6 * rows * statistic + 1) ** 2) / (18 * rows))
    logs = np.empty_like(statistic)
    for i, d in enumerate(statistic.tolist()):
        j = np.arange(int(rows * (1 - d)) + 1)
        above, below = d + j / rows, np.maximum(1 - d - j / rows, 1e-300)
        choose = gammaln(rows + 1) - gammaln(j + 1) - gammaln(rows - j + 1)
        logs[i] = np.log(d) + logsumexp(choose + (j - 1) * np.log(above) + (rows - j) * np.log(below))
    return logs


def _pelz_good(z: Values, rows: int) -> Values:
    """P(D <= z / sqrt(rows)) up to the term in ``rows ** -1.5``; the theta series are summed for small z."""
    a, s = np.pi**2, z**2
    odd = 2.0 * np.arange(1, 13)[:, None] - 1
    o2 = odd**2 * a / 4
    weight = np.exp(-o2 / (2 * s))
    k0 = weight.sum(axis=0) / z
    k1 = ((o2 - s) * weight).sum(axis=0) / (6 * z**4)
    k2 = ((6 * s**3 + 2 * s**2 + (2 * s**2 - 5 * s) * o2 + (1 - 2 * s) * o2**2) * weight).sum(axis=0) / (72 * z**7)
    k3 = (
        (-30 * s**3 - 90 * s**4 + (135 * s**2 - 96 * s**3) * o2 + (212 * s**2 - 60 * s) * o2**2 + (5 - 30 * s) * o2**3)
        * weight
    ).sum(axis=0) / (6480 * z**10)
    e2 = np.arange(1, 13)[:, None] ** 2 * a
    weight = np.exp(-e2 / (2 * s))
    k2 -= (e2 * weight).sum(axis=0) / (36 * z**3)
    k3 += ((3 * s - e2) * e2 * weight).sum(axis=0) / (216 * z**6)
    return np.asarray(np.sqrt(2 * np.pi) * (k0 + k1 / rows**0.5 + k2 / rows + k3 / rows**1.5))
