"""Logged decisions for Vowpal Wabbit, as text or as its decision service's JSON; and that JSON read back.

VW itself is not needed for either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from guardrails.contrib.vw_features import Features, features_of, text
from guardrails.contrib.vw_reader import from_dsjson
from guardrails.decisions.joined.checking import refuse_impossible
from guardrails.decisions.joined.logged import Logged
from guardrails.decisions.joined.names import key_of
from guardrails.decisions.joined.positions import with_positions
from guardrails.typing import Mask

__all__ = ["Examples", "from_dsjson", "to_dsjson", "to_text"]

SHARED, ACTION, SLOT = "s", "a", "z"
"""The namespaces of the context, of the actions and of a ranking's positions; ``-q sa`` crosses the first two."""


class Examples(Iterator[str]):
    """Examples, each to be written with a newline after it.

    Attributes:
        written: how many came out so far.
        skipped: decisions that nothing can be learned from (see `Logged.learnable`): marked as such, or left out.
    """

    def __init__(self, examples: Iterator[str], skipped: int) -> None:
        self._examples = examples
        self.written, self.skipped = 0, skipped

    def __next__(self) -> str:
        example = next(self._examples)
        self.written += 1
        return example


def to_dsjson(
    logged: Logged,
    *,
    names: Sequence[str] | None = None,
    action_features: Mapping[Any, Mapping[str, Any]] | None = None,
) -> Examples:
    """One line of decision-service JSON for each decision; the cost is the negative reward.

    Choices and thresholds are read by ``vw --cb_explore_adf --dsjson -d FILE``, rankings by ``--ccb_explore_adf
    --dsjson`` (each position with its own reward, or the list's where rewards come for the whole), values by ``--cats N
    --json``. What cannot be learned from is marked ``_skipLearn``, so that it still counts as an event; where nothing
    was chosen it is left out. Both are in `Examples.skipped`.

    Args:
        logged: decisions with their rewards.
        names: of the columns of ``logged.features``, where these are rows of numbers.
        action_features: what is known of each action, by its name (its number, where it has none).

    Raises:
        ValueError: a propensity is outside (0, 1], probabilities do not sum to one, or a reward is not finite; it names
            the decision. VW itself would take them.

    Example:
        >>> from guardrails.decisions.joined.join import join
        >>> decision = {"decision_id": "d1", "ts": 0.0, "policy": "EpsilonGreedy(epsilon=0.5)", "eligible": True,
        ...             "pmf": "[0.75, 0.25]", "greedy": 0, "action": 1, "propensity": 0.25, "features": '{"age": 30}'}
        >>> logged = join([decision], [{"decision_id": "d1", "ts": 1.0, "reward": 1.0}], window="1h", now=3600.0)
        >>> line = next(to_dsjson(logged))
        >>> import json; event = json.loads(line)
        >>> event["_label_cost"], event["_label_probability"], event["a"], event["p"]
        (-1.0, 0.25, [2, 1], [0.25, 0.75])
    """
    marked = with_positions(logged.select(_writable(logged)))
    refuse_impossible(marked.select(marked.learnable))
    write = {"ranking": _ranking_json, "value": _value_json}.get(logged.kind, _choice_json)
    if logged.kind == "value":  # VW has no mark there for what is not to be learned
        marked = marked.select(marked.learnable)
    describe = _Describer(marked, names, action_features)
    return Examples(
        (json.dumps(write(marked, at, describe), separators=(",", ":")) for at in range(len(marked))),
        len(logged) - int(marked.learnable.sum()),
    )


