"""The last good answer: to the same input, not too old, never somebody else's, and never changed under anybody's hands."""

from __future__ import annotations

import asyncio
import copy
import importlib
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import guardrails as gr
from guardrails.core.pipeline import attach
from guardrails.decisions.guard import Record

ORDINARY, OTHER, THIRD, OUTLIER = [0.1, 0.2], [-0.3, 0.1], [0.2, -0.2], [6.0, -6.0]


class Model:
    """A method that answers with what it is given, times a factor, until it is sick."""

    def __init__(self, *guards: Any, key: Any = None, to: Any = None, **options: Any) -> None:
        self.factor, self.sick = 1.0, False
        chain = [gr.last_good(key, **options), gr.constant(["unknown"]) if to is None else to]
        self.records: list[Any] = []

        def predict(rows: Any, user: Any = None, *, scale: float = 1.0) -> Any:
            return self.answer(rows)

        fn: Any = gr.fall_back(to=chain)(predict)
        for guard in guards:
            fn = guard(fn)
        self.ask = attach(Record(self.records.append), fn)

    def answer(self, rows: Any) -> Any:
        if self.sick:
            raise ValueError("sick")
        return [self.factor * row[0] for row in rows]

    def when_sick(self, *args: Any, **kwargs: Any) -> Any:
        self.sick = True
        try:
            return self.ask(*args, **kwargs)
        finally:
            self.sick = False


class Clock:
    """A clock that only moves when it is told to."""

    now = 10.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The memory's own clock; the machine has just started."""
    made = Clock()
    monkeypatch.setattr(importlib.import_module("guardrails.fallbacks.last_good"), "time", made)
    return made


