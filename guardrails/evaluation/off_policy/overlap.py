"""Whether a log can say anything about another policy: how many of its rows that policy would have made, too."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import erfc, inf, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from guardrails.errors import GuardrailsWarning
from guardrails.evaluation.off_policy.arrays import (
    ROUNDING,
    effective_size,
    matrix,
    probabilities,
    ratio,
    vector,
)

LOW_SHARE = 0.01
"""Fewer effective rows than this share of the log are too few to trust any estimate by weights."""
OnLowOverlap = Literal["warn", "refuse", "ignore"]


class LowOverlap(GuardrailsWarning):
    """The log holds next to nothing about the policy that is being evaluated."""


@dataclass(frozen=True)
class Overlap:
    """How much a log says about another policy.

    Attributes:
        n: rows.
        ess: how many rows of the policy's own log they are worth, (sum w)^2 / sum w^2.
        share: `ess` / `n`.
        max_weight, mean_weight: of the importance weights. Their mean is 1 but for chance.
        p_value: of the mean being 1; small where propensities are wrong, or the log cannot do what the policy does. It
            takes the mean for normal: a log that misses rare, large weights looks worse than it is.
        supported: the share of rows whose action the policy might have taken.
        unsupported: how often the policy does what the log cannot have done, as the mean over rows; None where no
            probabilities of all candidates were given.
    """

    n: int
    ess: float
    share: float
    max_weight: float
    mean_weight: float
    p_value: float
    supported: float
    unsupported: float | None = None

    @property
    def low(self) -> bool:
        """Whether the effective rows are fewer than 1 % of all."""
        return self.share < LOW_SHARE

    def sentence(self) -> str:
        """One line for people."""
        text = (
            f"{self.n} rows are worth {self.ess:.0f} ({self.share:.1%}) of the policy's own; the largest weight is "
            f"{self.max_weight:.3g}, the mean {self.mean_weight:.3f} (1 but for chance: p {self.p_value:.2g})"
        )
        if not self.unsupported:
            return f"{text}."
        return f"{text}; {self.unsupported:.1%} of what the policy does the log cannot have done."


def overlap(
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
    *,
    pmf: npt.ArrayLike | None = None,
    target_pmf: npt.ArrayLike | None = None,
    density: bool = False,
    on_low_overlap: OnLowOverlap = "warn",
) -> Overlap:
    """Look at the importance weights before any estimate.

    Args:
        propensity: with which probability the log did what it did, shape ``(n,)``.
        target_propensity: with which probability the other policy does the same, shape ``(n,)``.
        pmf: the log's probabilities of all candidates, shape ``(n, K)`` or a list of rows of different lengths: with
            them, unsupported actions are found, and the test that weights average 1 knows their variance.
        target_pmf: those of the other policy, likewise.
        density: whether both are densities of continuous actions, which may exceed 1.
        on_low_overlap: what to do where effective rows are fewer than 1 % of all: ``"warn"`` (`LowOverlap`),
            ``"refuse"`` (`ValueError`) or ``"ignore"``.

    Raises:
        ValueError: arrays are empty, of different lengths, or no probabilities; or the overlap is refused.

    Example:
        >>> print(overlap([0.9, 0.1, 0.9, 0.1], [1.0, 0.0, 1.0, 1.0]).sentence())
        4 rows are worth 1 (36.4%) of the policy's own; the largest weight is 10, the mean 3.056 (1 but for chance: p 0.38).
    """  # noqa: E501
    n = len(vector(propensity, "propensity"))
    logged = probabilities(propensity, "propensity", n, density=density, zero=False)
    target = probabilities(target_propensity, "target_propensity", n, density=density, zero=True)
    weight = ratio(target, logged)
    known = _from_pmf(pmf, target_pmf, n)
    unsupported, expected, variance = known or (None, 1.0, float(weight.var(ddof=1)) if n > 1 else 0.0)
    mean = float(weight.mean())
    ess = effective_size(weight)
    found = Overlap(
        n=n,
        ess=ess,
        share=ess / n,
        max_weight=float(weight.max()),
        mean_weight=mean,
        p_value=_normal_p(mean - expected, sqrt(max(variance, 0.0) / n)),
        supported=float((target > 0).mean()),
        unsupported=unsupported,
    )
    mind(found.ess, n, on_low_overlap)
    return found


def unsupported_mass(pmf: npt.ArrayLike | None, target_pmf: npt.ArrayLike | None, rows: int) -> float | None:
    """How often the policy does what the log cannot have done; None without the probabilities of all candidates."""
    known = _from_pmf(pmf, target_pmf, rows)
    return known[0] if known else None


def largest_weight(pmf: npt.ArrayLike | None, target_pmf: npt.ArrayLike | None, rows: int) -> float:
    """The largest weight that any candidate of any row could have got; infinity where the log cannot have done it."""
    if pmf is None or target_pmf is None:
        return inf
    logged, target = matrix(pmf, "pmf", rows), matrix(target_pmf, "target_pmf", rows)
    wanted = target > 0
    return float(np.divide(target, logged, out=np.full(logged.shape, inf), where=wanted & (logged > 0))[wanted].max())


def _from_pmf(
    pmf: npt.ArrayLike | None, target_pmf: npt.ArrayLike | None, rows: int
) -> tuple[float, float, float] | None:
    """Unsupported mass, mean and variance of a weight, from the probabilities of all candidates; None without."""
    if pmf is None and target_pmf is None:
        return None
    if pmf is None or target_pmf is None:
        raise ValueError("pmf and target_pmf belong together: what the log could do, and what the policy does.")
    logged, target = matrix(pmf, "pmf", rows), matrix(target_pmf, "target_pmf", rows)
    if logged.shape != target.shape:
        raise ValueError(f"pmf has the shape {logged.shape}, target_pmf {target.shape}: they must have the same one.")
    for name, of in (("pmf", logged), ("target_pmf", target)):
        wrong = np.flatnonzero((of < 0).any(axis=1) | (abs(of.sum(axis=1) - 1) > of.shape[1] * ROUNDING + 1e-6))
        if len(wrong):
            raise ValueError(f"{name} is no distribution in row {wrong[0]}: it sums to {of[wrong[0]].sum():.6g}.")
    possible = logged > 0
    unsupported = float(np.where(possible, 0.0, target).sum(axis=1).mean())
    squares = np.divide(target**2, logged, out=np.zeros_like(target), where=possible).sum(axis=1)
    means = np.where(possible, target, 0.0).sum(axis=1)
    return unsupported, float(means.mean()), float((squares - means**2).mean())


def _normal_p(difference: float, error: float) -> float:
    """Two-sided p-value of a normal difference from 0."""
    if error <= 0:
        return 1.0 if abs(difference) <= ROUNDING else 0.0
    return erfc(abs(difference) / error / sqrt(2))


def mind(ess: float, n: int, on_low_overlap: OnLowOverlap, stacklevel: int = 3) -> str:
    """Warn of too little overlap, or refuse it; returns the sentence, empty where there is enough."""
    if on_low_overlap not in ("warn", "refuse", "ignore"):
        raise ValueError(f"on_low_overlap is {on_low_overlap!r}; it must be 'warn', 'refuse' or 'ignore'.")
    if ess >= LOW_SHARE * n:
        return ""
    text = (
        f"The {n} logged rows are worth only {ess:.1f} of the evaluated policy's own ({ess / n:.2%}): no estimate by "
        "weights is to be trusted. Log with more exploration, or evaluate a policy nearer to the logged one."
    )
    if on_low_overlap == "refuse":
        raise ValueError(text)
    if on_low_overlap == "warn":
        warnings.warn(text, LowOverlap, stacklevel=stacklevel)
    return text
