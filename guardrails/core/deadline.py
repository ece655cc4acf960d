"""Give up on a synchronous call after a while, and tell the truth about it: it cannot be stopped, only left behind."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from guardrails.core import metrics

if TYPE_CHECKING:
    from guardrails.core.call import Attempt

MAX_THREADS = 32
"""Calls under way at once, overrunning ones included: the bound on what slow calls can pile up."""


class _Pool:
    """Daemon threads, made as they are needed.

    Those of the standard library's executor hold up the interpreter's exit until the last overrunning call has ended.
    """

    def __init__(self, size: int) -> None:
        self._slots = threading.BoundedSemaphore(size)
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, work: Callable[[], Any], wait: float) -> Future[Any] | None:
        """Hand work to a thread; None when none got free within ``wait`` seconds."""
        if not self._slots.acquire(timeout=wait):
            return None
        future: Future[Any] = Future()
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._run, name="guardrails-deadline", daemon=True).start()
        self._work.put((future, work))
        return future

    def _run(self) -> None:
        while True:
            future, work = self._work.get()
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  # the caller gets it, as if it had called itself
                future.set_exception(error)
            del future, work
            self._slots.release()
            self._idle.release()


_primaries, _fallbacks = _Pool(MAX_THREADS), _Pool(MAX_THREADS)
"""Apart: where overrunning primaries fill theirs, which is what fallbacks are for, a fallback still gets a thread."""


def run_within(timeout: float, attempt: Attempt, api: str, *, primary: bool) -> Any:
    """Call the attempt's target in a bounded pool of threads, with the caller's context.

    Raises:
        TimeoutError: there was no answer within ``timeout`` seconds (the call goes on and is counted), or as many
            calls as may overrun at once are overrunning already.
    """
    began = time.monotonic()
    context = contextvars.copy_context()
    target, args, kwargs = attempt.target, attempt.args, attempt.kwargs
    pool = _primaries if primary else _fallbacks
    future = pool.submit(lambda: context.run(target, *args, **kwargs), timeout)
    if future is None:
        raise TimeoutError(f"{MAX_THREADS} calls are under way, none of which ended within {timeout} s")
    try:
        return future.result(max(0.0, timeout - (time.monotonic() - began)))
    except FutureTimeoutError as error:
        if future.done():  # the call's own TimeoutError, or an answer that came just now
            return future.result()
        metrics.overruns().labels(api).inc()
        raise TimeoutError(f"no answer within {timeout} s; the call runs on by itself") from error
