"""Where decisions go: one store, several, somebody's callable, a Collector over OTLP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import guardrails as gr
from guardrails.core.host import host, set_host
from guardrails.decisions import Decision, DecisionLog, Reward, writer
from guardrails.decisions.sinks import Sinks, open_sink
from guardrails.decisions.stores.otlp import OtlpStore
from guardrails.decisions.stores.store import DecisionStore
from guardrails.errors import DecisionStoreError, DecorationError
from guardrails.testing import OtlpReceiver, free_port

TRACE = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retry soon; close what was opened."""
    monkeypatch.setattr(writer, "RETRY_AFTER", 0.05)
    monkeypatch.setattr("guardrails.decisions.stores.otlp.TIMEOUT", 0.5)
    yield
    for log in writer.open_logs():
        log.close(2.0)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait for a condition; the answer is whether it came true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()


def decision(name: object, **fields: object) -> Decision:
    """One record."""
    return Decision(str(name), 1700000000.25, "predict", "primary", **fields)


def test_records_arrive_as_log_records():
    """Decoded from what came over the wire: name, time, trace, attributes, and the whole record as JSON."""
    with OtlpReceiver() as receiver:
        log = writer.open_log("otlp+" + receiver.logs_endpoint)
        log(decision("a/1", trace_id=TRACE, kind="choice", eligible=True, scores=np.array([0.1, 1 / 3]), pmf=[0.5, 0.5],
                     action=1, propensity=0.1 + 0.2, features="a hash", policy="EpsilonGreedy(epsilon=0.1)"))  # fmt: skip
        log(Reward("a/1", 1700000009.0, reward=1.0, label={"k": 1}, served_action=[1, 0], feedback_id="f"))
        assert log.flush(20.0)
        log.close()
    first, second = receiver.logs
    assert (first.event_name, first.time_ns, first.trace_id) == ("guardrails.decision", 1700000000250000000, TRACE)
    assert first.span_id is None
    assert first.attributes == {
        "guardrails.decision.id": "a/1", "guardrails.decision.api": "predict", "guardrails.decision.route": "primary",
        "guardrails.decision.kind": "choice", "guardrails.decision.eligible": True, "guardrails.decision.action": 1,
        "guardrails.decision.propensity": 0.1 + 0.2, "guardrails.decision.strength": 1.0,
        "guardrails.decision.deferred": False, "guardrails.decision.policy": "EpsilonGreedy(epsilon=0.1)",
    }  # fmt: skip
    body = json.loads(first.body)
    assert (body["scores"], body["pmf"], body["features"]) == ([0.1, 1 / 3], [0.5, 0.5], "a hash")
    assert body["decision_id"] == "a/1"
    assert second.event_name == "guardrails.reward"
    assert second.attributes == {"guardrails.decision.id": "a/1", "guardrails.reward.reward": 1.0,
                                 "guardrails.reward.shown": False, "guardrails.reward.feedback_id": "f"}  # fmt: skip
    assert json.loads(second.body)["served"] == [1, 0]


def test_the_resource_is_the_services(make_host):
    """As in its traces, so that both can be found by the same name."""
    before = host()
    try:
        make_host()
        with OtlpReceiver() as receiver:
            store = OtlpStore("otlp+" + receiver.logs_endpoint)
            store.write("decision", [decision("a").row()])
            store.close()
        assert receiver.logs[0].service == host().tracer_provider().resource.attributes["service.name"]
    finally:
        set_host(before)


def test_a_receiver_that_is_down_for_a_while_gets_everything(caplog):
    """Refused connections, then an error, then it takes them: all of them, and the alarm is over."""
    port = free_port()
    log = writer.open_log(f"otlp+http://127.0.0.1:{port}/v1/logs")
    for number in range(1200):
        log(decision(number))
    assert until(lambda: log.down_since is not None)
    assert "cannot be reached" in log.last_error
    with OtlpReceiver(port=port, answer=503) as receiver:
        assert until(lambda: "503" in (log.last_error or ""))
        assert log.waiting == 1200
        receiver.answer = 200
        assert log.flush(20.0)
        log.close()
    assert sorted(int(entry.attributes["guardrails.decision.id"]) for entry in receiver.logs) == list(range(1200))
    assert (log.last_error, log.dropped) == (None, 0)
    assert sum("decision records wait" in line for line in caplog.messages) == 1


def test_a_record_the_receiver_will_never_take_is_dropped_and_counted(monkeypatch):
    """413 for what is too large: the others arrive, once."""
    with OtlpReceiver() as receiver:
        log = writer.open_log("otlp+" + receiver.logs_endpoint)
        export = OtlpStore.write

        def limited(self: OtlpStore, kind: str, rows: list) -> int:
            receiver.answer = 413 if any(row["decision_id"] == "large" for row in rows) else 200
            return export(self, kind, rows)

        monkeypatch.setattr(OtlpStore, "write", limited)
        for name in (*range(20), "large", *range(20, 40)):
            log(decision(name))
        assert log.flush(20.0)
        log.close()
    assert sorted(int(entry.attributes["guardrails.decision.id"]) for entry in receiver.logs) == list(range(40))
    assert log.dropped == 1


