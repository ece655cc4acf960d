"""`guardrails drift test`: stored rows, read by a profile, judged by detectors in processes of their own."""

import importlib.util
import json
import sys
import time

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import guardrails as gr
from guardrails.cli.drift_test import drift_test, lines
from guardrails.decisions.records import Decision, Reward
from guardrails.decisions.stores.store import DecisionStore
from guardrails.drift.by_rows.rows import MIXED, NOT_KEPT, OF_ONE_REQUEST, OTHER_PROFILE, reference_rows, stored_rows
from guardrails.drift.by_rows.verdicts import DriftReport
from guardrails.errors import GuardrailsError

MODULE = """
import numpy as np
class Means:
    def __init__(self, reference, limit=0.5, **options):
        self.reference, self.limit = reference, limit
    def predict(self, rows):
        off = np.abs(np.nanmean(rows, axis=0) - np.nanmean(self.reference, axis=0))
        return {"data": {"is_drift": int((off > self.limit).any()), "distance": off, "p_val": np.exp(-off),
                         "threshold": float(np.exp(-self.limit))}}
class Others(Means): pass
"""
needs_alibi = pytest.mark.skipif(importlib.util.find_spec("alibi_detect") is None, reason="needs alibi-detect")
RNG = np.random.default_rng(0)
DAY = 86400.0


def frame(n=400, shift=0.0):
    """A number and a category."""
    rng = np.random.default_rng(n)
    return pd.DataFrame({"x": rng.normal(size=n) + shift, "c": rng.choice(["b", "c"], n)})


