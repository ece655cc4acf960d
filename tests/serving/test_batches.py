"""Whose rows are whose in a batch: BentoML's own dispatcher, with requests of our own, and what each request is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import bentoml
import pytest
from _bentoml_impl.server import app
from bentoml._internal.marshal import dispatcher as theirs
from bentoml._internal.utils.telemetry import ParentBasedTraceIdRatio
from bentoml.exceptions import InvalidArgument
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY

import guardrails as gr
from guardrails.core.call import Stage
from guardrails.core.pipeline import attach
from guardrails.core.request import CURRENT, RequestState
from guardrails.serving import batches
from guardrails.serving.batches import Linked, link_batches
from guardrails.serving.members import Member
from guardrails.tracing.keep import keeper_of
from guardrails.typing import Hooks

ORDINARY, STRANGE, STRANGER = [0.1, 0.2], [3.0, -3.0], [6.0, -6.0]
MAX_BATCH_SIZE = 8
FALLBACK = gr.constant([0.0])
Make = Callable[..., Any]


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> type:
    """BentoML as it is installed, in this test and after it."""
    monkeypatch.setattr(app, "CorkDispatcher", theirs.CorkDispatcher)
    batches._warn.cache_clear()
    return theirs.CorkDispatcher


@pytest.fixture
def linked(original: type) -> type:
    """BentoML's dispatcher after `link_batches`."""
    assert link_batches()
    return app.CorkDispatcher


@pytest.fixture
def unsampled(make_host: Make) -> Any:
    """A host that records everything and samples nothing, as BentoML does at sample_rate 0."""
    host = make_host(ParentBasedTraceIdRatio(0.0))
    host.batchables.add("predict")
    return host


@pytest.fixture
def sampled(span_host: Any) -> Any:
    span_host.batchables.add("predict")
    return span_host


@dataclass
class Request:
    """One request with a server span and a state of its own, as BentoML and the middleware make them."""

    rows: list[list[float]]
    status: int = 200
    state: RequestState = field(default_factory=RequestState)
    span: Any = None
    answer: Any = None

    async def send(self, host: Any, ask: Callable[[Any], Any]) -> None:
        """Ask, in a task (and so in a context) of its own."""
        CURRENT.set(self.state)
        tracer = host.provider.get_tracer("opentelemetry.instrumentation.asgi")
        with tracer.start_as_current_span("POST /predict", otel.Context(), kind=SpanKind.SERVER) as self.span:
            with contextlib.suppress(Exception):
                self.answer = await ask(self.rows)
            self.span.set_attribute("http.status_code", self.status)

    @property
    def headers(self) -> tuple[str | None, str | None]:
        return self.state.headers.get("Guardrails-Route"), self.state.headers.get("Guardrails-Reason")

    @property
    def decision_id(self) -> str:
        return self.state.headers["Guardrails-Decision-Id"]

    def said(self, name: str) -> Any:
        return self.span.attributes.get(f"guardrails.{name}")


def service(*guards: Any, answer: Callable[[Any], Any] = lambda rows: [1.0] * len(rows)) -> Any:
    """A service whose method ``predict`` is guarded; a batch, where the host says that it is batchable."""

    class Service:
        @gr.compose(*guards)
        def predict(self, rows: list[list[float]]) -> list[float]:
            return answer(rows)

    return Service()


@dataclass(frozen=True)
class Broken:
    """A guard that always fails, after an answer or before it."""

    stage: Stage
    name: ClassVar[str] = "broken"

    def __call__(self, fn: Any) -> Any:
        return attach(self, fn)

    def bind(self, method: Any) -> Hooks:
        def fail(call: Any) -> None:
            raise LookupError("nothing here")

        return Hooks(before=fail) if self.stage < Stage.TRACE else Hooks(after=fail)


def guarded(profile: gr.Profile, **options: Any) -> Any:
    return service(gr.traced(), gr.check_outliers(profile, fallback=FALLBACK), **options)


