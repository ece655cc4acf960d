"""Run a pipeline around a function, a coroutine, a generator or an async generator.

The only module that awaits or yields. Every driver is the same few lines: open the call, try what it proposes until
something answers, close it, hand the answer over. ``asend``/``send`` into a guarded generator is not forwarded:
BentoML never does it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from guardrails import semconv
from guardrails.core.deadline import await_thread, await_within, run_within
from guardrails.core.method import Shape

if TYPE_CHECKING:
    from guardrails.core.attempt import Attempt
    from guardrails.core.call import Call
    from guardrails.core.pipeline import Pipeline


def drive(pipeline: Pipeline) -> Callable[..., Any]:
    """Compile the wrapper: a real function of the same shape, name and signature as the guarded one."""
    fn = pipeline.method.fn
    wrapper = functools.wraps(fn)(_DRIVERS[pipeline.method.shape](pipeline))
    wrapper.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]  # BentoML asks per request: 15 us to 7
    return wrapper


def _function(pipeline: Pipeline) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with pipeline.open(args, kwargs) as call:
            for attempt in call:
                with attempt:
                    attempt.result = _run(call, attempt)
        return call.answer()

    return guarded


def _coroutine(pipeline: Pipeline) -> Callable[..., Any]:
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        with pipeline.open(args, kwargs) as call:
            for attempt in call:
                with attempt:
                    attempt.result = await _await(call, attempt)
        return call.answer()

    return guarded


def _generator(pipeline: Pipeline) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
        with pipeline.open(args, kwargs) as call:
            for attempt in call:
                with attempt, closing(_InContext(call, attempt.target(*attempt.args, **attempt.kwargs))) as items:
                    for item in items:
                        attempt.count_item()
                        yield item
                    attempt.result = items.returned
        return call.answer()

    return guarded


def _async_generator(pipeline: Pipeline) -> Callable[..., Any]:
    async def guarded(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with pipeline.open(args, kwargs) as call:
            for attempt in call:
                with attempt:
                    async with aclosing(
                        _AsyncInContext(call, attempt.target(*attempt.args, **attempt.kwargs))
                    ) as items:
                        async for item in items:
                            attempt.count_item()
                            yield item
        call.answer()

    return guarded


def _run(call: Call, attempt: Attempt) -> Any:
    timeout = attempt.timeout
    token = None if call.context is None else otel.attach(call.context)
    try:
        if timeout is None:
            return attempt.target(*attempt.args, **attempt.kwargs)
        return run_within(timeout, attempt, call.plan.method.name, primary=attempt.part.route == semconv.PRIMARY)
    finally:
        if token is not None:
            otel.detach(token)


async def _await(call: Call, attempt: Attempt) -> Any:
    token = None if call.context is None else otel.attach(call.context)
    try:
        timeout, primary = attempt.timeout, attempt.part.route == semconv.PRIMARY
        if timeout is not None and attempt.blocking is not None:
            return await await_thread(timeout, attempt, call.plan.method.name)
        answer = attempt.target(*attempt.args, **attempt.kwargs)
        if timeout is None:
            return await answer
        return await await_within(timeout, answer, call.plan.method.name, primary=primary)
    finally:
        if token is not None:
            otel.detach(token)


class _InContext:
    """Pull items with the guard's span as the current one, and never across a yield.

    BentoML advances a sync generator with one thread hop per item, each in a fresh copy of the context: a context
    attached in one step is gone, and cannot be detached, in the next.
    """

    __slots__ = ("call", "items", "returned")

    def __init__(self, call: Call, items: Iterator[Any]) -> None:
        self.call, self.items = call, items
        self.returned: Any = None

    def __iter__(self) -> _InContext:
        return self

    def __next__(self) -> Any:
        with _attached(self.call):
            try:
                return next(self.items)
            except StopIteration as end:
                self.returned = end.value
                raise

    def close(self) -> None:
        with _attached(self.call):
            getattr(self.items, "close", _nothing)()


class _AsyncInContext:
    """The same for an async generator."""

    __slots__ = ("call", "items")

    def __init__(self, call: Call, items: AsyncIterator[Any]) -> None:
        self.call, self.items = call, items

    def __aiter__(self) -> _AsyncInContext:
        return self

    async def __anext__(self) -> Any:
        with _attached(self.call):
            return await anext(self.items)

    async def aclose(self) -> None:
        with _attached(self.call):
            await getattr(self.items, "aclose", _nothing_async)()


@contextmanager
def _attached(call: Call) -> Iterator[None]:
    token = None if call.context is None else otel.attach(call.context)
    try:
        yield
    finally:
        if token is not None:
            otel.detach(token)


def _nothing() -> None:
    """What an iterator without close() needs."""


async def _nothing_async() -> None:
    """What an async iterator without aclose() needs."""


_DRIVERS: dict[Shape, Callable[[Pipeline], Callable[..., Any]]] = {
    Shape.FUNCTION: _function,
    Shape.COROUTINE: _coroutine,
    Shape.GENERATOR: _generator,
    Shape.ASYNC_GENERATOR: _async_generator,
}
