"""Stores that fail: full, locked, gone, replaced, hanging. Requests notice nothing; operators do; nothing is lost quietly."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from guardrails.decisions import Decision, DecisionLog, Reward, writer
from guardrails.decisions.stores.store import DecisionStore
from guardrails.errors import DecisionStoreError
from tests.decisions.postgres import Postgres


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon."""
    monkeypatch.setattr(writer, "RETRY_AFTER", 0.05)
    monkeypatch.setattr(writer, "INTERVAL", 0.02)


@pytest.fixture
def open_log() -> Iterator[Callable[..., DecisionLog]]:
    """Logs that are closed with the test."""
    opened: list[DecisionLog] = []

    def open_one(url: str, **options: object) -> DecisionLog:
        opened.append(DecisionLog(DecisionStore(url), **options))
        return opened[-1]

    yield open_one
    for log in opened:
        log.close(2.0)


def decision(number: object, size: int = 0) -> Decision:
    """One record, as large as wanted."""
    return Decision(str(number), 1.0, "predict", "primary", features="x" * size)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait for a condition; the answer is whether it came true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()


def gauge(store: str) -> float | None:
    """What an alert would look at."""
    return REGISTRY.get_sample_value("guardrails_decisions_store_down", {"store": store})


def dropped(cause: str) -> float:
    """The counter of lost records."""
    return REGISTRY.get_sample_value("guardrails_decisions_dropped_total", {"cause": cause}) or 0.0


def slowest_append(log: DecisionLog, numbers: range, size: int = 0) -> float:
    """Append records as requests do; the longest that one of them had to wait, in seconds."""
    slowest = 0.0
    for number in numbers:
        record = decision(number, size)
        began = time.perf_counter()
        log(record)
        slowest = max(slowest, time.perf_counter() - began)
    return slowest


def assert_outage(log: DecisionLog, store: str, caplog: pytest.LogCaptureFixture, *, lines: int = 1) -> None:
    """It is down, and everybody who has to know does: once."""
    assert until(lambda: log.down_since is not None)
    assert until(lambda: gauge(store) == 1.0)
    assert "(since 20" in log.last_error
    time.sleep(0.3)  # several tries later
    assert sum("decision records wait" in line for line in caplog.messages) == lines


def assert_recovered(log: DecisionLog, store: str, caplog: pytest.LogCaptureFixture, *, lines: int = 1) -> None:
    """It is up, and everybody knows."""
    assert log.flush(20.0)
    assert until(lambda: log.down_since is None)
    assert until(lambda: gauge(store) == 0.0)
    assert log.last_error is None
    assert sum("written again" in line for line in caplog.messages) == lines


def test_a_full_disk_is_waited_for(tmp_path, open_log, caplog):
    """SQLite may have no more pages: what fits the queue is written when there is room, the rest is counted."""
    log = open_log(f"sqlite:///{tmp_path}/d.db", capacity=300)
    log(decision("first"))
    assert log.flush()
    with log.store.engine.connect() as connection:  # of the pool's one connection
        connection.exec_driver_sql("PRAGMA max_page_count = 20")
    before = dropped("full")
    assert slowest_append(log, range(500), size=1000) < 0.1
    assert_outage(log, "sqlite", caplog)
    assert "full" in log.last_error
    assert log.dropped == dropped("full") - before == 200
    with log.store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    assert_recovered(log, "sqlite", caplog)
    assert {row["decision_id"] for row in log.store.read()} == {"first", *map(str, range(300))}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_really_full_disk_is_waited_for(small_disk, open_log, caplog):
    """The same with a file system that has no room."""
    log = open_log(f"sqlite:///{small_disk}/d.db")
    log(decision("first"))
    assert log.flush()
    assert slowest_append(log, range(600), size=1000) < 0.1
    assert_outage(log, "sqlite", caplog)
    assert log.waiting > 0
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert_recovered(log, "sqlite", caplog)
    assert (len(log.store.read()), log.dropped) == (601, 0)


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


