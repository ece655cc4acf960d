"""`guardrails export`: what a service decided and earned, in a file that says the same."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

import guardrails as gr
from guardrails.cli import main
from guardrails.decisions import Decision
from guardrails.decisions.joined.join import join_store
from tests.cli.explored import KEY, decided, filled, rewarded


@pytest.fixture
def decisions(monkeypatch):
    """Explored decisions."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", KEY)
    return decided(gr.EpsilonGreedy(0.3))


def export(*arguments):
    """Run the command in process."""
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_csv_says_what_the_store_does(tmp_path, decisions):
    """Every decision with its reward, its weight, and numbers that give the same numbers back."""
    url = filled(tmp_path, decisions, rewards := rewarded(decisions))
    path = tmp_path / "log.csv"
    result = export(url, "-o", path, "--window", "1h", "--weights")
    assert result.exit_code == 0, result.output
    assert result.output == (
        f"wrote 600 decisions to {path} as csv: 600 decisions joined, {len(rewards)} of them with a reward\n"
    )
    with path.open(newline="") as file:
        rows = {row["decision_id"]: row for row in csv.DictReader(file)}
    earned = {reward.decision_id for reward in rewards}
    assert len(rows) == 600
    for one in decisions:
        row = rows[one.decision_id]
        assert float(row["propensity"]) == one.propensity
        assert float(row["weight"]) == 1 / one.propensity
        assert int(row["action"]) == one.action
        assert json.loads(row["pmf"]) == list(one.pmf)
        assert float(row["reward"]) == (one.decision_id in earned)
        assert float(row["ts"]) == one.ts


def test_every_format_holds_the_same_log(tmp_path, decisions):
    """Inverse propensity scoring gives one number, whatever it is read from."""
    url = filled(tmp_path, decisions, rewarded(decisions))
    logged = join_store(url, window="1h")
    expected = float((logged.reward * (logged.action == 2) / logged.propensity).sum())
    for name in ("log.dsjson", "log.vw", "log.npz", "log.csv"):
        result = export(url, "-o", tmp_path / name, "--window", "1h")
        assert result.exit_code == 0, result.output
        assert result.output.startswith("wrote 600 decisions")
    events = [json.loads(line) for line in (tmp_path / "log.dsjson").read_text().splitlines()]
    assert sum(-e["_label_cost"] / e["_label_probability"] for e in events if e["_labelIndex"] == 2) == pytest.approx(
        expected
    )
    labels = [
        line.split(" ")[0].split(":") for line in (tmp_path / "log.vw").read_text().splitlines() if line[:1].isdigit()
    ]
    assert len(labels) == 600
    assert sum(-float(cost) / float(p) for action, cost, p in labels if action == "2") == pytest.approx(expected)
    with np.load(tmp_path / "log.npz", allow_pickle=False) as file:
        assert float((file["reward"] * (file["action"] == 2) / file["pscore"]).sum()) == pytest.approx(expected)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["action"] == "2"]
    assert sum(float(row["reward"]) / float(row["propensity"]) for row in rows) == pytest.approx(expected)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columnar_files(tmp_path, decisions, form):
    """Read back by pyarrow, with how they were joined."""
    pytest.importorskip("pyarrow", exc_type=ImportError)
    from guardrails.contrib.arrow import read_columns

    url = filled(tmp_path, decisions, rewarded(decisions))
    path = tmp_path / f"log.{form}"
    result = export(url, "-o", path, "--window", "1h", "--weights", "--format", form)
    assert result.exit_code == 0, result.output
    found = read_columns(path, ("decision_id", "weight", "pmf", "reward"))
    assert dict(zip(found["decision_id"], found["weight"], strict=True)) == {
        one.decision_id: 1 / one.propensity for one in decisions
    }


def test_what_is_left_out_is_said(tmp_path, decisions):
    """Late, pending, malformed, not explored: each with its number, problems on the error stream."""
    young = decided(gr.EpsilonGreedy(0.3), 20, ago=60.0)
    outlier = Decision("0" * 32, decisions[0].ts, "rank", "fallback:charts")
    decisions[0].propensity = 0.0
    late = rewarded(decisions[1:50])
    for reward in late:
        reward.ts += 3600
    url = filled(tmp_path, [*decisions, *young, outlier], late)
    result = export(url, "-o", tmp_path / "log.csv", "--window", "1h")
    assert result.exit_code == 0, result.output
    assert "1 decisions left out: a propensity outside (0, 1]" in result.stderr
    assert (
        f"600 decisions joined, 0 of them with a reward, 20 pending, 1 malformed; feedback: {len(late)} late"
        in result.stdout
    )
    assert "(1 to learn nothing from)" in result.stdout
    assert export(url, "-o", tmp_path / "few.csv", "--window", "1h", "--learnable").stdout.startswith("wrote 599 ")


def test_names_times_and_methods(tmp_path, decisions):
    """--name, --since, --until and --api choose; rewards of several names have to be told apart."""
    other = decided(gr.EpsilonGreedy(0.3), 30, api="other")
    old = decided(gr.EpsilonGreedy(0.3), 40, ago=10 * 86400)
    rewards = [*rewarded(decisions, name="click"), *rewarded(decisions, 1, name="sale"), *rewarded(old, name="click")]
    url = filled(tmp_path, [*decisions, *other, *old], rewards)
    window = ("-o", tmp_path / "log.csv", "--window", "1h")
    refused = export(url, *window)
    assert refused.exit_code == 1
    assert "several names: 'click', 'sale'. Say with --name which of them is meant" in refused.output
    for options, count in [((), 670), (("--api", "rank"), 640), (("--since", "7d"), 630), (("--until", "1d"), 40)]:
        result = export(url, *window, "--name", "click", *options)
        assert result.output.startswith(f"wrote {count} "), result.output
        assert "orphans" not in result.output


def test_nothing_is_written_where_there_is_nothing(tmp_path, decisions):
    """No store, no window over, nothing explored; and what was in the file stays there."""
    path = tmp_path / "log.vw"
    path.write_text("before")
    assert "holds no decisions" in export(f"sqlite:///{tmp_path}/none.db", "-o", path, "--window", "1h").output
    url = filled(tmp_path, [Decision("0" * 32, 1.0, "rank", "primary")], [])
    result = export(url, "-o", path, "--window", "1h")
    assert result.exit_code == 1
    assert "none of them can be learned from" in result.output
    (tmp_path / "young").mkdir()
    url = filled(tmp_path / "young", decisions, [])
    result = export(url, "-o", path, "--window", "5h")
    assert result.exit_code == 1
    assert "600 pending" in result.output
    assert "shorter --window" in result.output
    assert path.read_text() == "before"


def test_wrong_options_are_explained(tmp_path, decisions):
    """In one sentence."""
    url = filled(tmp_path, decisions, [])
    for options, said in [
        (("-o", tmp_path / "log.xyz", "--window", "1h"), "--format parquet|arrow"),
        (("-o", tmp_path / "log.vw", "--window", "1h", "--weights"), "propensities themselves"),
        (("-o", tmp_path / "log.csv", "--window", "soon"), "no time span"),
        (("-o", tmp_path / "log.csv", "--window", "1h", "--default", "much"), "neither a number nor none"),
        (("-o", tmp_path / "no" / "log.csv", "--window", "1h"), "cannot be written"),
    ]:
        result = export(url, *options)
        assert result.exit_code != 0
        assert said in result.output
        assert "Traceback" not in result.output
