"""Replay: the same key, unit and probabilities give the same draw again, today and in a year."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.decisions.records import Decision
from guardrails.exploration.drawing import with_excluded
from guardrails.exploration.outcome import CHOICE, RANKING, THRESHOLD, VALUE
from guardrails.exploration.policies import among
from guardrails.exploration.randomness import PICK, draw, salt_id_of, uniform, uniforms
from guardrails.exploration.spelled import policy_of

_TEXTS = ("actions", "excluded", "scores", "pmf", "served")
_CLOSE = 1e-9


@dataclass(frozen=True)
class Replay:
    """What came of replaying records.

    Attributes:
        replayed: how many could be.
        differing: the ids of those whose draw came out otherwise: their action is not the one that the key draws.
        skipped: why others could not be, and how many.
    """

    replayed: int
    differing: tuple[str, ...]
    skipped: Mapping[str, int]


def replay(record: Decision | Mapping[str, Any], key: bytes | str) -> bool:
    """Whether a record's draw comes out as it says.

    A choice or a threshold is drawn again from the logged probabilities; a list or a value from the policy that the
    record spells and the logged scores. Probabilities are not recomputed from scores here: `check_probabilities` does.

    Args:
        record: a decision, or a row of the store.
        key: the secret of the draws, as ``GUARDRAILS_EXPLORATION_KEY`` held it.

    Raises:
        ValueError: the record cannot be replayed, and why.

    Example:
        >>> import os, numpy as np, guardrails as gr
        >>> os.environ["GUARDRAILS_EXPLORATION_KEY"] = "a secret of 24 bytes ok."
        >>> seen = []
        >>> @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
        ... def rank(listeners: np.ndarray) -> np.ndarray:
        ...     return np.array([[0.1, 0.7, 0.2]])
        >>> _ = rank(np.zeros((1, 4)))
        >>> gr.exploration.replay(seen[0], b"a secret of 24 bytes ok.")
        True
    """
    row = _row(record)
    key = key.encode() if isinstance(key, str) else key
    reason = _not_replayable(row, key)
    if reason is not None:
        raise ValueError(f"{row['decision_id']}: {reason}")
    try:
        return _REPLAYS[row["kind"] or CHOICE](row, row["unit"] or row["decision_id"], key)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{row['decision_id']}: it cannot be read ({error})") from error


def _replay_pick(row: Mapping[str, Any], unit: str, key: bytes) -> bool:
    pmf = np.asarray(row["pmf"], dtype=np.float64)
    if not abs(float(pmf.sum()) - 1.0) < _CLOSE or not _same(pmf[row["action"]], row["propensity"]):
        return False  # whatever the draw: these are no probabilities, or not the action's
    return bool(draw(pmf, unit, key) == row["action"])


def _replay_list(row: Mapping[str, Any], unit: str, key: bytes) -> bool:
    policy: Any = policy_of(row["policy"])
    if row["strength"] not in (None, 1.0):
        policy = dataclasses.replace(policy, epsilon=row["strength"] * policy.epsilon)
    scores = np.asarray(row["scores"], dtype=np.float64)
    if row["excluded"] is not None:
        scores = with_excluded(scores, row["excluded"])
    ranked = policy.sample(scores, uniforms(unit, key), items=row["actions"])
    same = list(ranked.order) == list(row["served"]) and _same(ranked.propensity, row["propensity"])
    return same and (row["pmf"] is None or ranked.marginals is None or _same(ranked.marginals, row["pmf"]))


def _replay_value(row: Mapping[str, Any], unit: str, key: bytes) -> bool:
    policy: Any = policy_of(row["policy"])
    value = float(policy.sample(float(row["scores"]), uniform(unit, key, PICK)))
    return _same(value, row["served"]) and _same(policy.pdf(float(row["scores"]), value), row["propensity"])


def _same(one: Any, other: Any) -> bool:
    """To within what another machine's exponential may differ by."""
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=_CLOSE, atol=1e-15))


