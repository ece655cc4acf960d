"""A fleet for real: two servers of two workers each, a Prometheus that scrapes them, generated rules, one drift."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

import guardrails as gr
from guardrails.drift.fleet import rules as made
from guardrails.drift.fleet.exposition import Watched
from guardrails.testing import BentoServer, free_port

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
NAMES = ["a", "b", "c"]
SERVICE = """
import bentoml, numpy as np, guardrails as gr
profile = gr.Profile.ref("fleet-profile:latest")
@bentoml.service(name="fleet", workers=2)
class Fleet:
    @bentoml.api
    @gr.sample_drift(profile)
    def predict(self, rows: np.ndarray) -> list[float]:
        return rows.sum(axis=1).tolist()
"""


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[gr.Profile]:
    """Three standard normal features, stored where the servers will look."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    BentoMLContainer.model_store.set(ModelStore(str(models)))
    X = np.random.default_rng(0).normal(size=(4000, 3))
    tag = gr.Profile.fit(X, feature_names=NAMES, model="fleet:v1").save("fleet-profile")
    yield gr.Profile.load(tag)
    BentoMLContainer.model_store.reset()


@pytest.fixture
def servers(profile: gr.Profile, tmp_path: Path) -> Iterator[list[BentoServer]]:
    """Two replicas, each with a BENTOML_HOME of its own; started side by side."""
    found = []
    for number in range(2):
        home, cwd = tmp_path / f"home{number}", tmp_path / f"cwd{number}"
        shutil.copytree(tmp_path / "home", home)
        cwd.mkdir()
        (cwd / "fleet.py").write_text(SERVICE)
        env = {"PYTHONPATH": str(Path(gr.__file__).parents[1])}
        found.append(BentoServer("fleet:Fleet", home=home, cwd=cwd, env=env))
    threads = [threading.Thread(target=server.__enter__) for server in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ExitStack() as stack:
        for server in found:
            stack.callback(server.stop)
        yield found


class Prometheus:
    """A real one, scraping every second."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "*.rules.yml")],
            "scrape_configs": [{"job_name": "fleet", "static_configs": [{"targets": targets}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values, now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        return [(entry["metric"], float(entry["value"][1])) for entry in answer["data"]["result"]]

    def alerts(self, state: str) -> dict[tuple[str, str], dict[str, str]]:
        """Annotations of alerts in a state, by name and feature."""
        found = httpx.get(f"{self.url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("feature", "")): alert["annotations"]
            for alert in found
            if alert["state"] == state
        }

    def stop(self) -> None:
        """SIGTERM."""
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def prometheus(profile: gr.Profile, servers: list[BentoServer], tmp_path: Path) -> Iterator[Prometheus]:
    """With the rules of the profile over windows of 20 seconds."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    (folder / "fleet.rules.yml").write_text(made.to_yaml(made.rules(profile, window="20s")))
    (folder / "services.rules.yml").write_text(made.to_yaml(made.service_rules()))
    running = Prometheus(folder, [server.url.removeprefix("http://") for server in servers])
    yield running
    running.stop()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s")


@contextmanager
def traffic(server: BentoServer, seed: int, shift: np.ndarray, sent: list[np.ndarray]) -> Iterator[None]:
    """Requests of one row, one after the other, some 50 a second; what was answered is noted."""
    stop, rng = threading.Event(), np.random.default_rng(seed)

    def run() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not stop.wait(0.015):
                row = rng.normal(size=3) + shift
                client.post("/predict", json={"rows": [row.tolist()]}).raise_for_status()
                sent.append(row)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_a_drift_over_the_fleet_is_found_and_every_request_counted(
    profile: gr.Profile, servers: list[BentoServer], prometheus: Prometheus
) -> None:
    """Blind before there is traffic, quiet while it is like training, then an alert about the column that moved."""
    until(lambda: ("GuardrailsDriftBlind", "") in {**prometheus.alerts("pending"), **prometheus.alerts("firing")})
    sent: list[np.ndarray] = []

    @contextmanager
    def both(seed: int, shift: np.ndarray) -> Iterator[None]:
        with ExitStack() as stack:
            for number, server in enumerate(servers):
                stack.enter_context(traffic(server, seed + number, shift, sent))
            yield

    judged = 'min(model_ref_feature:guardrails_feature:increase20s{model="fleet:v1"}) > 400'
    with both(1, np.zeros(3)):
        until(lambda: prometheus.query(judged))
        time.sleep(5)
        assert prometheus.query("model_ref:guardrails_drift_features_significant:ratio20s == 0")
        assert {**prometheus.alerts("pending"), **prometheus.alerts("firing")} == {}
    with both(11, np.array([0.0, 1.0, 0.0])):
        until(lambda: ("GuardrailsFeatureDrift", "b") in prometheus.alerts("firing"))
        told = prometheus.alerts("firing")
    assert {feature for _name, feature in told} == {"b"}
    text = told["GuardrailsFeatureDrift", "b"]
    assert "fleet:v1: b has drifted" in text["summary"]
    highest = profile.bins.edges[1][np.isfinite(profile.bins.edges[1])][-1]
    assert f"Shares that changed most: above {highest:.4g}: 6.25% -> " in text["description"]
    counted(profile, prometheus, np.array(sent))
    recorded = prometheus.query('count({__name__=~"model_ref.*",model="fleet:v1"})')[0][1]
    assert 0.8 < recorded / made.series(profile) < 1.1


def counted(profile: gr.Profile, prometheus: Prometheus, sent: np.ndarray) -> None:
    """Every bin of every feature holds exactly the rows that were sent."""
    total = "sum by (feature, bin) (guardrails_feature_bin_total)"
    outliers = profile.outliers.is_outlier(sent).astype(float)
    expected = profile.bins.count(np.column_stack([sent, outliers]))
    until(lambda: prometheus.query('sum(guardrails_feature_bin_total{feature="a"})')[0][1] >= len(sent), 15)
    found = {(labels["feature"], labels["bin"]): value for labels, value in prometheus.query(total)}
    cells = {(profile.bins.names[j], profile.bins.label(b)): expected[j, b] for j, b in Watched.of(profile).cells}
    assert found == cells
