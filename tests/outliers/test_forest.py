"""The compiled isolation forest against scikit-learn's own scores."""

import io

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest as SklearnForest

from guardrails.outliers import IsolationForest

TOLERANCE = 1e-12


def both(X, **options):
    """A fitted scikit-learn forest and its compiled twin."""
    fitted = SklearnForest(random_state=0, **options).fit(X)
    return fitted, IsolationForest.compile(fitted)


def assert_same(fitted, compiled, rows):
    """The same scores, as large numbers mean strange here and ordinary there."""
    np.testing.assert_allclose(compiled.score(rows), -fitted.score_samples(rows), rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def normal_rows():
    """Training rows of ten ordinary columns."""
    return np.random.default_rng(1).normal(size=(2000, 10))


def test_a_hundred_thousand_rows_score_the_same(normal_rows):
    """100,000 random rows, some far out, score as scikit-learn scores them."""
    fitted, compiled = both(normal_rows)
    rows = np.random.default_rng(2).normal(size=(100_000, 10)) * np.random.default_rng(3).choice(
        [1, 5, 1e6], (100_000, 1)
    )
    assert_same(fitted, compiled, rows)


def test_rows_exactly_on_split_values_go_the_same_way(normal_rows):
    """A value equal to a split, and its float32 neighbours on both sides, takes scikit-learn's branch."""
    fitted, compiled = both(normal_rows, n_estimators=30)
    rng = np.random.default_rng(4)
    cuts = [[] for _ in range(10)]
    for tree in fitted.estimators_:
        inner = tree.tree_.children_left >= 0
        for feature, threshold in zip(tree.tree_.feature[inner], tree.tree_.threshold[inner], strict=True):
            cuts[feature].append(threshold)
    rows = np.column_stack([rng.choice(values, 20_000) for values in cuts])
    near = rows.astype(np.float32)
    for exact in (rows, near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))):
        assert_same(fitted, compiled, np.asarray(exact, dtype=np.float64))


def test_integer_data_with_many_ties_scores_the_same():
    """Few distinct values, so that most rows tie with each other and with splits."""
    X = np.random.default_rng(5).integers(0, 3, size=(1000, 4)).astype(float)
    fitted, compiled = both(X)
    assert_same(fitted, compiled, np.random.default_rng(6).integers(-1, 5, size=(10_000, 4)).astype(float))


def test_float32_rows_score_as_their_float64_twins(normal_rows):
    """The dtype of the rows does not matter, as scikit-learn rounds to float32 anyway."""
    fitted, compiled = both(normal_rows)
    rows = np.random.default_rng(7).normal(size=(5000, 10)).astype(np.float32)
    assert_same(fitted, compiled, rows)
    np.testing.assert_array_equal(compiled.score(rows), compiled.score(rows.astype(np.float64)))


@pytest.mark.parametrize("constant", [[3], [0, 9], list(range(10))], ids=["one", "two", "all"])
def test_constant_columns(normal_rows, constant):
    """Columns without any split, up to a forest of nothing but roots."""
    X = normal_rows.copy()
    X[:, constant] = 4.0
    fitted, compiled = both(X, n_estimators=20)
    assert_same(fitted, compiled, np.vstack([X[:200], normal_rows[:200]]))


@pytest.mark.parametrize("max_features", [0.1, 0.5, 3, 9, 1.0])
def test_trees_that_see_some_of_the_columns(normal_rows, max_features):
    """Each tree's column numbers are translated to the row's."""
    fitted, compiled = both(normal_rows, max_features=max_features, n_estimators=40)
    assert_same(fitted, compiled, np.random.default_rng(8).normal(size=(3000, 10)) * 2)


@pytest.mark.parametrize(
    "options",
    [
        {"max_samples": 1},
        {"max_samples": 2},
        {"max_samples": 3},
        {"max_samples": 0.01},
        {"max_samples": 1.0},
        {"max_samples": 64, "bootstrap": True},
        {"n_estimators": 1},
        {"contamination": 0.2},
    ],
    ids=str,
)
def test_other_ways_to_sample(normal_rows, options):
    """max_samples (also 1, whose normaliser is zero), bootstrap, one tree, a contamination that moves only the offset."""
    fitted, compiled = both(normal_rows, **{"n_estimators": 20, **options})
    assert_same(fitted, compiled, np.random.default_rng(9).normal(size=(1000, 10)) * 3)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_tiny_fits(n):
    """A handful of rows, down to a single one."""
    X = np.random.default_rng(10).normal(size=(n, 2))
    fitted, compiled = both(X, n_estimators=10)
    assert_same(fitted, compiled, np.random.default_rng(11).normal(size=(500, 2)) * 4)


def test_one_column_and_many_columns():
    """Widths 1 and 300."""
    for width in (1, 300):
        X = np.random.default_rng(12).normal(size=(400, width))
        fitted, compiled = both(X, n_estimators=10)
        assert_same(fitted, compiled, np.random.default_rng(13).normal(size=(300, width)) * 2)


