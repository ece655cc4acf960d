"""Decisions and rewards joined: every one counted, none earlier or later than another's window."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guardrails as gr
from guardrails.decisions import Decision, Reward
from guardrails.decisions.joined.checking import refuse_impossible
from guardrails.decisions.joined.join import join, join_store
from guardrails.decisions.joined.logged import JoinCounts
from guardrails.decisions.stores.store import DecisionStore
from guardrails.errors import DecisionStoreError

HOUR = 3600.0


def choice(name, ts=0.0, action=1, **fields):
    """A row of an explored choice among three."""
    pmf = [0.8, 0.1, 0.1]
    given = {
        "policy": "EpsilonGreedy(epsilon=0.3)",
        "kind": "choice",
        "eligible": True,
        "scores": [0.9, 0.2, 0.1],
        "pmf": pmf,
        "greedy": 0,
        "action": action,
        "propensity": pmf[action],
        **fields,
    }
    return Decision(name, ts, "rank", "primary", **given).row()


def reward(decision_id, ts=1.0, value=1.0, **fields):
    """A row of feedback."""
    return Reward(decision_id, ts, value, **fields).row()


def joined(decisions, rewards, window=HOUR, now=10 * HOUR, **options):
    """`join` long after all windows."""
    return join(decisions, rewards, window=window, now=now, **options)


def test_a_join_by_hand():
    """Rewards within the window count, the default stands in elsewhere, and each other row is counted for what it is."""
    decisions = [
        choice("a", 0.0, action=1),
        choice("b", 10.0, action=0),
        choice("new", 9.5 * HOUR),
        choice("late", 20.0, action=2),
    ]
    rewards = [
        reward("a", 5.0, 2.0, feedback_id="1"),
        reward("a", 6.0, 2.0, feedback_id="1"),
        reward("late", 20.0 + HOUR + 1, 7.0),
        reward("nobody", 1.0),
        reward("new", 9.6 * HOUR),
    ]
    logged = joined(decisions, rewards, default=-1.0)
    assert logged.decision_id == ["a", "b", "late"]
    assert logged.reward.tolist() == [2.0, -1.0, -1.0]
    assert logged.rewarded.tolist() == [True, False, False]
    assert logged.action.tolist() == [1, 0, 2]
    assert logged.propensity.tolist() == [0.1, 0.8, 0.1]
    assert logged.weights().tolist() == [1 / 0.1, 1 / 0.8, 1 / 0.1]
    assert logged.differs.tolist() == [True, False, True]
    assert logged.learnable.all()
    assert logged.stacked("pmf").tolist() == [[0.8, 0.1, 0.1]] * 3
    expected = JoinCounts(joined=3, pending=1, rewards=1, late=1, duplicates=1, orphans=1, unused=1, rewarded=1)
    assert logged.counts == expected


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("last", 3.0), ("first", 1.0), ("sum", 11.0), ("mean", 11 / 3), ("max", 7.0), ("min", 1.0)],
)
def test_several_rewards_are_aggregated_as_declared(aggregate, expected):
    """By the order of time, not of arrival."""
    rewards = [reward("a", 2.0, 7.0), reward("a", 3.0, 3.0), reward("a", 1.0, 1.0)]
    assert joined([choice("a")], rewards, aggregate=aggregate).reward.tolist() == [expected]


def test_the_window_is_the_same_for_all_and_closed_at_its_end():
    """A reward at the last moment counts, one after it does not; a decision is ready when its window is over."""
    rewards = [reward("a", HOUR), reward("b", HOUR + 0.001)]
    logged = join([choice("a"), choice("b")], rewards, window="1h", now=HOUR)
    assert logged.reward.tolist() == [1.0, 0.0]
    assert not len(join([choice("a")], rewards, window="1h", now=HOUR - 0.001))


def test_a_quick_reward_does_not_let_a_decision_in_early():
    """Else quick rewards would be over-represented among the newest decisions."""
    logged = join([choice("a")], [reward("a", 1.0)], window="24h", now=HOUR)
    assert (len(logged), logged.counts.pending, logged.counts.unused) == (0, 1, 1)


def test_a_deferred_decision_counts_from_when_it_is_shown():
    """Made ahead: its window begins when it is shown, and one that nobody ever saw is no failure."""
    decisions = [choice("seen", deferred=True), choice("never", deferred=True)]
    feedback = [reward("seen", 5 * HOUR, None, shown=True), reward("seen", 5.5 * HOUR), reward("never", 1.0)]
    logged = joined(decisions, feedback)
    assert (logged.decision_id, logged.reward.tolist(), logged.counts.deferred) == (["seen"], [1.0], 1)
    assert joined(decisions, feedback, now=5.5 * HOUR).counts.pending == 1


def test_a_retried_delivery_without_an_id_is_one():
    """The same content of the same decision counts once; other content is other feedback."""
    rewards = [reward("a", 1.0, 2.0), reward("a", 9.0, 2.0), reward("a", 3.0, 5.0)]
    logged = joined([choice("a")], rewards, aggregate="sum")
    assert (logged.reward.tolist(), logged.counts.duplicates) == ([7.0], 1)


def test_a_retry_after_the_window_is_a_duplicate_and_not_late():
    """Its first delivery came in time."""
    rewards = [reward("a", 1.0, feedback_id="x"), reward("a", 2 * HOUR, feedback_id="x")]
    counts = joined([choice("a")], rewards).counts
    assert (counts.rewards, counts.duplicates, counts.late) == (1, 1, 0)


def test_rewards_of_several_names_are_not_mixed():
    """Clicks are no purchases: which is meant has to be said."""
    rewards = [reward("a", 1.0, 1.0, name="click"), reward("a", 2.0, 30.0, name="purchase"), reward("a", 3.0, 8.0)]
    with pytest.raises(ValueError, match=r"several names: none \(name=\"\"\), 'click', 'purchase'"):
        joined([choice("a")], rewards)
    for name, value in [("click", 1.0), ("purchase", 30.0), ("", 8.0)]:
        logged = joined([choice("a")], rewards, name=name)
        assert (logged.reward.tolist(), logged.counts.unused) == ([value], 2)


def test_what_was_shown_instead_is_marked_and_not_learned_from():
    """The logged propensity is that of what was drawn, not of what somebody put in its place."""
    decisions = [choice("a", action=1), choice("b", action=1), choice("c", action=1)]
    feedback = [
        reward("a", served_action=2),
        reward("b", served_action=1),
        reward("c", 2 * HOUR, None, served_action=0),
    ]
    logged = joined(decisions, feedback)
    assert logged.overridden.tolist() == [True, False, True]
    assert logged.learnable.tolist() == [False, True, False]
    assert logged.shown == [2, 1, 0]
    assert logged.counts.overridden == 2


def test_without_a_default_only_what_was_answered_counts():
    """No reward then means unknown."""
    logged = joined([choice("a"), choice("b")], [reward("a")], default=None)
    assert (logged.decision_id, logged.counts.unrewarded) == (["a"], 1)


def test_labels_can_be_rewards():
    """Of a classifier: right is 1, wrong is 0, whether actions have names or numbers."""
    named = {"actions": ["cat", "dog", "owl"]}
    decisions = [choice("a", action=1, **named), choice("b", action=2, **named), choice("c", action=1)]
    labels = [Reward("a", 1.0, label="dog").row(), Reward("b", 1.0, label="dog").row(), Reward("c", 1.0, label=1).row()]
    logged = joined(decisions, labels, label_reward="match", default=None)
    assert logged.reward.tolist() == [1.0, 0.0, 1.0]
    assert logged.label == ["dog", "dog", 1]
    assert joined(decisions, labels, label_reward=lambda _, action: len(str(action))).reward.tolist() == [3.0, 3.0, 1.0]


def ranking(name, served=(2, 0), ts=0.0, **fields):
    """A row of an explored list of two out of three."""
    given = {
        "policy": "PoolInjection(epsilon=0.2, slots=2)",
        "kind": "ranking",
        "eligible": True,
        "scores": [0.9, 0.5, 0.1],
        "served": list(served),
        "pmf": [[0.1, 0.1], [0.0, 0.9]],
        "propensity": 0.1,
        **fields,
    }
    return Decision(name, ts, "rank", "primary", **given).row()


def test_rewards_of_positions():
    """Each position has its own, with the default elsewhere; the list's is their sum, plus what came for the whole."""
    decisions = [ranking("a"), ranking("b"), ranking("c", served=(0, 1), pmf=[[0.9, 0.0], [0.0, 0.9]], propensity=0.8)]
    rewards = [reward("a", slot=0), reward("a", 2.0, 4.0, slot=1), reward("a", 3.0, 10.0), reward("b", slot=1)]
    logged = joined(decisions, rewards, default=0.5)
    assert [slots.tolist() for slots in logged.slot_reward] == [[1.0, 4.0], [0.5, 1.0], [0.5, 0.5]]
    assert logged.reward.tolist() == [15.0, 1.5, 1.0]
    assert logged.served == [[2, 0], [2, 0], [0, 1]]
    assert logged.differs.tolist() == [True, True, False]
    assert logged.action.tolist() == [-1, -1, -1]
    assert [pmf.shape for pmf in logged.pmf] == [(2, 2)] * 3
    with pytest.raises(ValueError, match="by slot"):
        joined(decisions, rewards, default=None)


