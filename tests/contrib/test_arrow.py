"""Logged decisions as Arrow and Parquet: every number comes back with all its digits."""

import builtins
import json
from dataclasses import replace

import numpy as np
import pytest

from guardrails.contrib import arrow as ours
from tests.contrib.logs import choices, rankings, values


@pytest.fixture
def pa():
    """pyarrow, where there is one that goes with this NumPy."""
    return pytest.importorskip("pyarrow", exc_type=ImportError)


def same(table, logged):
    """Whether what both have is the same."""
    assert table.num_rows == len(logged)
    assert table["decision_id"].to_pylist() == logged.decision_id
    for name in ("propensity", "reward", "strength", "eligible", "learnable", "overridden"):
        assert table[name].to_pylist() == getattr(logged, name).tolist(), name
    assert table["scores"].to_pylist() == [scores.tolist() for scores in logged.scores]
    assert [moment.timestamp() for moment in table["ts"].to_pylist()] == pytest.approx(logged.ts.tolist(), abs=1e-6)


def test_parquet_comes_back(pa, tmp_path):
    """Typed columns, written in several parts; probabilities are equal to the bit."""
    from pyarrow import parquet

    logged = choices(250)
    logged.overridden[7] = True
    path = tmp_path / "log.parquet"
    ours.write_parquet(logged, path, weights=True, chunk=100)
    assert parquet.ParquetFile(path).num_row_groups == 3
    table = parquet.read_table(path)
    same(table, logged)
    assert table["pmf"].to_pylist() == [pmf.tolist() for pmf in logged.pmf]
    assert table["action"].to_pylist() == logged.action.tolist()
    weight = table["weight"].to_pylist()
    assert weight[7] is None
    assert weight[:7] == (1 / logged.propensity[:7]).tolist()
    assert pa.types.is_float64(table.schema.field("pmf").type.value_type)
    assert table.schema.field("ts").type == pa.timestamp("us", tz="UTC")
    assert json.loads(table["features"].to_pylist()[0]) == logged.features[0]
    metadata = table.schema.metadata
    assert (metadata[b"guardrails.window"], metadata[b"guardrails.aggregate"]) == (b"3600.0", b"last")
    assert json.loads(metadata[b"guardrails.counts"])["joined"] == 250
    assert json.loads(metadata[b"guardrails.default"]) == 0.0


def test_arrow_files_and_tables_are_the_same(pa, tmp_path):
    """The table in memory, and the file."""
    logged = choices(120, features=[1.0, 2.5])
    ours.write_arrow(logged, tmp_path / "log.arrow", chunk=50)
    with pa.memory_map(str(tmp_path / "log.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.equals(ours.to_arrow(logged), check_metadata=True)
    assert table["features"].to_pylist() == [[1.0, 2.5]] * 120
    assert "weight" not in table.column_names


def test_rankings_and_values(pa):
    """Lists in order with the probabilities of their positions; values."""
    logged = rankings(20)
    table = ours.to_arrow(logged)
    same(table, logged)
    assert table["served"].to_pylist() == logged.served
    assert table["pmf"].to_pylist() == [pmf.tolist() for pmf in logged.pmf]
    assert table["slot_reward"].to_pylist() == [slots.tolist() for slots in logged.slot_reward]
    assert table["action"].null_count == 20
    assert ours.to_arrow(values(5))["served"].to_pylist() == values(5).served


@pytest.mark.parametrize(("names", "kind"), [([3, 1, 2], "int64"), (["a", 1, None], "string")])
def test_names_of_candidates(pa, names, kind):
    """Whole numbers stay numbers; anything else is text."""
    logged = choices(3)
    table = ours.to_arrow(replace(logged, actions=[names, None, names]))
    assert str(table.schema.field("actions").type.value_type) == kind
    assert table["actions"].to_pylist()[1] is None


def test_columns_of_a_file_are_read(pa, tmp_path):
    """Those that are there, of both kinds of file."""
    logged = choices(10)
    for name, write in (("log.parquet", ours.write_parquet), ("log.arrow", ours.write_arrow)):
        write(logged, tmp_path / name)
        found = ours.read_columns(tmp_path / name, ("decision_id", "pmf", "nothing"))
        assert sorted(found) == ["decision_id", "pmf"]
        assert np.array(found["pmf"]).tolist() == logged.stacked("pmf").tolist()


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModuleNotFoundError("No module named 'pyarrow'"), "this needs pyarrow"), (ImportError("NumPy 2"), "NumPy 2")],
)
def test_where_pyarrow_is_missing_the_extra_is_named(monkeypatch, error, said):
    """Or where it goes with another NumPy than this one."""
    real = builtins.__import__

    def without(name, *rest):
        if name == "pyarrow":
            raise error
        return real(name, *rest)

    logged = choices(2)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"{said}.*bento-guardrails\[parquet\]"):
        ours.to_arrow(logged)
