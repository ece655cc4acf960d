"""Measures over arrays: what exploration moves by itself, tails, segments, and rewards by popularity."""

import math

import numpy as np
import pytest

from guardrails.evaluation.loop import (
    coverage,
    gini,
    hit_rate_by_popularity,
    homogenisation,
    mechanical_gini,
    tail_share,
)


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("m", [1, 5, 40])
def test_mixing_lowers_gini_mechanically(epsilon, m):
    """With greedy choices even over m of K actions, Gini(eps) = (1 - eps)(1 - m / K), and nothing was learned."""
    K = 40
    greedy = np.where(np.arange(K) < m, 1 / m, 0.0)
    shown = (1 - epsilon) * greedy + epsilon / K
    assert gini(shown) == pytest.approx((1 - epsilon) * (1 - m / K), abs=1e-12)
    assert mechanical_gini(gini(greedy), epsilon) == pytest.approx(gini(shown), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_mixing_is_mechanical_for_any_concentration(seed):
    """Uniform choices mixed into any others multiply the Gini coefficient by the share of these."""
    greedy = np.random.default_rng(seed).dirichlet(np.full(30, 0.2))
    shown = 0.9 * greedy + 0.1 / 30
    assert gini(shown) == pytest.approx(mechanical_gini(gini(greedy), explored=0.1))
    assert coverage(shown, at_least=1e-6) == 1.0  # and coverage is full, also by mixing alone


def test_a_share_of_exploration_is_a_share():
    """More than all cannot be explored."""
    with pytest.raises(ValueError, match="share"):
        mechanical_gini(0.9, 1.1)


def test_tail_by_number_or_mask():
    """The tail may be numbers or a mask; an action that is not there is an error."""
    counts = [6, 2, 1, 1]
    assert tail_share(counts, [2, 3]) == tail_share(counts, np.array([False, False, True, True])) == pytest.approx(0.2)
    assert tail_share(counts, []) == 0.0
    assert math.isnan(tail_share([0, 0], [1]))
    for tail in ([4], [-1], [0.5], [True]):
        with pytest.raises(ValueError, match="tail"):
            tail_share(counts, tail)


def test_homogenisation_is_the_mean_jaccard_of_pairs():
    """All the same is one, nothing in common is zero, order does not count."""
    assert homogenisation([[1, 2], [2, 1], [1, 2]]) == 1.0
    assert homogenisation(np.array([[1, 2], [3, 4]])) == 0.0
    assert homogenisation([["a", "b"], ["b", "c"], ["d", "e"]]) == pytest.approx((1 / 3) / 3)
    for lists in ([[1, 2]], [[1], []]):
        with pytest.raises(ValueError, match="pairs"):
            homogenisation(lists)


def test_rates_by_popularity_are_means_by_class():
    """Each choice falls into the class its item's past popularity is in; explored and greedy are told apart."""
    rng = np.random.default_rng(0)
    popularity = rng.permutation(np.arange(100.0))
    items, explored = rng.integers(0, 100, 5000), rng.random(5000) < 0.3
    rewards = rng.random(5000)
    rates = hit_rate_by_popularity(rewards, items, popularity, explored=explored)
    assert len(rates) == 10
    assert rates.items.tolist() == [10] * 10
    of_choice = (popularity[items] // 10).astype(int)
    for decile in range(10):
        assert rates.greedy[decile] == pytest.approx(rewards[(of_choice == decile) & ~explored].mean())
        assert rates.explored[decile] == pytest.approx(rewards[(of_choice == decile) & explored].mean())
        assert rates.explored_n[decile] == ((of_choice == decile) & explored).sum()


def test_rate_ratio_covers_the_truth():
    """The 95 % interval of explored over greedy has the true ratio in it about as often as it says."""
    rng, hits, worlds = np.random.default_rng(1), 0, 300
    for _ in range(worlds):
        explored = np.repeat([False, True], [600, 300])
        rewards = rng.random(900) < np.where(explored, 0.24, 0.12)
        rates = hit_rate_by_popularity(rewards, np.zeros(900, dtype=int), [1.0], explored=explored)
        hits += rates.low[0] <= 2.0 <= rates.high[0]
    assert 0.92 <= hits / worlds <= 0.98


def test_edges_stay_as_they_were():
    """Edges of an earlier call are used again: what was popular then is, however popular it is now."""
    first = hit_rate_by_popularity([1, 0], [0, 1], [1.0, 10.0], deciles=2)
    again = hit_rate_by_popularity([1, 0], [0, 1], [5.0, 500.0], edges=first.edges)
    assert again.items.tolist() == [0, 2]
    assert math.isnan(again.greedy[0])


def test_equal_popularity_stays_together():
    """Items never shown are one class, however many; so classes may be fewer than asked for."""
    rates = hit_rate_by_popularity([1.0], [0], [0.0] * 8 + [3.0, 9.0])
    assert rates.items.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    ("rewards", "items", "popularity", "options"),
    [
        ([1, 0], [0], [1.0], {}),
        ([1], [1], [1.0], {}),
        ([1], [-1], [1.0], {}),
        ([1], [0.0], [1.0], {}),
        ([math.nan], [0], [1.0], {}),
        ([1], [0], [math.nan], {}),
        ([1], [0], [1.0], {"explored": [True, False]}),
        ([1], [0], [1.0], {"deciles": 0}),
    ],
)
def test_what_does_not_fit_is_refused(rewards, items, popularity, options):
    """Shapes, items that are not there and NaN are errors."""
    with pytest.raises(ValueError, match=r"items|NaN|class"):
        hit_rate_by_popularity(rewards, items, popularity, **options)
