"""The workers' tables of counts: one memory-mapped file each, which only its worker writes and everybody reads.

The pages of a mapped file belong to the system, not to the process: what a worker has counted is there after it was
killed, without a write having been asked for. Every cell only grows, so a reader that comes between two writes sees a
little less, never something wrong; it sees the rest the next time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guardrails.profile.bins import Codes, Counts

Floats = npt.NDArray[np.float64]

ALIVE = 10.0
"""Seconds without a sign of life after which a worker no longer has a share in the stream."""
EXAMPLES = 256
"""Recent rows of each worker whose decisions an alarm may name."""
SHOWN_EXAMPLES = 20
_ID = 48
_HEADER = 3  # rows dropped, rows unreadable, last sign of life (ns)


@dataclass(frozen=True)
class Totals:
    """What has been counted.

    Attributes:
        counts: shape ``(f, bins)``.
        distances: of neighbouring rows in one worker's stream, summed, shape ``(f,)``.
        pairs: how many there were, shape ``(f,)``.
        dropped: requests that found the queue full.
        unreadable: requests that nobody could read as rows.
        workers: how many tables there are, of the living and the dead.
        alive: how many workers are at work.
    """

    counts: Counts
    distances: Floats
    pairs: npt.NDArray[np.int64]
    dropped: int = 0
    unreadable: int = 0
    workers: int = 0
    alive: int = 0

    @property
    def rows(self) -> int:
        """Sampled rows counted."""
        return int(self.counts[0].sum())

    def since(self, earlier: Totals) -> Totals:
        """What was counted after an earlier look."""
        return Totals(
            np.maximum(self.counts - earlier.counts, 0),
            np.maximum(self.distances - earlier.distances, 0.0),
            np.maximum(self.pairs - earlier.pairs, 0),
            workers=self.workers,
            alive=self.alive,
        )


class Table:
    """One worker's table.

    Args:
        path: its file; made, if it is not there.
        shape: of the counts, ``(f, bins)``.
        create: whether it is this process's own.
    """

    def __init__(self, path: Path, shape: tuple[int, int], *, create: bool) -> None:
        self.path = path
        features, bins = shape
        size = _HEADER + features * bins + 2 * features
        if create:
            temporary = path.with_suffix(".new")
            temporary.write_bytes(bytes(8 * size))
            temporary.replace(path)  # nobody ever sees a file that is too short
        elif path.stat().st_size != 8 * size:
            raise ValueError(f"{path} has another size than a table of {shape}")
        self._size = 8 * size
        cells = np.memmap(path, np.int64, "r+" if create else "r", shape=(size,))
        self._header = cells[:_HEADER]
        self.counts: Counts = cells[_HEADER : _HEADER + features * bins].reshape(shape)
        self.pairs: npt.NDArray[np.int64] = cells[-2 * features : -features]
        self.distances: Floats = cells[-features:].view(np.float64)
        self._seen = Totals(np.zeros(shape, np.int64), np.zeros(features), np.zeros(features, np.int64), workers=1)

    def add(self, counts: Counts, distances: Floats, pairs: npt.NDArray[np.int64], unreadable: int) -> None:
        """Add what was counted."""
        self.counts += counts
        self.pairs += pairs
        self.distances += distances
        self._header[1] += unreadable

    def sign(self, dropped: int) -> None:
        """Leave a sign of life, and how many requests found the queue full so far."""
        self._header[0] = dropped
        self._header[2] = time.time_ns()

    def read(self, now_ns: int) -> Totals:
        """What this worker has counted; what was last seen of it, once somebody has replaced or cut its file."""
        if self._intact():
            alive = now_ns - int(self._header[2]) < ALIVE * 1e9
            self._seen = Totals(
                np.array(self.counts),
                np.array(self.distances),
                np.array(self.pairs),
                int(self._header[0]),
                int(self._header[1]),
                1,
                int(alive),
            )
        return self._seen

    def _intact(self) -> bool:
        """Whether its pages may be touched: those of a file that was cut short would kill this process."""
        try:
            return self.path.stat().st_size == self._size
        except FileNotFoundError:
            return True  # they stay for as long as they are mapped


class Recent:
    """One worker's latest rows: when, whose decision, and which bins; a memory-mapped ring, as the table is.

    A reader that comes while a row is written may see parts of two: good enough for examples, and for nothing else.

    Args:
        path: its file; made, if it is not there.
        features: how many columns a row has.
        create: whether it is this process's own.
    """

    def __init__(self, path: Path, features: int, *, create: bool) -> None:
        row = np.dtype([("at", np.int64), ("id", f"S{_ID}"), ("codes", np.int8, (features,))])
        size = EXAMPLES * row.itemsize
        if create:
            temporary = path.with_suffix(".new")
            temporary.write_bytes(bytes(size))
            temporary.replace(path)
        elif path.stat().st_size != size:
            raise ValueError(f"{path} has another size than rows of {features} columns")
        self._rows = np.memmap(path, row, "r+" if create else "r", shape=(EXAMPLES,))
        self._next = 0

    def add(self, decisions: list[str], codes: Codes) -> None:
        """Add rows, in order; the oldest ones give way."""
        decisions, codes = decisions[-EXAMPLES:], codes[-EXAMPLES:]
        at = (self._next + np.arange(len(decisions))) % EXAMPLES
        new = np.zeros(len(decisions), self._rows.dtype)
        new["at"] = time.time_ns() + np.arange(len(decisions))  # one after the other
        new["id"], new["codes"] = [decision.encode() for decision in decisions], codes
        self._rows[at] = new
        self._next = int((self._next + len(decisions)) % EXAMPLES)

    def within(self, wanted: Mapping[int, list[int]]) -> list[tuple[int, str]]:
        """When and whose, of rows that lie in any of these bins, by column."""
        rows = np.array(self._rows)
        hit = np.zeros(len(rows), dtype=bool)
        for column, bins in wanted.items():
            hit |= np.isin(rows["codes"][:, column], bins)
        chosen = rows[hit & (rows["id"] != b"")]
        return [(int(row["at"]), row["id"].decode()) for row in chosen]


class HostTables:
    """The tables of all workers of one server, for one profile.

    Args:
        folder: where they are.
        stem: how the names of their files begin.
        shape: of the counts, ``(f, bins)``.
    """

    def __init__(self, folder: Path, stem: str, shape: tuple[int, int]) -> None:
        self._folder, self._stem, self._shape = folder, stem, shape
        # Not the process id alone: a sampler that is closed and made again must not overwrite what was counted before.
        own = folder / f"{stem}{os.getpid()}_{time.time_ns()}.table"
        self.own = Table(own, shape, create=True)
        self.recent = Recent(own.with_suffix(".recent"), shape[0], create=True)
        self._open = {self.own.path: self.own}

    def totals(self) -> Totals:
        """The sum over all workers."""
        features, bins = self._shape
        counts, now = np.zeros((features, bins), np.int64), time.time_ns()
        distances, pairs = np.zeros(features), np.zeros(features, np.int64)
        dropped = unreadable = workers = alive = 0
        for table in self._tables():
            found = table.read(now)
            counts += found.counts
            distances += found.distances
            pairs += found.pairs
            dropped, unreadable = dropped + found.dropped, unreadable + found.unreadable
            workers, alive = workers + 1, alive + found.alive
        return Totals(counts, distances, pairs, dropped, unreadable, workers, alive)

    def examples(self, wanted: Mapping[int, list[int]]) -> tuple[str, ...]:
        """Decision ids of recent rows of all workers that lie in any of these bins, latest first."""
        found: list[tuple[int, str]] = []
        for path in self._folder.glob(f"{self._stem}*.recent"):
            with contextlib.suppress(OSError, ValueError):  # somebody else's file of a name like ours
                found += Recent(path, self._shape[0], create=False).within(wanted)
        return tuple(decision for _, decision in sorted(found, reverse=True)[:SHOWN_EXAMPLES])

    def _tables(self) -> list[Table]:
        for path in self._folder.glob(f"{self._stem}*.table"):
            if path not in self._open:
                try:
                    self._open[path] = Table(path, self._shape, create=False)
                except (OSError, ValueError):  # somebody else's file of a name like ours
                    continue
        return list(self._open.values())
