"""The leader: elected by the system, replaced when it dies, and what it knows outlives it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import guardrails as gr
from guardrails.drift import leader as module
from guardrails.drift.alarm import Alarm, Finding
from guardrails.drift.leader import HostLock, Leader
from guardrails.drift.ledger import MAX_ALARMS, MAX_HISTORY, Ledger
from guardrails.drift.options import DAY, DriftOptions
from guardrails.drift.tables import Table, Totals
from guardrails.profile.serial import Neighbours

STEM = "guardrails_drift_test_"


@pytest.fixture(scope="module")
def profile():
    """Three numbers, 3,000 rows."""
    return gr.Profile.fit(np.random.default_rng(0).normal(size=(3000, 3)), feature_names=["a", "b", "c"], alpha=0.05)


class Clock:
    """A clock that is put by hand."""

    def __init__(self):
        self.now, self._ns = 1_000_000.0, 0

    def time(self):
        return self.now

    def time_ns(self):
        self._ns += 1
        return int(self.now * 1e9) + self._ns


@pytest.fixture
def clock(monkeypatch):
    """The leader's clock."""
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def fired(monkeypatch):
    """What was set off."""
    got = []
    monkeypatch.setattr(module, "fire", lambda trigger, alarm: got.append(alarm))
    return got


class Host:
    """A stream of rows as the workers of a host would count it, and leaders that weigh it."""

    def __init__(self, profile, folder):
        self.profile, self.folder = profile, folder
        self._rng, self._neighbours, self._before = np.random.default_rng(1), Neighbours(profile.bins), None
        f = len(profile.bins.names)
        self.totals = Totals(profile.bins.empty(), np.zeros(f), np.zeros(f, np.int64), workers=1, alive=1)
        self._leaders = []

    def rows(self, n, shift=0.0, column=1, slow=0.0):
        """Count some."""
        rows = self._rng.normal(size=(n, 3))
        for row in range(1, n if slow else 0):
            rows[row] = slow * rows[row - 1] + np.sqrt(1 - slow**2) * rows[row]
        rows[:, column] += shift
        codes = self.profile.bins.codes(np.column_stack([rows, self._rng.random(n) < 0.05]))
        distances, pairs = self._neighbours.distances(codes, self._before)
        self._before, t = codes[-1], self.totals
        counts = t.counts + self.profile.bins.tally(codes)
        self.totals = Totals(counts, t.distances + distances, t.pairs + pairs, workers=1, alive=1)
        return self.totals

    def leader(self, run_length=5000.0, in_rows=True, **options):
        """Another one, as another process would have it."""
        self._leaders.append(
            Leader(
                self.profile, DriftOptions(run_length, in_rows, **options), self.folder, STEM, lambda _: ("d1", "d2")
            )
        )
        return self._leaders[-1]

    def weigh(self, leader, ticks=1, n=50, **how):
        """Some ticks of rows."""
        for _ in range(ticks):
            leader.tick(self.rows(n, **how))
        return leader.ledger()

    def until_alarm(self, leader, **how):
        """Ticks until there is one more alarm, or the last one again."""
        ledger = leader.ledger()
        before = sum(alarm.times for alarm in ledger.alarms) if ledger else 0
        for _ in range(100):
            ledger = self.weigh(leader, **{"shift": 1.0, **how})
            if sum(alarm.times for alarm in ledger.alarms) > before:
                return ledger
        raise AssertionError("no alarm")

    def saved(self):
        """What the next leader would find."""
        return Ledger.load(self.folder / f"{STEM}ledger.npz")


@pytest.fixture
def host(profile, tmp_path):
    """A host of its own, all of whose leaders end with it."""
    made = Host(profile, tmp_path)
    yield made
    for leader in made._leaders:
        leader.close()


# Election


def test_one_of_many_leads(host):
    """The first; the others see what it writes and write nothing."""
    first, second, third = (host.leader() for _ in range(3))
    for leader in (first, second, third):
        leader.tick(host.rows(10))
    assert [leader.leads for leader in (first, second, third)] == [True, False, False]
    assert second.ledger().weighed.rows == 10
    assert third.ledger().pid == os.getpid()
    assert first.ledger().weighed.rows == 10


def test_before_the_first_tick_there_is_no_ledger(host):
    """Neither for who will lead nor for the others."""
    assert host.leader().ledger() is None


