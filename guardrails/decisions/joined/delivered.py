"""What came back for decisions, brought into the order of time and rid of second deliveries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from guardrails.decisions.joined.reading import MalformedRecord, finite, read_json

Aggregate = Literal["last", "first", "sum", "mean", "max", "min"]


@dataclass(slots=True)
class Feedback:
    """One delivery, of the decision number `at`. Its reward may be anything: it is looked at when it counts."""

    at: int
    ts: float
    row: Mapping[str, Any]


@dataclass(slots=True)
class Delivered:
    """All feedback to known decisions, each once, oldest first; and how much of the other there was."""

    feedback: list[Feedback] = field(default_factory=list)
    duplicates: int = 0
    orphans: int = 0


def delivered(rewards: Iterable[Mapping[str, Any]], number_of: Mapping[str, int]) -> Delivered:
    """Sort feedback out.

    Of several deliveries of the same feedback (the same ``feedback_id`` of the same decision; without one, the same
    content) the earliest counts. The result does not depend on the order they come in.

    Args:
        rewards: rows as `DecisionStore.read("reward")` gives them; of older stores, without what these lack.
        number_of: the number of each known decision.
    """
    result = Delivered()
    found: list[tuple[float, str, str, int, Mapping[str, Any]]] = []
    for row in rewards:
        identity = row.get("decision_id")
        at = number_of.get(identity) if isinstance(identity, str) else None
        if at is None:
            result.orphans += 1
            continue
        content = repr([row.get(name) for name in _CONTENT])
        found.append((_when(row), str(row.get("feedback_id") or content), content, at, row))
    found.sort(key=lambda entry: entry[:4])
    seen = set()
    for ts, key, _, at, row in found:
        if (at, key) in seen:
            result.duplicates += 1
            continue
        seen.add((at, key))
        result.feedback.append(Feedback(at, ts, row))
    return result


_CONTENT = ("name", "slot", "reward", "label", "served_action", "served", "shown")


def _when(row: Mapping[str, Any]) -> float:
    """When it came; what has no readable time came first, and its decision is refused for it later."""
    try:
        return finite(row.get("ts"), "ts")
    except MalformedRecord:
        return -math.inf


def label_of(row: Mapping[str, Any]) -> Any:
    """What the right answer turned out to be."""
    value = row.get("label")
    try:
        return read_json(value, "label")
    except MalformedRecord:
        return value  # given as plain text by somebody who fills the table himself


def echo_of(row: Mapping[str, Any]) -> int | list[int] | None:
    """What the client was really shown: an action's number, or a list of them.

    Raises:
        MalformedRecord: it is neither.
    """
    listed = row.get("served")  # where the store keeps a list of several
    value = read_json(row.get("served_action") if listed is None else listed, "served_action")
    for entry in value if isinstance(value, list) else [] if value is None else [value]:
        if isinstance(entry, bool) or not isinstance(entry, int | float):
            raise MalformedRecord("a served_action that is no action")
    return value  # type: ignore[no-any-return]


class Earned:
    """Rewards added up as declared, one running value per key; they have to come oldest first."""

    def __init__(self, aggregate: Aggregate) -> None:
        self._aggregate = aggregate
        self._values: dict[tuple[int, int | None], float] = {}
        self._counts: dict[tuple[int, int | None], int] = {}

    def __contains__(self, key: tuple[int, int | None]) -> bool:
        return key in self._values

    def add(self, key: tuple[int, int | None], reward: float) -> None:
        """Take one more."""
        values, aggregate = self._values, self._aggregate
        before = values.get(key)
        if before is None or aggregate == "last":
            values[key] = reward
        elif aggregate in ("sum", "mean"):
            values[key] = before + reward
        elif aggregate == "max":
            values[key] = max(before, reward)
        elif aggregate == "min":
            values[key] = min(before, reward)
        self._counts[key] = self._counts.get(key, 0) + 1

    def beyond(self) -> set[int]:
        """The decisions whose rewards, together, are larger than numbers go."""
        totals: dict[int, float] = {}
        for (at, _), value in self._values.items():
            totals[at] = totals.get(at, 0.0) + abs(value)
        return {at for at, total in totals.items() if not math.isfinite(total)}

    def get(self, key: tuple[int, int | None], default: float) -> float:
        """What came together, or the default."""
        value = self._values.get(key)
        if value is None:
            return default
        return value / self._counts[key] if self._aggregate == "mean" else value
