"""The sampler: exact counts in the background, bounded, shared by workers, and hard to kill."""

import pickle
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from pydantic import BaseModel

import guardrails as gr
from guardrails.core.payload import RowSet
from guardrails.drift import Sampler, sampler, sampler_of
from guardrails.drift.options import DriftOptions
from guardrails.errors import ProfileError

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


def watched(profile, rows, *outputs):
    """The counts of rows and their answers by definition: side by side with whether each row is an outlier."""
    rows = np.atleast_2d(rows)
    flags = profile.outliers.is_outlier(rows).astype(float)
    return profile.bins.count(np.column_stack([rows, *outputs, flags]))


def test_counts_are_those_of_the_rows(made, profile):
    """Request by request, features and answers: the same table as counting all at once."""
    sampled = made(profile)
    for row, label in zip(X, LABELS, strict=True):
        sampled.offer(row[None, :], np.array([label]), None, 0)
    state = sampled.flush()
    np.testing.assert_array_equal(state.counts[:-1], profile.bins.counts[:-1])
    np.testing.assert_array_equal(state.counts, watched(profile, X, LABELS))
    assert profile.bins.names[-1] == "__outlier__"
    assert state.counts[-1, 1] == profile.outliers.is_outlier(X).sum() > 0
    assert (state.rows, state.dropped, state.workers, state.unreadable) == (800, 0, 1, 0)


def test_rows_read_at_once_count_like_rows_read_one_by_one(made, scored):
    """Alike and unlike requests in any order: the same table, and the same neighbours, as each by itself."""
    rng = np.random.default_rng(5)
    offers = []
    for at in range(120):
        kind = rng.integers(0, 4)
        rows = RowSet(X[at : at + 1].copy(), single=bool(kind % 2))
        answer = [SCORES[at : at + 1], SCORES[at : at + 1].tolist(), None, SCORES[at : at + 1].astype(np.float32)][kind]
        offers.append((rows, answer))
    together, alone = made(scored), made(scored, capacity=1)
    for rows, answer in offers:
        together.offer(rows, answer, None, 0)
    together.flush()
    alone._tables.own.counts[:] = 0
    for rows, answer in offers:
        alone.offer(rows, answer, None, 0)
        alone.flush()
    np.testing.assert_array_equal(together._tables.own.counts, alone._tables.own.counts)
    np.testing.assert_array_equal(together._tables.own.pairs, alone._tables.own.pairs)
    np.testing.assert_allclose(together._tables.own.distances, alone._tables.own.distances)
    assert together._tables.own.pairs[0] == 119


def test_a_row_that_was_not_answered_has_no_output_however_it_is_read(made, scored):
    """`answered` counts, also where many requests are read at once."""
    sampled = made(scored)
    for _ in range(3):
        sampled.offer(RowSet(X[:1].copy(), single=False), SCORES[:1], np.array([], dtype=np.intp), 0)
    np.testing.assert_array_equal(sampled.flush().counts.sum(axis=1), [3, 3, 3, 0, 0, 3])


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
    np.testing.assert_array_equal(sampled.flush().counts, 10 * watched(profile, X[:4], LABELS[:4]))


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
    expected = watched(scored, X[:n], SCORES[:n].argmax(axis=1), SCORES[:n].max(axis=1))
    np.testing.assert_array_equal(sampled.flush().counts, expected)


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
    np.testing.assert_array_equal(counts.sum(axis=1), [3, 3, 3, 1, 3])


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
    sampled._round()
    counts = sampled.state().counts
    label = watched(profile, X[:1], [1.0])
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
    expected = sum(watched(profile, np.random.default_rng(i).normal(size=(50, 3)), np.ones(50)) for i in range(2))
    np.testing.assert_array_equal(state.counts, expected + watched(profile, X[:1], [0.0]))
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


