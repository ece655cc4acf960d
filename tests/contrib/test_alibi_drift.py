"""alibi-detect's drift detectors, asked through a child, say what they say when they are called directly."""

import importlib.util
import io
import json
import os
import signal
import warnings

import numpy as np
import pytest

pytest.importorskip("alibi_detect")

from alibi_detect import cd
from alibi_detect.saving import save_detector
from sklearn.linear_model import LogisticRegression

from guardrails.contrib import alibi_drift
from guardrails.contrib.alibi_drift import DETECTORS, made, summary
from guardrails.drift.by_rows.process import ProcessDetector
from guardrails.drift.by_rows.verdicts import DriftReport
from guardrails.errors import GuardrailsError

HAS_TORCH = importlib.util.find_spec("torch") is not None
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=(500, 4))
CODES = RNG.integers(0, 4, (500, 3)).astype(float)
BITS = RNG.integers(0, 2, (500, 3)).astype(float)
BOTH = np.column_stack([NUMBERS[:, :2], CODES[:, 0]])


def window(kind, shifted):
    """Rows like the reference; shifted, the second column is not."""
    rng = np.random.default_rng(1)
    rows = {
        "numbers": rng.normal(size=(200, 4)),
        "codes": rng.integers(0, 4, (200, 3)).astype(float),
        "bits": rng.integers(0, 2, (200, 3)).astype(float),
        "both": np.column_stack([rng.normal(size=(200, 2)), rng.integers(0, 4, 200)]),
    }[kind]
    if shifted:
        rows[:, 1] = {"numbers": rows[:, 1] + 1, "codes": 3, "bits": 1, "both": rows[:, 1] * 3}[kind]
    return rows


OFFLINE = {
    "KSDrift": ("numbers", NUMBERS, {"p_val": 0.01}),
    "CVMDrift": ("numbers", NUMBERS, {"p_val": 0.01, "correction": "fdr"}),
    "ChiSquareDrift": ("codes", CODES, {"p_val": 0.01}),
    "FETDrift": ("bits", BITS, {"p_val": 0.01, "alternative": "two-sided"}),
    "TabularDrift": ("both", BOTH, {"p_val": 0.01, "categories_per_feature": {"2": None}}),
    "ClassifierDrift": ("numbers", NUMBERS, {"p_val": 0.01, "model": "sklearn.linear_model.LogisticRegression"}),
}
OPTIONS_HERE = {
    "TabularDrift": {"categories_per_feature": {2: None}},
    "ClassifierDrift": {"model": LogisticRegression(), "backend": "sklearn"},
}
ONLINE = {
    "CVMDriftOnline": ("numbers", NUMBERS[:200], {"ert": 100, "window_sizes": [10, 20], "n_bootstraps": 500}),
    "FETDriftOnline": ("bits", BITS, {"ert": 100, "window_sizes": [10, 20], "n_bootstraps": 2000}),
}


def order(name, options, **more):
    """As the parent sends it, through JSON."""
    kind = {"kind": "name", "detector": name, "options": options, "predict": {}, "seed": 0, "runs_code": False}
    return json.loads(json.dumps({**kind, **more}))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("name", OFFLINE)
