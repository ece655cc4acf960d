"""The sampler: a bounded queue of references, one flusher thread, one monotone table of counts per worker.

Memory: `CAPACITY` requests of one row each may wait, fewer where rows are so wide that these would take more than
`MEMORY` bytes; of a request of several rows only the picked one is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from guardrails.core import metrics
from guardrails.core.payload import Index, RowSet, counts_rows, take
from guardrails.core.shared_folder import shared_folder
from guardrails.drift.leader import Leader
from guardrails.drift.options import RUN_LENGTH, DriftOptions
from guardrails.drift.reading import Reader, Said, Sample, outputs
from guardrails.drift.tables import HostTables, Totals
from guardrails.errors import ProfileError
from guardrails.profile.bins import Codes, Counts
from guardrails.profile.profile import Profile
from guardrails.profile.serial import Neighbours

if TYPE_CHECKING:
    from guardrails.drift.fleet.exposition import Exposition

logger = logging.getLogger("guardrails")

CAPACITY = 4096
"""Requests that may wait for the flusher; each keeps its row and its answer alive until then."""
MEMORY = 64 << 20
"""Bytes that the waiting rows may take."""
LEAST_CAPACITY = 64
INTERVAL = 0.5
"""Seconds between two flushes, and about how long nobody leads after a leader was killed."""
ROUNDS = 4
"""Every so many flushes what was counted is published and judged: milliseconds that few requests should meet."""
FOLDER_VARIABLE = "GUARDRAILS_DRIFT_FOLDER"
PATIENCE = 6
"""How often a sampler that stops asks whether it may lead, 50 ms apart."""


class State(NamedTuple):
    """What has been counted, over all workers of this server."""

    counts: Counts
    rows: int
    dropped: int
    workers: int
    unreadable: int


class Sampler:
    """Counts sampled rows of one profile in the background; leads the host's workers, if nobody else does.

    Args:
        profile: the reference.
        folder: where the workers of one server leave their tables for each other.
        capacity: how many requests may wait; `CAPACITY` and `MEMORY` say how many by default.
        options: how drift is judged.
    """

    def __init__(
        self,
        profile: Profile,
        folder: Path | None = None,
        capacity: int | None = None,
        options: DriftOptions | None = None,
    ) -> None:
        self.profile, self.options = profile, options or DriftOptions()
        self._queue: deque[tuple[Any, Any, Index | None, int, str]] = deque()
        self._capacity = _capacity(len(profile.schema.features)) if capacity is None else capacity
        self._dropped = self._reported = 0  # written by requests, written by the flusher
        self._lock = threading.Lock()
        folder, stem = folder or _folder(), f"guardrails_drift_{stream_of(profile)}_"
        self._tables = HostTables(folder, stem, profile.bins.counts.shape)  # type: ignore[arg-type]
        self._reader, self._neighbours = Reader(profile), Neighbours(profile.bins)
        self._before: Codes | None = None
        self.leader = Leader(profile, self.options, folder, stem, self._tables.examples)
        self._exposition: Exposition | None = None
        self._unpublished = profile.bins.empty()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guardrails-drift", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it has been told to stop."""
        return self._closing.is_set()

    def offer(self, rows: Any, answer: Any, answered: Index | None, pick: int, decision: str = "") -> None:
        """Take references to one request; full means dropped and counted. Runs on the request: an append."""
        if len(self._queue) >= self._capacity:
            self._dropped += 1
            return
        self._queue.append(
            (rows, answer, answered, pick, decision)
        )  # a plain tuple: a Sample takes three times as long

    def flush(self) -> State:
        """Count what waits; what all workers of this server have counted so far."""
        with self._lock:
            waiting = [Sample._make(self._queue.popleft()) for _ in range(len(self._queue))]
            if waiting:
                self._count(waiting)
            self._tables.own.sign(self._dropped)
        return self.state()

    def state(self) -> State:
        """The sum over all workers' tables."""
        found = self.totals()
        return State(found.counts, found.rows, found.dropped, found.workers, found.unreadable)

    def totals(self) -> Totals:
        """The same, with what is known of neighbouring rows."""
        return self._tables.totals()

    def judge(self) -> None:
        """Lead, if nobody else does: weigh what all workers have counted."""
        with self._lock:
            if self.leader.elect():
                self.leader.tick(self._tables.totals())

    def publish(self) -> None:
        """Add what was counted to the metrics."""
        with self._lock:
            if self._exposition is not None:
                self._exposition.add(self._unpublished)
                self._unpublished[:] = 0

    def close(self) -> None:
        """Count what waits, judge it, and stop."""
        self._closing.set()
        self._thread.join(2.0)
        self.leader.close()
        self._safely(self._last_judgement)
        self.leader.close()

    def _last_judgement(self) -> None:
        """Whoever stops last weighs what all have counted, also where several stop at the same time."""
        for _ in range(PATIENCE):
            self.judge()
            ledger = self.leader.ledger()
            if ledger is not None and ledger.weighed.rows >= self.totals().rows:
                return
            time.sleep(0.05)

    def _run(self) -> None:
        self._safely(self._expose)
        rounds = 0
        while not self._closing.wait(INTERVAL):
            rounds += 1
            self._round(all_of_it=rounds % ROUNDS == 0)
        self._round(all_of_it=True)

    def _round(self, *, all_of_it: bool = True) -> None:
        self._safely(self.flush)
        if all_of_it:
            self._safely(self.publish)
        if all_of_it or not self.leader.leads:
            self._safely(self.judge)
        unreported = self._dropped - self._reported
        if unreported:
            metrics.drift_dropped().labels(self.profile.digest).inc(unreported)
            self._reported += unreported

    def _safely(self, step: Any) -> None:
        try:
            step()
        except Exception:  # the thread outlives whatever one sample, or one file, did to it
            logger.exception("drift: %s failed and was passed over", step.__name__.strip("_"))

    def _expose(self) -> None:
        from guardrails.drift.fleet.exposition import Exposition

        seconds = RUN_LENGTH if self.options.in_rows else self.options.run_length
        exposition = Exposition(self.profile, run_length_seconds=seconds)
        with self._lock:
            self._exposition = exposition

    def _count(self, waiting: list[Sample]) -> None:
        codes, decisions = self._reader.codes(waiting)
        unreadable = len(waiting) - len(codes)
        counts = self.profile.bins.tally(codes)
        distances, pairs = np.zeros(codes.shape[1]), np.zeros(codes.shape[1], np.int64)
        if len(codes):
            distances, pairs = self._neighbours.distances(codes, self._before)
            self._before = codes[-1]
            self._tables.recent.add(decisions, codes)
        self._tables.own.add(counts, distances, pairs, unreadable)
        metrics.drift_rows().labels(self.profile.digest).inc(len(codes))
        if unreadable:
            metrics.drift_unreadable().labels(self.profile.digest).inc(unreadable)
        self._unpublished += counts


