"""A fallback that cannot say what the method says is refused when the service starts; one that can is not."""

from __future__ import annotations

import asyncio
import collections.abc as c
import typing as t
from collections.abc import Callable
from typing import Any

import bentoml
import numpy as np
import numpy.typing as npt
import pandas as pd
import pydantic
import pytest
import typing_extensions as te
from bentoml.validators import DType, Shape

import guardrails as gr


class Answer(pydantic.BaseModel):
    label: str = "a"
    score: float = 0.5


class Plain(te.TypedDict):
    label: str


Label = t.Literal["a", "b"]
Image = t.Annotated[np.ndarray, Shape((2,)), DType("float64")]
SHAPES = ("function", "coroutine", "generator", "async generator")


def method(returns: Any = None, shape: str = "function") -> Callable[..., Any]:
    """A function of a shape that declares what it returns; nothing where `returns` is None."""

    def function(rows: Any) -> Any:
        return rows

    async def coroutine(rows: Any) -> Any:
        return rows

    def generator(rows: Any) -> Any:
        yield rows

    async def async_generator(rows: Any) -> Any:
        yield rows

    fn = {"function": function, "coroutine": coroutine, "generator": generator}.get(shape, async_generator)
    fn.__annotations__ = {} if returns is None else {"return": returns}
    return fn


def refused(primary: Callable[..., Any], fallback: Any) -> bool:
    """Whether the pair is refused when it is bound; by us, with a sentence."""
    guarded = gr.fall_back(to=fallback)(primary)
    try:
        gr.pipeline_of(guarded).bind(None)
    except gr.DecorationError as error:
        return "returns" in str(error)
    return False


# Functions that declare what they return: (the method's, the fallback's)

FITS = [
    (list[float], list[float]),
    (list[float], list),
    (list, list[str]),
    (list[float], np.ndarray),
    (list[list[float]], npt.NDArray[np.float64]),
    (np.ndarray, list[float]),
    (np.ndarray, Image),
    (Image, np.ndarray),
    (Image, list[float]),
    (npt.NDArray[np.float64], npt.NDArray[np.float32]),
    (pd.DataFrame, list[dict[str, float]]),
    (tuple[float, float], list[float]),
    (c.Sequence[float], list[float]),
    (list[float], c.Sequence[float]),
    (list[float], c.Iterable[float]),
    (float, int),
    (int, float),
    (str, Label),
    (Label, str),
    (Answer, Answer),
    (dict, dict[str, float]),
    (c.Mapping, dict),
    (dict[str, float], c.Mapping[str, float]),
    (Plain, Plain),
    (Plain, dict),
    (Plain, dict[str, str]),
    (dict, Plain),
    (list[Answer], list[dict[str, str]]),  # BentoML makes models of what is in a list
    (Answer | None, Answer),
    (Answer | None, dict),
    (t.Optional[Answer], type(None)),  # noqa: UP045
    (t.Union[list[float], str], str),  # noqa: UP007
    (list[float], t.Any),
    (t.Any, str),
    (list[float], None),
    (None, str),
    (object, str),
    (list[float], "list[float]"),
    ("list[float]", list[float]),
    (list[float], "NowhereToBeFound"),
    ("NowhereToBeFound", str),
    (list[float], t.TypeVar("T")),
    (t.NewType("Dose", float), float),
]
MISFITS = [
    (list[float], str),
    (list[float], float),
    (list[float], dict),
    (list[float], list[str]),
    (list[float], list[list[float]]),
    (list[float], "str"),
    ("list[float]", str),
    (np.ndarray, str),
    (np.ndarray, float),
    (np.ndarray, Answer),
    (Image, str),
    (str, list[str]),
    (str, float),
    (str, bytes),
    (float, str),
    (Answer, str),
    (Answer, list[Answer]),
    (Answer, float),
    (Answer, dict),  # BentoML writes a model by its own methods, which a mapping has not: 500
    (Answer, Plain),
    (dict, Answer),  # and takes no model for a mapping: 400
    (Plain, str),
    (Plain, list[str]),
    (dict[str, float], dict[str, str]),
    (list[Answer], list[str]),
    (list[Answer], Answer),
    (t.Optional[Answer], str),  # noqa: UP045
    (t.Union[list[float], dict], str),  # noqa: UP007
    (list[float], type(None)),
]


