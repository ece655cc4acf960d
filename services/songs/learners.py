"""Five ways to learn song scores from clicks on ranked lists: one that feeds on itself, and four that take care.

What they differ in is what a click is divided by. *Exposure* is the probability with which a listener looks at a song
in a list drawn by the policy: its probability of each position, times that of the position being looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PRIOR = 20.0
"""What is assumed of each song before anybody saw it weighs as much as so many looks at it (or listeners)."""
PESSIMISTIC = 0.05
"""The click rate of a song nobody has looked at, for learners that would otherwise assume that of the songs shown.
That would be optimism: what is not shown is tried until it is known, and no loop is seen. Few products do that."""


@dataclass(eq=False)
class Sums:
    """What all learners need of the log, by segment and song, shape ``(G, I)``; it only ever grows.

    Attributes:
        clicks: clicks.
        looks: times a listener looked at the song, by where it stood in the lists that were served.
        weighted_clicks, weighted_looks: the same, each over the exposure it had.
        expected: exposures summed over all lists, served in them or not.
        listeners: lists drawn for the segment while the song was there.
    """

    clicks: Array
    looks: Array
    weighted_clicks: Array
    weighted_looks: Array
    expected: Array
    listeners: Array

    @classmethod
    def empty(cls, segments: int, songs: int) -> Sums:
        """Nothing known yet."""
        return cls(*(np.zeros((segments, songs)) for _ in range(6)))

    def add(
        self,
        who: Ints,
        lists: Ints,
        clicked: npt.ArrayLike,
        exposure: Array,
        look: Array,
        expected: Array | None = None,
    ) -> None:
        """Add one batch of lists.

        Args:
            who: the listeners' segments, shape ``(n,)``.
            lists: the songs that were served, shape ``(n, k)``.
            clicked: which of them were clicked on, shape ``(n, k)``.
            exposure: of the songs that were served, shape ``(n, k)``.
            look: probability that a position is looked at, shape ``(k,)``.
            expected: exposure of every song in one list, by segment, shape ``(G, I)``; only `balanced` wants it.
        """
        segments, songs = self.clicks.shape
        cells = (who[:, None] * songs + lists).ravel()
        click = np.asarray(clicked, dtype=np.float64)
        looks = np.broadcast_to(look, lists.shape)
        for name, values in (
            ("clicks", click),
            ("looks", looks),
            ("weighted_clicks", click / exposure),
            ("weighted_looks", looks / exposure),
        ):
            added = np.bincount(cells, values.ravel(), minlength=segments * songs)
            getattr(self, name)[:] += added.reshape(segments, songs)
        listeners = np.bincount(who, minlength=segments)[:, None]
        self.listeners += listeners
        if expected is not None:
            self.expected += expected * listeners

    def forget(self, songs: Ints) -> None:
        """Songs that are replaced by new ones: nothing is known of these."""
        for field in fields(self):
            getattr(self, field.name)[:, songs] = 0.0


def count(sums: Sums) -> Array:
    """Clicks: popularity, the loop at its purest. What is shown is clicked on, and what is clicked on is shown."""
    return sums.clicks


def weighted(sums: Sums) -> Array:
    """Clicks over their exposure, per listener: inverse propensity scoring."""
    return (sums.weighted_clicks + PRIOR * _shown(sums)) / (sums.listeners + PRIOR)


def self_normalised(sums: Sums) -> Array:
    """Clicks over looks, both over their exposure: more stable, and a little biased."""
    return (sums.weighted_clicks + PRIOR * _shown(sums)) / (sums.weighted_looks + PRIOR)


def balanced(sums: Sums) -> Array:
    """Clicks over the looks that all policies so far were expected to bring: as if one mixture of them had served."""
    return (sums.clicks + PRIOR * PESSIMISTIC) / (sums.expected + PRIOR)


def rate(sums: Sums) -> Array:
    """Clicks over looks: no propensities, but it has to know how positions are looked at."""
    return (sums.clicks + PRIOR * PESSIMISTIC) / (sums.looks + PRIOR)


def _shown(sums: Sums) -> float:
    return float(sums.clicks.sum() / max(sums.looks.sum(), 1e-9))


LEARNERS: dict[str, Callable[[Sums], Array]] = {
    "count": count,
    "count + IPS": weighted,
    "SNIPS": self_normalised,
    "balanced": balanced,
    "rate": rate,
}
