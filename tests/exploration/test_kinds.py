"""@explore around rankings, thresholds and values: what is served is what is recorded, with its own probability."""

import os
import zlib
from collections import Counter

import numpy as np
import pytest
from pydantic import BaseModel
from scipy import stats

import guardrails as gr
from guardrails.errors import DecorationError
from guardrails.exploration import PoolInjection, RandomisedCutoff, RegretBudget, RejectRate, TruncatedGaussian
from guardrails.testing import strict

KEY = b"a secret of 24 bytes ok."
ALPHA = 1e-4
SCORES = [0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.4]
TOP = [1, 4, 3]


@pytest.fixture(autouse=True)
def key(monkeypatch, request):
    """Reproducible draws: a fixed key, and decision ids out of a seeded generator."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", KEY.decode())
    monkeypatch.setattr(os, "urandom", np.random.default_rng(zlib.crc32(request.node.name.encode())).bytes)


class Listed(BaseModel):
    """A ranked list in a field of a model."""

    items: list[str]
    title: str = "for you"


def explored(answer, policy, calls, **options):
    """Answers and records of so many calls of a method that always answers the same."""
    seen = []

    @gr.explore(policy, decisions=seen.append, **options)
    def method(rows: np.ndarray) -> object:
        return answer()

    with strict():
        return [method(np.zeros((1, 2))) for _ in range(calls)], seen


def order_of(scores):
    """The list that scores say."""
    return np.argsort(-np.asarray(scores).ravel(), kind="stable")[:3].tolist()


@pytest.mark.parametrize(
    "answer",
    [
        lambda: np.array([SCORES]),
        lambda: np.array([SCORES], dtype=np.float32),
        lambda: [list(SCORES)],
        lambda: {"scores": list(SCORES), "who": "ann"},
        lambda: {"scores": np.array([SCORES])},
        lambda: [{"scores": tuple(SCORES)}],
        lambda: {"scores": np.array([[3, 9, 1, 5, 7, 2, 4]])},
    ],
    ids=["array", "float32", "lists", "dict", "dict of (1, K)", "list of dicts", "integers"],
)
def test_a_ranking_of_scores_says_the_served_list(answer):
    """Sorted by score, the answer begins with the served list; not explored, it is the model's own object's values."""
    answers, seen = explored(answer, PoolInjection(0.6, slots=3), 200)
    lists = Counter()
    for said, decision in zip(answers, seen, strict=True):
        entry = said[0] if isinstance(said, list) and isinstance(said[0], dict) else said
        scores = entry["scores"] if isinstance(entry, dict) else entry
        assert order_of(scores) == decision.served
        assert sorted(np.asarray(scores).ravel().tolist()) == sorted(np.asarray(_scores(answer())).ravel().tolist())
        assert (decision.kind, decision.action, decision.greedy) == ("ranking", None, None)
        assert decision.eligible
        lists[tuple(decision.served)] += 1
    assert 60 < lists.total() - lists[tuple(TOP)] < 160


def _scores(answer):
    entry = answer[0] if isinstance(answer, list) and isinstance(answer[0], dict) else answer
    return entry["scores"] if isinstance(entry, dict) else entry


def test_lists_are_served_as_often_as_their_records_say():
    """Of 6,000 lists each has its propensity's share, and each candidate its position's."""
    _, seen = explored(lambda: np.array([SCORES]), PoolInjection(0.5, slots=3), 6000)
    stated = {tuple(d.served): d.propensity for d in seen}
    counts = Counter(tuple(d.served) for d in seen)
    assert abs(sum(stated.values()) - 1) < 1e-9, "13 lists, all of them seen"
    expected = [6000 * stated[one] for one in stated]
    assert stats.chisquare([counts[one] for one in stated], expected).pvalue > ALPHA
    for decision in seen[:50]:
        for i, candidate in enumerate(decision.served):
            share = np.mean([other.served[i] == candidate for other in seen])
            p = decision.pmf[i][i]
            assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 6000)


@pytest.mark.parametrize("kind", ["dict", "model", "list", "array", "rows", "entries"])
def test_a_ranked_list_gets_a_candidate_from_the_pool(kind):
    """Whatever the list stands in; the record names the candidates, and numbers the served ones."""
    own = ["a", "b", "c", "d"]
    answer = {
        "dict": lambda: {"items": list(own), "note": 1},
        "model": lambda: Listed(items=own),
        "list": lambda: list(own),
        "array": lambda: np.array(own),
        "rows": lambda: [list(own)],
        "entries": lambda: [{"ranking": tuple(own)}],
    }[kind]
    answers, seen = explored(answer, PoolInjection(0.9, slots=3), 100, pool=["b", "x", "y"])
    injected = set()
    for said, decision in zip(answers, seen, strict=True):
        entry = said[0] if kind in ("rows", "entries") else said
        items = entry.items if kind == "model" else entry
        items = (
            next(entry[name] for name in ("items", "ranking") if name in entry)
            if kind in ("dict", "entries")
            else items
        )
        assert type(said) is type(answer())
        assert decision.actions == [*own, "x", "y"]
        served = [decision.actions[i] for i in decision.served]
        assert list(items)[:3] == served
        assert len(items) == 4
        assert len(set(items)) == 4
        injected |= set(served) - set(own[:3])
    assert injected == {"d", "x", "y"}, "the fourth of the list is outside of the explored slots, too"


def test_without_a_pool_only_the_list_is_explored():
    """What else there is, nobody has said: the fourth of the list may come in, nothing else."""
    answers, _ = explored(lambda: {"items": ["a", "b", "c", "d"]}, PoolInjection(0.9, slots=3), 80)
    assert {frozenset(said["items"]) for said in answers} == {frozenset("abcd")}
    assert {said["items"].index("d") for said in answers} == {0, 1, 2, 3}


def test_the_pool_may_be_an_attribute_a_method_or_a_function_of_the_request():
    """Read at each request, because retraining changes it."""
    seen = []

    class Service:
        """With a pool."""

        def __init__(self):
            self.fresh = ["x"]

        @gr.explore(PoolInjection(1.0, slots=2), pool="fresh", decisions=seen.append)
        def recommend(self, rows: list) -> list:
            return ["a", "b"]

        @gr.explore(PoolInjection(1.0, slots=2), pool="pool_for", decisions=seen.append)
        def other(self, rows: list) -> list:
            return ["a", "b"]

        @gr.explore(PoolInjection(1.0, slots=2), pool=lambda rows: rows, decisions=seen.append)
        def third(self, rows: list) -> list:
            return ["a", "b"]

        def pool_for(self, rows):
            """By the request."""
            return ["m" + str(len(rows))]

    service = Service()
    with strict():
        assert "x" in service.recommend([1])
        service.fresh = ["y"]
        assert "y" in service.recommend([1])
        assert "m2" in service.other([1, 2])
        assert "z" in service.third(["z"])

    class Missing:
        """Without one."""

        @gr.explore(PoolInjection(1.0, slots=2), pool="fresh", decisions=seen.append)
        def recommend(self, rows: list) -> list:
            return ["a", "b"]

    missing = Missing()
    with pytest.raises(DecorationError, match="no such attribute"):
        missing.recommend([1])


def test_rows_of_a_batch_are_ranked_by_themselves():
    """One list, one draw, one record per row; fallback rows stay out."""
    seen = []
    detector = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)

    @gr.check_outliers(detector, fallback=lambda rows: np.tile(np.arange(7.0), (len(rows), 1)))
    @gr.explore(PoolInjection(0.5, slots=3), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.tile(SCORES, (len(rows), 1))

    rows = np.array([[0, 0], [99, 99], [0.1, 0]], dtype=float)
    with strict():
        answers = [rank(rows) for _ in range(60)]
    for number, answer in enumerate(answers):
        of = seen[3 * number : 3 * number + 3]
        assert [order_of(answer[at]) for at in (0, 2)] == [of[0].served, of[2].served]
        np.testing.assert_array_equal(answer[1], np.arange(7.0))
        assert (of[1].served, of[1].policy, of[1].eligible, of[1].propensity) == (None, None, False, 1.0)
    assert len({tuple(d.served) for d in seen if d.served}) > 5


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (lambda: {"score": 0.46, "accept": False}, lambda said: said["accept"]),
        (lambda: {"score": 0.46, "action": 0}, lambda said: said["action"]),
        (lambda: [{"score": 0.46, "approved": False}], lambda said: said[0]["approved"]),
    ],
    ids=["dict", "number", "rows"],
)
def test_a_cut_off_accepts_some_just_below_it(answer, read):
    """With the probability of its record; the type of the decision stays."""
    answers, seen = explored(answer, RandomisedCutoff(0.5, 0.1), 3000)
    assert [int(read(said)) for said in answers] == [decision.action for decision in seen]
    assert {type(read(said)) for said in answers} == {type(read(answer()))}
    accepted = sum(decision.action for decision in seen)
    assert abs(accepted / 3000 - 0.6) < 5 * np.sqrt(0.24 / 3000)
    assert {round(d.propensity, 9) for d in seen if d.action} == {0.6}
    assert {(d.kind, d.greedy, d.scores) for d in seen} == {("threshold", 0, 0.46)}


def test_nobody_above_the_threshold_is_refused_and_another_decision_is_not_explored():
    """One-sided; and a service that decided by something else is left alone."""
    answers, seen = explored(lambda: {"score": 0.5, "accept": True}, RejectRate(0.5, 0.05), 200)
    assert all(said["accept"] for said in answers)
    assert {(d.propensity, d.eligible) for d in seen} == {(1.0, True)}
    answers, seen = explored(lambda: {"score": 0.9, "accept": False}, RejectRate(0.5, 0.05), 50)
    assert not any(said["accept"] for said in answers)
    assert {(d.propensity, d.eligible, d.ineligible) for d in seen} == {(1.0, False, "model_choice")}


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (lambda: 9.5, lambda said: said),
        (lambda: np.float32(9.5), lambda said: said),
        (lambda: {"price": 9.5, "currency": "EUR"}, lambda said: said["price"]),
        (lambda: [9.5], lambda said: said[0]),
        (lambda: np.array([[9.5]]), lambda said: said[0, 0]),
        (lambda: [{"value": 9.5}], lambda said: said[0]["value"]),
    ],
    ids=["number", "float32", "dict", "list", "(n, 1)", "rows"],
)
def test_a_value_moves_within_its_bounds(answer, read):
    """Its density is the record's propensity; nothing piles up on a bound; the type stays."""
    policy = TruncatedGaussian(1.0, 0.0, 10.0)
    answers, seen = explored(answer, policy, 400)
    values = np.array([read(said) for said in answers], dtype=float)
    np.testing.assert_allclose(values, [d.served for d in seen], rtol=1e-6)
    assert ((values > 0) & (values < 10)).all()
    np.testing.assert_allclose([d.propensity for d in seen], policy.pdf(9.5, np.array([d.served for d in seen])))
    assert {type(said) for said in answers} <= {type(answer()), np.float64}, "never in less than double precision"
    expected = stats.truncnorm(-9.5, 0.5, 9.5, 1.0)
    assert stats.kstest([d.served for d in seen], expected.cdf).pvalue > ALPHA


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        (PoolInjection(0.9, slots=3), lambda: np.array([SCORES])),
        (RejectRate(0.5, 0.4), lambda: {"score": 0.4, "accept": False}),
        (TruncatedGaussian(1.0, 0.0, 10.0), lambda: 5.0),
    ],
    ids=["ranking", "threshold", "value"],
)
def test_in_shadow_nothing_changes_and_the_record_says_what_would_have(policy, answer):
    """enforce=False: the model's own, probability one, not eligible."""
    answers, seen = explored(answer, policy, 60, enforce=False)
    assert all(repr(said) == repr(answer()) for said in answers)
    assert {(d.propensity, d.eligible, d.ineligible) for d in seen} == {(1.0, False, "shadow")}
    assert any((d.shadow or "").startswith("explored:") for d in seen)


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        (PoolInjection(0.5, slots=3), lambda: np.array([[0.1, 0.2]])),
        (PoolInjection(0.5, slots=3), lambda: ["a", "b", "a"]),
        (PoolInjection(0.5, slots=3), lambda: {"items": "abc"}),
        (PoolInjection(0.5, slots=2), lambda: np.array([[0.1, np.nan, 0.3]])),
        (RejectRate(0.5, 0.4), lambda: {"accept": True}),
        (RejectRate(0.5, 0.4), lambda: 0.4),
        (TruncatedGaussian(1.0, 0.0, 10.0), lambda: {"text": "ten"}),
        (TruncatedGaussian(1.0, 0.0, 10.0), lambda: float("nan")),
    ],
    ids=["too few", "twice", "text", "NaN", "no score", "no decision", "no value", "NaN value"],
)
def test_what_cannot_be_explored_is_served_as_it_is(policy, answer):
    """With a record of probability one; in strict mode the reason comes out."""
    seen, own = [], []

    @gr.explore(policy, decisions=seen.append)
    def method(rows: np.ndarray) -> object:
        own.append(answer())
        return own[-1]

    for _ in range(30):
        assert method(np.zeros((1, 2))) is own[-1]
    assert {(d.propensity, d.eligible) for d in seen} == {(1.0, False)}
    with strict(), pytest.raises(ValueError):
        [method(np.zeros((1, 2))) for _ in range(30)]


