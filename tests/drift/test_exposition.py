"""Counts for Prometheus: exact in one process and over several, there before the first row, bounded."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

import guardrails as gr
from guardrails.drift.fleet import exposition
from guardrails.drift.fleet.exposition import Exposition, Watched, bin_accuracy, critical_chi2, prior_matrix
from guardrails.profile.serial import gamma

X = np.random.default_rng(0).normal(size=(900, 3))


def fitted(model, X=X, **options):
    """A profile under a model's name of its own: the registry is shared by all tests."""
    return gr.Profile.fit(X, model=model, **options)


def value(name, profile, model, **labels):
    """What this process exports."""
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(name, {"model": model, "ref": profile.bins.ref, **labels})


def table(profile, rows):
    """Counts of rows that are no outliers."""
    return profile.bins.count(np.column_stack([rows, np.zeros(len(rows))]))


def test_every_bin_is_there_before_the_first_row():
    """At 0, also bins no reference row is in; and no bin that no value can fall into."""
    profile = fitted("fresh:1")
    Exposition(profile)
    for j, name in enumerate(profile.bins.names):
        for b in range(profile.bins.counts.shape[1]):
            found = value("guardrails_feature_bin_total", profile, "fresh:1", feature=name, bin=profile.bins.label(b))
            assert found == (0.0 if b in profile.bins.used(j) else None)


def test_counts_are_added_up_and_the_reference_is_shown():
    """Flush after flush; the reference as shares, with the rows it is worth and its critical value."""
    slow = np.zeros(900)
    for i in range(1, 900):
        slow[i] = 0.7 * slow[i - 1] + X[i, 2]
    profile = fitted("added:1", np.column_stack([X[:, :2], slow]))
    export = Exposition(profile, run_length_seconds=86400)
    first, second = table(profile, X[:50]), table(profile, X[50:80])
    export.add(first)
    export.add(profile.bins.empty())
    export.add(second)
    shares = profile.bins.counts / profile.bins.counts.sum(axis=1, keepdims=True)
    for j, b in Watched.of(profile).cells:
        cell = {"feature": profile.bins.names[j], "bin": profile.bins.label(b)}
        assert value("guardrails_feature_bin_total", profile, "added:1", **cell) == first[j, b] + second[j, b]
        assert value("guardrails_reference_bin_ratio", profile, "added:1", **cell) == shares[j, b]
    for j, name in enumerate(profile.bins.names):
        assert value("guardrails_reference_size", profile, "added:1", feature=name) == profile.bins.effective_rows[j]
        critical = value("guardrails_drift_critical_chi2", profile, "added:1", feature=name)
        assert critical == critical_chi2(profile, run_length=86400)[j] < critical_chi2(profile)[j]
    assert gamma(profile.bins.rho)[2] < 0.5
    assert value("guardrails_reference_size", profile, "added:1", feature="feature_2") < 450


def test_a_second_one_takes_nothing_back():
    """A sampler closed and made anew in the same process."""
    profile = fitted("twice:1")
    Exposition(profile).add(table(profile, X[:10]))
    Exposition(profile).add(table(profile, X[:10]))
    assert value("guardrails_feature_bin_total", profile, "twice:1", feature="__outlier__", bin="00") == 20


def test_the_labels_are_those_of_the_deployment(tmp_path):
    """The model's tag if it was told, else the profile's: the same after a restart, and for another reference another."""
    one, other = fitted("same:1"), fitted("same:1", X=X + 1)
    assert one.bins.ref != other.bins.ref
    for profile in (one, other):
        Exposition(profile).add(table(profile, X[:5]))
        assert value("guardrails_feature_bin_total", profile, "same:1", feature="__outlier__", bin="00") == 5
    nameless = gr.Profile.fit(X)
    Exposition(nameless)
    label = {"feature": "__outlier__", "bin": "00"}
    assert value("guardrails_feature_bin_total", nameless, nameless.bins.ref, **label) == 0


