"""The sampler: exact counts in the background, bounded, shared by workers, and hard to kill."""

import subprocess
import sys
import time

import numpy as np
import pytest
from pydantic import BaseModel

import guardrails as gr
from guardrails.drift import Sampler, sampler, sampler_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(800, 3))
LABELS = (X[:, 0] > 0).astype(int)
SCORES = np.column_stack([1 / (1 + np.exp(-X[:, 0])), 1 / (1 + np.exp(X[:, 0]))])


@pytest.fixture(scope="module")
def profile():
    """Three numbers and a label."""
    return gr.Profile.fit(X, outputs=LABELS, alpha=0.05)


@pytest.fixture(scope="module")
def scored():
    """Three numbers, a prediction and its confidence."""
    return gr.Profile.fit(X, outputs=SCORES, alpha=0.05)


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    """The thread does not get in the way of the tests, which flush by themselves."""
    monkeypatch.setattr(sampler, "INTERVAL", 3600)


@pytest.fixture
def made(tmp_path):
    """Makes samplers and closes them."""
    opened = []

    def make(profile, folder=tmp_path, **options):
        opened.append(Sampler(profile, folder, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_counts_are_those_of_the_rows(made, profile):
    """Request by request, features and answers: the same table as counting all at once."""
    sampled = made(profile)
    for row, label in zip(X, LABELS, strict=True):
        sampled.offer(row[None, :], np.array([label]), None, 0)
    state = sampled.flush()
    np.testing.assert_array_equal(state.counts, profile.bins.counts)
    assert (state.rows, state.dropped, state.workers) == (800, 0, 1)


def test_counts_grow_and_never_shrink(made, profile):
    """Flush after flush."""
    sampled = made(profile)
    for n in range(1, 5):
        sampled.offer(X[:1], np.array([1]), None, 0)
        assert sampled.flush().rows == n
    assert sampled.flush().rows == 4


def test_one_row_of_a_batch_is_counted(made, profile):
    """The one that the trace id picks."""
    sampled = made(profile)
    for pick in range(40):
        sampled.offer(X[:4], LABELS[:4], None, pick)
    np.testing.assert_array_equal(sampled.flush().counts, 10 * profile.bins.count(np.column_stack([X[:4], LABELS[:4]])))


class Answer(BaseModel):
    """One answer."""

    scores: list[float]


FORMS = {
    "array": lambda n: SCORES[:n],
    "list of lists": lambda n: SCORES[:n].tolist(),
    "tuple of lists": lambda n: tuple(SCORES[:n].tolist()),
    "list of dicts": lambda n: [{"scores": row.tolist()} for row in SCORES[:n]],
    "list of models": lambda n: [Answer(scores=row.tolist()) for row in SCORES[:n]],
    "dict of (n, K)": lambda n: {"scores": SCORES[:n]},
}


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("form", FORMS)
def test_answers_of_every_form_are_counted(made, scored, form, n):
    """Whatever Profile.fit reads as outputs of many rows is read as the answer to many rows."""
    sampled = made(scored)
    for pick in range(n):
        sampled.offer(X[:n], FORMS[form](n), None, pick)
    width = len(X[0])
    expected = scored.bins.count(np.column_stack([X[:n], SCORES[:n].argmax(axis=1), SCORES[:n].max(axis=1)]))
    np.testing.assert_array_equal(sampled.flush().counts[width:], expected[width:])


@pytest.mark.parametrize("form", [tuple, list, np.array, "series"], ids=str)
def test_labels_of_every_form_are_counted(made, profile, form):
    """Four labels for four rows are four labels: not the four scores of one row."""
    if form == "series":
        pd = pytest.importorskip("pandas")
        form = pd.Series
    sampled = made(profile)
    for pick in range(4):
        sampled.offer(X[:4], form([0, 0, 0, 1]), None, pick)
    assert sampled.flush().counts[3].tolist()[:2] == [3, 1]


def test_a_row_the_model_did_not_answer_counts_as_input_only(made, profile):
    """Its features are traffic; its outputs are nobody's, and not missing either."""
    sampled = made(profile)
    sampled.offer(X[:1], None, None, 0)
    sampled.offer(X[:2], LABELS[:2], np.array([0]), 1)
    sampled.offer(X[:2], LABELS[:2], np.array([0]), 0)
    counts = sampled.flush().counts
    np.testing.assert_array_equal(counts.sum(axis=1), [3, 3, 3, 1])


def test_a_full_queue_drops_and_counts(made, profile):
    """Bounded, whatever happens."""
    sampled = made(profile, capacity=10)
    for _ in range(25):
        sampled.offer(X[:1], np.array([1]), None, 0)
    state = sampled.flush()
    assert (state.rows, state.dropped) == (10, 15)


def test_drops_stay_counted(profile, tmp_path, monkeypatch):
    """Also after the thread has told Prometheus of them: the status page shows the sum since the start."""
    monkeypatch.setattr(sampler, "INTERVAL", 0.02)
    sampled = Sampler(profile, tmp_path, capacity=0)
    for _ in range(7):
        sampled.offer(X[:1], np.array([1]), None, 0)
    sampled._capacity = 5
    for _ in range(3):
        sampled.offer(X[:1], np.array([1]), None, 0)
        time.sleep(0.2)
    sampled.close()
    state = sampled.state()
    assert (state.rows, state.dropped) == (3, 7)


def test_the_thread_counts_by_itself(profile, tmp_path, monkeypatch):
    """And close() counts what is left."""
    monkeypatch.setattr(sampler, "INTERVAL", 0.02)
    sampled = Sampler(profile, tmp_path)
    sampled.offer(X[:1], np.array([1]), None, 0)
    deadline = time.monotonic() + 20
    while sampled.state().rows < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sampled.state().rows == 1
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled.close()
    assert sampled.state().rows == 2


class Hostile:
    """An answer that raises when it is looked at."""

    def __array__(self, *_args, **_options):
        raise TypeError("no array here")


@pytest.mark.parametrize(
    "bad",
    [
        lambda sampled: sampled.offer(X[:1], Hostile(), None, 0),
        lambda sampled: sampled.offer(object(), np.array([1]), None, 0),
        lambda sampled: sampled.offer(X[:1, :2], np.array([1]), None, 0),
        lambda sampled: sampled.offer([[{}, [], None]], np.array([1]), None, 0),
    ],
    ids=["answer", "no rows", "another width", "junk"],
)
def test_one_bad_sample_costs_no_other_sample(made, profile, bad):
    """The 10 good requests around it are counted."""
    sampled = made(profile)
    for _ in range(5):
        sampled.offer(X[:1], np.array([1]), None, 0)
    bad(sampled)
    for _ in range(5):
        sampled.offer(X[:1], np.array([1]), None, 0)
    sampled._flush_safely()
    counts = sampled.state().counts
    label = profile.bins.count(np.r_[X[0], 1.0][None, :])
    assert (counts[label > 0] >= 10).all()


WORKER = """
import sys, numpy as np, guardrails as gr
from pathlib import Path
from guardrails.drift import Sampler
profile = gr.Profile.load(sys.argv[1])
sampled = Sampler(profile, Path(sys.argv[2]))
X = np.random.default_rng(int(sys.argv[3])).normal(size=(50, 3))
for row in X:
    sampled.offer(row[None], np.array([1]), None, 0)
sampled.flush()
import os
os._exit(9)  # no goodbye
"""


def stored(profile, folder):
    """A profile in a folder of files, without a model store."""
    document, arrays = profile._document()
    import json

    folder.mkdir()
    (folder / "profile.json").write_text(json.dumps(document))
    (folder / "arrays.npz").write_bytes(arrays)
    return folder


def test_workers_that_share_a_folder_are_summed_also_when_they_are_dead(made, profile, tmp_path):
    """Three real processes that died at once after counting, and one that lives."""
    shared = tmp_path / "shared"
    shared.mkdir()
    where = stored(profile, tmp_path / "profile")
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(where), str(shared), str(i)]) for i in range(2)]
    assert [worker.wait(120) for worker in workers] == [9, 9]
    alive = made(profile, shared)
    alive.offer(X[:1], np.array([0]), None, 0)
    state = alive.flush()
    expected = sum(
        profile.bins.count(np.column_stack([np.random.default_rng(i).normal(size=(50, 3)), np.ones(50)]))
        for i in range(2)
    )
    np.testing.assert_array_equal(state.counts, expected + profile.bins.count(np.r_[X[0], 0.0][None]))
    assert (state.rows, state.workers) == (101, 3)


