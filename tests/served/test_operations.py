"""Feedback, status, readiness, metrics, shutdown, and the death of a worker."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from guardrails.testing import BentoServer, OtlpReceiver
from tests.served.test_traces import edge_cases, ordinary_cases

Serve = Callable[..., BentoServer]
TUMOR = "services.tumor.service:Tumor"


def decisions(server: BentoServer, columns: str = "decision_id", where: str = "1") -> list[tuple]:
    """What the tumor service's store holds."""
    database = sqlite3.connect(server.cwd / "tumor-decisions.db")
    try:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        return database.execute(f"select {columns} from decisions where {where}").fetchall()
    finally:
        database.close()


def test_feedback_is_stored_and_joins_by_decision_id(serve: Serve) -> None:
    """Known ids are stored, unknown ones kept; bad feedback is refused with a sentence."""
    server = serve(TUMOR)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        answer = client.post("/diagnose", json={"cases": ordinary_cases()[0]})
        identity = answer.headers["Guardrails-Decision-Id"]
        time.sleep(1.0)  # the writer commits every half second
        stored = client.post("/guardrails/feedback", json={"decision_id": identity, "label": "benign", "reward": 1})
        assert (stored.status_code, stored.json()["status"]) == (200, "stored")
        early = client.post("/guardrails/feedback", json={"decision_id": "0" * 32, "reward": 0.5})
        assert (early.status_code, early.json()["status"]) == (202, "kept")
        bad = [b"", b"[]", b'{"decision_id": 1}', b'{"decision_id": "a"}', b'{"decision_id": "a", "reward": "much"}',
               b'{"decision_id": "a", "reward": 1, "color": 2}', b'{"decision_id": "a", "reward": NaN}',
               b'{"decision_id": "a", "reward": 1, "served_action": -1}']  # fmt: skip
        for body in bad:
            refused = client.post("/guardrails/feedback", content=body)
            assert refused.status_code == 400, body
            assert refused.json()["error"]
        assert client.post("/guardrails/feedback", content=b"x" * 70_000).status_code == 413
        assert client.get("/guardrails/feedback").status_code == 405
        assert client.get("/guardrails/nothing").status_code == 404
        page = client.get("/guardrails/")
        assert page.status_code == 200
        assert "tumor" in page.text
    server.stop()
    from guardrails.decisions.stores.store import DecisionStore

    store = DecisionStore(f"sqlite:///{server.cwd}/tumor-decisions.db")
    joined = {row["decision_id"]: row for row in store.joined()}
    assert joined[identity]["label"] == '"benign"'
    assert joined[identity]["reward"] == 1.0
    assert {row["decision_id"] for row in store.read("reward")} == {identity, "0" * 32}
    store.close()


def test_drift_is_counted_over_all_workers(serve: Serve) -> None:
    """The status of whichever worker answers tells of all rows, and names the feature that moved."""
    server = serve(TUMOR)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for case in ordinary_cases():
            client.post("/diagnose", json={"cases": case}, headers={"Connection": "close"})
        time.sleep(1.5)
        before = client.get("/guardrails/status").json()["drift"][0]
        for case in ordinary_cases() * 2:
            case[0][1] += 6.0  # mean texture, about 1.4 standard deviations
            client.post("/diagnose", json={"cases": case}, headers={"Connection": "close"})
        time.sleep(1.5)
        after = client.get("/guardrails/status").json()["drift"][0]
    assert (before["rows"], before["workers"], after["rows"]) == (200, 2, 600)
    # 379 reference rows are too few to be judged for ever: the verdict is one look's, and says so.
    assert before["verdict"].startswith("no drift seen, by one look")
    assert after["verdict"].startswith("drift, by one look")
    assert after["features"][0]["feature"] == "mean_texture"
    # Cases that are sent again and again are not independent: others may pass the test, none comes close.
    assert after["features"][0]["psi"] > 3 * after["features"][1]["psi"]


