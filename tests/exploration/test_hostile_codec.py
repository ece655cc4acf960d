"""Answers of every make: what a client gets is what the record says, and the model's own object stays as it was."""

import copy
import os
import uuid
import zlib
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
from pydantic import BaseModel

import guardrails as gr
from guardrails.exploration import PoolInjection, RandomisedCutoff, TruncatedGaussian
from guardrails.exploration.codec import serve

KEY = "a secret of 24 bytes ok."
SCORES = [0.1, 0.7, 0.2, 0.4]
NUMBER = TruncatedGaussian(deviation=1.0, low=0.0, high=100.0)
LISTS = PoolInjection(0.5, slots=2)
CUT = RandomisedCutoff(threshold=0.5, width=0.5)


class Named(NamedTuple):
    """Three scores with names."""

    a: float
    b: float
    c: float


class Flat(list):
    """A list of somebody's own."""


class Answer(BaseModel):
    """An answer for one row."""

    scores: tuple[float, ...]
    label: str = "jazz"


@pytest.fixture(autouse=True)
def key(monkeypatch, request):
    """Reproducible draws."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", KEY)
    monkeypatch.setattr(os, "urandom", np.random.default_rng(zlib.crc32(request.node.name.encode())).bytes)


def calls(make, policy=None, n=60, rows=1, **options):
    """Answers, the model's own objects and the records of so many calls."""
    seen, own, answers = [], [], []

    @gr.explore(policy or gr.EpsilonGreedy(0.5), decisions=seen.append, **options)
    def model(features):
        own.append(make())
        return own[-1]

    answers = [model(np.zeros((rows, 2))) for _ in range(n)]
    return answers, own, seen


def same(one, other):
    """Whether two answers are alike to the bit, whatever they are made of."""
    if isinstance(one, BaseModel):
        return type(one) is type(other) and same(one.model_dump(), other.model_dump())
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(same(one[at], other[at]) for at in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "iloc"):
        return type(one) is type(other) and one.equals(other)
    return type(one) is type(other) and np.array_equal(np.asarray(one), np.asarray(other), equal_nan=False)


def frame():
    """Scores of three rows."""
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame([SCORES] * 3)


CHOICES = {
    **{
        f"array of {kind}": lambda kind=kind: np.array([[3, 9, 5, 1]], dtype=kind)
        for kind in ("f2", "f4", "f8", ">f4", "i1", "u1", "i8", "u8", "g")
    },
    "flags": lambda: np.array([[False, True, False, False]]),
    "huge whole numbers": lambda: np.array([[2**53, 2**53 + 1, 0, 1]]),
    "infinite": lambda: np.array([[-np.inf, np.inf, 0.0, 1e308]]),
    "all the same": lambda: np.array([[0.5, 0.5, 0.5, 0.5]]),
    "all infinite": lambda: np.array([[np.inf] * 4]),
    "all minus infinity": lambda: np.array([[-np.inf] * 4]),
    "Fortran order": lambda: np.asfortranarray([SCORES]),
    "read only": lambda: np.broadcast_to(np.array(SCORES), (1, 4)),
    "list of whole numbers": lambda: [3, 9, 5, 1],
    "tuple": lambda: tuple(SCORES),
    "named tuple": lambda: Named(0.1, 0.7, 0.2),
    "list of one's own": lambda: Flat(SCORES),
    "model with a tuple": lambda: Answer(scores=SCORES),
    "ordered mapping": lambda: OrderedDict(scores=list(SCORES), action=1),
    "masked array": lambda: np.ma.masked_array([SCORES], mask=[[0, 0, 1, 0]]),
    "flags, alike": lambda: [True, True, False],
    "array of flags, alike": lambda: np.array([[True, True, False]]),
    "bytes at their most": lambda: np.array([[255, 255, 3]], dtype=np.uint8),
}


def scores_in(answer):
    """The scores of the one row in an answer."""
    if isinstance(answer, dict):
        answer = answer["scores"]
    return np.asarray(answer.scores if isinstance(answer, BaseModel) else answer).ravel()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("shape", CHOICES)
def test_whoever_reads_the_answer_finds_the_recorded_action(shape):
    """Its argmax; and the type, the other entries and the model's own object are as ever."""
    answers, own, seen = calls(CHOICES[shape])
    assert len(seen) == 60
    for answer, mine, decision in zip(answers, own, seen, strict=True):
        assert same(mine, CHOICES[shape]())
        assert type(answer) is type(mine)
        if decision.action is None or decision.action == decision.greedy:
            assert answer is mine
        else:
            assert int(scores_in(answer).argmax()) == decision.action
            assert decision.propensity == decision.pmf[decision.action]
        if isinstance(answer, np.ndarray):
            assert answer.dtype == mine.dtype
        decision.row()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("shape", CHOICES)
