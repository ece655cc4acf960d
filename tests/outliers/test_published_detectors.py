"""What every compiled detector promises: its protocol, alpha by simulation, and its rank on real data."""

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance, LedoitWolf, MinCovDet
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors as SklearnNeighbors

from guardrails.errors import ProfileError
from guardrails.outliers import calibrate
from guardrails.outliers.ecdf import Ecdf
from guardrails.outliers.feature_space import FeatureSpace
from guardrails.outliers.histogram import Histogram
from guardrails.outliers.mahalanobis import Mahalanobis
from guardrails.outliers.neighbors import NearestNeighbors
from guardrails.testing import check_detector

FITS = {
    "mahalanobis": Mahalanobis.fit,
    "robust mahalanobis": lambda X: Mahalanobis.fit(X, robust=True),
    "knn": NearestNeighbors.fit,
    "hbos": Histogram.fit,
    "ecod": Ecdf.fit,
    "feature space": FeatureSpace.fit,
    "feature space, mahalanobis": lambda X: FeatureSpace.fit(X, inner="mahalanobis"),
}
FLOAT32_MAX = float(np.finfo(np.float32).max)

# A robust estimate of rows with few distinct values says so while it is made.
pytestmark = pytest.mark.filterwarnings("ignore:.*not full rank:UserWarning", "ignore:Determinant has increased")

every_kind = pytest.mark.parametrize("kind", FITS)


def ordinary(rng, n, d):
    """Rows of skewed, heavy-tailed, discrete and constant columns, in units between 1e-4 and 1e4."""
    columns = [
        rng.normal(size=n),
        1e4 * rng.standard_t(3, size=n),
        rng.exponential(size=n),
        1e-4 * rng.normal(size=n),
        rng.poisson(3, size=n),
        np.full(n, 7.0),
    ]
    return np.column_stack([columns[j % len(columns)] + (rng.normal(size=n) if j >= 6 else 0.0) for j in range(d)])


def spread_out(rng, n, d):
    """Ordinary rows, some of them far out in some columns, up to the largest float32."""
    rows = ordinary(rng, n, d)
    far = rng.random(rows.shape) < 0.05
    rows[far] *= 10.0 ** rng.integers(0, 34, far.sum())
    return rows


@every_kind
@pytest.mark.parametrize("width", [1, 5, 40])
def test_the_protocol_is_kept(kind, width):
    """What a plug-in's author would check of one of his own."""
    rng = np.random.default_rng(0)
    check_detector(FITS[kind](ordinary(rng, 400, width)), ordinary(rng, 100, width))


@every_kind
@pytest.mark.parametrize("width", [1, 2, 5, 33, 150])
def test_a_row_scores_the_same_bits_alone_and_in_any_batch(kind, width):
    """A row that ties with a calibration row has to tie with it however it is asked for."""
    rng = np.random.default_rng(1)
    detector = FITS[kind](ordinary(rng, 350, width))
    rows = spread_out(rng, 300, width)
    batch = detector.score(rows)
    np.testing.assert_array_equal(batch, [detector.score_one(row) for row in rows])
    np.testing.assert_array_equal(detector.score(rows[::-1]), batch[::-1])
    np.testing.assert_array_equal(np.r_[detector.score(rows[:7]), detector.score(rows[7:])], batch)


@every_kind
def test_memory_layout_and_number_type_do_not_matter(kind):
    """Fortran order, views and float32 score like the same numbers in plain rows; no rows have no scores."""
    rng = np.random.default_rng(2)
    detector = FITS[kind](ordinary(rng, 300, 8))
    rows = spread_out(rng, 100, 16)
    view = rows[::2, ::2]
    plain = detector.score(view.copy())
    np.testing.assert_array_equal(detector.score(view), plain)
    np.testing.assert_array_equal(detector.score(np.asfortranarray(view)), plain)
    np.testing.assert_array_equal([detector.score_one(row) for row in np.asfortranarray(view)], plain)
    small = view.astype(np.float32)
    np.testing.assert_array_equal(detector.score(small), detector.score(small.astype(np.float64)))
    assert detector.score(np.empty((0, 8))).shape == (0,)


