"""Rows in, answers out: read any payload as a matrix, take some of its rows, put answers back in their order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from guardrails.typing import Mask, Rows

Index: TypeAlias = npt.NDArray[np.intp]

_NUMERIC = "biuf"
_FLOAT64 = 8
_MATRIX = 2


@dataclass(frozen=True)
class Layout:
    """How a row is read: the profile's columns.

    Attributes:
        names: one name per column.
        categories: column index to (category to code), for columns that are not numbers.
    """

    names: tuple[str, ...]
    categories: Mapping[int, Mapping[Any, int]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """How many columns a row has."""
        return len(self.names)


@dataclass(frozen=True)
class Problem:
    """Why a payload, or one of its rows, is no row of this profile. Names kinds and rules, never the values."""

    rule: str
    expected: str
    found: str
    field: str | None = None
    row: int | None = None
    features: Mapping[str, float] | None = None

    def detail(self) -> dict[str, Any]:
        """As it stands in the body of a 422; ``features`` are names with their shares of what was wrong."""
        known = {"row": self.row, "field": self.field}
        detail: dict[str, Any] = {key: value for key, value in known.items() if value is not None}
        detail |= {"rule": self.rule, "expected": self.expected, "found": self.found}
        return detail | {"features": dict(self.features)} if self.features else detail


@dataclass(eq=False)
class RowSet:
    """A payload read as rows.

    Attributes:
        matrix: shape ``(n, d)``; categories are their codes, inf for an unseen one; missing values are NaN.
        single: the payload is one row without a row axis, so its answer has none either.
        problems: why the payload (``row`` is None) or single rows of it cannot be read.
    """

    matrix: Rows
    single: bool
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.matrix)

    @cached_property
    def values(self) -> list[float]:
        """The first row as plain numbers."""
        numbers: list[float] = self.matrix[0].tolist()
        return numbers

    def rows_with_problems(self) -> Mask | None:
        """Which rows have problems, shape ``(n,)``; None where the payload as a whole has one."""
        mask = np.zeros(len(self.matrix), dtype=bool)
        for problem in self.problems:
            if problem.row is None:
                return None
            mask[problem.row] = True
        return mask


def read(payload: Any, layout: Layout) -> RowSet:
    """Read a payload as rows of the profile.

    Args:
        payload: an array ``(d,)`` or ``(n, d)`` (or of images whose trailing axes hold ``d`` values), a list of
            numbers or of rows, a mapping or pydantic model of one row, a list of these, or a DataFrame.
        layout: the profile's columns.

    Returns:
        The rows; what cannot be read is NaN in the matrix and named in ``problems``. Never raises on bad data.
    """
    if isinstance(payload, np.ndarray):
        return _from_array(payload, layout)
    if _is_frame(payload):
        return _from_frame(payload, layout)
    if isinstance(payload, Mapping) or _is_model(payload):
        return _from_records([payload], layout, single=True)
    if isinstance(payload, list | tuple):
        return _from_sequence(payload, layout)
    return _unreadable(layout, "an array, a list, a mapping or a DataFrame", _kind(payload))


def take(payload: Any, index: Index) -> Any:
    """The chosen rows of a payload, in a container of its own kind."""
    if isinstance(payload, np.ndarray):
        return payload[index]
    if _is_pandas(payload):
        return payload.iloc[index]
    chosen = [payload[i] for i in index]
    return tuple(chosen) if isinstance(payload, tuple) else chosen


def counts_rows(value: Any, n: int) -> bool:
    """Whether a value goes row by row: an array, frame, list or tuple of ``n`` entries."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0 and len(value) == n
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return False  # a named tuple is one thing with several fields
    return (isinstance(value, list | tuple) or _is_pandas(value)) and len(value) == n


def count_rows(payload: Any) -> int:
    """How many rows a payload seems to have, for guards without a profile to read it by."""
    if isinstance(payload, np.ndarray):
        return len(payload) if payload.ndim >= _MATRIX else 1
    if _is_frame(payload):
        return len(payload)
    if isinstance(payload, list | tuple) and payload:
        first = payload[0]
        return len(payload) if isinstance(first, list | tuple | Mapping | np.ndarray) or _is_model(first) else 1
    return 1


def one_row(payload: Any, row: int) -> Any:
    """One row of a payload in plain values, for somebody who has no profile to read it by."""
    if _is_frame(payload):
        return {str(name): value for name, value in payload.iloc[row].items()}
    if isinstance(payload, np.ndarray):
        return (payload[row] if payload.ndim >= _MATRIX else payload).ravel().copy()
    if isinstance(payload, list | tuple) and payload and count_rows(payload) == len(payload) and len(payload) > row:
        plain = isinstance(payload[0], list | tuple | Mapping | np.ndarray) or _is_model(payload[0])
        payload = payload[row] if plain else payload
    return payload.model_dump(mode="json") if _is_model(payload) else payload


class NotByRowError(Exception):
    """The answers do not go row by row, so a mixed request cannot be put together again."""


