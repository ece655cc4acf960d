"""Bad, odd and edge-case requests to the real bento: a clear 4xx or a defined verdict, never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from guardrails.testing import BentoServer
from services.songs.train import listeners
from services.tumor.train import held_out
from tests.served.test_traces import edge_cases, ordinary_cases

JSON = {"content-type": "application/json"}
CASE = held_out()[0][0].tolist()


def with_value(text: str) -> str:
    """A body in which one measurement is some raw JSON text."""
    return '{"cases": [[' + ", ".join([text, *map(repr, CASE[1:])]) + "]]}"


MALFORMED = {
    "missing field": "{}",
    "null": '{"cases": null}',
    "wrong type": '{"cases": "text"}',
    "text in a row": with_value('"text"'),
    "object in a row": with_value('{"a": 1}'),
    "wrong width": '{"cases": [[1.0, 2.0]]}',
    "ragged": '{"cases": [[1.0], [1.0, 2.0]]}',
    "no rows": '{"cases": []}',
    "empty row": '{"cases": [[]]}',
    "not JSON": "cases=1",
    "empty body": "",
    "a list": "[1, 2, 3]",
    "too deep": '{"cases": [[[[1.0]]]]}',
}
ODD = {
    "NaN": with_value("NaN"),
    "null value": with_value("null"),
    "infinity": with_value("Infinity"),
    "minus infinity": with_value("-Infinity"),
    "1e308": with_value("1e308"),
    "overflow": with_value("1e999"),
    "integer of 400 digits": with_value("1" + "0" * 400),
    "subnormal": with_value("5e-324"),
}


@pytest.fixture(scope="module")
def tumor(request: pytest.FixtureRequest, store, tmp_path_factory) -> Iterator[BentoServer]:
    """The tumor service, one for the module."""
    yield from module_server("services.tumor.service:Tumor", store, tmp_path_factory)


@pytest.fixture(scope="module")
def bare(request: pytest.FixtureRequest, store, tmp_path_factory) -> Iterator[BentoServer]:
    """The same service without guards."""
    yield from module_server("tests.served.bare:Bare", store, tmp_path_factory)


def module_server(target: str, store, tmp_path_factory) -> Iterator[BentoServer]:
    """A server that several tests share."""
    import shutil

    from tests.served.conftest import ROOT

    home = tmp_path_factory.mktemp("home") / "bentoml"
    shutil.copytree(store, home)
    env = {"PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}
    with BentoServer(target, home=home, cwd=tmp_path_factory.mktemp("cwd"), env=env) as server:
        yield server


def post(server: BentoServer, body: str, api: str = "diagnose") -> httpx.Response:
    """Send a raw body."""
    return httpx.post(f"{server.url}/{api}", content=body, headers=JSON, timeout=30)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies_get_a_4xx_that_says_what_is_wrong(tumor: BentoServer, name: str) -> None:
    """400 from BentoML or 422 from a guard, with a sentence for the client."""
    answer = post(tumor, MALFORMED[name])
    assert answer.status_code in (400, 422), answer.text
    said = answer.json()
    assert said["error"]
    if answer.status_code == 422:
        assert said["reason"] == answer.headers["Guardrails-Reason"] == "invalid"
        assert said["decision_id"] == answer.headers["Guardrails-Decision-Id"]
        assert answer.headers["Guardrails-Route"] == "rejected"
        assert {"rule", "expected", "found"} <= set(said["details"][0])


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies_of_a_batched_api_do_no_harm(tumor: BentoServer, name: str) -> None:
    """In a batchable API one client's rubbish is refused before it can meet the others' rows."""
    assert post(tumor, MALFORMED[name], "screen").status_code == 400


@pytest.mark.parametrize("name", ODD)
def test_odd_numbers_have_a_defined_verdict(tumor: BentoServer, name: str) -> None:
    """A value training never saw is refused by name, or answered by the fallback; never a 5xx."""
    answer = post(tumor, ODD[name])
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code == 422:
        assert answer.json()["details"][0]["field"] == "mean_radius"
    elif answer.status_code == 200:
        assert name == "subnormal"


@pytest.mark.parametrize("name", ["NaN", "infinity", "1e308", "overflow", "subnormal"])
def test_odd_numbers_in_a_batch_go_to_the_fallback(tumor: BentoServer, name: str) -> None:
    """The batched API answers -1 (ask a doctor) for the odd row and the model's answer for the others."""
    body = ODD[name][:-2] + ", " + json.dumps(CASE) + "]}"
    answer = post(tumor, body, "screen")
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        odd, ordinary = answer.json()
        assert (odd == -1.0) == (name != "subnormal")
        assert 0 <= ordinary <= 1


