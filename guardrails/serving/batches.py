"""Who brought which rows to a *batchable* method: BentoML's dispatcher, made to remember it.

BentoML calls a batchable method once for many requests, in the context of the first request its worker ever served.
Its dispatcher is the last place where the requests stand apart. `link_batches` makes it remember whose rows are whose,
so that each client's response has the headers of its own rows, each request's own span says what the guards saw of
them (and is kept, if they were flagged, whatever its neighbours were), and the batch's span links to all of them.

This reaches into BentoML, at the places that `_RELIED_ON` names (read in 1.4.24, 1.4.30 and 1.4.39: they are the same).
So it is done when asked for, ``install(batch_links=True)``, and where all of them are as they were read.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import bentoml
from opentelemetry import trace

from guardrails.core.containment import contain
from guardrails.core.request import BATCH, CURRENT
from guardrails.serving.members import Batch, Member

logger = logging.getLogger("guardrails")

READ = "1.4."
"""The versions of BentoML whose dispatcher is known to work like this."""

_RELIED_ON = {
    "__init__": {"get_batch_size"},
    "inbound_call": {"data"},
    "outbound_call": {"inputs_info"},
    "split_job": {"job", "split_indexes"},
}
"""Methods of the dispatcher, and their parameters, that `Linked` overrides or uses."""


class Linked:
    """Mixed into BentoML's dispatcher: remembers whose data is whose, and says so before it calls the method."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # By the identity of the data: the job around it is made further in. An entry holds its data, so that no other
        # data can have the same identity as long as it is there.
        self._senders: dict[int, tuple[Any, Member]] = {}

    async def inbound_call(self, data: Any) -> Any:
        """Wait for one request's answer; runs in the context of that request."""
        self._senders[id(data)] = data, Member(trace.get_current_span(), CURRENT.get(), 0)
        try:
            return await super().inbound_call(data)  # type: ignore[misc]
        finally:
            self._senders.pop(id(data), None)

    def split_job(self, job: Any, split_indexes: Any) -> Any:
        """Take what fits into a batch from a request that is too large for it; both halves remain its own."""
        halves = super().split_job(job, split_indexes)  # type: ignore[misc]
        known = self._senders.get(id(job.data))
        if known is not None:
            for half in halves:
                self._senders[id(half.data)] = half.data, known[1]
                half.future.add_done_callback(functools.partial(self._forget, id(half.data)))
        return halves

    async def outbound_call(self, inputs_info: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Call the method for a batch; runs in a task of its own, which starts in the first request's context."""
        try:
            BATCH.set(Batch([self._member(job.data) for job in inputs_info]))
        except Exception as error:  # noqa: BLE001  # to raise here would leave the dispatcher locked
            contain("batch_links", error)
        return await super().outbound_call(inputs_info, *args, **kwargs)  # type: ignore[misc]

    def _member(self, data: Any) -> Member:
        rows = self.get_batch_size(data)  # type: ignore[attr-defined]
        known = self._senders.get(id(data))
        return Member(trace.INVALID_SPAN, None, rows) if known is None else replace(known[1], rows=rows)

    def _forget(self, key: int, _: Any) -> None:
        self._senders.pop(key, None)


def link_batches() -> bool:
    """Make BentoML's dispatchers remember whose rows are whose: all that this process makes from now on.

    Call it when the service's module is imported, as `install` does: the dispatchers are made before the first start-up
    hook runs. It may be called any number of times, and changes nothing for methods without guards.

    Returns:
        Whether it is done. If not, one line in the log names what is not as it was read, and batches stay as they were:
        a trace of their own, no headers.
    """
    problem = _problem()
    if problem is not None:
        _warn(problem)
        return False
    from _bentoml_impl.server import app

    if not issubclass(app.CorkDispatcher, Linked):
        app.CorkDispatcher = type("LinkedDispatcher", (Linked, app.CorkDispatcher), {})
    return True


def _problem() -> str | None:
    """What this relies on and does not find; None where all is there."""
    if not bentoml.__version__.startswith(READ):
        return f"BentoML {READ}x (this is {bentoml.__version__})"
    try:
        from _bentoml_impl.server.app import CorkDispatcher, ServiceAppFactory
        from bentoml._internal.marshal.dispatcher import Job
    except ImportError as error:
        return str(error)
    if isinstance(CorkDispatcher, type) and issubclass(CorkDispatcher, Linked):
        return None
    for name, parameters in _RELIED_ON.items():
        if not parameters <= _parameters(getattr(CorkDispatcher, name, None)):
            return f"CorkDispatcher.{name}({', '.join(sorted(parameters))})"
    for name in ("inbound_call", "outbound_call"):
        if not inspect.iscoroutinefunction(getattr(CorkDispatcher, name)):
            return f"a coroutine function CorkDispatcher.{name}"
    if not {"data", "future"} <= _parameters(Job):
        return "Job(data, future)"
    if "CorkDispatcher" not in inspect.unwrap(ServiceAppFactory.__init__).__code__.co_names:
        return "ServiceAppFactory, making a CorkDispatcher"
    return None


def _parameters(function: Any) -> set[str]:
    return set() if function is None else set(inspect.signature(function).parameters)


@functools.cache
def _warn(problem: str) -> None:
    logger.warning("batch_links is left out; what it relies on in BentoML is not there: %s", problem)
