"""An explored bento under load: what is stored is what was served, with the frequencies that it states."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats

import guardrails as gr
from guardrails.decisions.stores.store import DecisionStore
from guardrails.testing import BentoServer
from tests.served.explored import EPSILON, TOKEN

Serve = Callable[..., BentoServer]
SERVICE = "tests.served.explored:Explored"
KEY = b"a secret of 24 bytes ok."
REQUESTS, CLIENTS = 20_000, 8
ALPHA = 1e-4
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def explored(serve: Serve, tmp_path: Path) -> Callable[[], BentoServer]:
    """Start the service on one store, as often as asked."""
    env = {"EXPLORED_DECISIONS": f"sqlite:///{tmp_path}/d.db", "GUARDRAILS_EXPLORATION_KEY": KEY.decode()}
    return lambda: serve(SERVICE, env=env)


def ask(server: BentoServer, rows: np.ndarray) -> list[tuple[str, str, int]]:
    """Decision id, route and the argmax of the answer, for each of these rows, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=30)
    answers = []
    for row in rows:
        body = json.dumps({"rows": [row.tolist()]})
        connection.request("POST", "/choose", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        scores = json.loads(response.read())
        assert response.status == 200
        headers = response.headers
        answers.append((headers["Guardrails-Decision-Id"], headers["Guardrails-Route"], int(np.argmax(scores))))
    connection.close()
    return answers


def load(server: BentoServer, rows: np.ndarray) -> list[tuple[str, str, int]]:
    """The same from several clients at once."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return [one for part in pool.map(lambda own: ask(server, own), np.array_split(rows, CLIENTS)) for one in part]


def stored(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The decisions, by id; there is one of each."""
    rows = DecisionStore(f"sqlite:///{tmp_path}/d.db").read()
    by_id = {row["decision_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def test_20_000_explored_requests(explored: Callable[[], BentoServer], tmp_path: Path) -> None:
    """Two workers, a SIGTERM and a restart half way: every response is in the store once, as it was served; outliers
    have probability one; over all, the actions have the frequencies that the records state, and every draw replays.
    """
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(REQUESTS, 3))
    odd = np.arange(REQUESTS) % 40 == 0
    rows[odd] = 40.0
    answers = []
    for half in np.array_split(rows, 2):
        server = explored()
        answers += load(server, half)
        server.stop()  # SIGTERM, right behind the last answer
    decisions = stored(tmp_path)
    assert set(decisions) == {identity for identity, _, _ in answers}
    assert len(answers) == REQUESTS
    drawn = []
    for identity, route, argmax in answers:
        decision = decisions[identity]
        assert decision["route"] == route
        if route == "primary":
            assert decision["action"] == argmax
            drawn.append(decision)
        else:
            outlier = (decision["eligible"], decision["propensity"], decision["policy"], decision["reason"])
            assert outlier == (False, 1.0, None, "outlier")
    routes = Counter(route for _, route, _ in answers)
    assert routes["fallback:nothing"] >= odd.sum()
    assert routes["primary"] > 0.96 * REQUESTS
    assert all(decision["eligible"] for decision in drawn)
    pmf = np.array([json.loads(decision["pmf"]) for decision in drawn])
    action = np.array([decision["action"] for decision in drawn])
    np.testing.assert_allclose(pmf.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(pmf[np.arange(len(action)), action], [d["propensity"] for d in drawn])
    # Each action, among the requests whose model chose each other one: 4 x 4 frequencies against what is stated.
    greedy = np.array([decision["greedy"] for decision in drawn])
    for one in range(4):
        seen = np.bincount(action[greedy == one], minlength=4)
        assert stats.chisquare(seen, pmf[greedy == one].sum(axis=0)).pvalue > ALPHA
    differs = action != greedy
    assert abs(differs.mean() - 0.75 * EPSILON) < 5 * np.sqrt(0.15 * 0.85 / len(drawn))
    assert gr.exploration.replay_all(drawn, KEY).differing == ()
    assert gr.exploration.replay_all(drawn, KEY).replayed == len(drawn)
    assert all(map(gr.exploration.check_probabilities, drawn[::50]))


def test_the_kill_switch_stops_all_workers_within_a_second(explored: Callable[[], BentoServer], tmp_path: Path) -> None:
    """Behind its token; what was decided before keeps its record, what comes after has probability one; and back."""
    server = explored()
    rows = np.random.default_rng(2).normal(size=(600, 3)) * 0.5
    with httpx.Client(base_url=server.url, timeout=30) as client:
        place = "/guardrails/exploration"
        assert client.post(place, json={"action": "stop"}).status_code == 401
        assert client.get(place).status_code == 401
        assert client.post(place, content=b"action=stop", headers=AUTHORISED).status_code == 415
        assert client.post(place, json={"action": "pause"}, headers=AUTHORISED).status_code == 400
        assert [one["off"] for one in client.get(place, headers=AUTHORISED).json()] == [False]
        load(server, rows)
        stopped = client.post(place, json={"action": "stop", "why": "a test"}, headers=AUTHORISED)
        assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
        off_at = time.time()
        until = off_at + 2.5
        while time.time() < until:
            load(server, rows[:80])
        pages = [
            client.get("/guardrails/status", headers={**AUTHORISED, "Connection": "close"}).json() for _ in range(6)
        ]
        assert all(page["state"]["choose"]["explore"]["switched_off"] for page in pages)
        assert client.post(place, json={"action": "start"}, headers=AUTHORISED).json()["status"] == "started"
        on_at = time.time()
        while time.time() < on_at + 2.0:
            load(server, rows[:80])
    server.stop()
    decisions = list(stored(tmp_path).values())
    before = [d for d in decisions if d["ts"] < off_at - 0.05]
    off = [d for d in decisions if off_at + 1.0 < d["ts"] < on_at - 0.05]
    after = [d for d in decisions if d["ts"] > on_at + 1.0]
    assert min(len(before), len(off), len(after)) > 100
    assert {(d["eligible"], d["ineligible"], d["propensity"]) for d in off} == {(False, "switched_off", 1.0)}
    assert all(d["action"] == d["greedy"] for d in off)
    for others in (before, after):
        assert all(d["eligible"] for d in others)
        assert len({d["propensity"] for d in others}) == 2


def test_lists_and_thresholds_are_explored_in_a_bento(explored: Callable[[], BentoServer], tmp_path: Path) -> None:
    """Sticky units: the same on both workers; what was served is what is stored."""
    server = explored()
    lists: dict[str, dict[str, Any]] = {}
    loop: dict[str, Any] = {}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for number in range(120):
            user = {"user": f"user {number % 40}"}
            answer = client.post("/playlist", json=user, headers={"Connection": "close"})
            lists[answer.headers["Guardrails-Decision-Id"]] = {**user, "items": answer.json()["items"]}
        accepted = {}
        for number in range(150):
            body = {"applicant": f"applicant {number}", "score": 0.4}
            answer = client.post("/lend", json=body)
            accepted[answer.headers["Guardrails-Decision-Id"]] = answer.json()["accept"]
        time.sleep(1.0)  # the writer commits every half second
        for _ in range(40):  # each worker works it out by itself
            time.sleep(0.5)
            loop = client.get("/guardrails/loop", headers=AUTHORISED).json()
            page = client.get("/guardrails/", headers=AUTHORISED).text
            if loop["computed"] and "Feedback loop" in page:
                break
    assert loop["apis"]["playlist"]["decisions"] == 120
    assert 0 < loop["apis"]["playlist"]["greedy"]["coverage"] < loop["apis"]["playlist"]["shown"]["coverage"]
    assert "no item was boosted" in page
    server.stop()
    decisions = stored(tmp_path)
    assert set(decisions) == set(lists) | set(accepted)
    by_user: dict[str, set[tuple[str, ...]]] = {}
    for identity, answer in lists.items():
        names, served = (json.loads(decisions[identity][name]) for name in ("actions", "served"))
        assert [names[at] for at in served] == answer["items"][:3]
        by_user.setdefault(answer["user"], set()).add(tuple(answer["items"]))
    assert all(len(seen) <= 2 for seen in by_user.values()), "two only where midnight lies between"
    assert len({one for seen in by_user.values() for one in seen}) > 5
    assert [bool(decisions[one]["action"]) for one in accepted] == list(accepted.values())
    assert abs(np.mean(list(accepted.values())) - 0.5) < 5 * np.sqrt(0.25 / 150)
    done = gr.exploration.replay_all(decisions.values(), KEY)
    assert (done.replayed, done.differing) == (270, ())
