"""Guards that have nothing to do leave no trace on what a caller sees, whatever kind of method it is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guardrails as gr
from guardrails import outliers
from guardrails.testing import strict

ROWS = [[0.1, 0.2]]
KINDS = ("function", "coroutine", "generator", "async generator")
GUARDS = ("traced", "validate", "check_outliers", "fall_back", "sample_drift", "explore")


class Unimpressed:
    """A detector to which all rows are alike."""

    def score(self, rows: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows))


class Greedy:
    """A policy that never explores."""

    def pmf(self, scores: np.ndarray) -> np.ndarray:
        return np.eye(scores.shape[-1])[scores.argmax(axis=-1)]


class NeverRaisedError(Exception):
    """What the inert `fall_back` waits for."""


class OddError(Exception):
    """An exception with arguments of its own, as libraries have them."""

    def __init__(self, one: int, *, two: object) -> None:
        super().__init__(one)
        self.two = two


@dataclass(frozen=True)
class Script:
    """What the method does and what its caller does."""

    items: int
    error: BaseException | None
    closed_after: int | None


ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("model"),
    lambda: OddError(1, two=object()),
    lambda: StopIteration(3),
    StopAsyncIteration,
    lambda: ConnectionError("database"),  # a TimeoutError is rescued whatever `on` says, as documented
    lambda: gr.Rejected("of the model's own", reason="outlier", decision_id="x"),
    KeyboardInterrupt,
    lambda: SystemExit(3),
    lambda: asyncio.CancelledError("stopped"),
    GeneratorExit,
]

scripts = st.builds(
    Script,
    items=st.integers(0, 4),
    error=st.one_of(st.none(), st.sampled_from(ERRORS).map(lambda make: make())),
    closed_after=st.one_of(st.none(), st.integers(0, 4)),
)
stacks = st.lists(st.sampled_from(GUARDS), unique=True, min_size=1)


class Decorators(dict[str, Callable[[Any], Any]]):
    """The inert guards by name; short to print, since Hypothesis prints the arguments of a failure."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def inert(profile: gr.Profile) -> Decorators:
    detector = outliers.fit(np.zeros((30, 2)), detector=Unimpressed(), alpha=0.05)
    return Decorators(
        traced=gr.traced(deadline=3600.0),
        validate=gr.validate(profile, margin=1e6),
        check_outliers=gr.check_outliers(detector, fallback=_unasked),
        fall_back=gr.fall_back(to=_unasked, on=(NeverRaisedError,)),
        sample_drift=gr.sample_drift(profile, rate=1e-15),
        explore=gr.explore(Greedy(), scores=lambda _: [[0.0, 1.0]]),
    )


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def _unasked(*_: Any, **__: Any) -> Any:
    raise AssertionError("a fallback was asked although nothing went wrong")


# The methods: each does what its script says and writes down that it finished


def make(kind: str, script: Script, things: list[object], log: list[str]) -> Callable[..., Any]:
    def once(more: object) -> object:
        try:
            if script.error is not None:
                raise script.error
            return things[0]
        finally:
            log.append("finally")

    def function(rows: list[Any], /, extra: object = None, *, more: object = None) -> object:
        """A function."""
        log.append(f"called with {id(rows)} {id(extra)} {id(more)}")
        return once(more)

    async def coroutine(rows: list[Any], /, extra: object = None, *, more: object = None) -> object:
        """A coroutine function."""
        log.append(f"called with {id(rows)} {id(extra)} {id(more)}")
        return once(more)

    def generator(rows: list[Any], /, extra: object = None, *, more: object = None) -> Iterator[object]:
        """A generator function."""
        log.append(f"called with {id(rows)} {id(extra)} {id(more)}")
        try:
            yield from things[: script.items]
            if script.error is not None:
                raise script.error
        except GeneratorExit:
            log.append("closed early" if script.error is None else "own GeneratorExit")
            raise
        finally:
            log.append("finally")

    async def async_generator(rows: list[Any], /, extra: object = None, *, more: object = None) -> Any:
        """An async generator function."""
        log.append(f"called with {id(rows)} {id(extra)} {id(more)}")
        try:
            for thing in things[: script.items]:
                yield thing
            if script.error is not None:
                raise script.error
        except GeneratorExit:
            log.append("closed early" if script.error is None else "own GeneratorExit")
            raise
        finally:
            await asyncio.sleep(0)
            log.append("finally")

    return {"function": function, "coroutine": coroutine, "generator": generator, "async generator": async_generator}[
        kind
    ]