def test_who_leaves_is_replaced_and_its_ledger_is_taken_up(host):
    """Nothing is weighed twice, nothing is lost, and the evidence goes on from where it was."""
    first, second, alone = host.leader(run_length=1e9), host.leader(run_length=1e9), None
    host.weigh(first, 5, shift=0.1)
    first.close()
    host.weigh(second, 5, shift=0.1)
    assert (first.leads, second.leads) == (False, True)
    ledger = host.saved()
    np.testing.assert_array_equal(ledger.weighed.counts, host.totals.counts)
    np.testing.assert_array_equal(ledger.watch["window"], host.totals.counts)
    assert float(ledger.watch["clock"]) == 500.0
    alone = Host(host.profile, host.folder / "alone")
    alone.folder.mkdir()
    alone.weigh(alone.leader(run_length=1e9), 10, shift=0.1)
    np.testing.assert_allclose(alone.saved().watch["log_evidence"], ledger.watch["log_evidence"])


def test_who_leads_again_goes_on_from_what_the_others_wrote_not_from_what_it_remembers(host):
    """A closed sampler whose thread comes round once more, or a lock lost in a fork."""
    first, second = host.leader(run_length=1e9), host.leader(run_length=1e9)
    host.weigh(first, 3)
    first.close()
    host.weigh(second, 3)
    second.command("acknowledge")
    host.weigh(second, 1)
    second.close()
    host.weigh(first, 2)
    assert first.leads
    ledger = host.saved()
    np.testing.assert_array_equal(ledger.weighed.counts, host.totals.counts)
    np.testing.assert_array_equal(ledger.watch["window"], host.totals.counts)
    assert ledger.answer.startswith("acknowledge done")


class KilledError(BaseException):
    """kill -9, as far as a test can."""


def dies_in(monkeypatch, name):
    """The leader dies when it comes to this step."""

    def dies(*_):
        raise KilledError

    monkeypatch.setattr(Leader, name, dies)


@pytest.mark.parametrize("step", ["_save", "_weigh", "_tell", "_raise"])
def test_a_leader_that_dies_at_any_step_leaves_each_row_weighed_once(host, monkeypatch, step):
    """Whatever was not yet written is weighed by the next one, and nothing else."""
    run_length = 1e9 if step not in ("_tell", "_raise") else 200.0
    first = host.leader(run_length)
    host.weigh(first, 3)
    with monkeypatch.context() as patched:
        dies_in(patched, step)
        try:
            host.weigh(first, 10, shift=3.0)
        except KilledError:
            pass
        else:
            raise AssertionError("it did not die")
    first.close()
    second = host.leader(run_length)
    second.tick(host.totals)
    host.weigh(second, 2)
    ledger = host.saved()
    np.testing.assert_array_equal(ledger.weighed.counts, host.totals.counts)
    if not ledger.alarms:  # an alarm begins a new window
        np.testing.assert_array_equal(ledger.watch["window"], host.totals.counts)


def test_an_alarm_is_told_at_least_once(host, monkeypatch, fired, caplog):
    """A leader that dies between writing it down and telling leaves it to the next one, also without new rows."""
    first = host.leader(run_length=500.0, on_alarm=print)
    with monkeypatch.context() as patched:
        dies_in(patched, "_tell")
        with pytest.raises(KilledError):
            host.weigh(first, 30, shift=1.0)
    assert fired == []
    assert len(host.saved().untold) == 1
    first.close()
    second = host.leader(run_length=500.0, on_alarm=print)
    with caplog.at_level(logging.WARNING, logger="guardrails"):
        second.tick(host.totals)
    assert [alarm.id for alarm in fired] == [alarm.id for alarm in host.saved().alarms]
    assert fired[0].id in caplog.text
    assert host.saved().untold == []
    second.tick(host.totals)
    assert len(fired) == 1


def test_a_command_is_obeyed_although_the_leader_dies_over_it(host, monkeypatch):
    """What somebody was told would be done is done by the next one."""
    first = host.leader(run_length=500.0)
    host.until_alarm(first)
    first.command("acknowledge")
    with monkeypatch.context() as patched:
        dies_in(patched, "_save")
        with pytest.raises(KilledError):
            first.tick(host.totals)
    first.close()
    second = host.leader(run_length=500.0)
    second.tick(host.totals)
    assert second.ledger().active == []


