"""A fallback with a deadline and a breaker of its own: a stand-in must not be slower than what it stands in for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from guardrails.core.breaker import Breaker, Circuit
from guardrails.core.targets import Target, target_of
from guardrails.errors import DecorationError

if TYPE_CHECKING:
    from guardrails.core.method import Method
    from guardrails.core.targets import FallbackSpec


@dataclass(frozen=True)
class Within:
    """A fallback, the seconds it has, and the breaker that watches it."""

    fallback: FallbackSpec
    timeout: float | None = None
    breaker: Breaker | None = None

    def __post_init__(self) -> None:
        if self.timeout is None and self.breaker is None:
            raise DecorationError(f"within({self.fallback!r}): give it a timeout, a breaker, or both.")
        if self.timeout is not None and not self.timeout > 0:
            raise DecorationError(f"within(timeout={self.timeout!r}): a timeout is a positive number of seconds.")

    def target_for(self, method: Method) -> Target:
        """Resolve against a bound method.

        Raises:
            DecorationError: the fallback cannot stand in for the method, or there is nothing to wait for.
        """
        target = target_of(self.fallback, method)
        if target.rejects or target.instant:
            raise DecorationError(f"within({self.fallback!r}): it answers at once and needs neither. Name it as it is.")
        if self.timeout is not None and method.shape.streams:
            raise DecorationError(
                f"{method.fn.__qualname__}() streams, and within(timeout=...) waits for one answer. Leave it out."
            )
        circuit = target.circuit if self.breaker is None else Circuit(self.breaker, method.name, target.route)
        timeouts = [seconds for seconds in (self.timeout, target.timeout) if seconds is not None]
        return replace(target, timeout=min(timeouts, default=None), circuit=circuit)