def test_very_long_inputs_are_answered_row_by_row(tumor: BentoServer) -> None:
    """20,000 rows in one request: as many answers."""
    cases = np.tile(held_out()[0], (106, 1))[:20_000]
    answer = post(tumor, json.dumps({"cases": cases.tolist()}))
    assert answer.status_code == 200
    assert len(answer.json()) == 20_000
    assert answer.headers["Guardrails-Route"] == "mixed"


def test_edge_cases_are_answered_by_the_fallback(tumor: BentoServer) -> None:
    """Route, reason and answer of an outlier."""
    for case in edge_cases():
        answer = post(tumor, json.dumps({"cases": case}))
        assert answer.status_code == 200
        assert answer.json() == [{"label": "refer to a doctor", "probability": None}]
        assert answer.headers["Guardrails-Route"] == "fallback:refer_to_doctor"
        assert answer.headers["Guardrails-Reason"] == "outlier"


def test_ordinary_requests_are_answered_as_without_guards(tumor: BentoServer, bare: BentoServer) -> None:
    """Byte for byte the undecorated service's answer, on the primary route; alpha of them go elsewhere."""
    elsewhere = 0
    for case in ordinary_cases()[:150]:
        body = json.dumps({"cases": case})
        guarded, plain = post(tumor, body), post(bare, body)
        if guarded.headers["Guardrails-Route"] == "primary":
            assert guarded.content == plain.content
            assert "Guardrails-Reason" not in guarded.headers
        else:
            elsewhere += 1
    assert elsewhere <= 22  # alpha = .05 of 150 is 7.5; P(more than 22) < 1e-5


def test_nothing_legal_became_illegal(tumor: BentoServer, bare: BentoServer) -> None:
    """What the undecorated service answers with 200 is not answered with a 4xx for its form."""
    X, _ = held_out()
    legal = [X[:1].tolist(), X[:50].tolist(), X[0].tolist(), np.round(X[:1]).astype(int).tolist()]
    for cases in legal:
        body = json.dumps({"cases": cases})
        assert post(bare, body).status_code == 200
        assert post(tumor, body).status_code == 200
    for name, body in MALFORMED.items():
        if post(bare, body).status_code == 200:
            pytest.fail(f"{name}: the undecorated service answers it")


def test_schema_and_openapi_are_those_of_the_undecorated_service(tumor: BentoServer, bare: BentoServer) -> None:
    """Guards and install leave the documents clients are made from as they were; OpenAPI names the refusal besides."""
    mine, theirs = tumor.get("/schema.json"), bare.get("/schema.json")
    assert mine["routes"] == theirs["routes"]
    assert mine["paths"] == theirs["paths"]
    mine, theirs = tumor.get("/docs.json"), bare.get("/docs.json")
    assert set(mine["paths"]) == set(theirs["paths"])
    for path in ("/diagnose", "/screen"):
        for key in ("requestBody", "responses", "x-bentoml-name", "consumes", "produces"):
            said = mine["paths"][path]["post"].get(key)
            if key == "responses":
                assert said.pop("422")["description"] == "Refused by a guard"
            assert said == theirs["paths"][path]["post"].get(key)


def test_songs_explore_primary_answers_only(serve: Callable[..., BentoServer]) -> None:
    """Explored answers' argmax is the logged action; outliers get the charts and are never explored."""
    import sqlite3

    server = serve("services.songs.service:Songs")
    ordinary, strange = listeners(300, seed=5), listeners(20, seed=6)
    strange[:, 0] = 7.0
    strange[:, 1] = -7.0
    answered: dict[str, np.ndarray] = {}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for row in [*ordinary, *strange]:
            answer = client.post("/recommend", json={"listener": [row.tolist()]})
            assert answer.status_code == 200, answer.text
            answered[answer.headers["Guardrails-Decision-Id"]] = np.array(answer.json())[0]
        song = client.post("/next_song", json={"listener": ordinary[0].tolist()})
        assert int(np.argmax(song.json()["scores"])) == song.json()["action"]
    server.stop()
    database = sqlite3.connect(server.cwd / "songs-decisions.db")
    columns = "decision_id, route, policy, eligible, greedy, action, propensity, pmf, features"
    rows = database.execute(f"select {columns} from decisions where api = 'recommend'").fetchall()
    assert len(rows) == len({row[0] for row in rows}) == 320
    explored = 0
    for identity, route, policy, eligible, greedy, action, propensity, pmf, features in rows:
        assert len(json.loads(features)) == 10
        if route == "primary":
            assert policy == "EpsilonGreedy(epsilon=0.1)"
            assert propensity == pytest.approx(0.1 / 20 + 0.9 * (action == greedy))
            assert json.loads(pmf)[action] == propensity
            assert int(answered[identity].argmax()) == action
            explored += action != greedy
        else:
            assert (eligible, policy, propensity) == (0, None, 1.0)
    assert 8 <= explored <= 60  # 10 % of about 290, less the draws of the greedy action; six sigma on either side