@pytest.fixture(scope="module", autouse=True)
def factories(tmp_path_factory):
    """Detectors that need no imports."""
    folder = tmp_path_factory.mktemp("factories")
    (folder / "cli_factories.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """One that is saved, in a model store of its own."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    models = tmp_path_factory.mktemp("models")
    BentoMLContainer.model_store.set(ModelStore(str(models)))
    fitted = gr.Profile.fit(frame(), categorical=["c"], alpha=0.05)
    yield gr.Profile.load(fitted.save("people"))
    BentoMLContainer.model_store.reset()


def write(url, matrix, *, age=0.0, profile=None, prefix="d", **more):
    """Decisions with rows, as a service that keeps them writes them."""
    store = DecisionStore(url)
    store.create()
    label = None if profile is None else profile.tag
    ts = time.time() - age
    records = [
        Decision(decision_id=f"{prefix}{i}", ts=ts + i * 1e-3, api="predict", route="primary", profile=label, **more)
        for i in range(len(matrix))
    ]
    for record, row in zip(records, matrix, strict=True):
        record.features = row
    store.write("decision", [record.row() for record in records])
    store.close()


@pytest.fixture
def url(tmp_path):
    """Two weeks of rows of three numbers; those of the last day have a higher second one."""
    url = f"sqlite:///{tmp_path}/decisions.db"
    rng = np.random.default_rng(0)
    write(url, rng.normal(size=(300, 3)), age=10 * DAY, prefix="old")
    write(url, rng.normal(size=(100, 3)), age=3 * DAY, prefix="week")
    write(url, rng.normal(size=(100, 3)) + np.array([0, 2, 0]), age=3600.0, prefix="day")
    return url


def run(*arguments):
    """The command, in this process."""
    return CliRunner().invoke(drift_test, [str(argument) for argument in arguments])


MEANS = ("--detector", "cli_factories:Means")


def test_older_decisions_are_the_reference(url):
    """Whichever are older than that; the rest, or the newest of it, is judged."""
    told = run(url, *MEANS, "--reference-until", "7d", "--since", "1d")
    assert told.exit_code == 0, told.output
    assert "cli_factories:Means: DRIFT in 1 of 3 columns (100 rows against 300" in told.output
    assert "feature_1: p " in told.output
    assert "a p-value is below 0.6065" in told.output
    assert "200 rows against 300" in run(url, *MEANS, "--reference-until", "7d").output
    newest = run(url, *MEANS, "--reference-until", "7d", "--window", "60")
    assert "DRIFT in 1 of 3 columns (60 rows against 300" in newest.output
    week = run(url, *MEANS, "--reference-until", "2d", "--option", "limit=5")
    assert "no drift (100 rows against 400" in week.output


def test_several_detectors_each_with_its_options(url):
    """One block each, in order; a JSON list on request; the exit code on request."""
    arguments = (url, *MEANS, "--detector", "cli_factories:Others", "--reference-until", "7d", "--since", "1d")
    told = run(*arguments, "--option", "limit=0.5", "--option", "cli_factories:Others.limit=9.5", "--json")
    assert told.exit_code == 0, told.output
    first, second = json.loads(told.stdout)
    assert [first["detector"], second["detector"]] == ["cli_factories:Means", "cli_factories:Others"]
    assert (first["is_drift"], first["features"]) == (True, ["feature_1"])
    assert (second["is_drift"], second["features"]) == (False, [])
    blocks = run(*arguments).output
    assert blocks.index("Means: DRIFT") < blocks.index("Others: DRIFT")
    assert run(*arguments, "--fail-on-drift").exit_code == 1
    assert run(*arguments, "--fail-on-drift", "--option", "limit=9").exit_code == 0


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_the_reference_is_a_file(url, tmp_path, suffix):
    """Of rows, in any of three forms; a CSV's header names the columns."""
    rows = np.random.default_rng(5).normal(size=(250, 3))
    path = tmp_path / f"reference.{suffix}"
    if suffix == "csv":
        pd.DataFrame(rows, columns=["a", "b", "c"]).to_csv(path, index=False)
    else:
        (np.save if suffix == "npy" else np.savez)(path, rows)
    told = run(url, *MEANS, "--reference", path, "--since", "1d")
    assert told.exit_code == 0, told.output
    assert "DRIFT in 1 of 3 columns (100 rows against 250" in told.output
    assert ("b: p" if suffix == "csv" else "feature_1: p") in told.output


def test_what_is_missing_is_said(url, tmp_path):
    """In one line, with what to do."""
    for arguments, message in [
        ((url, "--detector", "KSDrift"), "What is KSDrift to compare with?"),
        ((url, *MEANS, "--reference-until", "30d"), "0 stored rows are older"),
        ((url, *MEANS, "--reference-until", "7d", "--since", "8d"), "reaches back into the reference"),
        ((url, *MEANS, "--reference-until", "7d", "--option", "limit"), "write KEY=JSON"),
        ((url, *MEANS, "--reference-until", "7d", "--option", "KSDrift.limit=1"), "none of the detectors"),
        ((url, *MEANS, "--reference-until", "7d", "--api", "other"), "no row to judge among 0 decisions"),
        ((url, "--detector", "no/folder", "--reference-until", "7d"), "runs code"),
        ((url, "--detector", "Nothing", "--reference-until", "7d"), "no detector 'Nothing'"),
        ((url, *MEANS, "--reference-until", "7d", "--option", "limit=[]"), "cli_factories:Means: "),
        ((f"sqlite:///{tmp_path}/none.db", *MEANS, "--reference-until", "7d"), "holds no decisions"),
        ((url,), "--detector"),
    ]:
        told = run(*arguments)
        assert told.exit_code in (1, 2), arguments
        assert message in told.output
        assert "Traceback" not in told.output
        assert isinstance(told.exception, SystemExit)
    hashed = f"sqlite:///{tmp_path}/hashed.db"
    write(hashed, ["a" * 32] * 4)
    told = run(hashed, *MEANS, "--reference-until", "7d")
    assert told.exit_code == 1
    assert "4 hold no row (install(features='store') keeps them)" in told.output


@needs_alibi
def test_alibi_detect_over_stored_rows(tmp_path, profile):
    """Numbers and categories in the profile's columns; two detectors, each on the columns its test is for."""
    url = f"sqlite:///{tmp_path}/decisions.db"
    guarded = gr.compose(
        gr.check_outliers(profile, enforce=False),
        gr.explore(gr.EpsilonGreedy(0.0), decisions=DirectLog(url), features="store"),
    )(lambda rows: np.zeros((len(rows), 2)))
    for x, c in frame(150, shift=1.0).itertuples(index=False):
        guarded([[x, c]])
    frame().to_csv(tmp_path / "reference.csv", index=False)
    told = run(
        url, "--detector", "TabularDrift", "--detector", "KSDrift", "--profile", profile.tag, "--json",
        "--reference", tmp_path / "reference.csv", "--option", "p_val=0.001",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    tabular, ks = json.loads(told.stdout)
    assert (tabular["columns"], tabular["features"]) == (["x", "c"], ["x"])
    assert (ks["columns"], ks["features"]) == (["x"], ["x"])
    assert "without c" in ks["note"]
    assert (ks["rows"], ks["reference_rows"]) == (150, 400)


class DirectLog:
    """A sink that writes at once."""

    def __init__(self, url):
        self.store = DecisionStore(url)
        self.store.create()

    def __call__(self, record):
        self.store.write("decision", [record.row()])


def record(decision_id, features, profile=None, ts=0.0):
    """A row of a store."""
    return {"decision_id": decision_id, "ts": ts, "profile": profile, "features": features}


def test_one_row_of_a_request_counts():
    """Not always its first; all of them on request; a join repeats decisions for their rewards."""
    records = [record(f"r{i}/{j}", json.dumps([i, j]), ts=i + j / 10) for i in range(100) for j in range(4)]
    records += [record("single", "[7, 0]", ts=200)]
    found = stored_rows(records * 2)
    assert found.matrix[:, 0].tolist() == [*range(100), 7]
    assert found.skipped == {OF_ONE_REQUEST: 300}
    assert np.bincount(found.matrix[:-1, 1].astype(int)).min() >= 10
    np.testing.assert_array_equal(stored_rows(records[::-1]).matrix, found.matrix)
    assert stored_rows(records, all_rows=True).matrix.shape == (401, 2)


def test_rows_are_read_in_one_profiles_codes(profile):
    """Those of its own as they are, raw ones by its columns, another profile's by name and category."""
    wider = pd.concat([frame(), pd.DataFrame({"x": [0.0] * 40, "c": ["a"] * 40})])
    other = gr.Profile.load(gr.Profile.fit(wider[["c", "x"]], categorical=["c"], alpha=0.05).save("wider"))
    records = [
        record("a", "[0.5, 1.0]", profile.tag),
        record("b", "[0.5, NaN]", profile.digest, 1),
        record("c", "[2.0, 0.25]", other.tag, 2),  # "c" is its third category, and its first column
        record("d", "[0.0, 0.25]", other.tag, 3),  # "a", which the profile does not know
        record("e", '{"c": "c", "x": 4}', None, 4),
        record("f", '[4, "b"]', None, 5),
        record("g", "[Infinity, 1.5]", other.tag, 6),
    ]
    found = stored_rows(records, profile)
    expected = [[0.5, 1], [0.5, np.nan], [0.25, 1], [0.25, np.inf], [4, 1], [4, 0], [1.5, np.inf]]
    np.testing.assert_array_equal(found.matrix, expected)
    assert (found.names, found.categorical, found.skipped) == (("x", "c"), ("c",), {})
    odd = [
        record("h", "f" * 32, profile.tag),
        record("i", None, profile.tag),
        record("j", "[1.0, 0.0]", "lost:1"),
        record("k", "[1.0]", profile.tag),
        record("l", '["red", "b"]'),
        record("m", "3", profile.tag),
    ]
    left = stored_rows([*records, *odd], profile).skipped
    assert left[NOT_KEPT] == 3
    assert left[OTHER_PROFILE] == 1
    assert left.total() == 6
    # Without a name, the newest decision says whose.
    assert stored_rows([*records, record("z", "[0, 1]", profile.tag, 9)]).names == ("x", "c")
    assert stored_rows([*records, record("z", "[0, 1]", other.tag, 9)]).names == ("c", "x")


def test_rows_without_a_profile_are_numbers_of_one_kind():
    """Those of another one than the newest are left out; different widths are an error that says what to do."""
    lost = [record("a", "[1, 2]", "lost:1"), record("b", "[3, 4]", "lost:2", 1), record("c", "[5, 6]", "lost:2", 2)]
    found = stored_rows(lost)
    assert (found.matrix.tolist(), found.skipped) == ([[3, 4], [5, 6]], {MIXED: 1})
    assert found.names == ("feature_0", "feature_1")
    with pytest.raises(GuardrailsError, match=r"\[1, 2\] columns.*--api"):
        stored_rows([record("a", "[1]"), record("b", "[1, 2]")])
    assert stored_rows([]).matrix.shape == (0, 0)


def test_reference_files(tmp_path, profile):
    """A CSV's own categories become the profile's codes, whatever its order; nothing is unpickled."""
    (tmp_path / "r.csv").write_text("id,c,x\n1,c,0.5\n2,b,\n3,z,2\n4,,3\n")
    rows, names = reference_rows(tmp_path / "r.csv", profile.schema)
    np.testing.assert_array_equal(rows, [[0.5, 1], [np.nan, 0], [2, np.inf], [3, np.nan]])
    assert names == ("x", "c")
    (tmp_path / "plain.csv").write_text("1,2\n3,4\n")
    assert reference_rows(tmp_path / "plain.csv")[0].tolist() == [[1, 2], [3, 4]]
    np.savez(tmp_path / "two.npz", X=np.ones((2, 2)), y=np.zeros(2))
    assert reference_rows(tmp_path / "two.npz")[0].tolist() == [[1, 1], [1, 1]]
    np.savez(tmp_path / "none.npz", a=np.ones((2, 2)), y=np.zeros(2))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "lacks.csv").write_text("x\n1\n")
    (tmp_path / "words.csv").write_text("x,c\nred,1\n")
    for name in ("none.npz", "pickled.npy", "lacks.csv", "words.csv", "absent.npy"):
        with pytest.raises(GuardrailsError, match=name.split(".")[0]):
            reference_rows(tmp_path / name, profile.schema)


def test_a_verdict_is_readable():
    """Without columns, with many, online, and with nothing but a verdict."""
    together = DriftReport("MMDDrift", True, 0.001, 0.25, 0.05, rows=5, reference_rows=9, seconds=1.0)
    assert lines(together) == [
        "MMDDrift: DRIFT (5 rows against 9, 1.00 s)",
        "  drift where a p-value is below 0.05",
        "  p 0.001, statistic 0.25",
    ]
    names = tuple(f"f{i}" for i in range(12))
    many = DriftReport("x", True, (0.0,) * 12, (1.0,) * 12, 0.1, names, names, note="some")
    assert lines(many)[-2:] == ["  and 2 more", "  note: some"]
    nan = float("nan")
    calm = DriftReport("x", False, None, (nan, 3.0, 1.0), (4.0, 4.0, 4.0), (), names[:3], online=True)
    assert lines(calm)[1:] == ["  f1: statistic 3"]
    assert lines(DriftReport("x", False, (nan, 0.4, 0.3), None, 0.1, (), names[:3]))[-1] == "  f2: p 0.3"
    assert lines(DriftReport("x", False))[0] == "x: no drift (0 rows against 0, 0.00 s)"


def test_rewards_do_not_repeat_rows(url):
    """A joined store does."""
    store = DecisionStore(url)
    store.write("reward", [Reward("day1", time.time(), 1.0).row(), Reward("day1", time.time(), 0.0).row()])
    store.close()
    assert "(100 rows against 300" in run(url, *MEANS, "--reference-until", "7d", "--since", "1d").output
