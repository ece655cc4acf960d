"""One try at answering: who is asked, with what, within how long; and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardrails import semconv
from guardrails.core.targets import Target
from guardrails.errors import BreakerOpen, is_clients

if TYPE_CHECKING:
    from guardrails.core.breaker import Circuit
    from guardrails.core.call import Call, Part


class Attempt:
    """One try at answering one part. The driver calls ``target`` inside it, and it keeps what happened."""

    __slots__ = (
        "_circuit",
        "_ticket",
        "args",
        "blocking",
        "call",
        "kwargs",
        "part",
        "result",
        "started_stream",
        "target",
        "timeout",
    )

    def __init__(self, call: Call, part: Part, target: Target) -> None:
        self.call, self.part = call, part
        self.target = target.fn
        if target.for_rows is not None:
            self.target = target.for_rows(call.rows_in(part))
        elif target.for_call is not None:
            self.target = target.for_call(call, part)
        self.timeout = call.plan.timeout if target.timeout is None else target.timeout
        if target.instant:
            self.timeout = None
        self.blocking = target.blocking
        self._circuit, self._ticket = target.circuit, 0
        self.args, self.kwargs = call.arguments_for(part)
        self.result: Any = None
        self.started_stream = False

    def admitted(self) -> bool:
        """Ask the breaker of whom is going to be asked, if there is one; an open one fails the attempt."""
        if self._circuit is None:
            return True
        ticket = self._circuit.admit()
        if ticket is None:
            self.call.failed(self._circuit.refusal())
            return False
        self._ticket = ticket
        return True

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _traceback: Any) -> bool:
        if self._circuit is not None:
            self._tell(self._circuit, error)
        if error is None:
            self.part.result = self.result
            self.part.settled = True
            return True
        # CancelledError, GeneratorExit, KeyboardInterrupt belong to whoever stops us, not to a fallback.
        if not isinstance(error, Exception) or self.started_stream:
            return False
        self.call.failed(error)
        return True

    def _tell(self, circuit: Circuit, error: BaseException | None) -> None:
        if error is None:
            circuit.succeeded(self._ticket)
        elif isinstance(error, Exception) and not is_clients(error) and self._would_be_rescued(error):
            circuit.failed(self._ticket)
        else:
            circuit.released(self._ticket)

    def _would_be_rescued(self, error: Exception) -> bool:
        return self.part.route != semconv.PRIMARY or self.call.plan.rescues(error)

    def count_item(self) -> None:
        """One more item of a stream; with the first one the response begins, and its headers with it."""
        if not self.started_stream:
            self.started_stream = True
            self.call.announce()
        self.call.stream_items += 1


def why(error: BaseException) -> str:
    """The reason an error is for asking somebody else."""
    if isinstance(error, BreakerOpen):
        return semconv.BREAKER_OPEN
    return semconv.TIMEOUT if isinstance(error, TimeoutError) else semconv.ERROR
