"""@explore around whole answers: what is served, what is recorded, and whether the two agree."""

import copy
import hashlib
import logging
import math
import os
import zlib
from collections import Counter

import numpy as np
import pytest
from pydantic import BaseModel
from scipy import stats

import guardrails as gr
from guardrails.errors import DecorationError
from guardrails.exploration import draw
from guardrails.exploration.codec import serve
from guardrails.testing import strict

KEY = "a secret of 24 bytes ok."
ALPHA = 1e-4
SCORES = [0.1, 0.7, 0.2, 0.4]


class Ranking(BaseModel):
    """An answer with scores in a field."""

    scores: list[float]
    action: int | None = None


@pytest.fixture(autouse=True)
def key(monkeypatch, request):
    """Reproducible draws: a fixed key, and decision ids out of a seeded generator."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", KEY)
    monkeypatch.setattr(os, "urandom", np.random.default_rng(zlib.crc32(request.node.name.encode())).bytes)


SHAPES = {
    "array (1, K)": lambda: np.array([SCORES]),
    "array (K,)": lambda: np.array(SCORES),
    "list of lists": lambda: [list(SCORES)],
    "list": lambda: list(SCORES),
    "tuple": lambda: tuple(SCORES),
    "dict": lambda: {"scores": list(SCORES), "action": 1},
    "dict of (1, K)": lambda: {"scores": np.array([SCORES])},
    "dict of lists of lists": lambda: {"scores": [list(SCORES)]},
    "list of dicts": lambda: [{"scores": list(SCORES), "action": 1}],
    "model": lambda: Ranking(scores=SCORES, action=1),
    "list of models": lambda: [Ranking(scores=SCORES, action=1)],
}


def read(answer):
    """The scores of the one row in an answer, and its action where it has one."""
    if isinstance(answer, list | tuple) and not isinstance(answer[0], float | int):
        answer = answer[0]
    get = answer.get if isinstance(answer, dict) else lambda name, other=None: getattr(answer, name, other)
    scores = get("scores") if isinstance(answer, dict | BaseModel) else answer
    action = get("action") if isinstance(answer, dict | BaseModel) else None
    return np.asarray(scores).ravel(), action


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_served_is_what_is_recorded(shape):
    """Not explored: the model's own object. Explored: a copy, in which two scores changed places."""
    seen, own = [], []

    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> object:
        own.append(SHAPES[shape]())
        return own[-1]

    explored = 0
    with strict():
        for _ in range(60):
            answer = rank(np.zeros((1, 2)))
            decision = seen[-1]
            scores, action = read(answer)
            assert scores.argmax() == decision.action
            assert decision.greedy == 1
            assert action in (None, decision.action)
            expected = np.array(SCORES)
            expected[[1, decision.action]] = expected[[decision.action, 1]]
            np.testing.assert_array_equal(scores, expected)
            assert repr(own[-1]) == repr(SHAPES[shape]())
            if decision.action == decision.greedy:
                assert answer is own[-1]
            else:
                explored += 1
                assert type(answer) is type(own[-1])
            assert decision.propensity == decision.pmf[decision.action]
            np.testing.assert_array_equal(decision.scores, SCORES)
            assert decision.eligible
            assert decision.policy == "EpsilonGreedy(epsilon=0.5)"
    assert 3 < explored < 57
    assert len(seen) == 60


