"""The middleware: response headers, and the body of a refusal."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from guardrails.core.request import CURRENT, RequestState

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_START, _BODY = "http.response.start", "http.response.body"
_REPLACED = (b"content-length", b"content-type")


class GuardMiddleware:
    """Carries what the guards say of a request into its response. Sits inside BentoML's tracing, outside its API."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = RequestState()
        token = CURRENT.set(state)
        try:
            await self.app(scope, receive, _Answer(state, send).send)
        finally:
            CURRENT.reset(token)


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
                await self._refuse(message, own, json.dumps(refused.body()).encode())
                return
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        if not self._refused:
            await self._send(message)
        # Otherwise this is the body BentoML made of the exception, which ours has replaced.

    async def _refuse(self, start: Message, own: list[tuple[bytes, bytes]], body: bytes) -> None:
        kept = [pair for pair in start.get("headers", ()) if pair[0].lower() not in _REPLACED]
        kept += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *own]
        await self._send({**start, "headers": kept})
        await self._send({"type": _BODY, "body": body})