def test_a_list_that_was_shown_otherwise():
    """The echo of a list is compared in order."""
    feedback = [reward("a", served_action=[2, 0]), reward("b", served_action=[0, 2])]
    assert joined([ranking("a"), ranking("b")], feedback).overridden.tolist() == [False, True]


def test_values_and_thresholds():
    """A value's propensity is a density, which may exceed one; a threshold has one score and two probabilities."""
    given = {"policy": "p", "kind": "value", "eligible": True, "scores": 2.0, "served": 2.5, "propensity": 3.5}
    value = Decision("v", 0.0, "bid", "primary", **given).row()
    logged = joined([value], [])
    assert (logged.kind, logged.served, logged.scores[0].tolist(), logged.differs.tolist()) == (
        "value",
        [2.5],
        [2.0],
        [True],
    )
    given = {"kind": "threshold", "scores": 0.4, "pmf": [0.3, 0.7], "action": 1, "greedy": 0, "propensity": 0.7}
    logged = joined([choice("t", **given)], [])
    assert (logged.kind, logged.pmf[0].tolist(), logged.differs.tolist()) == ("threshold", [0.3, 0.7], [True])


def test_several_kinds_are_joined_one_at_a_time():
    """And what nobody explored comes along with each, to know its share."""
    rows = [choice("a"), ranking("b"), Decision("c", 0.0, "rank", "fallback:charts").row()]
    with pytest.raises(ValueError, match="'choice' and 'ranking'"):
        joined(rows, [])
    logged = joined(rows, [], kind="ranking")
    assert (logged.decision_id, logged.eligible.tolist(), logged.counts.other) == (["b", "c"], [True, False], 1)
    assert logged.policy == ["PoolInjection(epsilon=0.2, slots=2)", ""]


