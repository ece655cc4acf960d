"""CHECK: who is an outlier, and where it goes. `fit` works over arrays, without a service."""

from guardrails.outliers.calibration import CalibratedDetector, calibrate
from guardrails.outliers.combine import combine
from guardrails.outliers.ecdf import Ecdf
from guardrails.outliers.feature_space import Embedded, FeatureSpace
from guardrails.outliers.fitting import fit
from guardrails.outliers.forest import IsolationForest
from guardrails.outliers.histogram import Histogram
from guardrails.outliers.mahalanobis import Mahalanobis
from guardrails.outliers.merging import merge_p_values
from guardrails.outliers.neighbors import NearestNeighbors
from guardrails.outliers.recalibration import Recalibration, recalibrate

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
