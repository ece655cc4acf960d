"""What drift may look like, column by column: the changes the sequential detector bets on.

A number may shift by a quarter, a half or a whole standard deviation either way, or spread or narrow (seen through
normal scores, so that no shape is assumed); any column may go missing; a category, or one that training never saw, may
become more frequent or half as frequent; outliers may become more frequent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from guardrails.profile.bins import Bins
from guardrails.profile.watched import OUTLIER

Floats = npt.NDArray[np.float64]

SHIFTS = {0.25: 4.0, -0.25: 4.0, 0.5: 1.0, -0.5: 1.0, 1.0: 1.0, -1.0: 1.0}
"""Standard deviations, and how much is bet on each: more on those that take longest to find."""
SPREADS = {0.6: 1.0, 1.6: 1.0}
"""Factors, and how much is bet on each."""
SURGES = (0.02, 0.1, 0.3)
"""How many more of all rows a category may take."""
WORTH_HALVING = 0.02
"""Categories rarer than this are not watched for becoming rarer still."""
ON_MISSING = 0.05
"""How much of a number's bet is on its values going missing."""
CAUTION = {1e5: 0.34, 1e7: 0.5}
"""How dear the reference's own errors are, by the rows between two false alarms (see `discount`); between these, by the
logarithm. 0.5 keeps the promise in theory; shorter runs keep it with less."""
MOST_SURE = 2.5
"""No bet on a single bin asks for more than this many standard errors."""
LEAST_ROWS = 500.0
"""A reference worth fewer independent rows than this is not sure enough to bet against."""


@dataclass(frozen=True)
class Bet:
    """One change of one column.

    Attributes:
        column: which.
        gains: what a row in each bin adds to the logarithm of the evidence, shape ``(bins,)``.
        weight: its share of the column's bet.
        kind: ``shift``, ``spread``, ``surge`` or ``halve``.
        size: standard deviations, a factor, or a share of all rows.
        bin: whose share it is; None for a shift or a spread.
    """

    column: int
    gains: Floats
    weight: float
    kind: str
    size: float
    bin: int | None = None


def judged(bins: Bins) -> list[int]:
    """The columns whose reference is worth at least `LEAST_ROWS` independent rows."""
    return [column for column, worth in enumerate(bins.effective_rows.tolist()) if worth >= LEAST_ROWS]


def caution(run_length: float) -> float:
    """`CAUTION` for so many rows between two false alarms."""
    return float(np.interp(np.log(run_length), np.log(list(CAUTION)), list(CAUTION.values())))


def discount(error: float, divergence: float, threshold: float, careful: float) -> float:
    """How many standard errors of the reference a bet pays with each row.

    The reference was estimated, and its error stays the same in every row that will ever come. Where that error lies z
    standard errors in favour of the bet, and the bet pays c, evidence reaches a threshold A at a rate of about
    ``A ** -(1 - (z - c) error / divergence)`` per row instead of ``1 / A`` (tails of a product of random factors,
    Kesten 1973; the exponent solves E[e^theta] = 1 for a normal log-likelihood ratio). With z standard normal, that is
    ``exp(a^2 / 2 - a c) / A`` on average, ``a = error / divergence * log(A * divergence)``: c = a / 2 keeps the promise
    in this approximation, which counts references so unlucky that an alarm could not even come that often. Simulated,
    c = 0.34 a keeps it up to 1e5 rows between false alarms (500 to 10,000 reference rows, 10 to 100 columns); longer
    runs need more of it. A constant c keeps it for some of these only, and delays the others.

    Args:
        error: the standard error of the mean log-likelihood ratio, for the errors of the reference.
        divergence: its mean under the change (Kullback and Leibler's).
        threshold: the evidence this bet alone would need for an alarm, at least 1.
        careful: c as a share of a.
    """
    return float(careful * error / divergence * max(1.0, np.log(threshold * divergence)))


def bets(bins: Bins, column: int, run_length: float, columns: int) -> list[Bet]:
    """All bets on one column; their weights sum to one.

    Args:
        bins: the reference.
        column: the number of the watched column.
        run_length: rows between two false alarms.
        columns: how many columns are watched.
    """
    used = bins.used(column)
    n = float(bins.effective_rows[column])
    counts = bins.counts[column, used] * (n / bins.counts[column].sum())
    # The evidence a column with a single bet would need for an alarm, and how dear errors of the reference are.
    alone, careful = run_length * columns, caution(run_length)
    numeric = not bins.categorical[column]
    changes = [*(_moves(counts, n, alone, careful) if numeric else ())]
    only_outliers = bins.names[column] == OUTLIER
    at_all = [len(used) - 1] if numeric else [used.index(1)] if only_outliers else range(len(used))
    changes += _surges(counts, n, alone, careful, at_all, ON_MISSING if numeric else 1.0, halving=not only_outliers)
    if not changes:  # nothing can become more of what it always is: then anything else
        changes = [*_surges(counts, n, alone, careful, range(len(used)), 1.0, halving=True)]
    weight = sum(change.weight for change in changes)
    found = []
    for change in changes:
        gains = np.zeros(bins.counts.shape[1])
        gains[used] = change.gains
        at = None if change.at is None else used[change.at]
        found.append(Bet(column, gains, change.weight / weight, change.kind, change.size, at))
    return found


