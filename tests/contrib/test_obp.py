"""Logged decisions as the Open Bandit Pipeline has them: its estimates by their plain formulas are ours."""

from dataclasses import replace

import numpy as np
import pytest

from guardrails.contrib.obp import to_obp
from guardrails.evaluation.off_policy.estimators import ips, snips
from guardrails.exploration.rankings import PlackettLuce
from tests.contrib.logs import choices, rankings, values


def test_inverse_propensity_scores_from_the_dictionary():
    """As OBP computes them from ``bandit_feedback`` and an action distribution ``(n, K, 1)``: IPW and SNIPW."""
    logged = choices(500)
    feedback = to_obp(logged)
    rounds = np.arange(feedback["n_rounds"])
    action_dist = np.zeros((feedback["n_rounds"], feedback["n_actions"], 1))
    action_dist[:, 2, 0] = 1.0
    weight = action_dist[rounds, feedback["action"], feedback["position"]] / feedback["pscore"]
    expected = (logged.action == 2).astype(float)
    assert (weight * feedback["reward"]).mean() == ips(logged.reward, logged.propensity, expected).value
    ratio = (weight * feedback["reward"]).mean() / weight.mean()
    assert ratio == pytest.approx(snips(logged.reward, logged.propensity, expected).value, rel=1e-12)
    behaviour = feedback["pi_b"][rounds, feedback["action"], feedback["position"]]
    assert behaviour.tolist() == feedback["pscore"].tolist()
    assert feedback["pi_b"].sum(axis=1) == pytest.approx(1.0)
    assert feedback["action_context"].shape == (3, 3)
    assert feedback["context"] is None  # these features are names


def test_what_cannot_be_learned_from_is_left_out_and_counted():
    """Overridden decisions, and those nothing was drawn for."""
    logged = choices(20)
    logged.overridden[:5] = True
    logged.eligible[5:8] = False
    feedback = to_obp(logged)
    assert (feedback["n_rounds"], feedback["n_dropped"]) == (12, 8)


def test_candidates_that_differ_are_numbered_over_all_their_names():
    """An action keeps its number, whatever list it stood in."""
    logged = choices(40)
    names = [["x", "y", "z"] if number % 2 else ["z", "w", "x"] for number in range(40)]
    feedback = to_obp(replace(logged, actions=names))
    assert feedback["n_actions"] == 4
    told = [feedback["action_names"][action] for action in feedback["action"]]
    assert told == [listed[action] for listed, action in zip(names, logged.action, strict=True)]
    rounds = np.arange(40)
    assert feedback["pi_b"][rounds, feedback["action"], 0].tolist() == logged.propensity.tolist()
    assert feedback["pi_b"].sum(axis=1) == pytest.approx(1.0)


def test_numeric_features_are_the_context():
    """Shape (n, d)."""
    feedback = to_obp(choices(10, features=[1.0, 2.0]))
    assert feedback["context"].tolist() == [[1.0, 2.0]] * 10


def test_slates():
    """One entry for each position: its own reward, the list's probability, the item's at its position."""
    logged = rankings(50)
    feedback = to_obp(logged)
    assert (feedback["n_rounds"], feedback["len_list"], feedback["n_unique_action"]) == (50, 2, 5)
    assert feedback["slate_id"].tolist() == [number for number in range(50) for _ in range(2)]
    assert feedback["position"].tolist() == [0, 1] * 50
    assert feedback["action"].tolist() == [item for served in logged.served for item in served]
    assert feedback["reward"].tolist() == [earned for slots in logged.slot_reward for earned in slots]
    assert feedback["pscore"].tolist() == [p for p in logged.propensity for _ in range(2)]
    assert feedback["pscore_item_position"].tolist() == [p for pmf in logged.pmf for p in pmf.diagonal()]
    assert "pscore_cascade" not in feedback  # pool injection does not fill one slot after the other


def test_slates_of_plackett_luce_have_cascades():
    """Their last one is the probability of the list, and marginals are made up for from the scores."""
    policy = PlackettLuce(temperature=0.5, slots=2)
    logged = rankings(30, policy=policy)
    assert all(pmf.size == 0 for pmf in logged.pmf)
    feedback = to_obp(logged)
    cascade = feedback["pscore_cascade"].reshape(30, 2)
    assert cascade[:, 1] == pytest.approx(logged.propensity, rel=1e-9)
    first = policy.pmf(logged.scores[0])[0]
    assert cascade[:, 0] == pytest.approx(first[[served[0] for served in logged.served]], rel=1e-7)
    marginal = feedback["pscore_item_position"].reshape(30, 2)
    assert marginal[:, 0] == pytest.approx(cascade[:, 0], rel=1e-7)
    assert (marginal[:, 1] >= cascade[:, 1]).all()
    strange = replace(logged, propensity=logged.propensity * 0.5)
    assert "pscore_cascade" not in to_obp(strange)  # not what this policy gives for these scores


def test_values_have_densities():
    """OBP's continuous form."""
    logged = values(30)
    feedback = to_obp(logged)
    assert feedback["action"].tolist() == logged.served
    assert feedback["pscore"].tolist() == logged.propensity.tolist()
    assert feedback["position"] is None


def test_what_does_not_fit_is_refused():
    """Lists of several lengths, rewards of whole lists, a probability of zero."""
    logged = rankings(4)
    with pytest.raises(ValueError, match="a slot"):
        to_obp(replace(logged, slot_reward=None))
    short = replace(logged, served=[[0], *logged.served[1:]], pmf=[np.ones((1, 1)), *logged.pmf[1:]])
    with pytest.raises(ValueError, match="2 lengths"):
        to_obp(short)
    broken = choices(4)
    broken.propensity[1] = 0.0
    with pytest.raises(ValueError, match=f"decision {broken.decision_id[1]}"):
        to_obp(broken)
