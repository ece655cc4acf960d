"""Logged decisions for Vowpal Wabbit: the same model from text and JSON, and nothing impossible in either."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from guardrails.contrib.vw import from_dsjson, to_dsjson, to_text
from guardrails.contrib.vw_features import escaped, features_of
from guardrails.exploration.rankings import PlackettLuce
from tests.contrib.logs import COLOURS, choices, rankings, values

PUBLISHED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "ope" / "vw_dsjson_cb.json"
needs_vw = pytest.mark.skipif(find_spec("vowpalwabbit") is None, reason="vowpalwabbit is not installed")

TRAIN = """
import json, sys
from vowpalwabbit import Workspace
kept = []  # VW 9.11 dies when a CATS workspace is taken down
for arguments in json.loads(sys.argv[1]):
    kept.append(running := Workspace(arguments, enable_logging=True))
    running.finish()
    print(json.dumps([line for line in running.get_log() if " = " in line]), flush=True)
import os
os._exit(0)
"""


def train(*arguments):
    """Run VW, each with these arguments; what it says at the end, as numbers by name."""
    command = [sys.executable, "-c", TRAIN, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(arguments), done.stderr
    return [
        dict(line.split(" = ") for line in "\n".join(said).splitlines() if line.count(" = ") == 1) for said in lines
    ]


def written(examples, path):
    """Examples in a file."""
    path.write_text("".join(example + "\n" for example in examples), encoding="utf-8")
    return path


def predictions(path):
    """What VW predicted, line by line."""
    return [line for line in Path(path).read_text().splitlines() if line]


@needs_vw
@pytest.mark.parametrize("cb_type", ["mtr", "ips", "dr"])
def test_text_and_json_train_the_same_model(tmp_path, cb_type):
    """The same number of examples and features, the same average loss, and the same prediction at every step."""
    logged = choices()
    text, lines = written(to_text(logged), tmp_path / "log.vw"), written(to_dsjson(logged), tmp_path / "log.json")
    learner = f"--cb_explore_adf --cb_type {cb_type} -q sa"
    by_text, by_json = train(
        f"{learner} -d {text} -p {tmp_path}/p1 --extra_metrics {tmp_path}/m1",
        f"{learner} --dsjson -d {lines} -p {tmp_path}/p2 --extra_metrics {tmp_path}/m2",
    )
    assert by_text["number of examples"] == by_json["number of examples"] == str(len(logged))
    assert by_text["total feature number"] == by_json["total feature number"]
    assert float(by_text["average loss"]) == pytest.approx(float(by_json["average loss"]), abs=1e-6)
    assert predictions(tmp_path / "p1") == predictions(tmp_path / "p2")
    metrics = [json.loads((tmp_path / name).read_text()) for name in ("m1", "m2")]
    for found in metrics:
        assert found["cb_explore_adf_greedy"]["cbea_sum_cost"] == pytest.approx(-logged.reward.sum())
        assert found["cb_explore_adf_greedy"]["cbea_label_first_action"] == (logged.action == 0).sum()
    assert metrics[1]["dsjson_sum_cost_original"] == pytest.approx(-logged.reward.sum())
    assert metrics[1]["line_parse_error"] == 0
    assert metrics[1]["last_event_id"] == logged.decision_id[-1]


@needs_vw
def test_what_is_learned_is_what_was_rewarded(tmp_path):
    """From the log of a constant model, VW finds the best action of each colour."""
    path = written(to_text(choices(3000)), tmp_path / "log.vw")
    asked = "".join(
        f"shared |s {escaped(f'colour={colour}')}\n" + "".join(f"|a a={action}\n" for action in range(3)) + "\n"
        for colour in COLOURS
    )
    (tmp_path / "asked.vw").write_text(asked)
    learner = "--cb_explore_adf --epsilon 0.0 -q sa --passes 3 -k"
    train(f"{learner} --cache_file {tmp_path}/cache -d {path} -f {tmp_path}/model")
    train(f"-i {tmp_path}/model -t -d {tmp_path}/asked.vw -p {tmp_path}/p")
    assert [line.split(":")[0] for line in predictions(tmp_path / "p")] == ["1", "2", "0"]


@needs_vw
def test_decisions_to_learn_nothing_from_are_skipped(tmp_path):
    """In JSON they are events that VW counts and skips; text leaves them out; both say how many."""
    logged = choices(100)
    logged.overridden[::4] = True
    text, lines = to_text(logged), to_dsjson(logged)
    train(
        f"--cb_explore_adf --dsjson -d {written(lines, tmp_path / 'log.json')} --extra_metrics {tmp_path}/m",
        f"--cb_explore_adf -d {written(text, tmp_path / 'log.vw')} --extra_metrics {tmp_path}/t",
    )
    found = json.loads((tmp_path / "m").read_text())
    assert found["number_skipped_events"] == 25
    assert found["cb_explore_adf_greedy"]["cbea_labeled_ex"] == 75
    assert json.loads((tmp_path / "t").read_text())["cb_explore_adf_greedy"]["cbea_labeled_ex"] == 75
    assert (text.written, text.skipped, lines.written, lines.skipped) == (75, 25, 100, 25)


@needs_vw
@pytest.mark.parametrize("policy", [None, PlackettLuce(temperature=1.0, slots=2)])
def test_rankings_train_the_same_model(tmp_path, policy):
    """As conditional bandits: each position with its item, its probability there, and its reward."""
    logged = rankings(policy=policy)
    text, lines = written(to_text(logged), tmp_path / "log.vw"), written(to_dsjson(logged), tmp_path / "log.json")
    by_text, by_json = train(
        f"--ccb_explore_adf -d {text} -p {tmp_path}/p1", f"--ccb_explore_adf --dsjson -d {lines} -p {tmp_path}/p2"
    )
    assert by_text["number of examples"] == by_json["number of examples"] == str(len(logged))
    assert float(by_text["average loss"]) == pytest.approx(
        float(by_json["average loss"]), abs=3e-6
    )  # prints six digits
    assert float(by_text["average loss"]) < 0
    assert predictions(tmp_path / "p1") == predictions(tmp_path / "p2")
    event = json.loads(next(to_dsjson(logged)))
    assert [outcome["_a"][0] for outcome in event["_outcomes"]] == logged.served[0]
    assert [outcome["_label_cost"] for outcome in event["_outcomes"]] == (-logged.slot_reward[0]).tolist()


@needs_vw
def test_values_train_the_same_model(tmp_path):
    """Of continuous actions: value, cost and density."""
    logged = values()
    text, lines = written(to_text(logged), tmp_path / "log.vw"), written(to_dsjson(logged), tmp_path / "log.json")
    learner = "--cats 4 --min_value 0 --max_value 10 --bandwidth 1"
    by_text, by_json = train(f"{learner} -d {text} -p {tmp_path}/p1", f"{learner} --json -d {lines} -p {tmp_path}/p2")
    assert by_text["number of examples"] == by_json["number of examples"] == str(len(logged))
    assert float(by_text["average loss"]) == pytest.approx(float(by_json["average loss"]), abs=1e-6)
    assert predictions(tmp_path / "p1") == predictions(tmp_path / "p2")


def test_json_comes_back_as_it_was():
    """Written and read again: actions, probabilities to the last bit, rewards, times."""
    logged = choices(100)
    logged.overridden[3] = True
    again = from_dsjson(to_dsjson(logged))
    assert again.decision_id == logged.decision_id
    assert again.action.tolist() == logged.action.tolist()
    assert again.propensity.tolist() == logged.propensity.tolist()
    assert again.reward.tolist() == logged.reward.tolist()
    assert again.ts.tolist() == logged.ts.tolist()
    assert again.model == logged.model
    assert [pmf.tolist() for pmf in again.pmf] == [pmf.tolist() for pmf in logged.pmf]
    assert again.eligible.tolist() == logged.learnable.tolist()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the shared data is not here")
def test_a_published_file_of_the_decision_service():
    """The sums that VW's own tests print for it, and the value of always serving the first action."""
    with PUBLISHED.open() as file:
        logged = from_dsjson(file)
    first = logged.action == 0
    assert len(logged) == 23
    assert -logged.reward.sum() == -12
    assert -logged.reward[first].sum() == -6
    weight = first / logged.propensity
    assert -(weight * logged.reward).mean() == pytest.approx(-0.306905, abs=1e-6)
    assert -(weight * logged.reward).sum() / weight.sum() == pytest.approx(-0.666667, abs=1e-6)
    assert logged.actions[0] == ["Cappucino", "Cold brew", "Iced mocha", "Latte"]
    assert logged.stacked("pmf").sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("write", [to_dsjson, to_text])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda log: log.propensity.__setitem__(2, 0.0), "propensity 0.0, outside"),
        (lambda log: log.propensity.__setitem__(2, 1.5), "propensity 1.5, outside"),
        (lambda log: log.propensity.__setitem__(2, -1.0), "propensity -1.0, outside"),
        (lambda log: log.propensity.__setitem__(2, 0.123), "not its pmf's"),
        (lambda log: log.reward.__setitem__(2, np.nan), "reward nan"),
        (lambda log: log.pmf[2].__iadd__(0.1), "sum to 1.3"),
        (lambda log: log.action.__setitem__(2, 7), "action 7, which is out of range"),
    ],
)
def test_the_impossible_is_refused_and_named(write, change, said):
    """VW takes a probability of 0, 1.5 or -1 without a word; here the decision is named before a line is written."""
    logged = choices(5)
    logged = replace(logged, pmf=[pmf.copy() for pmf in logged.pmf])
    change(logged)
    with pytest.raises(ValueError, match=f"decision {logged.decision_id[2]} .*{said}"):
        next(write(logged))


