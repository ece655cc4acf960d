"""Whether a fallback says what the method says: found out when the service starts, not when it is first needed."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any

import numpy as np

from guardrails.core.method import Method, Shape
from guardrails.errors import DecorationError

_UNKNOWN = object()
_NUMBERS = (bool, int, float, complex, np.number)


def refuse_misfit(fn: Callable[..., Any], method: Method, name: str) -> None:
    """Refuse a fallback whose arguments or declared answer are not the method's.

    What is not declared is not judged, and neither are kinds that stand for one another in an answer: lists, tuples
    and arrays; integers and floats; mappings and models.

    Raises:
        DecorationError: it cannot stand in; the message says why and what would.
    """
    _refuse_other_arguments(fn, method, name)
    if method.shape.streams and not Shape.of(fn).streams:
        return  # a plain answer stands in for a whole stream: what one item of it looks like is not said anywhere
    wanted, given = _declared(method.fn), _declared(fn)
    if method.shape.streams:
        wanted, given = _item(wanted), _item(given)
    if not _fits(given, wanted):
        raise DecorationError(
            f"the fallback {name}() returns {_shown(given)}, but {method.fn.__qualname__}() returns {_shown(wanted)}: "
            "clients of the API could not read it. Let it return the method's own type."
        )


def refuse_misfit_value(value: Any, method: Method) -> None:
    """Refuse a constant that is not of the method's declared return type.

    Raises:
        DecorationError: it is not.
    """
    wanted = _declared(method.fn)
    if method.shape.streams or _is_value_of(value, wanted):
        return
    raise DecorationError(
        f"constant({value!r}) is no {_shown(wanted)}, which is what {method.fn.__qualname__}() returns: clients of the "
        "API could not read it. Give a value of the method's own type."
    )


def _refuse_other_arguments(fn: Callable[..., Any], method: Method, name: str) -> None:
    if method.owner is None:  # called by Python, as its author likes; a service passes arguments by their names
        return
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return
    first = next(iter(signature.parameters), None)
    own = [None] if first == "self" and inspect.isfunction(fn) else []
    by_place = [p for p in method.params if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    by_name = [p for p in method.params if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    try:
        signature.bind(*own, *(None for _ in by_place), **{p.name: None for p in by_name})
    except TypeError as error:
        takes = ", ".join(p.name for p in method.params)
        raise DecorationError(
            f"the fallback {name}() does not take the arguments of {method.fn.__qualname__}({takes}), which BentoML "
            f"passes by their names: {error}. Give it the same parameters."
        ) from error


def _declared(fn: Callable[..., Any]) -> Any:
    try:
        hints = typing.get_type_hints(getattr(fn, "__func__", fn))
    except Exception:  # noqa: BLE001  # a name that is not importable here, an object without annotations
        return _UNKNOWN
    return hints.get("return", _UNKNOWN)


def _item(hint: Any) -> Any:
    """What a stream is a stream of."""
    origin = typing.get_origin(hint)
    streams = isinstance(origin, type) and issubclass(origin, Iterable | AsyncIterable)
    if streams and not issubclass(origin, list | tuple | dict | set | str):
        return next(iter(typing.get_args(hint)), _UNKNOWN)
    return hint


def _fits(given: Any, wanted: Any) -> bool:
    if given is wanted or any(_is_open(hint) for hint in (given, wanted)):
        return True
    if _is_union(given):
        return all(_fits(option, wanted) for option in typing.get_args(given))
    if _is_union(wanted):
        return any(_fits(given, option) for option in typing.get_args(wanted))
    if typing.Literal in (typing.get_origin(given), typing.get_origin(wanted)):
        return True
    one, other = (typing.get_origin(hint) or hint for hint in (given, wanted))
    if not isinstance(one, type) or not isinstance(other, type):
        return True
    if not (issubclass(one, other) or any(_alike(kind, one) and _alike(kind, other) for kind in _FAMILIES)):
        return False
    inner, outer = typing.get_args(given), typing.get_args(wanted)
    if one is other and len(inner) == len(outer):
        return all(_fits(a, b) for a, b in zip(inner, outer, strict=True))
    return True


def _is_value_of(value: Any, wanted: Any) -> bool:
    if _is_open(wanted):
        return True
    if _is_union(wanted):
        return any(_is_value_of(value, option) for option in typing.get_args(wanted))
    origin = typing.get_origin(wanted) or wanted
    if not isinstance(origin, type):
        return True
    if any(_alike(kind, origin) for kind in _ARRAYS):
        return isinstance(value, (*_NUMBERS, list, tuple)) or _alike_any(type(value))
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    try:
        # A type that configures itself (a model, a TypedDict) takes no configuration from here.
        own = hasattr(origin, "model_fields") or hasattr(origin, "__pydantic_config__")
        config = None if own else ConfigDict(arbitrary_types_allowed=True)
        TypeAdapter(wanted, config=config).validate_python(plain)
    except ValidationError:
        return False
    except Exception:  # noqa: BLE001  # a type pydantic knows nothing of
        return isinstance(value, origin)
    return True


def _is_open(hint: Any) -> bool:
    # A method that declares None as its answer has declared nothing that a client could misread.
    return hint in (_UNKNOWN, Any, object, type(None)) or isinstance(hint, typing.TypeVar | str)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _alike_any(kind: type) -> bool:
    return any(_alike(array, kind) for array in _ARRAYS)


def _alike(family: str, kind: type) -> bool:
    """Whether a type is of a family, by the names of its bases: nothing is imported for it."""
    names = {base.__name__ for base in kind.__mro__}
    if family == "numbers":
        return issubclass(kind, _NUMBERS)
    if family == "mappings":
        return issubclass(kind, Mapping) or "BaseModel" in names
    if family == "rows":
        return issubclass(kind, list | tuple) or _alike_any(kind)
    return family in names


_ARRAYS = ("ndarray", "DataFrame", "Series", "Tensor")
_FAMILIES = ("numbers", "mappings", "rows")


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
