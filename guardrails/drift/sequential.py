"""The sequential detector: evidence for drift that may be looked at after every row, for ever.

A binned Shiryaev-Roberts e-detector (Shin, Ramdas, Rinaldo 2023, "E-detectors: a nonparametric framework for
sequential change detection"). Each bet k holds an evidence R_k, which grows by the time that passes and is multiplied
by the likelihood ratio of what was counted::

    R_k <- (R_k + time passed) * exp(sum over bins of counts * gains_k)

Time passes for the columns that were counted. Without drift each factor is at most 1 on average, so ``R_k - time``
never grows on average, nor does the mean over all bets of all columns, however the columns depend on each other. An
alarm when that mean reaches the run length comes therefore, on average, no sooner than after the run length. Watching D
columns costs the logarithm of D.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from guardrails.drift.alternatives import Bet, bets, judged
from guardrails.profile.bins import Bins, Counts

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What speaks for drift now.

    Attributes:
        total: the logarithm of the evidence over all columns that are not known to have moved; an alarm is due when it
            reaches ``log(run_length)``.
        columns: the same for each judged column by itself, shape ``(judged,)``.
        loud: which of these count for the total, the same shape.
    """

    total: float
    columns: Floats
    loud: npt.NDArray[np.bool_]


class SequentialDetector:
    """Weighs counts as they come.

    Args:
        bins: the reference.
        run_length: the wanted mean of `elapsed` between two false alarms, in the unit of `elapsed`.
        rows: how many rows come within a run length, if that is not counted in rows itself.

    Attributes:
        judged: the columns whose reference is large enough, in order.
        clock: all of `elapsed` so far.
        log_evidence: of each bet, shape ``(bets,)``.
        excess: of each bet, the log-likelihood ratio since `since`, never below 0; shape ``(bets,)``.
        loud: judged columns that may raise an alarm; the others are known to have moved. Shape ``(judged,)``.
        since: when the clock last saw a bet at no excess, shape ``(bets,)``: the change, if there was one, came then.
    """

    def __init__(self, bins: Bins, run_length: float, rows: float | None = None) -> None:
        self.run_length = run_length
        large, many = judged(bins), run_length if rows is None else rows
        self.bets: list[Bet] = [bet for column in large for bet in bets(bins, column, many, len(large))]
        self.judged = list(dict.fromkeys(bet.column for bet in self.bets))  # there may be nothing to bet on
        self.loud = np.ones(len(self.judged), dtype=bool)
        self._column = np.array([bet.column for bet in self.bets], np.intp)
        self._starts = np.flatnonzero(np.diff(self._column, prepend=-1))  # bets of a column stand together
        self._gains = _Gains(self.bets, bins.counts.shape)
        self._weight = np.log([bet.weight for bet in self.bets])
        self.clock = 0.0
        self.reset()

    @cached_property
    def fingerprint(self) -> str:
        """Names the bets, what they gain, and the run length: evidence of others is evidence for something else."""
        digest = hashlib.sha256(f"{self.run_length} {self._column.tolist()}".encode())
        for bet in self.bets:
            digest.update(bet.gains.tobytes())
        return digest.hexdigest()[:16]

    def reset(self) -> None:
        """Forget all evidence."""
        self.log_evidence = np.full(len(self.bets), -np.inf)
        self.excess = np.zeros(len(self.bets))
        self.since = np.full(len(self.bets), self.clock)

    def forget(self, places: npt.NDArray[np.intp]) -> None:
        """Forget the evidence about some judged columns, by their places among them."""
        own = np.isin(self._column, np.array(self.judged)[places])
        self.log_evidence[own], self.excess[own], self.since[own] = -np.inf, 0.0, self.clock

    def update(self, counts: Counts, elapsed: float, worth: Floats | None = None) -> Evidence:
        """Weigh what was counted since the last time.

        Args:
            counts: shape ``(f, bins)``.
            elapsed: time or rows since the last time; it must not depend on what was counted.
            worth: what share of an independent row a row of each column is worth, shape ``(f,)``; 1 by default.
        """
        gained = self._gains(counts)
        if worth is not None:
            gained *= worth[self._column]
        fresh = self.excess <= 0.0
        self.since[fresh] = self.clock
        self.excess = np.maximum(self.excess, 0.0) + gained
        # For a column that nobody speaks of time stands still: else it would raise an alarm by waiting.
        counted = counts.sum(axis=1)[self._column] > 0
        passed = np.where(counted, np.log(elapsed) if elapsed > 0.0 else -np.inf, -np.inf)
        self.log_evidence = np.logaddexp(self.log_evidence, passed) + gained
        self.clock += elapsed
        return self.evidence()

    def evidence(self) -> Evidence:
        """What speaks for drift now."""
        weighed = self._weight + self.log_evidence
        if not len(weighed):
            return Evidence(-np.inf, weighed, self.loud)
        columns = np.logaddexp.reduceat(weighed, self._starts)
        total = np.logaddexp.reduce(columns[self.loud], initial=-np.inf) - np.log(len(columns))
        return Evidence(float(total), columns, self.loud)

    @property
    def due(self) -> float:
        """The logarithm of the evidence at which an alarm is due."""
        return float(np.log(self.run_length))

    def best(self, column: int) -> tuple[Bet, float]:
        """The bet on a column with the largest evidence, and since when the column has looked so."""
        own = np.flatnonzero(self._column == column)
        at = own[np.argmax(self._weight[own] + self.log_evidence[own])]
        return self.bets[at], float(self.since[at])


class _Gains:
    """The gains of all bets for a table of counts: a product of small matrices, or a line per single category."""

    def __init__(self, bets: list[Bet], shape: tuple[int, ...]) -> None:
        self._moves = [at for at, bet in enumerate(bets) if bet.bin is None]
        self._surges = [at for at, bet in enumerate(bets) if bet.bin is not None]
        columns = list(dict.fromkeys(bets[at].column for at in self._moves))
        self._columns = np.array(columns, np.intp)
        per_column = len(self._moves) // max(len(columns), 1)
        self._matrix = np.array([bets[at].gains for at in self._moves]).reshape(len(columns), per_column, shape[1])
        chosen = [bets[at] for at in self._surges]
        self._own = np.array([bet.column for bet in chosen], np.intp)
        self._bin = np.array([bet.bin for bet in chosen], np.intp)
        # All other bins of a single category's bet gain the same: whichever is not its own tells how much.
        self._inside = np.array([bet.gains[bet.bin] for bet in chosen])
        self._outside = np.array([_elsewhere(bet) for bet in chosen])
        self._size = len(bets)

    def __call__(self, counts: Counts) -> Floats:
        gained = np.empty(self._size)
        if self._moves:
            moved = np.matmul(self._matrix, counts[self._columns][:, :, None].astype(np.float64))
            gained[self._moves] = moved.ravel()
        if self._surges:
            inside = counts[self._own, self._bin]
            outside = counts.sum(axis=1)[self._own] - inside
            gained[self._surges] = inside * self._inside + outside * self._outside
        return gained


def _elsewhere(bet: Bet) -> float:
    others = np.flatnonzero((bet.gains != 0.0) & (np.arange(len(bet.gains)) != bet.bin))
    return float(bet.gains[others[0]]) if len(others) else 0.0
