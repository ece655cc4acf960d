"""A log as the loop sees it: for each decision, the items the model chose itself and those that were shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.decisions.joined.logged import Logged
from guardrails.decisions.joined.names import key_of

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

KINDS = ("choice", "ranking")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Decisions over one catalogue. Items are numbered by their place in it.

    Attributes:
        items: the catalogue.
        row: which decision of the log each is, shape ``(m,)``.
        greedy, shown: the items of each decision; one for a choice, the list for a ranking.
        rewards: of the shown items, by position; None where rankings have no rewards by position.
        candidates, scores: the items there were to choose from, and their scores; both empty where none were kept.
        policy: the last one's text.
        models: who ranked, by decision.
    """

    items: list[Any]
    row: Ints
    greedy: list[Ints]
    shown: list[Ints]
    rewards: list[Array] | None
    candidates: list[Ints]
    scores: list[Array]
    policy: str
    models: list[str | None]

    def __len__(self) -> int:
        return len(self.row)

    def mask(self, names: Sequence[Any]) -> Mask:
        """Items by name as a mask over the catalogue."""
        number = {name: at for at, name in enumerate(self.items)}
        unknown = [name for name in names if key_of(name) not in number]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} (and {len(unknown) - 1} more) is no item of the {len(self.items)} there are"
            )
        mask = np.zeros(len(self.items), dtype=bool)
        mask[[number[key_of(name)] for name in names]] = True
        return mask

    def outside(self) -> list[Mask]:
        """Which of the shown items the model had not chosen itself."""
        return [~np.isin(shown, greedy) for shown, greedy in zip(self.shown, self.greedy, strict=True)]

    def of_first_model(self) -> int:
        """How many decisions the first of several models made before another took over; 0 where that is not known."""
        return next((at for at, model in enumerate(self.models) if model != self.models[0]), 0) if self.models[0] else 0

    def mean_scores(self, part: slice) -> Array:
        """Each item's mean score over some of the decisions; NaN where it was no candidate."""
        sums, counts = np.zeros(len(self.items)), np.zeros(len(self.items))
        for candidates, scores in zip(self.candidates[part], self.scores[part], strict=True):
            sums[candidates] += scores
            counts[candidates] += 1
        return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def read(logged: Logged, items: Sequence[Any] | None = None) -> Chosen:
    """Read a log of choices or rankings.

    Raises:
        ValueError: another kind, no decision that says what the model would have chosen, an item that is not in the
            catalogue.
    """
    if logged.kind not in KINDS:
        raise ValueError(f"decisions of kind {logged.kind!r} choose no items; loops are of choices and rankings")
    rows = [at for at in range(len(logged)) if _is_known(logged, at)]
    if not rows:
        raise ValueError(
            f"none of the {len(logged)} decisions says what the model itself chose: is @gr.explore on the method?"
        )
    names = [_names(logged, at) for at in rows]
    catalogue = (
        list(map(key_of, items)) if items is not None else list(dict.fromkeys(n for some in names for n in some))
    )
    if items is None and not any(logged.actions):
        catalogue.sort()
    number = {name: at for at, name in enumerate(catalogue)}
    missing = next((name for some in names for name in some if name not in number), None)
    if missing is not None:
        raise ValueError(f"the log knows an item {missing!r} that items= does not: give all there are")
    candidates = [np.array([number[name] for name in some], dtype=np.int64) for some in names]
    pairs = [_chosen(logged, at) for at in rows]
    return Chosen(
        catalogue,
        np.array(rows, dtype=np.int64),
        [some[greedy] for some, (greedy, _) in zip(candidates, pairs, strict=True)],
        [some[shown] for some, (_, shown) in zip(candidates, pairs, strict=True)],
        _rewards(logged, rows),
        [some if len(logged.scores[at]) else some[:0] for some, at in zip(candidates, rows, strict=True)],
        [logged.scores[at] for at in rows],
        next((logged.policy[at] for at in reversed(rows) if logged.policy[at]), ""),
        [logged.model[at] for at in rows],
    )


def _is_known(logged: Logged, at: int) -> bool:
    if logged.kind == "choice":
        return bool(logged.greedy[at] >= 0 and logged.action[at] >= 0)
    return logged.served[at] is not None and len(logged.scores[at]) >= len(logged.served[at])


def _names(logged: Logged, at: int) -> list[Any]:
    """What the candidates of a decision are called."""
    actions = logged.actions[at]
    if actions is not None:
        return list(map(key_of, actions))
    known = max(len(logged.scores[at]), len(logged.pmf[at]) if logged.kind == "choice" else 0)
    return list(range(max(known, int(logged.greedy[at]) + 1, int(logged.action[at]) + 1)))


def _chosen(logged: Logged, at: int) -> tuple[Ints, Ints]:
    if logged.kind == "choice":
        return logged.greedy[at : at + 1], logged.action[at : at + 1]
    shown = np.asarray(logged.served[at], dtype=np.int64)
    return np.argsort(-logged.scores[at], kind="stable")[: len(shown)], shown


def _rewards(logged: Logged, rows: list[int]) -> list[Array] | None:
    if logged.kind == "choice":
        return [logged.reward[at : at + 1] for at in rows]
    return None if logged.slot_reward is None else [logged.slot_reward[at] for at in rows]