async def watch(
    fn: Callable[..., Any], script: Script, args: tuple[Any, ...], kwargs: dict[str, Any], log: list[str]
) -> list[Any]:
    """All that a caller can see of one call, identities included."""
    seen: list[Any] = []
    try:
        answer = fn(*args, **kwargs)
        seen.append(("kind", inspect.iscoroutine(answer), inspect.isgenerator(answer), inspect.isasyncgen(answer)))
        if inspect.iscoroutine(answer):
            answer = await answer
        if inspect.isgenerator(answer):
            _pull(answer, script, seen, log)
        elif inspect.isasyncgen(answer):
            await _apull(answer, script, seen, log)
        else:
            seen.append(("answer", id(answer)))
    except BaseException as error:
        seen += _described(error, script)
    return seen


def _pull(stream: Any, script: Script, seen: list[Any], log: list[str]) -> None:
    with contextlib.closing(stream):
        while len(seen) - 1 != script.closed_after:
            try:
                seen.append(("item", id(next(stream))))
            except StopIteration:
                seen.append("end")
                return
            log.append("pulled")
    log.append("after close")


async def _apull(stream: Any, script: Script, seen: list[Any], log: list[str]) -> None:
    async with contextlib.aclosing(stream):
        while len(seen) - 1 != script.closed_after:
            try:
                seen.append(("item", id(await anext(stream))))
            except StopAsyncIteration:
                seen.append("end")
                return
            log.append("pulled")
    log.append("after close")


def _described(error: BaseException, script: Script) -> list[Any]:
    # Python itself turns a StopIteration inside a coroutine or generator into a RuntimeError caused by it.
    cause = error.__cause__
    return ["raised", type(error), str(error), error is script.error, cause is not None and cause is script.error]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS), script=scripts, stack=stacks, by=st.sampled_from(["position", "keyword", "default"])
)
def test_inert_guards_change_nothing(
    inert: Decorators, loop: asyncio.AbstractEventLoop, kind: str, script: Script, stack: list[str], by: str
) -> None:
    """Answers, items, exceptions, early closes and cleanups are those of the bare method: the same objects, in order."""
    if "generator" in kind:
        stack = [name for name in stack if name != "explore"] or ["traced"]
    things = [object() for _ in range(5)]
    extra, more = object(), object()
    args = (ROWS, extra) if by == "position" else (ROWS,)
    kwargs = {} if by == "default" else {"more": more} | ({"extra": extra} if by == "keyword" else {})
    seen = []
    for guarded in (False, True):
        log: list[str] = []
        fn = make(kind, script, things, log)
        for name in stack if guarded else ():
            fn = inert[name](fn)
        with strict():  # a guard that fails is not one that has nothing to do
            seen.append((loop.run_until_complete(watch(fn, script, args, kwargs, log)), log))
    assert seen[1] == seen[0]


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(KINDS), script=scripts, stack=stacks)
def test_inert_guards_change_nothing_on_a_method(
    inert: Decorators, loop: asyncio.AbstractEventLoop, kind: str, script: Script, stack: list[str]
) -> None:
    """The same for methods of a class, each instance by itself, called by position and by keyword."""
    if "generator" in kind:
        stack = [name for name in stack if name != "explore"] or ["traced"]
    things, log = [object() for _ in range(5)], []
    inner = make(kind, script, things, log)
    namespace: dict[str, Any] = {"inner": inner}
    body = {
        "function": "def predict(self, rows, *, extra=None):\n return inner(rows, self.tag, more=extra)",
        "coroutine": "async def predict(self, rows, *, extra=None):\n return await inner(rows, self.tag, more=extra)",
        "generator": "def predict(self, rows, *, extra=None):\n yield from inner(rows, self.tag, more=extra)",
        "async generator": (
            "async def predict(self, rows, *, extra=None):\n"
            " async with aclosing(inner(rows, self.tag, more=extra)) as items:\n"
            "  async for item in items:\n   yield item"
        ),
    }[kind]
    exec(body, namespace | {"aclosing": contextlib.aclosing}, namespace)
    fn = namespace["predict"]
    for name in stack:
        fn = inert[name](fn)
    bare, guarded = type("Bare", (), {"predict": namespace["predict"]}), type("Guarded", (), {"predict": fn})
    tags = [object(), object()]
    extra = object()
    outcomes = []
    for cls in (bare, guarded):
        for tag in tags:
            instance = cls()
            instance.tag = tag
            for args, kwargs in (((ROWS,), {"extra": extra}), ((), {"rows": ROWS})):
                log.clear()
                outcomes.append(
                    (loop.run_until_complete(watch(instance.predict, script, args, kwargs, log)), list(log))
                )
    assert outcomes[4:] == outcomes[:4]


