"""Handwritten digits: one request, many clients at once, or told line by line. What is no digit goes to a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

import bentoml
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, StrictFloat

import guardrails as gr

profile = gr.Profile.ref("digits-profile:latest")
scanner = gr.Schema(tuple(gr.Feature(f"line_{i}_dot_{j}", low=0.0, high=16.0) for i in range(8) for j in range(8)))
"""What a scanner can send. A schema learned from digits would refuse ink in a corner; odd as it is, it is possible."""

Line = Annotated[list[StrictFloat], Field(min_length=8, max_length=8)]
Image = Annotated[list[Line], Field(min_length=8, max_length=8)]
Images = Annotated[list[Image], Field(min_length=1)]
"""The types say all about the form. An array would not: BentoML's ``Shape`` reshapes whatever has as many values."""

Scores = npt.NDArray[np.float64]


class Reading(BaseModel):
    """What is said of one image.

    Attributes:
        label: the digit; -1 where a person should look.
        confidence: the probability of that digit.
        scores: the probabilities of the ten digits.
    """

    label: int = -1
    confidence: float = 0.0
    scores: list[float] = [0.0] * 10


@gr.install(profile=profile, decisions="sqlite:///digits-decisions.db")
@bentoml.service(
    name="digits",
    workers=2,
    tracing={"exporter_type": "otlp", "sample_rate": 0.0, "otlp": {"protocol": "http"}},
)
class Digits:
    """Reads digits of 8 x 8 pixels, from 0 (paper) to 16 (ink)."""

    model = bentoml.models.BentoModel("digits:latest")

    def __init__(self) -> None:
        with np.load(self.model.path_of("weights.npz"), allow_pickle=False) as weights:
            self.weights = dict(weights)

    @bentoml.api
    @gr.traced(deadline=1.0)
    @gr.validate(scanner)
    @gr.check_outliers(profile, fallback="unreadable")
    @gr.fall_back(to="unreadable", timeout=2.0, breaker=gr.Breaker())
    @gr.sample_drift(profile)
    async def read(self, images: Images) -> list[Reading]:
        """Read one image or several of one client: (n, 8, 8) to n readings."""
        # In a thread, so that others are served meanwhile, and a timeout can let go of it.
        return await asyncio.to_thread(self._readings, images)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    @gr.traced(deadline=1.0)
    @gr.validate(scanner, on_invalid="unreadable")
    @gr.check_outliers(profile, fallback="unreadable")
    @gr.fall_back(to="unreadable")
    @gr.sample_drift(profile)
    async def classify(self, images: Images) -> list[Reading]:
        """Read the images of many clients at once: one odd image costs none of the others its answer."""
        return await asyncio.to_thread(self._readings, images)

    def unreadable(self, images: Images) -> list[Reading]:
        """What a network that knows only digits should say of anything else."""
        return [Reading() for _ in images]

    @bentoml.api
    @gr.traced()
    @gr.validate(scanner)
    @gr.check_outliers(profile, fallback="say_nothing")
    @gr.fall_back(to="say_nothing")
    async def narrate(
        self, image: Image, pace: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    ) -> AsyncGenerator[str, None]:
        """Draw one image line by line, and say after each what it seems to become; ``pace`` seconds between two."""
        seen = np.zeros((1, 8, 8))
        for number, line in enumerate(image):
            seen[0, number] = line
            scores = self._scores(seen)[0]
            drawn = "".join(" .:*#"[int(dot // 3.5)] for dot in line)
            yield f"{drawn}  {scores.argmax()}, {scores.max():.0%} sure\n"
            await asyncio.sleep(pace)

    def say_nothing(self, image: Image, pace: float = 0.0) -> str:  # noqa: ARG002
        """The whole story of an image that is no digit."""
        return "no digit that I know: a person should look\n"

    def _readings(self, images: Images) -> list[Reading]:
        scores = self._scores(np.asarray(images))
        return [Reading(label=int(row.argmax()), confidence=row.max(), scores=row.tolist()) for row in scores]

    def _scores(self, images: Scores) -> Scores:
        """The network: (n, 8, 8) pixels to (n, 10) probabilities."""
        own = self.weights
        hidden = np.maximum(images.reshape(-1, 64) / 16 @ own["hidden"] + own["hidden_bias"], 0.0)
        logits = hidden @ own["output"] + own["output_bias"]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores: Scores = powers / powers.sum(axis=1, keepdims=True)
        return scores