PROCESSES = """
import os, sys, time, numpy as np, guardrails as gr
from pathlib import Path
from guardrails.drift import Sampler
from guardrails.drift.options import DriftOptions
where, folder, number, run_length = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
profile = gr.Profile.load(where)
def told(alarm):
    with open(folder / "told", "a") as file:
        file.write(f"{os.getpid()} {alarm.features[0]}\\n")
for worker in range(number):
    if os.fork() == 0:
        rng, shift = np.random.default_rng(worker), 0.0
        sampled = Sampler(profile, folder, options=DriftOptions(run_length, True, told))
        while not (folder / "stop").exists():
            shift = 1.0 if (folder / "shift").exists() else 0.0
            for row in rng.normal(size=(10, 3)) + [0.0, shift, 0.0]:
                sampled.offer(row[None], None, None, 0)
            time.sleep(0.02)
        sampled.close()
        os._exit(0)
for _ in range(number):
    os.wait()
"""


def until(condition, seconds, what):
    """Wait for something; what it was, and how long it took."""
    begun = time.monotonic()
    while not (found := condition()):
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
    return found, time.monotonic() - begun


class Workers:
    """Real worker processes, each with a sampler and its thread."""

    def __init__(self, profile, tmp_path, number, run_length):
        self.folder = tmp_path / "shared"
        self.folder.mkdir()
        where = tmp_path / "profile"
        where.mkdir()
        document, arrays = profile._document()
        (where / "profile.json").write_text(json.dumps(document))
        (where / "arrays.npz").write_bytes(arrays)
        self._shape = profile.bins.counts.shape
        arguments = [str(where), str(self.folder), str(number), str(run_length)]
        self._group = subprocess.Popen([sys.executable, "-c", PROCESSES, *arguments], start_new_session=True)

    def ledger(self):
        return next(map(Ledger.load, self.folder.glob("*_ledger.npz")), None)

    def counted(self):
        """The sum of all tables, read without having one."""
        tables = [Table(path, self._shape, create=False) for path in self.folder.glob("*.table")]
        return sum(table.read(0).counts for table in tables)

    def kill_leader(self):
        """With signal 9; who leads then, and after how long."""
        dead = self.ledger().pid
        os.kill(dead, signal.SIGKILL)
        return until(lambda: (pid := self.ledger().pid) != dead and pid, 20, "another leader")

    def stop(self):
        (self.folder / "stop").touch()
        self._group.wait(30)

    def end(self):
        if self._group.poll() is None:
            os.killpg(self._group.pid, signal.SIGKILL)
            self._group.wait(20)


@pytest.fixture
def workers(profile, tmp_path):
    """Makes them, and ends them all."""
    made = []

    def make(number, run_length):
        made.append(Workers(profile, tmp_path, number, run_length))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_a_killed_leader_is_replaced_within_two_seconds_and_no_row_is_weighed_twice_or_lost(workers):
    """Four processes; the leader is killed with signal 9, twice, while all of them count."""
    host = workers(4, 1e9)
    until(lambda: (found := host.ledger()) and found.weighed.rows > 200, 60, "rows weighed")
    leaders, pauses = [host.ledger().pid], []
    for _ in range(2):
        pid, pause = host.kill_leader()
        leaders.append(pid)
        pauses.append(pause)
        weighed = host.ledger().weighed.rows
        until(lambda: host.ledger().weighed.rows > weighed + 100, 20, "the new leader weighs")  # noqa: B023
    assert len(set(leaders)) == 3
    assert max(pauses) < 2.0, pauses
    host.stop()
    ledger = host.ledger()
    counted = host.counted()
    np.testing.assert_array_equal(ledger.weighed.counts, counted)
    np.testing.assert_array_equal(ledger.watch["window"], counted)  # no alarm: all rows ever weighed
    assert float(ledger.watch["clock"]) == counted[0].sum()
    assert ledger.alarms == []
    assert not (host.folder / "told").exists()


def test_an_alarm_of_real_workers_is_told_by_one_of_them_and_outlives_its_leader(workers):
    """One line of one process; the next leader knows the alarm and does not set it off again within the hour."""
    host = workers(3, 1e7)
    until(lambda: (found := host.ledger()) and found.weighed.rows > 200, 60, "rows weighed")
    (host.folder / "shift").touch()
    until(lambda: host.ledger().alarms and (host.folder / "told").exists(), 30, "an alarm")
    first = host.ledger()
    assert first.alarms[0].features[0] == "b"
    assert "higher" in first.alarms[0].findings[0].direction
    host.kill_leader()
    until(lambda: host.ledger().alarms[0].times > first.alarms[0].times, 30, "the same alarm again")
    host.stop()
    ledger = host.ledger()
    assert [alarm.id for alarm in ledger.alarms] == [first.alarms[0].id]
    assert ledger.alarms[0].at == first.alarms[0].at
    assert (host.folder / "told").read_text() == f"{first.pid} b\n"
    np.testing.assert_array_equal(ledger.weighed.counts, host.counted())


