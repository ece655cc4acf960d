"""Who answers instead: refusing, a constant, the last good answer, anybody within a deadline; @fall_back in `guard`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from guardrails.core.breaker import Breaker
from guardrails.core.targets import Constant, Reject

if TYPE_CHECKING:
    from guardrails.core.targets import FallbackSpec
    from guardrails.fallbacks.last_good import LastGood
    from guardrails.fallbacks.within import Within


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


def last_good(
    key: Callable[..., Hashable] | None = None, *, max_age: float = 300.0, max_entries: int = 1000
) -> LastGood:
    """Answer what the model last answered to the same input; raise, so that the next in the chain answers, otherwise.

    Each worker remembers its own answers, row by row in requests of several rows.

    Args:
        key: takes the method's arguments (of a request of several rows, with one row at a time) and returns what has
            to be the same, e.g. a user's id; by default the whole payload.
        max_age: seconds after which an answer is too old.
        max_entries: how many answers a worker keeps; the longest unused are forgotten first.

    Example:
        >>> import guardrails as gr
        >>> @gr.fall_back(to=[gr.last_good(key=lambda a, b: a), gr.constant(0.0)])
        ... def ratio(a: float, b: float) -> float:
        ...     return a / b
        >>> [ratio(1.0, 2.0), ratio(1.0, 0.0), ratio(3.0, 0.0)]
        [0.5, 0.5, 0.0]
    """
    from guardrails.fallbacks.last_good import LastGood

    return LastGood(key, max_age, max_entries)


def within(fallback: FallbackSpec, *, timeout: float | None = None, breaker: Breaker | None = None) -> Within:
    """A fallback with a deadline, and a breaker, of its own.

    Args:
        fallback: whom to ask: a method's name, ``"dependency.method"``, or a callable.
        timeout: seconds it has; shorter than the method's own, as a rule.
        breaker: when to stop asking it for a while.

    Example:
        >>> import guardrails as gr
        >>> gr.within("backup.predict", timeout=0.2)
        Within(fallback='backup.predict', timeout=0.2, breaker=None)
    """
    from guardrails.fallbacks.within import Within

    return Within(fallback, timeout, breaker)


__all__ = ["Breaker", "Constant", "Reject", "constant", "last_good", "reject", "within"]