def test_whether_a_draw_is_recorded_does_not_depend_on_what_was_drawn(shape):
    """An answer nobody can write back is not explored. Were only its differing draws lost, the rest would be biased."""
    _, _, seen = calls(CHOICES[shape])
    eligible = [decision for decision in seen if decision.eligible]
    assert len(eligible) in (0, 60) or len(eligible) < 15, "eligible until the first failure, if at all"


@pytest.mark.parametrize("columns", ["numbers", "names"])
def test_a_frame_is_served_as_a_frame(columns):
    """Explored properly, or not at all: never a list of column names."""
    own = frame()
    if columns == "names":
        own.columns = list("abcd")
    answers, _, seen = calls(lambda: own, rows=3)
    assert len(seen) in (60, 180)
    for answer in answers:
        assert type(answer) is type(own)
        assert answer.shape == own.shape
    if all(decision.action is None for decision in seen):
        assert all(answer is own for answer in answers)
    else:
        served = np.concatenate([answer.to_numpy().argmax(axis=1) for answer in answers])
        assert served.tolist() == [decision.action for decision in seen]


def test_a_series_stays_a_series():
    """Explored properly, or not at all."""
    pandas = pytest.importorskip("pandas")
    answers, own, seen = calls(lambda: pandas.Series(SCORES))
    assert all(type(answer) is type(own[0]) for answer in answers)
    assert all(d.action is None or d.action == a.to_numpy().argmax() for a, d in zip(answers, seen, strict=True))


