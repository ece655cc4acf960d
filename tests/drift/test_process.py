"""ProcessDetector: verdicts come back whole, and whatever happens to the child, the next call has one."""

import contextlib
import dataclasses
import gc
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest

from guardrails.contrib.alibi_drift import Asked, from_npy, to_npy, trim
from guardrails.drift.by_rows import process
from guardrails.drift.by_rows.process import ProcessDetector
from guardrails.drift.by_rows.suited import MISSING, UNKNOWN, Suited
from guardrails.drift.by_rows.verdicts import DriftReport
from guardrails.errors import GuardrailsError

MODULE = '''
import os, subprocess, sys, time
import numpy as np

class Means:
    """Drift where a mean is off by more than a half; the first value of the rows says what else to do."""

    def __init__(self, reference, **options):
        self.reference, self.options, self.asked, self.busy = reference, options, 0, False
        if options.get("online"):
            self.meta = {"online": True}

    def predict(self, rows):
        assert not self.busy, "two at a time"
        self.busy = True
        self.asked += 1
        what = np.ravel(rows)[0]
        if what == 91: os._exit(7)
        if what == 92: time.sleep(60)
        if what == 93: raise ValueError("no such\\nrows")
        if what == 94:
            self.sleeper = subprocess.Popen(["sleep", "60"])
            print("sleeper", self.sleeper.pid, file=sys.stderr, flush=True)
            open(self.options["told"], "w").write(str(self.sleeper.pid))
            time.sleep(60)
        if what == 95: os.kill(os.getpid(), 9)
        time.sleep(self.options.get("pause", 0))
        off = np.abs(np.atleast_2d(rows).mean(axis=0) - self.reference.mean(axis=0))
        self.busy = False
        return {"data": {"is_drift": int((off > 0.5).any()), "test_stat" if hasattr(self, "meta") else "distance": off,
                         "threshold": 0.5, "p_val": None if hasattr(self, "meta") else np.exp(-off),
                         "model": self, "x_ref": self.reference}}

class Noisy(Means):
    def predict(self, rows):
        print("printed", flush=True)
        os.write(1, b"\\x00" * 100000)
        os.system("echo from a shell")
        sys.stdout.write("unflushed")
        return super().predict(rows)

class About(Means):
    """What the child is like, as statistics."""
    def predict(self, rows):
        import sklearn
        here = [os.path.dirname(sklearn.__file__).endswith("contrib"), "guardrails" in sys.modules,
                os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "1"]
        return {"is_drift": False, "distance": [os.nice(0), os.getpid(), *map(float, here)], "p_val": 0.5}

class Random(Means):
    def predict(self, rows):
        import random
        return {"is_drift": False, "distance": [np.random.random(), random.random()]}

def broken(reference): raise RuntimeError("cannot be made")
def leaves(reference): raise SystemExit("bye")
class Silent(Means):
    def predict(self, rows): return [1, 2]
def slow(reference): time.sleep(60)
def dies(reference):
    print("the last straw", flush=True)
    os._exit(3)
'''

REFERENCE = np.random.default_rng(0).normal(size=(500, 3))
ORDINARY = np.random.default_rng(1).normal(size=(200, 3))


def told(first):
    """Ordinary rows whose first value asks for something."""
    rows = ORDINARY.copy()
    rows[0, 0] = first
    return rows


