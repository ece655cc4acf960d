"""What the same input is to `last_good`: all of its content, row by row, as it came; or a key of one's own."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from prometheus_client import REGISTRY

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


# The same input


class Row(pydantic.BaseModel):
    a: float
    b: float


def rows_as(kind: str, rows: list[list[float]]) -> Any:
    return {
        "list": lambda: rows,
        "tuples": lambda: [tuple(row) for row in rows],
        "array": lambda: np.array(rows),
        "float32": lambda: np.array(rows, dtype=np.float32),
        "records": lambda: [dict(zip("ab", row, strict=True)) for row in rows],
        "models": lambda: [Row(a=row[0], b=row[1]) for row in rows],
        "frame": lambda: pd.DataFrame(rows, columns=["a", "b"]),
        "dated": lambda: [{"a": row[0], "when": dt.date(2024, 5, 1), "id": uuid.UUID(int=7)} for row in rows],
        "arrays": lambda: [np.concatenate([row, np.zeros(3000), [row[0]], np.zeros(3000)]) for row in rows],
    }[kind]()


KINDS = ["list", "tuples", "array", "float32", "records", "models", "frame", "dated", "arrays"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_remembered_by_itself(kind: str) -> None:
    """Learnt in a batch, answered alone, in another order, in another batch; one unknown row leaves it to the next."""
    model = Model(to=lambda rows: [None] * len(rows))
    model.answer = lambda rows: 1 / 0 if model.sick else [f"answer {i}" for i in range(len(rows))]  # type: ignore[method-assign]
    assert model.ask(rows_as(kind, [ORDINARY, OTHER, THIRD])) == ["answer 0", "answer 1", "answer 2"]
    assert model.when_sick(rows_as(kind, [OTHER])) == ["answer 1"]
    assert model.when_sick(rows_as(kind, [THIRD, ORDINARY])) == ["answer 2", "answer 0"]
    assert model.when_sick(rows_as(kind, [OTHER, OUTLIER])) == [None, None]
    assert [record.route for record in model.records[3:6]] == ["fallback:last_good"] * 3


def test_large_inputs_that_differ_in_the_middle_are_not_the_same() -> None:
    """A list of images is known by all of its pixels, not by how it prints."""
    image = np.zeros(5000)
    other = image.copy()
    other[2500] = 1.0
    model = Model()
    assert model.ask([image]) == [0.0]
    assert model.when_sick([other]) == ["unknown"]
    assert model.when_sick([image.copy()]) == [0.0]


class Opaque:
    """A payload that prints as its address, as PIL's images and most objects do."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __getitem__(self, _: int) -> float:
        return self.value

    def __repr__(self) -> str:
        return "<Opaque at 0x7f00>"  # as an object that was put where a former one was freed


def test_an_input_without_a_content_of_its_own_is_never_the_same() -> None:
    """Two payloads that happen to print alike are two clients' payloads: nobody gets the other's answer."""
    model = Model()
    model.answer = lambda payload: 1 / 0 if model.sick else payload.value  # type: ignore[method-assign]
    assert model.ask(Opaque(1.0)) == 1.0
    assert model.when_sick(Opaque(2.0)) == ["unknown"]


def test_other_arguments_are_part_of_the_input() -> None:
    """The model may answer the same rows otherwise for another user or scale."""
    model = Model()
    assert model.ask([ORDINARY], "ann", scale=2.0) == [0.1]
    assert model.when_sick([ORDINARY], "bob", scale=2.0) == ["unknown"]
    assert model.when_sick([ORDINARY], "ann", scale=3.0) == ["unknown"]
    assert model.when_sick([ORDINARY], "ann", scale=2.0) == [0.1]


@pytest.mark.parametrize("kind", [np.array, list])
def test_rows_that_differ_in_another_argument_are_not_the_same(kind: Any) -> None:
    """One user a row: of a batch each row is known by its own user, alone and in any company."""
    model = Model()
    fn = gr.fall_back(to=[gr.last_good(), gr.constant(["unknown"])])(lambda rows, users: model.answer(users))
    model.answer = lambda users: 1 / 0 if model.sick else [f"for {user}" for user in users]  # type: ignore[method-assign]
    rows, users = np.array([ORDINARY, ORDINARY]), kind(["ann", "bob"])
    assert fn(rows, users) == ["for ann", "for bob"]
    model.sick = True
    assert fn(rows, users) in (["for ann", "for bob"], ["unknown"] * 2)
    if kind is np.array:
        assert fn(rows[:1], users[1:]) == ["for bob"]


@pytest.mark.parametrize("fails", ["first", "last"])
def test_a_method_that_changes_its_input_is_remembered_by_what_came(fails: str) -> None:
    """Rows that the model scales in place are known as the client sent them, whenever it fails."""
    model = Model()

    def scale(rows: np.ndarray) -> list[float]:
        if model.sick and fails == "first":
            raise ValueError("sick")
        rows *= 100.0
        if model.sick:
            raise ValueError("sick")
        return [float(row[0]) for row in rows]

    model.answer = scale  # type: ignore[method-assign]
    assert model.ask(np.array([ORDINARY])) == [10.0]
    assert model.when_sick(np.array([ORDINARY])) == [10.0]
    assert model.when_sick(100.0 * np.array([ORDINARY])) == ["unknown"]


# Keys


def test_a_key_of_ones_own() -> None:
    """It gets the method's arguments, of a request of several rows with one row at a time, however they are passed."""
    seen: list[tuple[Any, Any]] = []

    def key(rows: Any, user: Any = None, **_: Any) -> Any:
        seen.append((rows, user))
        return user, round(rows[0][0])

    model = Model(key=key)
    assert model.ask([[1.1, 0.0], [2.1, 0.0]], user="ann") == [1.1, 2.1]
    assert seen == [([[1.1, 0.0]], "ann"), ([[2.1, 0.0]], "ann")]
    assert model.when_sick(rows=[[2.2, 5.0]], user="ann") == [2.1]
    assert model.when_sick([[2.2, 5.0], [0.9, 5.0]], "ann") == [2.1, 1.1]
    assert model.when_sick([[2.2, 5.0]], "bob") == ["unknown"]


@pytest.mark.parametrize(
    ("key", "error"),
    [(lambda rows, **_: [1], "TypeError"), (lambda rows, **_: 1 / 0, "ZeroDivisionError"), (lambda: 1, "TypeError")],
    ids=["unhashable", "raises", "other arguments"],
)
def test_a_key_that_is_wrong_does_not_break_the_request(key: Any, error: str) -> None:
    """Contained and counted when it learns; asked for an answer it is a fallback that failed."""
    labels = ("guardrails_guard_errors_total", {"guard": "last_good", "error_type": error})
    before = REGISTRY.get_sample_value(*labels) or 0.0
    model = Model(key=key)
    assert model.ask([ORDINARY]) == [0.1]
    assert model.when_sick([ORDINARY]) == ["unknown"]
    assert model.ask([OTHER]) == [-0.3]
    assert REGISTRY.get_sample_value(*labels) >= before + 2
