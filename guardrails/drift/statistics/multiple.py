"""Many p-values at once: which of them are still small after one has looked at all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError

PValues = npt.NDArray[np.float64]
"""p-values of any shape; NaN where there is none."""


def holm(p: Any) -> PValues:
    """Adjust p-values so that any false alarm at all among them has probability at most alpha.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979): the
    k-th smallest of m is multiplied by ``m - k + 1``, and is never less than the one before it. It holds whatever the
    p-values have to do with each other, and never rejects less than Bonferroni's correction.

    Args:
        p: p-values, an array of any shape. NaN stays NaN and is not counted.

    Returns:
        Adjusted p-values of the same shape: reject where one is at most alpha.

    Raises:
        ProfileError: a value is not between 0 and 1.

    Example:
        >>> from guardrails.drift.statistics.multiple import holm
        >>> holm([0.01, 0.04, float("nan"), 0.03]).tolist()
        [0.03, 0.06, nan, 0.06]
    """
    values, adjusted, order = _ranked(p)
    m = len(order)
    steps = np.maximum.accumulate(values[order] * np.arange(m, 0, -1))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.reshape(np.shape(p))


def benjamini_hochberg(p: Any) -> PValues:
    """Adjust p-values so that among those rejected the expected share of false alarms is at most alpha.

    Benjamini and Hochberg, "Controlling the false discovery rate", Journal of the Royal Statistical Society B 57
    (1995): the k-th smallest of m is multiplied by ``m / k``, and is never more than the one after it. It holds for
    independent and for positively dependent p-values (Benjamini and Yekutieli, 2001).

    Args:
        p: p-values, an array of any shape. NaN stays NaN and is not counted.

    Returns:
        Adjusted p-values of the same shape: list what is at most alpha.

    Raises:
        ProfileError: a value is not between 0 and 1.

    Example:
        >>> from guardrails.drift.statistics.multiple import benjamini_hochberg
        >>> benjamini_hochberg([0.01, 0.04, float("nan"), 0.03]).tolist()
        [0.03, 0.04, nan, 0.04]
    """
    values, adjusted, order = _ranked(p)
    m = len(order)
    steps = values[order] * m / np.arange(1, m + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return adjusted.reshape(np.shape(p))


def _ranked(p: Any) -> tuple[PValues, PValues, npt.NDArray[np.intp]]:
    """The values, room for the adjusted ones, and where the smallest, second smallest... value stands."""
    values = np.asarray(p, dtype=np.float64).ravel()
    with np.errstate(invalid="ignore"):
        wrong = values[(values < 0) | (values > 1)]
    if len(wrong):
        raise ProfileError(f"{wrong[0]!r} is no p-value; p-values are between 0 and 1, or NaN where there is none.")
    order = np.argsort(values, kind="stable")
    return values, np.full_like(values, np.nan), order[: len(values) - int(np.isnan(values).sum())]
