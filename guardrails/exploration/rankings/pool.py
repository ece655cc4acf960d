"""The initial traffic pool: now and then one slot of the list goes to a candidate from outside it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import numpy as np

from guardrails.errors import DecorationError
from guardrails.exploration.rankings.boost import Boost
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

Weights: TypeAlias = Sequence[float] | Mapping[Any, float] | Callable[[Items], Sequence[float]]
"""Who is drawn from the pool how often: per candidate number, per id, or asked for each list."""


@dataclass(frozen=True, repr=False)
class PoolInjection(Organic):
    """With probability epsilon, one slot of the list goes to a candidate from outside the list.

    Slot S is drawn by ``positions``, candidate J by ``weights`` among those outside the organic list, so
    ``P(j at s) = epsilon sigma_s w_j``. With ``insert="replace"`` who stood there gives way:
    ``P(i at i) = 1 - epsilon sigma_i``. With ``insert="shift"`` those from there on move one down and the last falls
    off: ``P(i at i) = 1 - epsilon P(S <= i)``, ``P(i at i + 1) = epsilon P(S <= i)``.

    A score of -inf keeps a candidate out of the pool, as a weight of 0 does. Where nobody is in the pool (as many
    candidates as slots, all weights 0) the organic list is served with certainty.

    Args:
        epsilon: the share of lists in which one slot is given away.
        slots: how many candidates a list has.
        weights: None (all alike); one weight per candidate number; a mapping from id to weight (an id it does not
            name has weight 0; it is copied: weights that change need a function); or a function of the ids of all
            candidates that answers one weight each, such as a quota less the impressions so far, so that new items
            get their share of traffic and then graduate.
        boost: which of them get several times their weight: the experiment that shows how strong the loop is.
        insert: ``"replace"`` or ``"shift"``.
        positions: weights sigma of the slots, one each; None for all alike.

    Raises:
        DecorationError: a parameter is impossible.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.rankings import PoolInjection
        >>> policy = PoolInjection(0.1, slots=2)
        >>> policy.pmf(np.array([0.9, 0.2, 0.5, 0.1])).round(3).tolist()
        [[0.95, 0.025, 0.0, 0.025], [0.0, 0.025, 0.95, 0.025]]
        >>> ranked = policy.sample(np.array([0.9, 0.2, 0.5, 0.1]), lambda n: [0.05, 0.7, 0.6][:n])
        >>> ranked.order, round(ranked.propensity, 3)
        ((0, 3), 0.025)
    """

    epsilon: float
    slots: int
    weights: Weights | None = field(default=None, hash=False)
    boost: Boost | None = None
    insert: Literal["replace", "shift"] = "replace"
    positions: Sequence[float] | None = None

    def __post_init__(self) -> None:
        owner = "PoolInjection"
        object.__setattr__(self, "epsilon", checked_share(owner, "epsilon", self.epsilon))
        object.__setattr__(self, "slots", checked_slots(owner, self.slots))
        if self.insert not in {"replace", "shift"}:
            raise DecorationError(f'{owner}: insert={self.insert!r}; there are "replace" and "shift".')
        if self.boost is not None and not isinstance(self.boost, Boost):
            raise DecorationError(f"{owner}: boost={self.boost!r}; give a Boost(factor=..., share=..., salt=...).")
        if self.positions is not None:
            object.__setattr__(self, "positions", _plain(f"{owner}: positions", self.positions))
            if len(self.positions) != self.slots or not any(self.positions):
                raise DecorationError(
                    f"{owner}: positions holds one weight per slot ({self.slots}), not all of them 0."
                )
        if isinstance(self.weights, Mapping):
            named = dict(zip(self.weights, _plain(f"{owner}: weights", list(self.weights.values())), strict=True))
            object.__setattr__(self, "weights", named)
        elif self.weights is not None and not callable(self.weights):
            object.__setattr__(self, "weights", _plain(f"{owner}: weights", self.weights))

    def __repr__(self) -> str:
        return (
            f"PoolInjection(epsilon={self.epsilon!r}, slots={self.slots!r}, weights={_named(self.weights)}, "
            f"boost={self.boost!r}, insert={self.insert!r}, positions={self.positions!r})"
        )

    def pmf(self, scores: Scores, /, items: Items | None = None) -> Probabilities:
        """Who stands where with which probability.

        Args:
            scores: of all candidates, shape ``(K,)`` or ``(n, K)``.
            items: the candidates' ids, ``(K,)``, the same for all lists; default: their numbers.

        Returns:
            Shape ``(k, K)`` or ``(n, k, K)``; row r: the candidates' probabilities of position r.

        Raises:
            ValueError: a score is NaN, candidates are fewer than slots, or weights or ids do not fit them.
        """
        rows = rows_of(scores, self.slots)
        candidates = rows.shape[1]
        orders = best_of_rows(rows, self.slots)
        shares = np.zeros_like(rows)
        if self.epsilon > 0.0 and candidates > self.slots:
            weights = np.where(rows == -np.inf, 0.0, self._weights(candidates, items))
            np.put_along_axis(weights, orders, 0.0, axis=1)
            shares = self._shares(weights, items)
        active = shares.any(axis=1)
        out = spread(orders, np.eye(self.slots), candidates)
        out[active] = spread(orders[active], self._moves, candidates)
        out += self.epsilon * self._sigma[:, None] * shares[:, None, :]
        return out if np.ndim(scores) > 1 else out[0]

    def sample(self, scores: Scores, uniforms: Uniforms, /, items: Items | None = None) -> Ranked:
        """Draw a list: one number says whether a slot is given away, one which, one to whom.

        Args:
            scores: of all candidates, shape ``(K,)``.
            uniforms: gives the first n numbers of the decision's stream.
            items: the candidates' ids, ``(K,)``; default: their numbers.

        Raises:
            ValueError: as in `pmf`.
        """
        row, slots = row_of(scores, self.slots), self.slots
        lead = best(row, min(slots + 1, len(row)))
        order = lead[:slots]
        if self.epsilon == 0.0 or len(row) == slots or row[lead[slots]] == -np.inf:
            return Ranked(tuple(order), 1.0, self._certain)
        gate, where, which = uniforms(3)
        organic = Ranked(tuple(order), 1.0 - self.epsilon, self._moves)
        if self.weights is None and gate >= self.epsilon:
            return organic
        weights = self._weights(len(row), items)
        weights[row == -np.inf] = 0.0
        weights[order] = 0.0
        if not weights.any():
            return Ranked(tuple(order), 1.0, self._certain)
        return organic if gate >= self.epsilon else self._inject(order, self._shares(weights, items), where, which)

    def _inject(self, order: list[int], shares: Probabilities, where: float, which: float) -> Ranked:
        edges = self._edges
        # "right": an interval begins where the one before it ends, so that nobody of weight 0 is ever hit.
        slot = bisect_right(edges, where * edges[-1])
        cumulative = shares.cumsum()
        chosen = int(cumulative.searchsorted(which * cumulative[-1], side="right"))
        propensity = self.epsilon * float(self._sigma[slot]) * float(shares[chosen])
        marginals = np.empty_like(self._moves)
        after = slot if self.insert == "shift" else slot + 1
        marginals[:slot], marginals[slot + 1 :] = self._moves[:slot], self._moves[after : after + self.slots - slot - 1]
        marginals[slot] = self.epsilon * self._sigma * shares[chosen]
        served = (*order[:slot], chosen, *order[after:])[: self.slots]
        return Ranked(served, propensity, marginals)

    def _weights(self, candidates: int, items: Items | None) -> Scores:
        """One weight per candidate, a fresh array."""
        ids = self._ids(candidates, items)
        if self.weights is None:
            return np.ones(candidates)
        if isinstance(self.weights, Mapping):
            named = self.weights
            names = ids.tolist() if isinstance(ids, np.ndarray) else ids
            return np.array([named.get(name, 0.0) for name in names])
        weights = np.array(self.weights(ids), dtype=np.float64) if callable(self.weights) else self._fixed.copy()
        if weights.shape != (candidates,):
            raise ValueError(f"weights of shape {weights.shape} for {candidates} candidates: give one weight each")
        if callable(self.weights) and not ((weights >= 0.0) & (weights < np.inf)).all():
            raise ValueError(f"{_named(self.weights)} answers a weight that is negative or no finite number")
        return weights

    @staticmethod
    def _ids(candidates: int, items: Items | None) -> Items:
        if items is None:
            return range(candidates)
        if len(items) != candidates:
            raise ValueError(f"{len(items)} items for {candidates} scores: give the id of every candidate")
        return items

    def _shares(self, weights: Scores, items: Items | None) -> Probabilities:
        """Shares of the pool from weights ``(K,)`` or ``(n, K)``, which they replace: zeros where it is empty."""
        top = weights.max(axis=-1, keepdims=True)
        weights /= top + (top == 0.0)  # by the largest first: neither boost nor sum can overflow
        if self.boost is not None:
            weights[..., self.boost.boosted(self._ids(weights.shape[-1], items))] *= self.boost.factor
        total = weights.cumsum(axis=-1)[..., -1:]
        weights /= total + (total == 0.0)
        return weights

    @cached_property
    def _sigma(self) -> Probabilities:
        weights = np.ones(self.slots) if self.positions is None else np.array(self.positions)
        weights = weights / weights.max()
        return frozen(weights / weights.sum())

    @cached_property
    def _fixed(self) -> Scores:
        return np.array(self.weights, dtype=np.float64)

    @cached_property
    def _edges(self) -> list[float]:
        return list(accumulate(self._sigma.tolist()))

    @cached_property
    def _moves(self) -> Probabilities:
        """Where the organic i-th stands when the pool is not empty, ``(k, k)``."""
        if self.insert == "replace":
            alone: Probabilities = 1.0 - self.epsilon * self._sigma
            return frozen(np.diag(alone))
        pushed: Probabilities = self.epsilon * np.minimum(self._sigma.cumsum(), 1.0)
        stays: Probabilities = np.diag(1.0 - pushed)
        return frozen(stays + np.diag(pushed[:-1], 1))

    @cached_property
    def _certain(self) -> Probabilities:
        return frozen(np.eye(self.slots))


def _plain(name: str, weights: Sequence[float]) -> tuple[float, ...]:
    try:
        array = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DecorationError(f"{name}: {weights!r} are no weights.") from error
    if array.ndim != 1 or not ((array >= 0.0) & (array < np.inf)).all():
        raise DecorationError(f"{name}: weights are finite numbers from 0 on, in one line.")
    return tuple(array.tolist())


def _named(weights: Weights | None) -> str:
    """A function is told by its dotted name, as text where it has none: the policy's repr stays valid Python."""
    if not callable(weights):
        return repr(weights)
    name = getattr(weights, "__qualname__", None)
    if name is None:
        text = repr(weights)
        return repr(type(weights).__qualname__) if text.startswith("<") else text
    dotted = f"{weights.__module__}.{name}"
    return repr(dotted) if "<" in dotted else dotted
