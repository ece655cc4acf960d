"""One span per call, as the sampler and the backend see it; and which traces are kept though nobody sampled them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from bentoml._internal.utils.telemetry import ParentBasedTraceIdRatio
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from prometheus_client import REGISTRY

import guardrails as gr
from guardrails.core import drivers
from guardrails.tracing import keep
from guardrails.tracing.keep import Keeper, keeper_of

ORDINARY, OUTLIER, INVALID = [0.1, 0.2], [6.0, -6.0], [1e9, 0.0]
Make = Callable[..., Any]


class Noting(Sampler):
    """Samples everything and keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> Any:
        self.seen.append(
            {"name": name, "parent": trace.get_current_span(parent_context).get_span_context(), **(attributes or {})}
        )
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return "Noting"


def attributes_of(span: Any, *names: str) -> tuple[Any, ...]:
    return tuple(span.attributes.get(f"guardrails.{name}") for name in names)


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def request(host: Any, *, upstream: int | None = None, status: int = 200, name: str = "POST /predict") -> Iterator[Any]:
    """BentoML's server span around a request, child of a remote span with the given trace flags if there is one."""
    parent = otel.Context()
    if upstream is not None:
        remote = SpanContext(0xABC << 64 | 1, 0xDEF, is_remote=True, trace_flags=TraceFlags(upstream))
        parent = trace.set_span_in_context(NonRecordingSpan(remote), parent)
    tracer = host.provider.get_tracer("opentelemetry.instrumentation.asgi")
    with tracer.start_as_current_span(
        name, context=parent, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span
        span.set_attribute("http.status_code", status)


# One span


@pytest.mark.parametrize("rows", [[ORDINARY], [OUTLIER], [ORDINARY, OUTLIER]])
def test_a_sampler_sees_the_verdict(profile: gr.Profile, make_host: Make, rows: list[list[float]]) -> None:
    """Verdict, route, reason, profile and decision id are on the span when it is created, so that samplers can use them."""
    sampler = Noting()
    host = make_host(sampler)
    gr.compose(gr.traced(), gr.check_outliers(profile, fallback=gr.constant([0.0])))(lambda rows: [1.0] * len(rows))(
        rows
    )
    (seen,), odd = sampler.seen, OUTLIER in rows
    assert seen["guardrails.outlier.is_outlier"] is odd
    assert (seen["guardrails.outlier.score"] > seen["guardrails.outlier.threshold"]) is odd
    assert (seen["guardrails.outlier.p_value"] <= 0.05) is odd
    assert seen.get("guardrails.reason") == ("outlier" if odd else None)
    assert seen["guardrails.profile.tag"] == profile.digest
    assert len(seen["guardrails.decision.id"]) == 32
    assert seen["guardrails.decision.id"] == host.spans[0].attributes["guardrails.decision.id"]


def test_a_sampler_sees_a_refusal(profile: gr.Profile, make_host: Make) -> None:
    """A request that validate refused says so when its span begins."""
    sampler = Noting()
    make_host(sampler)
    with pytest.raises(gr.Rejected):
        gr.compose(gr.traced(), gr.validate(profile))(lambda rows: rows)([INVALID])
    assert (sampler.seen[0]["guardrails.route"], sampler.seen[0]["guardrails.reason"]) == ("rejected", "invalid")


def test_the_span_says_what_became_of_the_call(profile: gr.Profile, span_host: Any) -> None:
    """Route, reason, rows, diverted rows, deadline, drift and exploration are on the finished span."""

    class Second:
        def pmf(self, scores: np.ndarray) -> np.ndarray:
            return np.eye(scores.shape[-1])[scores.argmin(axis=-1)]

    stack = gr.compose(
        gr.traced(deadline=60.0), gr.check_outliers(profile, fallback=gr.constant(np.zeros((1, 2)))),
        gr.explore(Second()), gr.sample_drift(profile),
    )  # fmt: skip
    stack(lambda rows: np.tile([0.0, 1.0], (len(rows), 1)))(np.array([ORDINARY, OUTLIER, ORDINARY]))
    (span,) = span_host.spans
    assert span.name == "guardrails <lambda>"
    assert attributes_of(span, "route", "reason", "rows", "rows.diverted") == ("mixed", "outlier", 3, 1)
    assert attributes_of(span, "deadline.met", "drift.sampled") == (True, True)
    assert attributes_of(span, "exploration.explored", "exploration.propensity") == (True, 1.0)
    assert attributes_of(span, "exploration.action", "exploration.greedy_action") == (0, 1)
    assert span.status.status_code is StatusCode.UNSET


def test_exactly_one_span_per_call(profile: gr.Profile, span_host: Any) -> None:
    """However many guards and attempts, a call is one span."""
    stack = gr.guarded(profile, fallback=[_fails, gr.constant([0.0])], deadline=60.0)
    fn = stack(_fails)
    for rows in ([ORDINARY], [OUTLIER], [ORDINARY, OUTLIER]):
        fn(rows)
    assert [span.name for span in span_host.spans] == ["guardrails _fails"] * 3
    assert len({span.attributes["guardrails.decision.id"] for span in span_host.spans}) == 3


def _fails(rows: Any) -> Any:
    raise ValueError("model")


def test_no_span_holds_an_input(profile: gr.Profile, span_host: Any) -> None:
    """Spans name rules and fields, never what was in the row."""
    stack = gr.compose(gr.traced(), gr.validate(profile), gr.check_outliers(profile))
    for rows in ([[123456.789, 0.0]], [["s3cr3t", 0.0]], [[6.125, -6.0]]):
        with pytest.raises(gr.Rejected):
            stack(lambda rows: rows)(rows)
    text = " ".join(span.to_json() for span in span_host.spans)
    assert len(span_host.spans) == 3
    assert not any(word in text for word in ("123456", "s3cr3t", "6.125"))


@pytest.mark.parametrize("kind", ["function", "coroutine", "timeout", "async timeout"])
def test_children_parent_correctly(span_host: Any, kind: str) -> None:
    """A span made in the method is a child of the guard's, which is a child of the server's; the context is put back."""
    tracer = span_host.provider.get_tracer("user")

    def predict(rows: Any) -> None:
        tracer.start_span("child").end()

    async def apredict(rows: Any) -> None:
        await asyncio.sleep(0)
        tracer.start_span("child").end()

    stack = (
        gr.traced() if "timeout" not in kind else gr.compose(gr.traced(), gr.fall_back(to=gr.constant(0), timeout=30.0))
    )
    with request(span_host) as server:
        if kind in ("function", "timeout"):
            stack(predict)([ORDINARY])
        else:
            asyncio.run(stack(apredict)([ORDINARY]))
        assert trace.get_current_span() is server
    child, guard, outer = span_host.spans
    called = "predict" if kind in ("function", "timeout") else "apredict"
    assert (child.name, guard.name, outer.name) == ("child", f"guardrails {called}", "POST /predict")
    assert (child.parent.span_id, guard.parent.span_id) == (guard.context.span_id, outer.context.span_id)
    assert guard.kind is SpanKind.INTERNAL


@pytest.mark.parametrize("kind", ["function", "coroutine", "generator", "async generator"])
def test_an_error_is_on_the_span(span_host: Any, kind: str) -> None:
    """The caller's exception sets the status and leaves one exception event with its stack."""

    def function(rows: Any) -> Any:
        raise ValueError("model")

    async def coroutine(rows: Any) -> Any:
        raise ValueError("model")

    def generator(rows: Any) -> Any:
        yield 1
        raise ValueError("model")

    async def async_generator(rows: Any) -> Any:
        yield 1
        raise ValueError("model")

    async def drain(items: Any) -> None:
        async for _ in items:
            pass

    with pytest.raises(ValueError, match="model"):  # noqa: PT012
        if kind == "function":
            gr.traced()(function)([])
        elif kind == "coroutine":
            asyncio.run(gr.traced()(coroutine)([]))
        elif kind == "generator":
            list(gr.traced()(generator)([]))
        else:
            asyncio.run(drain(gr.traced()(async_generator)([])))
    (span,) = span_host.spans
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert span.events[0].attributes["exception.type"].endswith("ValueError")
    assert "model" in span.events[0].attributes["exception.stacktrace"]
    assert (span.attributes["error.type"], *attributes_of(span, "route", "reason")) == (
        "ValueError",
        "primary",
        "error",
    )


def test_a_rescued_error_leaves_no_error_status_but_its_type(span_host: Any) -> None:
    """The client got an answer, so the span is no error; why the primary did not answer can still be read from it."""
    gr.compose(gr.traced(), gr.fall_back(to=gr.constant(0.0)))(_fails)([ORDINARY])
    (span,) = span_host.spans
    assert span.status.status_code is StatusCode.UNSET
    assert attributes_of(span, "route", "reason") == ("fallback:constant", "error")
    assert "ValueError" in span.to_json()


def test_a_cancelled_call_is_no_error(span_host: Any) -> None:
    """A caller that goes away is marked as cancelled; the span ends."""

    @gr.traced()
    async def predict(rows: Any) -> None:
        await asyncio.Event().wait()

    async def ask() -> None:
        task = asyncio.create_task(predict([]))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    (span,) = span_host.spans
    assert (span.status.status_code, span.events, attributes_of(span, "cancelled")) == (StatusCode.UNSET, (), (True,))


def test_a_missed_deadline_is_said(span_host: Any) -> None:
    """traced(deadline) measures: the answer is served, the span says that it was late."""
    assert gr.traced(deadline=1e-9)(lambda rows: "answer")([]) == "answer"
    assert gr.traced(deadline=3600.0)(lambda rows: "answer")([]) == "answer"
    assert [attributes_of(span, "deadline.met") for span in span_host.spans] == [(False,), (True,)]


def test_a_failed_guard_is_named_on_the_span(span_host: Any) -> None:
    """A guard that failed and was passed over can be found by its span."""

    @gr.traced()
    @gr.explore(gr.EpsilonGreedy(0.1), scores=lambda answer: 1 / 0)
    def predict(rows: Any) -> str:
        return "answer"

    assert predict([]) == "answer"
    assert attributes_of(span_host.spans[0], "guard.errors") == ("explore:ZeroDivisionError",)


def test_durations_are_observed_by_api_route_and_reason(profile: gr.Profile, span_host: Any) -> None:
    """Each call is one observation under the labels of its route."""

    @gr.traced()
    @gr.check_outliers(profile, fallback=gr.constant([0.0]))
    def timed_api(rows: Any) -> list[float]:
        return [1.0] * len(rows)

    def seen(route: str, reason: str) -> float:
        return count("guardrails_request_duration_seconds_count", api="timed_api", route=route, reason=reason)

    before = [seen("primary", ""), seen("fallback:constant", "outlier"), seen("mixed", "outlier")]
    for rows in ([ORDINARY], [ORDINARY], [OUTLIER], [ORDINARY, OUTLIER]):
        timed_api(rows)
    after = [seen("primary", ""), seen("fallback:constant", "outlier"), seen("mixed", "outlier")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1]
    assert count("guardrails_guard_duration_seconds_sum", api="timed_api") >= 0


# Streams


def in_fresh_contexts(items: Iterator[Any]) -> Iterator[Any]:
    """Pull as BentoML pulls a sync generator: each step in a fresh copy of the context."""
    while True:
        try:
            item = contextvars.copy_context().run(next, items)
        except StopIteration:
            return
        yield item


@pytest.mark.parametrize("end", ["exhausted", "closed early", "raised"])
def test_a_stream_pulled_in_fresh_contexts(span_host: Any, caplog: pytest.LogCaptureFixture, end: str) -> None:
    """Its span counts the items, parents what each step makes, and leaves no context to detach."""
    tracer = span_host.provider.get_tracer("user")

    @gr.traced()
    def stream(rows: Any) -> Iterator[int]:
        for i in range(3):
            tracer.start_span(f"step {i}").end()
            yield i
        if end == "raised":
            raise ValueError("model")

    with caplog.at_level(logging.DEBUG), request(span_host) as server:
        items = stream([])
        if end == "closed early":
            assert [next(in_fresh_contexts(items)), next(in_fresh_contexts(items))] == [0, 1]
            contextvars.copy_context().run(items.close)
        elif end == "raised":
            with pytest.raises(ValueError, match="model"):
                list(in_fresh_contexts(items))
        else:
            assert list(in_fresh_contexts(items)) == [0, 1, 2]
        assert trace.get_current_span() is server
    *steps, span, outer = span_host.spans
    assert [step.name for step in steps] == [f"step {i}" for i in range(2 if end == "closed early" else 3)]
    assert {step.parent.span_id for step in steps} == {span.context.span_id}
    assert span.parent.span_id == outer.context.span_id
    assert attributes_of(span, "stream.items", "cancelled") == (len(steps), True if end == "closed early" else None)
    assert not [record for record in caplog.records if "detach" in record.getMessage()]


@pytest.mark.parametrize("end", ["exhausted", "closed early", "raised"])
def test_an_async_stream(span_host: Any, caplog: pytest.LogCaptureFixture, end: str) -> None:
    """The same for an async generator whose steps are pulled by different tasks."""
    tracer = span_host.provider.get_tracer("user")

    @gr.traced()
    async def stream(rows: Any) -> Any:
        for i in range(3):
            await asyncio.sleep(0)
            tracer.start_span(f"step {i}").end()
            yield i
        if end == "raised":
            raise ValueError("model")

    async def ask() -> list[int]:
        items, got = stream([]), []
        try:
            for _ in range(2 if end == "closed early" else 9):
                got.append(await asyncio.create_task(anext(items)))  # noqa: PERF401
        except StopAsyncIteration:
            pass
        finally:
            await asyncio.create_task(items.aclose())
        return got

    with caplog.at_level(logging.DEBUG), request(span_host) as server:
        if end == "raised":
            with pytest.raises(ValueError, match="model"):
                asyncio.run(ask())
        else:
            assert asyncio.run(ask()) == list(range(2 if end == "closed early" else 3))
        assert trace.get_current_span() is server
    *steps, span, outer = span_host.spans
    assert {step.parent.span_id for step in steps} == {span.context.span_id}
    assert attributes_of(span, "stream.items", "cancelled") == (len(steps), True if end == "closed early" else None)
    assert span.parent.span_id == outer.context.span_id
    assert not [record for record in caplog.records if "detach" in record.getMessage()]


def test_the_cleanup_of_a_stream_is_in_its_span(span_host: Any) -> None:
    """What a stream's finally does when the client goes away belongs to the same span."""
    tracer = span_host.provider.get_tracer("user")

    @gr.traced()
    def stream(rows: Any) -> Iterator[int]:
        try:
            yield 1
        finally:
            tracer.start_span("cleanup").end()

    with request(span_host):
        items = stream([])
        next(items)
        items.close()
    spans = {span.name: span for span in span_host.spans}
    assert spans["cleanup"].parent.span_id == spans["guardrails stream"].context.span_id


# Batches


def test_a_batch_is_a_trace_of_its_own(profile: gr.Profile, make_host: Make) -> None:
    """A batchable method runs in the context of a request long gone: its span hangs below nothing, and nothing else does."""
    sampler = Noting()
    host = make_host(sampler)
    host.batchables.add("predict")
    seen: list[Any] = []

    class Service:
        @gr.traced()
        @gr.check_outliers(profile, fallback=gr.constant([0.0]))
        def predict(self, rows: Any) -> list[float]:
            seen.append((trace.get_current_span().get_span_context(), otel.get_value("baggage-like")))
            return [1.0] * len(rows)

    with request(host) as server:
        token = otel.attach(otel.set_value("baggage-like", "of the first request"))
        service = Service()
        service.predict([ORDINARY, OUTLIER])
        service.predict([ORDINARY])
        otel.detach(token)
    guards = [span for span in host.spans if span.name.startswith("guardrails")]
    assert [span.parent for span in guards] == [None, None]
    assert len({span.context.trace_id for span in guards} | {server.get_span_context().trace_id}) == 3
    assert [context for context, _ in seen] == [span.context for span in guards]
    assert [value for _, value in seen] == [None, None]
    assert attributes_of(guards[0], "rows", "rows.diverted", "route") == (2, 1, "mixed")


def test_a_batch_tells_no_request(profile: gr.Profile, make_host: Make) -> None:
    """There is no one request whose headers a batch could set."""
    from guardrails.core.request import CURRENT, RequestState

    make_host().batchables.add("predict")

    class Service:
        @gr.traced()
        def predict(self, rows: Any) -> Any:
            return rows

    state = RequestState()
    token = CURRENT.set(state)
    try:
        Service().predict([ORDINARY])
    finally:
        CURRENT.reset(token)
    assert state.headers == {}


# Keep-rules, with the sampler BentoML uses


@pytest.fixture
def unsampled(make_host: Make) -> Any:
    """A host that records everything and samples nothing, as BentoML does at sample_rate 0."""
    return make_host(ParentBasedTraceIdRatio(0.0))


def service(
    host: Any, profile: gr.Profile, answer: Callable[[Any], Any] = lambda rows: [1.0] * len(rows)
) -> Callable[..., Any]:
    tracer = host.provider.get_tracer("user")

    def predict(rows: Any) -> Any:
        with tracer.start_as_current_span("child"):
            return answer(rows)

    fallback = gr.constant([0.0])
    return gr.compose(gr.traced(deadline=60.0), gr.check_outliers(profile, fallback=fallback))(predict)


def assert_chain(spans: list[Any], *names: str) -> None:
    """The spans are these, the first a local root, each the parent of the next, all sampled and marked as kept."""
    by_name = {span.name: span for span in spans}
    assert sorted(by_name) == sorted(names)
    assert len(spans) == len(names)
    for outer, inner in itertools.pairwise(names):
        assert by_name[inner].parent.span_id == by_name[outer].context.span_id
    assert len({span.context.trace_id for span in spans}) == 1
    assert all(span.context.trace_flags.sampled for span in spans)
    assert all(span.attributes["guardrails.kept"] is True for span in spans)


def test_ordinary_traces_keep_the_configured_rate(unsampled: Any, profile: gr.Profile) -> None:
    """At rate zero an ordinary request exports nothing, and nothing of it stays behind."""
    predict = service(unsampled, profile)
    for _ in range(3):
        with request(unsampled):
            predict([ORDINARY])
    assert unsampled.spans == []
    assert keeper_of(unsampled.provider)._waiting == {}


def test_a_flagged_trace_is_kept_whole(unsampled: Any, profile: gr.Profile) -> None:
    """Server span, guard span and the method's own child arrive, in their places, with their attributes."""
    predict = service(unsampled, profile)
    before = count("guardrails_traces_kept_total")
    with request(unsampled):
        predict([ORDINARY, OUTLIER])
    assert_chain(unsampled.spans, "POST /predict", "guardrails predict", "child")
    (guard,) = (span for span in unsampled.spans if span.name == "guardrails predict")
    assert attributes_of(guard, "route", "reason", "outlier.is_outlier", "deadline.met") == (
        "mixed",
        "outlier",
        True,
        True,
    )
    assert len(guard.attributes["guardrails.decision.id"]) == 32
    assert guard.start_time <= guard.end_time
    assert guard.instrumentation_scope.name == "guardrails"
    assert count("guardrails_traces_kept_total") == before + 1
    assert keeper_of(unsampled.provider)._waiting == {}


@pytest.mark.parametrize("why", ["error", "rejected", "fallback", "deadline", "guard error", "cancelled"])
def test_what_flags_a_trace(unsampled: Any, profile: gr.Profile, why: str) -> None:
    """Errors, refusals, fallbacks, missed deadlines, failed guards: all are kept; so is a call that was cancelled."""
    fn: Any = {
        "error": lambda: gr.traced()(_fails),
        "rejected": lambda: gr.compose(gr.traced(), gr.validate(profile))(lambda rows: rows),
        "fallback": lambda: gr.compose(gr.traced(), gr.fall_back(to=gr.constant(0.0)))(_fails),
        "deadline": lambda: gr.traced(deadline=1e-9)(lambda rows: rows),
        "guard error": lambda: gr.compose(gr.traced(), gr.explore(gr.EpsilonGreedy(0.1), scores=lambda _: 1 / 0))(
            lambda rows: rows
        ),
        "cancelled": lambda: gr.traced()(_cancelled),
    }[why]()
    with contextlib.suppress(ValueError, gr.Rejected, KeyboardInterrupt), request(unsampled):
        fn([INVALID])
    assert [span.name.partition(" ")[0] for span in unsampled.spans] == ["guardrails", "POST"]
    guard = unsampled.spans[0]
    assert (guard.status.status_code is StatusCode.ERROR) == (why in ("error", "rejected"))
    assert [event.name for event in guard.events] == ["exception"] * (why in ("error", "rejected", "fallback"))


def _cancelled(rows: Any) -> Any:
    raise KeyboardInterrupt


def test_a_kept_error_says_what_a_sampled_one_says(unsampled: Any, make_host: Make, profile: gr.Profile) -> None:
    """The span made after the fact has the attributes, events and status of one that was recorded all along."""

    def spans_of(host: Any) -> dict[str, Any]:
        with contextlib.suppress(ValueError), request(host):
            gr.compose(gr.traced(deadline=60.0), gr.check_outliers(profile, fallback=_fails))(_fails)([OUTLIER])
        return {span.name: span for span in host.spans}

    kept = spans_of(unsampled)["guardrails _fails"]
    sampled = spans_of(make_host(ALWAYS_ON))["guardrails _fails"]
    ignored = {"guardrails.kept", "guardrails.decision.id"}
    assert {k: v for k, v in kept.attributes.items() if k not in ignored} == {
        k: v for k, v in sampled.attributes.items() if k not in ignored
    }
    assert (kept.status.status_code, kept.status.description) == (
        sampled.status.status_code,
        sampled.status.description,
    )
    assert [event.name for event in kept.events] == [event.name for event in sampled.events]
    assert kept.events[0].attributes["exception.type"] == sampled.events[0].attributes["exception.type"]
    assert kept.kind == sampled.kind


@pytest.mark.parametrize("odd", [False, True])
def test_an_upstream_that_sampled_is_respected(unsampled: Any, profile: gr.Profile, odd: bool) -> None:
    """Traces sampled upstream are exported the ordinary way, once, ordinary or odd."""
    predict = service(unsampled, profile)
    with request(unsampled, upstream=1):
        predict([OUTLIER] if odd else [ORDINARY])
    names = ["child", "guardrails predict", "POST /predict"][odd:]
    assert [span.name for span in unsampled.spans] == names
    assert not any("guardrails.kept" in span.attributes for span in unsampled.spans)
    assert {span.context.trace_id for span in unsampled.spans} == {0xABC << 64 | 1}


@pytest.mark.parametrize("odd", [False, True])
def test_an_upstream_that_did_not_sample(unsampled: Any, profile: gr.Profile, odd: bool) -> None:
    """Unsampled upstream: ordinary requests stay unsampled, odd ones are kept under the upstream's trace id and parent."""
    predict = service(unsampled, profile)
    with request(unsampled, upstream=0):
        predict([ORDINARY, OUTLIER] if odd else [ORDINARY])
    assert bool(unsampled.spans) == odd
    if odd:
        assert_chain(unsampled.spans, "POST /predict", "guardrails predict", "child")
        (server,) = (span for span in unsampled.spans if span.kind is SpanKind.SERVER)
        assert (server.context.trace_id, server.parent.span_id) == (0xABC << 64 | 1, 0xDEF)


def test_streams_are_kept_too(unsampled: Any) -> None:
    """A stream that breaks in the middle is kept, with what it had sent by then."""

    @gr.traced()
    def stream(rows: Any) -> Iterator[int]:
        yield 1
        raise ValueError("model")

    with contextlib.suppress(ValueError), request(unsampled):
        list(in_fresh_contexts(stream([])))
    assert_chain(unsampled.spans, "POST /predict", "guardrails stream")
    assert attributes_of(unsampled.spans[0], "stream.items") == (1,)


def test_a_batch_is_kept_by_itself(unsampled: Any, profile: gr.Profile) -> None:
    """A flagged batch is exported as the trace it is, not with whatever request it ran in."""
    unsampled.batchables.add("predict")

    class Service:
        @gr.traced()
        @gr.check_outliers(profile, fallback=gr.constant([0.0]))
        def predict(self, rows: Any) -> list[float]:
            return [1.0] * len(rows)

    instance = Service()
    with request(unsampled):
        instance.predict([ORDINARY])
        instance.predict([ORDINARY, OUTLIER])
    assert [(span.name, span.parent) for span in unsampled.spans] == [("guardrails predict", None)]
    assert keeper_of(unsampled.provider)._waiting == {}


def test_a_task_after_its_response_is_kept(unsampled: Any) -> None:
    """BentoML runs a submitted task after its server span has ended; a task that fails is kept all the same."""

    @gr.traced()
    def later(rows: Any) -> Any:
        raise ValueError("model")

    with request(unsampled) as server:
        context = otel.get_current()
    token = otel.attach(context)
    assert not server.is_recording()
    with contextlib.suppress(ValueError):
        later([])
    otel.detach(token)
    assert [span.name for span in unsampled.spans] == ["guardrails later"]
    assert unsampled.spans[0].parent.span_id == server.get_span_context().span_id


def test_a_call_without_a_server_span_is_kept(unsampled: Any) -> None:
    """In a script or a start-up hook the guard's span is the root, and decides for itself."""
    with contextlib.suppress(ValueError):
        gr.traced()(_fails)([])
    gr.traced()(lambda rows: rows)([])
    assert [span.name for span in unsampled.spans] == ["guardrails _fails"]


def test_a_call_below_a_remote_parent_is_kept(unsampled: Any) -> None:
    """Where only a remote span is around, the guard's span is the local root, and decides for itself."""
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(0))
    token = otel.attach(trace.set_span_in_context(NonRecordingSpan(remote)))
    try:
        with contextlib.suppress(ValueError):
            gr.traced()(_fails)([])
    finally:
        otel.detach(token)
    assert [(span.name, span.parent.span_id) for span in unsampled.spans] == [("guardrails _fails", 0xDEF)]


