"""How an alarm is made known: a log line, metrics, a trace that is always kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from guardrails import semconv
from guardrails.core import metrics
from guardrails.core.host import host
from guardrails.drift.alarm import Alarm
from guardrails.profile.profile import Profile

logger = logging.getLogger("guardrails")


def labels_of(profile: Profile) -> tuple[str, str]:
    """What drift metrics are labelled with: the model (or profile), and the reference."""
    return profile.model or profile.tag or profile.bins.ref, profile.bins.ref


def raised(profile: Profile, alarm: Alarm) -> None:
    """Count it, and show its columns as drifted."""
    model, ref = labels_of(profile)
    for feature in alarm.features:
        metrics.drift_alarms().labels(model, ref, feature).inc()
        metrics.drift_alarm().labels(model, ref, feature).set(1)


def standing(profile: Profile, alarms: Iterable[Alarm]) -> None:
    """Show the columns of these alarms as drifted, and no others."""
    model, ref = labels_of(profile)
    moved = {feature for alarm in alarms for feature in alarm.features}
    for feature in profile.bins.names:
        metrics.drift_alarm().labels(model, ref, feature).set(int(feature in moved))


def evidence(profile: Profile, share: float) -> None:
    """Show how far the evidence is: 1 is an alarm."""
    metrics.drift_evidence().labels(*labels_of(profile)).set(max(0.0, share))


def log(profile: Profile, alarm: Alarm) -> None:
    """A line in the log, and a span of its own with the alarm as an event: there is no request it belongs to."""
    name = profile.tag or profile.digest
    logger.warning("drift from %s: %s [alarm %s]", name, alarm.sentence(), alarm.id)
    try:
        _trace(profile, alarm)
    except Exception:  # what an exporter does is no concern of the detector's
        logger.exception("the drift alarm %s could not be traced", alarm.id)


def forget_process(pid: int) -> None:
    """Take back what a worker that is gone showed while it led; the next one shows it anew."""
    import os

    if "PROMETHEUS_MULTIPROC_DIR" in os.environ and not _runs(pid):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call,unused-ignore]


def _runs(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def _trace(profile: Profile, alarm: Alarm) -> None:
    from guardrails.tracing.keep import keeper_of

    provider = host().tracer_provider()
    span = provider.get_tracer("guardrails").start_span(semconv.DRIFT_SPAN, attributes=dict(profile.span_attributes))
    keeper = keeper_of(provider)
    if keeper is not None:
        keeper.flag(span.get_span_context().trace_id)
    worst = alarm.findings[0]
    span.add_event(
        semconv.DRIFT_EVENT,
        {
            semconv.DRIFT_ALARM_ID: alarm.id,
            semconv.DRIFT_FEATURES: alarm.features,
            semconv.DRIFT_DIRECTION: f"{worst.feature} {worst.direction}",
            semconv.DRIFT_BINS: tuple(move.bin for move in worst.bins),
            semconv.DRIFT_ROWS: alarm.rows,
        },
        time.time_ns(),
    )
    span.end()
