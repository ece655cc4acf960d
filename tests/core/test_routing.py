"""Who answers which rows, why, and what happens when somebody on the way fails."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prometheus_client import REGISTRY

import guardrails as gr
from guardrails import outliers
from guardrails.core.pipeline import attach
from guardrails.decisions.guard import Record
from guardrails.testing import strict

ORDINARY, OTHER = [0.1, 0.2], [-0.3, 0.1]
OUTLIER, STRANGER = [6.0, -6.0], [-6.0, 6.0]
INVALID = [1e9, 0.0]


class Calls:
    """A callable that keeps what it was called with."""

    def __init__(self, answer: Callable[[Any], Any], name: str = "spare") -> None:
        self.answer, self.__name__, self.seen = answer, name, []

    def __call__(self, rows: Any, *others: Any, **named: Any) -> Any:
        self.seen.append((rows, *others, *named.values()))
        return self.answer(rows)


def saying(word: str, name: str = "spare") -> Calls:
    return Calls(lambda rows: [word] * len(rows), name)


def failing(error: Exception, name: str = "broken") -> Calls:
    def fail(_: Any) -> Any:
        raise error

    return Calls(fail, name)


class Model:
    """A primary that keeps the rows it was asked for."""

    def __init__(self, answer: Callable[[Any], Any] = lambda rows: ["model"] * len(rows)) -> None:
        self.calls = Calls(answer, "model")

    def guarded(self, *guards: Any) -> Callable[..., Any]:
        def predict(rows: Any, weights: Any = None, *, note: Any = None) -> Any:
            return self.calls(rows, weights, note)

        fn: Any = predict
        for guard in guards:
            fn = guard(fn) if callable(guard) else attach(guard, fn)
        return fn


def recording() -> tuple[Record, list[Any]]:
    kept: list[Any] = []
    return Record(kept.append, "store"), kept


def said(records: list[Any]) -> list[tuple[str, str | None]]:
    return [(record.route, record.reason) for record in records]


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


# Row by row


@pytest.mark.parametrize("kind", ["array", "list", "records", "frame"])
def test_only_flagged_rows_go_to_the_fallback(profile: gr.Profile, kind: str) -> None:
    """The fallback sees the outliers, the primary the rest, both in order; the answers come back in the request's order."""
    rows = [ORDINARY, OUTLIER, OTHER, STRANGER]
    payload: Any = {
        "array": lambda: np.array(rows),
        "list": lambda: rows,
        "records": lambda: [dict(zip("ab", row, strict=True)) for row in rows],
        "frame": lambda: pd.DataFrame(rows, columns=["a", "b"]),
    }[kind]()

    def plain(part: Any) -> list[list[float]]:
        if kind == "frame":
            return part.to_numpy().tolist()
        return [list(row.values()) if isinstance(row, dict) else list(row) for row in part]

    model, spare = Model(), saying("spare")
    record, records = recording()
    fn = model.guarded(gr.check_outliers(profile, fallback=spare), record)
    assert fn(payload) == ["model", "spare", "model", "spare"]
    assert [plain(seen[0]) for seen in model.calls.seen] == [[ORDINARY, OTHER]]
    assert [plain(seen[0]) for seen in spare.seen] == [[OUTLIER, STRANGER]]
    assert type(spare.seen[0][0]) is type(payload)
    assert said(records) == [("primary", None), ("fallback:spare", "outlier")] * 2
    ids = {record.decision_id.rpartition("/")[0] for record in records}
    assert len(ids) == 1
    assert [record.decision_id.rpartition("/")[2] for record in records] == ["0", "1", "2", "3"]


def test_row_aligned_arguments_are_cut_too(profile: gr.Profile) -> None:
    """Whatever else has one entry per row is cut with the rows; what has not is passed on whole."""
    model, spare = Model(), saying("spare")
    fn = model.guarded(gr.check_outliers(profile, fallback=spare))
    fn(np.array([ORDINARY, OUTLIER, OTHER]), np.array([1, 2, 3]), note=["only", "two"])
    (rows, weights, note), (odd, odd_weights, odd_note) = model.calls.seen[0], spare.seen[0]
    assert (rows.tolist(), weights.tolist(), note) == ([ORDINARY, OTHER], [1, 3], ["only", "two"])
    assert (odd.tolist(), odd_weights.tolist(), odd_note) == ([OUTLIER], [2], ["only", "two"])


