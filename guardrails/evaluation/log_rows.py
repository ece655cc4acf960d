"""Joined decisions as an estimator sees them: a row per decision, or per position of a ranking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from guardrails.decisions.joined.logged import Floats, Ints, Logged
from guardrails.evaluation.off_policy.balanced import mixture
from guardrails.evaluation.targets import LOGGED, Target, at_positions, densities, probabilities


@dataclass(frozen=True, eq=False)
class Rows:
    """What an estimator sees: a row per decision, or per position of a ranking.

    Attributes:
        reward, propensity: shape ``(m,)``.
        would: with which probability a target does what a row says, shape ``(m,)``.
        scale: by what an estimate is multiplied to be that of a decision: the positions of a list.
        options: what estimators have to know of the rows: ``density``, ``unit``.
        alike: whether all decisions chose among the same candidates.
        notes: sentences on what is left out.
    """

    reward: Floats
    propensity: Floats
    would: Callable[[Target], Floats]
    scale: float
    options: dict[str, Any]
    alike: bool
    notes: tuple[str, ...] = ()


def rows_of(logged: Logged) -> Rows:
    """The rows of decisions that can be learned from.

    Raises:
        ValueError: rankings have several lengths, no rewards by position, or no probabilities of their positions.
    """
    units = None if logged.cluster == logged.decision_id else np.array(logged.cluster)
    if logged.kind == "ranking":
        return _position_rows(logged)
    if logged.kind == "value":
        options = {"density": True, "unit": units}
        return Rows(
            logged.reward, logged.propensity, lambda target: densities(target, logged), 1.0, options, alike=False
        )
    alike = len({len(pmf) for pmf in logged.pmf}) == 1 and all(names == logged.actions[0] for names in logged.actions)
    return Rows(
        logged.reward,
        logged.propensity,
        lambda target: _of_action(probabilities(target, logged), logged.action),
        1.0,
        {"unit": units},
        alike,
    )


def _position_rows(logged: Logged) -> Rows:
    slots = {len(served) for served in logged.served}
    if len(slots) > 1:
        raise ValueError(
            f"the rankings have {len(slots)} lengths, e.g. {min(slots)} and {max(slots)}: judge one at a time."
        )
    if logged.slot_reward is None:
        raise ValueError("rankings are judged by position, and no reward names one: give feedback a slot.")
    if not all(pmf.size for pmf in logged.pmf):
        raise ValueError(
            "not all rankings have the probabilities of their positions, nor can these be computed from their policies."
        )
    count = slots.pop()
    by_slot = np.array(logged.slot_reward)
    whole = np.abs(logged.reward - by_slot.sum(axis=1)).max() > 0
    return Rows(
        by_slot.ravel(),
        at_positions(LOGGED, logged).ravel(),
        lambda target: at_positions(target, logged).ravel(),
        float(count),
        {"unit": np.repeat(logged.cluster, count)},
        alike=False,
        notes=("Rewards of whole lists are left out: only those of positions are judged.",) if whole else (),
    )


def _of_action(pmfs: list[Floats], action: Ints) -> Floats:
    return np.array([pmf[at] for pmf, at in zip(pmfs, action.tolist(), strict=True)], dtype=np.float64)


def mixed(logged: Logged, rows: Rows) -> tuple[Floats, int, list[str]]:
    """The propensity of each row under the mixture of all policies that wrote it: those of its method and model.

    A mixture is drawn from for the same decisions; what one method decides another's policy never saw.
    """
    written = list(zip(logged.policy, logged.model, logged.api, strict=True))
    versions = len(set(written))
    if versions == 1:
        return rows.propensity, 1, []
    propensity, per = rows.propensity.copy(), len(rows.propensity) // len(logged)
    balanced = 0
    who = list(zip(logged.model, logged.api, strict=True))
    for one in set(who):
        mine = np.array([other == one for other in who])
        part = logged.select(mine)
        if len(set(part.policy)) == 1:
            continue
        own = _mixture_of(part, rows_of(part))
        if own is not None:
            propensity[np.repeat(mine, per)] = own
            balanced += len(set(part.policy))
    return propensity, versions, [_on_versions(versions, balanced)]


def _on_versions(versions: int, balanced: int) -> str:
    if balanced == versions:
        return f"{versions} policies wrote this log: each decision is weighed as if drawn from their mixture."
    if balanced:
        return (
            f"{versions} policies, models and methods wrote this log: where policies share a model and a method, each "
            "decision is weighed as if drawn from their mixture."
        )
    return f"{versions} policies, models and methods wrote this log: each decision is weighed by its own."


def _mixture_of(logged: Logged, rows: Rows) -> Floats | None:
    """None where what the log says is not what its policies' texts say (budgets, ramps, policies of one's own)."""
    from guardrails.exploration.spelled import policy_of

    names = sorted(set(logged.policy))
    try:
        each = np.array([rows.would(policy_of(name)) for name in names])
    except (ValueError, TypeError):
        return None
    version = np.array([names.index(policy) for policy in logged.policy])
    by_row = np.repeat(version, len(rows.propensity) // len(logged))
    if not np.allclose(each[by_row, np.arange(len(by_row))], rows.propensity, rtol=1e-6, atol=0.0):
        return None
    return mixture(each, len(by_row), by_row, None, density=rows.options.get("density", False))
