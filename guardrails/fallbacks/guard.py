"""@fall_back: when the method raises or takes too long, somebody else answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from guardrails.core.call import Stage
from guardrails.core.method import Method
from guardrails.core.pipeline import attach, brief
from guardrails.core.targets import Fallbacks, at_least_one, chain
from guardrails.errors import DecorationError
from guardrails.typing import F, Hooks

if TYPE_CHECKING:
    from guardrails.core.pipeline import Plan


@dataclass(frozen=True, repr=False)
class fall_back:  # noqa: N801  # a decorator is read as a verb
    """When the method raises, or gives no answer in time, let somebody else answer.

    A timeout cancels asynchronous work. Synchronous work cannot be stopped: it is left behind in a bounded executor,
    runs on by itself, and is counted in ``guardrails_overruns_total``.

    Args:
        to: who answers: a method's name, a callable of the same signature, `reject()`, `constant(...)`, or a list of
            these, tried in order.
        on: which exceptions are rescued; `TimeoutError` always is.
        timeout: seconds each attempt may take, or None.

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
    name: ClassVar[str] = "fall_back"
    stage: Stage = Stage.RESCUE
    __repr__ = brief

    def __post_init__(self) -> None:
        at_least_one(self.to, "fall_back(to=[])")
        if self.timeout is not None and not self.timeout > 0:
            raise DecorationError(f"fall_back(timeout={self.timeout!r}): a timeout is a positive number of seconds.")
        if not isinstance(self.on, tuple) or not all(isinstance(k, type) and issubclass(k, Exception) for k in self.on):
            raise DecorationError(f"fall_back(on={self.on!r}): give a tuple of exception types, as in (ValueError,).")

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
        plan.rescue = chain(self.to, plan.method)
        plan.timeout = self.timeout
        plan.on = (*self.on, TimeoutError)

    def bind(self, method: Method) -> Hooks:  # noqa: ARG002
        """It looks neither before nor after: it is who may answer."""
        return Hooks()