def test_offline_detectors_say_what_they_say_themselves(name, shifted):
    """p-values, statistics, threshold and verdict are equal, to the last bit; drift is seen where there is some."""
    kind, reference, options = OFFLINE[name]
    rows = window(kind, shifted)
    np.random.seed(0)  # noqa: NPY002  # ClassifierDrift draws which rows train it
    direct = getattr(cd, name)(reference.copy(), **{**options, **OPTIONS_HERE.get(name, {})}).predict(rows)["data"]
    answer = made(order(name, options), reference.copy()).judge(rows)
    for key in ("p_val", "distance", "threshold"):
        np.testing.assert_array_equal(answer[key], direct[key])
    assert set(answer) <= {*alibi_drift.KEYS, "reference_rows", "correction"}
    report = DriftReport.read(answer, names=list("abcd")[: rows.shape[1]], detector=name)
    assert report.is_drift == bool(direct["is_drift"]) == shifted
    expected = () if name == "ClassifierDrift" else ("b",)
    assert report.features == (expected if shifted else ())
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", ONLINE)
def test_online_detectors_say_what_they_say_themselves(name):
    """Row after row over 300 rows, through shortened histories; with the seed, thresholds are equal too."""
    kind, reference, options = ONLINE[name]
    np.random.seed(0)  # noqa: NPY002
    direct = getattr(cd, name)(reference.copy(), **options, verbose=False)
    asked = made(order(name, options), reference.copy())
    inner = asked._inner
    rows = np.vstack([window(kind, False), window(kind, True)])[:300]
    np.random.seed(1)  # noqa: NPY002  # FETDriftOnline draws where a statistic equals its threshold
    said = [summary(direct.predict(row)) for row in rows]
    np.random.seed(1)  # noqa: NPY002
    for row, expected in zip(rows, said, strict=True):
        answer = asked.judge(row[None])
        for key, value in expected.items():
            np.testing.assert_array_equal(answer[key], value)
        assert len(inner.test_stats) == len(inner.drift_preds) == 1
        assert len(inner.xs) <= inner.max_ws
    assert len(direct.test_stats) == 300
    drifted = np.flatnonzero([entry["is_drift"] for entry in said])
    assert len(drifted)
    assert drifted[-1] >= 200


def test_memory_of_thresholds_is_bounded():
    """Each simulated stream is a table of (reference + stream) squared: 64 of them for 10,000 rows would be 6.4 GB."""
    assert alibi_drift._batch(200, [10, 20]) == 64
    for rows in (1000, 10_000, 100_000):
        batch = alibi_drift._batch(rows, [10, 20])
        assert batch == 1 or batch * rows**2 <= alibi_drift.BATCH_BYTES
    assert alibi_drift._batch(10_000, [10, 20]) == 2


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch is not missing")
@pytest.mark.parametrize("name", [name for name in DETECTORS if name.startswith(("MMD", "LSDD"))])
def test_what_is_missing_is_named(name):
    """At once: not after alibi-detect's own seconds of imports."""
    with pytest.raises(GuardrailsError, match=f"{name} with backend='pytorch' needs the package torch"):
        ProcessDetector(name, NUMBERS, options={"ert": 10, "window_size": 5} if name.endswith("Online") else {})


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
@pytest.mark.parametrize("name", ["MMDDrift", "LSDDDrift"])
def test_with_torch_they_are_there(name):
    """Shifted or not."""
    for shifted in (False, True):
        answer = made(order(name, {"p_val": 0.01}), NUMBERS.astype(np.float32)).judge(window("numbers", shifted))
        assert bool(answer["is_drift"]) == shifted


def test_unknown_options_are_told_the_known_ones():
    """And what alibi-detect itself objects to comes through."""
    with pytest.raises(TypeError, match=r"'colour'.*Its options are p_val, .*correction"):
        made(order("KSDrift", {"colour": 1}), NUMBERS)
    with pytest.raises(ValueError, match="bonferroni"):
        made(order("KSDrift", {"correction": "none"}), NUMBERS)


@pytest.fixture(scope="module")
def ks():
    """KSDrift in a child, once for several tests: it takes seconds to import."""
    with ProcessDetector("KSDrift", BOTH, feature_names=["a", "b", "c"], categorical=["c"]) as running:
        yield running


def test_through_the_child_the_numbers_are_the_same(ks):
    """Over the pipe as well; the category is not given to a test of numbers."""
    rows = window("both", True)
    direct = cd.KSDrift(BOTH[:, :2]).predict(rows[:, :2])["data"]
    report = ks.predict(rows)
    np.testing.assert_array_equal(report.p_value, direct["p_val"])
    np.testing.assert_array_equal(report.statistic, direct["distance"])
    assert (report.is_drift, report.features, report.columns, report.threshold) == (True, ("b",), ("a", "b"), 0.025)
    assert "without c" in report.note
    assert not ks.predict(window("both", False)).is_drift


