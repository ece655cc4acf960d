"""Breakers around guarded methods: of every shape, apart for each service, and what clients and operators are told."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bentoml
import pytest
from bentoml.exceptions import InvalidArgument, NotFound, ServiceUnavailable
from prometheus_client import REGISTRY

import guardrails as gr
from guardrails.core.pipeline import attach
from guardrails.decisions.guard import Record

KINDS = ("function", "coroutine", "generator", "async generator")
STREAMS = ("generator", "async generator")
OPEN_FOR = 10.0
ORDINARY, OUTLIER = [0.1, 0.2], [6.0, -6.0]


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The breakers' own clock."""
    made = Clock()
    monkeypatch.setattr("guardrails.core.breaker.time", made)
    return made


class Model:
    """A method of any shape that does what its script says, and counts who asks."""

    def __init__(self, kind: str) -> None:
        self.kind, self.error, self.asked, self.late = kind, None, 0, False
        self.records: list[Any] = []

    def guarded(self, *guards: Any) -> Callable[[], Any]:
        """Call it from start to end; a stream's items are its answer."""
        fn: Any = {
            "function": self._function,
            "coroutine": self._coroutine,
            "generator": self._generator,
            "async generator": self._async_generator,
        }[self.kind]()
        for guard in (*guards, Record(self.records.append)):
            fn = guard(fn) if callable(guard) else attach(guard, fn)
        self.fn = fn
        return lambda: run(fn)

    def plan(self) -> dict[str, Any]:
        return gr.pipeline_of(self.fn).bind(None).status()

    def reasons(self) -> list[tuple[str, str | None]]:
        return [(record.route, record.reason) for record in self.records]

    def _answer(self) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return "model"

    def _function(self) -> Any:
        def predict(rows: Any) -> str:
            return self._answer()

        return predict

    def _coroutine(self) -> Any:
        async def predict(rows: Any) -> str:
            await asyncio.sleep(0)
            return self._answer()

        return predict

    def _generator(self) -> Any:
        def predict(rows: Any) -> Any:
            if self.late:
                yield "first"
            yield self._answer()

        return predict

    def _async_generator(self) -> Any:
        async def predict(rows: Any) -> Any:
            if self.late:
                yield "first"
            yield self._answer()

        return predict


def run(fn: Callable[..., Any]) -> Any:
    async def collect() -> Any:
        return [item async for item in fn([ORDINARY])][-1]

    if inspect.isasyncgenfunction(fn):
        return asyncio.run(collect())
    if inspect.isgeneratorfunction(fn):
        return list(fn([ORDINARY]))[-1]
    return asyncio.run(fn([ORDINARY])) if inspect.iscoroutinefunction(fn) else fn([ORDINARY])


def breaker(**options: Any) -> gr.Breaker:
    return gr.Breaker(**{"minimum_calls": 2, "window": 4, "open_for": OPEN_FOR} | options)


def spare(rows: Any) -> str:
    return "spare"


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_probes_and_closes(clock: Clock, kind: str) -> None:
    """Two errors open it; nobody asks the method then; a failed probe opens it again, one that answers closes it."""
    model = Model(kind)
    ask = model.guarded(gr.fall_back(to=spare, breaker=breaker()))
    model.error = ValueError("sick")
    assert [ask() for _ in range(5)] == ["spare"] * 5
    assert model.asked == 2
    clock.now += OPEN_FOR
    assert [ask() for _ in range(3)] == ["spare"] * 3
    assert model.asked == 3
    model.error = None
    clock.now += OPEN_FOR
    assert [ask() for _ in range(3)] == ["model"] * 3
    route = "fallback:spare"
    errors, refusals = [(route, "error")], [(route, "breaker_open")]
    assert model.reasons() == 2 * errors + 3 * refusals + errors + 2 * refusals + 3 * [("primary", None)]
    assert model.plan()["breakers"] == {"primary": {"state": "closed", "recent_calls": 2, "recent_failures": 0}}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_breaks_off_has_failed(clock: Clock, kind: str) -> None:
    """An error after the first item is the client's to see, and the breaker's to count."""
    model = Model(kind)
    ask = model.guarded(gr.fall_back(to=spare, breaker=breaker()))
    model.error, model.late = ValueError("in the middle"), True
    for _ in range(2):
        with pytest.raises(ValueError, match="middle"):
            ask()
    assert ask() == "spare"
    assert model.asked == 2


@pytest.mark.parametrize("error", [InvalidArgument("bad"), NotFound("none")])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_client_are_neither(clock: Clock, kind: str, error: Exception) -> None:
    """Any number of BentoML's 4xx keeps it closed and leaves no trace; while it probes, the next call is the probe."""
    model = Model(kind)
    ask = model.guarded(gr.fall_back(to=spare, on=(ValueError,), breaker=breaker()))
    model.error = error
    for _ in range(6):
        with pytest.raises(type(error)):
            ask()
    assert model.plan()["breakers"]["primary"] == {"state": "closed", "recent_calls": 0, "recent_failures": 0}
    model.error = ValueError("sick")
    ask(), ask()
    clock.now += OPEN_FOR
    model.error = error
    for _ in range(3):
        with pytest.raises(type(error)):
            ask()
    assert model.plan()["breakers"]["primary"]["state"] == "half-open"
    model.error = None
    assert ask() == "model"


def test_a_503_of_the_method_is_a_failure(clock: Clock) -> None:
    """BentoML's 5xx says that the method is sick."""
    model = Model("function")
    ask = model.guarded(gr.fall_back(to=spare, breaker=breaker()))
    model.error = ServiceUnavailable("sick")
    assert [ask() for _ in range(4)] == ["spare"] * 4
    assert model.asked == 2


