"""What was drawn, row by row, and how it is told to a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guardrails.decisions.records import Decision
from guardrails.exploration.admission import SHADOW

CHOICE, RANKING, THRESHOLD, VALUE = "choice", "ranking", "threshold", "value"
KINDS = (CHOICE, RANKING, THRESHOLD, VALUE)


@dataclass(slots=True)
class Drawn:
    """What was drawn for one row.

    Attributes:
        own, chosen: the model's choice and the drawn one, as the codec writes them: a number, a list, a value.
        scores, pmf, propensity: as `guardrails.decisions.Decision` has them.
        refused: why the row was not explored.
        strength: the share of the policy's exploration that the budget let through.
        token: what keyed the draw, where it is not the decision's own id.
        cluster: what that is on every day.
        names: of the candidates.
        excluded: the numbers of those that took no part.
    """

    own: Any
    chosen: Any
    scores: Any
    pmf: Any
    propensity: float
    refused: str | None = None
    strength: float = 1.0
    token: str | None = None
    names: list[Any] | None = None
    excluded: list[int] | None = None
    cluster: str | None = None

    @property
    def differs(self) -> bool:
        """Whether something else than the model's own choice was drawn."""
        return bool(self.own != self.chosen)


@dataclass(slots=True)
class Exploration:
    """What was drawn for the rows the primary answered.

    Attributes:
        policy, kind, salt_id: how, and with which (unnamed) key.
        row_of: the position of a row of the request in ``drawn``; None when they are the same.
        drawn: one draw per row.
        served: whether what was drawn was served; otherwise the model's own was.
        ramp: the share of units that are explored.
        deferred: whether what was served may never be shown.
    """

    policy: str
    kind: str
    salt_id: str
    row_of: dict[int, int] | None
    drawn: list[Drawn]
    served: bool = True
    ramp: float | None = None
    deferred: bool = False

    def describe(self, decision: Decision, row: int) -> None:
        """Write one row's draw into its record."""
        at = row if self.row_of is None else self.row_of.get(row)
        if at is None:
            return
        drawn = self.drawn[at]
        decision.policy, decision.kind, decision.salt_id = self.policy, self.kind, self.salt_id
        decision.scores, decision.actions, decision.unit = drawn.scores, drawn.names, drawn.token
        decision.excluded, decision.cluster = drawn.excluded, drawn.cluster
        decision.ramp, decision.deferred = self.ramp, self.deferred
        numbered = self.kind in (CHOICE, THRESHOLD)
        if numbered:
            decision.greedy = drawn.own
        if not self.served:  # the model's own, with certainty: eligible stays False, the propensity one
            decision.ineligible = SHADOW
            if numbered:
                decision.action = drawn.own
            else:
                decision.served = drawn.own
            if drawn.differs and decision.shadow is None:  # else it would not have been explored
                decision.shadow = f"explored:{drawn.chosen}"
            return
        if numbered:
            decision.action = drawn.chosen
        else:
            decision.served = drawn.chosen
        decision.pmf, decision.propensity, decision.strength = drawn.pmf, drawn.propensity, drawn.strength
        decision.eligible, decision.ineligible = drawn.refused is None, drawn.refused