def test_a_request_inside_a_request(unsampled: Any, profile: gr.Profile) -> None:
    """A service that calls itself over HTTP has two server spans of one trace in one process: the flagged one keeps both."""

    @gr.traced()
    def outer(rows: Any) -> Any:
        around = trace.get_current_span().get_span_context()
        remote = SpanContext(around.trace_id, around.span_id, is_remote=True, trace_flags=around.trace_flags)
        context = trace.set_span_in_context(NonRecordingSpan(remote), otel.Context())
        tracer = unsampled.provider.get_tracer("opentelemetry.instrumentation.asgi")
        with tracer.start_as_current_span("POST /inner", context=context, kind=SpanKind.SERVER):
            service(unsampled, profile)([ORDINARY, OUTLIER])
        return rows

    keeper_of(unsampled.provider)  # as `install` does when the worker starts
    with request(unsampled):
        outer([])
    names = [span.name for span in unsampled.spans]
    assert {"POST /inner", "guardrails predict", "child", "POST /predict"} <= set(names)
    assert keeper_of(unsampled.provider)._waiting == {}


def test_a_sampler_that_drops_leaves_nothing_behind(make_host: Make) -> None:
    """With OpenTelemetry's own ratio sampler unsampled spans do not exist: nothing is exported, nothing waits."""
    host = make_host(ParentBased(TraceIdRatioBased(0.0)))
    predict = gr.traced()(_fails)
    for _ in range(5):
        with contextlib.suppress(ValueError), request(host):
            predict([])
    assert host.spans == []
    assert keeper_of(host.provider)._waiting == {}


