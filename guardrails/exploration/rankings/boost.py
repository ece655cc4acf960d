"""Some items, chosen by a hash, are explored more than others: the experiment that shows how strong the loop is."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import numpy as np

from guardrails.errors import DecorationError
from guardrails.exploration.rankings.ranked import Items
from guardrails.typing import Mask

_PERSON = b"guardrails/boost"
_SCALE = 2.0**-53
_MOST = 1e6
_REMEMBERED = 1 << 16


@dataclass(frozen=True)
class Boost:
    """Items chosen by a hash of their id get ``factor`` times the weight within the pool of exploration.

    Whether an item is boosted is random, fixed for ever and has nothing to do with its quality. So what a retrained
    model thinks better of the boosted ones is the effect of having been shown: the loop gain.

    Args:
        factor: how many times the weight of the others.
        share: the share of all items that is boosted.
        salt: names the experiment; another salt chooses other items.

    Raises:
        DecorationError: the factor is not positive (or above a million), or the share leaves nobody to compare.

    Example:
        >>> from guardrails.exploration.rankings import Boost
        >>> Boost(factor=3.0, share=0.5, salt="autumn").boosted(["song-1", "song-2", "song-3"]).tolist()
        [True, False, False]
    """

    factor: float = 3.0
    share: float = 0.5
    salt: str = "boost"

    def __post_init__(self) -> None:
        if not isinstance(self.salt, str):
            raise DecorationError(f"Boost(salt={self.salt!r}): the salt is a text.")
        if not 0.0 < self.factor <= _MOST:
            raise DecorationError(f"Boost(factor={self.factor!r}): a factor is above 0 and at most a million.")
        if not 0.0 < self.share < 1.0:
            raise DecorationError(
                f"Boost(share={self.share!r}): a share strictly between 0 and 1, so that there are boosted and others."
            )
        object.__setattr__(self, "factor", float(self.factor))
        object.__setattr__(self, "share", float(self.share))

    def boosted(self, items: Items) -> Mask:
        """Which items are boosted: the same ones in every process and for ever.

        Args:
            items: ids, shape ``(K,)``: text, integers (7 and "7" are the same item), bytes or UUIDs.

        Raises:
            ValueError: an id is of another kind, whose text could differ between processes.
        """
        limit = math.ceil(self.share / _SCALE)
        ids = items.tolist() if isinstance(items, np.ndarray) else items
        return np.fromiter((_number(self.salt, item) < limit for item in ids), dtype=np.bool_, count=len(ids))


@lru_cache(maxsize=_REMEMBERED, typed=True)  # typed: True, 1 and 1.0 are equal as keys
def _number(salt: str, item: object) -> int:
    if isinstance(item, bytes):
        name = item
    elif isinstance(item, str | int | np.integer | UUID):
        name = str(item).encode("utf-8", "surrogatepass")
    else:
        kind = type(item).__name__
        raise ValueError(f"the item {item!r} is a {kind}: an id is a text, an integer, bytes or a UUID")  # noqa: TRY004
    prefix = salt.encode("utf-8", "surrogatepass")
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    text = len(prefix).to_bytes(8, "little") + prefix + name
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=_PERSON).digest(), "little") >> 11
