"""Whether what is served differs from the model's choice as often as the log says it should: evidence at every look."""

from __future__ import annotations

from math import exp, inf, log

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import Floats, vector

ODDS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
"""By which factors the odds of differing may be wrong: a twelfth of the stake on each."""


class DiffersMonitor:
    r"""A bet against the log's own probabilities of serving something else than the model's choice.

    Of each row the log says with which probability $q_t = 1 - p_g$ something else than the model's choice is served.
    If that is so, the product of $\theta^{d_t} / (1 - q_t + q_t\theta)$ over the rows, $d_t$ telling whether it was,
    is a martingale for each $\theta$, and so is the mean over several: it exceeds $1/\alpha$ ever with probability
    $\alpha$ at most (Ville's inequality), however often one looks and however the policy adapts. Where something
    behind the draw overrides it, or probabilities are computed wrongly, it grows exponentially.

    Source: Shafer: Testing by betting (JRSS A 2021); Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics and
    safe anytime-valid inference (Statistical Science 2023).

    Example:
        >>> monitor = DiffersMonitor()
        >>> rng = np.random.default_rng(0)
        >>> monitor.update(rng.random(20_000) < 0.09, np.full(20_000, 0.09))
        >>> monitor.p_value() > 0.01
        True
        >>> monitor.update(rng.random(20_000) < 0.07, np.full(20_000, 0.09))
        >>> monitor.p_value() < 0.001
        True
    """

    def __init__(self) -> None:
        self.n = 0
        self.most = 0.0  # the logarithm of the largest wealth so far; one starts with 1
        self._wealth: Floats = np.zeros(len(ODDS))

    def update(self, differs: npt.ArrayLike, expected: npt.ArrayLike) -> None:
        """Take more rows, in the order logged.

        Args:
            differs: whether something else than the model's choice was served, shape ``(n,)``.
            expected: with which probability it should have been, shape ``(n,)``.

        Raises:
            ValueError: `expected` is no probability.
        """
        d = vector(np.atleast_1d(np.asarray(differs, dtype=np.float64)), "differs")
        q = vector(np.atleast_1d(np.asarray(expected, dtype=np.float64)), "expected", len(d))
        if q.min() < 0 or q.max() > 1:
            raise ValueError(f"expected holds {q.min() if q.min() < 0 else q.max():g}; it must be probabilities.")
        self.n += len(d)
        if ((d > 0) & (q <= 0) | (d <= 0) & (q >= 1)).any():  # what cannot happen did
            self.most = inf
        theta = np.array(ODDS)[:, None]
        path = self._wealth[:, None] + np.cumsum(d * np.log(theta) - np.log1p(q * (theta - 1)), axis=1)
        self._wealth = path[:, -1]
        top = path.max(axis=0)
        together = top + np.log(np.exp(path - top).mean(axis=0))
        self.most = max(self.most, float(together.max()))

    def p_value(self) -> float:
        """At most so often the evidence would ever have been as strong, were the log right: valid at any time."""
        return exp(-self.most) if self.most < inf else 0.0

    @property
    def evidence(self) -> float:
        """The largest wealth so far in powers of ten: 2 is 100 to 1 against the log."""
        return self.most / log(10)