def test_filters_make_no_orphans():
    """Rewards of decisions of another method or time have a decision."""
    rows = [choice("a", 0.0), choice("b", 100.0), {**choice("c", 100.0), "api": "other"}]
    rewards = [reward("a"), reward("b", 101.0), reward("c", 101.0)]
    logged = joined(rows, rewards, api="rank", since=50.0, until=101.0)
    assert (logged.decision_id, logged.counts.other, logged.counts.orphans) == (["b"], 2, 0)


OLD = ("decision_id", "ts", "api", "policy", "eligible", "scores", "pmf", "greedy", "action", "propensity")


def test_rows_of_an_old_store():
    """Before there were kinds, units and names, a policy meant a choice."""
    row = {name: value for name, value in choice("a").items() if name in OLD}
    logged = joined(
        [row, {"decision_id": "b", "ts": 0.0, "propensity": 1.0}], [{"decision_id": "a", "ts": 1.0, "reward": 3.0}]
    )
    assert (logged.kind, logged.unit, logged.reward.tolist()) == ("choice", ["a", "b"], [3.0, 0.0])
    assert logged.strength.tolist() == [1.0, 1.0]


MALFORMED = {
    "a propensity outside (0, 1]": {"propensity": 0.0},
    "a propensity outside (0, 1] ": {"propensity": 1.5},
    "a propensity outside (0, 1]  ": {"propensity": -0.1},
    "propensity that is not finite": {"propensity": math.nan},
    "a propensity that is not its pmf's": {"propensity": 0.8},
    "a pmf that does not sum to one": {"pmf": [0.8, 0.1, 0.2]},
    "a pmf with a negative probability": {"pmf": [1.0, 0.1, -0.1]},
    "a pmf that does not sum to one ": {"pmf": [math.nan, 0.1, 0.9]},
    "pmf, scores and actions of unequal lengths": {"scores": [0.9, 0.1]},
    "an action out of range": {"action": 3},
    "action that is no number of an action": {"action": -1},
    "no action": {"action": None},
    "pmf that is no JSON": {"pmf": "[0.8, 0.1"},
    "pmf of unequal lengths": {"pmf": [[0.8, 0.1], [0.1]]},
    "scores that are no numbers": {"scores": ["a", "b", "c"]},
    "ts that is no number": {"ts": "yesterday"},
    "a score that is NaN": {"scores": [math.nan, 0.1, 0.2]},
    "a kind that this version does not know": {"kind": "bundle"},
}