def merge(parts: Sequence[tuple[Index, Any]], n: int) -> Any:
    """Put the answers of several groups of rows back in the order of the request.

    Args:
        parts: row numbers and the answer for these rows; together the row numbers are ``0 .. n - 1``.
        n: how many rows the request has.

    Raises:
        NotByRowError: an answer does not have one entry per row, or the answers are of different kinds.
    """
    for index, answer in parts:
        if not counts_rows(answer, len(index)):
            raise NotByRowError(
                f"{len(index)} rows were answered with {_kind(answer)}, which has not one entry per row"
            )
    try:
        return _merged(parts, n)
    except (ValueError, TypeError) as error:  # ragged lists beside arrays, and whatever else does not go together
        raise NotByRowError(f"the answers cannot be put together: {error}") from error


def _merged(parts: Sequence[tuple[Index, Any]], n: int) -> Any:
    answers = [answer for _, answer in parts]
    if all(isinstance(answer, np.ndarray) for answer in answers):
        return _merge_arrays(parts, n)
    if isinstance(answers[0], np.ndarray) and all(isinstance(answer, np.ndarray | list | tuple) for answer in answers):
        return _merge_arrays([(index, np.asarray(answer)) for index, answer in parts], n)
    if any(_is_pandas(answer) for answer in answers):
        return _merge_pandas(parts)
    merged: list[Any] = [None] * n
    for index, answer in parts:
        for position, entry in zip(index, answer, strict=True):
            merged[position] = entry
    return tuple(merged) if isinstance(answers[0], tuple) else merged


def _merge_arrays(parts: Sequence[tuple[Index, npt.NDArray[Any]]], n: int) -> npt.NDArray[Any]:
    shapes = {answer.shape[1:] for _, answer in parts}
    kinds = {"n" if answer.dtype.kind in _NUMERIC else answer.dtype.kind for _, answer in parts}
    if len(shapes) > 1 or (len(kinds) > 1 and kinds - {"n", "U", "O", "S"}):
        raise NotByRowError(
            f"the answers differ: {[_kind(answer) + ' of ' + str(answer.dtype) for _, answer in parts]}"
        )
    # Numbers next to words stay numbers: NumPy would promote them to words.
    dtype = np.result_type(*(answer for _, answer in parts)) if len(kinds) == 1 else np.dtype(object)
    merged = np.empty((n, *shapes.pop()), dtype=dtype)
    for index, answer in parts:
        merged[index] = answer
    return merged


def _merge_pandas(parts: Sequence[tuple[Index, Any]]) -> Any:
    import pandas as pd

    answers = [answer for _, answer in parts]
    if len({type(answer) for answer in answers}) > 1:
        raise NotByRowError(f"the answers differ: {[_kind(answer) for answer in answers]}")
    order = np.concatenate([index for index, _ in parts])
    return pd.concat(answers).iloc[np.argsort(order)]


def _is_frame(value: Any) -> bool:
    return _is_pandas(value) and hasattr(value, "columns")


def _is_pandas(value: Any) -> bool:
    # Duck-typed: pandas is the user's, not ours to import.
    return hasattr(value, "iloc") and hasattr(value, "index")


def _is_model(value: Any) -> bool:
    return hasattr(value, "model_dump") and not isinstance(value, type)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return "null" if value is None else type(value).__name__


def _unreadable(layout: Layout, expected: str, found: str, rule: str = "rows") -> RowSet:
    return RowSet(np.full((1, layout.width), np.nan), single=True, problems=(Problem(rule, expected, found),))


def _from_array(payload: npt.NDArray[Any], layout: Layout) -> RowSet:
    width = layout.width
    if payload.ndim == _MATRIX and payload.shape[1] == width and payload.shape[0]:
        single = False
    elif payload.size == 0:
        return _unreadable(layout, f"rows of {width} values", "no rows", "empty")
    elif payload.ndim and payload.size == payload.shape[0] * width:
        single = False
    elif payload.size == width:
        single = True
    else:
        return _unreadable(layout, f"rows of {width} values", f"an array of shape {payload.shape}", "width")
    if payload.dtype.kind not in _NUMERIC or layout.categories:
        return _from_cells(payload.reshape(-1, width).tolist(), layout, single=single)
    matrix = payload.reshape(-1, width)
    if matrix.dtype.kind == "f" and matrix.dtype.itemsize > _FLOAT64:
        with np.errstate(over="ignore"):  # what a float64 cannot hold becomes inf: a verdict, not noise
            return RowSet(matrix.astype(np.float64), single)
    # A copy, always: a method that scales its input in place must not change what is recorded and counted later.
    return RowSet(np.array(matrix, dtype=np.float64), single)


def _from_frame(payload: Any, layout: Layout) -> RowSet:
    columns = set(payload.columns)
    missing = tuple(Problem("field", "present", "missing", field=name) for name in layout.names if name not in columns)
    if missing:
        return RowSet(np.full((1, layout.width), np.nan), single=False, problems=missing)
    if not len(payload):
        return _unreadable(layout, f"rows of {layout.width} values", "no rows", "empty")
    chosen = payload[list(layout.names)]
    if not layout.categories and all(getattr(kind, "kind", "O") in _NUMERIC for kind in chosen.dtypes):
        try:
            return RowSet(np.array(chosen.to_numpy(dtype=np.float64, na_value=np.nan)), single=False)
        except (TypeError, ValueError):  # pandas' own types may say they are numbers and hold what is none
            pass
    return _from_cells(chosen.to_numpy(dtype=object).tolist(), layout, single=False)