@pytest.mark.parametrize(("wanted", "given"), FITS, ids=str)
def test_what_could_fit_is_taken(wanted: Any, given: Any) -> None:
    """Also what declares nothing, or nothing that can be looked up here."""
    assert not refused(method(wanted), method(given))


@pytest.mark.parametrize(("wanted", "given"), MISFITS, ids=str)
def test_what_cannot_fit_is_refused(wanted: Any, given: Any) -> None:
    """Clients of the API could not read it."""
    assert refused(method(wanted), method(given))


def test_the_message_names_both() -> None:
    """The fallback, what it returns, the method, what that returns, and what to do."""
    with pytest.raises(
        gr.DecorationError, match=r"function\(\) returns str, but .*function\(\) returns list\[float\].*Let"
    ):
        gr.pipeline_of(gr.fall_back(to=method(str))(method(list[float]))).bind(None)


def test_a_class_that_cannot_be_looked_up_is_not_judged() -> None:
    """A string annotation of a class inside a function names nothing here: it may be anything."""

    class Local(pydantic.BaseModel):
        score: float

    def primary(rows: Any) -> Local:
        return Local(score=1.0)

    def fallback(rows: Any) -> str:
        return "spare"

    assert not refused(primary, fallback)


@pytest.mark.parametrize(
    ("shape", "wanted", "given", "wrong"),
    [
        ("coroutine", list[float], list[int], str),
        ("generator", c.Iterator[str], c.Generator[str, None, None], c.Iterator[dict]),
        ("generator", t.Generator[str, None, None], t.Iterator[str], t.Iterator[dict]),
        ("generator", c.Iterator, c.Iterator[str], None),
        ("generator", c.Iterator[str], c.Iterator, None),
        ("async generator", c.AsyncIterator[str], c.AsyncGenerator[str, None], c.AsyncIterator[dict]),
        ("async generator", t.AsyncGenerator[str, None], t.AsyncIterator[str], t.AsyncIterator[dict]),
    ],
    ids=str,
)
def test_other_shapes(shape: str, wanted: Any, given: Any, wrong: Any) -> None:
    """Of a coroutine what it is awaited for counts, of a stream what it is a stream of."""
    assert not refused(method(wanted, shape), method(given, shape))
    assert not refused(method(wanted, shape), method(None))
    if wrong is not None:
        assert refused(method(wanted, shape), method(wrong, shape))


# Constants, with BentoML itself as the judge

CONSTANTS = [
    (list[float], [0.5]),
    (list[float], (0.5,)),
    (list[float], np.array([0.5])),
    (list[float], [1]),
    (list[float], ["a"]),
    (list[float], 0.5),
    (list[float], None),
    (np.ndarray, np.array([0.5])),
    (np.ndarray, [0.5]),
    (Image, np.array([0.5, 0.5])),
    (str, "a"),
    (str, 1),
    (float, 1),
    (float, np.float32(0.5)),
    (float, "a"),
    (int, 1.5),
    (Label, "a"),
    (Label, "z"),
    (Plain, {"label": "a"}),
    (Plain, {"label": 1}),
    (Plain, {}),
    (Plain, "a"),
    (Answer, Answer()),
    (Answer, {"label": "a", "score": 0.5}),
    (Answer, {"score": "high"}),
    (Answer, "a"),
    (list[Answer], [Answer()]),
    (list[Answer], [{"label": "a"}]),
    (list[Answer], [{"score": "high"}]),
    (list[Answer], Answer()),
    (Answer | None, None),
    (Answer | None, {"label": "a"}),
    (dict, Answer()),
    (dict[str, float], {"a": 1}),
    (dict[str, float], {"a": "b"}),
    (tuple[float, float], [0.5]),
]


def writable(returns: Any, value: Any) -> bool:
    """Whether BentoML can make a response of an answer."""
    from _bentoml_impl.serde import JSONSerde

    def predict(self: Any, rows: float) -> Any: ...

    predict.__annotations__ = {"rows": float, "return": returns}
    api: Any = bentoml.api(predict)
    try:
        asyncio.run(api.output_spec.to_http_response(value, JSONSerde()))
    except Exception:
        return False
    return True


