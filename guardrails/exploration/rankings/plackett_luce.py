"""Plackett-Luce: every list has a probability, the better ones the larger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guardrails.errors import DecorationError
from guardrails.exploration.rankings.clocks import marginals, relative
from guardrails.exploration.rankings.ranked import (
    Items,
    Organic,
    Ranked,
    Uniforms,
    checked_slots,
    row_of,
    rows_of,
)
from guardrails.typing import Probabilities, Scores

_COLDEST, _HOTTEST = 1e-100, 1e100
_FADED = 1e-100
"""Where those left weigh less than this against the best of all, they are weighed against the best of those left."""


@dataclass(frozen=True)
class PlackettLuce(Organic):
    """Fills the slots one after the other, each by softmax of the scores of those left.

    ``P(list) = prod_r exp(s_r / T) / sum over those left of exp(s / T)`` (R. L. Plackett, The analysis of
    permutations, 1975; the same distribution as sorting by score plus Gumbel noise, with one random number per slot
    instead of one per candidate, and exact where scores are so large that the noise would be rounded away).

    Only finite scores have a chance: -inf keeps a candidate off the list, +inf is refused. `sample` leaves the
    marginals out, as they take milliseconds: `pmf` gives them later from the logged scores.

    Args:
        temperature: T, in units of the scores: small is close to the model's own list, large is any list.
        slots: how many candidates a list has.

    Raises:
        DecorationError: a parameter is impossible.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.rankings import PlackettLuce
        >>> policy, scores = PlackettLuce(temperature=0.5, slots=2), np.array([0.9, 0.5, 0.2])
        >>> policy.pmf(scores).round(3).tolist()
        [[0.59, 0.265, 0.145], [0.313, 0.426, 0.261]]
        >>> ranked = policy.sample(scores, lambda n: [0.7, 0.1][:n])
        >>> ranked.order, round(ranked.propensity, 3)
        ((1, 0), 0.213)
        >>> policy.stages(scores, ranked.order).round(3).tolist()
        [0.265, 0.802]
    """

    temperature: float
    slots: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", checked_slots("PlackettLuce", self.slots))
        if not _COLDEST <= self.temperature <= _HOTTEST:
            raise DecorationError(
                f"PlackettLuce: temperature={self.temperature!r}; it lies between {_COLDEST:g} and {_HOTTEST:g}, in "
                "units of the scores."
            )
        object.__setattr__(self, "temperature", float(self.temperature))

    def pmf(self, scores: Scores, /, items: Items | None = None) -> Probabilities:  # noqa: ARG002  # the protocol's
        """Who stands where with which probability: ``(k, K)`` for scores ``(K,)``, ``(n, k, K)`` for ``(n, K)``.

        Exact to about 1e-12 by quadrature (see `clocks`); milliseconds per list, meant for use off the request.

        Raises:
            ValueError: a score is NaN or +inf, or fewer candidates than slots have a finite one.
            ArithmeticError: the integration did not reach 1e-9.
        """
        rows = rows_of(scores, self.slots)
        out = np.zeros((len(rows), self.slots, rows.shape[1]))
        for at, row in enumerate(rows):
            self._checked(row)
            order = (-row).argsort(kind="stable")[: np.count_nonzero(row > -np.inf)]
            out[at][:, order] = marginals(row[order], self.temperature, self.slots)
        return out if np.ndim(scores) > 1 else out[0]

    def sample(self, scores: Scores, uniforms: Uniforms, /, items: Items | None = None) -> Ranked:  # noqa: ARG002
        """Draw a list, one number per slot.

        Raises:
            ValueError: as in `pmf`; or the list is so long that its probability is no float (see `log_probability`).
        """
        row = row_of(scores, self.slots)
        weights = np.exp(relative(row, self._checked(row), self.temperature))
        order: list[int] = []
        propensity = 1.0
        for draw in uniforms(self.slots):
            cumulative = weights.cumsum()
            total = float(cumulative[-1])
            if total < _FADED:
                left = row.copy()
                left[order] = -np.inf
                weights = np.exp(relative(left, float(left.max()), self.temperature))
                cumulative = weights.cumsum()
                total = float(cumulative[-1])
            # "right": an interval begins where the one before it ends, so that nobody of weight 0 is ever hit.
            chosen = int(cumulative.searchsorted(draw * total, side="right"))
            propensity *= float(weights[chosen]) / total
            weights[chosen] = 0.0
            order.append(chosen)
        if propensity == 0.0:
            raise ValueError(f"a list of {self.slots} here is less probable than any float: lower `slots`")
        return Ranked(tuple(order), propensity, None)

    def stages(self, scores: Scores, order: Sequence[int], /) -> Probabilities:
        """The probability of each choice given those before it; their product is the list's.

        Args:
            scores: of all candidates, shape ``(K,)``.
            order: numbers of the candidates shown, first position first; may be shorter or longer than ``slots``.

        Returns:
            Shape ``(len(order),)``.

        Raises:
            ValueError: a score is NaN or +inf, or the order names a candidate twice or one that is not there.
        """
        return np.exp(self._log_stages(scores, order))

    def log_probability(self, scores: Scores, order: Sequence[int], /) -> float:
        """The logarithm of the probability that the list begins like this: -inf where it cannot.

        Raises:
            ValueError: as in `stages`.
        """
        return float(self._log_stages(scores, order).sum())

    def _log_stages(self, scores: Scores, order: Sequence[int]) -> Scores:
        """From the last position up, adding who is left: nothing is subtracted, so nothing cancels."""
        row = row_of(scores, 1)
        self._checked(row, needed=1)
        numbers = [int(number) for number in order]
        if len(set(numbers)) != len(numbers) or not set(numbers) <= set(range(len(row))):
            raise ValueError(f"the order {numbers} names each of the candidates 0 to {len(row) - 1} at most once")
        left = np.delete(row, numbers)
        top = float(left.max()) if len(left) else -math.inf
        total = float(np.exp(relative(left, top, self.temperature)).sum()) if top > -math.inf else 0.0
        stages = np.empty(len(numbers))
        for position in range(len(numbers) - 1, -1, -1):
            score = float(row[numbers[position]])
            if score == -math.inf:
                stages[position] = -math.inf
                continue
            if score > top:
                total, top = total * math.exp(self._logit(top, score)), score
            logit = self._logit(score, top)
            total += math.exp(logit)
            stages[position] = logit - math.log(total)
        return stages

    def _checked(self, row: Scores, needed: int | None = None) -> float:
        """The best score, after a look at all of them."""
        top = float(row.max())
        if math.isnan(top):
            raise ValueError("a score is NaN: give -inf to a candidate that must not be shown")
        if top == math.inf:
            raise ValueError("a score is +inf: Plackett-Luce has no weight for it; give it a finite score")
        finite, needed = int(np.count_nonzero(row > -np.inf)), self.slots if needed is None else needed
        if finite < needed:
            raise ValueError(f"a list of {needed} needs {needed} candidates with finite scores; there are {finite}")
        return top

    def _logit(self, score: float, top: float) -> float:
        return (0.5 * score - 0.5 * top) / (0.5 * self.temperature)
