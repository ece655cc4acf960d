"""Images through the real bento: one request, many clients at once, and a stream that its client may leave."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from guardrails.testing import BentoServer, OtlpReceiver
from services.digits import edge_cases, train
from tests.served.test_bento import bentoml, python_without_the_library
from tests.served.test_edges import module_server

DIGITS = "services.digits.service:Digits"
IMAGES, LABELS = train.held_out()
UNREADABLE = {"label": -1, "confidence": 0.0, "scores": [0.0] * 10}
LEAST_SHARE = {
    "askew by 45 degrees": 0.97,
    "askew by 90 degrees": 0.99,
    "upside down": 0.22,  # 0, 1 and 8 are digits still, 6 and 9 each other
    "a little noisy": 0.97,
    "noisy": 0.98,
    "inverted": 1.0,
    "checkered": 1.0,
    "foreign": 0.99,
}
"""Share of each kind that goes to a person: what was measured (.995, 1, .28, .995, 1, 1, 1, 1), less a little."""


@pytest.fixture(scope="module")
def digits(store, tmp_path_factory) -> Iterator[BentoServer]:
    """The digits service, one for the module."""
    yield from module_server(DIGITS, store, tmp_path_factory)


def read(server: BentoServer, images, api: str = "read") -> list[dict]:
    """The readings of images sent in one request."""
    answer = httpx.post(f"{server.url}/{api}", json={"images": np.asarray(images).tolist()}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def labels(readings: list[dict]) -> np.ndarray:
    """What the images were read as."""
    return np.array([reading["label"] for reading in readings])


def test_ordinary_digits_are_read_by_the_network(digits: BentoServer) -> None:
    """Each a request of its own: all but about alpha are the network's own answers, and nearly all of them right."""
    expected = train.network().predict_proba(IMAGES.reshape(-1, 64) / 16)
    right = elsewhere = 0
    with httpx.Client(base_url=digits.url, timeout=30) as client:
        for image, label, scores in zip(IMAGES, LABELS, expected, strict=True):
            answer = client.post("/read", json={"images": [image.tolist()]})
            assert answer.status_code == 200, answer.text
            (reading,) = answer.json()
            if answer.headers["Guardrails-Route"] == "primary":
                assert "Guardrails-Reason" not in answer.headers
                np.testing.assert_allclose(reading["scores"], scores, rtol=1e-6, atol=1e-9)
                assert (reading["label"], reading["confidence"]) == (scores.argmax(), max(reading["scores"]))
                right += reading["label"] == label
            else:
                assert answer.headers["Guardrails-Route"] == "fallback:unreadable"
                assert answer.headers["Guardrails-Reason"] == "outlier"
                assert reading == UNREADABLE
                elsewhere += 1
    assert elsewhere <= 25  # alpha = .02 of 397 is 8; four deviations of it, calibrated on 300 images, are 17
    assert right >= 0.95 * (len(IMAGES) - elsewhere)


@pytest.mark.parametrize("kind", LEAST_SHARE)
def test_edge_cases_go_to_a_person(digits: BentoServer, kind: str) -> None:
    """At least the stated share of each kind, out of one request for all of them: each row goes its own way."""
    readings = read(digits, edge_cases.every_kind(IMAGES)[kind])
    away = labels(readings) == -1
    assert away.mean() >= LEAST_SHARE[kind]
    assert all(reading == UNREADABLE for reading, unread in zip(readings, away, strict=True) if unread)


def test_one_odd_image_among_others(digits: BentoServer) -> None:
    """The others are read as without it, in their order; the route is mixed."""
    few = IMAGES[:6]
    plain = read(digits, few)
    body = {"images": np.insert(few, 2, edge_cases.inverted(few)[0], axis=0).tolist()}
    answer = httpx.post(f"{digits.url}/read", json=body, timeout=30)
    assert answer.headers["Guardrails-Route"] == "mixed"
    assert answer.headers["Guardrails-Reason"] == "outlier"
    readings = answer.json()
    assert readings.pop(2) == UNREADABLE
    assert_same(readings, plain)


def with_dot(text: str) -> str:
    """A list of one image, as JSON, in which one dot is some raw text."""
    image = IMAGES[0].tolist()
    image[3][4] = "dot"
    return json.dumps([image]).replace('"dot"', text)