@pytest.mark.parametrize(("problem", "fields"), MALFORMED.items())
def test_what_cannot_have_been_written_is_counted_and_left_out(problem, fields):
    """Never passed on: the row next to it is not affected."""
    made = Decision("bad", **{"ts": 0.0, "api": "rank", "route": "primary", **fields}).row()
    row = choice("bad") | {name: made[name] for name in fields}
    logged = joined([row, choice("good")], [reward("bad"), reward("good")])
    assert logged.decision_id == ["good"]
    assert logged.counts.malformed == 1
    assert logged.counts.problems == {problem.strip(): 1}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"served": [2, 2]}, "an item served twice"),
        ({"served": [2, 7]}, "an item that is no candidate"),
        ({"served": []}, "a ranking that served nothing"),
        ({"pmf": [[0.1, 0.1, 0.1]] * 3}, "a pmf that is no square of the served list"),
        ({"pmf": [[0.9, 0.9], [0.0, 0.9]]}, "a pmf with an item whose positions sum to more than one"),
        ({"pmf": [[0.0, 0.1], [0.0, 0.9]]}, "an item at a position where it could not be"),
    ],
)
def test_impossible_rankings(fields, problem):
    """The same of lists."""
    assert joined([ranking("bad", **fields), ranking("good")], []).counts.problems == {problem: 1}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"reward": math.inf}, "a reward that is not finite"),
        ({"reward": "1"}, "a reward that is no number"),
        ({"reward": True}, "a reward that is no number"),
        ({"ts": None}, "the ts of a reward that is no number"),
        ({"slot": 5}, "a reward for a slot that was not served"),
        ({"served_action": "two"}, "served_action that is no JSON"),
    ],
)
def test_a_reward_nobody_can_read_takes_its_decision_with_it(fields, problem):
    """To go on as if it had not come would give the default to a decision that earned something."""
    rewards = [reward("a"), {**reward("a", 2.0, 2.0), **fields}, reward("b")]
    logged = joined([choice("a"), choice("b")], rewards)
    assert (logged.decision_id, logged.counts.problems) == (["b"], {problem: 1})
    assert logged.counts.rewards + logged.counts.unused == 3


def test_what_exploration_could_not_act_on_is_not_learned_from():
    """It was served with certainty, and nothing is known of the others."""
    row = choice("a", action=0, eligible=False, ineligible="cap", pmf=None, propensity=1.0)
    logged = joined([row], [])
    assert (logged.learnable.tolist(), logged.pmf[0].tolist(), logged.ineligible) == ([False], [1.0, 0.0, 0.0], ["cap"])


