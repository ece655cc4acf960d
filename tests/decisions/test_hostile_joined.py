"""The join and the exporters against logs of any order and content: one fate for each row, and files that read back."""

from __future__ import annotations

import csv
import io
import json
import math
import random

import numpy as np
import pytest
from click.testing import CliRunner

from guardrails.cli.export import export
from guardrails.contrib.obp import to_obp
from guardrails.contrib.vw import from_dsjson, to_dsjson, to_text
from guardrails.decisions import Decision, Logged, Reward, join
from guardrails.decisions.joined.checking import refuse_impossible
from guardrails.decisions.joined.names import key_of
from guardrails.decisions.joined.tabular import write_csv
from guardrails.decisions.stores.store import DecisionStore

ODD = [
    "a b",
    "x|y",
    "q:1",
    '"',
    "\\",
    "\n",
    "é🙂",
    "\u2028",
    "",
    "_x",
    "%41",
    "1",
    "-1",
    "1e5",
    "\ud800",
    "\x00",
    "a=0",
]
ODD += ["shared", "c:1.5", "\x85", "\xa0", "\u3000", "\x1f", "\x0b", "'", "{", "#"]


def decision(number, action=1, **fields) -> Decision:
    """An explored choice between two."""
    known = {"policy": "EpsilonGreedy(epsilon=0.4)", "kind": "choice", "eligible": True, "scores": [0.9, 0.1]}
    known |= {"pmf": [0.8, 0.2], "greedy": 0, "action": action, "propensity": 0.2 if action == 1 else 0.8}
    return Decision(f"{number:032x}", float(number), "rank", "primary", **{**known, **fields})


def joined(decisions, rewards=(), **options) -> Logged:
    """The join of records, long after."""
    rows = [one.row() for one in decisions], [one.row() for one in rewards]
    return join(*rows, window="1h", now=1e10, **options)


def any_decision(draw: random.Random) -> dict:
    """A row, perhaps of an older version, perhaps none that a service has written."""
    kind = draw.choice(["choice"] * 4 + [None])
    ts = draw.random() * 100 if draw.random() < 0.7 else draw.choice([0.0, 5000.0, math.nan, None, -5.0])
    row = {"decision_id": str(draw.randrange(30)), "ts": ts, "api": draw.choice("ab"), "kind": kind}
    row |= {"eligible": kind is not None, "propensity": 1.0, "deferred": draw.random() < 0.2}
    if kind is None:
        return row
    pmf = draw.choice(["[0.5, 0.5]"] * 9 + ["[1]", "[]", "x", "[0.5, NaN]", None, '{"a": 1}'])
    row |= {"policy": "p", "pmf": pmf, "greedy": 0, "action": draw.choice([0, 1, 1, 2, None, -1, True, 10**30])}
    row |= {"propensity": draw.choice([0.5] * 9 + [0.0, 2.0, math.nan, None, "x"]), "served": draw.choice([None, "x"])}
    row |= {"scores": draw.choice(["[1, 2]"] * 5 + ["[NaN, 1]", None]), "actions": draw.choice([None, '["a"]', '"ab"'])}
    return {**row, "excluded": draw.choice([None] * 9 + ["[1]", "[7]", "x", "[-1]"])}


def any_reward(draw: random.Random, number: int) -> dict:
    """Feedback of any content, also from a clock that is behind the service's."""
    ts = draw.choice([math.nan, None, "x"]) if draw.random() < 0.05 else draw.uniform(-50, 6000)
    row = {"decision_id": draw.choice([str(draw.randrange(30))] * 9 + ["zz", None, ["x"], 5]), "ts": ts, "served": None}
    row |= {"reward": draw.choice([1.0, 0.0, None, 1e308, math.inf, "x", True, 2]), "name": draw.choice([None, ""])}
    row |= {"label": draw.choice([None, '"a"', "1", "x"]), "slot": draw.choice([None, None, None, 0, 1, "x"])}
    row |= {"served_action": draw.choice([None, None, 1, 0, "[1]", '["x"]', 1.5]), "shown": draw.random() < 0.2}
    return {**row, "feedback_id": draw.choice([None, "k1", "k2", str(number)])}


@pytest.mark.parametrize("aggregate", ["last", "first", "sum", "mean", "max", "min"])
def test_every_row_has_one_fate_whatever_it_says(aggregate):
    """Counts add up to the rows given, rewards are finite numbers, and the order of the rows changes nothing."""
    draw = random.Random(aggregate)
    for _ in range(150):
        decisions = [any_decision(draw) for _ in range(25)]
        rewards = [any_reward(draw, number) for number in range(40)]
        options = {"window": 3600, "now": 5000.0, "aggregate": aggregate, "default": draw.choice([0.0, None])}
        options |= {"label_reward": draw.choice([None, "match"]), "api": draw.choice([None, "a"])}
        one = join(decisions, rewards, **options)
        counts = one.counts
        fates = (counts.joined, counts.pending, counts.deferred, counts.malformed, counts.unrewarded, counts.other)
        assert sum(fates) + counts.repeated == len(decisions)
        of_rewards = (counts.rewards, counts.late, counts.duplicates, counts.orphans, counts.unused)
        assert sum(of_rewards) == len(rewards)
        assert np.isfinite(one.reward).all()
        known = np.array([pmf.size > 0 for pmf in one.pmf], dtype=bool)
        refuse_impossible(one.select(one.learnable & known))
        draw.shuffle(decisions)
        draw.shuffle(rewards)
        other = join(decisions, rewards, **options)
        assert (other.decision_id, other.reward.tolist(), other.counts) == (
            one.decision_id,
            one.reward.tolist(),
            counts,
        )


