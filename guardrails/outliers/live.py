"""What a worker says of its detector: its name, and what a live one costs."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from guardrails.outliers.calibration import CalibratedDetector

logger = logging.getLogger("guardrails")


def name_of(detector: Any) -> str:
    """The name of a detector: its kind where it is compiled, its class where it is live."""
    named = getattr(detector, "kind", None) or getattr(detector, "name", None)
    return str(named or f"{type(detector).__module__}.{type(detector).__qualname__}")


def cost_of(calibrated: CalibratedDetector) -> float | None:
    """Microseconds a live detector takes to score one row; None for a compiled one, and where it cannot be told."""
    if hasattr(calibrated.detector, "arrays") or calibrated.centre is None:
        return None
    from guardrails.contrib import measured_cost

    try:
        return measured_cost(calibrated.detector, np.nan_to_num(calibrated.centre)[None, :], repeats=5)
    except Exception:  # a detector that fails is contained where it fails: on the request
        logger.exception("%s could not score a typical row", name_of(calibrated.detector))
        return None
