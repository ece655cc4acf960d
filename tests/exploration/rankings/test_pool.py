"""The initial traffic pool: one slot to somebody from outside the list."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.errors import DecorationError
from guardrails.exploration.rankings import Boost, PoolInjection

SCORES = np.array([0.4, 0.9, 0.1, 0.4, 0.7, -0.5, 0.4, 0.0])
ITEMS = [f"song-{number}" for number in range(8)]


def quota(items):
    """Module-level, so that it has a name to be told by."""
    return np.array([3.0, 1.0, 0.0, 2.0, 5.0, 1.0, 1.0, 0.5])[: len(items)]


def enumerated(policy, scores, weights):
    """The matrix from first principles: every slot, every candidate."""
    k, n = policy.slots, len(scores)
    order = list(policy.organic(scores))
    weights = np.array(
        [0.0 if number in order or scores[number] == -np.inf else weights[number] for number in range(n)]
    )
    expected = np.zeros((k, n))
    if not weights.any():
        expected[range(k), order] = 1
        return expected
    expected[range(k), order] = 1 - policy.epsilon
    sigma = np.ones(k) if policy.positions is None else np.array(policy.positions)
    for slot, share in enumerate(sigma / sigma.sum()):
        for number, weight in enumerate(weights / weights.sum()):
            rest = order[slot:-1] if policy.insert == "shift" else order[slot + 1 :]
            expected[range(k), [*order[:slot], number, *rest]] += policy.epsilon * share * weight
    return expected


@pytest.mark.parametrize("insert", ["replace", "shift"])
@pytest.mark.parametrize("positions", [None, [0, 1, 3], [1, 0, 0]])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_the_matrix_is_the_sum_over_all_that_can_happen(insert, positions, epsilon):
    """Enumerated: every slot, every candidate; uniform, weighted, with -inf."""
    for weights in (None, [1, 2, 3, 0, 5, 0.5, 1e-9, 2], [0, 1, 0, 0, 1, 0, 0, 0]):
        for scores in (SCORES, np.where(SCORES < 0.2, -np.inf, SCORES), np.zeros(8)):
            policy = PoolInjection(epsilon, 3, weights=weights, insert=insert, positions=positions)
            expected = enumerated(policy, scores, np.ones(8) if weights is None else weights)
            np.testing.assert_allclose(policy.pmf(scores), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "policy",
    [
        PoolInjection(0.3, 3),
        PoolInjection(0.5, 3, insert="shift"),
        PoolInjection(1.0, 3, insert="shift", positions=[1, 0, 3], boost=Boost(5.0)),
        PoolInjection(0.4, 3, weights=[1, 2, 3, 0, 5, 0.5, 1, 2], positions=[0, 0, 1]),
        PoolInjection(0.4, 3, weights={name: 1.0 + rank for rank, name in enumerate(ITEMS[2:])}, boost=Boost(3.0)),
        PoolInjection(0.4, 3, weights=quota, insert="shift"),
        PoolInjection(0.4, 1),
    ],
    ids=repr,
)
def test_what_is_drawn_is_what_is_stated(policy, agrees):
    """Positions against pmf, lists against their propensities, marginals against pmf."""
    count = 100_000 if policy.weights is policy.boost is None and policy.slots > 1 else 30_000
    agrees(policy, np.where(SCORES < -0.4, -np.inf, SCORES), count, items=ITEMS)


def test_an_untouched_list_costs_no_probability_it_does_not_have(draw_lists):
    """Organic: 1 - epsilon; injected: epsilon sigma_s w_j; nothing else."""
    policy = PoolInjection(0.2, 2, weights=[9, 9, 1, 3], positions=[1, 3])
    stated = {ranked.order: ranked.propensity for ranked in draw_lists(policy, np.array([4.0, 3, 2, 1]), 3000)}
    assert stated == pytest.approx(
        {(0, 1): 0.8, (2, 1): 0.0125, (3, 1): 0.0375, (0, 2): 0.0375, (0, 3): 0.1125}, rel=1e-12
    )


@pytest.mark.parametrize(
    ("policy", "scores"),
    [
        (PoolInjection(0.5, 3), [1.0, 2.0, 3.0]),
        (PoolInjection(0.5, 3, insert="shift", boost=Boost()), [1.0, 2.0, 3.0]),
        (PoolInjection(0.5, 2), [1.0, 2.0, -np.inf, -np.inf]),
        (PoolInjection(0.5, 2), [1.0, -np.inf, -np.inf, -np.inf]),
        (PoolInjection(0.5, 2, weights=[0, 0, 1, 1]), [1.0, 2.0, 3.0, 4.0]),
        (PoolInjection(0.5, 2, weights=[1, 1, 1, 0]), [-np.inf, -np.inf, 3.0, 0.0]),
        (PoolInjection(0.5, 2, weights={}), [1.0, 2.0, 3.0]),
        (PoolInjection(0.5, 2, weights=lambda items: [0.0] * len(items)), [1.0, 2.0, 3.0]),
        (PoolInjection(0.0, 2), [1.0, 2.0, 3.0]),
    ],
    ids=str,
)
def test_an_empty_pool_gives_the_organic_list_with_certainty(policy, scores, draw_lists):
    """No candidate outside, only -inf, only weights of 0, no epsilon: propensity 1, nobody moves."""
    for ranked in draw_lists(policy, np.array(scores), 200):
        assert ranked.order == policy.organic(np.array(scores))
        assert ranked.propensity == 1.0
        np.testing.assert_array_equal(ranked.marginals, np.eye(policy.slots))
    np.testing.assert_array_equal(policy.pmf(np.array(scores))[range(policy.slots), list(ranked.order)], 1.0)


def test_a_quota_lets_new_items_graduate(draw_lists):
    """Weights of a function follow what it says now: who had its traffic leaves the pool."""
    impressions = {"a": 0, "b": 0, "new": 0, "newer": 0}
    policy = PoolInjection(1.0, 1, weights=lambda items: [max(0, 40 - impressions[item]) for item in items])
    numbers = np.random.default_rng(0).random((1000, 3)).tolist()
    for row in numbers:
        (served,) = policy.sample([9.0, 5, 1, 0], lambda n, row=row: row[:n], items=list(impressions)).order
        impressions[list(impressions)[served]] += 1
    assert impressions == {"a": 880, "b": 40, "new": 40, "newer": 40}


def test_a_batch_mixes_lists_with_and_without_a_pool():
    """Row by row, as alone."""
    scores = np.array([[1.0, 2, 3, 4], [1.0, 2, -np.inf, -np.inf], [0.0, 0, 0, 0], [-np.inf, 5, 3, 2]])
    for insert in ("replace", "shift"):
        policy = PoolInjection(0.3, 2, insert=insert, boost=Boost())
        np.testing.assert_array_equal(policy.pmf(scores), [policy.pmf(row) for row in scores])


@settings(max_examples=150, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 5e-324, 1e-300, 1.0, 3.0, 1e308]), min_size=6, max_size=6),
    boost=st.sampled_from([None, Boost(1e6), Boost(1e-9)]),
    numbers=st.lists(st.sampled_from([0.0, 0.3, 0.99, 1 - 2**-53]), min_size=3, max_size=3),
)
def test_weights_of_any_size_neither_overflow_nor_choose_the_impossible(weights, boost, numbers):
    """Shares sum to one or the pool is empty; who has weight 0 never comes."""
    policy = PoolInjection(1.0, 2, weights=weights, boost=boost)
    scores = np.arange(6.0)
    pmf = policy.pmf(scores)
    np.testing.assert_allclose(pmf.sum(axis=1), 1.0, atol=1e-12)
    ranked = policy.sample(scores, lambda count: numbers[:count])
    for number in set(ranked.order) - set(policy.organic(scores)):
        assert weights[number] > 0
    assert (ranked.propensity == 1.0) == (not any(weights[:4]) or sum(w > 0 for w in weights[:4]) == 0)


def test_the_boost_multiplies_weights_within_the_pool():
    """Boosted candidates get exactly factor times the probability of the others."""
    items, boost = [f"item-{number}" for number in range(40)], Boost(3.0, 0.5, "autumn")
    scores = -np.arange(40.0)
    share = PoolInjection(0.2, 5, boost=boost).pmf(scores, items=items)[:, 5:].sum(axis=0)
    chosen = boost.boosted(items)[5:]
    np.testing.assert_allclose(share[chosen].max(), share[chosen].min(), rtol=1e-12)
    np.testing.assert_allclose(share[chosen].mean() / share[~chosen].mean(), 3.0, rtol=1e-12)
    np.testing.assert_allclose(share.sum(), 0.2, rtol=1e-12)


def test_ids_are_looked_up_whatever_holds_them():
    """A list and NumPy's arrays of text or integers name the same items."""
    for names in (["a", "b", "c"], [1, 2, 3]):
        policy = PoolInjection(0.5, 1, weights={names[1]: 1.0, names[2]: 3.0}, boost=Boost())
        scores = np.array([3.0, 2.0, 1.0])
        np.testing.assert_array_equal(policy.pmf(scores, items=names), policy.pmf(scores, items=np.array(names)))
        assert policy.pmf(scores, items=names)[0, 1:].min() > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"insert": "push"}, "insert"),
        ({"boost": 3.0}, "boost"),
        ({"weights": [1, -1]}, "weights"),
        ({"weights": [1, np.nan]}, "weights"),
        ({"weights": [1, np.inf]}, "weights"),
        ({"weights": {"a": -1.0}}, "weights"),
        ({"weights": "module.function"}, "weights"),
        ({"weights": [[1.0]]}, "weights"),
        ({"positions": [1, 2]}, "one|positions"),
        ({"positions": [0, 0, 0]}, "positions"),
        ({"positions": [1, 1, -1]}, "positions"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, match):
    """At construction, naming the option."""
    with pytest.raises(DecorationError, match=match):
        PoolInjection(0.1, 3, **options)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ([1.0] * 7, "7.* for 8"),
        (lambda items: [1.0], "1.* for 8"),
        (lambda items: [-1.0] * len(items), "negative"),
        (lambda items: [np.nan] * len(items), "negative or no"),
    ],
    ids=["too few", "function too few", "negative", "nan"],
)
def test_weights_that_do_not_fit_are_refused(weights, match):
    """By pmf and by sample, explored or not."""
    policy = PoolInjection(0.1, 3, weights=weights)
    for call in (
        policy.pmf,
        lambda scores: policy.sample(scores, lambda n: [0.0] * n),
        lambda scores: policy.sample(scores, lambda n: [0.9] * n),
    ):
        with pytest.raises(ValueError, match=match):
            call(SCORES)


def test_ids_that_do_not_fit_are_refused():
    """One id per score."""
    with pytest.raises(ValueError, match="2 items for 8 scores"):
        PoolInjection(0.1, 3, boost=Boost()).pmf(SCORES, items=["a", "b"])


def test_a_function_is_told_by_its_name():
    """The repr stays valid Python; what has no name is told as text."""
    assert f"weights={__name__}.quota," in repr(PoolInjection(0.1, 2, weights=quota))
    text = repr(PoolInjection(0.1, 2, weights=lambda items: items))
    compile(text, "", "eval")
    assert "<lambda>'" in text


def test_policies_are_values():
    """Equal, hashable, copied and pickled; the caller's weights are copied."""
    weights = {"a": 1.0}
    policy = PoolInjection(0.1, 2, weights=weights, boost=Boost(), positions=[1, 2])
    before = policy.sample(SCORES, lambda n: [0.0] * n)
    weights["b"] = 2.0
    assert policy.weights == {"a": 1.0}
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert other == policy
        assert hash(other) == hash(policy)
        assert other.sample(SCORES, lambda n: [0.0] * n).order == before.order
