"""Stores that earlier versions have made, to the letter: read as they are, brought up to date, never misread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from guardrails.decisions import Decision, Reward
from guardrails.decisions.records import VERSION
from guardrails.decisions.stores.schema import DECISIONS, REWARDS
from guardrails.decisions.stores.store import DecisionStore

# What versions 1 and 2 sent to the database.
_DECISIONS = """
CREATE TABLE decisions (decision_id VARCHAR(64) NOT NULL, v INTEGER NOT NULL, ts {float} NOT NULL,
api VARCHAR(200) NOT NULL, route VARCHAR(200) NOT NULL, reason VARCHAR(40), trace_id VARCHAR(32), profile VARCHAR(200),
model VARCHAR(200), outlier_score {float}, outlier_p_value {float}, duration {float}, policy VARCHAR(200),
eligible BOOLEAN NOT NULL, scores TEXT, pmf TEXT, greedy INTEGER, action INTEGER, propensity {float} NOT NULL,
salt_id VARCHAR(40), features TEXT, error_type VARCHAR(200){shadow}, PRIMARY KEY (decision_id))"""
_REWARDS = """
CREATE TABLE rewards (id {serial} NOT NULL, decision_id VARCHAR(64) NOT NULL, v INTEGER NOT NULL, ts {float} NOT NULL,
reward {float}, label TEXT, served_action INTEGER, PRIMARY KEY (id))"""
_INDEXES = (
    "CREATE INDEX ix_decisions_ts ON decisions (ts)",
    "CREATE INDEX ix_rewards_decision_id ON rewards (decision_id)",
)


def make_old(store: DecisionStore, version: int, count: int = 3) -> None:
    """A store of that version with decisions and rewards, some of these said twice."""
    sqlite = store.engine.dialect.name == "sqlite"
    types = {"float": "FLOAT" if sqlite else "FLOAT(53)", "serial": "INTEGER" if sqlite else "SERIAL"}
    with store.engine.begin() as connection:
        connection.exec_driver_sql(_DECISIONS.format(**types, shadow=", shadow TEXT" if version == 2 else ""))
        connection.exec_driver_sql(_REWARDS.format(**types))
        for index in _INDEXES:
            connection.exec_driver_sql(index)
        for number in range(count):
            connection.exec_driver_sql(
                "INSERT INTO decisions (decision_id, v, ts, api, route, policy, eligible, scores, pmf, greedy, action, "
                f"propensity) VALUES ('d{number}', {version}, {number}.5, 'predict', 'primary', "
                "'EpsilonGreedy(epsilon=0.1)', TRUE, '[0.1, 0.9]', '[0.05, 0.95]', 1, 0, 0.05)"
            )
            for _ in range(2):
                connection.exec_driver_sql(
                    "INSERT INTO rewards (decision_id, v, ts, reward, served_action) "
                    f"VALUES ('d{number}', {version}, {number}.75, 1.0, 0)"
                )


def names(store: DecisionStore, table: sa.Table) -> set[str]:
    """The columns a table has."""
    return {column["name"] for column in sa.inspect(store.engine).get_columns(table.name)}


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_store_is_read_without_being_touched(url: str, version: int, open_store: Callable) -> None:
    """A report needs no right to write; what there was not yet reads as what it means."""
    store = open_store(url)
    make_old(store, version)
    before = names(store, DECISIONS), names(store, REWARDS)
    rows, rewards = store.read(), store.read("reward")
    assert [(row["decision_id"], row["v"], row["propensity"]) for row in rows] == [
        (f"d{i}", version, 0.05) for i in range(3)
    ]
    for row in rows:
        assert set(row) == set(DECISIONS.columns.keys())
        assert (row["kind"], row["actions"], row["served"], row["ramp"], row["unit"], row["shadow"]) == (None,) * 6
        assert (row["strength"], bool(row["deferred"])) == (1.0, False)
    assert len(rewards) == 6
    assert {(bool(row["shown"]), row["name"], row["feedback_id"], row["served_action"]) for row in rewards} == {
        (False, None, None, 0)
    }
    assert len(store.joined()) == 6
    assert (names(store, DECISIONS), names(store, REWARDS)) == before


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_store_is_brought_up_to_date(url: str, version: int, open_store: Callable) -> None:
    """Its rows stay, also those said twice; new ones have all there is now, and feedback is one from here on."""
    store = open_store(url)
    make_old(store, version)
    store.create()
    store.create()
    assert (names(store, DECISIONS), names(store, REWARDS)) == (
        set(DECISIONS.columns.keys()),
        set(REWARDS.columns.keys()),
    )
    new = Decision(
        "new", 9.0, "p", "primary", policy="P" * 1000, kind="ranking", served=[2, 1], strength=0.5, deferred=True
    )
    assert store.write("decision", [new.row()]) == 1
    feedback = [
        Reward("d0", 9.0, served_action=[2, 1], reward=0.5, shown=True, slot=1, name="click", feedback_id="f").row()
    ]
    assert (store.write("reward", feedback), store.write("reward", feedback)) == (1, 0)
    rows = {row["decision_id"]: row for row in store.read()}
    assert {name: row["v"] for name, row in rows.items()} == {
        "d0": version,
        "d1": version,
        "d2": version,
        "new": VERSION,
    }
    assert (rows["new"]["served"], rows["new"]["strength"], bool(rows["new"]["deferred"])) == ("[2, 1]", 0.5, True)
    assert (rows["d0"]["strength"], bool(rows["d0"]["deferred"])) == (1.0, False)
    rewards = store.read("reward")
    assert len(rewards) == 7
    assert [bool(row["shown"]) for row in rewards] == [False] * 6 + [True]
    assert store.prune(1.0) == 11


OPEN = """
import sys
from guardrails.decisions import Decision
from guardrails.decisions.stores.store import DecisionStore
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.create()
store.write("decision", [Decision(f"{sys.argv[2]}-{i}", 9.0, "p", "primary", kind="choice").row() for i in range(20)])
store.close()
"""


def test_four_workers_of_a_new_version_start_on_an_old_store(url: str, open_store: Callable) -> None:
    """One of them changes it, all of them come up and write."""
    store = open_store(url)
    make_old(store, 1, count=200)
    command = [sys.executable, "-c", OPEN, url]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen([*command, str(i)], stdin=pipe, stdout=pipe, stderr=pipe, text=True) for i in range(4)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    assert len(store.read()) == 280
    assert len(store.read("reward")) == 400
