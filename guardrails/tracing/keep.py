"""Keep-rules: flagged traces are exported even when head sampling dropped them.

BentoML records every span and marks the unsampled ones, which the exporting processors then pass over. A `Keeper` sits
beside those processors: it holds the unsampled spans of a trace until the request's own span ends, and hands them on,
marked as sampled, if a guard has flagged the trace by then (or if BentoML answered 4xx/5xx itself). What waits is
bounded in number and age; what has to be given up is counted. Downstream services decide for themselves: they saw an
unsampled parent.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState

from guardrails import semconv
from guardrails.core import metrics

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import TracerProvider as AnyProvider
    from opentelemetry.util.types import Attributes

logger = logging.getLogger("guardrails")

MAX_TRACES = 1024
MAX_SPANS_PER_TRACE = 128
MAX_AGE = 120.0
"""Seconds a trace may wait for its verdict: longer than BentoML's own request timeout."""
FLUSH_TIMEOUT = 3.0
"""Seconds `flush` waits for the exporter: a dead collector must not hold up the shutdown."""
OWN_ANSWERS = {400: semconv.INVALID, 429: semconv.OVERLOAD, 503: semconv.OVERLOAD, 504: semconv.TIMEOUT}
"""Statuses BentoML answers by itself, without the guarded method, and the reason they are counted under."""

_ASGI_NOISE = "opentelemetry.instrumentation.asgi"
_KEEP = TraceFlags(TraceFlags.SAMPLED)


@dataclass(slots=True)
class _Waiting:
    since: float
    spans: list[ReadableSpan] = field(default_factory=list)
    flagged: bool = False
    judged: bool = False
    open_roots: int = 0


class Keeper(SpanProcessor):
    """Hold unsampled spans until their verdict; hand the flagged traces to the exporting processors.

    Args:
        provider: the provider whose other processors export.
        max_traces: how many traces may wait at once.
        max_age: seconds a trace may wait.
    """

    def __init__(self, provider: TracerProvider, max_traces: int = MAX_TRACES, max_age: float = MAX_AGE) -> None:
        self._provider = weakref.ref(provider)  # it owns us, and is a key of the table of keepers
        self._routes: dict[str, str] = {}
        self.asgi_spans = False  # whether kept traces hold the ASGI layer's own spans
        self._max_traces, self._max_age = max_traces, max_age
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._lock = threading.Lock()
        self._durations: dict[tuple[str, str], Any] = {}

    # Guards tell it

    def watch(self, route: str, api: str) -> None:
        """Count what BentoML answers by itself on this route."""
        self._routes[f"POST {route}"] = api

    def judge(self, trace_id: int) -> None:
        """A guard has seen this request: what BentoML answers is the guard's answer, and is counted there."""
        with self._lock:
            self._entry(trace_id).judged = True

    def flag(self, trace_id: int) -> None:
        """Keep the trace of a request that is still under way, whatever the sampler said."""
        with self._lock:
            self._entry(trace_id).flagged = True

    def holds(self, trace_id: int) -> bool:
        """Whether spans of this trace wait here already, which a span around them must not be missing from."""
        entry = self._waiting.get(trace_id)
        return entry is not None and bool(entry.spans)

    def keep(self, span: ReadableSpan, *, flagged: bool) -> None:
        """Hold a span that has ended; keep its trace, if it is flagged."""
        context = span.context
        if context is not None:
            with self._lock:
                entry = self._entry(context.trace_id)
                entry.flagged = entry.flagged or flagged
                entry.spans.append(span)

    def decide(self, trace_id: int) -> None:
        """Nobody else will end this trace: keep it or forget it now."""
        with self._lock:
            entry = self._waiting.pop(trace_id, None)
        if entry is not None and entry.flagged and entry.spans:
            self._export(entry.spans)

    # The SDK tells it

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """A request began: one that calls this process again over HTTP waits for that one, and decides for both."""
        context = span.get_span_context()
        if context is not None and not context.trace_flags.sampled and _is_local_root(span):
            with self._lock:
                self._entry(context.trace_id).open_roots += 1

    def on_end(self, span: ReadableSpan) -> None:
        """A span ended: hold it, or, if it is the request's own, decide."""
        context = span.context
        if context is None:
            return
        sampled = context.trace_flags.sampled
        if not _is_local_root(span):
            if not sampled and (self.asgi_spans or not _is_noise(span)):
                with self._lock:
                    self._hold(span, context.trace_id)
            return
        with self._lock:
            entry = self._waiting.get(context.trace_id) or _Waiting(0.0)
            own_answer = not entry.judged and self._count_own_answer(span)
            entry.flagged = entry.flagged or own_answer
            entry.spans.append(span)  # whatever else had to be left out, a trace without its root is none
            entry.open_roots -= 1
            if entry.open_roots > 0:
                return
            self._waiting.pop(context.trace_id, None)
        if not sampled and entry.flagged:
            self._export(entry.spans)

    def shutdown(self) -> None:
        """Nothing to close: the exporting processors are closed by their provider."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Nothing waits here that has a verdict."""
        return True

    def flush(self) -> None:
        """Export what is finished, within `FLUSH_TIMEOUT` even when the collector is dead.

        BentoML never flushes at shutdown, and the SDK's own flush takes its retries' time: hence a thread to leave.
        """
        provider = self._provider()
        if provider is None:
            return
        thread = threading.Thread(target=provider.force_flush, args=(int(FLUSH_TIMEOUT * 1000),), daemon=True)
        thread.start()
        thread.join(FLUSH_TIMEOUT)
        if thread.is_alive():
            logger.warning("spans were still being exported %.0f s after shutdown began; they are lost", FLUSH_TIMEOUT)

    def _entry(self, trace_id: int) -> _Waiting:
        entry = self._waiting.get(trace_id)
        if entry is None:
            now = time.monotonic()
            entry = self._waiting[trace_id] = _Waiting(now)
            while len(self._waiting) > 1:
                oldest = next(iter(self._waiting.values()))
                if len(self._waiting) > self._max_traces:
                    cause = "number"
                elif now - oldest.since > self._max_age:
                    cause = "age"
                else:
                    break
                self._waiting.popitem(last=False)
                metrics.traces_overflowed().labels(cause).inc()
        return entry

    def _hold(self, span: ReadableSpan, trace_id: int) -> None:
        entry = self._entry(trace_id)
        if len(entry.spans) < MAX_SPANS_PER_TRACE:
            entry.spans.append(span)
        else:
            metrics.traces_overflowed().labels("spans").inc()

    def _export(self, spans: list[ReadableSpan]) -> None:
        provider = self._provider()
        if provider is None:
            return
        metrics.traces_kept().inc()
        siblings = provider._active_span_processor._span_processors  # noqa: SLF001  # the SDK has no public way
        for span in spans:
            kept = _sampled(span)
            for processor in siblings:
                if processor is not self:
                    processor.on_end(kept)

    def _count_own_answer(self, span: ReadableSpan) -> bool:
        """Time and count what BentoML answered before any guard saw it (400, 429, 504)."""
        attributes = span.attributes or {}
        status = attributes.get("http.status_code", attributes.get("http.response.status_code"))
        reason = OWN_ANSWERS.get(status) if isinstance(status, int) else None
        api = self._routes.get(span.name)
        if reason is None or api is None or not (span.start_time and span.end_time):
            return False
        child = self._durations.get((api, reason))
        if child is None:
            child = self._durations[api, reason] = metrics.request_duration().labels(api, semconv.REJECTED, reason)
        child.observe((span.end_time - span.start_time) / 1e9)
        return True


