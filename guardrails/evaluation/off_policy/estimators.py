"""What another policy would have earned, from the log of one that explored: each row weighed by its propensity.

The estimates that use a model of the reward are in `with_model`, and are to be had here, too.
"""

from __future__ import annotations

import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import weigh
from guardrails.evaluation.off_policy.estimate import Estimate
from guardrails.evaluation.off_policy.finishing import IntervalKind, by_weights, wanted
from guardrails.evaluation.off_policy.overlap import OnLowOverlap, mind
from guardrails.evaluation.off_policy.with_model import dm, dr, switch

__all__ = ["dm", "dr", "ips", "snips", "switch"]


def ips(
    reward: npt.ArrayLike,
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
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
    """Inverse propensity scoring: the mean of weight x reward, weight = target_propensity / propensity.

    Unbiased where propensities are right and the log could do all that the policy does; but noisy. Usually `snips`
    is nearer. Source: Horvitz and Thompson (1952); for policies Li, Chu, Langford, Wang (WSDM 2011).

    Args:
        reward: what was earned, shape ``(n,)``; higher is better.
        propensity: with which probability the log did what it did, above 0, shape ``(n,)``.
        target_propensity: with which probability the policy in question does the same, shape ``(n,)``; for one that
            does not explore 1 where it agrees, else 0.
        confidence: of the interval.
        interval: ``"cressie_read"`` (empirical likelihood, the best of these; see `cressie_read`), ``"delta"``
            (normal) or ``"bootstrap"``. By default the first, or the last where units repeat.
        reward_range: the lowest and highest possible reward, which ``"cressie_read"`` rests on. By default 0 to 1,
            widened to what was seen (the estimate then says so). Rewards outside of a range given are refused.
        weight_range: the smallest and largest weights possible, where the design bounds them: with exploration of
            at least eps/K per action, none exceeds K/eps. Makes ``"cressie_read"`` narrower, where rewards are rare by
            many times. By default what `pmf` and `target_pmf` say, or from 0 to infinity without them.
        clip: the largest weight allowed; None does not clip. Clipping biases towards 0, often badly: what it cuts
            off is `Estimate.clipped`. ``"cressie_read"`` keeps its promise nevertheless, ``"delta"`` does not.
        density: whether propensities are densities of continuous actions, which may exceed 1.
        unit: who each row belongs to, shape ``(n,)``, where rows of one user are not independent; resampled whole by
            ``"bootstrap"``, allowed for by ``"delta"``, refused by ``"cressie_read"``.
        pmf: the log's probabilities of all candidates, shape ``(n, K)`` or a list of rows of different lengths, to
            know of unsupported actions and of the largest possible weight.
        target_pmf: those of the policy in question, likewise.
        on_low_overlap: where effective rows are fewer than 1 % of all: ``"warn"``, ``"refuse"`` or ``"ignore"``.
        seed: of the bootstrap.

    Raises:
        ValueError: arrays are empty, of different lengths, hold NaN, propensities are none; an option is wrong.

    Example:
        >>> estimate = ips([1, 0, 1, 1], [0.8, 0.2, 0.8, 0.2], [1, 0, 1, 1])
        >>> round(estimate.value, 6)
        1.875
    """
    rows = weigh(reward, propensity, target_propensity, density=density, clip=clip, unit=unit)
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
    return by_weights(rows, "ips", how, mind(rows.ess, len(rows), on_low_overlap))


def snips(
    reward: npt.ArrayLike,
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
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
    """Self-normalised inverse propensity scoring: sum of weight x reward over the sum of weights.

    The estimate to start with: always within the rewards seen, unmoved by a constant added to all rewards, mostly far
    less noisy than `ips`, with a bias that fades as 1/n. Where no row weighs anything it is NaN. Source: Swaminathan
    and Joachims: The Self-Normalized Estimator for Counterfactual Learning (NeurIPS 2015).

    Args:
        reward: shape ``(n,)``, as of `ips`.
        propensity: shape ``(n,)``, as of `ips`.
        target_propensity: shape ``(n,)``, as of `ips`.
        confidence: as of `ips`.
        interval: as of `ips`.
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
        >>> estimate = snips([1, 0, 1, 1], [0.8, 0.2, 0.8, 0.2], [1, 0, 1, 1])
        >>> estimate.value
        1.0
    """
    rows = weigh(reward, propensity, target_propensity, density=density, clip=clip, unit=unit)
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
    return by_weights(rows, "snips", how, mind(rows.ess, len(rows), on_low_overlap))
