"""@sample_drift in a pipeline: which requests, which rows, whose answers."""

import contextlib
import logging
import math
import os
import time
import zlib

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import guardrails as gr
from guardrails.drift import Monitor, Sampler, sampler, sampler_of
from guardrails.errors import DecorationError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded(monkeypatch, request):
    """Decision ids out of a seeded generator: where there is no trace, they decide."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(zlib.crc32(request.node.name.encode())).bytes)


def fresh(**options):
    """A profile of its own, so that its sampler is, too."""
    X = RNG.normal(size=(400, 2))
    return gr.Profile.fit(X, alpha=0.05, **options)


@pytest.mark.parametrize("rate", [1e-9, 0.001, 0.01, 0.1, 1 / 3, 0.5, 0.999, 1.0])
def test_the_sampled_requests_are_the_sampled_traces(rate, monkeypatch):
    """The same rule as OpenTelemetry's ratio sampler, trace id by trace id, also at the border."""
    offered = []
    monkeypatch.setattr(Sampler, "offer", lambda self, *sample: offered.append(sample))
    profile, theirs = fresh(), TraceIdRatioBased(rate)

    @gr.traced()
    @gr.sample_drift(profile, rate=rate)
    def predict(rows: np.ndarray) -> list:
        return [0.0]

    rng = np.random.default_rng(1)
    ids = [int.from_bytes(rng.bytes(16), "big") or 1 for _ in range(500)]
    border = theirs.bound
    ids += [(7 << 64) | (low & (2**64 - 1)) for low in (border - 1, border, border + 1, 0, 2**64 - 1)]
    for trace_id in ids:
        before = len(offered)
        parent = SpanContext(trace_id, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        with trace.use_span(NonRecordingSpan(parent)):
            predict(np.zeros((1, 2)))
        assert (len(offered) > before) is theirs.should_sample(None, trace_id, "span").decision.is_sampled(), trace_id
    sampler_of(profile).close()


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    """At decoration."""
    with pytest.raises(DecorationError, match="share of requests"):
        gr.sample_drift(fresh(), rate=rate)


def test_without_traces_the_share_is_the_rate():
    """Decision ids are as random as trace ids."""
    profile = fresh()

    @gr.sample_drift(profile, rate=0.3)
    def predict(rows: np.ndarray) -> list:
        return [0.0]

    for _ in range(3000):
        predict(np.zeros((1, 2)))
    rows = sampler_of(profile).flush().rows
    sampler_of(profile).close()
    assert abs(rows - 900) < 4.5 * math.sqrt(3000 * 0.3 * 0.7)


def test_the_picked_row_of_a_batch_is_uniform():
    """No row of a batch is counted more often than another."""
    from scipy import stats

    profile = fresh(outputs=np.arange(400) % 7)

    @gr.sample_drift(profile)
    def predict(rows: np.ndarray) -> list:
        return list(range(7))

    for _ in range(1400):
        predict(np.zeros((7, 2)))
    counts = sampler_of(profile).flush().counts[2, :7]
    sampler_of(profile).close()
    assert counts.sum() == 1400
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_fallbacks_answer_is_not_taken_for_the_models():
    """Inputs are counted, outputs are not."""
    profile = fresh(outputs=np.arange(400) % 2)

    @gr.fall_back(to=gr.constant([1]))
    @gr.sample_drift(profile)
    def predict(rows: np.ndarray) -> list:
        if rows[0, 0] > 0:
            raise RuntimeError
        return [0]

    for x in (-1.0, 1.0, 1.0):
        predict(np.array([[x, 0.0]]))
    counts = sampler_of(profile).flush().counts
    sampler_of(profile).close()
    assert profile.bins.names[2:] == ("__prediction__", "__outlier__")
    np.testing.assert_array_equal(counts.sum(axis=1), [3, 3, 1, 3])
    assert counts[2, 0] == 1


def test_a_fallback_that_answered_the_whole_request_is_not_taken_for_the_model():
    """The primary's answer was thrown away because the two could not be merged."""
    profile = fresh(outputs=np.arange(400) % 2)

    @gr.check_outliers(profile, fallback=lambda rows: {"prediction": 1})
    @gr.sample_drift(profile)
    def predict(rows: np.ndarray) -> list:
        return [0 for _ in rows]

    for _ in range(20):
        assert predict(np.array([[0.0, 0.0], [99.0, 99.0]])) == {"prediction": 1}
    counts = sampler_of(profile).flush().counts
    sampler_of(profile).close()
    assert counts[2].sum() == 0


def test_the_models_own_answer_is_counted_before_exploration():
    """Exploration would otherwise look like output drift."""
    profile = fresh(outputs=np.eye(2)[np.arange(400) % 2])

    @gr.sample_drift(profile)
    @gr.explore(gr.EpsilonGreedy(0.5))
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([[0.0, 1.0]])

    for _ in range(100):
        rank(np.zeros((1, 2)))
    counts = sampler_of(profile).flush().counts[2]
    sampler_of(profile).close()
    assert counts[:2].tolist() == [0, 100]


def test_a_refused_request_is_not_counted_as_missing_values():
    """Text where numbers belong was answered with a 422: it is no row, so it is no drift of any feature."""
    profile = fresh()

    @gr.validate(profile)
    @gr.sample_drift(profile)
    def predict(rows: list) -> list:
        return [0.0]

    for _ in range(5):
        with pytest.raises(gr.Rejected):
            predict([["text", "text"]])
    predict([[0.0, 0.0]])
    counts = sampler_of(profile).flush().counts
    sampler_of(profile).close()
    np.testing.assert_array_equal(counts[:, -1], 0)


def test_guards_with_different_profiles_read_their_own_columns():
    """The rows another guard read by another profile are not these columns."""
    rng = np.random.default_rng(3)
    frame = rng.normal(size=(400, 3))
    narrow = gr.Profile.fit(frame[:, :2], feature_names=["a", "b"], alpha=0.05)
    wide = gr.Profile.fit(frame[:, ::-1], feature_names=["c", "b", "a"], alpha=0.05)

    @gr.check_outliers(wide)
    @gr.sample_drift(narrow)
    def predict(row: dict) -> float:
        return 0.0

    for a, b, c in frame[:50]:
        with contextlib.suppress(gr.Rejected):
            predict({"a": a, "b": b, "c": c})
    state = sampler_of(narrow).flush()
    sampler_of(narrow).close()
    flags = narrow.outliers.is_outlier(frame[:50, :2]).astype(float)
    np.testing.assert_array_equal(state.counts, narrow.bins.count(np.column_stack([frame[:50, :2], flags])))


def until(condition, seconds=30.0):
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def quick(monkeypatch):
    """The flusher comes round fifty times a second."""
    monkeypatch.setattr(sampler, "INTERVAL", 0.02)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)  # each sampler has a folder of its own


