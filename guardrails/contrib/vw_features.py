"""Features as Vowpal Wabbit names them, the same in text and in JSON, so that both give the same model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Features = list[tuple[str, float]]

_ENDS = re.compile(r"[%:|\x00\s]")


def escaped(name: str) -> str:
    """A name without what ends one: any space, ``:``, ``|`` (and ``%``), each byte as ``%`` and two hex digits.

    A leading ``_`` is written so, too: in JSON it marks what is no feature.
    """
    name = name.encode("utf-8", "backslashreplace").decode()  # a lone surrogate, which JSON may bring, is no text
    safe = _ENDS.sub(_as_hex, name)
    return "%5F" + safe[1:] if safe.startswith("_") else safe or "%"


def _as_hex(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def features_of(values: Any, names: Sequence[str] | None = None) -> Features:
    """A row as named numbers; a category becomes ``name=value`` with 1, and what is missing is left out.

    Args:
        values: a mapping, or numbers in the order of ``names``; a hash of a row (text) has no features.
        names: of the columns; by default ``f0``, ``f1`` and so on.

    Raises:
        ValueError: there are more or fewer values than names, or a number is not finite.
    """
    if values is None or isinstance(values, str):
        return []
    if not isinstance(values, Mapping):
        row = np.ravel(np.asarray(values, dtype=object)).tolist()
        columns = [f"f{at}" for at in range(len(row))] if names is None else names
        if len(columns) != len(row):
            raise ValueError(f"a row of {len(row)} values, and {len(columns)} names")
        values = dict(zip(columns, row, strict=True))
    found = (_feature(str(name), value) for name, value in values.items())
    return [feature for feature in found if feature is not None]


def _feature(name: str, value: Any) -> tuple[str, float] | None:
    if value is None:
        return None
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if math.isnan(number):
            return None
        if math.isinf(number):
            raise ValueError(f"the feature {name} is {number}")
        # VW computes in single precision: nine digits say all of it, in text and in JSON alike.
        return escaped(name), float(f"{number:.9g}")
    return escaped(f"{name}={value}"), 1.0


def text(namespace: str, features: Iterable[tuple[str, float]]) -> str:
    """A namespace in VW's text format."""
    return " ".join([f"|{namespace}", *(name if value == 1.0 else f"{name}:{value!r}" for name, value in features)])