def test_metrics_are_summed_over_workers(serve: Serve) -> None:
    """Durations by route and reason, the guards' own time, and what BentoML answered by itself."""
    server = serve(TUMOR)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for case in ordinary_cases()[:60] + edge_cases():
            client.post("/diagnose", json={"cases": case}, headers={"Connection": "close"})
        for _ in range(5):
            assert client.post("/diagnose", content=b"{}").status_code == 400
        text = client.get("/metrics").text
    counts = {
        line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if line.startswith("guardrails")
    }
    prefix = 'guardrails_request_duration_seconds_count{api="diagnose"'
    routes = {name: value for name, value in counts.items() if name.startswith(prefix)}
    assert sum(routes.values()) == 85
    assert routes[prefix + ',reason="outlier",route="fallback:refer_to_doctor"}'] >= 20
    assert routes[prefix + ',reason="invalid",route="rejected"}'] == 5
    assert counts['guardrails_guard_duration_seconds_count{api="diagnose"}'] == 80


def test_not_ready_without_its_profile(serve: Serve, tmp_path: Path) -> None:
    """A worker that cannot load its profile is not ready, says why, and becomes ready once the profile is there."""
    import shutil

    server_home = tmp_path / "home0"
    module = tmp_path / "missing.py"
    module.write_text(
        "import bentoml, numpy as np, guardrails as gr\n"
        "profile = gr.Profile.ref('late-profile:latest')\n"
        "@gr.install()\n@bentoml.service(name='late')\nclass Late:\n"
        "    @bentoml.api\n    @gr.check_outliers(lambda self: profile.resolve())\n"
        "    def predict(self, rows: np.ndarray) -> list[float]:\n        return rows.sum(axis=1).tolist()\n"
    )
    server = serve("missing:Late", ready=False, env={"PYTHONPATH": str(tmp_path)})
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/readyz").status_code == 503
        status = client.get("/guardrails/status").json()
        assert status["ready"] is False
        assert "late-profile" in status["problem"]
        shutil.copytree(server_home / "models" / "tumor-profile", server_home / "models" / "late-profile")
        deadline = time.monotonic() + 30
        while client.get("/readyz").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert client.get("/readyz").status_code == 200


def test_shutdown_is_bounded_with_a_dead_collector_and_keeps_records(serve: Serve) -> None:
    """SIGTERM right after the last response: every decision is in the store, though nobody takes the traces."""
    server = serve(TUMOR, sample_rate=1.0, endpoint="http://127.0.0.1:9/v1/traces")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        answers = [client.post("/diagnose", json={"cases": case}) for case in ordinary_cases()[:100] + edge_cases()]
    took = server.stop()
    sent = {answer.headers["Guardrails-Decision-Id"] for answer in answers}
    assert {row[0] for row in decisions(server)} == sent
    assert took < 20


@pytest.mark.timeout(180)
def test_a_killed_worker_takes_only_its_requests_in_flight(serve: Serve) -> None:
    """kill -9 of one of two workers under load: the rest is answered, everything committed is there, nothing corrupt."""
    with OtlpReceiver() as receiver:
        server = serve(TUMOR, endpoint=receiver.endpoint)
        stop = threading.Event()
        answered: list[tuple[float, str]] = []
        failed: list[float] = []

        def load() -> None:
            cases = ordinary_cases()
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    answer = httpx.post(f"{server.url}/diagnose", json={"cases": cases[number % 200]}, timeout=10)
                    assert answer.status_code == 200
                    answered.append((time.monotonic(), answer.headers["Guardrails-Decision-Id"]))
                except (httpx.HTTPError, AssertionError):
                    failed.append(time.monotonic())

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(4)
        victim = server.workers()[0]
        time.sleep(0.5)
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        time.sleep(6)
        stop.set()
        for thread in threads:
            thread.join()
        server.stop()
    assert len(failed) <= len(threads)  # at most one request in flight for each client
    assert all(abs(moment - killed) < 2 for moment in failed)
    assert sum(moment > killed + 1 for moment, _ in answered) > 20
    stored = {row[0] for row in decisions(server)}
    lost = [moment for moment, identity in answered if identity not in stored]
    # Only what the killed worker had answered and not yet committed (a commit follows within half a second).
    assert all(killed - 1.0 < moment <= killed + 0.1 for moment in lost), [moment - killed for moment in lost]
