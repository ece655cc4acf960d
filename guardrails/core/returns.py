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
    and arrays; integers and floats; mappings among themselves (BentoML writes no mapping as a model).

    Args:
        fn: the fallback, as it is called: without ``self``.
        method: the guarded method.
        name: what the fallback is called in the message.

    Raises:
        DecorationError: it cannot stand in; the message says why and what would.
    """
    refuse_other_arguments(fn, method, f"the fallback {name}()")
    if method.shape.streams and not Shape.of(fn).streams:
        return  # a plain answer stands in for a whole stream: what one item of it looks like is not said anywhere
    wanted, given = _declared(method.fn), _declared(fn)
    if wanted is type(None):  # declared that it answers nothing: nothing that a client could misread
        return
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
    if method.shape.streams or wanted is type(None) or _is_value_of(value, wanted):
        return
    raise DecorationError(
        f"constant({value!r}) is no {_shown(wanted)}, which is what {method.fn.__qualname__}() returns: clients of the "
        "API could not read it. Give a value of the method's own type."
    )


def refuse_other_arguments(fn: Callable[..., Any], method: Method, name: str) -> None:
    """Refuse what cannot be called as the method is.

    Raises:
        DecorationError: its parameters are others; the message says which.
    """
    if method.owner is None:  # called by Python, as its author likes; a service passes arguments by their names
        return
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return
    by_place = [p for p in method.params if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    by_name = [p for p in method.params if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    try:
        signature.bind(*(None for _ in by_place), **{p.name: None for p in by_name})
    except TypeError as error:
        takes = ", ".join(p.name for p in method.params)
        raise DecorationError(
            f"{name} does not take the arguments of {method.fn.__qualname__}({takes}), which BentoML "
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
    origin = typing.get_origin(hint) or hint
    if isinstance(origin, type) and issubclass(origin, Iterable | AsyncIterable):
        return next(iter(typing.get_args(hint)), _UNKNOWN)
    return hint


def _fits(given: Any, wanted: Any, *, inside: bool = False) -> bool:
    if given is wanted or _is_open(given) or _is_open(wanted):
        return True
    if _is_union(given):
        return all(_fits(option, wanted, inside=True) for option in typing.get_args(given))
    if _is_union(wanted):
        return any(_fits(given, option, inside=True) for option in typing.get_args(wanted))
    one, other = _kind(given), _kind(wanted)
    if one is None or other is None:
        return True
    # A model by itself is written by its own methods, which a mapping has not; inside of something else both are JSON.
    families = (*_FAMILIES, "objects") if inside else _FAMILIES
    if not (issubclass(one, other) or any(_of_family(name, one) and _of_family(name, other) for name in families)):
        return False
    inner, outer = typing.get_args(given), typing.get_args(wanted)
    if one is other and len(inner) == len(outer):
        return all(_fits(a, b, inside=True) for a, b in zip(inner, outer, strict=True))
    return True


def _is_value_of(value: Any, wanted: Any) -> bool:
    if _is_open(wanted):
        return True
    if _is_union(wanted) and any(_is_array(option) for option in typing.get_args(wanted)):
        return any(_is_value_of(value, option) for option in typing.get_args(wanted))
    kind = _kind(wanted)
    if _is_array(wanted):
        return _of_family("numbers", type(value)) or _of_family("rows", type(value))
    if kind is not None and hasattr(kind, "model_fields"):
        return isinstance(value, kind)  # BentoML writes a model by its own methods, which a mapping has not
    from pydantic import TypeAdapter, ValidationError

    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    try:
        TypeAdapter(wanted).validate_python(plain)
    except ValidationError:
        return False
    except Exception:  # noqa: BLE001  # a type pydantic knows nothing of
        return kind is None or isinstance(value, kind)
    return True


def _kind(hint: Any) -> type | None:
    """The class behind a hint; None where there is none to compare, as behind a Literal."""
    if hasattr(hint, "__total__") and hasattr(hint, "__required_keys__"):  # a TypedDict: a dict when it is alive
        return dict
    origin = typing.get_origin(hint) or hint
    return origin if isinstance(origin, type) else None


def _is_open(hint: Any) -> bool:
    return hint is _UNKNOWN or hint is Any or hint is object or isinstance(hint, typing.TypeVar | str)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_array(hint: Any) -> bool:
    kind = _kind(hint)
    return kind is not None and any(base.__name__ in _ARRAYS for base in kind.__mro__)


def _of_family(family: str, kind: type) -> bool:
    """Whether a class is of a family; arrays by the names of their bases, so that nothing is imported for it."""
    if family == "numbers":
        return issubclass(kind, _NUMBERS)
    if family in ("mappings", "objects"):
        return issubclass(kind, Mapping) or (family == "objects" and hasattr(kind, "model_fields"))
    if any(base.__name__ in _ARRAYS for base in kind.__mro__):
        return True
    return not issubclass(kind, str | bytes | Mapping) and (issubclass(kind, list | tuple) or issubclass(list, kind))


_ARRAYS = ("ndarray", "DataFrame", "Series", "Tensor")
_FAMILIES = ("numbers", "mappings", "rows")


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
