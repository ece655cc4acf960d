"""Retrain the playlists from their own log: ``python -m services.songs.retrain [--naive]``.

The log is joined with the clicks, each click is divided by the exposure its song had under the policy that drew the
list (or not, with ``--naive``), and the next model is saved. A model carries the sums it was trained on, so that a
retrain reads only what has come since.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import bentoml
import numpy as np

from guardrails.decisions.joined.join import join
from guardrails.decisions.joined.logged import Logged
from guardrails.decisions.stores.store import DecisionStore
from services.songs.audience import SEGMENTS, SLOTS, SONGS, Audience, examination
from services.songs.learners import LEARNERS, Array, Sums, count
from services.songs.recommender import MODEL

FILE = "playlists.npz"
WINDOW = 3600.0
"""Seconds a list may earn clicks before it is learned from."""
NAIVE, WEIGHTED = "count", "count + IPS"
"""With and without weights, of `LEARNERS`."""


@dataclass(frozen=True, eq=False)
class Model:
    """What is saved.

    Attributes:
        scores: of each song for each segment, shape ``(G, I)``.
        sums: what they come from.
        until: decisions made before this moment are in the sums, seconds since 1970.
    """

    scores: Array
    sums: Sums
    until: float = 0.0

    def save(self, name: str) -> str:
        """Save as the newest of its name; returns the tag."""
        arrays = {f"sums_{field.name}": getattr(self.sums, field.name) for field in fields(Sums)}
        with bentoml.models.create(name) as stored:
            np.savez(stored.path_of(FILE), scores=self.scores, until=self.until, **arrays)
        return str(stored.tag)

    @classmethod
    def load(cls, tag: str) -> Model:
        """Load by tag."""
        with np.load(bentoml.models.get(tag).path_of(FILE), allow_pickle=False) as arrays:
            sums = Sums(**{field.name: arrays[f"sums_{field.name}"] for field in fields(Sums)})
            return cls(arrays["scores"], sums, float(arrays["until"]))


def first(audience: Audience, learner: str, listeners: int, seed: int) -> Model:
    """The model from before the service: it counts the clicks on lists that were drawn by popularity.

    Nobody logged with which probability, so these clicks have no weight: only `count` goes on from them.
    """
    rng = np.random.default_rng([seed, 4])
    who, lists = audience.history(listeners, rng)
    empty, sums = (Sums.empty(*audience.chances.shape) for _ in range(2))
    sums.add(who, lists, audience.clicks(who, lists, rng), np.ones(lists.shape), audience.examination)
    return Model(count(sums), sums if learner == NAIVE else empty)


def retrain(before: Model, logged: Logged, learner: str, until: float) -> Model:
    """The next model, from what has been logged since the one before.

    Args:
        before: the model that was trained last.
        logged: the decisions since, with clicks by position.
        learner: of `services.songs.learners.LEARNERS`.
        until: up to when the log was read.
    """
    sums = replace(before.sums, **{field.name: getattr(before.sums, field.name).copy() for field in fields(Sums)})
    shown = logged.select(logged.learnable)
    if len(shown):
        lists = np.array(shown.served, dtype=np.int64)
        clicked = np.zeros(lists.shape) if shown.slot_reward is None else np.array(shown.slot_reward)
        look = examination(lists.shape[1])
        # pmf[i, r]: the probability that the song at place i might have stood at place r; look at each, and add up.
        exposure = shown.stacked("pmf") @ look
        sums.add(segments_of(shown), lists, clicked, exposure, look)
    return Model(LEARNERS[learner](sums), sums, until)


def segments_of(logged: Logged) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Who each list was for, shape ``(n,)``."""
    return np.array([row[0] for row in logged.features], dtype=np.int64)


def read(store: DecisionStore, since: float, until: float, now: float) -> Logged:
    """What was decided between two moments, joined with its clicks.

    Args:
        store: where it was recorded.
        since: the first moment, seconds since 1970.
        until: the second one, itself not included.
        now: what time it is: only lists that had an hour to earn clicks are learned from.
    """
    rewards = list(store.iterate("reward", since=since))  # first: clicks that come meanwhile are no orphans
    return join(store.iterate("decision", since=since), rewards, window=WINDOW, now=now, until=until)


def main() -> None:
    """Train the first model where there is none, else the next one from the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", default="sqlite:///songs-playlists.db", help="the store")
    parser.add_argument("--naive", action="store_true", help="count clicks, whatever their exposure")
    options = parser.parse_args()
    learner = NAIVE if options.naive else WEIGHTED
    try:
        before = Model.load(f"{MODEL}:latest")
    except bentoml.exceptions.NotFound:
        audience = Audience.make(0, segments=SEGMENTS, songs=SONGS, slots=SLOTS)
        print(f"saved {first(audience, learner, 4000, seed=0).save(MODEL)}, from lists of before there was a model")
        return
    store, now = DecisionStore(options.decisions), time.time()
    if not store.exists():
        parser.exit(1, f"{options.decisions} holds no decisions yet: serve some playlists first\n")
    logged = read(store, before.until, now - WINDOW, now)
    print(f"{logged.counts}\nsaved {retrain(before, logged, learner, now - WINDOW).save(MODEL)}")


if __name__ == "__main__":
    main()
