"""Softmax: the better the score, the likelier the action, with no jump between the best and the second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from guardrails.exploration.policies._arrays import checked, settle
from guardrails.typing import Probabilities, Scores

SHORT = 48
"""Up to so many scores a Python loop is faster than NumPy."""


@dataclass(frozen=True)
class Softmax:
    """Boltzmann exploration: ``p(a) = exp(s(a) / temperature) / sum of the same over all actions``.

    Adding a constant to all scores changes nothing; scaling them does, so the temperature is in the scores' own unit:
    two scores that differ by one temperature differ e-fold in probability. An action whose score is -inf is never
    drawn; actions at +inf share everything equally; where all are -inf, all share equally.

    Args:
        temperature: above 0; towards 0 only the best is drawn, towards infinity all as often.

    Raises:
        DecorationError: the temperature is not a finite number above 0.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.policies import Softmax
        >>> Softmax(temperature=0.5).pmf(np.array([1.0, 1.5])).round(4).tolist()
        [0.2689, 0.7311]
    """

    temperature: float
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        settle(self, "temperature", lambda t: 0.0 < t < math.inf, "a temperature is a finite number above 0")

    def pmf_of(self, scores: list[float], greedy: int) -> list[float]:  # noqa: ARG002  # no action is special
        """The same for one list of scores, none of them NaN: what a request pays."""
        if len(scores) <= SHORT:
            top, temperature = max(scores), self.temperature
            weights = [math.exp((score - top) / temperature) for score in scores]
            total = sum(weights)
            if total >= 1.0:  # the best one's weight is 1, unless a score is infinite
                return [weight / total for weight in weights]
        pmf: list[float] = self.pmf(np.array(scores)).tolist()
        return pmf

    def pmf(self, scores: Scores, /) -> Probabilities:
        """Probabilities for scores of shape ``(K,)`` or ``(n, K)``, in the same shape.

        Raises:
            ValueError: a score is NaN, or there is no action.
        """
        scores = checked(scores)
        top = scores.max(axis=-1, keepdims=True)
        with np.errstate(over="ignore", invalid="ignore"):
            below = (scores - top) / self.temperature
        weights: Probabilities = np.exp(
            np.where(scores == top, 0.0, below)
        )  # inf - inf is no number, and equal to the best is 0
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights
