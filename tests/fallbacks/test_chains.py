"""Reasons and places: the first reason stays, the route names who answered, the span lists who was asked in vain."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from bentoml.exceptions import InvalidArgument

import guardrails as gr
from guardrails.core.deadline import abandoned
from guardrails.core.pipeline import attach
from guardrails.core.request import CURRENT, RequestState
from guardrails.decisions.guard import Record
from guardrails.testing import strict

LONG, SHORT = 30.0, 0.01
ORDINARY, OUTLIER, STRANGER, INVALID = [0.1, 0.2], [6.0, -6.0], [-6.0, 6.0], [1e9, 0.0]
FAILURES = ("error", "timeout", "breaker_open")
REASONS = ("outlier", "invalid", *FAILURES)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hangs hangs until this is set, at the latest at the end of the test."""
    made, pause, before = threading.Event(), threading.Event(), sum(abandoned._running.values())
    yield made
    made.set()
    assert any(sum(abandoned._running.values()) <= before or pause.wait(0.01) for _ in range(1000))


def failing(how: str, name: str, release: threading.Event, *, asynchronous: bool) -> Any:
    """A method or fallback that fails in one of the three ways, under a name."""

    def function(rows: Any) -> Any:
        if how == "timeout":
            release.wait(LONG)
        if how == "breaker_open":
            raise gr.BreakerOpen("of somebody behind it")
        raise ValueError(how)

    async def coroutine(rows: Any) -> Any:
        if how == "timeout":
            await asyncio.Event().wait()
        return function(rows)

    fn: Any = coroutine if asynchronous else function
    fn.__name__ = fn.__qualname__ = name
    return fn


def answering(rows: Any) -> list[str]:
    return ["spare"] * len(rows)


class Asked:
    """A guarded method with the records, headers and spans of its calls."""

    def __init__(self, method: Callable[..., Any], *guards: Any) -> None:
        self.records: list[Any] = []
        fn: Any = method
        for guard in (gr.traced(), *guards, Record(self.records.append)):
            fn = guard(fn) if callable(guard) else attach(guard, fn)
        self.fn = fn
        self.headers: dict[str, str] = {}

    def __call__(self, rows: Any) -> Any:
        state = RequestState()
        token = CURRENT.set(state)
        try:
            answer = self.fn(rows)
            return asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
        finally:
            CURRENT.reset(token)
            self.headers = state.headers

    def said(self) -> list[tuple[str, str | None]]:
        return [(record.route, record.reason) for record in self.records]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("second", FAILURES)
@pytest.mark.parametrize("first", REASONS)
def test_the_first_reason_stays(
    profile: gr.Profile, span_host: Any, release: threading.Event, first: str, second: str, asynchronous: bool
) -> None:
    """Whatever happens to the first stand-in: why the primary did not answer is the reason, everywhere it is told."""
    how = first if first in FAILURES else "error"
    method = failing(how, "predict", release, asynchronous=asynchronous)
    broken = failing(second, "broken", release, asynchronous=asynchronous)
    broken = gr.within(broken, timeout=SHORT if second == "timeout" else LONG)
    to = [broken, gr.within(answering, timeout=LONG)]
    own = {"outlier": gr.check_outliers(profile, fallback=to), "invalid": gr.validate(profile, on_invalid=to)}
    guards = [own[first]] if first in own else []
    asked = Asked(method, *guards, gr.fall_back(to=to, timeout=SHORT if first == "timeout" else LONG))
    assert asked([{"outlier": OUTLIER, "invalid": INVALID}.get(first, ORDINARY)]) == ["spare"]
    assert asked.said() == [("fallback:answering", first)]
    assert (asked.headers["Guardrails-Route"], asked.headers["Guardrails-Reason"]) == ("fallback:answering", first)
    (span,) = span_host.spans
    assert (span.attributes["guardrails.route"], span.attributes["guardrails.reason"]) == ("fallback:answering", first)
    in_vain = [] if first in own else [f"primary:{first}"]
    assert span.attributes["guardrails.attempts"] == (*in_vain, f"fallback:broken:{second}")


def test_nobody_in_vain_is_not_told(profile: gr.Profile, span_host: Any) -> None:
    """A call whose first choice answered, primary or fallback, has no list of attempts."""
    asked = Asked(lambda rows: ["model"] * len(rows), gr.check_outliers(profile, fallback=answering))
    asked([ORDINARY]), asked([OUTLIER])
    assert all("guardrails.attempts" not in span.attributes for span in span_host.spans)
    assert asked.said() == [("primary", None), ("fallback:answering", "outlier")]