def _from_sequence(payload: Sequence[Any], layout: Layout) -> RowSet:
    if not payload:
        return _unreadable(layout, f"rows of {layout.width} values", "no rows", "empty")
    first = payload[0]
    plain = _plain_numbers(payload) if not layout.categories and isinstance(first, list | float | int) else None
    if plain is not None:
        return _from_array(plain, layout)
    if isinstance(first, Mapping) or _is_model(first):
        return _from_records(payload, layout, single=False)
    if isinstance(first, list | tuple | np.ndarray):
        return _from_cells(payload, layout, single=False)
    if layout.width == 1 and len(payload) > 1:
        return _from_cells([[cell] for cell in payload], layout, single=False)
    return _from_cells([payload], layout, single=True)


def _plain_numbers(payload: Sequence[Any]) -> npt.NDArray[Any] | None:
    """A list of numbers or of rows of numbers as an array, at once; None where it is anything else."""
    try:
        array = np.array(payload)
    except (ValueError, TypeError, OverflowError):  # ragged, or of things NumPy cannot put together
        return None
    # Not dtype=float64: NumPy would read the text "1.5" as a number, which it is not.
    return array if array.dtype.kind in _NUMERIC and array.size else None


def _from_records(payload: Sequence[Any], layout: Layout, *, single: bool) -> RowSet:
    cells: list[list[Any]] = []
    problems: list[Problem] = []
    for number, entry in enumerate(payload):
        record = {name: getattr(entry, name) for name in type(entry).model_fields} if _is_model(entry) else entry
        if not isinstance(record, Mapping):
            problems.append(Problem("row", "an object of named values", _kind(record), row=None if single else number))
            record = {}
        else:
            problems += [
                Problem("field", "present", "missing", field=name, row=None if single else number)
                for name in layout.names
                if name not in record
            ]
        cells.append([record.get(name) for name in layout.names])
    rows = _from_cells(cells, layout, single=single)
    return RowSet(rows.matrix, single, (*problems, *rows.problems))


def _from_cells(rows: Sequence[Any], layout: Layout, *, single: bool) -> RowSet:
    """The general, slower way: cell by cell where a whole row is not plainly numeric."""
    width = layout.width
    matrix = np.full((len(rows), width), np.nan)
    problems: list[Problem] = []
    for number, row in enumerate(rows):
        at = None if single else number
        if not isinstance(row, list | tuple | np.ndarray):
            problems.append(Problem("row", f"{width} values", _kind(row), row=at))
            continue
        cells = _flat(row) if not layout.categories else list(row)
        if len(cells) != width:
            problems.append(Problem("width", f"{width} values", f"{len(cells)} values", row=at))
        else:
            problems += _fill(matrix[number], cells, layout, at)
    return RowSet(matrix, single, tuple(problems))


def _flat(row: Sequence[Any] | npt.NDArray[Any]) -> list[Any]:
    """The cells of a row; of an image, which is lists within a list, those of all its lines."""
    if isinstance(row, np.ndarray):
        return list(row.ravel().tolist())
    if row and all(isinstance(cell, list | tuple) for cell in row):
        return [cell for line in row for cell in _flat(line)]
    return list(row)


def _fill(out: npt.NDArray[np.float64], cells: list[Any], layout: Layout, row: int | None) -> list[Problem]:
    if not layout.categories and all(type(cell) in (float, int) for cell in cells):
        try:
            out[:] = cells
        except OverflowError:  # an int beyond float64: as large as a float can say
            out[:] = [_number(cell) for cell in cells]
        return []
    problems = []
    for column, cell in enumerate(cells):
        codes = layout.categories.get(column)
        if is_missing(cell) and not (codes is None and isinstance(cell, str)):
            out[column] = np.nan
        elif codes is not None:
            out[column] = _code(cell, codes)
        elif isinstance(cell, int | float | np.number | np.bool_) and not isinstance(cell, complex):
            out[column] = _number(cell)
        else:
            problems.append(Problem("type", "a number", _kind(cell), field=layout.names[column], row=row))
    return problems


def is_missing(cell: Any) -> bool:
    """None, an empty text, NaN, and pandas' own two ways of saying so."""
    if cell is None or (isinstance(cell, str) and cell == ""):
        return True
    return (isinstance(cell, float) and math.isnan(cell)) or type(cell).__name__ in ("NAType", "NaTType")


def _code(cell: Any, codes: Mapping[Any, int]) -> float:
    try:
        return codes.get(cell, np.inf)
    except TypeError:  # a list, a mapping: nothing that could have been a category
        return np.inf


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except OverflowError:
        return float("inf") if cell > 0 else float("-inf")