def to_text(
    logged: Logged,
    *,
    names: Sequence[str] | None = None,
    action_features: Mapping[Any, Mapping[str, Any]] | None = None,
) -> Examples:
    """One example in VW's text format for each decision that can be learned from: the same models as `to_dsjson` gives.

    Choices and thresholds: a ``shared`` line, then a line for each action, ``number:cost:probability`` on the chosen
    one, and an empty line (``vw --cb_explore_adf -d FILE``). Rankings: ``--ccb_explore_adf``; values: ``--cats N``.

    Args:
        logged: decisions with their rewards.
        names: of the columns of ``logged.features``, where these are rows of numbers.
        action_features: what is known of each action, by its name (its number, where it has none).

    Raises:
        ValueError: as `to_dsjson`.

    Example:
        >>> from guardrails.decisions.joined.join import join
        >>> decision = {"decision_id": "d1", "ts": 0.0, "policy": "EpsilonGreedy(epsilon=0.5)", "eligible": True,
        ...             "pmf": "[0.75, 0.25]", "greedy": 0, "action": 1, "propensity": 0.25, "features": '{"age": 30}'}
        >>> logged = join([decision], [{"decision_id": "d1", "ts": 1.0, "reward": 1.0}], window="1h", now=3600.0)
        >>> print(next(to_text(logged)).rstrip())
        shared |s age:30.0
        |a a=0
        1:-1.0:0.25 |a a=1
    """
    learnable = with_positions(logged.select(logged.learnable & _writable(logged)))
    refuse_impossible(learnable)
    write = {"ranking": _ranking_text, "value": _value_text}.get(logged.kind, _choice_text)
    describe = _Describer(learnable, names, action_features)
    return Examples(
        (write(learnable, at, describe) for at in range(len(learnable))),
        len(logged) - len(learnable),
    )


def _writable(logged: Logged) -> Mask:
    """Where something was chosen; a row without probabilities that should have some is refused later, not left out."""
    if logged.kind == "ranking":
        return np.array([bool(served) for served in logged.served], dtype=bool)
    if logged.kind == "value":
        return np.array([served is not None for served in logged.served], dtype=bool)
    known = np.array([len(pmf) > 0 for pmf in logged.pmf], dtype=bool)
    return (logged.action >= 0) & (known | logged.learnable)


class _Describer:
    """The features of a decision's context and of its actions."""

    def __init__(
        self, logged: Logged, names: Sequence[str] | None, actions: Mapping[Any, Mapping[str, Any]] | None
    ) -> None:
        self._logged, self._names, self._actions = logged, names, actions
        self._known: dict[Any, Features] = {}

    def context(self, at: int) -> Features:
        try:
            return features_of(self._logged.features[at], self._names)
        except ValueError as error:
            raise ValueError(f"decision {self._logged.decision_id[at]}: {error}") from error

    def actions(self, at: int, count: int) -> list[Features]:
        named = self._logged.actions[at] or range(count)
        return [self._action(name) for name in named]

    def _action(self, name: Any) -> Features:
        key = key_of(name)
        if key not in self._known:
            told = {} if self._actions is None else self._actions.get(key, {})
            self._known[key] = features_of({"a": str(name), **told})
        return self._known[key]


def _event(logged: Logged, at: int) -> dict[str, Any]:
    moment = datetime.fromtimestamp(logged.ts[at], timezone.utc).isoformat(timespec="microseconds")
    event = {
        "Timestamp": moment.replace("+00:00", "Z"),
        "Version": "1",
        "EventId": logged.decision_id[at],
        "VWState": {"m": logged.model[at] or ""},
    }
    return event if logged.learnable[at] else {**event, "_skipLearn": True}


def _context_json(at: int, describe: _Describer, count: int) -> dict[str, Any]:
    context = {SHARED: dict(describe.context(at))}
    return {**context, "_multi": [{ACTION: dict(features)} for features in describe.actions(at, count)]}


