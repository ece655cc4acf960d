"""Playlists: five songs in order, retrained from what the service itself has logged (`services.songs.retrain`)."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np

import guardrails as gr
from guardrails.exploration import Boost, PoolInjection
from services.songs.audience import SLOTS

MODEL = "songs-playlists"
EXPERIMENT = Boost(4.0, salt="songs")
"""Half of the songs are explored four times as often as the others: so the log tells how strong the loop is."""
POLICY = PoolInjection(0.1, slots=SLOTS, boost=EXPERIMENT)
"""One list in ten has a song in it that the model would not have put there."""


def playlists(policy: PoolInjection, decisions: str, model: str = MODEL) -> Any:
    """The service.

    Args:
        policy: how lists are explored.
        decisions: where they are recorded.
        model: which model ranks; `retrain` saves the next one under the same name.
    """

    @gr.install(decisions=decisions, features="store")
    @bentoml.service(name="playlists")
    class Playlists:
        """Ranks songs for listeners, by the segment they belong to."""

        trained = bentoml.models.BentoModel(f"{model}:latest")

        def __init__(self) -> None:
            with np.load(self.trained.path_of("playlists.npz"), allow_pickle=False) as arrays:
                self.scores = arrays["scores"]

        @bentoml.api
        @gr.traced(deadline=1.0)
        @gr.explore(policy)
        def playlist(self, listeners: np.ndarray) -> np.ndarray:
            """Scores of all songs, (n, songs), for listeners (n, 1), told by their segment; the five best are shown."""
            scores: np.ndarray = self.scores[np.asarray(listeners, dtype=np.int64)[:, 0]]
            return scores

    return Playlists


Playlists = playlists(POLICY, "sqlite:///songs-playlists.db")
