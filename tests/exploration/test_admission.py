"""What may forbid exploration does so before the draw, and the record says which it was."""

import os
import zlib
from collections import Counter

import numpy as np
import pytest

import guardrails as gr
from guardrails.errors import DecorationError
from guardrails.exploration import Cap, EpsilonGreedy, PoolInjection, RegretBudget, Softmax
from guardrails.exploration.limits import Bucket, CapCounter
from guardrails.testing import strict

SCORES = [0.1, 0.7, 0.2, 0.4]


@pytest.fixture(autouse=True)
def key(monkeypatch, request):
    """Reproducible draws."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", "a secret of 24 bytes ok.")
    monkeypatch.setattr(os, "urandom", np.random.default_rng(zlib.crc32(request.node.name.encode())).bytes)


def ranker(seen, policy=None, **options):
    """A method of rows and users."""

    @gr.explore(policy or EpsilonGreedy(0.5), decisions=seen.append, **options)
    def rank(rows: np.ndarray, user: object = None) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    return rank


def test_a_rule_keeps_requests_out_and_names_itself():
    """By name, or by the function's own; the record holds which rule it was."""
    seen = []

    def grown_up(rows, user=None):
        return user != "minor"

    rank = ranker(seen, rules=[grown_up])
    with strict():
        for user in ["minor", "ann"] * 50:
            rank(np.zeros((1, 2)), user=user)
    minors, others = seen[0::2], seen[1::2]
    assert {(d.eligible, d.ineligible, d.propensity, d.action) for d in minors} == {(False, "rule:grown_up", 1.0, 1)}
    assert all(d.eligible for d in others)
    assert len({d.action for d in others}) == 4


def test_a_rule_may_judge_row_by_row():
    """A mask, one entry per row; of another length it is an error, and nothing is explored."""
    seen = []
    rank = ranker(seen, rules={"positive": lambda rows, user=None: rows[:, 0] > 0})
    with strict():
        rank(np.array([[1.0, 0], [-1.0, 0], [2.0, 0]]))
    assert [(d.eligible, d.ineligible) for d in seen] == [(True, None), (False, "rule:positive"), (True, None)]
    seen.clear()
    rank = ranker(seen, rules={"short": lambda rows, user=None: [True]})
    rank(np.zeros((2, 2)))
    assert [(d.eligible, d.propensity) for d in seen] == [(False, 1.0)] * 2


def test_a_rule_that_fails_explores_nothing():
    """The guard's error is contained; the model's own answer is served with probability one."""
    seen = []

    def broken(rows, user=None):
        raise LookupError("no such table")

    rank = ranker(seen, rules=[broken])
    for _ in range(20):
        assert rank(np.zeros((1, 2))).argmax() == 1
    assert {(d.eligible, d.propensity) for d in seen} == {(False, 1.0)}


@pytest.mark.parametrize("unit", [None, "user"])
def test_the_ramp_lets_its_share_in_and_growing_keeps_who_is_in(unit):
    """By request or by user; the draws of those inside are the policy's own."""
    inside = {}
    for ramp in (0.2, 0.6):
        seen = []
        os.urandom = np.random.default_rng(5).bytes
        rank = ranker(seen, unit=unit, ramp=ramp)
        for number in range(2000):
            rank(np.zeros((1, 2)), user=f"user {number}")
        inside[ramp] = {number for number, d in enumerate(seen) if d.eligible}
        assert abs(len(inside[ramp]) / 2000 - ramp) < 5 * np.sqrt(ramp * (1 - ramp) / 2000)
        assert {d.ineligible for d in seen} == {None, "ramp"}
        assert {d.ramp for d in seen} == {ramp}
        drawn = Counter(d.action for d in seen if d.eligible)
        share = drawn[1] / drawn.total()
        # The gate's number is not the pick's: those let in explore as often as everybody would.
        assert abs(share - 0.625) < 5 * np.sqrt(0.625 * 0.375 / drawn.total())
    assert inside[0.2] < inside[0.6]


def test_a_ramp_of_zero_explores_nobody():
    """And of one everybody, which is not recorded."""
    seen = []
    rank = ranker(seen, ramp=0.0)
    for _ in range(20):
        rank(np.zeros((1, 2)))
    assert {(d.ineligible, d.ramp) for d in seen} == {("ramp", 0.0)}