@pytest.mark.parametrize(
    ("status", "reason"), [(400, "invalid"), (429, "overload"), (503, "overload"), (504, "timeout")]
)
def test_what_bentoml_answers_itself_is_kept_and_timed(unsampled: Any, status: int, reason: str) -> None:
    """A request that no guard saw is kept and counted by the status BentoML gave it."""
    keeper_of(unsampled.provider).watch("/own", "own")
    labels = {"api": "own", "route": "rejected", "reason": reason}
    before = count("guardrails_request_duration_seconds_count", **labels)
    with request(unsampled, status=status, name="POST /own"):
        pass
    with request(unsampled, status=200, name="POST /own"):
        pass
    assert [span.name for span in unsampled.spans] == ["POST /own"]
    assert count("guardrails_request_duration_seconds_count", **labels) == before + 1


def test_an_error_of_a_guarded_method_is_not_counted_twice(unsampled: Any) -> None:
    """A guarded method that raised BentoML's 400 itself is counted where it was guarded, and only there."""
    before = count("guardrails_request_duration_seconds_count", api="predict", route="rejected", reason="invalid")
    with contextlib.suppress(ValueError), request(unsampled, status=400), contextlib.suppress(ValueError):
        gr.traced()(_fails)([])
    assert (
        count("guardrails_request_duration_seconds_count", api="predict", route="rejected", reason="invalid") == before
    )


