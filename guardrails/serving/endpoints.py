"""``/guardrails``: a status for machines, a page for people, and feedback."""

from __future__ import annotations

import hmac
import html
import json
import math
import re
import time
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from guardrails.decisions.records import Reward
from guardrails.serving.middleware import Receive, Scope, Send
from guardrails.serving.status import Worker

MAX_BODY = 64 * 1024
_ID = re.compile(r"[0-9a-f]{32}(/[0-9]{1,9})?")
_PLACES = ("", "/status", "/drift", "/drift/report", "/feedback")
_COMMANDS = (
    'Send {"action": "acknowledge"} (with "alarm": its id, or for all), or {"action": "reset"} (with "baseline": '
    '"recent" to compare with what came since the last alarm from now on); "profile" chooses among several.'
)
_FIELDS = {"decision_id", "label", "reward", "served_action"}


@dataclass(frozen=True)
class Answer:
    """A status and what to say with it."""

    status: int
    body: Any
    media_type: str = "application/json"


class Endpoints:
    """An ASGI app for one path of the service.

    Args:
        worker: whose status it tells.
        path: where it is mounted.
        token: what clients have to show, or None.
    """

    def __init__(self, worker: Worker, path: str, token: str | None) -> None:
        self._worker, self._path, self._token = worker, path.rstrip("/"), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = await self._answer(scope, receive)
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        headers = [(b"content-type", answer.media_type.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        if not self._allowed(scope):
            return Answer(401, {"error": "This needs the header 'Authorization: Bearer <token>'."})
        path = str(scope["path"]).rstrip("/")
        place = path[path.rindex(self._path) + len(self._path) :] if self._path in path else path
        method = scope["method"]
        if place == "/status" and method == "GET":
            return Answer(200, await anyio.to_thread.run_sync(self._worker.status))
        if place == "" and method == "GET":
            status = await anyio.to_thread.run_sync(self._worker.status)
            return Answer(200, _page(status), "text/html; charset=utf-8")
        if place == "/feedback" and method == "POST":
            return await self._feedback(await _body(receive))
        if place == "/drift" and method == "GET":
            return Answer(200, await anyio.to_thread.run_sync(self._worker.drift))
        if place == "/drift/report" and method == "GET":
            return Answer(200, await anyio.to_thread.run_sync(self._report), "text/html; charset=utf-8")
        if place == "/drift" and method == "POST":
            if not _is_json(scope):  # what a form on some other page could send, too
                return Answer(415, {"error": "Send this with Content-Type: application/json."})
            return await self._command(await _body(receive))
        if place in _PLACES:
            return Answer(405, {"error": f"{method} is not answered here."})
        return Answer(404, {"error": f"There are {', '.join(self._path + place for place in _PLACES)}."})

    def _allowed(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        shown = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(shown, f"Bearer {self._token}".encode())

    async def _feedback(self, body: bytes | None) -> Answer:
        if body is None:
            return Answer(413, {"error": f"Feedback is at most {MAX_BODY} bytes."})
        log = self._worker.log
        if log is None:
            return Answer(404, {"error": "This service keeps no decisions: it was installed without decisions=..."})
        reward = _parsed(body)
        if isinstance(reward, Answer):
            return reward
        try:
            known = await anyio.to_thread.run_sync(log.store.knows, reward.decision_id)
            await anyio.to_thread.run_sync(log.store.write, "reward", [reward.row()])
        except Exception:  # noqa: BLE001  # the store is down: the queue keeps it until the store is back
            if not log(reward):
                return Answer(503, {"error": "The store does not answer and the queue is full. Send this again later."})
            return Answer(202, {"status": "queued", "detail": "The store does not answer; this waits for it."})
        if not known:
            return Answer(202, {"status": "kept", "detail": "No such decision is written yet; this waits for it."})
        return Answer(200, {"status": "stored"})

    def _report(self) -> str:
        from guardrails.drift.page import render

        return render(self._worker.drift(), title=f"Drift of {self._worker.service}")

    async def _command(self, body: bytes | None) -> Answer:
        """Acknowledge alarms, or begin anew: carried out by the worker that judges drift, within a second."""
        try:
            given = json.loads(body or b"")
            action, profile, alarm, baseline = (
                given.pop(name, None) for name in ("action", "profile", "alarm", "baseline")
            )
        except (ValueError, AttributeError, TypeError, RecursionError):
            return Answer(400, {"error": "The body is a JSON object with an action: acknowledge or reset."})
        known = action in ("acknowledge", "reset") and baseline in (None, "profile", "recent") and not given
        if not known or not all(value is None or isinstance(value, str) for value in (profile, alarm)):
            return Answer(400, {"error": _COMMANDS})
        details = {name: value for name, value in (("alarm", alarm), ("baseline", baseline)) if value is not None}
        told = await anyio.to_thread.run_sync(lambda: self._worker.command_drift(action, profile, **details))
        if not told:
            return Answer(404, {"error": "No such profile is watched for drift here."})
        return Answer(
            202, {"status": "told", "detail": "Carried out within a second; GET here shows what became of it."}
        )


def _is_json(scope: Scope) -> bool:
    kind = dict(scope["headers"]).get(b"content-type", b"")
    return bool(kind.partition(b";")[0].strip().lower() == b"application/json")


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None when it is larger than it may be."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    return body


def _parsed(body: bytes) -> Reward | Answer:
    """The reward in a body, or what is wrong with it."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Answer(400, {"error": f"The body is no JSON: {error}."})
    if not isinstance(given, dict):
        return Answer(400, {"error": "The body is a JSON object with decision_id, and label or reward."})
    if unknown := sorted(set(given) - _FIELDS):
        return Answer(400, {"error": f"Unknown fields: {', '.join(unknown)}. Known: {', '.join(sorted(_FIELDS))}."})
    identity, reward, action = given.get("decision_id"), given.get("reward"), given.get("served_action")
    if not isinstance(identity, str) or _ID.fullmatch(identity) is None:
        hint = "decision_id is the text of a Guardrails-Decision-Id header; of several rows, that of one: <id>/<row>."
        return Answer(400, {"error": hint})
    if given.get("label") is None and reward is None:
        return Answer(400, {"error": "Give a label, a reward, or both."})
    if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float) or not _finite(reward)):
        return Answer(400, {"error": "reward is a finite number."})
    if action is not None and (isinstance(action, bool) or not isinstance(action, int) or not 0 <= action < 2**31):
        return Answer(400, {"error": "served_action is the number of an action, from 0."})
    number = None if reward is None else float(reward)
    return Reward(identity, time.time(), number, given.get("label"), action)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too long for a float
        return False


def _page(status: dict[str, Any]) -> str:
    """The status, readable: no script, nothing from elsewhere."""
    escape = html.escape
    parts = [f"<h1>{escape(status['service'])}</h1>"]
    parts.append(f"<p><b>{'ready' if status['ready'] else 'not ready'}</b> {escape(status['problem'] or '')}</p>")
    for name in ("profile", "decisions"):
        if status[name]:
            rows = "".join(f"<tr><th>{escape(k)}<td>{escape(str(v))}" for k, v in status[name].items())
            parts.append(f"<h2>{name}</h2><table>{rows}</table>")
    for name, guards in status["guards"].items():
        state = json.dumps(status["state"].get(name, {}), indent=1)
        parts.append(f"<h2>{escape(name)}</h2><pre>{escape(chr(10).join(guards))}</pre><pre>{escape(state)}</pre>")
    for drift in status["drift"]:
        parts.append(f"<h2>drift: {escape(drift['verdict'])}</h2><p>{drift['rows']} rows, all workers; ")
        parts.append("<a href='drift/report'>all of it as a page</a></p>")
        parts.extend(f"<p>{escape(alarm['sentence'])}</p>" for alarm in drift["alarms"] if not alarm["acknowledged"])
        columns = ("feature", "rows", "psi", "ks", "p_value", "adjusted", "missing", "drifted")
        head = "".join(f"<th>{column}" for column in columns)
        cells = (
            "<tr>" + "".join(f"<td>{escape(str(entry[column]))}" for column in columns) for entry in drift["features"]
        )
        parts.append(f"<table><tr>{head}{''.join(cells)}</table>")
    return f"<!doctype html><meta charset=utf-8><title>{escape(status['service'])}</title><style>{_STYLE}</style>" + (
        "".join(parts)
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ddd}"
    "pre{background:#f6f6f6;padding:.6rem;overflow:auto}"
)
