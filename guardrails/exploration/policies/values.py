"""Outputs that are numbers: what a policy over values is, and the uniform mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.errors import DecorationError
from guardrails.exploration.policies._arrays import MAX_EPSILON, settle

Floats = npt.NDArray[np.float64]

_ON_GRID = 1e-6
_MOST_STEPS = 10_000_000
_RESOLUTION = 1e-10


class Value:
    """What policies over values share: a density on ``[low, high]``, or probabilities of steps on it.

    A subclass has `_density`, `_mass` (between two points, without cancellation) and `_quantile`, each vectorised.
    """

    low: float
    high: float
    step: float | None

    def _density(self, prediction: Floats, value: Floats) -> Floats:
        raise NotImplementedError

    def _mass(self, prediction: Floats, start: Floats, stop: Floats) -> Floats:
        raise NotImplementedError

    def _quantile(self, prediction: Floats, u: Floats) -> Floats:
        raise NotImplementedError

    def _settle_range(self) -> None:
        settle(self, "low", math.isfinite, "low is a finite number")
        settle(self, "high", lambda h: self.low < h < math.inf, "high is a finite number above low")
        if not math.isfinite(self.high - self.low):
            raise DecorationError(f"{self!r}: the range is too wide for a float.")
        if self.step is None:
            return
        settle(
            self, "step", lambda s: 0.0 < s <= self.high - self.low, "a step is above 0, and no wider than the range"
        )
        steps = (self.high - self.low) / self.step
        if steps > _MOST_STEPS or abs(steps - round(steps)) > _ON_GRID:
            raise DecorationError(
                f"{self!r}: from low to high there are {steps:.6g} steps. It has to be a whole number, of at most "
                f"{_MOST_STEPS}: values are low, low + step, ..., high."
            )

    def _finest(self) -> float:
        """Anything narrower would be drawn as a handful of floats, with mass on each instead of a density."""
        return _RESOLUTION * max(abs(self.low), abs(self.high))

    @property
    def grid(self) -> Floats | None:
        """All values that are ever served, where there is a step."""
        if self.step is None:
            return None
        return self._at(np.arange(round((self.high - self.low) / self.step) + 1.0))

    def pdf(self, prediction: npt.ArrayLike, value: npt.ArrayLike) -> Floats:
        """The density with which a value is served, per unit of the value; with a step, the value's probability.

        Args:
            prediction: the model's own outputs, any shape; they may lie outside ``[low, high]``.
            value: what was served; shapes broadcast.

        Returns:
            Zero where a value is never served: outside ``[low, high]``, or between two steps.

        Raises:
            ValueError: a prediction is not finite, or a value is NaN.
        """
        predicted, values = np.broadcast_arrays(finite(prediction), np.asarray(value, dtype=np.float64))
        if np.isnan(values).any():
            raise ValueError("a value is NaN")
        inside = (values >= self.low) & (values <= self.high)
        if self.step is None:
            return np.where(inside, self._density(predicted, np.clip(values, self.low, self.high)), 0.0)
        number = np.rint((np.clip(values, self.low, self.high) - self.low) / self.step)
        served = np.abs(values - self._at(number)) <= _ON_GRID * self.step
        edge = self.low + (number - 0.5) * self.step
        start, stop = np.maximum(edge, self.low), np.minimum(edge + self.step, self.high)
        return np.where(served, self._mass(predicted, start, stop), 0.0)

    def sample(self, prediction: npt.ArrayLike, u: npt.ArrayLike) -> Floats | float:
        """The value that a uniform number picks: the inverse of the distribution function.

        Args:
            prediction: the model's own outputs, any shape.
            u: numbers in [0, 1]; shapes broadcast. The value grows with u.

        Returns:
            A float for one prediction and one u, else an array.

        Raises:
            ValueError: a prediction is not finite, or a u lies outside [0, 1].
        """
        predicted, uniform = np.broadcast_arrays(finite(prediction), np.asarray(u, dtype=np.float64))
        if not ((uniform >= 0.0) & (uniform <= 1.0)).all():
            raise ValueError("a uniform number lies in [0, 1]")
        values = np.clip(self._quantile(predicted, uniform), self.low, self.high)
        if self.step is not None:
            values = self._at(np.rint((values - self.low) / self.step))
        return values if values.ndim else values.item()

    def _at(self, number: Floats) -> Floats:
        # 0.99 + 3 * 0.05 is 1.1400000000000001, which is nobody's price.
        step = self.step or 1.0
        return np.asarray(np.round(self.low + number * step, 9 - math.floor(math.log10(step))))


@dataclass(frozen=True)
class UniformMixture(Value):
    """Near the prediction, and with probability epsilon anywhere: the policy of Vowpal Wabbit's CATS.

    ``pdf(x) = epsilon / (high - low) + (1 - epsilon) / (r - l) [l <= x <= r]`` with l and r the prediction minus and
    plus ``half_width``, cut to ``[low, high]`` (Majzoubi et al., Efficient Contextual Bandits with Continuous
    Actions, 2020). A prediction outside the range counts as the end next to it; the density stays one, without mass
    on the end.

    Args:
        epsilon: the share of values drawn from the whole range.
        half_width: how far around the prediction the others lie, in the value's unit.
        low, high: the range of the values.
        step: serve only ``low, low + step, ..., high`` (for price endings): the drawn value is rounded, and `pdf` gives
            probabilities.

    Raises:
        DecorationError: epsilon is not in [0, 0.5], the width not above 0 (or of another order than the range), the
            range none, or no whole number of steps.

    Example:
        >>> from guardrails.exploration.policies import UniformMixture
        >>> policy = UniformMixture(epsilon=0.1, half_width=1.0, low=0.0, high=10.0)
        >>> policy.pdf(4.0, [4.5, 9.0]).round(3).tolist(), policy.sample(4.0, 0.5)
        ([0.46, 0.01], 4.021739130434782)
    """

    epsilon: float
    half_width: float
    low: float
    high: float
    step: float | None = None
    kind: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        settle(self, "epsilon", lambda e: 0.0 <= e <= MAX_EPSILON, f"epsilon lies between 0 and {MAX_EPSILON}")
        self._settle_range()
        finest = 0.0 if self.step else self._finest()
        rule = f"for this range, a width is a finite number of at least {finest:g}, and above 0"
        settle(self, "half_width", lambda h: 0.0 < h < math.inf and h >= finest, rule)

    def _window(self, prediction: Floats) -> tuple[Floats, Floats, float, Floats]:
        """Its ends, and the densities outside and within it."""
        centre = np.clip(prediction, self.low, self.high)
        left = np.maximum(centre - self.half_width, self.low)
        right = np.minimum(centre + self.half_width, self.high)
        outside = self.epsilon / (self.high - self.low)
        return left, right, outside, outside + (1.0 - self.epsilon) / (right - left)

    def _density(self, prediction: Floats, value: Floats) -> Floats:
        left, right, outside, within = self._window(prediction)
        return np.where((value >= left) & (value <= right), within, outside)

    def _mass(self, prediction: Floats, start: Floats, stop: Floats) -> Floats:
        left, right, outside, within = self._window(prediction)
        shared = np.maximum(np.minimum(stop, right) - np.maximum(start, left), 0.0)
        mass: Floats = outside * (stop - start) + (within - outside) * shared
        return mass

    def _quantile(self, prediction: Floats, u: Floats) -> Floats:
        left, right, outside, within = self._window(prediction)
        below, above = outside * (left - self.low), outside * (self.high - right)
        with np.errstate(all="ignore"):  # where there is no mass outside, nobody is sent there
            before, after = self.low + u / outside, self.high - (1.0 - u) / outside
        middle = np.clip(left + (u - below) / within, left, right)
        return np.where(u < below, before, np.where(1.0 - u < above, after, middle))


def finite(prediction: npt.ArrayLike) -> Floats:
    """Predictions as floats; a ValueError where one is NaN or infinite."""
    predicted = np.asarray(prediction, dtype=np.float64)
    if not np.isfinite(predicted).all():
        raise ValueError("a prediction is not finite: there is nothing to explore around")
    return predicted
