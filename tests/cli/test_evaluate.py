"""`guardrails evaluate`: what other policies would have earned, and whether the log can be believed."""

import json
import os
import re

import numpy as np
import pytest
from click.testing import CliRunner

import guardrails as gr
from guardrails.cli import main
from guardrails.decisions import Decision, Reward
from guardrails.decisions.joined.join import join_store
from guardrails.evaluation.from_log import evaluate as judge
from guardrails.evaluation.off_policy.balanced import balanced_ips
from guardrails.evaluation.off_policy.estimators import ips, snips
from guardrails.evaluation.targets import target_of
from tests.cli.explored import CHANCES, KEY, decided, filled, rewarded


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """The same draws every time, and wide lines."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", KEY)
    monkeypatch.setattr(os, "urandom", np.random.default_rng(7).bytes)  # the same ids, and so the same draws, each time
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def decisions():
    """Explored decisions, always the same ones."""
    seen = decided(gr.EpsilonGreedy(0.4), 3000)
    rng = np.random.default_rng(5)
    for number, one in enumerate(seen):
        one.decision_id, one.action = f"{number:032x}", int(rng.choice(3, p=one.pmf))
        one.propensity = float(one.pmf[one.action])
    return seen


def evaluate(*arguments):
    """Run the command in process."""
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def document(*arguments):
    """What it says to machines."""
    result = evaluate(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def targets(told):
    """Estimates by policy and estimator."""
    return {(one["target"], one["estimator"]): one for one in told["groups"][0]["targets"]}


def test_the_numbers_are_those_of_the_estimators(tmp_path, decisions):
    """Value and interval, from the store to the document; and the truth lies in the intervals."""
    url = filled(tmp_path, decisions, rewarded(decisions))
    told = document(
        url, "--window", "1h", "--target", "greedy", "--target", "uniform", "--estimator", "ips,snips,dr,dm,switch"
    )
    logged = join_store(url, window="1h")
    agree = (logged.action == logged.greedy).astype(float)
    found = targets(told)
    for name, estimator in (("ips", ips), ("snips", snips)):
        known = {"pmf": logged.stacked("pmf"), "target_pmf": np.eye(3)[logged.greedy]}
        estimate = estimator(logged.reward, logged.propensity, agree, **known)
        assert found["greedy", name]["value"] == pytest.approx(estimate.value)
        assert found["greedy", name]["ess"] == pytest.approx(estimate.ess)
        assert found["greedy", name]["low"] == pytest.approx(estimate.low)
        assert found["greedy", name]["high"] == pytest.approx(estimate.high)
    for (target, estimator), one in found.items():
        if estimator == "dm":  # its interval knows nothing of the model's error
            continue
        truth = CHANCES[1] if target == "greedy" else CHANCES.mean()
        assert one["low"] - 0.01 <= truth <= one["high"] + 0.01
    group = told["groups"][0]
    assert group["on_policy"]["value"] == pytest.approx(logged.reward.mean())
    assert (group["decisions"], group["learnable"], group["explorable"]) == (3000, 3000, 1.0)
    assert group["integrity"]["ok"]
    assert told["counts"]["joined"] == 3000


def test_a_table_for_people(tmp_path, decisions):
    """Value, interval, effective rows, largest weight, coverage; the share that could be explored."""
    outliers = [Decision(f"{n:032x}"[::-1], decisions[0].ts, "rank", "fallback:charts") for n in range(1, 1001)]
    url = filled(tmp_path, [*decisions, *outliers], rewarded(decisions))
    result = evaluate(url, "--window", "1h", "--target", "greedy", "--target", "EpsilonGreedy(0.05)")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("4000 decisions joined")
    assert re.match(
        r"on-policy mean 0\.\d+ \(0\.\d+ to 0\.\d+\) of 3,000 decisions .* \(75\.0%\); mean of all 4,000", lines[1]
    )
    assert "say nothing of the others" in lines[2]
    assert lines[3].split("  ")[0] == "policy"
    assert any(
        re.match(r"greedy +snips +0\.\d+ +0\.\d+ to 0\.\d+ +[\d,]+ \(\d+%\) +1\.364 +7\d%", line) for line in lines
    )
    assert any(line.startswith("EpsilonGreedy(epsilon=0.05)") for line in lines)
    assert "integrity: passed (3,000 decisions)" in lines


def test_several_policies_are_weighed_by_their_mixture(tmp_path, decisions):
    """As `balanced_ips` does it, from the logged scores of each."""
    careful = decided(gr.EpsilonGreedy(0.1), 1000)
    both = [*decisions, *careful]
    url = filled(tmp_path, both, rewarded(both))
    told = document(url, "--window", "1h", "--estimator", "ips", "--target", "uniform")
    logged = join_store(url, window="1h")
    would = np.array([gr.EpsilonGreedy(eps).pmf(np.array([0.1, 0.7, 0.2]))[logged.action] for eps in (0.4, 0.1)])
    version = np.array([0 if "0.4" in policy else 1 for policy in logged.policy])
    expected = balanced_ips(logged.reward, would, np.full(4000, 1 / 3), version=version)
    assert targets(told)["uniform", "ips"]["value"] == pytest.approx(expected.value, rel=1e-9)
    assert (told["groups"][0]["versions"], "mixture" in told["groups"][0]["notes"][0]) == (2, True)
    split = document(url, "--window", "1h", "--by", "policy", "--estimator", "ips")
    assert [(group["policy"], group["learnable"]) for group in split["groups"]] == [
        ("EpsilonGreedy(epsilon=0.1)", 1000),
        ("EpsilonGreedy(epsilon=0.4)", 3000),
    ]


def test_a_log_that_its_policies_did_not_write_is_not_mixed(tmp_path, decisions):
    """A budget lets less through than the policy's text says: then each row has its own propensity."""
    careful = decided(gr.EpsilonGreedy(0.1), 100)
    for one in careful:
        one.pmf = [0.01, 0.98, 0.01]
        one.propensity, one.strength = one.pmf[one.action], 0.3
    url = filled(tmp_path, [*decisions, *careful], rewarded([*decisions, *careful]))
    told = document(url, "--window", "1h", "--estimator", "ips", "--target", "uniform")
    logged = join_store(url, window="1h")
    expected = ips(logged.reward, logged.propensity, np.full(3100, 1 / 3))
    assert targets(told)["uniform", "ips"]["value"] == pytest.approx(expected.value)
    assert "by its own" in told["groups"][0]["notes"][0]


