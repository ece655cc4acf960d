"""adopt() of alibi-detect's detectors: its documented flows give the same decisions, and nothing is changed."""

import copy
import pickle
import sys
import types

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

pytest.importorskip("alibi_detect")

from alibi_detect.base import BaseDetector
from alibi_detect.od import IForest, Mahalanobis, SpectralResidual

from guardrails import outliers
from guardrails.contrib import adopt
from guardrails.contrib.alibi_detect import FrozenMahalanobis, load
from guardrails.errors import ProfileError
from guardrails.outliers.kinds import read_detector
from guardrails.testing import check_detector


def batches():
    """The notebooks' batches, of scikit-learn's tumours: benign to train on, then 5 % and 10 % malignant."""
    X, y = load_breast_cancer(return_X_y=True)
    benign, malignant = X[y == 1], X[y == 0]
    mean, stdev = benign[:200].mean(axis=0), benign[:200].std(axis=0)
    standard = [(rows - mean) / stdev for rows in (benign, malignant)]
    rng = np.random.default_rng(0)

    def mixed(n, share):
        strange = round(n * share)
        return rng.permutation(
            np.vstack([rng.choice(standard[0], n - strange), rng.choice(standard[1], strange)]), axis=0
        )

    return standard[0][:200], mixed(400, 0.05), mixed(400, 0.10)


TRAIN, THRESHOLD, MIXED = batches()
FEW = [1, 4, 5, 8, 9]
"""Columns whose covariance can be inverted; that of all 30 has a determinant far below what alibi-detect inverts."""


def warmed(rows=TRAIN, **options):
    """alibi-detect's Mahalanobis after some rows."""
    detector = Mahalanobis(threshold=1.0, **options)
    detector.score(rows)
    return detector


def own_scores(detector, rows):
    """What the detector itself would answer, without being changed by it."""
    return copy.deepcopy(detector).score(rows)


def decides_the_same(detector, threshold, predicted):
    """But for scores at the threshold: it is one row's score, whose last bit is not the same both ways."""
    clear = np.abs(predicted["instance_score"] - threshold) > 1e-9
    assert clear.sum() > len(MIXED) - 5
    np.testing.assert_array_equal((detector.score(MIXED) > threshold)[clear], predicted["is_outlier"][clear])


def test_the_isolation_forest_notebook_decides_the_same():
    """od_if_kddcup: fit, infer_threshold with 5 % outliers, predict a batch with 10 %."""
    od = IForest(threshold=None, n_estimators=100)
    od.fit(TRAIN)
    od.infer_threshold(THRESHOLD, threshold_perc=95)
    predicted = od.predict(MIXED, return_instance_score=True)["data"]
    detector = adopt(od)
    assert detector.kind == "shifted"
    np.testing.assert_allclose(detector.score(MIXED), predicted["instance_score"], rtol=1e-12, atol=1e-12)
    decides_the_same(detector, od.threshold, predicted)
    assert 0 < predicted["is_outlier"].sum() < len(MIXED)


def test_the_mahalanobis_notebook_decides_the_same():
    """od_mahalanobis_kddcup: no fit, infer_threshold learns, predict a batch: frozen before, equal after."""
    od = Mahalanobis(threshold=None, n_components=2, std_clip=3, start_clip=20)
    od.infer_threshold(THRESHOLD, threshold_perc=95)
    detector = adopt(od)
    predicted = od.predict(MIXED, return_instance_score=True)["data"]
    assert detector.kind == "alibi_mahalanobis"
    np.testing.assert_allclose(detector.score(MIXED), predicted["instance_score"], rtol=1e-11)
    decides_the_same(detector, od.threshold, predicted)
    assert 0 < predicted["is_outlier"].sum() < len(MIXED)


def test_alibi_detects_own_mahalanobis_changes_while_it_scores_and_ours_does_not():
    """The reason to freeze it: asked twice, it answers differently."""
    od = warmed()
    detector = adopt(od)
    first, again = od.score(MIXED), od.score(MIXED)
    assert np.abs(first - again).max() > 1e-3
    np.testing.assert_allclose(detector.score(MIXED), first, rtol=1e-10)
    np.testing.assert_array_equal(detector.score(MIXED), detector.score(MIXED))


