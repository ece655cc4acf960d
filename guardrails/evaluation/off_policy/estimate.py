"""An estimate of what another policy would have earned, with what there is to know before believing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """The mean reward that another policy would have earned where this log was written.

    Attributes:
        value: the estimate.
        low, high: its interval at `confidence`.
        ess: how many rows of the policy's own log these rows are worth, (sum w)^2 / sum w^2.
        n: rows.
        max_weight: the largest weight of one row, after clipping.
        mean_weight: 1 but for chance, where propensities are right and the log could do all that the policy does.
        clipped: how much of the mean weight clipping cut off; 0 without.
        unsupported: how often the policy does what the log cannot have done, as the mean over rows; None where no
            probabilities of all candidates were given.
        method: which estimator, and which interval.
        confidence: of the interval.
        warnings: sentences on what weakens it.

    Example:
        >>> print(Estimate(0.51234, 0.4, 0.6, 812.3, 5000, 97.2, method="snips", confidence=0.95))
        snips 0.5123 (0.4000 to 0.6000 at 95 %), 5000 rows worth 812, largest weight 97.2
    """

    value: float
    low: float
    high: float
    ess: float
    n: int
    max_weight: float
    mean_weight: float = 1.0
    clipped: float = 0.0
    unsupported: float | None = None
    method: str = ""
    confidence: float = 0.95
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        value, low, high = _digits(self.value, self.low, self.high)
        name = f"{self.method.split(',')[0]} " if self.method else ""
        text = (
            f"{name}{value} ({low} to {high} at {100 * self.confidence:g} %), {self.n} rows worth {self.ess:.0f}, "
            f"largest weight {self.max_weight:.3g}"
        )
        return " ".join([f"{text}.", *self.warnings]) if self.warnings else text

    def to_json(self) -> dict[str, Any]:
        """All of it, with None for what is no finite number."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _digits(*values: float) -> list[str]:
    """Numbers with as many decimals as give the largest of them four digits."""
    finite = [abs(value) for value in values if np.isfinite(value) and value]
    decimals = min(12, max(0, 3 - int(np.floor(np.log10(max(finite)))))) if finite else 4
    return [f"{value:.{decimals}f}" for value in values]
