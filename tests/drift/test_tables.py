"""The workers' tables: sums exact whoever dies, cells that only grow, files of strangers passed over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from guardrails.drift.tables import ALIVE, HostTables, Table, Totals

SHAPE = (3, 18)
RNG = np.random.default_rng(0)


def some(seed):
    """Counts, distances and pairs of a flush."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, SHAPE), rng.random(SHAPE[0]), rng.integers(0, 9, SHAPE[0])


def test_a_table_holds_the_sum_of_what_was_added(tmp_path):
    """To the last count, and read through another mapping of the same file."""
    own = Table(tmp_path / "t_1.table", SHAPE, create=True)
    flushes = [some(seed) for seed in range(20)]
    for number, (counts, distances, pairs) in enumerate(flushes):
        own.add(counts, distances, pairs, number % 2)
    own.sign(7)
    for table in (own, Table(tmp_path / "t_1.table", SHAPE, create=False)):
        read = table.read(time.time_ns())
        np.testing.assert_array_equal(read.counts, sum(counts for counts, _, _ in flushes))
        np.testing.assert_allclose(read.distances, sum(distances for _, distances, _ in flushes), rtol=1e-13)
        np.testing.assert_array_equal(read.pairs, sum(pairs for _, _, pairs in flushes))
        assert (read.dropped, read.unreadable, read.workers, read.alive) == (7, 10, 1, 1)
        assert read.counts.dtype == np.int64


def test_what_was_read_does_not_change_afterwards(tmp_path):
    """A look is a copy."""
    own = Table(tmp_path / "t_1.table", SHAPE, create=True)
    before = own.read(0)
    own.add(*some(0), 0)
    assert before.counts.sum() == before.distances.sum() == before.pairs.sum() == 0


def test_a_reader_cannot_write(tmp_path):
    """Only its worker does."""
    Table(tmp_path / "t_1.table", SHAPE, create=True)
    other = Table(tmp_path / "t_1.table", SHAPE, create=False)
    with pytest.raises((ValueError, TypeError)):
        other.add(*some(0), 0)


def test_tables_of_large_counts_do_not_overflow(tmp_path):
    """A year of a million rows a second."""
    own = Table(tmp_path / "t_1.table", SHAPE, create=True)
    own.add(np.full(SHAPE, 10**17), np.full(3, 1e300), np.full(3, 10**17), 0)
    own.add(np.full(SHAPE, 1), np.zeros(3), np.full(3, 1), 0)
    assert int(own.read(0).counts.max()) == int(own.read(0).pairs.max()) == 10**17 + 1


@pytest.mark.parametrize("size", [0, 1, 7, 8 * (3 + 3 * 18 + 6) - 1, 8 * (3 + 3 * 18 + 6) + 1, 8 * (3 + 18 * 3)])
def test_a_file_of_another_size_is_refused(tmp_path, size):
    """Before anything of it is read."""
    (tmp_path / "t_1.table").write_bytes(bytes(size))
    with pytest.raises(ValueError, match="another size"):
        Table(tmp_path / "t_1.table", SHAPE, create=False)


