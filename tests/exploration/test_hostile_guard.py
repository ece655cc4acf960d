"""The guard against odd options, units, rules, threads and clocks: what is logged is the probability it was served by."""

import copy
import dataclasses
import json
import os
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import guardrails as gr
from guardrails.core.pipeline import pipeline_of
from guardrails.errors import DecorationError
from guardrails.exploration import (
    Cap,
    EpsilonGreedy,
    ExploreFirst,
    PoolInjection,
    RandomisedCutoff,
    RegretBudget,
    Softmax,
    TruncatedGaussian,
    check_probabilities,
    draw,
    policy_of,
    replay,
    replay_all,
)
from guardrails.exploration import switch as switching
from guardrails.exploration.exposure import Exposure
from guardrails.serving.exploring import command_exploration

KEY = b"a secret of 24 bytes ok."
ALPHA = 1e-4
SCORES = [0.1, 0.7, 0.2, 0.4]


@pytest.fixture(autouse=True)
def key(monkeypatch, request):
    """Reproducible draws."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", KEY.decode())
    monkeypatch.setattr(os, "urandom", np.random.default_rng(zlib.crc32(request.node.name.encode())).bytes)


def explored(policy=None, answer=None, **options):
    """A method of rows and users, and its records."""
    seen = []

    @gr.explore(policy or EpsilonGreedy(0.5), decisions=seen.append, **options)
    def model(rows, users=None):
        return np.tile(SCORES, (len(rows), 1)) if answer is None else answer()

    return model, seen


def one():
    """One request's rows."""
    return np.zeros((1, 2))


# Rules and exclusions are vetoes: none may be lost.


def test_of_two_rules_of_one_name_both_hold():
    """Two lambdas are both called <lambda>."""
    with suppress(DecorationError):  # refused at decoration is as good
        model, seen = explored(rules=[lambda *_: False, lambda *_: True])
        for _ in range(20):
            model(one())
        assert not any(decision.eligible for decision in seen)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("answer", [None, "no", float("nan"), 0, [], object(), iter([False])], ids=repr)
def test_a_rule_says_true_or_it_does_not_hold(answer):
    """What is neither true nor false is no permission."""
    model, seen = explored(rules={"rule": lambda *_: answer})
    for _ in range(20):
        model(one())
    assert not any(decision.eligible for decision in seen)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_rule_that_would_have_to_be_awaited_is_no_permission():
    """A coroutine is truthy, whatever it would have said."""

    async def never(rows, users=None):
        return False

    with suppress(DecorationError):
        model, seen = explored(rules=[never])
        for _ in range(20):
            model(one())
        assert not any(decision.eligible for decision in seen)


MASK = [False, False, False, True]


