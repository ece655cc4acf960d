"""Shadow mode: enforce=False changes nothing for anybody, and says of each row what enforcing would have done."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import guardrails as gr
from guardrails import outliers
from guardrails.core import metrics
from guardrails.core.deadline import abandoned
from guardrails.core.pipeline import attach
from guardrails.core.request import CURRENT, RequestState
from guardrails.decisions.guard import Record
from guardrails.testing import strict

ROWS = {
    "ordinary": [0.1, 0.2],
    "outlier": [6.0, -6.0],
    "invalid": [1e9, 0.0],
    "text": ["text", 0.2],
    "narrow": [0.1],
}
GUARDS = ("validate", "check_outliers", "fall_back", "explore")
SLOW = 100.0
PROPERTY = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


class Last:
    """A policy without chance: always the last action, which the model never likes best."""

    def pmf(self, scores: np.ndarray) -> np.ndarray:
        return np.eye(scores.shape[-1])[np.full(scores.shape[:-1], scores.shape[-1] - 1)]


@dataclass(frozen=True)
class Script:
    """One request: its rows, and what the method does with it."""

    rows: tuple[str, ...]
    does: str
    asynchronous: bool
    on_invalid: str = "reject"
    on_outlier: str = "reject"

    @property
    def payload(self) -> list[Any]:
        return [ROWS[kind] for kind in self.rows]


scripts = st.builds(
    Script,
    rows=st.lists(st.sampled_from(list(ROWS)), min_size=1, max_size=4).map(tuple),
    does=st.sampled_from(["answers", "answers", "raises", "is slow"]),
    asynchronous=st.booleans(),
    on_invalid=st.sampled_from(["reject", "invalid"]),
    on_outlier=st.sampled_from(["reject", "odd"]),
)


def standing_in(name: str) -> Callable[..., Any]:
    def stand_in(rows: Any) -> np.ndarray:
        return np.full((len(rows), 3), -1.0)

    stand_in.__name__ = name
    return stand_in


def guards(profile: Any, script: Script, names: tuple[str, ...], *, enforce: bool) -> list[Any]:
    # Enforced, a slow call waits for its release, not for the clock; in the shadow the clock is the method's own.
    timeout = 0.02 if enforce and script.does == "is slow" else 60.0
    invalid = "reject" if script.on_invalid == "reject" else standing_in("invalid")
    odd = gr.reject() if script.on_outlier == "reject" else standing_in("odd")
    if names == ("guarded",):
        spare = gr.within(standing_in("spare"), timeout=60.0)
        options = {"on_invalid": invalid, "timeout": timeout, "policy": Last(), "rate": 1e-15, "enforce": enforce}
        return [gr.guarded(profile, fallback=spare, **options)]
    every = {
        "validate": gr.validate(profile, on_invalid=invalid, enforce=enforce),
        "check_outliers": gr.check_outliers(profile, fallback=odd, enforce=enforce),
        "fall_back": gr.fall_back(
            to=gr.within(standing_in("spare"), timeout=60.0), on=(ValueError,), timeout=timeout, enforce=enforce
        ),
        "explore": gr.explore(Last(), enforce=enforce),
    }
    return [every[name] for name in names]


class Request:
    """A script, played to a method with or without guards: what its caller sees, and what is kept of it."""

    def __init__(self, script: Script, decorators: list[Any], *, waits: bool) -> None:
        self.script, self.waits = script, waits
        self.thing, self.error = np.tile([0.7, 0.2, 0.1], (len(script.rows), 1)), ValueError("model")
        self.before = self.thing.copy()
        self.records: list[Any] = []
        self.seen: list[Any] = []
        self.clock, self.release = 0.0, threading.Event()
        fn: Any = self._coroutine() if script.asynchronous else self._function()
        fn.__name__ = "shadowed"
        for guard in decorators:
            fn = guard(fn)
        self.fn = attach(Record(self.records.append), fn)
        self.headers: dict[str, str] = {}

    def _function(self) -> Any:
        def predict(rows: Any) -> Any:
            if self.waits and self.script.does == "is slow":
                self.release.wait(30)
            return self._answer(rows)

        return predict

    def _coroutine(self) -> Any:
        async def predict(rows: Any) -> Any:
            if self.waits and self.script.does == "is slow":
                await asyncio.Event().wait()
            return self._answer(rows)

        return predict

    def _answer(self, rows: Any) -> Any:
        self.seen.append(rows)
        self.clock += SLOW * (self.script.does == "is slow")
        if self.script.does == "raises":
            raise self.error
        return self.thing if len(rows) == len(self.thing) else self.thing[: len(rows)]

    def play(self, payload: Any) -> tuple[str, Any]:
        """The answer or the exception; the objects themselves."""
        state = RequestState()
        token = CURRENT.set(state)
        try:
            answer = self.fn(payload)
            return "answer", asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
        except (ValueError, gr.Rejected) as error:
            return "error", error
        finally:
            self.release.set()
            CURRENT.reset(token)
            self.headers = state.headers


def counted() -> dict[str, float]:
    return {reason: metrics.shadowed().labels("shadowed", reason)._value.get() for reason in SHADOWED}


SHADOWED = ("invalid", "outlier", "error", "timeout")


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Request], None]]:
    """Let a request's own clock say how long its call took."""
    current: list[Request] = []

    class Clock:
        time_ns = staticmethod(time.time_ns)

        @staticmethod
        def perf_counter() -> float:
            return current[-1].clock

    monkeypatch.setattr("guardrails.core.call.time", Clock)
    before, pause = sum(abandoned._running.values()), threading.Event()
    yield current.append
    assert any(sum(abandoned._running.values()) <= before or pause.wait(0.01) for _ in range(1000))


