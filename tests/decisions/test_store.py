"""The store: made once by many, in WAL mode, written and joined."""

import subprocess
import sys

import pytest
import sqlalchemy as sa

from guardrails.decisions import Decision, Reward
from guardrails.decisions.records import VERSION
from guardrails.decisions.store import DecisionStore
from guardrails.errors import DecisionStoreError


@pytest.fixture
def store(tmp_path):
    """A store that is set up."""
    store = DecisionStore(f"sqlite:///{tmp_path}/d.db")
    store.create()
    yield store
    store.close()


def rows(*ids, **fields):
    """Rows of decisions."""
    return [Decision(name, float(ts), "predict", "primary", **fields).row() for ts, name in enumerate(ids)]


OPEN = """
import sys, time
from guardrails.decisions import Decision
from guardrails.decisions.store import DecisionStore
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.create()
store.write("decision", [Decision(f"{sys.argv[2]}-{i}", 1.0, "p", "primary").row() for i in range(20)])
store.close()
"""


@pytest.mark.parametrize("attempt", [0, *(pytest.param(i, marks=pytest.mark.full) for i in range(1, 8))])
def test_several_processes_set_up_an_empty_database_at_once(tmp_path, attempt):
    """Four workers start together on no file at all: all come up, and all their rows are there."""
    url = f"sqlite:///{tmp_path}/new/d.db"
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


def test_sqlite_is_durable_and_lets_readers_read(store):
    """WAL, synchronous FULL, and a wait for whoever writes, on every connection."""
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
    with pytest.raises(DecisionStoreError, match=f"version {VERSION + 1}"):
        store.create()


@pytest.mark.parametrize("url", ["nonsense", "", "nodb:///x", "sqlite:/x", "mongodb://h/x"])
def test_what_is_no_database_url_is_refused(url):
    """With an example of one that is."""
    with pytest.raises(DecisionStoreError, match=r"sqlite:///decisions.db"):
        DecisionStore(url)


def test_a_password_is_not_shown():
    """The URL is printed in logs and on the status page."""
    try:
        store = DecisionStore("postgresql+psycopg://user:secret@localhost:1/db")
    except DecisionStoreError as error:  # the driver is not installed
        assert "secret" not in str(error)  # noqa: PT017  # either answer is right
    else:
        assert "secret" not in store.url


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
    assert store.knows("a")
    store.close()
