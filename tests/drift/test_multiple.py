"""Holm and Benjamini-Hochberg against their definitions, scipy's adjustment, and what they promise, by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from guardrails.drift.statistics.multiple import benjamini_hochberg, holm
from guardrails.errors import ProfileError

P = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0]), st.just(math.nan)), max_size=20)


@settings(max_examples=300, deadline=None)
@given(P)
def test_benjamini_hochberg_is_scipys(p):
    """Where there is a p-value; NaN stays, and is not counted."""
    found, p = benjamini_hochberg(p), np.array(p, dtype=float)
    there = ~np.isnan(p)
    assert np.isnan(found[~there]).all()
    if there.any():
        assert found[there] == pytest.approx(stats.false_discovery_control(p[there]))


@settings(max_examples=300, deadline=None)
@given(P, st.floats(0.001, 0.5))
def test_holm_is_its_definition(p, alpha):
    """Step down: reject the smallest while p(k) <= alpha / (m - k)."""
    found, p = holm(p), np.array(p, dtype=float)
    there = np.flatnonzero(~np.isnan(p))
    assert np.isnan(np.delete(found, there)).all()
    rejected = set()
    for k, i in enumerate(there[np.argsort(p[there], kind="stable")].tolist()):
        if (len(there) - k) * p[i] > alpha:
            break
        rejected.add(i)
    assert set(np.flatnonzero(found <= alpha).tolist()) == rejected


@settings(max_examples=100, deadline=None)
@given(P, st.randoms())
def test_both_are_symmetric_and_adjust_upwards(p, random):
    """The order of the columns does not matter; nothing gets smaller; Holm is at most Bonferroni, at least BH."""
    order = list(range(len(p)))
    random.shuffle(order)
    for adjust in (holm, benjamini_hochberg):
        assert adjust([p[i] for i in order]) == pytest.approx(adjust(p)[order], nan_ok=True)
    p = np.array(p, dtype=float)
    there = ~np.isnan(p)
    low, high = benjamini_hochberg(p)[there], holm(p)[there]
    assert (p[there] <= low + 1e-15).all()
    assert (low <= high + 1e-15).all()
    assert (high <= np.minimum(1, there.sum() * p[there]) + 1e-15).all()


def test_shapes_and_wrong_values():
    """Any shape comes back; what is no p-value is named."""
    assert holm(np.full((2, 3), 0.01)).shape == (2, 3)
    assert benjamini_hochberg(0.3).tolist() == pytest.approx(0.3)
    assert len(holm([])) == 0
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ProfileError, match=r"1\.2"):
            adjust([0.1, 1.2])


def test_what_they_promise_holds():
    """4000 families of 10 true nulls: any alarm in 5 % (four standard errors); with 5 shifts, a BH share of .05 * 5/10."""
    rng = np.random.default_rng(0)
    nulls = rng.uniform(size=(4000, 10))
    error = 4 * math.sqrt(0.05 * 0.95 / 4000)
    for adjust in (holm, benjamini_hochberg):
        assert abs(np.mean([(adjust(p) <= 0.05).any() for p in nulls]) - 0.05) < error
    shares = []
    for p in nulls:
        p[:5] = stats.norm.sf(stats.norm.isf(p[:5]) + 3)
        listed = benjamini_hochberg(p) <= 0.05
        shares.append(listed[5:].sum() / max(listed.sum(), 1))
    assert abs(np.mean(shares) - 0.025) < 4 * np.std(shares) / math.sqrt(len(shares))