def agree(shadow: str | None, enforced: Any) -> bool:
    """Whether the shadow of a row says what enforcing has made of it."""
    if enforced.route != "primary":
        return shadow == f"{enforced.reason}:{enforced.route}"
    if enforced.reason in ("outlier", "invalid"):  # sent away, and then the model failed for the rows it had kept
        return shadow is not None and shadow.startswith(f"{enforced.reason}:fallback:")
    return shadow == (f"explored:{enforced.action}" if enforced.action != enforced.greedy else None)


def play_both(profile: Any, stopped: Any, script: Script, names: tuple[str, ...]) -> tuple[Request, Request]:
    requests = []
    for enforce in (False, True):
        interrupted = enforce and (names == ("guarded",) or "fall_back" in names)
        request = Request(script, guards(profile, script, names, enforce=enforce), waits=interrupted)
        stopped(request)
        with strict():
            request.play(script.payload)
        requests.append(request)
    return requests[0], requests[1]


STACKS = st.sets(st.sampled_from(GUARDS), min_size=1).map(lambda names: tuple(sorted(names))) | st.just(("guarded",))


@PROPERTY
@given(script=scripts, names=STACKS)
def test_nobody_sees_a_shadow(profile: gr.Profile, stopped: Any, script: Script, names: tuple[str, ...]) -> None:
    """The method gets the caller's own object, the caller the method's own; the headers say the primary answered."""
    payload = script.payload
    request = Request(script, guards(profile, script, names, enforce=False), waits=False)
    stopped(request)
    with strict():
        kind, thing = request.play(payload)
    assert request.seen[0] is payload
    assert len(request.seen) == 1
    assert thing is (request.error if script.does == "raises" else request.thing)
    assert payload == script.payload
    assert np.array_equal(request.thing, request.before)
    said = {name.rpartition("-")[2]: value for name, value in request.headers.items()}
    assert said["Route"] == "primary"
    assert said.get("Reason") == ("error" if kind == "error" else None)
    assert {(record.route, record.propensity, record.eligible) for record in request.records} == {
        ("primary", 1.0, False)
    }


@pytest.mark.parametrize("names", [*((name,) for name in GUARDS), GUARDS, ("guarded",)], ids="+".join)
@PROPERTY
@given(script=scripts)
def test_a_shadow_says_what_enforcing_does(
    profile: gr.Profile, stopped: Any, script: Script, names: tuple[str, ...]
) -> None:
    """Row by row: the reason and the route of the same request with the same guards enforced."""
    shadow, enforced = play_both(profile, stopped, script, names)
    pairs = list(zip(shadow.records, enforced.records, strict=True))
    said = [(one.shadow, other.route, other.reason, other.action) for one, other in pairs]
    assert all(agree(one.shadow, other) for one, other in pairs), said


