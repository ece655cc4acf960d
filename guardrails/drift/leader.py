"""One worker of a host judges for all: it leads for as long as it lives, and leaves everything to the next one."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.drift import announce
from guardrails.drift.alarm import Alarm
from guardrails.drift.ledger import Ledger
from guardrails.drift.lock import HostLock
from guardrails.drift.options import DriftOptions
from guardrails.drift.tables import Totals
from guardrails.drift.triggers import fire
from guardrails.drift.watch import Watch
from guardrails.errors import ProfileError
from guardrails.profile.bins import Counts
from guardrails.profile.profile import Profile

logger = logging.getLogger("guardrails")

MOST_AT_ONCE = 1e-3
"""The largest share of the run length that one tick may bring, however long nobody came: the first rows after a quiet
weekend are no better evidence than others."""
LEAST_PAUSE = 0.1
SETTLED, OFF = 600.0, 3.0
"""Seconds before traffic is measured, and by what factor it may be off what bets are priced for."""
_COMMANDS = ("acknowledge", "reset")
_BASELINES = ("profile", "recent")


class Leader:
    """Leads, if nobody else does: weighs the counts of all workers, keeps the ledger, raises alarms.

    Args:
        profile: the reference.
        options: how long between false alarms, and what an alarm sets off.
        folder: shared by the workers of a host.
        stem: how the names of its files begin.
        examples: gives decision ids of recent rows in certain bins: ``examples({column: bins})``.
    """

    def __init__(
        self,
        profile: Profile,
        options: DriftOptions,
        folder: Path,
        stem: str,
        examples: Callable[[dict[int, list[int]]], tuple[str, ...]] = lambda _: (),
    ) -> None:
        self.profile, self.options = profile, options
        self._folder, self._stem, self._examples = folder, stem, examples
        self._path = folder / f"{stem}ledger.npz"
        self._lock = HostLock(folder / f"{stem}leader.lock")
        self._watch: Watch | None = None
        self._ledger: Ledger | None = None

    @property
    def leads(self) -> bool:
        """Whether this process leads."""
        return self._lock.held

    def ledger(self) -> Ledger | None:
        """What the leader has written down, whoever it is; None before the first tick."""
        return self._ledger if self.leads and self._ledger is not None else self._written()

    def _written(self) -> Ledger | None:
        try:
            return Ledger.load(self._path)
        except Exception:
            logger.exception("%s cannot be read; drift is judged anew", self._path)
            return None

    def command(self, action: str, **details: Any) -> None:
        """Leave word for the leader, whoever it is.

        Args:
            action: ``acknowledge`` (``alarm``: an id; all by default) or ``reset`` (``baseline``: ``profile`` or
                ``recent``).
            **details: of the action.

        Raises:
            ValueError: there is no such action, or baseline.
        """
        _check(action, details.get("baseline", "profile"))
        path = self._folder / f"{self._stem}command_{time.time_ns()}_{uuid.uuid4().hex[:8]}"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"action": action, **details}), encoding="utf-8")
        temporary.replace(path.with_suffix(".json"))

    def elect(self) -> bool:
        """Lead, if nobody else does; whether this process leads."""
        if not (self._lock.held and self._lock.acquire()):  # what this process knew, if it has led before, is old
            self._ledger = self._watch = None
        return self._lock.acquire()

    def tick(self, totals: Totals) -> None:
        """Lead, if nobody else does: weigh what has been counted since the last tick."""
        if not self.elect():
            return
        ledger = self._ledger or self._take_over(totals)
        commands = sorted(self._folder.glob(f"{self._stem}command_*.json"))
        for path in commands:
            self._obey(ledger, totals, path)
        fresh = totals.since(ledger.weighed)
        if fresh.rows:
            self._weigh(ledger, totals, fresh)
        if fresh.rows or commands or ledger.untold:
            self._save(ledger)
        for path in commands:  # only now: whoever leads next would otherwise not know of them
            path.unlink(missing_ok=True)
        if ledger.untold or self._may_set_off(ledger):
            self._tell(ledger)

    def close(self) -> None:
        """Let somebody else lead."""
        self._lock.release()

    # What it does

    def _take_over(self, totals: Totals) -> Ledger:
        before, now = self._written(), time.time()
        if before is None:
            nothing = Totals(np.zeros_like(totals.counts), np.zeros_like(totals.distances), np.zeros_like(totals.pairs))
            lost = self._path.exists()  # a ledger that nobody can read: what it had weighed is not weighed again
            ledger = Ledger(os.getpid(), now, now, totals if lost else nothing, nothing.counts)
        else:
            ledger = before
            if before.pid != os.getpid():
                announce.forget_process(before.pid)
                logger.info("drift is now judged by process %d instead of %d", os.getpid(), before.pid)
        ledger.pid, ledger.at = os.getpid(), now
        self._watch = self._watching(ledger)
        if self._watch is not None and ledger.watch:
            self._watch.go_on_from(ledger.watch)
        announce.standing(self.profile, ledger.active)
        self._ledger = ledger
        self._save(ledger)
        return ledger

    def _watching(self, ledger: Ledger) -> Watch | None:
        try:
            watch = self._against(ledger, ledger.baseline, ledger.baseline_rho)
        except ProfileError as error:
            if ledger.problem is None:
                logger.warning("drift of %s is counted, but not judged: %s", self.profile.tag or "this profile", error)
            ledger.problem = str(error)
            return None
        ledger.problem = None
        return watch

    def _weigh(self, ledger: Ledger, totals: Totals, fresh: Totals) -> None:
        now = time.time()
        if self.options.in_rows:
            elapsed = float(fresh.rows)
        else:
            pause = max(now - ledger.ticked, LEAST_PAUSE)
            elapsed = min(pause, self.options.run_length * MOST_AT_ONCE)
        ledger.ticked = now
        ledger.weighed = totals
        if self._watch is None:
            return
        self._keep_up(ledger, self._watch, now)
        self._watch.mute(ledger.known(now))
        pairs = fresh.pairs.astype(float)
        alarm = self._watch.tick(fresh.counts, fresh.distances, pairs, elapsed, max(1, totals.alive))
        ledger.again(self._watch.recurred(), now)
        share = 1.0 if alarm else self._watch.evidence.total / self._watch.detector.due
        ledger.note(now, totals.rows, max(0.0, share))
        ledger.judging = judging_of(self._watch)
        announce.evidence(self.profile, share)
        if alarm is not None:
            ledger.turned = totals.counts.copy()
            self._raise(ledger, replace(alarm, id=uuid.uuid4().hex[:12], at=round(now, 3), last=now))

    def _keep_up(self, ledger: Ledger, watch: Watch, now: float) -> None:
        """Price bets for the traffic there is: how dear an error of the reference is depends on how many rows come."""
        ledger.since = ledger.since or now
        seconds = now - ledger.since
        if self.options.in_rows or seconds < SETTLED:
            return
        rate = max(ledger.weighed.rows, 1) / seconds
        if not 1 / OFF < rate / ledger.rate < OFF:
            ledger.rate = rate
            again = self._watching(ledger)
            if again is not None:
                again.go_on_from(watch.state())
                self._watch = again

    def _raise(self, ledger: Ledger, alarm: Alarm) -> None:
        names, bins = self.profile.bins.names, self.profile.bins
        wanted = {
            names.index(finding.feature): [
                at for at in bins.used(names.index(finding.feature)) for move in finding.bins
                if move.now > move.reference and bins.label(at) == move.bin
            ]
            for finding in alarm.findings
        }  # fmt: skip
        alarm = replace(alarm, examples=self._examples(wanted))
        ledger.record(alarm)
        announce.raised(self.profile, alarm)

    def _tell(self, ledger: Ledger) -> None:
        """Make alarms known, and set off what they set off; at least once, whenever a leader dies."""
        for alarm in ledger.alarms:
            if alarm.id in ledger.untold:
                announce.log(self.profile, alarm)
        ledger.untold = []
        if self._may_set_off(ledger):
            ledger.set_off = time.time()
            for alarm in ledger.alarms:
                if alarm.id == ledger.waiting and self.options.on_alarm is not None:
                    fire(self.options.on_alarm, alarm)
            ledger.waiting = ""
        self._save(ledger)

    def _may_set_off(self, ledger: Ledger) -> bool:
        """Whether an alarm waits, and has waited long enough: it is told late, but it is told."""
        return bool(ledger.waiting) and time.time() - ledger.set_off >= self.options.debounce

    def _obey(self, ledger: Ledger, totals: Totals, path: Path) -> None:
        try:
            ledger.answer = self._do(ledger, totals, **json.loads(path.read_text(encoding="utf-8")))
        except Exception as error:
            ledger.answer = f"a command could not be carried out: {error}"
            logger.exception("a command for the drift detector could not be carried out")

    def _do(
        self, ledger: Ledger, totals: Totals, action: str, alarm: str | None = None, baseline: str = "profile"
    ) -> str:
        _check(action, baseline)
        if action == "reset":
            if baseline == "recent":
                recent = totals.counts - (ledger.forgotten if ledger.turned is None else ledger.turned)
                refused = self._rebase(ledger, recent)
                if refused:
                    return refused
            else:
                ledger.baseline = ledger.baseline_rho = None
            self._watch = self._watching(ledger)
            ledger.weighed, ledger.forgotten, ledger.turned = totals, totals.counts.copy(), None
            ledger.alarms = [replace(old, last=0.0) for old in ledger.alarms]  # what had moved may move again
            ledger.history, ledger.judging = [], {}
        known = ledger.acknowledge(alarm)
        announce.standing(self.profile, ledger.active)
        return f"{action} done, {known} alarm{'s' * (known != 1)} acknowledged"

    def _rebase(self, ledger: Ledger, recent: Counts) -> str | None:
        """Take what has lately been counted as the new reference; the sentence why not, where that is too little."""
        rho = None if self._watch is None else self._watch.dependence.autocorrelation()
        try:
            self._against(ledger, recent, rho)
        except ProfileError:
            return (
                f"reset refused: the {int(recent[0].sum())} rows since the last alarm (or reset) are no reference yet; "
                "500 that are independent of each other are needed. Try again later."
            )
        ledger.baseline, ledger.baseline_rho = recent, rho
        return None

    def _against(self, ledger: Ledger, baseline: Counts | None, rho: npt.NDArray[np.float64] | None) -> Watch:
        rows = None if self.options.in_rows else self.options.run_length * ledger.rate
        return Watch(self.profile, self.options.run_length, baseline, rho, rows=rows)

    def _save(self, ledger: Ledger) -> None:
        ledger.at = time.time()
        ledger.watch = {} if self._watch is None else self._watch.state()
        ledger.save(self._path)


def _check(action: Any, baseline: Any) -> None:
    if action not in _COMMANDS:
        raise ValueError(f"{action!r} is no action; there are {', '.join(_COMMANDS)}.")
    if baseline not in _BASELINES:
        raise ValueError(f"{baseline!r} is no baseline; there are {', '.join(_BASELINES)}.")


def judging_of(watch: Watch) -> dict[str, Any]:
    """What the detector sees, for people."""
    names = watch.bins.names
    shares = watch.evidence.columns / watch.detector.due
    return {
        "evidence": round(max(0.0, float(watch.evidence.total / watch.detector.due)), 4),
        "columns": {
            names[column]: round(max(0.0, share), 4)
            for column, share in zip(watch.detector.judged, shares.tolist(), strict=True)
        },
        "worth": {name: round(float(worth), 3) for name, worth in zip(names, watch.worth, strict=True) if worth < 0.99},  # noqa: PLR2004
        "unjudged": list(watch.unjudged),
    }
