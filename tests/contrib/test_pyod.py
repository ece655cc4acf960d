"""adopt() of PyOD's detectors: equal scores, also where PyOD's depend on the batch."""

import contextlib
import importlib
import inspect
import pkgutil
import threading

import numpy as np
import pytest

pytest.importorskip("pyod")

import pyod.models
from pyod.models.base import BaseDetector

from guardrails import outliers
from guardrails.contrib import adopt
from guardrails.contrib.pyod import _AMONG_THEMSELVES, _WITH_THE_FITTED
from guardrails.errors import ProfileError
from guardrails.testing import check_detector

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(4, 4)) + 2 * np.eye(4)
TRAIN = RNG.normal(size=(300, 4)) @ MIX
ROWS = np.vstack([RNG.normal(size=(100, 4)) @ MIX, 6 * RNG.normal(size=(40, 4))])


def made(name, **options):
    """A detector of PyOD, fitted: made("iforest.IForest")."""
    module, _, cls = name.partition(".")
    return getattr(importlib.import_module(f"pyod.models.{module}"), cls)(**options).fit(TRAIN)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("iforest.IForest", {"n_estimators": 30, "random_state": 0}),
        ("iforest.IForest", {"n_estimators": 10, "random_state": 0, "contamination": 0.02, "max_features": 0.5}),
        ("mcd.MCD", {"random_state": 0}),
        ("knn.KNN", {"n_neighbors": 5}),
        ("knn.KNN", {"n_neighbors": 1}),
    ],
    ids=str,
)
def test_what_compiles_scores_like_the_original(name, options):
    """Plain arrays, equal to decision_function in a batch and one by one."""
    fitted = made(name, **options)
    detector = adopt(fitted)
    assert hasattr(detector, "arrays")
    expected = fitted.decision_function(ROWS)
    np.testing.assert_allclose(detector.score(ROWS), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose([detector.score_one(row) for row in ROWS], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("knn.KNN", {"method": "mean"}),
        ("knn.KNN", {"metric": "manhattan"}),
        ("hbos.HBOS", {}),
        ("lof.LOF", {}),
        ("pca.PCA", {}),
    ],
    ids=str,
)
def test_what_does_not_compile_is_called_as_it_is(name, options):
    """The very object and its own scores."""
    fitted = made(name, **options)
    detector = adopt(fitted)
    assert detector.live
    assert detector.original is fitted
    assert detector.name == f"pyod.models.{name}"
    np.testing.assert_array_equal(detector.score(ROWS), fitted.decision_function(ROWS))
    check_detector(detector, ROWS[:100])


@pytest.mark.parametrize("name", ["ecod.ECOD", "copod.COPOD"])
def test_scores_that_depend_on_the_batch_are_taken_row_by_row(name):
    """PyOD ranks a batch among itself too: a calibration has to see what a request will get."""
    fitted = made(name)
    detector = adopt(fitted)
    alone = np.array([fitted.decision_function(row[None])[0] for row in ROWS])
    together = fitted.decision_function(ROWS)
    assert np.abs(alone - together).max() > 0.1
    np.testing.assert_array_equal(detector.score(ROWS), together)
    np.testing.assert_array_equal(detector.score_each(ROWS), alone)
    calibrated = outliers.fit(ROWS[:100], detector=fitted, alpha=0.05)
    np.testing.assert_array_equal(calibrated.calibration, np.sort(alone[:100]))
    np.testing.assert_array_equal(calibrated.score(ROWS), alone)


def test_threads_do_not_score_each_others_rows():
    """ECOD keeps its workings on itself: without a lock, two requests at once may get each other's scores."""
    fitted = made("ecod.ECOD")
    detector, inside, met = adopt(fitted), threading.Lock(), []
    own = fitted.decision_function

    def watched(rows):
        met.append(not inside.acquire(blocking=False))
        try:
            return own(rows)
        finally:
            with contextlib.suppress(RuntimeError):
                inside.release()

    detector._score = watched
    threads = [threading.Thread(target=lambda: detector.score_each(ROWS[:40])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(met) == 160
    assert not any(met)


@pytest.mark.parametrize("name", ["sos.SOS", "lmdd.LMDD", "cof.COF"])
def test_a_detector_that_only_compares_a_batch_with_itself_is_refused(name):
    """Alone, every row would score the same; the message names others."""
    with pytest.raises(ProfileError, match=r"cannot score one request.*KNN"):
        adopt(made(name))


def test_an_unfitted_detector_is_refused():
    """With the fix."""
    from pyod.models.ecod import ECOD
    from pyod.models.iforest import IForest

    for fresh in (ECOD(), IForest()):
        with pytest.raises(ProfileError, match=r"is not fitted: call its fit\(X\)"):
            adopt(fresh)


class Doubled(importlib.import_module("pyod.models.iforest").IForest):
    """Somebody's subclass that scores otherwise."""

    def decision_function(self, X):
        return 2 * super().decision_function(X)


class Everything(importlib.import_module("pyod.models.ecod").ECOD):
    """Somebody's subclass of a detector that depends on the batch."""


class Labels:
    """What comes from PyOD but is no detector."""

    __module__ = "pyod.utils.example"


def test_a_subclass_is_scored_by_its_own_methods():
    """Not by what its base would compile to; and it depends on the batch like its base."""
    doubled = Doubled(n_estimators=5, random_state=0).fit(TRAIN)
    np.testing.assert_array_equal(adopt(doubled).score(ROWS), doubled.decision_function(ROWS))
    assert hasattr(adopt(Everything().fit(TRAIN)), "score_each")


def test_what_is_no_detector_is_refused():
    """The rest of PyOD."""
    with pytest.raises(TypeError, match="is no outlier detector"):
        adopt(Labels())


def models():
    """Every model of PyOD that can be imported and made without arguments here."""
    for entry in pkgutil.iter_modules(pyod.models.__path__):
        if entry.name.startswith(("ts_", "pyg_", "base", "_")) or entry.name in {"rgraph", "mad", "xgbod", "suod"}:
            continue  # series, graphs, slow, of one column only, supervised
        try:
            with contextlib.redirect_stdout(None):
                module = importlib.import_module(f"pyod.models.{entry.name}")
        except ImportError:
            continue
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and issubclass(cls, BaseDetector):
                with contextlib.suppress(TypeError, ImportError, ValueError):
                    yield cls()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_which_detectors_depend_on_the_batch_is_known():
    """All that PyOD has here are tried: whoever scores a row otherwise alone is in one of the two lists."""
    np.random.seed(0)  # noqa: NPY002  # some of PyOD's draw from the global generator
    tried, depend, rows = set(), set(), np.vstack([ROWS[:15], ROWS[-15:]])
    for model in models():
        name = type(model).__name__
        try:
            model.fit(TRAIN[:80])  # one of them takes time cubic in the rows
            together = np.asarray(model.decision_function(rows))
        except (ImportError, ValueError, TypeError, AttributeError):
            continue  # wants another kind of data, or a package that is not here
        tried.add(name)
        try:
            alone = np.array([model.decision_function(row[None])[0] for row in rows[-5:]])
        except (ValueError, IndexError):
            depend.add(name)
            continue
        if not np.allclose(alone, together[-5:], rtol=1e-9):
            depend.add(name)
    assert len(tried) >= 20, tried
    assert depend == (_AMONG_THEMSELVES | _WITH_THE_FITTED) & tried