def test_propensities_are_the_frequencies():
    """20,000 calls: every action is served as often as its recorded propensity says."""
    seen = []

    @gr.explore(gr.EpsilonGreedy(0.4), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([SCORES])

    rows = np.zeros((1, 2))
    served = Counter(int(rank(rows).argmax()) for _ in range(20_000))
    assert served == Counter(decision.action for decision in seen)
    stated = {decision.action: decision.propensity for decision in seen}
    assert {(decision.action, decision.propensity) for decision in seen} == set(stated.items())
    counts = [served[action] for action in range(4)]
    assert stats.chisquare(counts, [stated[action] * 20_000 for action in range(4)]).pvalue > ALPHA
    # Inverse propensities add up to the number of calls, action by action: what IPS stands on.
    for action in range(4):
        n, p = served[action], stated[action]
        assert abs(n / p - 20_000) < 4.5 * math.sqrt(20_000 * (1 - p) / p)


def test_each_row_of_a_batch_is_drawn_and_recorded_by_itself():
    """Also where no other guard has counted the rows: every decorator works alone."""
    seen = []

    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    answers = np.array([rank(np.zeros((5, 2))).argmax(axis=1) for _ in range(200)])
    assert len(seen) == 1000, "one record for each row"
    assert [decision.action for decision in seen] == answers.ravel().tolist()
    assert all(decision.decision_id.endswith(f"/{i % 5}") for i, decision in enumerate(seen))
    # Rows of a request explore independently: the number of explored rows is binomial.
    explored = (answers != 1).sum(axis=1)
    assert abs(explored.var() / (5 * 0.375 * 0.625) - 1) < 0.5


def test_each_row_of_a_batch_is_recorded_where_another_guard_counts_the_rows():
    """The same with the outlier check around it."""
    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)
    seen = []

    @gr.check_outliers(detector, fallback=gr.constant(np.full(4, -1.0)))
    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    with strict():
        answers = np.array([rank(np.zeros((5, 2))).argmax(axis=1) for _ in range(200)])
    assert [decision.action for decision in seen] == answers.ravel().tolist()
    explored = (answers != 1).sum(axis=1)
    assert abs(explored.var() / (5 * 0.375 * 0.625) - 1) < 0.5
    assert stats.chisquare(np.bincount(answers.ravel(), minlength=4), 1000 * seen[0].pmf).pvalue > ALPHA


def test_a_vector_of_one_number_per_row_is_no_ranking():
    """n rows answered with n numbers (a regression): swapping them would hand out other people's answers."""
    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)

    @gr.check_outliers(detector, fallback=gr.constant([-1.0]))
    @gr.explore(gr.EpsilonGreedy(0.5))
    def predict(rows: np.ndarray) -> np.ndarray:
        return np.array([0.1, 0.2, 0.3])

    for _ in range(60):
        np.testing.assert_array_equal(predict(np.zeros((3, 2))), [0.1, 0.2, 0.3])


def mixed(seen):
    """A ranking whose outliers are answered by a fallback."""
    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)

    @gr.check_outliers(detector, fallback=gr.constant(np.array([[0.9, 0.0, 0.0, 0.0]])))
    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    return rank


def test_outliers_are_never_explored():
    """Alone or among others: the fallback's answer as it is, propensity 1, not eligible, no action."""
    seen = []
    rank = mixed(seen)
    rows = np.array([[0.0, 0.0], [99.0, -99.0], [0.1, 0.1]])
    with strict():
        for _ in range(100):
            seen.clear()
            answer = rank(rows)
            np.testing.assert_array_equal(answer[1], [0.9, 0.0, 0.0, 0.0])
            assert (seen[1].propensity, seen[1].eligible, seen[1].pmf, seen[1].policy) == (1.0, False, None, None)
            assert seen[1].route.startswith("fallback:")
            assert [seen[0].action, seen[2].action] == answer[[0, 2]].argmax(axis=1).tolist()
            assert seen[0].eligible
            assert seen[2].eligible
            assert seen[0].propensity == seen[0].pmf[seen[0].action]
        seen.clear()
        rank(rows[1:2])
    assert (seen[0].propensity, seen[0].eligible, seen[0].action) == (1.0, False, None)


def test_a_fallback_of_another_shape_does_not_stop_the_exploration_of_the_others():
    """A list in which one row was answered without scores: the primary's rows are drawn as ever."""
    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)
    seen = []

    @gr.check_outliers(detector, fallback=gr.constant([{"label": "ask somebody"}]))
    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> list:
        return [{"scores": list(SCORES)} for _ in rows]

    for _ in range(40):
        rank(np.array([[0.0, 0.0], [99.0, -99.0]]))
    assert all(decision.eligible for decision in seen[::2])
    assert len({decision.action for decision in seen[::2]}) > 1


def test_an_answer_that_replaced_the_primarys_is_not_explored():
    """The primary answered its row, but the fallback's answer did not go row by row, so it answered the whole request."""
    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)
    seen = []

    @gr.check_outliers(detector, fallback=gr.constant(np.array([0.9, 0.0, 0.0, 0.0])))
    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    for _ in range(60):
        np.testing.assert_array_equal(rank(np.array([[0.0, 0.0], [99.0, -99.0]])), [0.9, 0.0, 0.0, 0.0])
    assert {(d.route, d.eligible, d.propensity, d.action) for d in seen} == {("fallback:constant", False, 1.0, None)}


