"""Live detectors: somebody's own object, called as it is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.typing import Detector, Rows, Scores


class LiveDetector:
    """A fitted detector that stays what it is. It cannot be saved in a profile, which holds nothing executable.

    Attributes:
        original: the object itself.
        name: where it comes from, such as ``pyod.models.hbos.HBOS``.
        live: always true.

    Example:
        >>> import numpy as np
        >>> from sklearn.svm import OneClassSVM
        >>> from guardrails.contrib import adopt
        >>> detector = adopt(OneClassSVM().fit(np.random.default_rng(0).normal(size=(100, 2))))
        >>> detector.name
        'sklearn.svm._classes.OneClassSVM'
    """

    live = True

    def __init__(self, original: Any, score: Callable[[Any], Any], dtype: npt.DTypeLike = None) -> None:
        self.original = original
        self.name = name_of(original)
        self._score = score
        self._dtype = dtype

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def score(self, rows: Rows) -> Scores:
        """The object's own scores of rows ``(n, d)``: shape ``(n,)``, higher is stranger.

        A matrix or DataFrame is handed over untouched, save for the type of number the object can read.

        Raises:
            ProfileError: the object does not answer with one number per row.
        """
        if self._dtype is not None or not hasattr(rows, "shape"):
            rows = np.asarray(rows, dtype=self._dtype or np.float64)
        scores = np.asarray(self._score(rows), dtype=np.float64)
        if scores.shape != (len(rows),):
            raise ProfileError(
                f"{self.name} scored {len(rows)} rows with shape {scores.shape}; one score per row is meant."
            )
        return scores


class RowByRow(LiveDetector):
    """A live detector whose scores of a batch depend on the batch: a row's own score is the one it gets alone."""

    def score_each(self, rows: Rows) -> Scores:
        """The score each of the rows ``(n, d)`` gets as a batch of one: shape ``(n,)``."""
        return np.array([self.score(rows[i : i + 1])[0] for i in range(len(rows))], dtype=np.float64)


def name_of(original: Any) -> str:
    """Module and class."""
    return f"{type(original).__module__}.{type(original).__qualname__}"


def measured_cost(detector: Detector, rows: npt.ArrayLike, *, repeats: int = 20) -> float:
    """Microseconds a detector takes to score one row: the median of a few.

    Args:
        detector: scores rows, one by one if it has ``score_one``.
        rows: plausible rows, shape ``(n, d)``, taken in turn.
        repeats: how many are scored.

    Example:
        >>> import numpy as np
        >>> from guardrails.contrib import measured_cost
        >>> from guardrails.outliers import IsolationForest
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> measured_cost(IsolationForest.fit(X), X[:10]) > 0
        True
    """
    sample = np.asarray(rows, dtype=np.float64)
    one = getattr(detector, "score_one", None)
    taken = []
    for i in range(repeats):
        row = sample[i % len(sample)]
        began = time.perf_counter()
        if one is None:
            detector.score(row[None, :])
        else:
            one(row)
        taken.append(time.perf_counter() - began)
    return 1e6 * statistics.median(taken)
