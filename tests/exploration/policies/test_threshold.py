"""Accept or refuse: who is accepted with which probability, and that nobody above the threshold pays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guardrails.errors import DecorationError
from guardrails.exploration.policies import RandomisedCutoff, RejectRate
from guardrails.testing import check_policy

POLICIES = [
    RandomisedCutoff(600.0, 40.0),
    RandomisedCutoff(0.5, 0.1, 0.3),
    RandomisedCutoff(-1e308, 1e308),
    RejectRate(0.5, 0.02),
    RejectRate(0.0, 0.0),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_they_keep_the_protocol(policy):
    """And are what their logged text says."""
    check_policy(policy)
    assert eval(repr(policy)) == policy
    assert policy.kind == "threshold"


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(0, 9), elements=st.floats(allow_nan=False)),
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e6),
    st.floats(0.01, 1.0),
)
def test_nobody_at_or_above_the_threshold_is_refused(scores, threshold, width, ceiling):
    """Whatever the numbers; below it the cut-off's distribution function, and nobody below the band."""
    scores = np.append(scores, [threshold, np.nextafter(threshold, -np.inf), np.inf, -np.inf])
    policy = RandomisedCutoff(threshold, width, ceiling)
    pmf = policy.pmf(scores)
    np.testing.assert_allclose(pmf.sum(axis=1), 1.0)
    assert (pmf[scores >= threshold] == [0, 1]).all()
    assert (pmf[scores < threshold - width * (1 + 1e-9) - 1e-9, 1] == 0).all()
    assert (pmf[scores < threshold, 1] <= ceiling).all()
    np.testing.assert_array_equal(policy.greedy(scores), (scores >= threshold).astype(int))
    np.testing.assert_array_equal(policy.supported(scores), pmf[:, 1] > 0)


def test_a_uniform_cut_off_accepts_as_drawing_it_would():
    """P(T <= s) for T uniform on (t - w, t], by drawing T a million times."""
    drawn = 600 - 40 * np.random.default_rng(0).random(1_000_000)
    scores = np.array([559.0, 560.0, 570.0, 590.0, 599.9, 600.0, 700.0])
    expected = (drawn[:, None] <= scores).mean(axis=0)
    np.testing.assert_allclose(RandomisedCutoff(600, 40).accept(scores), expected, atol=0.002)
    np.testing.assert_allclose(RandomisedCutoff(600, 40, 0.2).accept(scores[:5]), 0.2 * expected[:5], atol=0.002)
    np.testing.assert_array_equal(RandomisedCutoff(600, 40).supported(scores[:3]), [False, False, True])


def test_a_rate_is_the_same_for_all_who_fall_short():
    """And rate 0 supports none of them."""
    np.testing.assert_allclose(RejectRate(0.5, 0.02).pmf([-np.inf, 0.1, 0.5]), [[0.98, 0.02], [0.98, 0.02], [0, 1]])
    np.testing.assert_array_equal(RejectRate(0.5, 0.0).supported([0.1, 0.5]), [False, True])


@pytest.mark.parametrize("policy", POLICIES[:4], ids=repr)
def test_shapes(policy):
    """One applicant, none, many; never two scores for one."""
    assert policy.pmf(0.4).shape == (2,)
    assert policy.pmf(np.empty(0)).shape == (0, 2)
    assert policy.greedy(0.4).shape == policy.supported(0.4).shape == ()
    for method in (policy.pmf, policy.greedy, policy.supported, policy.accept):
        with pytest.raises(ValueError, match="one score per applicant"):
            method(np.zeros((3, 2)))
        with pytest.raises(ValueError, match="NaN"):
            method([0.1, np.nan])


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomisedCutoff(np.nan, 1.0),
        lambda: RandomisedCutoff(0.5, 0.0),
        lambda: RandomisedCutoff(0.5, np.inf),
        lambda: RandomisedCutoff(0.5, 0.1, 0.0),
        lambda: RandomisedCutoff(0.5, 0.1, 1.1),
        lambda: RejectRate(np.inf, 0.1),
        lambda: RejectRate(0.5, 0.51),
        lambda: RejectRate(0.5, -0.1),
    ],
)
def test_impossible_options_are_refused(make):
    """At construction."""
    with pytest.raises(DecorationError, match=r"\w+\(\w+=.*\): "):
        make()
