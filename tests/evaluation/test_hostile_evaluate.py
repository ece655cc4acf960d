"""Estimates from odd, tiny, clustered, mixed and poisoned logs: the textbook's, with honest intervals, or refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import guardrails as gr
from guardrails.cli.evaluate import evaluate as command
from guardrails.decisions import Decision, Logged, Reward, feedback, join, join_store
from guardrails.decisions.stores.store import DecisionStore
from guardrails.evaluation import ips, snips
from guardrails.evaluation.from_log import evaluate, integrity
from guardrails.evaluation.loop.recent import recent
from guardrails.evaluation.targets import target_of
from guardrails.exploration import (
    EpsilonGreedy,
    PoolInjection,
    RandomisedCutoff,
    Softmax,
    SwapPositions,
    TruncatedGaussian,
)

KEY = "a secret of the tests: 32 bytes."
ROWS = 200


def logged_by(decisions, rewards, **options) -> Logged:
    """The join of records, long after."""
    rows = [one.row() for one in decisions], [one.row() for one in rewards]
    return join(*rows, window="1h", now=1e10, **options)


def choice(number, action, *, epsilon=0.3, api="rank", candidates=2, **fields):
    """An explored choice, whose model prefers the first candidate."""
    pmf = np.full(candidates, epsilon / candidates)
    pmf[0] += 1 - epsilon
    known = {"scores": np.linspace(0.9, 0.1, candidates), "pmf": pmf, "greedy": 0, "action": action}
    known |= {"policy": f"EpsilonGreedy(epsilon={epsilon})", "kind": "choice", "eligible": True}
    known |= {"propensity": float(pmf[action]), **fields}
    return Decision(f"{number:032x}", float(number), api, "primary", **known)


def served(policy, answers, **options) -> list[Decision]:
    """What the real decorator records."""
    seen: list[Decision] = []

    @gr.explore(policy, decisions=seen.append, key=KEY, **options)
    def rank(rows: list, who: list) -> object:
        return rows if isinstance(rows[0], dict) else np.array(rows)

    rank(list(answers), [f"user {number % 23}" for number in range(len(answers))])
    for number, decision in enumerate(seen):
        decision.ts = time.time() - 7200 + number * 1e-3
    return seen


def through_a_store(folder: Path, decisions, rewards) -> Logged:
    """Written, given feedback, read and joined, as in life."""
    url = f"sqlite:///{folder}/d.db"
    store = DecisionStore(url)
    store.create()
    store.write("decision", [one.row() for one in decisions])
    store.close()
    for one in rewards:
        fields = {"reward": one.reward, "slot": one.slot, "decisions": url}
        assert feedback(one.decision_id, **fields) == "stored"
        assert feedback(one.decision_id, **fields) == "duplicate"
    return join_store(url, window="3h", now=time.time() + 4 * 3600)


def values(logged: Logged, targets, estimators=("ips", "snips")) -> dict[tuple[str, str], float]:
    """What is estimated, by target and estimator."""
    return {(one.target, one.estimator): one.estimate.value for one in evaluate(logged, targets, estimators).judged}


def textbook(weight, reward) -> tuple[float, float]:
    """IPS and SNIPS."""
    return float((weight * reward).mean()), float((weight * reward).sum() / weight.sum())


def assert_textbook(found, target, weight, reward, scale=1.0) -> None:
    """Both estimators are the formula's."""
    expected = textbook(weight, reward)
    assert found[target, "ips"] == pytest.approx(scale * expected[0], rel=1e-12)
    assert found[target, "snips"] == pytest.approx(scale * expected[1], rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"unit": "who"}, {"unit": "who", "ramp": 0.5}], ids=["rows", "units", "ramp"])