def test_a_rescued_answer_is_not_explored():
    """The model crashed; what stands in for it is served as it is."""
    seen = []

    @gr.fall_back(to=gr.constant([0.0, 0.0, 1.0]))
    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> list:
        raise RuntimeError("sick")

    with strict():
        assert all(rank(np.zeros((1, 2))) == [0.0, 0.0, 1.0] for _ in range(30))
    assert {(d.propensity, d.eligible, d.action) for d in seen} == {(1.0, False, None)}


def test_a_failing_apply_serves_the_models_own_answer_with_propensity_one():
    """The record tells what was served, not what was meant."""
    seen, own = [], []

    def apply(answer, row, greedy, action):
        raise KeyError("cannot write this")

    @gr.explore(gr.EpsilonGreedy(0.5), apply=apply, decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        own.append(np.array([SCORES]))
        return own[-1]

    for _ in range(60):
        assert rank(np.zeros((1, 2))) is own[-1]
    # Whether it fails is found out before the draw: of those that drew the model's own choice, too.
    assert {(d.eligible, d.propensity, d.pmf, d.policy) for d in seen} == {(False, 1.0, None, None)}


def test_an_apply_that_fails_after_a_draw_ends_the_exploration():
    """What is left would be chosen by its own draw: no probability would be true any more."""
    seen = []

    def apply(answer, row, greedy, action):
        if action == 3:
            raise KeyError("cannot write this one")
        return serve(answer, row, greedy, action)

    @gr.explore(gr.EpsilonGreedy(0.5), apply=apply, decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([SCORES])

    for _ in range(200):
        rank(np.zeros((1, 2)))
    first = next(at for at, decision in enumerate(seen) if not decision.eligible)
    assert seen[first].policy is None
    assert {(d.ineligible, d.propensity, d.action) for d in seen[first + 1 :]} == {("unwritable", 1.0, 1)}


def test_an_apply_that_fails_half_way_changes_nothing():
    """Row 0 was written when row 1 failed: the model's own object is served whole."""
    calls = []

    def apply(answer, row, greedy, action):
        calls.append(row)
        if len(calls) > 1:
            raise KeyError
        copy_ = answer.copy()
        copy_[row] = -1
        return copy_

    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)

    @gr.check_outliers(detector)
    @gr.explore(gr.EpsilonGreedy(0.5), apply=apply)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    np.testing.assert_array_equal(rank(np.zeros((40, 2))), np.tile(SCORES, (40, 1)))
    assert len(calls) == 2, "both before the draw"


@pytest.mark.parametrize("answer", [np.array([[np.nan, 1.0]]), "text", None, np.empty((1, 0))], ids=repr)
def test_an_answer_that_cannot_be_explored_is_served_as_it_is(answer):
    """Counted as the guard's error, never the client's."""
    seen = []

    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> object:
        return answer

    assert rank(np.zeros((1, 2))) is answer
    assert (seen[0].propensity, seen[0].eligible) == (1.0, False)


def by_user(seen, epsilon=0.5):
    """A ranking that is explored by user."""

    @gr.explore(gr.EpsilonGreedy(epsilon), unit="user", decisions=seen.append)
    def rank(rows: np.ndarray, user: object = None) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    return rank


def test_a_user_keeps_the_draw_for_a_day(monkeypatch):
    """The same all day (UTC); another draw on another day; different users differ."""
    seen = []
    rank = by_user(seen)
    morning = 1_700_006_400 * 10**9  # 15 November 2023, 00:00 UTC
    actions = {}
    for day in range(60):
        for second in (0, 3600, 86_399):
            monkeypatch.setattr(
                "guardrails.core.call.time.time_ns", lambda at=morning + (day * 86_400 + second) * 10**9: at
            )
            actions.setdefault(day, set()).add(int(rank(np.zeros((1, 2)), user="ann").argmax()))
    assert all(len(drawn) == 1 for drawn in actions.values())
    counts = np.bincount([drawn.pop() for drawn in actions.values()], minlength=4)
    assert stats.chisquare(counts, 60 * np.asarray(seen[0].pmf)).pvalue > ALPHA


def test_users_are_drawn_by_the_probabilities():
    """Over users the frequencies are the propensities."""
    seen = []
    rank = by_user(seen)
    rows = np.zeros((1, 2))
    counts = np.bincount([int(rank(rows, user=f"user {i}").argmax()) for i in range(4000)], minlength=4)
    assert stats.chisquare(counts, 4000 * np.asarray(seen[0].pmf)).pvalue > ALPHA


def test_a_drawn_user_can_be_replayed_with_the_key():
    """The record's own unit, key and pmf give the action again; the unit is the day's, the method's and the user's."""
    from datetime import datetime, timezone

    from guardrails.exploration.randomness import token

    seen = []
    rank = by_user(seen)
    for i in range(50):
        rank(np.zeros((1, 2)), user=f"user {i}")
        day = datetime.fromtimestamp(seen[-1].ts, timezone.utc).date().isoformat()
        assert seen[-1].unit == token(f"{day}/rank/user {i}", KEY.encode())
        assert draw(seen[-1].pmf, seen[-1].unit, KEY.encode()) == seen[-1].action


@pytest.mark.parametrize("user", [None, "", float("nan"), np.nan], ids=repr)
def test_without_a_unit_nothing_is_explored(user):
    """The greedy action, propensity 1, not eligible: a made-up unit would not be the user's."""
    seen = []
    rank = by_user(seen)
    for _ in range(40):
        assert rank(np.zeros((1, 2)), user=user).argmax() == 1
    assert {(d.propensity, d.eligible, d.action) for d in seen} == {(1.0, False, 1)}
    np.testing.assert_array_equal(seen[0].pmf, [0, 1, 0, 0])


def test_units_of_a_batch_are_read_row_by_row():
    """A list of users, one of them missing."""
    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)
    seen = []

    @gr.check_outliers(detector)
    @gr.explore(gr.EpsilonGreedy(0.5), unit="users", decisions=seen.append)
    def rank(rows: np.ndarray, users: object = None) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    for users in (["ann", None, "bob"], ("ann", "", "bob"), np.array(["ann", None, "bob"], dtype=object)):
        seen.clear()
        with strict():
            rank(np.zeros((3, 2)), users=users)
        assert [d.eligible for d in seen] == [True, False, True]
        assert seen[1].propensity == 1.0
    alone = []
    by_user(alone)(np.zeros((1, 2)), user="ann")
    assert alone[0].action == seen[0].action