SPOILT = {
    "empty": lambda good: b"",
    "junk": lambda good: b"junk",
    "cut": lambda good: good[: len(good) // 2],
    "one byte more": lambda good: good + b"\0",
    "another table": lambda good: good + good,
    "archive": lambda good: b"PK\x03\x04 no archive",
    "pickle": lambda good: pickle.dumps({"a": 1}),
    "header": lambda good: b"\x93NUMPY\x01\x00",
}


def another(folder):
    """Where another worker's table would be, and the content of the only one there is."""
    (own,) = folder.glob("*.table")
    return own.with_name(re.sub(r"_\d+_\d+\.table$", "_99999_1.table", own.name)), own.read_bytes()


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_file_that_cannot_be_read_is_passed_over(made, profile, tmp_path, spoil):
    """Another worker's broken table costs its own counts, nobody else's; once it is whole, it counts."""
    sampled = made(profile)
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled.flush()
    other, good = another(tmp_path)
    other.write_bytes(SPOILT[spoil](good))
    sampled.offer(X[:1], np.array([1]), None, 0)
    state = sampled.flush()
    assert (state.rows, state.workers) == (2, 1)
    whole = tmp_path / "whole"
    whole.write_bytes(good)
    whole.replace(other)
    assert (sampled.state().rows, sampled.state().workers) == (3, 2)


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_table_that_was_read_before_may_be_replaced_by_anything(made, profile, tmp_path, spoil):
    """What was counted in it stays counted."""
    sampled = made(profile)
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled.flush()
    other, good = another(tmp_path)
    other.write_bytes(good)
    assert sampled.state().rows == 2
    junk = tmp_path / "junk"
    junk.write_bytes(SPOILT[spoil](good))
    junk.replace(other)
    sampled.offer(X[:1], np.array([1]), None, 0)
    assert sampled.flush().rows == 3
    other.unlink()
    assert sampled.state().rows == 3


CUT_SHORT = """
import os, sys, numpy as np
from pathlib import Path
from guardrails.drift.tables import HostTables, Table
folder = Path(sys.argv[1])
host = HostTables(folder, "t_", (3, 400))
other = Table(folder / "t_1_1.table", (3, 400), create=True)
assert host.totals().workers == 2
with open(folder / "t_1_1.table", "r+b") as file:
    file.truncate(0)
print("lives", host.totals().workers)
"""


def test_a_table_that_is_cut_short_under_its_readers_kills_none_of_them(tmp_path):
    """Reading behind the end of a mapped file is a SIGBUS: the end of the service, for a file somebody emptied."""
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.split()[:1]) == (0, ["lives"]), done.stderr[-300:]


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
    shutil.rmtree(folder)
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled._round()
    folder.mkdir(exist_ok=True)
    sampled.offer(X[:1], np.array([1]), None, 0)
    sampled._round()
    assert sampled.state().rows == 2
    assert sampled._tables.own.counts[0].sum() == 2


def test_one_sampler_per_profile_and_process(scored):
    """Guards of one worker share it."""
    first = sampler_of(scored)
    assert sampler_of(scored) is first
    first.close()
    assert sampler_of(scored) is not first
    sampler_of(scored).close()


def test_decorators_that_disagree_on_how_drift_is_judged_are_refused(scored):
    """One profile is one watched stream; who does not care takes what there is."""
    options = DriftOptions(run_length=3600.0)
    first = sampler_of(scored, options)
    assert sampler_of(scored, DriftOptions(run_length=3600.0)) is first
    assert sampler_of(scored) is first
    with pytest.raises(ProfileError, match=r"two things.*say the same"):
        sampler_of(scored, DriftOptions(run_length=7200.0))
    first.close()
    second = sampler_of(scored, DriftOptions(run_length=7200.0))
    assert second is not first
    assert second.options.run_length == 7200.0
    assert [one for one in sampler.samplers() if one.profile is scored] == [second]
    second.close()
    assert second not in sampler.samplers()


@pytest.mark.parametrize(("width", "most"), [(1, 4096), (30, 4096), (100_000, 83), (10_000_000, 64)])
def test_wide_rows_wait_in_smaller_numbers(width, most):
    """Memory is bounded whatever a row holds, down to a few requests."""
    assert sampler._capacity(width) == most
    assert most in (64, 4096) or most * width * 8 <= sampler.MEMORY


def test_examples_are_the_latest_rows_in_bins_that_filled_up(made, profile):
    """Decision ids of all workers, latest first, at most 20; rows without an id are nobody's example."""
    sampled = made(profile)
    for at in range(100):
        sampled.offer(
            np.array([[float(at % 2) * 50 - 25, 0.0, 0.0]]), np.array([1]), None, 0, f"d{at}" if at != 97 else ""
        )
    sampled.flush()
    other = made(profile)  # another worker of the same host
    other.offer(np.array([[25.0, 0.0, 0.0]]), np.array([1]), None, 0, "last")
    other.flush()
    high = int(profile.bins.codes(np.array([[25.0, 0, 0, 1, 1]]))[0, 0])
    found = sampled._tables.examples({0: [high]})
    assert found == ("last", *(f"d{at}" for at in range(99, 0, -2) if at != 97))[:20]
    assert sampled._tables.examples({0: []}) == ()
    assert sampled._tables.examples({}) == ()


FORKED = """
import os, sys, time, numpy as np, guardrails as gr
from pathlib import Path
from guardrails.drift import sampler_of, sampler
os.environ["GUARDRAILS_DRIFT_FOLDER"] = sys.argv[2]
profile = gr.Profile.load(sys.argv[1])
row = np.zeros((1, 3))
before = sampler_of(profile)
before.offer(row, None, None, 0)
before.flush()
time.sleep(1.0)  # whoever forks while a thread holds somebody's lock gets the lock, held for ever
if os.fork() == 0:
    assert sampler.samplers() == []
    own = sampler_of(profile)
    assert own is not before and own._thread.is_alive()
    for _ in range(5):
        own.offer(row, None, None, 0)
    own.close()
    os._exit(0)
os.wait()
before.offer(row, None, None, 0)
state = before.flush()
print(state.rows, state.workers)
"""


def test_a_forked_worker_counts_in_a_table_of_its_own(profile, tmp_path):
    """It has neither its parent's thread nor its parent's table, and takes nothing away from it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    where = stored(profile, tmp_path / "profile")
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(where), str(shared)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["7", "2"]
