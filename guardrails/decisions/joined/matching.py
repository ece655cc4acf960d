"""Which rewards belong to which decision: windows, names, second deliveries, and what cannot be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guardrails.decisions.joined.delivered import Aggregate, Delivered, Earned, Feedback, echo_of, label_of
from guardrails.decisions.joined.reading import KINDS, MalformedRecord, ReadDecision, finite, kind_of, read_decision

LabelReward = Callable[[Any, Any], float]


@dataclass(frozen=True)
class JoinOptions:
    """How decisions and rewards are joined; see `join`."""

    window: float
    default: float | None = 0.0
    aggregate: Aggregate = "last"
    name: str | None = None
    now: float = 0.0
    kind: str | None = None
    api: str | None = None
    since: float = -math.inf
    until: float = math.inf
    label_reward: LabelReward | None = None


@dataclass(slots=True)
class State:
    """Decisions on their way: `left_out` names why, for those that will not be in the result."""

    number_of: dict[str, int]
    reads: list[ReadDecision | None]
    left_out: list[str | None]
    kind: str
    repeated: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    begins: list[float] = field(default_factory=list)
    labels: dict[int, Any] = field(default_factory=dict)
    echoes: dict[int, Any] = field(default_factory=dict)

    def refuse(self, at: int, problem: str) -> None:
        """Leave a decision out for what is written of it."""
        if self.left_out[at] != "malformed":
            self.left_out[at] = "malformed"
            self.problems[problem] += 1


def read_all(decisions: Iterable[Mapping[str, Any]], options: JoinOptions) -> State:
    """Read what was decided, each decision once: of several rows with one id the earliest.

    Raises:
        ValueError: several kinds of decisions are left, and none was asked for.
    """
    found: dict[str, ReadDecision | _Refused] = {}
    repeated, nameless = 0, 0
    methods: set[str] = set()
    for row in decisions:  # each is read and let go at once: the texts of a million would be gigabytes
        identity = row.get("decision_id")
        if not isinstance(identity, str) or not identity:
            nameless += 1
            continue
        methods.add(str(row.get("api")))
        one = _read(row, options)
        if identity in found:
            repeated += 1
            one = min(one, found[identity], key=_earliest)
        found[identity] = one
    if options.api is not None and methods and options.api not in methods:
        raise ValueError(f"no decision is of the method {options.api!r}; there are {', '.join(sorted(methods))}.")
    kind = options.kind or _kind(list(found.values()))
    # Fallbacks have no kind of their own: they belong to the methods that have this one.
    explored = {one.api for one in found.values() if isinstance(one, ReadDecision) and one.kind == kind}
    number_of = {identity: at for at, identity in enumerate(found)}
    state = State(number_of, [None] * len(found), [None] * len(found), kind, repeated)
    if nameless:
        state.problems["no decision_id"] = nameless
    for at, one in enumerate(found.values()):
        elsewhere = isinstance(one, ReadDecision) and one.kind is None and explored and one.api not in {"", *explored}
        if one.kind not in (None, kind) or elsewhere or (isinstance(one, _Refused) and not one.problem):
            state.left_out[at] = "other"
        elif isinstance(one, _Refused):
            state.refuse(at, one.problem)
        else:
            state.reads[at] = one
    return state


@dataclass(slots=True)
class _Refused:
    """A row that is none of those asked for, or one with a problem."""

    ts: float
    kind: str | None
    problem: str = ""


def _read(row: Mapping[str, Any], options: JoinOptions) -> ReadDecision | _Refused:
    ts, kind = row.get("ts"), kind_of(row)
    known = isinstance(ts, int | float) and math.isfinite(ts)
    refused = _Refused(float(ts or 0.0) if known else math.inf, kind if kind in KINDS else None)
    if known and not options.since <= refused.ts < options.until:
        return refused
    if options.api not in (None, row.get("api")) or (options.kind and refused.kind not in (None, options.kind)):
        return refused
    try:
        return read_decision(row)
    except MalformedRecord as problem:
        refused.problem = str(problem)
        return refused


def _earliest(one: ReadDecision | _Refused) -> tuple[float, str]:
    """Of two rows with the same id and time, the same one whatever their order."""
    return one.ts, repr(one)


def _kind(found: list[ReadDecision | _Refused]) -> str:
    kinds = sorted({str(one.kind) for one in found if one.kind and (isinstance(one, ReadDecision) or one.problem)})
    if len(kinds) > 1:
        raise ValueError(
            f"there are decisions of the kinds {' and '.join(map(repr, kinds))}: join one at a time, by kind= or api=."
        )
    return kinds[0] if kinds else "choice"


def begin_windows(state: State, given: Delivered, options: JoinOptions) -> None:
    """When each window begins; those that have not begun, or are not over, are left out."""
    shown: dict[int, float] = {}
    for entry in given.feedback:
        if entry.row.get("shown") and entry.ts > -math.inf:
            shown.setdefault(entry.at, entry.ts)
    for at, read in enumerate(state.reads):
        begin = math.inf if read is None else shown.get(at, math.inf) if read.deferred else read.ts
        state.begins.append(begin)
        if state.left_out[at] is None and begin == math.inf:
            state.left_out[at] = "deferred"
        elif state.left_out[at] is None and begin + options.window > options.now:
            state.left_out[at] = "pending"


@dataclass(slots=True)
class Rewards:
    """What feedback came to."""

    earned: Earned
    rewarded: set[int] = field(default_factory=set)
    counted: Counter[int] = field(default_factory=Counter)
    by_slot: bool = False
    late: int = 0
    unused: int = 0


def earn(state: State, given: Delivered, options: JoinOptions) -> Rewards:
    """Add up what came in time, under the name that was asked for.

    Raises:
        ValueError: rewards have several names, and none was asked for.
    """
    rewards = Rewards(Earned(options.aggregate))
    name = _name(state, given, options)
    for entry in given.feedback:
        at, read = entry.at, state.reads[entry.at]
        if state.left_out[at] is not None or read is None:
            rewards.unused += 1
            continue
        try:
            _take(state, rewards, entry, read, name, options)
        except MalformedRecord as problem:
            state.refuse(at, str(problem))
            rewards.unused += 1
    for at in rewards.earned.beyond():
        state.refuse(at, "rewards that add up to infinity")
    # A decision that was refused for a later reward of its own takes the earlier ones with it.
    rewards.unused += sum(count for at, count in rewards.counted.items() if state.left_out[at] is not None)
    return rewards


def _take(
    state: State, rewards: Rewards, entry: Feedback, read: ReadDecision, name: str | None, options: JoinOptions
) -> None:
    """Count one delivery towards its decision."""
    at, row = entry.at, entry.row
    finite(row.get("ts"), "the ts of a reward")
    echo = echo_of(row)
    if echo is not None:
        state.echoes[at] = echo  # also after the window: what was shown was shown before
    in_time = entry.ts <= state.begins[at] + options.window
    label = label_of(row)
    if label is not None and in_time:
        state.labels[at] = label
    reward = row.get("reward")
    if reward is None and label is not None and options.label_reward is not None:
        reward = options.label_reward(label, _told(read))
    if reward is None or (name is not None and (row.get("name") or "") != name):
        rewards.unused += 1
    elif not in_time:
        rewards.late += 1
    else:
        slot = _slot(row.get("slot"), read)
        rewards.earned.add((at, slot), finite(reward, "a reward"))
        rewards.rewarded.add(at)
        rewards.counted[at] += 1
        rewards.by_slot = rewards.by_slot or slot is not None


def _name(state: State, given: Delivered, options: JoinOptions) -> str | None:
    """Which rewards count; None where all have the same name."""
    names = {
        entry.row.get("name") or ""
        for entry in given.feedback
        if state.left_out[entry.at] is None and entry.row.get("reward") is not None
    }
    if options.name is not None:
        if names and options.name not in names:
            told = ", ".join(repr(name) if name else 'none (name="")' for name in sorted(names))
            raise ValueError(f"no reward has the name {options.name!r}; there are {told}.")
        return options.name
    if len(names) > 1:
        told = ", ".join(repr(name) if name else 'none (name="")' for name in sorted(names))
        raise ValueError(f"the rewards have several names: {told}. Say with name= which of them is meant.")
    return None


def _slot(slot: Any, read: ReadDecision) -> int | None:
    """The position a reward belongs to; None for the decision as a whole."""
    slots = len(read.served) if read.kind == "ranking" and read.served else 0
    if slot is None or (not slots and slot == 0):
        return None
    if isinstance(slot, bool) or not isinstance(slot, int) or not 0 <= slot < slots:
        raise MalformedRecord("a reward for a slot that was not served")
    return slot


def _told(read: ReadDecision) -> Any:
    """What was served, in the caller's words."""
    if read.action < 0:
        return read.served
    return read.action if read.actions is None else read.actions[read.action]


def overridden(read: ReadDecision, echo: Any) -> bool:
    """Whether something else was shown than was served; of what nothing was drawn for, nothing is said."""
    if echo is None or read.kind is None:
        return False
    if read.kind == "ranking":
        # One number is no list: it says what was clicked on, perhaps, and not what else was shown.
        return read.served is not None and isinstance(echo, list) and echo != read.served
    served = read.served if read.kind == "value" else read.action
    return bool((echo[0] if isinstance(echo, list) and len(echo) == 1 else echo) != served)