class Remembering:
    """A policy that keeps its table and hands out the same array each time."""

    def __init__(self):
        self.table = np.full(4, 0.25)

    def pmf(self, scores):
        """Uniform."""
        return self.table.reshape(scores.shape)


class ReadOnly:
    """A policy that hands out a read-only view."""

    def pmf(self, scores):
        """Uniform."""
        return np.broadcast_to(0.25, scores.shape)


def test_a_policys_own_arrays_are_not_written_to():
    """One request without a unit must not change the probabilities of the requests after it."""
    policy, seen = Remembering(), []

    @gr.explore(policy, unit="user", decisions=seen.append)
    def rank(rows: np.ndarray, user: object = None) -> np.ndarray:
        return np.array([SCORES])

    rank(np.zeros((1, 2)), user=None)
    np.testing.assert_array_equal(policy.table, 0.25)
    rank(np.zeros((1, 2)), user="ann")
    assert seen[-1].propensity == 0.25


def test_a_policy_may_return_a_read_only_array():
    """Nothing in the protocol says that it may be written to."""
    seen = []

    @gr.explore(ReadOnly(), unit="user", decisions=seen.append)
    def rank(rows: np.ndarray, user: object = None) -> np.ndarray:
        return np.array([SCORES])

    with strict():
        rank(np.zeros((1, 2)), user=None)
    assert (seen[0].propensity, seen[0].eligible) == (1.0, False)