def test_a_capped_user_is_served_the_models_own(monkeypatch):
    """After so many answers that differed; others are not affected; the next window begins anew."""
    seen, now = [], [1000.0]
    monkeypatch.setattr("guardrails.exploration.limits.time.monotonic", lambda: now[0])
    day = [1_700_006_400 * 10**9]
    monkeypatch.setattr("guardrails.core.call.time.time_ns", lambda: day[0])
    rank = ranker(seen, policy=Softmax(1.0), unit="user", cap=Cap(2, window=60))
    for _ in range(400):  # another day each time, so that ann is drawn anew
        day[0] += 86_400 * 10**9
        rank(np.zeros((1, 2)), user="ann")
    assert sum(d.action != d.greedy for d in seen) == 2
    assert seen[-1].ineligible == "cap"
    rank(np.zeros((1, 2)), user="bob")
    assert seen[-1].eligible
    now[0] += 61
    rank(np.zeros((1, 2)), user="ann")
    assert seen[-1].eligible


def test_the_cap_forgets_who_was_heard_of_longest_ago():
    """Memory is bounded by the number of units."""
    counter = CapCounter(Cap(1), units=2)
    for unit in ("a", "b", "c"):
        assert counter.take(unit)
        counter.settle(unit, explored=True)
    assert [counter.take(unit) for unit in ("a", "b", "c")] == [True, False, False]


def test_rows_of_one_request_cannot_overdraw_a_cap_together():
    """Each takes a place before it is drawn, and gives it back where nothing came of it."""
    seen = []
    rank = ranker(seen, policy=Softmax(1.0), unit="user", cap=Cap(2))
    with strict():
        rank(np.zeros((50, 2)), user=["ann"] * 50)
    assert sum(d.action != d.greedy for d in seen) <= 2
    assert sum(d.ineligible == "cap" for d in seen) == 48
    counter = CapCounter(Cap(1))
    assert counter.take("a")
    assert not counter.take("a")
    counter.settle("a", explored=False)
    assert counter.take("a")


