"""The middleware: response headers, the body of a refusal, and the refusal in the served OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias

from guardrails.core.request import CURRENT, RequestState
from guardrails.serving.openapi import PATH, with_refusals

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_START, _BODY = "http.response.start", "http.response.body"
_REPLACED = (b"content-length", b"content-type")


class GuardMiddleware:
    """Carries what the guards say of a request into its response. Sits inside BentoML's tracing, outside its API.

    Args:
        app: what it wraps.
        guarded: the paths of the guarded methods, which the OpenAPI document gets a 422 for.
    """

    def __init__(self, app: App, guarded: Collection[str] = ()) -> None:
        self.app, self._guarded = app, guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].endswith(PATH):
            await self.app(scope, receive, _Document(self._guarded, send).send)
            return
        state = RequestState()
        token = CURRENT.set(state)
        try:
            await self.app(scope, receive, _Answer(state, send).send)
        finally:
            CURRENT.reset(token)


class _Document:
    """The OpenAPI document on its way out."""

    def __init__(self, guarded: Collection[str], send: Send) -> None:
        self._guarded, self._send = guarded, send
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == _START:
            self._start = message
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await _send_json(self._start, with_refusals(self._body, self._guarded), [], self._send)


class _Answer:
    """One response on its way out."""

    __slots__ = ("_refused", "_send", "_state")

    def __init__(self, state: RequestState, send: Send) -> None:
        self._state, self._send = state, send
        self._refused = False

    async def send(self, message: Message) -> None:
        if message["type"] == _START and self._state.headers:
            own = [
                (name.lower().encode(), value.encode("ascii", "backslashreplace"))
                for name, value in self._state.headers.items()
            ]
            refused = self._state.rejection
            if refused is not None and message["status"] == refused.error_code.value:
                self._refused = True
                await _send_json(message, json.dumps(refused.body()).encode(), own, self._send)
                return
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        if not self._refused:
            await self._send(message)
        # Otherwise this is the body BentoML made of the exception, which ours has replaced.


async def _send_json(start: Message, body: bytes, more: list[tuple[bytes, bytes]], send: Send) -> None:
    """A response with the status and headers of another, and a JSON body of ours."""
    kept = [pair for pair in start.get("headers", ()) if pair[0].lower() not in _REPLACED]
    kept += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({**start, "headers": kept})
    await send({"type": _BODY, "body": body})
