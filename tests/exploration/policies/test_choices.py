"""Policies over choices: each one's formula, and what it makes of ties, infinities and nonsense."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guardrails.errors import DecorationError
from guardrails.exploration.policies import (
    MAX_EPSILON,
    EpsilonGreedy,
    ExploreFirst,
    Floor,
    GaussianThompson,
    Softmax,
    SquareCB,
    Votes,
    among,
    votes_of,
)
from guardrails.testing import check_policy

INF = np.inf
FINITE = st.floats(-1e6, 1e6)
ROWS = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 80)), elements=FINITE)
ANY_ROWS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(allow_nan=False, width=64)
)
EVERY = [
    EpsilonGreedy(0.1),
    EpsilonGreedy(0.1, explore=[0]),
    ExploreFirst(10),
    Softmax(0.3),
    SquareCB(0.0),
    SquareCB(30.0),
    GaussianThompson(0.5),
    GaussianThompson(0.0),
    Floor(Softmax(0.3), 0.001),
    Floor(EpsilonGreedy(0.1), 0.001),
    Floor(Floor(GaussianThompson(0.1), 0.001), 0.001),
]


@pytest.mark.parametrize("actions", [1, 2, 5, 60, 200])
@pytest.mark.parametrize("policy", EVERY, ids=repr)
def test_each_keeps_the_protocol(policy, actions):
    """testing.check_policy has nothing to say."""
    if actions < 200 or not isinstance(policy, GaussianThompson | Floor):
        check_policy(policy, actions, by_number=getattr(policy, "explore", None) is not None)


@pytest.mark.parametrize("policy", [Votes(), Floor(Votes(), 0.01)], ids=repr)
def test_votes_keep_the_protocol(policy):
    """With counts for scores."""
    check_policy(policy, 5, scores=np.random.default_rng(1).integers(0, 9, (7, 5)))


@pytest.mark.parametrize(
    "policy",
    [*EVERY, Votes(), GaussianThompson((0.1, 2)), EpsilonGreedy(0.2, explore={3: 1, 1: 2}), SquareCB(np.float64(3))],
    ids=repr,
)
def test_a_policy_is_what_its_logged_text_says(policy):
    """repr() is Python that makes an equal one; it can be hashed, pickled and replaced."""
    assert eval(repr(policy)) == policy
    assert hash(pickle.loads(pickle.dumps(policy))) == hash(policy)
    assert dataclasses.replace(policy) == policy
    assert policy.kind == "choice"


@settings(max_examples=150, deadline=None)
@given(ANY_ROWS, st.sampled_from([p for p in EVERY if not isinstance(p, Floor)]))
def test_any_scores_have_probabilities(rows, policy):
    """Infinite, huge, tied, subnormal: non-negative, sum one, and a row alone as in the batch."""
    pmf = policy.pmf(rows)
    assert (pmf >= 0).all()
    np.testing.assert_allclose(pmf.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(pmf, [policy.pmf(row) for row in rows])


@settings(max_examples=150, deadline=None)
@given(ANY_ROWS, st.sampled_from([EpsilonGreedy(0.1), Softmax(0.3), SquareCB(0.0), SquareCB(9.0), Votes()]), st.data())
def test_the_fast_path_is_the_same(rows, policy, data):
    """pmf_of() equals pmf() to 1e-14, also where a score is infinite."""
    rows = np.abs(np.nan_to_num(rows)) + 1 if isinstance(policy, Votes) else rows
    greedy = data.draw(st.integers(0, rows.shape[1] - 1))
    told = {"greedy": greedy} if isinstance(policy, EpsilonGreedy | SquareCB) else {}
    for row in rows:
        expected = policy.pmf(row, **told)
        np.testing.assert_allclose(policy.pmf_of(row.tolist(), greedy), expected, rtol=0, atol=1e-14)
        floor = Floor(policy, 0.5 / len(row))
        np.testing.assert_allclose(floor.pmf_of(row.tolist(), greedy), floor.pmf(row, **told), rtol=0, atol=1e-14)


def test_any_action_may_be_the_greedy_one():
    """A model that goes by more than its scores says what it chose, for one row or for each."""
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]])
    np.testing.assert_allclose(
        EpsilonGreedy(0.3).pmf(scores, greedy=np.array([2, 0])), [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]
    )
    np.testing.assert_allclose(ExploreFirst(0).pmf(scores[0], greedy=1), [0, 1, 0])
    # What is predicted to beat the model's choice counts as losing nothing: 1 / K.
    np.testing.assert_allclose(SquareCB(10.0).pmf(scores[0], greedy=2), [1 / 3, 1 / 7, 1 - 1 / 3 - 1 / 7])


@pytest.mark.parametrize("policy", [EpsilonGreedy(0.3), ExploreFirst(0), SquareCB(9.0), Floor(EpsilonGreedy(0.3), 0.1)])
@pytest.mark.parametrize("greedy", [3, -1, 0.0, [0, 1], "a"], ids=repr)
def test_a_greedy_action_that_is_none_is_refused(policy, greedy):
    """One number per row, of the K there are."""
    with pytest.raises(ValueError, match="greedy="):
        policy.pmf(np.array([0.1, 0.2, 0.3]), greedy=greedy)


def test_a_nan_is_refused_whoever_is_greedy():
    """Also where the greedy action's own score is known."""
    for policy in (EpsilonGreedy(0.3), SquareCB(9.0), ExploreFirst(1)):
        with pytest.raises(ValueError, match="NaN"):
            policy.pmf(np.array([0.1, np.nan, 0.3]), greedy=0)


