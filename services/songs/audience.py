"""A simulated audience: segments with tastes of their own, who look at the top of a list more than at its end.

The truth is known here, so a loop can be judged by what listeners would like and not by what they were shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from guardrails.exploration.rankings import PlackettLuce

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SEGMENTS, SONGS, SLOTS = 4, 100, 5
POSITION = 0.7
"""The song at position r (from 1) is looked at with probability r^-0.7."""
BASE, QUALITY, TASTE = -1.6, 0.8, 0.8
"""Log-odds of a click on a song that is looked at; how far songs differ for all, and for each segment."""


def examination(slots: int) -> Array:
    """With which probability each position is looked at, shape ``(slots,)``."""
    looks: Array = np.arange(1, slots + 1) ** -POSITION
    return looks


@dataclass(frozen=True, eq=False)
class Audience:
    """Who listens, and what they like.

    Attributes:
        chances: that a listener of segment g clicks on song i when looking at it, shape ``(G, I)``.
        examination: that a listener looks at a position, shape ``(k,)``.
        popularity: what was played before there was a model: Zipf's law, independent of what anybody likes, ``(I,)``.
    """

    chances: Array
    examination: Array
    popularity: Array

    @classmethod
    def make(cls, seed: int, *, segments: int = SEGMENTS, songs: int = SONGS, slots: int = SLOTS) -> Audience:
        """An audience of its own for each seed."""
        rng = np.random.default_rng([seed, 2])
        liked = BASE + QUALITY * rng.normal(size=songs) + TASTE * rng.normal(size=(segments, songs))
        popularity = rng.permutation(1.0 / np.arange(1, songs + 1))
        return cls(1 / (1 + np.exp(-liked)), examination(slots), popularity / popularity.sum())

    def with_new_songs(self, gone: Ints, rng: np.random.Generator) -> Audience:
        """The same audience after the songs ``gone`` have made place for new ones."""
        segments = len(self.chances)
        liked = BASE + QUALITY * rng.normal(size=len(gone)) + TASTE * rng.normal(size=(segments, len(gone)))
        chances = self.chances.copy()
        chances[:, gone] = 1 / (1 + np.exp(-liked))
        return replace(self, chances=chances)

    @property
    def ideal(self) -> Ints:
        """The best list of each segment, shape ``(G, k)``."""
        best: Ints = np.argsort(-self.chances, axis=1, kind="stable")[:, : len(self.examination)]
        return best

    def expected(self, lists: Ints) -> Array:
        """Expected clicks of one list per segment, shape ``(G, k)`` in, ``(G,)`` out."""
        clicks: Array = np.take_along_axis(self.chances, lists, axis=1) @ self.examination
        return clicks

    def value(self, lists: Ints) -> float:
        """How good one list per segment is: expected clicks over those of the best lists, the mean of the segments."""
        return float((self.expected(lists) / self.expected(self.ideal)).mean())

    def value_shown(self, who: Ints, lists: Ints) -> float:
        """The same for lists of shape ``(n, k)`` shown to listeners of segments ``who``, shape ``(n,)``."""
        shown = (self.chances[who[:, None], lists] @ self.examination).mean()
        return float(shown / self.expected(self.ideal)[who].mean())

    def clicks(self, who: Ints, lists: Ints, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Who clicks on what: looked at, and liked; shape ``(n, k)``."""
        clicked: npt.NDArray[np.bool_] = rng.random(lists.shape) < self.chances[who[:, None], lists] * self.examination
        return clicked

    def history(self, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """What was shown before there was a model: lists drawn by popularity, ``(n,)`` segments, ``(n, k)`` lists."""
        who = rng.integers(0, len(self.chances), n)
        keys = np.log(self.popularity) + rng.gumbel(size=(n, len(self.popularity)))
        slots = len(self.examination)
        top = np.argpartition(-keys, slots, axis=1)[:, :slots]
        lists = np.take_along_axis(top, np.argsort(-np.take_along_axis(keys, top, axis=1), axis=1), axis=1)
        return who, lists

    def history_exposure(self) -> Array:
        """With which probability the history's listeners looked at each song, shape ``(I,)``."""
        marginals = PlackettLuce(slots=len(self.examination), temperature=1.0).pmf(np.log(self.popularity))
        exposure: Array = self.examination @ marginals
        return exposure
