"""BentoML sees a guarded service as it sees the bare one: the same routes, schema, OpenAPI and kinds of API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
import pandas as pd
import pytest
from bentoml.validators import DataframeSchema, DType, Shape
from pydantic import BaseModel, Field

import guardrails as gr


class Row(BaseModel):
    """A row as a body."""

    a: float = Field(description="the first", ge=-10)
    b: float = 0.5


class Answer(BaseModel):
    """An answer with fields."""

    score: float
    label: str | None = None


Decorate = Callable[[Any], Any]


def service_of(decorate: Decorate, install: Decorate | None = None) -> Any:
    """A service of a dozen kinds of API, its methods decorated with ``decorate``."""

    class Zoo:
        """All kinds of API."""

        @bentoml.api
        @decorate
        def plain(self, text: str, times: int = 2) -> str:
            """Repeat a text."""
            return text * times

        @bentoml.api
        @decorate
        async def asynchronous(self, rows: list[list[float]]) -> list[float]:
            return [sum(row) for row in rows]

        @bentoml.api
        @decorate
        def streamed(self, prompt: str) -> Generator[str, None, None]:
            yield prompt

        @bentoml.api
        @decorate
        async def streamed_asynchronously(self, prompt: str) -> AsyncGenerator[str, None]:
            yield prompt

        @bentoml.api(batchable=True, batch_dim=0, max_batch_size=8, max_latency_ms=50)
        @decorate
        def batched(self, rows: np.ndarray) -> np.ndarray:
            return rows

        @bentoml.api
        @decorate
        def body(self, row: Row, weight: Annotated[float, Field(gt=0, description="how much")] = 1.0) -> Answer:
            return Answer(score=row.a * weight)

        @bentoml.api
        @decorate
        def root(self, row: Row, /) -> Answer:
            return Answer(score=row.a)

        @bentoml.api
        @decorate
        def array(
            self, rows: Annotated[np.ndarray, Shape((-1, 2)), DType("float32")]
        ) -> Annotated[np.ndarray, DType("float64")]:
            return rows.astype(float)

        @bentoml.api
        @decorate
        def frame(self, rows: Annotated[pd.DataFrame, DataframeSchema(columns=["a", "b"])]) -> pd.DataFrame:
            return rows

        @bentoml.api
        @decorate
        def defaults(
            self,
            rows: list[float] = Field(default_factory=lambda: [0.0, 1.0], description="made anew"),  # noqa: B008
            *,
            top: int = Field(default=3, ge=1, le=10),
        ) -> list[float]:
            return rows[:top]

        @bentoml.api(route="/v1/classify", name="classify")
        @decorate
        def renamed(self, text: str) -> dict[str, Any]:
            return {"text": text}

        @bentoml.api
        @decorate
        def with_context(self, text: str, ctx: bentoml.Context) -> str:
            return text

        @bentoml.api(input_spec=Row, output_spec=Answer)
        @decorate
        def specified(self, **row: Any) -> Any:
            return {"score": row["a"]}

        @bentoml.task
        @decorate
        def later(self, text: str) -> str:
            return text

        @bentoml.api
        @decorate
        def a_file(self, image: Path) -> Path:
            return image

    service = bentoml.service(name="zoo", traffic={"timeout": 10})(Zoo)
    return service if install is None else install(service)


def bare(fn: Any) -> Any:
    return fn


def said(service: Any) -> dict[str, str]:
    """All that BentoML tells the world about a service, byte by byte."""
    return {
        "schema": json.dumps(service.schema(), sort_keys=False),
        "openapi": json.dumps(service.openapi_spec.asdict(), sort_keys=False),
    }


def kinds(service: Any) -> dict[str, Any]:
    """What BentoML makes of each method."""
    return {
        name: (
            api.name, api.route, api.doc, api.ctx_param, api.is_stream, api.is_task, api.batchable, api.batch_dim,
            api.max_batch_size, api.max_latency_ms, api.input_spec.mime_type(), api.output_spec.mime_type(),
            json.dumps(api.input_spec.model_json_schema()), json.dumps(api.output_spec.model_json_schema()),
        )
        for name, api in service.apis.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def stacks(profile: gr.Profile) -> dict[str, Decorate]:
    fallback = lambda *_, **__: [0.0]  # noqa: E731  # says nothing of its type, so it stands in for any
    return {
        "traced": gr.traced(deadline=1.0),
        "fall_back": gr.fall_back(to=fallback),
        "traced and fall_back": gr.compose(gr.traced(), gr.fall_back(to=fallback)),
        "validate": _where_it_fits(gr.validate(profile, on_invalid=fallback)),
        "check_outliers": _where_it_fits(gr.check_outliers(profile, fallback=fallback)),
        "sample_drift": _where_it_fits(gr.sample_drift(profile)),
        "explore": _where_it_fits(gr.explore(gr.EpsilonGreedy(0.1))),
        "guarded": _where_it_fits(gr.guarded(profile, fallback=fallback), without=("batched",)),
    }


def _where_it_fits(decorator: Decorate, without: tuple[str, ...] = ()) -> Decorate:
    """Decorate what the guard takes (no stream is explored, no **kwargs has features), and leave the rest bare."""

    def decorate(fn: Any) -> Any:
        try:
            return fn if fn.__name__ in without else decorator(fn)
        except gr.DecorationError:
            return fn

    return decorate


NAMES = [
    "traced",
    "fall_back",
    "traced and fall_back",
    "validate",
    "check_outliers",
    "sample_drift",
    "explore",
    "guarded",
]


@pytest.fixture(scope="module")
def bare_service() -> Any:
    return service_of(bare)


@pytest.mark.parametrize("name", NAMES)
def test_schema_and_openapi_are_those_of_the_bare_service(
    stacks: dict[str, Decorate], bare_service: Any, name: str
) -> None:
    """schema() and the OpenAPI document are equal to the last byte, with and without install."""
    assert said(service_of(stacks[name])) == said(bare_service)
    assert said(service_of(stacks[name], gr.install())) == said(bare_service)


@pytest.mark.parametrize("name", NAMES)
def test_bentoml_makes_the_same_of_each_method(stacks: dict[str, Decorate], bare_service: Any, name: str) -> None:
    """Name, route, doc, context parameter, stream, task, batching and specs are read as before."""
    assert kinds(service_of(stacks[name])) == kinds(bare_service)


def test_guarded_fits_a_batchable_method(profile: gr.Profile) -> None:
    """The one-line form works on a batchable method, given a fallback that answers."""

    @bentoml.service
    class Small:
        @bentoml.api(batchable=True)
        @gr.guarded(profile, fallback=gr.constant([0.0]))
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows.sum(axis=1)

    gr.install()(Small)


def test_install_alone_changes_no_schema(profile: gr.Profile, bare_service: Any) -> None:
    """install with a profile in hand, on a service none of whose methods is guarded."""
    assert said(service_of(bare, gr.install(profile=profile, path="/elsewhere", token="t"))) == said(bare_service)


def test_the_guarded_apis_are_guarded(stacks: dict[str, Decorate]) -> None:
    """The comparison above is about guarded services: every method of theirs has a pipeline."""
    for name in ("traced", "fall_back", "traced and fall_back"):
        service = service_of(stacks[name])
        assert all(gr.pipeline_of(api.func).guards for api in service.apis.values())
        assert gr.pipeline_of(service.inner.plain).stages


@pytest.mark.parametrize("name", ["traced", "fall_back", "traced and fall_back"])
def test_dispatch_sees_the_same_kinds(stacks: dict[str, Decorate], bare_service: Any, name: str) -> None:
    """The predicates by which BentoML decides how to call a method give what they gave."""
    import inspect

    from bentoml._internal.utils import get_original_func

    guarded = service_of(stacks[name])
    for api, was in ((guarded.apis[key], bare_service.apis[key]) for key in bare_service.apis):
        for predicate in (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction):
            assert predicate(get_original_func(api.func)) == predicate(get_original_func(was.func))


def test_direct_calls_work_as_before(stacks: dict[str, Decorate]) -> None:
    """An instance outside of any server answers; Field defaults are resolved by BentoML first, as without guards."""
    instance = service_of(stacks["traced and fall_back"]).inner()
    assert instance.plain("ab") == "abab"
    assert instance.plain(text="ab", times=1) == "ab"
    assert instance.defaults() == [0.0, 1.0]
    assert instance.defaults([5.0, 6.0], top=1) == [5.0]
    assert instance.root(Row(a=1.0)).score == 1.0
    assert list(instance.streamed("x")) == ["x"]
    assert instance.array(np.ones((2, 2), dtype="float32")).dtype == np.float64


def test_a_field_default_is_what_the_guards_read(profile: gr.Profile) -> None:
    """A payload left out of a direct call is read as BentoML resolves it."""

    @bentoml.service
    class Small:
        @bentoml.api
        @gr.check_outliers(profile)
        def predict(self, rows: list[list[float]] = Field(default_factory=lambda: [[0.1, 0.2]])) -> str:  # noqa: B008
            return "answered"

    assert Small.inner().predict() == "answered"


def test_annotations_of_the_wrapper_are_the_methods_own(stacks: dict[str, Decorate]) -> None:
    """Nothing is added to the signature BentoML reads on every request."""
    import inspect

    guarded, plain = service_of(stacks["guarded"]), service_of(bare)
    for name, api in guarded.apis.items():
        assert str(inspect.signature(api.func)) == str(inspect.signature(plain.apis[name].func))
