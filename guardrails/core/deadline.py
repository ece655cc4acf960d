"""Give up on a call after a while, and tell the truth about what becomes of it.

Asynchronous work is cancelled. Synchronous work cannot be stopped: it is left behind, runs on by itself and is counted,
and so is asynchronous work that does not let itself be cancelled. What is left behind keeps its slot until it ends, so
slow calls can only pile up so far; nobody waits for a slot that an abandoned call holds.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from guardrails.core import metrics

if TYPE_CHECKING:
    from guardrails.core.attempt import Attempt

MAX_CALLS = 32
"""Calls with a timeout under way at once, those left behind included: threads, and abandoned coroutines an API."""
_POLL = 0.002
"""Seconds between two looks for a free thread, where the event loop must not be held up."""
GRACE = 0.05
"""Seconds a cancelled coroutine has to clean up before it is left behind."""


class Abandoned:
    """The calls of this process that are past their timeout and still running, by API."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        self._lock = threading.Lock()

    def leave(self, api: str, call: Future[Any] | asyncio.Task[Any]) -> None:
        """Count a call until it ends."""
        with self._lock:
            self._running[api] += 1
            self._total[api] += 1
        metrics.overruns().labels(api).inc()
        metrics.overrunning().labels(api).inc()
        call.add_done_callback(lambda _: self._ended(api))

    def running(self, api: str) -> int:
        """How many of an API's calls run on right now."""
        return self._running[api]

    def status(self, api: str) -> dict[str, int]:
        """As the status page shows it."""
        with self._lock:
            return {"running_past_timeout": self._running[api], "ran_past_timeout": self._total[api]}

    def _ended(self, api: str) -> None:
        with self._lock:
            self._running[api] -= 1
        metrics.overrunning().labels(api).dec()


abandoned = Abandoned()