@pytest.mark.parametrize(
    "exclude",
    [MASK, tuple(MASK), np.array(MASK), [3], {3}, np.array([3]), (np.int64(3),), lambda *_: MASK, lambda *_: [3]],
    ids=lambda option: type(option).__name__,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_excluded_candidate_is_never_explored_to(exclude):
    """Told by a mask or by its number, in whatever collection; the others are."""
    model, seen = explored(exclude=exclude)
    for _ in range(120):
        model(one())
    assert Counter(decision.action for decision in seen).keys() == {0, 1, 2}
    assert all(decision.pmf[3] == 0.0 for decision in seen)
    assert all(check_probabilities(decision) and replay(decision, KEY) for decision in seen)
    assert repr(pipeline_of(model).guards[0])


@pytest.mark.parametrize("exclude", [{"song-3"}, [99], [-1], [1.5]], ids=str)
def test_an_exclusion_of_nobody_is_not_passed_over(exclude):
    """A slip of the pen in a list of what must not be shown: an error, and nothing is explored."""
    model, seen = explored(exclude=exclude)
    for _ in range(40):
        model(one())
    assert not any(decision.eligible for decision in seen)


def test_an_explore_set_keeps_its_numbers_among_excluded_ones():
    """What is left is renumbered for the policy, which knows actions by their numbers."""
    model, seen = explored(EpsilonGreedy(0.5, explore=[2, 3]), exclude={0})
    for _ in range(200):
        model(one())
    assert Counter(decision.action for decision in seen).keys() == {1, 2, 3}
    assert all(check_probabilities(decision) and replay(decision, KEY) for decision in seen)


@pytest.mark.parametrize(
    "options",
    [
        {"cap": 3, "unit": "users"},
        {"budget": 0.5},
        {"ramp": "0.5"},
        {"rules": lambda *_: True},
        {"rules": "allowed"},
        {"exclude": 5},
        {"exclude": "blocked"},
        {"switch": 5},
        {"unit": 5},
    ],
    ids=str,
)
def test_an_option_of_another_type_is_refused_with_a_word_on_it(options):
    """At decoration or where the method is bound: not by a limit that silently does not hold."""
    with pytest.raises(DecorationError, match=next(iter(options))):
        explored(**options)[0](one(), "u")


@pytest.mark.parametrize("answers", [2.5, float("nan"), "3", 0, -1])
def test_a_cap_is_a_whole_number_of_answers(answers):
    """2.0 may pass for 2."""
    with pytest.raises(DecorationError):
        Cap(answers)


# Caps and budgets


@pytest.mark.parametrize("cap", [1, 3])
def test_a_cap_holds_within_a_batch(cap):
    """A hundred rows of one user in one request."""
    for user in range(12):
        model, seen = explored(answer=lambda: np.tile([0.7] + [0.1] * 40, (100, 1)), unit="users", cap=Cap(cap))
        model(np.zeros((100, 2)), [f"u{user}"] * 100)
        assert sum(decision.action != decision.greedy for decision in seen) <= cap
        assert all(decision.eligible or decision.ineligible == "cap" for decision in seen)


def test_a_cap_holds_among_threads():
    """Sixteen requests of one user at once."""

    class Slow(EpsilonGreedy):
        """Takes its time between the question whether and the draw."""

        def pmf(self, scores, /, greedy=None):
            time.sleep(0.002)
            return super().pmf(scores, greedy)

    model, seen = explored(Slow(0.5), unit="users", cap=Cap(2))
    for user in range(6):
        together = threading.Barrier(16)

        def go(user=user, together=together):
            together.wait()
            model(one(), f"u{user}")

        threads = [threading.Thread(target=go) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 96
    assert max(Counter(decision.unit for decision in seen if decision.action != decision.greedy).values()) <= 2


def test_a_cap_does_not_count_requests_that_failed():
    """A place that was taken is given back, whatever happened after: else a user is capped for ever."""

    class Nobody:
        """A unit that cannot be spelled."""

        def __str__(self):
            raise RuntimeError("no")

    model, seen = explored(unit="users", cap=Cap(1))
    for _ in range(3):
        model(np.zeros((2, 2)), ["somebody", Nobody()])
    model(np.zeros((2, 2)), ["somebody", "somebody else"])
    assert [decision.ineligible for decision in seen[-2:]] == [None, None]


@pytest.mark.parametrize("kind", ["i1", "u1", "i8", "f2", "f4", "f8", "?"])
def test_a_budget_holds_for_scores_of_every_type(kind):
    """What 100 less -100 is does not fit 8 bits."""
    low = 0 if np.dtype(kind).kind in "ub" else -100
    scores = np.array([[1 if kind == "?" else 100, low]], dtype=kind)
    budget = RegretBudget(1e-6, burst=1.0)
    model, seen = explored(answer=lambda: scores, budget=budget)
    for _ in range(200):
        model(one())
    given_up = sum(
        float(d.scores[d.greedy]) * d.pmf[1 - d.greedy] - low * d.pmf[1 - d.greedy] for d in seen if d.pmf is not None
    )
    assert 0.0 < given_up < 1.01
    assert all(decision.policy for decision in seen)


def test_a_budget_is_not_upset_by_a_candidate_that_cannot_be_shown():
    """A score of -inf has probability zero under Softmax: it costs nothing."""
    model, seen = explored(Softmax(1.0), answer=lambda: np.array([[0.1, 0.7, -np.inf]]), budget=RegretBudget(1e9))
    for _ in range(20):
        model(one())
    assert all(decision.eligible and decision.strength == 1.0 for decision in seen)


def test_a_budgets_frequencies_are_its_propensities():
    """Half way through the bucket, too: inverse propensities of the explored actions add up to the number of calls."""
    model, seen = explored(budget=RegretBudget(300.0, burst=1.0))
    for _ in range(6000):
        model(one())
    shares = {action: np.array([d.pmf[action] for d in seen]) for action in range(4)}
    assert len({d.strength for d in seen}) > 10
    for action, pmf in shares.items():
        hits = sum(d.action == action for d in seen)
        assert abs(hits - pmf.sum()) < 4.5 * max(np.sqrt((pmf * (1 - pmf)).sum()), 1.0)


# Units


@pytest.mark.parametrize(
    "missing", [None, "", float("nan"), np.float32("nan"), np.float16("nan"), np.datetime64("NaT")]
)
def test_a_missing_unit_is_never_explored(missing):
    """However it says that it is missing."""
    model, seen = explored(unit="users")
    for _ in range(10):
        model(one(), missing)
    assert {decision.ineligible for decision in seen} == {"unit"}
    assert all(decision.propensity == 1.0 and decision.unit is None for decision in seen)


def test_one_user_is_one_user_in_whatever_type():
    """7, "7", NumPy's 7 and its text: JSON, a path and a data frame each bring another."""
    model, seen = explored(unit="users")
    for unit in (7, "7", np.int64(7), np.uint8(7), np.str_("7"), [7], np.array(["7"]), np.array([7])):
        model(one(), unit)
    assert len({decision.unit for decision in seen}) == 1


def test_a_column_of_units_has_one_for_each_row():
    """A Series is one entry a row, as everywhere else."""
    pandas = pytest.importorskip("pandas")
    model, seen = explored(unit="users")
    model(np.zeros((3, 2)), ["a", "b", "c"])
    model(np.zeros((3, 2)), pandas.Series(["a", "b", "c"], index=[7, 8, 9]))
    units = [decision.unit for decision in seen]
    assert len(set(units[:3])) == 3
    assert units[3:] == units[:3] or {decision.ineligible for decision in seen[3:]} <= {"unit", None}
    assert units[3:] == units[:3] or not any(decision.eligible for decision in seen[3:])


@pytest.mark.parametrize(
    "unit", ["\ud800", "x" * 1_000_000, "\0", "é", b"\xff"], ids=["surrogate", "long", "0", "é", "b"]
)
def test_any_text_is_a_unit(unit):
    """JSON brings lone surrogates: one odd user must not keep a batch from being explored."""
    model, seen = explored(unit="users")
    model(np.zeros((2, 2)), [unit, "somebody"])
    assert [decision.policy is not None for decision in seen] == [True, True]
    assert seen[1].eligible
    assert all(decision.unit is None or len(decision.unit) == 32 for decision in seen)


def test_two_methods_do_not_share_a_users_random_number():
    """Else whoever is explored by one would be by the other, and their effects could not be told apart."""
    found = []
    for name in ("first", "second"):
        seen = []

        def model(users, /):
            return np.array([SCORES])

        model.__name__ = name
        guarded = gr.explore(EpsilonGreedy(0.5), unit="users", decisions=seen.append)(model)
        for user in range(600):
            guarded(f"u{user}")
        found.append([decision.action != decision.greedy for decision in seen])
    assert stats.fisher_exact(np.histogram2d(*np.array(found, dtype=float), bins=2)[0]).pvalue > ALPHA


# What is recorded


def test_one_answer_for_several_rows_is_left_alone(profile):
    """Three rows were read and one row of scores came back: there is no row each to record."""
    seen = []

    @gr.check_outliers(profile, fallback=lambda rows: np.zeros((1, 4)))
    @gr.explore(EpsilonGreedy(0.5), decisions=seen.append)
    def model(rows):
        return np.array([SCORES])

    for _ in range(10):
        assert model(np.full((3, 2), 0.1)).argmax() == 1
    assert len(seen) == 30
    assert not any(decision.eligible for decision in seen)


def test_a_mask_per_row_goes_with_the_primarys_rows(profile):
    """Of a mixed batch the fallback's rows have none."""
    seen = []

    def mask(rows):
        out = np.zeros((len(rows), 4), dtype=bool)
        out[2, 3] = True
        return out

    @gr.check_outliers(profile, fallback=lambda rows: np.tile(SCORES, (len(rows), 1)))
    @gr.explore(EpsilonGreedy(0.5), decisions=seen.append, exclude=mask)
    def model(rows):
        return np.tile(SCORES, (len(rows), 1))

    for _ in range(100):
        model(np.array([[0.1, 0.2], [6.0, -6.0], [0.1, 0.2]]))
    of_row = {row: [d for d in seen if d.decision_id.endswith(f"/{row}")] for row in range(3)}
    assert {d.action for d in of_row[0]} == {0, 1, 2, 3}
    assert {d.action for d in of_row[1]} == {None}
    assert {d.action for d in of_row[2]} == {0, 1, 2}


def test_a_sink_that_fails_for_one_row_keeps_the_others():
    """Each row's record by itself."""
    kept = []

    def sink(decision):
        if decision.decision_id.endswith("/1"):
            raise OSError("full")
        kept.append(decision)

    @gr.explore(EpsilonGreedy(0.5), decisions=sink)
    def model(rows):
        return np.tile(SCORES, (len(rows), 1))

    model(np.zeros((4, 2)))
    assert len(kept) == 3


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [{"a": [1.0]}], np.ones((1, 2))], ids=["lists", "mappings", "array"])
def test_a_kept_row_is_the_row_as_it_was(rows):
    """The record is written later: what the caller does with the row meanwhile must not change it."""
    model, seen = explored(features="store")
    model(rows)
    before = copy.deepcopy(seen[0].features)
    if isinstance(rows[0], dict):
        rows[0]["a"].append(99.0)
    rows[0][next(iter(rows[0])) if isinstance(rows[0], dict) else 0] = 99.0
    assert np.array_equal(seen[0].features, before) or seen[0].features == before