@pytest.mark.parametrize(("returns", "value"), CONSTANTS, ids=str)
def test_constants_are_taken_just_when_bentoml_can_write_them(returns: Any, value: Any) -> None:
    """A constant that would turn every fallback into a 400 or 500 is refused; one that would not is taken."""
    assert refused(method(returns), gr.constant(value)) is not writable(returns, value)


@pytest.mark.parametrize("value", ["a", {"a": 0.5}], ids=str)
def test_what_is_no_array_is_no_constant_for_one(value: Any) -> None:
    """BentoML would write it, but a client that reads arrays could not read it."""
    assert refused(method(np.ndarray), gr.constant(value))
    assert refused(method(Image), gr.constant(value))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_constant_of_a_method_that_declares_nothing(shape: str) -> None:
    """Is taken as it is; for a stream any one answer is, whatever its items are."""
    assert not refused(method(None, shape), gr.constant(object()))
    if "generator" in shape:
        assert not refused(method(c.Iterator[str], shape), gr.constant(1))
        assert not refused(method(c.Iterator[str], shape), method(float))


# Arguments, in services


def service(predict: Callable[..., Any], spare: Callable[..., Any], *, by: str = "name") -> Any:
    """An installed service with a method and its fallback, which BentoML calls by the names of the parameters."""
    namespace = {"predict": predict, "spare": spare, "__module__": __name__}
    to = "spare" if by == "name" else spare
    namespace["predict"] = bentoml.api(gr.fall_back(to=to)(predict))
    return gr.install()(bentoml.service(type("Service", (), namespace)))


def predicting(self: Any, rows: list[float], ctx: bentoml.Context, top: int = 3) -> float:
    return 1.0


TAKES_THEM = {
    "same": "self, rows, ctx, top=3",
    "other order": "self, top, ctx, rows",
    "all optional": "self, rows=None, ctx=None, top=1",
    "keyword only": "self, *, rows, ctx, top",
    "more, with defaults": "self, rows, ctx, top, more=1",
    "anything": "self, *args, **kwargs",
    "the rest": "self, rows, **rest",
    "another self": "this, rows, ctx, top",
}
DOES_NOT = {
    "another name": "self, row, ctx, top",
    "no context": "self, rows, top",
    "no option": "self, rows, ctx",
    "one more": "self, rows, ctx, top, more",
    "positions only": "self, rows, ctx, top, /",
    "args only": "self, *args",
}


def function_of(parameters: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {}
    exec(f"def spare({parameters}): return 0.5", namespace)
    return namespace["spare"]


@pytest.mark.parametrize("parameters", TAKES_THEM.values(), ids=TAKES_THEM)
def test_arguments_a_fallback_can_take(parameters: str) -> None:
    """Whatever BentoML's call by names can be bound to; of a callable, self is what is called self."""
    service(predicting, function_of(parameters))
    if parameters.startswith("self"):
        service(predicting, function_of(parameters), by="callable")


@pytest.mark.parametrize("by", ["name", "callable"])
@pytest.mark.parametrize("parameters", DOES_NOT.values(), ids=DOES_NOT)
def test_arguments_a_fallback_cannot_take(parameters: str, by: str) -> None:
    """Refused at import, with both signatures' difference in the message."""
    with pytest.raises(gr.DecorationError, match=r"spare\(\) does not take the arguments of .*\(rows, ctx, top\)"):
        service(predicting, function_of(parameters), by=by)


def test_installing_refuses_misfits_at_import() -> None:
    """What binding refuses of a function, `install` refuses of a service, before any worker starts."""

    def spare(self: Any, rows: list[float], ctx: bentoml.Context, top: int = 3) -> str:
        return "spare"

    with pytest.raises(gr.DecorationError, match=r"spare\(\) returns str, but .*predicting\(\) returns float"):
        service(predicting, spare)
    for guard in (gr.fall_back(to=gr.constant("a")), gr.fall_back(to=[gr.constant(1.0), gr.constant("a")])):
        cls = type("Service", (), {"predict": bentoml.api(guard(predicting)), "__module__": __name__})
        with pytest.raises(gr.DecorationError, match=r"constant\('a'\) is no float"):
            gr.install()(bentoml.service(cls))
