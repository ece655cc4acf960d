"""Bins: counting is exactly what it says, and adds up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guardrails.profile.bins import ABSENT, BINS, MAX_BINS, Bins

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


def test_a_continuous_column_is_cut_into_sixteen_equal_shares():
    """By the reference's quantiles."""
    X = np.random.default_rng(0).normal(size=(1600, 1))
    bins = Bins.fit(["x"], X, [False])
    assert BINS == 16
    np.testing.assert_array_equal(bins.counts[0, :BINS], 100)
    assert bins.rows == 1600


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
    bins = Bins.fit(["x"], np.arange(1000.0)[:, None], [False])
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


@settings(max_examples=100, deadline=None)
@given(columns(40, 3, ANY), hnp.arrays(bool, (40, 3)))
def test_codes_are_counted_where_they_are_and_absent_values_nowhere(X, absent):
    """What nobody could have given is neither missing nor anything else; the rest is the brute force."""
    reference = np.column_stack([np.arange(40.0), np.arange(40.0) % 3, np.full(40, 7.0)])
    bins = Bins.fit(["number", "category", "constant"], reference, [False, True, False])
    codes = bins.codes(X, absent)
    assert (codes[absent] == ABSENT).all()
    assert (codes[~absent] >= 0).all()
    expected = np.zeros_like(bins.counts)
    for row, out in zip(X, absent, strict=True):
        expected += brute_force(bins, row[None]) * ~out[:, None]
    np.testing.assert_array_equal(bins.tally(codes), expected)
    np.testing.assert_array_equal(bins.tally(codes).sum(axis=1), (~absent).sum(axis=0))
    np.testing.assert_array_equal(bins.tally(bins.codes(X)), bins.count(X))


def test_no_codes_are_no_counts():
    """An empty block, and one of which everything is absent."""
    bins = Bins.fit(["x", "y"], np.arange(20.0).reshape(10, 2), [False, False])
    np.testing.assert_array_equal(bins.tally(np.empty((0, 2), np.int64)), bins.empty())
    np.testing.assert_array_equal(bins.tally(np.full((5, 2), ABSENT)), bins.empty())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_value_falls_only_into_bins_in_use(data):
    """`used` names every bin that anything can fall into, and each has a label of its own."""
    kinds = data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    X = np.round(data.draw(columns(30, len(kinds), NUMBERS)))
    X[:, kinds] = np.abs(X[:, kinds]) % 9
    bins = Bins.fit([f"c{i}" for i in range(len(kinds))], X, kinds)
    counts = bins.count(data.draw(columns(50, len(kinds), ANY)))
    for column in range(len(kinds)):
        used = bins.used(column)
        assert used == sorted(set(used))
        assert counts[column].sum() == counts[column, used].sum() == 50
        assert bins.counts[column].sum() == bins.counts[column, used].sum() == 30
        labels = [bins.label(bin_) for bin_ in used]
        assert len(set(labels)) == len(labels)
        assert labels[-1] == "nan"
        assert ("other" in labels) is kinds[column]


def test_bins_side_by_side_count_as_each_by_itself():
    """Of different widths, kinds and numbers of reference rows."""
    rng = np.random.default_rng(3)
    first = Bins.fit(["x", "c"], np.column_stack([rng.normal(size=300), rng.integers(0, 40, 300)]), [False, True])
    second = Bins.fit(["y"], rng.integers(0, 2, (77, 1)).astype(float), [True])
    both = first.beside(second)
    rows = np.column_stack([rng.normal(size=50), rng.integers(0, 50, 50), rng.integers(0, 3, 50)]).astype(float)
    rows[::7] = np.nan
    counted = both.count(rows)
    assert both.names == ("x", "c", "y")
    np.testing.assert_array_equal(both.counts.sum(axis=1), [300, 300, 77])
    for column, (part, own) in enumerate([(first, 0), (first, 1), (second, 0)]):
        alone = part.count(rows[:, :2] if part is first else rows[:, 2:])[own]
        labelled = {both.label(b): int(counted[column, b]) for b in both.used(column)}
        assert labelled == {part.label(b): int(alone[b]) for b in part.used(own)}


def test_ref_names_the_reference():
    """The same rows have the same; another count, cut, kind or name has another."""
    from dataclasses import replace

    X = np.random.default_rng(4).normal(size=(200, 2))
    bins = Bins.fit(["a", "b"], X, [False, False])
    assert bins.ref == Bins.fit(["a", "b"], X.copy(), [False, False]).ref
    assert len(bins.ref) == 12
    others = [
        replace(bins, counts=bins.counts + 1),
        replace(bins, edges=bins.edges + 1.0),
        replace(bins, names=("a", "c")),
        replace(bins, categorical=np.array([False, True])),
        Bins.fit(["a", "b"], X[:-1], [False, False]),
    ]
    assert len({bins.ref, *(other.ref for other in others)}) == 1 + len(others)
