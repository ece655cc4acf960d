"""Checked by mypy, never run: what the decorators do to the types of what they decorate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import guardrails as gr

profile = gr.Profile.ref("some:latest")


class Service:
    """A service-like class."""

    @gr.traced(deadline=1.0)
    @gr.validate(profile)
    @gr.check_outliers(profile, fallback="charts")
    @gr.fall_back(to=["charts", gr.reject()], timeout=0.2)
    @gr.explore(gr.EpsilonGreedy(0.02))
    @gr.sample_drift(profile, rate=0.1)
    def recommend(self, listener: npt.NDArray[np.float64], top: int = 3) -> list[int]:
        """A method keeps its signature through the whole stack."""
        return [top]

    @gr.guarded(profile, fallback=gr.constant([0]))
    async def later(self, listener: list[float]) -> str:
        """A coroutine stays a coroutine."""
        return "x"

    @gr.traced()
    def stream(self, text: str) -> Iterator[str]:
        """A generator stays one."""
        yield text

    @gr.compose(gr.traced(), gr.fall_back(to=gr.constant("")))
    async def events(self, text: str) -> AsyncIterator[str]:
        """An async generator stays one."""
        yield text


service = Service()
assert_type(service.recommend(np.zeros(3), top=2), list[int])
assert_type(service.stream("a"), Iterator[str])


async def check() -> None:
    """Awaiting gives what the method gives."""
    assert_type(await service.later([1.0]), str)


service.recommend("text")  # type: ignore[arg-type]  # the decorated method still refuses what the method refuses
