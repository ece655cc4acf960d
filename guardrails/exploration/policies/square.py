"""SquareCB: explore in proportion to how little an action is predicted to lose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from guardrails.exploration.policies._arrays import Greedy, checked, greedy_of, settle
from guardrails.exploration.policies.softmax import SHORT
from guardrails.typing import Probabilities, Scores


@dataclass(frozen=True)
class SquareCB:
    """Inverse gap weighting (Foster & Rakhlin, Beyond UCB, ICML 2020, with mu = K).

    ``p(a) = 1 / (K + gamma (f(greedy) - f(a)))`` for every action but the greedy one, which takes the rest. The scores
    f are predictions of the reward, on the reward's own scale, which the guarantee assumes to lie in [0, 1]: an action
    predicted to lose ``K / gamma`` is drawn half as often as one that loses nothing. Logits and rank scores are no
    rewards: calibrate them first. An action predicted to be better than the model's own choice counts as losing
    nothing.

    With gamma 0 all actions are drawn as often; the larger, the greedier, except that ties keep 1 / K. An action
    infinitely far below the greedy one is never drawn (but with gamma 0); equal infinities are ties.

    Args:
        gamma: at least 0. The theory has it grow with the square root of the number of decisions the predictions
            were learned from (Vowpal Wabbit: ``10 n ** 0.5``); give each model the one for its n.

    Raises:
        DecorationError: gamma is not a finite number from 0.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.policies import SquareCB
        >>> SquareCB(gamma=20.0).pmf(np.array([0.1, 0.5, 0.4])).round(4).tolist()
        [0.0909, 0.7091, 0.2]
    """

    gamma: float
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        settle(self, "gamma", lambda g: 0.0 <= g < math.inf, "gamma is a finite number from 0")

    def pmf_of(self, scores: list[float], greedy: int) -> list[float]:
        """The same for one list of scores whose greedy one is known, and none of them NaN: what a request pays."""
        actions, gamma, best = len(scores), self.gamma, scores[greedy]
        if actions > SHORT or gamma == 0.0:
            probabilities: list[float] = self.pmf(np.array(scores), greedy).tolist()
            return probabilities
        pmf = [1.0 / (actions + gamma * (best - score)) if score < best else 1.0 / actions for score in scores]
        pmf[greedy] = 0.0
        pmf[greedy] = 1.0 - sum(pmf)
        return pmf

    def pmf(self, scores: Scores, /, greedy: Greedy | None = None) -> Probabilities:
        """Probabilities for scores of shape ``(K,)`` or ``(n, K)``, in the same shape.

        Args:
            scores: predicted rewards; higher is better.
            greedy: the model's own choice, an int or ``(n,)`` ints, where it is not the first of the best scores.

        Raises:
            ValueError: a score is NaN, there is no action, or the greedy one is not among them.
        """
        scores = checked(scores)
        lines = scores.reshape(-1, scores.shape[-1])
        actions = lines.shape[1]
        at = np.arange(len(lines)), greedy_of(lines, greedy)
        best = lines[at][:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            gap = np.where((lines < best) & (self.gamma > 0.0), best - lines, 0.0)
            pmf = 1.0 / (actions + self.gamma * gap)
        pmf[at] = 0.0
        pmf[at] = 1.0 - pmf.sum(axis=1)
        return pmf.reshape(scores.shape)