def test_a_reward_before_its_decision_counts():
    """A client's clock may be behind: what came before the decision came in time."""
    logged = joined([decision(100)], [Reward(f"{100:032x}", 40.0, 1.0)])
    assert logged.reward.tolist() == [1.0]


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_rewards_that_add_up_to_infinity_cost_one_decision(aggregate):
    """Two rewards of 1e308 make no infinite reward, which nobody could evaluate: the decision is told of."""
    rewards = [Reward(f"{1:032x}", 2.0, 1e308, feedback_id=name) for name in "ab"]
    logged = joined([decision(1), decision(2)], rewards, aggregate=aggregate)
    assert logged.decision_id == [f"{2:032x}"]
    assert logged.counts.problems == {"rewards that add up to infinity": 1}
    assert (logged.counts.rewards, logged.counts.unused) == (0, 2)


def test_small_probabilities_are_compared_as_shares():
    """A propensity of 9e-7 is not the probability 0, nor 5e-7, though both are near; rounding is forgiven."""
    for own, told, fine in ((0.0, 9e-7, False), (5e-7, 9e-7, False), (9e-7, 9e-7 * (1 + 1e-9), True)):
        logged = joined([decision(1, pmf=[1 - own, own], propensity=told)])
        assert len(logged) == fine


@pytest.mark.parametrize(
    "fields", [{"served": 10**400, "kind": "value"}, {"action": 10**30, "pmf": None, "scores": None}]
)
def test_numbers_beyond_all_bounds_are_malformed(fields):
    """An integer no float or array holds costs its row, not the join."""
    kind = fields.get("kind", "choice")
    logged = joined([decision(1), decision(2, **{"kind": kind, **fields})], kind=kind)
    assert logged.counts.malformed == 1


def test_names_as_keys():
    """Lists, which JSON makes of tuples, are looked up as tuples."""
    assert key_of([["a", 1], {"b": [2]}]) == (("a", 1), (("b", (2,)),))
    assert {key_of(name) for name in (["shop", 5], ("shop", 5), np.int64(3), 3)} == {("shop", 5), 3}


def odd_log() -> Logged:
    """Names and values of all that a format might take for its own."""
    draw, decisions = random.Random(0), []
    for number in range(120):
        names = [ODD[(number + at) % len(ODD)] for at in range(3)]
        features = {ODD[number % len(ODD)]: ODD[(number * 7) % len(ODD)], "n": float(number % 5)}
        action = draw.randrange(3)
        known = {"scores": [1.0, 0.5, 0.2], "pmf": [0.8, 0.1, 0.1], "propensity": [0.8, 0.1, 0.1][action]}
        decisions.append(decision(number, action, actions=names, features=features, **known))
    for number, features in enumerate([None, {}, {"x": None}, [], [1.0, 2.0], {"x": [1, 2]}, {"": ""}, {"x": True}]):
        decisions.append(decision(1000 + number, features=features))
    rewards = [Reward(one.decision_id, one.ts, -0.3) for one in decisions[::2]]
    return joined(decisions, rewards)


def test_vw_reads_odd_names_alike_from_text_and_json():
    """Each line is one example with as many actions as there are, and the features of both formats are the same."""
    vw = pytest.importorskip("vowpalwabbit")
    logged = odd_log()
    lines, texts = list(to_dsjson(logged)), list(to_text(logged))
    assert len(lines) == len(texts) == len(logged)
    of_json, of_text = (vw.Workspace(f"--cb_explore_adf {form} --quiet") for form in ("--dsjson", ""))
    for line, text, pmf in zip(lines, texts, logged.pmf, strict=True):
        (line + text).encode()
        said = [part for part in text.split("\n") if part]
        assert len(said) == 1 + len(pmf)
        one, other = of_json.parse(line), of_text.parse(said)
        features = [
            [sorted((at, round(value, 5)) for at, value in ex.iter_features()) for ex in exs] for exs in (one, other)
        ]
        assert features[0] == features[1]
        of_json.finish_example(one)
        of_text.finish_example(other)


def test_dsjson_reads_back():
    """What was written is what is read: actions, probabilities, rewards, times."""
    logged = odd_log()
    back = from_dsjson(to_dsjson(logged))
    assert back.decision_id == logged.decision_id
    assert [one.tolist() for one in back.pmf] == [one.tolist() for one in logged.pmf]
    for column in ("action", "propensity", "reward", "ts"):
        assert getattr(back, column).tolist() == getattr(logged, column).tolist()