@pytest.fixture(scope="module", autouse=True)
def factories(tmp_path_factory):
    """A module of detectors that the child finds where this process would; and nobody is left at the end."""
    folder = tmp_path_factory.mktemp("factories")
    (folder / "drift_factories.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    before = set(psutil.Process().children(recursive=True))
    yield folder
    sys.path.remove(str(folder))
    gc.collect()
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [child for child in left if "alibi_drift" in " ".join(child.cmdline())]


def detector(factory="Means", reference=REFERENCE, **options):
    """One in a child."""
    return ProcessDetector(f"drift_factories:{factory}", reference, **options)


@pytest.fixture(scope="module")
def means():
    """A child that several tests ask."""
    with detector(feature_names=["a", "b", "c"]) as running:
        yield running


def gone(pid, within=5.0):
    """Whether a process ends in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


def test_a_verdict_comes_back_whole(means):
    """Numbers to the last bit, names of what drifted, worst first; nothing of what else the answer held."""
    calm = means.predict(ORDINARY)
    assert (calm.is_drift, calm.features, calm.online) == (False, (), False)
    rows = ORDINARY + np.array([0.7, 0.0, 2.0])
    report = means.predict(rows)
    off = np.abs(rows.mean(axis=0) - REFERENCE.mean(axis=0))
    assert report.statistic == tuple(off)
    assert report.p_value == tuple(np.exp(-off))
    assert (report.is_drift, report.threshold, report.columns) == (True, 0.5, ("a", "b", "c"))
    assert report.features[:1] == ("c",)
    assert (report.rows, report.reference_rows, report.detector) == (200, 500, "drift_factories:Means")
    assert 0 < report.seconds < 5
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["features"] == list(report.features)
    assert set(report.to_json()) == {entry.name for entry in dataclasses.fields(DriftReport)}


def test_what_the_child_prints_does_not_get_into_the_answers():
    """Python, raw writes, other programs: 100 kB more than a pipe holds, several times over."""
    with detector("Noisy") as noisy:
        for _ in range(5):
            assert noisy.predict(ORDINARY + 1).is_drift


def test_the_child_is_polite_and_by_itself():
    """Niceness 10, one thread, another process; no module of this library shadows what it imports."""
    with detector("About") as about:
        niceness, pid, shadowed, ours, one_thread = about.predict(ORDINARY).statistic
        assert pid == about.pid != os.getpid()
    assert (niceness, shadowed, ours, one_thread) == (os.nice(0) + 10, False, False, True)


def test_it_survives_kill_9():
    """Without a pause, too, when the death cannot be seen yet: the next call has another child, and says so."""
    with detector() as running:
        for pause in (0.0, 0.3):
            pid = running.pid
            os.kill(pid, signal.SIGKILL)
            time.sleep(pause)
            report = running.predict(ORDINARY + 1)
            assert report.is_drift
            assert "started again" in report.note
            assert running.pid != pid
            assert gone(pid)
        assert running.predict(ORDINARY).note == ""


def test_rows_that_kill_it_are_an_error_with_its_last_words_and_no_loop():
    """Two children die of them, not more; ordinary rows are judged afterwards."""
    with detector() as running:
        with pytest.raises(GuardrailsError, match="ended with exit code 7"):
            running.predict(told(91))
        with pytest.raises(GuardrailsError, match="ended by signal 9"):
            running.predict(told(95))
        assert not running.predict(ORDINARY).is_drift


def test_it_is_killed_when_it_takes_too_long(tmp_path):
    """With whatever it had started itself; the next call has another child."""
    with detector(timeout=1.0, options={"told": str(tmp_path / "sleeper")}) as running:
        for what in (92, 94):
            pid, started = running.pid, time.monotonic()
            with pytest.raises(GuardrailsError, match="longer than 1 s"):
                running.predict(told(what))
            assert time.monotonic() - started < 5
            assert gone(pid)
            assert running.predict(ORDINARY + 1).is_drift
        assert gone(int((tmp_path / "sleeper").read_text()))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("drift_factories:broken", "RuntimeError: cannot be made."),
        ("drift_factories:leaves", "SystemExit: bye"),
        ("drift_factories:nothing", "no attribute 'nothing'"),
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("drift_factories:dies", "exit code 3. Its last words: the last straw"),
        ("drift_factories:slow", "longer than 2 s"),
    ],
)
def test_one_that_cannot_be_made_says_why(factory, message):
    """In one line, at once, and no child stays."""
    with pytest.raises(GuardrailsError) as caught:
        ProcessDetector(factory, REFERENCE, start_timeout=2.0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_detector_comes_back_as_a_sentence(means):
    """The child lives on."""
    pid = means.pid
    with pytest.raises(GuardrailsError, match="drift_factories:Means: ValueError: no such rows"):
        means.predict(told(93))
    assert means.pid == pid
    with detector("Silent") as silent, pytest.raises(GuardrailsError, match="has to answer with a mapping"):
        silent.predict(ORDINARY)


def test_what_is_no_rows_is_refused_here(means):
    """Before anything is sent; nothing is pickled either way."""
    for wrong, message in [
        (ORDINARY[:, :2], "2 columns, the reference has 3"),
        (np.array([["a", "b", "c"]]), "are no numbers"),
        (np.array([[object()] * 3]), "are no numbers"),
        (np.empty((0, 3)), "shape"),
        (np.zeros((2, 3, 1)), "shape"),
    ]:
        with pytest.raises(GuardrailsError, match=message):
            means.predict(wrong)
    with pytest.raises(ValueError, match="allow_pickle"):
        to_npy(np.array([object()]))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        from_npy(pickled.getvalue())
    with pytest.raises(GuardrailsError, match="cannot hold set"):
        detector(options={"told": {1}})


def test_several_threads_are_served_one_after_the_other():
    """The detector would say if two were at it at once; each gets the answer to its own rows."""
    answers = {}
    with detector(options={"pause": 0.02}) as running:

        def ask(shift):
            answers[shift] = running.predict(REFERENCE + shift).statistic[0]

        threads = [threading.Thread(target=ask, args=(shift,)) for shift in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert {shift: round(value) for shift, value in answers.items()} == {shift: shift for shift in range(8)}


def test_closing_ends_it_even_while_it_computes():
    """The call under way raises, later ones as well; closing twice does no harm."""
    running = detector()
    caught = []

    def ask():
        with pytest.raises(GuardrailsError, match="closed") as error:
            running.predict(told(92))
        caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    pid = running.pid
    running.close()
    thread.join(5)
    assert caught
    assert gone(pid)
    running.close()
    with pytest.raises(GuardrailsError, match="is closed"):
        running.predict(ORDINARY)


def test_an_interrupted_call_does_not_answer_the_next_one(means, monkeypatch):
    """After Ctrl-C the answer is still on its way: that child is ended."""

    def interrupted(stream):
        raise KeyboardInterrupt

    pid = means.pid
    with monkeypatch.context() as patched:
        patched.setattr("guardrails.drift.by_rows.child.read_frame", interrupted)
        with pytest.raises(KeyboardInterrupt):
            means.predict(ORDINARY + 5)
    assert not means.predict(ORDINARY).is_drift
    assert means.pid != pid


def test_one_that_is_forgotten_ends():
    """Garbage takes its child along."""
    running = detector()
    pid = running.pid
    del running
    gc.collect()
    assert gone(pid)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("how", ["kill", "exit"])
def test_it_ends_with_its_parent(factories, busy, how):
    """However that ends, and whatever the child is at."""
    code = f"""
    import sys, threading, time
    sys.path.insert(0, {str(factories)!r})
    import numpy as np
    from guardrails.drift.by_rows.process import ProcessDetector
    running = ProcessDetector("drift_factories:Means", np.zeros((5, 1)))
    if {busy}: threading.Thread(target=running.predict, args=([[92.0]],), daemon=True).start()
    time.sleep(0.2)
    print(running.pid, flush=True)
    if {how == "kill"}: time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        if how == "kill":
            parent.kill()
    assert gone(pid)


def test_a_folder_is_not_touched_without_leave(tmp_path, monkeypatch):
    """No process is started and nothing in it is opened; a folder that is not there says the same."""
    bomb = tmp_path / "saved"
    bomb.mkdir()
    (bomb / "meta.dill").write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    monkeypatch.setattr(process, "Child", None)
    opened, watching = [], [True]  # a hook cannot be taken away again

    def note(event, given):
        if watching and event in ("open", "os.listdir", "os.scandir"):
            opened.append(str(given[0]))

    sys.addaudithook(note)
    for folder in (bomb, str(bomb), tmp_path / "absent", "absent/folder"):
        with pytest.raises(GuardrailsError, match="runs code"):
            ProcessDetector(folder, None)
    list(bomb.iterdir())
    watching.clear()
    assert [path for path in opened if path.startswith(str(bomb))] == [str(bomb)]  # by this test, to see that it works
    with pytest.raises(GuardrailsError, match="there is no folder"):
        ProcessDetector(tmp_path / "absent", None, runs_code=True)
    with pytest.raises(GuardrailsError, match="saved with its options"):
        ProcessDetector(bomb, REFERENCE, runs_code=True)


def test_names_that_are_none_are_refused():
    """With those there are; an interpreter that is none as well."""
    with pytest.raises(GuardrailsError, match=r"no detector 'SpotTheDiffDrift'.*KSDrift"):
        ProcessDetector("SpotTheDiffDrift", REFERENCE)
    with pytest.raises(GuardrailsError, match="compares with a reference"):
        ProcessDetector("KSDrift", None)
    with pytest.raises(GuardrailsError, match="cannot be started"):
        detector(python="/no/such/python")
    with pytest.raises(GuardrailsError, match="2 feature names for 3 columns"):
        detector(feature_names=["a", "b"])


@pytest.mark.skipif("GUARDRAILS_ALIBI_PYTHON" not in os.environ, reason="GUARDRAILS_ALIBI_PYTHON names no interpreter")
def test_a_child_of_another_environment():
    """Which has alibi-detect, and neither this library nor this interpreter's NumPy."""
    python = os.environ["GUARDRAILS_ALIBI_PYTHON"]
    options = {"p_val": 1e-4}
    with ProcessDetector("KSDrift", REFERENCE, options=options, python=python, feature_names=list("abc")) as running:
        report = running.predict(ORDINARY + np.array([0.0, 1.0, 0.0]))
        assert report.features == ("b",)
        assert not running.predict(ORDINARY).is_drift
    # Found there, and not along this interpreter's own path: that is not handed over.
    with pytest.raises(GuardrailsError, match="No module named 'drift_factories'"):
        detector(python=python)


def test_what_is_drawn_is_the_same_after_a_restart():
    """Simulated thresholds would differ otherwise."""
    with detector("Random") as first:
        drawn = first.predict(ORDINARY).statistic
        os.kill(first.pid, signal.SIGKILL)
        assert first.predict(ORDINARY).statistic == drawn
    with detector("Random", seed=1) as other:
        assert other.predict(ORDINARY).statistic != drawn


def test_an_online_detector_gets_row_by_row():
    """The first row with drift is reported, else the last; a restart empties its windows and is said."""
    rows = np.zeros((50, 3))
    rows[30:, 1] = 2.0
    with detector(reference=np.zeros((10, 3)), options={"online": True}) as online:
        calm = online.predict(rows[:30])
        assert (calm.online, calm.is_drift, calm.p_value, calm.statistic) == (True, False, None, (0.0, 0.0, 0.0))
        os.kill(online.pid, signal.SIGKILL)
        seen = online.predict(rows)
        assert (seen.is_drift, seen.features, seen.rows) == (True, ("feature_1",), 50)
        assert "first at row 31 of 50" in seen.note
        assert "empty windows" in seen.note


def test_histories_stay_short():
    """Those alibi-detect lets grow; what is read again stays."""

    class Grows:
        def __init__(self):
            self.max_ws, self.meta = 4, {"online": True}
            self.test_stats, self.drift_preds, self.xs = np.empty((0, 1, 2)), np.array([]), np.empty((0, 2))

        def predict(self, row):
            self.test_stats = np.concatenate([self.test_stats, [[row]]])
            self.drift_preds = np.concatenate([self.drift_preds, [0]])
            self.xs = np.concatenate([self.xs, [row]])
            return {"is_drift": 0, "test_stat": self.test_stats[-1]}

    grows = Grows()
    rows = np.arange(200.0).reshape(100, 2)
    assert Asked(grows, {}).judge(rows)["test_stat"] == [rows[-1].tolist()]
    assert (len(grows.test_stats), len(grows.drift_preds)) == (1, 1)
    np.testing.assert_array_equal(grows.xs, rows[-4:])
    np.testing.assert_array_equal(grows.test_stats[-1], rows[-1:])
    trim(object())


NAMES = ["age", "colour", "smokes"]
MIXED = np.array([[30.0, 0.0, 0.0], [40.0, 1.0, 1.0], [50.0, 2.0, 1.0], [60.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("name", "categorical", "chosen"),
    [
        ("KSDrift", ["colour"], ("age", "smokes")),
        ("CVMDriftOnline", [1, 2], ("age",)),
        ("ChiSquareDrift", ["colour"], ("colour",)),
        ("ChiSquareDrift", [], ("age", "colour", "smokes")),
        ("FETDrift", ["colour", "smokes"], ("smokes",)),
        ("TabularDrift", ["colour"], ("age", "colour", "smokes")),
        ("MMDDrift", ["colour"], ("age", "colour", "smokes")),
    ],
)
def test_a_detector_gets_the_columns_its_test_is_for(name, categorical, chosen):
    """And the note names the others."""
    columns = Suited.of(name, MIXED, NAMES, categorical, {})
    assert columns.names == chosen
    assert all(left in columns.note for left in set(NAMES) - set(chosen))
    assert bool(columns.note) == (len(chosen) < 3)
    assert columns.options == ({"categories_per_feature": {1: None}} if name == "TabularDrift" else {})


def test_columns_given_by_hand_are_taken_as_they_are():
    """categories_per_feature counts columns: none may go missing."""
    assert Suited.of("ChiSquareDrift", MIXED, NAMES, ["colour"], {"categories_per_feature": {"1": 3}}).names == tuple(
        NAMES
    )
    with pytest.raises(GuardrailsError, match="reads numbers, and no column"):
        Suited.of("KSDrift", MIXED, NAMES, NAMES, {})
    with pytest.raises(GuardrailsError, match="names no column"):
        Suited.of("KSDrift", MIXED, NAMES, ["size"], {})


def test_missing_values_are_left_out_or_a_category():
    """A NaN makes alibi-detect's p-value of the whole column NaN, which is not below any threshold."""
    columns = Suited.of("TabularDrift", MIXED, NAMES, ["colour"], {})
    rows = np.array([[1.0, np.nan, 0.0], [np.nan, 1.0, 0.0], [np.inf, 1.0, 0.0], [2.0, np.inf, 1.0]])
    kept, note = columns.take(rows, 3)
    np.testing.assert_array_equal(kept, [[1.0, MISSING, 0.0], [2.0, UNKNOWN, 1.0]])
    assert note == "2 of 4 rows left out: a value is missing or infinite"
    with pytest.raises(GuardrailsError, match="each of the 2 rows lacks a value"):
        columns.take(rows[1:3], 3)
    assert columns.take(MIXED, 3)[1] == ""
    assert np.isnan(rows).sum() == 2  # the caller's own are as they were


def test_a_fisher_test_is_not_given_fractions():
    """alibi-detect cuts .7 down to 0, and says nothing."""
    columns = Suited.of("FETDrift", MIXED, NAMES, (), {})
    with pytest.raises(GuardrailsError, match="something else in smokes"):
        columns.take(np.full((5, 3), 0.7), 3)
    kept, note = columns.take(np.array([[0, 0, 1.0], [0, 0, np.nan]]), 3)
    assert (kept.tolist(), note[:1]) == ([[1.0]], "1")


def test_verdicts_of_every_kind_are_read():
    """Per column, for all together, online with several windows, with the other correction, without a threshold."""
    read = DriftReport.read
    by_column = read({"is_drift": [0, 1], "p_val": [0.04, 0.001], "threshold": 0.05}, names="ab", detector="x")
    assert by_column.features == ("b",)
    tied = read(
        {"is_drift": 1, "p_val": [0.0, 0.0, 0.9], "distance": [0.3, 0.9, 0.1], "threshold": 0.01},
        names="abc",
        detector="x",
    )
    assert tied.features == ("b", "a")
    together = read({"is_drift": 1, "p_val": 0.001, "distance": 0.2, "threshold": 0.05}, names="ab", detector="x")
    assert (together.features, together.columns, together.p_value) == ((), (), 0.001)
    calm = read(
        {"is_drift": 0, "p_val": [0.3, 0.4], "threshold": [0.025, 0.05], "correction": "fdr"}, names="ab", detector="x"
    )
    assert calm.threshold == 0.025
    nan = float("nan")
    windows = read(
        {"is_drift": 1, "test_stat": [[1.0, 9.0, nan], [3.0, 8.0, nan]], "threshold": [2.0]},
        names="abc",
        detector="x",
        online=True,
    )
    assert windows.features == ("b", "a")
    assert windows.statistic[:2] == (3.0, 9.0)
    assert windows.to_json()["statistic"] == [3.0, 9.0, None]
    equal = read({"is_drift": 1, "test_stat": [[1.0, 2.0]], "threshold": [2.0, 2.0]}, names="ab", detector="x")
    assert equal.features == ("b",)
    unknown = read({"is_drift": 1, "p_val": [0.1, 0.2]}, names="ab", detector="x")
    assert (unknown.is_drift, unknown.features) == (True, ())
    reduced = read({"is_drift": 1, "p_val": [0.001], "threshold": 0.05}, names="ab", detector="x")
    assert reduced.features == ("output_0",)
    for p_value, whom in ((nan, "it"), ([nan, 0.5], "a")):
        silent = read({"is_drift": 0, "p_val": p_value, "threshold": 0.05}, names="ab", detector="x", note="first")
        assert silent.note == f"first; no p-value, so no verdict, for {whom}"
    assert read({"is_drift": False}, names="ab", detector="x").p_value is None