def merged(instance: Any, parts: Sequence[Any]) -> list[Any]:
    """Call ``predict`` for several requests' rows, as BentoML does, and give each its answers back."""
    answers = iter(instance.predict([row for part in parts for row in part]))
    return [[next(answers) for _ in part] for part in parts]


def send(host: Any, of: type, instance: Any, requests: Sequence[Request], size: Any = len) -> Any:
    """Send requests that are all queued before the first batch is made; returns the dispatcher."""

    async def batch_infer(parts: Sequence[Any]) -> list[Any]:
        return merged(instance, parts)

    async def run() -> Any:
        made = of(20_000, MAX_BATCH_SIZE, fallback=list, get_batch_size=size)
        await asyncio.wait_for(asyncio.gather(*(request.send(host, made(batch_infer)) for request in requests)), 30)
        await asyncio.sleep(0)  # what waits for a future learns of it in the next round
        made.shutdown()
        return made

    return asyncio.run(run())


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def split_id(decision_id: str) -> list[str]:
    return [part.partition("/")[2] for part in decision_id.split(", ")]


# What each request is told


def test_each_request_is_told_of_its_own_rows(profile: gr.Profile, sampled: Any, linked: type) -> None:
    """Headers and attributes hold the route, the reason and the worst verdict of the rows that the request brought."""
    one, several, odd = Request([ORDINARY]), Request([ORDINARY, STRANGE, STRANGER]), Request([STRANGE])
    send(sampled, linked, guarded(profile), [one, several, odd])
    identity = one.decision_id.partition("/")[0]
    assert [r.decision_id for r in (one, several, odd)] == [f"{identity}/0", f"{identity}/1-3", f"{identity}/4"]
    elsewhere = ("fallback:constant", "outlier")
    assert [r.headers for r in (one, several, odd)] == [("primary", None), ("mixed", "outlier"), elsewhere]
    assert [r.answer for r in (one, several, odd)] == [[1.0], [1.0, 0.0, 0.0], [0.0]]
    for request in (one, several, odd):
        assert (request.said("route"), request.said("reason")) == request.headers
        assert request.said("decision.id") == request.decision_id
        assert request.said("outlier.is_outlier") is (request is not one)
    scores = profile.outliers.score([ORDINARY, STRANGE, STRANGER])
    assert one.said("outlier.score") == pytest.approx(scores[0])
    assert several.said("outlier.score") == pytest.approx(max(scores))
    assert odd.said("outlier.score") == pytest.approx(scores[1])
    assert odd.said("outlier.p_value") <= 0.05 < one.said("outlier.p_value")
    assert [r.said("rows") for r in (one, several, odd)] == [None, 3, None]
    assert keeper_of(sampled.provider)._waiting == {}


def test_a_batch_of_one_row_is_its_clients(profile: gr.Profile, sampled: Any, linked: type) -> None:
    """Its record has no row number, so the header has none."""
    alone = Request([ORDINARY])
    send(sampled, linked, guarded(profile), [alone])
    (span,) = [span for span in sampled.spans if span.name == "guardrails predict"]
    assert alone.decision_id == span.attributes["guardrails.decision.id"]


def test_the_span_of_a_batch_links_to_its_requests(profile: gr.Profile, sampled: Any, linked: type) -> None:
    """One link for each, in the order of the rows; the batch stays a trace of its own."""
    requests = [Request([ORDINARY]) for _ in range(3)]
    send(sampled, linked, guarded(profile), requests)
    (span,) = [span for span in sampled.spans if span.name == "guardrails predict"]
    assert span.parent is None
    assert [link.context for link in span.links] == [request.span.get_span_context() for request in requests]


def test_only_flagged_requests_are_kept(profile: gr.Profile, unsampled: Any, linked: type) -> None:
    """Nothing is sampled: the outlier's own trace is exported, and the batch; its neighbours are not, nor do they wait."""
    requests = [Request([ORDINARY]), Request([STRANGE]), Request([ORDINARY])]
    send(unsampled, linked, guarded(profile), requests)
    batch, server = unsampled.spans
    assert (batch.name, server.name) == ("guardrails predict", "POST /predict")
    assert server.context.span_id == requests[1].span.get_span_context().span_id
    assert server.attributes["guardrails.kept"] is True
    assert len(batch.links) == 3
    assert keeper_of(unsampled.provider)._waiting == {}