def test_an_explore_set_is_all_that_is_explored():
    """epsilon q(a) on the set, 1 - epsilon on the greedy one, nothing elsewhere; pmf_of to the bit."""
    policy = EpsilonGreedy(0.2, explore={4: 3.0, 1: 1.0})
    scores = np.array([0.9, 0.1, 0.5, 0.3, 0.2])
    np.testing.assert_allclose(policy.pmf(scores), [0.8, 0.05, 0, 0, 0.15], atol=1e-15)
    np.testing.assert_allclose(policy.pmf(scores, greedy=4), [0, 0.05, 0, 0, 0.95], atol=1e-15)
    assert policy.pmf_of(scores.tolist(), 0) == policy.pmf(scores).tolist()
    assert repr(EpsilonGreedy(0.2, explore=range(2))) == "EpsilonGreedy(epsilon=0.2, explore=(0, 1))"
    np.testing.assert_allclose(EpsilonGreedy(0.2, explore=[2, 0]).pmf(scores), [0.9, 0, 0.1, 0, 0])
    with pytest.raises(ValueError, match="explores action 4, and there are scores for 3"):
        policy.pmf(scores[:3])
    with pytest.raises(ValueError, match="explores action 4"):
        policy.pmf_of([0.1, 0.2, 0.3], 2)


@pytest.mark.parametrize(
    "explore", [[], {}, [1, 1], [-1], [0.5], ["a"], {1: -1.0}, {1: 0.0}, {1: np.nan}, {1: INF}, 3, {1: "x"}], ids=repr
)
def test_an_explore_set_that_is_none_is_refused(explore):
    """At construction."""
    with pytest.raises(DecorationError, match="explore="):
        EpsilonGreedy(0.1, explore=explore)


def test_policies_that_know_actions_by_number_are_renumbered():
    """Where actions are excluded, the rest keep their own weights and deviations."""
    kept = [0, 2, 3]
    assert among(EpsilonGreedy(0.2, explore={1: 5.0, 2: 3.0, 3: 1.0}), kept) == EpsilonGreedy(
        0.2, explore={1: 3.0, 2: 1.0}
    )
    assert among(EpsilonGreedy(0.2, explore=[1, 3]), kept) == EpsilonGreedy(0.2, explore=(2,))
    assert among(EpsilonGreedy(0.2, explore=[1]), kept) == EpsilonGreedy(0.0)
    assert among(GaussianThompson([1, 2, 3, 4]), np.array(kept)) == GaussianThompson([1, 3, 4])
    assert among(Floor(GaussianThompson([1, 2, 3, 4]), 0.01), kept) == Floor(GaussianThompson([1, 3, 4]), 0.01)
    for policy in (EpsilonGreedy(0.2), GaussianThompson(1), Softmax(2), Floor(Votes(), 0.1)):
        assert among(policy, kept) == policy


def test_explore_first_counts_what_it_is_told():
    """Uniform while fewer than `requests` came before, per row; then greedy."""
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.2, 0.3]])
    pmf = ExploreFirst(5).pmf(scores, seen=np.array([4, 5, 6]))
    np.testing.assert_array_equal(pmf, [[0.5, 0.5], [0, 1], [0, 1]])
    np.testing.assert_array_equal(ExploreFirst(0).pmf(scores), [[1, 0], [0, 1], [0, 1]])
    assert not hasattr(ExploreFirst(5), "pmf_of")  # which could not be told


