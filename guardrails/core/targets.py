"""Who may answer a call: the primary, or a chain of fallbacks, each made callable the way the method is called."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from guardrails import semconv
from guardrails.core.host import host
from guardrails.core.method import Method, Shape
from guardrails.core.returns import refuse_misfit, refuse_misfit_value
from guardrails.errors import DecorationError

if TYPE_CHECKING:
    from guardrails.core.breaker import Circuit
    from guardrails.core.call import Call, Part


@dataclass(frozen=True)
class Reject:
    """A fallback that answers nobody: the request is refused with a 422 that says why."""

    message: str | None = None


@dataclass(frozen=True)
class Constant:
    """A fallback that always answers the same value (for a batch: once per row)."""

    value: Any


class TargetSpec(Protocol):
    """A fallback that knows how to become a target: `last_good`, `within`."""

    def target_for(self, method: Method, /) -> Target:
        """Resolve against a bound method."""


FallbackSpec: TypeAlias = "str | Callable[..., Any] | Reject | Constant | TargetSpec"
Fallbacks: TypeAlias = "FallbackSpec | Sequence[FallbackSpec]"


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody who can answer: ``fn`` has the method's own shape and takes the method's own arguments.

    Attributes:
        route: its name, as in the ``Guardrails-Route`` header.
        fn: what is called.
        rejects, message: it refuses the request instead, with this sentence.
        for_rows, for_call: what is called for a number of rows, or for a part of a call, where that makes a difference.
        instant: it cannot hang, so no deadline watches over it.
        timeout: seconds it has, where it has a deadline of its own.
        blocking: the plain function that stands in for a coroutine: within a deadline it runs in a thread.
        circuit: its breaker, where it has one.
        notice, learn: look at every call before and after it is answered, to have something to answer later.
    """

    route: str
    fn: Callable[..., Any]
    rejects: bool = False
    message: str | None = None
    for_rows: Callable[[int], Callable[..., Any]] | None = None
    for_call: Callable[[Call, Part], Callable[..., Any]] | None = None
    instant: bool = False
    timeout: float | None = None
    blocking: Callable[..., Any] | None = None
    circuit: Circuit | None = None
    notice: Callable[[Call], None] | None = None
    learn: Callable[[Call], None] | None = None


Chain: TypeAlias = tuple[Target, ...]


def primary(method: Method, circuit: Circuit | None = None) -> Target:
    """The user's own function, bound to its instance."""
    fn = method.fn if method.owner is None else method.fn.__get__(method.owner)
    return Target(semconv.PRIMARY, fn, circuit=circuit)


def listed(fallbacks: Fallbacks) -> tuple[FallbackSpec, ...]:
    """One fallback or several, as a tuple."""
    if isinstance(fallbacks, list | tuple):
        return tuple(fallbacks)
    return (fallbacks,)  # type: ignore[return-value]  # a str is a Sequence too, and is one fallback


def at_least_one(fallbacks: Fallbacks, said: str) -> None:
    """Refuse an empty list of fallbacks: a guard without a fallback would answer nothing.

    Raises:
        DecorationError: there is none.
    """
    if not listed(fallbacks):
        raise DecorationError(f"{said}: name at least one fallback, e.g. reject().")


def chain(fallbacks: Fallbacks, method: Method) -> Chain:
    """Resolve fallbacks against a bound method, in order.

    Raises:
        DecorationError: a name the service does not have, a fallback of another shape, a rejection in a batch.
    """
    return tuple(_resolved(spec, method) for spec in listed(fallbacks))


def _resolved(spec: FallbackSpec, method: Method) -> Target:
    key = spec if isinstance(spec, str) else id(spec)
    known = method.resolved.get(key)
    if known is None:
        # The spec is kept beside its target, so that no other object can come to have its id.
        known = method.resolved[key] = (spec, target_of(spec, method))
    target: Target = known[1]
    return target


def target_of(spec: FallbackSpec, method: Method) -> Target:
    """Resolve one fallback against a bound method.

    Raises:
        DecorationError: it cannot stand in for the method.
    """
    own: Callable[[Method], Target] | None = getattr(spec, "target_for", None)
    if own is not None:
        return own(method)
    if isinstance(spec, Reject):
        if method.batchable:
            raise DecorationError(
                f"{method.fn.__qualname__}() is batchable: BentoML merges several clients' rows into one call, and a "
                "rejection would fail all of them. Use a fallback that answers, e.g. constant(...) or a method's name."
            )
        return Target(semconv.REJECTED, _unreachable, rejects=True, message=spec.message)
    if isinstance(spec, Constant):
        if method.batchable and not _is_one_entry(spec.value):
            raise DecorationError(
                f"{method.fn.__qualname__}() is batchable, so a constant has to say what one row is answered with: "
                f"constant([...]) or an array of one entry, not {spec.value!r}."
            )
        refuse_misfit_value(spec.value, method)
        return _constant(spec.value, method)
    if isinstance(spec, str):
        return _callable(f"{semconv.FALLBACK_PREFIX}{spec}", _named(spec, method), method, spec)
    if callable(spec):
        name = getattr(spec, "__name__", type(spec).__name__)
        return _callable(f"{semconv.FALLBACK_PREFIX}{name}", _owned(spec, method), method, name)
    raise DecorationError(
        f"{spec!r} is no fallback for {method.fn.__qualname__}(). Give a method's name, a callable of the same "
        "signature, reject(), constant(value), or a list of these."
    )


