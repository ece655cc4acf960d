"""The two append-only records: a decision, complete when it is written, and a reward, later, as many as there are."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import uuid
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

VERSION = 3


@dataclass(slots=True)
class Decision:
    """One answered row, with all that is needed to learn from it later.

    Attributes:
        decision_id: ``<id>``, or ``<id>/<row>`` for a row of a batch.
        ts: when the request came, seconds since 1970 (UTC).
        api, route, reason: which method, who answered, why it was not the primary.
        trace_id: the trace it belongs to, 32 hex digits; None outside of any.
        profile, model: which profile (tag or digest) judged it and which model answered.
        outlier_score, outlier_p_value: what the outlier check saw.
        duration: seconds from the first guard to the answer.
        policy: how the action was chosen; None where nothing was explored.
        kind: what was explored: ``"choice"``, ``"ranking"``, ``"threshold"`` or ``"value"``; None where nothing was.
        eligible: whether exploration was allowed to act (never off the primary route).
        ineligible: why it was not, where a policy stood ready: ``"switched_off"``, ``"ramp"``, ``"unit"``, ``"cap"``,
            ``"budget"``, ``"model_choice"``, ``"unwritable"``, ``"rule:<name>"`` or ``"shadow"``.
        actions: the candidates' names in the order of ``scores`` and ``pmf``; None where they are numbered from 0.
        excluded: the numbers of candidates that took no part in the draw; None where all did.
        scores: the model's scores of the candidates; of a threshold, the one score; of a value, the model's own.
        pmf: the probabilities of all candidates; of a ranking, shape ``(k, k)``: row i is the served list's i-th
            candidate, column r the position it might have been shown at (None where that is not known exactly).
        greedy, action: the model's own choice and the served one (its number); of a ranking None.
        served: what was served where it is no one action: a ranking's candidates in order, or the value.
        propensity: the probability with which what was served was drawn (a value's: the density); 1 where nothing was.
        strength: which share of the policy's exploration the budget let through; 1 is all of it.
        ramp: the share of units that are explored at all, where that is less than all of them.
        unit: what the draw is keyed by, where it is not the decision itself: a keyed hash, 32 hex digits.
        cluster: what stays the same where the unit is drawn anew each day: a keyed hash of the user. Decisions of one
            are alike, so intervals go by it.
        salt_id: names the key of the draw, without giving it away.
        deferred: decided before it is shown (prefetched): nothing to learn from until feedback says ``shown``.
        features: the row, where the service asked for it to be kept; or its hash.
        error_type: the exception the client's answer was made of, if any.
        shadow: what guards that are not enforced would have done, as ``<reason>:<route>``.
    """

    decision_id: str
    ts: float
    api: str
    route: str
    reason: str | None = None
    trace_id: str | None = None
    profile: str | None = None
    model: str | None = None
    outlier_score: float | None = None
    outlier_p_value: float | None = None
    duration: float | None = None
    policy: str | None = None
    kind: str | None = None
    eligible: bool = False
    ineligible: str | None = None
    actions: Any = None
    excluded: Any = None
    scores: Any = None
    pmf: Any = None
    greedy: int | None = None
    action: int | None = None
    served: Any = None
    propensity: float = 1.0
    strength: float = 1.0
    ramp: float | None = None
    unit: str | None = None
    cluster: str | None = None
    salt_id: str | None = None
    deferred: bool = False
    features: Any = None
    error_type: str | None = None
    shadow: str | None = None

    def row(self) -> dict[str, Any]:
        """As the store holds it. Runs in the writer's thread, never on a request."""
        row: dict[str, Any] = {"v": VERSION}
        for name, value in zip(_DECISION, _read_decision(self), strict=True):
            row[name] = value if value.__class__ in _SIMPLE else _plain(value)
        for name in ("actions", "excluded", "scores", "pmf", "served", "features"):
            row[name] = _text(row[name])
        return row


@dataclass(slots=True)
class Reward:
    """What became of a decision: a label, a reward, the action that was really shown. Arrives later, or twice.

    Attributes:
        decision_id: the decision it belongs to, known here or not (yet).
        ts: when it arrived, seconds since 1970 (UTC).
        reward: a number, higher is better.
        label: what the right answer turned out to be.
        served_action: what the client was really shown, where that may differ: an action's number, or a list of them.
        name: which outcome this is, where there are several ("click", "purchase").
        slot: of a ranking, the position (from 0) that it belongs to.
        shown: the decision, made ahead, has now been shown.
        feedback_id: what makes two deliveries of the same feedback one.
    """

    decision_id: str
    ts: float
    reward: float | None = None
    label: Any = None
    served_action: int | list[int] | None = None
    name: str | None = None
    slot: int | None = None
    shown: bool = False
    feedback_id: str | None = None

    def row(self) -> dict[str, Any]:
        """As the store holds it: of several shown actions, the JSON text of their list is in ``served``."""
        row = {"v": VERSION, **{name: _plain(getattr(self, name)) for name in self.__slots__}, "served": None}
        if isinstance(row["served_action"], list | tuple | np.ndarray):
            row["served"], row["served_action"] = _text(row["served_action"]), None
        row["label"] = None if self.label is None else json.dumps(self.label)
        return row


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    # repr of a float has the digits that give the same float back: a rounded propensity is a wrong propensity.
    return _to_json(value.tolist() if isinstance(value, np.ndarray) else value)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's: databases take the others for bytes."""
    return value.item() if isinstance(value, np.generic) else value


def _for_json(value: Any) -> Any:
    """What JSON has no form of: NumPy's numbers and arrays, bytes in hex, what names things or moments as text."""
    if isinstance(value, np.ndarray | np.generic):
        plain = value.tolist()
        return str(value) if isinstance(plain, np.generic) else plain  # a long double is its own item
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, uuid.UUID | dt.date | decimal.Decimal | os.PathLike):
        return str(value)
    raise TypeError(f"a record cannot hold what is of type {type(value).__name__}")


_SIMPLE = frozenset({str, float, int, bool, type(None)})
_DECISION = tuple(Decision.__slots__)
_read_decision = attrgetter(*_DECISION)
_to_json = json.JSONEncoder(default=_for_json).encode  # made once: json.dumps(default=...) makes one for each call
