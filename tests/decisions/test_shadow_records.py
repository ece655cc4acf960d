"""What shadow mode leaves in the store, and stores made before there was one."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from bentoml.exceptions import InvalidArgument, ServiceUnavailable
from sqlalchemy.schema import CreateIndex, CreateTable

import guardrails as gr
from guardrails.core.pipeline import attach
from guardrails.decisions import Decision
from guardrails.decisions.guard import Record
from guardrails.decisions.records import VERSION
from guardrails.decisions.stores.store import DECISIONS, REWARDS, DecisionStore
from guardrails.decisions.writer import DecisionLog

ORDINARY, OUTLIER = [0.1, 0.2], [6.0, -6.0]


def old_store(path: Path) -> str:
    """A store as version 1 made it, with two decisions and a reward in it."""
    metadata = sa.MetaData()
    columns = [column._copy() for column in DECISIONS.columns if column.name != "shadow"]
    decisions = sa.Table("decisions", metadata, *columns)
    rewards = REWARDS.to_metadata(metadata)
    columns_known = [column.name for column in columns]
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for table in (decisions, rewards):
            connection.execute(CreateTable(table))
            for index in table.indexes:
                connection.execute(CreateIndex(index))
        for number in range(2):
            row = {**Decision(f"old-{number}", float(number), "predict", "primary").row(), "v": 1}
            connection.execute(decisions.insert(), {name: row[name] for name in columns_known})
        connection.execute(rewards.insert(), {"decision_id": "old-1", "v": 1, "ts": 2.0, "reward": 0.5})
    engine.dispose()
    return f"sqlite:///{path}"


def row(name: str, **fields: Any) -> dict[str, Any]:
    return Decision(name, 5.0, "predict", "primary", **fields).row()


def columns_of(url: str) -> list[str]:
    engine = sa.create_engine(url)
    names = [column["name"] for column in sa.inspect(engine).get_columns("decisions")]
    engine.dispose()
    return names


def test_an_old_store_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its rows stay, its rewards stay joined, new rows say what their shadow was."""
    url = old_store(tmp_path / "d.db")
    assert "shadow" not in columns_of(url)
    store = DecisionStore(url)
    store.create()
    store.create()
    store.write("decision", [row("new", shadow="outlier:rejected"), row("plain")])
    assert {r["decision_id"]: (r["v"], r["shadow"]) for r in store.read()} == {
        "old-0": (1, None),
        "old-1": (1, None),
        "new": (VERSION, "outlier:rejected"),
        "plain": (VERSION, None),
    }
    assert [r["reward"] for r in store.joined() if r["decision_id"] == "old-1"] == [0.5]
    store.close()
    assert columns_of(url).count("shadow") == 1


def test_a_worker_on_an_old_store_loses_nothing(tmp_path: Path) -> None:
    """The log makes the store fit before it writes, whoever else has not."""
    url = old_store(tmp_path / "d.db")
    log = DecisionLog(DecisionStore(url))
    assert log(Decision("new", 5.0, "predict", "primary", shadow="error:fallback:spare"))
    assert log.flush(30.0)
    log.close()
    assert (log.written, log.dropped) == (1, 0)
    reader = DecisionStore(url)
    assert [r["shadow"] for r in reader.read()] == [None, None, "error:fallback:spare"]
    reader.close()


MIGRATE = """
import sys
import threading
from guardrails.decisions import Decision
from guardrails.decisions.stores.store import DecisionStore
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.create()
rows = [Decision(f"{sys.argv[2]}-{i}", 1.0, "p", "primary", shadow="outlier:rejected").row() for i in range(10)]
store.write("decision", rows)
store.close()
"""


@pytest.mark.parametrize("attempt", [0, *(pytest.param(i, marks=pytest.mark.full) for i in range(1, 8))])
def test_several_processes_migrate_at_once(tmp_path: Path, attempt: int) -> None:
    """Four workers find an old store at the same moment: all come up, and every row is there."""
    url = old_store(tmp_path / "d.db")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    store = DecisionStore(url)
    shadows = [r["shadow"] for r in store.read()]
    store.close()
    assert (shadows.count("outlier:rejected"), shadows.count(None)) == (40, 2)
    assert columns_of(url).count("shadow") == 1


