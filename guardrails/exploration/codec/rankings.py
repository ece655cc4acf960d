"""Ranked lists: scores whose order is the list, or the list itself; and the same with another list served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.exploration.codec.asked import Asked
from guardrails.exploration.codec.choices import scores_of, step
from guardrails.exploration.codec.fields import (
    are_entries,
    as_array,
    field,
    first_field,
    has_fields,
    like,
    refuse_unknown,
    with_fields,
    with_row,
)

LIST_FIELDS = ("items", "ranking", "recommendations")

Apply = Callable[[Any, "int | None", Sequence[Any], Sequence[Any]], Any]


class ScoredRankings:
    """Answers that are scores of all candidates, best first once sorted.

    Args:
        scores: reads them out of an answer.
        apply: ``(answer, row, own, served)``, both lists of candidates' numbers, to a copy that serves the other list.
    """

    def __init__(self, scores: Callable[[Any], npt.ArrayLike] | None = None, apply: Apply | None = None) -> None:
        self._scores, self.write = scores or scores_of, apply or reorder

    def read(self, answer: Any, pool: Sequence[Any] | None = None) -> Asked:  # noqa: ARG002  # the scores are of all
        """The scores of all candidates."""
        found = np.asarray(self._scores(answer))
        if found.dtype.kind == "b" or (
            found.dtype.kind in "iu" and not has_fields(answer) and self._scores is scores_of
        ):
            raise ValueError(
                f"an answer of {found.dtype} may be scores or numbers of candidates: give explore(pool=()) where it "
                "lists candidates, or explore(scores=...)"
            )
        read = np.array(found, dtype=np.float64)
        return Asked(read.reshape(1, -1) if read.ndim == 1 else read, read.ndim == 1)


class ListedRankings:
    """Answers that are lists of candidates, best first, or hold one in a field.

    Args:
        apply: ``(answer, row, own, served)``, both lists of candidates, to a copy that serves the other list.
    """

    def __init__(self, apply: Apply | None = None) -> None:
        self.write = apply or relist

    def read(self, answer: Any, pool: Sequence[Any] | None = None) -> Asked:
        """The listed candidates, then those of the pool; scored by their place, the pool's alike and last."""
        refuse_unknown(answer)
        rows, single = _lists(answer)
        outside = _once(() if pool is None else pool)
        names, scores = [], []
        for listed in rows:
            own = [_plain(name) for name in listed]
            there = _once(own)
            if len(there) < len(own):
                raise ValueError("a ranked list names a candidate twice; which position is explored would be unclear")
            others = [name for name in outside if name not in there]
            names.append(own + others)
            if isinstance(listed, np.ndarray):
                as_array(listed, names[-1])  # what it cannot hold cannot be served
            scores.append(np.concatenate([np.arange(len(own), 0.0, -1.0), np.zeros(len(others))]))
        return Asked(scores, single, names=names)


def is_listed(answer: Any) -> bool:
    """Whether an answer holds lists of candidates rather than scores of them."""
    entry = answer[0] if are_entries(answer) else answer
    if has_fields(entry):
        return first_field(entry, LIST_FIELDS) is not None
    array = np.asarray(entry)
    return array.dtype.kind in "USO" and array.ndim in (1, 2)


def relist(answer: Any, row: int | None, own: Sequence[Any], served: Sequence[Any]) -> Any:  # noqa: ARG001
    """The answer with another list served: its first entries are replaced, what else it lists comes after them.

    Args:
        answer: what the model said; it is not changed.
        row: which row; None where the answer has no row axis.
        own: the model's own candidates, in order.
        served: those to serve, as many.
    """
    if row is None or has_fields(answer):
        return _relisted(answer, row, served)
    return with_row(answer, row, _relisted(answer[row], None, served))