FORK = """
import os, signal, sys, time
from pathlib import Path
from guardrails.drift.leader import HostLock
lock = HostLock(Path(sys.argv[1]))
assert lock.acquire()
child = os.fork()
if child == 0:
    assert not lock.held
    assert not lock.acquire()  # its parent holds it
    print("child", os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_forked_child_does_not_hold_the_lock(tmp_path):
    """Neither while its parent lives, nor when that is killed: somebody else gets it, though the child lives on."""
    path = tmp_path / "lock"
    parent = subprocess.Popen([sys.executable, "-c", FORK, str(path)], stdout=subprocess.PIPE, text=True)
    said, child = parent.stdout.readline().split()
    try:
        assert said == "child"
        mine = HostLock(path)
        assert not mine.acquire()
        parent.kill()
        parent.wait(20)
        until(mine.acquire, 5, "the lock of the dead")
        os.kill(int(child), 0)  # it lives
        mine.release()
    finally:
        parent.kill()
        os.kill(int(child), signal.SIGKILL)


def test_the_lock_is_given_up_and_taken_again(tmp_path):
    """And asking twice is fine."""
    one, other = HostLock(tmp_path / "lock"), HostLock(tmp_path / "lock")
    assert one.acquire()
    assert one.acquire()
    assert not other.acquire()
    one.release()
    one.release()
    assert not one.held
    assert other.acquire()
    assert not one.acquire()
    other.release()


def test_a_command_the_service_starts_does_not_inherit_the_lock(tmp_path):
    """A trigger that runs for hours after the leader died."""
    lock, other = HostLock(tmp_path / "lock"), HostLock(tmp_path / "lock")
    assert lock.acquire()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        lock.release()
        until(other.acquire, 2, "the lock")  # the system closes a file a moment after it has begun another program
        other.release()
    finally:
        child.kill()
        child.wait(20)


# Alarms


def test_an_alarm_is_recorded_once_with_all_it_says(host, fired, clock):
    """Its column, when, examples, an id; told once; and it stands in the history as a full measure of evidence."""
    leader = host.leader(on_alarm=print)
    host.weigh(leader, 3)
    ledger = host.until_alarm(leader)
    (alarm,) = ledger.alarms
    assert alarm.features[0] == "b"
    assert alarm.at == clock.now
    assert alarm.examples == ("d1", "d2")
    assert len(alarm.id) == 12
    assert alarm.times == 1
    assert ledger.active == [alarm]
    assert [told.id for told in fired] == [alarm.id]
    assert ledger.history[-1][2] == 1.0
    assert ledger.untold == []


def test_the_same_alarm_again_is_the_same_alarm(host, fired, clock):
    """As long as nobody has acknowledged it: one entry, one id, its first time, the latest findings, and how often."""
    leader = host.leader(on_alarm=print, debounce=0.0)
    first = host.until_alarm(leader).alarms[0]
    clock.now += 60
    for times in (2, 3):
        (again,) = host.until_alarm(leader).alarms
        assert (again.id, again.at, again.times) == (first.id, first.at, times)
    assert len(fired) == 1


def test_what_moves_at_the_same_time_is_one_alarm(host, fired, clock):
    """One change, several columns: whoever acknowledges it has seen all of them."""
    leader = host.leader(on_alarm=print, debounce=0.0)
    host.until_alarm(leader)
    clock.now += 600
    (alarm,) = host.until_alarm(leader, column=2).alarms
    assert alarm.features == ("b", "c")
    assert [told.features for told in fired] == [("b",), ("b", "c")]  # what else has moved is told, too


def test_an_alarm_about_another_column_is_another_alarm(host, fired, clock):
    """It is told, too, when it comes an hour later."""
    leader = host.leader(on_alarm=print, debounce=0.0)
    host.until_alarm(leader)
    clock.now += 3601
    ledger = host.until_alarm(leader, column=2)
    assert [alarm.features[0] for alarm in ledger.alarms] == ["b", "c"]
    assert len({alarm.id for alarm in ledger.alarms}) == len(fired) == 2


def test_an_acknowledged_alarm_that_comes_again_is_still_known(host, fired, clock):
    """As long as the evidence keeps coming it is counted, and nobody is told; after a quiet day it is news."""
    leader = host.leader(on_alarm=print, debounce=0.0)
    host.until_alarm(leader)
    leader.command("acknowledge")
    for _ in range(40):
        host.rows(50, column=1, shift=1.5)
        clock.now += 60.0
        leader.tick(host.totals)
    (known,) = host.saved().alarms
    assert known.acknowledged
    assert known.times > 2
    assert host.saved().active == []
    assert len(fired) == 1
    clock.now += 86_401.0
    host.until_alarm(leader)
    assert [(alarm.acknowledged, alarm.times) for alarm in host.saved().alarms][1] == (False, 1)
    assert len(fired) == 2


def test_what_else_moves_is_found_while_one_column_is_known_to_have_moved(host, fired, clock):
    """The known one raises no alarm, and hides none."""
    leader = host.leader(on_alarm=print, debounce=0.0)
    host.until_alarm(leader)
    leader.command("acknowledge")
    clock.now += 4000.0
    ledger = host.until_alarm(leader, column=2)
    assert [alarm.features[0] for alarm in ledger.active] == ["c"]
    assert len(fired) == 2


def test_a_trigger_is_left_alone_for_a_while_whoever_leads(host, fired, clock, caplog):
    """Each alarm is logged; the second within the hour sets nothing off, also under the next leader."""
    leader = host.leader(on_alarm=print, debounce=3600.0)
    host.until_alarm(leader)
    assert len(fired) == 1
    leader.close()
    clock.now += 1800
    leader = host.leader(on_alarm=print, debounce=3600.0)
    with caplog.at_level(logging.WARNING, logger="guardrails"):
        ledger = host.until_alarm(leader, column=2)
    assert len(fired) == 1
    assert ledger.alarms[-1].id in caplog.text
    clock.now += 1801
    leader.tick(host.totals)
    assert [alarm.features for alarm in fired] == [("b",), ("b", "c")]  # late, but told


# Commands


def test_acknowledging_one_of_two(host, clock):
    """By its id; another id is nobody's."""
    leader = host.leader()
    host.until_alarm(leader)
    clock.now += 3601
    first, second = host.until_alarm(leader, column=2).alarms
    leader.command("acknowledge", alarm="no such id")
    leader.tick(host.totals)
    assert leader.ledger().answer == "acknowledge done, 0 alarms acknowledged"
    leader.command("acknowledge", alarm=first.id)
    leader.tick(host.totals)
    ledger = leader.ledger()
    assert [alarm.id for alarm in ledger.active] == [second.id]
    assert ledger.answer == "acknowledge done, 1 alarm acknowledged"
    assert host.saved().answer == ledger.answer