def stream_of(profile: Profile) -> str:
    """Names the stream that a profile watches (12 hex digits): the same in every worker.

    By what is watched and compared, not by the profile's digest: one that each worker fits for itself at import, alike,
    is one stream all the same, although each was made at another time.
    """
    name = f"{profile.bins.ref} {profile.model} {profile.tag} {profile.outliers.alpha}"
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _capacity(width: int) -> int:
    return max(LEAST_CAPACITY, min(CAPACITY, MEMORY // (8 * width)))


def of_one_row(rows: RowSet, answer: Any, at: int) -> tuple[RowSet, Any]:
    """One row of a request of several, and its answer, so that the others need not wait for the flusher.

    Args:
        rows: of the request.
        answer: to it; None where the picked row has none. One that does not go by rows is read now.
        at: which row.
    """
    n = len(rows)
    moved = tuple(replace(p, row=None if p.row is None else 0) for p in rows.problems if p.row in (None, at))
    index = np.array([at])
    picked = RowSet(rows.matrix[index], rows.single, moved)
    if answer is None:
        return picked, None
    return picked, take(answer, index) if counts_rows(answer, n) else Said(outputs(answer, at, n))


def _folder() -> Path:
    """The server's shared folder; ``GUARDRAILS_DRIFT_FOLDER`` names another, empty when it starts, on a local disk."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)
        return Path(named)
    return shared_folder()


_samplers: dict[str, Sampler] = {}
_samplers_lock = threading.Lock()


def sampler_of(profile: Profile, options: DriftOptions | None = None) -> Sampler:
    """The sampler of a profile, one per process, started at first use.

    Args:
        profile: whose.
        options: how drift is judged; None takes what another one asked for.

    Raises:
        ProfileError: another one asked for something else.
    """
    with _samplers_lock:
        name = stream_of(profile)
        known = _samplers.get(name)
        if known is None or known.closed:
            known = _samplers[name] = Sampler(profile, options=options)
        elif options is not None and options != known.options:
            raise ProfileError(
                f"sample_drift with {profile.tag or 'the same profile'} says two things of how drift is judged: "
                f"{known.options} and {options}. One profile is one watched stream: say the same in each."
            )
        return known


def samplers() -> list[Sampler]:
    """All samplers of this process that are running."""
    with _samplers_lock:
        return [sampler for sampler in _samplers.values() if not sampler.closed]


if hasattr(os, "register_at_fork"):  # a child has neither the flusher thread nor the right to write its parent's table
    os.register_at_fork(after_in_child=_samplers.clear)
