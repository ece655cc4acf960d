"""Gaussian Thompson sampling: exact probabilities, however unlike the deviations."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, norm

from guardrails.exploration.policies import GaussianThompson, Softmax

MEANS = st.floats(-20, 20)


def closed(means, deviations):
    """P(the first of two is the best)."""
    gap = float(Fraction(means[0]) - Fraction(means[1]))  # exact before rounding
    return norm.cdf(gap / math.hypot(*deviations))


@settings(max_examples=200, deadline=None)
@given(st.tuples(MEANS, MEANS), st.tuples(st.floats(-4, 6), st.floats(-4, 6)))
def test_two_actions_have_a_closed_form(means, powers):
    """Phi of the standardised gap, to 1e-9, with deviations ten orders of magnitude apart."""
    deviations = tuple(10.0**power for power in powers)
    pmf = GaussianThompson(deviations).pmf(np.array(means))
    assert abs(pmf[0] - closed(means, deviations)) < 1e-9


@pytest.mark.parametrize(
    ("means", "deviations"),
    [
        ((0.0, 0.3), (1.0, 5e5)),
        ((0.3, 0.0), (5e5, 1.0)),
        ((0.3, 0.0), (1.0, 1e-12)),
        ((0.0, 0.3), (1e-20, 1.0)),
        ((1e6, 1e6 + 1), (1.0, 1e-6)),
        ((1e308, -1e308), (1e308, 1e307)),
        ((5e-320, 0.0), (1e-300, 1e-301)),
        ((-10.0, 0.0), (1.0, 1.0)),
        ((0.0, 0.0), (1.0, 1e9)),
    ],
    ids=str,
)
def test_unlike_deviations_and_sizes(means, deviations):
    """A fixed 128-node rule gives 0 for 0.42 where one deviation is 5e5 times the other."""
    pmf = GaussianThompson(deviations).pmf(np.array(means))
    exact = norm.cdf((means[0] / 4 - means[1] / 4) / math.hypot(*(d / 4 for d in deviations)))
    assert abs(pmf[0] - exact) < 1e-9
    assert pmf.sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(("actions", "draws"), [(3, 2_000_000), (10, 1_000_000), (60, 200_000)])
@pytest.mark.parametrize("unlike", [0.0, 1.0, 4.0])
def test_sampling_the_posteriors_agrees(actions, draws, unlike):
    """Who is best in millions of draws of all values: chi-square against the probabilities."""
    rng = np.random.default_rng([actions, int(unlike)])
    means, deviations = rng.normal(size=actions), np.exp(unlike * rng.normal(size=actions))
    pmf = GaussianThompson(deviations).pmf(means)
    counts = np.zeros(actions)
    for _ in range(10):
        values = means + deviations * rng.normal(size=(draws // 10, actions))
        counts += np.bincount(values.argmax(axis=1), minlength=actions)
    large = draws * pmf >= 5
    counts, expected = np.append(counts[large], counts[~large].sum()), np.append(pmf[large], pmf[~large].sum())
    keep = expected > 1e-12
    assert counts[~keep].sum() == 0
    assert chisquare(counts[keep], draws * expected[keep] / expected[keep].sum()).pvalue > 1e-4


def test_many_equal_actions_share_equally():
    """Ten thousandths each; a little better or surer is worth what integration on a fine grid says."""
    np.testing.assert_allclose(GaussianThompson(0.3).pmf(np.zeros(1000)), 1e-3, atol=1e-12)
    means = np.zeros(40)
    means[7] = 0.2
    deviations = np.full(40, 0.3)
    deviations[9] = 0.01
    x = np.linspace(-3, 4, 700_001)
    below = norm.cdf((x[:, None] - means[[0, 7, 9]]) / deviations[[0, 7, 9]])
    others = below[:, 0] ** 38
    density = norm.pdf((x - 0.2) / 0.3) / 0.3 * others * below[:, 2]
    pmf = GaussianThompson(deviations).pmf(means)
    assert abs(pmf[7] - density.sum() * (x[1] - x[0])) < 1e-9
    density = norm.pdf(x / 0.01) / 0.01 * others * below[:, 1]
    assert abs(pmf[9] - density.sum() * (x[1] - x[0])) < 1e-9


def test_certain_values():
    """Deviation 0: the best certain value wins where all others fall below it; equal ones share."""
    pmf = GaussianThompson((0.0, 1.0, 0.0, 0.0)).pmf(np.array([0.5, 0.3, 0.5, 0.4]))
    below = norm.cdf(0.2)
    np.testing.assert_allclose(pmf, [below / 2, 1 - below, below / 2, 0], atol=1e-12)
    np.testing.assert_array_equal(GaussianThompson(0).pmf(np.array([0.5, 0.3, 0.5])), [0.5, 0, 0.5])
    hopeless = GaussianThompson((0.0, 1.0)).pmf(np.array([100.0, 0.0]))
    np.testing.assert_array_equal(hopeless, [1, 0])
    np.testing.assert_allclose(GaussianThompson((0.0, 1.0)).pmf(np.array([-100.0, 0.0])), [0, 1], atol=1e-15)
    # The limit of small deviations is what 0 gives.
    small = GaussianThompson((1e-9, 1.0)).pmf(np.array([0.5, 0.3]))
    np.testing.assert_allclose(GaussianThompson((0.0, 1.0)).pmf(np.array([0.5, 0.3])), small, atol=1e-8)


def test_infinite_means():
    """-inf is never drawn, +inf takes everything, beside ordinary rows."""
    inf = np.inf
    scores = np.array([[0.5, -inf, 0.3], [inf, 0.1, inf], [-inf, -inf, -inf], [0.5, 0.2, 0.3]])
    pmf = GaussianThompson(0.2).pmf(scores)
    np.testing.assert_allclose(pmf[0, [0, 2]], GaussianThompson(0.2).pmf(scores[0, [0, 2]]), atol=1e-12)
    np.testing.assert_allclose(pmf[:3, 1], [0, 0, 1 / 3], atol=1e-15)
    np.testing.assert_allclose(pmf[1], [0.5, 0, 0.5])
    np.testing.assert_array_equal(pmf[3], GaussianThompson(0.2).pmf(scores[3]))


def test_deviations_may_come_with_the_scores():
    """One, one per action or one per score, instead of the policy's own."""
    rng = np.random.default_rng(5)
    scores, deviations = rng.normal(size=(4, 3)), rng.uniform(0.1, 2, size=(4, 3))
    pmf = GaussianThompson(0.1).pmf(scores, deviation=deviations)
    np.testing.assert_array_equal(pmf, [GaussianThompson(d).pmf(s) for s, d in zip(scores, deviations, strict=True)])
    np.testing.assert_array_equal(GaussianThompson(0.1).pmf(scores, deviation=2.0), GaussianThompson(2.0).pmf(scores))
    own = GaussianThompson(deviations[0].tolist())
    np.testing.assert_array_equal(own.pmf(scores), GaussianThompson(0.1).pmf(scores, deviation=deviations[0]))


