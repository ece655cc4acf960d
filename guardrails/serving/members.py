"""What each request of a batch is told of its own rows: response headers, attributes on its span, whether it is kept.

One call of a batchable method serves many requests. `guardrails.serving.batches` knows which rows are whose.

A client's decision id names the records of its rows. One row: its record's id, ``<id>/<row>`` (``<id>`` where the batch
was that row alone), as feedback takes it. Several rows: ``<id>/<first>-<last>``, so row k of the request, from 0, is
``<id>/<first + k>``. Where BentoML split a request over batches, one of these for each, joined by ``", "``; its route
is ``mixed`` unless all agree, and its verdict is that of its strangest row. Where rows cannot be told apart (no guard
and no record counted them), the header is ``<id>``, with the route and the reason of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.trace import Span, SpanContext

from guardrails import semconv
from guardrails.core.call import Call, Part
from guardrails.core.containment import contain
from guardrails.core.host import host
from guardrails.core.request import RequestState

_OF_THE_CALL = (semconv.DEADLINE_MET, semconv.GUARD_ERRORS)


@dataclass(slots=True, eq=False)
class Member:
    """The rows that one request brought to a batch.

    Attributes:
        span: the request's own span; `INVALID_SPAN` where nobody knows whose rows these are.
        state: what its response headers are made from; None without `install`, and where nobody knows.
        rows: how many.
        told: what has been said of the request so far; shared by its parts where BentoML split it over batches.
    """

    span: Span
    state: RequestState | None
    rows: int
    told: dict[str, Any] = field(default_factory=dict)

    def tell(self, said: dict[str, Any]) -> None:
        """Add what is said of these rows, and put it into the response's headers."""
        told = self.told
        told.update(_combined(told, said) if told else said)
        if self.state is not None:
            self.state.answer(told[semconv.DECISION_ID], told[semconv.ROUTE], told.get(semconv.REASON))


class Batch:
    """The requests of one batch, in the order of their rows."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    @property
    def contexts(self) -> list[SpanContext]:
        """Their spans, for the batch's own span to link to."""
        found = (member.span.get_span_context() for member in self.members)
        return [context for context in found if context.is_valid]

    def answered(self, call: Call) -> None:
        """Tell each request what became of its rows."""
        try:
            flagged = []
            for member, said, odd in self._findings(call):
                member.tell(said)
                # A request that was answered meanwhile (a timeout) has a span that takes nothing any more.
                if call.span is not None and member.span.is_recording():
                    member.span.set_attributes(member.told)
                    if odd:
                        flagged.append(member.span.get_span_context())
            if flagged:
                _keep(flagged, failed=call.error is not None)
        except Exception as error:  # noqa: BLE001  # a guard may not break the service
            contain("batch_links", error, call)

    def _findings(self, call: Call) -> Iterator[tuple[Member, dict[str, Any], bool]]:
        """Each member, what is said of its rows, and whether anything about them is out of the ordinary."""
        failed = call.error is not None
        known = {**call.attributes_seen, **call.attributes}
        shared = {name: known[name] for name in _OF_THE_CALL if name in known}
        if sum(member.rows for member in self.members) != call.rows_total:
            said = {semconv.DECISION_ID: call.id, **_routed(call.parts, failed=failed), **shared}
            yield from ((member, dict(said), call.flagged) for member in self.members)
            return
        for_all = semconv.GUARD_ERRORS in shared or shared.get(semconv.DEADLINE_MET) is False
        owners, last = call.part_of_row(), 0
        for member in self.members:
            first, last = last, last + member.rows
            if member.rows:
                said = {**_of_rows(call, first, last), **_routed(owners[first:last], failed=failed), **shared}
                odd = for_all or semconv.REASON in said or semconv.SHADOW in said
                yield member, said, call.flagged and odd


def _of_rows(call: Call, first: int, last: int) -> dict[str, Any]:
    """What is said of the rows ``first .. last - 1`` of a call: their decision id, and the verdict on the worst."""
    said: dict[str, Any] = {semconv.DECISION_ID: call.id if call.rows_total == 1 else f"{call.id}/{first}"}
    if last - first > 1:
        said = {semconv.DECISION_ID: f"{call.id}/{first}-{last - 1}", semconv.ROWS: last - first}
    verdict = call.verdict
    if verdict is not None:
        worst = first
        if last - first > 1:  # the least likely row; among equals, the one with the highest score
            scores, p_values = np.asarray(verdict.scores[first:last]), np.asarray(verdict.p_values[first:last])
            worst += int(np.lexsort((-scores, p_values))[0])
        said[semconv.OUTLIER_SCORE] = float(verdict.scores[worst])
        said[semconv.OUTLIER_P_VALUE] = float(verdict.p_values[worst])
        said[semconv.IS_OUTLIER] = any(bool(flag) for flag in verdict.mask[first:last])
    if call.shadows:
        shadows = tuple(dict.fromkeys(filter(None, map(call.shadow_of, range(first, last)))))
        if shadows:
            said[semconv.SHADOW] = shadows
    return said


def _routed(parts: Sequence[Part], *, failed: bool) -> dict[str, Any]:
    """Route and reason of some rows, as `Call.route` and `Call.reason` give those of all."""
    routes = {part.route for part in parts}
    said: dict[str, Any] = {semconv.ROUTE: parts[0].route if len(routes) == 1 else semconv.MIXED}
    reason = next((part.reason for part in parts if part.reason is not None), semconv.ERROR if failed else None)
    return said if reason is None else {**said, semconv.REASON: reason}


def _combined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is said of a request whose rows came in several batches."""
    said = {**now, **before}
    worst = min(before, now, key=_likelihood)
    said.update({name: worst[name] for name in (semconv.OUTLIER_P_VALUE, semconv.OUTLIER_SCORE) if name in worst})
    for name, together in ((semconv.IS_OUTLIER, any), (semconv.DEADLINE_MET, all)):
        if name in said:
            said[name] = together(one[name] for one in (before, now) if name in one)
    if semconv.SHADOW in said:
        both = (*before.get(semconv.SHADOW, ()), *now.get(semconv.SHADOW, ()))
        said[semconv.SHADOW] = tuple(dict.fromkeys(both))
    if before[semconv.ROUTE] != now[semconv.ROUTE]:
        said[semconv.ROUTE] = semconv.MIXED
    said[semconv.ROWS] = before.get(semconv.ROWS, 1) + now.get(semconv.ROWS, 1)
    said[semconv.DECISION_ID] = f"{before[semconv.DECISION_ID]}, {now[semconv.DECISION_ID]}"
    return said


def _likelihood(said: dict[str, Any]) -> tuple[float, float]:
    return said.get(semconv.OUTLIER_P_VALUE, 2.0), -said.get(semconv.OUTLIER_SCORE, 0.0)


def _keep(flagged: Sequence[SpanContext], *, failed: bool) -> None:
    """Have these traces exported, whatever the sampler said; those of their neighbours are left alone."""
    from guardrails.tracing.keep import keeper_of

    keeper = keeper_of(host().tracer_provider())
    if keeper is None:
        return
    for context in flagged:
        if failed:
            keeper.judge(context.trace_id)  # the status BentoML answers with is the method's doing
        keeper.flag(context.trace_id)