def test_an_ordinary_batch_leaves_nothing(profile: gr.Profile, unsampled: Any, linked: type) -> None:
    """No row is flagged: nothing is exported."""
    send(unsampled, linked, guarded(profile), [Request([ORDINARY]), Request([ORDINARY])])
    assert unsampled.spans == []
    assert keeper_of(unsampled.provider)._waiting == {}


def test_what_concerns_the_batch_concerns_all(profile: gr.Profile, unsampled: Any, linked: type) -> None:
    """A missed deadline or a guard that broke flags every request, which says so."""

    late = [Request([ORDINARY]), Request([ORDINARY])]
    send(unsampled, linked, service(gr.traced(deadline=1e-9), gr.check_outliers(profile, fallback=FALLBACK)), late)
    assert [(r.said("deadline.met"), r.headers) for r in late] == [(False, ("primary", None))] * 2
    unguarded = []
    for stage in (Stage.CHECK, Stage.OBSERVE):  # before the batch's span is there, and after
        unguarded += [Request([ORDINARY]), Request([ORDINARY])]
        check = gr.check_outliers(profile, fallback=FALLBACK)
        send(unsampled, linked, service(gr.traced(), check, Broken(stage)), unguarded[-2:])
    assert [r.said("guard.errors") for r in unguarded] == ["broken:LookupError"] * 4
    exported = {span.context.span_id for span in unsampled.spans if span.name == "POST /predict"}
    assert exported == {request.span.get_span_context().span_id for request in (*late, *unguarded)}


@pytest.mark.parametrize("status", [400, 500])
def test_an_exception_is_everybodys(profile: gr.Profile, unsampled: Any, linked: type, status: int) -> None:
    """Every client is told, every trace is kept, and what BentoML answers is not counted as its own doing."""

    def broken(rows: Any) -> Any:
        raise InvalidArgument("row 2") if status == 400 else RuntimeError("model")

    name, labels = "guardrails_request_duration_seconds_count", {"api": "predict", "route": "rejected"}
    before = count(name, **labels, reason="invalid")
    requests = [Request([ORDINARY], status=status), Request([ORDINARY], status=status)]
    send(unsampled, linked, guarded(profile, answer=broken), requests)
    assert [request.headers for request in requests] == [("primary", "error")] * 2
    assert len({request.decision_id for request in requests}) == 2
    assert sorted(span.name for span in unsampled.spans) == ["POST /predict"] * 2 + ["guardrails predict"]
    assert count(name, **labels, reason="invalid") == before


def test_a_guard_that_is_not_enforced_flags_its_rows(profile: gr.Profile, unsampled: Any, linked: type) -> None:
    """Nobody is sent away: the headers say primary; the trace of the request whose row was strange is kept and says so."""
    check = gr.check_outliers(profile, fallback=FALLBACK, enforce=False)
    requests = [Request([ORDINARY]), Request([ORDINARY, STRANGE])]
    send(unsampled, linked, service(gr.traced(), check), requests)
    assert [request.headers for request in requests] == [("primary", None)] * 2
    assert [request.said("shadow") for request in requests] == [None, ("outlier:fallback:constant",)]
    (server,) = [span for span in unsampled.spans if span.name == "POST /predict"]
    assert server.context.span_id == requests[1].span.get_span_context().span_id


def test_without_traced_there_are_headers_only(profile: gr.Profile, unsampled: Any, linked: type) -> None:
    """Nobody asked for spans."""
    request = Request([STRANGE])
    send(unsampled, linked, service(gr.check_outliers(profile, fallback=FALLBACK)), [request])
    assert request.headers == ("fallback:constant", "outlier")
    assert not any(name.startswith("guardrails") for name in request.span.attributes)
    assert unsampled.spans == []


