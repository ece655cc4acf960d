"""A fixed position changes places with a random one: what the positions themselves are worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from guardrails.errors import DecorationError
from guardrails.exploration.rankings.ranked import (
    Items,
    Organic,
    Ranked,
    Uniforms,
    best,
    best_of_rows,
    checked_share,
    checked_slots,
    frozen,
    row_of,
    rows_of,
    spread,
)
from guardrails.typing import Probabilities, Scores


@dataclass(frozen=True)
class SwapPositions(Organic):
    """With probability epsilon, the ``pivot`` position changes places with one drawn uniformly, itself included.

    The pivot's candidate is seen at every position, whatever its relevance, so clicks on it at position j against
    those at the pivot give the relative examination of j (RandPair: T. Joachims, A. Swaminathan and T. Schnabel,
    Unbiased learning-to-rank with biased feedback, WSDM 2017). It explores no catalogue.

    ``M = (1 - epsilon) I + epsilon / k sum_j swap(pivot, j)``.

    Args:
        epsilon: the share of lists that are drawn.
        slots: how many candidates a list has.
        pivot: the position, from 0, that changes places with the others.

    Raises:
        DecorationError: a parameter is impossible.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.rankings import SwapPositions
        >>> SwapPositions(0.4, slots=2).pmf(np.array([0.9, 0.5, 0.2])).tolist()
        [[0.8, 0.2, 0.0], [0.2, 0.8, 0.0]]
    """

    epsilon: float
    slots: int
    pivot: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", checked_share("SwapPositions", "epsilon", self.epsilon))
        object.__setattr__(self, "slots", checked_slots("SwapPositions", self.slots))
        if isinstance(self.pivot, bool) or self.pivot not in range(self.slots):
            raise DecorationError(f"SwapPositions: pivot={self.pivot!r}; the positions are 0 to {self.slots - 1}.")
        object.__setattr__(self, "pivot", int(self.pivot))

    def pmf(self, scores: Scores, /, items: Items | None = None) -> Probabilities:  # noqa: ARG002  # the protocol's
        """Who stands where with which probability: ``(k, K)`` for scores ``(K,)``, ``(n, k, K)`` for ``(n, K)``.

        Raises:
            ValueError: a score is NaN, or there are fewer candidates than slots.
        """
        rows = rows_of(scores, self.slots)
        out = spread(best_of_rows(rows, self.slots), self._moves, rows.shape[1])
        return out if np.ndim(scores) > 1 else out[0]

    def sample(self, scores: Scores, uniforms: Uniforms, /, items: Items | None = None) -> Ranked:  # noqa: ARG002
        """Draw a list: one number says whether, one with which position.

        Raises:
            ValueError: as in `pmf`.
        """
        order = best(row_of(scores, self.slots), self.slots)
        gate, where = uniforms(2)
        other = int(where * self.slots) if gate < self.epsilon else self.pivot
        each = self.epsilon / self.slots
        if other == self.pivot:
            return Ranked(tuple(order), 1.0 - self.epsilon + each, self._moves)
        ranks = list(range(self.slots))
        ranks[self.pivot], ranks[other] = other, self.pivot
        return Ranked(tuple([order[rank] for rank in ranks]), each, self._moves[ranks])

    @cached_property
    def _moves(self) -> Probabilities:
        each, k, pivot = self.epsilon / self.slots, self.slots, self.pivot
        moves = (1.0 - each) * np.eye(k)
        moves[pivot, :] = moves[:, pivot] = each
        moves[pivot, pivot] = 1.0 - self.epsilon + each
        return frozen(moves)
