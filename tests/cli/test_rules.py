"""`guardrails rules`."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import guardrails as gr
from guardrails.cli.rules import rules
from guardrails.drift.fleet.exposition import MAX_SERIES, Watched


@pytest.fixture
def stored(tmp_path):
    """A BentoML model store with one profile."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    (tmp_path / "models").mkdir()
    BentoMLContainer.model_store.set(ModelStore(str(tmp_path / "models")))
    profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 2)), model="songs/top:v1")
    profile.save("songs-profile")
    yield profile
    BentoMLContainer.model_store.reset()


def run(*arguments):
    """Run the command in process."""
    return CliRunner().invoke(rules, list(arguments))


def test_files_are_written_and_what_to_do_is_said(stored, tmp_path):
    """Names without what a file system minds, valid content, the two lines of prometheus.yml, the series to expect."""
    folder = tmp_path / "new" / "folder"
    result = run("songs-profile:latest", "-o", str(folder))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "guardrails_services.rules.yml",
        "guardrails_songs_top_v1.dashboard.json",
        "guardrails_songs_top_v1.rules.yml",
    ]
    document = yaml.safe_load((folder / "guardrails_songs_top_v1.rules.yml").read_text())
    assert stored.bins.ref in document["groups"][0]["name"]
    assert json.loads((folder / "guardrails_songs_top_v1.dashboard.json").read_text())["title"].endswith("songs/top:v1")
    assert f"rule_files:\n  - {folder}/*.rules.yml" in result.output
    assert f"exports {2 * len(Watched.of(stored).cells)} series" in result.output
    assert 2 * len(Watched.of(stored).cells) < 2 * MAX_SERIES
    if shutil.which("promtool"):
        command = ["promtool", "check", "rules", *folder.glob("*.yml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_window_and_run_length_are_taken(stored, tmp_path):
    """The window is in every name; a longer run length asks for more evidence."""

    def critical(*options):
        assert run("songs-profile", "-o", str(tmp_path), *options).exit_code == 0
        document = yaml.safe_load((tmp_path / "guardrails_songs_top_v1.rules.yml").read_text())
        named = {rule["record"]: rule["expr"] for rule in document["groups"][0]["rules"] if "record" in rule}
        name = next(name for name in named if "critical_chi2" in name)
        return name, float(named[name].rpartition("+ ")[2])

    (hour, month), (quarter, _), (_, year) = critical(), critical("--window", "15m"), critical("--run-length", "365d")
    assert hour.endswith(":1h")
    assert quarter.endswith(":15m")
    assert year > month


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody",), "no profile 'nobody'"),
        (("songs-profile", "--window", "soon"), "window='soon'"),
        (("songs-profile", "--run-length", "ever"), "run_length='ever'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(stored, tmp_path, arguments, told):
    """And nothing is written."""
    result = run(*arguments, "-o", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert told in result.output
    assert not (tmp_path / "none").exists()
