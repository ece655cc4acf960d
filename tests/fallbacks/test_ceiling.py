"""The share of recent rows the method did not answer, and the alarm above its ceiling."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import bentoml
import numpy as np
import pytest
from bentoml.exceptions import InvalidArgument, ServiceUnavailable
from prometheus_client import REGISTRY

import guardrails as gr
from guardrails.core.pipeline import attach
from guardrails.decisions.guard import Record
from guardrails.fallbacks.ceiling import FEWEST, WINDOW, FallbackShare

ORDINARY, OUTLIER = [0.1, 0.2], [6.0, -6.0]
_names = (f"ceiling_{number}" for number in itertools.count())


class Watched:
    """A method that is watched, under a name of its own, since gauges are the process's."""

    def __init__(self, ceiling: float | None, *guards: Any) -> None:
        def predict(rows: Any) -> Any:
            if isinstance(rows, BaseException):
                raise rows
            return ["model"] * len(rows)

        predict.__name__ = self.api = next(_names)
        fn: Any = predict
        for guard in (*guards, FallbackShare(ceiling)):
            fn = guard(fn) if callable(guard) else attach(guard, fn)
        self.fn = fn

    def ask(self, rows: Any, times: int = 1) -> None:
        for _ in range(times):
            try:
                self.fn(rows)
            except Exception:
                continue

    @property
    def share(self) -> float | None:
        return REGISTRY.get_sample_value("guardrails_fallback_share", {"api": self.api})

    @property
    def alarm(self) -> float | None:
        return REGISTRY.get_sample_value("guardrails_fallback_alarm", {"api": self.api})

    def status(self) -> dict[str, Any]:
        said: dict[str, Any] = gr.pipeline_of(self.fn).bind(None).status()["fallback_share"]
        return said


def spare(rows: Any) -> Any:
    return ["spare"] * len(rows)


@pytest.mark.parametrize("ceiling", [0.0, 1.0, -0.1, float("nan")])
def test_a_ceiling_is_a_share(ceiling: float) -> None:
    """Refused where it is written."""
    with pytest.raises(gr.DecorationError, match="fallback_ceiling"):
        gr.install(fallback_ceiling=ceiling)


def test_it_is_there_before_anything_happened() -> None:
    """Zero, not missing: an alarming rule on a metric that does not exist never fires."""
    watched = Watched(0.5)
    gr.pipeline_of(watched.fn).bind(None)
    assert (watched.share, watched.alarm) == (0.0, 0.0)
    assert watched.status() == {"share": 0.0, "rows": 0, "ceiling": 0.5, "alarm": False}


def test_the_alarm_goes_on_and_off(profile: gr.Profile) -> None:
    """On when the share of the window is above the ceiling, once there are rows enough; off when it is not any more."""
    watched = Watched(0.2, gr.check_outliers(profile, fallback=spare))
    watched.ask([OUTLIER], FEWEST - 1)
    assert (watched.share, watched.alarm) == (1.0, 0.0)
    watched.ask([OUTLIER])
    assert (watched.share, watched.alarm) == (1.0, 1.0)
    watched.ask([ORDINARY], 4 * FEWEST - 1)
    assert watched.alarm == 1.0
    watched.ask([ORDINARY])
    assert (watched.share, watched.alarm) == (0.2, 0.0)  # above it, not at it
    assert watched.status() == {"share": 0.2, "rows": 5 * FEWEST, "ceiling": 0.2, "alarm": False}


def test_only_the_last_rows_count(profile: gr.Profile) -> None:
    """What is further back than the window is forgotten, and the share becomes zero again."""
    watched = Watched(0.5, gr.check_outliers(profile, fallback=spare))
    watched.ask([OUTLIER], 100)
    watched.ask([ORDINARY], WINDOW - 100)
    assert watched.share == pytest.approx(100 / WINDOW)
    watched.ask([ORDINARY], 50)
    assert watched.share == pytest.approx(50 / WINDOW)
    watched.ask([ORDINARY], 50)
    assert (watched.share, watched.status()["rows"]) == (0.0, WINDOW)


def test_a_ceiling_of_none_measures(profile: gr.Profile) -> None:
    """The share is told, the alarm never."""
    watched = Watched(None, gr.check_outliers(profile, fallback=spare))
    watched.ask([OUTLIER], FEWEST)
    assert (watched.share, watched.alarm) == (1.0, 0.0)


