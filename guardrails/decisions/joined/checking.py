"""What has to hold of logged decisions before anybody learns from them; the first that does not hold is named."""

from __future__ import annotations

import numpy as np

from guardrails.decisions.joined.logged import TOLERANCE, Floats, Ints, Logged, same_probability
from guardrails.typing import Mask


def refuse_impossible(logged: Logged) -> None:
    """Check the propensities, probabilities and rewards of decisions that are to be learned from.

    Learners take what they are given: Vowpal Wabbit accepts a probability of 0, 1.5 or -1 without a word.

    Raises:
        ValueError: one of them is impossible; it names the decision.
    """
    propensity, reward = logged.propensity, logged.reward
    most = np.inf if logged.kind == "value" else 1.0 + TOLERANCE
    _refuse(logged, ~((propensity > 0.0) & (propensity <= most)), "has the propensity {}, outside (0, 1]", propensity)
    _refuse(logged, ~np.isfinite(reward), "has the reward {}, which is not finite", reward)
    for slots in [] if logged.slot_reward is None else [logged.slot_reward]:
        bad = np.array([not np.isfinite(earned).all() for earned in slots], dtype=bool)
        _refuse(logged, bad, "has a reward of a position that is not finite", reward)
    if logged.kind in ("choice", "threshold"):
        _refuse_actions(logged)
    if logged.kind == "ranking":
        least = np.array([pmf.diagonal().min() if pmf.size else 1.0 for pmf in logged.pmf], dtype=np.float64)
        _refuse(logged, ~(least > 0.0), "has an item where it was with probability {}", least)


def _refuse_actions(logged: Logged) -> None:
    sizes = np.array([len(pmf) for pmf in logged.pmf], dtype=np.int64)
    _refuse(logged, (sizes == 0) | (logged.action < 0), "has no action, or no probabilities", logged.action)
    _refuse(logged, logged.action >= sizes, "has the action {}, which is out of range", logged.action)
    total = np.array([pmf.sum() for pmf in logged.pmf], dtype=np.float64)
    _refuse(logged, ~(np.abs(total - 1.0) <= TOLERANCE), "has probabilities that sum to {}, not to one", total)
    lowest = np.array([pmf.min() for pmf in logged.pmf], dtype=np.float64)
    _refuse(logged, lowest < 0.0, "has the probability {}", lowest)
    own = np.array([pmf[at] for pmf, at in zip(logged.pmf, logged.action.tolist(), strict=True)], dtype=np.float64)
    _refuse(logged, ~same_probability(own, logged.propensity), "has a propensity that is not its pmf's, {}", own)


def _refuse(logged: Logged, bad: Mask, problem: str, values: Floats | Ints) -> None:
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"decision {logged.decision_id[at]} {problem.format(values[at])}: nothing can be learned from it "
            f"({int(bad.sum())} of {len(logged)} decisions are like this). Leave such out with select()."
        )
