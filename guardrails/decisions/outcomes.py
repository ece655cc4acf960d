"""Feedback, however it comes: read and checked once, and delivered so that a second delivery changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from guardrails.decisions.records import Reward
from guardrails.decisions.writer import DecisionLog, log_of, open_log, open_logs
from guardrails.errors import DecisionStoreError

if TYPE_CHECKING:
    from guardrails.decisions.sinks import Sinks
    from guardrails.decisions.stores.store import DecisionStore

Status: TypeAlias = Literal["stored", "kept", "duplicate", "queued", "lost"]

FIELDS = ("decision_id", "feedback_id", "label", "name", "reward", "served_action", "shown", "slot")
MOST_REWARD = 1e15
"""Sums and squares of rewards up to here are numbers; what anybody may send must not spoil an estimate of all."""
MAX_LABEL = 64 * 1024
"""Characters of a label's JSON text."""
MAX_SHOWN = 1000
"""Actions in a list of those that were shown."""
MAX_NAME, MAX_KEY = 64, 128
_ID = re.compile(r"[0-9a-f]{32}(/[0-9]{1,9})?")
_INTEGERS = 2**31


def parse_feedback(given: Any, key: str | None = None) -> Reward:
    """One piece of feedback, checked.

    Args:
        given: what came, as JSON has it: ``decision_id``, and at least one of ``label``, ``reward`` and
            ``shown: true``; where they apply ``served_action``, ``name``, ``slot``, ``feedback_id``.
        key: the ``feedback_id`` of one that has none (an ``Idempotency-Key``). Without any, it is a hash of the
            content: feedback that says the same of the same decision is one.

    Raises:
        ValueError: it is none; a sentence that says what is wrong.

    Example:
        >>> parse_feedback({"decision_id": "0" * 32, "reward": 1}).reward
        1.0
    """
    if not isinstance(given, Mapping):
        raise ValueError("Feedback is a JSON object with decision_id, and label, reward or shown.")  # noqa: TRY004
    if unknown := sorted(str(name)[:40] for name in set(given) - set(FIELDS)):
        raise ValueError(f"Unknown fields: {', '.join(unknown[:5])}. Known: {', '.join(FIELDS)}.")
    identity, label, shown = given.get("decision_id"), given.get("label"), given.get("shown")
    if not isinstance(identity, str) or _ID.fullmatch(identity) is None:
        hint = "decision_id is the text of a Guardrails-Decision-Id header; of several rows, that of one: <id>/<row>."
        raise ValueError(hint)
    if shown is not None and not isinstance(shown, bool):
        raise ValueError("shown is true, for a decision that was made ahead and has now been shown, or false.")
    if label is None and given.get("reward") is None and not shown:
        raise ValueError("Give a label, a reward, or both; or shown: true for a decision that was made ahead.")
    reward = Reward(
        decision_id=identity,
        ts=time.time(),
        reward=_reward(given.get("reward")),
        label=label,
        served_action=_shown_actions(given.get("served_action")),
        name=_text("name", given.get("name"), MAX_NAME),
        slot=_slot(given.get("slot")),
        shown=bool(shown),
        feedback_id=_text("feedback_id", given.get("feedback_id"), MAX_KEY),
    )
    content = _content(reward)  # also finds labels that cannot be kept
    if reward.feedback_id is None:
        reward.feedback_id = _text("Idempotency-Key", key, MAX_KEY + 12) or content
    return reward


def deliver(log: DecisionLog | Sinks, rewards: Sequence[Reward]) -> list[Status]:
    """Write feedback now; blocks for as long as the store takes.

    Returns:
        For each ``"stored"``, ``"kept"`` (nobody knows the decision, yet) or ``"duplicate"`` (it was here before).
        ``"queued"`` or ``"lost"`` where the store only takes what is sent to it, see `queue`.

    Raises:
        Exception: whatever the store raises.
    """
    store: Any = log.store
    rows = [reward.row() for reward in rewards]
    if hasattr(store, "deliver"):
        known = store.known({reward.decision_id for reward in rewards})
        new = store.deliver(rows)
        _pass_on(log, [reward for reward, is_new in zip(rewards, new, strict=True) if is_new])
    else:
        answers = {reward.decision_id: store.knows(reward.decision_id) for reward in rewards}
        if None in answers.values():
            return queue(log, rewards)
        known = {name for name, answer in answers.items() if answer}
        store.write("reward", rows)
        new = [True] * len(rows)
    return [
        "duplicate" if not is_new else "stored" if reward.decision_id in known else "kept"
        for reward, is_new in zip(rewards, new, strict=True)
    ]


def queue(log: DecisionLog | Sinks, rewards: Sequence[Reward]) -> list[Status]:
    """Leave feedback to the log's thread: ``"queued"``, or ``"lost"`` where the queue is full."""
    return ["queued" if log(reward) else "lost" for reward in rewards]