@pytest.mark.parametrize("end", ["raises", "rejects"])
def test_when_nobody_answers(profile: gr.Profile, span_host: Any, end: str, release: threading.Event) -> None:
    """The last error, or a refusal, is the client's; the reason is still the first; everybody asked is named."""
    one, two = (failing("error", name, release, asynchronous=False) for name in ("one", "two"))
    to = [one, two] if end == "raises" else [one, two, gr.reject()]
    asked = Asked(lambda rows: ["model"], gr.check_outliers(profile, fallback=to))
    with pytest.raises(ValueError if end == "raises" else gr.Rejected) as caught:
        asked([OUTLIER])
    if end == "rejects":
        assert caught.value.reason == "outlier"
    assert asked.said() == [("fallback:two" if end == "raises" else "rejected", "outlier")]
    assert span_host.spans[0].attributes["guardrails.attempts"] == ("fallback:one:error", "fallback:two:error")


# Mixed requests


def test_one_part_of_a_mixed_request_whose_fallback_fails(profile: gr.Profile, span_host: Any) -> None:
    """It goes on down its own chain; the other parts keep their answers, their routes and their reasons."""

    def odd(rows: Any) -> Any:
        raise ValueError("odd")

    asked = Asked(
        lambda rows: ["model"] * len(rows),
        gr.validate(profile, on_invalid=lambda rows: ["invalid"] * len(rows)),
        gr.check_outliers(profile, fallback=[odd, answering]),
    )
    with strict():
        assert asked([OUTLIER, ORDINARY, INVALID, STRANGER]) == ["spare", "model", "invalid", "spare"]
    spares, primary = ("fallback:answering", "outlier"), ("primary", None)
    assert asked.said() == [spares, primary, ("fallback:<lambda>", "invalid"), spares]
    assert asked.headers["Guardrails-Route"] == "mixed"
    assert span_host.spans[0].attributes["guardrails.attempts"] == ("fallback:odd:error",)


@pytest.mark.parametrize("rows", list(itertools.permutations([ORDINARY, OUTLIER, INVALID])))
def test_a_part_nobody_answers_is_the_whole_requests_error(profile: gr.Profile, rows: Any) -> None:
    """Whichever row comes first: one request has one status, and the records of all of its rows say that it failed."""
    error = ValueError("odd")

    def odd(rows: Any) -> Any:
        raise error

    asked = Asked(
        lambda rows: ["model"] * len(rows),
        gr.validate(profile, on_invalid=lambda rows: ["invalid"] * len(rows)),
        gr.check_outliers(profile, fallback=odd),
    )
    with pytest.raises(ValueError, match="odd") as caught:
        asked(list(rows))
    assert caught.value is error
    assert [record.error_type for record in asked.records] == ["ValueError"] * 3
    reasons = {tuple(row): record.reason for row, record in zip(rows, asked.records, strict=True)}
    assert (reasons[tuple(OUTLIER)], reasons[tuple(INVALID)]) == ("outlier", "invalid")


def test_primary_and_stand_in_fail_in_one_request(profile: gr.Profile, span_host: Any) -> None:
    """Each part has its own first reason; both end with who rescues any request."""

    def sick(rows: Any) -> Any:
        raise ValueError("sick")

    def odd(rows: Any) -> Any:
        raise LookupError("odd")

    asked = Asked(sick, gr.check_outliers(profile, fallback=odd), gr.fall_back(to=answering))
    assert asked([ORDINARY, OUTLIER]) == ["spare", "spare"]
    assert asked.said() == [("fallback:answering", "error"), ("fallback:answering", "outlier")]
    assert asked.headers["Guardrails-Route"] == "fallback:answering"
    assert span_host.spans[0].attributes["guardrails.attempts"] == ("primary:error", "fallback:odd:error")


def test_a_clients_own_error_of_a_fallback_hands_over(profile: gr.Profile) -> None:
    """A stand-in that finds the request bad is one that does not answer."""

    def picky(rows: Any) -> Any:
        raise InvalidArgument("not for me")

    asked = Asked(lambda rows: ["model"] * len(rows), gr.check_outliers(profile, fallback=[picky, answering]))
    assert asked([ORDINARY, OUTLIER]) == ["model", "spare"]


def test_a_fallback_gets_what_the_client_sent(profile: gr.Profile) -> None:
    """Its part of the rows, as an array of its own kind, whatever happened before it."""
    seen: list[Any] = []

    def odd(rows: np.ndarray) -> list[str]:
        seen.append(rows.tolist())
        return ["odd"] * len(rows)

    def scaling(rows: np.ndarray) -> list[str]:
        rows *= 100.0
        return ["model"] * len(rows)

    asked = Asked(scaling, gr.check_outliers(profile, fallback=odd))
    assert asked(np.array([ORDINARY, OUTLIER])) == ["model", "odd"]
    assert seen == [[OUTLIER]]