class _Pool:
    """Daemon threads, made as they are needed.

    Those of the standard library's executor hold up the interpreter's exit until the last overrunning call has ended.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots = threading.BoundedSemaphore(size)
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lost = 0
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], Any], wait: float) -> Future[Any] | None:
        """Hand work to a thread; None when none got free within ``wait`` seconds, or none can."""
        if not self._slots.acquire(blocking=False) and (self.lost or not self._slots.acquire(timeout=wait)):
            return None
        future: Future[Any] = Future()
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._run, name="guardrails-deadline", daemon=True).start()
        self._work.put((future, work))
        return future

    @property
    def lost(self) -> bool:
        """Whether every slot is held by a call that has been left behind."""
        return self._lost >= self._size

    def give_up(self, future: Future[Any]) -> None:
        """Its slot is lost until it ends."""
        with self._lock:
            self._lost += 1
        future.add_done_callback(self._found)

    def _found(self, _: Future[Any]) -> None:
        with self._lock:
            self._lost -= 1

    def _run(self) -> None:
        while True:
            future, work = self._work.get()
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # the caller gets it, as if it had called itself
                self._free()
                future.set_exception(error)
                del error
            else:
                self._free()
                future.set_result(result)
                del result
            del future, work

    def _free(self) -> None:
        # Before the answer is handed over: whoever gets it may ask for the next slot at once.
        self._idle.release()
        self._slots.release()


_uncancelled: Counter[tuple[str, bool]] = Counter()
"""Coroutines that did not let themselves be cancelled and are running still, by API and whether it was the primary."""

_pools: dict[tuple[str, bool], _Pool] = {}


def _pool(api: str, *, primary: bool) -> _Pool:
    """The threads of an API, primaries and fallbacks apart.

    Where overrunning primaries fill theirs, which is what fallbacks are for, a fallback still gets a thread; and where
    one API hangs, the others do not.
    """
    pool = _pools.get((api, primary))
    return pool if pool is not None else _pools.setdefault((api, primary), _Pool(MAX_CALLS))


def run_within(timeout: float, attempt: Attempt, api: str, *, primary: bool) -> Any:
    """Call the attempt's target in a bounded pool of threads, with the caller's context.

    Raises:
        TimeoutError: there was no answer within ``timeout`` seconds (the call goes on and is counted), or as many
            calls as may overrun at once are overrunning already.
    """
    began = time.monotonic()
    context = contextvars.copy_context()
    target, args, kwargs = attempt.target, attempt.args, attempt.kwargs
    pool = _pool(api, primary=primary)
    timeout = _holdable(timeout)
    future = pool.submit(lambda: context.run(target, *args, **kwargs), timeout)
    if future is None:
        raise TimeoutError(f"{MAX_CALLS} calls are under way, none of which ended within {timeout} s")
    try:
        return future.result(max(0.0, timeout - (time.monotonic() - began)))
    except FutureTimeoutError as error:
        if future.done():  # the call's own TimeoutError, or an answer that came just now
            return future.result()
        pool.give_up(future)
        abandoned.leave(api, future)
        raise TimeoutError(f"no answer within {timeout} s; the call runs on by itself") from error


async def await_thread(timeout: float, attempt: Attempt, api: str) -> Any:
    """Await a plain function that stands in for a coroutine: in a thread, as it would hold up the event loop.

    Raises:
        TimeoutError: as `run_within`.
    """
    context = contextvars.copy_context()
    fn, args, kwargs = attempt.blocking, attempt.args, attempt.kwargs
    if fn is None:
        raise TypeError("only a plain function is called in a thread")
    ends, pool = time.monotonic() + _holdable(timeout), _pool(api, primary=False)
    while (future := pool.submit(lambda: context.run(fn, *args, **kwargs), 0.0)) is None:
        if pool.lost or time.monotonic() >= ends:
            raise TimeoutError(f"{MAX_CALLS} fallbacks are under way, none of which ended within {timeout} s")
        await asyncio.sleep(_POLL)
    waiter = asyncio.wrap_future(future)
    try:
        done, _ = await asyncio.wait({waiter}, timeout=max(0.0, ends - time.monotonic()))
    finally:  # also when the request is cancelled: the thread goes on, whoever waits for it
        waiter.add_done_callback(_seen)
        if not future.done():
            pool.give_up(future)
            abandoned.leave(api, future)
    if not done:
        raise TimeoutError(f"no answer within {timeout} s; the call runs on by itself")
    answer = waiter.result()
    if inspect.iscoroutine(answer):  # ``lambda rows: other(rows)`` of a coroutine function
        return await await_within(max(0.0, ends - time.monotonic()), answer, api, primary=False)
    return answer


def _holdable(seconds: float) -> float:
    """What a lock can wait for: longer is as good as for ever."""
    return min(seconds, threading.TIMEOUT_MAX)


async def await_within(timeout: float, answer: Coroutine[Any, Any, Any], api: str, *, primary: bool) -> Any:
    """Await an answer for a while; then cancel it. A TimeoutError of its own stays its own, unlike in `wait_for`.

    Raises:
        TimeoutError: there was no answer within ``timeout`` seconds, or too many calls of this API that would not be
            cancelled are running on already.
    """
    key = api, primary
    if _uncancelled[key] >= MAX_CALLS:
        answer.close()
        raise TimeoutError(f"{MAX_CALLS} calls run on past their timeout; this one is not started")
    task = asyncio.ensure_future(answer)
    try:
        done, _ = await asyncio.wait({task}, timeout=_holdable(timeout))
    except BaseException:
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE)  # whoever stops the request waits for its method to clean up
        _leave_uncancelled(task, api, key)
        raise
    if done:
        return task.result()
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE)
    _leave_uncancelled(task, api, key)
    raise TimeoutError(f"no answer within {timeout} s")


def _leave_uncancelled(task: asyncio.Task[Any], api: str, key: tuple[str, bool]) -> None:
    """Count a cancelled task for as long as it does not end."""
    task.add_done_callback(_seen)
    if not task.done():
        _uncancelled[key] += 1
        task.add_done_callback(lambda _: _uncancelled.subtract([key]))
        abandoned.leave(api, task)


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at its exception: asyncio would log it as never retrieved."""
    if not task.cancelled():
        task.exception()
