"""@sample_drift: a sample of the rows, and of the model's own answers, is counted and judged against the profile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from guardrails import semconv
from guardrails.core.call import Call, Stage
from guardrails.core.host import host
from guardrails.core.method import Argument, Method
from guardrails.core.payload import RowSet
from guardrails.core.pipeline import attach, brief
from guardrails.drift.monitor import Monitor
from guardrails.drift.options import DEBOUNCE, RUN_LENGTH, DriftOptions, seconds
from guardrails.drift.sampler import Sampler, of_one_row, sampler_of
from guardrails.drift.triggers import Trigger
from guardrails.errors import DecorationError
from guardrails.profile.reference import ProfileSpec, pin, resolve
from guardrails.typing import F, Hooks

_WORD = 1 << 64


@dataclass(frozen=True, repr=False)
class sample_drift:  # noqa: N801  # a decorator is read as a verb
    """Sample requests for drift: one reference into a bounded queue; a background thread counts and judges.

    The sample is drawn by the trace id, with the same rule as OpenTelemetry's ratio sampler: at equal rates the sampled
    requests and the sampled traces are the same ones. A request of several rows counts as one row: rows that come
    together are alike, and counting all would be taken for drift.

    On each host one worker judges what all have counted (see `guardrails.drift.sequential`); an alarm is a log line, a
    trace, metrics, an entry in ``/guardrails/status``, and whatever `on_alarm` says.

    Args:
        profile: a `Profile`, a `Profile.ref`, ``lambda self: ...``, or a `Monitor`, whose run length then counts rows.
        rate: the share of requests to sample, in (0, 1].
        features: the argument that holds the rows; the first one by default.
        run_length: the wanted mean time between two false alarms: ``"30d"``, or seconds.
        on_alarm: a function that takes the `Alarm`, or a command that gets it as JSON on its standard input; called
            by one worker of the host.
        debounce: how long it is then left alone, whatever happens: ``"1h"``, or seconds.

    Raises:
        DecorationError: at decoration, when an option makes no sense.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 2)))
        >>> @gr.sample_drift(profile)
        ... def predict(rows: np.ndarray) -> list:
        ...     return rows.sum(axis=1).tolist()
        >>> predict(np.array([[1.0, 2.0]]))
        [3.0]
        >>> from guardrails.drift import sampler_of
        >>> sampler_of(profile).flush().rows
        1
    """

    profile: ProfileSpec | Monitor
    rate: float = 1.0
    features: str | None = None
    run_length: float | str = RUN_LENGTH
    on_alarm: Trigger | None = None
    debounce: float | str = DEBOUNCE
    options: DriftOptions = field(init=False, compare=False)
    name: ClassVar[str] = "sample_drift"
    stage: Stage = Stage.OBSERVE
    __repr__ = brief

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise DecorationError(
                f"sample_drift(rate={self.rate!r}): a rate is a share of requests, above 0, at most 1."
            )
        debounce = seconds(self.debounce, "debounce")
        if isinstance(self.profile, Monitor):
            options = DriftOptions(self.profile.run_length, True, self.on_alarm, debounce)
        else:
            options = DriftOptions(seconds(self.run_length, "run_length"), False, self.on_alarm, debounce)
        object.__setattr__(self, "options", options)

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        guarded = attach(self, fn)
        if not isinstance(self.profile, Monitor):
            pin(self.profile, fn)
        return guarded

    def check(self, method: Method) -> None:
        """At decoration: the argument exists."""
        method.argument(self.features)

    def bind(self, method: Method) -> Hooks:
        """At worker start: load the profile, start its flusher."""
        spec = self.profile
        profile = spec.profile if isinstance(spec, Monitor) else resolve(spec, method.owner)
        sampler = sampler_of(profile, self.options)
        host().at_shutdown(method.owner, sampler.close)
        observer = _Observer(sampler, self.rate, method.argument(self.features))
        return Hooks(observer.before, observer.after)


class _Observer:
    """What one sampled method needs at run time."""

    def __init__(self, sampler: Sampler, rate: float, at: Argument) -> None:
        self._offer, self._at = sampler.offer, at
        self._layout = sampler.profile.layout
        self._bound, self._all = round(rate * _WORD), rate == 1.0

    def before(self, call: Call) -> None:
        # Read now, unless another guard has: a method that scales its input in place would be counted as drift.
        if call.rows_read is None and (self._all or self._identity(call) & (_WORD - 1) < self._bound):
            call.rows(self._at, self._layout)

    def after(self, call: Call) -> None:
        if not (self._all or self._identity(call) & (_WORD - 1) < self._bound):
            return
        rows = call.rows_if_read(self._at, self._layout)
        answer = call.result if call.primary_answered else None
        if rows is None:
            self._offer(call.payload(self._at), answer, call.primary.index, self._identity(call) >> 64, call.id)
        elif rows.problems and call.refused:
            return  # refused for what it is no row of: it cannot be compared with rows
        elif len(rows.matrix) == 1:
            if type(answer) is np.ndarray:
                answer = answer.copy()  # the model may use its buffer again before it is counted
            elif isinstance(answer, str | bytes):
                answer = None  # nothing to watch in it, and perhaps much of it
            rows.__dict__.pop("values", None)  # boxed numbers that other guards have read need not wait, too
            self._offer(rows, answer, call.primary.index, 0, call.id)
        else:
            self._offer_one(call, rows, self._identity(call) >> 64, answer)
        call.attributes[semconv.DRIFT_SAMPLED] = True

    @staticmethod
    def _identity(call: Call) -> int:
        """The trace id; without a trace the decision id, which is as random."""
        return call.trace_id or int(call.id, 16)

    def _offer_one(self, call: Call, rows: RowSet, pick: int, answer: object) -> None:
        """One row of a request of several; none of a request of none."""
        if len(rows):
            at = pick % len(rows)
            answered = call.primary.index is None or at in call.primary.index
            self._offer(*of_one_row(rows, answer if answered else None, at), None, 0, f"{call.id}/{at}")
