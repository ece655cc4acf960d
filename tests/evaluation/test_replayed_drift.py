"""Drift of stored decisions: what a service that watched them would have said, with its alarms at their times."""

import json

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.drift import Monitor
from guardrails.drift.by_rows.rows import NOT_KEPT, OF_ONE_REQUEST
from guardrails.drift.options import DriftOptions
from guardrails.drift.reading import Reader, Sample
from guardrails.errors import GuardrailsError
from guardrails.evaluation.replayed_drift import REFUSED, SOURCE, TICKS, replay_drift

START, MINUTE = 1.79e9, 60.0
SHIFTED = 1000


def labels_of(X):
    """What a small model says of rows."""
    p = 1 / (1 + np.exp(-2 * X[:, 0]))
    return np.column_stack([1 - p, p])


def traffic(n=1500, shift=1.2, seed=4):
    """Rows whose second column moves after the first thousand."""
    rows = np.random.default_rng(seed).normal(size=(n, 3))
    rows[SHIFTED:, 1] += shift
    return rows


def stored(profile, rows, scores=None, **changes):
    """A request a minute."""
    shared = {"profile": profile.digest, "reason": None, "api": "predict"} | changes
    return [
        {
            "decision_id": f"{at:032x}",
            "ts": START + MINUTE * at,
            "features": json.dumps(row),
            "scores": None if scores is None else json.dumps(scores[at].tolist()),
            **shared,
        }
        for at, row in enumerate(rows.tolist())
    ]