def test_a_series_of_one_entry_per_row_is_cut_too(profile: gr.Profile) -> None:
    """A pandas Series goes by row as a DataFrame does, as an argument and as an answer."""
    model, spare = (
        Model(lambda rows: pd.Series(["model"] * len(rows))),
        Calls(lambda rows: pd.Series(["spare"] * len(rows))),
    )
    fn = model.guarded(gr.check_outliers(profile, fallback=spare))
    answer = fn(np.array([ORDINARY, OUTLIER, OTHER]), pd.Series([1, 2, 3]))
    assert [list(model.calls.seen[0][1]), list(spare.seen[0][1])] == [[1, 3], [2]]
    assert list(answer) == ["model", "spare", "model"]


def test_all_rows_flagged(profile: gr.Profile) -> None:
    """Where all rows are outliers the fallback gets the request as it came, and the primary nothing."""
    model, spare = Model(), saying("spare")
    payload = np.array([OUTLIER, STRANGER])
    assert model.guarded(gr.check_outliers(profile, fallback=spare))(payload) == ["spare", "spare"]
    assert spare.seen[0][0] is payload
    assert model.calls.seen == []


def test_no_row_flagged(profile: gr.Profile) -> None:
    """Where none is, the primary gets the caller's own object."""
    model, spare = Model(), saying("spare")
    payload = np.array([ORDINARY, OTHER])
    assert model.guarded(gr.check_outliers(profile, fallback=spare))(payload) == ["model", "model"]
    assert model.calls.seen[0][0] is payload
    assert spare.seen == []


def test_a_row_without_an_axis(profile: gr.Profile) -> None:
    """A single row that is an outlier is the fallback's as it is."""
    model, spare = Model(lambda _: "model"), Calls(lambda _: "spare")
    fn = model.guarded(gr.check_outliers(profile, fallback=spare))
    assert (fn(OUTLIER), fn(np.array(OUTLIER)), fn(ORDINARY)) == ("spare", "spare", "model")
    assert spare.seen[0][0] is OUTLIER


def test_an_answer_that_is_not_by_row_sends_the_request_as_a_whole(profile: gr.Profile) -> None:
    """Where the answer speaks for all rows, the request goes as a whole where its odd rows go."""
    model, spare = Model(lambda rows: {"mean": 0.5}), Calls(lambda rows: {"mean": len(rows)})
    record, records = recording()
    fn = model.guarded(gr.check_outliers(profile, fallback=spare), record)
    payload = np.array([ORDINARY, OUTLIER, OTHER])
    assert fn(payload) == {"mean": 3}
    assert spare.seen[-1][0] is payload
    assert said(records) == [("fallback:spare", "outlier")] * 3


def test_a_whole_request_answered_by_a_fallback_is_not_explored(profile: gr.Profile) -> None:
    """An answer that is not the primary's is neither explored nor counted as the model's own."""

    class Second:
        def pmf(self, scores: np.ndarray) -> np.ndarray:
            return np.eye(scores.shape[-1])[scores.argmin(axis=-1)]

    fallback = {"scores": [1.0, 0.0]}
    model = Model(lambda rows: {"scores": [0.0, 1.0]})
    record, records = recording()
    fn = model.guarded(gr.check_outliers(profile, fallback=lambda rows: fallback), gr.explore(Second()), record)
    with strict():
        assert fn(np.array([ORDINARY, OUTLIER, OTHER])) is fallback
    assert [record.policy for record in records] == [None] * 3


# Two guards that divert


def test_an_earlier_guard_keeps_its_rows(profile: gr.Profile) -> None:
    """A row that validate has sent away is not sent elsewhere by check_outliers, nor is anybody asked for no rows."""
    model, invalid, odd = Model(), saying("invalid", "invalid"), saying("odd", "odd")
    record, records = recording()
    fn = model.guarded(gr.validate(profile, on_invalid=invalid), gr.check_outliers(profile, fallback=odd), record)
    assert fn([ORDINARY, INVALID, OTHER]) == ["model", "invalid", "model"]
    assert odd.seen == []
    assert said(records) == [("primary", None), ("fallback:invalid", "invalid"), ("primary", None)]