@pytest.mark.parametrize("n", [2, 255, 256, 257, 513, 1000])
def test_a_row_scores_the_same_bits_alone_and_in_any_batch(normal_rows, n):
    """Bit for bit: a hair of difference would decide differently at the threshold."""
    compiled = IsolationForest.fit(normal_rows, trees=100, seed=0)
    rows = np.random.default_rng(14).normal(size=(n, 10)) * 1.5
    batch = compiled.score(rows)
    alone = np.concatenate([compiled.score(row[None, :]) for row in rows])
    np.testing.assert_array_equal(batch, alone)
    np.testing.assert_array_equal(compiled.score(rows[::-1]), batch[::-1])


def test_memory_layout_of_the_rows_does_not_matter(normal_rows):
    """Fortran order and strided views score like plain rows."""
    compiled = IsolationForest.fit(normal_rows, trees=20)
    rows = np.random.default_rng(15).normal(size=(300, 20))
    view = rows[::2, ::2]
    np.testing.assert_array_equal(compiled.score(view), compiled.score(np.asfortranarray(view)))
    np.testing.assert_array_equal(compiled.score(view), compiled.score(view.copy()))


def test_rows_are_not_changed(normal_rows):
    """Scoring reads its rows and leaves them."""
    rows = normal_rows[:50].copy()
    IsolationForest.fit(normal_rows, trees=5).score(rows)
    np.testing.assert_array_equal(rows, normal_rows[:50])


def test_no_rows_have_no_scores(normal_rows):
    """Zero rows score zero numbers, not an error."""
    assert IsolationForest.fit(normal_rows, trees=5).score(np.empty((0, 10))).shape == (0,)


def test_scores_lie_between_zero_and_one(normal_rows):
    """The paper's range, also far outside of the data."""
    scores = IsolationForest.fit(normal_rows, trees=20).score(np.vstack([normal_rows, 1e30 * np.ones((1, 10))]))
    assert (scores > 0).all()
    assert (scores <= 1).all()


def test_arrays_round_trip_through_an_npz(normal_rows):
    """What is stored scores bit for bit what was fitted; nothing in it is an object."""
    compiled = IsolationForest.fit(normal_rows, trees=30, seed=3)
    buffer = io.BytesIO()
    np.savez(buffer, **compiled.arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as stored:
        again = IsolationForest.from_arrays(dict(stored))
    rows = np.random.default_rng(16).normal(size=(700, 10)) * 2
    np.testing.assert_array_equal(again.score(rows), compiled.score(rows))
    np.testing.assert_array_equal(again.score(rows[:1]), compiled.score(rows[:1]))
    assert all(array.dtype.kind in "if" for array in compiled.arrays().values())
    for name, array in compiled.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)


def test_the_seed_decides_the_fit(normal_rows):
    """Same seed, same forest; another seed, another forest."""
    rows = normal_rows[:20]
    first, same, other = (IsolationForest.fit(normal_rows, trees=10, seed=seed).score(rows) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("stranger", [SklearnForest(), object(), None], ids=["unfitted", "object", "None"])
def test_what_is_no_fitted_forest_is_refused(stranger):
    """compile() says what it wants."""
    with pytest.raises(TypeError, match="fitted scikit-learn IsolationForest"):
        IsolationForest.compile(stranger)


def test_a_forest_fitted_with_missing_values_scores_them_alike_or_is_refused():
    """scikit-learn learns a way for missing values in each node: compile() has to know it, or say that it does not."""
    rng = np.random.default_rng(17)
    X = rng.normal(size=(500, 3))
    X[rng.random(X.shape) < 0.3] = np.nan
    try:
        fitted = SklearnForest(n_estimators=20, random_state=0).fit(X)
    except ValueError:
        pytest.skip("this scikit-learn does not fit forests on missing values")
    try:
        compiled = IsolationForest.compile(fitted)
    except (TypeError, ValueError):
        return
    assert_same(fitted, compiled, X)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(30))
def test_random_forests_of_random_data(seed):
    """Any data, any options: the same scores."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 3000)), int(rng.integers(1, 40))
    X = rng.standard_t(1.5, size=(n, d)) * 10.0 ** rng.integers(-8, 8, d)
    X = np.round(X, int(rng.integers(0, 4))) if rng.random() < 0.5 else X
    fitted, compiled = both(
        X,
        n_estimators=int(rng.integers(1, 60)),
        max_samples=float(rng.uniform(0.05, 1)),
        max_features=float(rng.uniform(0.05, 1)),
        bootstrap=bool(rng.random() < 0.5),
    )
    rows = np.vstack([X, rng.standard_t(1.5, size=(2000, d)) * 10.0 ** rng.integers(-8, 8, d)])
    assert_same(fitted, compiled, rows)