_keepers: weakref.WeakKeyDictionary[TracerProvider, Keeper] = weakref.WeakKeyDictionary()
_keepers_lock = threading.Lock()


def keeper_of(provider: AnyProvider) -> Keeper | None:
    """The keeper of a provider, made at first use; None where the provider is not the SDK's."""
    if not isinstance(provider, TracerProvider):
        return None
    with _keepers_lock:
        keeper = _keepers.get(provider)
        if keeper is None:
            keeper = _keepers[provider] = Keeper(provider)
            provider.add_span_processor(keeper)
        return keeper


class Quiet(Sampler):
    """Does not record the ASGI layer's "http send" and "http receive" spans; ``inner`` decides about all others.

    There are four or five of them in a request (one more per item of a stream), at 20 us each, and they say nothing
    that the server span does not. BentoML records them even in unsampled traces, where nobody ever exports them.
    """

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Drop the noise; ask ``inner`` about the rest."""
        if kind is SpanKind.INTERNAL and name.endswith(_NOISE_NAMES):
            return _DROPPED
        return self.inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Its own name around the inner one's."""
        return f"Quiet{{{self.inner.get_description()}}}"


_NOISE_NAMES = (" http send", " http receive")
_DROPPED = SamplingResult(Decision.DROP)


def quieten(provider: AnyProvider) -> None:
    """Spare the noise, where the provider's sampler is of the kind BentoML uses."""
    sampler: Any = getattr(provider, "sampler", None)
    if not isinstance(sampler, ParentBased):
        return
    for name in ("_local_parent_not_sampled", "_local_parent_sampled"):
        inner = getattr(sampler, name, None)  # the SDK has no public way
        if isinstance(inner, Sampler) and not isinstance(inner, Quiet):
            setattr(sampler, name, Quiet(inner))


def _is_local_root(span: ReadableSpan) -> bool:
    return span.parent is None or span.parent.is_remote


def _is_noise(span: ReadableSpan) -> bool:
    # Four or five "http send"/"http receive" spans a request, which say nothing the server span does not.
    scope = span.instrumentation_scope
    return span.kind is SpanKind.INTERNAL and scope is not None and scope.name == _ASGI_NOISE


def _sampled(span: ReadableSpan) -> ReadableSpan:
    context = span.context
    identity = SpanContext(context.trace_id, context.span_id, context.is_remote, _KEEP, context.trace_state)
    return ReadableSpan(
        name=span.name,
        context=identity,
        parent=span.parent,
        resource=span.resource,
        attributes={**(span.attributes or {}), semconv.KEPT: True},
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