def test_many_bytes_go_in_several_requests_and_none_twice(monkeypatch):
    """When a later one fails, those before it are not sent again."""
    monkeypatch.setattr("guardrails.decisions.stores.otlp.MAX_BYTES", 4000)
    with OtlpReceiver() as receiver:
        store = OtlpStore("otlp+" + receiver.logs_endpoint)
        store.create()
        export, calls = store._exporter.export, []

        def failing(records: list) -> object:
            calls.append(len(records))
            receiver.answer = 503 if len(calls) == 3 else 200
            return export(records)

        store._exporter.export = failing
        rows = [decision(i, features="x" * 500).row() for i in range(30)]
        with pytest.raises(DecisionStoreError, match="503"):
            store.write("decision", rows)
        assert store.write("decision", rows) == 30
        store.close()
    assert len(calls) > 4
    assert sorted(int(entry.attributes["guardrails.decision.id"]) for entry in receiver.logs) == list(range(30))


def test_feedback_over_otlp_is_sent_on():
    """Nobody can say whether the decision is known: it is queued."""
    with OtlpReceiver() as receiver:
        url = "otlp+" + receiver.logs_endpoint
        assert gr.feedback("a" * 32, reward=1.0, decisions=url) == "queued"
        assert writer.open_log(url).flush(20.0)
    assert [entry.event_name for entry in receiver.logs] == ["guardrails.reward"]


def test_another_logs_sdk_is_refused_by_name(monkeypatch):
    """It is not stable: another version's names are no reason to lose records silently."""
    import opentelemetry.sdk._logs

    monkeypatch.delattr(opentelemetry.sdk._logs, "ReadableLogRecord")
    with pytest.raises(DecisionStoreError, match=r"opentelemetry-sdk .* 1\.39 or later"):
        OtlpStore("otlp+http://localhost:4318/v1/logs")


@pytest.mark.parametrize("url", ["otlp+ftp://h/v1/logs", "otlp+http://", "otlp+grpc://h:4317"])
def test_what_is_no_otlp_address_is_refused(url):
    """With one that is."""
    with pytest.raises(DecisionStoreError, match=r"otlp\+http://host:4318/v1/logs"):
        writer.open_log(url)


def test_an_address_is_completed_and_its_password_not_shown():
    """As Collectors are usually named."""
    assert OtlpStore("otlp+http://collector:4318").endpoint == "http://collector:4318/v1/logs"
    assert OtlpStore("otlp+https://u:secret@collector/x").url == "otlp+https://collector/x"


def test_a_log_is_opened_with_its_retention(tmp_path):
    """A time span; not for what is kept elsewhere."""
    url = f"sqlite:///{tmp_path}/d.db"
    assert writer.open_log(url, retention="90d").retention == 90 * 86400
    assert writer.open_log(url).retention == 90 * 86400  # whoever does not say changes nothing
    assert writer.open_log(url, retention=60).retention == 60.0
    for wrong in ("soon", 0, -5, float("nan"), float("inf")):
        with pytest.raises(DecorationError, match="retention"):
            writer.open_log(url, retention=wrong)
    with pytest.raises(DecisionStoreError, match="kept elsewhere"):
        writer.open_log("otlp+http://localhost:1/v1/logs", retention="1d")


def test_what_decisions_may_be(tmp_path):
    """A URL, a callable, several; nothing else."""
    url, seen = f"sqlite:///{tmp_path}/d.db", []
    assert open_sink(url) is writer.open_log(url)
    assert open_sink(seen.append) == seen.append
    both = open_sink([url, seen.append], retention="1d")
    assert isinstance(both, Sinks)
    assert both.main is writer.open_log(url)
    assert both.main.retention == 86400
    for wrong in (7, [], None):
        with pytest.raises(DecorationError, match="decisions="):
            open_sink(wrong)


def test_several_sinks_get_every_record_whatever_happens_to_one(tmp_path, caplog):
    """Two databases, a callable that works and one that fails; feedback goes to the databases."""
    seen = []

    def broken(record: object) -> None:
        raise RuntimeError(record)

    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in "ab"]
    both = open_sink([broken, urls[0], seen.append, urls[1]])
    for number in range(10):
        assert both(decision(number)) is False
    assert both.flush(20.0)
    stores = [DecisionStore(url) for url in urls]
    assert [len(store.read()) for store in stores] == [10, 10]
    assert len(seen) == 10
    assert sum("a sink of decisions failed" in line for line in caplog.messages) == 1
    assert (both.written, both.waiting, both.dropped, both.last_error) == (10, 0, 0, None)
    assert gr.feedback("a" * 32, reward=1.0, decisions=both) == "kept"
    assert gr.feedback("a" * 32, reward=1.0, decisions=both) == "duplicate"
    assert both.flush(20.0)
    assert [len(store.read("reward")) for store in stores] == [1, 1]
    assert len(seen) == 10
    both.close()
    for store in stores:
        store.close()


class Hanging:
    """A store that never answers."""

    url = "hanging://"

    def create(self) -> None:
        """Wait."""
        time.sleep(3.0)

    def write(self, kind: str, rows: list) -> int:
        """Wait."""
        return len(rows)

    def close(self) -> None:
        """Nothing to do."""


def test_closing_several_takes_no_longer_than_closing_one():
    """The time is for all of them together."""
    logs = [DecisionLog(Hanging()) for _ in range(4)]
    both = Sinks(logs)
    both(decision("a"))
    time.sleep(0.3)
    began = time.monotonic()
    both.close(0.5)
    assert time.monotonic() - began < 1.0
    assert both.dropped == 4
