"""Logs for the exporters' tests: made by policies, so that what is written of them is so."""

import numpy as np

from guardrails.decisions import Decision, Reward
from guardrails.decisions.joined.join import join
from guardrails.exploration import EpsilonGreedy, PoolInjection, TruncatedGaussian

HOUR = 3600.0
COLOURS = ("red", "dark blue", "a:b|c")
BEST = {"red": 1, "dark blue": 2, "a:b|c": 0}


def joined(decisions, rewards, **options):
    """`join` long after."""
    return join([one.row() for one in decisions], [one.row() for one in rewards], window="1h", now=1e9, **options)


def choices(n=400, epsilon=0.4, seed=0, **fields):
    """A constant model's choices, explored: each colour has another best action."""
    rng = np.random.default_rng(seed)
    policy, scores = EpsilonGreedy(epsilon), np.array([0.1, 0.7, 0.2])
    pmf, decisions, rewards = policy.pmf(scores), [], []
    for number in range(n):
        action, colour = int(rng.choice(3, p=pmf)), COLOURS[number % 3]
        features = {"colour": colour, "size": float(rng.normal()), "_private": bool(rng.random() < 0.5), "none": None}
        given = {"scores": scores, "pmf": pmf, "greedy": 1, "action": action, "propensity": float(pmf[action])}
        given |= {"policy": repr(policy), "kind": "choice", "eligible": True, "features": features, "model": "m:v1"}
        decisions.append(Decision(f"{number:032x}", float(number), "rank", "primary", **{**given, **fields}))
        if rng.random() < (0.8 if action == BEST[colour] else 0.2):
            rewards.append(Reward(f"{number:032x}", number + 1.0, 1.0))
    return joined(decisions, rewards)


def rankings(n=200, slots=2, seed=0, policy=None):
    """Lists of some of five items, with clicks by position: the last item is the best, and the model's last."""
    rng = np.random.default_rng(seed)
    policy = policy or PoolInjection(0.5, slots=slots)
    scores, decisions, rewards = np.array([0.9, 0.7, 0.5, 0.3, 0.1]), [], []
    for number in range(n):
        numbers = rng.random(64).tolist()
        ranked = policy.sample(scores, lambda count, numbers=numbers: numbers[:count])
        given = {
            "scores": scores,
            "pmf": ranked.marginals,
            "served": list(ranked.order),
            "propensity": ranked.propensity,
        }
        given |= {"policy": repr(policy), "kind": "ranking", "eligible": True, "features": {"k": "v"}}
        name = f"{number:032x}"
        decisions.append(Decision(name, float(number), "rank", "primary", **given))
        for slot, item in enumerate(ranked.order):
            if rng.random() < (0.9 if item == 4 else 0.2):
                rewards.append(Reward(name, number + 1.0, 1.0, slot=slot))
    return joined(decisions, rewards)


def values(n=200, seed=0):
    """Bids around the model's own: higher ones win."""
    rng = np.random.default_rng(seed)
    policy = TruncatedGaussian(1.0, low=0.0, high=10.0)
    decisions, rewards = [], []
    for number in range(n):
        prediction = float(rng.uniform(2, 8))
        value = float(policy.sample(prediction, float(rng.random())))
        given = {"scores": prediction, "served": value, "propensity": float(policy.pdf(prediction, value))}
        given |= {"policy": repr(policy), "kind": "value", "eligible": True, "features": {"size": prediction}}
        decisions.append(Decision(f"{number:032x}", float(number), "bid", "primary", **given))
        rewards.append(Reward(f"{number:032x}", number + 1.0, float(value > 5)))
    return joined(decisions, rewards)
