"""The log: never blocks, never raises, loses nothing quietly."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from guardrails.decisions import Decision, DecisionLog, Reward, writer
from guardrails.decisions.stores.store import DecisionStore
from guardrails.errors import DecisionStoreError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Retry soon."""
    monkeypatch.setattr(writer, "RETRY_AFTER", 0.05)
    monkeypatch.setattr(writer, "INTERVAL", 0.02)


def decision(name, **fields):
    """One record."""
    return Decision(str(name), 1.0, "predict", "primary", **fields)


def ids(path):
    """What the file holds, read by SQLite alone."""
    connection = sqlite3.connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT decision_id FROM decisions")}
    finally:
        connection.close()


def until(condition, seconds=20.0):
    """Wait for a condition; the answer is whether it came true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


@pytest.fixture
def path(tmp_path):
    """A database file of its own."""
    return tmp_path / "store" / "d.db"


@pytest.fixture
def log(path):
    """A log on it, closed at the end."""
    log = DecisionLog(DecisionStore(f"sqlite:///{path}"))
    yield log
    log.close(2.0)


class Stuck:
    """A store that hangs until it is let go, or fails while it is told to."""

    url = "stuck://"

    def __init__(self):
        self.go, self.failing, self.rows, self.closed = threading.Event(), False, [], False

    def create(self):
        """Wait or fail."""
        self.go.wait()
        if self.failing:
            raise DecisionStoreError("no store today")

    def write(self, kind, rows):
        """Keep what comes, unless failing."""
        if self.failing:
            raise OSError("disk full")
        self.rows += [(kind, row) for row in rows]

    def close(self):
        """Remember it."""
        self.closed = True


def test_everything_is_committed_by_flush(log, path):
    """Acknowledged means committed: another connection sees it."""
    for i in range(1500):
        log(decision(i))
    log(Reward("7", 2.0, reward=1.0))
    assert log.flush()
    assert ids(path) == {str(i) for i in range(1500)}
    assert len(log.store.read("reward")) == 1
    assert log.waiting == 0
    assert until(lambda: log.written == 1501)
    assert (log.dropped, log.last_error) == (0, None)


def test_everything_is_committed_by_close(path):
    """What waits when a worker stops."""
    log = DecisionLog(DecisionStore(f"sqlite:///{path}"))
    for i in range(1200):
        log(decision(i))
    log.close()
    assert len(ids(path)) == 1200
    assert log.dropped == 0


def test_records_come_without_a_flush(log, path):
    """The thread looks by itself."""
    log(decision("a"))
    assert until(lambda: log.written == 1)
    assert ids(path) == {"a"}


def test_a_full_queue_drops_and_counts_and_does_not_wait():
    """The store hangs; the caller does not notice."""
    store = Stuck()
    log = DecisionLog(store, capacity=10)
    for i in range(25):
        log(decision(i))
    assert (log.waiting, log.dropped) == (10, 15)
    store.go.set()
    assert log.flush()
    assert [row["decision_id"] for _, row in store.rows] == [str(i) for i in range(10)]
    log(decision("later"))
    assert log.flush()
    assert store.rows[-1][1]["decision_id"] == "later"
    log.close()
    assert store.closed


def test_drops_are_counted_exactly_by_many_threads():
    """Request threads share one counter."""
    store = Stuck()
    log = DecisionLog(store, capacity=1)
    log(decision("first"))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [log(decision("x")) for _ in range(3000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert log.dropped + log.waiting == 12_001
    store.go.set()
    log.close()


def test_flush_says_when_it_took_too_long():
    """False, and the records still wait."""
    store = Stuck()
    log = DecisionLog(store)
    log(decision("a"))
    assert log.flush(0.1) is False
    assert log.waiting == 1
    store.go.set()
    assert log.flush()
    log.close()


def test_a_failing_store_is_retried_until_it_is_back():
    """Nothing is lost, nothing raised; the error is there to be read, and gone when it is over."""
    store = Stuck()
    store.failing = True
    store.go.set()
    log = DecisionLog(store)
    for i in range(700):
        log(decision(i))
    assert until(lambda: log.last_error is not None)
    assert "no store today" in log.last_error
    store.failing = False
    assert log.flush()
    assert len(store.rows) == 700
    assert until(lambda: log.last_error is None)
    log.close()


def test_a_store_that_never_comes_back_is_given_up_at_shutdown_and_counted(caplog):
    """With the number in the log."""
    store = Stuck()
    store.failing = True
    store.go.set()
    log = DecisionLog(store)
    for i in range(30):
        log(decision(i))
    log.close(2.0)
    assert log.dropped == 30
    assert "30 decision records could not be written" in caplog.text


def test_a_record_after_close_is_counted_as_dropped(path):
    """A request that was still under way when the worker stopped: nobody will write it, so it is not 'waiting'."""
    log = DecisionLog(DecisionStore(f"sqlite:///{path}"))
    log(decision("a"))
    log.close()
    log(decision("late"))
    assert log.dropped == 1 or "late" in ids(path)


class Odd:
    """What JSON cannot say."""


def test_a_record_nobody_can_write_is_dropped_and_the_rest_is_written(log, path):
    """It must not hold up those behind it."""
    log(decision("before"))
    log(decision("odd", scores=Odd()))
    log(decision("after"))
    assert log.flush()
    assert ids(path) == {"before", "after"}
    assert log.dropped == 1


@pytest.mark.parametrize(
    "bad",
    [
        Reward("\ud800", 1.0, reward=1.0),
        Reward("huge", 1.0, served_action=2**70),
        Reward("list", 1.0, reward=[1.0]),
        decision("\udfff"),
        decision("object", model=Odd()),
        decision("none", action={"a": 1}),
        Decision("required", 1.0, None, "primary"),
        Decision("time", None, "predict", "primary"),
    ],
    ids=[
        "surrogate in a reward",
        "beyond 64 bits",
        "a list",
        "surrogate",
        "an object",
        "a mapping",
        "no api",
        "no time",
    ],
)
def test_a_record_the_database_refuses_is_dropped_and_the_rest_is_written(log, path, bad):
    """One bad row (feedback comes from outside!) must not block the log for ever."""
    log(decision("before"))
    log(bad)
    log(decision("after"))
    assert log.flush(1.5)
    assert {"before", "after"} <= ids(path)
    assert log.dropped == 1


def test_a_locked_database_is_waited_for(log, path, monkeypatch):
    """Somebody else's long transaction: callers go on, the rows come when it is over."""
    monkeypatch.setattr("guardrails.decisions.stores.store.BUSY_TIMEOUT", 0.05)
    log(decision("a"))
    assert log.flush()
    log.store.close()  # the next connection waits for .05 s only
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for i in range(50):
        log(decision(i))
    assert log.flush(0.4) is False
    assert log.waiting == 50
    other.execute("ROLLBACK")
    other.close()
    assert log.flush(20.0)
    assert len(ids(path)) == 51
    assert log.dropped == 0


