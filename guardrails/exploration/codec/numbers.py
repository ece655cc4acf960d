"""Answers that are one number per row: a score that a threshold decides on, or a value such as a price."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.exploration.codec.asked import Asked
from guardrails.exploration.codec.fields import (
    are_entries,
    field,
    first_field,
    has_fields,
    is_number,
    refuse_unknown,
    with_fields,
)

SCORE_FIELDS = ("score", "probability")
DECISION_FIELDS = ("accept", "accepted", "approved", "decision", "action", "label")
VALUE_FIELDS = ("value", "prediction", "price")

Scores = Callable[[Any], npt.ArrayLike]
Apply = Callable[[Any, "int | None", Any, Any], Any]


class Decisions:
    """Answers with a score and the decision that was made by it: accepted (1, True) or refused (0, False).

    Args:
        scores: reads the scores; by default a field `SCORE_FIELDS`.
        apply: ``(answer, row, own, served)`` with 0 or 1, to a copy that says the other decision.
    """

    def __init__(self, scores: Scores | None = None, apply: Apply | None = None) -> None:
        self._scores, self._own_apply = scores, apply

    def read(self, answer: Any, pool: Any = None) -> Asked:  # noqa: ARG002  # there is no pool of decisions
        """One score per row, and the decision that the answer holds."""
        entries = list(answer) if are_entries(answer) else [answer]
        if self._scores is None:
            scores = np.array([_score(entry) for entry in entries], dtype=np.float64)
            scores = scores if are_entries(answer) else scores[0]
        else:
            scores = np.array(self._scores(answer), dtype=np.float64)
        # Whoever writes by himself may decide by what he likes; otherwise there is a decision to change.
        own = None if self._own_apply is not None else [_decision(entry)[1] for entry in entries]
        return Asked(scores.reshape(-1), scores.ndim == 0, own=own)

    def write(self, answer: Any, row: int | None, own: Any, served: Any) -> Any:
        """The answer with the other decision."""
        if self._own_apply is not None:
            return self._own_apply(answer, row, own, served)
        if row is not None and are_entries(answer):
            copy = list(answer)
            copy[row] = self.write(answer[row], None, own, served)
            return tuple(copy) if isinstance(answer, tuple) else copy
        name, _ = _decision(answer)
        flag = isinstance(field(answer, name), bool | np.bool_)
        return with_fields(answer, {name: bool(served) if flag else int(served)})


def _score(entry: Any) -> float:
    name = first_field(entry, SCORE_FIELDS) if has_fields(entry) else None
    score = None if name is None else field(entry, name)
    if score is None or np.ndim(score) != 0:
        raise ValueError(
            f"an answer of type {type(entry).__name__} holds no score to decide on (one number in a field "
            f"{' or '.join(SCORE_FIELDS)}, one such answer per row); tell explore(scores=..., apply=...) how to "
            "read and write it"
        )
    return float(score)


def _decision(entry: Any) -> tuple[str, int]:
    """The field that holds the decision, and the decision: 0 or 1."""
    name = first_field(entry, DECISION_FIELDS) if has_fields(entry) else None
    said = None if name is None else field(entry, name)
    if not (isinstance(said, bool | np.bool_) or (is_number(said) and said in (0, 1))):
        raise ValueError(
            f"an answer holds no decision to change (True or False, 0 or 1 in a field {', '.join(DECISION_FIELDS)}); "
            "tell explore(apply=...) how to write it"
        )
    return str(name), int(said)


class Values:
    """Answers that are one number per row, or hold one.

    Args:
        scores: reads the numbers.
        apply: ``(answer, row, own, served)`` to a copy that says the other number.
    """

    def __init__(self, scores: Scores | None = None, apply: Apply | None = None) -> None:
        self._scores, self._own_apply = scores, apply

    def read(self, answer: Any, pool: Any = None) -> Asked:  # noqa: ARG002  # there is no pool of numbers
        """The model's own number of each row."""
        if self._scores is None:
            refuse_unknown(answer)
        found = answer if self._scores is None else self._scores(answer)
        if self._scores is None and are_entries(answer):
            found = [field(entry, str(first_field(entry, VALUE_FIELDS))) for entry in answer]
        elif self._scores is None and has_fields(answer):
            found = field(answer, str(first_field(answer, VALUE_FIELDS)))
        values = np.asarray(found)
        if values.dtype.kind not in "biuf" or (values.ndim > 1 and values.shape[1:] != (1,)):
            raise ValueError(
                f"an answer of type {type(answer).__name__} holds no number per row (itself, or in a field "
                f"{', '.join(VALUE_FIELDS)}); tell explore(scores=...) how to read it"
            )
        return Asked(values.astype(np.float64).reshape(-1), values.ndim == 0)

    def write(self, answer: Any, row: int | None, own: Any, served: Any) -> Any:
        """The answer with the other number."""
        if self._own_apply is not None:
            return self._own_apply(answer, row, own, served)
        if has_fields(answer):
            name = str(first_field(answer, VALUE_FIELDS))
            return with_fields(answer, {name: self.write(field(answer, name), row, own, served)})
        # In double precision, whatever the model answers in: what is served is what is recorded.
        if row is None or np.ndim(answer) == 0:
            return np.float64(served) if isinstance(answer, np.generic | np.ndarray) else float(served)
        if isinstance(answer, np.ndarray):
            copy = answer.astype(np.float64)
            copy[row] = served
            return copy
        rows = list(answer)
        rows[row] = self.write(answer[row], 0 if isinstance(answer[row], list | tuple) else None, own, served)
        return tuple(rows) if isinstance(answer, tuple) else rows