def test_a_command_left_with_any_worker_reaches_the_leader(host):
    """Who is asked need not lead."""
    leader, other = host.leader(), host.leader()
    host.until_alarm(leader)
    other.tick(host.totals)
    other.command("acknowledge")
    assert len(other.ledger().active) == 1
    leader.tick(host.totals)
    assert other.ledger().active == []
    assert not list(host.folder.glob("*command*"))


def test_a_reset_begins_anew(host):
    """Evidence, history and what was counted so far are forgotten; alarms are acknowledged, not forgotten."""
    leader = host.leader(run_length=5000.0)
    host.until_alarm(leader)
    host.weigh(leader, 2, shift=0.4)
    leader.command("reset")
    leader.tick(host.totals)
    ledger = host.saved()
    assert (len(ledger.alarms), ledger.active, ledger.history) == (1, [], [])
    np.testing.assert_array_equal(ledger.forgotten, host.totals.counts)
    np.testing.assert_array_equal(ledger.weighed.counts, host.totals.counts)
    assert ledger.watch["window"].sum() == 0
    assert ledger.baseline is None
    before = host.totals.counts
    ledger = host.weigh(leader, 3)
    np.testing.assert_array_equal(ledger.watch["window"], host.totals.counts - before)


def test_a_reset_with_rows_that_wait_forgets_these_too(host):
    """They were counted before it."""
    leader = host.leader()
    host.weigh(leader, 1)
    leader.command("reset")
    host.weigh(leader, 1, n=70)
    assert leader.ledger().watch["window"].sum() == 0


def baselined(host, leader, n, **how):
    """Rows since the last alarm, then a reset to them."""
    leader.command("reset")
    leader.tick(host.totals)
    host.rows(n, **how)
    leader.command("reset", baseline="recent")
    leader.tick(host.totals)
    return leader.ledger()


