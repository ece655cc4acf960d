"""What names an input: its content, whatever object carries it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, date, time, timedelta, Decimal, UUID, Enum)
"""What is equal to itself only; pandas' own dates and times are dates and times."""


class NoContentError(Exception):
    """An object that says nothing of what it holds: two of them are never the same input."""


def fingerprint(value: Any) -> Hashable:
    """A key that two inputs share just when their content is the same.

    Args:
        value: numbers, texts, arrays, DataFrames, pydantic models, and lists and mappings of these.

    Raises:
        NoContentError: it holds something else.
    """
    if isinstance(value, _PLAIN):
        return type(value).__name__, repr(value) if isinstance(value, float | complex) else value
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return value.shape, fingerprint(value.ravel().tolist())
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, np.generic):
        return value.dtype.str, value.tobytes()
    if isinstance(value, list) and value and type(value[0]) in (float, int):
        numbers = np.array(value)  # thirty numbers at once, not one by one
        if numbers.dtype.kind in "if" and not any(type(entry) is bool for entry in value):
            return "numbers", numbers.dtype.str, numbers.tobytes()
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(fingerprint(entry) for entry in value)
    if isinstance(value, Mapping):
        return "mapping", frozenset((fingerprint(key), fingerprint(entry)) for key, entry in value.items())
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return type(value).__qualname__, fingerprint(value.model_dump())
    if hasattr(value, "iloc"):  # a DataFrame or a Series: where its rows came from does not matter
        columns = tuple(map(str, getattr(value, "columns", ())))
        return columns, fingerprint(value.to_numpy(dtype=object))
    raise NoContentError(type(value).__qualname__)