class _Change(NamedTuple):
    """A bet on a column whose used bins are numbered from 0."""

    gains: Floats
    weight: float
    kind: str
    size: float
    at: int | None = None


def _moves(counts: Floats, n: float, alone: float, careful: float) -> Iterator[_Change]:
    """A number's shifts and spreads; who is missing stays missing."""
    from scipy.special import ndtr, ndtri

    share = (counts + 1.0) / (n + len(counts))  # a row more in each bin: what was never seen is not impossible
    present = 1.0 - share[-1]
    z = ndtri(np.clip(np.concatenate([[0.0], np.cumsum(share[:-1]) / present]), 0.0, 1.0))
    z[-1] = np.inf
    whole = sum(SHIFTS.values()) + sum(SPREADS.values())
    moved = [(z - size, "shift", size, part) for size, part in SHIFTS.items()]
    moved += [(z / size, "spread", size, part) for size, part in SPREADS.items()]
    for edges, kind, size, part in moved:
        changed = np.append(np.diff(ndtr(edges)) * present, share[-1])
        weight = (1.0 - ON_MISSING) * part / whole
        yield _Change(_gains(share, changed, n, alone / weight, careful), weight, kind, size)


def _gains(share: Floats, changed: Floats, n: float, threshold: float, careful: float) -> Floats:
    """The log-likelihood ratio of each bin, less what not being sure of the reference costs."""
    changed = np.maximum(changed, 1e-12)
    ratio = np.log(changed / share)
    error = float(np.sqrt((np.square(changed - share) / share).sum() / n))
    divergence = max(float((changed * ratio).sum()), 1e-9)
    return np.asarray(ratio - error * discount(error, divergence, threshold, careful))


def _surges(
    counts: Floats, n: float, alone: float, careful: float, at_all: Iterable[int], weight: float, *, halving: bool
) -> Iterator[_Change]:
    """A bin more frequent, or half as frequent, than it may be: against the bound of what the reference allows.

    A ratio of one bin against the rest is at most 1 on average for every share up to (for halving: down to) the one it
    is taken against. So the reference's error is paid for exactly, also where the bin was hardly ever seen: with
    Clopper and Pearson's bound (1934), at the level that `discount` standard errors have.
    """
    at_all = list(at_all)
    share = weight / (len(at_all) * (len(SURGES) + halving))
    for at in at_all:
        seen, likely = counts[at], (counts[at] + 0.5) / (n + 1.0)
        sizes = [(size, likely + size * (1.0 - likely)) for size in SURGES]
        for size, now in sizes:
            bound = _bound(seen, n, now, alone / share, careful)
            if now > bound:
                yield _Change(_against(bound, now, at, len(counts)), share, "surge", size, at)
        if halving and likely >= WORTH_HALVING:
            bound = _bound(seen, n, likely / 2, alone / share, careful)
            if likely / 2 < bound:
                yield _Change(_against(bound, likely / 2, at, len(counts)), share, "halve", 0.5, at)


def _bound(seen: float, n: float, now: float, threshold: float, careful: float) -> float:
    """The share of a bin that the reference barely allows, on the side where it is now."""
    from scipy.special import betaincinv, ndtr

    likely = (seen + 0.5) / (n + 1.0)
    error = abs(now - likely) / np.sqrt(likely * (1.0 - likely) * n)
    divergence = now * np.log(now / likely) + (1.0 - now) * np.log((1.0 - now) / (1.0 - likely))
    level = float(ndtr(min(discount(error, divergence, threshold, careful), MOST_SURE)))
    if now > likely:
        return float(betaincinv(seen + 1.0, max(n - seen, 1e-9), level))
    return float(betaincinv(max(seen, 1e-9), n - seen + 1.0, 1.0 - level))


def _against(bound: float, now: float, at: int, bins: int) -> Floats:
    """The log-likelihood ratio of one bin against the rest."""
    gains = np.full(bins, np.log((1.0 - now) / (1.0 - bound)))
    gains[at] = np.log(now / bound)
    return gains