def test_rows_nobody_counted_share_an_id(sampled: Any, linked: type) -> None:
    """No guard reads rows: every client hears the id and the route of the batch, which are those of its record."""
    requests = [Request([ORDINARY]), Request([ORDINARY])]
    send(sampled, linked, service(gr.traced()), requests)
    (span,) = [span for span in sampled.spans if span.name == "guardrails predict"]
    assert {request.decision_id for request in requests} == {span.attributes["guardrails.decision.id"]}
    assert [request.headers for request in requests] == [("primary", None)] * 2


def test_a_request_without_rows_has_nothing_to_hear(profile: gr.Profile, sampled: Any, linked: type) -> None:
    """And takes nobody else's."""
    requests = [Request([ORDINARY]), Request([]), Request([STRANGE])]
    send(sampled, linked, guarded(profile), requests)
    assert requests[1].state.headers == {}
    assert [split_id(requests[i].decision_id) for i in (0, 2)] == [["0"], ["1"]]
    assert requests[2].headers == ("fallback:constant", "outlier")


def test_a_call_within_the_batch_speaks_for_nobody(profile: gr.Profile, sampled: Any, linked: type) -> None:
    """Another batchable method, called by the first one with the same rows, neither tells its clients nor links to them."""
    inner = guarded(profile)
    outer = guarded(profile, answer=lambda rows: inner.predict([STRANGE] * len(rows)))
    request = Request([ORDINARY])
    send(sampled, linked, outer, [request])
    within, around = [span for span in sampled.spans if span.name == "guardrails predict"]
    assert (request.decision_id, request.headers) == (around.attributes["guardrails.decision.id"], ("primary", None))
    assert (len(within.links), len(around.links)) == (0, 1)


# Requests larger than a batch


@pytest.mark.parametrize(("odd", "batch"), [(0, 0), (6, 0), (7, 1), (19, 2)])
def test_a_split_request_hears_of_all_its_rows(
    profile: gr.Profile, unsampled: Any, linked: type, odd: int, batch: int
) -> None:
    """1 + 20 rows in batches of 8: one id for each part, mixed, the strangest row's verdict; kept once, with no other."""
    rows = [ORDINARY] * 20
    rows[odd] = STRANGE
    first, large = Request([ORDINARY]), Request(rows)
    dispatcher = send(unsampled, linked, guarded(profile), [first, large])
    assert split_id(large.decision_id) == ["1-7", "0-7", "0-4"]
    assert len({part.partition("/")[0] for part in large.decision_id.split(", ")}) == 3
    assert (large.headers, large.said("rows")) == (("mixed", "outlier"), 20)
    assert large.answer == [float(row is not STRANGE) for row in rows]
    scores = profile.outliers.score([STRANGE])
    assert (large.said("outlier.score"), large.said("outlier.is_outlier")) == (pytest.approx(scores[0]), True)
    assert (first.headers, first.answer) == (("primary", None), [1.0])
    names = [span.name for span in unsampled.spans]
    assert sorted(names) == ["POST /predict", "guardrails predict"]
    (kept,) = [span for span in unsampled.spans if span.name == "guardrails predict"]
    assert kept.attributes["guardrails.decision.id"] == large.decision_id.split(", ")[batch].partition("/")[0]
    assert dispatcher._senders == {}


def test_a_split_request_on_one_route(profile: gr.Profile, sampled: Any, linked: type) -> None:
    """All its rows went the same way: the route is that one, not mixed."""
    ordinary, strange = Request([ORDINARY] * 9), Request([STRANGE] * 9)
    send(sampled, linked, guarded(profile), [ordinary, strange])
    assert [split_id(r.decision_id) for r in (ordinary, strange)] == [["0-7", "0"], ["1-7", "0-1"]]
    assert [r.headers for r in (ordinary, strange)] == [("primary", None), ("fallback:constant", "outlier")]


