"""The sampler: a bounded queue of references, one flusher thread, one monotone table of counts per worker."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guardrails.core import metrics
from guardrails.core.payload import Index, RowSet, read
from guardrails.profile import answers
from guardrails.profile.bins import Counts
from guardrails.profile.profile import Profile
from guardrails.typing import Rows

logger = logging.getLogger("guardrails")

CAPACITY = 4096
"""Requests that may wait for the flusher; each keeps its payload alive until then."""
BREATH = 32
"""Requests read in one go: how long a request may have to wait for the flusher."""
INTERVAL = 0.5
"""Seconds between two flushes."""


class Sample(NamedTuple):
    """References to what one request brought and got; read later, by the flusher."""

    rows: Any
    answer: Any
    answered: Index | None
    pick: int


class State(NamedTuple):
    """What has been counted, over all workers of this server."""

    counts: Counts
    rows: int
    dropped: int
    workers: int


class Sampler:
    """Counts sampled rows of one profile in the background.

    Args:
        profile: the reference.
        folder: where the workers of one server leave their tables for each other.
        capacity: how many requests may wait.
    """

    def __init__(self, profile: Profile, folder: Path | None = None, capacity: int = CAPACITY) -> None:
        self.profile = profile
        self._queue: deque[Sample] = deque()
        self._capacity = capacity
        self._counts = profile.bins.empty()
        self._dropped = self._reported = 0  # written by requests, written by the flusher
        self._lock = threading.Lock()
        self._folder = folder or _shared_folder()
        self._stem = f"guardrails_drift_{profile.digest}_"
        self._path = self._folder / f"{self._stem}{os.getpid()}.npy"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guardrails-drift", daemon=True)
        self._thread.start()

    def offer(self, rows: Any, answer: Any, answered: Index | None, pick: int) -> None:
        """Take a reference to one request; full means dropped and counted. Runs on the request: an append."""
        if len(self._queue) >= self._capacity:
            self._dropped += 1
            return
        self._queue.append(Sample(rows, answer, answered, pick))

    def flush(self) -> State:
        """Count what waits, publish it, and read what all workers of this server have counted."""
        with self._lock:
            waiting = [self._queue.popleft() for _ in range(len(self._queue))]
            if waiting:
                table, unanswered = self._table(waiting)
                self._counts += self.profile.bins.count(table)
                # A request the model did not answer has inputs, but no output that could be missing.
                self._counts[len(self.profile.schema.features) :, -1] -= unanswered
                metrics.drift_rows().labels(self.profile.digest).inc(len(table))
                self._publish()
        return self.state()

    def state(self) -> State:
        """The sum over all workers' tables (this one's as last published)."""
        counts, dropped, workers = self.profile.bins.empty(), 0, 0
        for path in self._folder.glob(f"{self._stem}*.npy"):
            try:
                saved = np.load(path, allow_pickle=False)
            except (OSError, ValueError):  # a worker was killed while it started to write its first one
                continue
            counts += saved[:-1].reshape(counts.shape)
            dropped += int(saved[-1])
            workers += 1
        return State(counts, int(counts[0].sum()), dropped, workers)

    def close(self) -> None:
        """Count what waits and stop."""
        self._closing.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL):
            self._flush_safely()
        self._flush_safely()

    def _flush_safely(self) -> None:
        try:
            self.flush()
        except Exception:  # the thread outlives whatever one sample did to it
            logger.exception("sampled rows could not be counted for drift and were passed over")
        unreported = self._dropped - self._reported
        if unreported:
            metrics.drift_dropped().labels(self.profile.digest).inc(unreported)
            self._reported += unreported

    def _table(self, samples: list[Sample]) -> tuple[Rows, int]:
        """One row per request: its features, then its outputs; and how many requests have no outputs."""
        bins = self.profile.bins
        width = len(self.profile.schema.features)
        table = np.full((len(samples), len(bins.names)), np.nan)
        unanswered = 0
        for at, sample in enumerate(samples):
            if at % BREATH == 0:
                time.sleep(0)  # let go of the GIL: a request may be waiting, and would for 5 ms
            rows = sample.rows if isinstance(sample.rows, RowSet) else read(sample.rows, self.profile.layout)
            row = sample.pick % len(rows)
            table[at, :width] = rows.matrix[row]
            outputs = None
            if sample.answer is not None and (sample.answered is None or row in sample.answered):
                outputs = answers.columns(*_entry(sample.answer, row, len(rows)))
            if outputs is None:
                unanswered += 1
                continue
            for column, name in enumerate(bins.names[width:], start=width):
                if name in outputs:
                    table[at, column] = outputs[name][0]
        return table, unanswered

    def _publish(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, np.append(self._counts.ravel(), self._dropped))
        temporary.replace(self._path)


def _entry(answer: Any, row: int, n: int) -> tuple[Any, int]:
    """The answer to one of ``n`` rows, still with its row axis where it has one."""
    return (answer[row : row + 1] if isinstance(answer, list | np.ndarray) and len(answer) == n else answer), 1


def _shared_folder() -> Path:
    # BentoML empties this folder whenever a server starts and shares it among the workers: just what tables need.
    known = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(known) if known and Path(known).is_dir() else Path(tempfile.mkdtemp(prefix="guardrails-"))


_samplers: dict[str, Sampler] = {}
_samplers_lock = threading.Lock()


def sampler_of(profile: Profile) -> Sampler:
    """The sampler of a profile, one per process, started at first use."""
    with _samplers_lock:
        known = _samplers.get(profile.digest)
        if known is None or known._closing.is_set():  # noqa: SLF001
            known = _samplers[profile.digest] = Sampler(profile)
        return known
