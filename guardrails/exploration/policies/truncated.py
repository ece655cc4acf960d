"""The truncated Gaussian, exact however far the prediction lies outside the range."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.exploration.policies._arrays import settle
from guardrails.exploration.policies.values import Floats, Value, finite

_ROOT2, _ROOT2PI, _ROOT2_PI = math.sqrt(2.0), math.sqrt(2.0 * math.pi), math.sqrt(2.0 / math.pi)
_WIDEST = 1e6
_STEPS = 60
_Part = Callable[..., Floats]
_SETTLED = 1e-15
_FURTHEST, _TINY = 1e100, 1e-300


@dataclass(frozen=True)
class TruncatedGaussian(Value):
    """A Gaussian around the prediction, given that it lies in ``[low, high]``.

    Noise that is clipped puts mass on the ends (31 % for a prediction half a deviation below one), where there is no
    density to weigh with; truncation has a density everywhere. It is computed from the end nearest to the prediction
    with scaled complementary error functions, so that it stays exact thousands of deviations away, where both tails of
    a Gaussian are zero in floats (there it is close to exponential). A prediction may lie outside the range, up to
    where all values drawn would be the end itself: some 1e10 deviations, if deviation and range are alike.

    Args:
        deviation: the standard deviation before truncation, in the value's unit; at most a million times the range.
        low, high: the range of the values.
        step: serve only ``low, low + step, ..., high`` (for price endings): the drawn value is rounded, and `pdf` gives
            probabilities.

    Raises:
        DecorationError: the deviation is not above 0 or of another order than the range, or the range is none, or no
            whole number of steps.

    Example:
        >>> from guardrails.exploration.policies import TruncatedGaussian
        >>> policy = TruncatedGaussian(deviation=0.1, low=0.0, high=1.0)
        >>> policy.pdf(0.95, [0.9, 1.0, 1.1]).round(3).tolist(), round(policy.sample(0.95, 0.5), 4)
        ([5.092, 5.092, 0.0], 0.9103)
        >>> prices = TruncatedGaussian(deviation=0.2, low=0.99, high=2.99, step=0.5)
        >>> prices.sample(1.8, 0.9), float(prices.pdf(1.8, 1.99).round(3))
        (1.99, 0.604)
    """

    deviation: float
    low: float
    high: float
    step: float | None = None
    kind: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        self._settle_range()
        widest, finest = _WIDEST * (self.high - self.low), 0.0 if self.step else self._finest()
        rule = f"for this range, a deviation lies between {finest:g} and {widest:g}, and above 0"
        settle(self, "deviation", lambda d: d > 0.0 and finest <= d <= widest, rule)

    def log_pdf(self, prediction: npt.ArrayLike, value: npt.ArrayLike) -> Floats:
        """The logarithm of the density before any rounding, where the density itself is too small for a float.

        Returns:
            -inf outside ``[low, high]``. Shapes broadcast.

        Raises:
            ValueError: a prediction is not finite, or too far outside the range.
        """
        predicted, values = np.broadcast_arrays(finite(prediction), np.asarray(value, dtype=np.float64))
        inside = (values >= self.low) & (values <= self.high)
        return np.where(inside, self._log_density(predicted, np.clip(values, self.low, self.high)), -math.inf)

    def _density(self, prediction: Floats, value: Floats) -> Floats:
        return np.exp(self._log_density(prediction, value))

    def _log_density(self, prediction: Floats, value: Floats) -> Floats:
        return self._by_side(self._log_density_near, self._log_density_far, prediction, value)

    def _log_density_near(self, prediction: Floats, value: Floats) -> Floats:
        z = (value - prediction) / self.deviation
        return np.asarray(-0.5 * z * z - np.log(_ROOT2PI * self.deviation * self._whole(prediction)))

    def _log_density_far(self, prediction: Floats, value: Floats) -> Floats:
        from scipy.special import erfcx

        away, end, sign = self._outside(prediction)
        at_end = _ROOT2_PI / (erfcx(away / _ROOT2) * self.deviation * self._whole_beyond(away))
        return np.asarray(np.log(at_end) - _drop(away, sign * (value - end) / self.deviation))

    def _mass(self, prediction: Floats, start: Floats, stop: Floats) -> Floats:
        return self._by_side(self._mass_near, self._mass_far, prediction, start, stop)

    def _mass_near(self, prediction: Floats, start: Floats, stop: Floats) -> Floats:
        between = _between((start - prediction) / self.deviation, (stop - prediction) / self.deviation)
        return np.asarray(between / self._whole(prediction))

    def _mass_far(self, prediction: Floats, start: Floats, stop: Floats) -> Floats:
        away, end, sign = self._outside(prediction)
        nearer, further = np.where(sign > 0, start, stop), np.where(sign > 0, stop, start)
        survived = _survival(away, np.abs(nearer - end) / self.deviation)
        return np.asarray(
            (survived - _survival(away, np.abs(further - end) / self.deviation)) / self._whole_beyond(away)
        )

    def _quantile(self, prediction: Floats, u: Floats) -> Floats:
        return self._by_side(self._quantile_near, self._quantile_far, prediction, u)

    def _quantile_near(self, prediction: Floats, u: Floats) -> Floats:
        from scipy.special import ndtr, ndtri

        whole = self._whole(prediction)
        left = ndtr((self.low - prediction) / self.deviation) + u * whole
        right = ndtr((prediction - self.high) / self.deviation) + (1.0 - u) * whole
        z = np.where(left < right, 1.0, -1.0) * ndtri(np.minimum(np.minimum(left, right), 0.5))
        return np.asarray(prediction + self.deviation * z)

    def _quantile_far(self, prediction: Floats, u: Floats) -> Floats:
        away, end, sign = self._outside(prediction)
        inwards = np.where(sign > 0, u, 1.0 - u)
        with np.errstate(divide="ignore"):
            drop = -np.log1p(-inwards * self._whole_beyond(away))
        furthest = -_log_survival(away, np.asarray((self.high - self.low) / self.deviation))
        beyond = _inverse_survival(away, np.minimum(np.minimum(drop, furthest), _FURTHEST))
        return np.asarray(end + sign * self.deviation * beyond)

    def _by_side(self, near: _Part, far: _Part, prediction: Floats, *others: Floats) -> Floats:
        """One function for the predictions in the range, another for those outside it."""
        centre = np.clip(prediction, self.low, self.high)
        inside = prediction == centre
        if inside.all():
            return near(prediction, *others)
        if not inside.any():
            return far(prediction, *others)
        return np.where(inside, near(centre, *others), far(prediction, *others))

    def _whole(self, prediction: Floats) -> Floats:
        """How much of a Gaussian around a prediction in the range lies in the range."""
        return _between((self.low - prediction) / self.deviation, (self.high - prediction) / self.deviation)

    def _outside(self, prediction: Floats) -> tuple[Floats, Floats, Floats]:
        """How many deviations outside the range (0 within), the end next to it, and the direction inwards."""
        over = prediction > self.high
        with np.errstate(over="ignore"):
            away = np.where(over, prediction - self.high, self.low - prediction) / self.deviation
        if self.step is None and (away * self._finest() > self.deviation).any():
            raise ValueError(
                f"a prediction {away.max():.3g} deviations outside [{self.low}, {self.high}]: floats are too coarse to "
                "tell the values from the end of the range. Correct the prediction, or give a step"
            )
        return np.clip(away, 0.0, _FURTHEST), np.where(over, self.high, self.low), np.where(over, -1.0, 1.0)

    def _whole_beyond(self, away: Floats) -> Floats:
        """How much of the tail beyond the near end lies in the range."""
        return 1.0 - _survival(away, np.asarray((self.high - self.low) / self.deviation))


def _drop(away: Floats, beyond: Floats) -> Floats:
    """((away + beyond)^2 - away^2) / 2, without the cancellation."""
    with np.errstate(over="ignore"):
        return np.asarray(0.5 * beyond * (2.0 * away + beyond))


def _between(low: Floats, high: Floats) -> Floats:
    """Phi(high) - Phi(low), without cancellation in either tail or across the middle."""
    from scipy.special import erf, ndtr

    tail = np.where(low > 0.0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return np.where((low < 0.0) & (high > 0.0), 0.5 * (erf(high / _ROOT2) - erf(low / _ROOT2)), tail)


def _log_survival(away: Floats, beyond: Floats) -> Floats:
    """Logarithm of P(Z > away + beyond | Z > away), for both at least 0."""
    from scipy.special import erfcx

    return np.asarray(np.log(erfcx((away + beyond) / _ROOT2) / erfcx(away / _ROOT2)) - _drop(away, beyond))


def _survival(away: Floats, beyond: Floats) -> Floats:
    return np.asarray(np.exp(_log_survival(away, beyond)))


def _inverse_survival(away: Floats, drop: Floats) -> Floats:
    """Solve ``-_log_survival(away, beyond) = drop``: Newton on a concave function, from above: it cannot overshoot."""
    from scipy.special import erfcx

    def hazard(at: Floats) -> Floats:
        return np.asarray(_ROOT2_PI / erfcx(at / _ROOT2))

    # Two upper bounds: the hazard only grows, and the survival is below exp(-(z^2 - away^2) / 2).
    root = np.sqrt(away * away + 2.0 * drop)
    beyond = np.minimum(drop / hazard(away), 2.0 * drop / np.maximum(away + root, _TINY))
    for _ in range(_STEPS):
        step = (_log_survival(away, beyond) + drop) / hazard(away + beyond)
        beyond = np.maximum(beyond + step, 0.0)
        if (np.abs(step) <= _SETTLED * beyond).all():
            break
    return beyond