def test_a_missing_value_does_not_hide_drift(ks):
    """Given to alibi-detect as it is, the p-value of the column is NaN and nothing has drifted."""
    rows = window("both", True)
    rows[7, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct = cd.KSDrift(BOTH[:, 1:2]).predict(rows[:, 1:2])["data"]
    assert not direct["is_drift"]
    report = ks.predict(rows)
    assert report.features == ("b",)
    assert report.rows == 199
    assert "1 of 200 rows left out" in report.note


def test_the_real_child_survives_kill_9(ks):
    """A new one, with imports and all."""
    pid = ks.pid
    os.kill(pid, signal.SIGKILL)
    report = ks.predict(window("both", True))
    assert report.features == ("b",)
    assert "started again" in report.note
    assert ks.pid != pid


def test_a_saved_folder_is_loaded_with_leave_only(tmp_path):
    """It brings reference and options along; rows are cast to its reference's type. What is pickled in it runs."""
    marker = tmp_path / "ran"
    reference = NUMBERS.astype(np.float32)
    folder = tmp_path / "saved"

    def halved(rows, marker=str(marker)):
        open(marker, "a").close()  # noqa: PTH123
        return rows / 2

    direct = cd.KSDrift(reference, p_val=0.01, preprocess_fn=halved)
    save_detector(direct, folder)
    marker.unlink()
    with pytest.raises(GuardrailsError, match="runs code"):
        ProcessDetector(folder, None)
    with pytest.raises(PermissionError):
        made(order(str(folder), {}, kind="folder"), None)
    assert not marker.exists()
    with ProcessDetector(folder, None, runs_code=True, feature_names=list("abcd")) as running:
        rows = window("numbers", True)
        report = running.predict(rows)
    assert marker.exists()
    np.testing.assert_array_equal(report.p_value, direct.predict(rows.astype(np.float32))["data"]["p_val"])
    assert (report.detector, report.features, report.reference_rows) == ("KSDrift", ("b",), 500)


@pytest.mark.full
@pytest.mark.parametrize("name", {**OFFLINE, **ONLINE})
def test_every_detector_in_a_child_of_its_own(name):
    """All of those available here, from their names to their reports."""
    kind, reference, options = {**OFFLINE, **ONLINE}[name]
    with ProcessDetector(name, reference, options=options) as running:
        assert running.predict(window(kind, True)).is_drift
        assert running.online == name.endswith("Online")


@pytest.mark.full
def test_a_reference_that_follows_the_traffic_stays_in_the_child():
    """update_x_ref changes it while predicting: the caller's own array is as it was, and a restart begins with it."""
    before = NUMBERS.copy()
    with ProcessDetector("KSDrift", NUMBERS, options={"update_x_ref": {"last": 150}}) as running:
        rows = window("numbers", True)
        assert running.predict(rows).reference_rows == 150
        assert not running.predict(rows).is_drift
        os.kill(running.pid, signal.SIGKILL)
        assert running.predict(rows).is_drift
    np.testing.assert_array_equal(NUMBERS, before)


@pytest.mark.full
def test_a_fisher_test_says_which_way_it_looks():
    """Its default sees increases only."""
    with ProcessDetector("FETDrift", BITS) as running:
        report = running.predict(np.zeros((200, 3)))
    assert not report.is_drift
    assert "increases only" in report.note


def test_an_array_keeps_its_bits_on_the_way():
    """.npy, of any NumPy; never a pickle."""
    array = RNG.normal(size=(7, 3))
    np.testing.assert_array_equal(alibi_drift.from_npy(alibi_drift.to_npy(array)), array)
    assert alibi_drift.from_npy(alibi_drift.to_npy(None)) is None
    stream = io.BytesIO()
    alibi_drift.write_frame(stream, b"abc")
    for cut, expected in ((0, b"abc"), (1, None), (8, None)):
        held = io.BytesIO(stream.getvalue()[: len(stream.getvalue()) - cut])
        assert alibi_drift.read_frame(held) == expected
