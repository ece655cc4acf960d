"""Timeouts of coroutines: cancelled, cleaned up, counted when they will not be; and what stands in for them."""

from __future__ import annotations

import asyncio
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


async def sick(rows: Any) -> str:
    raise ValueError("sick")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hangs hangs until this is set, at the latest at the end of the test."""
    made, pause, before = threading.Event(), threading.Event(), sum(abandoned._running.values())
    yield made
    made.set()
    assert any(sum(abandoned._running.values()) <= before or pause.wait(0.01) for _ in range(1000))


async def swallowing(release: asyncio.Event) -> str:
    """Work that does not let itself be cancelled."""
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue
    return "late"


def test_coroutines_that_will_not_be_cancelled_are_counted_and_bounded() -> None:
    """They are left behind and counted while they run; past the bound the method is not even started."""
    started = 0

    async def main() -> None:
        nonlocal started
        release = asyncio.Event()

        @gr.fall_back(to=gr.constant("spare"), timeout=0.001)
        async def swallows(rows: Any) -> str:
            nonlocal started
            started += 1
            return await swallowing(release)

        answers = await asyncio.gather(*(swallows(ROWS) for _ in range(MAX_CALLS)))
        assert set(answers) == {"spare"}
        assert (started, abandoned.running("swallows")) == (MAX_CALLS, MAX_CALLS)
        assert metric("guardrails_overrunning", "swallows") == MAX_CALLS
        assert await swallows(ROWS) == "spare"
        assert started == MAX_CALLS
        release.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert (abandoned.running("swallows"), metric("guardrails_overrunning", "swallows")) == (0, 0)
        assert await swallows(ROWS) == "late"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["coroutine", "function"])
def test_a_fallback_answers_while_as_many_coroutines_are_left_behind_as_may_be(kind: str) -> None:
    """What primaries have left behind is why there is a fallback: it is asked all the same."""

    async def aspare(rows: Any) -> str:
        return "spare"

    async def main() -> None:
        release = asyncio.Event()
        to = aspare if kind == "coroutine" else spare

        @gr.fall_back(to=gr.within(to, timeout=LONG), timeout=0.001)
        async def swallows_with_fallback(rows: Any) -> str:
            return await swallowing(release)

        try:
            await asyncio.gather(*(swallows_with_fallback(ROWS) for _ in range(MAX_CALLS)))
            assert await swallows_with_fallback(ROWS) == "spare"
        finally:
            release.set()

    asyncio.run(main())


def test_a_request_that_is_cancelled_cancels_its_method_and_waits_for_it() -> None:
    """As without a timeout: the method's own cleanup is done before the caller's await ends."""
    log: list[str] = []
    started = asyncio.Event()

    @gr.fall_back(to=spare, timeout=LONG)
    async def predict(rows: Any) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")
        return "late"

    async def main() -> None:
        task = asyncio.ensure_future(predict(ROWS))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cleaned up"]

    asyncio.run(main())


def test_a_function_behind_a_coroutine_is_held_to_its_timeout_too(release: threading.Event) -> None:
    """A plain function that stands in for a coroutine must not hold up the whole event loop past its timeout."""

    def slow(rows: Any) -> str:
        release.wait(LONG)
        return "late"

    threading.Timer(1.0, release.set).start()  # a loop that is blocked all the same is let go
    fn, records = recorded(gr.fall_back(to=[slow, gr.constant("spare")], timeout=SHORT), sick)
    assert asyncio.run(fn(ROWS)) == "spare"
    assert records[0].route == "fallback:constant"


def test_a_function_answers_however_many_coroutines_fail_at_once() -> None:
    """An outage is many requests at once: a function that answers quickly answers all of them."""
    fn = gr.fall_back(to=spare, timeout=LONG)(sick)

    async def main() -> list[Any]:
        return await asyncio.gather(*(fn(ROWS) for _ in range(8 * MAX_CALLS)), return_exceptions=True)

    answers = asyncio.run(main())
    assert [answer for answer in answers if answer != "spare"] == []


def test_a_function_that_returns_an_awaitable_stands_in_for_a_coroutine() -> None:
    """``lambda rows: other(rows)`` of a coroutine function is what one writes: the client gets the answer, awaited."""

    async def other(rows: Any) -> str:
        return "spare"

    for timeout in (None, LONG):
        answer = asyncio.run(gr.fall_back(to=lambda rows: other([*rows]), timeout=timeout)(sick)(ROWS))
        if asyncio.iscoroutine(answer):
            answer.close()
        assert answer == "spare"


def test_an_awaitable_of_a_function_is_held_to_the_timeout() -> None:
    """Made by the function or awaited after it: the seconds are those of the answer."""

    async def hangs(rows: Any) -> str:
        await asyncio.Event().wait()
        return "late"

    fn = gr.fall_back(to=[lambda rows: hangs([*rows]), gr.constant("spare")], timeout=SHORT)(sick)
    assert asyncio.run(asyncio.wait_for(fn(ROWS), 5.0)) == "spare"


def test_nobody_waits_for_functions_that_are_left_behind(release: threading.Event) -> None:
    """With every thread of the fallbacks lost a function behind a coroutine fails at once, not after its minutes."""

    def hangs(rows: Any) -> str:
        release.wait(LONG)
        return "late"

    def failing(rows: Any) -> str:
        raise ValueError(rows)

    failing.__name__ = sick.__name__  # each API has threads of its own
    fill = gr.fall_back(to=[gr.within(hangs, timeout=0.001), gr.constant("filled")])(failing)
    assert {fill(ROWS) for _ in range(MAX_CALLS)} == {"filled"}
    fn = gr.fall_back(to=[spare, gr.constant("constant")], timeout=600.0)(sick)
    assert asyncio.run(asyncio.wait_for(fn(ROWS), 5.0)) == "constant"


def test_a_function_behind_a_cancelled_request_is_counted_while_it_runs(release: threading.Event) -> None:
    """Nobody waits for it any more: it is left behind like any other, and keeps its thread until it ends."""
    entered = threading.Event()

    def cancelled_behind(rows: Any) -> str:
        entered.set()
        release.wait(LONG)
        return "late"

    async def left_running(rows: Any) -> str:
        raise ValueError("sick")

    async def main() -> None:
        task = asyncio.ensure_future(gr.fall_back(to=cancelled_behind, timeout=LONG)(left_running)(ROWS))
        await asyncio.to_thread(entered.wait, LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert abandoned.running("left_running") == 1
        release.set()

    asyncio.run(main())
