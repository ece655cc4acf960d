"""`guardrails show`."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import guardrails as gr
from guardrails.cli import main


@pytest.fixture
def store(tmp_path):
    """An empty BentoML model store, for this test only."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    (tmp_path / "models").mkdir()
    BentoMLContainer.model_store.set(ModelStore(str(tmp_path / "models")))
    yield tmp_path / "models"
    BentoMLContainer.model_store.reset()


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Lines do not wrap."""
    monkeypatch.setenv("COLUMNS", "250")


def show(*arguments):
    """Run the command in process."""
    return CliRunner().invoke(main, ["show", *arguments])


def frame(name="age"):
    """Two columns."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({name: rng.uniform(18, 90, 500), "colour": rng.choice(["red", "green"], 500)})
    data.loc[:49, name] = np.nan
    return data


def test_a_profile_is_shown(store):
    """Tag, digest, promise, and each column with its range or categories."""
    profile = gr.Profile.fit(frame(), categorical=["colour"], alpha=0.05, model="songs:v1")
    tag = profile.save("people")
    for name in (str(tag), "people", "people:latest"):
        result = show(name)
        assert result.exit_code == 0, result.output
        for expected in (
            str(tag),
            profile.digest,
            "songs:v1",
            "150 calibration rows",
            "isolation_forest",
            "age",
            "colour",
            "green, red",
            "10.0%",
            "category",
            "number",
        ):
            assert expected in result.output


def test_the_share_it_promises_is_the_exact_one(store):
    """floor(alpha (n + 1)) / (n + 1)."""
    gr.Profile.fit(frame(), categorical=["colour"], alpha=0.05).save("people")
    assert f"{7 / 151:.4f}" in show("people").output


@pytest.mark.parametrize(("rows", "alpha"), [(330, 0.07), (330, 0.29), (330, 0.57), (330, 0.58)])
def test_the_share_it_promises_is_not_a_rounding_error_off(store, rows, alpha):
    """.29 * 100 is 28.999999999999996 in floats; the threshold knows, and what is shown has to as well."""
    from fractions import Fraction
    from math import floor

    gr.Profile.fit(np.random.default_rng(0).normal(size=(rows, 2)), alpha=alpha).save("rounded")
    n = len(gr.Profile.load("rounded").outliers.calibration)
    assert n == 99
    assert f"{floor(Fraction(str(alpha)) * 100) / 100:.4f}" in show("rounded").output


def test_a_profile_without_a_model_is_shown(store):
    """It says so."""
    gr.Profile.fit(frame(), categorical=["colour"], alpha=0.05).save("people")
    assert "not named" in show("people").output


@pytest.mark.parametrize("name", ["dose [mg]", "weight[kg]", "[bold]", "a [/] b", "close [/b]"])
def test_column_names_with_brackets_are_shown_as_they_are(store, name):
    """Units stand in brackets; the terminal library takes those for markup."""
    gr.Profile.fit(frame(name), categorical=["colour"], alpha=0.05).save("units")
    result = show("units")
    assert result.exit_code == 0, result.exception
    assert name in result.output


def test_categories_with_brackets_are_shown_as_they_are(store):
    """The same for values."""
    data = frame()
    data["colour"] = data["colour"].replace({"red": "[red]"})
    gr.Profile.fit(data, categorical=["colour"], alpha=0.05).save("units")
    assert "[red]" in show("units").output


@pytest.mark.parametrize("tag", ["nothing", "nothing:v1", "not a tag!", ""])
def test_a_missing_profile_is_an_error_that_helps(store, tag, tmp_path, monkeypatch):
    """Exit code 1 and one line, no traceback."""
    monkeypatch.chdir(tmp_path)
    result = show(tag)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output


def test_the_command_is_installed(tmp_path):
    """As a user runs it, on a store that has nothing."""
    result = subprocess.run(
        [sys.executable, "-c", "from guardrails.cli import main; main()", "show", "nothing"],
        capture_output=True,
        text=True,
        env={**os.environ, "BENTOML_HOME": str(tmp_path / "home")},
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "no profile 'nothing' in the model store" in result.stderr
    assert "BENTOML_HOME" in result.stderr


def test_help_and_version():
    """Both answer."""
    assert "show" in CliRunner().invoke(main, ["--help"]).output
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0
    assert CliRunner().invoke(main, ["show"]).exit_code == 2
