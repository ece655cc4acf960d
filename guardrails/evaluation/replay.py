"""Run a changed guard, or another threshold, over logged decisions: what would have been, before it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_options
from typing import Any

import numpy as np

from guardrails import semconv
from guardrails.core.call import Call
from guardrails.core.pipeline import Plan, pipeline_of
from guardrails.core.targets import Reject
from guardrails.errors import GuardrailsError
from guardrails.outliers.guard import check_outliers
from guardrails.profile.profile import Profile
from guardrails.validation.guard import validate

ACCEPTED = "accepted"
_VERDICTS = (semconv.OUTLIER, semconv.INVALID)


@dataclass(frozen=True)
class Change:
    """One decision that would have been another.

    Attributes:
        decision_id: which.
        before, after: ``accepted``, ``outlier`` or ``invalid``.
        reward: what became of it, the mean of its rewards; None where nobody said.
    """

    decision_id: str
    before: str
    after: str
    reward: float | None = None


@dataclass
class Replay:
    """What would have changed.

    Attributes:
        rows: decisions that could be judged again.
        skipped: decisions that could not, by the reason why.
        before, after: how many were accepted, outliers and invalid.
        changes: the decisions that would have been others.
    """

    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)

    def moved(self) -> Counter[tuple[str, str]]:
        """How many went from what to what."""
        return Counter((change.before, change.after) for change in self.changes)


def replay(
    records: Iterable[Mapping[str, Any]], *guards: check_outliers | validate, alpha: float | None = None
) -> Replay:
    """Judge logged decisions again.

    Args:
        records: rows of a decision store, as `DecisionStore.read` or `DecisionStore.joined` gives them.
        guards: `check_outliers` and `validate` as they might be; they need the rows themselves, so the service has to
            have kept them: ``install(features="store")``.
        alpha: instead of guards, another alpha for the outlier check as it was: the logged p-values are enough.

    Raises:
        GuardrailsError: neither guards nor alpha are given, or both.

    Example:
        >>> from guardrails.evaluation import replay
        >>> records = [{"decision_id": str(i), "outlier_p_value": i / 100, "reason": None} for i in range(1, 101)]
        >>> replay(records, alpha=0.05).moved()
        Counter({('accepted', 'outlier'): 5})
    """
    if bool(guards) == (alpha is not None):
        raise GuardrailsError("replay(): give the guards as they might be, or another alpha for the one there was.")
    judge = _ByThreshold(alpha) if alpha is not None else _ByGuards(guards)
    done = Replay()
    for record, rewards in _decisions(records):
        after = judge.verdict(record)
        if after is None:
            done.skipped[judge.missing] += 1
            continue
        before = _what_was(record)
        done.rows += 1
        done.before[before] += 1
        done.after[after] += 1
        if before != after:
            reward = float(np.mean(rewards)) if rewards else None
            done.changes.append(Change(str(record["decision_id"]), before, after, reward))
    return done


def _decisions(records: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], list[float]]]:
    """Each decision once, with all of its rewards: a join repeats it for every reward."""
    known: dict[str, tuple[Mapping[str, Any], list[float]]] = {}
    for record in records:
        rewards = known.setdefault(str(record["decision_id"]), (record, []))[1]
        if record.get("reward") is not None:
            rewards.append(float(record["reward"]))
    return known.values()


def _what_was(record: Mapping[str, Any]) -> str:
    """The verdict then, whether it was enforced or not."""
    said = (record.get("reason"), record.get("shadow"))
    reasons = [str(entry).partition(":")[0] for entry in said if entry]
    return next((verdict for verdict in reasons if verdict in _VERDICTS), ACCEPTED)


class _ByThreshold:
    """Another alpha for the p-values there are."""

    missing = "no outlier check had judged them"

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        before, p_value = _what_was(record), record.get("outlier_p_value")
        if before == semconv.INVALID or p_value is None:
            return semconv.INVALID if before == semconv.INVALID else None
        return semconv.OUTLIER if p_value <= self._alpha * (1 + 1e-12) else ACCEPTED


class _ByGuards:
    """The guards themselves, run over the rows that were kept."""

    missing = "their rows were not kept (install(features='store') keeps them) or cannot be read by their profile"

    def __init__(self, guards: Sequence[check_outliers | validate]) -> None:
        def nobody(rows: Any) -> Any:
            return rows

        guarded = nobody
        for guard in guards:
            options: dict[str, Any] = {"enforce": False, "features": None}
            options["fallback" if isinstance(guard, check_outliers) else "on_invalid"] = (
                Reject() if isinstance(guard, check_outliers) else "reject"
            )
            guarded = with_options(guard, **options)(guarded)
        self._plan: Plan = pipeline_of(guarded).bind(None)
        self._profiles: dict[str, Profile | None] = {}

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        row = self._row(record)
        if row is None:
            return None
        call = Call(self._plan, ([row],), {})
        self._plan.before(call)
        return _what_was({"shadow": call.shadow_of(0)})

    def _row(self, record: Mapping[str, Any]) -> Any:
        """The row as the client had sent it; None where it is not known."""
        kept = record.get("features")
        if not isinstance(kept, str):
            return kept
        try:
            row = json.loads(kept)
        except ValueError:  # a hash: all that is left of it
            return None
        profile = self._profile(record.get("profile"))
        if profile is None or not isinstance(row, list):
            return row
        return _decoded(row, profile)

    def _profile(self, tag: str | None) -> Profile | None:
        """The profile the row was read by, which knows what the codes of its categories stand for."""
        if tag is None:
            return None
        if tag not in self._profiles:
            try:
                self._profiles[tag] = Profile.load(tag)
            except GuardrailsError:
                self._profiles[tag] = None
        return self._profiles[tag]


def _decoded(row: list[Any], profile: Profile) -> list[Any]:
    cells = []
    for value, feature in zip(row, profile.schema.features, strict=False):
        known = feature.categories
        if not known:
            cells.append(value)
        elif value is None or not np.isfinite(value):  # missing, or a category that training had not seen
            cells.append(None if value is None or np.isnan(value) else "a category that was unknown then")
        else:
            cells.append(known[int(value)])
    return cells
