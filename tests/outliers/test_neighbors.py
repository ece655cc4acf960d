"""Neighbours found in float32 and measured in float64, against scikit-learn's search tree."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.neighbors import LocalOutlierFactor
from sklearn.neighbors import NearestNeighbors as SklearnNeighbors

from guardrails.errors import ProfileError
from guardrails.outliers import neighbors
from guardrails.outliers.neighbors import NearestNeighbors


def assert_exact(reference, rows, k=5, rtol=1e-12):
    """The distances a search tree computes from differences, to the last bits; alone and in a batch the same."""
    fitted = SklearnNeighbors(n_neighbors=k, algorithm="kd_tree").fit(reference)
    compiled = NearestNeighbors.compile(fitted)
    scores = compiled.score(rows)
    np.testing.assert_allclose(scores, fitted.kneighbors(rows)[0][:, -1], rtol=rtol, atol=0)
    np.testing.assert_array_equal(scores, [compiled.score_one(row) for row in rows])


@pytest.mark.parametrize("n", [5, 127, 128, 129, 1000, 6000])
@pytest.mark.parametrize("width", [1, 3, 30])
def test_distances_are_exact(n, width):
    """For few and many reference rows, around the size of a group, near and very far."""
    rng = np.random.default_rng(n)
    reference, rows = rng.normal(size=(n, width)), rng.normal(size=(60, width))
    assert_exact(reference, np.vstack([rows, reference[:5], 1e6 * rows[:9], 1e20 * rows[:9], 3e37 * rows[:9]]))


@pytest.mark.parametrize("k", [1, 2, 31, 32, 33, 200, 400])
def test_any_neighbour_can_count(k):
    """From the nearest to the farthest of all, around where groups are too few to bound it."""
    rng = np.random.default_rng(k)
    assert_exact(rng.normal(size=(400, 4)), rng.normal(size=(50, 4)), k=k)


@pytest.mark.parametrize("offset", [1e3, 1e9])
@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e15])
def test_neither_offset_nor_unit_costs_exactness(offset, unit):
    """float32 would not tell these rows apart, nor hold some of them, if they were not centred and scaled first."""
    rng = np.random.default_rng(0)
    reference, rows = (unit * (offset + rng.normal(size=(n, 3))) for n in (2000, 100))
    assert_exact(reference, rows)


def test_distances_that_differ_by_less_than_float32_resolves_are_told_apart():
    """Thousands of candidates lie within rounding of each other: the margin has to keep all of them."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(3000, 6))
    shell = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    reference = shell * (1 + 1e-9 * rng.random((3000, 1)))
    assert_exact(reference, np.vstack([np.zeros((1, 6)), 1e-6 * rng.normal(size=(50, 6))]))


def test_the_margin_grows_with_the_distance_of_the_row():
    """Seen from afar, rows differ by little where large products cancel: float32 puts them in the wrong order."""
    rng = np.random.default_rng(11)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    flat = rng.normal(size=(3000, 6))
    flat[:, 1:] /= np.linalg.norm(flat[:, 1:], axis=1, keepdims=True)
    flat[:, 0] = 1e-7 * rng.random(3000)
    away = np.outer(np.geomspace(1.0, 1e5, 60) * rng.choice([-1, 1], 60), turn[0])
    assert_exact(flat @ turn, away, rtol=1e-14)


def test_one_far_reference_row_does_not_blur_the_others():
    """It sets the unit of the search, in which all others are one point."""
    rng = np.random.default_rng(2)
    assert_exact(np.vstack([rng.normal(size=(1000, 3)), [[1e12, 0.0, 0.0]]]), rng.normal(size=(50, 3)))


def test_integer_grids_with_ties_and_copies():
    """Most distances tie, and rows stand there many times."""
    rng = np.random.default_rng(3)
    assert_exact(rng.integers(0, 3, (1000, 4)).astype(float), rng.integers(-1, 4, (300, 4)).astype(float))


def test_as_many_copies_as_neighbours_are_at_distance_zero():
    """Exactly: a row that is wholly ordinary may not score a rounding error."""
    rng = np.random.default_rng(4)
    reference = 1e6 + rng.normal(size=(500, 10))
    reference[:5] = reference[0]
    detector = NearestNeighbors(reference, np.zeros(10), np.ones(10), k=5)
    assert detector.score_one(reference[0]) == 0.0
    assert detector.score(reference[:6])[:5].tolist() == [0.0] * 5
    assert detector.score_one(reference[7]) > 0.0


def test_brute_force_fits_compile_to_exact_distances():
    """scikit-learn's own brute force rounds where squares cancel; its rows are the same."""
    rng = np.random.default_rng(5)
    X, rows = 1e3 + rng.normal(size=(800, 5)), 1e3 + rng.normal(size=(50, 5))
    brute = SklearnNeighbors(n_neighbors=3, algorithm="brute").fit(X)
    tree = SklearnNeighbors(n_neighbors=3, algorithm="ball_tree").fit(X)
    scores = NearestNeighbors.compile(brute).score(rows)
    np.testing.assert_allclose(scores, tree.kneighbors(rows)[0][:, -1], rtol=1e-12)
    np.testing.assert_allclose(scores**2, brute.kneighbors(rows)[0][:, -1] ** 2, atol=1e-7)