def _is_one_entry(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and np.ndim(value) > 0 and len(value) == 1


def _constant(value: Any, method: Method) -> Target:
    def saying(answer: Any) -> Callable[..., Any]:
        return lift(lambda *_, **__: copy.deepcopy(answer), method)

    def for_rows(n: int) -> Callable[..., Any]:
        if not _is_one_entry(value) or n == 1:
            return saying(value)
        return saying(np.repeat(value, n, axis=0) if isinstance(value, np.ndarray) else value * n)

    return Target(f"{semconv.FALLBACK_PREFIX}constant", saying(value), for_rows=for_rows, instant=True)


def _callable(route: str, fn: Callable[..., Any], method: Method, name: str) -> Target:
    lifted = lift(fn, method)
    refuse_misfit(fn, method, name)
    blocking = fn if method.shape is Shape.COROUTINE and lifted is not fn else None
    return Target(route, lifted, blocking=blocking)


def _unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("a rejection is not called")


def _named(name: str, method: Method) -> Callable[..., Any]:
    first, _, api = name.partition(".")
    if method.owner is not None and host().is_dependency(type(method.owner), first):
        return _elsewhere(first, api or method.name, method)
    attribute = inspect.getattr_static(type(method.owner), name, None) if method.owner is not None else None
    if attribute is None:
        raise DecorationError(
            f"the fallback {name!r} of {method.fn.__qualname__}() is no method of {type(method.owner).__name__}. "
            "Define it there, with the same arguments as the guarded method; a method of another service is named as "
            "in 'backup.predict', with backup = bentoml.depends(...)."
        )
    fn = host().function_behind(attribute) or attribute
    # A guarded fallback stands in as its author wrote it: its own guards would judge the same rows once more.
    fn = getattr(fn, "__wrapped__", fn) if hasattr(fn, "__guardrails__") else fn
    if not inspect.isroutine(fn) or fn is method.fn:
        why = "is the guarded method itself" if fn is method.fn else f"is no method but {type(fn).__name__}"
        raise DecorationError(f"the fallback {name!r} of {method.fn.__qualname__}() {why}. Name another method.")
    bound: Callable[..., Any] = fn.__get__(method.owner)  # type: ignore[union-attr]
    return bound


def _elsewhere(dependency: str, api: str, method: Method) -> Callable[..., Any]:
    """An API of another service, through ``bentoml.depends``."""
    if method.shape.streams:
        raise DecorationError(
            f"{method.fn.__qualname__}() streams, and {dependency}.{api} of another service cannot stand in for a "
            "stream. Write a method that calls it, and name that one."
        )
    fn = host().dependency_function(type(method.owner), dependency, api)
    if fn is not None:
        refuse_misfit(fn.__get__(object()), method, f"{dependency}.{api}")
    owner, is_async = method.owner, method.shape is Shape.COROUTINE

    def sync_call(*args: Any, **kwargs: Any) -> Any:
        there = getattr(getattr(owner, dependency).to_sync, api)
        try:
            return there(*args, **kwargs)
        except RuntimeError as error:
            # A service in this very process runs its coroutines on the thread's event loop, and wants one to be there.
            if "no current event loop" not in str(error):
                raise
            asyncio.set_event_loop(asyncio.new_event_loop())
            return there(*args, **kwargs)

    async def async_call(*args: Any, **kwargs: Any) -> Any:
        return await getattr(getattr(owner, dependency).to_async, api)(*args, **kwargs)

    return async_call if is_async else sync_call


def _owned(spec: Callable[..., Any], method: Method) -> Callable[..., Any]:
    # A function written in the class body has the method's signature, self included; one from elsewhere has not.
    try:
        first = next(iter(inspect.signature(spec).parameters), None)
    except (TypeError, ValueError):
        return spec
    return spec.__get__(method.owner) if first == "self" and method.owner is not None else spec


def lift(fn: Callable[..., Any], method: Method) -> Callable[..., Any]:
    """Make a fallback callable the way the method is called: a plain function may stand in for any shape."""
    shape = Shape.of(fn)
    if shape is method.shape:
        return fn
    if shape is not Shape.FUNCTION:
        name = getattr(fn, "__qualname__", repr(fn))
        raise DecorationError(
            f"{name}() is a {shape.value}, but {method.fn.__qualname__}() is a {method.shape.value}: the fallback must "
            f"be a {method.shape.value} too, or a plain function."
        )
    return _LIFTS[method.shape](fn)


def _as_coroutine(fn: Callable[..., Any]) -> Callable[..., Any]:
    async def lifted(*args: Any, **kwargs: Any) -> Any:
        answer = fn(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    return lifted


def _as_generator(fn: Callable[..., Any]) -> Callable[..., Any]:
    def lifted(*args: Any, **kwargs: Any) -> Any:
        yield fn(*args, **kwargs)

    return lifted


def _as_async_generator(fn: Callable[..., Any]) -> Callable[..., Any]:
    async def lifted(*args: Any, **kwargs: Any) -> Any:
        yield fn(*args, **kwargs)

    return lifted


_LIFTS = {
    Shape.COROUTINE: _as_coroutine,
    Shape.GENERATOR: _as_generator,
    Shape.ASYNC_GENERATOR: _as_async_generator,
}