def _relisted(entry: Any, row: int | None, served: Sequence[Any]) -> Any:
    if has_fields(entry):
        name = first_field(entry, LIST_FIELDS)
        lists = field(entry, str(name))
        inner = row if row is not None and len(lists) and _is_list(lists[0]) else None
        return with_fields(entry, {str(name): _relisted(lists, inner, served)})
    if row is not None:
        return with_row(entry, row, _relisted(entry[row], None, served))
    shown = set(served)
    rest = [name for name in entry if _plain(name) not in shown]
    return like(entry, [*served, *rest][: len(entry)])


def reorder(answer: Any, row: int | None, own: Sequence[int], served: Sequence[int]) -> Any:  # noqa: ARG001
    """The answer with its scores dealt out anew, so that sorted by score it begins with the served candidates.

    The same scores, given to other candidates; where two of them are equal the order is made plain by the smallest step
    that the type of the scores has.

    Args:
        answer: what the model said; it is not changed.
        row: which row; None where the answer has no row axis.
        own: the numbers of the model's own candidates, in order.
        served: those to serve, as many.
    """
    if row is None or has_fields(answer):
        return _reordered(answer, row, served)
    return with_row(answer, row, _reordered(answer[row], None, served))


def _reordered(entry: Any, row: int | None, served: Sequence[int]) -> Any:
    if has_fields(entry):
        scores = field(entry, "scores")
        inner = row if np.ndim(scores) > 1 else None
        return with_fields(entry, {"scores": _reordered(scores, inner, served)})
    if row is not None:
        return with_row(entry, row, _reordered(entry[row], None, served))
    scores = np.asarray(entry)
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    others = np.ones(len(order), dtype=bool)
    others[list(served)] = False
    after = np.concatenate([served, order[others[order]]])
    dealt = scores[order].copy()
    _make_plain(dealt, len(served))
    out = np.empty_like(scores)
    out[after] = dealt
    return out if isinstance(entry, np.ndarray) else like(entry, out.tolist())


def _make_plain(dealt: npt.NDArray[Any], places: int) -> None:
    """Make the first places of scores in descending order strictly descending, by the smallest steps. In place."""
    last = min(places, len(dealt) - 1)
    largest = np.inf if dealt.dtype.kind == "f" else np.iinfo(dealt.dtype).max
    for at in range(last - 1, -1, -1):  # from the last served place up, while there is room above
        if not dealt[at] > dealt[at + 1] and dealt[at + 1] < largest:
            dealt[at] = step(dealt[at + 1])
    for at in range(len(dealt) - 1):  # from the top down, where there was none
        if at < last and not dealt[at] > dealt[at + 1]:
            dealt[at + 1] = step(dealt[at], down=True)
        elif at >= last and not dealt[at] < dealt[at + 1]:
            break  # what follows is in order, as it was
        elif at >= last:
            dealt[at + 1] = dealt[at]


def _lists(answer: Any) -> tuple[list[Any], bool]:
    """The lists of an answer, one per row, and whether it has no row axis."""
    if are_entries(answer):
        return [_listed(entry) for entry in answer], False
    found = _listed(answer) if has_fields(answer) else answer
    if not _is_list(found):
        raise ValueError(
            f"an answer of type {type(answer).__name__} holds no ranked list (itself, or in a field "
            f"{', '.join(LIST_FIELDS)})"
        )
    if isinstance(found, np.ndarray):  # whatever its entries are: one of pairs has one axis
        return ([found], True) if found.ndim == 1 else (list(found), False)
    if len(found) and _is_list(found[0]):
        return list(found), False
    return [found], True


def _listed(entry: Any) -> Any:
    name = first_field(entry, LIST_FIELDS)
    return None if name is None else field(entry, name)


def _once(names: Iterable[Any]) -> dict[Any, None]:
    """Names in their order, each once."""
    try:
        return dict.fromkeys(map(_plain, names))
    except TypeError as error:
        raise ValueError(f"candidates are named by texts or numbers, not by what cannot be a key: {error}") from error


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