@pytest.mark.parametrize("deviation", [[1.0, 2.0], -1.0, np.nan, np.inf, [[1.0, 2.0, 3.0]] * 2], ids=str)
def test_deviations_that_do_not_fit_are_refused(deviation):
    """Shape and sign."""
    with pytest.raises(ValueError, match="deviation"):
        GaussianThompson(0.1).pmf(np.zeros(3), deviation=deviation)
    if np.shape(deviation) == (2,):
        with pytest.raises(ValueError, match=r"deviations of shape \(2,\) for scores of shape \(3,\)"):
            GaussianThompson(deviation).pmf(np.zeros(3))


def test_what_is_not_resolved_is_refused_rather_than_wrong(monkeypatch):
    """Where the mass does not add up there are no probabilities: a ratio of 1e100, or too few halvings."""
    means, deviations = np.array([0.3, 0.0]), (1.0, 1e-100)
    with pytest.raises(ValueError, match=r"add up to 0\.\d+ before"):
        GaussianThompson(deviations).pmf(means)
    np.testing.assert_allclose(GaussianThompson((1.0, 1e-50)).pmf(means), GaussianThompson((1.0, 0.0)).pmf(means))
    monkeypatch.setattr("guardrails.exploration.policies.thompson._LEVELS", 3)
    with pytest.raises(ValueError, match=r"add up to 0\.\d+ before"):
        GaussianThompson((1.0, 1e-3)).pmf(means)


def test_a_batch_with_hard_rows_is_each_row_alone():
    """To the bit, in chunks, some rows needing many panels and some one."""
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(700, 10))
    deviations = np.exp(rng.normal(size=(700, 10)) * rng.choice([0.0, 1.0, 5.0], size=(700, 1)))
    deviations[::50, 3] = 0.0
    scores[::70, 2] = -np.inf
    pmf = GaussianThompson(1.0).pmf(scores, deviation=deviations)
    assert (pmf >= 0).all()
    alone = [GaussianThompson(1.0).pmf(s, deviation=d) for s, d in zip(scores, deviations, strict=True)]
    np.testing.assert_array_equal(pmf, alone)
    assert not np.allclose(pmf, Softmax(1.0).pmf(scores))  # the comparison is one of numbers that differ
