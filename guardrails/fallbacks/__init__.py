"""Who answers instead: refusing, a constant, and (in `guard`) @fall_back."""

from __future__ import annotations

from typing import Any

from guardrails.core.targets import Constant, Reject


def reject(message: str | None = None) -> Reject:
    """Refuse: the client gets a 422 that says why. In a mixed request it refuses the request as a whole.

    Args:
        message: what the client reads; by default a sentence that fits the reason.

    Example:
        >>> import guardrails as gr
        >>> gr.reject("Ask a doctor.")
        Reject(message='Ask a doctor.')
    """
    return Reject(message)


def constant(value: Any) -> Constant:
    """Always answer the same value, of the method's own return type.

    For a request of several rows give one entry per row: ``constant([0.5])`` is repeated as often as rows need it.

    Example:
        >>> import guardrails as gr
        >>> gr.constant([0.5])
        Constant(value=[0.5])
    """
    return Constant(value)


__all__ = ["Constant", "Reject", "constant", "reject"]
