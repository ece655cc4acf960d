"""Another service as a fallback: by name, in the same process or far away, and what is found out at import."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bentoml
import pytest

import guardrails as gr

LONG, SHORT = 30.0, 0.05
ROWS = [0.1, 0.2]


class Behaviour:
    """What the dependency does, and who asked it."""

    error: Exception | None = None
    hang = threading.Event()
    asked: list[str] = []  # noqa: RUF012  # emptied before each test


@bentoml.service
class Backup:
    @bentoml.api
    def predict(self, rows: list[float]) -> str:
        Behaviour.asked.append("predict")
        Behaviour.hang.wait(LONG)
        if Behaviour.error is not None:
            raise Behaviour.error
        return f"backup {len(rows)}"

    @bentoml.api
    async def apredict(self, rows: list[float]) -> str:
        Behaviour.asked.append("apredict")
        while not Behaviour.hang.is_set():  # noqa: ASYNC110  # set from other threads and loops
            await asyncio.sleep(0.001)
        if Behaviour.error is not None:
            raise Behaviour.error
        return f"async backup {len(rows)}"

    @bentoml.api
    def other(self, texts: list[str]) -> str:
        return "other"

    @bentoml.api
    def number(self, rows: list[float]) -> float:
        return 0.5

    def hidden(self, rows: list[float]) -> str:
        return "hidden"


@pytest.fixture(autouse=True)
def _well() -> Any:
    Behaviour.error, Behaviour.asked = None, []
    Behaviour.hang.set()
    yield
    Behaviour.hang.set()


def service(to: Any, *, asynchronous: bool = False, on: Any = None, **options: Any) -> Any:
    """An installed service that is sick and has `Backup` as a dependency."""

    def predict(self: Any, rows: list[float]) -> str:
        raise ValueError("sick")

    async def apredict(self: Any, rows: list[float]) -> str:
        raise ValueError("sick")

    method: Callable[..., Any] = apredict if asynchronous else predict
    namespace = {
        "backup": bentoml.depends(Backup) if on is None else on,
        method.__name__: bentoml.api(gr.fall_back(to=to, **options)(method)),
        "__module__": __name__,
    }
    return gr.install()(bentoml.service(type("Front", (), namespace)))


def ask(made: Any, where: str = "here") -> Any:
    """Call it as BentoML does: by name, a coroutine on the loop, a function in a thread of its own."""
    instance = made()
    if hasattr(made.inner, "apredict"):
        return asyncio.run(instance.apredict(rows=ROWS))
    if where == "here":
        return instance.predict(rows=ROWS)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(instance.predict, rows=ROWS).result()


@pytest.mark.parametrize("where", ["here", "worker thread"])
@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize(
    ("to", "asynchronous", "answer"),
    [
        ("backup", False, "backup 2"),
        ("backup.predict", False, "backup 2"),
        ("backup.apredict", False, "async backup 2"),
        ("backup", True, "async backup 2"),
        ("backup.predict", True, "backup 2"),
        ("backup.apredict", True, "async backup 2"),
    ],
)
def test_by_name(to: str, asynchronous: bool, answer: str, timeout: float | None, where: str) -> None:
    """The dependency alone means its API of the same name; functions and coroutines stand in for one another."""
    assert ask(service(to, asynchronous=asynchronous, timeout=timeout), where) == answer


def test_the_route_is_the_name() -> None:
    """As it is written, for headers, records and breakers."""
    made = service(gr.within("backup.predict", breaker=gr.Breaker()))
    instance = made()
    assert instance.predict(rows=ROWS) == "backup 2"
    plan = gr.pipeline_of(made.inner.predict).bind(instance)
    assert [target.route for target in plan.chain] == ["primary", "fallback:backup.predict"]
    assert list(plan.status()["breakers"]) == ["fallback:backup.predict"]


@pytest.mark.parametrize("api", ["nothing", "hidden"])
def test_an_unknown_api(api: str) -> None:
    """Refused at import; the message names the service, what was asked for and what there is."""
    wanted = rf"Backup has no API '{api}'; it has .*predict.*Name one of these"
    with pytest.raises(gr.DecorationError, match=wanted):
        service(f"backup.{api}")
    with pytest.raises(gr.DecorationError, match=wanted):
        service([gr.constant("spare"), gr.within(f"backup.{api}", timeout=1.0)])


def test_the_api_of_the_same_name_has_to_be_there() -> None:
    """'backup' of a method that the dependency has no namesake of."""

    def recommend(self: Any, rows: list[float]) -> str:
        return "model"

    namespace = {"backup": bentoml.depends(Backup), "recommend": bentoml.api(gr.fall_back(to="backup")(recommend))}
    with pytest.raises(gr.DecorationError, match="Backup has no API 'recommend'"):
        gr.install()(bentoml.service(type("Front", (), namespace | {"__module__": __name__})))


def test_an_unknown_dependency() -> None:
    """Names what is missing, and how a dependency is written."""
    with pytest.raises(gr.DecorationError, match=r"'spares\.predict' .* is no method of Front.*bentoml\.depends"):
        service("spares.predict")


@pytest.mark.parametrize(
    ("api", "message"),
    [("other", r"backup\.other\(\) does not take the arguments"), ("number", r"backup\.number\(\) returns float")],
)
def test_one_that_cannot_stand_in(api: str, message: str) -> None:
    """Its code is here, so its arguments and its answer are looked at."""
    with pytest.raises(gr.DecorationError, match=message):
        service(f"backup.{api}")


def test_a_dependency_far_away_is_taken_unseen() -> None:
    """Nobody connects at import; when it cannot be reached, the next one answers."""
    made = service(["backup.whatever", gr.constant("spare")], on=bentoml.depends(url="http://127.0.0.1:9"))
    assert ask(made) == "spare"
    made = service(
        ["backup", gr.constant("spare")], on=bentoml.depends(url="http://127.0.0.1:9"), asynchronous=True, timeout=LONG
    )
    assert ask(made) == "spare"


def test_a_stream_has_no_dependency_for_a_fallback() -> None:
    """Refused at import, with the way round it."""

    def predict(self: Any, rows: list[float]) -> Any:
        yield "model"

    namespace = {"backup": bentoml.depends(Backup), "predict": bentoml.api(gr.fall_back(to="backup")(predict))}
    predict.__annotations__["return"] = "Generator[str, None, None]"
    with pytest.raises(gr.DecorationError, match=r"streams, and backup\.predict of another service cannot stand in"):
        gr.install()(bentoml.service(type("Front", (), namespace | {"__module__": __name__})))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("to", ["backup.predict", "backup.apredict"])
def test_one_that_raises_hands_over(to: str, asynchronous: bool) -> None:
    """The chain goes on."""
    Behaviour.error = ValueError("sick too")
    made = service([to, gr.constant("spare")], asynchronous=asynchronous)
    assert ask(made, "worker thread") == "spare"
    assert Behaviour.asked == [to.partition(".")[2]]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("to", ["backup.predict", "backup.apredict"])
def test_one_that_hangs_hands_over(to: str, asynchronous: bool) -> None:
    """Within its own deadline, whatever it is and whatever the method is."""
    Behaviour.hang.clear()
    made = service([gr.within(to, timeout=SHORT), gr.constant("spare")], asynchronous=asynchronous)
    threading.Timer(2.0, Behaviour.hang.set).start()  # who waits for it all the same is let go
    assert ask(made, "worker thread") == "spare"
    assert not Behaviour.hang.is_set()
    assert Behaviour.asked == [to.partition(".")[2]]
