"""Who stands where in a Plackett-Luce list: exact marginals, as a race of exponential clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

from guardrails.typing import Probabilities, Scores

TOLERANCE = 1e-9
"""How far the probabilities of a position may be from one in all before the integration counts as failed."""

_APART = 60.0  # e^-60 is 1e-26: who is that far ahead is ahead
_NODES = 16
_PANEL = 1.0
_LATEST = 40.0  # e^-40: nobody of the best is still missing
_NEGLIGIBLE = 1e-17
_LARGEST_LOG = 700.0
_STEPS = (1, 2, 4)
_ENTRIES = 1 << 21


def relative(scores: Scores, top: float | Scores, temperature: float) -> Scores:
    """Logits relative to a best score. By halves: the difference of two finite scores may be no float."""
    with np.errstate(over="ignore"):
        logits: Scores = (0.5 * scores - 0.5 * top) / (0.5 * temperature)
    return logits


def marginals(scores: Scores, temperature: float, slots: int) -> Probabilities:
    """Probability of each candidate at each of the first positions of a Plackett-Luce list.

    Such a list is the order in which exponential clocks of rates ``w_i = exp(s_i / T)`` ring. So i stands at
    position r when r others rang before it: ``P(i at r) = integral of w_i exp(-w_i t) PB(r; 1 - exp(-w_j t), j != i)
    dt``, PB being the Poisson-binomial probability (the idea of sample-free propensities, ECIR 2026). The
    distribution without i is that of those before i combined with that of those after it: sums of products of
    probabilities, nothing is subtracted, so that small probabilities keep their digits. Gauss-Legendre panels in
    log t; candidates more than 60 logits apart are taken as certain to come in that order (an error below 1e-25).

    Args:
        scores: finite, shape ``(n,)``, n at least ``slots``, descending.
        temperature: T.
        slots: how many positions.

    Returns:
        Shape ``(slots, n)``; every row sums to one.

    Raises:
        ArithmeticError: the integrals of a position are off one by more than `TOLERANCE`, three refinements on.
    """
    out = np.zeros((slots, len(scores)))
    behind = relative(scores[1:], scores[:-1], temperature) < -_APART
    starts = [0, *(np.flatnonzero(behind) + 1).tolist(), len(scores)]
    for start, stop in pairwise(starts):
        if start >= slots:
            break
        within = min(stop, slots) - start
        logits = relative(scores[start:stop], scores[start], temperature)
        out[start : start + within, start:stop] = _race(logits, within)
    return out


def _race(logits: Scores, slots: int) -> Probabilities:
    """The marginals of candidates of which none is out of reach of the next."""
    if len(logits) == 1:
        return np.ones((1, 1))
    worst = np.inf
    for finer in _STEPS:
        out = sum(_integrals(logits, slots, *chunk) for chunk in _grid(logits, slots, finer))
        totals = np.sum(out, axis=1, keepdims=True)
        worst = float(np.abs(totals - 1.0).max())
        if worst < TOLERANCE:
            return np.asarray(out / totals)
    raise ArithmeticError(
        f"the probabilities of a position sum to one but for {worst:.1g}, more than {TOLERANCE:g}: {len(logits)} "
        f"candidates on {slots} slots are too many for this integration. Lower `slots`, or use the lists' propensities."
    )


def _grid(logits: Scores, slots: int, finer: int) -> Iterator[tuple[Scores, Scores]]:
    """Nodes (logarithms of time) and their weights, in pieces that bound the memory."""
    points, weights = _gauss(_NODES)
    width = _PANEL / finer / max(1.0, np.sqrt(slots / 10))
    first = -np.log(np.exp(logits).sum())
    last = np.log(_LATEST + np.log(slots)) - logits[slots - 1]
    edges = first + width * np.arange(int(np.ceil((last - first) / width)) + 1)
    edges = edges[: 1 + _full_from(logits, slots, edges)]
    # Before the first clock is likely to have rung the integrand is smooth in time itself, down to 0.
    early = np.exp(edges[0]) * points
    nodes = np.concatenate([np.log(early), (edges[:-1, None] + np.diff(edges)[:, None] * points).ravel()])
    sizes = np.concatenate([weights / points, (np.diff(edges)[:, None] * weights).ravel()])
    step = max(_NODES, _ENTRIES // (len(logits) * slots))
    for start in range(0, len(nodes), step):
        yield nodes[start : start + step], sizes[start : start + step]


def _full_from(logits: Scores, slots: int, times: Scores) -> int:
    """Number of the first of the times at which the list is full for sure, or of the last one."""
    rung, silent = _rung(logits, times)
    state = np.zeros((slots, len(times)))
    state[0] = 1.0
    for gone, stays in zip(rung, silent, strict=True):
        moved = state[:-1] * gone
        state *= stays
        state[1:] += moved
    full = np.flatnonzero(state.sum(axis=0) < _NEGLIGIBLE)
    return int(full[0]) if len(full) else len(times) - 1


def _integrals(logits: Scores, slots: int, nodes: Scores, sizes: Scores) -> Probabilities:
    rung, silent = _rung(logits, nodes)
    hazard = np.exp(np.minimum(logits[:, None] + nodes, _LARGEST_LOG))
    before = _counts(rung, silent, slots)
    after = _counts(rung[::-1], silent[::-1], slots)[::-1]
    before *= (hazard * silent * sizes)[:, None, :]
    pairs = before @ after.transpose(0, 2, 1)
    out = np.zeros((slots, len(logits)))
    for earlier in range(slots):
        out[earlier:] += pairs[:, earlier, : slots - earlier].T
    return out


def _counts(rung: Probabilities, silent: Probabilities, slots: int) -> Probabilities:
    """For each candidate and time: how many of those before it have rung; shape ``(n, slots, times)``."""
    states = np.zeros((len(rung), slots, rung.shape[1]))
    states[0, 0] = 1.0
    for number in range(len(rung) - 1):
        np.multiply(states[number], silent[number], out=states[number + 1])
        states[number + 1, 1:] += states[number, :-1] * rung[number]
    return states


def _rung(logits: Scores, times: Scores) -> tuple[Probabilities, Probabilities]:
    """Whether each clock has rung by each (logarithm of) time: probability of yes and of no, ``(n, times)``."""
    expected = np.exp(np.minimum(logits[:, None] + times, _LARGEST_LOG))
    return -np.expm1(-expected), np.exp(-expected)


@lru_cache(maxsize=4)
def _gauss(nodes: int) -> tuple[Scores, Scores]:
    """Gauss-Legendre points and weights on (0, 1)."""
    rule: Callable[[int], tuple[Scores, Scores]] = np.polynomial.legendre.leggauss  # untyped in some NumPys
    points, weights = rule(nodes)
    return (points + 1.0) / 2.0, weights / 2.0
