"""A circuit breaker: while somebody who should answer keeps failing, stop asking, and probe now and then.

Nygard, "Release It!", 2007, chapter 5. It is asked before a call and told afterwards, and never makes the call itself:
so it serves functions, coroutines and generators alike, which breakers that wrap the call do not. Each worker has its
own: what one of them cannot reach another may.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from guardrails.core import metrics
from guardrails.errors import BreakerOpen, DecorationError

logger = logging.getLogger("guardrails")

CLOSED, HALF_OPEN, OPEN = "closed", "half-open", "open"
_LEVEL = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}


@dataclass(frozen=True)
class Breaker:
    """When to stop asking, and when to ask again.

    It opens when, of the last ``window`` calls (and of ``minimum_calls`` at least), a share of ``failure_rate`` or more
    failed or timed out. Open, it refuses at once, which a chain answers with its next fallback and the reason
    ``breaker_open``. After ``open_for`` seconds it is half-open: ``probes`` calls go through, and it closes when all of
    them succeed, or opens again with the first that does not. Errors that are the client's (4xx) count as neither.

    Args:
        failure_rate: the share of failures that opens it, in (0, 1].
        window: how many of the last calls are looked at.
        minimum_calls: how few of them are too few to judge by.
        open_for: seconds it stays open before it probes.
        probes: how many calls have to succeed before it closes.

    Raises:
        DecorationError: an option is out of its range.

    Example:
        >>> import guardrails as gr
        >>> @gr.fall_back(to=gr.constant(0.0), breaker=gr.Breaker(minimum_calls=2, open_for=60.0))
        ... def ratio(a: float, b: float) -> float:
        ...     return a / b
        >>> [ratio(1.0, 0.0), ratio(1.0, 0.0), ratio(1.0, 2.0)]  # the third does not reach the method any more
        [0.0, 0.0, 0.0]
    """

    failure_rate: float = 0.5
    window: int = 20
    minimum_calls: int = 5
    open_for: float = 5.0
    probes: int = 1

    def __post_init__(self) -> None:
        wrong = {
            "failure_rate": not 0.0 < self.failure_rate <= 1.0,
            "window": self.window < 1,
            "minimum_calls": not 1 <= self.minimum_calls <= self.window,
            "open_for": not self.open_for > 0,
            "probes": self.probes < 1,
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise DecorationError(
                f"Breaker({name}={getattr(self, name)!r}): failure_rate is in (0, 1], open_for is above 0, the counts "
                "are 1 or more, and minimum_calls is at most window."
            )


class Circuit:
    """The breaker of one target in one worker. Safe for threads.

    Args:
        options: when it opens and closes.
        api: the guarded method, for metrics.
        target: whom it protects: ``primary`` or a fallback's route.
    """

    def __init__(self, options: Breaker, api: str, target: str) -> None:
        self._options, self._api, self._target = options, api, target
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=options.window)
        self._state = CLOSED
        self._tickets = self._changed_at = 0  # what was admitted before the last change says nothing of the state now
        self._since = 0.0
        self._probes: dict[int, float] = {}
        self._passed = 0

    def admit(self) -> int | None:
        """Ask for a call: a ticket to be given back with its outcome, or None while the breaker is open."""
        with self._lock:
            if self._state is CLOSED:
                self._tickets += 1
                return self._tickets
            now, open_for = time.monotonic(), self._options.open_for
            if self._state is OPEN and now - self._since >= open_for:
                self._become(HALF_OPEN)
            if self._state is HALF_OPEN:
                # A probe that never comes back must not keep it half-open for ever: after a while, another one goes.
                self._probes = {ticket: began for ticket, began in self._probes.items() if now - began < open_for}
                if len(self._probes) + self._passed < self._options.probes:
                    self._tickets += 1
                    self._probes[self._tickets] = now
                    return self._tickets
            return None

    def succeeded(self, ticket: int) -> None:
        """The call was answered."""
        with self._lock:
            if ticket <= self._changed_at:
                return
            if self._state is CLOSED:
                self._recent.append(False)
                return
            self._probes.pop(ticket, None)
            self._passed += 1
            if self._passed >= self._options.probes:
                self._become(CLOSED)

    def failed(self, ticket: int) -> None:
        """The call raised, or was not answered in time."""
        with self._lock:
            if ticket <= self._changed_at:
                return
            self._recent.append(True)
            known = len(self._recent)
            options = self._options
            failing = known >= options.minimum_calls and sum(self._recent) >= options.failure_rate * known * (1 - 1e-12)
            if self._state is HALF_OPEN or failing:
                self._become(OPEN)

    def released(self, ticket: int) -> None:
        """The call ended in a way that says nothing of whom it asked: cancelled, or the client's own error."""
        with self._lock:
            self._probes.pop(ticket, None)

    def refusal(self) -> BreakerOpen:
        """What is raised for a call that was not admitted."""
        left = max(0.0, self._since + self._options.open_for - time.monotonic())
        return BreakerOpen(
            f"{self._api}: {self._target} failed too often and is not asked; its breaker probes again in {left:.1f} s."
        )

    def report(self) -> None:
        """Tell the metrics its state. Not before a worker runs: prometheus_client must not be imported earlier."""
        metrics.breaker_state().labels(self._api, self._target).set(_LEVEL[self._state])

    @property
    def state(self) -> str:
        """``closed``, ``half-open`` or ``open``."""
        return self._state

    def status(self) -> dict[str, Any]:
        """As the status page shows it."""
        with self._lock:
            return {"state": self._state, "recent_calls": len(self._recent), "recent_failures": sum(self._recent)}

    def _become(self, state: str) -> None:
        if state is not self._state:
            logger.warning("%s: the breaker of %s is %s", self._api, self._target, state)
        if state is OPEN:
            metrics.breaker_opened().labels(self._api, self._target).inc()
        self._state, self._since = state, time.monotonic()
        self._changed_at = self._tickets
        self._recent.clear()
        self._probes, self._passed = {}, 0
        self.report()
