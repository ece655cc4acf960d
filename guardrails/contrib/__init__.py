"""Other people's detectors as ours: `adopt` takes what was fitted with scikit-learn, PyOD or alibi-detect.

Nothing here imports these packages: an object says by its type where it comes from.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from guardrails.contrib.live import LiveDetector, RowByRow, measured_cost
from guardrails.typing import Detector

__all__ = ["LiveDetector", "RowByRow", "adopt", "measured_cost"]

_PLUGINS = ("pyod", "alibi_detect", "sklearn")


def adopt(fitted: Any) -> Detector:
    """A detector out of somebody's fitted object, which is neither copied nor refitted.

    What can be, is compiled: isolation forests, covariance estimators and nearest neighbours of the three packages
    become plain arrays whose scores equal the object's own. Everything else is called as it is, in a `LiveDetector`.

    Args:
        fitted: a fitted outlier detector of scikit-learn (higher is more ordinary there: the sign is flipped), PyOD or
            alibi-detect, or any object with ``score(rows)``, which is returned as it is.

    Returns:
        An object with ``score(rows)``, rows ``(n, d)`` to scores ``(n,)``, higher is stranger.

    Raises:
        ProfileError: it is not fitted, or can only score the rows it was fitted on; the message says what helps.
        TypeError: it is no outlier detector.

    Example:
        >>> import numpy as np
        >>> from sklearn.ensemble import IsolationForest
        >>> from guardrails.contrib import adopt
        >>> fitted = IsolationForest(random_state=0).fit(np.random.default_rng(0).normal(size=(500, 2)))
        >>> detector = adopt(fitted)
        >>> detector.kind
        'isolation_forest'
        >>> rows = np.array([[0.0, 0.0], [9.0, -9.0]])
        >>> bool(np.allclose(detector.score(rows), -fitted.score_samples(rows), rtol=1e-12))
        True
    """
    if isinstance(fitted, type):
        raise TypeError(f"{fitted.__qualname__} is a class: give a fitted object of it.")
    # The nearest class decides: a subclass of somebody's own that defines score() knows better than its base.
    for base in type(fitted).__mro__:
        package = base.__module__.partition(".")[0]
        if package in _PLUGINS:
            detector: Detector = importlib.import_module(f"{__name__}.{package}").adopt(fitted)
            return detector
        if "score" in vars(base):
            break
    return _own(fitted)


def _own(fitted: Any) -> Detector:
    """An object with ``score(rows)``, as it is."""
    name = type(fitted).__qualname__
    if not callable(getattr(fitted, "score", None)):
        raise TypeError(
            f"{name} has no score(rows). Give a fitted detector of scikit-learn, PyOD or alibi-detect, or an object "
            "whose score(rows) answers one number per row, higher for stranger ones."
        )
    try:
        inspect.signature(fitted.score).bind(None)
    except TypeError:
        raise TypeError(
            f"{name}.score{inspect.signature(fitted.score)} cannot be called with rows alone: a detector has "
            "score(rows), one number per row, higher for stranger ones."
        ) from None
    except ValueError:  # written in C, without a signature
        pass
    detector: Detector = fitted
    return detector
