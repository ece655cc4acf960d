"""What the leader of a host knows, in one file: read by every worker, taken up by the next leader."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.drift.alarm import Alarm
from guardrails.drift.tables import Totals
from guardrails.profile.bins import Counts

Arrays = dict[str, npt.NDArray[Any]]

MAX_ALARMS = 50
MAX_HISTORY = 400
ONE_CHANGE = 3600.0
"""Seconds within which what else has moved is added to an alarm, instead of raising another."""
KNOWN = 86_400.0
"""Seconds for which a column that has moved raises no other alarm, each time the evidence for it comes again."""
_PARTS = ("counts", "distances", "pairs")


@dataclass
class Ledger:
    """Everything about one watched stream that outlives its leader.

    Attributes:
        pid: of the leader that wrote it last.
        at: when (Unix seconds).
        ticked: when counts were last weighed (Unix seconds).
        since: when rows were first weighed (Unix seconds).
        rate: rows a second that bets are priced for.
        weighed: all counts that have been weighed.
        forgotten: counts from before the last reset.
        turned: all counts when the latest alarm was raised.
        baseline: what production is compared with, if not with the profile's reference; shape ``(f, bins)``.
        baseline_rho: its autocorrelation, shape ``(f,)``.
        watch: the detector's state (`Watch.state`).
        problem: why nothing is judged; None where it is.
        judging: what the last tick found, for people: evidence by column, worth of rows, columns not judged.
        history: moments: Unix seconds, rows weighed, the evidence as a share (of logarithms) of what an alarm needs.
        alarms: the latest ones, oldest first.
        untold: ids of alarms that nobody has been told of.
        waiting: the id of an alarm that has set nothing off yet; empty where there is none.
        set_off: when an alarm last set something off (Unix seconds).
        answer: what became of the last command.
    """

    pid: int
    at: float
    ticked: float
    weighed: Totals
    forgotten: Counts
    turned: Counts | None = None
    baseline: Counts | None = None
    baseline_rho: npt.NDArray[np.float64] | None = None
    watch: Arrays = field(default_factory=dict)
    problem: str | None = None
    judging: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[float, int, float]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    since: float = 0.0
    rate: float = 10.0
    waiting: str = ""
    set_off: float = 0.0
    answer: str = ""

    @property
    def active(self) -> list[Alarm]:
        """Alarms that nobody has acknowledged."""
        return [alarm for alarm in self.alarms if not alarm.acknowledged]

    def note(self, at: float, rows: int, share: float) -> None:
        """Remember a moment; when there are too many, every other one of the older half is forgotten."""
        self.history.append((round(at, 3), rows, round(share, 4)))
        if len(self.history) > MAX_HISTORY:
            half = MAX_HISTORY // 2
            self.history = self.history[:half:2] + self.history[half:]

    def known(self, now: float) -> set[str]:
        """Columns that are known to have moved: those of alarms for which evidence has come within a day."""
        return {name for alarm in self.alarms if now - alarm.last < KNOWN for name in alarm.features}

    def again(self, names: Collection[str], now: float) -> None:
        """Note that evidence for columns which are known to have moved came again."""
        self.alarms = [
            replace(alarm, times=alarm.times + 1, last=now)
            if now - alarm.last < KNOWN and set(alarm.features) & set(names)
            else alarm
            for alarm in self.alarms
        ]

    def record(self, alarm: Alarm) -> None:
        """Add an alarm; one that comes soon after another that nobody has acknowledged is more of the same change."""
        last = self.alarms[-1] if self.alarms else None
        if last is not None and not last.acknowledged and alarm.at - last.at < ONE_CHANGE:
            found = (*last.findings, *(f for f in alarm.findings if f.feature not in last.features))
            self.alarms[-1] = replace(last, findings=found, times=last.times + 1, last=alarm.last)
            self.untold.append(last.id)
            self.waiting = last.id
            return
        self.alarms = [*self.alarms, alarm][-MAX_ALARMS:]
        self.untold.append(alarm.id)
        self.waiting = alarm.id

    def acknowledge(self, alarm_id: str | None = None) -> int:
        """Mark an alarm, or all, as known; how many were not."""
        chosen = [alarm for alarm in self.active if alarm_id in (None, alarm.id)]
        self.alarms = [replace(a, acknowledged=True) if a in chosen else a for a in self.alarms]
        return len(chosen)

    def save(self, path: Path) -> None:
        """Write it, in one step."""
        document = {name: value for name, value in vars(self).items() if name not in _ARRAYS}
        document["alarms"] = [asdict(alarm) for alarm in self.alarms]
        arrays: Arrays = {f"weighed.{part}": getattr(self.weighed, part) for part in _PARTS}
        arrays |= {f"watch.{name}": array for name, array in self.watch.items()} | {"forgotten": self.forgotten}
        optional = {"turned": self.turned, "baseline": self.baseline, "baseline_rho": self.baseline_rho}
        arrays |= {name: array for name, array in optional.items() if array is not None}
        arrays["document"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Ledger | None:
        """Read it; None where there is none yet."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        document = json.loads(arrays.pop("document").tobytes())
        document["alarms"] = [Alarm.from_json(alarm) for alarm in document["alarms"]]
        document["history"] = [(at, rows, share) for at, rows, share in document["history"]]
        weighed = Totals(*(arrays[f"weighed.{part}"] for part in _PARTS))
        watch = {name.removeprefix("watch."): array for name, array in arrays.items() if name.startswith("watch.")}
        return cls(
            weighed=weighed,
            forgotten=arrays["forgotten"],
            turned=arrays.get("turned"),
            baseline=arrays.get("baseline"),
            baseline_rho=arrays.get("baseline_rho"),
            watch=watch,
            **document,
        )


_ARRAYS = ("weighed", "forgotten", "turned", "baseline", "baseline_rho", "watch", "alarms")
