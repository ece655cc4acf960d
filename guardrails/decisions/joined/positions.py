"""Where else the items of a logged ranking might have stood: computed now, where it took too long on the request."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from guardrails.decisions.joined.logged import Floats, Logged

_CLOSE = 1e-9


def with_positions(logged: Logged) -> Logged:
    """Rankings with `Logged.pmf` filled in from policy and scores, where the policy left it out (`PlackettLuce`).

    A row stays without, where its policy cannot be made from its text, or where what was logged is not what the policy
    would give for these scores.

    Args:
        logged: any decisions; other than rankings come back as they are.
    """
    if logged.kind != "ranking" or all(pmf.size for pmf in logged.pmf):
        return logged
    filled = [pmf if pmf.size else _marginals(logged, at) for at, pmf in enumerate(logged.pmf)]
    return replace(logged, pmf=filled)


def stages_of(logged: Logged, at: int) -> Floats | None:
    """The probability of each served item among those left when its slot was filled, shape ``(k,)``.

    Returns:
        None where the policy does not fill one slot after the other, or would not give the logged propensity.
    """
    policy = _policy(logged.policy[at])
    if not hasattr(policy, "stages") or not logged.scores[at].size:
        return None
    stages = np.asarray(policy.stages(offered(logged, at), logged.served[at]), dtype=np.float64)
    same = np.isclose(stages.prod(), logged.propensity[at], rtol=_CLOSE, atol=0.0)
    return stages if same else None


def offered(logged: Logged, at: int) -> Floats:
    """A ranking's scores as its policy saw them: candidates that were excluded stand as those no list may show."""
    scores = logged.scores[at].copy()
    scores[logged.excluded[at] or []] = -np.inf
    return scores


def _marginals(logged: Logged, at: int) -> Floats:
    if stages_of(logged, at) is None:
        return logged.pmf[at]
    by_slot = np.asarray(_policy(logged.policy[at]).pmf(offered(logged, at), items=logged.actions[at]))
    return np.ascontiguousarray(by_slot[:, logged.served[at]].T)


@lru_cache(maxsize=64)
def _policy(text: str) -> Any:
    from guardrails.exploration.spelled import policy_of

    try:
        return policy_of(text)
    except (ValueError, TypeError):
        return None
