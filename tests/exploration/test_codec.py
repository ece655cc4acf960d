"""Reading scores out of answers, and serving another action in a copy of them."""

import copy
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from guardrails.exploration import codec


class Ranking(BaseModel):
    """An answer for one row."""

    model_config = ConfigDict(frozen=True)
    scores: list[float]
    action: int | None = None
    label: Any = None
    note: str = "kept"


class Table(BaseModel):
    """An answer for all rows."""

    scores: list[list[float]]
    note: str = "kept"


ONE = [0.1, 0.7, 0.2]
TWO = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]

READABLE = [
    (np.array(ONE), ONE), (ONE, ONE), (tuple(ONE), ONE), ({"scores": ONE}, ONE), (Ranking(scores=ONE), ONE),
    (np.array(TWO), TWO), (TWO, TWO), ([{"scores": row} for row in TWO], TWO), ([Ranking(scores=row) for row in TWO], TWO),
    ({"scores": TWO}, TWO), ({"scores": np.array(TWO)}, TWO), (Table(scores=TWO), TWO), ([1, 5, 2], [1, 5, 2]),
    (np.array(TWO, dtype=np.float32), np.array(TWO, dtype=np.float32)),
]  # fmt: skip


def scores_in(answer):
    """The scores of any answer, with a row axis."""
    return np.atleast_2d(codec.scores_of(answer))


@pytest.mark.parametrize(("answer", "scores"), READABLE, ids=lambda v: type(v).__name__)
def test_scores_are_found(answer, scores):
    """Arrays, lists, mappings, models, and lists of these."""
    np.testing.assert_array_equal(codec.scores_of(answer), scores)


@pytest.mark.parametrize(
    "answer",
    [
        "text",
        None,
        {},
        {"label": 1},
        [{"label": 1}],
        np.zeros((2, 2, 2)),
        3.0,
        object(),
        ["a", "b"],
        [[1, 2], [3]],
        Ranking,
    ],
    ids=repr,
)
def test_answers_without_scores_are_refused(answer):
    """A ValueError, which the pipeline contains."""
    with pytest.raises(ValueError):
        codec.scores_of(answer)


@pytest.mark.parametrize(("answer", "scores"), READABLE, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("chosen", [0, 2])
def test_the_served_action_is_the_argmax_and_only_two_scores_change_places(answer, scores, chosen):
    """Of one row; every other row, the type and the model's own object stay as they are."""
    original = copy.deepcopy(answer)
    before = scores_in(answer)
    single = np.asarray(codec.scores_of(answer)).ndim == 1
    row = 0
    greedy = int(before[row].argmax())
    served = codec.serve(answer, None if single else row, greedy, chosen)
    after = scores_in(served)
    expected = before.copy()
    expected[row, [greedy, chosen]] = before[row, [chosen, greedy]]
    np.testing.assert_array_equal(after, expected)
    assert after[row].argmax() == chosen
    assert type(served) is type(answer)
    assert served is not answer
    np.testing.assert_array_equal(scores_in(answer), scores_in(original))
    if not isinstance(answer, np.ndarray):
        assert repr(answer) == repr(original)
    if isinstance(answer, np.ndarray):
        assert served.dtype == answer.dtype


@pytest.mark.parametrize("kind", [dict, Ranking])
def test_an_action_or_label_that_held_the_greedy_number_follows(kind):
    """Everything else in the answer stays."""
    answer = kind(scores=ONE, action=1, label=1, note="kept")
    served = codec.serve(answer, None, 1, 2)
    get = served.get if isinstance(served, dict) else lambda name: getattr(served, name)
    assert (get("action"), get("label"), get("note")) == (2, 2, "kept")


@pytest.mark.parametrize("label", ["1", "song one", 7, None, [1], True], ids=repr)
def test_a_label_that_is_no_action_number_is_left_alone(label):
    """A name, another number, a list, a flag (True == 1, and yet it is no number of an action)."""
    served = codec.serve({"scores": ONE, "label": label}, None, 1, 2)
    assert served["label"] is label or served["label"] == label
    assert type(served["label"]) is type(label)


def test_a_label_that_is_an_array_is_left_alone():
    """Comparing it with a number gives an array, which is neither true nor false."""
    served = codec.serve({"scores": np.array(ONE), "label": np.array([1, 2])}, None, 1, 2)
    np.testing.assert_array_equal(served["scores"], [0.1, 0.2, 0.7])
