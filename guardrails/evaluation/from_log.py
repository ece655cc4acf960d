"""What policies would have earned, from joined decisions: one table with everything that weakens it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.decisions.joined.checking import refuse_impossible
from guardrails.decisions.joined.logged import Floats, Logged
from guardrails.decisions.joined.positions import with_positions
from guardrails.evaluation.log_rows import Rows, mixed, rows_of
from guardrails.evaluation.off_policy.estimate import Estimate
from guardrails.evaluation.off_policy.estimators import ips, snips
from guardrails.evaluation.off_policy.integrity import LogIntegrity, check_log
from guardrails.evaluation.off_policy.models import cross_fitted
from guardrails.evaluation.off_policy.overlap import Overlap, overlap
from guardrails.evaluation.off_policy.with_model import dm, dr, switch
from guardrails.evaluation.targets import GREEDY, UNIFORM, Target, name_of, probabilities

WEIGHTED, MODELLED = ("ips", "snips"), ("dm", "dr", "switch")
ESTIMATORS = (*WEIGHTED, *MODELLED)
DAY = 86_400.0
FOLDS = 3
"""Of the rows that a reward model learns from, each part is predicted from the others."""
OFF, SURE = 0.1, 1e-6
"""Weights whose mean is so far from 1, and not by chance, say that something is missing."""
TAU = 10.0
"""Above this weight `switch` believes the reward model alone."""


@dataclass(frozen=True)
class Judged:
    """What one policy would have earned, by one estimator.

    Attributes:
        target, estimator: which policy, which estimator.
        estimate: what it would have earned per decision (of a ranking: per list), where exploration was allowed.
        overlap: how much of the log the policy would have written itself.
    """

    target: str
    estimator: str
    estimate: Estimate
    overlap: Overlap


@dataclass(frozen=True)
class Evaluation:
    """Policies judged by a log.

    Attributes:
        decisions: how many there are.
        learnable: how many of them the estimates are from: exploration was allowed, and shown was what was drawn.
        mean_reward: what all decisions earned on average, whoever made them.
        on_policy: what those the estimates are from earned on average: the value of the policy that wrote the log.
        judged: the estimates.
        versions: how many policies wrote the log.
        notes: sentences on what to keep in mind.
    """

    decisions: int
    learnable: int
    mean_reward: float
    on_policy: Estimate
    judged: tuple[Judged, ...]
    versions: int
    notes: tuple[str, ...]

    @property
    def explorable(self) -> float:
        """The share of decisions that the estimates are about; they say nothing of the others."""
        return self.learnable / self.decisions


def evaluate(
    logged: Logged,
    targets: Sequence[Target] = (GREEDY, UNIFORM),
    estimators: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Judge policies by logged decisions.

    Where several policies wrote the log with the same model, each decision is weighed as if drawn from their mixture
    (Agarwal et al., KDD 2017, see `balanced_ips`). Rankings are judged position by position (Li et al., KDD 2018,
    "Offline Evaluation of Ranking Policies with Click Models": the item-position model): the estimate is of the sum of
    the rewards of all positions, and takes a position's reward not to depend on the other items.

    Args:
        logged: as `join` gives them.
        targets: ``"greedy"`` (the model's own choice, always), ``"uniform"``, ``"logged"``, policies, or what
            `guardrails.evaluation.targets.target_of` reads.
        estimators: of ``ips``, ``snips``, ``dm``, ``dr``, ``switch``; by default ``snips``, and ``dr`` for choices with
            the same candidates throughout, three or more. The last three need a reward model, which is cross-fitted
            from the features where these are rows of numbers, else from the mean of each action.
        confidence: of the intervals.
        seed: of bootstraps.

    Raises:
        ValueError: there is nothing to learn from, or a target or estimator does not go with these decisions.

    Example:
        >>> import numpy as np
        >>> from guardrails.decisions.joined.join import join
        >>> rows = [{"decision_id": str(i), "ts": i, "policy": "EpsilonGreedy(epsilon=0.5)", "eligible": True,
        ...          "scores": "[0.2, 0.9]", "pmf": "[0.25, 0.75]", "greedy": 1, "action": min(i % 4, 1),
        ...          "propensity": 0.75 if i % 4 else 0.25} for i in range(400)]
        >>> rewards = [{"decision_id": str(i), "ts": i, "reward": 1.0} for i in range(0, 400, 4)]
        >>> done = evaluate(join(rows, rewards, window="1h", now=1e6), ["greedy", "uniform"], ["ips"])
        >>> [(judged.target, judged.estimate.value) for judged in done.judged]
        [('greedy', 0.0), ('uniform', 0.5)]
    """
    usable = with_positions(logged.select(logged.learnable))
    if not len(usable):
        raise ValueError(
            f"none of the {len(logged)} decisions was explored: what other actions would have earned cannot be known."
        )
    refuse_impossible(usable)
    rows = rows_of(usable)
    propensity, versions, notes = mixed(usable, rows)
    chosen = _chosen(estimators, rows)
    judged: list[Judged] = []
    q = _predicted(usable) if set(chosen) & set(MODELLED) else None
    for target in targets:
        judged += _judge(target, usable, rows, propensity, chosen, q, confidence, seed)
    once: Any = np.ones(len(rows.reward))
    on_policy = _scaled(ips(rows.reward, once, once, **{**rows.options, "confidence": confidence}), rows.scale)
    return Evaluation(
        decisions=len(logged),
        learnable=len(usable),
        mean_reward=float(logged.reward.mean()),
        on_policy=replace(on_policy, method="on-policy mean"),
        judged=tuple(judged),
        versions=versions,
        notes=(*notes, *rows.notes, *_on_units(usable)),
    )


