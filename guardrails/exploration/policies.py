"""Which action with which probability: exact, vectorised, stateless."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guardrails.errors import DecorationError
from guardrails.typing import Probabilities, Scores

MAX_EPSILON = 0.5
"""More than half of the answers drawn at random is a mistake, not a policy."""


@dataclass(frozen=True)
class EpsilonGreedy:
    """Mostly the best action; with probability epsilon any action, the best one included.

    ``p(a) = epsilon / K + (1 - epsilon) [a is greedy]``. The first of several equal scores is the greedy one, as
    `numpy.argmax` has it.

    Args:
        epsilon: the share of answers drawn at random.

    Raises:
        DecorationError: epsilon is not in [0, 0.5].

    Example:
        >>> import numpy as np, guardrails as gr
        >>> gr.EpsilonGreedy(0.1).pmf(np.array([0.2, 0.9])).round(3).tolist()
        [0.05, 0.95]
    """

    epsilon: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= MAX_EPSILON:
            raise DecorationError(f"EpsilonGreedy({self.epsilon!r}): epsilon lies between 0 and {MAX_EPSILON}.")

    def pmf_of(self, scores: list[float], greedy: int) -> list[float]:
        """The same for one list of scores whose best is known: what a request pays."""
        share = self.epsilon / len(scores)
        pmf = [share] * len(scores)
        pmf[greedy] += 1.0 - self.epsilon
        return pmf

    def pmf(self, scores: Scores, /) -> Probabilities:
        """Probabilities for scores of shape ``(K,)`` or ``(n, K)``, in the same shape.

        Raises:
            ValueError: a score is NaN, or there is no action.
        """
        scores = np.asarray(scores)
        actions = scores.shape[-1] if scores.ndim else 0
        if actions == 0:
            raise ValueError("there is no action to choose from")
        probabilities = np.full(scores.shape, self.epsilon / actions)
        if scores.ndim == 1:
            best = scores.argmax()
            _refuse_nan(scores[best])
            probabilities[best] += 1.0 - self.epsilon
        else:
            flat, lines = probabilities.reshape(-1, actions), scores.reshape(-1, actions)
            at = np.arange(len(flat)), lines.argmax(axis=1)
            _refuse_nan(lines[at])
            flat[at] += 1.0 - self.epsilon
        return probabilities


def _refuse_nan(best: Scores) -> None:
    # argmax returns a NaN's place where there is one, so the best scores tell of all.
    if (best != best).any():  # noqa: PLR0124  # NaN is what differs from itself
        raise ValueError("a score is NaN: an action without a score cannot be compared with the others")
