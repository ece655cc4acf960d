"""The breaker as a state machine: when it opens, whom it lets through, whose word it takes, and when it closes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from prometheus_client import REGISTRY

import guardrails as gr
from guardrails.core.breaker import Breaker, Circuit

OPEN_FOR = 10.0


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The breaker's own clock."""
    made = Clock()
    monkeypatch.setattr("guardrails.core.breaker.time", made)
    return made


def circuit(target: str = "primary", **options: Any) -> Circuit:
    given = {"minimum_calls": 2, "window": 4, "open_for": OPEN_FOR} | options
    return Circuit(Breaker(**given), "predict", target)


def opened(clock: Clock, **options: Any) -> Circuit:
    """A breaker that has just opened."""
    made = circuit(**options)
    for _ in range(4):
        ticket = made.admit()
        if ticket is not None:
            made.failed(ticket)
    assert made.state == "open"
    return made


def half_open(clock: Clock, **options: Any) -> Circuit:
    """A breaker that would let the next probe through."""
    made = opened(clock, **options)
    clock.now += OPEN_FOR
    return made


def metric(name: str, target: str) -> float:
    return REGISTRY.get_sample_value(name, {"api": "predict", "target": target}) or 0.0


# Options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failure_rate", 0.0),
        ("failure_rate", 1.01),
        ("failure_rate", float("nan")),
        ("window", 0),
        ("minimum_calls", 0),
        ("minimum_calls", 21),
        ("open_for", 0.0),
        ("open_for", -1.0),
        ("open_for", float("nan")),
        ("probes", 0),
    ],
)
def test_options_out_of_range(name: str, value: float) -> None:
    """Refused where it is written; the message names the option and the ranges."""
    with pytest.raises(gr.DecorationError, match=rf"Breaker\({name}=.*failure_rate is in \(0, 1\]"):
        Breaker(**{name: value})


@pytest.mark.parametrize(
    "options", [{"failure_rate": 1.0}, {"window": 1, "minimum_calls": 1}, {"minimum_calls": 20}, {"open_for": 1e-3}]
)
def test_options_at_their_limits(options: dict[str, Any]) -> None:
    """What is just in range works."""
    made = Circuit(Breaker(**options), "predict", "primary")
    for _ in range(20):
        if (ticket := made.admit()) is not None:
            made.failed(ticket)
    assert made.state == "open"


@pytest.mark.parametrize(
    ("window", "rate", "failures"),
    [(20, 0.55, 11), (20, 0.5, 10), (20, 1.0, 20), (25, 0.28, 7), (50, 0.14, 7), (100, 0.55, 55), (100, 0.07, 7)],
)
def test_the_share_itself_opens_it(window: int, rate: float, failures: int) -> None:
    """'A share of failure_rate or more': exactly the share is enough, one failure less is not."""
    for given, state in ((failures - 1, "closed"), (failures, "open")):
        made = Circuit(Breaker(failure_rate=rate, window=window, minimum_calls=window), "predict", "primary")
        for outcome in [made.succeeded] * (window - given) + [made.failed] * given:
            ticket = made.admit()
            assert ticket is not None
            outcome(ticket)
        assert made.state == state


# The machine: Nygard's three states, written down a second time


class Machine(RuleBasedStateMachine):
    """A breaker next to a model of one. What the model gives up (a probe that takes too long) is not heard of again."""

    clock: Clock

    @initialize(
        rate=st.sampled_from([0.25, 0.5, 1.0]),
        window=st.integers(1, 6),
        few=st.integers(1, 6),
        probes=st.integers(1, 3),
    )
    def start(self, rate: float, window: int, few: int, probes: int) -> None:
        self.options = Breaker(rate, window, min(few, window), OPEN_FOR, probes)
        self.circuit = Circuit(self.options, "predict", "machine")
        self.state, self.era, self.since, self.passed = "closed", 0, self.clock.now, 0
        self.recent: list[bool] = []
        self.out: list[tuple[int, float, int]] = []  # when it was admitted: era of the model, time; its ticket

    def become(self, state: str) -> None:
        self.state, self.since, self.passed, self.recent = state, self.clock.now, 0, []
        self.era += 1

    @rule()
    def admit(self) -> None:
        now = self.clock.now
        if self.state == "open" and now - self.since >= OPEN_FOR:
            self.become("half-open")
        probing = [known for known in self.out if known[0] == self.era and self.state == "half-open"]
        lost = [known for known in probing if now - known[1] >= OPEN_FOR]
        self.out = [known for known in self.out if known not in lost]
        room = len(probing) - len(lost) + self.passed < self.options.probes
        ticket = self.circuit.admit()
        assert (ticket is not None) == (self.state == "closed" or (self.state == "half-open" and room))
        if ticket is not None:
            self.out.append((self.era, now, ticket))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "released"]))
    def finish(self, data: st.DataObject, outcome: str) -> None:
        era, _, ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        getattr(self.circuit, outcome)(ticket)
        if era != self.era or outcome == "released":
            return  # it began before things changed, or says nothing
        if self.state == "half-open":
            self.passed += outcome == "succeeded"
            if outcome == "failed":
                self.become("open")
            elif self.passed == self.options.probes:
                self.become("closed")
            return
        self.recent = [*self.recent, outcome == "failed"][-self.options.window :]
        known = len(self.recent)
        share = sum(self.recent) / known
        if outcome == "failed" and known >= self.options.minimum_calls and share >= self.options.failure_rate:
            self.become("open")

    @rule(seconds=st.sampled_from([0.1, OPEN_FOR / 2, OPEN_FOR]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def agree(self) -> None:
        said = self.circuit.status()
        assert (self.circuit.state, said["state"]) == (self.state, self.state)
        if self.state == "closed":
            assert (said["recent_calls"], said["recent_failures"]) == (len(self.recent), sum(self.recent))


def test_it_is_the_machine_it_says_it_is(clock: Clock) -> None:
    """Any sequence of calls, outcomes and waiting: admission and state are the model's."""
    Machine.clock = clock
    slow_is_fine = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=slow_is_fine,
        ),
    )