BAD_FORM = {
    "no image": "[]",
    "an empty image": "[[]]",
    "null": "null",
    "text": '"seven"',
    "seven lines": json.dumps([IMAGES[0][:7].tolist()]),
    "seven dots": json.dumps([IMAGES[0][:, :7].tolist()]),
    "4 x 16": json.dumps([IMAGES[0].reshape(4, 16).tolist()]),
    "64 dots in one line": json.dumps([IMAGES[0].ravel().tolist()]),
    "one image without brackets": json.dumps(IMAGES[0].tolist()),
    "colours": json.dumps([np.repeat(IMAGES[0][..., None], 3, axis=2).tolist()]),
    "ragged": json.dumps([[*IMAGES[0][:7].tolist(), [1.0, 2.0]]]),
    "a word": with_dot('"ink"'),
    "a number as text": with_dot('"7"'),
    "a missing dot": with_dot("null"),
    "an object": with_dot("{}"),
    "true": with_dot("true"),
}
BAD_VALUE = {
    "NaN": with_dot("NaN"),
    "darker than ink": with_dot("17"),
    "of another scale": json.dumps((IMAGES[:1] * 17).tolist()),
    "below paper": with_dot("-0.001"),
    "infinite": with_dot("Infinity"),
    "overflowing": with_dot("1e999"),
    "of 400 digits": with_dot("1" + "0" * 400),
}


@pytest.mark.parametrize("name", BAD_FORM)
def test_what_is_no_image_is_refused(digits: BentoServer, name: str) -> None:
    """Of all three APIs a 400 that says where; in the batch it never meets the images of others."""
    bad = BAD_FORM[name]
    for api, body in {"read": f'{{"images": {bad}}}', "classify": f'{{"images": {bad}}}'}.items():
        answer = post(digits, api, body)
        assert answer.status_code == 400, (api, answer.text)
        assert answer.json()["error"]
        assert {"loc", "msg"} <= set(answer.json()["detail"][0])
    if name != "one image without brackets":
        assert post(digits, "narrate", f'{{"image": {bad}}}').status_code == 400


@pytest.mark.parametrize("name", BAD_VALUE)
def test_values_that_no_scanner_sends_are_refused_by_name(digits: BentoServer, name: str) -> None:
    """A 422 with the pixel, the rule and the row; in the batch, where it would fail the others, the label -1."""
    bad, good = BAD_VALUE[name][1:-1], json.dumps(IMAGES[0].tolist())
    for api, body in {"read": f'{{"images": [{good}, {bad}]}}', "narrate": f'{{"image": {bad}}}'}.items():
        answer = post(digits, api, body)
        assert answer.status_code == 422, (api, answer.text)
        said = answer.json()
        assert said["reason"] == answer.headers["Guardrails-Reason"] == "invalid"
        assert re.fullmatch(r"Invalid input: in .*field 'line_\d_dot_\d'.* expected, .* found.*\.", said["error"])
        assert said["details"][0].get("row") == (1 if api == "read" else None)
    batched = post(digits, "classify", f'{{"images": [{good}, {bad}]}}')
    assert batched.status_code == 200, batched.text
    assert_same(batched.json()[:1], read(digits, IMAGES[:1]))
    assert batched.json()[1] == UNREADABLE