@settings(max_examples=100, deadline=None)
@given(ROWS, st.floats(-1e3, 1e3), st.floats(0.01, 1e3))
def test_softmax_is_its_formula_and_shifts_change_nothing(rows, shift, temperature):
    """Against logarithms of the definition; a constant on top moves probabilities by rounding alone."""
    pmf = Softmax(temperature).pmf(rows)
    logs = rows / temperature
    logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    np.testing.assert_allclose(pmf, np.exp(logs), rtol=1e-6, atol=1e-14)
    shifted = rows + shift
    exact = np.abs((shifted - shift) - rows).max()  # what adding the shift itself has rounded
    assert np.abs(Softmax(temperature).pmf(shifted) - pmf).max() <= 2 * exact / temperature + 1e-9


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([-INF, 0.0, 0.0], [0, 0.5, 0.5]),
        ([INF, 0.0, INF, -INF], [0.5, 0, 0.5, 0]),
        ([-INF, -INF], [0.5, 0.5]),
        ([1e308, -1e308], [1, 0]),
        ([1e308, 1e308], [0.5, 0.5]),
        ([7.0], [1]),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "policy", [Softmax(1.0), Softmax(1e-300), GaussianThompson(1.0), GaussianThompson(0.0)], ids=repr
)
def test_infinite_and_huge_scores_of_smooth_policies(policy, scores, expected):
    """Equal best ones share, whatever lies infinitely below is never drawn; the fast path agrees."""
    np.testing.assert_allclose(policy.pmf(np.array(scores)), expected, atol=1e-15)
    if hasattr(policy, "pmf_of"):
        np.testing.assert_allclose(policy.pmf_of(scores, 0), expected, atol=1e-15)


def test_softmax_towards_its_limits():
    """Hot: uniform. Cold: the best one."""
    scores = np.array([0.1, 0.5, 0.3])
    np.testing.assert_allclose(Softmax(1e12).pmf(scores), 1 / 3, atol=1e-12)
    np.testing.assert_allclose(Softmax(1e-4).pmf(scores), [0, 1, 0], atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.floats(0, 1e4))
def test_square_cb_is_its_formula(rows, gamma):
    """1 / (K + gamma gap) for all but the first best, which takes the rest."""
    for row, pmf in zip(rows, SquareCB(gamma).pmf(rows), strict=True):
        expected = [1 / (len(row) + gamma * (max(row) - score)) for score in row.tolist()]
        best = row.tolist().index(max(row))
        expected[best] = 1 - (sum(expected) - expected[best])
        np.testing.assert_allclose(pmf, expected, rtol=1e-12, atol=1e-12)
        assert pmf[best] >= 1 / len(row) - 1e-12


@pytest.mark.parametrize(
    ("gamma", "scores", "expected"),
    [
        (0.0, [0.1, 0.9, 0.5, -INF], [0.25] * 4),
        (0.0, [INF, 0.0], [0.5, 0.5]),
        (1e300, [0.1, 0.9, 0.5], [0, 1, 0]),
        (1e300, [0.9, 0.9, 0.5], [2 / 3, 1 / 3, 0]),
        (5.0, [INF, 0.0, INF], [2 / 3, 0, 1 / 3]),
        (5.0, [-INF, -INF], [0.5, 0.5]),
        (5.0, [0.5, -INF], [1, 0]),
        (5.0, [1e308, -1e308], [1, 0]),
    ],
    ids=str,
)
def test_square_cb_at_its_limits(gamma, scores, expected):
    """gamma 0: uniform; large: greedy, but for ties; what is infinitely worse is never drawn."""
    np.testing.assert_allclose(SquareCB(gamma).pmf(np.array(scores)), expected, atol=1e-15)
    np.testing.assert_allclose(SquareCB(gamma).pmf_of(scores, int(np.argmax(scores))), expected, atol=1e-15)


def test_votes_are_shares():
    """Of counts, fractions and counts too large to add up."""
    np.testing.assert_array_equal(Votes().pmf(np.array([[1, 3, 0], [0, 0, 2]])), [[0.25, 0.75, 0], [0, 0, 1]])
    np.testing.assert_allclose(Votes().pmf(np.array([1e308, 1e308])), 0.5)
    assert Votes().pmf_of([1e308, 1e308], 0) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("votes", "said"), [([0, 0], "no votes"), ([-1, 2], "counts"), ([INF, 1], "counts"), ([np.nan, 1], "NaN")]
)
def test_what_are_no_votes_is_refused(votes, said):
    """By both paths."""
    with pytest.raises(ValueError, match=said):
        Votes().pmf(np.array([votes, [1, 1]], dtype=float))
    with pytest.raises(ValueError, match=said):
        Votes().pmf_of([float(vote) for vote in votes], 0)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5)), elements=FINITE))
