"""What an explored method does at run time: read the answer, draw, write back, and say what was drawn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guardrails import semconv
from guardrails.core.call import Call
from guardrails.core.host import host
from guardrails.core.method import Method
from guardrails.core.payload import counts_rows, take
from guardrails.errors import DecorationError
from guardrails.exploration import drawing
from guardrails.exploration.admission import UNWRITABLE, Admission
from guardrails.exploration.codec.asked import Asked, Codec
from guardrails.exploration.codec.choices import ChoiceCodec, serve
from guardrails.exploration.codec.numbers import Decisions, Values
from guardrails.exploration.codec.rankings import ListedRankings, ScoredRankings, is_listed
from guardrails.exploration.drawing import Drawing
from guardrails.exploration.exposure import Exposure
from guardrails.exploration.limits import Bucket
from guardrails.exploration.outcome import CHOICE, RANKING, THRESHOLD, VALUE, Drawn, Exploration
from guardrails.exploration.randomness import draw, pick
from guardrails.exploration.switch import switch_of
from guardrails.exploration.writing import Writer

if TYPE_CHECKING:
    from guardrails.exploration.guard import explore

logger = logging.getLogger("guardrails")

FEW = 50
"""Up to so many candidates plain lists are quicker than arrays."""
_MATRIX = 2
_DOUBLE = 8


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
            _pool(options.pool, method),
            _callable(options.exclude if len(options.exclude_now()) else None, method),
        )
        self._ramp = options.ramp if options.ramp < 1.0 else None
        self._pmf_of: Callable[[list[float], int], list[float]] | None = getattr(options.policy, "pmf_of", None)
        # A policy of our own is known to say probabilities; anybody else's are looked at.
        ours = type(options.policy).__module__.startswith("guardrails.exploration.")
        self._pick = pick if ours else draw
        self._plain = options.kind == CHOICE and options.scores is None and options.apply is None
        self._plain = self._plain and self._bucket is None and self._exclude is None and self._pmf_of is not None
        self._writer = Writer(options)
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
        excluded = None if self._exclude is None else self._exclude(call)
        if index is not None and isinstance(excluded, np.ndarray) and excluded.ndim > 1:
            excluded = excluded[index]
        admitted = self._admission.of(call, rows)
        if self._writer.broken:
            for who in admitted:
                who.refused = who.refused or UNWRITABLE
        differs: list[bool] | None = None
        try:
            drawn = self._drawing.draw(asked, admitted, excluded)
            for one, who in zip(drawn, admitted, strict=True):
                one.cluster = who.cluster
            self._writer.try_out(answer, codec, asked, drawn, rows)
            answer = self._writer.written(answer, codec, asked, drawn, rows) if self._enforce else answer
            differs = [one.differs and self._enforce for one in drawn]
        finally:
            self._admission.settle(admitted, differs)
        # Only now: had writing the answer failed, the model's own would have been served, with probability one.
        call.result = answer
        self._settle(call, drawn, None if index is None else {row: at for at, row in enumerate(rows)})
        if drawn:  # one span, one row: the first that differs, else the first
            self._describe(call, next((one for one in drawn if one.differs), drawn[0]))
        self._count(drawn)

    def _read(self, call: Call, answer: Any) -> tuple[Codec, Asked]:
        """What the rows that the primary answered offer."""
        index = call.primary.index
        own = answer if index is None or not counts_rows(answer, call.rows_total) else take(answer, index)
        codec = self._codec_for(own)
        asked = codec.read(own, None if self._pool is None else self._pool(call))
        if call.rows_read is None:
            call.rows_total = len(asked)
        elif index is not None and own is answer:
            asked = asked.of(index.tolist())
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
        one = self._draw_one(answer[0], call.id)
        if call.rows_read is None:
            call.rows_total = 1
        if one.differs and self._enforce:
            call.result = serve(answer, 0, one.own, one.chosen)
        self._exposure.add_one(one.own, one.chosen if self._enforce else one.own, len(one.scores))
        self._settle(call, [one], None)
        self._describe(call, one)

    def _draw_one(self, row: npt.NDArray[Any], unit: str) -> Drawn:
        scores: Any
        if len(row) <= FEW and self._pmf_of is not None:
            scores = row.tolist()
            total, greedy = sum(scores), scores.index(max(scores))
            if total == total:  # no NaN, which max() may overlook  # noqa: PLR0124
                pmf = self._pmf_of(scores, greedy)
                if len(pmf) != len(scores):
                    raise ValueError(f"the policy answered {len(pmf)} probabilities for {len(scores)} scores")
                action = self._pick(pmf, unit, self._key)
                return Drawn(greedy, action, scores, list(pmf), pmf[action])
        scores = row.astype(np.float64)  # a copy: the model may use its buffer again before the record is written
        many = np.array(self._options.policy.pmf(scores))
        if many.shape != scores.shape:
            raise ValueError(f"pmf() of scores {scores.shape} has shape {many.shape}")
        greedy, action = int(scores.argmax()), draw(many, unit, self._key)
        return Drawn(greedy, action, scores, many, float(many[action]))

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

    def _describe(self, call: Call, one: Drawn) -> None:
        """Say on the span what was drawn for one row."""
        attributes, enforced = call.attributes, self._enforce
        differs = one.own != one.chosen
        attributes[semconv.POLICY] = self._policy_name
        attributes[semconv.EXPLORED] = differs and enforced
        attributes[semconv.PROPENSITY] = one.propensity if enforced else 1.0
        attributes[semconv.ACTION] = one.chosen if enforced else one.own
        attributes[semconv.GREEDY_ACTION] = one.own
        if one.refused is not None:
            attributes[semconv.INELIGIBLE] = one.refused


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


def _pool(option: Any, method: Method) -> Callable[[Call], Any] | None:
    """The pool, the same in every worker; one that never changes was looked at when it was given."""
    if option is not None and not (isinstance(option, str) or callable(option)):
        option = list(option)
        return lambda _: option
    found = _callable(option, method)
    if found is None:
        return None

    def asked(call: Call) -> list[Any]:
        pool = found(call)
        if isinstance(pool, set | frozenset):
            raise ValueError("pool= is a set, whose order differs from worker to worker, as would the draws; sort it")  # noqa: TRY004
        return list(pool)

    return asked


def _shown(one: Drawn, enforced: bool) -> tuple[Any, Any]:
    """What the model chose and what was shown, by the names that make candidates of several requests the same."""
    own, shown = one.own, one.chosen if enforced else one.own
    if one.names is None:
        return own, shown
    if isinstance(own, list):
        return [one.names[i] for i in own], [one.names[i] for i in shown]
    return one.names[own], one.names[shown]


def _is_one_row(answer: Any) -> bool:
    if type(answer) is not np.ndarray or answer.ndim != _MATRIX or len(answer) != 1:
        return False
    return bool(answer.dtype.kind == "f" and answer.dtype.itemsize <= _DOUBLE)  # a longer float is none that Python has
