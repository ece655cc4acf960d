"""Mostly the model's own choice: a share of the requests is drawn, or the first of them are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.errors import DecorationError
from guardrails.exploration.policies._arrays import MAX_EPSILON, Greedy, checked, greedy_of, refuse_nan, settle
from guardrails.typing import Probabilities, Scores


@dataclass(frozen=True, repr=False)
class EpsilonGreedy:
    """Mostly the best action; with probability epsilon any action, the best one included.

    ``p(a) = epsilon / K + (1 - epsilon) [a is greedy]``. The first of several equal scores is the greedy one, as
    `numpy.argmax` has it, unless ``greedy=`` says which action the model chose. With an explore set S and its weights
    q, ``p(a) = epsilon q(a) [a in S] + (1 - epsilon) [a is greedy]``: only members of S (and the greedy action) are
    ever served. Scores only rank, so infinite ones are as good as others.

    Args:
        epsilon: the share of answers drawn at random.
        explore: the actions that are drawn: their numbers (each as often), or numbers with weights that are normalised
            here, ``{7: 2.0, 9: 1.0}``. None: all of them.

    Raises:
        DecorationError: epsilon is not in [0, 0.5], or the explore set is empty, or no set of action numbers.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> gr.EpsilonGreedy(0.1).pmf(np.array([0.2, 0.9])).round(3).tolist()
        [0.05, 0.95]
        >>> gr.EpsilonGreedy(0.1, explore={2: 3, 3: 1}).pmf(np.array([0.9, 0.5, 0.2, 0.1])).round(3).tolist()
        [0.9, 0.0, 0.075, 0.025]
    """

    epsilon: float
    explore: Sequence[int] | Mapping[int, float] | None = field(default=None, hash=False)
    kind: ClassVar[str] = "choice"
    _shares: tuple[tuple[int, float], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        settle(self, "epsilon", lambda e: 0.0 <= e <= MAX_EPSILON, f"epsilon lies between 0 and {MAX_EPSILON}")
        if self.explore is not None:
            weights = _weights(self.explore)
            total = math.fsum(weights.values())
            object.__setattr__(self, "explore", weights if isinstance(self.explore, Mapping) else tuple(weights))
            object.__setattr__(self, "_shares", tuple((a, self.epsilon * w / total) for a, w in weights.items()))

    def __repr__(self) -> str:
        explore = "" if self.explore is None else f", explore={self.explore!r}"
        return f"EpsilonGreedy(epsilon={self.epsilon!r}{explore})"

    def pmf_of(self, scores: list[float], greedy: int) -> list[float]:
        """The same for one list of scores whose best is known, and none of them NaN: what a request pays."""
        actions = len(scores)
        pmf = [self.epsilon / actions] * actions if self.explore is None else self._drawn(actions)
        pmf[greedy] += 1.0 - self.epsilon
        return pmf

    def pmf(self, scores: Scores, /, greedy: Greedy | None = None) -> Probabilities:
        """Probabilities for scores of shape ``(K,)`` or ``(n, K)``, in the same shape.

        Args:
            scores: higher is better.
            greedy: the model's own choice, an int or ``(n,)`` ints, where it is not the first of the best scores.

        Raises:
            ValueError: a score is NaN, there is no action, or an explored or greedy one is not among them.
        """
        scores = np.asarray(scores)
        actions = scores.shape[-1] if scores.ndim else 0
        if actions == 0:
            raise ValueError("there is no action to choose from")
        share = self.epsilon / actions if self.explore is None else self._drawn(actions)
        probabilities = np.full(scores.shape, share)
        if scores.ndim == 1 and greedy is None:
            best = scores.argmax()
            # argmax returns a NaN's place where there is one, so the best scores tell of all.
            refuse_nan(scores[best])
            probabilities[best] += 1.0 - self.epsilon
        else:
            flat, lines = probabilities.reshape(-1, actions), scores.reshape(-1, actions)
            at = np.arange(len(flat)), greedy_of(lines, greedy)
            refuse_nan(lines[at] if greedy is None else lines)
            flat[at] += 1.0 - self.epsilon
        return probabilities

    def among(self, kept: Sequence[int]) -> EpsilonGreedy:
        """The policy where only some actions are left, renumbered in that order.

        What is left of the explore set keeps its proportions; where nothing is, nothing is explored.

        Example:
            >>> EpsilonGreedy(0.1, explore={2: 3.0, 3: 1.0, 7: 4.0}).among([0, 2, 7])
            EpsilonGreedy(epsilon=0.1, explore={1: 3.0, 2: 4.0})
        """
        if self.explore is None:
            return self
        weights = _weights(self.explore)
        left = {at: weights[action] for at, action in enumerate(kept) if weights.get(action, 0.0) > 0.0}
        if not left:
            return EpsilonGreedy(0.0)
        return EpsilonGreedy(self.epsilon, left if isinstance(self.explore, Mapping) else tuple(left))

    def _drawn(self, actions: int) -> list[float]:
        pmf = [0.0] * actions
        try:
            for action, share in self._shares:
                pmf[action] = share
        except IndexError:
            raise ValueError(f"{self!r} explores action {action}, and there are scores for {actions}") from None
        return pmf


def _weights(explore: Iterable[int] | Mapping[int, float]) -> dict[int, float]:
    """The explore set as numbers with their weights, in order."""
    named = f"EpsilonGreedy(explore={explore!r})"
    try:
        pairs = [(a, float(explore[a]) if isinstance(explore, Mapping) else 1.0) for a in explore]
        weights = {int(a): weight for a, weight in sorted(pairs) if a == int(a) >= 0}
    except (TypeError, ValueError) as error:
        raise DecorationError(f"{named}: give action numbers, or a mapping of numbers to weights.") from error
    if not weights or len(weights) != len(pairs):
        raise DecorationError(f"{named}: give at least one action, each once, numbered from 0.")
    if not all(0.0 <= w < math.inf for w in weights.values()) or not 0.0 < math.fsum(weights.values()) < math.inf:
        raise DecorationError(f"{named}: weights are finite, at least zero, and not all zero.")
    return weights


@dataclass(frozen=True)
class ExploreFirst:
    """Any action, each as often, for the first requests; the best one ever after.

    ``p(a) = 1 / K`` while fewer than ``requests`` decisions were made, then ``[a is greedy]``. The policy does not
    count: who calls it says how many decisions came before.

    Args:
        requests: how many decisions explore.

    Raises:
        DecorationError: it is not a whole number from 0.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.policies import ExploreFirst
        >>> policy = ExploreFirst(requests=100)
        >>> policy.pmf(np.array([0.2, 0.9]), seen=99).tolist(), policy.pmf(np.array([0.2, 0.9]), seen=100).tolist()
        ([0.5, 0.5], [0.0, 1.0])
    """

    requests: int
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        settle(self, "requests", lambda n: n >= 0 and n.is_integer(), "requests is a whole number from 0")
        object.__setattr__(self, "requests", int(self.requests))

    def pmf(
        self, scores: Scores, /, greedy: Greedy | None = None, seen: int | npt.NDArray[np.int64] = 0
    ) -> Probabilities:
        """Probabilities for scores of shape ``(K,)`` or ``(n, K)``, in the same shape.

        Args:
            scores: higher is better.
            greedy: the model's own choice, an int or ``(n,)`` ints, where it is not the first of the best scores.
            seen: how many decisions were made before, one number or ``(n,)`` of them.

        Raises:
            ValueError: a score is NaN, there is no action, or the greedy one is not among them.
        """
        scores = checked(scores)
        lines = scores.reshape(-1, scores.shape[-1])
        pmf = np.zeros_like(lines)
        pmf[np.arange(len(lines)), greedy_of(lines, greedy)] = 1.0
        pmf[np.broadcast_to(np.asarray(seen) < self.requests, len(lines))] = 1.0 / lines.shape[1]
        return pmf.reshape(scores.shape)
