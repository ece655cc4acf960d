"""What cannot work is refused when the module is imported, and the message says what to do instead."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import bentoml
import numpy as np
import pytest

import guardrails as gr
from guardrails import DecorationError

METHOD_GUARDS = ("traced", "validate", "check_outliers", "fall_back", "explore", "sample_drift")


@pytest.fixture(scope="module")
def guards(profile: gr.Profile) -> dict[str, Callable[[Any], Any]]:
    return {
        "traced": gr.traced(),
        "validate": gr.validate(profile),
        "check_outliers": gr.check_outliers(profile),
        "fall_back": gr.fall_back(to=gr.constant([0.0])),
        "explore": gr.explore(gr.EpsilonGreedy(0.1)),
        "sample_drift": gr.sample_drift(profile),
        "guarded": gr.guarded(profile),
        "compose": gr.compose(gr.traced()),
    }


def stranger(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Somebody else's well-behaved decorator."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


EVERY = pytest.mark.parametrize("name", [*METHOD_GUARDS, "guarded", "compose"])


@EVERY
def test_above_the_api_decorator(guards: dict[str, Any], name: str) -> None:
    """A guard above @bentoml.api would make BentoML lose the API: the fix is to move it."""

    @bentoml.api
    def predict(self: Any, rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(DecorationError, match=r"above @bentoml\.api on 'predict'.*Move @bentoml\.api to the top"):
        guards[name](predict)


@EVERY
def test_on_a_class(guards: dict[str, Any], name: str) -> None:
    """A class gets `install`, its methods get guards."""

    class Songs:
        pass

    with pytest.raises(DecorationError, match=r"Songs.*Guards go on methods.*@guardrails\.install goes on the service"):
        guards[name](Songs)


@EVERY
@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_on_a_static_or_class_method(guards: dict[str, Any], name: str, kind: Callable[..., Any]) -> None:
    """BentoML serves neither."""

    def predict(rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(
        DecorationError, match=f"{kind.__name__}s are no API methods. Guard a plain method that takes self"
    ):
        guards[name](kind(predict))


@EVERY
def test_on_a_service(guards: dict[str, Any], name: str) -> None:
    """A finished service gets `install`."""

    @bentoml.service
    class Songs:
        @bentoml.api
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows

    with pytest.raises(DecorationError, match=r"@guardrails\.install goes on the service, above @bentoml\.service"):
        guards[name](Songs)


@pytest.mark.parametrize("thing", [None, 3, "predict", functools.partial(print), [].append, print, object()])
def test_on_what_is_no_function(thing: object) -> None:
    """Only functions written with def (or lambda) can be guarded."""
    with pytest.raises(DecorationError, match="is not a function"):
        gr.traced()(thing)  # type: ignore[type-var]


@pytest.mark.parametrize("name", METHOD_GUARDS)
def test_a_guard_twice(guards: dict[str, Any], name: str) -> None:
    """Two of a kind are one too many, next to each other or apart; the message names method and guard."""

    def predict(rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(DecorationError, match=rf"predict\(\) has @{name} twice. Keep one"):
        guards[name](guards[name](predict))
    other = "traced" if name != "traced" else "fall_back"
    with pytest.raises(DecorationError, match=rf"predict\(\) has @{name} twice. Keep one"):
        guards[name](guards[other](guards[name](predict)))


def test_guarded_holds_its_guards(guards: dict[str, Any]) -> None:
    """@guarded is the stack it stands for: one of its guards next to it is a second one."""

    def predict(rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(DecorationError, match="has @traced twice"):
        guards["traced"](guards["guarded"](predict))


@pytest.mark.parametrize("name", METHOD_GUARDS)
@pytest.mark.parametrize("strangers", [1, 2])
def test_a_stranger_between_guards(guards: dict[str, Any], name: str, strangers: int) -> None:
    """Somebody else's decorator between two guards would split the pipeline: it goes below all of them."""

    def predict(rows: np.ndarray) -> np.ndarray:
        return rows

    fn = guards["traced" if name != "traced" else "fall_back"](predict)
    for _ in range(strangers):
        fn = stranger(fn)
    with pytest.raises(DecorationError, match=r"stands between two guardrails decorators.*Put it below all of them"):
        guards[name](fn)