def _choice_json(logged: Logged, at: int, describe: _Describer) -> dict[str, Any]:
    pmf, action, cost = logged.pmf[at].tolist(), int(logged.action[at]), 0.0 - float(logged.reward[at])
    order = [action, *(other for other in range(len(pmf)) if other != action)]
    return {
        "_label_cost": cost,
        "_label_probability": pmf[action],
        "_label_Action": action + 1,
        "_labelIndex": action,
        "o": [{"v": 0.0 - cost, "EventId": logged.decision_id[at], "ActionTaken": False}],
        "a": [other + 1 for other in order],
        "c": _context_json(at, describe, len(pmf)),
        "p": [pmf[other] for other in order],
        "_original_label_cost": cost,
        **_event(logged, at),
    }


def _choice_text(logged: Logged, at: int, describe: _Describer) -> str:
    pmf, action, cost = logged.pmf[at].tolist(), int(logged.action[at]), 0.0 - float(logged.reward[at])
    label = f"{action}:{cost!r}:{pmf[action]!r} "
    lines = [f"shared {text(SHARED, describe.context(at))}"]
    for number, features in enumerate(describe.actions(at, len(pmf))):
        lines.append((label if number == action else "") + text(ACTION, features))
    return "\n".join([*lines, ""])


def _positions(logged: Logged, at: int) -> tuple[list[int], list[float], list[float], int]:
    """A ranking's items, what each cost, with which probability it was where it was, and how many there were."""
    served = logged.served[at]
    if not logged.pmf[at].size and logged.learnable[at]:
        raise ValueError(
            f"decision {logged.decision_id[at]} has no probabilities of its positions, nor can they be computed from "
            "its policy and scores; without them a position cannot be weighed."
        )
    probability = logged.pmf[at].diagonal().tolist() if logged.pmf[at].size else [1.0] * len(served)
    whole = float(logged.reward[at])
    earned = [whole] * len(served) if logged.slot_reward is None else logged.slot_reward[at].tolist()
    return served, [0.0 - reward for reward in earned], probability, _candidates(logged, at)


def _candidates(logged: Logged, at: int) -> int:
    known = len(logged.scores[at]) or len(logged.actions[at] or ())
    if not known:
        raise ValueError(f"decision {logged.decision_id[at]} has neither scores nor names of its candidates")
    return known


def _ranking_json(logged: Logged, at: int, describe: _Describer) -> dict[str, Any]:
    served, costs, probability, count = _positions(logged, at)
    context = _context_json(at, describe, count)
    context["_slots"] = [{SLOT: {f"slot={slot}": 1.0}} for slot in range(len(served))]
    rows = zip(served, costs, probability, strict=True)
    outcomes = [
        {"_label_cost": cost, "_id": f"{logged.decision_id[at]}/{slot}", "_a": [item], "_p": [chance], "_o": []}
        for slot, (item, cost, chance) in enumerate(rows)
    ]
    return {"c": context, "_outcomes": outcomes, **_event(logged, at)}


def _ranking_text(logged: Logged, at: int, describe: _Describer) -> str:
    served, costs, probability, count = _positions(logged, at)
    lines = [f"ccb shared {text(SHARED, describe.context(at))}"]
    lines += [f"ccb action {text(ACTION, features)}" for features in describe.actions(at, count)]
    for slot, (item, cost, chance) in enumerate(zip(served, costs, probability, strict=True)):
        lines.append(f"ccb slot {item}:{cost!r}:{chance!r} {text(SLOT, [(f'slot={slot}', 1.0)])}")
    return "\n".join([*lines, ""])


def _value_json(logged: Logged, at: int, describe: _Describer) -> dict[str, Any]:
    label = {
        "action": float(logged.served[at]),
        "cost": 0.0 - float(logged.reward[at]),
        "pdf_value": float(logged.propensity[at]),
    }
    return {"_label_ca": label, SHARED: dict(describe.context(at))}


def _value_text(logged: Logged, at: int, describe: _Describer) -> str:
    value, cost, density = float(logged.served[at]), 0.0 - float(logged.reward[at]), float(logged.propensity[at])
    return f"ca {value!r}:{cost!r}:{density!r} {text(SHARED, describe.context(at))}"
