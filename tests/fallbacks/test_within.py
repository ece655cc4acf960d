"""A fallback's own deadline and breaker, and what they are told apart by."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import guardrails as gr
from guardrails import outliers
from guardrails.core.deadline import abandoned
from guardrails.core.pipeline import attach
from guardrails.decisions.guard import Record

LONG, SHORT = 30.0, 0.01
ORDINARY, OUTLIER = [0.1, 0.2], [6.0, -6.0]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hangs hangs until this is set, at the latest at the end of the test."""
    made, pause, before = threading.Event(), threading.Event(), sum(abandoned._running.values())
    yield made
    made.set()
    assert any(sum(abandoned._running.values()) <= before or pause.wait(0.01) for _ in range(1000))


def breaker(**options: Any) -> gr.Breaker:
    return gr.Breaker(**{"minimum_calls": 2, "window": 4, "open_for": 600.0} | options)


def sick(rows: Any) -> Any:
    raise ValueError("sick")


async def asick(rows: Any) -> Any:
    raise ValueError("sick")


def spare(rows: Any) -> str:
    return "spare"


def recorded(guard: Any, fn: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
    kept: list[Any] = []
    return attach(Record(kept.append), guard(fn)), kept


# What it takes


@pytest.mark.parametrize("options", [{}, {"timeout": 0.0}, {"timeout": -1.0}, {"timeout": float("nan")}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    """Without a timeout and a breaker it is nothing; a timeout is positive."""
    with pytest.raises(gr.DecorationError, match="within"):
        gr.within(spare, **options)


@pytest.mark.parametrize("inner", [gr.reject(), gr.constant("spare"), gr.last_good()])
def test_who_answers_at_once_needs_neither(inner: Any) -> None:
    """Refused when bound, with the fix."""
    fn = gr.fall_back(to=gr.within(inner, timeout=1.0))(sick)
    with pytest.raises(gr.DecorationError, match="answers at once and needs neither"):
        gr.pipeline_of(fn).bind(None)


def test_a_stream_has_no_timeout_but_may_have_a_breaker() -> None:
    """The first is refused; the second works."""

    def stream(rows: Any) -> Any:
        raise ValueError("sick")
        yield

    def spares(rows: Any) -> Any:
        yield "spare"

    with pytest.raises(gr.DecorationError, match="streams, and within"):
        gr.pipeline_of(gr.fall_back(to=gr.within(spares, timeout=1.0))(stream)).bind(None)
    assert list(gr.fall_back(to=gr.within(spares, breaker=breaker()))(stream)([ORDINARY])) == ["spare"]


def test_what_is_within_is_checked_too() -> None:
    """A name the service does not have, a shape, a type: as without."""

    class Service:
        @gr.fall_back(to=gr.within("nobody", timeout=1.0))
        def predict(self, rows: Any) -> str:
            return "model"

    with pytest.raises(gr.DecorationError, match="'nobody'"):
        Service().predict([ORDINARY])
    with pytest.raises(gr.DecorationError, match="coroutine function"):
        gr.fall_back(to=gr.within(asick, timeout=1.0))(spare)([ORDINARY])


def test_one_around_another_keeps_both() -> None:
    """A timeout around a breaker, or the other way round, is both."""
    asked: list[Any] = []

    def slow(rows: Any) -> str:
        asked.append(rows)
        raise ValueError("sick too")

    for twice in (
        gr.within(gr.within(slow, breaker=breaker()), timeout=LONG),
        gr.within(gr.within(slow, timeout=LONG), breaker=breaker()),
    ):
        asked.clear()
        fn = gr.fall_back(to=[twice, gr.constant("constant")])(sick)
        assert [fn([ORDINARY]) for _ in range(4)] == ["constant"] * 4
        assert len(asked) == 2


# Its deadline


@pytest.mark.parametrize("methods_own", [None, LONG])
def test_a_shorter_timeout_than_the_methods(release: threading.Event, methods_own: float | None) -> None:
    """The fallback is given up at its own; the method's holds for everybody else."""

    def slow(rows: Any) -> str:
        release.wait(LONG)
        return "late"

    guard = gr.fall_back(to=[gr.within(slow, timeout=SHORT), spare], timeout=methods_own)
    fn, records = recorded(guard, sick)
    assert fn([ORDINARY]) == "spare"
    assert (records[0].route, records[0].reason) == ("fallback:spare", "error")


def test_a_longer_timeout_than_the_methods(release: threading.Event) -> None:
    """Its own counts also where it is the longer one."""

    def hangs(rows: Any) -> str:
        release.wait(LONG)
        return "late"

    def slow(rows: Any) -> str:
        release.wait(5 * SHORT)
        return "slow"

    fn, records = recorded(gr.fall_back(to=gr.within(slow, timeout=LONG), timeout=SHORT), hangs)
    assert fn([ORDINARY]) == "slow"
    assert (records[0].route, records[0].reason) == ("fallback:slow", "timeout")


def test_a_coroutine_within_its_own_deadline_is_cancelled() -> None:
    """Cancelled at its await before the next one is asked."""
    log: list[str] = []

    async def slow(rows: Any) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
        return "late"

    fn = gr.fall_back(to=[gr.within(slow, timeout=SHORT), lambda rows: log.append("asked") or "spare"])(asick)
    assert asyncio.run(fn([ORDINARY])) == "spare"
    assert log == ["cancelled", "asked"]


def test_outliers_have_their_fallbacks_deadline_without_fall_back(
    release: threading.Event, profile: gr.Profile
) -> None:
    """`within` works for every guard that names a fallback."""

    def slow(rows: Any) -> list[str]:
        release.wait(LONG)
        return ["late"]

    guard = gr.check_outliers(profile, fallback=[gr.within(slow, timeout=SHORT), lambda rows: ["spare"] * len(rows)])
    fn, records = recorded(guard, lambda rows: ["model"] * len(rows))
    assert fn([ORDINARY, OUTLIER]) == ["model", "spare"]
    assert [(r.route, r.reason) for r in records] == [("primary", None), ("fallback:<lambda>", "outlier")]


# Its breaker


def test_a_breaker_of_its_own(release: threading.Event) -> None:
    """A stand-in that hangs is asked twice; then nobody waits for it any more."""
    asked: list[Any] = []

    def slow(rows: Any) -> str:
        asked.append(rows)
        release.wait(LONG)
        return "late"

    fn, records = recorded(
        gr.fall_back(to=[gr.within(slow, timeout=SHORT, breaker=breaker()), spare]),
        sick,
    )
    assert [fn([ORDINARY]) for _ in range(5)] == ["spare"] * 5
    assert len(asked) == 2
    said = gr.pipeline_of(fn).bind(None).status()
    assert said["breakers"] == {"fallback:slow": {"state": "open", "recent_calls": 0, "recent_failures": 0}}
    assert {record.reason for record in records} == {"error"}


def test_one_fallback_named_twice_has_one_breaker(profile: gr.Profile) -> None:
    """One target in one worker is one circuit: what outliers have found out, failed requests need not find out again."""
    asked: list[Any] = []
    weak = gr.within(lambda rows: asked.append(rows) or 1 / 0, breaker=breaker())
    fn = gr.compose(gr.check_outliers(profile, fallback=[weak, spare]), gr.fall_back(to=[weak, spare]))(sick)
    assert [fn([OUTLIER]) for _ in range(3)] == ["spare"] * 3
    assert len(asked) == 2
    assert fn([ORDINARY]) == "spare"
    assert len(asked) == 2
    assert gr.pipeline_of(fn).bind(None).status()["breakers"]["fallback:<lambda>"]["state"] == "open"


def test_a_broken_detectors_fallback_keeps_its_breaker() -> None:
    """on_guard_error='fallback' asks the same fallback as outliers do, breaker included."""

    class Detector:
        broken = False

        def score(self, rows: np.ndarray) -> np.ndarray:
            if self.broken:
                raise OSError("no GPU")
            return np.abs(rows).sum(axis=1)

    detector, asked = Detector(), []
    fitted = outliers.fit(np.random.default_rng(0).normal(size=(100, 2)), detector=detector, alpha=0.05)
    weak = gr.within(lambda rows: asked.append(rows) or 1 / 0, breaker=breaker())
    fn = gr.check_outliers(fitted, fallback=[weak, spare], on_guard_error="fallback")(lambda rows: "model")
    assert fn([ORDINARY]) == "model"
    detector.broken = True
    assert [fn([ORDINARY]) for _ in range(5)] == ["spare"] * 5
    assert len(asked) == 2


def test_two_fallbacks_of_one_name_are_two(profile: gr.Profile) -> None:
    """Two lambdas are called alike; what rescues outliers whose own fallback failed is not taken for the one that did."""
    fn = gr.check_outliers(profile, fallback=lambda rows: 1 / 0)(lambda rows: ["model"])
    fn = gr.fall_back(to=lambda rows: ["spare"])(fn)
    assert fn([OUTLIER]) == ["spare"]
