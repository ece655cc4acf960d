"""Decisions with what became of them, column by column: what `join` makes, and what estimators and exporters take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from guardrails.typing import Mask

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

TOLERANCE = 1e-6
"""How far from one the probabilities of a decision may sum, and, as a share, from its pmf a propensity may lie."""


def same_probability(own: Any, told: Any) -> Any:
    """Whether probabilities are the same but for rounding: relatively, since what counts is 1 / propensity."""
    return abs(own - told) <= TOLERANCE * own


@dataclass(frozen=True)
class JoinCounts:
    """What a join found. Every decision and every feedback is counted exactly once, except as noted.

    Attributes:
        joined: decisions in the result.
        pending: left out, because their window is not over.
        deferred: left out, because nobody has said that they were shown.
        malformed: left out, because they or a reward of theirs cannot be what the service wrote; `problems` says why.
        unrewarded: left out, because no reward came and there is no default.
        other: left out, because they are of another kind, method or time than asked for.
        repeated: rows of a decision that was there already.
        rewards: feedback that was counted towards a decision's reward.
        late: rewards that came after the window.
        duplicates: feedback that was delivered more than once.
        orphans: feedback to decisions that are not there.
        unused: all other feedback: without a reward, with another name, or to a decision that was left out.
        overridden: of the joined, those where something else was shown than was drawn.
        rewarded: of the joined, those whose reward is no default.
        problems: how many decisions were malformed in which way.
    """

    joined: int = 0
    pending: int = 0
    deferred: int = 0
    malformed: int = 0
    unrewarded: int = 0
    other: int = 0
    repeated: int = 0
    rewards: int = 0
    late: int = 0
    duplicates: int = 0
    orphans: int = 0
    unused: int = 0
    overridden: int = 0
    rewarded: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """In one line: what was joined, and whatever else is not zero."""
        said = [f"{self.joined} decisions joined, {self.rewarded} of them with a reward"]
        names = ("pending", "deferred", "malformed", "unrewarded", "other", "repeated", "overridden")
        said += [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]
        feedback = [
            f"{getattr(self, name)} {name}" for name in ("late", "duplicates", "orphans") if getattr(self, name)
        ]
        return ", ".join(said) + (f"; feedback: {', '.join(feedback)}" if feedback else "")


@dataclass(frozen=True, eq=False)
class Logged:
    """Decisions whose window is over, with their rewards, ordered by time. One entry per decision in every column.

    Attributes:
        decision_id: their ids.
        ts: when they were made, seconds since 1970, shape ``(n,)``.
        kind: what was explored: ``"choice"``, ``"ranking"``, ``"threshold"`` or ``"value"``.
        action: the served action's number, shape ``(n,)``; -1 where there is none (rankings, values, fallbacks).
        greedy: the model's own choice, likewise.
        propensity: the probability (a value's: the density) with which what was served was drawn, shape ``(n,)``.
        reward: what it earned, shape ``(n,)``; of a ranking, all positions together.
        eligible: whether exploration was allowed to act, shape ``(n,)``.
        pmf: the probabilities, each ``(K,)``, of rankings ``(k, k)``; empty where they are not known.
        scores: the model's, each ``(K,)``; empty where they are not known.
        actions: the candidates' names in the order of scores and pmf; None where they are numbered.
        excluded: the numbers of candidates that took no part in the draw; None where all did.
        served: a ranking's candidates in order (their numbers), or the value; None for choices.
        slot_reward: of rankings with rewards by position, each ``(k,)``; else None.
        unit: what the draw was keyed by; the decision's id where each was drawn by itself.
        cluster: whose decisions are alike, on whatever day they were drawn: what intervals go by.
        policy: how it was chosen; empty where no policy was.
        model: which model answered.
        features: the rows, where they were kept, or their hashes.
        differs: whether something else was served than the model's own choice, shape ``(n,)``.
        shown: what feedback says was shown: an action's number, a list of them, or None where it says nothing.
        overridden: whether that is something else than was served here, shape ``(n,)``.
        rewarded: whether a reward came, or the default stands in, shape ``(n,)``.
        api: which method decided.
        strength: the share of the policy's exploration that the budget let through, shape ``(n,)``.
        ineligible: why exploration was not allowed to act, where it was not.
        label: the last label that feedback gave, or None.
        counts: what the join found.
        window, default, aggregate, name: how it was joined.
    """

    decision_id: list[str]
    ts: Floats
    kind: str
    action: Ints
    greedy: Ints
    propensity: Floats
    reward: Floats
    eligible: Mask
    pmf: list[Floats]
    scores: list[Floats]
    actions: list[list[Any] | None]
    excluded: list[list[int] | None]
    served: list[Any]
    slot_reward: list[Floats] | None
    unit: list[str]
    cluster: list[str]
    policy: list[str]
    model: list[str | None]
    features: list[Any]
    differs: Mask
    shown: list[Any]
    overridden: Mask
    rewarded: Mask
    api: list[str]
    strength: Floats
    ineligible: list[str | None]
    label: list[Any]
    counts: JoinCounts = JoinCounts()
    window: float = 0.0
    default: float | None = 0.0
    aggregate: str = "last"
    name: str | None = None

    def __len__(self) -> int:
        return len(self.decision_id)

    @property
    def explored(self) -> Mask:
        """Another name of `differs`: as in the trace's ``exploration.explored``."""
        return self.differs

    @property
    def learnable(self) -> Mask:
        """What may be learned from by propensity, shape ``(n,)``.

        These are the decisions exploration was allowed to act on, and that were shown as they were drawn. Where it was
        not allowed to act, no other action had a chance, so nothing follows for it; where something else was shown,
        the logged propensity is not that of what was shown.
        """
        return self.eligible & ~self.overridden

    def weights(self) -> Floats:
        """``1 / propensity``, shape ``(n,)``: what a reward counts for when retraining."""
        return 1.0 / self.propensity

    def stacked(self, column: str) -> Floats:
        """``pmf`` or ``scores`` as one array ``(n, K)`` (a ranking's pmf: ``(n, k, k)``).

        Raises:
            ValueError: they are not all of one shape.
        """
        arrays = getattr(self, column)
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"the {column} of the decisions have {len(shapes)} shapes, e.g. {min(shapes)} and {max(shapes)}: "
                "select those of one shape first."
            )
        return np.array(arrays, dtype=np.float64)

    def select(self, mask: npt.ArrayLike) -> Logged:
        """Some of the decisions.

        Args:
            mask: shape ``(n,)``: which; or their numbers.
        """
        chosen = np.asarray(mask)
        if chosen.dtype == bool and chosen.shape != (len(self),):
            raise ValueError(f"a mask of shape {chosen.shape} for {len(self)} decisions")
        at = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        rows = at.tolist()
        changes: dict[str, Any] = {}
        for column in fields(self):
            values = getattr(self, column.name)
            if isinstance(values, np.ndarray):
                changes[column.name] = values[at]
            elif isinstance(values, list):
                changes[column.name] = [values[row] for row in rows]
        return replace(self, **changes)
