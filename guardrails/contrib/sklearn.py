"""scikit-learn's outlier detectors. There, higher is more ordinary: the sign is flipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from guardrails.contrib.live import LiveDetector, name_of
from guardrails.errors import ProfileError
from guardrails.outliers.forest import IsolationForest
from guardrails.typing import Detector


def adopt(fitted: Any) -> Detector:
    """A detector out of a fitted scikit-learn estimator, which is neither copied nor refitted.

    Compiled are `IsolationForest`, the covariance estimators (their score is the squared Mahalanobis distance) and
    `NearestNeighbors` (the distance to the last of its neighbours). Live are all other estimators that score new rows:
    outlier detectors, densities with ``score_samples``, pipelines that end in one of these.

    Raises:
        ProfileError: it is not fitted, or scores only rows it was fitted on.
        TypeError: it is no outlier detector.
    """
    from sklearn.base import is_outlier_detector

    score = _score(fitted)
    if score is None and is_outlier_detector(fitted):
        raise ProfileError(
            f"{name_of(fitted)} scores only the rows it was fitted on. Fit it so that it scores new ones: "
            "LocalOutlierFactor(novelty=True)."
        )
    if score is None:
        raise TypeError(
            f"{name_of(fitted)} is no outlier detector: it has neither score_samples() nor decision_function() of one."
        )
    require_fitted(fitted)
    return _compiled(fitted) or LiveDetector(fitted, _named(fitted, score))


def require_fitted(fitted: Any) -> None:
    """Raise a ProfileError for an estimator that is not fitted."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(fitted)
    except NotFittedError:
        raise ProfileError(f"{name_of(fitted)} is not fitted: call its fit(X) with training rows first.") from None


def _score(fitted: Any) -> Callable[[Any], Any] | None:
    """Its scores with our sign; None where it has none for new rows."""
    from sklearn.base import is_outlier_detector
    from sklearn.neighbors import NearestNeighbors

    if hasattr(fitted, "score_samples"):
        return lambda rows: np.negative(fitted.score_samples(rows))
    if hasattr(fitted, "mahalanobis"):
        mahalanobis: Callable[[Any], Any] = fitted.mahalanobis
        return mahalanobis
    if isinstance(fitted, NearestNeighbors):
        return lambda rows: fitted.kneighbors(rows)[0][:, -1]
    if is_outlier_detector(fitted) and hasattr(fitted, "decision_function"):
        return lambda rows: np.negative(fitted.decision_function(rows))
    return None


def _compiled(fitted: Any) -> Detector | None:
    """It as plain arrays, where it can be one. A subclass of somebody's own may score otherwise: it stays live."""
    from sklearn import covariance, ensemble, neighbors

    if not type(fitted).__module__.startswith("sklearn."):
        return None
    try:
        if isinstance(fitted, ensemble.IsolationForest):
            return IsolationForest.compile(fitted)
        if isinstance(fitted, covariance.EmpiricalCovariance):
            from guardrails.outliers.mahalanobis import Mahalanobis

            return Mahalanobis.compile(fitted)
        if isinstance(fitted, neighbors.NearestNeighbors):
            from guardrails.outliers.neighbors import NearestNeighbors

            return NearestNeighbors.compile(fitted)
    except TypeError:  # another metric, or something else that plain arrays do not hold
        return None
    return None


def _named(fitted: Any, score: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Give an estimator that was fitted on a DataFrame the column names it looks for, and warns about otherwise."""
    names = getattr(fitted, "feature_names_in_", None)
    if names is None or importlib.util.find_spec("pandas") is None:
        return score

    def named(rows: Any) -> Any:
        if isinstance(rows, np.ndarray):
            import pandas as pd

            rows = pd.DataFrame(rows, columns=names)
        return score(rows)

    return named
