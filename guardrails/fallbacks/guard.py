"""@fall_back: when the method raises, takes too long, or is sick, somebody else answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from guardrails import semconv
from guardrails.core.attempt import why
from guardrails.core.breaker import Breaker, Circuit
from guardrails.core.call import Call, Stage
from guardrails.core.method import Method
from guardrails.core.pipeline import attach, brief
from guardrails.core.targets import Chain, Fallbacks, at_least_one, chain
from guardrails.errors import BreakerOpen, DecorationError, is_rescued
from guardrails.typing import F, Hooks

if TYPE_CHECKING:
    from guardrails.core.pipeline import Plan


ALWAYS_RESCUED = (TimeoutError, BreakerOpen)


@dataclass(frozen=True, repr=False)
class fall_back:  # noqa: N801  # a decorator is read as a verb
    """When the method raises, gives no answer in time, or has failed too often, let somebody else answer.

    A timeout cancels asynchronous work. Synchronous work cannot be stopped: it is left behind in a bounded executor,
    runs on by itself, and is counted in ``guardrails_overruns_total`` and ``guardrails_overrunning``.

    Args:
        to: who answers: a method's name, ``"dependency.method"`` of a ``bentoml.depends`` service, a callable of the
            same signature, `reject()`, `constant(...)`, `last_good(...)`, any of these `within(...)` a deadline of its
            own, or a list of these, tried in order.
        on: which exceptions are rescued; `TimeoutError` always is. What a method raises as the client's own fault
            (BentoML's 4xx, such as ``InvalidArgument``) reaches the client, unless its kind is named here.
        timeout: seconds each attempt may take, or None.
        breaker: when to stop asking the method at all for a while; None always asks.
        enforce: False rescues nothing, and only records what would have been.

    Raises:
        DecorationError: at decoration or start-up, when a fallback cannot stand in for the method.

    Example:
        >>> import guardrails as gr
        >>> @gr.fall_back(to=gr.constant(0.0), on=(ZeroDivisionError,))
        ... def ratio(a: float, b: float) -> float:
        ...     return a / b
        >>> ratio(1.0, 0.0)
        0.0
    """

    to: Fallbacks
    on: tuple[type[Exception], ...] = (Exception,)
    timeout: float | None = None
    breaker: Breaker | None = None
    enforce: bool = True
    name: ClassVar[str] = "fall_back"
    stage: Stage = Stage.RESCUE
    __repr__ = brief

    def __post_init__(self) -> None:
        at_least_one(self.to, "fall_back(to=[])")
        if self.timeout is not None and not self.timeout > 0:
            raise DecorationError(f"fall_back(timeout={self.timeout!r}): a timeout is a positive number of seconds.")
        if not isinstance(self.on, tuple) or not all(isinstance(k, type) and issubclass(k, Exception) for k in self.on):
            raise DecorationError(f"fall_back(on={self.on!r}): give a tuple of exception types, as in (ValueError,).")
        if self.breaker is not None and not isinstance(self.breaker, Breaker):
            raise DecorationError(f"fall_back(breaker={self.breaker!r}): give a Breaker(), or None.")

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        return attach(self, fn)

    def check(self, method: Method) -> None:
        """At decoration: a timeout needs one answer to wait for."""
        if self.timeout is not None and method.shape.streams:
            raise DecorationError(
                f"{method.fn.__qualname__}() streams, and fall_back(timeout=...) waits for one answer. Leave it "
                "out: errors before the first item still fall back."
            )

    def verify(self, method: Method) -> None:
        """At start-up: the fallbacks can stand in for the method."""
        chain(self.to, method)

    def prepare(self, plan: Plan) -> None:
        """At worker start: stand behind the primary."""
        if not self.enforce:
            return
        plan.rescue = chain(self.to, plan.method)
        plan.timeout = self.timeout
        plan.on = (*self.on, *ALWAYS_RESCUED)
        if self.breaker is not None:
            plan.circuit = Circuit(self.breaker, plan.method.name, semconv.PRIMARY)

    def bind(self, method: Method) -> Hooks:
        """It is who may answer; only where it is not enforced does it look at the call at all."""
        if self.enforce:
            return Hooks()
        return Hooks(after=_Shadow(self, chain(self.to, method)).after)


class _Shadow:
    """What `fall_back` would have done."""

    def __init__(self, options: fall_back, fallbacks: Chain) -> None:
        self._on = (*options.on, *ALWAYS_RESCUED)
        self._timeout, self._route = options.timeout, fallbacks[0].route

    def after(self, call: Call) -> None:
        error = call.error
        if call.parts[0].route == semconv.REJECTED:
            return  # a guard's own refusal: nobody was asked
        if self._timeout is not None and call.handed_back - call.handed_over > self._timeout:
            call.shadow(None, semconv.TIMEOUT, self._route)
        elif error is not None and is_rescued(error, self._on):
            call.shadow(None, why(error), self._route)
