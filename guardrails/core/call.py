"""One request on its way through the guards: what they read, what they decide, who answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from guardrails import semconv
from guardrails.core import metrics
from guardrails.core.attempt import Attempt, why
from guardrails.core.method import Argument
from guardrails.core.payload import (
    Index,
    Layout,
    NotByRowError,
    Problem,
    RowSet,
    count_rows,
    counts_rows,
    merge,
    read,
    take,
)
from guardrails.core.request import CURRENT, take_batch
from guardrails.core.targets import Chain, Target
from guardrails.errors import Rejected
from guardrails.typing import Mask, Scores

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from guardrails.core.pipeline import Plan
    from guardrails.exploration.outcome import Exploration


class Stage(IntEnum):
    """Where a guard stands. Before the answer stages run upwards, after it downwards; ties run as written."""

    VALIDATE = 10
    CHECK = 20
    TRACE = 30
    RECORD = 40
    EXPLORE = 50
    OBSERVE = 60
    RESCUE = 70


@dataclass(slots=True, eq=False)
class Part:
    """Some rows of the request (all of them, as a rule) and who may answer them, in order of preference."""

    chain: Chain
    reason: str | None = None
    index: Index | None = None  # None: the request as it came
    route: str = semconv.PRIMARY
    result: Any = None
    settled: bool = False


@dataclass(slots=True)
class Verdict:
    """What the outlier check saw.

    Attributes:
        scores: one score per row, shape ``(n,)``; higher is stranger.
        p_values: the share of ordinary rows at least as strange, shape ``(n,)``.
        mask: which rows are outliers, shape ``(n,)``.
    """

    scores: Scores | Sequence[float]
    p_values: Scores | Sequence[float]
    mask: Mask | Sequence[bool]


class Call:
    """One request. Guards read it before the answer and after it; the driver asks it for attempts.

    Attributes:
        args, kwargs: the arguments, without ``self``; guards never change them.
        id: the decision id; row i of a batch is ``<id>/<i>``.
        primary: the rows the primary is asked for.
        parts: who answers which rows. One part, unless some rows were diverted and some were not.
        verdict: what the outlier check saw, if there was one.
        exploration: what was drawn, if anything was.
        batch: the requests behind a call of a batchable method, where they are known.
        attributes: span attributes that are not on a span yet.
        attributes_seen: those collected before the answer, which the span was opened with.
        result: the answer, once there is one; guards may replace it.
        error: the exception the caller gets, once it is known that it gets one.
        rescued: the first exception of somebody who should have answered, whatever came of it.
        tried: who was asked in vain, as ``<route>:<reason>``.
        shadows: what guards that are not enforced would have done: which rows, why, and who would have answered.
        flagged: something was out of the ordinary, so the trace is kept whatever the sampler said.
        noticed: what fallbacks that remember have noted of the request, by who noted it.
        handed_over, handed_back: when the guards let go of the call and when they got it back (perf_counter).
    """

    __slots__ = (
        "_read_at", "_read_by", "_rows", "args", "attributes", "attributes_seen", "batch", "cancelled", "context",
        "error", "exploration", "flagged", "handed_back", "handed_over", "id",
        "kwargs", "noticed", "parts", "plan", "primary", "problems", "rescued", "result", "rows_total",
        "shadows", "span", "started", "started_ns", "stream_items", "trace_id", "tried", "verdict",
    )  # fmt: skip

    def __init__(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.started = time.perf_counter()
        self.started_ns = time.time_ns()
        self.plan, self.args, self.kwargs = plan, args, kwargs
        self.id = os.urandom(16).hex()
        self.primary = Part(plan.chain)
        self.parts = [self.primary]
        self.attributes: dict[str, Any] = {}
        self.attributes_seen = self.attributes
        self.problems: tuple[Problem, ...] = ()
        self.tried: tuple[str, ...] = ()
        self.shadows: tuple[tuple[Mask, str, str], ...] = ()
        self.result: Any = None
        self.error: BaseException | None = None
        self.rescued: BaseException | None = None
        self.verdict: Verdict | None = None
        self.exploration: Exploration | None = None
        self.batch = take_batch() if plan.method.batchable else None
        self.span: Span | None = None
        self.context: Context | None = None
        self.trace_id = 0
        self.noticed: dict[int, Any] = {}
        self.flagged = self.cancelled = False
        self.stream_items = 0
        self.rows_total = 1
        self.handed_over = self.handed_back = self.started
        self._read_by: Layout | None = None
        self._read_at: Argument | None = None
        self._rows: RowSet | None = None

    # What guards ask and say

    def payload(self, at: Argument) -> Any:
        """The argument that holds the features, however it was passed, or left to its default."""
        if at.position < len(self.args):
            return self.args[at.position]
        return self.kwargs.get(at.name, at.default)

    def rows(self, at: Argument, layout: Layout) -> RowSet:
        """The payload as rows, read once for all guards that read the same argument by the same profile."""
        if self._rows is None or self._read_by is not layout or self._read_at != at:
            first = self._rows is None
            self._rows, self._read_by, self._read_at = read(self.payload(at), layout), layout, at
            if first:
                self.rows_total = len(self._rows)
        return self._rows

    def rows_if_read(self, at: Argument, layout: Layout) -> RowSet | None:
        """The same, where somebody has read them already."""
        same = self._read_by is layout and (self._read_at is at or self._read_at == at)
        return self._rows if same else None

    @property
    def refused(self) -> bool:
        """Whether a guard has refused the request."""
        return isinstance(self.error, Rejected)

    @property
    def rows_read(self) -> RowSet | None:
        """The rows, if some guard has read them."""
        return self._rows

    def divert(self, mask: Mask | None, chain: Chain, reason: str) -> None:
        """Send rows elsewhere; rows that an earlier guard has sent away stay where they are.

        Args:
            mask: which rows, shape ``(n,)``; None for the request as a whole.
            chain: who answers them instead.
            reason: why, as in the ``Guardrails-Reason`` header.
        """
        self.flagged = True
        if self.primary not in self.parts:
            return
        chain = self.plan.and_then_rescue(chain)
        left = self.primary.index
        if mask is None or len(mask) != self.rows_total or self.plan.method.shape.streams:
            chosen, kept = left, None
        else:
            rows = np.arange(self.rows_total) if left is None else left
            chosen, kept = rows[mask[rows]], rows[~mask[rows]]
            if not len(chosen):
                return
            if not len(kept):
                chosen, kept = left, None
        if kept is None:
            self.parts.remove(self.primary)
        else:
            self.primary.index = kept
        self.parts.append(Part(chain, reason, chosen, chain[0].route))

    def shadow(self, mask: Mask | None, reason: str, route: str) -> None:
        """Note what would have become of rows had a guard been enforced. Nothing changes for them.

        As when it is enforced, the first guard to send a row away decides, what streams goes as a whole, and who
        refuses one row refuses the request.

        Args:
            mask: which rows, shape ``(n,)``; None for the request as a whole.
            reason: why.
            route: who would have answered.
        """
        self.flagged = True
        n = self.count()
        whole = mask is None or len(mask) != n or self.plan.method.shape.streams
        left = self.undecided(np.ones(n, dtype=bool) if whole or mask is None else mask, shadows=True)
        if left.any():
            self.shadows += ((left, reason, route),)
            said = dict.fromkeys(f"{reason}:{route}" for _, reason, route in self._shadows_that_count())
            self.attributes[semconv.SHADOW] = tuple(said)

    def shadow_of(self, row: int) -> str | None:
        """What would have become of one row; None where nothing would."""
        for mask, reason, route in self._shadows_that_count():
            if route == semconv.REJECTED or mask[row]:
                return f"{reason}:{route}"
        return None

    def count_shadows(self) -> None:
        """Count the rows that would have been sent away, once what would have become of them is known."""
        for mask, reason, route in self._shadows_that_count():
            rows = self.rows_total if route == semconv.REJECTED else int(mask.sum())
            metrics.shadowed().labels(self.plan.method.name, reason).inc(rows)

    def _shadows_that_count(self) -> tuple[tuple[Mask, str, str], ...]:
        refused = next((entry for entry in self.shadows if entry[2] == semconv.REJECTED), None)
        return self.shadows if refused is None else (refused,)

    def undecided(self, mask: Mask, *, shadows: bool = False) -> Mask:
        """Which of these rows nobody has sent away yet, shape ``(n,)``.

        Args:
            mask: the rows in question, shape ``(n,)``.
            shadows: what a guard that is not enforced would have sent away is away, too.
        """
        if shadows:
            for earlier, _, _ in self.shadows:
                mask = mask & ~earlier if len(earlier) == len(mask) else mask
        if self.primary not in self.parts:
            return np.zeros_like(mask)
        if self.primary.index is None or len(mask) != self.rows_total:
            return mask
        still = np.zeros_like(mask)
        still[self.primary.index] = True
        return mask & still

    def refuse(self, message: str, reason: str, problems: tuple[Problem, ...] = ()) -> None:
        """Answer the whole request with a 422. The first refusal counts."""
        self.flagged = True
        if not self.refused:
            details = [problem.detail() for problem in problems]
            self.error = Rejected(message, reason=reason, decision_id=self.id, details=details)
            self.parts[:] = [Part((), reason, route=semconv.REJECTED)]

    # What drivers ask

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts, until every part is settled or the call has failed."""
        self.handed_over = time.perf_counter()
        yield from self._attempts()
        if self.error is None:
            try:
                self._put_together()
            except NotByRowError:
                # The answer speaks for the request as a whole, so the request goes as a whole where its odd rows go.
                odd = next(part for part in self.parts if part is not self.primary)
                self.parts[:] = [Part(odd.chain, odd.reason)]
                yield from self._attempts()
                if self.error is None:
                    self._put_together()
        self.handed_back = time.perf_counter()

    def _attempts(self) -> Iterator[Attempt]:
        for part in self.parts:
            if part.chain and part.chain[0].rejects:  # nobody need work for a request that is going to be refused
                self._reject(part, part.chain[0])
                return
        for part in self.parts:
            for target in part.chain:
                if target.rejects:
                    self._reject(part, target)
                    return
                part.route = target.route
                attempt = Attempt(self, part, target)
                if attempt.admitted():
                    yield attempt
                if part.settled:
                    self.error = None
                    break
                self.flagged = True
                self.rescued = self.rescued or self.error
                if self.error is None or (target.route == semconv.PRIMARY and not self.plan.rescues(self.error)):
                    return
                cause = why(self.error)
                self.tried += (f"{target.route}:{cause}",)
                # The first reason stays: it is why the primary did not answer, whatever happened to its stand-ins.
                part.reason = part.reason or cause
            if not part.settled:
                return

    def failed(self, error: BaseException) -> None:
        """The attempt under way raised."""
        self.error = error

    def arguments_for(self, part: Part) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for a part: as they came, or only its rows."""
        if part.index is None:
            return self.args, self.kwargs
        n, index = self.rows_total, part.index

        features = self._read_at

        def of_rows(value: Any, *, is_payload: bool) -> Any:
            # A list that happens to be as long as the batch may be anything; an array or a Series is one entry a row.
            by_row = counts_rows(value, n) and (is_payload or not isinstance(value, list | tuple))
            return take(value, index) if by_row else value

        args = (of_rows(v, is_payload=features is not None and i == features.position) for i, v in enumerate(self.args))
        kwargs = self.kwargs.items()
        named = {k: of_rows(v, is_payload=features is not None and k == features.name) for k, v in kwargs}
        return tuple(args), named

    def answer(self) -> Any:
        """What the caller gets: the result, or the exception."""
        if self.error is not None:
            error, self.error = self.error, None
            try:
                raise error
            finally:
                del error  # the traceback holds this frame, which must not hold the traceback
        return self.result

    # What the end of a call is made of

    @property
    def route(self) -> str:
        """Who answered: ``primary``, ``fallback:<name>``, ``rejected`` or ``mixed``."""
        first = self.parts[0].route
        if len(self.parts) == 1:
            return first
        return first if all(part.route == first for part in self.parts) else semconv.MIXED

    @property
    def reason(self) -> str | None:
        """Why it was not the primary (of a mixed request, why the first rows were sent away)."""
        reason = self.parts[0].reason
        if reason is None and len(self.parts) > 1:
            reason = next((part.reason for part in self.parts if part.reason is not None), None)
        return semconv.ERROR if reason is None and self.error is not None else reason

    @property
    def primary_answered(self) -> bool:
        """Whether the primary answered at least some rows."""
        primary = self.primary
        if self.error is not None or not primary.settled or primary.route != semconv.PRIMARY:
            return False
        return self.parts[0] is primary or primary in self.parts

    def count(self) -> int:
        """How many rows the request has, also where no guard has read them."""
        if self._rows is None and self.exploration is None:
            self.rows_total = self.rows_in(self.primary)
        return self.rows_total

    def rows_in(self, part: Part) -> int:
        """How many rows a part has."""
        if part.index is not None:
            return len(part.index)
        if self._rows is not None and self._rows.rows_with_problems() is not None:
            return self.rows_total
        return count_rows(self.args[0] if self.args else next(iter(self.kwargs.values()), None))

    def announce(self) -> None:
        """Tell the middleware who answers. A batch has no one request to tell, but all of them, where it knows them."""
        if self.plan.method.batchable:
            if self.batch is not None:
                self.batch.answered(self)
            return
        state = CURRENT.get()
        if state is not None:
            state.answer(self.id, self.route, self.reason)
            state.rejection = self.error if isinstance(self.error, Rejected) else None

    def part_of_row(self) -> list[Part]:
        """The part each row belongs to, in the order of the rows."""
        if len(self.parts) == 1:
            return [self.parts[0]] * self.rows_total
        owners: list[Part] = [self.primary] * self.rows_total
        for part in self.parts:
            for row in () if part.index is None else part.index.tolist():
                owners[row] = part
        return owners

    def _reject(self, part: Part, target: Target) -> None:
        reason = part.reason or semconv.ERROR
        self.error = None
        # One request has one status code: a refused row refuses the rows that came with it.
        self.refuse(target.message or _REJECTIONS.get(reason, _REJECTIONS[semconv.ERROR]), reason, self.problems)

    def _put_together(self) -> None:
        if len(self.parts) == 1 and self.parts[0].index is None:
            self.result = self.parts[0].result
        else:
            parts = [(part.index, part.result) for part in self.parts if part.index is not None]
            self.result = merge(parts, self.rows_total)


_REJECTIONS = {
    semconv.OUTLIER: "This request is unlike the data the model was trained on, so the model does not answer it.",
    semconv.INVALID: "This request is not what the model was trained to read.",
    semconv.TIMEOUT: "No answer was ready in time.",
    semconv.BREAKER_OPEN: "The model failed too often and is given time to recover; nothing stands in for it.",
    semconv.ERROR: "The model failed and nothing stands in for it.",
}
