"""What one HTTP request and its guards tell each other: the middleware opens it, the guards fill it in."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from guardrails import semconv
from guardrails.errors import Rejected

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from guardrails.core.call import Call


@dataclass(slots=True)
class RequestState:
    """Filled in by the guarded call, read by the middleware when the response starts.

    A ContextVar carries a reference to it, and contexts are copied into worker threads: hence an object that is
    written to, rather than a value that is set.
    """

    headers: dict[str, str] = field(default_factory=dict)
    rejection: Rejected | None = None

    def answer(self, decision_id: str, route: str, reason: str | None) -> None:
        """Tell the client who answered, and why somebody else did."""
        self.headers = {semconv.HEADER_DECISION_ID: decision_id, semconv.HEADER_ROUTE: route}
        if reason is not None:
            self.headers[semconv.HEADER_REASON] = reason


CURRENT: ContextVar[RequestState | None] = ContextVar("guardrails_request", default=None)


class Batch(Protocol):
    """The requests whose rows the server merged into one call of a batchable method."""

    @property
    def contexts(self) -> Sequence[SpanContext]:
        """Their spans, for the batch's own span to link to."""

    def answered(self, call: Call) -> None:
        """Tell each of them what became of its rows. Never raises."""


BATCH: ContextVar[Batch | None] = ContextVar("guardrails_batch", default=None)


def take_batch() -> Batch | None:
    """The requests behind the batch that is being called: once, so that no call within it speaks for them too."""
    batch = BATCH.get()
    if batch is not None:
        BATCH.set(None)
    return batch
