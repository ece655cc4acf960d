"""Live detectors: somebody's own object, called as it is. What one costs is measured when a worker starts."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from guardrails.outliers.calibration import CalibratedDetector

_REPEATS = 5


def name_of(detector: Any) -> str:
    """The name of a detector: its kind where it is compiled, its class where it is live."""
    named = getattr(detector, "kind", None) or getattr(detector, "name", None)
    return str(named or f"{type(detector).__module__}.{type(detector).__qualname__}")


def cost_of(calibrated: CalibratedDetector) -> float | None:
    """Microseconds a live detector takes to score one row (the median of a few); None for a compiled one."""
    if hasattr(calibrated.detector, "arrays") or calibrated.centre is None:
        return None
    row = np.nan_to_num(calibrated.centre)[None, :]
    taken = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        calibrated.score(row)
        taken.append(time.perf_counter() - began)
    return 1e6 * statistics.median(taken)
