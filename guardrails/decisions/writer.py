"""A bounded queue and one thread: a request appends a record, the thread commits batches. Drops are counted."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

from guardrails.core import metrics
from guardrails.decisions.records import Decision, Reward
from guardrails.decisions.stores.faults import is_the_stores_fault, tell_down
from guardrails.errors import DecisionStoreError, DecorationError

if TYPE_CHECKING:
    from guardrails.decisions.sinks import Store

logger = logging.getLogger("guardrails")

CAPACITY = 20_000
"""Records that may wait; at about 1 kB each, 20 MB. What does not fit is dropped and counted."""
BATCH = 500
INTERVAL = 0.5
"""Seconds between two commits while records come in: also how much a killed worker can lose."""
BREATH = 16
"""Records made ready in one go (about 0.3 ms): how long a request may have to wait for this thread."""
PAUSE = 5e-5
"""Seconds of rest after that. A rest of 0 hands the GIL to nobody: it is taken back before a waiting thread is up."""
RETRY_AFTER = 1.0
CLOSE_TIMEOUT = 5.0
STUCK_AFTER = 15.0
"""Seconds one batch may take before the store counts as down, although it has not failed."""
PRUNE_EVERY = 3600.0
PRUNE_AFTER = 60.0
PRUNE_AT_ONCE = 5000

Record: TypeAlias = "Decision | Reward"


class DecisionLog:
    """Takes records without ever blocking or raising, and writes them to a store from a thread of its own.

    Args:
        store: where they go.
        capacity: how many may wait.
        retention: seconds after which a decision is deleted, with its rewards; None keeps all.

    Attributes:
        written, dropped: how many records the store has taken, and how many were lost (each cause is counted in
            ``guardrails_decisions_dropped_total``).
        down_since: since when the store takes nothing, in seconds since 1970; None while it does. Meanwhile
            ``guardrails_decisions_store_down`` says 1.
    """

    def __init__(self, store: Store, capacity: int = CAPACITY, retention: float | None = None) -> None:
        self.store = store
        self.retention = retention
        self._capacity = capacity
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        """With an empty queue and a thread of its own; again in a process that was forked off, which has no thread."""
        self._queue: deque[Record] = deque()
        self._held: tuple[int, dict[str, list[dict[str, Any]]]] | None = None  # the first of the queue, made ready
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._closed = False
        self._ready = False  # the tables are made by the first write that reaches the store, whenever that is
        self._idle = threading.Event()
        self._idle.set()
        self._began: float | None = None
        self._next_prune = time.monotonic() + PRUNE_AFTER * random.uniform(0.5, 1.5)  # not all workers at once
        self.written = 0
        self.dropped = 0
        self._told: set[str] = set()
        self.down_since: float | None = None
        self._error: str | None = None
        self._dropped_before = 0
        self._thread = threading.Thread(target=self._run, name="guardrails-decisions", daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> bool:
        """Take a record: an append, nothing else. Full means dropped and counted, and False."""
        if self._closed or len(self._queue) >= self._capacity:
            self.dropped += 1
            metrics.decisions_dropped().labels("shutdown" if self._closed else "full").inc()
            self._notice_hang()
            return False
        self._queue.append(record)
        return True
        # No wake-up per record: the thread looks every INTERVAL, and a wake-up would cost a switch of threads.

    @property
    def waiting(self) -> int:
        """Records taken and not yet committed."""
        return len(self._queue)

    @property
    def closing(self) -> bool:
        """Whether it has been told to end."""
        return self._stop.is_set()

    @property
    def last_error(self) -> str | None:
        """What keeps the store from taking records, and since when; None while nothing does."""
        self._notice_hang()
        since, error = self.down_since, self._error
        if since is None or error is None:
            return None
        return f"{error} (since {datetime.fromtimestamp(since, timezone.utc).isoformat(timespec='seconds')})"

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Wait until what was taken before is committed; False if that took longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (self._queue or not self._idle.is_set()) and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.005)
        return not self._queue and self._idle.is_set()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Commit what waits, within ``timeout`` seconds; what cannot be committed is dropped, counted and logged."""
        close_all((self,), timeout)

    def _run(self) -> None:
        while True:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            try:
                if not self._write_all():
                    self._stop.wait(RETRY_AFTER)
                elif self.retention is not None and not self.closing:
                    self._prune(self.retention)
            except Exception:  # a metric that cannot be set, say: without this thread nothing would be written any more
                logger.exception("decision records: an error beside the store's")
                self._stop.wait(RETRY_AFTER)
            if self.closing:
                self._closed = True
                self._write_all()
                self.store.close()
                return

    def _write_all(self) -> bool:
        """Commit batch after batch while there are full ones; on failure keep the batch and say False.

        What has come in meanwhile waits for the next round: a commit for every few records would cost the requests
        more than all else here.
        """
        more = bool(self._queue)
        while more:
            self._idle.clear()
            self._began = time.monotonic()
            try:
                if not self._ready:
                    self.store.create()
                    self._ready = True
                    tell_down(self, self.down_since is not None)  # so that there is a 0 to compare with
                self._commit()
            except Exception as error:  # noqa: BLE001  # a dead store never reaches a request; it is retried
                self._goes_down(f"{type(error).__name__}: {getattr(error, 'orig', None) or error}"[:300])
                return False
            finally:
                self._began = None
                self._idle.set()
            self._is_up()
            more = len(self._queue) >= BATCH or (self.closing and bool(self._queue))
        return True

    def _commit(self) -> None:
        if self._held is None:
            self._held = self._made_ready()
        count, rows = self._held
        if hasattr(self.store, "hurry"):
            self.store.hurry = self._crowded()
        for kind in rows:
            self._write(kind, rows[kind])
        for _ in range(count):
            self._queue.popleft()
        self._held = None

    def _made_ready(self) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        """The first records of the queue as rows: once, however often the store has to be asked to take them."""
        count = min(BATCH, len(self._queue))
        rows: dict[str, list[dict[str, Any]]] = {"decision": [], "reward": []}
        for number in range(count):
            if number % BREATH == 0 and not self._crowded():
                time.sleep(PAUSE)  # let go of the GIL: a request may be waiting, and would for 5 ms
            record = self._queue[number]
            try:
                if isinstance(record, Reward):
                    # Written twice because the answer to the first time was lost, it is still one.
                    record.feedback_id = record.feedback_id or uuid.uuid4().hex
                    rows["reward"].append(record.row())
                else:
                    rows["decision"].append(record.row())
            except Exception as error:  # noqa: BLE001  # whatever it is of
                self._lose(error)  # one record nobody can write must not hold up those behind it
        return count, rows

    def _crowded(self) -> bool:
        """Whether records will soon be lost: then this thread takes the time it needs."""
        return 4 * len(self._queue) > self._capacity

    def _write(self, kind: str, rows: list[dict[str, Any]]) -> None:
        """Write rows and take them out; of what the store refuses for what it is, find and lose only the bad ones."""
        size = len(rows)
        while rows:
            part = rows[:size]
            try:
                new = self.store.write(kind, part)
            except Exception as error:
                if is_the_stores_fault(error):
                    raise
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                self._lose(error)
            else:
                new = len(part) if new is None else new
                self.written += new
                metrics.decisions_written().labels(kind).inc(new)
            del rows[: len(part)]
            size *= 2

    def _lose(self, error: Exception) -> None:
        self.dropped += 1
        metrics.decisions_dropped().labels("unwritable").inc()
        kind = type(error).__name__
        level = logging.DEBUG if kind in self._told else logging.WARNING  # anybody may send what cannot be written
        self._told.add(kind)
        # The driver's own words: SQLAlchemy's repeat the record, features and all.
        reason = str(getattr(error, "orig", error))[:300]
        logger.log(level, "a decision record cannot be written and was dropped (%s: %s)", kind, reason)

    def _goes_down(self, error: str) -> None:
        self._error = error
        if self.down_since is None:
            self.down_since, self._dropped_before = time.time(), self.dropped
            logger.warning("decision records wait: %s does not take them (%s)", self.store.url, error)
            tell_down(self, not self._closed)

    def _is_up(self) -> None:
        if self.down_since is None:
            return
        away, lost = time.time() - self.down_since, self.dropped - self._dropped_before
        self.down_since = self._error = None
        tell_down(self, False)
        text = "decision records are written again: %s was away for %.0f s; %d records were lost meanwhile"
        logger.warning(text, self.store.url, away, lost)

    def _notice_hang(self) -> None:
        """A store that hangs does not fail: somebody else than the thread that waits for it has to say so."""
        began = self._began
        if began is not None and self.down_since is None and time.monotonic() - began > STUCK_AFTER:
            self._goes_down(f"no answer for {STUCK_AFTER:.0f} s")

    def _prune(self, retention: float) -> None:
        if time.monotonic() < self._next_prune:
            return
        gone = 0
        try:
            gone = self.store.prune(retention, most=PRUNE_AT_ONCE)  # type: ignore[attr-defined]  # open_log looked
        except Exception as error:  # noqa: BLE001  # it is tried again in an hour
            logger.warning("old decisions could not be deleted from %s: %s", self.store.url, error)
        if not gone:  # else there may be more: go on as soon as what has come in meanwhile is written
            self._next_prune = time.monotonic() + PRUNE_EVERY * random.uniform(0.9, 1.1)

    def _give_up(self) -> None:
        self._closed = True
        tell_down(self, False)  # nobody waits for it any more
        lost = len(self._queue)
        if self._held is not None:  # of the first ones some are written, and some counted as unwritable
            count, rows = self._held
            lost += sum(map(len, rows.values())) - count
        if lost:
            self.dropped += lost
            metrics.decisions_dropped().labels("shutdown").inc(lost)
            logger.error("%d decision records could not be written to %s before shutdown", lost, self.store.url)