def test_a_rejection_of_outliers_concerns_no_row_that_was_sent_away(profile: gr.Profile) -> None:
    """An invalid row is an outlier as well; validate has answered it, so check_outliers has nothing to reject."""
    fn = Model().guarded(
        gr.validate(profile, on_invalid=saying("invalid")), gr.check_outliers(profile, fallback=gr.reject())
    )
    assert fn([ORDINARY, INVALID]) == ["model", "invalid"]


def test_an_earlier_guard_keeps_its_rows_when_all_are_odd(profile: gr.Profile) -> None:
    """Also when no row is left for the primary."""
    model, invalid, odd = Model(), saying("invalid", "invalid"), saying("odd", "odd")
    record, records = recording()
    fn = model.guarded(gr.validate(profile, on_invalid=invalid), gr.check_outliers(profile, fallback=odd), record)
    assert fn([INVALID, OUTLIER]) == ["invalid", "odd"]
    assert said(records) == [("fallback:invalid", "invalid"), ("fallback:odd", "outlier")]
    assert model.calls.seen == []


def test_three_ways_at_once(profile: gr.Profile) -> None:
    """Invalid, outlying and ordinary rows of one request each go their own way, and come back in order."""
    model, invalid, odd = Model(), saying("invalid", "invalid"), saying("odd", "odd")
    fn = model.guarded(gr.validate(profile, on_invalid=invalid), gr.check_outliers(profile, fallback=odd))
    assert fn([OUTLIER, ORDINARY, INVALID, STRANGER, OTHER]) == ["odd", "model", "invalid", "odd", "model"]
    assert [len(seen[0]) for calls in (model.calls, invalid, odd) for seen in calls.seen] == [2, 1, 2]


def test_unreadable_rows_go_where_validate_sends_them(profile: gr.Profile) -> None:
    """A row that cannot be read is validate's, which has a fallback for it; check_outliers does not refuse it again."""
    model, invalid = Model(), saying("invalid", "invalid")
    fn = model.guarded(gr.validate(profile, on_invalid=invalid), gr.check_outliers(profile, fallback=saying("odd")))
    assert fn([ORDINARY, ["text", 0.2]]) == ["model", "invalid"]


def test_an_unreadable_row_of_a_batch_goes_to_the_fallback_once(profile: gr.Profile, make_host: Any) -> None:
    """In a batchable method a row that cannot be read goes to the fallback; nobody is asked for an empty batch."""
    make_host().batchables.add("predict")
    asked: list[Any] = []

    class Service:
        @gr.check_outliers(profile, fallback="spare")
        def predict(self, rows: list[Any]) -> list[str]:
            return ["model"] * len(rows)

        def spare(self, rows: list[Any]) -> list[str]:
            asked.append(rows)
            return ["spare"] * len(rows)

    assert Service().predict([ORDINARY, ["text", 0.2], OTHER]) == ["model", "spare", "model"]
    assert asked == [[["text", 0.2]]]


@pytest.mark.parametrize("order", [0, 1])
def test_each_guard_reads_the_argument_it_was_given(profile: gr.Profile, order: int) -> None:
    """Two guards that share a profile but not features= read different arguments."""
    guards = [
        gr.validate(profile, features="one"),
        gr.check_outliers(profile, fallback=gr.constant("odd"), features="two"),
    ]

    def predict(one: Any, two: Any) -> str:
        return "model"

    fn = gr.compose(*guards[:: 1 if order else -1])(predict)
    assert fn([ORDINARY], [OUTLIER]) == "odd"
    assert fn([OUTLIER], [ORDINARY]) == "model"