@pytest.mark.parametrize("scale", [True, False])
def test_fit_measures_in_the_range_of_each_column(scale):
    """The same as scikit-learn's neighbours of rows scaled by hand."""
    rng = np.random.default_rng(6)
    units = np.array([1e-6, 1.0, 1e6])
    X, rows = rng.normal(size=(600, 3)) * units, rng.normal(size=(200, 3)) * units
    span = np.ptp(X, axis=0) if scale else np.ones(3)
    tree = SklearnNeighbors(n_neighbors=4, algorithm="kd_tree").fit((X - X.min(axis=0)) / span)
    detector = NearestNeighbors.fit(X, k=4, scale=scale)
    np.testing.assert_allclose(
        detector.score(rows), tree.kneighbors((rows - X.min(axis=0)) / span)[0][:, -1], rtol=1e-9
    )


def test_a_constant_column_is_silent_until_it_changes():
    """On the constant it adds nothing, off it it is the farthest of all."""
    rng = np.random.default_rng(7)
    X, rows = rng.normal(size=(300, 2)), rng.normal(size=(50, 2))
    detector = NearestNeighbors.fit(np.column_stack([X, np.full(300, 5.0)]))
    without = NearestNeighbors.fit(X).score(rows)
    np.testing.assert_array_equal(detector.score(np.column_stack([rows, np.full(50, 5.0)])), without)
    off = detector.score(np.column_stack([rows, np.full(50, 5.1)]))
    assert (off > 1e3 * without.max()).all()
    assert np.isfinite(off).all()
    rounded = NearestNeighbors.fit(np.column_stack([X, np.full(300, 0.1)]))
    same = rounded.score(np.column_stack([rows, np.full(50, np.float32(0.1), float)]))
    np.testing.assert_allclose(same, without, atol=0.02)


def test_a_large_reference_is_thinned_by_the_seed():
    """Some of its rows, never more than asked for, the same ones for the same seed."""
    X = np.random.default_rng(8).normal(size=(500, 2))
    first, same, other = (NearestNeighbors.fit(X, scale=False, max_rows=100, seed=seed) for seed in (1, 1, 2))
    assert first.reference.shape == (100, 2)
    assert len(np.unique(first.reference, axis=0)) == 100
    assert (first.reference[:, None] == X).all(axis=2).any(axis=1).all()
    np.testing.assert_array_equal(first.reference, same.reference)
    assert not np.array_equal(first.reference, other.reference)


@pytest.mark.parametrize(("options", "n"), [({}, 4), ({"k": 0}, 9), ({"k": 6, "max_rows": 5}, 9), ({"max_rows": 0}, 9)])
def test_a_neighbour_that_cannot_be_is_refused(options, n):
    """Fewer rows are kept than neighbours asked for."""
    with pytest.raises(ProfileError, match="cannot be found among"):
        NearestNeighbors.fit(np.arange(2.0 * n).reshape(n, 2), **options)


def test_one_row_and_one_neighbour():
    """The least there is."""
    detector = NearestNeighbors.fit(np.array([[2.0, 3.0]]), k=1, scale=False)
    assert detector.score(np.array([[2.0, 3.0], [5.0, 7.0]])).tolist() == [0.0, 5.0]


def test_chunks_do_not_show(monkeypatch):
    """However many rows are looked at together, the bits are the same."""
    rng = np.random.default_rng(9)
    detector, rows = NearestNeighbors.fit(rng.normal(size=(700, 3))), rng.normal(size=(300, 3))
    whole = detector.score(rows)
    monkeypatch.setattr(neighbors, "_CHUNK", 5000)
    np.testing.assert_array_equal(detector.score(rows), whole)


def test_contributions_are_the_squares_the_distance_is_made_of():
    """They add up to its square, and the column that is off leads."""
    rng = np.random.default_rng(10)
    detector = NearestNeighbors.fit(rng.normal(size=(500, 4)))
    for row in rng.normal(size=(50, 4)):
        assert detector.contributions(row).sum() == pytest.approx(detector.score_one(row) ** 2, rel=1e-12)
    assert detector.contributions(np.array([0.0, 0.0, 40.0, 0.0])).argmax() == 2


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        (SklearnNeighbors(), "fitted on a dense array"),
        (SklearnNeighbors().fit(csr_matrix(np.eye(9))), "fitted on a dense array"),
        (LocalOutlierFactor(n_neighbors=3, novelty=True).fit(np.eye(9)), "no scikit-learn NearestNeighbors"),
        (SklearnNeighbors(metric="manhattan").fit(np.eye(9)), "manhattan"),
        (SklearnNeighbors(p=1).fit(np.eye(9)), "manhattan"),
        (SklearnNeighbors(p=3).fit(np.eye(9)), "minkowski"),
        (SklearnNeighbors(metric_params={"w": np.arange(1.0, 10.0)}).fit(np.eye(9)), "minkowski"),
        (SklearnNeighbors(metric="cosine").fit(np.eye(9)), "cosine"),
        (SklearnNeighbors(n_neighbors=10).fit(np.eye(9)), "10 neighbours and holds 9 rows"),
        (None, "no scikit-learn NearestNeighbors"),
    ],
    ids=["unfitted", "sparse", "LOF", "manhattan", "p=1", "p=3", "weighted", "cosine", "too few", "None"],
)
def test_other_searches_are_refused(stranger, message):
    """compile() takes Euclidean neighbours and says so."""
    with pytest.raises(TypeError, match=message):
        NearestNeighbors.compile(stranger)