def test_a_database_locked_from_the_start_is_waited_for(path, monkeypatch):
    """Also before the tables are there."""
    monkeypatch.setattr("guardrails.decisions.stores.store.BUSY_TIMEOUT", 0.05)
    store = DecisionStore(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    log = DecisionLog(store)
    log(decision("a"))
    assert log.flush(0.3) is False
    other.execute("ROLLBACK")
    other.close()
    assert log.flush(20.0)
    assert ids(path) == {"a"}
    log.close()


def test_a_folder_deleted_before_the_first_record(path):
    """The rows are kept until somebody mends it, or written to a folder made anew."""
    log = DecisionLog(DecisionStore(f"sqlite:///{path}"))
    shutil.rmtree(path.parent)
    log(decision("a"))
    if not log.flush(1.0):
        assert log.waiting == 1
        path.parent.mkdir()
    assert log.flush(10.0)
    assert ids(path) == {"a"}
    log.close()


def test_a_folder_deleted_under_an_open_store_loses_nothing_quietly(log, path):
    """SQLite goes on writing to the file without a name: what it 'commits' there is gone and must not count."""
    log(decision("before"))
    assert log.flush()
    shutil.rmtree(path.parent)
    for i in range(5):
        log(decision(i))
    log.flush(1.0)
    there = ids(path) if path.exists() else set()
    assert len(there - {"before"}) + log.waiting + log.dropped == 5
    assert there == {str(i) for i in range(5)} or log.last_error is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only files")
def test_a_read_only_file_is_waited_for(log, path):
    """Permissions taken away and given back."""
    log(decision("a"))
    assert log.flush()
    log.store.close()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        log(decision("b"))
        assert log.flush(0.5) is False
        assert log.last_error
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)
    assert log.flush(10.0)
    assert ids(path) == {"a", "b"}


def test_a_store_that_may_only_be_read_never_raises(path):
    """SQLite's own read-only mode, which holds for root too."""
    good = DecisionStore(f"sqlite:///{path}")
    good.create()
    good.close()
    log = DecisionLog(DecisionStore(f"sqlite:///file:{path}?mode=ro&uri=true"))
    for i in range(3):
        log(decision(i))
    log.flush(0.5)
    log.close(2.0)
    assert log.dropped + len(ids(path)) == 3
    assert log.dropped == 3


WRITES = """
import itertools, sys
from guardrails.decisions import Decision, DecisionLog, writer
from guardrails.decisions.stores.store import DecisionStore
import numpy as np
writer.INTERVAL = 0.01
log = DecisionLog(DecisionStore(sys.argv[1]))
for i in itertools.count():
    log(Decision(f"{sys.argv[2]}-{i}", float(i), "predict", "primary", scores=np.full(50, i / 7), pmf=np.full(50, .02),
                 features=np.full(200, float(i)), propensity=.02))
    if i % 200 == 199:
        log.flush()
        print(i + 1, flush=True)
"""


@pytest.mark.parametrize("killed_after", [0.0, 0.05, 0.3])
def test_a_killed_worker_leaves_whole_rows(path, killed_after):
    """kill -9 in the middle: the file is sound, each row in it whole, and what flush acknowledged is there."""
    import json

    url = f"sqlite:///{path}"
    workers = [
        subprocess.Popen([sys.executable, "-c", WRITES, url, name], stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "200\n"
        time.sleep(killed_after)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
    acknowledged = {
        name: max([200, *map(int, worker.stdout.read().split())]) for name, worker in zip("ab", workers, strict=True)
    }
    for worker in workers:
        worker.wait(30)
        worker.stdout.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    store = DecisionStore(url)
    store.create()  # the next worker starts on what was left
    rows = store.read()
    for row in rows:
        number = float(row["decision_id"].split("-")[1])
        assert row["ts"] == number
        assert json.loads(row["features"]) == [number] * 200
        assert json.loads(row["scores"]) == [number / 7] * 50
    for name, count in acknowledged.items():
        mine = {row["decision_id"] for row in rows}
        assert {f"{name}-{i}" for i in range(count)} <= mine
    store.write("decision", [decision("next").row()])
    assert store.knows("next")
    store.close()


def test_one_log_per_store_and_process(tmp_path):
    """Guards of one worker share it; after it was closed there is a new one."""
    url = f"sqlite:///{tmp_path}/d.db"
    first = writer.open_log(url)
    assert writer.open_log(url) is first
    first.close()
    second = writer.open_log(url)
    assert second is not first
    second(decision("a"))
    second.close()
    assert ids(tmp_path / "d.db") == {"a"}