def test_validation_is_shown():
    """Accuracies by confidence, and the weights of the class shares."""
    rng = np.random.default_rng(1)
    scores = rng.dirichlet([0.5, 0.5], 900)
    labels = (rng.random(900) > scores[:, 0]).astype(int)
    profile = fitted("valid:1", outputs=scores, labels=labels)
    Exposition(profile)
    assert value("guardrails_reference_accuracy", profile, "valid:1") == profile.validated.accuracy
    right = bin_accuracy(profile)
    assert len(right) == len(profile.bins.used(profile.bins.names.index("__confidence__")))
    for b, accuracy in right.items():
        assert value("guardrails_reference_bin_accuracy", profile, "valid:1", bin=profile.bins.label(b)) == accuracy
    weights = prior_matrix(profile)
    for (number, b), weight in weights.items():
        label = {"class": str(number), "bin": profile.bins.label(b)}
        assert value("guardrails_bbse_matrix", profile, "valid:1", **label) == weight
    predicted = profile.validated.confusion.sum(axis=1) / 900
    shares = [sum(w * predicted[b] for (k, b), w in weights.items() if k == number) for number in (0, 1)]
    np.testing.assert_allclose(shares, np.bincount(labels) / 900, atol=1e-12)


def test_no_labels_no_accuracy():
    """Nothing is claimed that nobody measured."""
    profile = fitted("unlabelled:1", outputs=np.random.default_rng(0).dirichlet([1, 1], 900))
    Exposition(profile)
    assert value("guardrails_reference_accuracy", profile, "unlabelled:1") is None
    assert bin_accuracy(profile) == prior_matrix(profile) == {}


def test_the_number_of_series_is_bounded(monkeypatch, caplog):
    """Outputs and the outlier flag first, then the first features; one line says what is left out."""
    wide = np.random.default_rng(0).normal(size=(500, 8))
    profile = fitted("wide:1", wide, outputs=(wide[:, 0] > 0).astype(int))
    assert not Watched.of(profile).left_out
    assert len(Watched.of(profile, limit=60).cells) <= 60
    monkeypatch.setattr(exposition, "MAX_SERIES", 60)
    with caplog.at_level(logging.WARNING, "guardrails"):
        export = Exposition(profile)
    assert len(caplog.messages) == 1
    assert "5 of 10 columns" in caplog.text
    assert [profile.bins.names[j] for j in Watched.of(profile).columns] == [
        "feature_0",
        "feature_1",
        "feature_2",
        "__prediction__",
        "__outlier__",
    ]
    export.add(profile.bins.count(np.column_stack([wide, np.zeros((500, 2))])))
    seen = value("guardrails_feature_bin_total", profile, "wide:1", feature="feature_1", bin="00")
    assert seen == profile.bins.counts[1, 0]
    assert value("guardrails_feature_bin_total", profile, "wide:1", feature="feature_3", bin="00") is None
    assert set(critical_chi2(profile)) == set(Watched.of(profile).columns)


WORKER = """
import sys, os, numpy as np, guardrails as gr
from guardrails.drift.fleet.exposition import Exposition
profile = gr.Profile.load(sys.argv[1])
X = np.random.default_rng(int(sys.argv[2])).normal(size=(40, 3))
export = Exposition(profile)
export.add(profile.bins.count(np.column_stack([X, np.zeros(40)])))
os._exit(9)  # no goodbye
"""


@pytest.fixture
def stored(tmp_path):
    """A profile in a folder of files, without a model store."""
    profile = fitted("workers:1")
    document, arrays = profile._document()
    folder = tmp_path / "profile"
    folder.mkdir()
    (folder / "profile.json").write_text(json.dumps(document))
    (folder / "arrays.npz").write_bytes(arrays)
    return profile, folder


def scraped(folder):
    """What a scrape of all workers finds, by name and labels."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_workers_are_added_up_and_a_restart_loses_nothing(stored, tmp_path):
    """Three processes that died at once after counting, the last one after the others were scraped."""
    profile, where = stored
    shared = tmp_path / "shared"
    shared.mkdir()
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    expected = profile.bins.empty()
    for seeds in ((0, 1), (2,)):
        running = [subprocess.Popen([sys.executable, "-c", WORKER, str(where), str(i)], env=env) for i in seeds]
        assert [worker.wait(120) for worker in running] == [9] * len(seeds)
        expected += sum(table(profile, np.random.default_rng(i).normal(size=(40, 3))) for i in seeds)
        found = scraped(shared)
        shares = profile.bins.counts / profile.bins.counts.sum(axis=1, keepdims=True)
        for j, b in Watched.of(profile).cells:
            cell = {"model": "workers:1", "ref": profile.bins.ref, "feature": profile.bins.names[j]}
            key = frozenset({**cell, "bin": profile.bins.label(b)}.items())
            assert found["guardrails_feature_bin_total", key] == expected[j, b]
            assert found["guardrails_reference_bin_ratio", key] == shares[j, b]
            assert found["guardrails_reference_size", frozenset(cell.items())] == profile.bins.effective_rows[j]
