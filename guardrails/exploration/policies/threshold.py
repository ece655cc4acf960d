"""Accept or refuse: some who fall short of the threshold are accepted, and nobody who reaches it is refused.

Accepting a few is how a model learns what became of those it would have refused. The probability depends on the score
alone, and an accepted case weighs one over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.exploration.policies._arrays import MAX_EPSILON, settle
from guardrails.typing import Mask, Probabilities, Scores


class _Threshold:
    """What both policies share: one score per applicant, accepted from `threshold` on."""

    threshold: float

    def _below(self, scores: Scores) -> Probabilities:
        """P(accept) of those who fall short."""
        raise NotImplementedError

    def accept(self, scores: npt.ArrayLike, /) -> Probabilities:
        """P(accept), in the shape of the scores."""
        scores = _one_each(scores)
        return np.where(scores >= self.threshold, 1.0, self._below(scores))

    def pmf(self, scores: Scores, /) -> Probabilities:
        """``[P(refuse), P(accept)]`` for one score, or for scores of shape ``(n,)`` in shape ``(n, 2)``.

        Raises:
            ValueError: a score is NaN, or there is more than one per applicant.
        """
        accept = self.accept(scores)
        return np.stack([1.0 - accept, accept], axis=-1)

    def greedy(self, scores: npt.ArrayLike, /) -> npt.NDArray[np.int64]:
        """What the model alone would do: 1 (accept) from the threshold on, else 0."""
        return np.asarray(_one_each(scores) >= self.threshold, dtype=np.int64)

    def supported(self, scores: npt.ArrayLike, /) -> Mask:
        """Whose acceptance is possible at all: of the others nothing can be learned, with whatever weights."""
        return np.asarray(self.accept(scores) > 0.0)


@dataclass(frozen=True)
class RandomisedCutoff(_Threshold):
    """A cut-off drawn uniformly from ``(threshold - width, threshold]``: the closer, the likelier accepted.

    ``P(accept | s) = ceiling * clip((s - (threshold - width)) / width, 0, 1)`` below the threshold, 1 from it on.
    Only the band below the threshold is explored; further down nobody is accepted.

    Args:
        threshold: who scores this or more is accepted.
        width: how far below it anybody is accepted, in the scores' unit.
        ceiling: the probability just below the threshold; below 1 it limits the cost.

    Raises:
        DecorationError: the threshold is not finite, the width not above 0, or the ceiling not in (0, 1].

    Example:
        >>> from guardrails.exploration.policies import RandomisedCutoff
        >>> RandomisedCutoff(threshold=600, width=40).pmf([550, 590, 600]).tolist()
        [[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]
    """

    threshold: float
    width: float
    ceiling: float = 1.0
    kind: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        settle(self, "threshold", math.isfinite, "a threshold is a finite score")
        settle(self, "width", lambda w: 0.0 < w < math.inf, "a width is a finite number above 0")
        settle(self, "ceiling", lambda c: 0.0 < c <= 1.0, "a ceiling is a probability above 0")

    def _below(self, scores: Scores) -> Probabilities:
        with np.errstate(over="ignore"):
            return self.ceiling * np.clip(1.0 - (self.threshold - scores) / self.width, 0.0, 1.0)


@dataclass(frozen=True)
class RejectRate(_Threshold):
    """The same small share of all who fall short is accepted, however far they do.

    A few percent suffice to see whether the model is wrong about them (The Illusion of Improvement, arXiv 2606.18479,
    advises 2 to 5).

    Args:
        threshold: who scores this or more is accepted.
        rate: P(accept) of everybody below it.

    Raises:
        DecorationError: the threshold is not finite, or the rate is not in [0, 0.5].

    Example:
        >>> from guardrails.exploration.policies import RejectRate
        >>> RejectRate(threshold=0.5, rate=0.02).pmf([0.1, 0.7]).tolist()
        [[0.98, 0.02], [0.0, 1.0]]
    """

    threshold: float
    rate: float
    kind: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        settle(self, "threshold", math.isfinite, "a threshold is a finite score")
        settle(self, "rate", lambda r: 0.0 <= r <= MAX_EPSILON, f"a rate lies between 0 and {MAX_EPSILON}")

    def _below(self, scores: Scores) -> Probabilities:
        return np.full(scores.shape, self.rate)


def _one_each(scores: npt.ArrayLike) -> Scores:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim > 1:
        raise ValueError(f"scores of shape {scores.shape}: a threshold is for one score per applicant, shape (n,)")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it lies on neither side of a threshold")
    return scores