def test_strangers_below_and_above_are_welcome() -> None:
    """Below all guards a stranger is part of the method, above all of them it is somebody else's business."""

    @stranger
    @gr.traced()
    @gr.fall_back(to=gr.constant(0))
    @stranger
    def predict(rows: int) -> int:
        return rows

    assert predict(3) == 3
    assert gr.pipeline_of(predict).stages == ("traced", "fall_back")


@pytest.mark.parametrize("name", ["validate", "check_outliers", "sample_drift", "guarded"])
def test_unknown_features(profile: gr.Profile, name: str) -> None:
    """features= names an argument of the method; the message lists those there are."""

    def predict(listener: np.ndarray, ctx: Any, context_rows: int) -> np.ndarray:
        return listener

    with pytest.raises(DecorationError, match=r"features='rows' names no argument.*it has listener, context_rows\."):
        getattr(gr, name)(profile, features="rows")(predict)
    with pytest.raises(DecorationError, match="features='ctx' names no argument"):
        getattr(gr, name)(profile, features="ctx")(predict)


@pytest.mark.parametrize("name", ["validate", "check_outliers", "sample_drift"])
def test_no_argument_at_all(profile: gr.Profile, name: str) -> None:
    """A method that takes nothing but self and the context has no features to look at."""

    def predict(self: Any, ctx: Any) -> None: ...

    with pytest.raises(DecorationError, match="takes no argument"):
        getattr(gr, name)(profile)(predict)


@pytest.mark.parametrize("name", ["validate", "check_outliers"])
def test_features_that_are_no_argument_of_their_own(profile: gr.Profile, name: str) -> None:
    """**kwargs has no value of its own to read: without features= naming one, every request would be refused."""

    def predict(self: Any, **features: float) -> float:
        return 0.0

    with pytest.raises(DecorationError):
        getattr(gr, name)(profile)(predict)


def test_a_method_whose_self_has_another_name(profile: gr.Profile) -> None:
    """Whatever the first parameter of a method is called, it is not the payload."""

    class Service:
        @gr.check_outliers(profile)
        def predict(this, rows: list[list[float]]) -> str:  # noqa: N805
            return "answered"

    assert Service().predict([[0.1, 0.2]]) == "answered"


# Fallbacks


def _sync(self: Any, rows: Any) -> list[float]:
    return [0.0]


async def _async(self: Any, rows: Any) -> list[float]:
    return [0.0]


def _generator(self: Any, rows: Any) -> Iterator[float]:
    yield 0.0


async def _async_generator(self: Any, rows: Any) -> Any:
    yield 0.0


SHAPES = {
    "function": _sync,
    "coroutine function": _async,
    "generator function": _generator,
    "async generator function": _async_generator,
}
MISFITS = [(a, b) for a in SHAPES for b in SHAPES if b not in (a, "function")]


def service_with(method: Callable[..., Any], fallback: Callable[..., Any], **others: Any) -> Callable[[], Any]:
    """Make a service of a guarded method and its fallback, all under `install`."""
    fallback.__name__ = "charts"

    class Songs:
        pass

    Songs.predict = bentoml.api(**others)(method)  # type: ignore[attr-defined]
    Songs.charts = fallback  # type: ignore[attr-defined]
    return lambda: gr.install()(bentoml.service(Songs))


