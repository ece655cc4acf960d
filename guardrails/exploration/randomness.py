"""One keyed hash decides a draw, so that any record can be replayed and nobody without the key can predict it.

BLAKE2b with a key is a pseudo-random function (RFC 7693); its ``person`` parameter keeps our draws apart from any other
use of the same key. The digest gives four independent 64-bit words, so that no two decisions share a random number.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from guardrails.typing import Probabilities

_PERSON = b"guardrails/ex/v1"
_SCALE = 2.0**-53
_SHORTEST, _LONGEST = 16, 64
_WORDS = range(4)
_TOLERANCE = 1e-6
PICK = 1
"""The word that picks the action; word 0 is kept for gates (ramps, log sampling), so that both stay independent."""


def uniform(unit: str | bytes, key: bytes, word: int = PICK) -> float:
    """A number in [0, 1) that is fixed by unit and key, and looks random to anybody without the key.

    Args:
        unit: what is randomised: a decision id, a user.
        key: the secret, 16 to 64 bytes.
        word: which of four independent numbers, 0 to 3.

    Raises:
        ValueError: the key is too short or too long, or there is no such word.
    """
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(f"a key of {len(key)} bytes; a secret has 16 to 64")
    if word not in _WORDS:
        raise ValueError(f"word={word!r}: there are four, 0 to 3")
    text = unit.encode() if isinstance(unit, str) else unit
    digest = hashlib.blake2b(text, digest_size=32, key=key, person=_PERSON).digest()
    return (int.from_bytes(digest[8 * word : 8 * word + 8], "little") >> 11) * _SCALE


def draw(pmf: Probabilities | Sequence[float], unit: str | bytes, key: bytes) -> int:
    """Draw an action: the same one for the same unit, key and probabilities, today and in a replay.

    Args:
        pmf: probabilities of the actions, shape ``(K,)``.
        unit: what is randomised: a decision id, a user.
        key: the secret, 16 to 64 bytes.

    Returns:
        The action's index; never one of probability zero.

    Raises:
        ValueError: the probabilities do not sum to one, or the key is too short or too long.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration import draw
        >>> draw(np.array([0.0, 1.0, 0.0]), "request-1", b"0123456789abcdef")
        1
    """
    cumulative = list(accumulate(pmf.tolist() if isinstance(pmf, np.ndarray) else pmf))
    total = cumulative[-1]
    if not abs(total - 1.0) < _TOLERANCE:
        raise ValueError(f"the probabilities sum to {total}, not to one")
    threshold = uniform(unit, key) * total
    # "right": an action begins where the one before it ends, so one of probability zero is never hit.
    return bisect_right(cumulative, threshold)
