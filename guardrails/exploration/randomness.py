"""One keyed hash decides a draw, so that any record can be replayed and nobody without the key can predict it.

BLAKE2b with a key is a pseudo-random function (RFC 7693); its ``person`` parameter keeps our draws apart from any other
use of the same key. The digest gives four independent 64-bit words, so that no two decisions share a random number.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from guardrails.typing import Probabilities

_PERSON = b"guardrails/ex/v1"
_PERSON_OF_UNITS = b"guardrails/un/v1"
_STREAM = b"guardrails/st/v1"
_SCALE = 2.0**-53
_SHORTEST, _LONGEST = 16, 64
_WORDS = range(4)
_WORD = struct.Struct("<Q").unpack_from
_TOLERANCE = 1e-6
_MANY = 50
GATE, PICK = 0, 1
"""Which word decides what: whether a unit is in the ramp, and which action. Apart, because a number that has opened a
gate is a small one: used again for the pick, it would always pick the first."""


def uniform(unit: str | bytes, key: bytes, word: int = PICK) -> float:
    """A number in [0, 1) that is fixed by unit and key, and looks random to anybody without the key.

    Args:
        unit: what is randomised: a decision id, a user.
        key: the secret, 16 to 64 bytes.
        word: which of four independent numbers, 0 to 3.

    Raises:
        ValueError: the key is too short or too long, or there is no such word.
    """
    if word not in _WORDS:
        raise ValueError(f"word={word!r}: there are four, 0 to 3")
    keyed = _keyed(key).copy()  # the key's own block is hashed once, not once a draw
    keyed.update(unit.encode() if isinstance(unit, str) else unit)
    found: int = _WORD(keyed.digest(), 8 * word)[0]
    return (found >> 11) * _SCALE


@lru_cache(maxsize=64)
def _keyed(key: bytes) -> hashlib.blake2b:
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(f"a key of {len(key)} bytes; a secret has 16 to 64")
    return hashlib.blake2b(digest_size=32, key=key, person=_PERSON)


def draw(pmf: Probabilities | Sequence[float], unit: str | bytes, key: bytes) -> int:
    """Draw an action: the same one for the same unit, key and probabilities, today and in a replay.

    Args:
        pmf: probabilities of the actions, shape ``(K,)``.
        unit: what is randomised: a decision id, a user.
        key: the secret, 16 to 64 bytes.

    Returns:
        The action's index; never one of probability zero.

    Raises:
        ValueError: the probabilities do not sum to one, one is negative, there are none; or the key is no key.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration import draw
        >>> draw(np.array([0.0, 1.0, 0.0]), "request-1", b"0123456789abcdef")
        1
    """
    if isinstance(pmf, np.ndarray) and len(pmf) > _MANY:
        return _draw_of_many(pmf, unit, key)
    probabilities = pmf.tolist() if isinstance(pmf, np.ndarray) else pmf
    if not len(probabilities) or min(probabilities) < 0.0:
        raise ValueError(
            "there are no probabilities to draw by" if not len(probabilities) else "a probability is negative"
        )
    total = sum(probabilities)
    if not abs(total - 1.0) < _TOLERANCE:
        raise ValueError(f"the probabilities sum to {total}, not to one")
    return pick(probabilities, unit, key)


def pick(probabilities: Sequence[float], unit: str | bytes, key: bytes) -> int:
    """The same as `draw`, for somebody who knows that these are probabilities."""
    cumulative = list(accumulate(probabilities))
    threshold = uniform(unit, key) * cumulative[-1]
    # "right": an action begins where the one before it ends, so one of probability zero is never hit.
    return bisect_right(cumulative, threshold)


def _draw_of_many(pmf: Probabilities, unit: str | bytes, key: bytes) -> int:
    """The same for long arrays: `numpy.cumsum` adds in the same order, so the draw is the same to the last bit."""
    if not pmf.min() >= 0.0:
        raise ValueError("a probability is negative, or no number")
    cumulative = pmf.astype(np.float64).cumsum()
    total = float(cumulative[-1])
    if not abs(total - 1.0) < _TOLERANCE:
        raise ValueError(f"the probabilities sum to {total}, not to one")
    return int(cumulative.searchsorted(uniform(unit, key) * total, side="right"))


def token(unit: str, key: bytes) -> str:
    """What stands for a user in records: the same for the same user and key, and nobody without the key knows whom.

    Returns:
        32 hex digits. A draw that is keyed by a user is keyed by this, so that the record alone replays it.
    """
    return hashlib.blake2b(
        unit.encode(errors="surrogatepass"), digest_size=16, key=key, person=_PERSON_OF_UNITS
    ).hexdigest()


def uniforms(unit: str | bytes, key: bytes) -> Callable[[int], list[float]]:
    """As many numbers in [0, 1) as a list of candidates needs, all fixed by unit and key.

    They come from SHAKE-128 over the key and the unit (a sponge keyed by its prefix, FIPS 202): asked for more, it
    goes on where it was.

    Args:
        unit: what is randomised.
        key: the secret, 16 to 64 bytes.

    Returns:
        A function of n that returns the first n numbers of this unit's stream.

    Example:
        >>> from guardrails.exploration.randomness import uniforms
        >>> numbers = uniforms("request-1", b"0123456789abcdef")
        >>> numbers(3) == numbers(5)[:3]
        True
    """
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(f"a key of {len(key)} bytes; a secret has 16 to 64")
    text = unit.encode() if isinstance(unit, str) else unit
    # The key's length first: no other key and unit make the same bytes.
    sponge = hashlib.shake_128(_STREAM + bytes([len(key)]) + key + text)

    def numbers(n: int) -> list[float]:
        words = np.frombuffer(sponge.digest(8 * n), dtype="<u8")
        found: list[float] = ((words >> np.uint64(11)) * _SCALE).tolist()
        return found

    return numbers


def salt_id_of(key: bytes) -> str:
    """What names a key in records, without giving it away: 12 hex digits."""
    return hashlib.sha256(b"guardrails salt id" + key).hexdigest()[:12]
