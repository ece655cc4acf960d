"""Weights for retraining on what exploration logged: without them a model learns the policy's habits as the world's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import Floats, clip_weights, probabilities, ratio, vector


def weights_for_training(propensity: npt.ArrayLike, *, clip: float | None = None, density: bool = False) -> Floats:
    """Sample weights 1 / propensity, divided by their mean: pass them as ``sample_weight=`` to ``fit``.

    A log holds what the policy liked more often than what it did not; weighed like this, every action counts as if all
    had been served equally often. Source: Schnabel, Swaminathan, Singh, Chandak, Joachims: Recommendations as
    Treatments (ICML 2016).

    Args:
        propensity: with which probability the log did what it did, above 0, shape ``(n,)``.
        clip: the largest weight, in multiples of the mean weight; None does not clip. Clipping trades noise for the
            bias that the weights are there to remove.
        density: whether propensities are densities of continuous actions, which may exceed 1.

    Returns:
        Shape ``(n,)``, with a mean of 1.

    Raises:
        ValueError: a propensity is 0, NaN or above 1.

    Example:
        >>> weights_for_training([0.9, 0.9, 0.1]).round(3).tolist()
        [0.273, 0.273, 2.455]
    """
    n = len(vector(propensity, "propensity"))
    logged = probabilities(propensity, "propensity", n, density=density, zero=False)
    weight = ratio(np.ones(n), logged)
    weight, _ = clip_weights(weight / weight.mean(), clip)
    normalised: Floats = weight / weight.mean()
    return normalised
