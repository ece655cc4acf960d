"""Replay: the key, the unit and the logged probabilities give the logged draw again, and nothing else does."""

import numpy as np
import pytest

import guardrails as gr
from guardrails.decisions.stores.store import DecisionStore
from guardrails.decisions.writer import DecisionLog
from guardrails.exploration import (
    Boost,
    EpsilonGreedy,
    Floor,
    PoolInjection,
    RejectRate,
    Softmax,
    SquareCB,
    TruncatedGaussian,
    check_probabilities,
    policy_of,
    replay,
    replay_all,
)
from guardrails.testing import strict

KEY = b"a secret of 24 bytes ok."
POLICIES = [
    EpsilonGreedy(0.3),
    Softmax(0.5),
    SquareCB(10.0),
    Floor(Softmax(0.1), minimum=0.02),
    PoolInjection(0.5, slots=2, boost=Boost(factor=4.0, share=0.5, salt="autumn")),
    RejectRate(0.5, 0.2),
    TruncatedGaussian(0.2, 0.0, 1.0),
]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """A key that outlives the process."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", KEY.decode())


def records(policy, to, n=60, unit=None):
    """Explored answers of random scores."""
    rng = np.random.default_rng(3)

    @gr.explore(policy, unit=unit, decisions=to)
    def method(rows: np.ndarray, user: object = None) -> object:
        kind = getattr(policy, "kind", "choice")
        if kind == "threshold":
            score = float(rng.random())
            return {"score": score, "accept": score >= 0.5}
        return float(rng.random()) if kind == "value" else rng.normal(size=(len(rows), 5))

    with strict():
        for number in range(n):
            method(np.zeros((1, 2)), user=number)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("unit", [None, "user"])
def test_a_stored_record_replays(policy, unit, tmp_path):
    """Every one of them, out of a database; under another key hardly any would."""
    log = DecisionLog(DecisionStore(f"sqlite:///{tmp_path}/d.db"))
    records(policy, log, unit=unit)
    log.close()
    rows = DecisionStore(f"sqlite:///{tmp_path}/d.db").read()
    assert len(rows) == 60
    done = replay_all(rows, KEY)
    assert (done.replayed, done.differing, done.skipped) == (60, (), {})
    other = replay_all(rows, b"another key of some length")
    assert (other.replayed, dict(other.skipped)) == (0, {"it was drawn with another key": 60})
    if getattr(policy, "kind", "choice") in ("choice", "threshold"):
        assert all(check_probabilities(row) for row in rows)


def test_a_record_that_was_changed_does_not_replay():
    """Another action, list or value than the key draws; and other probabilities than the policy's."""
    seen = []
    records(EpsilonGreedy(0.3), seen.append, n=20)
    seen[0].action = (seen[0].action + 1) % 5
    seen[1].pmf = np.roll(seen[1].pmf, 1)
    assert not replay(seen[0], KEY)
    assert not check_probabilities(seen[1])
    assert seen[0].decision_id in replay_all(seen, KEY).differing
    lists, values = [], []
    records(PoolInjection(0.5, slots=2), lists.append, n=1)
    lists[0].served = lists[0].served[::-1]
    records(TruncatedGaussian(0.2, 0.0, 1.0), values.append, n=1)
    values[0].served += 1e-6
    assert replay_all([*lists, *values], KEY).replayed == 2
    assert len(replay_all([*lists, *values], KEY).differing) == 2


def test_what_cannot_be_replayed_says_why():
    """Nothing drawn; a policy whose weights were a function."""
    seen = []
    records(EpsilonGreedy(0.3), seen.append, n=1)
    seen[0].eligible = False
    with pytest.raises(ValueError, match="nothing was drawn"):
        replay(seen[0], KEY)
    seen.clear()
    records(PoolInjection(0.5, slots=2, weights=lambda items: np.ones(len(items))), seen.append, n=1)
    with pytest.raises(ValueError):
        replay(seen[0], KEY)
    assert replay_all(seen, KEY).replayed == 0


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_policys_repr_spells_it(policy):
    """What a record says of its policy makes it again."""
    assert policy_of(repr(policy)) == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "EpsilonGreedy",
        "epsilon",
        "__import__('os').system('true')",
        "EpsilonGreedy(open('x'))",
        "EpsilonGreedy(0.1).pmf([1])",
        "EpsilonGreedy(epsilon=0.1, gamma=2)",
        "EpsilonGreedy(" * 500,
        "gr.EpsilonGreedy(0.1)",
        "Cap(3)",
        "explore(1)",
        "EpsilonGreedy(lambda: 1)",
    ],
)
def test_what_spells_no_policy_is_refused_and_nothing_is_evaluated(text):
    """A sentence, not a traceback of the parser's."""
    with pytest.raises(ValueError):
        policy_of(text)
