"""Gaussian Thompson sampling, with the probabilities that drawing from the posteriors only implies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.errors import DecorationError
from guardrails.exploration.policies._arrays import checked
from guardrails.typing import Mask, Probabilities, Scores

Floats = npt.NDArray[np.float64]

_REACH = 8.0
"""So many deviations from a mean nothing is left to integrate: 1e-15."""
_NODES = 64
_EXACT = 1e-11
_LEVELS = 200
_MOST_PANELS = 2_000
_AT_ONCE = 400_000
"""So many numbers of one temporary array: 3 MB."""
_MASS = 1e-6
_ROOT2PI = math.sqrt(2.0 * math.pi)
_HUGE, _SMALLER = 1e300, 2.0**-64


@dataclass(frozen=True)
class GaussianThompson:
    """The probability of being the best, where every action's value is believed to be Gaussian, independently.

    The scores are the posterior means. ``p(a)`` is the integral of ``phi_a(x) prod over b != a of Phi_b(x)``, by
    64-node Gauss-Legendre quadrature: a panel whose mass differs by more than 1e-11 from what the distribution
    functions at its ends say is halved until none does, so that deviations of very different sizes come out right.
    Absolute error: below 1e-9. Thompson sampling draws from the posteriors and knows no propensity; here the draw is
    one from exact, logged probabilities. Cost grows with K squared at worst: meant for up to some hundred actions.

    A deviation of 0 is a value that is known for certain (the incumbent's, say); equal certain values share equally,
    so that with all deviations 0 the best ones share everything. A mean of -inf is never drawn, means of +inf share
    everything equally, whatever their deviations.

    Args:
        deviation: the posteriors' standard deviation, in the scores' unit: one for all actions, or one per action, by
            number. Where they depend on the request, give them to `pmf`.

    Raises:
        DecorationError: a deviation is negative or not finite, or there is none.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.policies import GaussianThompson
        >>> GaussianThompson(deviation=0.1).pmf(np.array([0.5, 0.6])).round(4).tolist()
        [0.2398, 0.7602]
        >>> GaussianThompson(deviation=(0.3, 0.0)).pmf(np.array([0.5, 0.6])).round(4).tolist()
        [0.3694, 0.6306]
    """

    deviation: float | Sequence[float]
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        try:
            given = np.asarray(self.deviation, dtype=np.float64)
        except (TypeError, ValueError):
            given = np.array(math.nan)
        if given.ndim > 1 or given.size == 0 or not ((given >= 0.0) & (given < math.inf)).all():
            raise DecorationError(
                f"GaussianThompson(deviation={self.deviation!r}): one finite number from 0, or one per action."
            )
        object.__setattr__(self, "deviation", given.item() if given.ndim == 0 else tuple(given.tolist()))

    def pmf(self, scores: Scores, /, deviation: npt.ArrayLike | None = None) -> Probabilities:
        """Probabilities for posterior means of shape ``(K,)`` or ``(n, K)``, in the same shape.

        Args:
            scores: the means.
            deviation: standard deviations instead of the policy's own: one, ``(K,)``, or as many as there are scores.

        Raises:
            ValueError: a score is NaN, there is no action, the deviations do not fit the scores, or they differ so
                much (by more than some 1e55) that 200 halvings do not resolve the narrowest.
        """
        means = checked(scores)
        spread = _spread(self.deviation if deviation is None else deviation, means)
        actions = means.shape[-1]
        return _best(*_relative(means.reshape(-1, actions), spread.reshape(-1, actions))).reshape(means.shape)

    def among(self, kept: Sequence[int]) -> GaussianThompson:
        """The policy where only some actions are left, renumbered in that order."""
        if not isinstance(self.deviation, tuple):
            return self
        return GaussianThompson([self.deviation[action] for action in kept])


def _spread(deviation: npt.ArrayLike, means: Scores) -> Floats:
    spread = np.asarray(deviation, dtype=np.float64)
    if not ((spread >= 0.0) & (spread < math.inf)).all():
        raise ValueError("a deviation is negative or not finite")
    try:
        return np.broadcast_to(spread, means.shape)
    except ValueError:
        raise ValueError(f"deviations of shape {spread.shape} for scores of shape {means.shape}") from None


def _relative(means: Scores, spread: Floats) -> tuple[Floats, Floats]:
    """Means around the narrowest posterior that may be the best; what is infinite becomes certain, as it acts."""
    infinite = np.isinf(means)
    size = np.maximum(np.abs(np.where(infinite, 0.0, means)), spread).max(axis=1, keepdims=True, initial=0.0)
    if (size > _HUGE).any():  # a power of two changes no probability, and leaves room for differences
        factor = np.where(size > _HUGE, _SMALLER, 1.0)
        means, spread = means * factor, spread * factor
    if infinite.any():
        top = means.max(axis=1, keepdims=True)
        endless = np.isinf(top)
        means = np.where(endless, np.where(means == top, 0.0, -math.inf), means)
        spread = np.where(np.isneginf(means) | endless, 0.0, spread)
    # Floats are densest around zero, so that is where the finest detail has to be.
    reach = _REACH * spread
    low = (means - reach).max(axis=1, keepdims=True)
    hopeful = (means + reach >= low) & ((spread > 0.0) | (means == low))
    origin = np.where(hopeful, spread, math.inf).argmin(axis=1)
    return means - means[np.arange(len(means)), origin][:, None], spread


def _best(means: Floats, spread: Floats) -> Probabilities:
    """P(each action is the best), for rows of finite means and deviations, certain values having deviation 0."""
    # Below `low` some action lies with all its mass above, so the best of all cannot be there.
    low, high = (means - _REACH * spread).max(axis=1), (means + _REACH * spread).max(axis=1)
    certain = spread == 0.0
    if not certain.any():
        pmf = _integrals(low, high, means, spread)
    else:  # a certain value acts like one at -inf on everything above it, and nothing below it can be the best
        above, width = np.where(certain, -math.inf, means), np.where(certain, 1.0, spread)
        pmf = _integrals(low, high, above, width) + _certain(np.where(certain, means, -math.inf), above, width)
    mass = pmf.sum(axis=1, keepdims=True)
    if not (np.abs(mass - 1.0) <= _MASS).all():
        raise ValueError(
            f"the probabilities add up to {mass.flat[np.abs(mass - 1.0).argmax()]:.6g} before they are normalised: the "
            "deviations differ by too many orders of magnitude to be told apart. Is one of them meant to be 0?"
        )
    best: Probabilities = pmf / mass
    return best


def _certain(values: Floats, means: Floats, spread: Floats) -> Floats:
    """P(all others lie below the best certain value), shared by those that have it."""
    from scipy.special import ndtr

    bar = values.max(axis=1, keepdims=True)
    holders = (values == bar) & np.isfinite(bar)
    below = ndtr((np.where(np.isfinite(bar), bar, 0.0) - means) / spread).prod(axis=1, keepdims=True)
    return np.where(holders, below / np.maximum(holders.sum(axis=1, keepdims=True), 1), 0.0)


def _integrals(low: Floats, high: Floats, means: Floats, spread: Floats) -> Floats:
    """Each action's integral from low to high, shape ``(n, K)``: panels are halved until each has its exact mass."""
    rows, actions = means.shape
    integrals = np.zeros((rows, actions))
    row = np.flatnonzero(high > low)
    low, high = low[row], high[row]
    chunk = max(1, _AT_ONCE // (_NODES * actions))
    for _ in range(_LEVELS):
        if not 0 < len(row) <= _MOST_PANELS * rows:
            break
        poor = np.zeros(len(row), dtype=bool)
        for part in (slice(start, start + chunk) for start in range(0, len(row), chunk)):
            masses, fine = _panels(low[part], high[part], means[row[part]], spread[row[part]])
            np.add.at(integrals, row[part][fine], masses[fine])
            poor[part] = ~fine
        middle = 0.5 * (low[poor] + high[poor])
        row = np.concatenate([row[poor], row[poor]])
        low, high = np.concatenate([low[poor], middle]), np.concatenate([middle, high[poor]])
    return integrals


def _panels(low: Floats, high: Floats, means: Floats, spread: Floats) -> tuple[Floats, Mask]:
    """Each action's integral over its row's panel, shape ``(p, K)``, and whether they sum to the panel's exact mass."""
    from scipy.special import ndtr

    nodes, weights = _legendre()
    half = 0.5 * (high - low)
    x = low[:, None] + half[:, None] * nodes
    x[:, -1] = high
    with np.errstate(over="ignore", under="ignore"):
        z = (x[:, :, None] - means[:, None, :]) / spread[:, None, :]
        # No logarithms are needed: to the right of `low` no z is below -8, so no factor below 6e-16.
        below = ndtr(z)
        all_below = below.prod(axis=2)
        below, z = below[:, 1:-1], z[:, 1:-1]
        density = np.exp(-0.5 * z * z) * (all_below[:, 1:-1, None] / below)
        masses = (density * (half[:, None] * weights)[:, :, None]).sum(axis=1) / (_ROOT2PI * spread)
    exact = all_below[:, -1] - all_below[:, 0]
    return masses, np.abs(masses.sum(axis=1) - exact) <= _EXACT


@lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    """Nodes on [0, 2], the ends included, and the weights of those between."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)  # type: ignore[no-untyped-call]
    return np.concatenate([[0.0], 1.0 + nodes, [2.0]]), weights
