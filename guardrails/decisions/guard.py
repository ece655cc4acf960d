"""RECORD: every answered row leaves a decision, whoever answered it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from opentelemetry import trace

from guardrails import semconv
from guardrails.core.call import Call, Part, Stage
from guardrails.core.host import host
from guardrails.core.method import Method
from guardrails.core.payload import one_row
from guardrails.core.pipeline import brief
from guardrails.decisions.records import Decision
from guardrails.typing import Hooks, Sink

Features = Literal["store", "hash", "none"]


@dataclass(frozen=True, repr=False)
class Record:
    """Write a decision for every row (`install` and `explore` add it; it is no decorator of its own).

    Args:
        decisions: an SQLAlchemy URL, or a sink that takes each `Decision`.
        features: what a record keeps of the row: ``"store"``, ``"hash"`` or ``"none"``.
    """

    decisions: str | Sink
    features: Features = "none"
    name: ClassVar[str] = "record"
    stage: Stage = Stage.RECORD
    __repr__ = brief

    def bind(self, method: Method) -> Hooks:
        """Open the log, once per worker."""
        sink: Any = self.decisions
        if isinstance(sink, str):
            from guardrails.decisions.writer import open_log

            sink = open_log(sink)
            host().at_shutdown(method.owner, sink.close)
        return Hooks(after=_Recorder(sink, self.features, method).after)


class _Recorder:
    """What one recorded method needs at run time."""

    def __init__(self, sink: Sink, features: Features, method: Method) -> None:
        self._sink, self._features, self._api = sink, features, method.name
        self._batchable = method.batchable
        self._at = method.argument() if features != "none" else None

    def after(self, call: Call) -> None:
        trace_id = call.trace_id
        if not trace_id and not self._batchable:
            trace_id = trace.get_current_span().get_span_context().trace_id
        shared = {
            "ts": call.started_ns / 1e9,
            "api": self._api,
            "trace_id": f"{trace_id:032x}" if trace_id else None,
            "profile": call.attributes_seen.get(semconv.PROFILE_TAG),
            "model": call.attributes_seen.get(semconv.MODEL_TAG),
            "duration": time.perf_counter() - call.started,
            "error_type": type(call.error).__name__ if call.error is not None else None,
        }
        if call.count() == 1:
            self._sink(self._decision(call, 0, call.id, call.parts[0], shared))
            return
        for row, part in enumerate(call.part_of_row()):
            self._sink(self._decision(call, row, f"{call.id}/{row}", part, shared))

    def _decision(self, call: Call, row: int, decision_id: str, part: Part, shared: dict[str, Any]) -> Decision:
        reason = part.reason or (semconv.ERROR if call.error is not None else None)
        decision = Decision(decision_id=decision_id, route=part.route, reason=reason, **shared)
        if call.verdict is not None:
            decision.outlier_score = call.verdict.scores[row]
            decision.outlier_p_value = call.verdict.p_values[row]
        if call.shadows:
            decision.shadow = call.shadow_of(row)
        if call.exploration is not None:
            call.exploration.describe(decision, row)
        if self._features != "none":
            decision.features = self._kept(call, row)
        return decision

    def _kept(self, call: Call, row: int) -> Any:
        rows = call.rows_read
        if rows is not None:
            values = rows.matrix[row] if row < len(rows) else None
        else:  # no guard has a profile to read them by: as they came
            values = None if self._at is None else one_row(call.payload(self._at), row)
        if values is None or self._features == "store":
            return values.copy() if isinstance(values, np.ndarray) else values
        content = values.tobytes() if isinstance(values, np.ndarray) else repr(values).encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()