def test_rows_of_a_mixed_request_count_by_themselves(profile: gr.Profile) -> None:
    """Of three rows one went elsewhere: one of three."""
    watched = Watched(0.3, gr.check_outliers(profile, fallback=spare))
    watched.ask([ORDINARY, OUTLIER, ORDINARY], FEWEST)
    assert (watched.share, watched.status()["rows"]) == (pytest.approx(1 / 3), 3 * FEWEST)
    assert watched.alarm == 1.0


@pytest.mark.parametrize("rows", [np.zeros((9, 2)), [ORDINARY] * 9], ids=["array", "list"])
@pytest.mark.parametrize("recorded", [False, True])
def test_rows_are_counted_whoever_reads_them(rows: Any, recorded: bool) -> None:
    """Also where no guard has a profile to read them by, with records and without."""
    sick = [False]

    def answer(rows: Any) -> Any:
        if sick[0]:
            raise ValueError("sick")
        return ["model"] * len(rows)

    fn: Any = attach(FallbackShare(None), gr.fall_back(to=spare)(answer))
    if recorded:
        fn = attach(Record(lambda _: None), fn)
    fn(rows)
    sick[0] = True
    fn(rows[:1])
    said = gr.pipeline_of(fn).bind(None).status()["fallback_share"]
    assert (said["rows"], said["share"]) == (10, 0.1)


def test_who_counts_as_elsewhere() -> None:
    """Errors nobody rescued, rescued ones, refusals, open breakers: the method did not answer."""
    watched = Watched(None, gr.fall_back(to=spare, on=(LookupError,)))
    for error in (ValueError("model"), ServiceUnavailable("model"), gr.BreakerOpen("behind it")):
        watched.ask(error)
    watched.ask([ORDINARY])
    assert (watched.share, watched.status()["rows"]) == (0.75, 4)


def test_refusals_count(profile: gr.Profile) -> None:
    """A guard's own 422 is a row the method did not answer."""
    watched = Watched(None, gr.check_outliers(profile))
    watched.ask([OUTLIER])
    watched.ask([ORDINARY])
    assert (watched.share, watched.status()["rows"]) == (0.5, 2)


def test_errors_of_clients_do_not_count() -> None:
    """BentoML's 4xx of the method, also a guarded method's refusal behind it, says nothing of who should have answered."""
    watched = Watched(None)
    watched.ask(InvalidArgument("bad"), 5)
    watched.ask(gr.Rejected("of another method", reason="outlier", decision_id="x"), 5)
    assert (watched.share, watched.status()["rows"]) == (0.0, 0)


def test_cancelled_calls_do_not_count() -> None:
    """Nor do streams that their clients leave."""

    async def predict(rows: Any) -> str:
        await asyncio.Event().wait()
        return "late"

    def stream(rows: Any) -> Any:
        yield 1
        yield 2

    fn, items = attach(FallbackShare(None), predict), attach(FallbackShare(None), stream)

    async def cancelled() -> None:
        task = asyncio.ensure_future(fn([ORDINARY]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    left = items([ORDINARY])
    next(left)
    left.close()
    for one in (fn, items):
        assert gr.pipeline_of(one).bind(None).status()["fallback_share"]["rows"] == 0


def test_install_watches_every_guarded_method() -> None:
    """Each with a window of its own, also without any fallback."""

    @gr.install(fallback_ceiling=0.4)
    @bentoml.service
    class Service:
        @bentoml.api
        @gr.traced()
        def one(self, rows: list[list[float]]) -> list[str]:
            return ["one"]

        @bentoml.api
        @gr.fall_back(to=gr.constant(["spare"]))
        def two(self, rows: list[list[float]]) -> list[str]:
            raise ValueError("sick")

    service: Any = Service.inner()
    assert (service.one([ORDINARY]), service.two([ORDINARY])) == (["one"], ["spare"])
    said = [gr.pipeline_of(getattr(Service.inner, name)).bind(service).status() for name in ("one", "two")]
    assert [one["fallback_share"]["share"] for one in said] == [0.0, 1.0]
    assert [one["fallback_share"]["ceiling"] for one in said] == [0.4, 0.4]
