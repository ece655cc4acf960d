"""The two append-only records: a decision, complete when it is written, and a reward, later, as many as there are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

VERSION = 2


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
        eligible: whether exploration was allowed to act (never off the primary route).
        scores, pmf: the model's scores and the probabilities of all actions, in the order of the actions.
        greedy, action: the model's own choice and the served one.
        propensity: the probability with which the served action was drawn; 1 where nothing was drawn.
        salt_id: names the key of the draw, without giving it away.
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
    eligible: bool = False
    scores: Any = None
    pmf: Any = None
    greedy: int | None = None
    action: int | None = None
    propensity: float = 1.0
    salt_id: str | None = None
    features: Any = None
    error_type: str | None = None
    shadow: str | None = None

    def row(self) -> dict[str, Any]:
        """As the store holds it. Runs in the writer's thread, never on a request."""
        values = {name: _plain(getattr(self, name)) for name in self.__slots__}
        for name in ("scores", "pmf", "features"):
            values[name] = _text(values[name])
        return {"v": VERSION, **values}


@dataclass(slots=True)
class Reward:
    """What became of a decision: a label, a reward, the action that was really shown. Arrives later, or twice.

    Attributes:
        decision_id: the decision it belongs to, known here or not (yet).
        ts: when it arrived, seconds since 1970 (UTC).
        reward: a number, higher is better.
        label: what the right answer turned out to be.
        served_action: what the client was really shown, where that may differ.
    """

    decision_id: str
    ts: float
    reward: float | None = None
    label: Any = None
    served_action: int | None = None

    def row(self) -> dict[str, Any]:
        """As the store holds it."""
        values = {name: _plain(getattr(self, name)) for name in self.__slots__}
        return {"v": VERSION, **values, "label": None if self.label is None else json.dumps(self.label)}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    # repr of a float has the digits that give the same float back: a rounded propensity is a wrong propensity.
    return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, default=_plain)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's: databases take the others for bytes."""
    return value.item() if isinstance(value, np.generic) else value
