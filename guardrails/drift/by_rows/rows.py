"""Rows to judge: those that decisions were stored with, and those of a reference file."""

from __future__ import annotations

import csv
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.core.payload import is_missing, read
from guardrails.errors import GuardrailsError, ProfileError
from guardrails.profile.profile import Profile
from guardrails.profile.schema import Schema
from guardrails.typing import Rows

_UNKNOWN = object()
"""A category that nobody knows."""
NOT_KEPT = "hold no row (install(features='store') keeps them)"
OTHER_PROFILE = "were judged by a profile that is not in the model store, so what their codes mean is not known"
MIXED = "were judged by another profile than the newest; --profile reads them all by one"
UNREADABLE = "hold a row that the profile cannot read"
OF_ONE_REQUEST = "are further rows of a request"


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows of stored decisions, oldest first.

    Attributes:
        matrix: shape ``(n, d)``; categories are codes, inf for an unseen one; missing values are NaN.
        ts: when each came, seconds since 1970 (UTC), shape ``(n,)``.
        names: of the columns.
        schema: of the profile they are read by; None where it is not known.
        skipped: decisions that are not among them, by the reason why.
    """

    matrix: Rows
    ts: npt.NDArray[np.float64]
    names: tuple[str, ...]
    schema: Schema | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def categorical(self) -> tuple[str, ...]:
        """The names of the columns that are categories."""
        return _categories(self.schema)


def stored_rows(
    records: Iterable[Mapping[str, Any]], profile: Profile | None = None, *, all_rows: bool = False
) -> StoredRows:
    """Read the rows that decisions were stored with.

    Args:
        records: rows of a decision store; a join that repeats decisions counts each once.
        profile: whose columns and codes to read them in; by default those of the profile that judged the newest.
        all_rows: take every row of a request that had several. They are seldom independent, as tests assume, so by
            default one of them is taken, by a hash of the request's id. (Those of a batch that BentoML put together
            are different clients'.)

    Example:
        >>> from guardrails.drift.by_rows.rows import stored_rows
        >>> kept = {"api": "predict", "profile": None, "features": "[1.5, 2.0]"}
        >>> found = stored_rows([{"decision_id": f"request/{i}", "ts": 0.0, **kept} for i in range(3)])
        >>> found.matrix.tolist(), found.skipped.total()
        ([[1.5, 2.0]], 2)
    """
    decisions = sorted({str(r["decision_id"]): r for r in records}.values(), key=lambda record: float(record["ts"]))
    newest = decisions[-1].get("profile") if decisions else None
    reader = _Reader(profile if profile is not None else _load(newest), newest)
    skipped: Counter[str] = Counter()
    found: list[tuple[Mapping[str, Any], npt.NDArray[np.float64]]] = []
    for record in decisions:
        row = reader.row(record)
        if isinstance(row, str):
            skipped[row] += 1
        else:
            found.append((record, row))
    widths = Counter(len(row) for _, row in found)
    if reader.schema is None and len(widths) > 1:
        raise GuardrailsError(f"the stored rows have {sorted(widths)} columns: name the method (--api) or the profile.")
    chosen = found if all_rows else _one_of_each(found)
    skipped[OF_ONE_REQUEST] += len(found) - len(chosen)
    width = len(chosen[0][1]) if chosen else 0
    return StoredRows(
        matrix=np.array([row for _, row in chosen]).reshape(len(chosen), width),
        ts=np.array([float(record["ts"]) for record, _ in chosen]),
        names=reader.schema.names if reader.schema is not None else tuple(f"feature_{i}" for i in range(width)),
        schema=reader.schema,
        skipped=+skipped,
    )


def _categories(schema: Schema | None) -> tuple[str, ...]:
    return () if schema is None else tuple(feature.name for feature in schema.features if feature.categories)


def _one_of_each(
    found: list[tuple[Mapping[str, Any], npt.NDArray[np.float64]]],
) -> list[tuple[Mapping[str, Any], npt.NDArray[np.float64]]]:
    """One row per request; not its first: clients put rows in order."""
    requests: dict[str, list[int]] = {}
    for position, (record, _) in enumerate(found):
        requests.setdefault(str(record["decision_id"]).partition("/")[0], []).append(position)
    return [found[rows[zlib.crc32(request.encode()) % len(rows)]] for request, rows in requests.items()]


def _load(tag: str | None) -> Profile | None:
    if tag is None:
        return None
    try:
        return Profile.load(tag)
    except ProfileError:  # never saved (its digest is all there is), or deleted
        return None


class _Reader:
    """Rows in the columns and codes of one profile, whichever profile they were stored by."""

    def __init__(self, profile: Profile | None, newest: str | None) -> None:
        self.schema = None if profile is None else profile.schema
        self._own = {newest} if profile is None else {profile.tag, profile.digest}
        self._others: dict[str, Schema | None] = {}

    def row(self, record: Mapping[str, Any]) -> npt.NDArray[np.float64] | str:
        """The row; or why there is none."""
        kept = _parsed(record.get("features"))
        if kept is None:
            return NOT_KEPT
        judge = record.get("profile")
        if self.schema is None:
            return MIXED if judge not in self._own else _numbers(kept)
        if judge in self._own - {None}:
            row = _numbers(kept)
            return row if not isinstance(row, str) and len(row) == len(self.schema.names) else UNREADABLE
        if judge is None:  # no guard had read it: it is there as it came
            return self._read(kept)
        theirs = self._schema_of(str(judge))
        if theirs is None:
            coded = bool(_categories(self.schema))
            return OTHER_PROFILE if coded else self._read(kept)
        return self._read(_decoded(kept, theirs)) if isinstance(kept, list) else UNREADABLE

    def _read(self, kept: Any) -> npt.NDArray[np.float64] | str:
        assert self.schema is not None  # noqa: S101  # its callers have looked
        rows = read(kept if isinstance(kept, Mapping) else [kept], self.schema.layout())
        return UNREADABLE if rows.problems or len(rows) != 1 else rows.matrix[0]

    def _schema_of(self, tag: str) -> Schema | None:
        if tag not in self._others:
            loaded = _load(tag)
            self._others[tag] = None if loaded is None else loaded.schema
        return self._others[tag]


def _parsed(kept: Any) -> Any:
    if isinstance(kept, np.ndarray):
        return kept.tolist()
    if not isinstance(kept, str):
        return kept if isinstance(kept, list | Mapping) else None
    try:
        values = json.loads(kept)
    except ValueError:  # a hash: all that is left of it
        return None
    return values if isinstance(values, list | dict) else None


def _numbers(kept: Any) -> npt.NDArray[np.float64] | str:
    try:
        row = np.array(kept, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        return UNREADABLE
    return row if len(row) else UNREADABLE


def _decoded(row: Sequence[Any], schema: Schema) -> dict[str, Any]:
    """What the client had sent, by name, out of the codes of a profile."""
    cells: dict[str, Any] = {}
    for value, feature in zip(row, schema.features, strict=False):
        if not feature.categories or is_missing(value):
            cells[feature.name] = value
        else:
            known = np.isfinite(value) and 0 <= int(value) < len(feature.categories)
            cells[feature.name] = feature.categories[int(value)] if known else _UNKNOWN
    return cells


def reference_rows(path: str | Path, schema: Schema | None = None) -> tuple[Rows, tuple[str, ...] | None]:
    """Read a reference from a file, and the names it has for its columns (None: it has none).

    Args:
        path: ``.npy``; ``.npz`` with one array, or one named ``X``, ``rows`` or ``reference``; or ``.csv``, whose first
            line may hold names. Arrays hold codes for categories, in the order of the columns; a CSV the categories
            themselves. Nothing is unpickled.
        schema: the columns to read a CSV by, which may be in another order there.

    Raises:
        GuardrailsError: it cannot be read, or lacks a column.
    """
    path = Path(path)
    try:
        if path.suffix == ".csv":
            return _from_csv(path, schema)
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                loaded = _only_array(loaded, path)
        return np.array(loaded, dtype=np.float64, ndmin=2), None
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise GuardrailsError(
            f"{path} cannot be read as a reference: {error}. It has to be .npy, .npz or .csv."
        ) from None


def _only_array(archive: Mapping[str, Any], path: Path) -> Any:
    names = list(archive)
    known = [name for name in ("X", "rows", "reference") if name in names]
    if len(names) != 1 and not known:
        raise GuardrailsError(f"{path} holds the arrays {', '.join(names)}; name the one to take X.")
    return archive[known[0] if known else names[0]]


def _from_csv(path: Path, schema: Schema | None) -> tuple[Rows, tuple[str, ...] | None]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    header = tuple(lines[0]) if lines and not all(_is_number(cell) for cell in lines[0]) else None
    body = lines[1:] if header is not None else lines
    if schema is None:
        return np.array([[_cell(cell, None) for cell in line] for line in body], dtype=np.float64), header
    names = schema.names if header is None else header
    absent = [name for name in schema.names if name not in names]
    if absent:
        raise GuardrailsError(
            f"{path} has no column {', '.join(absent[:10])}; its columns are {', '.join(names[:20])}."
        )
    codes = [{str(c): code for code, c in enumerate(feature.categories)} or None for feature in schema.features]
    at = [names.index(name) for name in schema.names]
    table = [[_cell(line[j], known) for j, known in zip(at, codes, strict=True)] for line in body]
    return np.array(table, dtype=np.float64), schema.names


def _cell(cell: str, codes: Mapping[str, int] | None) -> float:
    if cell.strip().lower() in ("", "nan", "na", "null", "none"):
        return np.nan
    return float(cell) if codes is None else float(codes.get(cell, np.inf))


def _is_number(cell: str) -> bool:
    try:
        _cell(cell, None)
    except ValueError:
        return False
    return True
