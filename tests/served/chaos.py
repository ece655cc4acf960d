"""A service that fails on command: its model raises or hangs, the service it depends on dies, its fallbacks fail."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import bentoml
import numpy as np

import guardrails as gr

ALPHA = 0.02
ordinary = np.random.default_rng(0).normal(size=(1500, 2))
profile = gr.Profile.fit(ordinary, alpha=ALPHA)
breaker = gr.Breaker(failure_rate=0.5, window=10, minimum_calls=5, open_for=1.0)
TIMEOUT = 0.1
HANG = 1.5


@bentoml.service(name="backup", metrics={"enabled": True})
class Backup:
    """What stands in for the model: another service, in a process of its own."""

    @bentoml.api
    async def predict(self, rows: list[list[float]]) -> list[float]:
        """The spare answer."""
        return [10.0] * len(rows)

    @bentoml.api
    async def pid(self) -> int:
        """Its process, for whoever wants to see it die."""
        return os.getpid()


@gr.install(profile=profile, fallback_ceiling=0.3)
@bentoml.service(name="chaos", workers=1)
class Chaos:
    """Answers 1.0 as long as it is well."""

    backup = bentoml.depends(Backup)

    def __init__(self) -> None:
        self.mode = "well"

    @bentoml.api
    @gr.traced(deadline=1.0)
    @gr.validate(profile, margin=100.0)
    @gr.check_outliers(profile, fallback=gr.constant([-1.0]))
    @gr.fall_back(
        to=[gr.within("backup.predict", timeout=0.3, breaker=breaker), gr.constant([20.0])],
        timeout=TIMEOUT,
        breaker=breaker,
    )
    async def predict(self, rows: list[list[float]]) -> list[float]:
        """Asynchronous: what is late is cancelled."""
        if self.mode == "raises":
            raise RuntimeError("the model is broken")
        if self.mode == "hangs":
            await asyncio.sleep(HANG)
        return [1.0] * len(rows)

    @bentoml.api
    @gr.traced(deadline=1.0)
    @gr.check_outliers(profile, fallback=gr.constant([-1.0]))
    @gr.fall_back(to=[gr.constant([20.0])], timeout=TIMEOUT, breaker=breaker)
    def predict_in_thread(self, rows: list[list[float]]) -> list[float]:
        """Synchronous: what is late runs on."""
        if self.mode == "raises":
            raise RuntimeError("the model is broken")
        if self.mode == "hangs":
            time.sleep(HANG)
        return [1.0] * len(rows)

    @bentoml.api
    @gr.traced(deadline=1.0)
    @gr.check_outliers(profile, fallback=gr.constant([-1.0]))
    @gr.fall_back(to=["broken"], timeout=TIMEOUT)
    async def fragile(self, rows: list[list[float]]) -> list[float]:
        """Nothing that works stands behind it."""
        if self.mode in ("raises", "hangs"):
            raise RuntimeError("the model is broken")
        return [1.0] * len(rows)

    async def broken(self, rows: list[list[float]]) -> list[float]:
        """A fallback that fails."""
        raise LookupError("the spare is broken, too")

    @bentoml.api
    async def become(self, mode: str) -> dict[str, Any]:
        """Take command."""
        self.mode = mode
        return {"pid": os.getpid(), "backup": await self.backup.to_async.pid() if mode == "well" else 0}