def test_the_file_is_as_large_as_it_says(tmp_path):
    """Header, counts, pairs, distances, eight bytes each; nobody ever sees it shorter, and nothing else is left."""
    Table(tmp_path / "t_1.table", SHAPE, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["t_1.table"]
    assert (tmp_path / "t_1.table").stat().st_size == 8 * (3 + 3 * 18 + 2 * 3)


def test_strangers_files_are_passed_over(tmp_path):
    """Names like ours, contents like nothing; and our names with another stem."""
    host = HostTables(tmp_path, "t_", SHAPE)
    host.own.add(*some(1), 0)
    host.own.sign(0)
    (tmp_path / "t_9.table").write_bytes(b"no table")
    (tmp_path / "t_8.table").mkdir()
    (tmp_path / "t_7.table").symlink_to(tmp_path / "nowhere")
    (tmp_path / "t_6.new").write_bytes(bytes(8 * 63))
    (tmp_path / "t_ledger.npz").write_bytes(b"x")
    Table(tmp_path / "other_5.table", SHAPE, create=True).add(*some(2), 0)
    Table(tmp_path / "t_4.table", (4, 18), create=True).add(np.ones((4, 18), np.int64), np.ones(4), np.ones(4, int), 0)
    found = host.totals()
    np.testing.assert_array_equal(found.counts, some(1)[0])
    assert (found.workers, found.alive) == (1, 1)


def test_two_tables_of_one_process_are_two(tmp_path):
    """Closed and made again: what was counted before stays."""
    first = HostTables(tmp_path, "t_", SHAPE)
    first.own.add(*some(1), 0)
    second = HostTables(tmp_path, "t_", SHAPE)
    second.own.add(*some(2), 0)
    for host in (first, second):
        np.testing.assert_array_equal(host.totals().counts, some(1)[0] + some(2)[0])
        assert host.totals().workers == 2


def test_a_worker_without_a_sign_of_life_has_no_share_in_the_stream_but_its_counts_stay(tmp_path):
    """After ten seconds."""
    host = HostTables(tmp_path, "t_", SHAPE)
    host.own.add(*some(1), 0)
    assert (host.totals().workers, host.totals().alive) == (1, 0)
    host.own.sign(3)
    now = time.time_ns()
    assert host.totals().alive == 1
    assert host.own.read(now + int((ALIVE - 1) * 1e9)).alive == 1
    late = host.own.read(now + int((ALIVE + 1) * 1e9))
    assert (late.alive, late.workers, late.dropped) == (0, 1, 3)
    np.testing.assert_array_equal(late.counts, some(1)[0])


def test_since_is_what_came_after():
    """And never below nothing, whatever became of a file in between."""
    earlier, later = (Totals(*map(np.asarray, some(seed)), 1, 2, 3, 4) for seed in (1, 2))
    fresh = later.since(earlier)
    np.testing.assert_array_equal(fresh.counts, np.maximum(later.counts - earlier.counts, 0))
    np.testing.assert_array_equal(fresh.pairs, np.maximum(later.pairs - earlier.pairs, 0))
    assert (fresh.distances >= 0).all()
    assert later.since(later).rows == 0
    assert (fresh.workers, fresh.alive) == (3, 4)
    assert later.rows == later.counts[0].sum()


WORKERS = """
import os, sys, time, numpy as np
from pathlib import Path
from guardrails.drift.tables import HostTables
folder, shape, one = Path(sys.argv[1]), (30, 67), np.ones((30, 67), np.int64)
for number in range(int(sys.argv[2])):
    if os.fork() == 0:
        host = HostTables(folder, "t_", shape)
        for added in range(int(sys.argv[3]) or 10**9):
            host.own.add(one * (number + 1), np.full(30, 0.5), np.full(30, number + 1), 1)
            host.own.sign(number + 1)
        os._exit(0)
for _ in range(int(sys.argv[2])):
    os.wait()
"""


def run(folder, processes, flushes):
    """Real processes that add as fast as they can."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKERS, str(folder), str(processes), str(flushes)], start_new_session=True
    )


def test_the_sum_over_processes_is_exact(tmp_path):
    """Four processes, two thousand flushes each, at once: not one count more or less."""
    assert run(tmp_path, 4, 2000).wait(120) == 0
    found = HostTables(tmp_path, "t_", (30, 67)).totals()
    np.testing.assert_array_equal(found.counts, 2000 * (1 + 2 + 3 + 4))
    np.testing.assert_array_equal(found.pairs, 2000 * (1 + 2 + 3 + 4))
    np.testing.assert_allclose(found.distances, 2000 * 4 * 0.5)
    assert (found.unreadable, found.dropped, found.workers) == (8000, 1 + 2 + 3 + 4, 5)


def test_cells_only_grow_while_they_are_written_and_kill_9_loses_nothing_that_was_added(tmp_path):
    """Three processes killed in the middle of adding; a reader looks all the while."""
    group = run(tmp_path, 3, 0)
    host = HostTables(tmp_path, "t_", (30, 67))
    try:
        deadline = time.monotonic() + 60
        while host.totals().alive < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert host.totals().alive == 3
        last, moved = host.totals(), 0
        deadline = time.monotonic() + 30
        while moved < 40 and time.monotonic() < deadline:
            now = host.totals()
            assert (now.counts >= last.counts).all()
            assert (now.pairs >= last.pairs).all()
            assert (now.distances >= last.distances).all()
            assert now.unreadable >= last.unreadable
            moved += now.rows > last.rows
            last = now
        assert moved == 40
    finally:
        os.killpg(group.pid, signal.SIGKILL)
        group.wait(20)
    time.sleep(0.3)
    for path in Path(tmp_path).glob("t_*.table"):
        table = Table(path, (30, 67), create=False).read(time.time_ns())
        if not table.rows:
            continue  # the reader's own
        step, done = table.dropped, table.unreadable  # what its worker added at a time, and how often it has done so
        assert step in (1, 2, 3)
        assert set(np.unique(table.counts)) <= {step * done, step * (done + 1)}  # only the last may be half done
        assert set(np.unique(table.pairs)) <= {step * done, step * (done + 1)}
        assert set(np.unique(table.distances)) <= {0.5 * done, 0.5 * (done + 1)}
    final = host.totals()
    assert (final.counts >= last.counts).all()
    np.testing.assert_array_equal(final.counts, host.totals().counts)
