"""Tail probabilities against counting, and against PyOD's where it is installed."""

import math

import numpy as np
import pytest
from scipy.stats import skew

from guardrails.outliers import ecdf
from guardrails.outliers.ecdf import Ecdf


def counted(X, row):
    """Left and right ``-log`` tail probabilities of a row within the range, the row itself counted in."""
    n = len(X)
    left = [-math.log((1 + (X[:, j] <= row[j]).sum()) / (n + 1)) for j in range(X.shape[1])]
    right = [-math.log((1 + (X[:, j] >= row[j]).sum()) / (n + 1)) for j in range(X.shape[1])]
    return np.array(left), np.array(right)


def skewed(n, seed=0):
    """Two columns skewed to the right, two to the left, one of few values."""
    rng = np.random.default_rng(seed)
    return np.column_stack(
        [rng.exponential(size=n), rng.gamma(2, size=n), -rng.exponential(size=n), rng.beta(5, 1, n), rng.poisson(1, n)]
    )


def test_the_score_is_the_largest_of_three_sums():
    """Left tails, right tails, and the tail each column is skewed to, all by counting rows."""
    X = skewed(300)
    rows = np.clip(skewed(200, seed=1), X.min(axis=0), X.max(axis=0))
    rows[:50] = X[:50]
    to_left = skew(X, axis=0) < 0
    assert to_left.tolist() == [False, False, True, True, False]
    expected = []
    for row in rows:
        left, right = counted(X, row)
        expected.append(max(left.sum(), right.sum(), np.where(to_left, left, right).sum()))
    np.testing.assert_allclose(Ecdf.fit(X).score(rows), expected, rtol=1e-12)


def test_each_of_the_three_sums_decides_for_some_rows():
    """Low in all columns, high in all columns, and out on each column's long side."""
    X = skewed(300)
    detector = Ecdf.fit(X)
    low, high = X.min(axis=0), X.max(axis=0)
    for row, side in ((low, 0), (high, 1)):
        assert detector.score_one(row) == pytest.approx(counted(X, row)[side].sum(), rel=1e-12)
    long = np.where(detector.left, low, high)
    assert detector.score_one(long) > max(sums.sum() for sums in counted(X, long))
    for row in (low, high, long, np.median(X, axis=0)):
        assert detector.contributions(row).sum() == pytest.approx(detector.score_one(row), rel=1e-12)


def test_tails_are_pyods_for_one_row_at_a_time():
    """PyOD counts the rows to be scored into the distribution: with one row that is what this does."""
    pyod = pytest.importorskip("pyod.models.ecod")
    X = skewed(300)
    reference, detector = pyod.ECOD().fit(X), Ecdf.fit(X)
    for row in np.vstack([X[:10], np.clip(skewed(20, seed=1), X.min(axis=0), X.max(axis=0))]):
        reference.decision_function(row[None, :])
        left, right = detector._tails(row[None, :])
        np.testing.assert_allclose(left[0], reference.U_l[-1], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(right[0], reference.U_r[-1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("beyond", [1e-9, 1.0, 5.0, 1e9])
def test_out_of_range_a_tail_falls_by_e_per_standard_deviation(beyond):
    """From the probability of a row farther out than all others; the other tail is all of the distribution."""
    X = np.random.default_rng(2).normal(size=(99, 3)) * [1.0, 1e3, 1e-3]
    detector, step = Ecdf.fit(X), beyond * X.std(axis=0)
    for rows, inner, outer in ((X.max(axis=0) + step, 0, 1), (X.min(axis=0) - step, 1, 0)):
        tails = detector._tails(rows[None, :])
        np.testing.assert_allclose(tails[outer][0], math.log(100) + beyond, rtol=1e-6)
        np.testing.assert_array_equal(tails[inner][0], 0.0)


def test_far_is_stranger_than_near():
    """Strictly, on both sides, over the whole range of float32."""
    detector = Ecdf.fit(np.random.default_rng(3).normal(size=(500, 1)))
    outward = np.geomspace(4.0, 3.4e38, 200)[:, None]
    assert (np.diff(detector.score(outward)) > 0).all()
    assert (np.diff(detector.score(-outward)) > 0).all()
    assert np.isfinite(detector.score(outward)).all()


@pytest.mark.parametrize("n", [1025, 5000, 200_000])
def test_thinned_columns_keep_their_tails(n):
    """At most 1024 values a column; no tail probability is understated, nor overstated by more than 4 %."""
    X = np.random.default_rng(4).standard_t(3, size=(n, 2))
    detector = Ecdf.fit(X)
    assert len(detector.knots) <= 2 * (ecdf._KNOTS + 1)
    rows = np.sort(np.random.default_rng(5).standard_t(3, size=(4000, 2)), axis=0)
    rows = np.vstack([np.clip(rows, X.min(axis=0), X.max(axis=0)), np.sort(X, axis=0)[:: n // 500]])
    for tail, side in zip(detector._tails(rows), ("right", "left"), strict=True):
        for j in range(2):
            count = np.searchsorted(np.sort(X[:, j]), rows[:, j], side=side)
            exact = np.log((1 + n) / (1 + (count if side == "right" else n - count)))
            off = exact - tail[:, j]
            assert off.min() > -1e-12
            assert off.max() < 0.04


def test_a_thousand_distinct_values_are_all_kept():
    """However many rows there are: then every probability is exact."""
    X = np.random.default_rng(6).integers(0, 1000, size=(20_000, 1)).astype(float)
    rows = np.arange(0.0, 999.5, 0.5)[:, None]
    expected = [max(left[0], right[0]) for left, right in (counted(X, row) for row in rows[::20])]
    np.testing.assert_allclose(Ecdf.fit(X).score(rows)[::20], expected, rtol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7e8])
def test_a_constant_column_is_silent_until_it_changes(constant):
    """On the constant both tails are whole, off it the row is stranger than all others."""
    rng = np.random.default_rng(7)
    X, rows = rng.normal(size=(300, 2)), rng.normal(size=(100, 2))
    detector = Ecdf.fit(np.column_stack([X, np.full(300, constant)]))
    without = Ecdf.fit(X).score(rows)
    on = np.column_stack([rows, np.full(100, constant)])
    np.testing.assert_allclose(detector.score(on), without, rtol=1e-12)
    for step in (0.01, -0.01):
        off = detector.score(on + np.array([0.0, 0.0, step * (abs(constant) or 1.0)]))
        assert off.min() > 100 * without.max()
        assert np.isfinite(off).all()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 5000])
def test_few_rows_and_many_are_searched_alike(n):
    """All columns in one search, or one search a column: the same bits, also for values that are knots."""
    X = skewed(400)
    detector = Ecdf.fit(X)
    rows = np.where(np.random.default_rng(8).random((n, 5)) < 0.3, X[np.arange(n) % 400], 1.5 * skewed(n, seed=9))
    np.testing.assert_array_equal(detector.score(rows), [detector.score_one(row) for row in rows])


def test_one_row_is_a_distribution_of_one():
    """It is as ordinary as can be, and everything else is strange."""
    detector = Ecdf.fit(np.array([[1.0, 0.0]]))
    scores = detector.score(np.array([[1.0, 0.0], [1.0, 0.5], [0.9, 0.0]]))
    assert scores[0] == 0.0
    assert scores[1:].min() > 1e3