def test_a_budget_weakens_the_exploration_and_the_records_stay_exact(monkeypatch):
    """What is given up stays within the budget; the logged probabilities are the frequencies still."""
    seen, now = [], [0.0]
    monkeypatch.setattr("guardrails.exploration.limits.time.monotonic", lambda: now[0])
    rank = ranker(seen, budget=RegretBudget(0.5, burst=0.5))
    for _ in range(4000):
        now[0] += 0.01
        rank(np.zeros((1, 2)))
    regret = sum(float(np.asarray(d.pmf) @ (0.7 - np.asarray(SCORES))) for d in seen)
    assert regret <= 0.5 + 40 * 0.5 + 1e-9
    assert regret > 0.95 * 20
    strengths = {round(d.strength, 6) for d in seen}
    assert min(strengths) < 0.1 < max(strengths)
    # Sum over decisions of (differs - probability of differing), in standard deviations.
    p = np.array([1 - d.pmf[1] for d in seen])
    differs = np.array([d.action != 1 for d in seen])
    assert abs((differs - p).sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    np.testing.assert_allclose([np.sum(d.pmf) for d in seen], 1.0, atol=1e-12)


def test_a_budget_weakens_lists_alike(monkeypatch):
    """A list's policy is the same with a smaller epsilon, and its record replays."""
    seen, now = [], [0.0]
    monkeypatch.setattr("guardrails.exploration.limits.time.monotonic", lambda: now[0])
    rank = ranker(seen, policy=PoolInjection(0.8, slots=2), budget=RegretBudget(0.5, burst=0.3))
    for _ in range(500):
        now[0] += 0.01
        rank(np.zeros((1, 2)))
    assert min(d.strength for d in seen) < 0.5
    own = [d.propensity for d in seen if d.served == [1, 3]]
    np.testing.assert_allclose(own, [1 - 0.8 * d.strength for d in seen if d.served == [1, 3]])
    assert gr.exploration.replay_all(seen, b"a secret of 24 bytes ok.").differing == ()


def test_a_bucket_is_shared_out_and_never_overdrawn(monkeypatch):
    """Among workers; a regret of zero costs nothing, one that is no number gets nothing."""
    now = [0.0]
    monkeypatch.setattr("guardrails.exploration.limits.time.monotonic", lambda: now[0])
    bucket = Bucket(RegretBudget(4.0, burst=8.0), workers=4)
    assert bucket.share(1.0) == 1.0
    assert bucket.share(4.0) == pytest.approx(0.25)
    assert bucket.share(4.0) == 0.0
    assert bucket.share(0.0) == 1.0
    assert bucket.share(float("nan")) == 0.0
    now[0] = 1.0
    assert bucket.tokens == pytest.approx(1.0)
    assert bucket.share(2.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "exclude",
    [[0, 3], {0, 3}, np.array([True, False, False, True]), lambda rows, user=None: [0, 3]],
    ids=["list", "set", "mask", "function"],
)
def test_excluded_actions_are_never_drawn_and_the_rest_shares_their_probability(exclude):
    """The mask comes before the probabilities: no veto after the draw."""
    seen = []
    rank = ranker(seen, exclude=exclude)
    with strict():
        for _ in range(300):
            rank(np.zeros((1, 2)))
    assert {d.action for d in seen} == {1, 2}
    np.testing.assert_allclose([d.pmf for d in seen], np.tile([0, 0.75, 0.25, 0], (300, 1)))
    assert seen[0].excluded == [0, 3]
    assert all(gr.exploration.check_probabilities(d) for d in seen)


def test_an_excluded_action_that_the_model_chose_is_served():
    """Exclusion keeps exploration away from it, not the model."""
    seen = []
    rank = ranker(seen, exclude=[1, 3])
    with strict():
        for _ in range(200):
            rank(np.zeros((1, 2)))
    assert {d.action for d in seen} == {0, 1, 2}
    assert seen[0].excluded == [3]


def test_excluded_candidates_stay_out_of_lists():
    """By number, or of listed answers by name; what the model listed itself stays."""
    seen = []
    rank = ranker(seen, policy=PoolInjection(1.0, slots=2), exclude=[0, 1])
    with strict():
        for _ in range(60):
            rank(np.zeros((1, 2)))
    assert {i for d in seen for i in d.served} == {1, 2, 3}
    assert seen[0].excluded == [0]
    assert gr.exploration.replay_all(seen, b"a secret of 24 bytes ok.").differing == ()

    @gr.explore(PoolInjection(1.0, slots=2), pool=["x", "y"], exclude=["x", "a"], decisions=seen.append)
    def listed(rows: np.ndarray) -> list:
        return ["a", "b"]

    with strict():
        assert {name for _ in range(60) for name in listed(np.zeros((1, 2)))} == {"a", "b", "y"}


def test_a_deferred_answer_says_so():
    """In its record; the join leaves it out until it was shown."""
    seen = []
    ranker(seen, deferred=True)(np.zeros((1, 2)))
    assert seen[0].deferred
    seen.clear()
    ranker(seen)(np.zeros((1, 2)))
    assert not seen[0].deferred


def test_among_equal_scores_the_answer_says_which_was_served():
    """A swap of equal scores would change nothing, and the client would take the first of them."""
    seen = []
    for kind in (np.float64, np.float32, np.int64):

        @gr.explore(EpsilonGreedy(0.5), decisions=seen.append)
        def rank(rows: np.ndarray, kind: object = kind) -> np.ndarray:
            return np.zeros((1, 4), dtype=kind)

        with strict():
            answers = [rank(np.zeros((1, 2))) for _ in range(60)]
        assert [int(answer.argmax()) for answer in answers] == [d.action for d in seen]
        assert len({d.action for d in seen}) == 4
        seen.clear()

    @gr.explore(EpsilonGreedy(0.5), decisions=seen.append)
    def infinite(rows: np.ndarray) -> np.ndarray:
        return np.array([[np.inf, np.inf, 0.0]])

    with strict():
        answers = [infinite(np.zeros((1, 2))) for _ in range(60)]
    assert [int(answer.argmax()) for answer in answers] == [d.action for d in seen]


def test_the_models_own_choice_among_equals_is_the_greedy_one():
    """An action field says what the model would have served: that is what keeps most of the probability."""
    seen = []

    @gr.explore(EpsilonGreedy(0.4), decisions=seen.append)
    def choose(rows: np.ndarray) -> dict:
        return {"scores": [0.5, 0.5, 0.1], "action": 1}

    with strict():
        answers = [choose(np.zeros((1, 2))) for _ in range(400)]
    assert [answer["action"] for answer in answers] == [d.action for d in seen]
    assert {d.greedy for d in seen} == {1}
    np.testing.assert_allclose(seen[0].pmf, [0.4 / 3, 0.6 + 0.4 / 3, 0.4 / 3])
    assert all(gr.exploration.check_probabilities(d) for d in seen)


@pytest.mark.parametrize(
    "options",
    [
        {"rules": {"adult": lambda age: age >= 18}},
        {"rules": [lambda rows: True]},
        {"exclude": lambda rows: [1]},
    ],
    ids=["another name", "too few", "exclude"],
)
def test_a_function_that_cannot_take_the_arguments_is_refused_at_decoration(options):
    """Otherwise it would fail at each request, and nothing would ever be explored."""
    with pytest.raises(DecorationError, match="rows, user"):
        ranker([], **options)


def test_a_function_may_take_the_arguments_as_it_likes():
    """By position, by name, or whatever there is."""
    for rule in (lambda rows, user: True, lambda *everything: True, lambda **named: True, lambda user, rows: True):
        seen = []
        rank = ranker(seen, rules=[rule])
        if rule.__code__.co_flags & 0x08 or rule.__code__.co_varnames[0] == "user":
            rank(rows=np.zeros((1, 2)), user="ann")
        else:
            rank(np.zeros((1, 2)), "ann")
        assert seen[0].eligible
