"""Read the candidates' scores out of an answer, and write the served action back into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

SCORES = "scores"
_ACTION_FIELDS = ("action", "label")


def scores_of(answer: Any) -> npt.NDArray[np.float64]:
    """The scores of the candidates: the answer itself, or its ``scores`` field.

    Returns:
        Shape ``(K,)`` for one row without a row axis, ``(n, K)`` otherwise.

    Raises:
        ValueError: the answer holds no such scores.
    """
    found = _field(answer, SCORES) if _has_fields(answer) else answer
    if isinstance(answer, list | tuple) and len(answer) and _has_fields(answer[0]):
        found = [_field(entry, SCORES) for entry in answer]
    scores = np.asarray(found)
    if scores.dtype.kind not in "biuf" or scores.ndim not in (1, 2):
        raise ValueError(
            f"an answer of type {type(answer).__name__} holds no (n, K) scores to choose from; "
            "tell explore(scores=...) how to read them"
        )
    return scores


def serve(answer: Any, row: int | None, greedy: int, action: int) -> Any:
    """The answer with another action served: a copy in which the two have changed places.

    Scores are swapped, so that the answer's argmax is the action served; an ``action`` or ``label`` field that held the
    greedy action's number holds the served one's.

    Args:
        answer: what the model said; it is not changed.
        row: which row; None where the answer has no row axis.
        greedy: the model's choice.
        action: the one to serve.
    """
    if row is None or _has_fields(answer):
        return _served(answer, row, greedy, action)
    copy = answer.copy() if isinstance(answer, np.ndarray) else list(answer)
    copy[row] = _served(copy[row], None, greedy, action)
    return tuple(copy) if isinstance(answer, tuple) else copy


def _served(entry: Any, row: int | None, greedy: int, action: int) -> Any:
    if not _has_fields(entry):
        return _swapped(entry, greedy, action)
    scores = _field(entry, SCORES)
    if row is None or np.ndim(scores) == 1:
        served = _swapped(scores, greedy, action)
    else:
        served = _replaced(scores, row, _swapped(scores[row], greedy, action))
    changes: dict[str, Any] = {SCORES: served}
    for name in _ACTION_FIELDS:
        if _is_number(_field(entry, name), greedy):
            changes[name] = action
    return {**entry, **changes} if isinstance(entry, Mapping) else entry.model_copy(update=changes)


def _swapped(scores: Any, first: int, second: int) -> Any:
    copy = scores.copy() if isinstance(scores, np.ndarray) else list(scores)
    copy[first], copy[second] = scores[second], scores[first]
    return tuple(copy) if isinstance(scores, tuple) else copy


def _replaced(rows: Any, row: int, entry: Any) -> Any:
    copy = rows.copy() if isinstance(rows, np.ndarray) else list(rows)
    copy[row] = entry
    return tuple(copy) if isinstance(rows, tuple) else copy


def _is_number(value: Any, number: int) -> bool:
    """Whether a field holds the number of an action: an integer, and neither a flag nor a name."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) == number


def _has_fields(value: Any) -> bool:
    return isinstance(value, Mapping) or (hasattr(value, "model_copy") and not isinstance(value, type))


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
