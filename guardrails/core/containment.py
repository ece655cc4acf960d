"""A guard may not break the service: its exceptions are caught, counted, logged once per kind, and the call goes on."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from guardrails import semconv
from guardrails.core import metrics

if TYPE_CHECKING:
    from guardrails.core.call import Call

logger = logging.getLogger("guardrails")

LOG_INTERVAL = 60.0
"""Seconds between two log lines about the same kind of error: a broken guard must not fill the disk either."""

_strict = False
_logged: dict[tuple[str, str], float] = {}


def set_strict(strict: bool) -> bool:
    """Let guards' exceptions out (`guardrails.testing.strict`). Returns what was set before."""
    global _strict
    before, _strict = _strict, strict
    return before


def contain(guard: str, error: Exception, call: Call | None = None) -> None:
    """Take note of a guard's own failure.

    Raises:
        Exception: ``error`` itself, inside `guardrails.testing.strict`.
    """
    if _strict:
        raise error
    kind = type(error).__name__
    if call is not None:
        call.flagged = True
        call.attributes[semconv.GUARD_ERRORS] = f"{guard}:{kind}"
    metrics.guard_errors().labels(guard, kind).inc()
    now = time.monotonic()
    if now - _logged.get((guard, kind), -LOG_INTERVAL) >= LOG_INTERVAL:
        _logged[guard, kind] = now
        logger.error("the guard %r failed and was passed over; the request went on", guard, exc_info=error)
