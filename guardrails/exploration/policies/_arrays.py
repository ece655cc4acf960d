"""What every policy asks of its options and of the scores it gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import DecorationError
from guardrails.typing import Scores

MAX_EPSILON = 0.5
"""More than half of the answers drawn at random is a mistake, not a policy."""

Greedy = int | npt.NDArray[np.int64]
"""The model's own choice: one number, or one per row."""


def settle(policy: object, name: str, allowed: Callable[[float], bool], rule: str) -> None:
    """Keep an option as a plain float, as the policy's logged ``repr`` shows it.

    Raises:
        DecorationError: it is no number, or not an allowed one; the message ends with the rule.
    """
    given = getattr(policy, name)
    value = float(given) if isinstance(given, Real) else math.nan
    if not allowed(value):  # no comparison holds for NaN
        raise DecorationError(f"{type(policy).__name__}({name}={given!r}): {rule}.")
    object.__setattr__(policy, name, value)


def among(policy: Any, kept: Sequence[int]) -> Any:
    """A policy for the actions that are left, renumbered: itself, unless it knows actions by their number."""
    renumber = getattr(policy, "among", None)
    return policy if renumber is None else renumber(kept)


def checked(scores: npt.ArrayLike) -> Scores:
    """Scores as floats, shape ``(..., K)`` with at least one action and no NaN.

    Raises:
        ValueError: a score is NaN, or there is no action.
    """
    scores = np.asarray(scores, dtype=np.float64, order="C")
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError("there is no action to choose from")
    refuse_nan(scores)
    return scores


def refuse_nan(scores: Scores) -> None:
    """Raise a ValueError where a score is NaN."""
    if (scores != scores).any():  # noqa: PLR0124  # NaN is what differs from itself
        raise ValueError("a score is NaN: an action without a score cannot be compared with the others")


def greedy_of(lines: Scores, greedy: Greedy | None) -> npt.NDArray[np.int64]:
    """The greedy action of each row of ``(n, K)``: the given ones, or the first of the best scores.

    Raises:
        ValueError: there is not one greedy action per row, or it is none of the K.
    """
    if greedy is None:
        best: npt.NDArray[np.int64] = lines.argmax(axis=1)
        return best
    given: npt.NDArray[np.int64] = np.atleast_1d(np.asarray(greedy))
    if given.dtype.kind not in "iu" or given.shape != (len(lines),):
        raise ValueError(f"greedy={greedy!r} for {len(lines)} rows of scores: one action number per row")
    if len(given) and not 0 <= given.min() <= given.max() < lines.shape[1]:
        raise ValueError(f"greedy={greedy!r}: the {lines.shape[1]} actions are numbered 0 to {lines.shape[1] - 1}")
    return given