def test_a_database_that_another_process_has_locked_is_waited_for(tmp_path, open_log, caplog, monkeypatch):
    """For longer than the time-out: nobody waits for it but the log's own thread."""
    monkeypatch.setattr("guardrails.decisions.stores.store.BUSY_TIMEOUT", 0.2)
    log = open_log(f"sqlite:///{tmp_path}/d.db")
    log(decision("first"))
    assert log.flush()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "d.db")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert slowest_append(log, range(700)) < 0.1
    assert_outage(log, "sqlite", caplog)
    assert "locked" in log.last_error
    holder.communicate("\n", timeout=30)
    assert_recovered(log, "sqlite", caplog)
    assert (len(log.store.read()), log.dropped, log.written) == (701, 0, 701)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that may be stopped: nobody else has it."""
    pytest.importorskip("pgserver", reason="a real PostgreSQL: pip install pgserver")
    server = Postgres()
    yield server
    server.close()


def test_a_postgresql_that_is_down_for_a_while_loses_nothing(own_postgres, open_log, caplog):
    """Stopped in the middle of writing, twice, and started again: every record is there, once."""
    log = open_log(own_postgres.database())
    for round_number in range(2):
        first = round_number * 2000
        slowest_append(log, range(first, first + 1000))
        own_postgres.stop()
        assert slowest_append(log, range(first + 1000, first + 2000)) < 0.1
        assert_outage(log, "postgresql", caplog, lines=round_number + 1)
        own_postgres.start()
        assert_recovered(log, "postgresql", caplog, lines=round_number + 1)
    assert {row["decision_id"] for row in log.store.read()} == set(map(str, range(4000)))
    assert log.dropped == 0


def test_a_postgresql_that_is_down_at_the_start_is_waited_for(own_postgres, open_log):
    """The tables are made when it is there."""
    url = own_postgres.database()
    own_postgres.stop()
    log = open_log(url)
    log(decision("a"))
    log(Reward("a", 2.0, reward=1.0))
    assert until(lambda: log.down_since is not None)
    own_postgres.start()
    assert log.flush(20.0)
    assert len(log.store.read()) == len(log.store.read("reward")) == 1


def test_close_is_bounded_while_the_store_hangs(tmp_path, open_log):
    """Another process holds the database for ever: shutdown goes on, and says what it leaves behind."""
    log = open_log(f"sqlite:///{tmp_path}/d.db")
    log(decision("first"))
    assert log.flush()
    other = sqlite3.connect(tmp_path / "d.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    slowest_append(log, range(50))
    before, began = dropped("shutdown"), time.monotonic()
    log.close(0.7)
    assert time.monotonic() - began < 1.5
    assert log.dropped == dropped("shutdown") - before == 50
    assert gauge("sqlite") in (None, 0.0)  # a log that has ended is no alarm
    other.execute("ROLLBACK")
    other.close()


def test_a_file_replaced_under_an_open_store_is_noticed(tmp_path, open_log):
    """Another worker has made it anew: writing on to the old one, which has no name any more, would lose records."""
    path = tmp_path / "d.db"
    log = open_log(f"sqlite:///{path}")
    log(decision("before"))
    assert log.flush()
    for name in tmp_path.glob("d.db*"):
        name.unlink()
    other = DecisionStore(f"sqlite:///{path}")
    other.create()
    slowest_append(log, range(20))
    assert log.flush()
    assert {row["decision_id"] for row in other.read()} == set(map(str, range(20)))
    other.close()


def test_a_file_replaced_during_a_write_fails_it(tmp_path, open_store):
    """What was committed to a file without a name does not count as written."""
    store = open_store(f"sqlite:///{tmp_path}/d.db")
    store.create()
    real = store._make_again_if_gone

    def then_replaced() -> None:
        real()
        (tmp_path / "d.db").rename(tmp_path / "away.db")
        (tmp_path / "d.db").write_bytes(b"")
        store._make_again_if_gone = real

    store._make_again_if_gone = then_replaced
    with pytest.raises(DecisionStoreError, match="replaced"):
        store.write("decision", [decision("a").row()])
    store.write("decision", [decision("a").row()])
    assert [row["decision_id"] for row in store.read()] == ["a"]


def test_a_store_made_read_only_is_waited_for(tmp_path, open_log, caplog):
    """As a volume that went read-only says it."""
    log = open_log(f"sqlite:///{tmp_path}/d.db")
    log(decision("first"))
    assert log.flush()
    with log.store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    slowest_append(log, range(10))
    assert_outage(log, "sqlite", caplog)
    assert "readonly" in log.last_error.replace("read-only", "readonly")
    with log.store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = OFF")
    assert_recovered(log, "sqlite", caplog)
    assert len(log.store.read()) == 11


class Hanging:
    """A store whose disk has gone to sleep."""

    url = "hanging://"

    def __init__(self) -> None:
        self.go, self.rows = threading.Event(), []

    def create(self) -> None:
        """Nothing to do."""

    def write(self, kind: str, rows: list) -> int:
        """Wait."""
        self.go.wait(30)
        self.rows += rows
        return len(rows)

    def close(self) -> None:
        """Nothing to do."""


def test_a_store_that_hangs_is_alarmed_although_it_does_not_fail(monkeypatch, caplog):
    """The thread that waits for it cannot say so: whoever asks, or finds the queue full, does."""
    monkeypatch.setattr(writer, "STUCK_AFTER", 0.2)
    store = Hanging()
    log = DecisionLog(store, capacity=5)
    for number in range(5):
        log(decision(number))
    time.sleep(0.4)
    assert not log(decision("too many"))
    assert gauge("hanging") == 1.0
    assert "no answer" in log.last_error
    store.go.set()
    assert_recovered(log, "hanging", caplog)
    log.close()


def test_the_thread_survives_metrics_that_fail(tmp_path, open_log, monkeypatch):
    """Their files may be on the disk that is full: records are written all the same, afterwards."""

    def broken(*_: object) -> None:
        raise OSError("no space left for metrics")

    with monkeypatch.context() as patch:
        patch.setattr("guardrails.decisions.writer.tell_down", broken)
        log = open_log(f"sqlite:///{tmp_path}/d.db")
        log(decision("a"))
        time.sleep(0.5)
    assert log.flush(20.0)
    assert [row["decision_id"] for row in log.store.read()] == ["a"]


class Refusing:
    """A store that refuses some rows for what they are, and sometimes fails for itself."""

    url = "refusing://"

    def __init__(self, bad: set[str], fails: int) -> None:
        self.bad, self.fails, self.rows, self.calls = bad, fails, [], 0

    def create(self) -> None:
        """Nothing to do."""

    def write(self, kind: str, rows: list) -> int:
        """All or nothing."""
        self.calls += 1
        if self.calls % 3 == 0 and self.fails > 0:
            self.fails -= 1
            raise OSError("away")
        if any(row["decision_id"] in self.bad for row in rows):
            raise ValueError("no such thing")
        self.rows += [row["decision_id"] for row in rows]
        return len(rows)

    def close(self) -> None:
        """Nothing to do."""


def test_every_record_is_written_once_or_counted_once():
    """Bad rows among good ones, and a store that fails in between: the sums are exact."""
    bad = {str(number) for number in (0, 3, 250, 499, 500, 999)}
    store = Refusing(bad, fails=10)
    log = DecisionLog(store)
    slowest_append(log, range(1000))
    assert log.flush(20.0)
    assert sorted(store.rows, key=int) == [str(number) for number in range(1000) if str(number) not in bad]
    assert (log.written, log.dropped, log.waiting) == (994, 6, 0)
    log.close()


def test_bad_rows_do_not_hold_up_postgresql(postgres, open_log):
    """A character it cannot hold, a number too large, an object, a half of a pair: lost and counted, all else is there."""
    log = open_log(postgres.database())
    for number in range(40):
        log(decision(number))
    for bad in (
        Decision("nul", 1.0, "a\x00b", "primary"),
        Decision("large", 1.0, "p", "primary", action=2**40),
        Decision("object", 1.0, "p", "primary", model=object()),
        Decision("mapping", 1.0, "p", "primary", action={"a": 1}),
        Decision("list", 1.0, "p", "primary", greedy=[1]),
        Decision("none", 1.0, None, "primary"),
        Decision("\ud800", 1.0, "p", "primary"),
        Decision("x" * 100, 1.0, "p", "primary"),
        Reward("nul", 1.0, name="\x00"),
        Reward("list", 1.0, reward=[1.0]),
    ):
        log(bad)
    log(decision("last"))
    assert log.flush(20.0)
    assert {row["decision_id"] for row in log.store.read()} == {*map(str, range(40)), "last"}
    assert (log.dropped, log.written) == (10, 41)


def test_loss_is_accounted_for_by_several_processes(url, open_store):
    """Four workers, small queues, more than they can take: written + dropped is what was sent, and written is there."""
    code = (
        "import sys\nfrom guardrails.decisions import Decision, DecisionLog, writer\n"
        "from guardrails.decisions.stores.store import DecisionStore\n"
        "log = DecisionLog(DecisionStore(sys.argv[1]), capacity=700)\n"
        "for i in range(5000): log(Decision(f'{sys.argv[2]}-{i}', 1.0, 'p', 'primary', scores=[0.1] * 10))\n"
        "log.close(60.0)\nprint(log.written, log.dropped)\n"
    )
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen([sys.executable, "-c", code, url, str(i)], stdout=pipe, stderr=pipe, text=True)
        for i in range(4)
    ]
    said = [tuple(map(int, worker.communicate(timeout=120)[0].split())) for worker in workers]
    assert [written + lost for written, lost in said] == [5000] * 4
    store = open_store(url)
    assert len(store.read()) == sum(written for written, _ in said)
    assert min(written for written, _ in said) >= 700


def test_old_decisions_are_deleted_while_new_ones_are_written(url, monkeypatch, caplog):
    """About hourly, without being asked again, and without an error."""
    monkeypatch.setattr(writer, "PRUNE_AFTER", 3.0)  # once all of these are written
    monkeypatch.setattr(writer, "PRUNE_EVERY", 0.2)
    log = writer.open_log(url, retention="1h")
    now = time.time()
    for i in range(1200):
        log(Decision(f"old{i}", now - 4000, "p", "primary"))
        log(Decision(f"new{i}", now, "p", "primary"))
    log(Reward("old1", now, reward=1.0))
    assert log.flush(20.0)
    assert until(lambda: len(log.store.read()) == 1200)
    assert log.store.read("reward") == []
    log(Decision("older", now - 4000, "p", "primary"))
    assert log.flush()
    assert until(lambda: not log.store.knows("older"))
    log.close()
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
