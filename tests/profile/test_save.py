"""Saving and loading: bit for bit, nothing executable, and errors that say what to do."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.errors import ProfileError


@pytest.fixture(scope="module")
def profile():
    """With categories, holes, a constant and outputs."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "age": rng.normal(size=700),
            "colour": rng.choice(["rot", "grün", "blau"], 700),
            "k": np.full(700, 2.5),
        }
    )
    data.loc[:69, "age"] = np.nan
    return gr.Profile.fit(data, outputs=rng.random((700, 3)), categorical=["colour"], alpha=0.05, model="m:1")


ROWS = np.array([[0.1, 0, 2.5], [np.nan, 1, 2.5], [9.0, 2, 2.5], [0.0, np.inf, 2.5], [0.0, np.nan, 3.0]])


def assert_equal(first, second):
    """Everything two profiles do is the same, to the bit."""
    assert first.digest == second.digest
    assert first.schema == second.schema
    np.testing.assert_array_equal(first.outliers.score(ROWS), second.outliers.score(ROWS))
    np.testing.assert_array_equal(first.outliers.p_value(ROWS), second.outliers.p_value(ROWS))
    assert first.outliers.threshold == second.outliers.threshold
    assert first.outliers.alpha == second.outliers.alpha
    np.testing.assert_array_equal(first.outliers.fill, second.outliers.fill)
    for name in ("edges", "categorical", "counts", "rho", "effective_rows"):
        np.testing.assert_array_equal(getattr(first.bins, name), getattr(second.bins, name))
    assert first.bins.names == second.bins.names
    assert first.bins.names[-1] == "__outlier__"
    assert first.bins.ref == second.bins.ref
    assert (first.model, first.versions, first.created) == (second.model, second.versions, second.created)


def folder_of(store, tag):
    """Where a profile lies."""
    return store / tag.name / tag.version


def test_a_profile_comes_back_as_it_was(store, profile):
    """By tag, by text, by latest, from its folder, and by reference."""
    tag = profile.save("colours")
    for where in (tag, str(tag), "colours", "colours:latest", folder_of(store, tag), str(folder_of(store, tag))):
        assert_equal(gr.Profile.load(where), profile)
    assert_equal(gr.Profile.ref(str(tag)).resolve(), profile)
    assert gr.Profile.load("colours").tag == str(tag)
    assert gr.Profile.load("colours").span_attributes["guardrails.profile.tag"] == str(tag)


def test_saving_what_was_loaded_saves_the_same(store, profile):
    """Load, save, load: still the same digest."""
    again = gr.Profile.load(gr.Profile.load(profile.save("one")).save("two"))
    assert_equal(again, profile)


def test_an_autocorrelated_reference_stays_one(store):
    """What neighbouring rows are worth is saved with the bins, not guessed anew."""
    noise = np.random.default_rng(2).normal(size=(900, 2))
    for row in range(1, 900):
        noise[row, 0] += 0.8 * noise[row - 1, 0]
    profile = gr.Profile.fit(noise, alpha=0.05)
    assert 0.7 < profile.bins.rho[0] < 0.9
    again = gr.Profile.load(profile.save("slow"))
    np.testing.assert_array_equal(again.bins.rho, profile.bins.rho)
    assert again.digest == profile.digest


def test_categories_keep_their_types(store):
    """Whole numbers, fractions, flags and texts, in one column each."""
    data = pd.DataFrame(
        {
            "whole": [1, 2, 3] * 200,
            "fraction": [0.5, 1.5, 2.5] * 200,
            "flag": [True, False, True] * 200,
            "text": ["1", "2", "ü\N{SNOWMAN}"] * 200,
            "number": np.random.default_rng(1).normal(size=600),
        }
    )
    profile = gr.Profile.fit(data, categorical=["whole", "fraction", "flag", "text"], alpha=0.05)
    again = gr.Profile.load(profile.save("types"))
    assert again.schema == profile.schema
    assert again.layout.categories == profile.layout.categories
    assert [type(feature.categories[0]) for feature in again.schema.features[:4]] == [int, float, bool, str]


def test_the_label_in_the_store_is_the_digest(store, profile):
    """`bentoml models get` shows which profile it is."""
    import bentoml

    stored = bentoml.models.get(profile.save("labelled"))
    assert stored.info.labels["guardrails.digest"] == profile.digest
    assert stored.info.labels["guardrails.kind"] == "profile"


