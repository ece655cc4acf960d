"""Drawn actions, decisions and values come as often as their probabilities say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from guardrails.exploration import draw
from guardrails.exploration.policies import (
    EpsilonGreedy,
    ExploreFirst,
    Floor,
    GaussianThompson,
    RandomisedCutoff,
    RejectRate,
    Softmax,
    SquareCB,
    TruncatedGaussian,
    UniformMixture,
    Votes,
)
from guardrails.exploration.randomness import uniform

KEY = b"0123456789abcdef0123456789abcdef"
ALPHA = 1e-4
FEWEST = 5.0

POLICIES = {
    "epsilon greedy": lambda scores: EpsilonGreedy(0.3).pmf(scores),
    "another greedy": lambda scores: EpsilonGreedy(0.3).pmf(scores, greedy=1),
    "explore set": lambda scores: EpsilonGreedy(0.3, explore={0: 1.0, 1: 3.0}).pmf(scores),
    "explore first": lambda scores: ExploreFirst(10).pmf(scores, seen=9),
    "softmax": lambda scores: Softmax(0.7).pmf(scores),
    "square": lambda scores: SquareCB(20.0).pmf(scores),
    "votes": lambda scores: Votes().pmf(np.round(5 * np.clip(scores - scores.min(), 0.0, 1e300)) + 1),
    "thompson": lambda scores: GaussianThompson(0.5).pmf(scores),
    "floor": lambda scores: Floor(Softmax(0.2), minimum=0.002).pmf(scores),
}
SCORES = {
    "ties": lambda actions: np.repeat([0.4, 0.6], [actions - actions // 2, actions // 2]),
    "spread": lambda actions: np.random.default_rng(actions).normal(size=actions),
    "huge": lambda actions: 1e300 * np.random.default_rng(actions).normal(size=actions),
}


def p_value(counts, expected):
    """Chi-square with cells of small expectation pooled; impossible cells have to be empty."""
    counts, expected = np.asarray(counts), np.asarray(expected)
    assert counts[expected == 0].sum() == 0
    large = expected >= FEWEST
    counts = np.append(counts[large], counts[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    if expected[-1] < FEWEST:  # too little is left for a cell of its own
        at = expected[:-1].argmin()
        counts[at] += counts[-1]
        expected[at] += expected[-1]
        counts, expected = counts[:-1], expected[:-1]
    return 1.0 if len(counts) == 1 else chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("spread", SCORES)
@pytest.mark.parametrize("actions", [2, 10, 200])
@pytest.mark.parametrize("policy", POLICIES)
def test_actions_are_drawn_as_often_as_the_policy_says(policy, actions, spread):
    """10^5 draws of ten actions, 2 * 10^4 of two and of 200, each for a decision of its own."""
    draws = 100_000 if actions == 10 else 20_000
    pmf = POLICIES[policy](SCORES[spread](actions)).tolist()
    drawn = [draw(pmf, f"{policy}/{spread}/{actions}/{at}", KEY) for at in range(draws)]
    assert p_value(np.bincount(drawn, minlength=actions), draws * np.array(pmf)) > ALPHA


def test_wrong_probabilities_are_seen():
    """The test above can fail: draws from epsilon-greedy as it is often logged, with epsilon / (K - 1)."""
    pmf = EpsilonGreedy(0.3).pmf(np.arange(10.0))
    drawn = [draw(pmf, f"decision-{at}", KEY) for at in range(100_000)]
    wrong = np.append(np.full(9, 0.3 / 9), 0.7)
    assert p_value(np.bincount(drawn, minlength=10), 100_000 * wrong) < ALPHA


@pytest.mark.parametrize("score", [0.0, 0.45, 0.52, 0.6])
@pytest.mark.parametrize("policy", [RandomisedCutoff(0.6, 0.2), RandomisedCutoff(0.6, 0.2, 0.3), RejectRate(0.6, 0.05)])
def test_applicants_are_accepted_as_often_as_the_policy_says(policy, score):
    """10^5 applicants of one score."""
    pmf = policy.pmf(score)
    drawn = [draw(pmf, f"{policy}/{score}/{at}", KEY) for at in range(100_000)]
    assert p_value(np.bincount(drawn, minlength=2), 100_000 * pmf) > ALPHA


@pytest.mark.parametrize("prediction", [0.5, 0.97, 1.0, -0.4, 3.0])
@pytest.mark.parametrize("policy", [TruncatedGaussian(0.1, 0.0, 1.0), UniformMixture(0.2, 0.1, 0.0, 1.0)])
def test_values_have_their_density(policy, prediction):
    """10^5 values in 40 bins, whose probabilities are the integrals of the density."""
    drawn = policy.sample(prediction, [uniform(f"{policy}/{prediction}/{at}", KEY) for at in range(100_000)])
    edges = np.quantile(drawn, np.linspace(0, 1, 41))[1:-1].round(4)
    edges = np.unique(np.concatenate([[0.0], edges, [1.0]]))
    counts = np.histogram(drawn, edges)[0]
    nodes, weights = np.polynomial.legendre.leggauss(400)
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    masses = [half * (w * policy.pdf(prediction, middle + half * x)) for x, w in zip(nodes, weights, strict=True)]
    assert p_value(counts, 100_000 * np.sum(masses, axis=0)) > ALPHA


@pytest.mark.parametrize("prediction", [2.0, 0.5, 9.0])
@pytest.mark.parametrize(
    "policy", [TruncatedGaussian(0.4, 0.99, 4.99, step=0.5), UniformMixture(0.2, 0.6, 0.99, 4.99, step=0.5)]
)
def test_steps_come_as_often_as_the_policy_says(policy, prediction):
    """10^5 rounded values."""
    drawn = policy.sample(prediction, [uniform(f"{policy}/{prediction}/{at}", KEY) for at in range(100_000)])
    counts = (drawn[:, None] == policy.grid).sum(axis=0)
    assert counts.sum() == len(drawn)
    assert p_value(counts, 100_000 * policy.pdf(prediction, policy.grid)) > ALPHA
