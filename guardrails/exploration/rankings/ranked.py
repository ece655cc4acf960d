"""What a policy for ranked lists is: the served list with its probability, the protocol, the model's own list."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from guardrails.errors import DecorationError
from guardrails.typing import Probabilities, Scores

Items: TypeAlias = Sequence[Any]
"""The candidates' ids, in the order of their scores: text, integers, bytes or UUIDs."""
Uniforms: TypeAlias = Callable[[int], list[float]]
"""Gives the first n numbers in [0, 1) of one fixed stream."""
Ranks: TypeAlias = npt.NDArray[np.intp]

_FEW = 300
"""Up to here sorting all is faster than looking for the best first."""
_MATRIX = 2


class Ranked(NamedTuple):
    """A served list and how probable it was.

    Attributes:
        order: numbers of the served candidates, first position first; shape ``(k,)``.
        propensity: the probability of exactly this list.
        marginals: shape ``(k, k)``: row i holds the probabilities of ``order[i]`` at each position; None where that
            takes longer than a request has time for (`pmf` gives it later, from the logged scores).
    """

    order: tuple[int, ...]
    propensity: float
    marginals: Probabilities | None


@runtime_checkable
class RankingPolicy(Protocol):
    """An exploration policy for lists: scores of all candidates to probabilities, with no state and no randomness.

    `guardrails.testing.check_ranking` checks one of your own.

    Attributes:
        kind: ``"ranking"``.
        slots: how many candidates a list has.
    """

    kind: ClassVar[str]

    @property
    def slots(self) -> int:
        """How many candidates a list has."""

    def pmf(self, scores: Scores, /, items: Items | None = None) -> Probabilities:
        """Probabilities of shape ``(k, K)`` or ``(n, k, K)``; row r: who stands at position r. Rows sum to one."""

    def sample(self, scores: Scores, uniforms: Uniforms, /, items: Items | None = None) -> Ranked:
        """Draw a list for scores ``(K,)`` with the first numbers of a stream: the same list for the same stream."""

    def organic(self, scores: Scores, /) -> tuple[int, ...]:
        """The model's own list."""


class Organic:
    """What policies for lists have in common: their kind, and the model's own list."""

    kind: ClassVar[str] = "ranking"
    slots: int

    def organic(self, scores: Scores, /) -> tuple[int, ...]:
        """The model's own list for scores ``(K,)``: the best by stable descending sort."""
        return organic(scores, self.slots)


def organic(scores: Scores, slots: int) -> tuple[int, ...]:
    """The model's own list: the ``slots`` best candidates, best first; of equals the one that comes first.

    Args:
        scores: one score per candidate, shape ``(K,)``; infinite ones are ranked as such.
        slots: how many candidates the list has.

    Raises:
        ValueError: a score is NaN, or there are fewer candidates than slots.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.rankings import organic
        >>> organic(np.array([0.1, 0.9, 0.9, 0.5]), 3)
        (1, 2, 3)
    """
    return tuple(best(row_of(scores, slots), slots))


def row_of(scores: Scores, slots: int) -> Scores:
    """Scores of one list as float64, after a look at their shape."""
    row = np.asarray(scores, dtype=np.float64)
    if row.ndim != 1:
        raise ValueError(f"scores of one list have shape (candidates,), not {row.shape}")
    if len(row) < slots:
        raise ValueError(_too_few(len(row), slots))
    return row


def rows_of(scores: Scores, slots: int) -> Scores:
    """Scores ``(K,)`` or ``(n, K)`` as a float64 matrix ``(n, K)`` without NaN."""
    rows = np.asarray(scores, dtype=np.float64)
    if rows.ndim not in {1, _MATRIX}:
        raise ValueError(f"scores have shape (candidates,) or (lists, candidates), not {rows.shape}")
    if rows.shape[-1] < slots:
        raise ValueError(_too_few(rows.shape[-1], slots))
    if np.isnan(rows).any():
        raise ValueError(_NAN)
    return rows if rows.ndim == _MATRIX else rows[None]


_NAN = "a score is NaN: a candidate without a score has no place in a ranking; give it -inf if it must not be shown"


def _too_few(candidates: int, slots: int) -> str:
    return f"a list of {slots} needs at least {slots} candidates; there are {candidates} scores. Lower `slots`"


def best(row: Scores, count: int) -> list[int]:
    """Numbers of the ``count`` best of ``(K,)`` scores, best first, of equals the first: refuses NaN."""
    if len(row) <= _FEW:
        order = (-row).argsort(kind="stable")
        if math.isnan(row[order[-1]]):  # sorting puts NaN last
            raise ValueError(_NAN)
        few: list[int] = order[:count].tolist()
        return few
    if math.isnan(row.max()):
        raise ValueError(_NAN)
    edge = len(row) - count
    near = np.flatnonzero(row >= np.partition(row, edge)[edge])
    order = near[(-row[near]).argsort(kind="stable")[:count]]
    numbers: list[int] = order.tolist()
    return numbers


def best_of_rows(rows: Scores, count: int) -> Ranks:
    """The same for each row of ``(n, K)``: numbers of shape ``(n, count)``."""
    return (-rows).argsort(axis=-1, kind="stable")[:, :count]


def spread(orders: Ranks, moves: Probabilities, candidates: int) -> Probabilities:
    """Probabilities ``(n, k, K)`` of lists that only move their own members.

    Args:
        orders: the organic lists, shape ``(n, k)``.
        moves: ``moves[i, r]`` is the probability that the organic i-th stands at position r; shape ``(k, k)``.
        candidates: K.
    """
    probabilities = np.zeros((*orders.shape, candidates))
    np.put_along_axis(probabilities, orders[:, None, :], moves.T[None], axis=2)
    return probabilities


def checked_slots(owner: str, slots: int, at_least: int = 1) -> int:
    """The number of slots as a plain int, or a DecorationError that names the policy."""
    try:
        number = operator.index(slots)
    except TypeError:
        number = -1
    if isinstance(slots, bool) or number < at_least:
        raise DecorationError(f"{owner}: slots={slots!r}; the length of a list is a whole number from {at_least} on.")
    return number


def checked_share(owner: str, name: str, value: float) -> float:
    """A probability as a plain float, or a DecorationError that names the policy."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise DecorationError(f"{owner}: {name}={value!r}; a probability lies between 0 and 1.")
    return number


def frozen(array: Probabilities) -> Probabilities:
    """The array, read-only: it is handed out with every answer."""
    array.flags.writeable = False
    return array
