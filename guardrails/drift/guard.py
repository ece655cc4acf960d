"""@sample_drift: a sample of the rows, and of the model's own answers, is counted against the profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from guardrails import semconv
from guardrails.core.call import Call, Stage
from guardrails.core.host import host
from guardrails.core.method import Argument, Method
from guardrails.core.pipeline import attach, brief
from guardrails.drift.sampler import Sampler, sampler_of
from guardrails.errors import DecorationError
from guardrails.profile.reference import ProfileSpec, pin, resolve
from guardrails.typing import F, Hooks

_WORD = 1 << 64


@dataclass(frozen=True, repr=False)
class sample_drift:  # noqa: N801  # a decorator is read as a verb
    """Sample requests for drift: one reference into a bounded queue; a background thread counts.

    The sample is drawn by the trace id, with the same rule as OpenTelemetry's ratio sampler: at equal rates the sampled
    requests and the sampled traces are the same ones. A request of several rows counts as one row: rows that come
    together are alike, and counting all would be taken for drift.

    Args:
        profile: a `Profile`, a `Profile.ref`, or ``lambda self: ...``.
        rate: the share of requests to sample, in (0, 1].
        features: the argument that holds the rows; the first one by default.

    Raises:
        DecorationError: at decoration, when the rate is no share.

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

    profile: ProfileSpec
    rate: float = 1.0
    features: str | None = None
    name: ClassVar[str] = "sample_drift"
    stage: Stage = Stage.OBSERVE
    __repr__ = brief

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise DecorationError(
                f"sample_drift(rate={self.rate!r}): a rate is a share of requests, above 0, at most 1."
            )

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        guarded = attach(self, fn)
        pin(self.profile, fn)
        return guarded

    def check(self, method: Method) -> None:
        """At decoration: the argument exists."""
        method.argument(self.features)

    def bind(self, method: Method) -> Hooks:
        """At worker start: load the profile, start its flusher."""
        sampler = sampler_of(resolve(self.profile, method.owner))
        host().at_shutdown(method.owner, sampler.close)
        observer = _Observer(sampler, self.rate, method.argument(self.features))
        return Hooks(observer.before, observer.after)


class _Observer:
    """What one sampled method needs at run time."""

    def __init__(self, sampler: Sampler, rate: float, at: Argument) -> None:
        self._offer, self._at = sampler.offer, at
        self._layout = sampler.profile.layout
        self._bound = round(rate * _WORD)

    def before(self, call: Call) -> None:
        # Read now, unless another guard has: a method that scales its input in place would be counted as drift.
        if call.rows_read is None and (call.trace_id or int(call.id, 16)) & (_WORD - 1) < self._bound:
            call.rows(self._at, self._layout)

    def after(self, call: Call) -> None:
        rows = call.rows_if_read(self._at, self._layout)
        if rows is not None and rows.problems and call.refused:
            return  # refused for what it is no row of: it cannot be compared with rows
        # Without a trace the decision id, which is as random, decides.
        identity = call.trace_id or int(call.id, 16)
        if identity & (_WORD - 1) >= self._bound:
            return
        call.attributes[semconv.DRIFT_SAMPLED] = True
        answer = call.result if call.primary_answered else None
        if isinstance(answer, np.ndarray):
            answer = answer.copy()  # the model may use its buffer again before it is counted
        self._offer(rows or call.payload(self._at), answer, call.primary.index, identity >> 64)
