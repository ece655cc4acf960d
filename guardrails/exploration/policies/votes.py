"""Bagging: an ensemble votes, and an action is served as often as it has votes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.exploration.policies._arrays import checked, refuse_nan
from guardrails.typing import Probabilities, Scores

_HEADS_AXIS = 2


def votes_of(head_scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """How many of the m heads of an ensemble like each action best: what `Votes` takes.

    Args:
        head_scores: each head's scores, shape ``(m, K)``, or ``(n, m, K)`` for n rows.

    Returns:
        Counts of shape ``(K,)`` or ``(n, K)``; each row sums to m. A head votes for the first of its best scores.

    Raises:
        ValueError: a score is NaN, or there is no head or no action.

    Example:
        >>> from guardrails.exploration.policies import votes_of
        >>> votes_of([[0.1, 0.9], [0.7, 0.2], [0.3, 0.4]]).tolist()
        [1, 2]
    """
    heads = np.asarray(head_scores, dtype=np.float64)
    if heads.ndim < _HEADS_AXIS or 0 in heads.shape[-2:]:
        raise ValueError(f"head scores of shape {heads.shape}: an (m, K) array, one row of K scores per head")
    refuse_nan(heads)
    best = heads.argmax(axis=-1)
    votes: npt.NDArray[np.int64] = (best[..., None] == np.arange(heads.shape[-1])).sum(axis=-2)
    return votes


@dataclass(frozen=True)
class Votes:
    """An action's share of the votes: ``p(a) = votes(a) / all votes``, as bagging explores (Agarwal et al. 2014).

    The scores are the vote counts themselves, exact when every head's vote is counted (`votes_of` counts them);
    fractions will do where heads have weights. An action nobody votes for is never served, so nothing is learned of
    it: `Floor` gives it a little.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.policies import Votes
        >>> Votes().pmf(np.array([1, 3, 0])).tolist()
        [0.25, 0.75, 0.0]
    """

    kind: ClassVar[str] = "choice"

    def pmf_of(self, scores: list[float], greedy: int) -> list[float]:  # noqa: ARG002  # no action is special
        """The same for one list of counts: what a request pays."""
        total = sum(scores)
        if 0.0 < total < math.inf and min(scores) >= 0.0:
            return [votes / total for votes in scores]
        pmf: list[float] = self.pmf(np.array(scores)).tolist()
        return pmf

    def pmf(self, scores: Scores, /) -> Probabilities:
        """Probabilities for vote counts of shape ``(K,)`` or ``(n, K)``, in the same shape.

        Raises:
            ValueError: a count is NaN, negative or infinite, nobody voted, or there is no action.
        """
        votes = checked(scores)
        if votes.size and not 0.0 <= votes.min() <= votes.max() < math.inf:
            raise ValueError(
                f"votes between {votes.min()} and {votes.max()}: the scores Votes() takes are counts, finite and at "
                "least zero. votes_of(head_scores) counts them"
            )
        with np.errstate(over="ignore"):
            total = votes.sum(axis=-1, keepdims=True)
        if (total == 0.0).any():
            raise ValueError("no votes: somebody has to vote for an action")
        if np.isinf(total).any():  # as shares of the largest count they can be added up
            votes = votes / votes.max(axis=-1, keepdims=True)
            total = votes.sum(axis=-1, keepdims=True)
        shares: Probabilities = votes / total
        return shares