@pytest.mark.parametrize(
    "action",
    [lambda n: [1] * n, lambda n: np.ones(n, dtype=int), lambda n: tuple([1] * n)],
    ids=["list", "array", "tuple"],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_actions_of_a_batch_agree_with_its_scores(action, rows):
    """One field of scores, one of actions, a row each: both say who is served, or nothing is explored."""
    answers, _, seen = calls(lambda: {"scores": np.tile(SCORES, (rows, 1)), "action": action(rows)}, rows=rows)
    records = iter(seen)
    for answer in answers:
        for row in range(rows):
            decision = next(records, None)
            if decision is not None and decision.action is not None:
                assert answer["action"][row] == decision.action
                assert answer["scores"][row].argmax() == decision.action or decision.action == answer["action"][row]


def test_an_apply_that_answers_nothing_changes_nothing():
    """Whoever changes a copy and forgets to return it must not empty the response."""
    answers, own, seen = calls(lambda: np.array([SCORES]), apply=lambda *_: None)
    assert all(answer is mine for answer, mine in zip(answers, own, strict=True))
    assert all(decision.action in (None, decision.greedy) for decision in seen)


@pytest.mark.parametrize("off", [False, True], ids=["on", "off"])
def test_an_apply_may_change_what_it_is_given(off, monkeypatch, tmp_path):
    """The most natural one does, and returns it: what is served is what is recorded still."""
    (tmp_path / "off").write_text("")
    if off:
        monkeypatch.setenv("GUARDRAILS_EXPLORATION_SWITCH", str(tmp_path / "off"))

    def apply(answer, row, own, served):
        answer["picked"] = served
        return answer

    def logits(answer):
        return answer["logits"]

    answers, _, seen = calls(lambda: {"picked": 1, "logits": SCORES}, scores=logits, apply=apply)
    served = [1 if decision.action is None else decision.action for decision in seen]
    assert [answer["picked"] for answer in answers] == served
    assert not off or set(served) == {1}


def test_an_apply_that_changes_what_it_is_given_and_then_fails_leaves_the_models_answer():
    """Half a change is none."""

    def apply(answer, row, own, served):
        answer["picked"] = served
        raise RuntimeError("no")

    answers, _, seen = calls(lambda: {"picked": 1, "logits": SCORES}, scores=lambda a: a["logits"], apply=apply)
    assert all(answer["picked"] == 1 for answer in answers)
    assert all(decision.action in (None, 1) for decision in seen)


def test_an_apply_that_fails_is_not_explored_by_halves():
    """Its draws would be recorded exactly where they changed nothing."""

    def apply(answer, row, own, served):
        raise RuntimeError("no")

    answers, own, seen = calls(lambda: np.array([SCORES]), apply=apply)
    assert all(answer is mine for answer, mine in zip(answers, own, strict=True))
    assert sum(decision.eligible for decision in seen) < 15


def test_longer_numbers_than_floats_can_be_recorded():
    """What is drawn can be written down, and is what JSON can hold."""
    _, _, seen = calls(lambda: np.array([SCORES], dtype=np.longdouble))
    assert all(isinstance(decision.row()["decision_id"], str) for decision in seen)


VALUES = {
    "half": lambda: np.float16(50.3),
    "single": lambda: np.float32(50.3),
    "halves": lambda: np.array([50.3], dtype=np.float16),
    "singles": lambda: np.array([50.3], dtype=np.float32),
    "whole number": lambda: 50,
    "NumPy's whole number": lambda: np.int64(50),
    "whole numbers": lambda: np.array([50]),
    "mapping of NumPy's": lambda: {"price": np.int64(50)},
    "mapping": lambda: {"value": 50.0},
    "mapping of an array": lambda: {"value": np.array([50.0], dtype=np.float32)},
    "flag": lambda: np.bool_(True),
    "list": lambda: [50],
    "column": lambda: np.array([[50.0]]),
}


@pytest.mark.parametrize("shape", VALUES)
def test_the_recorded_value_is_the_one_that_was_served(shape):
    """To the bit, rounded as the answer's own type rounds it, with the density there; within the range."""
    answers, _, seen = calls(VALUES[shape], NUMBER, n=40)
    for answer, decision in zip(answers, seen, strict=True):
        got = next(iter(answer.values())) if isinstance(answer, dict) else answer
        got = float(np.asarray(got).ravel()[0])
        if decision.eligible:
            assert got == decision.served
            assert 0.0 <= got <= 100.0
            assert decision.propensity == pytest.approx(float(NUMBER.pdf(decision.scores, got)), rel=1e-9)


@pytest.mark.parametrize(
    "answer",
    [
        {"score": 0.3, "decision": "reject"},
        {"score": 0.3, "label": "0"},
        {"score": 0.3, "label": 2},
        {"score": 0.3, "accept": 0.0},
        {"score": 0.3},
        {"score": [0.3], "approved": [False]},
        {"score": [0.3, 0.9, 0.2], "accept": [False, True, False]},
    ],
    ids=str,
)
def test_a_refusal_is_never_recorded_as_an_acceptance(answer):
    """What a decision is not plainly read from is not explored, and nothing is said of it."""
    answers, own, seen = calls(lambda: copy.deepcopy(answer), CUT)
    assert sum(decision.eligible for decision in seen) < 15
    assert all(got is mine for got, mine in zip(answers, own, strict=True))
    assert all(decision.action in (None, 0) for decision in seen if len(seen) == 60)


def test_entries_may_name_their_decisions_differently():
    """Each entry by its own field, or none at all."""
    own = [{"score": 0.3, "accept": False}, {"score": 0.9, "decision": 1}]
    answers, _, seen = calls(lambda: copy.deepcopy(own), CUT, rows=2)
    for number, answer in enumerate(answers):
        second = seen[2 * number + 1] if len(seen) == 120 else None
        assert answer[1] == own[1]
        assert second is None or second.action in (None, 1)


@pytest.mark.parametrize(
    ("own", "pool"),
    [
        (["a", "b"], ["song-123", "song-456"]),
        ([b"a", b"b"], [b"song-123"]),
        (np.array([11, 12], dtype=np.int8), [300, 301]),
        (np.array([11, 12], dtype=np.int8), [2**62]),
    ],
    ids=["text", "bytes", "small numbers", "huge numbers"],
)
def test_a_name_from_the_pool_is_served_whole(own, pool):
    """However narrow the model's own array is."""
    answers, _, seen = calls(lambda: np.array(own), LISTS, pool=pool)
    for answer, decision in zip(answers, seen, strict=True):
        if decision.served is not None:
            assert answer.tolist() == [decision.actions[at] for at in decision.served]


def test_a_name_from_the_pool_is_served_whole_in_a_batch():
    """Row by row."""
    answers, _, seen = calls(lambda: {"ranking": np.array([["a", "b"], ["c", "d"]])}, LISTS, pool=["song-123"], rows=2)
    for number, answer in enumerate(answers):
        for row in range(2):
            decision = seen[2 * number + row]
            if decision.served is not None:
                assert list(answer["ranking"][row]) == [decision.actions[at] for at in decision.served]


def of_objects(*names):
    """An array of anything, one entry each."""
    array = np.empty(len(names), dtype=object)
    for at, name in enumerate(names):
        array[at] = name
    return array


NAMED = {
    "unsigned": (np.array([2**63 + 1, 2**63 + 3], dtype=np.uint64), [2**63 + 5, 7]),
    "small unsigned": (np.array([11, 12], dtype=np.uint64), [300]),
    "signed, and one that is not": (np.array([2**60 + 1, 2**60 + 3]), [2**63 + 5]),
    "texts and a number": (of_objects("a", "b"), [7]),
    "a text and a number": (of_objects("a", 7), ["c"]),
    "numbers and a text": (np.array([11, 12]), ["c"]),
    "pairs": (of_objects(("a", 1), ("b", 2)), [("c", 3)]),
    "bytes": (of_objects(b"a", b"b"), [b"cc"]),
}


@pytest.mark.parametrize("nested", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("names", NAMED)
def test_names_in_arrays_stay_what_they_are(names, nested):
    """7 is no "7" and no 7.0, and numbers beyond 2**53 are not rounded; or nothing is explored at all."""
    own, pool = NAMED[names]

    def make():
        return np.stack([own, own[::-1]]) if nested else own.copy()

    answers, _, seen = calls(make, LISTS, pool=pool, rows=2 if nested else 1)
    records = iter(seen)
    for answer in answers:
        for row in answer if nested else [answer]:
            decision = next(records)
            if decision.served is not None:
                served = [decision.actions[at] for at in decision.served]
                assert row.tolist() == served
                assert list(map(type, row.tolist())) == list(map(type, served))
    assert sum(decision.eligible for decision in seen) in (0, len(seen))


@pytest.mark.parametrize(
    "pool",
    [lambda _: np.array(["x", "y"]), lambda _: iter(["x", "y"]), lambda _: ("x", "y")],
    ids=["array", "iterator", "tuple"],
)
def test_any_pool_serves_every_row(pool):
    """An array has no truth value, and an iterator is used up by the first row."""
    _, _, seen = calls(lambda: [["a", "b"], ["c", "d"]], LISTS, pool=pool, rows=2)
    assert len(seen) == 120
    for decision in seen:
        assert decision.actions[2:] == ["x", "y"]


@pytest.mark.parametrize("name", [uuid.UUID(int=7).__class__, bytes], ids=["UUID", "bytes"])
def test_candidates_of_any_name_can_be_recorded(name):
    """What cannot be stored must not be explored: its record would be lost."""
    names = [uuid.UUID(int=at) if name is uuid.UUID else b"%d" % at for at in range(3)]
    _, _, seen = calls(lambda: list(names[:2]), LISTS, pool=names[2:])
    assert all(decision.row()["decision_id"] for decision in seen)


KINDS = ("f2", "f4", "f8", "g", "i1", "u1", "i8", "?")


def most(kind):
    """The largest number of a type."""
    kind = np.dtype(kind)
    if kind.kind == "b":
        return 1
    return np.finfo(kind).max if kind.kind == "f" else np.iinfo(kind).max


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scores", ["different", "ties", "at the most"])
def test_sorted_scores_are_the_recorded_list(kind, scores):
    """Of every type of number; what cannot be told apart is not explored by halves."""
    given = {"different": [3, 2, 1, 0], "ties": [1, 1, 1, 1, 0], "at the most": [most(kind)] * 3 + [0]}[scores]
    answers, own, seen = calls(lambda: np.array([given], dtype=kind), LISTS)
    for answer, mine, decision in zip(answers, own, seen, strict=True):
        assert same(mine, np.array([given], dtype=kind))
        if decision.served is not None:
            order = sorted(range(len(given)), key=lambda at: (-answer[0, at].item(), at))
            assert order[:2] == decision.served
        decision.row()
    eligible = sum(decision.eligible for decision in seen)
    assert eligible == 60 or eligible < 15


def test_serve_leaves_what_it_is_given():
    """Every part of a nested answer: serving writes into copies only."""
    inner = np.array([SCORES, SCORES])
    answer = {"scores": inner, "meta": {"at": [1]}, "action": None}
    served = serve(answer, 1, 1, 3)
    assert served["scores"].argmax(axis=1).tolist() == [1, 3]
    assert inner.argmax(axis=1).tolist() == [1, 1]
    assert served is not answer
    assert answer["scores"] is inner
