"""CHECK: who is an outlier, and where it goes. `fit` works over arrays, without a service."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from guardrails.outliers.calibration import CalibratedDetector, calibrate
from guardrails.outliers.fitting import fit

if TYPE_CHECKING:
    from guardrails.outliers.ecdf import Ecdf
    from guardrails.outliers.feature_space import Embedded, FeatureSpace
    from guardrails.outliers.forest import IsolationForest
    from guardrails.outliers.histogram import Histogram
    from guardrails.outliers.mahalanobis import Mahalanobis
    from guardrails.outliers.merging import merge_p_values
    from guardrails.outliers.neighbors import NearestNeighbors
    from guardrails.outliers.recalibration import Recalibration, recalibrate
    from guardrails.outliers.voting import combine

_LATER = {
    "Ecdf": "ecdf",
    "Embedded": "feature_space",
    "FeatureSpace": "feature_space",
    "Histogram": "histogram",
    "IsolationForest": "forest",
    "Mahalanobis": "mahalanobis",
    "NearestNeighbors": "neighbors",
    "Recalibration": "recalibration",
    "combine": "voting",
    "merge_p_values": "merging",
    "recalibrate": "recalibration",
}
"""Names whose modules load when they are first asked for: a service needs one detector, and no time at import."""

__all__ = [
    "CalibratedDetector",
    "Ecdf",
    "Embedded",
    "FeatureSpace",
    "Histogram",
    "IsolationForest",
    "Mahalanobis",
    "NearestNeighbors",
    "Recalibration",
    "calibrate",
    "combine",
    "fit",
    "merge_p_values",
    "recalibrate",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value
