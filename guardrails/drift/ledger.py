"""What the leader of a host knows, in one file: read by every worker, taken up by the next leader."""

from __future__ import annotations

import io
import json
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
_PARTS = ("counts", "distances", "pairs")


@dataclass
class Ledger:
    """Everything about one watched stream that outlives its leader.

    Attributes:
        pid: of the leader that wrote it last.
        at: when (Unix seconds).
        ticked: when counts were last weighed (Unix seconds).
        weighed: all counts that have been weighed.
        forgotten: counts from before the last reset.
        baseline: what production is compared with, if not with the profile's reference; shape ``(f, bins)``.
        baseline_rho: its autocorrelation, shape ``(f,)``.
        watch: the detector's state (`Watch.state`).
        problem: why nothing is judged; None where it is.
        judging: what the last tick found, for people: evidence by column, worth of rows, columns not judged.
        history: moments: Unix seconds, rows weighed, the evidence as a share (of logarithms) of what an alarm needs.
        alarms: the latest ones, oldest first.
        untold: ids of alarms that nobody has been told of.
        set_off: when an alarm last set something off (Unix seconds).
        answer: what became of the last command.
    """

    pid: int
    at: float
    ticked: float
    weighed: Totals
    forgotten: Counts
    baseline: Counts | None = None
    baseline_rho: npt.NDArray[np.float64] | None = None
    watch: Arrays = field(default_factory=dict)
    problem: str | None = None
    judging: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[float, int, float]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
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

    def record(self, alarm: Alarm) -> None:
        """Add an alarm; one that shares a column with the last, which nobody has acknowledged, is that one again."""
        last = self.alarms[-1] if self.alarms else None
        if last is not None and not last.acknowledged and set(last.features) & set(alarm.features):
            found = (*alarm.findings, *(f for f in last.findings if f.feature not in alarm.features))
            self.alarms[-1] = replace(alarm, findings=found, id=last.id, at=last.at, times=last.times + 1)
            return
        self.alarms = [*self.alarms, alarm][-MAX_ALARMS:]
        self.untold.append(alarm.id)

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
        optional = {"baseline": self.baseline, "baseline_rho": self.baseline_rho}
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
            baseline=arrays.get("baseline"),
            baseline_rho=arrays.get("baseline_rho"),
            watch=watch,
            **document,
        )


_ARRAYS = ("weighed", "forgotten", "baseline", "baseline_rho", "watch", "alarms")
