"""Timeouts: what is cancelled, what is left behind and counted, and that what is left behind never spreads."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

import guardrails as gr
from guardrails.core.deadline import MAX_CALLS, abandoned
from guardrails.core.pipeline import attach
from guardrails.decisions.guard import Record

LONG, SHORT = 30.0, 0.01
ROWS = [[0.1, 0.2]]


def metric(name: str, api: str) -> float:
    return REGISTRY.get_sample_value(name, {"api": api}) or 0.0


def recorded(guard: Any, fn: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
    kept: list[Any] = []
    return attach(Record(kept.append), guard(fn)), kept


def spare(rows: Any) -> str:
    return "spare"


class Hanging:
    """A function that hangs until it is released."""

    def __init__(self) -> None:
        self.release, self.entered, self.left = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, *_: Any) -> str:
        self.entered.release()
        try:
            self.release.wait(LONG)
        finally:
            self.left.release()
        return "late"

    def wait_for(self, calls: int) -> None:
        assert all(self.left.acquire(timeout=LONG) for _ in range(calls))


def running() -> int:
    return sum(abandoned._running.values())


def settled(before: int = 0) -> bool:
    """Whether nothing runs on any more that did not before; waits a little for what is just ending."""
    pause = threading.Event()
    return any(running() <= before or pause.wait(0.01) for _ in range(1000))


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """Released at the end whatever happened, so that no test takes another one's threads."""
    before, made = running(), Hanging()
    yield made
    made.release.set()
    assert settled(before)


def in_a_thread(fn: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(fn()), daemon=True)
    thread.start()
    return thread, said


# Functions


def test_overruns_are_counted_while_they_run(hanging: Hanging) -> None:
    """The status and the gauge tell how many run on right now, the counter how many ever did."""

    @gr.fall_back(to=gr.constant("spare"), timeout=SHORT)
    def counted_overruns(rows: Any) -> str:
        return hanging()

    api = "counted_overruns"
    before = metric("guardrails_overruns_total", api)
    assert [counted_overruns(ROWS) for _ in range(3)] == ["spare"] * 3
    plan = gr.pipeline_of(counted_overruns).bind(None)
    assert plan.status() == {"running_past_timeout": 3, "ran_past_timeout": 3}
    assert metric("guardrails_overrunning", api) == 3
    hanging.release.set()
    assert settled()
    assert plan.status() == {"running_past_timeout": 0, "ran_past_timeout": 3}
    assert (metric("guardrails_overrunning", api), metric("guardrails_overruns_total", api)) == (0, before + 3)


def test_slots_are_not_lost_for_good() -> None:
    """More overruns one after another than there are slots, each of which ends: an ordinary call still gets one."""
    current = [Hanging()]

    @gr.fall_back(to=gr.constant("spare"), timeout=SHORT)
    def predict(rows: Any) -> str:
        return current[0]()

    for _ in range(MAX_CALLS + 5):
        assert predict(ROWS) == "spare"
        current[0].release.set()
        current[0].wait_for(1)
        current[0] = Hanging()
    assert settled()
    assert gr.fall_back(to=spare, timeout=LONG)(lambda rows: "model")(ROWS) == "model"


def test_exceptions_give_their_slots_back() -> None:
    """Whatever a call raises, also what is no Exception, its slot is free before its caller knows."""

    def predict(rows: Any) -> Any:
        raise rows

    fn = gr.fall_back(to=spare, on=(KeyError,), timeout=LONG)(predict)
    for error in [ValueError("v"), SystemExit(3), KeyboardInterrupt(), StopIteration(1)] * MAX_CALLS:
        with pytest.raises(type(error)) as caught:
            fn(error)
        assert caught.value is error
    assert gr.fall_back(to=spare, timeout=LONG)(lambda rows: "model")(ROWS) == "model"


