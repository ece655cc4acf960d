"""A small explored service: four candidates, outliers to a fallback, two workers, a store that the environment names."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np

import guardrails as gr

EPSILON, TOKEN = 0.2, "a token for tests"
WEIGHTS = np.array([[1.0, 0.2, -0.4, 0.1], [-0.3, 0.9, 0.2, -0.2], [0.1, -0.5, 0.8, 0.3]])

detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(4000, 3)), detector="mahalanobis", alpha=0.002)


@gr.install(decisions=os.environ.get("EXPLORED_DECISIONS", "sqlite:///decisions.db"), token=TOKEN)
@bentoml.service(workers=2)
class Explored:
    """Chooses one of four, and ranks ten."""

    fresh = ("x", "y", "z")

    @bentoml.api
    @gr.check_outliers(detector, fallback="nothing")
    @gr.explore(gr.EpsilonGreedy(EPSILON))
    def choose(self, rows: np.ndarray) -> np.ndarray:
        """Scores (n, 4)."""
        return rows @ WEIGHTS

    def nothing(self, rows: np.ndarray) -> np.ndarray:
        """What outliers get."""
        return np.zeros((len(rows), 4))

    @bentoml.api
    @gr.explore(gr.exploration.PoolInjection(0.5, slots=3), pool="fresh", unit="user")
    def playlist(self, user: str) -> dict[str, Any]:  # the unit of the draw
        """A ranked list."""
        return {"items": ["a", "b", "c", "d"]}

    @bentoml.api
    @gr.explore(gr.exploration.RandomisedCutoff(0.5, 0.2), unit="applicant")
    async def lend(self, applicant: str, score: float) -> dict[str, Any]:  # the unit of the draw
        """Accepted or refused."""
        return {"score": score, "accept": score >= 0.5}
