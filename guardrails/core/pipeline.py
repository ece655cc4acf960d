"""Decorators become one pipeline: collected as they are stacked, ordered by stage, bound to the live service once."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from guardrails import semconv
from guardrails.core import drivers
from guardrails.core.breaker import Circuit
from guardrails.core.call import Call, Stage
from guardrails.core.containment import contain
from guardrails.core.deadline import abandoned
from guardrails.core.host import host
from guardrails.core.method import Method
from guardrails.core.targets import Chain, Target, primary
from guardrails.errors import DecorationError, is_rescued
from guardrails.typing import F, Guard

MARK = "__guardrails__"


class Plan:
    """A pipeline bound to one live service: hooks in their order, the primary, and what stands behind it.

    Attributes:
        method: the bound method.
        chain: the primary, then whatever `fall_back` puts behind it.
        timeout: seconds an attempt may take, or None.
        on: which exceptions of the primary are rescued.
        circuit: the primary's breaker, or None.
    """

    def __init__(self, method: Method, guards: tuple[Guard, ...]) -> None:
        self.method = method
        self.timeout: float | None = None
        self.on: tuple[type[BaseException], ...] = ()
        self.circuit: Circuit | None = None
        self.rescue: Chain = ()
        for guard in guards:
            prepare = getattr(guard, "prepare", None)
            if prepare is not None:
                prepare(self)
        self.chain: Chain = (primary(method, self.circuit), *self.rescue)
        hooks = [(_name(guard), guard.bind(method), guard) for guard in guards]
        self._befores: list[tuple[str, Callable[[Call], None], Guard | None]] = [
            (name, hook.before, guard) for name, hook, guard in hooks if hook.before is not None
        ]
        self._afters = [(name, hook.after) for name, hook, _ in reversed(hooks) if hook.after is not None]
        self._statuses = {name: hook.status for name, hook, _ in hooks if hook.status is not None}
        everybody = (*self.chain, *(target for _, hook, _ in hooks for target in hook.chain))
        for target in {id(target): target for target in everybody}.values():
            name = target.route.removeprefix(semconv.FALLBACK_PREFIX)
            if target.notice is not None:
                self._befores.append((name, target.notice, None))
            if target.learn is not None:
                self._afters.append((name, target.learn))
        self._circuits = {target.route: target.circuit for target in everybody if target.circuit is not None}
        for circuit in self._circuits.values():
            circuit.report()

    def status(self) -> dict[str, Any]:
        """What its guards say of themselves, by the name of the guard, and what runs on past its timeout."""
        said: dict[str, Any] = {name: dict(status()) for name, status in self._statuses.items()}
        if self._circuits:
            said["breakers"] = {route: circuit.status() for route, circuit in self._circuits.items()}
        left = abandoned.status(self.method.name)
        return said | left if any(left.values()) else said

    def rescues(self, error: BaseException) -> bool:
        """Whether another target may answer instead."""
        return bool(self.rescue) and is_rescued(error, self.on)

    def and_then_rescue(self, chain: Chain) -> Chain:
        """A diverted request's own chain, then what rescues any request of this method."""
        if not self.rescue or any(target.rejects for target in chain):
            return chain
        return (*chain, *(target for target in self.rescue if not any(target is own for own in chain)))

    def before(self, call: Call) -> None:
        """Run the guards that look before the answer."""
        for name, before, guard in self._befores:
            try:
                before(call)
            except Exception as error:  # noqa: BLE001  # a guard may not break the service
                contain(name, error, call)
                self._be_careful(name, guard, call)

    def _be_careful(self, name: str, guard: Guard | None, call: Call) -> None:
        """Let a guard that failed say what becomes of the request."""
        failed: Callable[[Call], None] | None = getattr(guard, "failed", None)
        if failed is not None:
            try:
                failed(call)
            except Exception as error:  # noqa: BLE001  # a guard may not break the service
                contain(name, error, call)

    def after(self, call: Call) -> None:
        """Run the guards that look after the answer, innermost first."""
        for name, after in self._afters:
            try:
                after(call)
            except Exception as error:  # noqa: BLE001  # a guard may not break the service
                contain(name, error, call)