def test_a_policy_from_a_file(tmp_path, decisions):
    """Probabilities, or the action it would choose; a decision that is missing is named."""
    url = filled(tmp_path, decisions, rewarded(decisions))
    ids = np.array([one.decision_id for one in decisions])
    np.savez(tmp_path / "third.npz", decision_id=ids, action=np.full(3000, 2))
    np.savez(tmp_path / "flat.npz", decision_id=ids, pmf=np.full((3000, 3), 1 / 3))
    np.savez(tmp_path / "few.npz", decision_id=ids[1:], action=np.full(2999, 2))
    np.savez(tmp_path / "wrong.npz", decision_id=ids, pmf=np.full((3000, 3), 0.5))
    files = [tmp_path / name for name in ("third.npz", "flat.npz")]
    found = targets(document(url, "--window", "1h", "--target", files[0], "--target", files[1], "--target", "uniform"))
    assert found["third.npz", "snips"]["value"] == pytest.approx(CHANCES[2], abs=0.06)
    assert found["flat.npz", "snips"]["value"] == pytest.approx(found["uniform", "snips"]["value"], rel=1e-9)
    for name, said in (("few.npz", f"no entry for the decision {ids[0]}"), ("wrong.npz", "no distribution")):
        result = evaluate(url, "--window", "1h", "--target", tmp_path / name)
        assert (result.exit_code, said in result.output) == (1, True), result.output