@pytest.mark.parametrize("api", ["read", "classify", "narrate"])
@pytest.mark.parametrize("body", ["", "{}", "[1]", "images=1"])
def test_what_is_no_request_is_refused(digits: BentoServer, api: str, body: str) -> None:
    """A 400 with a sentence."""
    answer = post(digits, api, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize("api", ["read", "classify"])
def test_many_clients_at_once_get_their_own_answers(digits: BentoServer, api: str) -> None:
    """Sixteen clients, a quarter of them with odd images only: everybody is answered as if alone, batch or not."""
    alone = read(digits, IMAGES[:240])
    odd = edge_cases.inverted(IMAGES)
    before = batches(digits)

    def client(number: int) -> None:
        with httpx.Client(base_url=digits.url, timeout=60) as http:
            for turn in range(5):
                size = 1 + (number + turn) % 3
                first = 15 * number + 3 * turn
                images = (odd if number % 4 == 0 else IMAGES)[first : first + size]
                answer = http.post(f"/{api}", json={"images": images.tolist()})
                assert answer.status_code == 200, answer.text
                if number % 4 == 0:
                    assert answer.json() == [UNREADABLE] * size
                else:
                    assert_same(answer.json(), alone[first : first + size])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    calls, requests = (now - then for now, then in zip(batches(digits), before, strict=True))
    if api == "classify":
        assert requests == 16 * 5
        assert 0 < calls < requests
    else:
        assert requests == 0


def batches(server: BentoServer) -> tuple[float, float]:
    """How many batches BentoML has made so far, over all workers, and of how many requests."""
    lines = re.findall(
        r"^bentoml_service_adaptive_batch_size_(count|sum){.*} (\S+)$", server.get("/metrics"), re.MULTILINE
    )
    calls, requests = (sum(float(value) for kind, value in lines if kind == wanted) for wanted in ("count", "sum"))
    return calls, requests


def test_a_story_comes_line_by_line(digits: BentoServer) -> None:
    """Eight lines for eight lines of dots; the last one says what `read` says."""
    image = IMAGES[ordinary(digits)[0]]
    answer = httpx.post(f"{digits.url}/narrate", json={"image": image.tolist()}, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Guardrails-Route"] == "primary"
    lines = answer.text.splitlines()
    assert len(lines) == 8
    (reading,) = read(digits, [image])
    assert lines[-1].endswith(f"{reading['label']}, {reading['confidence']:.0%} sure")


def test_an_odd_image_has_no_story(digits: BentoServer) -> None:
    """The fallback answers before the first line."""
    image = edge_cases.checkered(1)[0]
    answer = httpx.post(f"{digits.url}/narrate", json={"image": image.tolist()}, timeout=30)
    assert answer.headers["Guardrails-Route"] == "fallback:say_nothing"
    assert answer.headers["Guardrails-Reason"] == "outlier"
    assert answer.text == "no digit that I know: a person should look\n"


def test_a_client_may_leave_a_story(serve: Callable[..., BentoServer]) -> None:
    """The first line is there before the last one is made; whoever leaves stops the story, and nobody minds."""
    with OtlpReceiver() as receiver:
        server = serve(DIGITS, sample_rate=1.0, endpoint=receiver.endpoint)
        image = IMAGES[ordinary(server)[0]].tolist()
        for _ in range(3):
            with httpx.stream("POST", f"{server.url}/narrate", json={"image": image, "pace": 1.0}, timeout=30) as story:
                assert story.status_code == 200
                assert " sure" in next(story.iter_lines())
        assert len(read(server, [image])) == 1
        deadline = time.monotonic() + 30
        told: list = []
        while len(told) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            told = [span for span in receiver.spans if span.name == "guardrails narrate"]
        server.stop()
        assert "Traceback" not in server.text()
    assert len(told) == 3
    for span in told:
        assert span.attributes["guardrails.cancelled"] is True
        assert 1 <= span.attributes["guardrails.stream.items"] < 8
        assert span.attributes["guardrails.route"] == "primary"


def test_drift_knows_digits_from_digits_askew(serve: Callable[..., BentoServer]) -> None:
    """Held-out digits are no drift, in pixels, predictions or confidence; the same ones askew are."""
    server = serve(DIGITS)
    before = drift_after(server, IMAGES)
    assert (before["rows"], before["verdict"]) == (len(IMAGES), "no drift seen")
    assert {"__prediction__", "__confidence__"} <= {entry["feature"] for entry in before["features"]}
    after = drift_after(server, edge_cases.rotated(IMAGES, 45))
    assert (after["rows"], after["verdict"]) == (2 * len(IMAGES), "drift")
    assert all(re.fullmatch(r"line_\d_dot_\d", name) for name in after["drifted"][:3])


@pytest.mark.timeout(300)
def test_the_bento_reads_digits_elsewhere(store: Path, tmp_path: Path, digits: BentoServer) -> None:
    """Built from its bentofile, it carries all it needs: the same answers where this checkout is not."""
    home, cwd = tmp_path / "home", tmp_path / "elsewhere"
    shutil.copytree(store, home)
    cwd.mkdir()
    bentoml(home, "build", "-f", "services/digits/bentofile.yaml", ".")
    python = python_without_the_library(tmp_path / "other")
    env = {
        "PYTHONPATH": None,
        "VIRTUAL_ENV": None,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
    }
    images = np.concatenate([IMAGES[:20], edge_cases.inverted(IMAGES[:5])])
    with BentoServer("digits:latest", home=home, cwd=cwd, env=env, python=python) as there:
        for api in ("read", "classify"):
            assert_same(read(there, images, api), read(digits, images, api))


def drift_after(server: BentoServer, images: np.ndarray) -> dict:
    """The service's verdict once these images have been read, each in a request of its own."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for image in images:
            assert client.post("/read", json={"images": [image.tolist()]}).status_code == 200
        time.sleep(1.5)  # the other worker's flusher publishes every half second
        (drift,) = client.get("/guardrails/status").json()["drift"]
    return drift


def ordinary(server: BentoServer) -> np.ndarray:
    """Which of the first images the service finds ordinary."""
    return np.flatnonzero(labels(read(server, IMAGES[:20])) >= 0)


def post(server: BentoServer, api: str, body: str) -> httpx.Response:
    """Send a raw body."""
    return httpx.post(f"{server.url}/{api}", content=body, headers={"content-type": "application/json"}, timeout=30)


def assert_same(readings: list[dict], others: list[dict]) -> None:
    """Equal but for the last bits of the scores, which depend on how many images are multiplied at once."""
    assert list(labels(readings)) == list(labels(others))
    for one, other in zip(readings, others, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], rtol=1e-9, atol=1e-12)
