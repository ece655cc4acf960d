"""`bentoml build`, exported, and served where this checkout is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from guardrails.testing import BentoServer, OtlpReceiver
from tests.served.conftest import ROOT
from tests.served.test_traces import edge_cases, ordinary_cases


def bentoml(home: Path, *arguments: str, cwd: Path = ROOT) -> str:
    """Run BentoML's command line against a store."""
    env = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
    command = [sys.executable, "-m", "bentoml", *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python_without_the_library(folder: Path) -> str:
    """An interpreter that has every dependency and not this checkout.

    The tests' own environment is on its path as a plain folder: what an editable install puts there to find the
    checkout is a ``.pth`` file, and those work in an environment's own folder only.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(folder / "bin" / "python")
    missing = subprocess.run(
        [python, "-c", "import bentoml; import guardrails"], capture_output=True, text=True, cwd="/", check=False
    )
    assert "No module named 'guardrails'" in missing.stderr
    return python


@pytest.mark.timeout(300)
def test_an_exported_bento_answers_and_traces_the_same_elsewhere(
    store: Path, tmp_path: Path, serve: Callable[..., BentoServer]
) -> None:
    """Built here, exported, served by another environment from its own store: same answers, flagged traces, records."""
    home = tmp_path / "build-home"
    shutil.copytree(store, home)
    bentoml(home, "build", "-f", "services/tumor/bentofile.yaml", "-o", "tag", ".")
    archive = tmp_path / "tumor.bento"
    bentoml(home, "export", "tumor:latest", str(archive))
    newer = newest(home, "tumor-profile")  # what was pinned when it was built
    elsewhere = tmp_path / "elsewhere-home"
    elsewhere.mkdir()
    unpacked = tmp_path / "unpacked"
    if archive.is_dir():
        unpacked = archive
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data") if sys.version_info >= (3, 12) else tar.extractall(unpacked)
    assert (unpacked / "src" / "guardrails" / "__init__.py").is_file()
    assert newer in (unpacked / "bento.yaml").read_text()
    bentoml(elsewhere, "import", str(archive))

    python = python_without_the_library(tmp_path / "other")
    cases = ordinary_cases()[:40] + edge_cases()
    here = serve("services.tumor.service:Tumor")
    with OtlpReceiver() as receiver:
        cwd = tmp_path / "elsewhere"
        cwd.mkdir()
        env: dict[str, str | None] = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONPATH": None,
            "VIRTUAL_ENV": None,
        }
        with BentoServer("tumor:latest", home=elsewhere, cwd=cwd, env=env, python=python) as there:
            answers = [
                [httpx.post(f"{server.url}/diagnose", json={"cases": case}, timeout=30) for case in cases]
                for server in (here, there)
            ]
            status = there.get("/guardrails/status")
        flagged = sum(a.headers["Guardrails-Route"] != "primary" for a in answers[1])
        kept = [s for s in receiver.spans if s.name == "guardrails diagnose"]
    for mine, theirs in zip(*answers, strict=True):
        assert mine.content == theirs.content
        assert mine.headers["Guardrails-Route"] == theirs.headers["Guardrails-Route"]
    assert len(kept) == flagged >= 20
    assert status["profile"]["tag"] == f"tumor-profile:{newer}"
    assert list(cwd.glob("tumor-decisions.db"))


@pytest.mark.timeout(300)
def test_a_bento_keeps_the_profile_it_was_built_with(store: Path, tmp_path: Path) -> None:
    """A newer profile in the same store does not change a bento that was built before it."""
    home = tmp_path / "home"
    shutil.copytree(store, home)
    pinned = newest(home, "tumor-profile")
    bentoml(home, "build", "-f", "services/tumor/bentofile.yaml", ".")
    env = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
    subprocess.run([sys.executable, "-m", "services.tumor.train"], cwd=ROOT, env=env, check=True, capture_output=True)
    assert newest(home, "tumor-profile") != pinned
    with BentoServer(
        "tumor:latest", home=home, cwd=tmp_path, env={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}
    ) as server:
        assert server.get("/guardrails/status")["profile"]["tag"] == f"tumor-profile:{pinned}"
        answer = httpx.post(f"{server.url}/diagnose", json={"cases": edge_cases()[0]}, timeout=30)
        assert answer.headers["Guardrails-Route"] == "fallback:refer_to_doctor"


def newest(home: Path, name: str) -> str:
    """The version that ``:latest`` means."""
    return (home / "models" / name / "latest").read_text().strip()
