"""@sample_drift in a pipeline: which requests, which rows, whose answers."""

import contextlib
import math
import os
import zlib

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import guardrails as gr
from guardrails.drift import Sampler, sampler_of
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
    np.testing.assert_array_equal(counts.sum(axis=1), [3, 3, 1])
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
    np.testing.assert_array_equal(state.counts, narrow.bins.count(frame[:50, :2]))
