"""The model's own list, and what every policy for lists refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guardrails.errors import DecorationError
from guardrails.exploration.rankings import (
    Boost,
    FairPairs,
    PlackettLuce,
    PoolInjection,
    RankingPolicy,
    SwapPositions,
    organic,
)

POLICIES = [PoolInjection(0.2, 3), FairPairs(3), SwapPositions(0.2, 3), PlackettLuce(0.5, 3)]
SCORES = st.sampled_from([-np.inf, -1e308, -1.0, -0.0, 0.0, 5e-324, 1.0, 1e308, np.inf])


def middle(count):
    """A stream that is always in the middle."""
    return [0.5] * count


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 12), elements=SCORES), st.data())
def test_the_organic_list_is_a_stable_descending_sort(scores, data):
    """Of equals, the one that comes first; whatever the size of the numbers."""
    slots = data.draw(st.integers(1, len(scores)))
    expected = sorted(range(len(scores)), key=lambda number: -scores[number])[:slots]
    assert list(organic(scores, slots)) == expected


@pytest.mark.parametrize("candidates", [299, 300, 301, 2000])
@pytest.mark.parametrize("slots", [1, 5, 299])
@pytest.mark.parametrize("kinds", [2, 20, 10**9])
def test_long_lists_of_candidates_are_ranked_the_same(candidates, slots, kinds):
    """Looking for the best first gives what sorting all gives, ties and infinities included."""
    scores = np.random.default_rng(candidates + kinds).integers(0, kinds, candidates).astype(float)
    scores[::7] = -np.inf
    scores[3] = np.inf
    assert list(organic(scores, slots)) == (-scores).argsort(kind="stable")[:slots].tolist()


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_they_keep_the_protocol(policy):
    """Kind, slots, repr that is valid Python, the organic list."""
    assert isinstance(policy, RankingPolicy)
    assert policy.kind == "ranking"
    names = {"PoolInjection": PoolInjection, "FairPairs": FairPairs, "Boost": Boost}
    names |= {"SwapPositions": SwapPositions, "PlackettLuce": PlackettLuce}
    assert eval(repr(policy), names) == policy
    assert policy.organic(np.array([1.0, 3.0, 2.0, 3.0])) == (1, 3, 2)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("candidates", [4, 400])
@pytest.mark.parametrize("at", [0, 3])
def test_a_score_that_is_no_number_is_refused(policy, candidates, at):
    """Nobody knows where it belongs."""
    scores = np.linspace(0.0, 1.0, candidates)
    scores[at] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        policy.pmf(scores)
    with pytest.raises(ValueError, match="NaN"):
        policy.sample(scores, middle)
    with pytest.raises(ValueError, match="NaN"):
        policy.organic(scores)
    with pytest.raises(ValueError, match="NaN"):
        policy.pmf(np.array([np.ones(candidates), scores]))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_fewer_candidates_than_slots_are_refused(policy):
    """The message says how many of each, and what to do."""
    for call in (policy.pmf, policy.organic, lambda scores: policy.sample(scores, middle)):
        with pytest.raises(ValueError, match="a list of 3 needs at least 3 candidates; there are 2"):
            call(np.array([1.0, 2.0]))
        with pytest.raises(ValueError, match="there are 0"):
            call(np.array([]))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_scores_of_another_shape_are_refused(policy):
    """A number, a cube; a matrix where one list is drawn."""
    with pytest.raises(ValueError, match="shape"):
        policy.pmf(np.array(1.0))
    with pytest.raises(ValueError, match="shape"):
        policy.pmf(np.ones((2, 2, 5)))
    with pytest.raises(ValueError, match="shape"):
        policy.sample(np.ones((2, 5)), middle)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_list_alone_has_the_probabilities_it_has_in_a_batch(policy):
    """To the bit: propensities are recomputed from single records. No lists have none."""
    scores = np.random.default_rng(3).normal(size=(6, 9)).round(1)
    np.testing.assert_array_equal(policy.pmf(scores), [policy.pmf(row) for row in scores])
    assert policy.pmf(np.empty((0, 9))).shape == (0, 3, 9)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_scores_may_be_integers_and_are_not_changed(policy):
    """Lists and integers are fine; the caller's array stays as it is."""
    scores = np.array([3, 1, 2, 3])
    policy.pmf(scores)
    policy.sample(scores, middle)
    np.testing.assert_array_equal(scores, [3, 1, 2, 3])
    assert policy.sample([3, 1, 2, 3], middle).order == policy.sample(scores, middle).order


@settings(max_examples=150, deadline=None)
@given(
    scores=hnp.arrays(np.float64, st.integers(3, 10), elements=st.floats(-1e308, 1e308)),
    numbers=st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1 - 2**-53]), min_size=8, max_size=8),
    policy=st.sampled_from([*POLICIES, PoolInjection(1.0, 2, insert="shift", boost=Boost()), FairPairs(3, 1.0)]),
)
def test_any_finite_scores_give_a_list_that_pmf_allows(scores, numbers, policy):
    """Rows sum to one, columns are at most one, a drawn list has nobody twice and a possible place for each."""
    pmf = policy.pmf(scores)
    np.testing.assert_allclose(pmf.sum(axis=1), 1.0, atol=1e-12)
    assert (pmf >= 0).all()
    assert (pmf.sum(axis=0) <= 1 + 1e-12).all()
    ranked = policy.sample(scores, lambda count: numbers[:count])
    assert len(set(ranked.order)) == policy.slots
    assert 0 < ranked.propensity <= 1
    assert ranked.propensity <= pmf[range(policy.slots), list(ranked.order)].min() + 1e-12


@pytest.mark.parametrize("slots", [0, -1, 2.5, "3", True, None])
@pytest.mark.parametrize(
    "make",
    [FairPairs, lambda k: PoolInjection(0.1, k), lambda k: SwapPositions(0.1, k), lambda k: PlackettLuce(1.0, k)],
)
def test_slots_that_are_no_length_are_refused(make, slots):
    """At construction."""
    with pytest.raises(DecorationError, match="slots="):
        make(slots)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf"), "x", None])
@pytest.mark.parametrize(
    "make", [lambda p: FairPairs(3, p), lambda p: PoolInjection(p, 3), lambda p: SwapPositions(p, 3)]
)
def test_a_share_that_is_no_probability_is_refused(make, share):
    """At construction."""
    with pytest.raises(DecorationError, match="between 0 and 1"):
        make(share)


def test_numpy_parameters_are_told_as_plain_numbers():
    """What is logged is valid Python without NumPy."""
    assert repr(PoolInjection(np.float64(0.1), np.int64(3), positions=np.ones(3))) == (
        "PoolInjection(epsilon=0.1, slots=3, weights=None, boost=None, insert='replace', positions=(1.0, 1.0, 1.0))"
    )
    assert (
        repr(SwapPositions(np.float64(0.1), np.int64(3), np.int64(1))) == "SwapPositions(epsilon=0.1, slots=3, pivot=1)"
    )
    assert repr(FairPairs(np.int64(3), np.float64(0.25))) == "FairPairs(slots=3, probability=0.25)"
    assert repr(PlackettLuce(np.float64(0.5), np.int64(3))) == "PlackettLuce(temperature=0.5, slots=3)"
    assert repr(Boost(np.float64(2), np.float64(0.25))) == "Boost(factor=2.0, share=0.25, salt='boost')"
