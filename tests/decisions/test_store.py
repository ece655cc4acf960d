"""The store, in SQLite and in a real PostgreSQL: made once by many, written, read and joined."""

import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa

from guardrails.decisions import Decision, Reward
from guardrails.decisions.records import VERSION
from guardrails.decisions.stores.store import DecisionStore
from guardrails.errors import DecisionStoreError


def rows(*ids, **fields):
    """Rows of decisions."""
    return [Decision(name, float(ts), "predict", "primary", **fields).row() for ts, name in enumerate(ids)]


OPEN = """
import sys, time
from guardrails.decisions import Decision
from guardrails.decisions.stores.store import DecisionStore
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.create()
store.write("decision", [Decision(f"{sys.argv[2]}-{i}", 1.0, "p", "primary").row() for i in range(20)])
store.close()
"""


@pytest.mark.parametrize("attempt", [0, *(pytest.param(i, marks=pytest.mark.full) for i in range(1, 8))])
def test_several_processes_set_up_an_empty_database_at_once(url, attempt):
    """Four workers start together on nothing at all: all come up, and all their rows are there."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url, str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    store = DecisionStore(url)
    assert len(store.read()) == 80
    store.close()


def test_setting_up_again_changes_nothing(store):
    """Every worker does it, at every start."""
    store.write("decision", rows("a"))
    store.create()
    store.create()
    assert [row["decision_id"] for row in store.read()] == ["a"]


def test_sqlite_is_durable_and_lets_readers_read(tmp_path, open_store):
    """WAL, synchronous FULL, and a wait for whoever writes, on every connection."""
    store = open_store(f"sqlite:///{tmp_path}/d.db")
    for _ in range(3):
        with store.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000


def test_what_is_written_is_read_oldest_first(store):
    """In the order of their times."""
    store.write("decision", rows("a", "b", "c")[::-1])
    assert [row["decision_id"] for row in store.read()] == ["a", "b", "c"]
    assert store.knows("a")
    assert not store.knows("z")


def test_a_decision_that_is_there_is_passed_over(store):
    """The first one counts: also twice in one batch, also beside new ones."""
    store.write("decision", rows("a", action=1))
    store.write("decision", [*rows("a", action=2), *rows("b", "b", action=3)])
    assert {row["decision_id"]: row["action"] for row in store.read()} == {"a": 1, "b": 3}


def test_rewards_are_many(store):
    """As many as arrive, also for a decision nobody knows."""
    store.write(
        "reward",
        [Reward("a", 1.0, reward=1.0).row(), Reward("a", 2.0, reward=0.0).row(), Reward("?", 3.0, reward=5.0).row()],
    )
    assert [row["reward"] for row in store.read("reward")] == [1.0, 0.0, 5.0]


def test_joined_has_each_decision_with_each_of_its_rewards(store):
    """None for a decision without; nothing for a reward without a decision."""
    store.write("decision", rows("a", "b", "c", propensity=0.25))
    store.write(
        "reward",
        [
            Reward("a", 10.0, reward=1.0).row(),
            Reward("c", 11.0, label="x", served_action=2).row(),
            Reward("c", 12.0, reward=0.5).row(),
            Reward("?", 13.0, reward=9.0).row(),
        ],
    )
    joined = [(r["decision_id"], r["reward"], r["label"], r["served_action"], r["rewarded_at"]) for r in store.joined()]
    assert sorted(joined, key=str) == sorted(
        [
            ("a", 1.0, None, None, 10.0),
            ("b", None, None, None, None),
            ("c", None, '"x"', 2, 11.0),
            ("c", 0.5, None, None, 12.0),
        ],
        key=str,
    )
    assert {row["propensity"] for row in store.joined()} == {0.25}


def test_a_batch_is_one_transaction(store):
    """A row that cannot be written takes its batch with it, and nothing is half done."""
    with pytest.raises(sa.exc.SQLAlchemyError):
        store.write("decision", [*rows("a"), {**rows("b")[0], "api": None}])
    assert store.read() == []


def test_a_later_schema_is_refused(store):
    """Records this version would misread."""
    store.write("decision", [{**rows("a")[0], "v": VERSION + 1}])
    with pytest.raises(DecisionStoreError, match=f"version {VERSION + 1}.*pip install -U"):
        store.create()
    with pytest.raises(DecisionStoreError, match=f"version {VERSION + 1}"):
        store.read()


@pytest.mark.parametrize("url", ["nonsense", "", "nodb:///x", "sqlite:/x", "mongodb://h/x"])
def test_what_is_no_database_url_is_refused(url):
    """With an example of one that is."""
    with pytest.raises(DecisionStoreError, match=r"sqlite:///decisions.db"):
        DecisionStore(url)


def test_a_password_is_not_shown():
    """The URL is printed in logs and on the status page."""
    pytest.importorskip("psycopg")
    assert "secret" not in DecisionStore("postgresql+psycopg://user:secret@localhost:1/db").url


def test_the_same_feedback_is_one(store):
    """The first delivery counts; the writer of the second learns of it. Feedback without an id is always another."""
    first = [Reward("a", 1.0, reward=1.0, feedback_id=name).row() for name in ("x", "y")]
    assert store.write("reward", first) == 2
    assert store.write("reward", [Reward("a", 9.0, reward=0.0, feedback_id="x").row(), *rewards("a", "z")]) == 1
    assert store.write("reward", rewards("b", "x")) == 1  # of another decision
    assert store.write("reward", [Reward("a", 5.0, reward=1.0).row()] * 2) == 2
    assert [row["reward"] for row in store.read("reward") if row["feedback_id"] == "x"] == [1.0, 1.0]


def rewards(decision_id, *ids):
    """Rows of feedback."""
    return [Reward(decision_id, 2.0, reward=1.0, feedback_id=name).row() for name in ids]


def test_deliver_tells_of_each_whether_it_was_new(store):
    """Also within one delivery."""
    store.write("reward", rewards("a", "2"))
    assert store.deliver(rewards("a", "1", "2", "3", "1")) == [True, False, True, False]
    assert len(store.read("reward")) == 3


def test_how_many_decisions_were_new_is_told(store):
    """Of many, in several gulps."""
    ids = [f"d{i}" for i in range(300)]
    assert store.write("decision", rows(*ids[:200])) == 200
    assert store.write("decision", rows(*ids)) == 100
    assert store.known([*ids, "x"]) == set(ids)


def test_all_columns_come_back(store):
    """Every field of both records, with lists, names and no limit of length."""
    decision = Decision(
        "a", 1.5, "p", "primary", policy="P(" + "x" * 5000 + ")", kind="ranking", eligible=True, ineligible="rule:" + "r" * 300,
        actions=["ä", 'b"'], scores=[0.1, 1e-300], pmf=[[0.5, 0.5], [0.5, 0.5]], served=[1, 0], propensity=0.1 + 0.2, strength=0.25,
        ramp=0.5, unit="0" * 32, deferred=True,
    )  # fmt: skip
    store.write("decision", [decision.row()])
    (row,) = store.read()
    assert row == {**decision.row()}
    reward = Reward("a", 2.5, 0.1, {"k": [1, None]}, [3, 1, 2], "click", 2, True, "f" * 128)
    store.write("reward", [reward.row()])
    (row,) = store.read("reward")
    assert (row["served_action"], row["served"], row["label"]) == ("[3, 1, 2]", "[3, 1, 2]", '{"k": [1, null]}')
    assert (row["reward"], row["name"], row["slot"], row["shown"], row["feedback_id"]) == (
        0.1,
        "click",
        2,
        True,
        "f" * 128,
    )


def test_reading_in_pages_gives_every_row_once_in_order(store):
    """Pages smaller than runs of equal times, and what is written meanwhile does no harm."""
    times = [float(i // 7) for i in range(100)]
    store.write("decision", [{**rows(f"{i:03}")[0], "ts": ts} for i, ts in enumerate(times)])
    for chunk in (1, 3, 7, 100, 101):
        assert [row["decision_id"] for row in store.iterate("decision", chunk=chunk)] == [f"{i:03}" for i in range(100)]
    found = [row["decision_id"] for row in store.iterate("decision", since=2.0, until=4.0, chunk=4)]
    assert found == [f"{i:03}" for i in range(14, 28)]
    seen = []
    for row in store.iterate("decision", chunk=10):
        seen.append(row["decision_id"])
        if len(seen) == 5:
            store.write("decision", [{**rows("early")[0], "ts": 0.5}, {**rows("late")[0], "ts": 99.0}])
    assert sorted(set(seen)) == sorted(seen)
    assert {f"{i:03}" for i in range(100)} | {"late"} <= set(seen)
    store.write("reward", [Reward("a", 1.0, reward=float(i), feedback_id=str(i)).row() for i in range(25)])
    assert [row["reward"] for row in store.iterate("reward", chunk=4)] == [float(i) for i in range(25)]


def test_reading_a_large_store_takes_the_memory_of_a_page(open_store, tmp_path):
    """A generator over 20,000 rows of 2 kB holds no more than a few pages at any time."""
    import tracemalloc

    store = open_store(f"sqlite:///{tmp_path}/d.db")
    store.create()
    for start in range(0, 20_000, 2000):
        store.write("decision", rows(*(f"{start + i}" for i in range(2000)), features="x" * 2000))
    tracemalloc.start()
    count = sum(1 for _ in store.iterate("decision", chunk=200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 5e6  # all of them are 40 MB


def test_pruning_takes_old_decisions_with_their_rewards(store):
    """And old rewards that belong to nothing; nothing else."""
    now = time.time()
    store.write("decision", [{**rows(f"old{i}")[0], "ts": now - 100 - i} for i in range(50)])
    store.write("decision", [{**rows(f"new{i}")[0], "ts": now - i} for i in range(10)])
    store.write("reward", [Reward(f"old{i}", now - 1, reward=1.0, feedback_id="1").row() for i in range(50)])
    store.write("reward", [Reward("new1", now - 200, reward=1.0).row(), Reward("?", now - 200, reward=1.0).row(),
                           Reward("?", now - 1, reward=2.0).row()])  # fmt: skip
    assert store.prune(60.0, chunk=7, most=20) in range(20, 35)
    assert store.prune(60.0, chunk=7) > 0
    assert {row["decision_id"] for row in store.read()} == {f"new{i}" for i in range(10)}
    assert sorted(row["decision_id"] for row in store.read("reward")) == ["?", "new1"]
    assert store.prune(60.0) == 0


def test_postgresql_without_its_driver_names_the_extra(monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DecisionStoreError, match=r"bento-guardrails\[postgres\]"):
        DecisionStore("postgresql://localhost/db")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_means_psycopg_3(scheme):
    """With or without saying so."""
    pytest.importorskip("psycopg")
    assert DecisionStore(f"{scheme}://u@localhost/db").url == "postgresql+psycopg://u@localhost/db"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DecisionStoreError, match="cannot be opened"):
        DecisionStore(f"sqlite:///{tmp_path}/file/d.db")


def test_a_file_that_is_no_database_cannot_be_set_up(tmp_path):
    """The error names the store, and it does not take forty tries."""
    (tmp_path / "d.db").write_bytes(b"this is no database, whatever its name says" * 100)
    store = DecisionStore(f"sqlite:///{tmp_path}/d.db")
    with pytest.raises(DecisionStoreError, match="cannot be set up"):
        store.create()


def test_a_database_in_memory_works():
    """For notebooks."""
    store = DecisionStore("sqlite://")
    store.create()
    store.write("decision", rows("a"))
    found = []
    thread = threading.Thread(target=lambda: found.append(store.knows("a")))  # as a log's thread asks
    thread.start()
    thread.join()
    assert found == [True]
    store.close()