@pytest.mark.parametrize("options", [{"max_age": 0.0}, {"max_age": -1.0}, {"max_age": math.nan}, {"max_entries": 0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    """Refused where it is written."""
    with pytest.raises(gr.DecorationError, match=r"last_good\(max_age=.*give seconds above 0, and at least one entry"):
        gr.last_good(**options)  # type: ignore[arg-type]


def test_streams_have_no_last_answer() -> None:
    """Refused when bound."""

    @gr.fall_back(to=gr.last_good())
    def stream(rows: Any) -> Any:
        yield 1

    with pytest.raises(gr.DecorationError, match="streams, and last_good"):
        gr.pipeline_of(stream).bind(None)


# Age and number


def test_answers_grow_old(clock: Clock) -> None:
    """Until max_age seconds have gone by; learning again makes them new, being asked for does not."""
    model = Model(max_age=60.0)
    model.ask([ORDINARY])
    clock.now += 60.0
    assert model.when_sick([ORDINARY]) == [0.1]
    clock.now += 0.1
    assert model.when_sick([ORDINARY]) == ["unknown"]
    model.factor = 2.0
    model.ask([ORDINARY])
    assert model.when_sick([ORDINARY]) == [0.2]


@pytest.mark.parametrize("max_age", [1e6, math.inf])
def test_what_nobody_knows_is_a_lookup_error_that_names_no_input(clock: Clock, max_age: float) -> None:
    """The message ends up on spans, where raw inputs have no place; also right after the machine started."""
    model = Model(max_age=max_age, to=gr.last_good(max_age=max_age))
    with pytest.raises(LookupError, match=r"predict\(\) has given no good answer to this") as caught:
        model.when_sick([[123.456, 0.0]])
    assert "123.456" not in str(caught.value)


def test_the_longest_unused_are_forgotten_first() -> None:
    """Learning and answering are both use."""
    model = Model(max_entries=2)
    model.ask([ORDINARY])
    model.ask([OTHER])
    assert model.when_sick([ORDINARY]) == [0.1]
    model.ask([THIRD])
    assert model.when_sick([OTHER]) == ["unknown"]
    assert model.when_sick([THIRD]) == [0.2]
    assert model.when_sick([ORDINARY]) == [0.1]
    model.ask([[float(i), 0.0] for i in range(10)])
    assert model.when_sick([[8.0, 0.0], [9.0, 0.0]]) == [8.0, 9.0]
    assert model.when_sick([[7.0, 0.0]]) == ["unknown"]


# Whose answers


def test_only_the_models_own_rows_are_remembered(profile: gr.Profile) -> None:
    """Of a mixed request the rows that went elsewhere are unknown, also when they come alone and the model is sick."""
    model = Model(gr.check_outliers(profile, fallback=lambda rows: ["odd"] * len(rows)))
    assert model.ask([ORDINARY, OUTLIER, OTHER]) == [0.1, "odd", -0.3]
    assert model.when_sick([OTHER, OUTLIER, ORDINARY]) == [-0.3, "odd", 0.1]
    bare = Model()
    assert bare.when_sick([OUTLIER]) == ["unknown"]
    assert bare.when_sick([OUTLIER]) == ["unknown"]
    assert [record.route for record in bare.records] == ["fallback:constant"] * 2


def test_a_broken_detectors_fallback_remembers() -> None:
    """on_guard_error='fallback' asks the memory that has seen the answers, not an empty one."""
    from guardrails import outliers

    class Detector:
        broken = False

        def score(self, rows: np.ndarray) -> np.ndarray:
            return np.abs(rows).sum(axis=1) / (not self.broken)

    detector = Detector()
    fitted = outliers.fit(np.random.default_rng(0).normal(size=(100, 2)), detector=detector, alpha=0.05)
    to = [gr.last_good(), gr.constant(["unknown"])]
    fn = gr.check_outliers(fitted, fallback=to, on_guard_error="fallback")(lambda rows: [rows[0][0]])
    assert fn([ORDINARY]) == [0.1]
    detector.score = lambda rows: 1 / 0  # type: ignore[method-assign]
    assert fn([ORDINARY]) == [0.1]


@pytest.mark.parametrize(
    "answer", [np.array([[1.0, 2.0]]), [[1.0, 2.0]], {"scores": [1.0, 2.0]}], ids=lambda a: type(a).__name__
)
@pytest.mark.parametrize("who", ["model", "first caller", "second caller"])
def test_nobody_can_change_what_is_remembered(answer: Any, who: str) -> None:
    """A model that uses its buffer again, a caller that changes what it got."""

    def change(thing: Any) -> None:
        inner = thing["scores"] if isinstance(thing, dict) else thing[0]
        inner[0] = -1.0

    def value(thing: Any) -> list[float]:
        return list(thing["scores"] if isinstance(thing, dict) else thing[0])

    model, answer = Model(to=gr.constant("unknown")), copy.deepcopy(answer)
    model.answer = lambda rows: 1 / 0 if model.sick else answer  # type: ignore[method-assign]
    first = model.ask([ORDINARY])
    if who != "second caller":
        change(answer if who == "model" else first)
    second = model.when_sick([ORDINARY])
    assert value(second) == [1.0, 2.0]
    change(second)
    assert value(model.when_sick([ORDINARY])) == [1.0, 2.0]


def test_coroutines() -> None:
    """The same for a coroutine function; its memory is its own."""
    sick = [False]

    @gr.fall_back(to=gr.last_good(), timeout=30.0)
    async def predict(rows: Any) -> Any:
        await asyncio.sleep(0)
        if sick[0]:
            raise ValueError("sick")
        return np.array([row[0] for row in rows])

    first = asyncio.run(predict([ORDINARY, OTHER]))
    sick[0] = True
    assert asyncio.run(predict([OTHER])).tolist() == [-0.3]
    assert asyncio.run(predict([ORDINARY, OTHER])).tolist() == first.tolist()


def test_eight_threads() -> None:
    """Learning, answering and forgetting at once: each gets the answer to its own input, or none."""
    model = Model(max_entries=50)
    flaky = iter(range(10**9))
    model.answer = lambda rows: 1 / 0 if next(flaky) % 2 else [row[0] for row in rows]  # type: ignore[method-assign]

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            rows = [[float(i), 0.0] for i in rng.integers(0, 100, size=rng.integers(1, 4))]
            assert model.ask(rows) in ([row[0] for row in rows], ["unknown"] * len(rows))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