def copied(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function anew, for a service of its own."""
    from types import FunctionType

    made = FunctionType(fn.__code__, fn.__globals__, "predict", fn.__defaults__, fn.__closure__)
    made.__annotations__ = {"rows": np.ndarray, "return": inspect.signature(fn).return_annotation}
    made.__annotations__["return"] = eval(made.__annotations__["return"], globals())
    return made


@pytest.mark.parametrize(("shape", "other"), MISFITS)
@pytest.mark.parametrize("way", ["name", "callable", "second in a chain"])
def test_a_fallback_of_another_shape(shape: str, other: str, way: str) -> None:
    """A fallback is called as the method is called; import says so, naming both and the shape that is needed."""
    fallback = copied(SHAPES[other])
    to: Any = {"name": "charts", "callable": fallback, "second in a chain": [gr.constant([0.0]), "charts"]}[way]
    make = service_with(gr.fall_back(to=to)(copied(SHAPES[shape])), fallback)
    with pytest.raises(
        DecorationError, match=rf"is a {other}, but .* is a {shape}: the fallback must be a {shape} too"
    ):
        make()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plain_function_stands_in_for_any_shape(shape: str) -> None:
    """A plain function may answer for a coroutine or a stream."""
    service_with(gr.fall_back(to="charts")(copied(SHAPES[shape])), copied(_sync))()


@pytest.mark.parametrize("name", ["fall_back", "check_outliers", "validate"])
def test_an_unknown_fallback_name(profile: gr.Profile, name: str) -> None:
    """A name the class does not have is refused at import, naming the class."""
    guard = {
        "fall_back": gr.fall_back(to="chart"),
        "check_outliers": gr.check_outliers(profile, fallback=["charts", "chart"]),
        "validate": gr.validate(profile, on_invalid="chart"),
    }[name]
    make = service_with(guard(copied(_sync)), copied(_sync))
    with pytest.raises(DecorationError, match=r"the fallback 'chart' .* is no method of Songs\. Define it there"):
        make()


def test_a_fallback_name_that_is_no_method() -> None:
    """An attribute that cannot be called is refused like a name that is not there."""

    class Songs:
        charts = 5

        @bentoml.api
        @gr.fall_back(to="charts")
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows

    with pytest.raises(DecorationError, match="charts"):
        gr.install()(bentoml.service(Songs))


def test_a_method_as_its_own_fallback() -> None:
    """A method that falls back to itself would go round for ever."""

    class Songs:
        @bentoml.api
        @gr.fall_back(to="predict")
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows

    with pytest.raises(DecorationError, match="predict"):
        gr.install()(bentoml.service(Songs))


@pytest.mark.parametrize("name", ["fall_back", "check_outliers", "check_outliers by default", "second in a chain"])
def test_a_rejection_in_a_batchable_method(profile: gr.Profile, name: str) -> None:
    """A rejection in a batch would fail every client in it: refused at import, with what to use instead."""
    guard = {
        "fall_back": gr.fall_back(to=gr.reject()),
        "check_outliers": gr.check_outliers(profile, fallback=gr.reject("no")),
        "check_outliers by default": gr.check_outliers(profile),
        "second in a chain": gr.fall_back(to=["charts", gr.reject()]),
    }[name]
    make = service_with(guard(copied(_sync)), copied(_sync), batchable=True)
    with pytest.raises(DecorationError, match=r"is batchable.*Use a fallback that answers, e\.g\. constant"):
        make()


def test_a_rejection_elsewhere_is_fine(profile: gr.Profile) -> None:
    """The same guard on a method that is not batchable is accepted."""
    service_with(gr.check_outliers(profile)(copied(_sync)), copied(_sync))()


def test_what_is_no_fallback() -> None:
    """A fallback is a name, a callable, reject(), constant() or a list of these."""
    make = service_with(gr.fall_back(to=3.5)(copied(_sync)), copied(_sync))  # type: ignore[arg-type]
    with pytest.raises(DecorationError, match=r"3\.5 is no fallback.*reject\(\), constant\(value\), or a list"):
        make()


# install


def test_install_below_the_service_decorator() -> None:
    """install prepares a finished service."""

    class Songs:
        pass

    with pytest.raises(DecorationError, match=r"below @bentoml\.service on 'Songs'\. Move it above"):
        gr.install()(Songs)  # type: ignore[arg-type]


def test_install_on_a_method() -> None:
    """install is for services."""

    def predict(rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(DecorationError, match=r"@bentoml\.service"):
        gr.install()(predict)  # type: ignore[arg-type]


def test_install_twice() -> None:
    """Two installs would answer every request twice."""

    @bentoml.service
    class Songs:
        @bentoml.api
        @gr.traced()
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows

    gr.install()(Songs)
    with pytest.raises(DecorationError, match=r"Songs has @guardrails\.install twice\. Keep one"):
        gr.install()(Songs)


# Options


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: gr.traced(deadline=0), "positive number of seconds"),
        (lambda _: gr.traced(deadline=-1.0), "positive number of seconds"),
        (lambda _: gr.traced(deadline=float("nan")), "positive number of seconds"),
        (lambda p: gr.sample_drift(p, rate=0), r"rate=0.*above 0, at most 1"),
        (lambda p: gr.sample_drift(p, rate=1.01), "above 0, at most 1"),
        (lambda p: gr.sample_drift(p, rate=float("nan")), "above 0, at most 1"),
        (lambda p: gr.validate(p, margin=-0.1), "zero or more widths"),
        (lambda _: gr.fall_back(to=[]), "name at least one fallback"),
        (lambda _: gr.fall_back(to="x", timeout=0), "positive number of seconds"),
        (lambda _: gr.fall_back(to="x", on=ValueError), "tuple of exception types"),  # type: ignore[arg-type]
        (lambda _: gr.fall_back(to="x", on=("ValueError",)), "tuple of exception types"),  # type: ignore[arg-type]
        (lambda _: gr.fall_back(to="x", on=(int,)), "tuple of exception types"),  # type: ignore[arg-type]
        (lambda p: gr.check_outliers(p, fallback=[]), "at least one fallback"),
        (lambda p: gr.validate(p, on_invalid=[]), "at least one fallback"),
        (lambda p: gr.check_outliers(p, alpha=0.0), "alpha=0.0"),
        (lambda p: gr.check_outliers(p, alpha=1.0), "alpha=1.0"),
        (lambda p: gr.check_outliers(p, alpha=-0.5), "alpha=-0.5"),
        (lambda p: gr.check_outliers(p, alpha=float("nan")), "alpha=nan"),
        (lambda p: gr.check_outliers(p, on_guard_error="ignore"), "'pass' or 'fallback'"),
        (lambda _: gr.explore(object()), r"pmf\(scores\)"),
        (lambda _: gr.explore(gr.EpsilonGreedy(0.1), unit="user"), "unit='user'"),
        (lambda _: gr.install(path="guardrails"), "begins with a slash"),
        (lambda _: gr.install(path="/"), "more than one"),
        (lambda _: gr.install(features="all"), "'store', 'hash' or 'none'"),
    ],
)
def test_an_option_that_means_nothing(profile: gr.Profile, make: Callable[[Any], Any], said: str) -> None:
    """Options are checked when the decorator is made or applied, not when the first request comes."""

    def predict(rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(DecorationError, match=said):
        make(profile)(predict)


def test_an_alpha_that_cannot_be_promised(profile: gr.Profile) -> None:
    """An alpha below what the calibration rows can show is refused, at the latest when the pipeline is bound."""

    @gr.check_outliers(profile, alpha=1e-6)
    def predict(rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(gr.ProfileError, match="calibration rows"):
        gr.pipeline_of(predict).bind(None)


@pytest.mark.parametrize("shape", ["generator function", "async generator function"])
def test_what_cannot_work_on_a_stream(shape: str) -> None:
    """A stream has no one answer to wait for or to explore."""
    with pytest.raises(DecorationError, match=r"streams, and fall_back\(timeout=\.\.\.\) waits for one answer"):
        gr.fall_back(to=gr.constant(0.0), timeout=1.0)(SHAPES[shape])
    with pytest.raises(DecorationError, match="streams, and its items leave"):
        gr.explore(gr.EpsilonGreedy(0.1))(SHAPES[shape])


def test_decoration_errors_are_type_errors_of_the_library() -> None:
    """A caller may catch TypeError, or GuardrailsError."""
    assert issubclass(DecorationError, TypeError)
    assert issubclass(DecorationError, gr.GuardrailsError)


def test_pipeline_of_what_is_not_guarded() -> None:
    """pipeline_of says what to do about a bare method."""
    with pytest.raises(
        DecorationError, match=re.escape("is not guarded: put a guardrails decorator under @bentoml.api")
    ):
        gr.pipeline_of(_sync)


def test_pipelines_print_as_they_are_written(profile: gr.Profile) -> None:
    """A pipeline prints its guards in order with only the options that were set."""

    @gr.fall_back(to="charts", timeout=0.5)
    @gr.traced(deadline=1.0)
    def predict(self: Any, rows: np.ndarray) -> np.ndarray:
        return rows

    lines = str(gr.pipeline_of(predict)).splitlines()
    assert lines[0].endswith("predict (function)")
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == [
        "traced(deadline=1.0)",
        "fall_back(to='charts', timeout=0.5)",
    ]
