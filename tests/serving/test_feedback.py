"""``POST /guardrails/feedback``: one, many, twice, wrong, and while the store is away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrails.decisions import Decision, DecisionLog, writer
from guardrails.decisions.stores.store import DecisionStore
from guardrails.serving import feedback
from guardrails.serving.endpoints import Endpoints

ID, OTHER, UNKNOWN = "a" * 32, "b" * 32 + "/7", "c" * 32


class Service:
    """The endpoints, without a service behind them."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self.app = Endpoints(self, "/guardrails", None)  # type: ignore[arg-type]

    def post(self, content: Any, **headers: str) -> tuple[int, dict]:
        """Send feedback: bytes as they are, anything else as JSON."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                return await client.post("/guardrails/feedback", content=body, headers=headers)

        answer = anyio.run(send)
        return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A log on a file, with two decisions in it."""
    log = DecisionLog(DecisionStore(f"sqlite:///{tmp_path_factory.mktemp('feedback')}/d.db"))
    for name in (ID, OTHER):
        log(Decision(name, 1.0, "p", "primary"))
    assert log.flush(20.0)
    yield Service(log)
    log.close()


def stored(service: Service, **wanted: Any) -> list[dict]:
    """Rewards in the store with these values."""
    rows = service.log.store.read("reward")
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_all_fields_arrive(service: Service) -> None:
    """Of a ranking made ahead."""
    given = {"decision_id": OTHER, "reward": 0.5, "label": "x", "served_action": [3, 1], "name": "click", "slot": 1,
             "shown": True, "feedback_id": "all"}  # fmt: skip
    assert service.post(given) == (200, {"status": "stored"})
    (row,) = stored(service, feedback_id="all")
    assert {name: row[name] for name in ("reward", "label", "served_action", "name", "slot", "shown")} == {
        "reward": 0.5, "label": '"x"', "served_action": "[3, 1]", "name": "click", "slot": 1, "shown": True,
    }  # fmt: skip
    assert service.post({"decision_id": ID, "shown": True})[0] == 200


def test_the_same_again_is_a_duplicate(service: Service) -> None:
    """By its id, by the header, or by its content; of an unknown decision, too."""
    for body, headers in (
        ({"decision_id": ID, "reward": 1, "feedback_id": "k1"}, {}),
        ({"decision_id": ID, "reward": 2}, {"idempotency-key": "k2"}),
        ({"decision_id": ID, "reward": 3}, {}),
        ({"decision_id": UNKNOWN, "reward": 3}, {}),
    ):
        first, second = service.post(body, **headers), service.post(body, **headers)
        assert first[1]["status"] in ("stored", "kept")
        assert second[0] == 200
        assert second[1]["status"] == "duplicate"
    assert len(stored(service, feedback_id="k1")) == len(stored(service, feedback_id="k2")) == 1
    assert service.post({"decision_id": ID, "reward": 9, "feedback_id": "k1"})[1]["status"] == "duplicate"
    assert service.post({"decision_id": ID, "reward": 2}, **{"idempotency-key": '"k2"'})[1]["status"] == "duplicate"
    assert service.post({"decision_id": ID, "reward": 2}, **{"idempotency-key": "k3"}) == (200, {"status": "stored"})
    assert service.post({"decision_id": ID, "reward": 2, "feedback_id": "x"}, **{"idempotency-key": "y"})[0] == 400


@pytest.mark.parametrize("wrap", [lambda items: items, lambda items: {"feedback": items}], ids=["list", "object"])
def test_many_at_once(service: Service, wrap: Any) -> None:
    """Each is told of; a bad one costs none of the others."""
    tag = str(time.time_ns())
    good = [{"decision_id": ID, "reward": 1, "feedback_id": f"{tag}-{i}"} for i in range(5)]
    status, answer = service.post(wrap(good))
    assert (status, answer["status"], answer["counts"]) == (200, "taken", {"stored": 5})
    mixed = [good[0], {"decision_id": "?"}, {"decision_id": UNKNOWN, "label": tag}, 7, {**good[1], "feedback_id": tag}]
    status, answer = service.post(wrap(mixed))
    assert (status, answer["status"]) == (207, "partly taken")
    assert [entry["status"] for entry in answer["results"]] == ["duplicate", "refused", "kept", "refused", "stored"]
    assert [entry["decision_id"] for entry in answer["results"]] == [ID, "?", UNKNOWN, None, ID]
    assert [bool(entry.get("error")) for entry in answer["results"]] == [False, True, False, True, False]
    assert service.post(wrap([{"decision_id": UNKNOWN, "label": tag + "x"}]))[0] == 202
    assert service.post(wrap([{"a": 1}, 2]))[0] == 400


def test_a_bad_number_in_one_costs_none_of_the_others(service: Service) -> None:
    """NaN and infinities, as some clients write them."""
    body = f'[{{"decision_id": "{ID}", "reward": NaN}}, {{"decision_id": "{ID}", "label": [-Infinity]}}, '
    body += f'{{"decision_id": "{ID}", "reward": 77}}]'
    status, answer = service.post(body.encode())
    assert (status, [entry["status"] for entry in answer["results"]]) == (207, ["refused", "refused", "stored"])
    assert len(stored(service, reward=77.0)) == 1