def _on_units(logged: Logged) -> list[str]:
    """What intervals cannot know of a log that only says what was drawn together on a day (before version 3)."""
    shared = any(
        unit == cluster != identity
        for unit, cluster, identity in zip(logged.unit, logged.cluster, logged.decision_id, strict=True)
    )
    if not shared or float(logged.ts.max() - logged.ts.min()) < DAY:
        return []
    text = (
        "Draws were kept by units, a day each: intervals take a unit's days for independent of each other. Where units "
        "differ much, and come again on many days, they are too narrow: judge one day at a time (since=, until=)."
    )
    return [text]


def _chosen(estimators: Sequence[str] | None, rows: Rows) -> tuple[str, ...]:
    if estimators is None:
        return ("snips", "dr") if rows.alike and _folds(rows) == FOLDS else ("snips",)
    for name in estimators:
        if name not in ESTIMATORS:
            raise ValueError(f"estimator {name!r} is none of {', '.join(ESTIMATORS)}.")
        if name in MODELLED and not rows.alike:
            raise ValueError(
                f"{name} needs a reward model, which these decisions have none for: it takes choices among the same "
                f"candidates throughout. Take {' or '.join(WEIGHTED)}."
            )
        if name in MODELLED and _folds(rows) < FOLDS:
            raise ValueError(
                f"{name} needs a reward model, which is learned from other rows than it predicts: that takes {FOLDS} "
                f"decisions (of {FOLDS} units, where units repeat) at least. Take {' or '.join(WEIGHTED)}."
            )
    return tuple(estimators)


def _folds(rows: Rows) -> int:
    """How many parts a reward model can be cross-fitted over, at most `FOLDS`."""
    unit = rows.options.get("unit")
    return min(FOLDS, len(rows.reward) if unit is None else len(np.unique(unit)))


