"""Off-policy estimates with a model of the reward: the direct method, doubly robust, and switching between them."""

from __future__ import annotations

from math import inf

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import Floats, Weighted, bounds, groups, vector, weigh
from guardrails.evaluation.off_policy.estimate import Estimate
from guardrails.evaluation.off_policy.finishing import (
    IntervalKind,
    Wanted,
    doubts,
    finished,
    of_ratio,
    wanted,
)
from guardrails.evaluation.off_policy.intervals import cressie_read_doubly_robust
from guardrails.evaluation.off_policy.overlap import OnLowOverlap, mind

UNMODELLED = "The interval knows nothing of the reward model's own error."


def dm(
    q_target: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    interval: IntervalKind | None = None,
    unit: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Estimate:
    """The direct method: the mean of what a reward model predicts for the policy.

    As wrong as the model is, and its interval does not know how wrong that is: it is for comparison, and for `dr`.

    Args:
        q_target: per row the predicted rewards of all candidates, weighted by the policy's probabilities:
            ``(target_pmf * q).sum(axis=1)`` with `q` from `cross_fitted`, shape ``(n,)``.
        confidence: of the interval, over which requests came, not over what the model learnt.
        interval: ``"delta"`` (default) or ``"bootstrap"`` (default where units repeat).
        unit: who each row belongs to, shape ``(n,)``.
        seed: of the bootstrap.

    Raises:
        ValueError: the array is empty or holds NaN.

    Example:
        >>> dm([0.2, 0.4]).value
        0.30000000000000004
    """
    predicted = vector(q_target, "q_target")
    rows = Weighted(predicted, np.ones_like(predicted), unit=groups(unit, len(predicted)))
    how = Wanted(confidence=confidence, interval=interval, seed=seed)
    return _mean(predicted, rows, "dm", how, [UNMODELLED])


def dr(
    reward: npt.ArrayLike,
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
    q_logged: npt.ArrayLike,
    q_target: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    interval: IntervalKind | None = None,
    reward_range: tuple[float, float] | None = None,
    weight_range: tuple[float, float] | None = None,
    clip: float | None = None,
    density: bool = False,
    unit: npt.ArrayLike | None = None,
    pmf: npt.ArrayLike | None = None,
    target_pmf: npt.ArrayLike | None = None,
    on_low_overlap: OnLowOverlap = "warn",
    seed: int = 0,
) -> Estimate:
    """Doubly robust: a reward model's prediction, mended by the weighted errors it made on the log.

    Unbiased where propensities are right, however wrong the model is; the better the model, the less noisy. The model
    must not have been trained on the row it predicts: `cross_fitted` sees to that. Source: Dudik, Langford, Li: Doubly
    Robust Policy Evaluation and Learning (ICML 2011); cross-fitting: Chernozhukov et al. (2018).

    Args:
        reward: shape ``(n,)``, as of `ips`.
        propensity: shape ``(n,)``, as of `ips`.
        target_propensity: shape ``(n,)``, as of `ips`.
        q_logged: the model's prediction for what was logged, shape ``(n,)``.
        q_target: its prediction for the policy, ``(target_pmf * q).sum(axis=1)``, shape ``(n,)``.
        confidence: of the interval.
        interval: ``"cressie_read"`` (default where the largest weight is known, from `weight_range` or `pmf`),
            ``"delta"`` (default where it is not) or ``"bootstrap"`` (default where units repeat).
        reward_range: as of `ips`.
        weight_range: as of `ips`.
        clip: as of `ips`.
        density: as of `ips`.
        unit: as of `ips`.
        pmf: as of `ips`.
        target_pmf: as of `ips`.
        on_low_overlap: as of `ips`.
        seed: as of `ips`.

    Raises:
        ValueError: as `ips`.

    Example:
        >>> dr([1, 0, 1, 1], [0.8, 0.2, 0.8, 0.2], [1, 0, 1, 1], [0.9, 0.1, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9]).value
        1.0875
    """
    rows = weigh(reward, propensity, target_propensity, density=density, clip=clip, unit=unit)
    logged, predicted = vector(q_logged, "q_logged", len(rows)), vector(q_target, "q_target", len(rows))
    how = wanted(
        rows,
        pmf,
        target_pmf,
        weight_range=weight_range,
        confidence=confidence,
        interval=interval,
        reward_range=reward_range,
        seed=seed,
    )
    kind = how.kind(rows, "delta" if how.weight_range is None else "cressie_read")
    notes = doubts(rows, mind(rows.ess, len(rows), on_low_overlap), kind, how)
    residual = rows.reward - logged
    values = predicted + rows.weight * residual
    if kind != "cressie_read":
        return _mean(values, rows, "dr", how, notes)
    ends = cressie_read_doubly_robust(
        rows.weight,
        residual,
        predicted,
        logged,
        confidence,
        reward_range=bounds(rows.reward, reward_range),
        weight_range=how.weight_range or (0.0, inf),
    )
    return finished(float(values.mean()), ends, rows, "dr, cressie_read", how, notes)


def switch(
    reward: npt.ArrayLike,
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
    q_logged: npt.ArrayLike,
    q_target: npt.ArrayLike,
    tau: float,
    *,
    confidence: float = 0.95,
    interval: IntervalKind | None = None,
    density: bool = False,
    unit: npt.ArrayLike | None = None,
    on_low_overlap: OnLowOverlap = "warn",
    seed: int = 0,
) -> Estimate:
    """Doubly robust, but trusting the reward model alone in rows that weigh more than `tau`.

    Less noisy than `dr` and biased by the model's error in those rows: `Estimate.clipped` is the mean weight left out.
    Source: Wang, Agarwal, Dudik: Optimal and Adaptive Off-policy Evaluation in Contextual Bandits (ICML 2017), in the
    form of Saito et al. (arXiv 2008.07146), which needs no probabilities but those of what was logged.

    Args:
        reward: shape ``(n,)``, as of `dr`.
        propensity: shape ``(n,)``, as of `dr`.
        target_propensity: shape ``(n,)``, as of `dr`.
        q_logged: shape ``(n,)``, as of `dr`.
        q_target: shape ``(n,)``, as of `dr`.
        tau: the largest weight for which the log is believed; infinity gives `dr`, 0 gives `dm`.
        confidence: as of `dr`.
        interval: as of `dr`.
        density: as of `dr`.
        unit: as of `dr`.
        on_low_overlap: as of `dr`.
        seed: as of `dr`.

    Raises:
        ValueError: as `ips`; tau is negative or NaN.

    Example:
        >>> switch([1.0, 0.0], [0.5, 0.05], [1.0, 1.0], [0.8, 0.3], [0.8, 0.3], tau=5).value
        0.75
    """
    if not tau >= 0:
        raise ValueError(f"tau is {tau}; it must be the largest weight for which the log is believed, 0 or more.")
    rows = weigh(reward, propensity, target_propensity, density=density, unit=unit)
    logged, predicted = vector(q_logged, "q_logged", len(rows)), vector(q_target, "q_target", len(rows))
    believed = np.where(rows.weight <= tau, rows.weight, 0.0)
    lost = float((rows.weight - believed).mean())
    text = mind(rows.ess, len(rows), on_low_overlap)
    used = Weighted(rows.reward, believed, lost, rows.unit)
    notes = [text] if text else []
    if lost:
        notes.append(f"Rows of {lost:.3g} mean weight are the model's word alone. {UNMODELLED}")
    how = Wanted(confidence=confidence, interval=interval, seed=seed)
    return _mean(predicted + believed * (rows.reward - logged), used, "switch", how, notes)


def _mean(values: Floats, rows: Weighted, method: str, how: Wanted, notes: list[str]) -> Estimate:
    """The estimate that is the mean of one value per row."""
    kind = how.kind(rows, "delta")
    if kind == "cressie_read":
        raise ValueError(f"{method} has no 'cressie_read' interval: take 'delta' or 'bootstrap'.")
    ends = of_ratio(kind, values, np.ones(len(rows)), rows, how)
    return finished(float(values.mean()), ends, rows, f"{method}, {kind}", how, notes)
