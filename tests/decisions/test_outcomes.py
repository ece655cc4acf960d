"""Feedback: checked by one parser, delivered once however often it is sent, from Python as over HTTP."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guardrails as gr
from guardrails.decisions import Decision, Reward, writer
from guardrails.decisions.outcomes import parse_feedback
from guardrails.errors import DecisionStoreError

ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "JSON object"),
        ({}, "decision_id"),
        ({"decision_id": 1, "reward": 1}, "decision_id"),
        ({"decision_id": ID.upper(), "reward": 1}, "decision_id"),
        ({"decision_id": ID + "/x", "reward": 1}, "decision_id"),
        ({"decision_id": ID}, "Give a label, a reward"),
        ({"decision_id": ID, "shown": False}, "Give a label, a reward"),
        ({"decision_id": ID, "served_action": 1}, "Give a label, a reward"),
        ({"decision_id": ID, "shown": 1}, "shown is true"),
        ({"decision_id": ID, "reward": math.nan}, "finite"),
        ({"decision_id": ID, "reward": math.inf}, "finite"),
        ({"decision_id": ID, "reward": True}, "finite"),
        ({"decision_id": ID, "reward": "1"}, "finite"),
        ({"decision_id": ID, "reward": 10**400}, "finite"),
        ({"decision_id": ID, "label": [math.nan]}, "NaN"),
        ({"decision_id": ID, "label": object()}, "JSON"),
        ({"decision_id": ID, "label": "x" * 70_000}, "at most"),
        ({"decision_id": ID, "reward": 1, "served_action": -1}, "served_action"),
        ({"decision_id": ID, "reward": 1, "served_action": 2**31}, "served_action"),
        ({"decision_id": ID, "reward": 1, "served_action": 1.0}, "served_action"),
        ({"decision_id": ID, "reward": 1, "served_action": []}, "served_action"),
        ({"decision_id": ID, "reward": 1, "served_action": [1, True]}, "served_action"),
        ({"decision_id": ID, "reward": 1, "served_action": list(range(1001))}, "served_action"),
        ({"decision_id": ID, "reward": 1, "slot": -1}, "slot"),
        ({"decision_id": ID, "reward": 1, "name": ""}, "name"),
        ({"decision_id": ID, "reward": 1, "name": "x" * 65}, "name"),
        ({"decision_id": ID, "reward": 1, "name": "a\x00b"}, "name"),
        ({"decision_id": ID, "reward": 1, "feedback_id": "\ud800"}, "feedback_id"),
        ({"decision_id": ID, "reward": 1, "feedback_id": 7}, "feedback_id"),
        ({"decision_id": ID, "reward": 1, "color": 1}, "Unknown fields: color"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_feedback_is_refused_with_a_sentence(given, sentence):
    """What is wrong, and what would be right."""
    with pytest.raises(ValueError, match=sentence):
        parse_feedback(given)


def test_all_fields_are_read():
    """And become a reward that the store takes as it is."""
    given = {"decision_id": f"{ID}/3", "label": {"a": [1]}, "reward": 2, "served_action": [4, 0], "name": "click",
             "slot": 1, "shown": True, "feedback_id": "f-1"}  # fmt: skip
    reward = parse_feedback(given)
    assert reward == Reward(f"{ID}/3", reward.ts, 2.0, {"a": [1]}, [4, 0], "click", 1, True, "f-1")
    assert parse_feedback({"decision_id": ID, "shown": True}).shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(label=JSON, other=JSON, reward=st.floats(-5, 5))
def test_the_id_of_feedback_without_one_tells_its_content(label, other, reward):
    """The same again has the same id, whatever the order of the keys; something else has another."""
    first = parse_feedback({"decision_id": ID, "label": label, "reward": reward})
    again = parse_feedback(json.loads(json.dumps({"reward": reward, "label": label, "decision_id": ID})))
    assert first.feedback_id == again.feedback_id
    changed = parse_feedback({"decision_id": ID, "label": other, "reward": reward})
    same = json.dumps(label, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (changed.feedback_id == first.feedback_id) == same
    assert (
        parse_feedback({"decision_id": ID, "label": label, "reward": reward, "slot": 0}).feedback_id
        != first.feedback_id
    )


def test_feedback_from_python_goes_to_the_store_named(url, store):
    """As over HTTP: stored, kept, duplicate; with NumPy's numbers."""
    store.write("decision", [Decision(ID, 1.0, "p", "primary").row()])
    assert gr.feedback(ID, reward=np.float32(0.5), served_action=np.array([2, 1]), decisions=url) == "stored"
    assert gr.feedback(ID, reward=0.5, served_action=[2, 1], decisions=url) == "duplicate"
    assert gr.feedback(ID, reward=0.5, feedback_id="other", decisions=url) == "stored"
    assert gr.feedback("f" * 32, label="cat", decisions=url) == "kept"
    assert [(row["reward"], row["served_action"]) for row in store.read("reward")] == [
        (0.5, "[2, 1]"), (0.5, None), (None, None)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="finite"):
        gr.feedback(ID, reward=math.nan, decisions=url)