def test_a_thousand_at_once_and_no_more(service: Service) -> None:
    """The limits are stated when they are passed: items, bytes of many, bytes of one."""
    items = [{"decision_id": f"{i:032x}", "reward": 1, "served_action": list(range(20))} for i in range(1000)]
    status, answer = service.post(items)
    assert (status, answer["counts"]) == (202, {"kept": 1000})
    assert service.post(items)[1]["counts"] == {"duplicate": 1000}
    status, answer = service.post([*items, items[0]])
    assert status == 413
    assert "1000" in answer["error"]
    assert service.post([{"decision_id": ID, "label": "x" * 60_000}] * 20)[0] == 413
    assert service.post({"decision_id": ID, "label": "x" * 70_000})[0] == 413
    assert service.post({"decision_id": ID, "label": "x" * 60_000})[0] == 200
    assert service.post([{"decision_id": ID, "label": "x" * 70_000}, {"decision_id": ID, "reward": 5}])[0] == 207


def test_a_key_for_many_makes_a_second_delivery_of_all_one(service: Service) -> None:
    """A client that repeats the request as it was; two that say the same stay two."""
    items = [{"decision_id": ID, "reward": 4.5}] * 2
    assert service.post(items, **{"idempotency-key": "bulk"})[1]["counts"] == {"stored": 2}
    assert service.post(items, **{"idempotency-key": "bulk"})[1]["counts"] == {"duplicate": 2}


FIELD = st.sampled_from(
    ["decision_id", "reward", "label", "served_action", "name", "slot", "shown", "feedback_id", "x"]
)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([ID, OTHER, UNKNOWN, 10**400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | FIELD, inner, max_size=4),
    max_leaves=8,
)
LIKELY = st.fixed_dictionaries(
    {"decision_id": st.sampled_from([ID, OTHER, UNKNOWN])},
    optional={
        "reward": VALUE,
        "label": VALUE,
        "served_action": VALUE,
        "name": VALUE,
        "slot": VALUE,
        "shown": VALUE,
        "feedback_id": VALUE,
    },
)
BODY = (
    VALUE
    | LIKELY
    | st.lists(LIKELY | VALUE, max_size=5)
    | st.builds(lambda items: {"feedback": items}, VALUE | st.lists(LIKELY))
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODY, key=st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200))
def test_whatever_json_comes_the_answer_is_2xx_or_4xx(service: Service, body: Any, key: str | None) -> None:
    """And says something; what was taken can be read back."""
    status, answer = service.post(body, **({} if key is None else {"idempotency-key": key}))
    assert 200 <= status < 500
    assert answer.get("error") or answer.get("status")
    if isinstance(body, list) and "results" in answer:
        assert len(answer["results"]) == len(body)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
def test_whatever_bytes_come_the_answer_is_4xx(service: Service, body: bytes) -> None:
    """Unless they happen to be feedback."""
    assert 400 <= service.post(body)[0] < 500


def test_deep_nesting_is_refused(service: Service) -> None:
    """A label without end is the client's mistake."""
    for depth in (500, 20_000):
        status, _ = service.post(f'{{"decision_id": "{ID}", "label": {"[" * depth}{"]" * depth}}}'.encode())
        assert status in (200, 400)
    assert status == 400


def test_without_decisions_there_is_nothing_to_give_feedback_to() -> None:
    """404, as before."""
    assert Service(None).post({"decision_id": ID, "reward": 1})[0] == 404


class Away:
    """A store that fails, or hangs."""

    url = "away://"

    def __init__(self, path: Path) -> None:
        self.real = DecisionStore(f"sqlite:///{path}/d.db")
        self.failing, self.hang, self.asked = True, threading.Event(), 0
        self.hang.set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)

        def guarded(*args: Any) -> Any:
            self.asked += 1
            self.hang.wait(30)
            if self.failing:
                raise OSError("away")
            return found(*args)

        return guarded if name in ("create", "write", "deliver", "known", "knows") else found


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service whose store is away."""
    monkeypatch.setattr(writer, "RETRY_AFTER", 0.05)
    monkeypatch.setattr(feedback, "PATIENCE", 0.2)
    store = Away(tmp_path)
    log = DecisionLog(store, capacity=20)  # type: ignore[arg-type]
    yield Service(log)
    store.hang.set()
    store.failing = False
    log.close()


def test_feedback_waits_for_a_store_that_is_away(away: Service) -> None:
    """202 queued until the queue is full, then 503; all that was queued is there in the end, once."""
    for number in range(20):
        assert away.post({"decision_id": ID, "reward": number})[1]["status"] == "queued"
    status, answer = away.post({"decision_id": ID, "reward": 99})
    assert status == 503
    assert "again later" in answer["error"]
    status, answer = away.post([{"decision_id": ID, "reward": 99}, {"decision_id": "?"}])
    assert (status, answer["status"]) == (503, "refused")
    away.log.store.failing = False
    assert away.log.flush(20.0)
    assert sorted(row["reward"] for row in away.log.store.read("reward")) == list(map(float, range(20)))


def test_feedback_does_not_wait_for_a_store_that_hangs(away: Service) -> None:
    """Its patience is bounded, its threads are few, and what both they and the queue write is one."""
    away.log.store.failing = False
    assert away.log.flush()
    away.log.store.hang.clear()
    began, threads = time.monotonic(), threading.active_count()
    for number in range(8):
        assert away.post({"decision_id": ID, "reward": number})[1]["status"] == "queued"
    assert time.monotonic() - began < 8 * 0.5
    assert threading.active_count() < threads + 20
    away.log.store.hang.set()
    assert away.log.flush(20.0)
    time.sleep(0.3)
    assert sorted(row["reward"] for row in away.log.store.read("reward")) == list(map(float, range(8)))
