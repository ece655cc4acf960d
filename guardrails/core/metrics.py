"""The Prometheus metrics, made when first used: prometheus_client must not be imported before BentoML has set it up."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

from guardrails import semconv

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GUARD_BUCKETS = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)

Metric = TypeVar("Metric", "Counter", "Gauge", "Histogram")


def _once(kind: type[Metric], name: str, text: str, labels: tuple[str, ...], **options: object) -> Metric:
    # A process may build more than one app (tests do); prometheus_client refuses a second metric of the same name.
    from prometheus_client import REGISTRY

    known = getattr(REGISTRY, "_names_to_collectors", {}).get(name)
    return known if isinstance(known, kind) else kind(name, text, labels, **options)  # type: ignore[arg-type]


def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
    """The counter of this name."""
    from prometheus_client import Counter

    return _once(Counter, name, text, labels)


def gauge(name: str, text: str, labels: tuple[str, ...], over_workers: str) -> Gauge:
    """The gauge of this name; ``over_workers`` is how prometheus_client merges the workers' values."""
    from prometheus_client import Gauge

    return _once(Gauge, name, text, labels, multiprocess_mode=over_workers)


@functools.cache
def request_duration() -> Histogram:
    """How long guarded requests take, by api, route and reason."""
    from prometheus_client import Histogram

    text = "Seconds from the first guard to the last, answer included."
    return _once(Histogram, semconv.REQUEST_DURATION, text, ("api", "route", "reason"), buckets=BUCKETS)


@functools.cache
def guard_duration() -> Histogram:
    """How long the guards themselves take, by api."""
    from prometheus_client import Histogram

    text = "Seconds the guards of a request took, the answer not included."
    return _once(Histogram, semconv.GUARD_DURATION, text, ("api",), buckets=GUARD_BUCKETS)


@functools.cache
def guard_errors() -> Counter:
    """Guards that failed and were passed over."""
    return counter(semconv.GUARD_ERRORS_TOTAL, "Guards that failed and were passed over.", ("guard", "error_type"))


@functools.cache
def traces_kept() -> Counter:
    """Unsampled traces that were exported because something was out of the ordinary."""
    return counter(semconv.TRACES_KEPT_TOTAL, "Unsampled traces exported because they were flagged.", ())


@functools.cache
def traces_overflowed() -> Counter:
    """Traces given up while they waited for their verdict."""
    return counter(semconv.TRACES_OVERFLOWED_TOTAL, "Traces given up while waiting for their verdict.", ("cause",))


@functools.cache
def decisions_written() -> Counter:
    """Records committed to the decision store."""
    return counter(semconv.DECISIONS_WRITTEN_TOTAL, "Records committed to the decision store.", ("kind",))


@functools.cache
def decisions_dropped() -> Counter:
    """Records lost, and why."""
    return counter(semconv.DECISIONS_DROPPED_TOTAL, "Records that never reached the decision store.", ("cause",))


@functools.cache
def decisions_store_down() -> Gauge:
    """Whether a decision store takes nothing."""
    text = "1 while a decision store does not take records, in any worker; they wait as long as the queue has room."
    return gauge(semconv.DECISIONS_STORE_DOWN, text, ("store",), "livemax")


@functools.cache
def drift_rows() -> Counter:
    """Rows counted for drift."""
    return counter(semconv.DRIFT_ROWS_TOTAL, "Sampled rows counted against the reference.", ("profile",))


@functools.cache
def drift_dropped() -> Counter:
    """Sampled rows that found the queue full."""
    return counter(semconv.DRIFT_DROPPED_TOTAL, "Sampled requests that found the queue full.", ("profile",))


@functools.cache
def overruns() -> Counter:
    """Calls that ran on after their deadline."""
    return counter(semconv.OVERRUNS_TOTAL, "Synchronous calls that ran on after their timeout.", ("api",))


@functools.cache
def overrunning() -> Gauge:
    """Calls that are past their timeout and still running."""
    text = "Calls that are past their timeout and still running, over all workers."
    return gauge(semconv.OVERRUNNING, text, ("api",), "livesum")


@functools.cache
def breaker_state() -> Gauge:
    """Whether a breaker lets calls through."""
    text = "0 closed, 1 half-open, 2 open: the worst of all workers, each of which has its own."
    return gauge(semconv.BREAKER_STATE, text, ("api", "target"), "livemax")


@functools.cache
def breaker_opened() -> Counter:
    """How often a breaker opened."""
    return counter(semconv.BREAKER_OPENED_TOTAL, "How often a breaker opened.", ("api", "target"))


@functools.cache
def fallback_share() -> Gauge:
    """The share of recent rows that the primary did not answer."""
    text = "Share of recent rows that the primary did not answer: the largest of all workers."
    return gauge(semconv.FALLBACK_SHARE, text, ("api",), "livemax")


@functools.cache
def fallback_alarm() -> Gauge:
    """Whether that share is above its ceiling."""
    text = "1 while the share of recent rows that the primary did not answer is above its ceiling, in any worker."
    return gauge(semconv.FALLBACK_ALARM, text, ("api",), "livemax")


@functools.cache
def shadowed() -> Counter:
    """Rows a guard would have sent away, had it been enforced."""
    text = "Rows that a guard with enforce=False would have sent away."
    return counter(semconv.SHADOWED_TOTAL, text, ("api", "reason"))


@functools.cache
def drift_alarms() -> Counter:
    """Drift alarms, by the column that moved."""
    return counter(semconv.DRIFT_ALARMS_TOTAL, "Drift alarms raised.", ("model", "ref", "feature"))


@functools.cache
def drift_alarm() -> Gauge:
    """Whether a column has drifted and nobody has acknowledged it."""
    text = "1 while an alarm about this column has not been acknowledged."
    return gauge(semconv.DRIFT_ALARM, text, ("model", "ref", "feature"), "livemax")


@functools.cache
def drift_evidence() -> Gauge:
    """How far the evidence for drift is."""
    text = "Evidence for drift as a share (of logarithms) of what an alarm needs."
    return gauge(semconv.DRIFT_EVIDENCE, text, ("model", "ref"), "livemostrecent")


@functools.cache
def drift_unreadable() -> Counter:
    """Sampled requests that were no rows of the profile."""
    return counter(semconv.DRIFT_UNREADABLE_TOTAL, "Sampled requests that could not be read as rows.", ("profile",))