def test_the_noise_of_asgi_is_not_kept(unsampled: Any, profile: gr.Profile) -> None:
    """The "http send" spans of a kept request are left out."""
    predict = service(unsampled, profile)
    with request(unsampled):
        predict([OUTLIER])
        tracer = unsampled.provider.get_tracer("opentelemetry.instrumentation.asgi")
        tracer.start_span("POST /predict http send").end()
    assert sorted(span.name for span in unsampled.spans) == ["POST /predict", "guardrails predict"]


# Bounds


@pytest.fixture
def kept(make_host: Make) -> Callable[..., tuple[Any, Any]]:
    """A recording, unsampled host with a keeper of the given bounds."""

    def make(**bounds: Any) -> tuple[Any, Any]:
        host = make_host(ParentBasedTraceIdRatio(0.0))
        keeper = keep._keepers[host.provider] = Keeper(host.provider, **bounds)
        host.provider.add_span_processor(keeper)
        return host, keeper

    return make


def opened(host: Any) -> tuple[Any, Any]:
    """A request that has begun, one of whose spans has ended."""
    tracer = host.provider.get_tracer("user")
    server = tracer.start_span("POST /predict", context=otel.Context(), kind=SpanKind.SERVER)
    tracer.start_span("child", context=trace.set_span_in_context(server, otel.Context())).end()
    return server, server.get_span_context().trace_id