@pytest.mark.parametrize("names", [*((name,) for name in GUARDS), GUARDS, ("guarded",)], ids="+".join)
@PROPERTY
@given(script=scripts)
def test_the_metric_counts_the_rows_of_the_records(
    profile: gr.Profile, stopped: Any, script: Script, names: tuple[str, ...]
) -> None:
    """By reason, as many rows as have it in their records: no row twice, none left out."""
    request = Request(script, guards(profile, script, names, enforce=False), waits=False)
    stopped(request)
    before = counted()
    request.play(script.payload)
    said = [record.shadow.partition(":")[0] for record in request.records if record.shadow is not None]
    assert {reason: after - before[reason] for reason, after in counted().items()} == {
        reason: said.count(reason) for reason in SHADOWED
    }


@pytest.mark.parametrize(
    ("rows", "does", "said"),
    [
        (("ordinary",), "answers", None),
        (("outlier", "ordinary"), "answers", ("outlier:fallback:odd",)),
        (("ordinary",), "raises", ("error:fallback:spare",)),
        (("ordinary",), "is slow", ("timeout:fallback:spare",)),
        (("outlier", "ordinary"), "raises", ("outlier:fallback:odd", "error:fallback:spare")),
    ],
)
def test_spans_tell(profile: gr.Profile, span_host: Any, stopped: Any, rows: Any, does: str, said: Any) -> None:
    """Once each, whatever the number of rows; an ordinary call's span says nothing."""
    script = Script(rows, does, asynchronous=False, on_outlier="odd")
    stack = guards(profile, script, ("check_outliers", "fall_back"), enforce=False)
    request = Request(script, [*stack, gr.traced()], waits=False)
    stopped(request)
    request.play(script.payload)
    (span,) = span_host.spans
    assert span.attributes.get("guardrails.shadow") == said
    assert span.attributes["guardrails.route"] == "primary"


@pytest.mark.parametrize("enforce", [False, True])
def test_a_broken_detector_in_the_shadow(enforce: bool) -> None:
    """on_guard_error='fallback' is something enforcing would have done."""

    class Detector:
        broken = False

        def score(self, rows: np.ndarray) -> np.ndarray:
            if self.broken:
                raise OSError("no GPU")
            return np.abs(rows).sum(axis=1)

    detector, records = Detector(), []
    fitted = outliers.fit(np.random.default_rng(0).normal(size=(100, 2)), detector=detector, alpha=0.05)
    guard = gr.check_outliers(fitted, fallback=standing_in("odd"), on_guard_error="fallback", enforce=enforce)
    fn = attach(Record(records.append), guard(lambda rows: "model"))
    detector.broken = True
    answer = fn([ROWS["ordinary"]])
    if enforce:
        assert (records[0].route, records[0].reason) == ("fallback:odd", "error")
    else:
        assert (answer, records[0].route, records[0].shadow) == ("model", "primary", "error:fallback:odd")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_streams(profile: gr.Profile, asynchronous: bool, fails: bool) -> None:
    """Item by item the method's own, its exception too; the request as a whole has a shadow, as it has one route."""
    things, error, records = [object(), object()], ValueError("in the middle"), []

    def stream(rows: Any) -> Any:
        yield from things
        if fails:
            raise error

    async def astream(rows: Any) -> Any:
        for thing in stream(rows):
            yield thing

    async def collect(items: Any) -> None:
        async for item in items:
            got.append(item)  # noqa: PERF401  # those before the error count too

    guard = gr.check_outliers(profile, fallback=lambda rows: "odd", enforce=False)
    fn = attach(Record(records.append), guard(astream if asynchronous else stream))
    got: list[Any] = []
    with pytest.raises(ValueError, match="middle") if fails else contextlib.nullcontext() as caught:
        payload = [ROWS["ordinary"], ROWS["outlier"]]
        if asynchronous:
            asyncio.run(collect(fn(payload)))
        else:
            for item in fn(payload):
                got.append(item)  # noqa: PERF402
    assert [id(thing) for thing in got] == [id(thing) for thing in things]
    if fails:
        assert caught.value is error
    assert [record.shadow for record in records] == ["outlier:fallback:<lambda>"] * 2
