"""Real servers on real databases: four workers on nothing, feedback over HTTP, a PostgreSQL that dies and comes back."""

from __future__ import annotations

import concurrent.futures
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from guardrails.decisions.stores.store import DecisionStore
from guardrails.testing import BentoServer, OtlpReceiver
from tests.decisions.postgres import Postgres

SERVICE = """
import bentoml, numpy as np, guardrails as gr

@gr.install(decisions={decisions!r})
@bentoml.service(name="storing", workers={workers}, traffic={{"timeout": 20}})
class Storing:
    @bentoml.api
    @gr.explore(gr.EpsilonGreedy(0.5))
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.atleast_2d(rows)
"""
ROW = {"rows": [[0.1, 0.9, 0.3]]}


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of this test's own: it may be stopped."""
    pytest.importorskip("pgserver", reason="a real PostgreSQL: pip install pgserver")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., BentoServer]]:
    """Serve the small service with decisions going to a store."""
    started: list[BentoServer] = []

    def one(decisions: str, workers: int = 2) -> BentoServer:
        (tmp_path / "storing.py").write_text(SERVICE.format(decisions=decisions, workers=workers))
        home = tmp_path / "home"
        home.mkdir()
        server = BentoServer("storing:Storing", home=home, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        started.append(server)
        return server.__enter__()

    yield one
    for server in started:
        server.stop()


def ask(server: BentoServer, count: int) -> tuple[set[str], float]:
    """Send requests, four at a time, each on a connection of its own: the decisions' ids and the slowest answer."""

    def one(_: int) -> tuple[str, float]:
        began = time.monotonic()
        answer = httpx.post(f"{server.url}/predict", json=ROW, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.headers["Guardrails-Decision-Id"], time.monotonic() - began

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(count)))
    return {name for name, _ in answers}, max(took for _, took in answers)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait for a condition; the answer is whether it came true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.2)
    return condition()


def metric(server: BentoServer, name: str) -> float:
    """A metric's value, over all workers and labels."""
    lines = [line for line in str(server.get("/metrics")).splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_four_workers_start_on_nothing_and_keep_everything(kind, start, request, tmp_path):
    """Every answered request has left its record, from whichever worker, and feedback finds it, once."""
    url = f"sqlite:///{tmp_path}/new/d.db" if kind == "sqlite" else request.getfixturevalue("postgres").database()
    server = start(url, workers=4)
    ids, _ = ask(server, 200)
    store = DecisionStore(url)
    assert until(lambda: len(store.read()) == 200)
    rows = {row["decision_id"]: row for row in store.read()}
    assert set(rows) == ids
    assert {(row["v"], row["propensity"] in (0.5 / 3, 0.5 + 0.5 / 3)) for row in rows.values()} == {(3, True)}
    items = [{"decision_id": name, "reward": 1, "slot": 0, "feedback_id": "f"} for name in sorted(ids)]

    def deliver(_: int) -> Counter:
        answer = httpx.post(f"{server.url}/guardrails/feedback", json={"feedback": items}, timeout=60)
        assert answer.status_code in (200, 202), answer.text
        return Counter(answer.json()["counts"])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # the same, by four clients at once
        counts = sum(pool.map(deliver, range(4)), Counter())
    assert counts.total() == 800
    assert until(lambda: len(store.read("reward")) == 200)
    if not counts["queued"]:  # none of the four had to wait for more than a second
        assert counts == {"stored": 200, "duplicate": 600}
    server.stop()
    assert len(store.read("reward")) == 200
    store.close()


@pytest.mark.timeout(240)
def test_a_postgresql_that_dies_under_load_costs_no_request_and_no_record(postgres, start):
    """Answers go on, as quick as before; the alarm is on while it is away, and off again; all records are there."""
    url = postgres.database()
    server = start(url)
    before, _ = ask(server, 50)
    store = DecisionStore(url)
    assert until(lambda: len(store.read()) == 50)
    store.close()
    postgres.stop()
    during, slowest = ask(server, 300)
    assert slowest < 3.0
    assert until(lambda: metric(server, "guardrails_decisions_store_down") == 1.0)
    assert until(lambda: "since" in (server.get("/guardrails/status")["decisions"]["error"] or ""))
    began = time.monotonic()
    answer = httpx.post(f"{server.url}/guardrails/feedback", json={"decision_id": min(during), "reward": 1}, timeout=30)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert time.monotonic() - began < 3.0
    postgres.start()
    assert until(lambda: metric(server, "guardrails_decisions_store_down") == 0.0)
    after, _ = ask(server, 50)
    assert until(lambda: len(store.read()) == 400)
    assert {row["decision_id"] for row in store.read()} == before | during | after
    assert len(store.read("reward")) == 1
    assert metric(server, "guardrails_decisions_dropped_total") == 0.0
    store.close()


def test_shutdown_is_bounded_while_a_store_is_locked(start, tmp_path):
    """Somebody holds the database: requests are answered, the server stops in time and says what it leaves behind."""
    path = tmp_path / "d.db"
    server = start(f"sqlite:///{path}")
    ask(server, 10)
    assert until(lambda: metric(server, "guardrails_decisions_written_total") == 10.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    _, slowest = ask(server, 50)
    assert slowest < 3.0
    assert server.stop() < 20.0
    other.execute("ROLLBACK")
    other.close()
    assert "decision records could not be written" in server.text()
    assert "before shutdown" in server.text()


def test_records_of_a_served_bento_arrive_over_otlp(start):
    """Where `decisions` names a Collector, all workers send their records there, and shutdown sends the rest."""
    with OtlpReceiver() as receiver:
        server = start("otlp+" + receiver.logs_endpoint)
        ids, _ = ask(server, 60)
        server.stop()
        found = [entry.attributes["guardrails.decision.id"] for entry in receiver.logs]
    assert sorted(found) == sorted(ids)
    assert {entry.event_name for entry in receiver.logs} == {"guardrails.decision"}
    assert {entry.service for entry in receiver.logs} == {"storing"}
