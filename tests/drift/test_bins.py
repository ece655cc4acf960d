"""Bins: counting is exactly what it says, and adds up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guardrails.profile.bins import BINS, MAX_BINS, Bins

NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
ANY = st.one_of(NUMBERS, st.just(np.nan), st.just(np.inf), st.just(-np.inf), st.integers(0, 80).map(float))


def brute_force(bins, X):
    """Each value on its own, by the definition in the docstring."""
    counts = np.zeros_like(bins.counts)
    for row in X:
        for column, value in enumerate(row):
            cuts = [cut for cut in bins.edges[column] if np.isfinite(cut)]
            if np.isnan(value):
                at = -1
            elif bins.categorical[column]:
                at = cuts.index(value) if value in cuts else -2
            else:
                at = sum(cut < value for cut in cuts)
            counts[column, at] += 1
    return counts


def columns(n, width, elements):
    """A matrix."""
    return hnp.arrays(np.float64, (n, width), elements=elements)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), width=st.integers(1, 4), n=st.integers(1, 40))
def test_counts_are_the_brute_force_counts(data, width, n):
    """Numbers, categories, missing, infinite, unseen: for the reference and for anything else."""
    kinds = data.draw(st.lists(st.booleans(), min_size=width, max_size=width))
    X = data.draw(columns(n, width, NUMBERS))
    for column, is_category in enumerate(kinds):
        if is_category:
            X[:, column] = np.abs(np.round(X[:, column])) % 7
    X[0::5, 0] = np.nan if n > 1 else X[0, 0]
    if np.isnan(X[:, 0]).all():
        X[0, 0] = 1.0
    bins = Bins.fit([f"c{i}" for i in range(width)], X, kinds)
    np.testing.assert_array_equal(bins.counts, brute_force(bins, X))
    other = data.draw(columns(data.draw(st.integers(0, 30)), width, ANY))
    counted = bins.count(other)
    np.testing.assert_array_equal(counted, brute_force(bins, other))
    np.testing.assert_array_equal(counted.sum(axis=1), len(other))
    assert counted.shape == bins.counts.shape
    assert counted.dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(columns(60, 2, NUMBERS), st.integers(1, 59))
def test_counts_of_parts_add_up(X, cut):
    """Workers, hours and replicas merge by addition."""
    bins = Bins.fit(["a", "b"], X, [False, False])
    np.testing.assert_array_equal(bins.count(X[:cut]) + bins.count(X[cut:]), bins.counts)


def test_a_continuous_column_is_cut_into_ten_equal_shares():
    """By the reference's quantiles."""
    X = np.random.default_rng(0).normal(size=(1000, 1))
    bins = Bins.fit(["x"], X, [False])
    np.testing.assert_array_equal(bins.counts[0, :BINS], 100)
    assert bins.rows == 1000


def test_a_reference_bin_never_holds_everything():
    """A column of mostly one value still has a cut on each side of something."""
    X = np.r_[np.zeros(950), np.ones(50)][:, None]
    bins = Bins.fit(["x"], X, [False])
    assert bins.counts[0].tolist()[:2] == [950, 50]


def test_categories_unseen_and_missing_have_bins_of_their_own():
    """Known codes first, then other, then missing."""
    bins = Bins.fit(["c"], np.array([[0.0], [1.0], [1.0], [2.0]]), [True])
    counts = bins.count(np.array([[1.0], [7.0], [np.inf], [np.nan], [0.5], [2.0]]))
    assert (counts[0, :3].tolist(), counts[0, -2], counts[0, -1], counts.sum()) == ([0, 1, 1], 3, 1, 6)


def test_the_rarest_of_many_categories_share_a_bin():
    """64 bins, the most frequent ones; the rest is `other`, already in the reference."""
    codes = np.concatenate([np.full(3 if code < MAX_BINS else 1, code) for code in range(100)]).astype(float)
    bins = Bins.fit(["c"], codes[:, None], [True])
    assert bins.edges.shape[1] == MAX_BINS
    assert bins.counts[0, -2] == 36
    assert bins.counts[0, -1] == 0


def test_infinities_of_numbers_fall_into_the_outer_bins():
    """They are no missing values."""
    bins = Bins.fit(["x"], np.arange(100.0)[:, None], [False])
    counts = bins.count(np.array([[np.inf], [-np.inf]]))[0]
    assert (counts[0], counts[BINS - 1], counts.sum()) == (1, 1, 2)


@pytest.mark.parametrize("value", [4.9, 3.0, -1e9, 5.1, 1e9])
def test_a_constant_column_notices_any_other_value(value):
    """Also a smaller one: training saw 5 and nothing but 5."""
    bins = Bins.fit(["k", "x"], np.column_stack([np.full(100, 5.0), np.arange(100.0)]), [False, False])
    same, other = (bins.count(np.array([[v, 0.0]]))[0].argmax() for v in (5.0, value))
    assert same != other


def test_no_rows_count_nothing():
    """Zero rows."""
    bins = Bins.fit(["x"], np.arange(10.0)[:, None], [False])
    np.testing.assert_array_equal(bins.count(np.empty((0, 1))), bins.empty())