def test_choices_through_the_whole_path(tmp_path, options):
    """Decorator, store, feedback, join, estimate: the textbook's number, over those who were open to exploration."""
    rng = np.random.default_rng(1)
    decisions = served(EpsilonGreedy(0.4), rng.random((ROWS, 3)).round(3), **options)
    rewards = [Reward(one.decision_id, one.ts, 1.0) for one in decisions if rng.random() < 0.2 + 0.3 * one.action]
    earned = {one.decision_id for one in rewards}
    logged = through_a_store(tmp_path, decisions, rewards)
    assert len(logged) == ROWS
    target = Softmax(0.5)
    found = values(logged, ["greedy", "uniform", target])
    open_to = [one for one in decisions if one.eligible]
    assert ("ramp" in options) == (len(open_to) < ROWS)
    reward = np.array([one.decision_id in earned for one in open_to], dtype=float)
    propensity = np.array([one.propensity for one in open_to])
    soft = np.array([target.pmf(one.scores)[one.action] for one in open_to])
    assert_textbook(found, "greedy", np.array([one.action == one.greedy for one in open_to]) / propensity, reward)
    assert_textbook(found, "uniform", 1 / 3 / propensity, reward)
    assert_textbook(found, repr(target), soft / propensity, reward)
    assert integrity(logged).ok
    assert {one.estimate.method for one in evaluate(logged, ["greedy"], ["ips"]).judged} == {
        "ips, bootstrap" if "unit" in options else "ips, cressie_read"
    }


def test_thresholds_through_the_whole_path(tmp_path):
    """Accepted or refused by one score: the textbook's number, for another cut-off, too."""
    rng = np.random.default_rng(2)
    answers = [{"score": score, "accept": score >= 0.5} for score in rng.random(ROWS).tolist()]
    decisions = served(RandomisedCutoff(0.5, 0.3), answers)
    rewards = [Reward(one.decision_id, one.ts, 1.0) for one in decisions if one.action and rng.random() < one.scores]
    earned = {one.decision_id for one in rewards}
    found = values(through_a_store(tmp_path, decisions, rewards), ["greedy", RandomisedCutoff(0.4, 0.3)])
    reward = np.array([one.decision_id in earned for one in decisions], dtype=float)
    propensity = np.array([one.propensity for one in decisions])
    other = [RandomisedCutoff(0.4, 0.3).pmf(one.scores)[one.action] for one in decisions]
    assert_textbook(found, "greedy", np.array([one.action == one.greedy for one in decisions]) / propensity, reward)
    assert_textbook(found, repr(RandomisedCutoff(0.4, 0.3)), np.array(other) / propensity, reward)


def test_values_through_the_whole_path(tmp_path):
    """A number around the model's own: weights are ratios of densities, as SciPy has them."""
    from scipy.stats import truncnorm

    rng = np.random.default_rng(3)
    decisions = served(TruncatedGaussian(5.0, 0.0, 100.0), rng.uniform(10, 90, ROWS))
    rewards = [Reward(one.decision_id, one.ts, 1 - abs(one.served - 50) / 50) for one in decisions]
    found = values(through_a_store(tmp_path, decisions, rewards), ["logged", TruncatedGaussian(4.0, 0.0, 100.0)])
    value = np.array([one.served for one in decisions])
    own = np.array([float(np.ravel(one.scores)[0]) for one in decisions])
    each = [truncnorm.pdf(value, -own / sd, (100 - own) / sd, own, sd) for sd in (4.0, 5.0)]
    assert_textbook(found, repr(TruncatedGaussian(4.0, 0.0, 100.0)), each[0] / each[1], 1 - abs(value - 50) / 50)


def test_rankings_through_the_whole_path(tmp_path):
    """Clicks by position: the item-position model's number, from the matrix of positions in the record."""
    rng = np.random.default_rng(4)
    decisions = served(PoolInjection(0.4, slots=3), rng.random((ROWS, 6)).round(3))
    clicks = [(one, slot) for one in decisions for slot in range(3) if rng.random() < 0.1 * (one.served[slot] + 1)]
    rewards = [Reward(one.decision_id, one.ts, 1.0, slot=slot) for one, slot in clicks]
    logged = through_a_store(tmp_path, decisions, rewards)
    given = {(one.decision_id, slot) for one, slot in clicks}
    reward = np.array([[(one.decision_id, slot) in given for slot in range(3)] for one in decisions], dtype=float)
    assert logged.reward.tolist() == reward.sum(axis=1).tolist()
    own = [np.argsort(-np.asarray(one.scores), kind="stable")[:3] == np.array(one.served) for one in decisions]
    weight = np.array(own) / np.array([np.asarray(one.pmf).diagonal() for one in decisions])
    assert_textbook(values(logged, ["greedy"]), "greedy", weight.ravel(), reward.ravel(), scale=3.0)