def test_who_finds_the_column_added_meanwhile_goes_on(tmp_path: Path) -> None:
    """While it waits for its turn, somebody else has added it."""
    url = old_store(tmp_path / "d.db")
    other = sqlite3.connect(tmp_path / "d.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("ALTER TABLE decisions ADD COLUMN shadow TEXT")
    store = DecisionStore(url)
    threading.Timer(0.5, lambda: other.execute("COMMIT")).start()
    store.create()
    other.close()
    store.write("decision", [row("new", shadow="x")])
    assert len(store.read()) == 3
    assert columns_of(url).count("shadow") == 1
    store.close()


def test_an_old_store_can_be_read_before_a_worker_has_made_it_fit(tmp_path: Path) -> None:
    """Whoever only looks (a report, a notebook) need not write: there was no shadow then."""
    store = DecisionStore(old_store(tmp_path / "d.db"))
    assert [r.get("shadow") for r in store.read()] == [None, None]
    assert len(store.joined()) == 2
    store.close()


# From a call to its rows


class Second:
    """A policy without chance: the second action for everybody."""

    def pmf(self, scores: np.ndarray) -> np.ndarray:
        return np.eye(scores.shape[-1])[np.ones(scores.shape[:-1], dtype=int)]


def test_each_row_tells_its_own(tmp_path: Path, profile: gr.Profile) -> None:
    """Through the log into the store: of a batch, the flagged rows say by whom they would have been answered."""
    store = DecisionStore(f"sqlite:///{tmp_path}/d.db")
    log = DecisionLog(store)
    guard = gr.check_outliers(profile, fallback=lambda rows: rows, enforce=False)
    fn = attach(Record(log), guard(lambda rows: ["model"] * len(rows)))
    assert fn([ORDINARY, OUTLIER, ORDINARY]) == ["model"] * 3
    assert log.flush(30.0)
    said = {r["decision_id"].rpartition("/")[2]: (r["route"], r["reason"], r["shadow"]) for r in store.read()}
    assert said == {
        "0": ("primary", None, None),
        "1": ("primary", None, "outlier:fallback:<lambda>"),
        "2": ("primary", None, None),
    }
    assert all(r["outlier_p_value"] is not None for r in store.read())
    log.close()


def test_exploring_in_the_shadow_serves_the_models_choice_with_certainty() -> None:
    """Such a record must not weigh in retraining: greedy action, propensity one, not eligible; the draw is its shadow."""
    records: list[Decision] = []
    answer = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    fn = gr.explore(Second(), decisions=records.append, enforce=False)(lambda rows: answer)
    assert fn(np.zeros((2, 2))) is answer
    assert [(r.action, r.greedy, r.propensity, r.eligible, r.shadow) for r in records] == [
        (0, 0, 1.0, False, "explored:1"),
        (1, 1, 1.0, False, None),
    ]
    assert all(r.pmf is None for r in records)


def test_rows_that_went_elsewhere_are_not_in_anybodys_shadow(profile: gr.Profile) -> None:
    """One guard enforced, one not: the error of the model would have rescued only the rows it was asked for."""
    records: list[Decision] = []

    def sick(rows: Any) -> Any:
        raise ValueError("sick")

    fn = gr.check_outliers(profile, fallback=lambda rows: ["odd"] * len(rows))(sick)
    fn = attach(Record(records.append), gr.fall_back(to=gr.constant(["spare"]), enforce=False)(fn))
    with pytest.raises(ValueError, match="sick"):
        fn([OUTLIER, ORDINARY])
    assert [record.shadow for record in records] == [None, "error:fallback:constant"]


@pytest.mark.parametrize("on", [(Exception,), (ValueError,), (gr.Rejected,), (InvalidArgument,), (TimeoutError,)])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("sick"),
        TimeoutError("slow"),
        gr.BreakerOpen("of somebody behind it"),
        gr.Rejected("of a guarded method behind it", reason="outlier", decision_id="x"),
        InvalidArgument("bad"),
        ServiceUnavailable("down"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_same_errors_as_enforced(error: Exception, on: tuple[type[Exception], ...]) -> None:
    """Whatever the rule is by which `fall_back` rescues, its shadow goes by the same one."""
    said: list[str | None] = []
    for enforce in (False, True):
        records: list[Decision] = []

        def raising(rows: Any) -> Any:
            raise error

        fn = gr.fall_back(to=gr.constant(["spare"]), on=on, enforce=enforce)(raising)
        with contextlib.suppress(type(error)):
            attach(Record(records.append), fn)([ORDINARY])
        (record,) = records
        rescued = f"{record.reason}:{record.route}" if record.route != "primary" else None
        said.append(rescued if enforce else record.shadow)
    assert said[0] == said[1]