def test_the_digest_is_the_same_in_another_process(store, profile, tmp_path):
    """A worker labels its metrics with it, and finds the tables of the others by it."""
    tag = profile.save("shared")
    program = "import sys, guardrails as gr; print(gr.Profile.load(sys.argv[1]).digest)"
    seen = {
        subprocess.run(
            [sys.executable, "-c", program, str(folder_of(store, tag))],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "BENTOML_HOME": str(tmp_path / "other"), "PYTHONHASHSEED": seed},
            timeout=120,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {profile.digest}


def test_a_saved_profile_is_found_by_its_tag_in_another_process(tmp_path):
    """With nothing but BENTOML_HOME in common."""
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "home")}
    save = (
        "import numpy as np, guardrails as gr; p = gr.Profile.fit(np.random.default_rng(0).normal(size=(300, 2)), alpha=.05);"
        "print(p.save('songs'), p.digest, p.outliers.p_value(np.array([[1., 2.]]))[0])"
    )
    load = (
        "import sys, numpy as np, guardrails as gr; p = gr.Profile.ref('songs:latest').resolve();"
        "print(p.tag, p.digest, p.outliers.p_value(np.array([[1., 2.]]))[0])"
    )
    saved, loaded = (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=120
        )
        for program in (save, load)
    )
    assert saved.stdout == loaded.stdout


def test_the_digest_does_not_depend_on_the_compressor(profile, monkeypatch):
    """It hashes what a profile holds: another zlib (zlib-ng, another Python) compresses to other bytes."""
    before = profile.digest
    plain = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda level=-1, *rest: plain(1, *rest))
    fresh = dataclasses.replace(profile, tag="x:1")
    assert fresh.digest == before


def test_other_content_has_another_digest(profile):
    """Another alpha, another model name."""
    from dataclasses import replace

    assert replace(profile, model="m:2").digest != profile.digest
    assert replace(profile, outliers=profile.outliers.with_alpha(0.1)).digest != profile.digest


def test_the_tag_is_no_part_of_the_digest(profile):
    """The same profile under two names is the same profile."""
    assert dataclasses.replace(profile, tag="other:1").digest == profile.digest


def tampered(store, profile, change):
    """A saved profile whose files somebody changed."""
    folder = folder_of(store, profile.save("victim"))
    change(folder)
    return folder


def edit_json(**changes):
    """Change fields of profile.json."""

    def change(folder):
        document = json.loads((folder / "profile.json").read_text())
        (folder / "profile.json").write_text(json.dumps({**document, **changes}))

    return change


def test_another_npz_is_refused(store, profile):
    """One flipped byte, anywhere."""
    for position in (0, 100, -1):
        folder = folder_of(store, profile.save("victim"))
        content = bytearray((folder / "arrays.npz").read_bytes())
        content[position] ^= 1
        (folder / "arrays.npz").write_bytes(bytes(content))
        with pytest.raises(ProfileError, match="digest differs"):
            gr.Profile.load(folder)


def test_another_format_is_refused(store, profile):
    """A later version's profile says so, with both numbers."""
    folder = tampered(store, profile, edit_json(format=99))
    with pytest.raises(ProfileError, match="format 99; this version reads 1"):
        gr.Profile.load(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "profile.json").unlink(),
        lambda folder: (folder / "arrays.npz").unlink(),
        lambda folder: (folder / "profile.json").write_text("{"),
        lambda folder: (folder / "profile.json").write_text("[]"),
        lambda folder: (folder / "profile.json").write_text("null"),
        lambda folder: (folder / "profile.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "profile.json").write_text('{"format": 1}'),
        edit_json(schema=[{"nonsense": 1}]),
        edit_json(detector="mahalanobis"),
        edit_json(alpha=1e-9),
    ],
    ids=["no json", "no npz", "cut", "a list", "null", "bytes", "empty", "schema", "detector", "alpha"],
)
def test_what_cannot_be_read_is_a_profile_error(store, profile, spoil):
    """Never a KeyError or AttributeError out of the reader."""
    folder = tampered(store, profile, spoil)
    with pytest.raises(ProfileError):
        gr.Profile.load(folder)


