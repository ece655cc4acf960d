"""``POST /guardrails/feedback``: one piece of feedback, or many at once; never slower than it has to be."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import anyio
import anyio.to_thread

from guardrails.decisions.outcomes import Status, deliver, parse_feedback, queue
from guardrails.decisions.records import Reward

if TYPE_CHECKING:
    from guardrails.decisions.sinks import Sinks
    from guardrails.decisions.writer import DecisionLog

MAX_BODY = 64 * 1024
"""Bytes of one piece of feedback."""
MAX_BULK = 1024 * 1024
"""Bytes of several at once."""
MAX_ITEMS = 1000
PATIENCE = 1.0
"""Seconds to wait for the store; after that the log's queue has it. Both may write it: it is one by its id."""
AT_ONCE = 4
"""Threads that may wait for the store. They are no others': the service's own may not run out of them."""
_INLINE = 8 * 1024
_HTTP: Mapping[str, int] = {"stored": 200, "duplicate": 200, "kept": 202, "queued": 202, "refused": 400, "lost": 503}
_DETAILS: Mapping[str, str] = {
    "kept": "No such decision is written yet; this waits for it. (One row of several has the id <id>/<row>.)",
    "queued": "This waits in the queue until the store takes it.",
    "duplicate": "This feedback was here before; nothing has changed.",
}
_LOST = "The store does not answer and the queue is full. Send this again later."
_SHAPE = "The body is a JSON object with decision_id, and label, reward or shown; or a list of 1 to {} of them."

Reply: TypeAlias = tuple[int, dict[str, Any]]
_places = threading.BoundedSemaphore(AT_ONCE)


class _Read(NamedTuple):
    """What a body says: each entry feedback, or the sentence about what is wrong with it."""

    entries: list[Reward | str]
    ids: list[Any]
    bulk: bool


class _Unreadable(ValueError):
    """The body as a whole is wrong: a status and a sentence."""


async def answer(log: DecisionLog | Sinks | None, body: bytes | None, headers: Mapping[bytes, bytes]) -> Reply:
    """Take feedback.

    Args:
        log: where decisions go; None where the service keeps none.
        body: the request's; None when it was larger than `MAX_BULK`.
        headers: the request's, names in lower case.

    Returns:
        A status and what to say with it. One piece: 200 ``stored`` or ``duplicate``, 202 ``kept`` or ``queued``, 400,
        413 or 503. Several: 200 or 202 when all are fine, 400 (503) when none is, else 207; ``results`` tells of each.
    """
    if body is None:
        return 413, {"error": f"Feedback is at most {MAX_BULK} bytes, a single piece at most {MAX_BODY}."}
    if log is None or log.store is None:
        return 404, {"error": "This service keeps no decisions: it was installed without decisions=..."}
    try:
        if len(body) <= _INLINE:
            read = _read(body, _key(headers))
        else:  # a thousand of them take 20 ms to read: requests must not wait for that
            read = await anyio.to_thread.run_sync(functools.partial(_read, body, _key(headers)))
    except _Unreadable as error:
        return error.args[0], {"error": error.args[1]}
    rewards = [entry for entry in read.entries if isinstance(entry, Reward)]
    statuses = iter(await _deliver(log, rewards) if rewards else ())
    results = [("refused", entry) if isinstance(entry, str) else _told(next(statuses)) for entry in read.entries]
    return _bulk(read, results) if read.bulk else _single(*results[0])


async def _deliver(log: DecisionLog | Sinks, rewards: list[Reward]) -> list[Status]:
    """To the store, if it answers within `PATIENCE`; else to the queue."""
    if log.last_error is None:
        with anyio.move_on_after(PATIENCE):
            waiting = anyio.CapacityLimiter(1)  # one of its own: the default one is shared with the service
            run = functools.partial(_try, log, rewards)
            done = await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=waiting)
            if done is not None:
                return done
    return queue(log, rewards)


def _try(log: DecisionLog | Sinks, rewards: list[Reward]) -> list[Status] | None:
    if not _places.acquire(blocking=False):
        return None
    try:
        return deliver(log, rewards)
    except Exception:  # noqa: BLE001  # the store is down: the queue keeps it until the store is back
        return None
    finally:
        _places.release()


def _key(headers: Mapping[bytes, bytes]) -> str | None:
    """The ``Idempotency-Key``, with or without the quotes that its draft standard asks for."""
    raw = headers.get(b"idempotency-key")
    if raw is None:
        return None
    text = raw.decode("latin-1").strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _read(body: bytes, key: str | None) -> _Read:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _too_large_or(body, 400, f"The body is no JSON: {str(error)[:200]}.") from None
    if isinstance(given, dict) and set(given) == {"feedback"}:
        given = given["feedback"]
        if not isinstance(given, list):
            raise _Unreadable(400, _SHAPE.format(MAX_ITEMS))
    if not isinstance(given, list):
        if len(body) > MAX_BODY:
            raise _too_large_or(body, 413, "")
        if isinstance(given, dict) and key is not None and given.get("feedback_id") not in (None, key):
            raise _Unreadable(400, "The Idempotency-Key header and feedback_id differ. Give one of them.")
        return _Read([_parsed(given, key)], [None], bulk=False)
    if not given:
        raise _Unreadable(400, _SHAPE.format(MAX_ITEMS))
    if len(given) > MAX_ITEMS:
        raise _Unreadable(413, f"At most {MAX_ITEMS} pieces of feedback at once; these are {len(given)}.")
    keys = [None if key is None else f"{key}/{number}" for number in range(len(given))]
    entries = [_parsed(one, name) for one, name in zip(given, keys, strict=True)]
    ids = [one.get("decision_id") if isinstance(one, dict) else None for one in given]
    return _Read(entries, [name[:64] if isinstance(name, str) else None for name in ids], bulk=True)


def _too_large_or(body: bytes, status: int, text: str) -> _Unreadable:
    if len(body) > MAX_BODY:
        return _Unreadable(413, f"A single piece of feedback is at most {MAX_BODY} bytes.")
    return _Unreadable(status, text)


def _parsed(given: Any, key: str | None) -> Reward | str:
    try:
        return parse_feedback(given, key)
    except ValueError as error:
        return str(error)


def _told(status: Status) -> tuple[str, str | None]:
    return status, _LOST if status == "lost" else _DETAILS.get(status)


def _single(status: str, text: str | None) -> Reply:
    if status in ("refused", "lost"):
        return _HTTP[status], {"error": text}
    return _HTTP[status], {"status": status, **({} if text is None else {"detail": text})}


def _bulk(read: _Read, results: list[tuple[str, str | None]]) -> Reply:
    told = []
    for name, (status, text) in zip(read.ids, results, strict=True):
        failed = status in ("refused", "lost")
        told.append({"decision_id": name, "status": status, **({"error": text} if failed else {})})
    counts: dict[str, int] = {}
    for status, _ in results:
        counts[status] = counts.get(status, 0) + 1
    codes = {_HTTP[status] for status in counts}
    fine = codes <= {200, 202}
    code = max(codes) if fine or min(codes) >= 400 else 207  # noqa: PLR2004
    overall = "taken" if fine else "partly taken" if code == 207 else "refused"  # noqa: PLR2004
    return code, {"status": overall, "counts": counts, "results": told}