_REPLAYS = {CHOICE: _replay_pick, THRESHOLD: _replay_pick, RANKING: _replay_list, VALUE: _replay_value}


def replay_all(records: Iterable[Decision | Mapping[str, Any]], key: bytes | str) -> Replay:
    """Replay whatever can be.

    Args:
        records: decisions, or rows of the store.
        key: the secret of the draws.
    """
    replayed, differing = 0, []
    skipped: dict[str, int] = {}
    for record in records:
        try:
            agrees = replay(record, key)
        except ValueError as error:
            reason = str(error).partition(": ")[2] or str(error)
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        replayed += 1
        if not agrees:
            own = record.decision_id if isinstance(record, Decision) else record["decision_id"]
            differing.append(str(own))
    return Replay(replayed, tuple(differing), skipped)


def check_probabilities(record: Decision | Mapping[str, Any]) -> bool:
    """Whether a choice's or threshold's logged probabilities are what its policy says of the logged scores, to 1e-9.

    Raises:
        ValueError: the record does not hold what that needs.
    """
    row = _row(record)
    if row["kind"] not in (CHOICE, THRESHOLD, None) or row["policy"] is None or row["scores"] is None:
        raise ValueError(f"{row['decision_id']}: it holds no scores and policy of a choice")
    try:
        return _are_the_policys(row)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{row['decision_id']}: it cannot be read ({error})") from error


def _are_the_policys(row: Mapping[str, Any]) -> bool:
    policy: Any = policy_of(row["policy"])
    scores, pmf = np.asarray(row["scores"], dtype=np.float64), np.asarray(row["pmf"], dtype=np.float64)
    own = np.zeros_like(pmf)
    own[row["greedy"]] = 1.0
    if not _same(pmf[row["action"]], row["propensity"]):
        return False
    if not row["eligible"]:
        return bool(np.array_equal(own, pmf))
    strength = 1.0 if row["strength"] is None else row["strength"]
    if row["kind"] == THRESHOLD:
        expected = np.asarray(policy.pmf(scores))
    else:
        expected = np.zeros_like(pmf)
        kept = np.setdiff1d(np.arange(len(scores)), row["excluded"] or [])
        of_kept: Any = among(policy, kept.tolist())
        expected[kept] = of_kept.pmf(scores[kept], **_greedy(policy, scores[kept], int((kept < row["greedy"]).sum())))
    return bool(np.allclose(strength * expected + (1.0 - strength) * own, pmf, rtol=_CLOSE, atol=_CLOSE))


def _greedy(policy: Any, scores: npt.NDArray[np.float64], greedy: int) -> dict[str, int]:
    """The model's own choice, where a policy has to be told."""
    takes = inspect.signature(policy.pmf).parameters
    if "seen" in takes:
        raise ValueError(f"{policy!r} goes by how many decisions came before, which no one record says")
    return {} if "greedy" not in takes or int(scores.argmax()) == greedy else {"greedy": greedy}


def _row(record: Decision | Mapping[str, Any]) -> dict[str, Any]:
    row = record.row() if isinstance(record, Decision) else dict(record)
    row = {"unit": None, "kind": None, "strength": None, "actions": None, "served": None, "excluded": None} | row
    for name in _TEXTS:
        if isinstance(row.get(name), str):
            try:
                row[name] = json.loads(row[name])
            except ValueError as error:
                raise ValueError(f"{row['decision_id']}: {name} is no JSON") from error
    return row


def _not_replayable(row: Mapping[str, Any], key: bytes) -> str | None:
    if row["policy"] is None or not row["eligible"]:
        return "nothing was drawn"
    if row["salt_id"] != salt_id_of(key):
        return "it was drawn with another key"
    if row["kind"] in (RANKING, VALUE):
        return None if row["served"] is not None and row["scores"] is not None else "it does not hold what was served"
    return None if row["pmf"] is not None and row["action"] is not None else "it does not hold the probabilities"