def test_recent_rows_become_the_reference(host):
    """What would be drift is then usual, also for the next leader; what the profile's own rows were is drift."""
    leader = host.leader(run_length=10_000.0)
    before = host.weigh(leader, 1).weighed.rows
    ledger = baselined(host, leader, 2000, shift=1.0)
    assert ledger.baseline[0].sum() == 2000
    assert before == 50
    assert ledger.watch["window"].sum() == 0
    assert "reset done" in ledger.answer
    host.weigh(leader, 10, shift=1.0)
    leader.close()
    other = host.leader(run_length=10_000.0)
    assert host.weigh(other, 10, shift=1.0).alarms == []
    np.testing.assert_array_equal(host.saved().baseline, ledger.baseline)
    found = host.until_alarm(other, shift=0.0).alarms[-1]
    assert found.features[0] == "b"
    assert "lower" in found.findings[0].direction
    other.command("reset")
    other.tick(host.totals)
    assert host.saved().baseline is None
    assert host.weigh(other, 10).active == []


@pytest.mark.parametrize("n", [0, 1, 499])
def test_too_few_recent_rows_are_no_reference(host, n):
    """The reset is refused with the sentence, and nothing has changed: neither alarms nor evidence."""
    leader = host.leader(run_length=5000.0)
    host.until_alarm(leader)
    if n:
        host.rows(n)
    before = host.saved()
    leader.command("reset", baseline="recent")
    leader.tick(host.totals)
    ledger = host.saved()
    assert ledger.answer.startswith(f"reset refused: the {n} rows since the last alarm")
    assert "500 that are independent" in ledger.answer
    assert len(ledger.active) == 1
    assert ledger.baseline is None
    np.testing.assert_array_equal(ledger.forgotten, before.forgotten)
    np.testing.assert_array_equal(ledger.watch["window"][0].sum(), n)


def test_recent_rows_that_resemble_each_other_are_no_reference(host):
    """700 rows of which each is much like the one before are worth some 40: refused, as for a profile."""
    leader = host.leader(run_length=1e9)
    host.weigh(leader, 20, n=100, slow=0.9)
    leader.command("reset")
    leader.tick(host.totals)
    host.weigh(leader, 7, n=100, slow=0.9)
    leader.command("reset", baseline="recent")
    leader.tick(host.totals)
    assert "refused" in leader.ledger().answer
    assert leader.ledger().baseline is None


def test_recent_rows_that_were_all_outliers_are_a_reference_that_can_be_judged_by(host):
    """After a large drift that is how they are; ticks go on, and are written down."""
    leader = host.leader(run_length=10_000.0)
    host.weigh(leader, 1)
    t = host.totals
    flags = t.counts.copy()
    flags[-1] = 0
    for _ in range(20):
        rows = np.random.default_rng(5).normal(size=(50, 3))
        flags = flags + host.profile.bins.count(np.column_stack([rows, np.ones(50)]))
    host.totals = replace(t, counts=flags)
    leader.command("reset", baseline="recent")
    leader.tick(host.totals)
    assert leader.ledger().baseline is not None
    weighed = host.weigh(leader, 3).weighed.rows
    assert host.saved().weighed.rows == weighed == host.totals.rows
    assert host.saved().judging["columns"]


def test_an_action_that_is_none_is_refused_where_it_is_given(host):
    """Before anything is written."""
    leader = host.leader()
    for action in ("dance", "", "Reset", "acknowledge "):
        with pytest.raises(ValueError, match="there are acknowledge, reset"):
            leader.command(action)
    with pytest.raises((ValueError, TypeError)):
        leader.command("reset", baseline="yesterday")
    assert list(host.folder.iterdir()) == []


