"""What a row has to be, column by column: compiled from a schema, asked once for each row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guardrails.core.payload import Problem
from guardrails.profile.schema import MAX_CATEGORIES, Feature, Schema
from guardrails.typing import Mask, Rows

_CONSTANT_TOLERANCE = 1e-6
"""Relative: 0.1 that came as a float32 is still 0.1."""


@dataclass(frozen=True, eq=False)
class Rules:
    """A schema, ready to be asked.

    Attributes:
        names: one for each column.
        low, high: bounds, shape ``(d,)``; infinite where there is none.
        categorical, whole, constant, may_miss: which columns are, shape ``(d,)``.
    """

    names: tuple[str, ...]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    categorical: Mask
    whole: Mask
    constant: Mask
    may_miss: Mask

    def __post_init__(self) -> None:
        lows = np.where(self.categorical, 0.0, self.low)
        highs = np.where(self.categorical, MAX_CATEGORIES, self.high)  # the code of an unseen one is infinite
        # Plain numbers: between two requests a NumPy call starts with cold caches, Python's own are always warm.
        bounds = (lows.tolist(), highs.tolist(), np.flatnonzero(self.whole).tolist())
        object.__setattr__(self, "_bounds", bounds)

    @classmethod
    def of(cls, schema: Schema, margin: float) -> Rules:
        """Compile a schema.

        Args:
            schema: the columns.
            margin: how far outside of a number's range is still taken, in widths of the range.
        """
        features = schema.features
        bounds = np.array([_bounds(feature, margin) for feature in features])
        return cls(
            schema.names,
            bounds[:, 0],
            bounds[:, 1],
            categorical=np.array([bool(feature.categories) for feature in features]),
            whole=np.array([feature.numeric != "number" for feature in features]),
            constant=np.array([feature.constant and not feature.categories for feature in features]),
            may_miss=np.array([feature.missing > 0 for feature in features]),
        )

    def admit(self, values: list[float]) -> bool:
        """Whether one row keeps all rules; False also where only `broken` can tell."""
        lows, highs, whole = self._bounds  # type: ignore[attr-defined]
        for low, value, high in zip(lows, values, highs, strict=True):
            if not low <= value <= high:
                return False
        return all(values[column].is_integer() for column in whole)

    def broken(self, matrix: Rows) -> Mask:
        """Which cells break a rule, shape ``(n, d)``."""
        broken = ~((matrix >= self.low) & (matrix <= self.high))  # NaN is in no range
        broken |= self.categorical & ~np.isfinite(matrix)
        broken |= self.whole & (np.floor(matrix) != matrix)
        broken &= ~(np.isnan(matrix) & self.may_miss)
        return broken

    def problem(self, column: int, value: float, row: int | None) -> Problem:
        """What is wrong with a cell that breaks a rule: names and rules, never the value."""
        name = self.names[column]
        if np.isnan(value):
            return Problem("missing", "a value", "none", field=name, row=row)
        if self.categorical[column]:
            return Problem("category", "a category known from training", "an unknown one", field=name, row=row)
        low, high = self.low[column], self.high[column]
        if low <= value <= high:
            return Problem("integer", "a whole number", "a fraction", field=name, row=row)
        found = "larger" if value > high else "smaller"
        if self.constant[column]:
            return Problem("constant", f"{(low + high) / 2:.6g}, which never varied", found, field=name, row=row)
        if np.isinf(low) or np.isinf(high):
            expected = f"{high:.6g} or less" if np.isinf(low) else f"{low:.6g} or more"
        else:
            expected = f"between {low:.4g} and {high:.4g}"
        return Problem("range", expected, found, field=name, row=row)


def _bounds(feature: Feature, margin: float) -> tuple[float, float]:
    if feature.categories:
        return -np.inf, np.inf
    low = -np.inf if feature.low is None else feature.low
    high = np.inf if feature.high is None else feature.high
    if feature.numeric == "boolean":
        return max(low, 0.0), min(high, 1.0)
    if feature.constant:
        slack = _CONSTANT_TOLERANCE * abs(low)
    else:
        slack = margin * (high - low) if np.isfinite(high - low) else 0.0
    return low - slack, high + slack
