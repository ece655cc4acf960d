"""What an explored method does at run time: read the answer, draw, write back, and say what was drawn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guardrails import semconv
from guardrails.core.call import Call
from guardrails.core.host import host
from guardrails.core.method import Method
from guardrails.core.payload import Index, counts_rows, take
from guardrails.decisions.records import Decision
from guardrails.errors import DecorationError
from guardrails.exploration import drawing
from guardrails.exploration.admission import SHADOW, UNWRITABLE, Admission
from guardrails.exploration.codec.asked import Asked, Codec
from guardrails.exploration.codec.choices import ChoiceCodec, serve
from guardrails.exploration.codec.numbers import Decisions, Values
from guardrails.exploration.codec.rankings import ListedRankings, ScoredRankings, is_listed
from guardrails.exploration.drawing import CHOICE, RANKING, THRESHOLD, VALUE, Drawing, Drawn
from guardrails.exploration.exposure import Exposure
from guardrails.exploration.limits import Bucket
from guardrails.exploration.randomness import draw
from guardrails.exploration.switch import switch_of

if TYPE_CHECKING:
    from guardrails.exploration.guard import explore

logger = logging.getLogger("guardrails")

_MATRIX = 2
_DOUBLE = 8


@dataclass(slots=True)
class Exploration:
    """What was drawn for the rows the primary answered.

    Attributes:
        policy, kind, salt_id: how, and with which (unnamed) key.
        row_of: the position of a row of the request in ``drawn``; None when they are the same.
        drawn: one draw per row.
        served: whether what was drawn was served; otherwise the model's own was.
        ramp: the share of units that are explored.
        deferred: whether what was served may never be shown.
    """

    policy: str
    kind: str
    salt_id: str
    row_of: dict[int, int] | None
    drawn: list[Drawn]
    served: bool = True
    ramp: float | None = None
    deferred: bool = False

    def describe(self, decision: Decision, row: int) -> None:
        """Write one row's draw into its record."""
        at = row if self.row_of is None else self.row_of.get(row)
        if at is None:
            return
        drawn = self.drawn[at]
        decision.policy, decision.kind, decision.salt_id = self.policy, self.kind, self.salt_id
        decision.scores, decision.actions, decision.unit = drawn.scores, drawn.names, drawn.token
        decision.excluded = drawn.excluded
        decision.ramp, decision.deferred = self.ramp, self.deferred
        numbered = self.kind in (CHOICE, THRESHOLD)
        if numbered:
            decision.greedy = drawn.own
        if not self.served:  # the model's own, with certainty: eligible stays False, the propensity one
            decision.ineligible = SHADOW
            if numbered:
                decision.action = drawn.own
            else:
                decision.served = drawn.own
            if drawn.differs and decision.shadow is None:  # else it would not have been explored
                decision.shadow = f"explored:{drawn.chosen}"
            return
        if numbered:
            decision.action = drawn.chosen
        else:
            decision.served = drawn.chosen
        decision.pmf, decision.propensity, decision.strength = drawn.pmf, drawn.propensity, drawn.strength
        decision.eligible, decision.ineligible = drawn.refused is None, drawn.refused


