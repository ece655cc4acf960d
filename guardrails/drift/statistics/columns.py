"""Two tables seen column by column: numbers as floats with NaN for missing, categories as they came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.core.payload import is_missing
from guardrails.errors import ProfileError
from guardrails.typing import Rows

Levels = dict[Hashable, int]
"""How many rows hold each value; missing values are counted under None."""


@dataclass(frozen=True, eq=False)
class Columns:
    """A table by columns.

    Attributes:
        names: as the data has them; ``feature_<i>`` where it has none.
        block: the whole table as one array, where it came as one.
        series: the columns one by one, where it did not.
        rows: how many.
    """

    names: tuple[str, ...]
    block: npt.NDArray[Any] | None
    series: tuple[npt.NDArray[Any], ...]
    rows: int

    def column(self, index: int) -> npt.NDArray[Any]:
        """One column as it came, shape ``(n,)``."""
        return self.series[index] if self.block is None else self.block[:, index]

    def numbers(self, chosen: Sequence[int]) -> Rows:
        """Some columns as floats, shape ``(n, k)``; missing values are NaN.

        Raises:
            ProfileError: a column holds what is no number.
        """
        if self.block is not None and self.block.dtype.kind in "biuf":
            whole = len(chosen) == self.block.shape[1]
            return np.asarray(self.block if whole else self.block[:, list(chosen)], dtype=np.float64)
        found = np.empty((self.rows, len(chosen)))
        for j, index in enumerate(chosen):
            found[:, j] = _floats(self.names[index], self.column(index))
        return found

    def levels(self, index: int) -> Levels:
        """How many rows hold each value of a column.

        Raises:
            ProfileError: it holds lists, mappings or other values that cannot be compared.
        """
        column = self.column(index)
        if column.dtype.kind in "biuf":
            values, counts = np.unique(column, return_counts=True)
            found = dict(zip(values.tolist(), counts.tolist(), strict=True))
            return _gathered(found)
        try:
            return _gathered(Counter(column.tolist()))
        except TypeError:
            raise ProfileError(
                f"column {self.names[index]!r} holds values that cannot be counted, like {column[0]!r}. Leave it out."
            ) from None

    def codes(self, index: int) -> npt.NDArray[np.int64]:
        """The values of a column numbered in the order in which they first occur, shape ``(n,)``."""
        known: dict[Hashable, int] = {}
        values = [None if is_missing(value) else value for value in self.column(index).tolist()]
        return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def read(X: Any) -> Columns:
    """See an array ``(n, d)``, a vector ``(n,)``, a Series or a DataFrame as columns.

    Raises:
        ProfileError: it has no rows or no columns, or one name twice.
    """
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        names = tuple(str(name) for name in X.columns)
        series = tuple(np.asarray(X.iloc[:, i]) for i in range(len(names)))
        if len(set(names)) != len(names):
            raise ProfileError(f"a column name occurs twice: {', '.join(names[:20])}.")
        block = None
    else:
        block = np.asarray(X) if hasattr(X, "dtype") else np.asarray(X, dtype=_kind(X))
        if block.ndim == 0:
            raise ProfileError(f"{X!r} is no table: give an array of shape (n, d) or a DataFrame.")
        block = block.reshape(len(block), -1) if len(block) else block.reshape(0, max(1, block.shape[-1]))
        name = getattr(X, "name", None)
        names = (str(name),) if name is not None else tuple(f"feature_{i}" for i in range(block.shape[1]))
        series = ()
    rows = len(X)
    if not rows or not names:
        raise ProfileError(f"there is nothing to compare in a table of {rows} rows and {len(names)} columns.")
    return Columns(names, block, series, rows)


def matched(window: Columns, names: tuple[str, ...]) -> Columns:
    """The columns of a window in the order of the reference's: by name where both have names, else by position.

    Raises:
        ProfileError: a column is missing, or there are more or fewer than in the reference.
    """
    if window.names == names:
        return window
    if window.block is None and (missing := [name for name in names if name not in window.names]):
        if len(missing) < len(names) or not all(name.startswith("feature_") for name in names):
            raise ProfileError(f"the window lacks the columns {', '.join(missing[:10])} of the reference.")
    elif window.block is None:
        where = [window.names.index(name) for name in names]
        return Columns(names, None, tuple(window.series[i] for i in where), window.rows)
    if len(window.names) != len(names):
        raise ProfileError(f"the window has {len(window.names)} columns, the reference {len(names)}.")
    return Columns(names, window.block, window.series, window.rows)


def positions(names: tuple[str, ...], categorical: Collection[str | int]) -> frozenset[int]:
    """Which columns are declared categories, by name or number.

    Raises:
        ProfileError: there is no such column.
    """
    if isinstance(categorical, str):
        categorical = [categorical]
    found = set()
    for entry in categorical:
        if entry in names:
            found.add(names.index(str(entry)))
        elif isinstance(entry, int | np.integer) and 0 <= entry < len(names):
            found.add(int(entry))
        else:
            raise ProfileError(f"categorical names {entry!r}, which is no column; there are {', '.join(names[:20])}.")
    return frozenset(found)


def is_numeric(column: npt.NDArray[Any]) -> bool:
    """Whether a column holds nothing but numbers and missing values."""
    return column.dtype.kind in "biuf" or (
        column.dtype.kind == "O" and all(isinstance(v, int | float | np.number) or is_missing(v) for v in column)
    )


def _kind(X: Any) -> Any:
    """NumPy would turn the numbers of a mixed list into text."""
    return object if np.asarray(X).dtype.kind in "US" else None


def _floats(name: str, column: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    try:
        return np.array([np.nan if is_missing(value) else _float(value) for value in column.tolist()])
    except (TypeError, ValueError):
        strange = next(v for v in column.tolist() if not is_missing(v) and not isinstance(v, int | float))
        raise ProfileError(
            f"column {name!r} holds {strange!r}, which is no number. Declare it: categorical=[{name!r}]."
        ) from None


def _float(value: Any) -> float:
    if isinstance(value, str | bytes):  # float("12") would pass for a number here, and "n/a" in the next row would not
        raise TypeError
    return float(value)


def _gathered(counts: dict[Any, int]) -> Levels:
    """Everything that stands for a missing value under one key."""
    missing = [value for value in counts if is_missing(value)]
    found = {value: count for value, count in counts.items() if not is_missing(value)} if missing else dict(counts)
    if missing:
        found[None] = sum(counts[value] for value in missing)
    return found
