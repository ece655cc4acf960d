"""What a real trace backend holds after real requests to the real bento."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from guardrails.testing import BentoServer, OtlpReceiver
from services.tumor.train import held_out
from tests.served.backend import Span, TraceBackend

ORDINARY, EDGE = 200, 20
REQUIRED = {
    "guardrails.decision.id",
    "guardrails.route",
    "guardrails.outlier.score",
    "guardrails.outlier.p_value",
    "guardrails.outlier.threshold",
    "guardrails.outlier.is_outlier",
    "guardrails.profile.tag",
    "guardrails.model.tag",
    "guardrails.deadline.met",
}


def edge_cases() -> list[list[list[float]]]:
    """Real cases whose features have been shuffled among the patients until nobody looks like that."""
    X, _ = held_out()
    rng = np.random.default_rng(1)
    low, high = X.min(axis=0), X.max(axis=0)
    return [np.where(rng.random((1, 30)) < 0.5, low, high).tolist() for _ in range(EDGE)]


def ordinary_cases() -> list[list[list[float]]]:
    """Held-out cases, each as a request of its own."""
    X, _ = held_out()
    return [X[i % len(X)][None].tolist() for i in range(ORDINARY)]


def send_all(server: BentoServer) -> dict[str, httpx.Response]:
    """Send every case on one connection; the responses by decision id."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        answers = [client.post("/diagnose", json={"cases": case}) for case in ordinary_cases() + edge_cases()]
    assert [answer.status_code for answer in answers] == [200] * (ORDINARY + EDGE)
    return {answer.headers["Guardrails-Decision-Id"]: answer for answer in answers}


def guard_spans(spans: list[Span], decisions: dict[str, httpx.Response]) -> dict[str, Span]:
    """The guards' spans of these decisions, by decision id."""
    found = [s for s in spans if s.attributes.get("guardrails.decision.id") in decisions]
    assert len({s.span_id for s in found}) == len(found)
    return {s.attributes["guardrails.decision.id"]: s for s in found}


@pytest.mark.timeout(300)
def test_head_sampling_0_keeps_exactly_the_flagged_traces(
    serve: Callable[..., BentoServer], backend: TraceBackend
) -> None:
    """Two workers, no head sampling, SIGTERM right after the last response: flagged traces are there, and only they."""
    server = serve("services.tumor.service:Tumor", sample_rate=0.0, endpoint=backend.otlp_endpoint)
    decisions = send_all(server)
    server.stop()
    flagged = {i: a for i, a in decisions.items() if a.headers["Guardrails-Route"] != "primary"}
    assert EDGE <= len(flagged) < EDGE + ORDINARY / 4

    spans = backend.wait_for(lambda all_: len(guard_spans(all_, decisions)) >= len(flagged), timeout=60)
    kept = guard_spans(spans, decisions)
    assert set(kept) == set(flagged)
    assert_trees(spans, kept, decisions)
    for identity, span in kept.items():
        assert span.attributes["guardrails.reason"] == flagged[identity].headers["Guardrails-Reason"] == "outlier"
        assert span.attributes["guardrails.outlier.is_outlier"] is True
        assert span.attributes["guardrails.outlier.p_value"] <= 0.05


@pytest.mark.timeout(300)
def test_head_sampling_1_keeps_all_traces(serve: Callable[..., BentoServer], backend: TraceBackend) -> None:
    """With head sampling 1 every request is in the backend, also when SIGTERM follows the last response at once."""
    server = serve("services.tumor.service:Tumor", sample_rate=1.0, endpoint=backend.otlp_endpoint)
    decisions = send_all(server)
    server.stop()
    spans = backend.wait_for(lambda all_: rooted(all_, decisions) >= len(decisions), timeout=90)
    kept = guard_spans(spans, decisions)
    assert set(kept) == set(decisions)
    assert_trees(spans, kept, decisions)


def rooted(spans: list[Span], decisions: dict[str, httpx.Response]) -> int:
    """How many of the decisions' guard spans are there, with the server span each of them hangs under."""
    there = {(span.trace_id, span.span_id) for span in spans}
    return sum((span.trace_id, span.parent_id) in there for span in guard_spans(spans, decisions).values())


def assert_trees(spans: list[Span], kept: dict[str, Span], decisions: dict[str, httpx.Response]) -> None:
    """Each guard span hangs under a server span of its own trace, and says what the response's headers said."""
    by_id = {(s.trace_id, s.span_id): s for s in spans}
    for identity, span in kept.items():
        assert span.parent_id is not None
        root = by_id[span.trace_id, span.parent_id]
        assert root.name == "POST /diagnose"
        assert root.parent_id is None
        assert set(span.attributes) >= REQUIRED
        assert span.attributes["guardrails.route"] == decisions[identity].headers["Guardrails-Route"]


def test_upstream_decision_is_respected(serve: Callable[..., BentoServer]) -> None:
    """A caller's sampled flag is honoured; a caller's unsampled, flagged trace is kept in the caller's trace."""
    with OtlpReceiver() as receiver:
        server = serve("services.tumor.service:Tumor", endpoint=receiver.endpoint)
        ordinary, edge = ordinary_cases()[0], edge_cases()[0]
        traces = {"1" * 32: (ordinary, "01"), "2" * 32: (ordinary, "00"), "3" * 32: (edge, "00")}
        for trace_id, (case, flag) in traces.items():
            headers = {"traceparent": f"00-{trace_id}-{'a' * 16}-{flag}"}
            httpx.post(f"{server.url}/diagnose", json={"cases": case}, headers=headers).raise_for_status()
        server.stop()
        received = receiver.traces()
    assert set(received) & set(traces) == {"1" * 32, "3" * 32}
    kept = {span.name: span for span in received["3" * 32]}
    assert kept["POST /diagnose"].parent_id == "a" * 16
    assert kept["guardrails diagnose"].parent_id == kept["POST /diagnose"].span_id


def test_the_asgi_layers_spans_are_left_out_unless_asked_for(serve: Callable[..., BentoServer], tmp_path: Path) -> None:
    """A sampled trace is the server span and the guard's span; `install(asgi_spans=True)` keeps the "http send" ones."""
    (tmp_path / "both.py").write_text(
        "import bentoml, numpy as np, guardrails as gr\n"
        "tracing = {'exporter_type': 'otlp', 'sample_rate': 1.0, 'otlp': {'protocol': 'http'}}\n"
        "def made(name, **options):\n"
        "    class Both:\n"
        "        @bentoml.api\n        @gr.traced()\n"
        "        def predict(self, rows: np.ndarray) -> list[float]:\n            return [1.0]\n"
        "    Both.__name__ = Both.__qualname__ = name\n"
        "    return gr.install(**options)(bentoml.service(name=name, tracing=tracing)(Both))\n"
        "Quiet, Loud = made('Quiet'), made('Loud', asgi_spans=True)\n"
    )
    names: dict[str, list[str]] = {}
    for service in ("Quiet", "Loud"):
        with OtlpReceiver() as receiver:
            env = {"PYTHONPATH": str(tmp_path)}
            server = serve(f"both:{service}", sample_rate=1.0, endpoint=receiver.endpoint, env=env)
            httpx.post(f"{server.url}/predict", json={"rows": [1.0]}).raise_for_status()
            server.stop()
            traces = receiver.traces().values()
        names[service] = next([s.name for s in t] for t in traces if any(s.name == "POST /predict" for s in t))
    assert sorted(names["Quiet"]) == ["POST /predict", "guardrails predict"]
    assert set(names["Loud"]) > set(names["Quiet"])