class Explodes:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_an_object_array_is_not_unpickled(store, profile):
    """Even where the digest of the file was made to fit."""
    folder = folder_of(store, profile.save("victim"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO((folder / "arrays.npz").read_bytes())) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "fill.npy":
                member = io.BytesIO()
                np.save(member, np.array([Explodes()], dtype=object), allow_pickle=True)
                content = member.getvalue()
            new.writestr(name, content)
    (folder / "arrays.npz").write_bytes(buffer.getvalue())
    edit_json(arrays_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())(folder)
    with pytest.raises((ProfileError, ValueError), match=r"(?i)pickle|object"):
        gr.Profile.load(folder)


def test_an_npz_that_is_a_pickle_is_not_unpickled(store, profile):
    """np.load reads three formats; two of them run nothing."""
    folder = folder_of(store, profile.save("victim"))
    content = pickle.dumps(Explodes())
    (folder / "arrays.npz").write_bytes(content)
    edit_json(arrays_sha256=hashlib.sha256(content).hexdigest())(folder)
    with pytest.raises((ProfileError, ValueError)):
        gr.Profile.load(folder)


def test_an_npz_without_the_arrays_is_a_profile_error(store, profile):
    """Missing members are named, not a KeyError."""
    folder = folder_of(store, profile.save("victim"))
    buffer = io.BytesIO()
    np.savez(buffer, fill=np.zeros(3))
    (folder / "arrays.npz").write_bytes(buffer.getvalue())
    edit_json(arrays_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())(folder)
    with pytest.raises(ProfileError):
        gr.Profile.load(folder)


def test_nothing_saved_is_pickled(store, profile):
    """Two files; the arrays have plain dtypes, and load with pickle switched off."""
    folder = folder_of(store, profile.save("plain"))
    assert {"profile.json", "arrays.npz"} <= {path.name for path in folder.iterdir()}
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".npz", ".yaml"}
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "iufb" for name in arrays)


class Live:
    """A detector that is an object, not arrays."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.abs(rows).sum(axis=1)


def test_a_live_detector_is_refused_at_save_with_the_way_out(store):
    """The message holds the line to write instead, and nothing is left in the store."""
    profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(300, 2)), detector=Live(), alpha=0.05)
    with pytest.raises(ProfileError, match=r"check_outliers\(lambda self: self.detector\)"):
        profile.save("live")
    assert not (store / "live").exists()


def test_a_live_detector_may_be_looked_at_and_used_without_saving():
    """Only saving is refused: printing it, guarding with it and sampling drift by it are not."""
    profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(300, 2)), detector=Live(), alpha=0.05)
    assert "features=2" in repr(profile)
    assert profile.span_attributes["guardrails.profile.tag"]

    @gr.check_outliers(profile, fallback=gr.constant([-1.0]))
    def predict(rows: np.ndarray) -> list:
        return rows.sum(axis=1).tolist()

    assert predict(np.array([[0.0, 0.0], [99.0, 99.0]])) == [0.0, -1.0]


@pytest.mark.parametrize("tag", ["nothing", "nothing:latest", "nothing:v1"])
def test_a_missing_tag_says_what_to_do(store, tag):
    """Save one, or set BENTOML_HOME."""
    with pytest.raises(ProfileError, match=r"(?s)no profile 'nothing.*\.save\(name\), or set BENTOML_HOME"):
        gr.Profile.load(tag)
    with pytest.raises(ProfileError, match="BENTOML_HOME"):
        gr.Profile.ref(tag).resolve()


@pytest.mark.parametrize("tag", ["", " ", "a:b:c", "not a tag!", "Ü"])
def test_what_is_no_tag_is_a_profile_error(store, tag):
    """Whatever BentoML says to it."""
    with pytest.raises(ProfileError):
        gr.Profile.load(tag)


def test_a_model_that_is_no_profile_is_refused(store):
    """A tag of something else in the same store."""
    import bentoml

    with bentoml.models.create("classifier") as model:
        (store / "x").write_text("")
        assert model.tag.name == "classifier"
    with pytest.raises(ProfileError, match="no readable profile"):
        gr.Profile.load("classifier")


def test_a_folder_of_the_same_name_does_not_hide_the_store(store, profile, tmp_path, monkeypatch):
    """A checkout often has a folder called like its profile; a tag still means the store."""
    tag = profile.save("colours")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "colours").mkdir()
    assert gr.Profile.load("colours").tag == str(tag)


def test_latest_follows_the_store(store, profile):
    """A new version is found by whoever asks for the latest afterwards; an exact tag stays what it was."""
    from dataclasses import replace

    first = profile.save("moving")
    reference = gr.Profile.ref("moving:latest")
    assert reference.resolve().tag == str(first)
    second = replace(profile, model="m:2").save("moving")
    assert reference.resolve().tag == str(second)
    assert gr.Profile.ref(str(first)).resolve().tag == str(first)


def test_one_object_per_profile_and_process(store, profile):
    """Guards share what they read of a request only if they share the profile."""
    tag = profile.save("same")
    assert gr.Profile.ref(str(tag)).resolve() is gr.Profile.ref(str(tag)).resolve()
    assert gr.Profile.ref("same").resolve() is gr.Profile.ref(str(tag)).resolve()


def test_a_reference_is_not_resolved_when_it_is_made():
    """At import nothing is there yet."""
    assert gr.Profile.ref("not-there:latest").tag == "not-there:latest"