def test_each_head_has_one_vote(heads):
    """For the first of its best actions; batches as single rows."""
    votes = votes_of(heads)
    expected = [np.bincount([head.tolist().index(max(head)) for head in row], minlength=row.shape[1]) for row in heads]
    np.testing.assert_array_equal(votes, expected)
    np.testing.assert_array_equal(votes_of(heads[0]), votes[0])
    np.testing.assert_allclose(Votes().pmf(votes), votes / heads.shape[1])


@pytest.mark.parametrize("heads", [[0.1, 0.2], np.empty((0, 3)), np.empty((3, 0)), [[np.nan, 1.0]]], ids=str)
def test_heads_that_say_nothing_are_refused(heads):
    """An (m, K) array of numbers."""
    with pytest.raises(ValueError, match=r"head scores|NaN"):
        votes_of(heads)


def test_a_floor_mixes_and_passes_on_what_the_policy_takes():
    """(1 - K m) p + m, with greedy=, seen= and deviation= where the policy has them, and nowhere else."""
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]])
    given_greedy = Floor(EpsilonGreedy(0.3), 0.1).pmf(scores, greedy=np.array([1, 2]))
    np.testing.assert_allclose(given_greedy, 0.7 * EpsilonGreedy(0.3).pmf(scores, greedy=np.array([1, 2])) + 0.1)
    np.testing.assert_allclose(Floor(ExploreFirst(1), 0.1).pmf(scores, seen=1), [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    wide = Floor(GaussianThompson(0.1), 0.1).pmf(scores, deviation=9.0)
    np.testing.assert_allclose(wide, 0.7 * GaussianThompson(9.0).pmf(scores) + 0.1)
    with pytest.raises(TypeError, match="greedy"):
        Floor(Softmax(1.0), 0.1).pmf(scores, greedy=1)
    assert not hasattr(Floor(ExploreFirst(1), 0.1), "pmf_of")
    assert hasattr(Floor(Floor(Softmax(1.0), 0.1), 0.1), "pmf_of")


def test_a_floor_of_more_than_everything_is_refused():
    """Once the number of actions is known; exactly everything is the uniform draw."""
    np.testing.assert_allclose(Floor(Softmax(0.1), 0.1).pmf(np.arange(10.0)), 0.1)
    np.testing.assert_allclose(Floor(Softmax(0.1), 1 / 49).pmf(np.arange(49.0)), 1 / 49)
    for call in (lambda policy: policy.pmf(np.arange(11.0)), lambda policy: policy.pmf_of([0.0] * 11, 0)):
        with pytest.raises(ValueError, match=r"11 actions with at least 0.1 each make 1.1, .* at most 0.0909"):
            call(Floor(Softmax(0.1), 0.1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: EpsilonGreedy(MAX_EPSILON + 1e-9),
        lambda: EpsilonGreedy("0.1"),
        lambda: EpsilonGreedy(None),
        lambda: ExploreFirst(-1),
        lambda: ExploreFirst(1.5),
        lambda: ExploreFirst(np.inf),
        lambda: Softmax(0.0),
        lambda: Softmax(-1.0),
        lambda: Softmax(np.inf),
        lambda: Softmax(np.nan),
        lambda: SquareCB(-1.0),
        lambda: SquareCB(np.inf),
        lambda: GaussianThompson(-1.0),
        lambda: GaussianThompson([]),
        lambda: GaussianThompson([[1.0]]),
        lambda: GaussianThompson([1.0, np.inf]),
        lambda: GaussianThompson("wide"),
        lambda: Floor(Softmax(1.0), 1.5),
        lambda: Floor(Softmax(1.0), -0.1),
        lambda: Floor(None, 0.1),
        lambda: Floor(type("Cutoff", (), {"kind": "threshold", "pmf": print})(), 0.1),
    ],
)
def test_impossible_options_are_refused(make):
    """At construction, naming policy and rule."""
    with pytest.raises(DecorationError, match=r"\w+\(.*\)?: "):
        make()


@pytest.mark.parametrize("policy", [*EVERY, Votes()], ids=repr)
def test_no_action_is_no_choice(policy):
    """There has to be something to choose, also to a batch of no rows."""
    for scores in ([], 3.0, np.empty((4, 0))):
        with pytest.raises(ValueError, match="no action"):
            policy.pmf(np.array(scores))
    if policy != EVERY[1]:
        assert policy.pmf(np.empty((0, 3))).shape == (0, 3)