@pytest.mark.parametrize("probing", [False, True])
def test_a_cancelled_call_is_neither(clock: Clock, probing: bool) -> None:
    """Whoever cancels says nothing of the method: not in the window, and a probe's slot is free again."""
    model, hang = Model("coroutine"), [False]

    @gr.fall_back(to=spare, breaker=breaker())
    async def predict(rows: Any) -> str:
        if hang[0]:
            await asyncio.Event().wait()
        return model._answer()

    async def cancelled() -> None:
        task = asyncio.ensure_future(predict([ORDINARY]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    if probing:
        model.error = ValueError("sick")
        run(predict), run(predict)
        clock.now += OPEN_FOR
    hang[0], model.error = True, None
    for _ in range(4):
        asyncio.run(cancelled())
    hang[0] = False
    said = gr.pipeline_of(predict).bind(None).status()["breakers"]["primary"]
    assert (said["state"], said["recent_calls"]) == ("half-open" if probing else "closed", 0)
    assert run(predict) == "model"


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_its_client_leaves_is_neither(clock: Clock, kind: str) -> None:
    """Closing a stream early frees the probe's slot and counts as nothing."""
    model = Model(kind)
    ask = model.guarded(gr.fall_back(to=spare, breaker=breaker()))
    model.error = ValueError("sick")
    ask(), ask()
    clock.now += OPEN_FOR
    model.error, model.late = None, True

    async def leave() -> None:
        stream = model.fn([ORDINARY])
        if kind == "generator":
            next(stream)
            stream.close()
        else:
            await anext(stream)
            await stream.aclose()

    for _ in range(3):
        asyncio.run(leave())
    assert model.plan()["breakers"]["primary"]["state"] == "half-open"
    assert ask() == "model"
    assert model.plan()["breakers"]["primary"]["state"] == "closed"


def test_only_the_probes_get_through(clock: Clock) -> None:
    """Of sixteen requests at once two are probes; the others are answered while these hang."""
    sick, release, entered = [True], threading.Event(), threading.Semaphore(0)

    @gr.fall_back(to=spare, breaker=breaker(probes=2))
    def predict(rows: Any) -> str:
        if sick[0]:
            raise ValueError("sick")
        entered.release()
        release.wait(30)
        return "model"

    run(predict), run(predict)
    clock.now += OPEN_FOR
    sick[0] = False
    with ThreadPoolExecutor(16) as pool:
        try:
            answers = [pool.submit(predict, [ORDINARY]) for _ in range(16)]
            assert all(entered.acquire(timeout=30) for _ in range(2))
            while sum(answer.done() for answer in answers) < 14:
                release.wait(0.001)
            assert [answer.result() for answer in answers if answer.done()] == ["spare"] * 14
        finally:
            release.set()
        assert sorted(answer.result() for answer in answers) == ["model"] * 2 + ["spare"] * 14
    assert not entered.acquire(blocking=False)


def test_each_service_has_its_own(clock: Clock) -> None:
    """What one instance cannot reach another may."""

    class Service:
        def __init__(self, *, sick: bool) -> None:
            self.sick = sick

        @gr.fall_back(to="spare", breaker=breaker())
        def predict(self, rows: Any) -> str:
            if self.sick:
                raise ValueError("sick")
            return "model"

        def spare(self, rows: Any) -> str:
            return "spare"

    one, two = Service(sick=True), Service(sick=False)
    assert [one.predict([ORDINARY]) for _ in range(3)] == ["spare"] * 3
    assert [two.predict([ORDINARY]) for _ in range(3)] == ["model"] * 3
    plans = [gr.pipeline_of(Service.predict).bind(service).status() for service in (one, two)]
    assert [plan["breakers"]["primary"]["state"] for plan in plans] == ["open", "closed"]


def test_when_nothing_stands_in_the_caller_gets_a_503(clock: Clock, profile: gr.Profile) -> None:
    """Of a fallback that failed too often and has nobody behind it, BreakerOpen is the answer."""

    def broken(rows: Any) -> Any:
        raise ValueError("sick")

    records: list[Any] = []
    guard = gr.check_outliers(profile, fallback=gr.within(broken, breaker=breaker()))
    fn = attach(Record(records.append), guard(lambda rows: ["model"]))
    for _ in range(2):
        with pytest.raises(ValueError, match="sick"):
            fn([OUTLIER])
    with pytest.raises(gr.BreakerOpen, match="fallback:broken failed too often") as caught:
        fn([OUTLIER])
    assert caught.value.error_code.value == 503
    assert isinstance(caught.value, bentoml.exceptions.BentoMLException)
    assert (records[-1].reason, records[-1].error_type) == ("outlier", "BreakerOpen")
    assert fn([ORDINARY]) == ["model"]


def test_what_operators_are_told(clock: Clock) -> None:
    """The printed pipeline names the breaker; the gauge exists before anything failed, and follows."""

    @gr.fall_back(to=gr.within(spare, breaker=breaker()), breaker=breaker())
    def told_breakers(rows: Any) -> str:
        raise ValueError("sick")

    plan = gr.pipeline_of(told_breakers).bind(None)
    assert "breaker=Breaker(" in str(gr.pipeline_of(told_breakers))
    labels = [{"api": "told_breakers", "target": target} for target in ("primary", "fallback:spare")]
    assert [REGISTRY.get_sample_value("guardrails_breaker_state", each) for each in labels] == [0.0, 0.0]
    run(told_breakers), run(told_breakers)
    assert [metric("guardrails_breaker_state", **each) for each in labels] == [2.0, 0.0]
    assert [metric("guardrails_breaker_opened_total", **each) for each in labels] == [1.0, 0.0]
    assert {route: said["state"] for route, said in plan.status()["breakers"].items()} == {
        "primary": "open",
        "fallback:spare": "closed",
    }
