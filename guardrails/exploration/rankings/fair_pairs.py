"""FairPairs: neighbours in the list change places, so that clicks say which of the two is the better one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
class FairPairs(Organic):
    """A coin pairs positions (0, 1), (2, 3), ... or (1, 2), (3, 4), ...; each pair is swapped with ``probability``.

    Nobody moves by more than one position and nobody outside the list is shown: cheap, and clicks on a pair tell which
    of the two is preferred (F. Radlinski and T. Joachims, Minimally invasive randomization for collecting unbiased
    preferences from clickthrough logs, AAAI 2006). It explores no catalogue: for that there is `PoolInjection`.

    Inside the list ``P(i at i) = 1 - q``, ``P(i at i - 1) = P(i at i + 1) = q / 2``; an end that one of the two
    pairings leaves alone stays with ``1 - q / 2``.

    Args:
        slots: how many candidates a list has; 2 at least.
        probability: q, with which a pair is swapped.

    Raises:
        DecorationError: a parameter is impossible.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.rankings import FairPairs
        >>> FairPairs(slots=3).pmf(np.array([0.9, 0.5, 0.2])).tolist()
        [[0.75, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]]
    """

    slots: int
    probability: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", checked_slots("FairPairs", self.slots, at_least=2))
        object.__setattr__(self, "probability", checked_share("FairPairs", "probability", self.probability))

    def pmf(self, scores: Scores, /, items: Items | None = None) -> Probabilities:  # noqa: ARG002  # the protocol's
        """Who stands where with which probability: ``(k, K)`` for scores ``(K,)``, ``(n, k, K)`` for ``(n, K)``.

        Raises:
            ValueError: a score is NaN, or there are fewer candidates than slots.
        """
        rows = rows_of(scores, self.slots)
        out = spread(best_of_rows(rows, self.slots), self._moves, rows.shape[1])
        return out if np.ndim(scores) > 1 else out[0]

    def sample(self, scores: Scores, uniforms: Uniforms, /, items: Items | None = None) -> Ranked:  # noqa: ARG002
        """Draw a list: one number for the pairing, one for each pair.

        Raises:
            ValueError: as in `pmf`.
        """
        ranks = list(range(self.slots))
        order = best(row_of(scores, self.slots), self.slots)
        coin, *draws = uniforms(1 + self.slots // 2)
        offset = int(coin >= 0.5)  # noqa: PLR2004  # a fair coin
        swapped = 0
        for first, draw in zip(range(offset, self.slots - 1, 2), draws, strict=False):
            if draw < self.probability:
                ranks[first], ranks[first + 1] = ranks[first + 1], ranks[first]
                swapped += 1
        propensity = self._list_probability(offset, swapped)
        if not swapped:  # the model's own list comes from either pairing; any other tells which it was
            propensity += self._list_probability(1 - offset, 0)
        return Ranked(tuple([order[rank] for rank in ranks]), propensity, self._moves[ranks])

    def _list_probability(self, offset: int, swapped: int) -> float:
        pairs = (self.slots - offset) // 2
        return 0.5 * self.probability**swapped * (1.0 - self.probability) ** (pairs - swapped)

    @cached_property
    def _moves(self) -> Probabilities:
        moves = np.zeros((self.slots, self.slots))
        for offset in (0, 1):
            stays = np.ones(self.slots)
            paired = self.slots - (self.slots - offset) % 2
            stays[offset:paired] = 1.0 - self.probability
            moves[np.diag_indices(self.slots)] += 0.5 * stays
            for first in range(offset, self.slots - 1, 2):
                moves[first, first + 1] += 0.5 * self.probability
                moves[first + 1, first] += 0.5 * self.probability
        return frozen(moves)