def test_parquet_files_as_policies(tmp_path, decisions):
    """The same, by pyarrow."""
    pa = pytest.importorskip("pyarrow", exc_type=ImportError)
    from pyarrow import parquet

    url = filled(tmp_path, decisions, rewarded(decisions))
    table = pa.table({"decision_id": [one.decision_id for one in decisions], "pmf": [[0.0, 1.0, 0.0]] * 3000})
    parquet.write_table(table, tmp_path / "second.parquet")
    told = document(
        url, "--window", "1h", "--target", tmp_path / "second.parquet", "--target", "greedy", "--estimator", "ips"
    )
    found = targets(told)
    assert found["second.parquet", "ips"]["value"] == found["greedy", "ips"]["value"]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "EpsilonGreedy(__import__('os').getpid())",
        "EpsilonGreedy(0.1).pmf",
        "explore(0.1)",
        "print('x')",
        "EpsilonGreedy(7)",
        "EpsilonGreedy(epsilon=0.1, nothing=1)",
        "nothing",
        "missing.npz",
        "EpsilonGreedy(",
    ],
)
def test_a_text_is_read_and_never_run(tmp_path, decisions, text):
    """Names of policies, numbers and texts: anything else is a problem with the input."""
    url = filled(tmp_path, decisions[:50], [])
    result = evaluate(url, "--window", "1h", "--target", text)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output


def test_a_log_that_contradicts_itself_ends_with_2(tmp_path, decisions):
    """Overridden after the draw: every tenth explored action was replaced by the model's own, and logged as drawn."""
    explored = [one for one in decisions if one.action != one.greedy]
    for one in explored[::2]:
        one.action, one.propensity = one.greedy, float(one.pmf[one.greedy])
    url = filled(tmp_path, decisions, rewarded(decisions))
    result = evaluate(url, "--window", "1h")
    assert result.exit_code == 2
    assert "integrity: FAILED" in result.output
    assert "believe no estimate" in result.output
    assert json.loads(evaluate(url, "--window", "1h", "--json").stdout)["groups"][0]["integrity"]["ok"] is False


def test_what_was_really_shown_counts(tmp_path, decisions):
    """The echo of one percent of the decisions says that something else was shown: the log is not to be believed."""
    feedback = [Reward(one.decision_id, one.ts + 1, 1.0, served_action=(one.action + 1) % 3) for one in decisions[:30]]
    feedback += [Reward(one.decision_id, one.ts + 1, 0.0, served_action=one.action) for one in decisions[30:]]
    result = evaluate(filled(tmp_path, decisions, feedback), "--window", "1h")
    assert result.exit_code == 2
    assert "30 overridden" in result.output
    assert "1.00% of 3000 rows showed something else" in result.output
    assert "of 2,970 decisions" in result.output


def test_too_little_overlap_is_said(tmp_path):
    """A policy that never does what was logged: no estimate is to be trusted, and the line says why."""
    seen = decided(gr.EpsilonGreedy(0.01), 2000)
    url = filled(tmp_path, seen, rewarded(seen))
    ids = np.array([one.decision_id for one in seen])
    np.savez(tmp_path / "third.npz", decision_id=ids, action=np.full(2000, 2))
    result = evaluate(url, "--window", "1h", "--target", tmp_path / "third.npz", "--estimator", "snips")
    assert "no estimate by weights is to be trusted" in result.output


def test_rankings_by_position(tmp_path):
    """The sum over positions of what each item earned, weighed by its probability there; and the loop."""
    policy = gr.exploration.PoolInjection(0.5, slots=2)
    scores, rng = np.array([0.9, 0.7, 0.3, 0.1]), np.random.default_rng(0)
    now, seen, rewards = decided(gr.EpsilonGreedy(0.1), 1)[0].ts, [], []
    for number in range(2000):
        numbers = rng.random(16).tolist()
        ranked = policy.sample(scores, lambda count, numbers=numbers: numbers[:count])
        given = {
            "pmf": ranked.marginals,
            "served": list(ranked.order),
            "propensity": ranked.propensity,
            "scores": scores,
        }
        given |= {"policy": repr(policy), "kind": "ranking", "eligible": True}
        seen.append(Decision(f"{number:032x}", now + number * 1e-3, "rank", "primary", **given))
        rewards += [
            Reward(f"{number:032x}", now + 5, 1.0, slot=slot)
            for slot, item in enumerate(ranked.order)
            if rng.random() < [0.5, 0.3, 0.1, 0.9][item]
        ]
    url = filled(tmp_path, seen, rewards)
    told = document(
        url, "--window", "1h", "--target", "greedy", "--target", repr(policy), "--loop", "--estimator", "ips"
    )
    found, logged = targets(told), join_store(url, window="1h")
    own = np.array([0, 1])
    weight = [(np.array(served) == own) / pmf.diagonal() for served, pmf in zip(logged.served, logged.pmf, strict=True)]
    expected = float((np.array(weight) * np.array(logged.slot_reward)).sum() / 2000)
    assert found["greedy", "ips"]["value"] == pytest.approx(expected)
    assert found["greedy", "ips"]["low"] < 0.8 < found["greedy", "ips"]["high"]
    assert found[repr(policy), "ips"]["value"] == pytest.approx(told["groups"][0]["on_policy"]["value"])
    assert told["groups"][0]["on_policy"]["value"] == pytest.approx(logged.reward.mean())
    assert told["groups"][0]["loop"]["greedy"]["coverage"] == 0.5
    assert told["groups"][0]["integrity"] is None
    assert "loop: 2000 decisions over 4 items" in evaluate(url, "--window", "1h", "--loop").output
    refused = evaluate(url, "--window", "1h", "--estimator", "dr")
    assert (refused.exit_code, "ips or snips" in refused.output) == (1, True)