def test_the_worst_part_speaks_for_a_split_request() -> None:
    """Whichever comes first: least likely row, then highest score; one late or odd part makes it late or odd."""
    names = ("outlier.p_value", "outlier.score", "outlier.is_outlier", "deadline.met")
    parts = [
        dict(zip(names, values, strict=True)) | {"decision.id": str(number), "route": "primary"}
        for number, values in enumerate([(0.5, 0.1, False, True), (0.01, 0.7, True, True), (0.01, 0.8, False, False)])
    ]
    parts[1]["reason"], parts[2]["reason"] = "outlier", "invalid"
    parts[1]["shadow"], parts[2]["shadow"] = ("a",), ("b", "a")
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        member = Member(trace.INVALID_SPAN, RequestState(), 1)
        for number in order:
            member.tell({f"guardrails.{name}": value for name, value in parts[number].items()})
        assert [member.told[f"guardrails.{name}"] for name in names] == [0.01, 0.8, True, False]
        assert member.state.headers["Guardrails-Decision-Id"] == ", ".join(map(str, order))
        assert member.told["guardrails.rows"] == 3
        reasons = [parts[number]["reason"] for number in order if "reason" in parts[number]]
        assert member.state.headers["Guardrails-Reason"] == reasons[0]
        assert sorted(member.told["guardrails.shadow"]) == ["a", "b"]


# Requests that have gone


@pytest.mark.parametrize("gone_while", ["queued", "answered"])
def test_a_request_that_has_gone_takes_nothing_with_it(
    profile: gr.Profile, unsampled: Any, linked: type, caplog: pytest.LogCaptureFixture, gone_while: str
) -> None:
    """A time-out leaves rows in the queue: its neighbours' rows stay their own, and its ended span is let alone."""
    instance = guarded(profile)
    gone, stays = Request([STRANGE, STRANGE]), Request([STRANGE])

    async def batch_infer(parts: Sequence[Any]) -> list[Any]:
        if gone_while == "answered":
            leaving.cancel()
            await asyncio.sleep(0.01)
        return merged(instance, parts)

    async def run() -> Any:
        nonlocal leaving
        made = linked(20_000, MAX_BATCH_SIZE, fallback=list, get_batch_size=len)
        leaving = asyncio.ensure_future(gone.send(unsampled, made(batch_infer)))
        staying = asyncio.ensure_future(stays.send(unsampled, made(batch_infer)))
        if gone_while == "queued":
            await asyncio.sleep(0)  # both are in the queue after this, and no batch is made yet
            assert len(made._queue) == 2
            leaving.cancel()
        await asyncio.wait_for(staying, 30)
        made.shutdown()
        return made

    leaving: Any = None
    dispatcher = asyncio.run(run())
    assert (split_id(stays.decision_id), stays.headers) == (["2"], ("fallback:constant", "outlier"))
    assert gone.said("route") is None
    assert [span.name for span in unsampled.spans] == ["guardrails predict", "POST /predict"]
    assert keeper_of(unsampled.provider)._waiting == {}
    assert dispatcher._senders == {}
    assert "ended span" not in caplog.text


# What must never happen