def test_what_waits_is_bounded_in_number(kept: Any) -> None:
    """The oldest trace is given up for a new one, and counted; the others are kept when they are flagged."""
    host, keeper = kept(max_traces=3)
    before = count("guardrails_traces_overflowed_total", cause="number")
    requests = [opened(host) for _ in range(5)]
    assert len(keeper._waiting) == 3
    assert count("guardrails_traces_overflowed_total", cause="number") == before + 2
    for server, trace_id in requests:
        keeper._entry(trace_id).flagged = True
        server.end()
    kept_whole = [span.context.trace_id for span in host.spans if span.name == "child"]
    assert set(kept_whole) <= {trace_id for _, trace_id in requests[2:]}
    assert sum(span.name == "POST /predict" for span in host.spans) == 5
    assert keeper._waiting == {}


def test_what_waits_is_bounded_in_age(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace whose request never ends is given up after a while, and counted."""
    host, keeper = kept(max_age=120.0)
    now = [1000.0]
    monkeypatch.setattr(keep.time, "monotonic", lambda: now[0])
    before = count("guardrails_traces_overflowed_total", cause="age")
    _, first = opened(host)
    now[0] += 100.0
    _, second = opened(host)
    assert set(keeper._waiting) == {first, second}
    now[0] += 100.0
    _, third = opened(host)
    assert set(keeper._waiting) == {second, third}
    assert count("guardrails_traces_overflowed_total", cause="age") == before + 1


def test_what_waits_is_bounded_per_trace(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of very many spans is kept with the first of them; the rest is counted."""
    monkeypatch.setattr(keep, "MAX_SPANS_PER_TRACE", 4)
    host, keeper = kept()
    before = count("guardrails_traces_overflowed_total", cause="spans")
    tracer = host.provider.get_tracer("user")
    with request(host) as server:
        for i in range(10):
            tracer.start_span(f"child {i}").end()
        keeper._entry(server.get_span_context().trace_id).flagged = True
    assert sorted(span.name for span in host.spans) == ["POST /predict", *(f"child {i}" for i in range(4))]
    assert count("guardrails_traces_overflowed_total", cause="spans") == before + 6


def test_a_keeper_is_made_once_per_provider(unsampled: Any) -> None:
    """All methods of a worker share one keeper, which hands each kept span on once."""
    for _ in range(3):
        gr.traced()(lambda rows: rows)([])
    with contextlib.suppress(ValueError), request(unsampled):
        gr.traced()(_fails)([])
    assert len(unsampled.spans) == 2
    assert len({id(keeper_of(unsampled.provider)) for _ in range(3)}) == 1


def test_a_provider_that_is_let_go_takes_its_keeper_with_it(make_host: Make) -> None:
    """The registry of keepers holds no provider alive."""
    import gc
    import weakref

    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(shutdown_on_exit=False)
    keeper_of(provider)
    gone = weakref.ref(provider)
    del provider
    gc.collect()
    assert gone() is None


def test_exporters_added_later_get_kept_traces_too(unsampled: Any) -> None:
    """Kept spans go to all exporting processors, also to one that was added after the keeper."""
    predict = gr.traced()(_fails)
    with contextlib.suppress(ValueError), request(unsampled):
        predict([])
    late = InMemorySpanExporter()
    unsampled.provider.add_span_processor(SimpleSpanProcessor(late))
    with contextlib.suppress(ValueError), request(unsampled):
        predict([])
    assert len(unsampled.spans) == 4
    assert len(late.get_finished_spans()) == 2


def test_without_the_sdk_nothing_is_kept_and_nothing_breaks(make_host: Make) -> None:
    """Where no SDK is configured a traced method works, and there is no keeper."""
    host = make_host()
    host.provider = trace.NoOpTracerProvider()
    assert gr.traced()(lambda rows: "answer")([]) == "answer"
    with pytest.raises(ValueError, match="model"):
        gr.traced()(_fails)([])
    assert keeper_of(host.provider) is None


def test_flushing_at_shutdown_is_registered_and_bounded(unsampled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's shutdown flushes the spans, and does not wait for a dead collector."""
    import threading

    gr.traced()(lambda rows: rows)([])
    assert unsampled.closers
    hanging = threading.Event()
    monkeypatch.setattr(unsampled.provider, "force_flush", lambda *_: hanging.wait(30))
    monkeypatch.setattr(keep, "FLUSH_TIMEOUT", 0.01)
    for close in unsampled.closers:
        close()
    hanging.set()


def test_without_traced_no_context_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `traced` the method runs in the caller's context as it is."""
    attached: list[Any] = []
    monkeypatch.setattr(drivers.otel, "attach", attached.append)
    gr.fall_back(to=gr.constant(0))(lambda rows: rows)([])
    assert attached == []