def test_options_that_do_not_belong_together_are_refused_at_decoration():
    """With the fix in the message."""
    for options, words in [
        ({"policy": gr.EpsilonGreedy(0.1), "pool": ["a"]}, "pool"),
        ({"policy": RejectRate(0.5, 0.1), "exclude": [1]}, "candidates to exclude"),
        ({"policy": TruncatedGaussian(1.0, 0, 1), "budget": RegretBudget(1.0)}, "by halves"),
        ({"policy": gr.EpsilonGreedy(0.1), "cap": gr.exploration.Cap(3)}, "unit="),
        ({"policy": gr.EpsilonGreedy(0.1), "ramp": 1.5}, "ramp=1.5"),
        ({"policy": gr.EpsilonGreedy(0.1), "rules": {"adult": True}}, "adult"),
    ]:
        with pytest.raises(DecorationError, match=words):

            @gr.explore(**options)
            def method(rows: np.ndarray) -> np.ndarray:
                return rows


def test_the_options_of_the_readme_work_together():
    """The example under "Exploration", as it stands there, around a method of a service."""
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    block = text[text.index("## Exploration") :].split("```python\n")[1].split("```")[0]
    seen = []
    arguments = block.strip().removeprefix("@gr.explore(").removesuffix(")")
    decorate = eval(f"gr.explore({arguments}\ndecisions=seen)", {"gr": gr, "seen": seen.append})  # our own README

    class Service:
        """With what the example names."""

        fresh_songs = ("x", "y")

        @decorate
        def recommend(self, user_id: str, age: int) -> dict:
            return {"items": ["a", "b", "c", "d", "e"]}

    service = Service()
    with strict():
        for number in range(60):
            service.recommend(f"user {number}", 17 + number % 2)
    assert {d.ineligible for d in seen} == {None, "ramp", "rule:adult"}
    assert gr.exploration.replay_all(seen, KEY.decode()).differing == ()
    assert gr.exploration.replay_all(seen, KEY.decode()).replayed == sum(d.eligible for d in seen)


def test_a_pool_that_can_be_read_once_serves_every_request():
    """A generator is taken in when the worker starts."""
    answers, _ = explored(lambda: ["a", "b"], PoolInjection(1.0, slots=2), 30, pool=(name for name in "xy"))
    assert all({"x", "y"} & set(said) for said in answers)