class Explorer:
    """One explored method of one worker.

    Args:
        options: as the decorator was given them.
        method: the method, bound.
        key: the secret of the draws.
        salt_id: what names it in records.
    """

    def __init__(self, options: explore, method: Method, key: bytes, salt_id: str) -> None:
        self._options, self._key, self._salt_id = options, key, salt_id
        self._policy_name, self._kind, self._enforce = repr(options.policy), options.kind, options.enforce
        self._switch = switch_of(options.switch)
        unit = None if options.unit is None else method.argument(options.unit)
        self._admission = Admission(key, self._switch, unit, options.rules, options.ramp, options.cap)
        self._bucket = None if options.budget is None else Bucket(options.budget, host().workers(method.owner))
        self._drawing = _drawing(options, key, self._bucket)
        self._codec: Codec | None = _codec(options)
        self._listed, self._scored = ListedRankings(options.apply), ScoredRankings(options.scores, options.apply)
        self._pool, self._exclude = (
            _callable(options.pool, method),
            _callable(options.exclude if len(options.exclude_now()) else None, method),
        )
        self._ramp = options.ramp if options.ramp < 1.0 else None
        self._pmf_of: Callable[[list[float], int], list[float]] | None = getattr(options.policy, "pmf_of", None)
        self._plain = options.kind == CHOICE and options.scores is None and options.apply is None
        self._plain = self._plain and self._bucket is None and self._exclude is None and self._pmf_of is not None
        self._trial = options.enforce and (options.apply is not None or options.scores is not None)
        self._unwritable = False
        self._exposure = Exposure()
        self._refused: Counter[str] = Counter()

    def after(self, call: Call) -> None:
        """Draw for what the primary answered."""
        if not call.primary_answered:
            return
        answer = call.result
        alone = call.primary.index is None and (call.rows_read is None or call.rows_total == 1)
        if self._plain and alone and _is_one_row(answer) and self._admission.open:
            self._explore_one(call, answer)
            return
        codec, asked = self._read(call, answer)
        index = call.primary.index
        rows = range(len(asked)) if index is None else index.tolist()
        if self._trial:
            self._try(answer, codec, asked, rows)
        excluded = None if self._exclude is None else self._exclude(call)
        if index is not None and isinstance(excluded, np.ndarray) and excluded.ndim > 1:
            excluded = excluded[index]
        admitted = self._admission.of(call, rows)
        if self._unwritable:
            for who in admitted:
                who.refused = who.refused or UNWRITABLE
        differs: list[bool] | None = None
        try:
            drawn = self._drawing.draw(asked, admitted, excluded)
            answer = self._written(answer, codec, asked, drawn, rows)
            differs = [one.differs and self._enforce for one in drawn]
        finally:
            self._admission.settle(admitted, differs)
        # Only now: had writing the answer failed, the model's own would have been served, with probability one.
        call.result = answer
        self._settle(call, drawn, None if index is None else {row: at for at, row in enumerate(rows)})
        self._count(drawn)

    def _read(self, call: Call, answer: Any) -> tuple[Codec, Asked]:
        """What the rows that the primary answered offer."""
        index = call.primary.index
        own = answer if index is None or not counts_rows(answer, call.rows_total) else take(answer, index)
        codec = self._codec_for(own)
        asked = codec.read(own, None if self._pool is None else _in_order(self._pool(call)))
        if call.rows_read is None:
            call.rows_total = len(asked)
        elif index is not None and own is answer:
            asked = _chosen(asked, index)
        if len(asked) != (call.rows_total if index is None else len(index)):
            raise ValueError(f"{call.rows_total} rows were answered with {len(asked)} rows of scores: no row each")
        return codec, asked

    def _count(self, drawn: list[Drawn]) -> None:
        """For the status page."""
        for one in drawn:
            if one.refused is not None:
                self._refused[one.refused] += 1
            if self._kind in (CHOICE, RANKING):
                self._exposure.add(*_shown(one, self._enforce), len(one.scores))

    def _written(self, answer: Any, codec: Codec, asked: Asked, drawn: list[Drawn], rows: Sequence[int]) -> Any:
        """The answer with what was drawn in it: the model's own object where nothing differs."""
        for at, one in enumerate(drawn):
            if one.differs and self._enforce:
                try:
                    answer = _write(
                        codec, answer, None if asked.single else rows[at], *_named(one, asked, at, self._kind)
                    )
                except Exception:
                    # Those that drew the model's own choice had nothing to write: what is left would be chosen by its
                    # own draw, and no probability would be true any more.
                    self._unwritable = True
                    logger.exception("an answer could not be written back: this worker explores this method no more")
                    raise
        return answer

    def _try(self, answer: Any, codec: Codec, asked: Asked, rows: Sequence[int]) -> None:
        """Write some other choice back before anything is drawn: whether that fails must not depend on the draw."""
        for at in range(len(asked)):
            own, other = _another(asked, at, self._kind, self._options.policy)
            _write(codec, answer, None if asked.single else rows[at], own, other)

    def status(self) -> Mapping[str, Any]:
        """For the status page; of this worker."""
        switch = self._switch.status()
        state: dict[str, Any] = {"policy": self._policy_name, "switched_off": switch["off"], "switch": switch["file"]}
        state |= {"salt_id": self._salt_id, "not_explored": dict(self._refused)}
        if self._bucket is not None:
            state["budget_left"] = self._bucket.tokens
        return state | {"loop": self._exposure.status()}

    def _explore_one(self, call: Call, answer: npt.NDArray[Any]) -> None:
        """The same as `after` for what most requests are: one row, one array of scores, the request as the unit."""
        scores = answer[0].tolist()
        greedy = scores.index(max(scores))
        if sum(scores) == sum(scores) and self._pmf_of is not None:  # no NaN, which max() may overlook
            pmf = list(self._pmf_of(scores, greedy))
        else:
            array = np.array(scores)
            greedy, pmf = int(array.argmax()), np.asarray(self._options.policy.pmf(array)).tolist()
        if len(pmf) != len(scores):
            raise ValueError(f"the policy answered {len(pmf)} probabilities for {len(scores)} scores")
        if call.rows_read is None:
            call.rows_total = 1
        action = draw(pmf, call.id, self._key)
        if greedy != action and self._enforce:
            call.result = serve(answer, 0, greedy, action)
        one = Drawn(greedy, action, scores, pmf, pmf[action])
        self._exposure.add_one(greedy, action if self._enforce else greedy, len(scores))
        self._settle(call, [one], None)

    def _codec_for(self, answer: Any) -> Codec:
        if self._codec is not None:
            return self._codec
        listed = self._options.scores is None and (self._pool is not None or is_listed(answer))
        return self._listed if listed else self._scored

    def _settle(self, call: Call, drawn: list[Drawn], row_of: dict[int, int] | None) -> None:
        call.exploration = Exploration(
            self._policy_name, self._kind, self._salt_id, row_of, drawn, self._enforce, self._ramp,
            self._options.deferred,
        )  # fmt: skip
        self._describe(call, drawn)

    def _describe(self, call: Call, drawn: list[Drawn]) -> None:
        # One span, one row: the first that differs, else the first.
        one = next((one for one in drawn if one.differs), drawn[0]) if drawn else None
        if one is None:
            return
        served = one.chosen if self._enforce else one.own
        call.attributes[semconv.POLICY] = self._policy_name
        call.attributes[semconv.EXPLORED] = one.differs and self._enforce
        call.attributes[semconv.PROPENSITY] = one.propensity if self._enforce else 1.0
        call.attributes[semconv.ACTION] = served
        call.attributes[semconv.GREEDY_ACTION] = one.own
        if one.refused is not None:
            call.attributes[semconv.INELIGIBLE] = one.refused