@pytest.fixture(scope="module")
def large():
    """A reference that is large enough to judge by."""
    X = np.random.default_rng(7).normal(size=(2000, 2))
    return gr.Profile.fit(X, feature_names=["a", "b"], outputs=X.sum(axis=1), alpha=0.05)


@pytest.mark.parametrize("spec", ["profile", "monitor"])
def test_an_alarm_sets_off_what_it_should_as_in_a_service(large, quick, span_host, caplog, spec):
    """Requests in, nothing else: the thread counts, judges, raises, tells. Column, examples, log, trace, status."""
    from dataclasses import replace

    got, profile = [], replace(large, model=f"model:{spec}")
    options = {"run_length": "1h"} if spec == "profile" else {}

    @gr.traced()
    @gr.sample_drift(
        profile if spec == "profile" else Monitor(profile, run_length=5000), on_alarm=got.append, **options
    )
    def predict(rows: np.ndarray) -> np.ndarray:
        return rows.sum(axis=1)

    rng = np.random.default_rng(8)

    def serve(n, shift):
        for _ in range(n):
            predict(rng.normal([0.0, shift], 1.0, (1, 2)))
            time.sleep(0.0005)

    serve(300, 0.0)
    watched = sampler_of(profile)
    assert until(lambda: (ledger := watched.leader.ledger()) is not None and ledger.weighed.rows == 300)
    assert got == []
    with caplog.at_level(logging.WARNING, logger="guardrails"):
        for _ in range(20):
            serve(50, 1.5)
            if until(lambda: got, 0.2):
                break
        assert until(lambda: watched.leader.ledger().untold == [])
    ledger = watched.leader.ledger()
    watched.close()
    (alarm,) = got
    assert alarm.features[0] in ("b", "__output__")
    assert {"b", "__output__"} & set(alarm.features)
    assert "higher" in alarm.findings[0].direction
    assert ledger.alarms[0].id == alarm.id
    assert alarm.at == pytest.approx(time.time(), abs=60)
    ids = {
        span.attributes["guardrails.decision.id"]
        for span in span_host.spans
        if "guardrails.decision.id" in span.attributes
    }
    assert alarm.examples
    assert set(alarm.examples) <= ids
    assert alarm.id in caplog.text
    assert alarm.sentence() in caplog.text
    # What else moves with it is added to the alarm, and told, too.
    told = [span for span in span_host.spans if span.name == "guardrails drift"]
    (event,) = told[0].events
    assert event.attributes["guardrails.drift.alarm.id"] == alarm.id
    assert tuple(event.attributes["guardrails.drift.features"]) == alarm.features


