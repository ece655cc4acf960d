"""Run a pipeline around a function, a coroutine, a generator or an async generator.

The only module that awaits or yields. Every driver is the same few lines: open the call, try what it proposes until
something answers, close it, hand the answer over. ``asend``/``send`` into a guarded generator is not forwarded:
BentoML never does it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from guardrails.core.deadline import run_within
from guardrails.core.method import Shape

if TYPE_CHECKING:
    from guardrails.core.call import Attempt, Call
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
                with attempt, closing(attempt.target(*attempt.args, **attempt.kwargs)) as items:
                    for item in _InContext(call, items):
                        attempt.count_item()
                        yield item
        return call.answer()

    return guarded


def _async_generator(pipeline: Pipeline) -> Callable[..., Any]:
    async def guarded(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with pipeline.open(args, kwargs) as call:
            for attempt in call:
                with attempt:
                    async with aclosing(attempt.target(*attempt.args, **attempt.kwargs)) as items:
                        async for item in _AsyncInContext(call, items):
                            attempt.count_item()
                            yield item
        call.answer()

    return guarded


def _run(call: Call, attempt: Attempt) -> Any:
    timeout = call.plan.timeout
    if call.context is None:
        if timeout is None:
            return attempt.target(*attempt.args, **attempt.kwargs)
        return run_within(timeout, attempt, call.plan.method.name)
    token = otel.attach(call.context)
    try:
        if timeout is None:
            return attempt.target(*attempt.args, **attempt.kwargs)
        return run_within(timeout, attempt, call.plan.method.name)
    finally:
        otel.detach(token)


async def _await(call: Call, attempt: Attempt) -> Any:
    token = None if call.context is None else otel.attach(call.context)
    try:
        answer = attempt.target(*attempt.args, **attempt.kwargs)
        if call.plan.timeout is None:
            return await answer
        try:
            return await asyncio.wait_for(answer, call.plan.timeout)
        except asyncio.TimeoutError as error:  # on Python 3.10 not yet the builtin one
            raise TimeoutError(f"no answer within {call.plan.timeout} s") from error
    finally:
        if token is not None:
            otel.detach(token)


class _InContext:
    """Pull items with the guard's span as the current one, and never across a yield.

    BentoML advances a sync generator with one thread hop per item, each in a fresh copy of the context: a context
    attached in one step is gone, and cannot be detached, in the next.
    """

    __slots__ = ("call", "items")

    def __init__(self, call: Call, items: Iterator[Any]) -> None:
        self.call, self.items = call, items

    def __iter__(self) -> _InContext:
        return self

    def __next__(self) -> Any:
        if self.call.context is None:
            return next(self.items)
        token = otel.attach(self.call.context)
        try:
            return next(self.items)
        finally:
            otel.detach(token)


class _AsyncInContext:
    """The same for an async generator."""

    __slots__ = ("call", "items")

    def __init__(self, call: Call, items: AsyncIterator[Any]) -> None:
        self.call, self.items = call, items

    def __aiter__(self) -> _AsyncInContext:
        return self

    async def __anext__(self) -> Any:
        if self.call.context is None:
            return await anext(self.items)
        token = otel.attach(self.call.context)
        try:
            return await anext(self.items)
        finally:
            otel.detach(token)


_DRIVERS: dict[Shape, Callable[[Pipeline], Callable[..., Any]]] = {
    Shape.FUNCTION: _function,
    Shape.COROUTINE: _coroutine,
    Shape.GENERATOR: _generator,
    Shape.ASYNC_GENERATOR: _async_generator,
}
