"""Records and feedback against odd content, broken stores, shutdown and fork: written, or lost and counted, once."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random

import pytest

from guardrails.decisions import Decision, DecisionLog, Reward, feedback, open_log
from guardrails.decisions.outcomes import deliver, parse_feedback
from guardrails.decisions.sinks import Sinks
from guardrails.decisions.stores.store import DecisionStore
from guardrails.errors import DecisionStoreError
from guardrails.serving import feedback as endpoint
from guardrails.serving import page

ID = "0" * 32
DEADLINE = 10.0


class NoText:
    """What cannot be written: it raises what nobody expects."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Failing:
    """A store that takes decisions and fails for rewards, or for all."""

    url = "fake://"

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds

    def create(self) -> None:
        """Nothing to make."""

    def write(self, kind: str, rows: list) -> int:
        """Take them, or fail as a store does that is gone."""
        if kind in self.kinds:
            raise OSError("gone")
        return len(rows)

    def knows(self, _decision_id: str) -> None:
        """Nobody can tell."""

    def close(self) -> None:
        """Nothing to give back."""


ODD = [
    {"features": "a\x00b"},
    {"features": {"x": "a\x00b\ud800"}},
    {"features": {"x": NoText()}},
    {"features": {("no", "key"): 1}},
    {"model": "m\x00"},
    {"reason": "\ud800"},
    {"outlier_score": float("nan")},
    {"outlier_score": float("inf")},
    {"propensity": None},
    {"action": 2**70},
    {"scores": [float("nan"), float("inf")]},
    {"actions": ["a\x00b", NoText()]},
    {"policy": "p" * 10**6},
]


def test_no_record_stops_the_others(url):
    """Whatever a record holds, it is written or lost and counted, and all that come after it are written."""
    log = DecisionLog(DecisionStore(url))
    for number, fields in enumerate(ODD):
        known = {"decision_id": f"{number:032x}", "ts": 1.0, "api": "a", "route": "p"}
        log(Decision(**{**known, **fields}))
        log(Decision(f"{1000 + number:032x}", 1.0, "a", "p"))
    assert log.flush(DEADLINE), log.last_error
    there = {row["decision_id"] for row in log.store.read()}
    assert {f"{1000 + number:032x}" for number in range(len(ODD))} <= there
    assert log.written == len(there)
    assert log.written + log.dropped == 2 * len(ODD)
    log.close()


def test_a_lost_records_content_is_not_logged(tmp_path, caplog):
    """What a client sent does not turn up in the service's log because the store refused it."""
    log = DecisionLog(DecisionStore(f"sqlite:///{tmp_path}/d.db"))
    with caplog.at_level(logging.WARNING, "guardrails"):
        log(Decision(ID, 1.0, "a", "p", features={"name": "a client's secret"}, propensity=None))
        assert log.flush(DEADLINE)
    log.close()
    assert log.dropped == 1
    assert caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("kinds", [("reward",), ("decision", "reward")])