class Table:
    """A policy that keeps a list of its own and hands it out."""

    kind = "choice"

    def __init__(self, pmf):
        self.table = pmf

    def pmf(self, scores, /):
        return np.broadcast_to(np.array(self.table), np.shape(scores))

    def pmf_of(self, scores, greedy):
        return self.table


def test_a_policys_own_list_is_not_the_records():
    """What it does with it later must not change what was logged."""
    policy = Table([0.25] * 4)
    model, seen = explored(policy)
    model(one())
    policy.table[0] = 9.0
    assert list(seen[0].pmf) == [0.25] * 4


@pytest.mark.parametrize(
    "pmf", [[-0.5, 1.5, 0.0, 0.0], [0.2] * 5, [1.0], [float("nan"), 1.0, 0.0, 0.0], [0.2] * 4], ids=str
)
def test_probabilities_that_are_none_are_not_drawn_by(pmf):
    """One each, none negative, adding up to one: else the model's own answer, whatever would have been drawn."""
    model, seen = explored(Table(pmf))
    for _ in range(40):
        assert model(one()).argmax() == 1
    assert not any(decision.eligible for decision in seen)


@pytest.mark.parametrize("pmf", [[], [-0.5, 1.5], [float("nan")], [float("inf")], [0.4, 0.4]], ids=str)
def test_a_draw_refuses_what_are_no_probabilities(pmf):
    """With a ValueError, as it says."""
    with pytest.raises(ValueError, match="probabilit"):
        draw(np.array(pmf), "unit", KEY)


