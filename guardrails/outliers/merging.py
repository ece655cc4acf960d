"""Several p-values of the same row as one, valid however they depend on each other.

Vovk and Wang, "Combining p-values via averaging", Biometrika 107 (2020): an average of K p-values is no p-value, but
times a factor it is, whatever their dependence. For detectors of your own scores, `combine` is sharper: it calibrates
the merged score and pays no factor.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt


def merge_p_values(p: npt.ArrayLike, rule: str = "bonferroni") -> npt.NDArray[np.float64]:
    """Merge p-values under any dependence.

    Args:
        p: p-values, shape ``(members, n)`` or ``(members,)``.
        rule: ``"bonferroni"``: K times the least, for what one member alone sees; ``"mean"``: twice the arithmetic
            mean, for what all see; ``"harmonic"``: the harmonic mean times its exact factor (2 for K = 2, 2.75 for
            K = 3, then growing like log K), between the two.

    Returns:
        One p-value per column, shape ``(n,)``, at most 1: for true p-values, a share t of them at most is below t.

    Raises:
        ValueError: the rule is none of these, or the numbers are no p-values.

    Example:
        >>> merge_p_values([[0.01, 0.5], [0.02, 0.9]])
        array([0.02, 1.  ])
        >>> merge_p_values([[0.01, 0.5], [0.02, 0.9]], "mean")
        array([0.03, 1.  ])
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim not in {1, 2} or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values are numbers from 0 to 1, of shape (members, n) or (members,).")
    members = len(values)
    if rule == "bonferroni":
        merged = members * values.min(axis=0)
    elif rule == "mean":
        merged = min(members, 2) * values.mean(axis=0)
    elif rule == "harmonic":
        with np.errstate(divide="ignore"):  # p = 0 makes 0, as it should
            merged = harmonic_factor(members) / np.mean(1.0 / values, axis=0)
    else:
        hint = "; Fisher's rule is valid for independent p-values only" if rule == "fisher" else ""
        raise ValueError(f"rule={rule!r} is unknown; there is 'bonferroni', 'mean', 'harmonic'{hint}.")
    return np.asarray(np.minimum(merged, 1.0))


@lru_cache
def harmonic_factor(members: int) -> float:
    """The least factor that makes the harmonic mean of K p-values a p-value under every dependence.

    Vovk and Wang, 2020: ``(y + K)^2 / (K (y + 1))``, where y > 0 solves ``y^2 = K ((y + 1) log(y + 1) - y)``; for
    K = 2 that is y = 0 and the factor 2. Their simple ``e log K`` is larger, and too small for K = 2.

    Example:
        >>> [round(harmonic_factor(members), 3) for members in (1, 2, 3, 10)]
        [1.0, 2.0, 2.746, 4.56]
    """
    if members <= 2:  # noqa: PLR2004
        return float(members)
    low, high = 1e-3, float(members**2)  # the equation's left side is the smaller one at low, the larger one at high
    for _ in range(200):
        y = (low + high) / 2
        if y**2 < members * ((y + 1) * math.log1p(y) - y):
            low = y
        else:
            high = y
    return (high + members) ** 2 / (members * (high + 1))
