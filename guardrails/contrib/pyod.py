"""PyOD's detectors: ``decision_function``, where higher is stranger already."""

from __future__ import annotations

import threading
from typing import Any

from guardrails.contrib.live import LiveDetector, RowByRow, name_of
from guardrails.contrib.shifted import Shifted
from guardrails.errors import ProfileError
from guardrails.typing import Detector, Rows, Scores

_AMONG_THEMSELVES = {"CD", "COF", "LMDD", "LOCI", "ROD", "SOD", "SOS"}
"""They compare the rows of a batch with each other, not with what they were fitted on: a row alone means nothing."""

_WITH_THE_FITTED = {"COPOD", "ECOD"}
"""They rank the rows of a batch among these very rows and those they were fitted on."""


class _OneAtATime(RowByRow):
    """These also keep their workings on themselves while they score, so two threads must not meet in there."""

    def __init__(self, fitted: Any) -> None:
        super().__init__(fitted, fitted.decision_function)
        self._lock = threading.Lock()

    def score(self, rows: Rows) -> Scores:
        with self._lock:
            return super().score(rows)


def adopt(fitted: Any) -> Detector:
    """A detector out of a fitted PyOD detector, which is neither copied nor refitted.

    Compiled are `IForest`, `MCD` and `KNN` (``method="largest"``, Euclidean); the others are live. The scores are
    those of the detector's ``decision_function``. `ECOD` and `COPOD` score a row differently with other rows in the
    batch: theirs have ``score_each``, each row alone, which is what a calibration uses.

    Raises:
        ProfileError: it is not fitted, or cannot score a row by itself.
        TypeError: it has no ``decision_function``.
    """
    if not hasattr(fitted, "decision_function"):
        raise TypeError(f"{name_of(fitted)} is no outlier detector: it has no decision_function().")
    if not hasattr(fitted, "decision_scores_"):
        raise ProfileError(f"{name_of(fitted)} is not fitted: call its fit(X) with training rows first.")
    ancestry = {base.__name__ for base in type(fitted).__mro__ if base.__module__.startswith("pyod.")}
    if ancestry & _AMONG_THEMSELVES:
        raise ProfileError(
            f"{name_of(fitted)} compares the rows of a batch with each other, so it cannot score one request. Use a "
            "detector that compares rows with those it was fitted on, such as KNN, LOF, IForest or ECOD."
        )
    if ancestry & _WITH_THE_FITTED:
        return _OneAtATime(fitted)
    return _compiled(fitted) or LiveDetector(fitted, fitted.decision_function)


def _compiled(fitted: Any) -> Detector | None:
    """It as plain arrays, where it can be one. A subclass of somebody's own may score otherwise: it stays live."""
    name = name_of(fitted)
    try:
        if name == "pyod.models.iforest.IForest":
            return Shifted.compile(fitted.detector_)
        if name == "pyod.models.mcd.MCD":
            from guardrails.outliers.mahalanobis import Mahalanobis

            return Mahalanobis.compile(fitted.detector_)
        if name == "pyod.models.knn.KNN" and fitted.method == "largest":
            from guardrails.outliers.neighbors import NearestNeighbors

            return NearestNeighbors.compile(fitted.neigh_)
    except TypeError:  # another metric, or something else that plain arrays do not hold
        return None
    return None