def close_all(logs: Iterable[DecisionLog], timeout: float = CLOSE_TIMEOUT) -> None:
    """Close logs, all within ``timeout`` seconds together."""
    logs = tuple(logs)
    deadline = time.monotonic() + timeout
    for log in logs:
        log._stop.set()  # noqa: SLF001
        log._wake.set()  # noqa: SLF001
    for log in logs:
        log._thread.join(max(0.0, deadline - time.monotonic()))  # noqa: SLF001
        log._give_up()  # noqa: SLF001


_logs: dict[str, DecisionLog] = {}
_lock = threading.Lock()
_all: weakref.WeakSet[DecisionLog] = weakref.WeakSet()


def _after_fork() -> None:
    """What waits in the parent's queues is the parent's to write; connections are its own, too."""
    global _lock
    _lock = threading.Lock()
    for log in list(_all):
        forget = getattr(log.store, "forget_connections", None)
        if forget is not None:
            forget()
        log._begin()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def open_log(url: str, retention: float | str | None = None) -> DecisionLog:
    """The log of a store, one per process; opened when a worker starts.

    Args:
        url: ``sqlite:///decisions.db``, ``postgresql://...`` or ``otlp+http://host:4318/v1/logs``.
        retention: how long decisions are kept, in seconds or as ``"90d"``; about every hour, older ones are deleted
            with their rewards. None keeps them for ever.

    Raises:
        DecisionStoreError: there is no such store, or it is none that can delete.
        DecorationError: the retention is no time span.
    """
    kept = None if retention is None else _retention(retention)
    with _lock:
        log = _logs.get(url)
        if log is None or log.closing:
            log = _logs[url] = DecisionLog(_store_of(url))
    if kept is not None:
        if not hasattr(log.store, "prune"):
            raise DecisionStoreError(f"retention={retention!r}: what {log.store.url} has been sent is kept elsewhere.")
        log.retention = kept
    return log


def log_of(url: str) -> DecisionLog | None:
    """The log of a store that this process has open, if it has."""
    with _lock:
        log = _logs.get(url)
    return None if log is None or log.closing else log


def open_logs() -> list[DecisionLog]:
    """This process's logs that take records."""
    with _lock:
        return [log for log in _logs.values() if not log.closing]


def _retention(span: float | str) -> float:
    from guardrails.drift.options import seconds

    kept = seconds(span, "retention")
    if not 0.0 < kept < float("inf"):
        raise DecorationError(f"retention={span!r}: how long decisions are kept, such as '90d'.")
    return kept


def _store_of(url: str) -> Store:
    if url.startswith("otlp+"):
        from guardrails.decisions.stores.otlp import OtlpStore

        return OtlpStore(url)
    from guardrails.decisions.stores.store import DecisionStore  # SQLAlchemy takes 0.6 s to import: not at import

    return DecisionStore(url)
