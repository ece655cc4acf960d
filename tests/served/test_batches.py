"""Many clients in one batch of a real server: each is told of its own rows, and only flagged clients' traces are kept."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from guardrails.testing import BentoServer, OtlpReceiver, ReceivedSpan
from tests.served.conftest import FAST_EXPORT, ROOT

ORDINARY, OUTLIER, INVALID, BROKEN = [0.1, 0.2], [6.0, -6.0], [1e9, 0.0], [0.5, 0.5]
MAX_BATCH_SIZE = 8
SERVICE = """
import asyncio, gc, time
import bentoml, numpy as np
from bentoml._internal.marshal.dispatcher import CorkDispatcher
import guardrails as gr

profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(600, 2)), feature_names=["a", "b"], alpha=0.05)
guards = gr.compose(
    gr.traced(),
    gr.validate(profile, in_batch=gr.constant([-2.0])),
    gr.check_outliers(profile, fallback=gr.constant([-1.0])),
)
batched = {"batchable": True, "max_latency_ms": 20_000}
tracing = {"exporter_type": "otlp", "sample_rate": 0.0, "otlp": {"protocol": "http"}}


def queued(max_batch_size):
    dispatchers = (one for one in gc.get_objects() if CorkDispatcher in type(one).__mro__)
    queue = next(one for one in dispatchers if one.max_batch_size == max_batch_size)._queue
    return sum(len(job.data) for job in queue)


def scores(rows):
    if [0.5, 0.5] in rows:
        raise RuntimeError("the model broke")
    return [sum(row) for row in rows]


@gr.install(decisions="sqlite:///decisions.db", features="store", batch_links=True)
@bentoml.service(name="batched", workers=1, tracing=tracing)
class Batched:
    def __init__(self) -> None:
        self.release_at, self.holding = 0, False

    @bentoml.api(max_batch_size=MAX_BATCH_SIZE, **batched)
    @guards
    async def score(self, rows: list[list[float]]) -> list[float]:
        self.holding = self.release_at > 0
        while queued(MAX_BATCH_SIZE) < self.release_at:
            await asyncio.sleep(0.01)
        self.release_at, self.holding = 0, False
        return scores(rows)

    @bentoml.api(max_batch_size=MAX_BATCH_SIZE - 1, **batched)
    @guards
    def score_in_a_thread(self, rows: list[list[float]]) -> list[float]:
        self.holding = self.release_at > 0
        while queued(MAX_BATCH_SIZE - 1) < self.release_at:
            time.sleep(0.01)
        self.release_at, self.holding = 0, False
        return scores(rows)

    @bentoml.api
    async def hold(self, rows: int) -> None:
        self.release_at = rows

    @bentoml.api
    async def state(self, max_batch_size: int) -> dict:
        return {"holding": self.holding, "queued": queued(max_batch_size)}
""".replace("MAX_BATCH_SIZE", str(MAX_BATCH_SIZE))


@dataclass
class Client:
    """One request, in a trace of its own, and what came back."""

    rows: list[list[float]]
    trace_id: str
    sampled: bool = False
    answer: httpx.Response | None = None

    @property
    def headers(self) -> tuple[str | None, str | None]:
        return self.answer.headers.get("Guardrails-Route"), self.answer.headers.get("Guardrails-Reason")

    @property
    def decision_id(self) -> str:
        return self.answer.headers["Guardrails-Decision-Id"]

    @property
    def flagged(self) -> bool:
        return self.headers != ("primary", None)

    @property
    def records(self) -> list[str]:
        """The records' ids that the header names, one for each row, read as the documentation says."""
        found = []
        for part in self.decision_id.split(", "):
            identity, _, rows = part.partition("/")
            first, _, last = rows.partition("-")
            found += [f"{identity}/{row}" for row in range(int(first), int(last or first) + 1)] if rows else [identity]
        return found