def test_rows_that_are_not_explored_do_not_count_as_explored_first():
    """Twenty requests explore: those that a rule kept out have not."""
    allowed = []
    model, seen = explored(ExploreFirst(20), rules={"later": lambda *_: bool(allowed)})
    for _ in range(50):
        model(one())
    allowed.append(True)
    for _ in range(40):
        model(one())
    assert sum(decision.pmf[0] > 0 for decision in seen if decision.pmf is not None) == 20


def test_sixteen_threads_record_what_they_were_served():
    """Each response belongs to the record of its own decision id, and the figures add up."""
    model, seen = explored()
    answers = []

    def go():
        mine = [int(model(one()).argmax()) for _ in range(200)]
        answers.extend(mine)

    threads = [threading.Thread(target=go) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({decision.decision_id for decision in seen}) == 3200
    assert Counter(decision.action for decision in seen) == Counter(answers)
    assert all(replay(decision, KEY) for decision in seen)


def test_coverage_is_over_the_most_candidates_there_were():
    """Also where both actions of a decision have been seen before."""
    exposure = Exposure()
    exposure.add_one(0, 0, 4)
    exposure.add_one(0, 0, 1000)
    assert exposure.status()["actions"] == 1000


# The kill switch


@pytest.fixture
def switches(monkeypatch):
    """No switches but a test's own."""
    monkeypatch.setattr(switching, "_switches", {})
    return switching.switch_of


def test_stopping_stops_what_can_be_stopped(switches, tmp_path):
    """One file that cannot be written must not leave the other methods exploring."""
    (tmp_path / "a file").write_text("")
    broken, sound = switches(str(tmp_path / "a file" / "off")), switches(str(tmp_path / "off"))
    status, said = command_exploration(b'{"action": "stop"}', guarded=True)
    assert status == 503
    assert "error" in said
    assert broken.off
    assert sound.off
    status, _ = command_exploration(b'{"action": "start"}', guarded=True)
    assert not sound.off


def test_an_empty_folder_is_kept_from_those_who_tidy_up(switches, tmp_path, monkeypatch):
    """What sweeps /tmp takes what nobody has touched for days; without its folder nothing would be explored any more."""
    switch = switches(str(tmp_path / "folder" / "off"))
    switch.stop()
    switch.start()
    folder = switch.path.parent
    os.utime(folder, (1.0, 1.0))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 30 * 86_400.0)
    switch._look()
    assert folder.stat().st_mtime > 1.0


