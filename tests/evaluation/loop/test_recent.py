"""What the status page tells of the loop: from both ends of the log, within bounds."""

import time

import numpy as np
import pytest

import guardrails as gr
from guardrails.decisions.stores.store import DecisionStore
from guardrails.decisions.writer import DecisionLog
from guardrails.evaluation.loop import recent as module
from guardrails.evaluation.loop.recent import recent


@pytest.fixture
def url(tmp_path):
    """A store with 400 explored choices and 50 lists."""
    where = f"sqlite:///{tmp_path}/d.db"
    log = DecisionLog(DecisionStore(where))
    scores = np.random.default_rng(0).random((1, 6))

    @gr.explore(gr.EpsilonGreedy(0.3), decisions=log)
    def choose(rows: np.ndarray) -> np.ndarray:
        return scores

    @gr.explore(gr.exploration.PoolInjection(0.5, slots=2), decisions=log)
    def rank(rows: np.ndarray) -> np.ndarray:
        return scores

    for number in range(400):
        choose(np.zeros((1, 2)))
        if number % 8 == 0:
            rank(np.zeros((1, 2)))
    log.close()
    return where


def test_each_explored_method_has_its_report(url):
    """By its name; and from when to when."""
    found = recent(url)
    assert {name: known["decisions"] for name, known in found.items()} == {"choose": 400, "rank": 50}
    assert found["choose"]["greedy"]["coverage"] == pytest.approx(1 / 6)
    assert found["choose"]["shown"]["coverage"] == 1.0
    assert time.time() - 60 < found["rank"]["from"] < found["rank"]["until"] < time.time()


def test_of_too_many_decisions_both_ends_are_read(url):
    """The loop gain compares the beginning with the end."""
    whole, part = recent(url)["choose"], recent(url, most=100)["choose"]
    assert 60 < part["decisions"] < 100
    assert (part["from"], part["until"]) == (whole["from"], whole["until"])


def test_memory_is_bounded_by_characters(url, monkeypatch):
    """Lists of a thousand candidates are as many characters as twenty of fifty."""
    monkeypatch.setattr(module, "MOST_TEXT", 20_000)
    found = recent(url)
    assert 0 < found["choose"]["decisions"] < 150


def test_an_empty_store_has_no_reports(tmp_path):
    """And it is no error."""
    store = DecisionStore(f"sqlite:///{tmp_path}/d.db")
    store.create()
    store.close()
    assert recent(f"sqlite:///{tmp_path}/d.db") == {}
