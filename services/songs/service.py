"""Which song next? All guards, exploration included: a wrong song costs three minutes, and teaches something."""

from __future__ import annotations

from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType, Shape

import guardrails as gr

profile = gr.Profile.ref("songs-profile:latest")


@gr.install(profile=profile, decisions="sqlite:///songs-decisions.db", features="store")
@bentoml.service(
    name="songs",
    workers=2,
    tracing={"exporter_type": "otlp", "sample_rate": 0.0, "otlp": {"protocol": "http"}},
)
class Songs:
    """Scores songs for listeners."""

    model = bentoml.models.BentoModel("songs:latest")

    def __init__(self) -> None:
        with np.load(self.model.path_of("weights.npz"), allow_pickle=False) as weights:
            self.coefficients, self.intercepts = weights["coefficients"], weights["intercepts"]
            self.popularity = weights["charts"]

    @bentoml.api
    @gr.traced(deadline=1.0)
    @gr.validate(profile, margin=2.0)
    @gr.check_outliers(profile, fallback="charts")
    @gr.fall_back(to=["charts"], timeout=0.5)
    @gr.explore(gr.EpsilonGreedy(0.1))
    @gr.sample_drift(profile, rate=0.5)
    def recommend(self, listener: np.ndarray) -> np.ndarray:
        """How much listeners will like each song: (n, 10) to (n, 20)."""
        return self._scores(listener)

    def charts(self, listener: np.ndarray) -> np.ndarray:
        """What everybody likes: the answer for listeners the model knows nothing about."""
        return np.tile(self.popularity, (len(np.atleast_2d(listener)), 1))

    @bentoml.api
    @gr.traced(deadline=1.0)
    @gr.check_outliers(profile, fallback="chart_song")
    @gr.fall_back(to="chart_song", timeout=0.5)
    @gr.explore(gr.EpsilonGreedy(0.1))
    @gr.sample_drift(profile, rate=0.5)
    async def next_song(self, listener: list[float]) -> dict[str, Any]:
        """One listener, one song: the scores, and the number of the song to play as ``action``."""
        scores = self._scores(np.array([listener]))[0]
        return {"scores": scores.tolist(), "action": int(scores.argmax())}

    def chart_song(self, listener: list[float]) -> dict[str, Any]:  # noqa: ARG002
        """The most popular song."""
        return {"scores": self.popularity.tolist(), "action": int(self.popularity.argmax())}

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=500)
    @gr.guarded(profile, fallback="charts", deadline=1.0, policy=gr.EpsilonGreedy(0.1))
    def recommend_many(self, listener: Annotated[np.ndarray, Shape((-1, 10)), DType("float64")]) -> np.ndarray:
        """The same as `recommend`, for many clients at once."""
        return self._scores(listener)

    def _scores(self, listener: np.ndarray) -> np.ndarray:
        logits = np.atleast_2d(listener) @ self.coefficients + self.intercepts
        scores: np.ndarray = 1 / (1 + np.exp(-logits))
        return scores
