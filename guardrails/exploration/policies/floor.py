"""A least probability for every action, whatever another policy gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, ClassVar

import numpy as np

from guardrails.errors import DecorationError
from guardrails.exploration.policies._arrays import among, settle
from guardrails.typing import Policy, Probabilities, Scores

_SLACK = 1e-12


@dataclass(frozen=True)
class Floor:
    """Another policy, mixed with the uniform draw: ``p'(a) = (1 - K minimum) p(a) + minimum``.

    No action falls below ``minimum``, so no importance weight exceeds ``1 / minimum``; the order of the probabilities
    stays. Every action gets it, also one of score -inf: leave out what must never be served before the draw.

    Args:
        policy: any policy over choices.
        minimum: what each of the K actions gets at least; K times it may not exceed 1, which is checked where K is
            known.

    Raises:
        DecorationError: the policy is none over choices, or the minimum no probability.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.policies import Floor, Votes
        >>> Floor(Votes(), minimum=0.01).pmf(np.array([1, 3, 0])).round(4).tolist()
        [0.2525, 0.7375, 0.01]
    """

    policy: Policy
    minimum: float
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        settle(self, "minimum", lambda m: 0.0 <= m <= 1.0, "a minimum is a probability")
        if not callable(getattr(self.policy, "pmf", None)) or getattr(self.policy, "kind", "choice") != "choice":
            raise DecorationError(f"Floor({self.policy!r}): the policy has to be one over choices, as Votes() is.")

    @property
    def pmf(self) -> Callable[..., Probabilities]:
        """Probabilities for scores of shape ``(K,)`` or ``(n, K)``; it takes what the policy's own ``pmf`` takes.

        It raises a ValueError where K times the minimum is more than 1, or the policy refuses the scores.
        """
        inner = self.policy.pmf

        @wraps(inner)
        def floored(scores: Scores, /, *args: Any, **options: Any) -> Probabilities:
            pmf = np.asarray(inner(scores, *args, **options))
            return np.asarray(self._left(pmf.shape[-1]) * pmf + self.minimum)

        return floored

    @property
    def pmf_of(self) -> Callable[[list[float], int], list[float]]:
        """The same for one list of scores whose greedy one is known, where the policy has that.

        Raises:
            AttributeError: it has not.
        """
        inner = getattr(self.policy, "pmf_of", None)
        if inner is None:
            raise AttributeError(f"{self.policy!r} has no pmf_of")
        return partial(self._floored, inner)

    def among(self, kept: Sequence[int]) -> Floor:
        """The policy where only some actions are left, renumbered in that order."""
        return Floor(among(self.policy, kept), self.minimum)

    def _floored(
        self, inner: Callable[[list[float], int], list[float]], scores: list[float], greedy: int
    ) -> list[float]:
        left, minimum = self._left(len(scores)), self.minimum
        return [left * p + minimum for p in inner(scores, greedy)]

    def _left(self, actions: int) -> float:
        """What remains for the policy to give."""
        left = 1.0 - actions * self.minimum
        if left < -_SLACK:
            raise ValueError(
                f"{actions} actions with at least {self.minimum} each make {actions * self.minimum:.4g}, which is more "
                f"than 1: Floor(minimum=...) of at most {1.0 / actions:.4g}"
            )
        return max(left, 0.0)