@every_kind
def test_scores_and_contributions_of_any_float32_are_numbers(kind):
    """And nothing warns: rows of zeros, of tiny, of the largest numbers, of both signs at once."""
    rng = np.random.default_rng(3)
    detector = FITS[kind](ordinary(rng, 300, 6))
    rows = np.vstack(
        [np.zeros(6), np.full((1, 6), 1e-45), FLOAT32_MAX * rng.choice([-1, 1], (40, 6)), spread_out(rng, 99, 6)]
    )
    before = rows.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = detector.score(rows)
        alone = [detector.score_one(row) for row in rows]
        parts = np.array([detector.contributions(row) for row in rows])
    assert np.isfinite(scores).all()
    assert np.isfinite(alone).all()
    assert all(isinstance(score, float) for score in alone)
    assert np.isfinite(parts).all()
    assert (parts >= 0).all()
    assert scores[2:42].min() > np.median(scores[42:])
    np.testing.assert_array_equal(rows, before)


@every_kind
def test_the_strange_column_contributes_most(kind):
    """One value twenty standard deviations out, in each varying column in turn."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(500, 5)) * [1.0, 1e-3, 1e3, 1.0, 1e5]
    detector = FITS[kind](X)
    for column in range(5):
        row = X[column].copy()
        row[column] += 20 * X[:, column].std()
        parts = detector.contributions(row)
        assert parts.shape == (5,)
        assert parts.argmax() == column


@every_kind
def test_arrays_round_trip_through_an_npz(kind):
    """What is stored scores bit for bit what was fitted; nothing in it is an object."""
    rng = np.random.default_rng(5)
    detector = FITS[kind](ordinary(rng, 300, 6))
    buffer = io.BytesIO()
    np.savez(buffer, **detector.arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as stored:
        again = type(detector).from_arrays(dict(stored))
    rows = spread_out(rng, 200, 6)
    np.testing.assert_array_equal(again.score(rows), detector.score(rows))
    np.testing.assert_array_equal(again.contributions(rows[0]), detector.contributions(rows[0]))
    assert again.arrays().keys() == detector.arrays().keys()
    for name, array in detector.arrays().items():
        assert array.dtype.kind in "if"
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)


@every_kind
def test_the_same_seed_fits_the_same_detector(kind):
    """Bit for bit; the seed is the only source of randomness."""
    X = ordinary(np.random.default_rng(6), 300, 6)
    np.random.seed(0)  # noqa: NPY002
    first = FITS[kind](X).arrays()
    np.random.seed(1)  # noqa: NPY002
    for name, array in FITS[kind](X).arrays().items():
        np.testing.assert_array_equal(array, first[name], err_msg=name)


@every_kind
@pytest.mark.parametrize(
    "X",
    [
        np.empty((0, 3)),
        np.empty((9, 0)),
        np.ones(9),
        np.full((20, 2), np.nan),
        np.full((20, 2), np.inf),
        np.eye(20) * 1e39,
    ],
    ids=["no rows", "no columns", "1-D", "nan", "inf", "too large"],
)
def test_unusable_rows_are_refused(kind, X):
    """With a sentence, rather than scores that mean nothing."""
    with pytest.raises(ProfileError, match="X h"):
        FITS[kind](X)


def shares(kind, draw, splits, fitted, calibration, fresh):
    """The share of fresh ordinary rows flagged at .05 and .01, for each of many fits to new rows."""
    rng = np.random.default_rng(7)
    flagged = np.empty((splits, 2))
    for split in range(splits):
        detector = FITS[kind](draw(rng, fitted))
        at_5 = calibrate(detector, draw(rng, calibration), alpha=0.05)
        rows = draw(rng, fresh)
        for i, calibrated in enumerate((at_5, at_5.with_alpha(0.01))):
            batch = calibrated.is_outlier(rows)
            flagged[split, i] = batch.mean()
            alone = [calibrated.judge_one(row[None, :], row.tolist())[1] <= calibrated.alpha for row in rows[:20]]
            assert alone == batch[:20].tolist()
    return flagged.mean(axis=0)


def interval(alpha, n, splits, fresh):
    """Where 99.9 % of the means lie: a split's share is beta-binomial."""
    rank = np.floor(alpha * (n + 1) + 1e-9)
    a, b = rank, n + 1 - rank
    mean = a / (n + 1)
    variance = mean * (1 - mean) * (n + 1 + fresh) / (fresh * (n + 2))
    assert a + b == n + 1
    return mean, 3.29 * (variance / splits) ** 0.5


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.full) if kind == "robust mahalanobis" else kind for kind in FITS],
)
def test_alpha_is_the_share_of_ordinary_rows_flagged(kind):
    """Over 200 fits, calibrations and fresh rows: the mean share is what split-conformal promises, for each alpha."""

    def draw(rng, n):
        return rng.normal(size=(n, 4)) @ np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1e-3, 0], [0, 0, 0, 1e3]])

    means = shares(kind, draw, splits=200, fitted=60, calibration=130, fresh=100)
    for alpha, mean in zip((0.05, 0.01), means, strict=True):
        expected, half = interval(alpha, 130, 200, 100)
        assert abs(mean - expected) <= half, (alpha, mean, expected, half)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.full) if kind == "robust mahalanobis" else kind for kind in FITS],
)
def test_alpha_is_not_exceeded_where_rows_tie(kind):
    """Few distinct rows: most calibration scores tie, and whether a row ties may not depend on how it is scored."""

    def draw(rng, n):
        return np.column_stack([rng.poisson(0.7, size=n), rng.integers(0, 4, size=n)]).astype(float)

    means = shares(kind, draw, splits=100, fitted=60, calibration=130, fresh=100)
    for alpha, mean in zip((0.05, 0.01), means, strict=True):
        expected, half = interval(alpha, 130, 100, 100)
        assert mean <= expected + half, (alpha, mean, expected, half)


DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "outlier"
SETS = {
    "breastw": "4_breastw", "cardio": "6_cardio", "Pima": "29_Pima", "thyroid": "38_thyroid", "vowels": "40_vowels",
    "WBC": "42_WBC",
}  # fmt: skip


def halves(name):
    """Half of the ordinary rows to fit on; the rest with all outliers, and which of them are; skips without data."""
    path = DATA / f"{SETS[name]}.npz"
    if not path.is_file():
        pytest.skip(f"the ADBench data is not at {path}")
    with np.load(path, allow_pickle=False) as archive:
        X, y = archive["X"].astype(float), archive["y"]
    inliers = X[y == 0]
    order = np.random.default_rng(0).permutation(len(inliers))
    half = len(order) // 2
    tested = np.vstack([inliers[order[half:]], X[y == 1]])
    return inliers[order[:half]], tested, np.r_[np.zeros(len(order) - half), np.ones(int((y == 1).sum()))]


def published(name, method):
    """AUROC as printed in ADBench's table."""
    with (DATA / "published_aucroc.csv").open() as file:
        return next(float(row[method]) for row in csv.DictReader(file) if row["dataset"] == name)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("estimator", [EmpiricalCovariance(), LedoitWolf(), MinCovDet(random_state=0)], ids=str)
def test_covariances_rank_real_outliers_as_scikit_learn_does(name, estimator):
    """The compiled estimator's AUROC is scikit-learn's, and so, about, is ours, which treats singular ones otherwise."""
    X, tested, truth = halves(name)
    fitted = estimator.fit(X)
    ours = roc_auc_score(truth, Mahalanobis.compile(fitted).score(tested))
    original = roc_auc_score(truth, np.nan_to_num(fitted.mahalanobis(tested)))  # a root of a rounded negative is NaN
    assert ours == pytest.approx(original, abs=1e-9)
    if not isinstance(estimator, LedoitWolf):
        robust = isinstance(estimator, MinCovDet)
        own = roc_auc_score(truth, Mahalanobis.fit(X, robust=robust, seed=0).score(tested))
        assert own >= original - (0.04 if robust else 1e-3)


@pytest.mark.parametrize("name", SETS)
def test_neighbours_rank_real_outliers_as_scikit_learn_does_and_as_published(name):
    """AUROC equal to scikit-learn's on scaled rows, and at most .06 below the printed figure."""
    X, tested, truth = halves(name)
    detector = NearestNeighbors.fit(X)
    scaled = (tested - detector.low) * detector.weight
    tree = SklearnNeighbors(n_neighbors=5, algorithm="kd_tree").fit((X - detector.low) * detector.weight)
    ours = roc_auc_score(truth, detector.score(tested))
    assert ours == pytest.approx(roc_auc_score(truth, tree.kneighbors(scaled)[0][:, -1]), abs=1e-9)
    assert ours == pytest.approx(roc_auc_score(truth, NearestNeighbors.compile(tree).score(scaled)), abs=1e-9)
    assert ours >= published(name, "KNN") - 0.06


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("kind", "method"), [("hbos", "HBOS"), ("ecod", "ECOD"), ("feature space", "PCA")])
def test_the_others_rank_real_outliers_as_well_as_published(name, kind, method):
    """AUROC at most .06 below the printed figure of the method they are nearest to."""
    X, tested, truth = halves(name)
    assert roc_auc_score(truth, FITS[kind](X).score(tested)) >= published(name, method) - 0.06
