"""FairPairs and SwapPositions: the list moves within itself."""

import itertools

import numpy as np
import pytest

from guardrails.errors import DecorationError
from guardrails.exploration.rankings import FairPairs, SwapPositions


def moves(policy):
    """The k x k matrix: where the organic i-th stands."""
    return policy.pmf(-np.arange(policy.slots, dtype=float)).T


@pytest.mark.parametrize("slots", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_fair_pairs_matrix_is_the_average_over_all_coins(slots, probability):
    """Enumerated: both pairings, every pattern of swaps."""
    expected = np.zeros((slots, slots))
    for offset in (0, 1):
        pairs = list(range(offset, slots - 1, 2))
        for pattern in itertools.product((0, 1), repeat=len(pairs)):
            ranks = list(range(slots))
            chance = 0.5
            for first, swaps in zip(pairs, pattern, strict=True):
                chance *= probability if swaps else 1 - probability
                if swaps:
                    ranks[first], ranks[first + 1] = ranks[first + 1], ranks[first]
            expected[ranks, range(slots)] += chance
    np.testing.assert_allclose(moves(FairPairs(slots, probability)), expected, atol=1e-15)


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("pivot", [0, 1, 4])
def test_swap_matrix_is_the_average_over_all_partners(slots, pivot):
    """M = (1 - epsilon) I + epsilon / k sum_j swap(pivot, j)."""
    if pivot >= slots:
        with pytest.raises(DecorationError, match="pivot"):
            SwapPositions(0.3, slots, pivot)
        return
    expected = 0.7 * np.eye(slots)
    for partner in range(slots):
        swap = np.eye(slots)
        swap[[pivot, partner]] = swap[[partner, pivot]]
        expected += 0.3 / slots * swap
    np.testing.assert_allclose(moves(SwapPositions(0.3, slots, pivot)), expected, atol=1e-15)


@pytest.mark.parametrize(
    "policy",
    [FairPairs(5), FairPairs(4, 0.2), FairPairs(2), SwapPositions(0.5, 5), SwapPositions(1.0, 4, pivot=2)],
    ids=repr,
)
def test_what_is_drawn_is_what_is_stated(policy, agrees):
    """Positions against pmf, lists against their propensities."""
    agrees(policy, [0.3, 0.9, 0.3, -1.0, 0.5, 0.3, np.inf], 100_000 if policy.slots == 5 else 30_000)


@pytest.mark.parametrize("policy", [FairPairs(3), FairPairs(4, 0.2), SwapPositions(0.4, 4, 1)], ids=repr)
def test_the_propensities_of_all_lists_sum_to_one(policy, draw_lists):
    """Every list that can come has come; together they are certain."""
    lists = draw_lists(policy, np.arange(6.0), 20_000)
    assert sum({ranked.order: ranked.propensity for ranked in lists}.values()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("policy", [FairPairs(3, 0.0), SwapPositions(0.0, 3), SwapPositions(1.0, 1)], ids=repr)
def test_nothing_to_draw_is_certain(policy, draw_lists):
    """The model's own list with propensity 1."""
    for ranked in draw_lists(policy, np.array([1.0, 3.0, 2.0, 4.0]), 100):
        assert ranked.order == policy.organic(np.array([1.0, 3.0, 2.0, 4.0]))
        assert ranked.propensity == 1.0


def test_a_pair_needs_two():
    """One slot has no neighbour."""
    with pytest.raises(DecorationError, match="from 2 on"):
        FairPairs(1)


@pytest.mark.parametrize("pivot", [-1, 3, 0.5, "0", True])
def test_a_pivot_outside_the_list_is_refused(pivot):
    """With the positions there are."""
    with pytest.raises(DecorationError, match="0 to 2"):
        SwapPositions(0.1, 3, pivot)


def test_the_handed_out_matrix_cannot_be_spoilt():
    """A served list's marginals belong to all."""
    policy = SwapPositions(0.0, 3)
    with pytest.raises(ValueError, match="read-only"):
        policy.sample(np.arange(3.0), lambda count: [0.5] * count).marginals[0, 0] = 7