def test_drift_samples_the_argument_it_was_given(profile: gr.Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """sample_drift(features=...) counts that argument, also when another guard has read another one."""
    from guardrails.drift import sampler_of

    offered: list[Any] = []
    monkeypatch.setattr(sampler_of(profile), "offer", lambda rows, *_: offered.append(rows))

    @gr.check_outliers(profile, fallback=gr.constant("odd"), features="one")
    @gr.sample_drift(profile, features="two")
    def predict(one: Any, two: Any) -> str:
        return "model"

    predict([ORDINARY], [OTHER])
    assert getattr(offered[0], "matrix", np.array(offered[0])).tolist() == [OTHER]


# Rejections


def test_a_rejected_row_rejects_its_request(profile: gr.Profile) -> None:
    """One request has one status: a rejected row refuses the rows that came with it, and the primary's work is not served."""
    record, records = recording()
    fn = Model().guarded(gr.check_outliers(profile, fallback=gr.reject("ask a doctor")), record)
    with pytest.raises(gr.Rejected, match="ask a doctor") as caught:
        fn([ORDINARY, OUTLIER, OTHER])
    assert caught.value.reason == "outlier"
    assert [detail["row"] for detail in caught.value.details] == [1]
    assert said(records) == [("rejected", "outlier")] * 3
    assert {record.error_type for record in records} == {"Rejected"}
    assert records[0].decision_id == f"{caught.value.decision_id}/0"


def test_a_rejection_that_is_certain_asks_nobody(profile: gr.Profile) -> None:
    """Where the fallback of an outlier is reject(), the model need not work for the rows that came with it."""
    model = Model()
    with pytest.raises(gr.Rejected):
        model.guarded(gr.check_outliers(profile))([ORDINARY, OUTLIER])
    assert model.calls.seen == []


def test_a_chain_may_end_in_a_rejection(profile: gr.Profile) -> None:
    """A fallback that fails hands over to reject(), whose reason is still why the model did not answer."""
    fn = Model().guarded(gr.check_outliers(profile, fallback=[failing(ValueError("spare")), gr.reject()]))
    with pytest.raises(gr.Rejected) as caught:
        fn([OUTLIER])
    assert caught.value.reason == "outlier"
    assert caught.value.__cause__ is None


def test_a_failed_model_may_be_rejected() -> None:
    """fall_back(to=reject()) turns a crash into a 422 that says so."""
    model = Model(failing(ValueError("model")))
    with pytest.raises(gr.Rejected, match="The model failed") as caught:
        model.guarded(gr.fall_back(to=gr.reject()))([ORDINARY])
    assert caught.value.reason == "error"


def test_invalid_input_is_refused_before_anybody_is_asked(profile: gr.Profile) -> None:
    """validate's default refuses the request as invalid and names rows and fields; nobody is called."""
    model, spare = Model(), saying("spare")
    record, records = recording()
    fn = model.guarded(gr.validate(profile), gr.check_outliers(profile, fallback=spare), gr.fall_back(to=spare), record)
    with pytest.raises(gr.Rejected) as caught:
        fn([ORDINARY, INVALID, OUTLIER])
    assert (caught.value.reason, [(d["row"], d["field"], d["rule"]) for d in caught.value.details]) == (
        "invalid",
        [(1, "a", "range")],
    )
    assert (model.calls.seen, spare.seen) == ([], [])
    assert said(records) == [("rejected", "invalid")] * 3


# fall_back


def test_the_first_fallback_that_answers_answers() -> None:
    """A chain is tried in order; the route names who answered."""
    first, second, third = failing(LookupError("first")), saying("second", "second"), saying("third", "third")
    record, records = recording()
    fn = Model(failing(ValueError("model"))).guarded(gr.fall_back(to=[first, second, third]), record)
    assert fn([ORDINARY]) == ["second"]
    assert (len(first.seen), len(second.seen), third.seen) == (1, 1, [])
    assert said(records) == [("fallback:second", "error")]


def test_when_all_fail_the_last_error_is_the_callers() -> None:
    """A chain without an answer raises what the last fallback raised."""
    last = LookupError("last")
    record, records = recording()
    fn = Model(failing(ValueError("model"))).guarded(
        gr.fall_back(to=[failing(KeyError("first")), failing(last)]), record
    )
    with pytest.raises(LookupError) as caught:
        fn([ORDINARY])
    assert caught.value is last
    assert (records[0].error_type, records[0].reason) == ("LookupError", "error")


def test_only_the_named_exceptions_are_rescued() -> None:
    """`on` decides; what is not named reaches the caller as the same object."""
    error, spare = ValueError("model"), saying("spare")
    fn = Model(failing(error)).guarded(gr.fall_back(to=spare, on=(LookupError,)))
    with pytest.raises(ValueError, match="model") as caught:
        fn([ORDINARY])
    assert caught.value is error
    assert spare.seen == []
    assert Model(failing(KeyError("k"))).guarded(gr.fall_back(to=spare, on=(LookupError,)))([ORDINARY]) == ["spare"]


def test_outliers_whose_fallback_fails_are_rescued_too(profile: gr.Profile) -> None:
    """Behind the outliers' own chain stands what rescues any request of the method."""
    odd, spare = failing(ValueError("odd"), "odd"), saying("spare")
    record, records = recording()
    fn = Model().guarded(gr.check_outliers(profile, fallback=odd), gr.fall_back(to=spare), record)
    assert fn([ORDINARY, OUTLIER]) == ["model", "spare"]
    assert said(records)[1][0] == "fallback:spare"


def test_a_failing_model_takes_only_its_own_rows_to_the_fallback(profile: gr.Profile) -> None:
    """In a mixed request the primary's rows are rescued by themselves."""
    odd, spare = saying("odd", "odd"), saying("spare")
    fn = Model(failing(ValueError("model"))).guarded(gr.check_outliers(profile, fallback=odd), gr.fall_back(to=spare))
    assert fn([ORDINARY, OUTLIER, OTHER]) == ["spare", "odd", "spare"]
    assert [len(seen[0]) for seen in spare.seen] == [2]


def test_an_error_of_the_model_that_nobody_rescues_ends_a_mixed_request(profile: gr.Profile) -> None:
    """Without fall_back the model's exception is the answer to the request, outliers included."""
    odd = saying("odd")
    with pytest.raises(ValueError, match="model"):
        Model(failing(ValueError("model"))).guarded(gr.check_outliers(profile, fallback=odd))([ORDINARY, OUTLIER])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([7.0], [7.0, 7.0, 7.0]),
        ((7.0,), (7.0, 7.0, 7.0)),
        (np.array([[1, 2]]), [[1, 2]] * 3),
        (7.0, 7.0),
        ({"a": 1}, {"a": 1}),
        ([1, 2, 3], [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("way", ["outliers", "fall_back alone", "fall_back behind a check"])
def test_a_constant_of_one_entry_is_repeated_per_row(profile: gr.Profile, value: Any, wanted: Any, way: str) -> None:
    """constant([x]) answers each row with x; what is no list of one entry is the answer as it stands."""
    rows = [OUTLIER] * 3 if way == "outliers" else [ORDINARY] * 3
    model = Model() if way == "outliers" else Model(failing(ValueError("model")))
    guards: Any = {
        "outliers": [gr.check_outliers(profile, fallback=gr.constant(value))],
        "fall_back alone": [gr.fall_back(to=gr.constant(value))],
        "fall_back behind a check": [gr.fall_back(to=gr.constant(value)), gr.check_outliers(profile)],
    }[way]
    answer = model.guarded(*guards)(rows)
    assert type(answer) is type(value)
    assert np.array_equal(answer, wanted) if isinstance(answer, np.ndarray) else answer == wanted


def test_a_constant_in_a_mixed_request(profile: gr.Profile) -> None:
    """Only the rows it stands for get it."""
    fn = Model().guarded(gr.check_outliers(profile, fallback=gr.constant(["fixed"])))
    assert fn([OUTLIER, ORDINARY, STRANGER]) == ["fixed", "model", "fixed"]


def test_methods_are_fallbacks_by_name(profile: gr.Profile) -> None:
    """A fallback's name is a method of the same instance, guarded or not."""

    class Service:
        word = "bound"

        @gr.check_outliers(profile, fallback="odd")
        @gr.fall_back(to="spare")
        def predict(self, rows: Any) -> list[str]:
            raise ValueError("model")

        def spare(self, rows: Any) -> list[str]:
            return [f"spare {self.word}"] * len(rows)

        @gr.traced()
        def odd(self, rows: Any) -> list[str]:
            return [f"odd {self.word}"] * len(rows)

    assert Service().predict([ORDINARY, OUTLIER]) == ["spare bound", "odd bound"]


@pytest.mark.parametrize("outlier", [False, True])
def test_streams_are_routed_as_a_whole(profile: gr.Profile, outlier: bool) -> None:
    """A stream is answered by one of them: diverted before the first item, rescued until it."""

    @gr.check_outliers(profile, fallback=lambda rows: "odd")
    @gr.fall_back(to=lambda rows: "spare")
    def stream(rows: Any) -> Any:
        raise ValueError("before the first item")
        yield

    assert list(stream([ORDINARY, OUTLIER] if outlier else [ORDINARY])) == (["odd"] if outlier else ["spare"])


def test_a_stream_that_has_begun_is_not_rescued() -> None:
    """After the first item the error is the client's: a second beginning would be worse."""
    error = ValueError("in the middle")

    @gr.fall_back(to=lambda rows: "spare")
    def stream(rows: Any) -> Any:
        yield 1
        raise error

    items = stream([ORDINARY])
    assert next(items) == 1
    with pytest.raises(ValueError, match="middle") as caught:
        next(items)
    assert caught.value is error


# Timeouts


def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    """Asynchronous work is cancelled at its await before the fallback answers."""
    log: list[str] = []

    @gr.fall_back(to=lambda rows: log.append("fallback") or "spare", timeout=0.01)
    async def predict(rows: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return "late"

    record, records = recording()
    assert asyncio.run(attach(record, predict)([ORDINARY])) == "spare"
    assert log == ["cancelled", "fallback"]
    assert said(records) == [("fallback:<lambda>", "timeout")]


def test_a_function_that_takes_too_long_is_left_behind_and_counted() -> None:
    """Synchronous work runs on by itself, with its context; the overrun is counted; the fallback answers."""
    release, ended = threading.Event(), threading.Event()
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    @gr.fall_back(to=lambda rows: "spare", timeout=0.01)
    def slow(rows: Any) -> str:
        seen.append(variable.get())
        release.wait(30)
        ended.set()
        return "late"

    before = count("guardrails_overruns_total", api="slow")
    variable.set("the request's")
    try:
        assert slow([ORDINARY]) == "spare"
        assert count("guardrails_overruns_total", api="slow") == before + 1
        assert not ended.is_set()
    finally:
        release.set()
    assert ended.wait(30)
    assert seen == ["the request's"]


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_an_answer_in_time_is_the_answer(kind: str) -> None:
    """A timeout that is kept changes nothing: the same object, the same exception object."""
    thing, error = object(), ValueError("own")

    def predict(rows: Any) -> object:
        if rows == "raise":
            raise error
        return thing

    async def apredict(rows: Any) -> object:
        return predict(rows)

    guard = gr.fall_back(to=failing(LookupError("spare")), on=(KeyError,), timeout=30.0)
    fn = guard(predict) if kind == "function" else (lambda rows: asyncio.run(guard(apredict)(rows)))
    assert fn([ORDINARY]) is thing
    with pytest.raises(ValueError, match="own") as caught:
        fn("raise")
    assert caught.value is error


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_timeout_of_the_methods_own_is_not_taken_for_ours(kind: str) -> None:
    """A TimeoutError that a fallback itself raises, long before the deadline, reaches the caller as it is."""
    error = TimeoutError("the database is slow")

    def fail(rows: Any) -> Any:
        raise error

    async def afail(rows: Any) -> Any:
        raise error

    guard = gr.fall_back(to=fail if kind == "function" else afail, timeout=30.0)
    fn = guard(fail) if kind == "function" else (lambda rows: asyncio.run(guard(afail)(rows)))
    with pytest.raises(TimeoutError) as caught:
        fn([ORDINARY])
    assert caught.value is error


def test_a_slow_fallback_hands_over_too() -> None:
    """The timeout holds for each attempt."""

    async def slow(rows: Any) -> str:
        await asyncio.Event().wait()
        return "late"

    guard = gr.fall_back(to=[slow, lambda rows: "second"], timeout=0.01)
    assert asyncio.run(guard(slow)([ORDINARY])) == "second"


# Guards that fail


class BrokenGuard:
    """A guard whose own code is wrong."""

    name = "broken"

    def __init__(self, stage: gr.Stage, when: str) -> None:
        self.stage, self.when = stage, when

    def bind(self, method: Any) -> Any:
        from guardrails.typing import Hooks

        return Hooks(**{self.when: self._fail})

    def _fail(self, call: gr.Call) -> None:
        raise ArithmeticError("the guard's own")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", list(gr.Stage))
def test_a_guard_that_fails_is_passed_over_and_counted(stage: gr.Stage, when: str, profile: gr.Profile) -> None:
    """The call goes on, the other guards work, the error is counted, and nobody sees it but the log."""
    record, records = recording()
    guards = [gr.traced(), gr.check_outliers(profile, fallback=saying("spare")), record]
    fn = Model().guarded(BrokenGuard(stage, when), *guards)
    before = count("guardrails_guard_errors_total", guard="broken", error_type="ArithmeticError")
    assert fn([ORDINARY, OUTLIER]) == ["model", "spare"]
    assert count("guardrails_guard_errors_total", guard="broken", error_type="ArithmeticError") == before + 1
    assert len(records) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_strict_lets_a_guards_error_out(when: str) -> None:
    """Inside strict() a guard's own exception is the test's; outside it is contained again."""
    fn = Model().guarded(BrokenGuard(gr.Stage.CHECK, when))
    with strict(), pytest.raises(ArithmeticError, match="own"):
        fn([ORDINARY])
    assert fn([ORDINARY]) == ["model"]


def test_strict_nests_and_survives_errors() -> None:
    """strict() restores what was set before, also when it is left by an exception."""
    fn = Model().guarded(BrokenGuard(gr.Stage.CHECK, "before"))
    with pytest.raises(ArithmeticError), strict():  # noqa: PT012
        with strict():
            pass
        fn([ORDINARY])
    assert fn([ORDINARY]) == ["model"]


def test_a_broken_guard_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A guard that fails on each request does not fill the disk."""

    class Noisy(BrokenGuard):
        name = "noisy"

    fn = Model().guarded(Noisy(gr.Stage.CHECK, "before"))
    with caplog.at_level(logging.ERROR, logger="guardrails"):
        for _ in range(50):
            fn([ORDINARY])
    assert len([record for record in caplog.records if "noisy" in record.getMessage()]) == 1


class BrokenDetector:
    """A detector that calibrates and then breaks."""

    broken = False

    def score(self, rows: np.ndarray) -> np.ndarray:
        if self.broken:
            raise OSError("no GPU")
        return np.abs(rows).sum(axis=1)


@pytest.mark.parametrize(
    ("on_guard_error", "answers"), [("pass", ["model", "model"]), ("fallback", ["spare", "spare"])]
)
def test_a_detector_that_fails(on_guard_error: Any, answers: list[str]) -> None:
    """on_guard_error decides whether requests go on or to the fallback while the detector is broken."""
    detector = BrokenDetector()
    calibrated = outliers.fit(np.random.default_rng(0).normal(size=(100, 2)), detector=detector, alpha=0.05)
    record, records = recording()
    fn = Model().guarded(gr.check_outliers(calibrated, fallback=saying("spare"), on_guard_error=on_guard_error), record)
    assert fn([ORDINARY, OTHER]) == ["model", "model"]
    detector.broken = True
    assert fn([ORDINARY, OTHER]) == answers
    assert {reason for _, reason in said(records[2:])} == ({None} if on_guard_error == "pass" else {"error"})


def test_a_fallback_that_cannot_take_its_rows_is_an_error_of_the_fallback(profile: gr.Profile) -> None:
    """A fallback that chokes on the rows is rescued like any other; the primary's answers are not lost."""
    fn = Model().guarded(
        gr.check_outliers(profile, fallback=failing(TypeError("rows"))), gr.fall_back(to=saying("spare"))
    )
    assert fn([ORDINARY, OUTLIER]) == ["model", "spare"]


# Records of rows


def test_every_row_of_a_batch_leaves_a_record_without_other_guards() -> None:
    """explore alone records and draws for each row by itself, whoever else reads the rows or not."""

    class Uniform:
        def pmf(self, scores: np.ndarray) -> np.ndarray:
            return np.full(scores.shape, 1 / scores.shape[-1])

    records: list[Any] = []
    n = 64
    fn = gr.explore(Uniform(), decisions=records.append)(lambda rows: np.tile([0.1, 0.9], (len(rows), 1)))
    actions = fn(np.zeros((n, 2))).argmax(axis=1)
    assert len(records) == n
    assert [record.action for record in records] == actions.tolist()
    assert set(actions.tolist()) == {0, 1}  # one draw for all would give one action (by chance once in 2^63 runs)


def test_a_record_keeps_the_row_that_came(profile: gr.Profile) -> None:
    """A method that scales its input in place does not change what is recorded."""

    def predict(rows: np.ndarray) -> np.ndarray:
        rows *= 100
        return rows.sum(axis=1)

    record, records = recording()
    attach(record, gr.check_outliers(profile)(predict))(np.array([ORDINARY]))
    assert records[0].features.tolist() == ORDINARY


def test_an_empty_chain_never_answers_none(profile: gr.Profile) -> None:
    """A guard without a fallback refuses the request or is refused itself; it does not answer None."""
    with pytest.raises((gr.DecorationError, gr.Rejected)):
        Model().guarded(gr.check_outliers(profile, fallback=[]))([OUTLIER])


def test_headers_tell_who_answered(profile: gr.Profile) -> None:
    """The middleware's state gets id, route and reason of the outermost guarded call, and the rejection if there was one."""
    from guardrails.core.request import CURRENT, RequestState

    inner = Model().guarded(gr.check_outliers(profile))

    def predict(rows: Any) -> Any:
        return inner(rows)

    outer = gr.fall_back(to=gr.constant("spare"))(predict)
    for fn, rows, wanted in (
        (inner, [ORDINARY], ("primary", None, None)),
        (inner, [OUTLIER], ("rejected", "outlier", gr.Rejected)),
        (outer, [OUTLIER], ("fallback:constant", "error", None)),
        (outer, [ORDINARY], ("primary", None, None)),
    ):
        state = RequestState()
        token = CURRENT.set(state)
        try:
            fn(rows)
        except gr.Rejected:
            pass
        finally:
            CURRENT.reset(token)
        rejection = None if state.rejection is None else type(state.rejection)
        assert (state.headers["Guardrails-Route"], state.headers.get("Guardrails-Reason"), rejection) == wanted
        assert len(state.headers["Guardrails-Decision-Id"]) == 32


def test_many_threads_bind_once_and_keep_their_calls_apart(profile: gr.Profile) -> None:
    """The first calls of an instance, made at once, share one pipeline; each gets its own answer."""
    from concurrent.futures import ThreadPoolExecutor

    binds: list[Any] = []

    class Counting:
        name, stage = "counting", gr.Stage.CHECK

        def bind(self, method: Any) -> Any:
            from guardrails.typing import Hooks

            binds.append(method)
            return Hooks()

    class Service:
        @gr.check_outliers(profile, fallback="spare")
        def predict(self, rows: Any) -> list[str]:
            return [f"model {rows[0][0]}"] * len(rows)

        def spare(self, rows: Any) -> list[str]:
            return [f"spare {rows[0][0]}"] * len(rows)

    Service.predict = attach(Counting(), Service.predict)  # type: ignore[method-assign, arg-type]
    service, barrier = Service(), threading.Barrier(8)

    def ask(i: int) -> list[list[str]]:
        barrier.wait()
        return [service.predict([[i / 100, 0.0], [6.0 + i, -6.0]]) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for i, answers in enumerate(pool.map(ask, range(8))):
            assert answers == [[f"model {i / 100}", f"spare {6.0 + i}"]] * 20
    assert len(binds) == 1


def test_fallbacks_answer_while_every_thread_of_the_primary_hangs() -> None:
    """More calls than may overrun at once: each is answered by the fallback, none by a TimeoutError."""
    import threading

    hang = threading.Event()

    @gr.fall_back(to=gr.constant("fallback"), timeout=0.005)
    def predict(rows: Any) -> str:
        hang.wait(30)
        return "late"

    try:
        assert {predict([ORDINARY]) for _ in range(40)} == {"fallback"}
    finally:
        hang.set()
