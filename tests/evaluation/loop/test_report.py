"""report(): a log of choices or rankings, greedy beside shown, and lambda where the log had an experiment in it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from guardrails.decisions.joined.join import join
from guardrails.evaluation.loop import coverage, gini, homogenisation, report
from guardrails.exploration import EpsilonGreedy
from guardrails.exploration.rankings import Boost, PoolInjection

K, SLOTS = 40, 3
BOOST = Boost(4.0, salt="report")


def choice_row(at, scores, greedy, action, epsilon=0.3, **more):
    """A decision as the store has it."""
    policy = EpsilonGreedy(epsilon)
    pmf = policy.pmf(np.asarray(scores))
    return {
        "decision_id": f"d{at:05}", "ts": float(at), "api": "rank", "kind": "choice", "policy": repr(policy),
        "eligible": True, "scores": json.dumps(list(scores)), "pmf": json.dumps(pmf.tolist()), "greedy": int(greedy),
        "action": int(action), "propensity": float(pmf[action]), **more,
    }  # fmt: skip


def choices(n=400, seed=0):
    """Choices among K, with their rewards."""
    rng = np.random.default_rng(seed)
    rows, rewards = [], []
    for at in range(n):
        scores = rng.normal(size=K) + np.arange(K) / 4
        greedy = int(scores.argmax())
        action = int(rng.integers(K)) if rng.random() < 0.3 else greedy
        rows.append(choice_row(at, scores.tolist(), greedy, action))
        rewards.append({"decision_id": rows[-1]["decision_id"], "ts": at + 1.0, "reward": float(action % 2)})
    return join(rows, rewards, window="1h", now=1e9)


def ranking_rows(score_of, n=4000, seed=1, names=None, model=None):
    """Lists of `PoolInjection` over a catalogue whose scores change with the share of the log that has passed."""
    rng = np.random.default_rng(seed)
    policy = PoolInjection(0.3, slots=SLOTS, boost=BOOST)
    rows = []
    for at in range(n):
        scores = score_of(at / n)
        ranked = policy.sample(scores, lambda count: rng.random(3)[:count].tolist(), items=names)
        rows.append({
            "decision_id": f"d{at:05}", "ts": float(at), "api": "rank", "kind": "ranking", "policy": repr(policy),
            "eligible": True, "scores": scores.tolist(), "served": list(ranked.order), "propensity": ranked.propensity,
            "pmf": ranked.marginals.tolist(), "actions": names, "model": model(at / n) if model else None,
        })  # fmt: skip
    return rows


def learned(exponent, start=50.0):
    """Scores of a model that learns exposure to the power ``exponent``: the boosted rise by it as the log goes on."""
    quality = np.random.default_rng(7).uniform(0.9, 1.1, K)
    quality[:SLOTS] += start  # the model's own list, for ever
    boosted = BOOST.boosted(range(K))
    return lambda passed: quality * np.where(boosted, BOOST.factor ** (exponent * min(1.0, 1.2 * passed)), 1.0)


def test_choices_greedy_and_shown_side_by_side():
    """Every figure is that of the arrays, for the model's own choices and for those shown."""
    logged = choices()
    loop = report(logged, tail=range(30))
    own, shown = (np.bincount(column, minlength=K) for column in (logged.greedy, logged.action))
    assert loop.greedy.coverage == coverage(own)
    assert loop.shown.gini == gini(shown)
    assert loop.greedy.tail_share == pytest.approx(own[:30].sum() / 400)
    assert loop.explored == loop.differs == pytest.approx(logged.differs.mean())
    assert loop.mechanical_gini == pytest.approx((1 - loop.explored) * loop.greedy.gini)
    assert (loop.decisions, loop.left_out, loop.items) == (400, 0, K)
    assert loop.gain is None
    assert "no item was boosted" in loop.no_gain


def test_rates_use_the_past_of_the_log():
    """Popularity is of the first half, rewards are of the second; explored ones are told apart."""
    logged = choices()
    rates = report(logged).rates
    assert rates.greedy_n.sum() + rates.explored_n.sum() == 200
    assert rates.explored_n.sum() == logged.differs[200:].sum()
    assert rates.items.sum() == K
    past = np.bincount(logged.action[:200], minlength=K)
    top = past > rates.edges[-1]
    second = logged.select(np.arange(200, 400))
    mine = top[second.action] & ~second.differs
    assert rates.greedy[-1] == pytest.approx(second.reward[mine].mean())


def test_segments_are_compared():
    """Two segments that are shown the same are alike, two that are not are not."""
    scores = np.eye(4).tolist()
    rows = [choice_row(at, scores[at % 2], at % 2, at % 2) for at in range(40)]
    logged = join(rows, [], window="1h", now=1e9)
    assert report(logged, segments=np.arange(40) % 2).greedy.homogenisation == 0.0
    assert report(logged, segments=np.arange(40) // 20).greedy.homogenisation == 1.0
    assert report(logged, segments=np.arange(40) % 2).greedy.homogenisation == homogenisation([[0], [1]])
    assert math.isnan(report(logged).greedy.homogenisation)
    with pytest.raises(ValueError, match="one for each"):
        report(logged, segments=[0, 1])


def test_what_says_nothing_is_left_out():
    """Fallbacks have no choice of the model in them; they are counted, and change nothing."""
    logged = choices()
    rows = [{"decision_id": f"f{at}", "ts": float(at), "api": "rank", "propensity": 1.0} for at in range(10)]
    rows += [choice_row(at, [0.1, 0.9], 1, 1) for at in range(50)]
    loop = report(join(rows, [], window="1h", now=1e9))
    assert (loop.decisions, loop.left_out) == (50, 10)
    nothing = join(rows[:10], [], window="1h", now=1e9)
    with pytest.raises(ValueError, match="says what the model itself chose"):
        report(nothing)
    with pytest.raises(ValueError, match="choose no items"):
        report(replace(logged, kind="value"))


def test_names_and_a_larger_catalogue():
    """Items may be named, and the catalogue may know more of them than the log."""
    names = ["a", "b", "c"]
    rows = [choice_row(at, [0.1, 0.9, 0.5], 1, at % 3, actions=json.dumps(names)) for at in range(30)]
    logged = join(rows, [], window="1h", now=1e9)
    assert report(logged).greedy.coverage == pytest.approx(1 / 3)
    loop = report(logged, items=[*names, "d"], tail=["c", "d"])
    assert (loop.greedy.coverage, loop.shown.coverage) == (0.25, 0.75)
    assert loop.shown.tail_share == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="'c'"):
        report(logged, items=["a", "b"])
    with pytest.raises(ValueError, match="'z'"):
        report(logged, tail=["z"])