def test_options_that_are_none_are_refused():
    """With what to write instead."""
    for options, said in [
        ({"window": "soon"}, "no time span"),
        ({"window": 0}, "some time"),
        ({"aggregate": "median"}, "last, first"),
        ({"default": math.nan}, "finite"),
        ({"kind": "bundle"}, "choice, ranking"),
    ]:
        with pytest.raises(ValueError, match=said):
            joined([], [], **options)


def test_selecting_keeps_rows_together():
    """By mask or by number."""
    logged = joined([choice(name, ts) for ts, name in enumerate("abc")], [reward("b", 5.0, 4.0)])
    part = logged.select([False, True, True])
    assert (part.decision_id, part.reward.tolist(), len(part)) == (["b", "c"], [4.0, 0.0], 2)
    assert logged.select([2, 0]).decision_id == ["c", "a"]
    with pytest.raises(ValueError, match="shape"):
        logged.select([True])
    with pytest.raises(ValueError, match="2 shapes"):
        joined([choice("a"), choice("b", scores=None, pmf=[0.5, 0.5], action=0, propensity=0.5)], []).stacked("pmf")


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, math.nan])
def test_what_was_made_by_hand_is_checked_before_learning(value):
    """`Logged` is a plain container: exporters look again, and name the decision."""
    logged = joined([choice("a"), choice("b")], [])
    logged.propensity[1] = value
    with pytest.raises(ValueError, match="decision b has the propensity"):
        refuse_impossible(logged)


def test_a_store_filled_by_a_service(tmp_path, monkeypatch):
    """Decisions of the real decorator, rewards through the store: what was earned is what the reward says."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", "k" * 32)
    url = f"sqlite:///{tmp_path}/d.db"
    seen = []

    @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.tile([0.1, 0.7, 0.2], (len(rows), 1))

    rank(np.zeros((300, 2)))
    store = DecisionStore(url)
    store.create()
    store.write("decision", [decision.row() for decision in seen])
    store.write("reward", [Reward(d.decision_id, d.ts + 1, float(d.action == 2)).row() for d in seen[::2]])
    logged = join_store(url, window="1h", now=seen[0].ts + 2 * HOUR)
    by_id = dict(zip(logged.decision_id, logged.reward.tolist(), strict=True))
    assert by_id == {d.decision_id: float(d.action == 2 and i % 2 == 0) for i, d in enumerate(seen)}
    assert logged.counts.rewarded == 150
    assert set(np.round(logged.propensity, 9)) == {round(0.5 / 3, 9), round(0.5 + 0.5 / 3, 9)}
    assert len(join_store(store, window="1h", now=seen[0].ts + 2 * HOUR)) == 300
    store.close()
    with pytest.raises(DecisionStoreError, match="holds no decisions"):
        join_store(f"sqlite:///{tmp_path}/none.db", window="1h")


def explored(policy, answer, **options):
    """Rows of the real decorator, 200 of them."""
    seen = []

    @gr.explore(policy, decisions=seen.append, **options)
    def rank(rows: np.ndarray) -> object:
        return answer(len(rows))

    rank(np.zeros((200, 2)))
    return [decision.row() for decision in seen]


SCORES = np.array([0.1, 0.7, 0.2, 0.9])
SERVICES = {
    "scores": ("ranking", gr.exploration.PoolInjection(0.3, slots=2), lambda n: np.tile(SCORES, (n, 1)), {}),
    "lists": (
        "ranking",
        gr.exploration.PoolInjection(0.3, slots=2),
        lambda n: [["b", "a"]] * n,
        {"pool": lambda *_: "abcd"},
    ),
    "late marginals": (
        "ranking",
        gr.exploration.PlackettLuce(temperature=0.5, slots=2),
        lambda n: np.tile(SCORES, (n, 1)),
        {},
    ),
    "threshold": (
        "threshold",
        gr.exploration.RejectRate(0.6, 0.3),
        lambda n: [{"score": 0.5, "accept": 0} for _ in range(n)],
        {},
    ),
    "value": ("value", gr.exploration.TruncatedGaussian(1.0, 0.0, 10.0), lambda n: np.full(n, 5.0), {}),
    "excluded": ("choice", gr.EpsilonGreedy(0.5), lambda n: np.tile(SCORES, (n, 1)), {"exclude": lambda _: [0]}),
}


@pytest.mark.parametrize("name", SERVICES)
def test_whatever_was_explored_is_read(monkeypatch, name):
    """All that the decorator writes is well-formed, and the share that differs is what the policy says."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_KEY", "k" * 32)
    kind, policy, answer, options = SERVICES[name]
    logged = join(explored(policy, answer, **options), [], window="1h", now=4e9)
    assert (logged.kind, len(logged), logged.counts.malformed) == (kind, 200, 0)
    assert logged.learnable.all()
    assert 0.05 < logged.differs.mean() <= 1
    refuse_impossible(logged)
    if kind == "ranking":
        assert all(len(served) == 2 and set(served) <= set(range(4)) for served in logged.served)


