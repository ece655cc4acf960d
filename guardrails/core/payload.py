"""Rows in, answers out: read any payload as a matrix, take some of its rows, put answers back in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from guardrails.typing import Mask, Rows

Index: TypeAlias = npt.NDArray[np.intp]

_NUMERIC = "biuf"
_MISSING = (None, "")


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

    def detail(self) -> dict[str, Any]:
        """As it stands in the body of a 422."""
        known = {"row": self.row, "field": self.field}
        detail: dict[str, Any] = {key: value for key, value in known.items() if value is not None}
        return detail | {"rule": self.rule, "expected": self.expected, "found": self.found}


@dataclass(frozen=True, slots=True)
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
    if isinstance(payload, Mapping) or hasattr(payload, "model_dump"):
        return _from_records([payload], layout, single=True)
    if isinstance(payload, list | tuple):
        return _from_sequence(payload, layout)
    return _unreadable(layout, "an array, a list, a mapping or a DataFrame", _kind(payload))


def take(payload: Any, index: Index) -> Any:
    """The chosen rows of a payload, in a container of its own kind."""
    if isinstance(payload, np.ndarray):
        return payload[index]
    if _is_frame(payload):
        return payload.iloc[index]
    return type(payload)(payload[i] for i in index)


def counts_rows(value: Any, n: int) -> bool:
    """Whether a value goes row by row: an array, frame, list or tuple of ``n`` entries."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0 and len(value) == n
    return (isinstance(value, list | tuple) or _is_frame(value)) and len(value) == n


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
    answers = [answer for _, answer in parts]
    if all(isinstance(answer, np.ndarray) for answer in answers):
        return _merge_arrays(parts, n)
    if all(_is_frame(answer) for answer in answers):
        return _merge_frames(parts)
    merged: list[Any] = [None] * n
    for index, answer in parts:
        for position, entry in zip(index, answer, strict=True):
            merged[position] = entry
    return tuple(merged) if isinstance(answers[0], tuple) else merged


def _merge_arrays(parts: Sequence[tuple[Index, npt.NDArray[Any]]], n: int) -> npt.NDArray[Any]:
    shapes = {answer.shape[1:] for _, answer in parts}
    if len(shapes) > 1:
        raise NotByRowError(f"the answers have rows of different shapes: {sorted(shapes)}")
    merged = np.empty((n, *shapes.pop()), dtype=np.result_type(*(answer for _, answer in parts)))
    for index, answer in parts:
        merged[index] = answer
    return merged


def _merge_frames(parts: Sequence[tuple[Index, Any]]) -> Any:
    import pandas as pd

    order = np.concatenate([index for index, _ in parts])
    return pd.concat([answer for _, answer in parts]).iloc[np.argsort(order)]


def _is_frame(value: Any) -> bool:
    # Duck-typed: pandas is the user's, not ours to import.
    return hasattr(value, "iloc") and hasattr(value, "columns")


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return "null" if value is None else type(value).__name__


def _unreadable(layout: Layout, expected: str, found: str, rule: str = "rows") -> RowSet:
    return RowSet(np.full((1, layout.width), np.nan), single=True, problems=(Problem(rule, expected, found),))


def _from_array(payload: npt.NDArray[Any], layout: Layout) -> RowSet:
    width = layout.width
    if payload.ndim == 2 and payload.shape[1] == width and payload.shape[0]:
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
    with np.errstate(over="ignore"):  # a longdouble or int that a float64 cannot hold becomes inf: a verdict, not noise
        return RowSet(payload.reshape(-1, width).astype(np.float64, copy=False), single)


def _from_frame(payload: Any, layout: Layout) -> RowSet:
    columns = set(payload.columns)
    missing = tuple(Problem("field", "present", "missing", field=name) for name in layout.names if name not in columns)
    if missing:
        return RowSet(np.full((1, layout.width), np.nan), single=False, problems=missing)
    if not len(payload):
        return _unreadable(layout, f"rows of {layout.width} values", "no rows", "empty")
    return _from_cells(payload[list(layout.names)].to_numpy(dtype=object).tolist(), layout, single=False)


def _from_sequence(payload: Sequence[Any], layout: Layout) -> RowSet:
    if not payload:
        return _unreadable(layout, f"rows of {layout.width} values", "no rows", "empty")
    first = payload[0]
    if isinstance(first, Mapping) or hasattr(first, "model_dump"):
        return _from_records(payload, layout, single=False)
    if isinstance(first, list | tuple | np.ndarray):
        return _from_cells(payload, layout, single=False)
    if layout.width == 1 and len(payload) > 1:
        return _from_cells([[cell] for cell in payload], layout, single=False)
    return _from_cells([payload], layout, single=True)


def _from_records(payload: Sequence[Any], layout: Layout, *, single: bool) -> RowSet:
    cells: list[list[Any]] = []
    problems: list[Problem] = []
    for number, entry in enumerate(payload):
        record = entry.model_dump() if hasattr(entry, "model_dump") else entry
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
        elif np.size(row) != width:
            problems.append(Problem("width", f"{width} values", f"{np.size(row)} values", row=at))
        else:
            cells = row if np.ndim(row) == 1 or not isinstance(row, np.ndarray) else row.ravel()
            problems += _fill(matrix[number], cells, layout, at)
    return RowSet(matrix, single, tuple(problems))


def _fill(out: npt.NDArray[np.float64], cells: Any, layout: Layout, row: int | None) -> list[Problem]:
    if not layout.categories and all(type(cell) in (float, int) for cell in cells):
        try:
            out[:] = cells
        except OverflowError:  # an int beyond float64: as large as a float can say
            out[:] = [_number(cell) for cell in cells]
        return []
    problems = []
    for column, cell in enumerate(cells):
        codes = layout.categories.get(column)
        if codes is not None:
            out[column] = np.nan if cell in _MISSING else codes.get(cell, np.inf)
        elif cell is None:
            out[column] = np.nan
        elif isinstance(cell, int | float | np.number | np.bool_):
            out[column] = _number(cell)
        else:
            problems.append(Problem("type", "a number", _kind(cell), field=layout.names[column], row=row))
    return problems


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except OverflowError:
        return float("inf") if cell > 0 else float("-inf")