def test_a_policy_the_log_could_not_have_written_is_doubted():
    """Rankings have no probabilities of all candidates: that something is missing is told by the weights' mean."""
    rng = np.random.default_rng(5)
    decisions = served(SwapPositions(0.4, slots=3), rng.random((ROWS, 6)).round(3))
    rewards = [Reward(one.decision_id, one.ts + 1, 1.0, slot=0) for one in decisions]
    done = evaluate(logged_by(decisions, rewards), ["greedy", "uniform"], ["ips"])
    greedy, uniform = (one.estimate for one in done.judged)
    assert not any("instead of 1" in text for text in greedy.warnings)
    assert any("instead of 1" in text for text in uniform.warnings)


def test_two_methods_are_never_one_mixture():
    """What one method decides is not weighed by what another one's policy would have done with it."""
    decisions, rewards = [], []
    for api, epsilon, earns in (("a", 0.1, 1.0), ("b", 0.5, 0.0)):
        for number in range(400):
            action = int(number < 400 * epsilon / 2)
            decisions.append(choice(len(decisions), action, epsilon=epsilon, api=api))
            rewards.append(Reward(decisions[-1].decision_id, decisions[-1].ts, earns))
    found = values(logged_by(decisions, rewards), ["greedy", "uniform"])
    assert found == pytest.approx(dict.fromkeys(found, 0.5))


def test_two_policies_of_one_method_are_one_mixture():
    """Balanced weights, by hand: 1 / (half of .95 + half of .75) for the model's own choice."""
    decisions = [
        choice(0, 0, epsilon=0.1),
        choice(1, 0, epsilon=0.5),
        choice(2, 1, epsilon=0.1),
        choice(3, 1, epsilon=0.5),
    ]
    rewards = [Reward(one.decision_id, one.ts, 1.0) for one in decisions[:2]]
    assert values(logged_by(decisions, rewards), ["greedy"])["greedy", "ips"] == pytest.approx(2 / 0.85 / 4)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_tiny_log_is_judged_and_not_believed(rows):
    """One, two or three decisions give an estimate, and an interval that nearly all values are in."""
    decisions = [choice(number, 0) for number in range(rows)]
    done = evaluate(logged_by(decisions, [Reward(one.decision_id, one.ts, 1.0) for one in decisions]))
    assert {one.estimator for one in done.judged} == ({"snips", "dr"} if rows == 3 else {"snips"})
    assert done.on_policy.low <= 0.3
    assert all(one.estimate.low <= 0.3 for one in done.judged if one.estimator == "snips")
    if rows < 3:
        with pytest.raises(ValueError, match="dr needs a reward model"):
            evaluate(logged_by(decisions, []), estimators=["dr"])


def test_a_log_of_one_unit_is_judged():
    """All of one user: nothing to cross-fit over, nothing known beyond that user."""
    decisions = [choice(number, 0, unit="u" * 32) for number in range(9)]
    done = evaluate(logged_by(decisions, [Reward(one.decision_id, one.ts, 1.0) for one in decisions]))
    assert {one.estimator for one in done.judged} == {"snips"}
    assert all(one.estimate.high - one.estimate.low > 0.9 for one in done.judged if one.target == "greedy")


@pytest.mark.parametrize("earned", [0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 5, 20, 100])
def test_certainty_takes_more_than_equal_rewards(rows, earned):
    """Rewards that are all alike leave what the exact binomial interval leaves, and no less."""
    from scipy.stats import beta

    low, high = (beta.ppf(0.025, rows, 1), 1.0) if earned else (0.0, beta.ppf(0.975, 1, rows))
    ones = np.ones(rows)
    for estimate in (ips(ones * earned, ones, ones), snips(ones * earned, ones, ones, interval="bootstrap")):
        assert (estimate.low, estimate.high) == pytest.approx((low, high))