class Opened:
    """A call between its guards: ``before`` on entering, ``after`` on leaving, whatever happened in between."""

    __slots__ = ("call", "plan")

    def __init__(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.plan = plan
        self.call = Call(plan, args, kwargs)

    def __enter__(self) -> Call:
        self.plan.before(self.call)
        return self.call

    def __exit__(self, kind: Any, error: BaseException | None, _traceback: Any) -> None:
        if error is not None:
            self.call.error = error
            self.call.handed_back = time.perf_counter()
            self.call.cancelled = not isinstance(error, Exception)
        self.plan.after(self.call)
        if self.call.shadows:
            self.call.count_shadows()
        self.call.announce()
        self.call.rescued = None
        if error is not None:  # on its way out already; kept here it would keep itself alive, traceback and all
            self.call.error = None


@dataclass(eq=False)
class Pipeline:
    """The guards of one method, in the order in which they run. Printable, and made to be asserted on.

    Attributes:
        method: the guarded method, unbound.
        guards: the guards by stage; within a stage, as they are written.
    """

    method: Method
    guards: tuple[Guard, ...]
    wrapper: Callable[..., Any] | None = field(default=None, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self._key = f"{MARK}{self.method.name}_{id(self)}"
        self._plan: Plan | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the guards, in the order in which they run."""
        return tuple(_name(guard) for guard in self.guards)

    def __str__(self) -> str:
        lines = [f"{self.method.fn.__qualname__} ({self.method.shape.value})"]
        lines += [f"  {guard.stage.name.lower():8} {guard!r}" for guard in self.guards]
        return "\n".join(lines)

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Opened:
        """Start one call. The first one on an instance binds the pipeline to it."""
        if not self.method.takes_self:
            return Opened(self._plan or self.bind(None), args, kwargs)
        owner = args[0]
        plan = owner.__dict__.get(self._key)
        if plan is None or plan.method.owner is not owner:  # the second: a copy of an instance brings its plans along
            plan = self.bind(owner)
        return Opened(plan, args[1:], kwargs)

    def bind(self, owner: Any) -> Plan:
        """Resolve every option against a live instance, once per instance.

        Raises:
            DecorationError: an option cannot work there (an unknown fallback, a rejection in a batch).
            ProfileError: a profile cannot be found or read.
        """
        with self._lock:
            known: Plan | None = self._plan if owner is None else owner.__dict__.get(self._key)
            if known is None or known.method.owner is not owner:
                installed = () if owner is None else host().installed(type(owner))
                known = Plan(self.method.bound_to(owner), _ordered(_complete((*self.guards, *installed))))
                if owner is None:
                    self._plan = known
                else:
                    owner.__dict__[self._key] = known
            return known


def attach(guard: Guard, fn: F) -> F:
    """Put a guard around a method: a fresh function gets a pipeline, one of ours gets its pipeline rebuilt.

    Raises:
        DecorationError: ``fn`` is nothing that can be guarded here; the message says what to do.
    """
    below = _pipeline_behind(fn)
    method = Method.of(fn) if below is None else below.method
    guards = (guard,) if below is None else (guard, *below.guards)
    for other in guards[1:]:
        if type(other) is type(guard):
            raise DecorationError(
                f"{method.fn.__qualname__}() has @{_name(guard)} twice. Keep one; its options hold for the method."
            )
    check = getattr(guard, "check", None)
    if check is not None:
        check(method)
    pipeline = Pipeline(method, _ordered(guards))
    pipeline.wrapper = drivers.drive(pipeline)
    setattr(pipeline.wrapper, MARK, pipeline)
    return pipeline.wrapper  # type: ignore[return-value]


def compose(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """One decorator out of several: house rules, written once and used on every method.

    The order of the arguments means as little as the order of stacked decorators: each guard knows its stage.

    Example:
        >>> import guardrails as gr
        >>> house = gr.compose(gr.traced(deadline=1.0), gr.explore(gr.EpsilonGreedy(0.02)))
        >>> @house
        ... def rank(scores: list) -> list:
        ...     return scores
        >>> gr.pipeline_of(rank).stages
        ('traced', 'explore')
    """

    def decorate(fn: F) -> F:
        for decorator in reversed(decorators):
            fn = decorator(fn)
        return fn

    return decorate


def brief(guard: Any) -> str:
    """A guard as one would write it: only the options that differ from their defaults."""
    options = []
    for option in fields(guard):
        value = getattr(guard, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if default is MISSING or (value is not default and value != default):
            shown = getattr(value, "__name__", repr(value)) if callable(value) else repr(value)
            options.append(f"{option.name}={shown}")
    return f"{_name(guard)}({', '.join(options)})"


def pipeline_of(method: Any) -> Pipeline:
    """The pipeline of a guarded method, as ``pipeline_of(Service.predict)``: print it, or assert on it.

    Raises:
        DecorationError: the method is not guarded.
    """
    fn = getattr(method, "__func__", method)
    fn = host().function_behind(fn) or fn
    pipeline: Pipeline | None = getattr(fn, MARK, None)
    if pipeline is None:
        raise DecorationError(f"{method!r} is not guarded: put a guardrails decorator under @bentoml.api.")
    return pipeline


def class_namespace(fn: Callable[..., Any]) -> dict[str, Any] | None:
    """The namespace of the class body that is being executed around ``fn``, if there is one.

    BentoML pins the models it finds among a class's attributes, so a guard that needs a profile has to leave a
    reference there, also where a service has no `install`. Class bodies are the one scope Python lets us write to.
    """
    qualname = fn.__qualname__.rpartition(".")[0]
    frame = sys._getframe(1)  # noqa: SLF001
    while frame is not None and qualname and not qualname.endswith("<locals>"):
        if frame.f_locals.get("__qualname__") == qualname and "__module__" in frame.f_locals:
            return frame.f_locals
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _name(guard: Guard) -> str:
    return str(getattr(guard, "name", type(guard).__name__))


def _complete(guards: tuple[Guard, ...]) -> tuple[Guard, ...]:
    """Add what a guard cannot do without, where nothing of the kind is there."""
    present = {_name(guard) for guard in guards}
    wanted = (other for guard in guards for other in getattr(guard, "companions", tuple)())
    return (*guards, *(other for other in wanted if _name(other) not in present))


def _ordered(guards: tuple[Guard, ...]) -> tuple[Guard, ...]:
    return tuple(sorted(guards, key=lambda guard: guard.stage))


def _pipeline_behind(fn: Any) -> Pipeline | None:
    """The pipeline of ``fn`` if it is one of our wrappers; refuses what cannot be guarded."""
    if host().function_behind(fn) is not None:
        raise DecorationError(
            f"a guardrails decorator stands above @bentoml.api on {getattr(fn, 'name', fn)!r}, where BentoML would "
            "lose the API. Move @bentoml.api to the top of the stack: it has to be outermost."
        )
    if isinstance(fn, staticmethod | classmethod):
        raise DecorationError(f"{type(fn).__name__}s are no API methods. Guard a plain method that takes self.")
    if inspect.isclass(fn) or not inspect.isfunction(fn):
        raise DecorationError(
            f"{fn!r} is not a function. Guards go on methods, under @bentoml.api; "
            "@guardrails.install goes on the service, above @bentoml.service."
        )
    pipeline: Pipeline | None = getattr(fn, MARK, None)
    if pipeline is not None and pipeline.wrapper is fn:
        return pipeline
    inner: Any = fn
    while inner is not None:
        if getattr(getattr(inner, MARK, None), "wrapper", None) is inner:
            raise DecorationError(
                f"another decorator stands between two guardrails decorators of {fn.__qualname__}(). Put it below all "
                "of them, next to the function, so that they can still work as one."
            )
        inner = getattr(inner, "__wrapped__", None)
    return None


__all__ = [
    "Call",
    "Pipeline",
    "Plan",
    "Stage",
    "Target",
    "attach",
    "brief",
    "class_namespace",
    "compose",
    "pipeline_of",
]
