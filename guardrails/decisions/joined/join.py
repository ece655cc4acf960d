"""Decisions and what became of them, joined after one fixed window for all."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from guardrails.decisions.joined.delivered import Aggregate, Delivered, Earned, delivered
from guardrails.decisions.joined.logged import Floats, JoinCounts, Logged
from guardrails.decisions.joined.matching import (
    JoinOptions,
    LabelReward,
    Rewards,
    State,
    begin_windows,
    earn,
    overridden,
    read_all,
)
from guardrails.decisions.joined.reading import KINDS, ReadDecision
from guardrails.errors import DecisionStoreError, DecorationError

if TYPE_CHECKING:
    from guardrails.decisions.stores.store import DecisionStore


def join(
    decisions: Iterable[Mapping[str, Any]],
    rewards: Iterable[Mapping[str, Any]],
    *,
    window: float | str,
    default: float | None = 0.0,
    aggregate: Aggregate = "last",
    name: str | None = None,
    now: float | None = None,
    kind: str | None = None,
    api: str | None = None,
    since: float | None = None,
    until: float | None = None,
    label_reward: LabelReward | Literal["match"] | None = None,
) -> Logged:
    """Give every decision whose window is over the reward it earned within that window.

    All decisions get the same time to earn a reward: learning from rewards as they arrive would over-represent the
    quick ones, and would take the slow ones for failures (Agarwal et al. 2016, "Making Contextual Decisions with Low
    Technical Debt", arXiv 1606.03966). Nothing is passed over silently: see `JoinCounts`. The result depends neither on
    the order of the rows nor on how often feedback was delivered.

    Args:
        decisions: rows as `DecisionStore.read` gives them; they may be of an older version of the store.
        rewards: rows as ``DecisionStore.read("reward")`` gives them.
        window: how long a decision may earn rewards, in seconds or as ``"24h"``, ``"30m"``, ``"7d"``. It begins when
            the decision was made; of one that was made ahead (``deferred``), when it was shown.
        default: the reward where none came; None leaves such decisions out (what is left is those that somebody gave
            feedback on, and is about nobody else).
        aggregate: which reward counts where several came: ``"last"``, ``"first"``, ``"sum"``, ``"mean"``, ``"max"`` or
            ``"min"``.
        name: only rewards of this name; needed where rewards have several names ("" are those without one).
        now: up to when windows are over, seconds since 1970; by default the time it is.
        kind: only decisions of this kind; needed where there are several.
        api: only decisions of this method.
        since: only decisions made from this time on, seconds since 1970.
        until: only decisions made before this time.
        label_reward: where feedback has a label and no reward, the reward as ``label_reward(label, action)``, with the
            action's name, or number where it has none; ``"match"`` gives 1 where the two are equal, else 0.

    Returns:
        The joined decisions, ordered by time. Decisions that exploration had no part in are among them: their
        `Logged.eligible` is False. Rewards of positions (``slot``) of a ranking are `Logged.slot_reward`, each position
        with the default where none came; the reward is then their sum, plus what came for the list as a whole.

    Raises:
        ValueError: an option is none, or has to be given because there are several names or kinds.

    Example:
        >>> decisions = [
        ...     {"decision_id": "a", "ts": 0.0, "api": "rank", "policy": "EpsilonGreedy(epsilon=0.5)", "eligible": True,
        ...      "pmf": "[0.75, 0.25]", "greedy": 0, "action": 1, "propensity": 0.25},
        ...     {"decision_id": "b", "ts": 90.0, "api": "rank", "propensity": 1.0},
        ... ]
        >>> rewards = [{"decision_id": "a", "ts": 5.0, "reward": 1.0}, {"decision_id": "a", "ts": 70.0, "reward": 9.0}]
        >>> logged = join(decisions, rewards, window="1m", now=100.0)
        >>> logged.decision_id, logged.reward, logged.weights()
        (['a'], array([1.]), array([4.]))
        >>> print(logged.counts)
        1 decisions joined, 1 of them with a reward, 1 pending; feedback: 1 late
    """
    options = JoinOptions(
        _window(window),
        _default(default),
        _one_of("aggregate", aggregate, get_args(Aggregate)),
        name,
        time.time() if now is None else now,
        None if kind is None else _one_of("kind", kind, KINDS),
        api,
        -math.inf if since is None else since,
        math.inf if until is None else until,
        _matches if label_reward == "match" else label_reward,
    )
    state = read_all(decisions, options)
    given = delivered(rewards, state.number_of)
    begin_windows(state, given, options)
    return _logged(state, earn(state, given, options), given, options)


def join_store(store: str | DecisionStore, *, window: float | str, **options: Any) -> Logged:
    """`join` over all that a store holds.

    Args:
        store: a `DecisionStore`, or its URL.
        window: how long a decision may earn rewards.
        **options: the other options of `join`.

    Raises:
        DecisionStoreError: the store cannot be read, or nobody has written to it.
        ValueError: as `join`.
    """
    from sqlalchemy.exc import DBAPIError

    from guardrails.decisions.stores.store import DecisionStore

    opened = DecisionStore(store) if isinstance(store, str) else store
    try:
        opened.require()
        # Rewards first: one that is written meanwhile finds no place, instead of being an orphan.
        rewards = opened.read("reward")
        return join(opened.iterate("decision"), rewards, window=window, **options)
    except DBAPIError as error:
        raise DecisionStoreError(f"{opened.url} cannot be read: {error.orig}") from error
    finally:
        if opened is not store:
            opened.close()


def _matches(label: Any, action: Any) -> float:
    return float(label == action or str(label) == str(action))


def _logged(state: State, rewards: Rewards, given: Delivered, options: JoinOptions) -> Logged:
    if options.default is None:
        if rewards.by_slot:
            raise ValueError("rewards come by slot, and most slots get none: say with default= what that means.")
        for at, reason in enumerate(state.left_out):
            if reason is None and at not in rewards.rewarded:
                state.left_out[at] = "unrewarded"
    chosen = [(read, at) for at, read in enumerate(state.reads) if read is not None and state.left_out[at] is None]
    chosen.sort(key=lambda pair: (pair[0].ts, pair[0].decision_id))
    reads, numbers = [read for read, _ in chosen], [at for _, at in chosen]
    default = 0.0 if options.default is None else options.default
    slots = [_by_slot(rewards.earned, at, read, default) for read, at in chosen] if rewards.by_slot else None
    other_shown = np.array([overridden(read, state.echoes.get(at)) for read, at in chosen], dtype=bool)
    return Logged(
        **_columns(reads, state.kind),
        reward=_totals(rewards.earned, numbers, slots, default),
        slot_reward=slots,
        shown=[state.echoes.get(at) for at in numbers],
        overridden=other_shown,
        rewarded=np.array([at in rewards.rewarded for at in numbers], dtype=bool),
        label=[state.labels.get(at) for at in numbers],
        counts=_counts(state, rewards, given, int(other_shown.sum())),
        window=options.window,
        default=options.default,
        aggregate=options.aggregate,
        name=options.name,
    )


def _by_slot(earned: Earned, at: int, read: ReadDecision, default: float) -> Floats:
    return np.array([earned.get((at, slot), default) for slot in range(len(read.served or ()))], dtype=np.float64)


def _totals(earned: Earned, numbers: list[int], slots: list[Floats] | None, default: float) -> Floats:
    """The list as a whole, and all its positions; without either, the default."""
    if slots is None:
        return np.array([earned.get((at, None), default) for at in numbers], dtype=np.float64)
    totals = []
    for at, by_slot in zip(numbers, slots, strict=True):
        own = earned.get((at, None), 0.0 if len(by_slot) else default)
        totals.append(own + float(by_slot.sum()))
    return np.array(totals, dtype=np.float64)


_ARRAYS: dict[str, Any] = {
    **dict.fromkeys(("ts", "propensity", "strength"), np.float64),
    **dict.fromkeys(("action", "greedy"), np.int64),
    **dict.fromkeys(("eligible", "differs"), np.bool_),
}
_LISTS = (
    "decision_id",
    "pmf",
    "scores",
    "actions",
    "excluded",
    "served",
    "unit",
    "cluster",
    "policy",
    "model",
    "features",
    "api",
)


def _columns(reads: list[ReadDecision], kind: str) -> dict[str, Any]:
    columns: dict[str, Any] = {name: [getattr(read, name) for read in reads] for name in (*_LISTS, "ineligible")}
    for name, dtype in _ARRAYS.items():
        columns[name] = np.array([getattr(read, name) for read in reads], dtype=dtype)
    return {**columns, "kind": kind}


def _counts(state: State, rewards: Rewards, given: Delivered, other_shown: int) -> JoinCounts:
    reasons = Counter(state.left_out)
    counted = {at: count for at, count in rewards.counted.items() if state.left_out[at] is None}
    return JoinCounts(
        joined=reasons[None],
        pending=reasons["pending"],
        deferred=reasons["deferred"],
        malformed=reasons["malformed"] + state.problems["no decision_id"],
        unrewarded=reasons["unrewarded"],
        other=reasons["other"],
        repeated=state.repeated,
        rewards=sum(counted.values()),
        late=rewards.late,
        duplicates=given.duplicates,
        orphans=given.orphans,
        unused=rewards.unused,
        overridden=other_shown,
        rewarded=len(counted),
        problems=dict(sorted((+state.problems).items())),
    )


def _window(window: float | str) -> float:
    from guardrails.drift.options import seconds

    try:
        span = seconds(window, "window")
    except DecorationError as error:
        raise ValueError(str(error)) from None
    if not 0.0 < span < math.inf:
        raise ValueError(f"window={window!r}: rewards need some time to come; write e.g. '24h'.")
    return span


def _default(default: float | None) -> float | None:
    if default is not None and not math.isfinite(default):
        raise ValueError(f"default={default!r}: the reward where none came is a finite number, or None.")
    return default


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise ValueError(f"{name}={value!r} is none of {', '.join(known)}.")
    return value
