"""The guarded callable: what kind of function it is, where its payload stands, which instance it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

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


_CONTEXTS = ("ctx", "context")
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Argument(NamedTuple):
    """One argument of a method: where it stands, what it is called, and its default (None where it has none)."""

    position: int
    name: str
    default: Any


@dataclass(frozen=True)
class Method:
    """One guarded callable, and, once bound, the service instance it is called on.

    Attributes:
        fn: the user's original function, never one of our wrappers.
        name: its name, which is also the API's.
        shape: function, coroutine function, generator or async generator.
        params: its parameters in order, without ``self``.
        takes_self: whether the first parameter is ``self``.
        owner: the service instance (None while unbound, and for plain functions).
        batchable: whether BentoML merges requests into one call of it.
        arguments: those that were asked for, by name: who asks for the same gets the same object.
        resolved: its fallbacks, once they are known: one that is named twice is one, with one breaker and one memory.
    """

    fn: Callable[..., Any]
    name: str
    shape: Shape
    params: tuple[inspect.Parameter, ...]
    takes_self: bool
    owner: Any = None
    batchable: bool = False
    arguments: dict[str, Argument] = field(default_factory=dict, compare=False, repr=False)
    resolved: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> Method:
        """Inspect a function once, at decoration."""
        params = tuple(inspect.signature(fn).parameters.values())
        # A function in a class body is a method, whatever it calls its first parameter.
        scope = fn.__qualname__.rpartition(".")[0]
        in_class = bool(scope) and not scope.endswith("<locals>")
        takes_self = bool(params) and (params[0].name == "self" or in_class)
        return cls(fn, fn.__name__, Shape.of(fn), params[takes_self:], takes_self)

    def bound_to(self, owner: Any) -> Method:
        """The same method, as an attribute of a live instance (or of nothing, for a plain function)."""
        batchable = owner is not None and host().batchable(type(owner), self.name)
        return replace(self, owner=owner, batchable=batchable, resolved={})

    def argument(self, features: str | None = None) -> Argument:
        """Where the payload stands among the arguments.

        Args:
            features: the argument's name; the first one when None.

        Raises:
            DecorationError: the method has no such argument.
        """
        found = {p.name: p for p in self.params if p.name not in _CONTEXTS and p.kind not in _VARIABLE}
        if not found:
            raise DecorationError(
                f"{self.fn.__qualname__}() takes no argument to read features from (*args, **kwargs and the context do "
                "not count)."
            )
        name = next(iter(found)) if features is None else features
        if name not in found:
            raise DecorationError(
                f"features={features!r} names no argument of {self.fn.__qualname__}(); it has {', '.join(found)}."
            )
        default = found[name].default
        asked = Argument(self.params.index(found[name]), name, None if default is inspect.Parameter.empty else default)
        return self.arguments.setdefault(name, asked)  # requests compare them, and `is` is faster than equal