def test_a_record_keeps_the_scores_it_was_made_of():
    """The model may reuse its buffer: the record is written later."""
    buffer, seen = np.array([SCORES]), []

    @gr.explore(gr.EpsilonGreedy(0.0), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return buffer

    rank(np.zeros((1, 2)))
    buffer[:] = 0.0
    np.testing.assert_array_equal(seen[0].scores, SCORES)


def test_epsilon_zero_never_explores():
    """Propensity 1 then, and the model's own object always."""
    seen, own = [], np.array([SCORES])

    @gr.explore(gr.EpsilonGreedy(0.0), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return own

    assert all(rank(np.zeros((1, 2))) is own for _ in range(200))
    assert {d.propensity for d in seen} == {1.0}


def test_a_set_key_makes_the_draws_replayable():
    """decision id, pmf and key give the served action again; the salt id names the key and gives nothing away."""
    seen = []

    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([SCORES])

    for _ in range(50):
        rank(np.zeros((1, 2)))
    assert all(draw(d.pmf, d.decision_id, KEY.encode()) == d.action for d in seen)
    (salt,) = {d.salt_id for d in seen}
    assert KEY not in salt
    assert hashlib.sha256(KEY.encode()).hexdigest()[: len(salt)] != salt


def test_without_a_key_each_worker_makes_its_own(monkeypatch, caplog):
    """Said once in the log; two bindings have different salts."""
    monkeypatch.delenv("GUARDRAILS_EXPLORATION_KEY")
    salts = set()
    with caplog.at_level(logging.INFO, "guardrails"):
        for _ in range(2):
            seen = []

            @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
            def rank(rows: np.ndarray) -> np.ndarray:
                return np.array([SCORES])

            rank(np.zeros((1, 2)))
            salts.add(seen[0].salt_id)
    assert len(salts) == 2
    assert "GUARDRAILS_EXPLORATION_KEY is not set" in caplog.text


def test_another_variable_may_hold_the_key(monkeypatch):
    """key= names it."""
    monkeypatch.setenv("MY_KEY", "another secret, long enough")
    seen = []

    @gr.explore(gr.EpsilonGreedy(0.5), key="MY_KEY", decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([SCORES])

    rank(np.zeros((1, 2)))
    assert draw(seen[0].pmf, seen[0].decision_id, b"another secret, long enough") == seen[0].action


@pytest.mark.parametrize("text", ["", "short", "x" * 15, "x" * 65])
def test_a_key_of_the_wrong_size_is_refused_at_start(monkeypatch, text):
    """With the number of bytes it has, and without the key."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", text)

    @gr.explore(gr.EpsilonGreedy(0.5))
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([SCORES])

    with pytest.raises(DecorationError, match=f"holds {len(text)} bytes") as caught:
        gr.pipeline_of(rank).bind(None)
    assert not text or text not in str(caught.value).replace("GUARDRAILS_EXPLORATION_KEY", "")


def test_bad_options_are_refused_at_decoration():
    """A stranger as policy, a unit that is no argument, a stream."""
    with pytest.raises(DecorationError, match="pmf"):
        gr.explore(object())(lambda rows: rows)
    with pytest.raises(DecorationError, match="unit='nobody'"):
        gr.explore(gr.EpsilonGreedy(0.1), unit="nobody")(lambda rows: rows)

    def stream(rows):
        yield rows

    with pytest.raises(DecorationError, match="streams"):
        gr.explore(gr.EpsilonGreedy(0.1))(stream)


def test_the_answers_of_an_async_method_are_explored_alike():
    """The same pipeline around a coroutine."""
    import asyncio

    seen = []

    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    async def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([SCORES])

    async def many():
        return [int((await rank(np.zeros((1, 2)))).argmax()) for _ in range(100)]

    assert asyncio.run(many()) == [d.action for d in seen]
    assert len({d.action for d in seen}) > 1


def test_own_readers_and_writers():
    """scores= and apply= together: an answer of another make."""
    seen = []

    def apply(answer, row, greedy, action):
        return {**answer, "order": [action]}

    @gr.explore(gr.EpsilonGreedy(0.5), scores=lambda answer: answer["s"], apply=apply, decisions=seen.append)
    def rank(rows: np.ndarray) -> dict:
        return {"s": copy.copy(SCORES), "order": [1]}

    with strict():
        for _ in range(50):
            assert rank(np.zeros((1, 2)))["order"] == [seen[-1].action]


def test_scores_that_arrive_as_lists_from_an_own_reader():
    """scores= may return anything array-like, also of integers."""
    seen = []

    @gr.explore(
        gr.EpsilonGreedy(0.5), scores=lambda answer: [1, 3, 2], apply=lambda a, r, g, c: c, decisions=seen.append
    )
    def rank(rows: np.ndarray) -> int:
        return 1

    with strict():
        assert all(rank(np.zeros((1, 2))) == seen[-1].action for _ in range(50))
