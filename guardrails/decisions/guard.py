"""RECORD: every answered row leaves a decision, whoever answered it."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
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
from guardrails.decisions.sinks import Spec, open_sink
from guardrails.typing import Hooks, Sink

Features = Literal["store", "hash", "none"]


@dataclass(frozen=True, repr=False)
class Record:
    """Write a decision for every row (`install` and `explore` add it; it is no decorator of its own).

    Args:
        decisions: a store's URL, a sink that takes each `Decision`, or a list of these.
        features: what a record keeps of the row: ``"store"``, ``"hash"`` or ``"none"``.
        model: the attribute of the service that names the model, where no profile does.
    """

    decisions: Spec
    features: Features = "none"
    model: str | None = None
    name: ClassVar[str] = "record"
    stage: Stage = Stage.RECORD
    __repr__ = brief

    def bind(self, method: Method) -> Hooks:
        """Open the log, once per worker."""
        sink: Any = open_sink(self.decisions)
        if sink is not self.decisions:
            host().at_shutdown(method.owner, sink.close)
        return Hooks(after=_Recorder(sink, self, method).after)


class _Recorder:
    """What one recorded method needs at run time."""

    def __init__(self, sink: Sink, options: Record, method: Method) -> None:
        self._sink, self._features, self._api = sink, options.features, method.name
        self._model = _model_of(method, options.model)
        self._batchable = method.batchable
        self._at = method.argument() if options.features != "none" else None

    def after(self, call: Call) -> None:
        trace_id = call.trace_id
        if not trace_id and not self._batchable:
            trace_id = trace.get_current_span().get_span_context().trace_id
        shared = {
            "ts": call.started_ns / 1e9,
            "api": self._api,
            "trace_id": f"{trace_id:032x}" if trace_id else None,
            "profile": call.attributes_seen.get(semconv.PROFILE_TAG),
            "model": call.attributes_seen.get(semconv.MODEL_TAG) or self._model(),
            "duration": time.perf_counter() - call.started,
            "error_type": type(call.error).__name__ if call.error is not None else None,
        }
        if call.count() == 1:
            self._sink(self._decision(call, 0, call.id, call.parts[0], shared))
            return
        failed: Exception | None = None
        for row, part in enumerate(call.part_of_row()):
            try:
                self._sink(self._decision(call, row, f"{call.id}/{row}", part, shared))
            except Exception as error:  # noqa: BLE001  # one row's trouble must not cost the others their records
                failed = error
        if failed is not None:
            raise failed

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
            if isinstance(values, str):  # as JSON, so that it is read back as the text it was
                return json.dumps(values)
            return values.copy() if isinstance(values, np.ndarray) else copy.deepcopy(values)
        content = values.tobytes() if isinstance(values, np.ndarray) else repr(values).encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()


def _model_of(method: Method, attribute: str | None) -> Callable[[], str | None]:
    """Tells which model answers: a stored model's tag is known once and for all, anything else is asked each time."""
    if attribute is None or method.owner is None:
        return lambda: None
    owner = method.owner
    tag = getattr(getattr(owner, attribute), "tag", None)
    if tag is not None:
        known = str(tag)
        return lambda: known
    return lambda: str(getattr(owner, attribute))