@pytest.mark.parametrize("kind", KINDS)
def test_signature_name_and_kind_stay(inert: Decorators, kind: str) -> None:
    """What inspect says of the method is what it said before."""
    fn = make(kind, Script(0, None, None), [object()], [])
    guarded = fn
    for name in GUARDS:
        if name != "explore" or "generator" not in kind:
            guarded = inert[name](guarded)
    assert guarded is not fn
    assert inspect.signature(guarded) == inspect.signature(fn)
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(guarded, attribute) == getattr(fn, attribute), attribute
    for predicate in (
        inspect.isfunction,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert predicate(guarded) == predicate(fn), predicate


def test_context_variables_set_by_the_method_reach_its_caller(inert: Decorators) -> None:
    """A function or coroutine runs in its caller's context, as without guards."""
    from contextvars import ContextVar

    variable = ContextVar("variable", default="unset")

    def predict(rows: list[Any]) -> None:
        variable.set("by function")

    async def apredict(rows: list[Any]) -> None:
        variable.set("by coroutine")

    async def ask() -> str:
        await gr.compose(*inert.values())(apredict)(ROWS)
        return variable.get()

    gr.compose(*inert.values())(predict)(ROWS)
    assert variable.get() == "by function"
    assert asyncio.run(ask()) == "by coroutine"


def test_a_cancelled_coroutine_is_cancelled_at_its_await(inert: Decorators) -> None:
    """Cancelling the task cancels the guarded method where it waits, and its finally runs first."""
    log: list[str] = []

    async def predict(rows: list[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    async def ask() -> bool:
        task = asyncio.create_task(gr.compose(*inert.values())(predict)(ROWS))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert asyncio.run(ask())
    assert log == ["cleaned up"]


def test_the_return_value_of_a_generator_survives(inert: Decorators) -> None:
    """`yield from` a guarded generator gives what the generator returned."""

    @inert["traced"]
    def stream(rows: list[Any]) -> Any:
        yield 1
        return "returned"

    def outer() -> Any:
        got.append((yield from stream(ROWS)))

    got: list[Any] = []
    assert list(outer()) == [1]
    assert got == ["returned"]


def test_a_raised_exception_is_freed_when_the_caller_lets_go(inert: Decorators) -> None:
    """No reference cycle keeps the exception, and with it the request's arguments, until the collector runs."""

    def predict(rows: list[Any]) -> None:
        raise OddError(1, two=None)

    def freed(fn: Callable[..., Any]) -> bool:
        try:
            fn(ROWS)
        except OddError as error:
            kept = weakref.ref(error)
        return kept() is None

    guarded = inert["traced"](predict)
    with contextlib.suppress(OddError):
        guarded(ROWS)
    gc.disable()
    try:
        assert freed(predict)
        assert freed(guarded)
    finally:
        gc.enable()


def test_an_override_may_call_the_guarded_method_it_overrides(inert: Decorators) -> None:
    """Each class's method has a pipeline of its own, also when both have one name and one instance."""

    class Base:
        @inert["traced"]
        def predict(self, rows: list[Any]) -> list[str]:
            return ["base"]

    class Derived(Base):
        @inert["check_outliers"]
        def predict(self, rows: list[Any]) -> list[str]:
            return [*super().predict(rows), "derived"]

    assert Derived().predict(ROWS) == ["base", "derived"]
    assert Base().predict(ROWS) == ["base"]


def test_a_copied_instance_answers_for_itself(inert: Decorators) -> None:
    """copy.copy of an instance that has already answered does not answer with the original's state."""
    import copy

    class Service:
        state = "first"

        @inert["traced"]
        def predict(self, rows: list[Any]) -> str:
            return self.state

    original = Service()
    original.predict(ROWS)
    other = copy.copy(original)
    other.state = "second"
    assert (original.predict(ROWS), other.predict(ROWS)) == ("first", "second")


def test_two_functions_of_one_name_on_one_instance(inert: Decorators) -> None:
    """A pipeline belongs to a function, not to its name."""

    def made(word: str) -> Callable[..., str]:
        def predict(self: Any, rows: list[Any]) -> str:
            return word

        return inert["traced"](predict)

    class Service:
        one, two = made("one"), made("two")

    service = Service()
    assert (service.one(ROWS), service.two(ROWS)) == ("one", "two")


def test_an_argument_left_to_its_default_is_read(inert: Decorators) -> None:
    """A default is a payload like any other: the guards read what the method will read."""

    @inert["check_outliers"]
    @inert["validate"]
    def predict(rows: list[list[float]] = ROWS) -> str:
        return "answered"

    assert predict() == "answered"


def test_the_arguments_are_not_changed(inert: Decorators) -> None:
    """The method gets the caller's own objects, unchanged."""
    rows = np.array(ROWS)
    before = rows.copy()

    def predict(given: np.ndarray) -> np.ndarray:
        return given

    assert gr.compose(*inert.values())(predict)(rows) is rows
    assert np.array_equal(rows, before)


def test_a_recursive_guarded_function_still_works(inert: Decorators) -> None:
    """A guarded function may call itself: each call is a call of its own."""

    @inert["traced"]
    @inert["fall_back"]
    def countdown(n: int) -> int:
        return 0 if n == 0 else 1 + countdown(n - 1)

    assert countdown(20) == 20
