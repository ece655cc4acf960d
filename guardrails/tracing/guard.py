"""@traced: one span and one duration per request, held to an expectation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from guardrails import semconv
from guardrails._version import __version__
from guardrails.core import metrics
from guardrails.core.call import Call, Stage
from guardrails.core.host import host
from guardrails.core.method import Method
from guardrails.core.pipeline import attach, brief
from guardrails.errors import DecorationError
from guardrails.typing import F, Hooks

if TYPE_CHECKING:
    from prometheus_client import Histogram

    from guardrails.tracing.span import GuardSpan

_NO_PARENT = otel.Context()


@dataclass(frozen=True, repr=False)
class traced:  # noqa: N801  # a decorator is read as a verb
    """Time the method, trace it, and hold it to an expectation.

    Each call leaves one span, a child of BentoML's server span in BentoML's own provider, and one observation in
    ``guardrails_request_duration_seconds``. Flagged calls (outlier, rejected, fallback, error, past the deadline) are
    exported even when head sampling dropped their trace; ordinary ones keep the configured rate.

    Args:
        deadline: seconds within which an answer is expected, or None. It measures; `fall_back` interrupts.

    Raises:
        DecorationError: at decoration, when the deadline is not positive or the decorator stands in the wrong place.

    Example:
        >>> import guardrails as gr
        >>> @gr.traced(deadline=1.0)
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double(21)
        42
    """

    deadline: float | None = None
    name: ClassVar[str] = "traced"
    stage: Stage = Stage.TRACE
    __repr__ = brief

    def __post_init__(self) -> None:
        if self.deadline is not None and not self.deadline > 0:
            raise DecorationError(f"traced(deadline={self.deadline!r}): a deadline is a positive number of seconds.")

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        return attach(self, fn)

    def bind(self, method: Method) -> Hooks:
        """Take the worker's tracer and metrics, once."""
        tracing = _Tracing(method, self.deadline)
        return Hooks(tracing.open, tracing.close)


class _Tracing:
    """What one traced method needs at run time."""

    def __init__(self, method: Method, deadline: float | None) -> None:
        from opentelemetry.sdk.trace import TracerProvider  # 40 ms: when a worker starts, not when it is imported

        from guardrails.tracing.keep import keeper_of
        from guardrails.tracing.span import GuardSpan, SpanMaker

        provider = host().tracer_provider()
        self._own_kind = GuardSpan
        self._tracer = provider.get_tracer("guardrails", __version__)
        self._maker = SpanMaker(provider) if isinstance(provider, TracerProvider) else None
        self._keeper = keeper_of(provider)
        if self._keeper is not None:
            host().at_shutdown(method.owner, self._keeper.flush)
            if method.owner is not None:
                self._keeper.watch(host().route(type(method.owner), method.name), method.name)
        self._deadline = deadline
        self._api = method.name
        self._span_name = semconv.SPAN_NAME.format(api=method.name)
        self._rootless, self._streams = method.batchable, method.shape.streams
        self._durations: dict[tuple[str, str | None], Histogram] = {}
        self._guards = metrics.guard_duration().labels(method.name)

    def open(self, call: Call) -> None:
        # A batchable method runs in the context of the first request its worker ever served: nothing may hang there.
        parent = _NO_PARENT if self._rootless else otel.get_current()
        attributes = call.attributes
        attributes[semconv.DECISION_ID] = call.id
        attributes[semconv.ROUTE] = call.route
        if call.reason is not None:
            attributes[semconv.REASON] = call.reason
        span: Span
        if self._maker is not None:
            span = self._maker.start(self._span_name, parent, attributes, call.started_ns)
        else:
            span = self._tracer.start_span(self._span_name, parent, attributes=attributes, start_time=call.started_ns)
        call.attributes = {}
        call.span = span
        call.context = trace.set_span_in_context(span, parent)
        call.trace_id = span.get_span_context().trace_id

    def close(self, call: Call) -> None:
        duration = time.perf_counter() - call.started
        route, reason = call.route, call.reason
        if self._deadline is not None:
            met = duration <= self._deadline
            call.attributes[semconv.DEADLINE_MET] = met
            call.flagged = call.flagged or not met
        call.flagged = call.flagged or call.error is not None
        span = call.span
        if isinstance(span, self._own_kind):
            self._end_own(span, call, route, reason, call.started_ns + int(duration * 1e9))
        elif span is not None and span.is_recording():
            self._describe(span, call, route, reason)
            span.end()
        self._observe(call, duration, route, reason)

    def _end_own(self, span: GuardSpan, call: Call, route: str, reason: str | None, ended_ns: int) -> None:
        keeper = self._keeper
        sampled = span.get_span_context().trace_flags.sampled
        if keeper is not None and call.error is not None and not span.local_root:
            keeper.judge(call.trace_id)
        awaited = keeper is not None and not sampled and keeper.holds(call.trace_id)
        if sampled or call.flagged or awaited:
            self._describe(span, call, route, reason)
        span.close(ended_ns)
        if sampled and self._maker is not None:
            self._maker.export(span)
        elif keeper is not None and (call.flagged or awaited):
            keeper.keep(span, flagged=call.flagged)
        elif self._maker is not None:
            self._maker.forget(span)
        if keeper is not None and not sampled and (span.local_root or span.orphaned):
            keeper.decide(call.trace_id)  # nobody else will end this trace

    def _describe(self, span: Span, call: Call, route: str, reason: str | None) -> None:
        attributes = call.attributes
        attributes[semconv.ROUTE] = route
        if reason is not None:
            attributes[semconv.REASON] = reason
        if len(call.parts) > 1 or call.rows_total > 1:
            attributes[semconv.ROWS] = call.rows_total
            diverted = (part.index for part in call.parts if part is not call.primary)
            attributes[semconv.DIVERTED_ROWS] = sum(call.rows_total if i is None else len(i) for i in diverted)
        if call.tried:
            attributes[semconv.ATTEMPTS] = call.tried
        if self._streams:
            attributes[semconv.STREAM_ITEMS] = call.stream_items
        if call.cancelled:
            attributes[semconv.CANCELLED] = True
        elif call.error is not None or call.rescued is not None:
            attributes[semconv.ERROR_TYPE] = type(call.rescued or call.error).__name__
        for context in () if call.batch is None else call.batch.contexts:
            span.add_link(context)
        if isinstance(span, self._own_kind):
            span.say(attributes)
        else:
            span.set_attributes(attributes)
        if call.rescued is not None and call.rescued is not call.error:
            span.record_exception(call.rescued)
        if call.error is not None and not call.cancelled:
            span.record_exception(call.error)
            span.set_status(Status(StatusCode.ERROR, str(call.error)))

    def _observe(self, call: Call, duration: float, route: str, reason: str | None) -> None:
        child = self._durations.get((route, reason))
        if child is None:
            child = self._durations[route, reason] = metrics.request_duration().labels(self._api, route, reason or "")
        child.observe(duration)
        self._guards.observe(duration - (call.handed_back - call.handed_over))