@pytest.mark.parametrize("chance", [0.005, 0.01, 0.02, 0.98])
def test_intervals_of_rare_rewards_cover(chance):
    """Of 100 decisions, where many logs hold no reward at all, the intervals of all logs hold the truth nine in ten."""
    from scipy.stats import binom

    ones, covered = np.ones(100), 0.0
    for count in range(101):
        estimate = ips((np.arange(100) < count).astype(float), ones, ones)
        covered += binom.pmf(count, 100, chance) * (estimate.low <= chance <= estimate.high)
    assert covered > 0.9


def test_any_weights_give_numbers_in_order_or_a_sentence():
    """Rewards and propensities across all magnitudes: an ordered interval, or a ValueError, and nothing else."""
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(600):
        n = int(rng.integers(1, 9))
        reward, target = rng.choice([0.0, 1.0, -1.0, 5.0, 1e9, 1e-9], n), rng.choice([0.0, 1.0, 0.5, 1e-12], n)
        propensity = rng.choice([1.0, 0.5, 1e-3, 1e-12, 1e-60, 1e-90], n)
        unit = rng.integers(0, 3, n) if rng.random() < 0.3 else None
        for estimator in (ips, snips):
            try:
                estimate = estimator(reward, propensity, target, unit=unit, on_low_overlap="ignore")
            except ValueError as error:
                refused += "cannot be right" in str(error)
            else:
                assert estimate.low <= estimate.high
    assert refused


def test_uniform_does_without_what_is_excluded():
    """A candidate that must not be served is none of those that uniform serves."""
    decisions = []
    for number in range(40):
        action = int(number % 4 == 0)
        pmf = [0.75, 0.25, 0.0]
        decisions.append(choice(number, action, candidates=3, pmf=pmf, propensity=pmf[action], excluded=[2]))
    done = evaluate(logged_by(decisions, [Reward(one.decision_id, one.ts, 1.0) for one in decisions]), ["uniform"])
    assert done.judged[0].estimate.value == pytest.approx(1.0)
    assert done.judged[0].overlap.unsupported == 0.0


def test_one_clients_number_does_not_stop_the_evaluation():
    """An integer of hundreds of digits, which JSON allows, is no feature; the others' estimate is."""
    decisions = [choice(number, number % 2, features=[1.0, 10**400 if number == 3 else 2.0]) for number in range(12)]
    assert np.isfinite(list(values(logged_by(decisions, []), ["greedy"], ["dr"]).values())).all()


def test_days_of_a_unit_are_told_of():
    """A unit keeps its draw for a day: over several days, the intervals' assumption is said."""
    decisions = [choice(number, 0, unit=f"{number // 2:032x}") for number in range(8)]
    assert not any("a day each" in note for note in evaluate(logged_by(decisions, [])).notes)
    decisions[-1].ts += 2 * 86_400
    assert any("a day each" in note for note in evaluate(logged_by(decisions, [])).notes)


@pytest.mark.parametrize("name", ["broken.npz", "empty.npz", "broken.parquet"])
def test_a_broken_file_is_no_target(tmp_path, name):
    """A file that is none is named, whatever its name says."""
    pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 no archive" if name.startswith("broken") else b"")
    with pytest.raises(ValueError, match="cannot be read"):
        target_of(str(path))


def test_the_command_on_a_log_of_two(tmp_path):
    """Two decisions are told of, as JSON, with the exit code 0."""
    url = f"sqlite:///{tmp_path}/d.db"
    store = DecisionStore(url)
    store.create()
    store.write("decision", [choice(number, number).row() for number in range(2)])
    store.close()
    done = CliRunner().invoke(command, [url, "--window", "1h", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert document["groups"][0]["decisions"] == 2


def test_a_look_at_the_loop_reads_no_more_than_fits(tmp_path, monkeypatch):
    """Lists of many candidates fill the memory before the number of decisions does: their text is counted."""
    url, now = f"sqlite:///{tmp_path}/d.db", time.time()
    store = DecisionStore(url)
    store.create()
    decisions = [choice(number, 0, candidates=100) for number in range(50)]
    for number, one in enumerate(decisions):
        one.ts = now - 100 + number
    store.write("decision", [one.row() for one in decisions])
    store.close()
    assert recent(url)["rank"]["decisions"] == 50
    monkeypatch.setattr("guardrails.evaluation.loop.recent.MOST_TEXT", 40_000)
    assert 0 < recent(url)["rank"]["decisions"] < 40
