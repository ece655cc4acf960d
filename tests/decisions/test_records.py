"""Decision and Reward rows: what the store gets is what was recorded, digit for digit."""

import json
import math
import uuid

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guardrails.decisions import Decision, Reward
from guardrails.decisions.records import VERSION
from guardrails.decisions.stores.store import DECISIONS, REWARDS, DecisionStore

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def arrays():
    """A vector of floats."""
    return hnp.arrays(np.float64, st.integers(1, 6), elements=FINITE)


DECISION = st.builds(
    Decision,
    decision_id=st.just("set below"), ts=FINITE, api=TEXT, route=TEXT, reason=st.none() | TEXT,
    trace_id=st.none() | TEXT, profile=st.none() | TEXT, model=st.none() | TEXT,
    outlier_score=st.none() | FINITE | FINITE.map(np.float64), outlier_p_value=st.none() | FINITE,
    duration=st.none() | FINITE, policy=st.none() | TEXT, eligible=st.booleans(),
    scores=st.none() | arrays() | st.lists(FINITE, max_size=5), pmf=st.none() | arrays(),
    greedy=st.none() | st.integers(0, 10**6), action=st.none() | st.integers(0, 10**6), propensity=FINITE,
    salt_id=st.none() | TEXT, features=st.none() | arrays() | st.just("0af3"), error_type=st.none() | TEXT,
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store for the whole module: ids are random."""
    store = DecisionStore(f"sqlite:///{tmp_path_factory.mktemp('records')}/d.db")
    store.create()
    yield store
    store.close()


def same(stored, meant):
    """Equal, arrays by their digits."""
    if isinstance(meant, np.ndarray):
        return json.loads(stored) == meant.tolist()
    if isinstance(meant, list):
        return json.loads(stored) == meant
    return stored == meant


@settings(max_examples=150, deadline=None)
@given(decision=DECISION)
def test_a_decision_comes_back_as_it_was(store, decision):
    """Through the database: every field, every digit of every float."""
    decision.decision_id = uuid.uuid4().hex  # Hypothesis' own ids repeat, and a decision is written once
    store.write("decision", [decision.row()])
    with store.engine.connect() as connection:
        row = (
            connection.execute(sa.select(DECISIONS).where(DECISIONS.c.decision_id == decision.decision_id))
            .one()
            ._asdict()
        )
    assert row["v"] == VERSION
    for name in Decision.__slots__:
        assert same(row[name], getattr(decision, name)), name


def test_a_row_has_the_columns_of_the_table():
    """No field without a column, none the other way round."""
    assert set(Decision("a", 0.0, "p", "primary").row()) == set(DECISIONS.columns.keys())
    assert set(Reward("a", 0.0).row()) == set(REWARDS.columns.keys()) - {"id"}


@settings(max_examples=100, deadline=None)
@given(
    label=st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.integers(), max_size=3),
    reward=st.none() | FINITE,
)
def test_a_label_of_any_json_comes_back(store, label, reward):
    """Text, numbers, lists, also half a surrogate pair, also a number beyond 64 bits."""
    store.write("reward", [Reward("r", 1.0, reward=reward, label=label).row()])
    row = max(store.read("reward"), key=lambda row: row["id"])
    assert row["reward"] == reward
    assert (None if row["label"] is None else json.loads(row["label"])) == label


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_scores_that_are_no_numbers_come_back(store, value):
    """Python's JSON has names for them."""
    decision = Decision(f"odd-{value}", 1.0, "p", "primary", scores=np.array([value, 1.0]))
    store.write("decision", [decision.row()])
    (row,) = [row for row in store.read() if row["decision_id"] == decision.decision_id]
    np.testing.assert_array_equal(json.loads(row["scores"]), [value, 1.0])


def test_numpy_numbers_are_stored_as_numbers(store):
    """SQLite would keep np.int64(3) as eight bytes of binary: `action` could not be joined on."""
    decision = Decision(
        "numpy", np.float64(1.5), "p", "primary", greedy=np.int64(3), action=np.int32(2), propensity=np.float32(0.5),
        duration=np.float64(0.25), eligible=np.bool_(True), outlier_score=np.float32(0.5),
    )  # fmt: skip
    store.write("decision", [decision.row()])
    (row,) = [row for row in store.read() if row["decision_id"] == "numpy"]
    assert (row["greedy"], row["action"], row["propensity"], row["eligible"]) == (3, 2, 0.5, True)
    store.write("reward", [Reward("numpy", 1.0, reward=np.float32(0.5), served_action=np.int64(2)).row()])
    row = max(store.read("reward"), key=lambda row: row["id"])
    assert (row["reward"], row["served_action"]) == (0.5, 2)


def test_lists_of_numpy_numbers_are_stored(store):
    """A model's scores as a list of float32."""
    decision = Decision("list32", 1.0, "p", "primary", scores=[np.float32(0.5), np.float32(0.25)])
    store.write("decision", [decision.row()])
    (row,) = [row for row in store.read() if row["decision_id"] == "list32"]
    assert json.loads(row["scores"]) == [0.5, 0.25]
