"""answers.columns: what a model's answer says, read as columns."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from guardrails.profile.answers import columns


class Scored(BaseModel):
    """An answer with scores."""

    scores: list[float]
    label: str = "x"


class Probable(BaseModel):
    """An answer with one probability."""

    label: str
    probability: float | None


def plain(found):
    """Columns as lists, to compare."""
    return None if found is None else {name: values.tolist() for name, values in found.items()}


SCORES = [[0.1, 0.7, 0.2], [0.9, 0.05, 0.05]]
BOTH = {"__prediction__": [1.0, 0.0], "__confidence__": [0.7, 0.9]}


@pytest.mark.parametrize(
    ("answer", "n", "expected"),
    [
        (np.array(SCORES), 2, BOTH),
        (SCORES, 2, BOTH),
        (tuple(map(tuple, SCORES)), 2, BOTH),
        ({"scores": SCORES}, 2, BOTH),
        ({"scores": np.array(SCORES)}, 2, BOTH),
        ([{"scores": SCORES[0]}, {"scores": SCORES[1]}], 2, BOTH),
        ([Scored(scores=SCORES[0]), Scored(scores=SCORES[1])], 2, BOTH),
        (np.array(SCORES[0]), 1, {"__prediction__": [1.0], "__confidence__": [0.7]}),
        (SCORES[0], 1, {"__prediction__": [1.0], "__confidence__": [0.7]}),
        ({"scores": SCORES[0]}, 1, {"__prediction__": [1.0], "__confidence__": [0.7]}),
        (Scored(scores=SCORES[0]), 1, {"__prediction__": [1.0], "__confidence__": [0.7]}),
        (np.array([3, 1]), 2, {"__prediction__": [3.0, 1.0]}),
        ([3, 1], 2, {"__prediction__": [3.0, 1.0]}),
        ([True, False], 2, {"__prediction__": [1.0, 0.0]}),
        (np.array([3, 1], dtype=np.uint8), 2, {"__prediction__": [3.0, 1.0]}),
        (np.array([0.5, 1.5]), 2, {"__output__": [0.5, 1.5]}),
        (np.array([0.5, 1.5], dtype=np.float32), 2, {"__output__": [0.5, 1.5]}),
        (np.array([[0.5], [1.5]]), 2, {"__output__": [0.5, 1.5]}),
        (pd.Series([0.5, 1.5]), 2, {"__output__": [0.5, 1.5]}),
        (0.5, 1, {"__output__": [0.5]}),
        (7, 1, {"__prediction__": [7.0]}),
        (np.float64(0.5), 1, {"__output__": [0.5]}),
        ([0.5], 1, {"__output__": [0.5]}),
        ({"probability": 0.5, "label": "yes"}, 1, {"__output__": [0.5]}),
        (Probable(label="yes", probability=0.5), 1, {"__output__": [0.5]}),
        (
            [Probable(label="yes", probability=0.5), Probable(label="no", probability=0.25)],
            2,
            {"__output__": [0.5, 0.25]},
        ),
        ({"prediction": 2}, 1, {"__prediction__": [2.0]}),
        ({"label": 2}, 1, {"__prediction__": [2.0]}),
    ],
)
def test_what_answers_say(answer, n, expected):
    """Scores, labels and numbers, bare or in named fields."""
    assert plain(columns(answer, n)) == expected


@pytest.mark.parametrize(
    ("answer", "n"),
    [
        ("text", 1),
        (b"bytes", 1),
        (None, 1),
        ({}, 1),
        ({"other": 1}, 1),
        ({"label": "yes"}, 1),
        ([], 0),
        ([], 1),
        (np.array([1, 2, 3]), 2),
        (np.zeros((2, 2, 2)), 2),
        ([[1, 2], [3]], 2),
        (np.array(["a", "b"]), 2),
        (object(), 1),
        (1 + 2j, 1),
        (Probable(label="refer", probability=None), 1),
        (0.5, 2),
        (iter([1, 2]), 2),
        ([{"scores": [1.0, 2.0]}, {"scores": [1.0]}], 2),
    ],
    ids=repr,
)
def test_what_says_nothing_by_rows(answer, n):
    """None, and never an exception."""
    assert columns(answer, n) is None


def test_one_answer_of_many_that_refuses_to_say():
    """A fallback's empty field among others: None, or that entry as missing, but no exception."""
    found = columns([Probable(label="yes", probability=0.5), Probable(label="refer", probability=None)], 2)
    assert found is None or np.isnan(found["__output__"][1])


def test_an_object_whose_array_cannot_be_made():
    """np.asarray calls what the user wrote: whatever that raises, the answer says nothing."""

    class Breaks:
        def __array__(self, *_args, **_options):
            raise TypeError("no array here")

    assert columns(Breaks(), 1) is None


@dataclass(slots=True)
class Slotted:
    """Looks like a model (it has model_dump) but keeps its fields in slots."""

    scores: list

    def model_dump(self):
        """As pydantic."""
        return {"scores": self.scores}


def test_a_model_without_a_dict_of_its_own():
    """Fields are read as attributes, wherever they live."""
    assert plain(columns(Slotted([0.1, 0.9]), 1)) == {"__prediction__": [1.0], "__confidence__": [0.9]}


def test_a_computed_field_counts():
    """`probability` may be a property of the model."""
    from pydantic import computed_field

    class Computed(BaseModel):
        raw: float

        @computed_field
        @property
        def probability(self) -> float:
            return self.raw / 2

    assert plain(columns(Computed(raw=1.0), 1)) == {"__output__": [0.5]}


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["scores", "label", "x"]), inner, max_size=2)
        ),
        max_leaves=8,
    ),
    st.integers(1, 3),
)
def test_any_json_is_read_or_passed_over(answer, n):
    """Whatever a method returns: columns of n finite-or-not numbers, or None."""
    found = columns(answer, n)
    assert found is None or all(len(values) == n and values.dtype == np.float64 for values in found.values())
