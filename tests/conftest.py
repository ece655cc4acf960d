"""What the tests share: a small profile, and a host whose spans can be read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

import guardrails as gr
from guardrails.core.host import host, set_host
from guardrails.serving.host import BentoHost


class SpanHost(BentoHost):
    """BentoML's host, with a tracer provider of our own."""

    def __init__(self, sampler: Sampler) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.closers: list[Callable[[], None]] = []
        self.batchables: set[str] = set()

    def batchable(self, owner: type, name: str) -> bool:
        return name in self.batchables or super().batchable(owner, name)

    def tracer_provider(self) -> Any:
        return self.provider

    def at_shutdown(self, owner: Any, close: Callable[[], None]) -> None:
        self.closers.append(close)

    @property
    def spans(self) -> list[Any]:
        """What was exported, in the order in which the spans ended."""
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def make_host() -> Iterator[Callable[[Sampler], SpanHost]]:
    """Put a `SpanHost` with the given sampler in place; the former host comes back afterwards."""
    before = host()

    def make(sampler: Sampler = ALWAYS_ON) -> SpanHost:
        made = SpanHost(sampler)
        set_host(made)
        return made

    yield make
    set_host(before)


@pytest.fixture
def span_host(make_host: Callable[[], SpanHost]) -> SpanHost:
    """A host that samples every trace."""
    return make_host()


@pytest.fixture(scope="session")
def profile() -> gr.Profile:
    """Two standard normal features, ``a`` and ``b``; one ordinary row in twenty is an outlier.

    ``[0.1, 0.2]`` is ordinary, ``[6.0, -6.0]`` an outlier within the range `validate` takes, ``[1e9, 0.0]`` out of it.
    """
    return gr.Profile.fit(np.random.default_rng(0).normal(size=(600, 2)), feature_names=["a", "b"], alpha=0.05)