def test_ordinary_traffic_sets_off_nothing(large, quick):
    """A thousand requests of the reference's kind, of one row and of many, at a run length of a month."""
    from dataclasses import replace

    got, profile = [], replace(large, model="model:ordinary")

    @gr.sample_drift(profile, on_alarm=got.append)
    def predict(rows: np.ndarray) -> np.ndarray:
        return rows.sum(axis=1)

    rng = np.random.default_rng(9)
    for number in range(1000):
        predict(rng.normal(size=(1 + number % 3, 2)))
        if number % 50 == 0:
            time.sleep(0.02)
    watched = sampler_of(profile)
    watched.close()
    ledger = watched.leader.ledger()
    assert got == []
    assert ledger.weighed.rows == watched.state().rows == 1000
    assert ledger.alarms == []


def test_what_is_set_off_may_fail_and_requests_do_not_mind(large, quick, caplog):
    """It is logged; the next requests are answered, counted and judged."""
    from dataclasses import replace

    profile = replace(large, model="model:failing")

    def on_alarm(alarm):
        raise RuntimeError("no more disk")

    @gr.sample_drift(profile, on_alarm=on_alarm, run_length="1h")
    def predict(rows: np.ndarray) -> np.ndarray:
        return rows.sum(axis=1)

    rng = np.random.default_rng(10)
    with caplog.at_level(logging.ERROR, logger="guardrails"):
        for _ in range(500):
            predict(rng.normal(3.0, 1.0, (1, 2)))
        assert until(lambda: "no more disk" in caplog.text)
    assert predict(np.ones((1, 2))).tolist() == [2.0]
    watched = sampler_of(profile)
    assert until(lambda: watched.leader.ledger().weighed.rows == 501)
    watched.close()


def test_the_decision_of_the_picked_row_is_the_example(monkeypatch):
    """Of a request of several rows it is `<id>/<row>`, so that a record can be looked up."""
    given = []
    monkeypatch.setattr(Sampler, "offer", lambda self, *sample: given.append(sample))
    for n in (1, 4):
        profile = fresh()

        @gr.sample_drift(profile)
        def predict(rows: np.ndarray) -> list:
            return rows.sum(axis=1).tolist()

        predict(np.arange(2.0 * n).reshape(n, 2))
        sampler_of(profile).close()
    single, several = (sample[4] for sample in given)
    assert "/" not in single
    decision, row = several.split("/")
    assert len(decision) == len(single) == 32
    assert given[1][0].matrix.tolist() == [[2.0 * int(row), 2.0 * int(row) + 1]]