def _predicted(logged: Logged) -> Floats:
    """The reward of each candidate, by a model that has not seen the row."""
    try:
        features: npt.NDArray[np.float64] | None = np.array(logged.features, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # a client's integer of hundreds of digits is one
        features = None
    if features is not None and (features.ndim != 2 or not np.isfinite(features).all()):  # noqa: PLR2004
        features = None
    units = None if logged.cluster == logged.decision_id else np.array(logged.cluster)
    return cross_fitted(features, logged.action, logged.reward, len(logged.pmf[0]), folds=FOLDS, unit=units)


def _judge(
    target: Target,
    logged: Logged,
    rows: Rows,
    propensity: Floats,
    estimators: Sequence[str],
    q: Floats | None,
    confidence: float,
    seed: int,
) -> list[Judged]:
    would = rows.would(target)
    choices: dict[str, Any] = {}
    if rows.alike:
        choices = {"pmf": logged.stacked("pmf"), "target_pmf": np.array(probabilities(target, logged))}
    shared = {**rows.options, "confidence": confidence, "on_low_overlap": "ignore", "seed": seed}
    density = bool(rows.options.get("density", False))
    seen = overlap(propensity, would, density=density, on_low_overlap="ignore", **choices)
    judged = []
    for name in estimators:
        if name in WEIGHTED:
            estimate = {"ips": ips, "snips": snips}[name](rows.reward, propensity, would, **choices, **shared)
        else:
            estimate = _modelled(name, rows.reward, propensity, would, logged, choices, q, shared)
        if lost := _lost(seen):
            estimate = replace(estimate, warnings=(*estimate.warnings, lost))
        judged.append(Judged(name_of(target), name, _scaled(estimate, rows.scale), seen))
    return judged


def _lost(seen: Overlap) -> str:
    """Where not all probabilities are known, it is the weights that tell what the log cannot have done."""
    if seen.unsupported is not None or abs(seen.mean_weight - 1.0) < OFF or seen.p_value > SURE:
        return ""
    return (
        f"Weights average {seen.mean_weight:.3g} instead of 1: the log cannot have done all that this policy does, or "
        "its propensities are wrong. Neither the value nor the interval allows for that."
    )


def _modelled(
    name: str,
    reward: Floats,
    propensity: Floats,
    would: Floats,
    logged: Logged,
    choices: dict[str, Any],
    q: Floats | None,
    shared: dict[str, Any],
) -> Estimate:
    predicted = np.empty(0) if q is None else q
    own, expected = predicted[np.arange(len(logged)), logged.action], (choices["target_pmf"] * predicted).sum(axis=1)
    if name == "dm":
        return dm(expected, **{key: value for key, value in shared.items() if key != "on_low_overlap"})
    if name == "switch":
        return switch(reward, propensity, would, own, expected, TAU, **shared)
    return dr(reward, propensity, would, own, expected, **choices, **shared)


def _scaled(estimate: Estimate, scale: float) -> Estimate:
    """Of a list, where the estimate is of a position."""
    return replace(estimate, value=estimate.value * scale, low=estimate.low * scale, high=estimate.high * scale)


def integrity(logged: Logged) -> LogIntegrity | None:
    """Whether the log was drawn with the probabilities that it says: see `check_log`.

    Args:
        logged: as `join` gives them; what was overridden by others is among what is tested.

    Returns:
        None for rankings and values, and where nothing was explored.
    """
    drawn = logged.select(logged.eligible)
    if logged.kind not in ("choice", "threshold") or not len(drawn) or not all(pmf.size for pmf in drawn.pmf):
        return None
    pmf = np.zeros((len(drawn), max(len(one) for one in drawn.pmf)))
    for row, one in enumerate(drawn.pmf):
        pmf[row, : len(one)] = one
    shown = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in drawn.shown]
    return check_log(
        drawn.action,
        pmf,
        drawn.propensity,
        greedy=drawn.greedy,
        served=np.array([-1 if not isinstance(one, int) or one < 0 else one for one in shown]),
        unit=None if drawn.unit == drawn.decision_id else np.array(drawn.unit),
    )