@pytest.mark.parametrize("odd", [0, 1])
def test_what_was_taken_is_written_or_dropped_at_shutdown(kinds, odd):
    """Of a store that fails half of the time or always, the counts add up to what was taken."""
    log = DecisionLog(Failing(kinds))
    for number in range(30):
        log(Decision(f"{number:032x}", 1.0, "a", "p", features={("no", "key"): 1} if number < odd else None))
    for number in range(20):
        log(Reward(f"{number:032x}", 1.0, 1.0))
    log.close(2.0)
    assert log.written == (30 - odd if "decision" not in kinds else 0)
    assert log.written + log.dropped == 50
    assert log(Decision("f" * 32, 1.0, "a", "p")) is False
    assert log.written + log.dropped == 51


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_writes_its_records(tmp_path):
    """A child has a log of its own: its records are written, its parent's are not written twice."""
    url = f"sqlite:///{tmp_path}/d.db"
    log = open_log(url)
    log(Decision("a" * 32, 1.0, "a", "p"))
    assert log.flush(DEADLINE)
    child = os.fork()
    if child == 0:
        taken = open_log(url)(Decision("b" * 32, 2.0, "a", "p")) and log(Decision("c" * 32, 3.0, "a", "p"))
        os._exit(0 if taken and open_log(url).flush(DEADLINE) and log.flush(DEADLINE) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log(Decision("d" * 32, 4.0, "a", "p"))
    assert log.flush(DEADLINE)
    assert [row["decision_id"][0] for row in log.store.read()] == ["a", "b", "c", "d"]
    log.close()


def test_a_sink_that_fails_costs_the_others_nothing(tmp_path):
    """A callable that raises and a store that is gone: the store that works has every record, once."""
    url = f"sqlite:///{tmp_path}/d.db"
    good, gone = DecisionLog(DecisionStore(url)), DecisionLog(Failing(("decision", "reward")))

    def raises(_record: object) -> None:
        raise RuntimeError("somebody's sink")

    both = Sinks([raises, gone, good])
    good.store.create()
    for number in range(20):
        both(Decision(f"{number:032x}", 1.0, "a", "p"))
    statuses = [deliver(both, [parse_feedback({"decision_id": ID, "reward": 1})])[0] for _ in range(3)]
    assert good.flush(DEADLINE)
    both.close(1.0)
    assert len(good.store.read()) == 20
    assert sorted(statuses)[:2] == ["duplicate", "duplicate"]
    assert len(good.store.read("reward")) == 1
    assert gone.written + gone.dropped == 21


VALUES = [None, True, False, 0, -1, 1e308, 10**400, 2**31, "", "x", "\ud800", "\x00", [], [1], {}, {"a": "\ud800"}]
VALUES += [[[[1]]], 1.5, ID, f"{ID}/1", f"{ID}\n", "é" * 128, "'; drop table rewards; --", [True], [10**30], ["x"]]
NAMES = ["decision_id", "label", "reward", "served_action", "name", "slot", "shown", "feedback_id", "\ud800"]


def test_feedback_of_any_content_is_taken_once_or_refused(url):
    """All that JSON can say is stored the first time, a duplicate the second, or refused with a sentence; never a 5xx."""
    log, draw, taken = DecisionLog(DecisionStore(url)), random.Random(0), set()
    log.store.create()
    for _ in range(150):
        given = {name: draw.choice(VALUES) for name in draw.sample(NAMES, draw.randint(1, 4))}
        if draw.random() < 0.8:
            given |= {"decision_id": ID, "reward": draw.choice([0, 1, -1e9])}
        body = json.dumps(given).encode()
        replies = [asyncio.run(endpoint.answer(log, body, {})) for _ in range(2)]
        statuses = [status for status, _ in replies]
        json.dumps(replies).encode()
        assert statuses in ([400, 400], [202, 200], [200, 200])
        taken.add(statuses[0])
    assert taken == {400, 202, 200}
    rows = log.store.read("reward")
    assert len({(row["decision_id"], row["feedback_id"]) for row in rows}) == len(rows)
    log.close()


DEEP = b'{"decision_id": "' + b"0" * 32 + b'", "label": ' + b"[" * 20000 + b"]" * 20000 + b"}"
BODIES = [b"", b"\xff\xfe", b"\x00", b"[1]*", b"9" * 5000, b"NaN", b"null", b"[null]", b'{"feedback": 5}', DEEP]
BODIES += [b"[" * 60000, b'"\\ud800"', b"{}" * 9]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("key", [None, b'"\xff"', b'""', b"a" * 300, b"a\x00b"])
def test_no_body_and_no_header_is_a_server_error(tmp_path, body, key):
    """Bodies that are no JSON, or deeper than anybody can read, are the client's error."""
    log = DecisionLog(DecisionStore(f"sqlite:///{tmp_path}/d.db"))
    headers = {} if key is None else {b"idempotency-key": key}
    status, told = asyncio.run(endpoint.answer(log, body, headers))
    log.close()
    assert status in (400, 413)
    json.dumps(told).encode()


def test_a_reward_beyond_all_bounds_is_refused():
    """One feedback of 1e308 would leave no estimate finite."""
    with pytest.raises(ValueError, match="reward"):
        parse_feedback({"decision_id": ID, "reward": 1e308})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db?user=u&password=topsecret",
        "postgresql://u:topsecret@host/db",
        "postgresql://u:topsecret@host:port/db",
        "u:topsecret@host",
        "postgresql:/u:topsecret@host/db",
        "mysql://u:topsecret@host/db",
    ],
)
def test_a_password_is_shown_nowhere(url):
    """Neither as a store's name nor in what is wrong with it, however the URL is written."""
    try:
        shown = DecisionStore(url).url
    except DecisionStoreError as error:
        shown = str(error)
    assert "topsecret" not in shown


@pytest.mark.parametrize("gain", [None, {"value": 1.0, "low": None, "high": None, "meaning": "<b>wide</b>"}])
def test_the_page_stands_whatever_the_loop_says(gain):
    """Ends that no number tells, errors and names of a client's are shown, and nothing of them is markup."""
    odd = "<script>alert(1)</script>"
    figures = dict.fromkeys(("coverage", "gini", "entropy", "top_share"))
    known = {"gain": gain, "no_gain": odd, "greedy": figures, "shown": figures, "decisions": 3}
    status = {"service": odd, "ready": False, "problem": odd, "profile": None, "decisions": {"store": odd, odd: odd}}
    status |= {"guards": {odd: [odd], "b": []}, "state": {odd: {odd: odd}}, "drift": []}
    shown = page.render(status, {"computed": odd, "apis": {odd: known, "b": {"error": odd}}, "detail": odd})
    assert "<script" not in shown
    assert "<b>wide" not in shown
    assert shown.count("&lt;script&gt;") >= 9


def test_feedback_from_python_is_idempotent_without_a_service(url):
    """The same words twice are one, other words another, whoever opened the store."""
    told = [feedback(ID, reward=value, decisions=url) for value in (1.0, 1.0, 0.0)]
    assert told == ["kept", "duplicate", "kept"]