def test_adoption_leaves_the_detector_as_it_is():
    """Neither adopting nor scoring touches its state, and what happens to it later does not matter."""
    od = warmed()
    before = copy.deepcopy(vars(od))
    detector = adopt(od)
    detector.score(MIXED)
    detector.score_each(MIXED)
    for name, value in before.items():
        np.testing.assert_array_equal(vars(od)[name], value)
    scores = detector.score(MIXED)
    od.mean += 1
    od.C *= 2
    np.testing.assert_array_equal(detector.score(MIXED), scores)


@pytest.mark.parametrize("width", [1, 2, 5, 18])
@pytest.mark.parametrize("components", [1, 2, 3, 30])
@pytest.mark.parametrize(
    "options", [{}, {"max_n": 50}, {"start_clip": 10_000}, {"std_clip": 1}], ids=["plain", "max_n", "unclipped", "clip"]
)
def test_a_frozen_state_scores_like_alibi_detect(width, components, options):
    """Batch by batch, and each row as a batch of one; few components, all, more than there are."""
    rng = np.random.default_rng(width * components)
    mix = rng.normal(size=(width, width)) + 2 * np.eye(width)
    od = warmed(rng.normal(size=(300, width)) @ mix, n_components=components, **options)
    rows = np.vstack([rng.normal(size=(100, width)) @ mix, 8 * rng.normal(size=(20, width))])
    detector = adopt(od)
    tolerance = {"rtol": 1e-12, "atol": 1e-12 if components >= width else 1e-11}
    np.testing.assert_allclose(detector.score(rows), own_scores(od, rows), **tolerance)
    alone = [own_scores(od, row[None])[0] for row in rows]
    np.testing.assert_allclose(detector.score_each(rows), alone, **tolerance)
    np.testing.assert_array_equal(detector.score_each(rows), [detector.score_one(row) for row in rows])


def test_with_all_components_a_lone_row_scores_its_squared_distance():
    """(x - m)^T C^-1 (x - m)."""
    od = warmed(TRAIN[:, FEW], n_components=5)
    distance = MIXED[:, FEW] - od.mean
    expected = np.einsum("ij,ij->i", distance, np.linalg.solve(od.C, distance.T).T)
    np.testing.assert_allclose(adopt(od).score_each(MIXED[:, FEW]), expected, rtol=1e-10)


def test_rows_before_the_covariance_can_be_inverted_score_zero_as_in_alibi_detect():
    """Components of little variance in the state, which the batch brings forward."""
    od = Mahalanobis(threshold=1.0, n_components=1, start_clip=10_000)
    od.n, od.mean, od.C = 200, np.zeros(2), np.diag([3e-8, 2e-9])
    rows = np.column_stack([np.zeros(40), np.random.default_rng(0).normal(size=40) * np.linspace(1e-4, 1, 40)])
    expected, detector = own_scores(od, rows), adopt(od)
    assert (expected == 0).any()
    assert (expected > 0).any()
    np.testing.assert_allclose(detector.score(rows), expected, rtol=1e-9, atol=1e-12)
    alone = [own_scores(od, row[None])[0] for row in rows]
    assert 0.0 in alone
    np.testing.assert_allclose(detector.score_each(rows), alone, rtol=1e-9, atol=1e-12)


def test_the_state_that_is_refused_would_score_every_row_zero():
    """alibi-detect inverts no covariance with a determinant up to 1e-8: all 30 collinear columns are one such."""
    od = warmed(n_components=30)
    assert [own_scores(od, row[None])[0] for row in MIXED[:20]] == [0.0] * 20
    with pytest.raises(ProfileError, match="standardise the features, or give fewer n_components"):
        adopt(od)


