"""Logged decisions as an Arrow table, and as Parquet: what notebooks, warehouses and training jobs read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guardrails._version import __version__
from guardrails.decisions.joined.logged import Logged
from guardrails.decisions.joined.tabular import CHUNK, chunks, columns
from guardrails.decisions.records import VERSION

_LARGEST, _EXACT = 2**63, 2**53
"""Whole numbers beyond the first are no int64; beyond the second, not all of them are doubles."""

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]


def to_arrow(logged: Logged, *, weights: bool = False) -> pa.Table:
    """A table with one typed column for each of `Logged`; lists are ``list<double>``.

    ``features`` are ``list<double>`` where all rows are numbers, else JSON text. The schema's metadata tells how the
    decisions were joined (``guardrails.window``, ``.default``, ``.aggregate``, ``.name``, ``.counts``) and the versions
    of the library and of the records.

    Args:
        logged: decisions with their rewards.
        weights: whether to add ``weight``, ``1 / propensity``; null where nothing may be learned.

    Raises:
        ImportError: pyarrow is missing.

    Example:
        >>> from guardrails.decisions.joined.join import join
        >>> decision = {"decision_id": "d1", "ts": 0.0, "policy": "EpsilonGreedy(epsilon=0.5)", "eligible": True,
        ...             "pmf": "[0.75, 0.25]", "greedy": 0, "action": 1, "propensity": 0.25}
        >>> table = to_arrow(join([decision], [], window="1h", now=3600.0), weights=True)  # doctest: +SKIP
        >>> table["weight"].to_pylist(), table.schema.metadata[b"guardrails.window"]  # doctest: +SKIP
        ([4.0], b'3600.0')
    """
    arrow = _pyarrow()
    return _table(arrow, logged, _schema(arrow, logged, weights), weights)


def write_parquet(logged: Logged, path: str | Path, *, weights: bool = False, chunk: int = CHUNK) -> None:
    """Write the table of `to_arrow`, one row group for each ``chunk`` decisions.

    Args:
        logged: decisions with their rewards.
        path: the file; what is there is overwritten.
        weights: as in `to_arrow`.
        chunk: how many decisions are made ready at once.

    Raises:
        ImportError: pyarrow is missing.
        OSError: the file cannot be written.
    """
    arrow = _pyarrow()
    from pyarrow import parquet

    schema = _schema(arrow, logged, weights)
    with parquet.ParquetWriter(str(path), schema) as writer:
        for part in chunks(logged, chunk):
            writer.write_table(_table(arrow, part, schema, weights))


def write_arrow(logged: Logged, path: str | Path, *, weights: bool = False, chunk: int = CHUNK) -> None:
    """Write the table of `to_arrow` as an Arrow IPC file (Feather 2); arguments and errors as `write_parquet`."""
    arrow = _pyarrow()
    schema = _schema(arrow, logged, weights)
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, schema) as writer:
        for part in chunks(logged, chunk):
            writer.write_table(_table(arrow, part, schema, weights))


def read_columns(path: str | Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Those of the named columns that a Parquet or Arrow file has, as Python's own values.

    Raises:
        ImportError: pyarrow is missing.
        OSError: there is no such file.
        ValueError: it is none.
    """
    arrow = _pyarrow()
    if Path(path).suffix == ".parquet":
        from pyarrow import parquet

        there = [name for name in names if name in parquet.read_schema(str(path)).names]
        return dict(parquet.read_table(str(path), columns=there).to_pydict())
    with arrow.memory_map(str(path)) as file:
        table = arrow.ipc.open_file(file).read_all()
    return dict(table.select([name for name in names if name in table.column_names]).to_pydict())


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ImportError('this needs pyarrow: pip install "bento-guardrails[parquet]".') from error
    except ImportError as error:  # it is there, and goes with another NumPy
        raise ImportError(
            f'pyarrow cannot be used here ({error}): pip install "bento-guardrails[parquet]" with a version of it that '
            f"goes with NumPy {np.__version__}."
        ) from error
    return pa


def _table(arrow: Any, logged: Logged, schema: Any, weights: bool) -> Any:
    values = columns(logged, weights=weights)
    values["ts"] = (logged.ts * 1e6).round().astype(np.int64).tolist()
    if arrow.types.is_string(schema.field("features").type):
        values["features"] = [None if row is None else _json(row) for row in logged.features]
    if arrow.types.is_string(schema.field("actions").type.value_type):
        values["actions"] = [
            None if names is None else [_utf8(str(name)) for name in names] for names in logged.actions
        ]
    arrays = [arrow.array(values[field.name], type=field.type) for field in schema]
    return arrow.Table.from_arrays(arrays, schema=schema)


def _schema(arrow: Any, logged: Logged, weights: bool) -> Any:
    """The types, from all decisions: a part of them has the same."""
    numbers = arrow.list_(arrow.float64())
    text, flag, whole, real = arrow.string(), arrow.bool_(), arrow.int64(), arrow.float64()
    ranking = logged.kind == "ranking"
    types = {
        "decision_id": text,
        "ts": arrow.timestamp("us", tz="UTC"),
        "api": text,
        "kind": text,
        "policy": text,
        "model": text,
        "unit": text,
        "cluster": text,
        "eligible": flag,
        "ineligible": text,
        "learnable": flag,
        "actions": arrow.list_(whole if _are_whole(logged) else text),
        "excluded": arrow.list_(whole),
        "scores": numbers,
        "pmf": arrow.list_(numbers) if ranking else numbers,
        "greedy": whole,
        "action": whole,
        "served": arrow.list_(whole) if ranking else real,
        "propensity": real,
        "strength": real,
        "differs": flag,
        "overridden": flag,
        "reward": real,
        "rewarded": flag,
        "label": text,
        "features": numbers if _are_rows(logged.features) else text,
    }
    if logged.slot_reward is not None:
        types["slot_reward"] = numbers
    if weights:
        types["weight"] = real
    return arrow.schema(list(types.items()), metadata=_metadata(logged))


def _metadata(logged: Logged) -> dict[str, str]:
    told = {
        "version": __version__,
        "records": VERSION,
        "window": logged.window,
        "default": json.dumps(logged.default),
        "aggregate": logged.aggregate,
        "name": json.dumps(logged.name),
        "counts": json.dumps(asdict(logged.counts)),
    }
    return {f"guardrails.{name}": str(value) for name, value in told.items()}


def _are_whole(logged: Logged) -> bool:
    names = (name for listed in logged.actions if listed is not None for name in listed)
    return all(isinstance(name, int) and not isinstance(name, bool) and -_LARGEST <= name < _LARGEST for name in names)


def _are_rows(features: list[Any]) -> bool:
    """Whether all are lists of numbers (or missing)."""
    rows = [row for row in features if row is not None]
    return bool(rows) and all(
        isinstance(row, list) and all(isinstance(value, int | float | None) for value in row) and _is_exact(row)
        for row in rows
    )


def _is_exact(row: list[Any]) -> bool:
    """Whether a double holds each number as it is."""
    return all(not isinstance(value, int) or -_EXACT <= value <= _EXACT for value in row)


def _json(value: Any) -> str:
    return _utf8(value) if isinstance(value, str) else json.dumps(value)


def _utf8(text: str) -> str:
    """Text without lone surrogates, which JSON may bring and nobody can write."""
    return text.encode("utf-8", "backslashreplace").decode()