def _drawing(options: explore, key: bytes, bucket: Bucket | None) -> Drawing:
    if options.kind == RANKING:
        return drawing.Rankings(options.policy, key, bucket)
    if options.kind == THRESHOLD:
        return drawing.Thresholds(options.policy, key)
    return (
        drawing.Values(options.policy, key) if options.kind == VALUE else drawing.Choices(options.policy, key, bucket)
    )


def _codec(options: explore) -> Codec | None:
    """Who reads the answers; None where that depends on the answer (rankings)."""
    if options.kind == RANKING:
        return None
    if options.kind == THRESHOLD:
        return Decisions(options.scores, options.apply)
    return (Values if options.kind == VALUE else ChoiceCodec)(options.scores, options.apply)


def _callable(option: Any, method: Method) -> Callable[[Call], Any] | None:
    """An option that may be a value, the name of an attribute, or a function of the method's arguments."""
    if option is None:
        return None
    if isinstance(option, str):
        if method.owner is None or not hasattr(method.owner, option):
            raise DecorationError(
                f"explore(pool={option!r}): {method.fn.__qualname__.rpartition('.')[0]} has no such attribute."
            )
        owner, name = method.owner, option
        found = getattr(owner, name)
        if callable(found):
            return lambda call: found(*call.args, **call.kwargs)
        return lambda _: getattr(owner, name)  # read each time: a retrained service changes it
    if callable(option):
        return lambda call: option(*call.args, **call.kwargs)
    return lambda _: option


def _named(one: Drawn, asked: Asked, at: int, kind: str) -> tuple[Any, Any]:
    """The model's own choice and the drawn one as whoever writes them knows them: listed candidates by name."""
    if kind != RANKING or asked.names is None:
        return one.own, one.chosen
    names = asked.names[at]
    return [names[i] for i in one.own], [names[i] for i in one.chosen]


def _write(codec: Codec, answer: Any, row: int | None, own: Any, served: Any) -> Any:
    written = codec.write(answer, row, own, served)
    if written is None:
        raise ValueError("apply= answered None; it returns the answer with the other choice in it")
    return written


def _another(asked: Asked, at: int, kind: str, policy: Any) -> tuple[Any, Any]:
    """The model's own choice of a row, and some other one, as whoever writes them knows them."""
    scores = np.asarray(asked.scores[at])
    if kind == RANKING:
        own = list(policy.organic(scores))
        names = list(range(len(scores))) if asked.names is None else asked.names[at]
        return [names[i] for i in own], [names[i] for i in reversed(own)]
    if kind == VALUE:
        return float(scores), float(scores)
    greedy = int(scores.argmax() if kind == CHOICE else policy.greedy(scores)) if asked.own is None else asked.own[at]
    return greedy, (greedy + 1) % len(scores) if kind == CHOICE else 1 - greedy


def _in_order(pool: Any) -> list[Any]:
    """The pool as a list, the same in every worker."""
    if isinstance(pool, set | frozenset):
        raise ValueError("pool= is a set, whose order differs from worker to worker, and so would the draws; sort it")  # noqa: TRY004
    return list(pool)


def _shown(one: Drawn, enforced: bool) -> tuple[Any, Any]:
    """What the model chose and what was shown, by the names that make candidates of several requests the same."""
    own, shown = one.own, one.chosen if enforced else one.own
    if one.names is None:
        return own, shown
    if isinstance(own, list):
        return [one.names[i] for i in own], [one.names[i] for i in shown]
    return one.names[own], one.names[shown]


def _chosen(asked: Asked, index: Index) -> Asked:
    """The rows that the primary answered, of an answer that has all of them."""
    pick = index.tolist()
    return Asked(
        [asked.scores[at] for at in pick],
        asked.single,
        None if asked.names is None else [asked.names[at] for at in pick],
        None if asked.own is None else [asked.own[at] for at in pick],
    )


def _is_one_row(answer: Any) -> bool:
    if type(answer) is not np.ndarray or answer.ndim != _MATRIX or len(answer) != 1:
        return False
    return bool(answer.dtype.kind == "f" and answer.dtype.itemsize <= _DOUBLE)  # a longer float is none that Python has