def test_each_row_by_itself_keeps_the_detector_protocol():
    """score_each does not depend on order or company, as a calibration needs it; score does, as alibi-detect's does."""

    class Each:
        def __init__(self, detector):
            self.score = detector.score_each

    check_detector(Each(adopt(warmed())), MIXED)
    with pytest.raises(AssertionError, match=r"one row alone scores otherwise|order of rows"):
        check_detector(adopt(warmed()), MIXED)


def test_a_calibration_takes_each_row_by_itself():
    """Verdicts do not depend on who else is in the batch."""
    calibrated = outliers.fit(THRESHOLD, detector=warmed(n_components=2), alpha=0.1)
    alone = [calibrated.p_value(row[None])[0] for row in MIXED]
    np.testing.assert_array_equal(calibrated.p_value(MIXED), alone)
    np.testing.assert_array_equal(calibrated.p_value(MIXED[::-1]), alone[::-1])


@pytest.mark.parametrize("components", [2, 5])
def test_the_parts_of_a_score_add_up_to_it(components):
    """Per feature; the feature that is far off has the most."""
    detector = adopt(warmed(TRAIN[:, FEW], n_components=components))
    for row in MIXED[:50, FEW]:
        assert detector.contributions(row).sum() == pytest.approx(detector.score_one(row), rel=1e-9)
    far = adopt(warmed(np.random.default_rng(0).normal(size=(500, 4)), n_components=4))
    assert far.contributions(np.array([0.1, 0.2, 9.0, 0.1])).argmax() == 2