def test_candidates_may_differ_from_decision_to_decision():
    """Counts and mean scores are by name, whoever else stood for election."""
    rows = [
        choice_row(at, [0.9, 0.1], 0, 0, actions=json.dumps(["a", "b"] if at % 2 else ["c", "b"])) for at in range(20)
    ]
    loop = report(join(rows, [], window="1h", now=1e9))
    assert loop.items == 3
    assert loop.greedy.coverage == pytest.approx(2 / 3)


@pytest.mark.parametrize("exponent", [0.0, 1.0, -0.5])
def test_lambda_from_the_log_alone(exponent):
    """The experiment is read from the policy's text, start and end from the log, and lambda is what was built in."""
    logged = join(ranking_rows(learned(exponent)), [], window="1h", now=1e9)
    loop = report(logged)
    assert loop.gain.value == pytest.approx(exponent, abs=0.05)
    assert loop.gain.factor == 4.0
    assert loop.gain.items <= K - SLOTS
    assert loop.no_gain is None
    assert loop.explored < loop.differs  # one place of three


def test_lambda_by_name_and_by_hand():
    """Boosted items are found by their ids, and an experiment the text does not name can be given."""
    names = [f"song-{at}" for at in range(K)]
    boosted = BOOST.boosted(names)
    rows = ranking_rows(
        lambda passed: np.where(boosted, 4.0 if passed > 0.5 else 1.0, 1.0) + np.arange(K)[::-1] / 1e3, names=names
    )
    logged = join(rows, [], window="1h", now=1e9)
    assert report(logged).gain.value == pytest.approx(1.0, abs=0.05)
    unnamed = replace(logged, policy=["Mine(weights=lambda x: x)"] * len(logged))
    assert "no item was boosted" in report(unnamed).no_gain
    assert report(unnamed, boost=BOOST).gain == report(logged).gain


def test_items_the_model_shows_by_itself_do_not_count():
    """What is in the model's lists at the start is left out; which model that was is known where models are named."""
    rows = ranking_rows(learned(1.0), n=500, model=lambda passed: "songs:1" if passed < 0.3 else "songs:2")
    loop = report(join(rows, [], window="1h", now=1e9))
    own = {at for row in rows[:150] for at in np.argsort(-np.array(row["scores"]), kind="stable")[:SLOTS].tolist()}
    assert loop.gain.items == K - len(own)
    tail = range(10, K)
    assert report(join(rows, [], window="1h", now=1e9), tail=tail).gain.items == K - 10


def test_counts_are_compared_with_what_they_were():
    """Scores that add up have a history; what came since is what the boost did."""

    def scores(passed):
        old = np.random.default_rng(3).uniform(100, 900, K)
        old[:SLOTS] += 1e6
        return old + 1000 * passed * np.where(BOOST.boosted(range(K)), 4.0, 1.0)

    logged = join(ranking_rows(scores), [], window="1h", now=1e9)
    assert report(logged, adds_up=True).gain.value == pytest.approx(1.0, abs=0.05)
    assert report(logged).gain.value < 0.9


def test_why_there_is_no_lambda():
    """Scores without a logarithm are no error of the report: it says why, and the rest stands."""
    loop = report(join(ranking_rows(lambda passed: -np.arange(1.0, K + 1)), [], window="1h", now=1e9))
    assert loop.gain is None
    assert "above 0" in loop.no_gain
    assert loop.greedy.coverage == pytest.approx(SLOTS / K)


def test_rewards_by_position_of_rankings():
    """Each place's reward belongs to the song that stood there; without rewards by place there are no rates."""
    rows = ranking_rows(learned(0.0), n=200)
    rewards = [{"decision_id": row["decision_id"], "ts": row["ts"] + 1, "reward": 1.0, "slot": 0} for row in rows]
    loop = report(join(rows, rewards, window="1h", now=1e9))
    assert loop.rates.greedy_n.sum() + loop.rates.explored_n.sum() == 300
    assert report(join(rows, [], window="1h", now=1e9)).rates is None


def test_it_can_be_printed_and_sent():
    """The document is plain JSON without NaN, and the text has a line for each figure."""
    rows = ranking_rows(learned(1.0), n=300)
    rewards = [{"decision_id": row["decision_id"], "ts": row["ts"] + 1, "reward": 1.0, "slot": 1} for row in rows]
    loop = report(join(rows, rewards, window="1h", now=1e9))
    document = json.loads(json.dumps(loop.document(), allow_nan=False))
    assert document["greedy"]["tail_share"] is None
    assert document["gain"]["value"] == loop.gain.value
    assert len(document["rates"]["items"]) == len(loop.rates)
    text = str(loop)
    assert "loop gain: +" in text
    for name, own, shown in loop.rows():
        assert any(line.startswith(name) and own in line and shown in line for line in text.splitlines())
    assert "tail share" not in text
