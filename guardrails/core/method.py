"""The guarded callable: what kind of function it is, where its payload stands, which instance it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from guardrails.core.host import host
from guardrails.errors import DecorationError


class Shape(Enum):
    """The four kinds of function BentoML serves, each through a path of its own."""

    FUNCTION = "function"
    COROUTINE = "coroutine function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"

    @property
    def streams(self) -> bool:
        """Whether the answer comes item by item."""
        return self in (Shape.GENERATOR, Shape.ASYNC_GENERATOR)

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> Shape:
        """Read the shape the way BentoML reads it (it does not look through ``__wrapped__``)."""
        if inspect.isasyncgenfunction(fn):
            return cls.ASYNC_GENERATOR
        if inspect.iscoroutinefunction(fn):
            return cls.COROUTINE
        if inspect.isgeneratorfunction(fn):
            return cls.GENERATOR
        return cls.FUNCTION


@dataclass(frozen=True)
class Method:
    """One guarded callable, and, once bound, the service instance it is called on.

    Attributes:
        fn: the user's original function, never one of our wrappers.
        name: its name, which is also the API's.
        shape: function, coroutine function, generator or async generator.
        params: parameter names in order, without ``self``.
        takes_self: whether the first parameter is ``self``.
        owner: the service instance (None while unbound, and for plain functions).
        batchable: whether BentoML merges requests into one call of it.
    """

    fn: Callable[..., Any]
    name: str
    shape: Shape
    params: tuple[str, ...]
    takes_self: bool
    owner: Any = None
    batchable: bool = False

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> Method:
        """Inspect a function once, at decoration."""
        params = tuple(inspect.signature(fn).parameters)
        takes_self = bool(params) and params[0] == "self"
        return cls(fn, fn.__name__, Shape.of(fn), params[takes_self:], takes_self)

    def bound_to(self, owner: Any) -> Method:
        """The same method, as an attribute of a live instance (or of nothing, for a plain function)."""
        return replace(self, owner=owner, batchable=owner is not None and host().batchable(type(owner), self.name))

    def position_of(self, features: str | None) -> tuple[int, str]:
        """Where the payload stands among the arguments: its index and its name.

        Args:
            features: the argument's name; the first one when None.

        Raises:
            DecorationError: the method has no such argument.
        """
        candidates = tuple(p for p in self.params if p not in ("ctx", "context"))
        if not candidates:
            raise DecorationError(f"{self.fn.__qualname__}() takes no argument, so there are no features to look at.")
        name = candidates[0] if features is None else features
        if name not in candidates:
            raise DecorationError(
                f"features={features!r} names no argument of {self.fn.__qualname__}(); it has {', '.join(candidates)}."
            )
        return self.params.index(name), name