def test_a_frozen_state_survives_its_arrays():
    """Stored and read: the same bits, no objects, clipping bounds included."""
    for options in ({}, {"start_clip": 10_000}):
        detector = adopt(warmed(n_components=2, **options))
        read = read_detector("alibi_mahalanobis", detector.arrays())
        assert isinstance(read, FrozenMahalanobis)
        np.testing.assert_array_equal(read.score(MIXED), detector.score(MIXED))
        np.testing.assert_array_equal(read.score_each(MIXED), detector.score_each(MIXED))
        assert not any(array.dtype.hasobject for array in detector.arrays().values())
    assert detector.score(MIXED[:0]).shape == detector.score_each(MIXED[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("od", "message"),
    [
        (Mahalanobis(threshold=1.0), r"fewer than two rows.*infer_threshold\(X\)"),
        (Mahalanobis(threshold=1.0, cat_vars={0: 3}), "cat2num"),
        (warmed(1e-4 * TRAIN), "standardise the features"),
        (IForest(threshold=0.0), r"is not fitted: call its fit\(X\)"),
    ],
    ids=["nothing seen", "categories", "every row 0", "unfitted forest"],
)
def test_a_state_that_cannot_be_used_is_refused(od, message):
    """With the fix."""
    with pytest.raises(ProfileError, match=message):
        adopt(od)


def network(module, answer, **attributes):
    """A detector as alibi-detect's that need TensorFlow or PyTorch are: its base class, its module, its score()."""

    def score(self, X):
        return answer(X)

    def predict(self, X):
        raise AssertionError("predict() needs a threshold")

    body = {"__module__": f"alibi_detect.od.{module}", "score": score, "predict": predict, **attributes}
    od = types.new_class("Network", (BaseDetector,), exec_body=lambda namespace: namespace.update(body))()
    od.meta["detector_type"] = "outlier"
    return od


@pytest.mark.parametrize("module", ["ae", "vae", "llr", "seq2seq", "aegmm", "vaegmm"])
def test_networks_are_given_float32_and_their_rows_count(module):
    """(feature scores, row scores): the rows'; the detector's threshold, which may be None, plays no part."""

    def answer(X):
        assert X.dtype == np.float32
        rows = np.square(X).mean(axis=1)
        return rows if module.endswith("gmm") else (np.square(X), rows)

    od = network(module, answer, threshold=None)
    detector = adopt(od)
    assert detector.live
    assert detector.original is od
    assert detector.name == f"alibi_detect.od.{module}.Network"
    np.testing.assert_allclose(detector.score(MIXED), np.square(MIXED).mean(axis=1), rtol=1e-5)
    assert outliers.fit(MIXED, detector=od, alpha=0.05).is_outlier(np.full((1, 30), 99.0))[0]


def test_detectors_with_a_backend_say_whether_they_are_fitted():
    """KNN, LOF, PCA, SVM, GMM: their backend knows; the rows go to it as they are."""
    backend = types.SimpleNamespace(fitted=False)
    od = network("_knn", lambda X: np.abs(X).sum(axis=1), backend=backend)
    with pytest.raises(ProfileError, match="is not fitted"):
        adopt(od)
    backend.fitted = True
    np.testing.assert_array_equal(adopt(od).score(MIXED), np.abs(MIXED).sum(axis=1))


def test_a_series_is_scored_as_a_series():
    """SpectralResidual scores the points of one series, given flat or as one column."""
    od = SpectralResidual(threshold=1.0, window_amp=20, window_local=20, n_est_points=10)
    series = np.random.default_rng(0).normal(size=(200, 1))
    np.testing.assert_array_equal(adopt(od).score(series), od.score(series))
    np.testing.assert_array_equal(adopt(od).score(series[:, 0]), od.score(series))
    with pytest.raises(ValueError, match="length"):
        adopt(od).score(series[:10])


def test_what_is_no_outlier_detector_of_rows_is_refused():
    """A drift detector compares samples, Prophet reads timestamps."""
    from alibi_detect.cd import KSDrift

    with pytest.raises(TypeError, match="is no outlier detector"):
        adopt(KSDrift(TRAIN))
    with pytest.raises(TypeError, match="timestamps"):
        adopt(network("prophet", lambda X: X))


class Louder(IForest):
    """Somebody's subclass with a score of its own."""

    def score(self, X):
        return 2 * super().score(X)


class Renamed(Mahalanobis):
    """Somebody's subclass that scores like its base, and learns like it."""


def test_a_subclass_is_scored_by_its_own_method():
    """As it is where it defines score(); like its base, frozen, where it does not."""
    louder, renamed = Louder(threshold=0.0, n_estimators=5), Renamed(threshold=1.0)
    louder.fit(TRAIN)
    renamed.score(TRAIN)
    assert adopt(louder) is louder
    assert adopt(renamed).kind == "alibi_mahalanobis"


class Bomb:
    """What a folder may do to whoever loads it."""

    def __reduce__(self):
        return (exec, ("import sys; sys.exploded = True",))


def test_loading_says_that_it_runs_code(tmp_path, monkeypatch):
    """Nothing of the folder is read before the caller has said so."""
    monkeypatch.delattr(sys, "exploded", raising=False)
    (tmp_path / "meta.dill").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ProfileError, match=r"runs code.*runs_code=True"):
        load(tmp_path)
    assert not hasattr(sys, "exploded")
    with pytest.raises(ProfileError, match="there is no folder"):
        load(tmp_path / "elsewhere", runs_code=True)


def test_loading_is_alibi_detects_own(tmp_path):
    """A folder that needs no TensorFlow to be read: a drift detector comes back, and is refused as a detector."""
    from alibi_detect.cd import KSDrift
    from alibi_detect.saving import save_detector

    save_detector(KSDrift(TRAIN), tmp_path / "saved")
    loaded = load(tmp_path / "saved", runs_code=True)
    assert type(loaded) is KSDrift
    with pytest.raises(TypeError, match="is no outlier detector"):
        adopt(loaded)


@pytest.mark.parametrize(
    "od", [IForest(threshold=0.1, n_estimators=20), warmed(n_components=2)], ids=["forest", "distance"]
)
def test_a_saved_detector_comes_back_with_its_scores(od, tmp_path):
    """save_detector, load, adopt: alibi-detect saves outlier detectors with the help of TensorFlow."""
    pytest.importorskip("tensorflow")
    from alibi_detect.saving import save_detector

    if isinstance(od, IForest):
        od.fit(TRAIN)
    save_detector(od, tmp_path)
    np.testing.assert_array_equal(adopt(load(tmp_path, runs_code=True)).score(MIXED), adopt(od).score(MIXED))