class Held:
    """Sends requests that the server has to answer in one go: it holds a first one back until all others wait."""

    def __init__(self, server: BentoServer, pool: ThreadPoolExecutor) -> None:
        self.server, self.pool = server, pool
        self.clients: list[Client] = []

    def send(self, api: str, requests: Sequence[list[list[float]]], *, sampled: Sequence[int] = ()) -> list[Client]:
        """The clients, one for each request, in the order in which their rows were queued."""
        size = MAX_BATCH_SIZE if api == "score" else MAX_BATCH_SIZE - 1
        self.post("hold", rows=sum(len(rows) for rows in requests))
        first = self.start(api, [ORDINARY])
        self.wait_until(size, lambda state: state["holding"])
        waiting, queued = [], 0
        for number, rows in enumerate(requests):
            waiting.append(self.start(api, rows, sampled=number in sampled))
            queued += len(rows)
            if number < len(requests) - 1:  # with the last one all of them are let go
                self.wait_until(size, lambda state, queued=queued: state["queued"] >= queued)
        return [future.result() for future in (first, *waiting)][1:]

    def start(self, api: str, rows: list[list[float]], *, sampled: bool = False) -> Any:
        client = Client(rows, f"{len(self.clients) + 1:032x}", sampled)
        self.clients.append(client)
        return self.pool.submit(self._ask, api, client)

    def _ask(self, api: str, client: Client) -> Client:
        headers = {"traceparent": f"00-{client.trace_id}-{'a' * 16}-{'01' if client.sampled else '00'}"}
        client.answer = httpx.post(f"{self.server.url}/{api}", json={"rows": client.rows}, headers=headers, timeout=60)
        return client

    def post(self, api: str, **arguments: Any) -> Any:
        return httpx.post(f"{self.server.url}/{api}", json=arguments, timeout=30).raise_for_status().json()

    def wait_until(self, size: int, reached: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + 60
        while not reached(state := self.post("state", max_batch_size=size)):
            assert time.monotonic() < deadline, state
            time.sleep(0.01)


@dataclass
class Served:
    """Everything that was sent, and everything that is left of it after the server has stopped."""

    mixed: list[Client]
    split: list[Client]
    broken: list[Client]
    threaded: list[Client]
    clients: list[Client]
    feedback: dict[str, tuple[int, dict[str, Any]]]
    records: dict[str, dict[str, Any]]
    traces: dict[str, list[ReceivedSpan]]
    log: str

    def server_span(self, client: Client) -> ReceivedSpan:
        """The one span of this client's trace."""
        (span,) = self.traces[client.trace_id]
        return span

    def batch_span(self, client: Client) -> ReceivedSpan:
        """The span of the batch that answered this client's first row."""
        identity = client.decision_id.partition("/")[0]
        spans = [span for trace in self.traces.values() for span in trace]
        (span,) = [s for s in spans if s.name != "POST /score" and s.attributes["guardrails.decision.id"] == identity]
        return span


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server, no head sampling, four batches (and those that hold them up)."""
    cwd = tmp_path_factory.mktemp("batched")
    (cwd / "batched.py").write_text(SERVICE)
    with OtlpReceiver() as receiver:
        env = {
            "PYTHONPATH": f"{cwd}:{ROOT}",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint,
            **FAST_EXPORT,
        }
        home = tmp_path_factory.mktemp("home")
        with BentoServer("batched:Batched", home=home, cwd=cwd, env=env) as server, ThreadPoolExecutor(16) as pool:
            held = Held(server, pool)
            one_each = [[ORDINARY], [OUTLIER], [ORDINARY], [INVALID]]
            several = [[ORDINARY, ORDINARY], [ORDINARY, OUTLIER]]
            mixed = held.send("score", one_each + several, sampled=[2])
            split = held.send("score", [[ORDINARY] * 5, [ORDINARY] * 5 + [OUTLIER], [ORDINARY] * 20])
            broken = held.send("score", [[ORDINARY], [BROKEN], [OUTLIER]])
            threaded = held.send("score_in_a_thread", [[OUTLIER], [ORDINARY]])
            feedback = {client.decision_id: tell(server, client.decision_id) for client in (mixed[1], mixed[4])}
        records, traces = read(cwd), receiver.traces()
        yield Served(mixed, split, broken, threaded, held.clients, feedback, records, traces, server.text())


def tell(server: BentoServer, decision_id: str) -> tuple[int, dict[str, Any]]:
    """Give feedback, again as long as the decision is not written yet."""
    for _ in range(100):
        body = {"decision_id": decision_id, "reward": 1.0}
        answer = httpx.post(f"{server.url}/guardrails/feedback", json=body, timeout=30)
        if answer.status_code != 202:
            break
        time.sleep(0.1)
    return answer.status_code, answer.json()


def read(cwd: Path) -> dict[str, dict[str, Any]]:
    """The decision records, by id."""
    database = sqlite3.connect(cwd / "decisions.db")
    database.row_factory = sqlite3.Row
    return {row["decision_id"]: dict(row) for row in database.execute("select * from decisions")}


def test_every_client_sees_its_own_headers(served: Served) -> None:
    """Route and reason of its own rows; the answers are as without headers."""
    invalid, outlier, primary = ("fallback:constant", "invalid"), ("fallback:constant", "outlier"), ("primary", None)
    assert [c.headers for c in served.mixed] == [primary, outlier, primary, invalid, primary, ("mixed", "outlier")]
    assert [c.headers for c in served.threaded] == [outlier, primary]
    total = sum(ORDINARY)
    answers = [client.answer.json() for client in served.mixed]
    assert answers == [[pytest.approx(total)], [-1.0], [pytest.approx(total)], [-2.0], [pytest.approx(total)] * 2,
                       [pytest.approx(total), -1.0]]  # fmt: skip


def test_the_header_names_the_records_of_the_clients_rows(served: Served) -> None:
    """Row by row, over several rows and over several batches: route and features of the record are the client's."""
    for client in served.clients:
        records = [served.records[identity] for identity in client.records]
        assert [json.loads(record["features"]) for record in records] == client.rows
        routes = {record["route"] for record in records}
        assert client.headers[0] == (routes.pop() if len(routes) == 1 else "mixed")
        assert client.headers[1] == next((record["reason"] for record in records if record["reason"]), None)
    named = [identity for client in served.clients for identity in client.records]
    assert sorted(named) == sorted(served.records)  # each record is one client's


def test_a_row_takes_feedback_by_its_header(served: Served) -> None:
    """The header of one row is its record's id; a header of several rows is refused with what to send instead."""
    one, several = served.mixed[1].decision_id, served.mixed[4].decision_id
    assert served.feedback[one] == (200, {"status": "stored"})
    status, said = served.feedback[several]
    assert status == 400
    assert "<id>/<row>" in said["error"]


def test_all_clients_of_a_batch_share_its_id(served: Served) -> None:
    """They were one batch, each with rows of its own."""
    identities, rows = zip(*(client.decision_id.split("/") for client in served.mixed), strict=True)
    assert len(set(identities)) == 1
    assert rows == ("0", "1", "2", "3", "4-5", "6-7")


def test_a_split_request_hears_of_all_its_rows(served: Served) -> None:
    """5 + 6 + 20 rows in batches of 8: the header names each part, the verdict is that of the strangest row."""
    whole, split, large = served.split
    first, second = (part.split("/") for part in split.decision_id.split(", "))
    assert (whole.decision_id, whole.headers) == (f"{first[0]}/0-4", ("primary", None))
    assert (first[1], second[1], split.headers) == ("5-7", "0-2", ("mixed", "outlier"))
    assert [part.split("/")[1] for part in large.decision_id.split(", ")] == ["3-7", "0-7", "0-6"]
    assert large.decision_id.startswith(second[0])
    assert large.headers == ("primary", None)
    assert len(large.answer.json()) == 20
    span = served.server_span(split)
    assert span.attributes["guardrails.decision.id"] == split.decision_id
    assert span.attributes["guardrails.rows"] == 6
    assert span.attributes["guardrails.outlier.is_outlier"] is True
    assert span.attributes["guardrails.outlier.p_value"] <= 0.05


def test_a_batch_that_fails_fails_every_client(served: Served) -> None:
    """500 for all, as in any batch; headers and spans say so, of the row nobody came to as of those the model had."""
    assert [client.answer.status_code for client in served.broken] == [500] * 3
    assert [client.headers for client in served.broken] == [("primary", "error")] * 2 + [
        ("fallback:constant", "outlier")
    ]
    assert len({client.decision_id for client in served.broken}) == 3
    for client in served.broken:
        assert served.server_span(client).attributes["guardrails.reason"] == client.headers[1]


def test_only_flagged_clients_traces_are_exported(served: Served) -> None:
    """At head sampling 0: the flagged and the one its caller sampled; of the batches, those that had a flagged row."""
    wanted = {client.trace_id for client in served.clients if client.flagged or client.sampled}
    assert len(wanted) == 3 + 1 + 1 + 3 + 1
    batches = {served.batch_span(group[i]).trace_id for group, i in
               ((served.mixed, 0), (served.broken, 0), (served.threaded, 0))}  # fmt: skip
    assert wanted | batches < set(served.traces)
    (split_off,) = set(served.traces) - wanted - batches  # the batch with the second half of the split request
    (span,) = served.traces[split_off]
    assert served.split[1].decision_id.endswith(f"{span.attributes['guardrails.decision.id']}/0-2")


def test_server_spans_say_what_the_guards_saw_of_their_own_rows(served: Served) -> None:
    """Attributes on BentoML's own span, which has no guard's span below it: that one is the batch's."""
    for client in (client for client in served.clients if client.flagged or client.sampled):
        span = served.server_span(client)
        assert span.name.startswith("POST /score")
        said = span.attributes
        assert (said["guardrails.route"], said.get("guardrails.reason")) == client.headers
        assert said["guardrails.decision.id"] == client.decision_id
        assert said["guardrails.outlier.is_outlier"] is (OUTLIER in client.rows)
        judged = [served.records[identity] for identity in client.records]
        worst = min(judged, key=lambda record: (record["outlier_p_value"], -record["outlier_score"]))
        assert said["guardrails.outlier.p_value"] == worst["outlier_p_value"]
        assert said["guardrails.outlier.score"] == worst["outlier_score"]


def test_the_batch_links_to_its_clients(served: Served) -> None:
    """The batch's span is a trace of its own, with a link to every client's span, kept or not."""
    span = served.batch_span(served.mixed[0])
    assert span.parent_id is None
    assert len(set(span.links)) == 6
    kept = [served.server_span(client).span_id for client in served.mixed if client.flagged or client.sampled]
    assert len(kept) == 4
    assert set(kept) < set(span.links)
    assert set(served.batch_span(served.threaded[0]).links) > {served.server_span(served.threaded[0]).span_id}


def test_nothing_went_wrong_on_the_way(served: Served) -> None:
    """No contained error, no warning of the tracer about spans that have ended."""
    assert "failed and was passed over" not in served.log
    assert "ended span" not in served.log
    assert "batch_links is left out" not in served.log
