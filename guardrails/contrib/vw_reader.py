"""Vowpal Wabbit's decision-service JSON (``--dsjson``) as logged decisions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from guardrails.decisions.joined.checking import refuse_impossible
from guardrails.decisions.joined.logged import TOLERANCE, JoinCounts, Logged


def from_dsjson(lines: Iterable[str]) -> Logged:
    """Read contextual-bandit events (``--cb_explore_adf``): one JSON object a line.

    Args:
        lines: of a file; empty ones are passed over, and so are lines without a label (dangling observations), which
            are counted as ``counts.other``.

    Returns:
        The decisions in the order of the file: actions are numbered as in ``c._multi``, `Logged.reward` is the negative
        cost, `Logged.pmf` is in the order of the actions, `Logged.actions` are the ``_tag`` of the actions where all
        have one, `Logged.features` is the context. Events with ``_skipLearn`` are not `Logged.eligible`. There is no
        greedy action in such files: it is -1.

    Raises:
        ValueError: a line is no such event, or what it says is impossible; it names the line or the event. Subsampled
            files (``pdrop``) are refused: their events would have to count for more than one.

    Example:
        >>> line = ('{"_label_cost": -1.0, "_label_probability": 0.25, "_label_Action": 2, "EventId": "e1", '
        ...         '"a": [2, 1], "p": [0.25, 0.75], "c": {"s": {"age": 30}, "_multi": [{}, {}]}}')
        >>> logged = from_dsjson([line])
        >>> logged.action, logged.propensity, logged.reward, logged.pmf
        (array([1]), array([0.25]), array([1.]), [array([0.75, 0.25])])
    """
    events, other = [], 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            if "_label_cost" not in event:
                other += 1
                continue
            events.append(_event(event))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"line {number} is no contextual-bandit event in dsjson: {missing}.") from error
    logged = _logged(events, other)
    refuse_impossible(logged)
    return logged


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    if event.get("pdrop"):
        raise ValueError(f"pdrop is {event['pdrop']}, so that it stands for events that are not in the file")
    numbers, actions = [int(number) - 1 for number in event["a"]], event["c"]["_multi"]
    if sorted(numbers) != list(range(len(actions))) or len(event["p"]) != len(numbers):
        raise ValueError("a and p do not name each of the actions in c._multi once")
    pmf = np.empty(len(numbers))
    pmf[numbers] = event["p"]
    tags = [action.get("_tag") for action in actions]
    return {
        "decision_id": str(event["EventId"]),
        "ts": _seconds(event.get("Timestamp")),
        "action": int(event["_label_Action"]) - 1,
        # The file's own label is in single precision; the same number stands among the probabilities in double.
        "propensity": float(pmf[int(event["_label_Action"]) - 1]),
        "reward": -float(event["_label_cost"]),
        "eligible": not event.get("_skipLearn", False),
        "pmf": pmf,
        "actions": tags if all(tag is not None for tag in tags) else None,
        "features": {name: value for name, value in event["c"].items() if not name.startswith("_")},
        "model": event.get("VWState", {}).get("m"),
        "label_probability": float(event["_label_probability"]),
    }


def _seconds(text: Any) -> float:
    if text is None:
        return 0.0
    moment, _, fraction = str(text).removesuffix("Z").partition(".")  # its fractions have up to seven digits
    whole = datetime.fromisoformat(moment).replace(tzinfo=timezone.utc).timestamp()
    return whole + (float(f"0.{fraction}") if fraction else 0.0)


def _logged(events: list[dict[str, Any]], other: int) -> Logged:
    def column(name: str) -> list[Any]:
        return [event[name] for event in events]

    told = np.array(column("label_probability"))
    propensity = np.array(column("propensity"), dtype=np.float64)
    apart = np.abs(told - propensity) > TOLERANCE if len(events) else np.zeros(0, dtype=bool)
    if apart.any():
        at = int(apart.argmax())
        raise ValueError(
            f"event {events[at]['decision_id']} has the label's probability {told[at]}, and {propensity[at]} in p."
        )
    count = len(events)
    none = np.zeros(count, dtype=bool)
    logged = Logged(
        decision_id=column("decision_id"),
        ts=np.array(column("ts"), dtype=np.float64),
        kind="choice",
        action=np.array(column("action"), dtype=np.int64),
        greedy=np.full(count, -1),
        propensity=propensity,
        reward=np.array(column("reward"), dtype=np.float64),
        eligible=np.array(column("eligible"), dtype=bool),
        pmf=column("pmf"),
        scores=[np.empty(0)] * count,
        actions=column("actions"),
        excluded=[None] * count,
        served=[None] * count,
        slot_reward=None,
        unit=column("decision_id"),
        cluster=column("decision_id"),
        policy=[""] * count,
        model=column("model"),
        features=column("features"),
        differs=none,
        shown=[None] * count,
        overridden=none,
        rewarded=~none,
        api=[""] * count,
        strength=np.ones(count),
        ineligible=[None] * count,
        label=[None] * count,
    )
    return replace(logged, counts=JoinCounts(joined=count, rewarded=count, rewards=count, other=other))
