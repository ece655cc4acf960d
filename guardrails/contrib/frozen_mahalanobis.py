"""alibi-detect's online Mahalanobis detector, frozen: the scores of one state, which scoring no longer changes.

alibi-detect's own learns while it scores: each ``score()`` moves its mean and covariance, and a row's score depends on
the rows before it in the batch. Here is what it answers from one given state, as arrays and without the learning.
For a batch of rows ``x_i``, clipped ones ``c_i`` and a state of mean m and covariance C over n rows:

- the mean before row i is ``m_i = (n m + c_0 + ... + c_{i-1}) / (n + i)``;
- the principal components are those of ``(n - 1) C + sum_i (n + i) / (n + i + 1) (c_i - m_i)(c_i - m_i)^T``;
- the score of row i is ``(x_i - m_i)^T P_i (x_i - m_i)`` within these components, where P_0 is the inverse of C in
  there and each row updates it by the Sherman-Morrison formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.typing import Rows, Scores

_SINGULAR = 1e-8
"""alibi-detect does not invert a covariance whose determinant is not larger, and scores the row 0 instead."""


@dataclass(frozen=True, eq=False)
class FrozenMahalanobis:
    """One state of `alibi_detect.od.Mahalanobis`.

    `score` answers for a batch what alibi-detect's would; `score_each` and `score_one` take each row as a batch of one,
    which is what a request is and what a calibration uses. With all components that is the squared Mahalanobis
    distance ``(x - m)^T C^-1 (x - m)``; with fewer, the components depend a little on the row itself.

    Attributes:
        mean: shape ``(d,)``.
        covariance: shape ``(d, d)``.
        low: values are clipped to it before they count for the components, shape ``(d,)``; ``-inf`` before clipping
            begins.
        high: likewise from above.
        seen: over how many rows the state counts itself.
        components: how many principal components are used, at most ``d``.

    Example:
        >>> import numpy as np
        >>> unclipped = np.full(2, np.inf)
        >>> frozen = FrozenMahalanobis(np.zeros(2), np.eye(2), -unclipped, unclipped, seen=100, components=2)
        >>> frozen.score_one(np.array([3.0, 4.0]))
        25.0
        >>> frozen.score(np.array([[3.0, 4.0], [3.0, 4.0]])).round(2)  # the first moves the mean towards the second
        array([25. , 19.8])
    """

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    seen: int
    components: int

    kind = "alibi_mahalanobis"

    @classmethod
    def compile(cls, detector: Any) -> FrozenMahalanobis:
        """Freeze the state of an `alibi_detect.od.Mahalanobis`, which is not changed.

        Raises:
            ProfileError: it has seen no rows yet, translates categories, or would score every row 0.
        """
        if detector.cat_vars is not None:
            raise ProfileError(
                "alibi-detect's Mahalanobis with cat_vars translates categories before it scores: give the rows that "
                "its cat2num() makes to one without cat_vars."
            )
        seen = detector.n if detector.max_n is None else min(detector.n, detector.max_n)
        if seen < 2:  # noqa: PLR2004
            raise ProfileError(
                "alibi-detect's Mahalanobis knows fewer than two rows, and learns only while it scores: call its "
                "infer_threshold(X) or score(X) with training rows first."
            )
        mean, covariance = np.array(detector.mean, np.float64), np.array(detector.C, np.float64)
        clips = detector.n > detector.start_clip
        low, high = detector.clip if clips else (np.full(len(mean), -np.inf), np.full(len(mean), np.inf))
        components = min(detector.n_components, len(mean))
        if np.prod(np.linalg.eigvalsh(covariance)[-components:]) <= _SINGULAR:
            raise ProfileError(
                f"the covariance of alibi-detect's Mahalanobis has a determinant below {_SINGULAR} in its {components} "
                "components, and every single row would score 0: standardise the features, or give fewer n_components."
            )
        return cls(mean, covariance, np.array(low, np.float64), np.array(high, np.float64), int(seen), components)

    def score(self, rows: Rows) -> Scores:
        """What alibi-detect's ``score()`` answers from this state for this batch ``(n, d)``: shape ``(n,)``."""
        if not len(rows):
            return np.empty(0)
        clipped = np.clip(rows, self.low, self.high)
        before = np.arange(len(rows))[:, None]
        sums = np.cumsum(clipped, axis=0) - clipped
        means = self.mean + before / (self.seen + before) * (sums / np.maximum(before, 1) - self.mean)
        steps = clipped - means
        basis = self._basis((steps * ((self.seen + before) / (self.seen + before + 1))).T @ steps)
        inside = basis.T @ self.covariance @ basis
        return self._scores_within(inside, steps @ basis, (rows - means) @ basis)

    def score_each(self, rows: Rows) -> Scores:
        """The score of each row as a batch of one, ``(n, d)`` to ``(n,)``: independent of the others."""
        return np.array([self.score_one(row) for row in rows], dtype=np.float64)

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """The score of one row of shape ``(d,)`` as a batch of one: the same bits as in `score_each`."""
        distance = row - self.mean
        return float(self._precision_for(row).dot(distance).dot(distance))

    def contributions(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Each feature's part in `score_one` of a row ``(d,)``: shape ``(d,)``, adds up to the score."""
        distance = row - self.mean
        return np.asarray(distance * self._precision_for(row).dot(distance))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        counts = np.array([self.seen, self.components], np.int64)
        own = {"mean": self.mean, "covariance": self.covariance, "low": self.low, "high": self.high}
        return own | {"counts": counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> FrozenMahalanobis:
        """The inverse of `arrays`."""
        seen, components = (int(count) for count in arrays["counts"])
        return cls(arrays["mean"], arrays["covariance"], arrays["low"], arrays["high"], seen, components)

    def _basis(self, scatter: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The principal components, shape ``(d, components)``, once a batch of this scatter is added to the state."""
        if self.components == len(self.mean):  # all of them: any basis will do
            return np.eye(len(self.mean))
        _, vectors = np.linalg.eigh((self.seen - 1) * self.covariance + scatter)
        return np.ascontiguousarray(vectors[:, -self.components :])

    def _precision_for(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The matrix a lone row's distance is measured with, shape ``(d, d)``."""
        if self.components == len(self.mean):
            return self._precision
        step = np.minimum(np.maximum(row, self.low), self.high) - self.mean
        basis = self._basis(np.outer(step * (self.seen / (self.seen + 1)), step))
        inside = basis.T.dot(self.covariance).dot(basis)
        if abs(np.linalg.det(inside)) <= _SINGULAR:
            return np.zeros_like(self.covariance)
        return np.asarray(basis.dot(np.linalg.inv(inside)).dot(basis.T))

    @cached_property
    def _precision(self) -> npt.NDArray[np.float64]:
        return np.linalg.inv(self.covariance)

    def _scores_within(
        self, inside: npt.NDArray[np.float64], steps: npt.NDArray[np.float64], distances: npt.NDArray[np.float64]
    ) -> Scores:
        """Scores within the components, shape ``(n,)``: each row before updates what the next is measured with."""
        n, precision = self.seen, None
        scores = np.zeros(len(steps))
        for i, (step, distance) in enumerate(zip(steps, distances, strict=True)):
            if precision is not None:
                last = steps[i - 1]
                precision = precision * ((n + i - 1) / (n + i - 2))
                toward = precision @ last
                precision = precision - np.outer(toward, toward) / (n + i + last @ toward)
            elif abs(np.linalg.det(inside)) > _SINGULAR:
                precision = np.linalg.inv(inside)
            else:
                inside = (n + i - 1) / (n + i) * inside + np.outer(step, step) / (n + i + 1)
                continue
            scores[i] = distance @ precision @ distance
        return scores
