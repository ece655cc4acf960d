"""One row of a decision store, read and checked: a record that cannot have been written as it stands is refused."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from guardrails.decisions.joined.logged import TOLERANCE, Floats, same_probability

KINDS = ("choice", "ranking", "threshold", "value")
NONE = -1
MOST = 2**31
"""Numbers of actions lie below."""
_UNKNOWN = np.empty(0)
_decoded = json.JSONDecoder().decode


class MalformedRecord(ValueError):
    """A record contradicts itself or is not readable; the message says how, without the record's own values."""


@dataclass(slots=True)
class ReadDecision:
    """A decision's row with its JSON read: see `Logged` for the columns."""

    decision_id: str
    ts: float
    kind: str | None
    action: int
    greedy: int
    propensity: float
    eligible: bool
    pmf: Floats
    scores: Floats
    actions: list[Any] | None
    excluded: list[int] | None
    served: Any
    differs: bool
    deferred: bool
    unit: str
    cluster: str
    policy: str
    model: str | None
    features: Any
    api: str
    strength: float
    ineligible: str | None


def kind_of(row: Mapping[str, Any]) -> str | None:
    """What was explored; stores from before there were kinds hold choices only."""
    kind = row.get("kind")
    return kind if kind is not None or row.get("policy") is None else "choice"


def read_decision(row: Mapping[str, Any]) -> ReadDecision:
    """Read a row as `DecisionStore.read` gives it; of older stores, what it lacks is taken as not there.

    Raises:
        MalformedRecord: it cannot be what the service wrote.
    """
    kind = kind_of(row)
    if kind is not None and kind not in KINDS:
        raise MalformedRecord("a kind that this version does not know")
    pmf, scores = read_json(row.get("pmf"), "pmf"), read_json(row.get("scores"), "scores")
    actions, served = read_json(row.get("actions"), "actions"), read_json(row.get("served"), "served")
    read = ReadDecision(
        decision_id=row["decision_id"],
        ts=finite(row.get("ts"), "ts"),
        kind=kind,
        action=_number(row.get("action"), "action"),
        greedy=_number(row.get("greedy"), "greedy"),
        propensity=finite(row.get("propensity"), "propensity"),
        eligible=kind is not None and bool(row.get("eligible")),
        pmf=_array(pmf, "pmf"),
        scores=_array(scores, "scores"),
        actions=_listed(actions, "actions"),
        excluded=_excluded(row.get("excluded")),
        served=served,
        differs=False,
        deferred=bool(row.get("deferred")),
        unit=str(row.get("unit") or row["decision_id"]),
        cluster=str(row.get("cluster") or row.get("unit") or row["decision_id"]),
        policy=sys.intern(str(row.get("policy") or "")),
        model=_shared(row.get("model")),
        features=read_features(row.get("features")),
        api=sys.intern(str(row.get("api") or "")),
        strength=1.0 if row.get("strength") is None else finite(row["strength"], "strength"),
        ineligible=_shared(row.get("ineligible")),
    )
    if read.propensity <= 0.0 or (kind != "value" and read.propensity > 1.0 + TOLERANCE):
        raise MalformedRecord("a propensity outside (0, 1]")
    if kind is not None:
        _CHECKS[kind](read, pmf)
        _check_excluded(read)
        if read.eligible and np.isnan(read.scores).any():
            raise MalformedRecord("a score that is NaN")
    return read


def _shared(text: str | None) -> str | None:
    """One text for all rows that say the same."""
    return None if text is None else sys.intern(str(text))


def read_json(value: Any, name: str) -> Any:
    """What a JSON column holds; values that were never written as text are taken as they are."""
    if not isinstance(value, str):
        return value
    try:
        return _decoded(value)
    except (ValueError, RecursionError):
        raise MalformedRecord(f"{name} that is no JSON") from None


def read_features(value: Any) -> Any:
    """A row, or its hash, which is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value[:1] in '[{"' else value
    except (ValueError, RecursionError):
        return value


def finite(value: Any, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise MalformedRecord(f"{name} that is no number")
    try:
        number = float(value)
    except OverflowError:  # an integer too long for a float
        number = math.inf
    if not math.isfinite(number):
        raise MalformedRecord(f"{name} that is not finite")
    return number


def _number(value: Any, name: str) -> int:
    """An action's number; `NONE` where there is none."""
    if value is None:
        return NONE
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < MOST:
        raise MalformedRecord(f"{name} that is no number of an action")
    return int(value)


def _array(values: Any, name: str) -> Floats:
    if values is None:
        return _UNKNOWN
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        raise MalformedRecord(f"{name} of unequal lengths") from None
    if array.dtype.kind not in "biuf":
        raise MalformedRecord(f"{name} that are no numbers")
    if array.ndim and array.dtype == np.float64:
        return array
    return np.atleast_1d(array.astype(np.float64))


