"""Give up on a synchronous call after a while, and tell the truth about it: it cannot be stopped, only left behind."""

from __future__ import annotations

import contextvars
import functools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from guardrails.core import metrics

if TYPE_CHECKING:
    from guardrails.core.call import Attempt

MAX_THREADS = 32
"""Calls under way at once, overrunning ones included: the bound on what slow calls can pile up."""

_slots = threading.BoundedSemaphore(MAX_THREADS)


@functools.cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="guardrails-deadline")


def run_within(timeout: float, attempt: Attempt, api: str) -> Any:
    """Call the attempt's target in a bounded executor, with the caller's context.

    Raises:
        TimeoutError: there was no answer within ``timeout`` seconds (the call goes on and is counted), or as many
            calls as may overrun at once are overrunning already.
    """
    if not _slots.acquire(timeout=timeout):
        raise TimeoutError(f"{MAX_THREADS} calls are under way, none of which ended within {timeout} s")
    context = contextvars.copy_context()
    future: Future[Any] = _executor().submit(context.run, attempt.target, *attempt.args, **attempt.kwargs)
    future.add_done_callback(lambda _: _slots.release())
    try:
        return future.result(timeout)
    except FutureTimeoutError as error:
        if future.done():  # the call's own TimeoutError, not ours
            raise
        metrics.overruns().labels(api).inc()
        raise TimeoutError(f"no answer within {timeout} s; the call runs on by itself") from error