def test_feedback_from_python_uses_the_open_log(url):
    """In a service's own process nothing has to be named; with none or several open, it has to."""
    with pytest.raises(DecisionStoreError, match=r"decisions="):
        gr.feedback(ID, reward=1.0)
    log = writer.open_log(url)
    log(Decision(ID, 1.0, "p", "primary"))
    assert log.flush(20.0)
    assert gr.feedback(ID, reward=1.0) == "stored"
    assert gr.feedback(ID, reward=1.0, decisions=url) == "duplicate"
    assert gr.feedback(ID, reward=1.0, decisions=log) == "duplicate"
    log.close()
    with pytest.raises(DecisionStoreError):
        gr.feedback(ID, reward=1.0)


def test_feedback_to_a_store_that_is_away(tmp_path, monkeypatch):
    """An open log queues it; without one, an error tells."""
    monkeypatch.setattr("guardrails.decisions.stores.store._SETUP_TRIES", 1)
    (tmp_path / "d.db").write_bytes(b"no database at all" * 100)
    url = f"sqlite:///{tmp_path}/d.db"
    with pytest.raises(DecisionStoreError, match="cannot be set up"):
        gr.feedback(ID, reward=1.0, decisions=url)
    log = writer.open_log(url)
    assert gr.feedback(ID, reward=1.0) == "queued"
    assert log.waiting == 1
    (tmp_path / "d.db").unlink()
    assert log.flush(20.0)
    assert len(log.store.read("reward")) == 1
    log.close()


SEND = """
import sys
import guardrails as gr
print("ready", flush=True)
sys.stdin.readline()
for round_number in range(20):
    print(gr.feedback("ab" * 16, reward=float(round_number), feedback_id=f"f{round_number}", decisions=sys.argv[1]))
    print(gr.feedback("cd" * 16, label=round_number, decisions=sys.argv[1]))
"""


def test_the_same_feedback_from_several_processes_at_once_is_one(url, store):
    """Four clients retry the same: each piece is there once, and exactly one of them was told so."""
    pipe = subprocess.PIPE
    senders = [
        subprocess.Popen([sys.executable, "-c", SEND, url], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(4)
    ]
    for sender in senders:
        assert sender.stdout.readline() == "ready\n"
    for sender in senders:
        sender.stdin.write("\n")
        sender.stdin.flush()
    said = Counter()
    for sender in senders:
        out, errors = sender.communicate(timeout=120)
        assert sender.returncode == 0, errors
        said.update(out.split())
    assert said == {"kept": 40, "duplicate": 120}
    rows = store.read("reward")
    assert len(rows) == len({(row["decision_id"], row["feedback_id"]) for row in rows}) == 40


def test_rewards_without_an_id_are_written_once_although_the_store_forgets_to_say_so():
    """The answer to a commit is lost, the log writes again: what it had taken by then is known by its id."""

    class Forgetful:
        url = "forgetful://"
        calls = 0

        def create(self):
            """Nothing to do."""

        def write(self, kind, rows):
            """Takes them, and breaks down."""
            taken.extend(row["feedback_id"] for row in rows)
            self.calls += 1
            if self.calls == 1:
                raise OSError("connection lost")
            return len(rows)

        def close(self):
            """Nothing to do."""

    taken = []
    log = writer.DecisionLog(Forgetful())
    log(Reward(ID, 1.0, reward=1.0))
    assert log.flush(10.0)
    log.close()
    assert len(taken) == 2
    assert len(set(taken)) == 1
    assert taken[0] is not None