def feedback(
    decision_id: str,
    reward: float | None = None,
    label: Any = None,
    served_action: int | Sequence[int] | None = None,
    name: str | None = None,
    slot: int | None = None,
    shown: bool = False,
    feedback_id: str | None = None,
    decisions: str | DecisionLog | Sinks | None = None,
) -> Status:
    """Say what became of a decision, as ``POST /guardrails/feedback`` does, from Python.

    Args:
        decision_id: what the ``Guardrails-Decision-Id`` header said; for one of several rows ``<id>/<row>``.
        reward: a number, higher is better.
        label: what the right answer turned out to be: anything that JSON can say.
        served_action: what was really shown, where that may differ: an action's number, or a list of them.
        name: which outcome this is, where there are several.
        slot: of a ranking, the position (from 0) that it belongs to.
        shown: the decision, made ahead, has now been shown.
        feedback_id: makes two deliveries one; without it, the same content of the same decision is one.
        decisions: the store's URL (or an open log); by default the one that this process has open.

    Returns:
        ``"stored"``, ``"kept"`` (no such decision is known, yet), ``"duplicate"``, or ``"queued"`` where the store
        does not answer and a log of this process holds it.

    Raises:
        ValueError: the feedback cannot be right; the sentence says why.
        DecisionStoreError: there is no store to give it to, or it does not answer and nothing can hold the feedback.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     url = f"sqlite:///{folder}/decisions.db"
        ...     [feedback("0" * 32, reward=1.0, decisions=url) for _ in range(2)]
        ['kept', 'duplicate']
    """
    values = {"decision_id": decision_id, "reward": reward, "label": label, "served_action": served_action}
    values |= {"name": name, "slot": slot, "shown": shown, "feedback_id": feedback_id}
    parsed = parse_feedback({field: _as_json(value) for field, value in values.items() if value is not None})
    log = _open(decisions)
    if log is None:
        return _directly(str(decisions), parsed)
    try:
        if log.last_error is None:
            return deliver(log, [parsed])[0]
    except Exception:  # noqa: BLE001, S110  # the log holds it until the store is back
        pass
    if queue(log, [parsed]) == ["lost"]:
        raise DecisionStoreError(
            f"The store does not answer and the queue is full ({log.last_error}). Try again later."
        )
    return "queued"


def _open(decisions: Any) -> Any:
    """The log to give it to; None where a store has to be opened for it."""
    logs = open_logs()
    if decisions is None:
        if len(logs) != 1:
            found = ", ".join(sorted(log.store.url for log in logs)) or "none"
            raise DecisionStoreError(f"Which store? Open in this process: {found}. Give decisions=<its URL>.")
        return logs[0]
    if not isinstance(decisions, str):
        return decisions
    return open_log(decisions) if decisions.startswith("otlp+") else log_of(decisions)


_stores: dict[tuple[int, str], DecisionStore] = {}
_lock = threading.Lock()


def _directly(url: str, reward: Reward) -> Status:
    from guardrails.decisions.stores.store import DecisionStore

    with _lock:  # a forked process must not use its parent's connections
        store = _stores.get((os.getpid(), url))
        if store is None:
            store = DecisionStore(url)
            store.create()
            _stores[os.getpid(), url] = store
    try:
        known = store.knows(reward.decision_id)
        new = store.deliver([reward.row()])[0]
    except DecisionStoreError:
        raise
    except Exception as error:  # the drivers' own errors, which have no base in common
        raise DecisionStoreError(f"{store.url} does not take the feedback: {error}. Try again later.") from error
    return "duplicate" if not new else "stored" if known else "kept"


def _pass_on(log: DecisionLog | Sinks, rewards: Sequence[Reward]) -> None:
    """Of several sinks, to those that have not been asked."""
    main = getattr(log, "main", None)
    others = [sink for sink in getattr(log, "sinks", ()) if isinstance(sink, DecisionLog) and sink is not main]
    for sink in others:
        for reward in rewards:
            sink(reward)


def _content(reward: Reward) -> str:
    """A name of what is said, the same for the same."""
    try:
        label = json.dumps(reward.label, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("label is JSON without NaN and infinities, and not nested without end.") from error
    if len(label) > MAX_LABEL:
        raise ValueError(f"label is at most {MAX_LABEL} characters of JSON.")
    said = [label, reward.reward, reward.served_action, reward.name, reward.slot, reward.shown]
    return "content-" + hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def _reward(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _small(value):
        raise ValueError(f"reward is a finite number, between {-MOST_REWARD:g} and {MOST_REWARD:g}.")
    return float(value)


def _small(value: float) -> bool:
    return -MOST_REWARD <= value <= MOST_REWARD  # NaN is not, nor is an integer too long for a float


def _shown_actions(value: Any) -> int | list[int] | None:
    if isinstance(value, list):
        if not 0 < len(value) <= MAX_SHOWN or not all(map(_is_number, value)):
            raise ValueError(f"served_action is an action's number, from 0, or a list of 1 to {MAX_SHOWN} of them.")
        return value
    if value is not None and not _is_number(value):
        raise ValueError("served_action is the number of an action, from 0, or a list of them.")
    return value  # type: ignore[no-any-return]


def _slot(value: Any) -> int | None:
    if value is not None and not _is_number(value):
        raise ValueError("slot is a position in the served list, from 0.")
    return value  # type: ignore[no-any-return]


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _INTEGERS


def _text(field: str, value: Any, longest: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise ValueError(f"{field} is text of 1 to {longest} printable characters.")
    return value


def _as_json(value: Any) -> Any:
    """NumPy's numbers and arrays, and tuples, as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value