def test_a_look_that_began_before_the_stop_does_not_undo_it(switches, tmp_path, monkeypatch):
    """The watcher found no file, then somebody stopped, then the watcher says what it found."""
    switch = switches(str(tmp_path / "off"))
    real, stopped = os.stat, []

    def stat(path, *args, **kwargs):
        if Path(path) == switch.path and not stopped:
            stopped.append(True)
            thread = threading.Thread(target=switch.stop)
            thread.start()
            thread.join(1.0)  # under a lock it waits for this look to end
            raise FileNotFoundError(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    switch._look()
    deadline = time.monotonic() + 0.1
    while not switch.off and time.monotonic() < deadline:
        time.sleep(0.001)
    assert stopped
    assert switch.off


# Replay

POLICIES = {
    "choice": (EpsilonGreedy(0.3), lambda: np.array([SCORES])),
    "threshold": (RandomisedCutoff(0.5, 0.5), lambda: {"score": 0.3, "accept": False}),
    "ranking": (PoolInjection(0.3, slots=2), lambda: np.array([SCORES])),
    "value": (TruncatedGaussian(1.0, 0.0, 10.0), lambda: 5.0),
}


@pytest.fixture(params=POLICIES)
def rows(request):
    """Stored records of each kind, honest ones."""
    policy, answer = POLICIES[request.param]
    model, seen = explored(policy, answer)
    for _ in range(40):
        model(one())
    return [decision.row() for decision in seen]


def test_a_propensity_that_was_tampered_with_is_found(rows):
    """By the replay or by the check of probabilities."""
    honest = replay_all(rows, KEY)
    assert (honest.replayed, len(honest.differing)) == (40, 0)
    for row in rows:
        tampered = {**row, "propensity": row["propensity"] * 0.5}
        found = not replay(tampered, KEY)
        with suppress(ValueError):  # it may know nothing of such a kind
            found = found or not check_probabilities(tampered)
        assert found


@pytest.mark.parametrize(
    "change",
    [
        {"pmf": "nonsense", "served": "nonsense"},
        {"pmf": "[]", "served": "[]"},
        {"pmf": "[1.0, 1.0]", "served": "[9, 9]"},
        {"pmf": '{"a": 1}', "served": '{"a": 1}'},
        {"policy": "Softmax(temperature=1.0)", "kind": "value"},
        {"policy": "EpsilonGreedy(epsilon=0.9)", "kind": "ranking"},
        {"policy": "no policy", "kind": "value"},
        {"scores": "[]", "kind": "ranking"},
        {"scores": '"text"', "kind": "value"},
        {"greedy": None, "action": None},
        {"greedy": 99, "action": 99},
        {"strength": "half", "kind": "ranking"},
    ],
    ids=str,
)
def test_replaying_never_breaks_on_a_record(rows, change):
    """One that makes no sense is skipped, with a reason, or differs; the others are replayed."""
    found = replay_all([*rows, {**rows[0], **change}], KEY)
    assert found.replayed >= 40
    assert not set(found.differing) & {row["decision_id"] for row in rows[1:]}
    assert all(found.skipped), "each has a reason"
    with suppress(ValueError):
        check_probabilities({**rows[0], **change})


@pytest.mark.parametrize(
    "text",
    [
        "EpsilonGreedy(1" + "0" * 400 + ")",
        "EpsilonGreedy(1" + "0" * 6000 + ")",
        "EpsilonGreedy(0.1, **{'explore': [1]})",
        "EpsilonGreedy(epsilon=0.1, epsilon=0.2)",
        "EpsilonGreedy(*[0.1])",
        "EpsilonGreedy(" + "-" * 5000 + "1)",
        "EpsilonGreedy(" + "[" * 90 + "]" * 90 + ")",
        "EpsilonGreedy(0.1, explore=__import__('os').getpid())",
        "exploration.EpsilonGreedy(0.1)",
        "EpsilonGreedy(0.1).pmf([1])",
        "(lambda: EpsilonGreedy(0.1))()",
        "Replay(1, (), {})",
        "",
    ],
    ids=lambda text: text[:30],
)
def test_a_text_that_spells_no_policy_is_refused(text):
    """With a ValueError, whatever it holds; nothing is left out in silence."""
    with pytest.raises(ValueError, match=r"."):
        policy_of(text)


def test_every_option_at_once_logs_the_frequencies():
    """Unit, ramp, rule, exclusion, budget and switch together: over users each action has its logged share."""
    seen = []

    @gr.explore(
        EpsilonGreedy(0.5), unit="users", ramp=0.7, rules={"rows": lambda rows, users: rows[:, 0] >= 0},
        exclude={3}, budget=RegretBudget(2000.0, burst=400.0), decisions=seen.append, deferred=True,
    )  # fmt: skip
    def model(rows, users):
        return np.tile(SCORES, (len(rows), 1))

    rng, served = np.random.default_rng(5), []
    for request in range(300):
        rows = rng.normal(size=(20, 2))
        served += model(rows, [f"u{request}-{row}" for row in range(20)]).argmax(axis=1).tolist()
    assert served == [decision.action for decision in seen]
    assert {decision.ineligible for decision in seen} >= {None, "ramp", "rule:rows"}
    inside = [decision for decision in seen if decision.eligible]
    expected = np.array([decision.pmf for decision in inside]).sum(axis=0)
    counts = np.bincount([decision.action for decision in inside], minlength=4)
    assert counts[3] == expected[3] == 0.0
    assert stats.chisquare(counts[:3], expected[:3]).pvalue > ALPHA
    assert all(decision.propensity == decision.pmf[decision.action] for decision in seen)
    again = replay_all([json.loads(json.dumps(decision.row())) for decision in seen], KEY)
    assert (again.replayed, again.differing) == (len(inside), ())


def test_not_enforced_is_what_it_would_have_been():
    """The same draws as enforced, the model's own object, probability one, and nothing noted against caps."""
    answers = np.array([SCORES])
    shadow, quiet = explored(answer=lambda: answers, enforce=False, unit="users", cap=Cap(1))
    real, loud = explored(answer=lambda: answers, unit="users")
    for user in range(50):
        assert shadow(one(), f"u{user}") is answers
        real(one(), f"u{user}")
    for said, done in zip(quiet, loud, strict=True):
        assert (said.propensity, said.eligible, said.action) == (1.0, False, said.greedy)
        assert said.shadow == (f"explored:{done.action}" if done.action != done.greedy else None)


def test_decisions_of_odd_numbers_can_be_stored():
    """Whatever the scores are: a record that cannot be written is an exploration that never happened."""
    for scores in ([np.inf, -np.inf, 0.0], [1e308, -1e308, 5e-324], [0.0, -0.0, 0.0]):
        model, seen = explored(answer=lambda scores=scores: np.array([scores]))
        model(one())
        assert json.loads(seen[0].row()["scores"]) == scores
        assert replay(seen[0], KEY)
        assert dataclasses.asdict(seen[0])["propensity"] <= 1.0