def test_nothing_here_keeps_a_batch_from_its_answer(
    profile: gr.Profile, sampled: Any, linked: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that cannot be counted, a state that cannot be told: contained and counted, and everybody is answered."""

    def uncountable(data: Any) -> int:
        raise TypeError("no length")

    errors = "guardrails_guard_errors_total"
    before = count(errors, guard="batch_links", error_type="TypeError")
    requests = [Request([ORDINARY]), Request([STRANGE])]
    send(sampled, linked, guarded(profile), requests, size=uncountable)
    assert [request.answer for request in requests] == [[1.0], [0.0]]
    assert [request.state.headers for request in requests] == [{}, {}]
    assert count(errors, guard="batch_links", error_type="TypeError") == before + 1

    before = count(errors, guard="batch_links", error_type="OSError")
    monkeypatch.setattr(RequestState, "answer", lambda *_: (_ for _ in ()).throw(OSError("told nobody")))
    requests = [Request([ORDINARY]), Request([STRANGE])]
    send(sampled, linked, guarded(profile), requests)
    assert [request.answer for request in requests] == [[1.0], [0.0]]
    assert count(errors, guard="batch_links", error_type="OSError") == before + 1


def test_rows_counted_otherwise_are_not_told_apart(profile: gr.Profile, sampled: Any, linked: type) -> None:
    """Where BentoML and the guards count differently, nobody hears of a row that may be somebody else's."""
    requests = [Request([ORDINARY]), Request([STRANGE, ORDINARY])]
    send(sampled, linked, guarded(profile), requests, size=lambda rows: 2 * len(rows))
    (identity,) = {request.decision_id for request in requests}
    assert len(identity) == 32
    assert [request.headers for request in requests] == [("mixed", "outlier")] * 2
    assert [request.said("outlier.is_outlier") for request in requests] == [None, None]


# Going into BentoML


def test_linking_is_done_once(original: type) -> None:
    """Any number of services of a process may ask for it."""
    assert link_batches()
    once = app.CorkDispatcher
    assert link_batches()
    assert app.CorkDispatcher is once
    assert issubclass(once, Linked)
    assert issubclass(once, original)
    assert [cls for cls in once.__mro__ if cls is Linked] == [Linked]


def test_install_links_when_asked_to(original: type) -> None:
    """The option of `install` is off unless it is set."""

    def made() -> Any:
        class Service:
            @bentoml.api(batchable=True)
            @gr.traced()
            def predict(self, rows: list[float]) -> list[float]:
                return rows

        return bentoml.service(Service)

    gr.install()(made())
    assert app.CorkDispatcher is original
    gr.install(batch_links=True)(made())
    assert issubclass(app.CorkDispatcher, Linked)


def renamed(name: str, signature: str, *, coroutine: bool = True) -> type:
    """BentoML's dispatcher with one method written otherwise."""
    scope: dict[str, Any] = {}
    exec(f"{'async ' if coroutine else ''}def {name}({signature}): ...", scope)
    return type("CorkDispatcher", (theirs.CorkDispatcher,), {name: scope[name]})


@dataclass
class OtherJob:
    payload: Any
    future: Any


class OtherFactory:
    def __init__(self, service: Any) -> None:
        self.dispatchers: dict[str, Any] = {}


CHANGED: dict[str, tuple[Any, str, Any, str]] = {
    "version": (bentoml, "__version__", "1.5.0", "BentoML 1.4.x (this is 1.5.0)"),
    "older": (bentoml, "__version__", "1.3.22", "BentoML 1.4.x (this is 1.3.22)"),
    "no dispatcher": (app, "CorkDispatcher", None, "CorkDispatcher"),
    "another argument": (app, "CorkDispatcher", renamed("inbound_call", "self, item"), "CorkDispatcher.inbound_call(data)"),
    "no split": (app, "CorkDispatcher", renamed("split_job", "self, job"), "CorkDispatcher.split_job(job, split_indexes)"),
    "no sizes": (app, "CorkDispatcher", renamed("__init__", "self"), "CorkDispatcher.__init__(get_batch_size)"),
    "no coroutine": (
        app, "CorkDispatcher", renamed("outbound_call", "self, inputs_info", coroutine=False),
        "a coroutine function CorkDispatcher.outbound_call",
    ),
    "another job": (theirs, "Job", OtherJob, "Job(data, future)"),
    "another factory": (app, "ServiceAppFactory", OtherFactory, "ServiceAppFactory, making a CorkDispatcher"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_what_has_changed_is_named_once_and_left_alone(
    original: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Another version or another dispatcher: one line that names it, False, and BentoML as it was."""
    where, attribute, value, said = CHANGED[name]
    monkeypatch.setattr(where, attribute, value)
    before = app.CorkDispatcher
    with caplog.at_level(logging.WARNING, "guardrails"):
        assert not link_batches()
        assert not link_batches()
    assert app.CorkDispatcher is before
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_module_that_has_gone_is_named(
    original: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """BentoML without that module, or without that name in it."""
    monkeypatch.delattr(theirs, "Job")
    assert not link_batches()
    assert "'Job'" in caplog.records[0].getMessage()
