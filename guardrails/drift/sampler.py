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
import numpy.typing as npt

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
        self._queue: deque[tuple[Any, Any, Index | None, int]] = deque()
        self._capacity = capacity
        self._counts = profile.bins.empty()
        self._dropped = self._reported = 0  # written by requests, written by the flusher
        self._lock = threading.Lock()
        self._folder = folder or _shared_folder()
        self._stem = f"guardrails_drift_{profile.digest}_"
        # Not the process id alone: a sampler that is closed and made again must not overwrite what was counted before.
        self._path = self._folder / f"{self._stem}{os.getpid()}_{time.time_ns()}.npy"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guardrails-drift", daemon=True)
        self._thread.start()

    def offer(self, rows: Any, answer: Any, answered: Index | None, pick: int) -> None:
        """Take a reference to one request; full means dropped and counted. Runs on the request: an append."""
        if len(self._queue) >= self._capacity:
            self._dropped += 1
            return
        self._queue.append((rows, answer, answered, pick))  # a plain tuple: a Sample takes three times as long

    def flush(self) -> State:
        """Count what waits, publish it, and read what all workers of this server have counted."""
        with self._lock:
            waiting = [Sample._make(self._queue.popleft()) for _ in range(len(self._queue))]
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
            saved = _load(path, counts.size + 1)
            if saved is not None:
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
        alike, others = _sorted_out(samples)
        tables, unanswered = [], 0
        if alike:
            outputs = answers.columns(np.concatenate([sample.answer for sample in alike]), len(alike)) or {}
            table = np.full((len(alike), len(self.profile.bins.names)), np.nan)
            width = len(self.profile.schema.features)
            table[:, :width] = np.concatenate([sample.rows.matrix for sample in alike])
            for column, name in enumerate(self.profile.bins.names[width:], start=width):
                table[:, column] = outputs.get(name, np.nan)
            tables.append(table)
        for number, sample in enumerate(others):
            if number % BREATH == 0:
                time.sleep(0)  # let go of the GIL: a request may be waiting, and would for 5 ms
            try:
                row, answered = self._row(sample)
            except Exception:  # one sample that nobody can read costs no other
                logger.exception("a sampled request could not be read for drift and was passed over")
                continue
            if row is not None:
                tables.append(row[None])
                unanswered += not answered
        return np.concatenate([np.empty((0, len(self.profile.bins.names))), *tables]), unanswered

    def _row(self, sample: Sample) -> tuple[npt.NDArray[np.float64] | None, bool]:
        """One row of one request, and whether the model answered it; None where the request holds no such row."""
        names, width = self.profile.bins.names, len(self.profile.schema.features)
        rows = sample.rows if isinstance(sample.rows, RowSet) else read(sample.rows, self.profile.layout)
        at = sample.pick % len(rows)
        bad = rows.rows_with_problems()
        if bad is None or bad[at]:
            return None, False
        row = np.full(len(names), np.nan)
        row[:width] = rows.matrix[at]
        outputs = None
        if sample.answer is not None and (sample.answered is None or at in sample.answered):
            outputs = _outputs(sample.answer, at, len(rows))
        for column, name in enumerate(names[width:], start=width):
            row[column] = (outputs or {}).get(name, np.nan)
        return row, outputs is not None

    def _publish(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, np.append(self._counts.ravel(), self._dropped))
        temporary.replace(self._path)


def _sorted_out(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Requests of one plain row answered with one array row of the same shape, which are read at once; and the rest."""
    alike: list[Sample] = []
    others: list[Sample] = []
    shape: tuple[int, ...] | None = None
    for sample in samples:
        rows, answer = sample.rows, sample.answer
        plain = isinstance(rows, RowSet) and not rows.problems and len(rows.matrix) == 1
        if plain and isinstance(answer, np.ndarray) and answer.dtype.kind == "f" and answer.shape[:1] == (1,):
            shape = shape or answer.shape
            (alike if answer.shape == shape else others).append(sample)
        else:
            others.append(sample)
    return alike, others


def _load(path: Path, size: int) -> Counts | None:
    """A worker's table; None where the file is none (its worker was killed while it wrote its first one)."""
    try:
        saved = np.load(path, allow_pickle=False)
    except Exception:  # noqa: BLE001  # NumPy has many ways of saying that a file is broken
        return None
    usable = isinstance(saved, np.ndarray) and saved.shape == (size,) and saved.dtype == np.int64
    return saved if usable else None


def _outputs(answer: Any, at: int, n: int) -> dict[str, float] | None:
    """What the model said of one of ``n`` rows."""
    columns = answers.columns(answer, n)
    if columns is not None:
        return {name: float(column[at]) for name, column in columns.items()}
    if n > 1 and isinstance(answer, list | tuple | np.ndarray) and len(answer) == n:
        # Some other row was answered by a fallback, with something else.
        columns = answers.columns(answer[at : at + 1], 1)
    return None if columns is None else {name: float(column[0]) for name, column in columns.items()}


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


def samplers() -> list[Sampler]:
    """All samplers of this process that are running."""
    with _samplers_lock:
        return [sampler for sampler in _samplers.values() if not sampler._closing.is_set()]  # noqa: SLF001
