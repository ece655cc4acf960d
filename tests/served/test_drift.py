"""Drift over real workers: counts are exact, drift is found and named, and a leader that is killed is replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import httpx
import numpy as np
import pytest

from guardrails.drift.tables import Table
from guardrails.testing import BentoServer
from tests.served.drifting import FEATURES, PROFILE

Serve = Callable[..., BentoServer]
TARGET = "tests.served.drifting:Drifting"
CONNECTIONS = 16
MOVED = 3


class Load:
    """Requests of one row each over several connections, and who answered them."""

    def __init__(self, server: BentoServer, seed: int) -> None:
        self.url, self.rng = server.url, np.random.default_rng(seed)
        self.answered: Counter[int] = Counter()
        self.failed: list[float] = []
        self.statuses: Counter[int] = Counter()

    def run(self, requests: int, shift: float = 0.0, meanwhile: Callable[[], None] | None = None) -> None:
        """Send; halfway, do something."""
        asyncio.run(self._run(requests, shift, meanwhile))

    async def _run(self, requests: int, shift: float, meanwhile: Callable[[], None] | None) -> None:
        rows = self.rng.normal(size=(requests, FEATURES))
        rows[:, MOVED] += shift
        bodies = iter([json.dumps({"rows": [row]}) for row in rows.round(6).tolist()])
        halfway = requests // 2
        sent = 0

        async def send(session: aiohttp.ClientSession) -> None:
            nonlocal sent
            for body in bodies:
                sent += 1
                if sent == halfway and meanwhile is not None:
                    meanwhile()
                try:
                    async with session.post(f"{self.url}/predict", data=body, headers=JSON) as response:
                        said = await response.json()
                        self.statuses[response.status] += 1
                        self.answered[said["pid"]] += 1
                except (aiohttp.ClientError, OSError):
                    self.failed.append(time.monotonic())

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
            await asyncio.gather(*(send(session) for _ in range(CONNECTIONS)))


JSON = {"Content-Type": "application/json"}


def drift(server: BentoServer) -> dict:
    """What the status says."""
    return server.get("/guardrails/status")["drift"][0]


def counted(server: BentoServer) -> dict[int, int]:
    """Rows in the table of each worker, by its process id."""
    found = {}
    for path in server.cwd.glob("guardrails-*/guardrails_drift_*.table"):
        table = Table(path, PROFILE.bins.counts.shape, create=False)
        found[int(path.stem.split("_")[-2])] = int(table.counts[0].sum())
    return found


def until(true: Callable[[], bool], seconds: float) -> float:
    """How long it took to become true."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it never became true"
        time.sleep(0.02)
    return time.monotonic() - began


def leader_of(server: BentoServer) -> int | None:
    """Who has written the ledger last."""
    from guardrails.drift.ledger import Ledger

    (path,) = server.cwd.glob("guardrails-*/guardrails_drift_*ledger.npz")
    ledger = Ledger.load(path)
    return None if ledger is None else ledger.pid


@pytest.mark.parametrize(
    "requests", [6_000, pytest.param(200_000, marks=[pytest.mark.full, pytest.mark.timeout(2400)])]
)
def test_four_workers_count_exactly_and_survive_their_leader(serve: Serve, requests: int) -> None:
    """Clean traffic, the leader killed -9 in the middle of it, then drift in one feature."""
    server = serve(TARGET, env={"TMPDIR": "."})
    load = Load(server, seed=1)
    load.run(200)
    until(lambda: drift(server)["rows"] == 200 and drift(server)["leader"] is not None, 5)
    assert len(server.workers()) == 4
    leader = drift(server)["leader"]
    assert leader in server.workers()
    took: list[float] = []

    def kill() -> None:
        os.kill(leader, signal.SIGKILL)
        took.append(time.monotonic())

    load.run(requests, meanwhile=kill)
    until(lambda: leader_of(server) != leader, 2.0)
    assert load.failed == [] or max(load.failed) - took[0] < 2.0
    assert len(load.failed) <= CONNECTIONS  # those in flight in the killed worker, at most one a connection
    assert set(load.statuses) == {200}
    time.sleep(1.2)
    exact = counted(server)
    survivors = {pid: rows for pid, rows in load.answered.items() if pid != leader}
    assert {pid: exact[pid] for pid in survivors} == survivors
    lost = load.answered[leader] - exact[leader]
    assert 0 <= lost <= requests / 10  # what the killed one had not counted yet: half a second of its requests
    quiet = drift(server)
    assert (quiet["verdict"], quiet["alarms"]) == ("no drift seen", [])
    assert quiet["rows"] == sum(exact.values())

    load.run(1_500, shift=0.8)
    until(lambda: drift(server)["verdict"] == "drift", 5)
    time.sleep(3.0)  # until all of it is weighed
    assert drift(server)["drifted"][0] == f"x{MOVED}"
    assert "higher" in drift(server)["alarms"][0]["sentence"]
    told = [json.loads(line) for line in (server.cwd / "alarms.jsonl").read_text().splitlines()]
    assert len(told) == 1  # however often it was raised: once an hour
    assert told[0]["features"][0] == f"x{MOVED}"
    assert told[0]["examples"]
    assert_metrics_tell(server, leader)
    assert_it_can_be_answered(server)
    log = Path(server.log).read_text()
    assert "drift from" in log
    assert "Traceback" not in log


def assert_metrics_tell(server: BentoServer, killed: int) -> None:
    """The alarm by feature, and all counts, over the workers; of the killed one not what it had yet to publish."""
    lines = [line.rsplit(" ", 1) for line in server.get("/metrics").splitlines() if not line.startswith("#")]
    active = [name for name, value in lines if name.startswith("guardrails_drift_alarm{") and float(value) == 1]
    assert any(f'feature="x{MOVED}"' in name for name in active)
    counts = [float(v) for name, v in lines if name.startswith("guardrails_feature_bin_total{") and '"x0"' in name]
    exact = counted(server)
    assert sum(exact.values()) - exact[killed] <= sum(counts) <= sum(exact.values())


def assert_it_can_be_answered(server: BentoServer) -> None:
    """Acknowledged, begun anew, in full; and what makes no sense is refused."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert f"x{MOVED} is higher" in client.get("/guardrails/").text
        assert client.post("/guardrails/drift", json={"action": "acknowledge"}).status_code == 202
        until(lambda: drift(server)["verdict"] == "no drift seen", 5)
        (document,) = client.get("/guardrails/drift").json()
        assert document["alarms"][0]["acknowledged"]
        assert {entry["feature"] for entry in document["features"]} == set(PROFILE.bins.names)
        page = client.get("/guardrails/drift/report")
        assert page.headers["content-type"].startswith("text/html")
        assert f"x{MOVED}" in page.text
        assert client.post("/guardrails/drift", json={"action": "explode"}).status_code == 400
        assert client.post("/guardrails/drift", json={"action": "reset", "profile": "nobody"}).status_code == 404
        assert client.post("/guardrails/drift", json={"action": "reset", "baseline": "recent"}).status_code == 202
        until(lambda: (drift(server)["last_command"] or "").startswith("reset"), 5)