IDS = st.sampled_from("abcdef")
TIMES = st.integers(0, 20).map(float)
DECISIONS = st.builds(
    lambda name, ts, action, deferred, propensity: (
        choice(name, ts, action=action, deferred=deferred) | ({"propensity": 0.0} if propensity else {})
    ),
    IDS,
    TIMES,
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
FEEDBACK = st.builds(
    lambda name, ts, value, key, shown, echo: reward(name, ts, value, feedback_id=key, shown=shown, served_action=echo),
    st.sampled_from("abcdefxy"),
    TIMES,
    st.sampled_from([None, 0.0, 1.0, 2.5]),
    st.sampled_from([None, "1", "2"]),
    st.booleans(),
    st.sampled_from([None, 0, 1]),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(DECISIONS, max_size=8),
    st.lists(FEEDBACK, max_size=15),
    st.sampled_from(["last", "sum", "mean"]),
    st.randoms(),
)
def test_nothing_is_lost_or_doubled_and_order_does_not_matter(decisions, feedback, aggregate, random):
    """Every decision and every feedback has one fate, and permuting the input changes nothing."""
    logged = join(decisions, feedback, window=5, now=15, aggregate=aggregate)
    counts = logged.counts
    distinct = {row["decision_id"] for row in decisions}
    fates = counts.joined + counts.pending + counts.deferred + counts.malformed + counts.unrewarded + counts.other
    assert fates == len(distinct)
    assert counts.repeated == len(decisions) - len(distinct)
    assert len(set(logged.decision_id)) == len(logged.decision_id) == counts.joined == len(logged)
    assert set(logged.decision_id) <= distinct
    assert counts.rewards + counts.late + counts.duplicates + counts.orphans + counts.unused == len(feedback)
    random.shuffle(decisions)
    random.shuffle(feedback)
    again = join(decisions, feedback, window=5, now=15, aggregate=aggregate)
    assert asdict(again.counts) == asdict(counts)
    for name in ("decision_id", "unit", "shown", "label"):
        assert getattr(again, name) == getattr(logged, name)
    for name in ("ts", "action", "propensity", "reward", "overridden", "rewarded"):
        assert getattr(again, name).tolist() == getattr(logged, name).tolist()


def test_fallbacks_of_other_methods_are_not_joined():
    """They have no kind of their own, and belong where their method's decisions are."""
    rows = [
        {**choice("a"), "api": "choose"},
        {
            **choice("b"),
            "api": "choose",
            "kind": None,
            "policy": None,
            "pmf": None,
            "eligible": False,
            "propensity": 1.0,
        },
        {**choice("c"), "api": "rank", "kind": None, "policy": None, "pmf": None, "eligible": False, "propensity": 1.0},
    ]
    assert joined(rows, [], kind="choice").decision_id == ["a", "b"]


def test_a_name_or_method_that_nothing_has_is_refused_with_those_there_are():
    """A slip of the pen is not a table of zeros."""
    with pytest.raises(ValueError, match=r"no reward has the name 'clik'; there are 'click'"):
        joined([choice("a")], [{**reward("a"), "name": "click"}], name="clik")
    with pytest.raises(ValueError, match="there are"):
        joined([{**choice("a"), "api": "rank"}], [], api="rnak")