def test_nobody_waits_for_calls_that_are_left_behind(hanging: Hanging) -> None:
    """With every slot lost the next call fails at once, long before its own timeout of minutes."""
    fill = gr.fall_back(to=gr.constant("spare"), timeout=0.001)(lambda rows: hanging())
    for _ in range(MAX_CALLS):
        assert fill(ROWS) == "spare"
    fn, records = recorded(gr.fall_back(to=spare, timeout=600.0), lambda rows: "model")
    thread, said = in_a_thread(lambda: fn(ROWS))
    thread.join(LONG)
    assert said == ["spare"]
    assert (records[0].route, records[0].reason) == ("fallback:spare", "timeout")
    hanging.release.set()
    hanging.wait_for(MAX_CALLS)
    assert settled()
    assert fn(ROWS) == "model"


def test_a_slot_of_a_call_in_time_is_waited_for(hanging: Hanging) -> None:
    """All slots but one lost and the last one busy: the next call has its own timeout to get it."""
    fill = gr.fall_back(to=gr.constant("spare"), timeout=0.001)(lambda rows: hanging())
    for _ in range(MAX_CALLS - 1):
        fill(ROWS)
    busy, pause = Hanging(), threading.Event()
    one, _ = in_a_thread(lambda: gr.fall_back(to=spare, timeout=LONG)(lambda rows: busy())(ROWS))
    assert busy.entered.acquire(timeout=LONG)
    other, said = in_a_thread(lambda: gr.fall_back(to=spare, timeout=LONG)(lambda rows: "model")(ROWS))
    pause.wait(0.05)
    busy.release.set()
    one.join(LONG)
    other.join(LONG)
    assert said == ["model"]


def test_fallbacks_have_threads_of_their_own(hanging: Hanging) -> None:
    """Where hanging primaries hold every slot, a fallback that needs one gets it."""
    fn = gr.fall_back(to=gr.within(spare, timeout=LONG), timeout=0.005)(lambda rows: hanging())
    assert {fn(ROWS) for _ in range(MAX_CALLS + 8)} == {"spare"}


def test_the_context_is_the_callers(hanging: Hanging) -> None:
    """Context variables are seen in the thread, of the primary and of a fallback; what it sets stays there."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[tuple[str, bool]] = []
    mine = threading.get_ident()

    def look(rows: Any) -> str:
        seen.append((variable.get(), threading.get_ident() == mine))
        variable.set("changed")
        raise ValueError("seen")

    variable.set("the request's")
    with pytest.raises(ValueError, match="seen"):
        gr.fall_back(to=look, timeout=LONG)(look)(ROWS)
    assert seen == [("the request's", False)] * 2
    assert variable.get() == "the request's"


def test_a_timeout_of_the_methods_own_is_no_overrun() -> None:
    """It is rescued as a timeout, and nothing is counted as running on."""

    def own_timeouts(rows: Any) -> str:
        raise TimeoutError("the database")

    fn, records = recorded(gr.fall_back(to=spare, on=(KeyError,), timeout=LONG), own_timeouts)
    assert fn(ROWS) == "spare"
    assert records[0].reason == "timeout"
    assert gr.pipeline_of(fn).bind(None).status() == {}


def test_who_answers_at_once_needs_no_thread(hanging: Hanging) -> None:
    """Constants and last good answers are the caller's own work: they answer where no thread is left for anybody."""
    idents: list[int] = []

    def key(rows: Any) -> str:
        idents.append(threading.get_ident())
        return "key"

    fn, records = recorded(gr.fall_back(to=gr.last_good(key), timeout=LONG), lambda rows: "model")
    assert fn(ROWS) == "model"
    fill = gr.fall_back(to=[lambda rows: hanging(), gr.constant("constant")], timeout=0.001)(lambda rows: hanging())
    assert {fill(ROWS) for _ in range(MAX_CALLS + 1)} == {"constant"}
    for _ in range(MAX_CALLS):  # those that found no thread in time were not left behind
        fill(ROWS)
    assert fn(ROWS) == "model"
    assert records[1].route == "fallback:last_good"
    assert set(idents) == {threading.get_ident()}


@pytest.mark.parametrize("seconds", [math.inf, 1e12])
def test_a_timeout_no_clock_can_hold(seconds: float) -> None:
    """Refused where it is written, or as good as none; not an error of the method's on every call."""
    try:
        fn = gr.fall_back(to=spare, timeout=seconds)(lambda rows: "model")
    except gr.DecorationError:
        return
    assert fn(ROWS) == "model"
