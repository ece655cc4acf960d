"""adopt() of scikit-learn's detectors, and of objects with score(): equal scores, nothing refitted, clear refusals."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.covariance import EllipticEnvelope, EmpiricalCovariance, LedoitWolf, MinCovDet
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDOneClassSVM
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from guardrails import outliers
from guardrails.contrib import LiveDetector, adopt, measured_cost
from guardrails.contrib.live import RowByRow
from guardrails.contrib.shifted import Shifted
from guardrails.errors import ProfileError
from guardrails.outliers.kinds import read_detector
from guardrails.testing import check_detector

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(4, 4)) + 2 * np.eye(4)
TRAIN = RNG.normal(size=(400, 4)) @ MIX
ROWS = np.vstack([RNG.normal(size=(200, 4)) @ MIX, 6 * RNG.normal(size=(40, 4)), TRAIN[:10]])

COMPILED = {
    "isolation_forest": (
        IsolationForest(n_estimators=30, contamination=0.1, random_state=0),
        lambda fitted, rows: -fitted.score_samples(rows),
    ),
    "elliptic_envelope": (EllipticEnvelope(random_state=0), lambda fitted, rows: -fitted.score_samples(rows)),
    "min_cov_det": (MinCovDet(random_state=0), lambda fitted, rows: fitted.mahalanobis(rows)),
    "empirical_covariance": (EmpiricalCovariance(), lambda fitted, rows: fitted.mahalanobis(rows)),
    "ledoit_wolf": (LedoitWolf(), lambda fitted, rows: fitted.mahalanobis(rows)),
    "nearest_neighbors": (NearestNeighbors(n_neighbors=7), lambda fitted, rows: fitted.kneighbors(rows)[0][:, -1]),
}
LIVE = {
    "lof": (LocalOutlierFactor(novelty=True), lambda fitted, rows: -fitted.score_samples(rows)),
    "one_class_svm": (OneClassSVM(), lambda fitted, rows: -fitted.score_samples(rows)),
    "sgd_one_class_svm": (SGDOneClassSVM(random_state=0), lambda fitted, rows: -fitted.score_samples(rows)),
    "density": (KernelDensity(), lambda fitted, rows: -fitted.score_samples(rows)),
    "mixture": (GaussianMixture(2, random_state=0), lambda fitted, rows: -fitted.score_samples(rows)),
    "cosine": (
        NearestNeighbors(n_neighbors=3, metric="cosine"),
        lambda fitted, rows: fitted.kneighbors(rows)[0][:, -1],
    ),
    "pipeline": (
        make_pipeline(StandardScaler(), IsolationForest(n_estimators=20, random_state=0)),
        lambda fitted, rows: -fitted.score_samples(rows),
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_compiles_scores_like_the_original(name):
    """Plain arrays, equal to the estimator's own scores in a batch and one by one."""
    estimator, own = COMPILED[name]
    fitted = estimator.fit(TRAIN)
    detector = adopt(fitted)
    assert hasattr(detector, "arrays")
    assert not getattr(detector, "live", False)
    expected = own(fitted, ROWS)
    np.testing.assert_allclose(detector.score(ROWS), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose([detector.score_one(row) for row in ROWS], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LIVE)
def test_what_does_not_compile_is_called_as_it_is(name):
    """The very object, its own scores with our sign, a name to show, and the detector protocol kept."""
    estimator, own = LIVE[name]
    fitted = estimator.fit(TRAIN)
    detector = adopt(fitted)
    assert detector.live
    assert detector.original is fitted
    assert detector.name == f"{type(fitted).__module__}.{type(fitted).__qualname__}"
    np.testing.assert_array_equal(detector.score(ROWS), own(fitted, ROWS))
    if name not in {"cosine", "sgd_one_class_svm"}:  # an angle and a half-space do not grow in all directions
        check_detector(detector, ROWS[:100])


@pytest.mark.parametrize("estimator", [estimator for estimator, _ in (COMPILED | LIVE).values()], ids=COMPILED | LIVE)
def test_an_unfitted_estimator_is_refused(estimator):
    """With the fix."""
    fresh = type(estimator)(**estimator.get_params(deep=False))
    if isinstance(fresh, Pipeline):
        fresh = make_pipeline(StandardScaler(), IsolationForest())
    with pytest.raises(ProfileError, match=r"is not fitted: call its fit\(X\)"):
        adopt(fresh)


@pytest.mark.parametrize(
    "stranger",
    [
        LogisticRegression().fit(TRAIN, TRAIN[:, 0] > 0),
        RandomForestClassifier(2).fit(TRAIN, TRAIN[:, 0] > 0),
        KMeans(2, n_init=1).fit(TRAIN),
        StandardScaler().fit(TRAIN),
        make_pipeline(StandardScaler(), LogisticRegression()).fit(TRAIN, TRAIN[:, 0] > 0),
    ],
    ids=lambda stranger: type(stranger).__name__,
)
def test_what_is_no_outlier_detector_is_refused(stranger):
    """A classifier's score() is an accuracy and its decision_function a class: neither may pass for a strangeness."""
    with pytest.raises(TypeError, match="is no outlier detector"):
        adopt(stranger)


@pytest.mark.parametrize("wrap", [lambda lof: lof, lambda lof: make_pipeline(StandardScaler(), lof)])
def test_a_local_outlier_factor_without_novelty_is_refused(wrap):
    """It scores only what it was fitted on; the message says how to fit it."""
    with pytest.raises(ProfileError, match="novelty=True"):
        adopt(wrap(LocalOutlierFactor()).fit(TRAIN))


class Overridden(IsolationForest):
    """Somebody's subclass that scores otherwise: what the base compiles to would not be it."""

    def score_samples(self, X):
        return 3 * super().score_samples(X)


class Homemade(OutlierMixin, BaseEstimator):
    """An estimator in scikit-learn's manner, with decision_function only."""

    def fit(self, X, y=None):
        self.centre_ = np.mean(X, axis=0)
        return self

    def decision_function(self, X):
        return 5.0 - np.abs(X - self.centre_).sum(axis=1)


class Scores(BaseEstimator):
    """An estimator that has score(rows) already: the nearest class decides, and that is this one."""

    def score(self, rows):
        return np.abs(rows).sum(axis=1)


def test_a_subclass_is_scored_by_its_own_methods():
    """Overridden methods count; decision_function is negated; score(rows) is taken as it is."""
    overridden, homemade, own = Overridden(n_estimators=5, random_state=0).fit(TRAIN), Homemade().fit(TRAIN), Scores()
    np.testing.assert_array_equal(adopt(overridden).score(ROWS), -overridden.score_samples(ROWS))
    np.testing.assert_array_equal(adopt(homemade).score(ROWS), -homemade.decision_function(ROWS))
    assert adopt(own) is own


def test_a_pipeline_that_looks_for_columns_by_name_gets_them():
    """Fitted on a DataFrame: the matrix of a request is given its column names, without a warning per request."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(TRAIN, columns=list("abcd"))
    chosen = ColumnTransformer([("scaled", StandardScaler(), ["d", "a"])])
    fitted = make_pipeline(chosen, IsolationForest(n_estimators=10, random_state=0)).fit(frame)
    plain = OneClassSVM().fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = pd.DataFrame(ROWS, columns=list("abcd"))
        for original in (fitted, plain):
            np.testing.assert_array_equal(adopt(original).score(ROWS), -original.score_samples(rows))
            np.testing.assert_array_equal(adopt(original).score(rows), -original.score_samples(rows))


def test_a_list_of_rows_is_scored_too():
    """Live detectors take what a client may send."""
    detector = adopt(OneClassSVM().fit(TRAIN))
    np.testing.assert_array_equal(detector.score(ROWS[:3].tolist()), detector.score(ROWS[:3]))


def test_adoption_fits_and_copies_nothing(monkeypatch):
    """Any call of fit() would raise."""
    pipeline = make_pipeline(StandardScaler(), OneClassSVM()).fit(TRAIN)
    forest = IsolationForest(n_estimators=5, random_state=0).fit(TRAIN)

    def refuse(*_, **__):
        raise AssertionError("fit() was called")

    for cls in (StandardScaler, OneClassSVM, IsolationForest):
        monkeypatch.setattr(cls, "fit", refuse)
    assert adopt(pipeline).original is pipeline
    assert adopt(forest).kind == "isolation_forest"


def test_an_adopted_estimator_calibrates_at_alpha():
    """outliers.fit takes a fitted pipeline as it is, and calibrates it on all of X."""
    fitted = make_pipeline(StandardScaler(), OneClassSVM()).fit(TRAIN)
    detector = outliers.fit(RNG.normal(size=(499, 4)) @ MIX, detector=fitted, alpha=0.05)
    assert len(detector.calibration) == 499
    assert 0.02 < detector.is_outlier(RNG.normal(size=(4000, 4)) @ MIX).mean() < 0.09
    assert detector.is_outlier(np.full((1, 4), 40.0)).tolist() == [True]


def test_a_shifted_forest_survives_its_arrays():
    """The zero of decision_function, in a batch and alone, stored and read."""
    fitted = IsolationForest(n_estimators=20, contamination=0.07, random_state=0).fit(TRAIN)
    shifted = Shifted.compile(fitted)
    read = read_detector("shifted", shifted.arrays())
    for detector in (shifted, read):
        np.testing.assert_allclose(detector.score(ROWS), -fitted.decision_function(ROWS), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal([detector.score_one(row) for row in ROWS], shifted.score(ROWS))
    assert not any(array.dtype.hasobject for array in shifted.arrays().values())


class TwoColumns:
    """Probabilities of two classes instead of one score."""

    def score(self, rows):
        return np.zeros((len(rows), 2))


class Accuracy:
    """score() as classifiers have it."""

    def score(self, rows, labels):
        return 0.9


class Nothing:
    """No score() at all, only a decision_function of unknown sign."""

    def decision_function(self, rows):
        return rows.sum(axis=1)


def test_an_object_with_score_is_taken_as_it_is():
    """Our own detectors, somebody's, and what was adopted before."""
    live = adopt(OneClassSVM().fit(TRAIN))
    for detector in (outliers.IsolationForest.fit(TRAIN, trees=3), Scores(), live):
        assert adopt(detector) is detector


def test_an_object_with_another_score_is_refused():
    """score(X, y) is somebody's accuracy, a class is no object, and without score() the sign is anybody's guess."""
    with pytest.raises(TypeError, match="cannot be called with rows alone"):
        adopt(Accuracy())
    with pytest.raises(TypeError, match=r"has no score\(rows\)"):
        adopt(Nothing())
    with pytest.raises(TypeError, match="is a class"):
        adopt(IsolationForest)
    with pytest.raises(ProfileError, match="one score per row"):
        outliers.fit(TRAIN, detector=TwoColumns())


@pytest.mark.parametrize(
    "answer", [lambda rows: 1.0, lambda rows: rows, lambda rows: rows[:-1, 0], lambda rows: np.zeros((len(rows), 1))]
)
def test_a_live_detector_that_answers_in_another_shape_is_refused(answer):
    """At each call, not only when it is calibrated."""
    with pytest.raises(ProfileError, match="one score per row"):
        LiveDetector(Nothing(), answer).score(ROWS)


class ReadsFloat32:
    """A network that reads float32 only."""

    def __call__(self, rows):
        if rows.dtype != np.float32:
            raise TypeError(f"expected float32, got {rows.dtype}")
        return np.abs(rows).sum(axis=1)


def test_a_detector_of_float32_is_given_float32():
    """And what it answers comes back as float64."""
    detector = LiveDetector(ReadsFloat32(), ReadsFloat32(), np.float32)
    scores = detector.score(ROWS)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, np.abs(ROWS).sum(axis=1), rtol=1e-6)
    assert outliers.fit(TRAIN, detector=detector, alpha=0.05).is_outlier(np.full((1, 4), 99.0))[0]


def test_row_by_row_scores_rows_alone():
    """A detector that ranks within the batch: each row's own score does not."""
    ranks = RowByRow(Nothing(), lambda rows: rows[:, 0].argsort().argsort())
    assert ranks.score(ROWS[:9]).max() == 8
    assert ranks.score_each(ROWS[:9]).tolist() == [0.0] * 9
    assert ranks.score_each(ROWS[:0]).shape == (0,)


def test_the_cost_of_one_row_is_measured_row_by_row():
    """As many single rows as asked for, in turn, in microseconds."""
    seen = []

    class Spy:
        def score(self, rows):
            seen.append(rows.copy())
            return np.zeros(len(rows))

    assert measured_cost(Spy(), ROWS[:3], repeats=5) > 0
    np.testing.assert_array_equal(np.vstack(seen), ROWS[[0, 1, 2, 0, 1]])


def test_the_plugins_import_none_of_the_packages():
    """Dispatch goes by names."""
    code = (
        "import sys, guardrails.contrib, guardrails.contrib.sklearn, guardrails.contrib.pyod\n"
        "import guardrails.contrib.alibi_detect, guardrails.outliers.voting\n"
        "print({'sklearn', 'pyod', 'alibi_detect', 'scipy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
