"""``/guardrails``: a status for machines, a page for people, and feedback."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio.to_thread

from guardrails.serving import feedback, page
from guardrails.serving.exploring import command_exploration, exploration_status
from guardrails.serving.middleware import Receive, Scope, Send
from guardrails.serving.status import Worker

MAX_BODY = 64 * 1024
HTML = "text/html; charset=utf-8"
_NO_STORE = "There is no loop to look for: nothing is explored here, or there is no database in install(decisions=...)."
_COMMANDS = (
    'Send {"action": "acknowledge"} (with "alarm": its id, or for all), or {"action": "reset"} (with "baseline": '
    '"recent" to compare with what came since the last alarm from now on); "profile" chooses among several.'
)


@dataclass(frozen=True)
class Answer:
    """A status and what to say with it."""

    status: int
    body: Any
    media_type: str = "application/json"


_NO_JSON = Answer(415, {"error": "Send this with Content-Type: application/json."})
"""To what a form on some other page could send, too."""
Handler: TypeAlias = Callable[[Scope, Receive], Awaitable[Answer]]


class Endpoints:
    """An ASGI app for one path of the service.

    Args:
        worker: whose status it tells.
        path: where it is mounted.
        token: what clients have to show, or None.
    """

    def __init__(self, worker: Worker, path: str, token: str | None) -> None:
        self._worker, self._path, self._token = worker, path.rstrip("/"), token
        self._handlers: dict[tuple[str, str], Handler] = {
            ("GET", ""): self._page,
            ("GET", "/status"): self._status,
            ("GET", "/drift"): self._drift,
            ("POST", "/drift"): self._command,
            ("GET", "/drift/report"): self._drift_report,
            ("GET", "/loop"): self._loop,
            ("GET", "/exploration"): self._exploration,
            ("POST", "/exploration"): self._switch,
            ("POST", "/feedback"): self._feedback,
        }

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
        handler = self._handlers.get((str(scope["method"]), place))
        if handler is not None:
            return await handler(scope, receive)
        places = list(dict.fromkeys(known for _, known in self._handlers))
        if place in places:
            return Answer(405, {"error": f"{scope['method']} is not answered here."})
        return Answer(404, {"error": f"There are {', '.join(self._path + known for known in places)}."})

    async def _status(self, scope: Scope, receive: Receive) -> Answer:  # noqa: ARG002
        return Answer(200, await anyio.to_thread.run_sync(self._worker.status))

    async def _page(self, scope: Scope, receive: Receive) -> Answer:  # noqa: ARG002
        status = await anyio.to_thread.run_sync(self._worker.status)
        return Answer(200, page.render(status, self._worker.loop()), HTML)

    async def _feedback(self, scope: Scope, receive: Receive) -> Answer:
        body = await _body(receive, feedback.MAX_BULK)
        return Answer(*await feedback.answer(self._worker.log, body, dict(scope["headers"])))

    async def _drift(self, scope: Scope, receive: Receive) -> Answer:  # noqa: ARG002
        return Answer(200, await anyio.to_thread.run_sync(self._worker.drift))

    async def _drift_report(self, scope: Scope, receive: Receive) -> Answer:  # noqa: ARG002
        return Answer(200, await anyio.to_thread.run_sync(self._report), HTML)

    async def _loop(self, scope: Scope, receive: Receive) -> Answer:  # noqa: ARG002
        known = self._worker.loop()
        return Answer(404, {"error": _NO_STORE}) if known is None else Answer(200, known)

    async def _exploration(self, scope: Scope, receive: Receive) -> Answer:  # noqa: ARG002
        return Answer(200, exploration_status())

    async def _switch(self, scope: Scope, receive: Receive) -> Answer:
        if not _is_json(scope):
            return _NO_JSON
        body, guarded = await _body(receive), self._token is not None
        return Answer(*await anyio.to_thread.run_sync(lambda: command_exploration(body, guarded=guarded)))

    def _allowed(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        shown = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(shown, f"Bearer {self._token}".encode())

    def _report(self) -> str:
        from guardrails.drift.page import render

        return render(self._worker.drift(), title=f"Drift of {self._worker.service}")

    async def _command(self, scope: Scope, receive: Receive) -> Answer:
        """Acknowledge alarms, or begin anew: carried out by the worker that judges drift, within a second."""
        if not _is_json(scope):
            return _NO_JSON
        body = await _body(receive)
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


async def _body(receive: Receive, most: int = MAX_BODY) -> bytes | None:
    """The request's body; None when it is larger than it may be."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            return None
    return body
