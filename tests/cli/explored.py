"""A store as an explored service leaves it, for the commands that learn from one."""

import time

import numpy as np

import guardrails as gr
from guardrails.decisions import Reward
from guardrails.decisions.stores.store import DecisionStore

CHANCES = np.array([0.2, 0.4, 0.8])
"""How often each of three actions earns 1; the model thinks the second one best."""
KEY = "a secret of the tests: 32 bytes."


def decided(policy, rows=600, *, ago=7200.0, api="rank", **options):
    """Decisions of the real decorator, made some time ago."""
    seen = []

    @gr.explore(policy, decisions=seen.append, **options)
    def rank(features: np.ndarray) -> np.ndarray:
        return np.tile([0.1, 0.7, 0.2], (len(features), 1))

    rank(np.zeros((rows, 2)))
    for number, decision in enumerate(seen):
        decision.ts, decision.api = time.time() - ago + number * 1e-3, api
    return seen


def rewarded(decisions, seed=0, **fields):
    """Rewards one second later, to those that earned one."""
    rng = np.random.default_rng(seed)
    earned = [one for one in decisions if rng.random() < CHANCES[one.action]]
    return [Reward(one.decision_id, one.ts + 1.0, 1.0, **fields) for one in earned]


def filled(path, decisions, rewards):
    """A store with them; its URL."""
    url = f"sqlite:///{path}/decisions.db"
    store = DecisionStore(url)
    store.create()
    store.write("decision", [one.row() for one in decisions])
    store.write("reward", [one.row() for one in rewards])
    store.close()
    return url
