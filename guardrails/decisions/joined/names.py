"""Candidates' names as keys."""

from __future__ import annotations

from typing import Any

import numpy as np


def key_of(name: Any) -> Any:
    """A candidate's name as something to look up by: JSON has lists where there were tuples, and lists are no keys.

    Example:
        >>> key_of(["shop", 5]), key_of("a"), key_of({"id": 7})
        (('shop', 5), 'a', (('id', 7),))
    """
    if isinstance(name, list | tuple):
        return tuple(map(key_of, name))
    if isinstance(name, dict):
        return tuple(sorted((key, key_of(value)) for key, value in name.items()))
    return name.item() if isinstance(name, np.generic) else name