BROKEN = {
    "empty": b"",
    "cut": b'{"action": "ackn',
    "no text": b"\xff\xfe\x00",
    "a list": b'["acknowledge"]',
    "null": b"null",
    "a number": b"3",
    "no action": b'{"alarm": "x"}',
    "another action": b'{"action": "dance"}',
    "action of another kind": b'{"action": ["acknowledge"]}',
    "more than it takes": b'{"action": "acknowledge", "force": true}',
    "another baseline": b'{"action": "reset", "baseline": "yesterday"}',
    "itself": b'{"action": "acknowledge", "self": 1, "ledger": 2}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_command_file_that_is_none_changes_nothing(host, content):
    """It is taken away, the answer says that it could not be carried out, and the next command is."""
    leader = host.leader()
    host.until_alarm(leader)
    before = host.saved()
    path = host.folder / f"{STEM}command_1_x.json"
    path.write_bytes(content)
    leader.tick(host.totals)
    ledger = host.saved()
    assert not path.exists()
    assert len(ledger.active) == 1
    np.testing.assert_array_equal(ledger.forgotten, before.forgotten)
    assert "could not be carried out" in ledger.answer
    leader.command("acknowledge")
    leader.tick(host.totals)
    assert leader.ledger().active == []


def test_commands_are_carried_out_in_the_order_in_which_they_were_given(host):
    """Acknowledged, then begun anew; the last answer stands."""
    leader = host.leader()
    host.until_alarm(leader)
    leader.command("reset")
    leader.command("acknowledge")
    leader.tick(host.totals)
    assert leader.ledger().answer == "acknowledge done, 0 alarms acknowledged"
    assert host.saved().active == []


def test_a_half_written_command_is_not_read(host):
    """It has another name until it is whole."""
    leader = host.leader()
    host.weigh(leader, 1)
    (host.folder / f"{STEM}command_1_x.new").write_text('{"action": "re')
    leader.tick(host.totals)
    assert leader.ledger().answer == ""


# Time


def clock_of(ledger):
    """How much time the detector has seen."""
    return float(ledger.watch["clock"])


def test_a_run_length_in_rows_counts_rows(host, clock):
    """However long they took."""
    leader = host.leader(run_length=1e6)
    for n in (1, 10, 200):
        clock.now += 100_000
        host.weigh(leader, 1, n=n)
    assert clock_of(leader.ledger()) == 211


def test_a_run_length_in_seconds_counts_seconds(host, clock):
    """However many rows came; ticks without rows are part of the pause to the next one with rows."""
    leader = host.leader(run_length=30 * DAY, in_rows=False)
    leader.tick(host.totals)
    for n, pause in ((1, 10.0), (200, 5.0), (50, 1.0)):
        clock.now += pause / 2
        leader.tick(host.totals)
        clock.now += pause / 2
        host.weigh(leader, 1, n=n)
    assert clock_of(leader.ledger()) == pytest.approx(16.0)


def test_idle_time_is_capped(host, clock):
    """A quiet weekend is a thousandth of the run length; a clock that is put back, a tenth of a second."""
    leader = host.leader(run_length=30 * DAY, in_rows=False)
    leader.tick(host.totals)
    clock.now += 3 * DAY
    host.weigh(leader, 1)
    assert clock_of(leader.ledger()) == pytest.approx(30 * DAY * module.MOST_AT_ONCE)
    clock.now -= DAY
    host.weigh(leader, 1)
    assert clock_of(leader.ledger()) == pytest.approx(30 * DAY * module.MOST_AT_ONCE + module.LEAST_PAUSE)


def test_the_time_between_two_leaders_is_time(host, clock):
    """Nobody led for twenty seconds: the rows of that time are weighed with it."""
    leader = host.leader(run_length=30 * DAY, in_rows=False)
    clock.now += 1.0
    host.weigh(leader, 1)
    leader.close()
    before = clock_of(host.saved())
    clock.now += 20.0
    other = host.leader(run_length=30 * DAY, in_rows=False)
    host.weigh(other, 1)
    assert clock_of(other.ledger()) - before == pytest.approx(20.0)


# What is written


def test_nothing_new_writes_nothing(host, clock):
    """An idle service does not wear out its disk."""
    leader = host.leader()
    host.weigh(leader, 2)
    path = host.folder / f"{STEM}ledger.npz"
    before = path.stat().st_mtime_ns
    for _ in range(5):
        leader.tick(host.totals)
    assert path.stat().st_mtime_ns == before


def test_a_profile_that_cannot_be_judged_is_counted_and_says_why(tmp_path, caplog):
    """The sentence stands in the ledger and once in the log; rows are taken note of."""
    small = gr.Profile.fit(np.random.default_rng(3).normal(size=(300, 3)), alpha=0.05)
    host = Host(small, tmp_path)
    leader = host.leader()
    with caplog.at_level(logging.WARNING, logger="guardrails"):
        ledger = host.weigh(leader, 5, shift=9.0)
    assert "too small to judge drift" in ledger.problem
    assert ledger.weighed.rows == 250
    assert ledger.alarms == []
    assert caplog.text.count("counted, but not judged") == 1
    leader.command("reset", baseline="recent")
    leader.tick(host.rows(600))
    assert "refused" in leader.ledger().answer or leader.ledger().problem is None
    leader.close()


def test_what_is_judged_is_written_for_people(host):
    """Evidence by column as a share of what an alarm needs, in logarithms; history over time."""
    leader = host.leader(run_length=1e6)
    ledger = host.weigh(leader, 4, shift=0.3)
    assert set(ledger.judging["columns"]) == {"a", "b", "c", "__outlier__"}
    assert ledger.judging["columns"]["b"] == max(ledger.judging["columns"].values())
    assert ledger.judging["unjudged"] == []
    assert [rows for _, rows, _ in ledger.history] == [50, 100, 150, 200]
    assert all(0.0 <= share < 1.0 for *_, share in ledger.history)
    json.dumps([ledger.judging, ledger.history])


def alarm_of(feature, number=0, **more):
    """An alarm."""
    return Alarm((Finding(feature, 1.0, "is higher", ()),), 1.0, 10, 5, id=f"id{number}", at=float(number), **more)


def test_a_ledger_comes_back_as_it_was(host):
    """All of it."""
    leader = host.leader(run_length=500.0)
    host.until_alarm(leader)
    baselined(host, leader, 700)
    host.weigh(leader, 3)
    ledger = leader.ledger()
    ledger.untold, ledger.set_off, ledger.problem = ["x"], 12.5, "a sentence"
    path = host.folder / "copy.npz"
    ledger.save(path)
    again = Ledger.load(path)
    for name in ("pid", "at", "ticked", "problem", "judging", "history", "alarms", "untold", "set_off", "answer"):
        assert getattr(again, name) == getattr(ledger, name), name
    for name in ("forgotten", "baseline"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ledger, name))
    for name in ("counts", "distances", "pairs"):
        np.testing.assert_array_equal(getattr(again.weighed, name), getattr(ledger.weighed, name))
    assert again.watch.keys() == ledger.watch.keys()
    for name, array in ledger.watch.items():
        np.testing.assert_array_equal(again.watch[name], array)
    assert not list(host.folder.glob("*.new"))


