"""Plackett-Luce: lists, stages and exact marginals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.errors import DecorationError
from guardrails.exploration.rankings import PlackettLuce, clocks


def enumerated(scores, temperature, slots):
    """Marginals and total from the definition, list by list."""
    weights = [math.exp((score - max(scores)) / temperature) for score in scores]
    marginals, total = np.zeros((slots, len(scores))), 0.0
    for order in itertools.permutations(range(len(scores)), slots):
        chance = 1.0
        for position, number in enumerate(order):
            chance *= weights[number] / math.fsum(weights[j] for j in range(len(scores)) if j not in order[:position])
        total += chance
        marginals[range(slots), order] += chance
    return marginals, total


@pytest.mark.parametrize("temperature", [0.03, 0.1, 0.3, 1.0, 3.0, 100.0])
@pytest.mark.parametrize(("candidates", "slots"), [(2, 1), (3, 3), (6, 3), (6, 6), (7, 2)])
def test_marginals_are_those_of_the_enumeration(temperature, candidates, slots):
    """To 1e-12, the small ones in relative terms, too."""
    scores = np.random.default_rng(candidates).normal(size=candidates)
    expected, total = enumerated(scores, temperature, slots)
    assert total == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(PlackettLuce(temperature, slots).pmf(scores), expected, rtol=1e-10, atol=1e-24)


@pytest.mark.parametrize("temperature", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("candidates", [3, 6])
def test_the_propensities_of_all_lists_sum_to_one(temperature, candidates):
    """Joint probabilities from the stages, every list there is."""
    policy = PlackettLuce(temperature, 3)
    scores = np.random.default_rng(1).normal(size=candidates)
    total = sum(np.exp(policy.log_probability(scores, order)) for order in itertools.permutations(range(candidates), 3))
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("policy", "scores"),
    [
        (PlackettLuce(1.0, 3), [0.3, 1.0, -0.5, 0.3, 2.0]),
        (PlackettLuce(0.2, 3), [0.3, 1.0, -0.5, 0.3, 0.9, 0.0, 0.1, -np.inf]),
        (PlackettLuce(0.5, 4), [0.0, 0.0, 0.0, 0.0]),
        (PlackettLuce(1.0, 3), [1e300, 1.0, 0.0, 0.5, -1e300]),
        (PlackettLuce(1e300 / 1e200, 2), [3e100, 2.5e100, 3e100]),
        (PlackettLuce(1e-100, 2), [1.0, 0.0, 0.0, 0.0]),
    ],
    ids=repr,
)
def test_what_is_drawn_is_what_is_stated(policy, scores, agrees):
    """Positions against the quadrature, lists against their propensities."""
    for ranked in agrees(policy, scores, 100_000 if len(scores) > 4 else 30_000)[:500]:
        assert ranked.propensity == pytest.approx(np.exp(policy.log_probability(scores, ranked.order)), rel=1e-11)
        assert ranked.propensity == pytest.approx(np.prod(policy.stages(scores, ranked.order)), rel=1e-11)


@pytest.mark.parametrize(("candidates", "slots"), [(100, 10), (1000, 5), (60, 60)])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.3, 1.0])
def test_the_integrals_of_long_lists_are_complete(candidates, slots, temperature, monkeypatch):
    """Before they are normalised, every position sums to one within 1e-12, however peaked."""
    monkeypatch.setattr(clocks, "TOLERANCE", 1e-12)
    monkeypatch.setattr(clocks, "_STEPS", (1,))
    scores = np.random.default_rng(5).normal(size=candidates)
    pmf = PlackettLuce(temperature, slots).pmf(scores)
    np.testing.assert_allclose(pmf.sum(axis=1), 1.0, atol=1e-14)
    assert pmf.min() >= 0
    assert pmf.sum(axis=0).max() < 1 + 1e-12
    if candidates == slots:  # then everybody is somewhere
        np.testing.assert_allclose(pmf.sum(axis=0), 1.0, atol=1e-11)


def test_an_integration_that_falls_short_says_so(monkeypatch):
    """Too few nodes: refined, and where that is not enough, refused with the figure."""
    scores = np.random.default_rng(5).normal(size=30)
    expected = PlackettLuce(0.5, 10).pmf(scores)
    monkeypatch.setattr(clocks, "_NODES", 6)
    monkeypatch.setattr(clocks, "_PANEL", 2.0)
    monkeypatch.setattr(clocks, "_STEPS", (1, 8))
    np.testing.assert_allclose(PlackettLuce(0.5, 10).pmf(scores), expected, atol=1e-8)
    monkeypatch.setattr(clocks, "_STEPS", (1,))
    with pytest.raises(ArithmeticError, match="sum to one but for"):
        PlackettLuce(0.5, 10).pmf(scores)


def test_the_memory_of_a_long_list_is_bounded_without_changing_it(monkeypatch):
    """In one piece or in many, the same integrals."""
    scores = np.random.default_rng(5).normal(size=50)
    whole = PlackettLuce(0.3, 5).pmf(scores)
    monkeypatch.setattr(clocks, "_ENTRIES", 1)
    np.testing.assert_allclose(PlackettLuce(0.3, 5).pmf(scores), whole, rtol=1e-12)


def test_groups_far_apart_are_races_of_their_own():
    """Whoever is 1e300 ahead is ahead; those behind are as random among each other as alone."""
    policy, behind = PlackettLuce(0.7, 3), np.array([0.2, 1.1, 0.5])
    pmf = policy.pmf(np.array([1e300, *behind, -1e300]))
    np.testing.assert_allclose(pmf[0], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(pmf[1:, 1:4], PlackettLuce(0.7, 2).pmf(behind), rtol=1e-12)


def test_small_differences_between_large_scores_count():
    """Scores of 1e15 that differ by 1 are drawn as 0 and 1 are."""
    np.testing.assert_allclose(
        PlackettLuce(1.0, 2).pmf(np.array([1e15, 1e15 + 1, 1e15 + 3])), PlackettLuce(1.0, 2).pmf(np.array([0.0, 1, 3]))
    )
    assert PlackettLuce(1e100, 1).pmf(np.array([1e308, -1e308]))[0, 0] == 1.0


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.floats(-1e308, 1e308), min_size=3, max_size=7),
    temperature=st.sampled_from([1e-100, 1e-3, 1.0, 1e3, 1e100]),
    shift=st.sampled_from([0.0, 1.0, -1e3]),
)
def test_stages_are_probabilities_whatever_the_scores(scores, temperature, shift):
    """Never NaN, the last one of all is certain, and the marginal of the first position is a softmax."""
    policy = PlackettLuce(temperature, len(scores))
    stages = policy.stages(np.array(scores), range(len(scores)))
    assert ((stages >= 0) & (stages <= 1)).all()
    assert stages[-1] == 1.0
    ordinary = np.round(np.array(scores) / 1e308, 3) * 5
    top = np.exp(ordinary - ordinary.max())
    first = PlackettLuce(1.0, 2).pmf(ordinary + shift)[0]
    np.testing.assert_allclose(first, top / top.sum(), rtol=1e-9)


def test_stages_of_prefixes_and_impossible_lists():
    """Shorter than the slots, with somebody at -inf, everybody."""
    policy, scores = PlackettLuce(1.0, 2), np.array([0.0, 0.0, -np.inf, 0.0])
    np.testing.assert_allclose(policy.stages(scores, [1]), [1 / 3])
    np.testing.assert_allclose(policy.stages(scores, [1, 0, 3]), [1 / 3, 1 / 2, 1])
    np.testing.assert_allclose(policy.stages(scores, [1, 2]), [1 / 3, 0])
    assert policy.log_probability(scores, [2]) == -np.inf
    assert policy.log_probability(scores, []) == 0.0


@pytest.mark.parametrize("order", [[0, 0], [4], [-1, 0]])
def test_an_order_that_is_none_is_refused(order):
    """Nobody twice, nobody who is not there."""
    with pytest.raises(ValueError, match="at most once"):
        PlackettLuce(1.0, 2).stages(np.zeros(4), order)


def test_who_is_at_minus_infinity_is_never_shown(draw_lists):
    """And where too few are left the list is refused."""
    policy = PlackettLuce(1.0, 2)
    scores = np.array([-np.inf, 0.5, -np.inf, 0.1, 0.2])
    assert {number for ranked in draw_lists(policy, scores, 2000) for number in ranked.order} == {1, 3, 4}
    np.testing.assert_array_equal(policy.pmf(scores)[:, [0, 2]], 0.0)
    for call in (policy.pmf, lambda row: policy.sample(row, lambda n: [0.5] * n)):
        with pytest.raises(ValueError, match="needs 2 candidates with finite scores; there are 1"):
            call(np.array([0.0, -np.inf, -np.inf]))
        with pytest.raises(ValueError, match=r"\+inf"):
            call(np.array([0.0, np.inf, 1.0]))


def test_a_list_too_improbable_for_a_float_is_refused():
    """A propensity of 0 would be a lie; its logarithm is told."""
    policy, scores = PlackettLuce(1.0, 200), np.zeros(2000)
    with pytest.raises(ValueError, match="less probable than any float"):
        policy.sample(scores, lambda n: [0.5] * n)
    expected = -sum(math.log(2000 - position) for position in range(200))
    assert policy.log_probability(scores, range(200)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf, 1e-200])
def test_an_impossible_temperature_is_refused(temperature):
    """At construction."""
    with pytest.raises(DecorationError, match="temperature"):
        PlackettLuce(temperature, 2)
