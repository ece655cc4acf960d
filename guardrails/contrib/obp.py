"""Logged decisions as the Open Bandit Pipeline has them (``bandit_feedback``). OBP itself is not needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.decisions.joined.checking import refuse_impossible
from guardrails.decisions.joined.logged import Floats, Ints, Logged
from guardrails.decisions.joined.names import key_of
from guardrails.decisions.joined.positions import stages_of, with_positions


def to_obp(logged: Logged, *, action_context: npt.ArrayLike | None = None) -> dict[str, Any]:
    """A ``bandit_feedback`` dictionary of the decisions that can be learned from (see `Logged.learnable`).

    Choices and thresholds: ``n_rounds``, ``n_actions``, ``action``, ``position`` (all 0), ``reward``, ``pscore``,
    ``context`` (the features, where they are numbers; else None), ``action_context``, ``pi_b`` ``(n, K, 1)``. Where
    the candidates differ from decision to decision, actions are numbered over all their names, in ``action_names``.

    Rankings: OBP's slate form, one entry for each position: ``slate_id``, ``position``, ``action``, ``reward``,
    ``pscore`` (of the whole list), ``pscore_item_position`` (of the item at its position; only where that is known of
    all), ``pscore_cascade`` (of the list up to there; only where the policy fills one slot after the other, as
    `PlackettLuce` does, or lists have one). Values: OBP's continuous form, where ``pscore`` is a density.

    Args:
        logged: decisions with their rewards.
        action_context: what is known of the actions, shape ``(K, d)``; one-hot by default.

    Returns:
        The dictionary, with ``n_dropped``: how many decisions cannot be learned from.

    Raises:
        ValueError: a propensity, a probability or a reward is impossible (it names the decision), rankings have several
            lengths or no rewards by position.

    Example:
        >>> from guardrails.decisions.joined.join import join
        >>> decision = {"decision_id": "d1", "ts": 0.0, "policy": "EpsilonGreedy(epsilon=0.5)", "eligible": True,
        ...             "pmf": "[0.75, 0.25]", "greedy": 0, "action": 1, "propensity": 0.25}
        >>> feedback = to_obp(join([decision], [], window="1h", now=3600.0))
        >>> feedback["n_rounds"], feedback["action"], feedback["pscore"], feedback["pi_b"].shape
        (1, array([1]), array([0.25]), (1, 2, 1))
    """
    usable = with_positions(logged.select(logged.learnable))
    refuse_impossible(usable)
    dropped = len(logged) - len(usable)
    if logged.kind == "ranking":
        return {**_slates(usable), "n_dropped": dropped}
    shared = {"n_rounds": len(usable), "reward": usable.reward, "pscore": usable.propensity, "n_dropped": dropped}
    shared |= {"context": _context(usable), "position": np.zeros(len(usable), dtype=np.int64)}
    if logged.kind == "value":
        return {**shared, "position": None, "action": np.array(usable.served, dtype=np.float64)}
    action, pmf, names = _numbered(usable)
    return {
        **shared,
        "n_actions": pmf.shape[1],
        "action": action,
        "action_context": np.eye(pmf.shape[1]) if action_context is None else np.asarray(action_context),
        "action_names": names,
        "pi_b": pmf[:, :, np.newaxis],
    }


def _context(logged: Logged) -> Floats | None:
    try:
        context = np.array(logged.features, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # mappings, texts, rows of several lengths, or none kept
        return None
    return context if context.ndim == 2 else None  # noqa: PLR2004


def _numbered(logged: Logged) -> tuple[Ints, Floats, list[str]]:
    """Actions and their probabilities over all candidates there ever were, by name."""
    if all(names is None for names in logged.actions) and len({len(pmf) for pmf in logged.pmf}) <= 1:
        pmf = logged.stacked("pmf").reshape(len(logged), -1)
        return logged.action, pmf, [str(number) for number in range(pmf.shape[1])]
    named = [
        range(len(pmf)) if names is None else list(map(key_of, names))
        for names, pmf in zip(logged.actions, logged.pmf, strict=True)
    ]
    number_of: dict[Any, int] = {}
    for names in named:
        for name in names:
            number_of.setdefault(name, len(number_of))
    pmf = np.zeros((len(logged), len(number_of)))
    action = np.empty(len(logged), dtype=np.int64)
    for row, names in enumerate(named):
        at = [number_of[name] for name in names]
        pmf[row, at] = logged.pmf[row]
        action[row] = at[logged.action[row]]
    return action, pmf, [str(name) for name in number_of]


def _slates(logged: Logged) -> dict[str, Any]:
    lengths = {len(served) for served in logged.served}
    if len(lengths) > 1:
        raise ValueError(
            f"the rankings have {len(lengths)} lengths; OBP's slates have one: select those of one length."
        )
    if len(logged) and logged.slot_reward is None:
        raise ValueError("OBP's slates have a reward for each position: give feedback a slot.")
    count, slots = len(logged), next(iter(lengths), 0)
    names = [
        served if listed is None else [key_of(listed[item]) for item in served]
        for served, listed in zip(logged.served, logged.actions, strict=True)
    ]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(name for row in names for name in row))}
    numbered = any(listed is not None for listed in logged.actions)
    feedback = {
        "n_rounds": count,
        "len_list": slots,
        "slate_id": np.repeat(np.arange(count), slots),
        "position": np.tile(np.arange(slots), count),
        "action": np.array([number_of[name] if numbered else name for row in names for name in row], dtype=np.int64),
        "reward": np.concatenate(logged.slot_reward) if logged.slot_reward else np.empty(0),
        "pscore": np.repeat(logged.propensity, slots),
        "context": _context(logged),
    }
    feedback["n_unique_action"] = len(number_of) if numbered else _candidates(logged, feedback["action"])
    if numbered:
        feedback["action_names"] = [str(name) for name in number_of]
    if all(pmf.size for pmf in logged.pmf):
        feedback["pscore_item_position"] = np.array([pmf.diagonal() for pmf in logged.pmf], dtype=np.float64).ravel()
    stages = [logged.propensity[row : row + 1] if slots == 1 else stages_of(logged, row) for row in range(count)]
    if all(stage is not None for stage in stages):
        feedback["pscore_cascade"] = np.cumprod(np.array(stages).reshape(count, slots), axis=1).ravel()
    return feedback


def _candidates(logged: Logged, action: Any) -> int:
    return max([len(scores) for scores in logged.scores] + [int(action.max()) + 1 if len(action) else 0], default=0)