def test_names_cannot_break_out_of_their_place():
    """Space, colon and bar end a name in VW; a leading underscore is no feature in its JSON. No two names meet."""
    assert escaped("a b:c|d%") == "a%20b%3Ac%7Cd%25"
    assert escaped("_tag") == "%5Ftag"
    assert escaped("") == "%"
    assert escaped("a\nb") == "a%0Ab"
    names = ["a b", "a_b", "a%20b", "a:b", "_a", "%5Fa", "", "%"]
    assert len({escaped(name) for name in names}) == len(names)
    assert features_of({"k": "x y", "n": 2, "flag": True, "gone": None, "nan": float("nan")}) == [
        ("k=x%20y", 1.0),
        ("n", 2.0),
        ("flag=True", 1.0),
    ]
    assert features_of([0.5, "red"], ["size", "colour"]) == [("size", 0.5), ("colour=red", 1.0)]
    assert features_of("0123abcd") == features_of(None) == []
    with pytest.raises(ValueError, match="2 values, and 1 names"):
        features_of([1, 2], ["a"])
    with pytest.raises(ValueError, match="inf"):
        features_of([float("inf")])


def test_what_is_known_of_actions_goes_with_them():
    """By their names."""
    logged = choices(1, actions=["x", "y", "z"])
    text = next(to_text(logged, action_features={"y": {"price": 2.5}}))
    assert [line.rpartition("|")[2] for line in text.splitlines()[1:]] == ["a a=x", "a a=y price:2.5", "a a=z"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pdrop": 0.5}, "pdrop is 0.5"),
        ({"a": [1, 1]}, "each of the actions"),
        ({"p": [0.25, 0.85]}, "sum to 1.1"),
        ({"_label_probability": 0.7}, "probability 0.7, and 0.25"),
        ({"_label_Action": None}, "line 1"),
    ],
)
def test_what_is_no_event_is_refused(change, said):
    """With the line, or the event."""
    event = {"_label_cost": 0, "_label_probability": 0.25, "_label_Action": 2, "EventId": "e", "a": [2, 1]}
    event |= {"p": [0.25, 0.75], "c": {"_multi": [{}, {}]}}
    assert len(from_dsjson([json.dumps(event), "", '{"o": []}'])) == 1
    with pytest.raises(ValueError, match=said):
        from_dsjson([json.dumps({**event, **change})])
