"""Real servers: a model store trained once per session, a BENTOML_HOME for each server, a real trace backend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guardrails.testing import BentoServer
from tests.served.backend import TraceBackend, find_phoenix

ROOT = Path(__file__).resolve().parents[2]
FAST_EXPORT = {"OTEL_BSP_SCHEDULE_DELAY": "200"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever is in this folder starts servers."""
    for item in items:
        if "tests/served" in str(item.path):
            item.add_marker(pytest.mark.served)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME with the services' models and profiles; copied for each server, never served from."""
    home = tmp_path_factory.mktemp("store")
    env = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
    for module in ("services.tumor.train", "services.songs.train", "services.digits.train"):
        subprocess.run([sys.executable, "-m", module], cwd=ROOT, env=env, check=True, capture_output=True)
    return home


Serve = Callable[..., BentoServer]


@pytest.fixture
def serve(store: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start servers that stop with the test: ``serve("services.tumor.service:Tumor", sample_rate=0.0)``."""
    started: list[BentoServer] = []

    def start(target: str, *, sample_rate: float = 0.0, endpoint: str | None = None, **options: object) -> BentoServer:
        number = len(started)
        home, cwd = tmp_path / f"home{number}", tmp_path / f"cwd{number}"
        shutil.copytree(store, home)
        cwd.mkdir()
        service = target.rpartition(":")[2]
        name = service.lower() if service in ("Tumor", "Songs", "Digits") else service
        env: dict[str, str | None] = {
            "PYTHONPATH": str(ROOT),
            "BENTOML_CONFIG_OPTIONS": f"services.{name}.tracing.sample_rate={sample_rate}",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint or "http://127.0.0.1:9/v1/traces",
            **FAST_EXPORT,
            **(options.pop("env", None) or {}),  # type: ignore[dict-item]
        }
        server = BentoServer(target, home=home, cwd=cwd, env=env, **options)  # type: ignore[arg-type]
        started.append(server)
        return server.__enter__()

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def backend() -> Iterator[TraceBackend]:
    """Arize Phoenix, for real; skipped by name where it is not installed."""
    executable = find_phoenix()
    if executable is None:
        pytest.skip("no trace backend: `make backend` installs Arize Phoenix in an environment of its own")
    with TraceBackend(executable) as phoenix:
        yield phoenix