# What the machine does not say


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_exactly_as_many_probes_as_asked_for(clock: Clock, probes: int) -> None:
    """Sixteen threads ask at once; `probes` of them go through, none of them twice over."""
    for _ in range(20):
        made, barrier = half_open(clock, probes=probes), threading.Barrier(16)

        def ask(_: int, made: Circuit = made, barrier: threading.Barrier = barrier) -> int | None:
            barrier.wait()
            return made.admit()

        with ThreadPoolExecutor(16) as pool:
            admitted = [ticket for ticket in pool.map(ask, range(16)) if ticket is not None]
        assert len(admitted) == probes
        assert made.state == "half-open"
        for ticket in admitted:
            made.succeeded(ticket)
        assert made.state == "closed"


def test_threads_that_fail_at_once_open_it_once(clock: Clock) -> None:
    """Sixteen failures of one era are one opening."""
    made, barrier = circuit(target="crowd", window=20, minimum_calls=8), threading.Barrier(16)
    before = metric("guardrails_breaker_opened_total", "crowd")

    def fail(_: int) -> None:
        ticket = made.admit()
        barrier.wait()
        assert ticket is not None
        made.failed(ticket)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fail, range(16)))
    assert made.state == "open"
    assert metric("guardrails_breaker_opened_total", "crowd") == before + 1


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "released"])
def test_results_from_before_it_opened_say_nothing(clock: Clock, outcome: str) -> None:
    """A call admitted while closed that ends while half-open neither closes it, nor opens it, nor frees a probe's slot."""
    made = circuit()
    late = made.admit()
    assert late is not None
    for _ in range(2):
        made.failed(made.admit() or 0)
    clock.now += OPEN_FOR
    probe = made.admit()
    getattr(made, outcome)(late)
    assert (made.state, made.admit()) == ("half-open", None)
    made.succeeded(probe or 0)
    assert made.state == "closed"


def test_a_released_probe_frees_its_slot(clock: Clock) -> None:
    """A probe that was cancelled says nothing; the next call is the probe, without waiting."""
    made = half_open(clock)
    for _ in range(5):
        ticket = made.admit()
        assert ticket is not None
        assert made.admit() is None
        made.released(ticket)
    assert made.state == "half-open"


def test_a_probe_that_never_returns_does_not_block_for_ever(clock: Clock) -> None:
    """After open_for seconds somebody else probes."""
    made = half_open(clock)
    assert made.admit() is not None
    clock.now += OPEN_FOR - 0.1
    assert made.admit() is None
    clock.now += 0.1
    second = made.admit()
    assert second is not None
    made.succeeded(second)
    assert made.state == "closed"


def test_a_probe_that_was_given_up_leaves_the_others_their_slots(clock: Clock) -> None:
    """When it ends after all, cancelled, the one that took its place is still under way: nobody else is let through."""
    made = half_open(clock)
    first = made.admit()
    clock.now += OPEN_FOR
    second = made.admit()
    assert (first is not None, second is not None) == (True, True)
    made.released(first or 0)
    assert made.admit() is None
    made.succeeded(second or 0)
    assert made.state == "closed"


def test_calls_slower_than_open_for_close_it_all_the_same(clock: Clock) -> None:
    """Whoever takes 1.2 times open_for, and is well again, is asked again: each of its answers must not come too late."""
    made, under_way = half_open(clock), []
    for _ in range(200):  # a request every tenth of open_for, for twenty times open_for
        ticket = made.admit()
        if ticket is not None:
            under_way.append((clock.now + 1.2 * OPEN_FOR, ticket))
        clock.now += OPEN_FOR / 10
        for known in [known for known in under_way if known[0] <= clock.now]:
            under_way.remove(known)
            made.succeeded(known[1])
    assert made.state == "closed"


def test_what_it_says_when_it_refuses(clock: Clock) -> None:
    """Who is not asked, of which method, and for how long."""
    made = opened(clock)
    clock.now += 4.0
    error = made.refusal()
    assert isinstance(error, gr.BreakerOpen)
    assert str(error).startswith("predict: primary failed too often")
    assert "in 6.0 s" in str(error)
    assert error.error_code.value == 503
    clock.now += 100.0
    assert "in 0.0 s" in str(made.refusal())


def test_the_metrics_follow_its_state(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """0, 2, 1, 0 on the gauge, one more opening on the counter, one log line per change."""
    made = circuit(target="told")
    before = metric("guardrails_breaker_opened_total", "told")
    made.report()
    seen = [metric("guardrails_breaker_state", "told")]
    for _ in range(2):
        made.failed(made.admit() or 0)
    seen.append(metric("guardrails_breaker_state", "told"))
    clock.now += OPEN_FOR
    ticket = made.admit() or 0
    seen.append(metric("guardrails_breaker_state", "told"))
    made.succeeded(ticket)
    seen.append(metric("guardrails_breaker_state", "told"))
    assert seen == [0.0, 2.0, 1.0, 0.0]
    assert metric("guardrails_breaker_opened_total", "told") == before + 1
    assert [r.getMessage().rpartition(" ")[2] for r in caplog.records] == ["open", "half-open", "closed"]