def _listed(values: Any, name: str) -> list[Any] | None:
    if values is not None and not isinstance(values, list | tuple | np.ndarray):
        raise MalformedRecord(f"{name} that are no list")
    return None if values is None else list(values)


def _excluded(value: Any) -> list[int] | None:
    listed = _listed(read_json(value, "excluded"), "excluded") if value is not None else None
    return None if listed is None else [_number(entry, "excluded") for entry in listed]


def _check_excluded(read: ReadDecision) -> None:
    candidates = len(read.scores) or len(read.actions or ()) or (0 if read.kind == "ranking" else len(read.pmf))
    if read.excluded and candidates and max(read.excluded) >= candidates:
        raise MalformedRecord("an excluded candidate that there is not")


def _check_choice(read: ReadDecision, pmf: Any) -> None:
    sizes = {len(values) for values in (read.pmf, read.scores, read.actions) if values is not None and len(values)}
    _check_action(read, pmf, sizes)


def _check_threshold(read: ReadDecision, pmf: Any) -> None:
    _check_action(read, pmf, {2} | ({len(read.pmf)} if len(read.pmf) else set()))


def _check_action(read: ReadDecision, pmf: Any, sizes: set[int]) -> None:
    if len(sizes) > 1 or read.pmf.ndim != 1:
        raise MalformedRecord("pmf, scores and actions of unequal lengths")
    size = next(iter(sizes), 0)
    if read.eligible and read.action == NONE:
        raise MalformedRecord("no action")
    if size and max(read.action, read.greedy) >= size:
        raise MalformedRecord("an action out of range")
    if len(read.pmf):
        _check_sum(pmf if isinstance(pmf, Sequence) else read.pmf.tolist())
        if read.action != NONE and not same_probability(read.pmf[read.action], read.propensity):
            raise MalformedRecord("a propensity that is not its pmf's")
    elif not read.eligible and size and read.action != NONE:
        read.pmf = np.zeros(size)  # nothing was drawn: it was served with certainty
        read.pmf[read.action] = 1.0
    read.differs = NONE not in (read.action, read.greedy) and read.action != read.greedy


def _check_sum(pmf: Sequence[float]) -> None:
    if not abs(sum(pmf) - 1.0) <= TOLERANCE:  # so that NaN is none
        raise MalformedRecord("a pmf that does not sum to one")
    if min(pmf) < 0.0:
        raise MalformedRecord("a pmf with a negative probability")


def _check_ranking(read: ReadDecision, _pmf: Any) -> None:
    served = _listed(read.served, "served")
    if not served:
        if read.eligible:
            raise MalformedRecord("a ranking that served nothing")
        return
    candidates = len(read.scores) or len(read.actions or ())
    read.served = _numbered(served, read.actions, candidates)
    slots = len(served)
    if read.pmf.size:
        if read.pmf.shape != (slots, slots):
            raise MalformedRecord("a pmf that is no square of the served list")
        _check_positions(read.pmf)
    if len(read.scores) >= slots:
        organic = np.argsort(-read.scores, kind="stable")[:slots]
        read.differs = organic.tolist() != read.served


def _numbered(served: list[Any], actions: list[Any] | None, candidates: int) -> list[int]:
    """The served candidates' numbers, also where they were written by name."""
    numbers = [item for item in served if isinstance(item, int | np.integer) and not isinstance(item, bool)]
    if len(numbers) < len(served) or (candidates and not all(0 <= item < candidates for item in numbers)):
        known = {} if actions is None else {str(name): number for number, name in enumerate(actions)}
        numbers = [known[str(item)] for item in served if str(item) in known]
    if len(numbers) < len(served):
        raise MalformedRecord("an item that is no candidate")
    if len(set(numbers)) < len(numbers):
        raise MalformedRecord("an item served twice")
    return [int(number) for number in numbers]


def _check_positions(pmf: Floats) -> None:
    if not (pmf >= 0.0).all() or (pmf.sum(axis=1) > 1.0 + TOLERANCE).any():
        raise MalformedRecord("a pmf with an item whose positions sum to more than one")
    if not (pmf.diagonal() > 0.0).all():
        raise MalformedRecord("an item at a position where it could not be")


def _check_value(read: ReadDecision, _pmf: Any) -> None:
    if read.served is None:
        if read.eligible:
            raise MalformedRecord("no value")
        return
    read.served = finite(read.served, "served")
    read.differs = bool(len(read.scores)) and read.served != read.scores[0]


_CHECKS = {
    "choice": _check_choice,
    "threshold": _check_threshold,
    "ranking": _check_ranking,
    "value": _check_value,
}
