"""A bounded queue and one thread: a request appends a record, the thread commits batches. Drops are counted."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from guardrails.core import metrics
from guardrails.decisions.records import Decision, Reward
from guardrails.errors import DecisionStoreError

if TYPE_CHECKING:
    from guardrails.decisions.store import DecisionStore

logger = logging.getLogger("guardrails")

CAPACITY = 20_000
"""Records that may wait; at about 1 kB each, 20 MB. What does not fit is dropped and counted."""
BATCH = 500
INTERVAL = 0.2
"""Seconds between two commits while records come in: also how much a killed worker can lose."""
BREATH = 16
"""Records made ready in one go (about 0.5 ms): how long a request may have to wait for this thread."""
RETRY_AFTER = 1.0
CLOSE_TIMEOUT = 5.0

Record: TypeAlias = "Decision | Reward"


class DecisionLog:
    """Takes records without ever blocking or raising, and writes them to a store from a thread of its own.

    Args:
        store: where they go.
        capacity: how many may wait.
    """

    def __init__(self, store: DecisionStore, capacity: int = CAPACITY) -> None:
        self.store = store
        self._queue: deque[Record] = deque()
        self._capacity = capacity
        self._wake = threading.Event()
        self._closing = False
        self._closed = False
        self._ready = False  # the tables are made by the first write that reaches the store, whenever that is
        self._idle = threading.Event()
        self._idle.set()
        self.written = 0
        self.dropped = 0
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="guardrails-decisions", daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> bool:
        """Take a record: an append, nothing else. Full means dropped and counted, and False."""
        if self._closed or len(self._queue) >= self._capacity:
            self.dropped += 1
            metrics.decisions_dropped().labels("shutdown" if self._closed else "full").inc()
            return False
        self._queue.append(record)
        return True
        # No wake-up per record: the thread looks every INTERVAL, and a wake-up would cost a switch of threads.

    @property
    def waiting(self) -> int:
        """Records taken and not yet committed."""
        return len(self._queue)

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Wait until what was taken before is committed; False if that took longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (self._queue or not self._idle.is_set()) and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.005)
        return not self._queue and self._idle.is_set()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Commit what waits, within ``timeout`` seconds; what cannot be committed is dropped, counted and logged."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        if self._queue:
            lost = len(self._queue)
            self.dropped += lost
            metrics.decisions_dropped().labels("shutdown").inc(lost)
            logger.error("%d decision records could not be written to %s before shutdown", lost, self.store.url)

    def _run(self) -> None:
        while True:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            if not self._write_all() and not self._closing:
                time.sleep(RETRY_AFTER)
            if self._closing:
                self._closed = True
                self._write_all()
                self.store.close()
                return

    def _write_all(self) -> bool:
        """Commit batch after batch; on failure keep the batch and say False."""
        while self._queue:
            self._idle.clear()
            batch = [self._queue[i] for i in range(min(BATCH, len(self._queue)))]
            try:
                if not self._ready:
                    self.store.create()
                    self._ready = True
                self._commit(batch)
            except Exception as error:  # noqa: BLE001  # a dead store never reaches a request; it is retried
                if self.last_error is None:
                    logger.warning("decision records wait: %s does not take them (%s)", self.store.url, error)
                self.last_error = f"{type(error).__name__}: {error}"[:300]
                return False
            finally:
                self._idle.set()
            for _ in batch:
                self._queue.popleft()
            self.last_error = None
        return True

    def _commit(self, batch: list[Record]) -> None:
        for kind, of_kind in (("decision", Decision), ("reward", Reward)):
            records = [record for record in batch if isinstance(record, of_kind)]
            rows = [row for number, record in enumerate(records) if (row := self._row(record, number)) is not None]
            if rows:
                self._write(kind, rows)

    def _write(self, kind: str, rows: list[dict[str, Any]]) -> None:
        """Write rows; when the store refuses them for what they are, one by one, so that only the bad ones are lost."""
        try:
            self.store.write(kind, rows)
        except Exception as error:
            if _is_the_stores_fault(error):
                raise
            if len(rows) > 1:
                for row in rows:
                    self._write(kind, [row])
                return
            self._lose(error)
            return
        self.written += len(rows)
        metrics.decisions_written().labels(kind).inc(len(rows))

    def _lose(self, error: Exception) -> None:
        self.dropped += 1
        metrics.decisions_dropped().labels("unwritable").inc()
        logger.warning("a decision record cannot be written and was dropped: %s", error)

    def _row(self, record: Record, number: int) -> dict[str, Any] | None:
        if number % BREATH == 0 and 2 * len(self._queue) < self._capacity:
            time.sleep(0)  # let go of the GIL: a request may be waiting, and would for 5 ms
        try:
            return record.row()
        except (TypeError, ValueError) as error:  # one record nobody can write must not hold up those behind it
            self._lose(error)
            return None


def _is_the_stores_fault(error: Exception) -> bool:
    """Whether another try may succeed: a database that is locked, full, gone; not a row that it cannot hold."""
    from sqlalchemy import exc

    if isinstance(error, exc.DataError | exc.IntegrityError):
        return False
    if isinstance(error, exc.InterfaceError | exc.ProgrammingError) and "bind" in str(error.orig).lower():
        return False
    return isinstance(error, exc.DBAPIError | OSError | DecisionStoreError)


_logs: dict[str, DecisionLog] = {}
_lock = threading.Lock()


def open_log(url: str) -> DecisionLog:
    """The log of a store, one per process; opened when a worker starts."""
    from guardrails.decisions.store import DecisionStore  # SQLAlchemy takes 0.6 s to import: not at import

    with _lock:
        log = _logs.get(url)
        if log is None or log._closing:  # noqa: SLF001
            log = _logs[url] = DecisionLog(DecisionStore(url))
        return log
