"""One of several candidates: read their scores out of an answer, and write the served action back into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.exploration.codec.asked import Asked
from guardrails.exploration.codec.fields import (
    are_entries,
    by_row,
    field,
    has_fields,
    is_number,
    refuse_unknown,
    with_fields,
    with_row,
)

SCORES = "scores"
ACTION_FIELDS = ("action", "label")


def scores_of(answer: Any) -> npt.NDArray[np.float64]:
    """The scores of the candidates: the answer itself, or its ``scores`` field.

    Returns:
        Shape ``(K,)`` for one row without a row axis, ``(n, K)`` otherwise.

    Raises:
        ValueError: the answer holds no such scores.
    """
    refuse_unknown(answer)
    found = field(answer, SCORES) if has_fields(answer) else answer
    refuse_unknown(found)
    if are_entries(answer):
        found = [field(entry, SCORES) for entry in answer]
    scores = np.asarray(found)
    if scores.dtype.kind not in "biuf" or scores.ndim not in (1, 2):
        raise ValueError(
            f"an answer of type {type(answer).__name__} holds no (n, K) scores to choose from; "
            "tell explore(scores=...) how to read them"
        )
    return scores


def own_choices(answer: Any, greedy: list[int], candidates: int) -> list[int]:
    """What the model itself has chosen, per row: its ``action`` field where there is one, else the first best score.

    Ties are the model's to break: the greedy action is the one it would have served.
    """
    said: list[Any] = []
    if are_entries(answer):
        said = [field(entry, ACTION_FIELDS[0]) for entry in answer]
    elif has_fields(answer):
        rows = field(answer, ACTION_FIELDS[0])
        said = list(rows) if by_row(rows) and np.ndim(field(answer, SCORES)) > 1 else [rows]
    if len(said) != len(greedy):
        return greedy
    return [
        int(one) if is_number(one) and 0 <= one < candidates else best for one, best in zip(said, greedy, strict=True)
    ]


def serve(answer: Any, row: int | None, greedy: int, action: int) -> Any:
    """The answer with another action served: a copy in which the two have changed places.

    Scores are swapped, so that the answer's argmax is the action served; among equal scores the served one is raised
    by the smallest step its type has. An ``action`` or ``label`` field that held the greedy action's number holds the
    served one's.

    Args:
        answer: what the model said; it is not changed.
        row: which row; None where the answer has no row axis.
        greedy: the model's choice.
        action: the one to serve.
    """
    if row is None or has_fields(answer):
        return _served(answer, row, greedy, action)
    return with_row(answer, row, _served(answer[row], None, greedy, action))


def _served(entry: Any, row: int | None, greedy: int, action: int) -> Any:
    if not has_fields(entry):
        return _swapped(entry, greedy, action)
    changes: dict[str, Any] = {}
    scores = field(entry, SCORES)
    rows = row is not None and np.ndim(scores) > 1
    for name in ACTION_FIELDS:
        said = field(entry, name)
        each = rows and by_row(said)
        one = said[row] if each else said
        if is_number(one) and int(one) == greedy:
            changes[name] = with_row(said, int(row or 0), action) if each else action
    lead = ACTION_FIELDS[0] not in changes  # the field says who is served; otherwise the scores have to
    if rows:
        served = with_row(scores, int(row or 0), _swapped(scores[row], greedy, action, lead=lead))
    else:
        served = _swapped(scores, greedy, action, lead=lead)
    return with_fields(entry, {SCORES: served, **changes})


def _swapped(scores: Any, first: int, second: int, *, lead: bool = True) -> Any:
    copy = scores.copy() if isinstance(scores, np.ndarray) else list(scores)
    copy[first], copy[second] = scores[second], scores[first]
    if lead and int(np.argmax(copy)) != second:
        put_ahead(copy, second)
    return tuple(copy) if isinstance(scores, tuple) else copy


def put_ahead(scores: Any, action: int) -> None:
    """Make one of several equal best scores the only best one, by the smallest step their type has. In place."""
    array = np.asarray(scores)
    best, kind = array.max(), array.dtype
    if best == (np.inf if kind.kind == "f" else np.iinfo(kind).max):  # nothing is above it: the others come down
        for at in np.flatnonzero(array == best).tolist():
            scores[at] = best if at == action else _plain(step(best, down=True), scores)
        scores[action] = _plain(best, scores)
    else:
        scores[action] = _plain(step(best), scores)


def step(value: Any, *, down: bool = False) -> Any:
    """The next number that the type of a NumPy number has."""
    kind = value.dtype
    if kind.kind == "f":
        return np.nextafter(value, kind.type(-np.inf if down else np.inf))
    return kind.type(int(value) + (-1 if down else 1))


def _plain(value: Any, scores: Any) -> Any:
    """As a list holds it, which is no NumPy number."""
    return value if isinstance(scores, np.ndarray) else value.item()


class ChoiceCodec:
    """Answers that are scores of several candidates, or hold such.

    Args:
        scores: reads them out of an answer; by default it is they, or has a field ``scores``.
        apply: ``(answer, row, greedy, action)`` to a copy that says another action.
    """

    def __init__(
        self, scores: Callable[[Any], npt.ArrayLike] | None = None, apply: Callable[..., Any] | None = None
    ) -> None:
        self._scores, self.write = scores or scores_of, apply or serve
        self._asks_field = scores is None and apply is None

    def read(self, answer: Any, pool: Sequence[Any] | None = None) -> Asked:  # noqa: ARG002  # choices have no pool
        """The scores, and what the model chose among equal ones."""
        read = np.array(self._scores(answer))  # a copy: the model may use its buffer again before the record is written
        if read.dtype.kind == "b" and (read.sum(axis=-1) != 1).any():
            raise ValueError("flags of which not exactly one is set: no answer could say which of them is served")
        if read.dtype.kind == "f":
            read = read.astype(np.float64)  # what a record can hold
        single = read.ndim == 1
        scores = read.reshape(1, -1) if single else read
        own = None
        if self._asks_field and not isinstance(answer, np.ndarray):
            greedy = scores.argmax(axis=1).tolist() if scores.size else []
            said = own_choices(answer, greedy, scores.shape[1])
            own = None if said == greedy else said
        return Asked(scores, single, own=own)