def test_excluded_candidates_are_not_the_targets_either(tmp_path):
    """A policy is judged without the candidates that were not to be had: it explores among the others."""
    seen = decided(gr.EpsilonGreedy(0.4), 400, exclude=lambda features: [0])
    url = filled(tmp_path, seen, rewarded(seen))
    logged = join_store(url, window="1h")
    assert logged.excluded[0] == [0]
    done = judge(logged, [target_of("EpsilonGreedy(0.4)")], ["ips"])
    assert done.judged[0].estimate.value == pytest.approx(logged.reward.mean())
    assert done.judged[0].overlap.max_weight == pytest.approx(1.0)


def test_values_by_density(tmp_path):
    """A policy with a density is judged; the model's own value by itself has none."""
    policy = gr.exploration.TruncatedGaussian(1.0, low=0.0, high=10.0)
    rng, now = np.random.default_rng(0), decided(gr.EpsilonGreedy(0.1), 1)[0].ts
    seen, rewards = [], []
    for number in range(1500):
        value = float(policy.sample(5.0, float(rng.random())))
        given = {"scores": 5.0, "served": value, "propensity": float(policy.pdf(5.0, value)), "policy": repr(policy)}
        seen.append(Decision(f"{number:032x}", now, "bid", "primary", kind="value", eligible=True, **given))
        rewards.append(Reward(f"{number:032x}", now + 1, float(value > 5.0)))
    url = filled(tmp_path, seen, rewards)
    narrow = "TruncatedGaussian(0.5, low=0.0, high=10.0)"
    told = targets(document(url, "--window", "1h", "--target", narrow, "--target", "logged"))
    assert told[repr(target_of(narrow)), "snips"]["value"] == pytest.approx(0.5, abs=0.06)
    refused = evaluate(url, "--window", "1h", "--target", "greedy")
    assert (refused.exit_code, "density" in refused.output) == (1, True)
    assert evaluate(url, "--window", "1h").exit_code == 0


def test_problems_with_the_input_end_with_1(tmp_path, decisions):
    """Also where an option is missing or wrong: 2 means a broken log."""
    url = filled(tmp_path, decisions[:100], [])
    for arguments, said in [
        ((url,), "Missing option '--window'"),
        ((url, "--window", "1h", "--estimator", "best"), "ips, snips"),
        ((url, "--window", "1h", "--nothing"), "No such option"),
        ((f"sqlite:///{tmp_path}/none.db", "--window", "1h"), "holds no decisions"),
        ((url, "--window", "1h", "--target", "RejectRate(0.5, 0.1)"), "kind 'choice'"),
    ]:
        result = evaluate(*arguments)
        assert (result.exit_code, said in result.output) == (1, True), result.output
    (tmp_path / "plain").mkdir()
    unexplored = filled(tmp_path / "plain", [Decision("0" * 32, 1.0, "rank", "primary")], [])
    result = evaluate(unexplored, "--window", "1h")
    assert (result.exit_code, "cannot be known" in result.output) == (1, True)
