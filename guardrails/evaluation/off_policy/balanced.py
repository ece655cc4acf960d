"""Off-policy estimates from a log that several versions of a policy wrote."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import Floats, probabilities, vector, weigh
from guardrails.evaluation.off_policy.estimate import Estimate
from guardrails.evaluation.off_policy.finishing import IntervalKind, by_weights, wanted
from guardrails.evaluation.off_policy.overlap import OnLowOverlap, mind


def balanced_ips(
    reward: npt.ArrayLike,
    propensities: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
    *,
    version: npt.ArrayLike | None = None,
    shares: npt.ArrayLike | None = None,
    self_normalised: bool = False,
    confidence: float = 0.95,
    interval: IntervalKind | None = None,
    reward_range: tuple[float, float] | None = None,
    weight_range: tuple[float, float] | None = None,
    clip: float | None = None,
    density: bool = False,
    unit: npt.ArrayLike | None = None,
    on_low_overlap: OnLowOverlap = "warn",
    seed: int = 0,
) -> Estimate:
    """IPS over a log that several versions of the policy wrote, each row weighed as if drawn from their mixture.

    Never noisier than weighing each row by its own version's propensity, mostly far less: a version that hardly
    explored gives no more huge weights where another one did. Source: Agarwal, Basu, Schnabel, Joachims: Effective
    Evaluation using Logged Bandit Feedback from Multiple Loggers (KDD 2017).

    Args:
        reward: shape ``(n,)``, as of `ips`.
        target_propensity: shape ``(n,)``, as of `ips`.
        propensities: with which probability each version would have done what each row logged, shape ``(J, n)``;
            0 is allowed, if not for all versions.
        version: which version (a row of `propensities`, from 0) wrote each row, shape ``(n,)``.
        shares: instead of `version`: which share of the rows each version wrote, shape ``(J,)``.
        self_normalised: whether to divide by the sum of weights, as `snips`.
        confidence: as of `ips`.
        interval: as of `ips`.
        reward_range: as of `ips`.
        weight_range: as of `ips`.
        clip: as of `ips`.
        density: as of `ips`.
        unit: as of `ips`.
        on_low_overlap: as of `ips`.
        seed: as of `ips`.

    Raises:
        ValueError: as `ips`; neither or both of `version` and `shares` were given.

    Example:
        >>> estimate = balanced_ips([1, 0, 1], [[0.9, 0.1, 0.9], [0.5, 0.5, 0.5]], [1, 0, 1], version=[0, 0, 1])
        >>> round(estimate.value, 6)
        0.869565
    """
    rewards = vector(reward, "reward")
    mixed = mixture(propensities, len(rewards), version, shares, density=density)
    rows = weigh(rewards, mixed, target_propensity, density=density, clip=clip, unit=unit)
    how = wanted(
        rows,
        weight_range=weight_range,
        confidence=confidence,
        interval=interval,
        reward_range=reward_range,
        seed=seed,
    )
    name = "balanced snips" if self_normalised else "balanced ips"
    return by_weights(rows, name, how, mind(rows.ess, len(rows), on_low_overlap))


def mixture(
    propensities: npt.ArrayLike,
    rows: int,
    version: npt.ArrayLike | None,
    shares: npt.ArrayLike | None,
    *,
    density: bool = False,
) -> Floats:
    """The probability of each row's action under the mixture of all versions that wrote the log, shape ``(n,)``."""
    each = np.asarray(propensities, dtype=np.float64)
    if each.ndim != 2 or not each.shape[0] or each.shape[1] != rows:  # noqa: PLR2004
        raise ValueError(f"propensities has the shape {each.shape}; it must be one row per version, (J, {rows}).")
    for number, one in enumerate(each):
        probabilities(one, f"propensities[{number}]", rows, density=density, zero=True)
    if (version is None) == (shares is None):
        raise ValueError("balanced_ips needs either version= (who wrote each row) or shares= (how much each wrote).")
    if version is not None:
        wrote = np.asarray(version)
        if wrote.shape != (rows,) or wrote.dtype.kind not in "iu" or wrote.min() < 0 or wrote.max() >= len(each):
            raise ValueError(f"version must be one whole number from 0 to {len(each) - 1} per row, shape ({rows},).")
        share = np.bincount(wrote, minlength=len(each)) / rows
    else:
        share = vector(shares, "shares", None) if shares is not None else np.empty(0)
        if len(share) != len(each) or (share < 0).any() or abs(share.sum() - 1) > 1e-6:  # noqa: PLR2004
            raise ValueError(f"shares must be {len(each)} numbers, none negative, that sum to 1, not {share.tolist()}.")
    mixed: Floats = share @ each
    return mixed