def test_a_second_sampler_of_the_same_process_takes_nothing_away(made, profile, tmp_path):
    """Closed and opened again (a test client, a reloaded app, a reused process id): counts are monotone."""
    first = made(profile)
    for _ in range(3):
        first.offer(X[:1], np.array([1]), None, 0)
    assert first.flush().rows == 3
    first.close()
    second = made(profile)
    second.offer(X[:1], np.array([1]), None, 0)
    assert second.flush().rows == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, good: path.write_bytes(b""),
        lambda path, good: path.write_bytes(b"junk"),
        lambda path, good: path.write_bytes(good[: len(good) // 2]),
        lambda path, good: np.save(path, np.zeros(3, np.int64)),
        lambda path, good: path.write_bytes(b"PK\x03\x04 no archive"),
        lambda path, good: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
        lambda path, good: np.save(path, np.zeros(len(np.load(path)), "U3")),
        lambda path, good: path.write_bytes(b"\x93NUMPY\x01\x00"),
    ],
    ids=["empty", "junk", "cut", "other size", "archive", "pickle", "text", "header"],
)
def test_a_file_that_cannot_be_read_is_passed_over(made, profile, tmp_path, spoil):
    """Another worker's broken table costs its own counts, nobody else's."""
    other = tmp_path / f"guardrails_drift_{profile.digest}_99999.npy"
    sampled = made(profile)
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled.flush()
    good = sampled._path.read_bytes()
    other.write_bytes(good)
    assert sampled.state().rows == 2
    spoil(other, good)
    sampled.offer(X[:1], np.array([1]), None, 0)
    state = sampled.flush()
    assert (state.rows, state.workers) == (2, 1)


def test_tables_of_other_profiles_are_not_read(made, profile, scored):
    """Two profiles in one folder."""
    for one in (profile, scored):
        sampled = made(one)
        sampled.offer(X[:1], None, None, 0)
        assert sampled.flush().rows == 1


def test_a_folder_that_is_gone_does_not_stop_the_thread(made, profile, tmp_path):
    """A cleaned temporary folder: nothing raised by the thread's own flush, counts kept for when it is back."""
    folder = tmp_path / "gone"
    folder.mkdir()
    sampled = made(profile, folder)
    folder.rmdir()
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled._flush_safely()
    folder.mkdir()
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled._flush_safely()
    assert sampled.state().rows == 2


def test_one_sampler_per_profile_and_process(scored):
    """Guards of one worker share it."""
    first = sampler_of(scored)
    assert sampler_of(scored) is first
    first.close()
    assert sampler_of(scored) is not first
    sampler_of(scored).close()
