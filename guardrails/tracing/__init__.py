"""TRACE: one span per request, its duration, and which traces are kept whatever the sampler said."""

from guardrails.tracing.guard import traced

__all__ = ["traced"]