def test_no_ledger_is_none(tmp_path):
    """Not an error."""
    assert Ledger.load(tmp_path / "none.npz") is None


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b"junk", lambda b: b[: len(b) // 2], lambda b: b"PK\x03\x04"], ids=["empty", "junk", "cut", "archive"])  # fmt: skip
def test_a_ledger_that_nobody_can_read_does_not_end_the_judging(host, spoil):
    """A full disk, another version: the next leader says so and begins anew."""
    leader = host.leader(run_length=500.0)
    host.weigh(leader, 3)
    leader.close()
    path = host.folder / f"{STEM}ledger.npz"
    path.write_bytes(spoil(path.read_bytes()))
    other = host.leader(run_length=500.0)
    host.weigh(other, 1)
    assert host.saved().weighed.rows == host.totals.rows
    host.until_alarm(other)


@pytest.mark.parametrize("run_length", [1e3, 1e6, 1e9])
def test_a_ledger_of_another_run_length_is_taken_up_without_its_evidence(host, run_length):
    """Bets depend on it: what was counted and who was told stays, the evidence begins anew."""
    first = host.leader(run_length=5000.0)
    host.until_alarm(first)
    host.weigh(first, 3, shift=0.2)
    first.close()
    second = host.leader(run_length=run_length)
    second.tick(host.totals)
    assert len(second.ledger().alarms) == 1
    ledger = host.weigh(second, 2)
    np.testing.assert_array_equal(ledger.weighed.counts, host.totals.counts)
    assert all(share < 1.0 for share in ledger.judging["columns"].values())


def test_records_are_bounded(tmp_path):
    """Alarms and history: the latest stay, and the early history thins out."""
    zeros = Totals(np.zeros((1, 4), int), np.zeros(1), np.zeros(1, int))
    ledger = Ledger(1, 0.0, 0.0, zeros, zeros.counts)
    for number in range(200):
        ledger.record(replace(alarm_of("ab"[number % 2], number), at=4000.0 * number))
    assert len(ledger.alarms) == MAX_ALARMS
    assert ledger.alarms[-1].id == "id199"
    for number in range(5000):
        ledger.note(float(number), number, 0.5)
    assert len(ledger.history) <= MAX_HISTORY
    times = [at for at, *_ in ledger.history]
    assert times == sorted(times)
    assert times[0] == 0.0
    assert times[-100:] == [float(number) for number in range(4900, 5000)]
    ledger.save(tmp_path / "ledger.npz")
    assert Ledger.load(tmp_path / "ledger.npz").history == ledger.history


def test_acknowledging_twice_is_once():
    """Who is acknowledged stays so."""
    zeros = Totals(np.zeros((1, 4), int), np.zeros(1), np.zeros(1, int))
    ledger = Ledger(1, 0.0, 0.0, zeros, zeros.counts)
    for number, feature in enumerate("abc"):
        ledger.record(replace(alarm_of(feature, number), at=4000.0 * number))
    assert ledger.acknowledge("id1") == 1
    assert ledger.acknowledge("id1") == 0
    assert ledger.acknowledge() == 2
    assert ledger.active == []