@pytest.fixture(scope="module")
def profile():
    """Three numbers, a prediction, its confidence, and how right it was."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3))
    scores = labels_of(X)
    truth = (rng.uniform(size=len(X)) < scores[:, 1]).astype(int)
    return gr.Profile.fit(X, outputs=scores, labels=truth, feature_names=["age", "dose", "size"])


@pytest.fixture(scope="module")
def replayed(profile):
    """Drift, in rows that came with scores."""
    rows = traffic()
    return replay_drift(stored(profile, rows, labels_of(rows)), profile)


def test_counts_are_those_of_the_rows_and_their_answers(replayed, profile):
    """Exactly what the flusher of a service would have counted."""
    rows = traffic()
    samples = [Sample(row[None], answer[None], None, 0) for row, answer in zip(rows, labels_of(rows), strict=True)]
    codes, _ = Reader(profile).codes(samples)
    np.testing.assert_array_equal(replayed.stream.counts, profile.bins.tally(codes))


def test_an_alarm_is_raised_when_it_would_have_been(replayed):
    """Soon after the change, about the column that moved, at the time of a decision."""
    document = replayed.document()
    assert (document["verdict"], document["drifted"], document["source"]) == ("drift", ["dose"], SOURCE)
    first = document["alarms"][0]
    assert START + MINUTE * SHIFTED < first["at"] < START + MINUTE * (SHIFTED + 150)
    assert (first["at"] - START) % MINUTE == pytest.approx(0.0)
    assert "higher" in first["findings"][0]["direction"]
    assert document["unreadable"] == 0
    assert document["rows"] == 1500


def test_examples_are_decisions_in_the_bins_that_filled_up(replayed, profile):
    """Every one of them, and only of rows that had come by then."""
    rows, alarm = traffic(), replayed.stream.ledger.alarms[-1]
    fuller = {move.bin for move in alarm.findings[0].bins if move.now > move.reference}
    codes = profile.bins.codes(np.hstack([rows, np.zeros((len(rows), 3))]))[:, 1]
    assert alarm.examples
    for decision in alarm.examples:
        assert profile.bins.label(codes[int(decision, 16)]) in fuller
    places = [int(decision, 16) for decision in alarm.examples]
    assert places == sorted(places, reverse=True)


def test_history_follows_the_clock_of_the_decisions(replayed):
    """In order, up to the last row, calm before the change and at the line when the alarm came."""
    history = np.array(replayed.document()["history"])
    assert len(history) <= TICKS
    assert (np.diff(history[:, 0]) > 0).all()
    assert history[-1, 0] == START + MINUTE * 1499
    assert history[-1, 1] == 1500
    before = history[:, 0] < START + MINUTE * SHIFTED
    assert history[before, 2].max() < 1.0
    assert history[~before, 2].max() == 1.0


def test_no_drift_raises_nothing(profile):
    """The same rows without the change."""
    rows = traffic(shift=0.0)
    document = replay_drift(stored(profile, rows, labels_of(rows)), profile).document()
    assert (document["verdict"], document["drifted"], document["alarms"]) == ("no drift seen", [], [])
    assert document["consequence"]["accuracy"]["rows"] == 1500


def test_it_sees_what_a_monitor_sees(profile):
    """Counted in rows, with the same ticks: the same evidence of every column (of calm traffic: an alarm mutes its columns)."""
    rows = traffic(n=1200, shift=0.0)  # four hundred ticks of three rows
    monitor = Monitor(profile, run_length=10_000)
    for at in range(0, len(rows), 3):
        monitor.update(rows[at : at + 3], labels_of(rows[at : at + 3]))
    options = DriftOptions(10_000, in_rows=True)
    ledger = replay_drift(stored(profile, rows, labels_of(rows)), profile, options).stream.ledger
    due = monitor.watch.detector.due
    assert ledger.judging["evidence"] == pytest.approx(max(0.0, monitor.watch.evidence.total / due), abs=1e-3)
    expected = dict(zip(profile.bins.names, np.maximum(0.0, monitor.watch.evidence.columns / due), strict=True))
    assert ledger.judging["columns"] == pytest.approx(expected, abs=1e-3)


def test_answers_that_were_not_recorded_count_nowhere(profile):
    """Some rows went to a fallback, which leaves no scores: their features count, their answers do not."""
    rows = traffic(600)
    records = stored(profile, rows, labels_of(rows))
    for record in records[::2]:
        record["scores"] = None
    counts = replay_drift(records, profile).stream.counts.sum(axis=1)
    assert dict(zip(profile.bins.names, counts.tolist(), strict=True)) == {
        "age": 600,
        "dose": 600,
        "size": 600,
        "__prediction__": 300,
        "__confidence__": 300,
        "__outlier__": 600,
    }
    none = replay_drift(stored(profile, rows), profile)
    assert none.document()["consequence"]["accuracy"]["value"] is None
    assert none.stream.rows == 600


def test_order_and_repetition_do_not_matter(profile, replayed):
    """A join repeats decisions for each reward, and a store may give them in any order."""
    rows = traffic()
    records = stored(profile, rows, labels_of(rows))
    mixed = [records[at] for at in np.random.default_rng(2).permutation(len(records))]
    again = replay_drift(mixed + records[:300], profile).document()
    assert again == replayed.document()


def test_one_row_of_each_request(profile):
    """Rows that come together are alike: as when serving, one of them counts."""
    records = stored(profile, traffic(600))
    for at, record in enumerate(records):
        record["decision_id"] = f"{at // 3:032x}/{at % 3}"
    done = replay_drift(records, profile)
    assert done.stream.rows == 200
    assert done.skipped == {OF_ONE_REQUEST: 400}
    assert done.document()["unreadable"] == 0


def test_rows_that_may_have_been_unreadable_are_left_out(profile):
    """A refused row with an empty cell is no row to compare; a refused one that is complete is, and so is a gap."""
    records = stored(profile, traffic(600))
    gap = json.dumps([None, 0.0, 0.0])
    records[5] |= {"features": gap, "reason": "invalid"}
    records[6] |= {"reason": "invalid"}
    records[7] |= {"features": gap}
    records[8] |= {"features": "d41d8cd98f00b204e9800998ecf8427e"}
    done = replay_drift(records, profile)
    assert done.skipped == {REFUSED: 1, NOT_KEPT: 1}
    assert done.stream.rows == 598
    assert done.stream.counts[0, -1] == 1
    assert done.document()["unreadable"] == 2


def test_nothing_to_judge_is_said(profile):
    """With the reason why, decision by decision."""
    records = [{**record, "features": None} for record in stored(profile, traffic(20))]
    with pytest.raises(GuardrailsError, match=r"no row to judge for drift among 20 decisions(.|\n)*features='store'"):
        replay_drift(records, profile)
    with pytest.raises(GuardrailsError, match="among 0 decisions"):
        replay_drift([], profile)


def test_a_reference_that_is_too_small_counts_all_the_same():
    """No evidence and no alarm, but a page with figures and the reason."""
    small = gr.Profile.fit(np.random.default_rng(0).normal(size=(400, 3)))
    document = replay_drift(stored(small, traffic(600)), small).document()
    assert "reference is too small" in document["verdict"]
    assert (document["history"], document["alarms"], document["rows"]) == ([], [], 600)
    assert document["features"][0]["psi"] > 0


def test_a_quiet_week_is_no_evidence(profile):
    """One tick brings at most a thousandth of the run length, as when serving."""
    rows = traffic(300, shift=0.0)
    records = stored(profile, rows)
    for record in records[150:]:
        record["ts"] += 100 * 86_400.0
    ledger = replay_drift(records, profile).stream.ledger
    assert ledger.history[-1][0] - START > 100 * 86_400.0 > DriftOptions().run_length
    assert not ledger.alarms


def test_what_a_guarded_method_left_behind_can_be_read(tmp_path):
    """From the decorator to the document, through a store: categories, scores and ids are the ones there were."""
    from guardrails.decisions.stores.store import DecisionStore

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=1500), "town": rng.choice(["Bonn", "Kiel"], 1500, p=[0.8, 0.2])})
    scores = np.column_stack([frame["x"], -frame["x"]])
    profile = gr.Profile.fit(frame, outputs=scores, categorical=["town"])
    records = []

    @gr.check_outliers(profile, enforce=False)
    @gr.explore(gr.EpsilonGreedy(0.0), decisions=records.append, features="store")
    def rank(rows):
        x = np.array([float(row["x"]) for row in rows])
        return np.column_stack([x, -x])

    for row in frame.head(400).assign(town="Kiel").to_dict("records"):
        rank([row])
    store = DecisionStore(f"sqlite:///{tmp_path / 'decisions.db'}")
    store.create()
    store.write("decision", [record.row() for record in records])
    done = replay_drift(store.joined(), profile)
    store.close()
    town = profile.bins.names.index("town")
    assert done.stream.counts[town].tolist() == [0, 400, *[0] * (profile.bins.counts.shape[1] - 2)]
    assert done.stream.counts[profile.bins.names.index("__confidence__")].sum() == 400
    document = done.document()
    assert "town" in document["drifted"]
    assert set(document["alarms"][-1]["examples"]) <= {record.decision_id for record in records}