@pytest.mark.parametrize(
    "event",
    [
        {"c": {"_multi": [1, 2]}},
        {"c": None},
        {"c": {"_multi": 5}},
        {"VWState": None},
        {"a": [float("inf"), 1]},
        {"p": [None, 1]},
        {"Timestamp": "soon"},
        {"_label_cost": None},
        {"_label_Action": 9},
        {"_label_probability": 0.5},
    ],
)
def test_no_line_breaks_the_reader(event):
    """A line that is no event is named, whatever is wrong with it."""
    good = {"_label_cost": -1.0, "_label_probability": 0.25, "_label_Action": 2, "EventId": "e", "a": [2, 1]}
    good |= {"p": [0.25, 0.75], "c": {"_multi": [{}, {}]}}
    assert len(from_dsjson([json.dumps(good)])) == 1
    with pytest.raises(ValueError, match=r"line 1 is no|event e has|decision e"):
        from_dsjson([json.dumps({**good, **event})])


def test_candidates_named_by_lists_are_exported():
    """Names that were tuples: VW tells them apart, OBP numbers them, features of theirs are found by the tuple."""
    names = [["shop", 1], ["shop", 2]]
    logged = joined([decision(1, actions=names), decision(2, actions=names[::-1])])
    assert to_obp(logged)["action"].tolist() == [1, 0]
    lines = next(to_text(logged, action_features={("shop", 2): {"size": 3}})).split("\n")
    assert "size:3.0" in lines[2]
    assert "size" not in lines[1]


def test_a_number_no_double_holds_is_named():
    """An integer of hundreds of digits is no feature of VW's, and no context of OBP's."""
    with pytest.raises(ValueError, match=r"decision 0*1: the feature x is inf"):
        list(to_text(joined([decision(1, features={"x": 10**400})])))
    assert to_obp(joined([decision(1, features=[10**400])]))["context"] is None


@pytest.mark.parametrize(
    "features", [[10**400, 1.0], [2**60 + 1, 1.0], "\ud800", {"a": "\ud800"}, ["a", 1.0], [1.0, None]]
)
@pytest.mark.parametrize("names", [[2**63 + 5, 1], ["\ud800", "b"], [None, 1], [["s", 1], ["s", 2]], None])
def test_tables_hold_what_a_client_may_send(tmp_path, features, names):
    """Odd rows and names are written, and read back as they were; lone surrogates, which no text holds, spelled."""
    pytest.importorskip("pyarrow")
    from guardrails.contrib.arrow import read_columns, write_arrow, write_parquet

    logged = joined([decision(1, actions=names), decision(2)], [Reward(f"{1:032x}", 2.0, 1 / 3)])
    logged.features[0] = features
    for write, name in ((write_parquet, "t.parquet"), (write_arrow, "t.arrow")):
        write(logged, tmp_path / name)
        back = read_columns(tmp_path / name, ("features", "actions", "reward", "pmf"))
        assert back["reward"] == [1 / 3, 0.0]
        assert back["pmf"] == [[0.8, 0.2]] * 2
        told = back["features"][0]
        plain = json.loads(told) if isinstance(told, str) and told[0] in "[{" else told
        assert plain == (features if features != "\ud800" else "\\ud800")
        assert (back["actions"][0] is None) == (names is None)


def test_csv_reads_back_exactly():
    """Each number of the table is the same double again, and each text the same text."""
    logged = odd_log()
    file = io.StringIO(newline="")
    write_csv(logged, file, weights=True)
    file.seek(0)
    rows = list(csv.DictReader(file))
    assert [float(row["propensity"]) for row in rows] == logged.propensity.tolist()
    assert [float(row["weight"]) for row in rows] == logged.weights().tolist()
    assert [json.loads(row["pmf"]) for row in rows] == [one.tolist() for one in logged.pmf]
    assert [json.loads(row["actions"]) if row["actions"] else None for row in rows] == logged.actions
    told = [json.loads(row["features"]) if row["features"] else None for row in rows]
    assert told == logged.features


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow", "dsjson", "vw"])
def test_one_clients_text_does_not_stop_an_export(tmp_path, form):
    """A lone surrogate in a row is written in some way; all other rows are there, too."""
    pytest.importorskip("pyarrow")
    url = f"sqlite:///{tmp_path}/d.db"
    store = DecisionStore(url)
    store.create()
    rows = [decision(number, features={"a": "\ud800" if number == 3 else "b"}).row() for number in range(6)]
    rows.append({**decision(7).row(), "features": '"\\ud800"'})
    store.write("decision", rows)
    store.close()
    target = tmp_path / f"out.{form}"
    done = CliRunner().invoke(export, [url, "--window", "1h", "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert "wrote 7 decisions" in done.output
    assert target.stat().st_size
