"""The watched columns of rows and their answers, side by side: what is counted for drift, at fit and when serving."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from guardrails.profile.answers import Columns
from guardrails.typing import Mask, Rows

OUTLIER = "__outlier__"


def table(names: Sequence[str], rows: Rows, answers: Columns | None, outliers: Mask | None) -> tuple[Rows, Mask | None]:
    """One row of all watched columns for each row of features.

    Args:
        names: the watched columns; the features come first.
        rows: features, shape ``(n, d)``.
        answers: the columns of the answers, each of shape ``(n,)``; None where nobody answered.
        outliers: which rows are outliers, shape ``(n,)``; None where nobody looked.

    Returns:
        Values of shape ``(n, f)``; and which of them nobody could have given, of the same shape, or None if there is
        none. An output that is there without a value (NaN) is missing; one that nobody speaks of is absent.
    """
    n, width = rows.shape
    values = np.full((n, len(names)), np.nan)
    values[:, :width] = rows
    absent = np.zeros((n, len(names)), dtype=bool)
    said: dict[str, npt.NDArray[np.float64]] = dict(answers or {})
    if outliers is not None:
        said[OUTLIER] = outliers.astype(np.float64)
    for column, name in enumerate(names[width:], start=width):
        if name in said:
            values[:, column] = said[name]
        else:
            absent[:, column] = True
    return values, absent if absent.any() else None
