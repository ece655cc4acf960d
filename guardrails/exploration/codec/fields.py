"""Answers with fields (mappings, pydantic models) and without: read a field, write it into a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def has_fields(value: Any) -> bool:
    """Whether a value is a mapping or a pydantic model."""
    return isinstance(value, Mapping) or (hasattr(value, "model_copy") and not isinstance(value, type))


def field(value: Any, name: str) -> Any:
    """A field's value, None where there is none."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def first_field(value: Any, names: Sequence[str]) -> str | None:
    """The first of these names under which a value has something."""
    return next((name for name in names if field(value, name) is not None), None)


def with_fields(value: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with other values in some fields."""
    if not isinstance(value, Mapping):
        return value.model_copy(update=dict(changes))
    if not isinstance(value, dict):
        return {**value, **changes}
    other = copy.copy(value)  # also of a kind of its own: ordered, with defaults
    other.update(changes)
    return other


def with_row(rows: Any, row: int, entry: Any) -> Any:
    """A copy of a sequence or array with another row; an array that cannot hold it is one of a type that can."""
    if isinstance(rows, np.ndarray):
        kind = np.asarray(entry).dtype
        fits = np.can_cast(kind, rows.dtype)
        array = rows.copy() if fits else rows.astype(np.result_type(rows.dtype, kind))
        array[row] = entry
        return array
    copy = list(rows)
    copy[row] = entry
    return tuple(copy) if isinstance(rows, tuple) else copy


def as_array(model: npt.NDArray[Any], values: Sequence[Any]) -> npt.NDArray[Any]:
    """Values in an array of the kind that another is.

    Raises:
        ValueError: it would hold something else than these values: 7 as a text, a large number rounded.
    """
    if model.dtype == object:
        array = np.empty(len(values), dtype=object)
        for at, value in enumerate(values):
            array[at] = value
        return array
    array = np.array(values)
    if array.ndim != 1 or array.dtype.kind != model.dtype.kind or array.tolist() != list(values):
        raise ValueError(f"candidates of different kinds do not go into an array of {model.dtype}")
    return array


def by_row(value: Any) -> bool:
    """Whether a field's value goes by rows: a list, a tuple, or an array with an axis."""
    return type(value) in (list, tuple) or (type(value) is np.ndarray and value.ndim > 0)


def like(model: Any, values: Sequence[Any]) -> Any:
    """Values in a container of the kind that another is: array, list or tuple."""
    if isinstance(model, np.ndarray):
        array = as_array(model, values)
        return array.astype(model.dtype) if np.can_cast(array.dtype, model.dtype) else array
    return tuple(values) if isinstance(model, tuple) else list(values)


def is_number(value: Any) -> bool:
    """An integer that is neither a flag nor a name."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def refuse_unknown(answer: Any) -> None:
    """Refuse answers of which no copy with another row can be made that is still of their kind.

    Raises:
        ValueError: it is neither an array, a list or a tuple, nor has it fields: a data frame, a named tuple.
    """
    if type(answer) not in (np.ndarray, list, tuple) and not has_fields(answer) and np.ndim(answer) != 0:
        raise ValueError(
            f"an answer of type {type(answer).__name__} cannot be written back with another choice in it; "
            "tell explore(scores=..., apply=...) how to read and write it"
        )


def are_entries(answer: Any) -> bool:
    """Whether an answer is a sequence of answers with fields, one per row."""
    return isinstance(answer, list | tuple) and len(answer) > 0 and has_fields(answer[0])
