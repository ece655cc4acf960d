"""From scores to what is served: one draw per row, by the kind of the policy, with its exact probability."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from guardrails.exploration.admission import BUDGET, MODEL_CHOICE, Admitted
from guardrails.exploration.codec.asked import Asked
from guardrails.exploration.codec.fields import is_number
from guardrails.exploration.limits import Bucket
from guardrails.exploration.outcome import Drawn
from guardrails.exploration.policies import among
from guardrails.exploration.randomness import PICK, draw, uniform, uniforms
from guardrails.typing import Mask

Array = npt.NDArray[np.float64]
Excluded = Collection[Any] | Mask | None


class Drawing(Protocol):
    """Draws for one kind of policy."""

    def draw(self, asked: Asked, admitted: Sequence[Admitted], excluded: Excluded = None) -> list[Drawn]:
        """One draw per row."""


class Choices:
    """One of several candidates.

    Args:
        policy: with ``pmf(scores)``.
        key: the secret of the draws.
        bucket: what exploration may cost.
    """

    def __init__(self, policy: Any, key: bytes, bucket: Bucket | None = None) -> None:
        self._policy, self._key, self._bucket = policy, key, bucket
        takes = inspect.signature(policy.pmf).parameters
        self._takes_greedy, self._counts = "greedy" in takes, "seen" in takes
        self._seen = 0

    def draw(self, asked: Asked, admitted: Sequence[Admitted], excluded: Excluded = None) -> list[Drawn]:
        """One draw per row; candidates that are excluded have probability zero, unless the model chose them."""
        scores = np.asarray(asked.scores)
        greedy = scores.argmax(axis=1).tolist() if asked.own is None else asked.own
        masks = _masks(excluded, asked)
        pmf = self._pmf(scores, greedy, asked.own, masks, [one.refused is None for one in admitted])
        if pmf.shape != scores.shape:
            raise ValueError(f"pmf() of scores {scores.shape} has shape {pmf.shape}")
        drawn = [self._row(scores[at], pmf[at], greedy[at], one) for at, one in enumerate(admitted)]
        for at, mask in enumerate(masks):
            if mask is not None:
                drawn[at].excluded = [out for out in np.flatnonzero(mask).tolist() if out != greedy[at]]
        return drawn

    def _pmf(
        self, scores: Array, greedy: list[int], own: list[int] | None, masks: list[Mask | None], counted: list[bool]
    ) -> Array:
        options: dict[str, Any] = {}
        if self._counts:
            options["seen"] = self._seen + np.cumsum([0, *counted[:-1]])
            self._seen += sum(counted)
        if own is not None and self._takes_greedy:
            options["greedy"] = np.array(greedy)
        if any(mask is not None for mask in masks):
            return self._pmf_of_the_rest(scores, greedy, masks, options)
        one = len(scores) == 1 and not options
        # A copy: the array is the policy's, to keep or to hand out again.
        return np.array([self._policy.pmf(scores[0])] if one else self._policy.pmf(scores, **options))

    def _pmf_of_the_rest(
        self, scores: Array, greedy: list[int], masks: list[Mask | None], options: dict[str, Any]
    ) -> Array:
        pmf = np.zeros(scores.shape)
        for at, (row, best, mask) in enumerate(zip(scores, greedy, masks, strict=True)):
            kept = np.arange(len(row)) if mask is None else np.flatnonzero(~mask | (np.arange(len(row)) == best))
            own = {"greedy": int(np.searchsorted(kept, best))} if "greedy" in options else {}
            seen = {"seen": int(options["seen"][at])} if "seen" in options else {}
            pmf[at, kept] = among(self._policy, kept.tolist()).pmf(row[kept], **own, **seen)
        return pmf

    def _row(self, scores: Array, pmf: Array, greedy: int, admitted: Admitted) -> Drawn:
        refused, strength = admitted.refused, 1.0
        if refused is None and self._bucket is not None:
            strength = self._bucket.share(_regret(pmf, scores, greedy))
            refused = None if strength > 0 else BUDGET
            pmf = strength * pmf
            pmf[greedy] += 1.0 - strength
        if refused is not None:
            pmf[:] = 0.0
            pmf[greedy], strength = 1.0, 1.0
        action = greedy if refused is not None else draw(pmf, admitted.unit, self._key)
        return Drawn(greedy, action, scores, pmf, float(pmf[action]), refused, strength, admitted.token)


class Rankings:
    """Lists of candidates.

    Args:
        policy: with ``sample(scores, uniforms)``, ``organic(scores)`` and ``pmf(scores)``.
        key: the secret of the draws.
        bucket: what exploration may cost, in score units a list.
    """

    def __init__(self, policy: Any, key: bytes, bucket: Bucket | None = None) -> None:
        self._policy, self._key, self._bucket = policy, key, bucket

    def draw(self, asked: Asked, admitted: Sequence[Admitted], excluded: Excluded = None) -> list[Drawn]:
        """One list per row; candidates that are excluded are in it only where the model itself put them."""
        masks = _masks(excluded, asked)
        names: Sequence[list[Any] | None] = [None] * len(asked) if asked.names is None else asked.names
        return [
            self._row(np.asarray(scores, dtype=np.float64), one, mask, of)
            for scores, one, mask, of in zip(asked.scores, admitted, masks, names, strict=True)
        ]

    def _row(self, scores: Array, admitted: Admitted, mask: Mask | None, names: list[Any] | None) -> Drawn:
        own = self._policy.organic(scores)
        refused, strength = admitted.refused, 1.0
        # -inf keeps a candidate out of a list, and everybody else keeps the number that weights may go by.
        out = None if mask is None else np.flatnonzero(mask & ~np.isin(np.arange(len(scores)), own))
        offered = scores if out is None else with_excluded(scores, out)
        if refused is None and self._bucket is not None:
            strength = self._bucket.share(self._regret(offered, names))
            refused = None if strength > 0 else BUDGET
        policy = self._policy if strength == 1.0 else replace(self._policy, epsilon=strength * self._policy.epsilon)
        marginals: Array | None = np.eye(len(own))
        order, propensity = own, 1.0
        if refused is None:
            order, propensity, marginals = policy.sample(offered, uniforms(admitted.unit, self._key), items=names)
        else:
            strength = 1.0
        return Drawn(
            list(own), list(order), scores, marginals, float(propensity), refused, strength, admitted.token, names,
            None if out is None else out.tolist(),
        )  # fmt: skip

    def _regret(self, scores: Array, names: list[Any] | None) -> float:
        """What a list's scores lose on average: summed over the positions, the model's own less the expected one."""
        own = scores[list(self._policy.organic(scores))]
        worth = np.where(np.isneginf(scores), 0.0, scores)  # never shown, so never lost
        return max(float(own.sum() - (self._policy.pmf(scores, items=names) @ worth).sum()), 0.0)


def with_excluded(scores: Array, out: npt.ArrayLike) -> Array:
    """Scores in which some candidates stand as those that no list may show."""
    offered = scores.copy()
    offered[np.asarray(out, dtype=np.intp)] = -np.inf
    return offered


class Thresholds:
    """Accepted or refused, by one score.

    Args:
        policy: with ``pmf(scores)`` and ``greedy(scores)``.
        key: the secret of the draws.
    """

    def __init__(self, policy: Any, key: bytes) -> None:
        self._policy, self._key = policy, key

    def draw(self, asked: Asked, admitted: Sequence[Admitted], excluded: Excluded = None) -> list[Drawn]:  # noqa: ARG002
        """One decision per row."""
        scores = np.asarray(asked.scores, dtype=np.float64)
        greedy = np.asarray(self._policy.greedy(scores)).astype(int).tolist()
        pmf = np.array(self._policy.pmf(scores))
        return [self._row(asked, at, float(scores[at]), pmf[at], greedy[at], one) for at, one in enumerate(admitted)]

    def _row(self, asked: Asked, at: int, score: float, pmf: Array, greedy: int, admitted: Admitted) -> Drawn:
        refused = admitted.refused
        own = greedy if asked.own is None else asked.own[at]
        if refused is None and own != greedy:
            refused = MODEL_CHOICE  # the service has decided by something else than this threshold
        if refused is not None:
            pmf = np.eye(2)[own]
        action = own if refused is not None else draw(pmf, admitted.unit, self._key)
        return Drawn(own, action, score, pmf, float(pmf[action]), refused, token=admitted.token)


class Values:
    """A number around the model's own.

    Args:
        policy: with ``sample(prediction, u)`` and ``pdf(prediction, value)``.
        key: the secret of the draws.
    """

    def __init__(self, policy: Any, key: bytes) -> None:
        self._policy, self._key = policy, key

    def draw(self, asked: Asked, admitted: Sequence[Admitted], excluded: Excluded = None) -> list[Drawn]:  # noqa: ARG002
        """One number per row; the propensity of a drawn one is its density."""
        drawn = []
        for prediction, one in zip(np.asarray(asked.scores, dtype=np.float64).tolist(), admitted, strict=True):
            if one.refused is not None:
                drawn.append(Drawn(prediction, prediction, prediction, None, 1.0, one.refused, token=one.token))
                continue
            value = float(self._policy.sample(prediction, uniform(one.unit, self._key, PICK)))
            density = float(self._policy.pdf(prediction, value))
            drawn.append(Drawn(prediction, value, prediction, None, density, token=one.token))
        return drawn


def _regret(pmf: Array, scores: Array, greedy: int) -> float:
    """What the score loses on average; never negative (the model may have chosen one that is not the best)."""
    drawn = pmf > 0  # a candidate of -inf that nobody is shown costs nothing
    worth = scores.astype(np.float64)
    return max(float(pmf[drawn] @ (worth[greedy] - worth[drawn])), 0.0)


def _masks(excluded: Excluded, asked: Asked) -> list[Mask | None]:
    """Per row which candidates are excluded; None where none are."""
    if excluded is None or len(excluded) == 0:
        return [None] * len(asked)
    given = excluded if isinstance(excluded, np.ndarray) else None
    if given is None and all(isinstance(one, bool | np.bool_) for one in excluded):
        given = np.array(list(excluded))
    if given is not None and given.dtype == bool:
        rows = given if given.ndim > 1 else np.broadcast_to(given, (len(asked), len(given)))
        if [len(row) for row in rows] != [len(scores) for scores in asked.scores]:
            raise ValueError(f"exclude= is a mask of shape {given.shape}; there are other candidates")
        return list(rows)
    out = set(given.tolist() if given is not None else excluded)
    if asked.names is not None:
        return [np.array([name in out for name in names], dtype=bool) for names in asked.names]
    strange = [one for one in out if not is_number(one) or not 0 <= one < max(map(len, asked.scores), default=0)]
    if strange:
        raise ValueError(f"exclude= has {strange[0]!r}, which is no candidate's number")
    return [_numbered(len(scores), frozenset(out)) for scores in asked.scores]


@lru_cache(maxsize=64)
def _numbered(size: int, out: frozenset[int]) -> Mask:
    """The mask of some numbers: the same for every row and, as a rule, for every request."""
    mask = np.zeros(size, dtype=bool)
    mask[[at for at in out if at < size]] = True
    mask.flags.writeable = False
    return mask
