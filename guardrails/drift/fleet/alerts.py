"""Alerting rules: when drift over a fleet, or a sick service, is worth somebody's attention, and what they are told."""

from __future__ import annotations

from typing import Any

from guardrails import semconv
from guardrails.drift.fleet.exposition import DAY, Watched, alarm_rate, bin_accuracy
from guardrails.drift.fleet.promql import FEATURE, MODEL, Scope, duration, quoted, span_of
from guardrails.drift.report import MIN_ROWS
from guardrails.profile.naming import bin_text
from guardrails.profile.profile import Profile

LARGE, SEVERE = 0.1, 0.25
"""The population stability index of a shift that matters, and of one that matters much (the usual rule of thumb)."""
ACCURACY_DROP = 0.05
MAX_WORDS = 2000
"""Bins that an annotation puts into words; of a wider profile it says their numbers."""
Rule = dict[str, Any]


def alert_rules(
    profile: Profile, *, window: str | float = "1h", run_length: str | float = 30 * DAY, min_rows: int = MIN_ROWS
) -> list[Rule]:
    """The alerts of one profile; arguments as for `guardrails.drift.fleet.rules.rules`."""
    scope = Scope.of(profile, window)
    return [
        *_feature_drift(profile, scope, min_rows),
        *([_accuracy_drop(scope, span_of(run_length, "run_length"), min_rows)] if bin_accuracy(profile) else []),
        _blind(scope, min_rows),
        _on_host(scope),
    ]


def service_alerts() -> list[Rule]:
    """Alerts on what every guarded service exports."""
    dropped = f"{semconv.DECISIONS_DROPPED_TOTAL}_total"
    increase = f"sum without (instance, pod) (increase({dropped}[15m])) > 0"
    new = f"(sum without (instance, pod) ({dropped}) unless sum without (instance, pod) ({dropped} offset 15m)) > 0"
    return [
        _alert(
            "GuardrailsFallbackShare",
            f"max without (instance, pod) ({semconv.FALLBACK_ALARM}) > 0",
            severity="critical",
            summary="{{ $labels.api }}: more requests go to the fallback than its ceiling allows",
            description=f"{semconv.FALLBACK_SHARE} shows the share; the reason label of "
            f"{semconv.REQUEST_DURATION}_count says why.",
        ),
        _alert(
            "GuardrailsDecisionsDropped",
            f"{increase}\nor\n{new}",  # a counter is born with its first loss, which increase() does not see
            severity="critical",
            summary='decisions are lost: {{ $value | printf "%.0f" }} in 15 minutes (cause: {{ $labels.cause }})',
            description="What is not recorded cannot be learned from. Look at the decision store and its disk.",
        ),
        _alert(
            "GuardrailsBreakerOpen",
            f"max without (instance, pod) ({semconv.BREAKER_STATE}) >= 2",
            hold="1m",
            severity="critical",
            summary="{{ $labels.api }}: the breaker of {{ $labels.target }} is open",
            description="Its calls failed or timed out too often; the fallback answers until a trial call succeeds.",
        ),
    ]


def _feature_drift(profile: Profile, scope: Scope, min_rows: int) -> list[Rule]:
    # Significant keeps small windows quiet, large keeps huge windows quiet.
    proven = (
        f"and on ({FEATURE}) ({scope('chi2')} > on ({FEATURE}) {scope('critical')})\n"
        f"and on ({FEATURE}) ({scope('rows')} >= {min_rows})"
    )
    moved = _moved_bins(profile, scope)
    return [
        _alert(
            name,
            f"{scope('psi')} > {least}\n{proven}",
            hold=duration(scope.window / 12),
            severity=severity,
            summary=f'{{{{ $labels.model }}}}: {{{{ $labels.feature }}}} {verb} (PSI {{{{ $value | printf "%.3f" }}}})',
            description=moved,
        )
        for name, least, severity, verb in (
            ("GuardrailsFeatureDrift", LARGE, "warning", "has drifted"),
            ("GuardrailsFeatureDriftSevere", SEVERE, "critical", "has drifted far"),
        )
    ]


def _accuracy_drop(scope: Scope, run_length: float, min_rows: int) -> Rule:
    from scipy.stats import norm

    sigmas = float(norm.isf(alarm_rate(run_length, scope.window)))
    change = scope("accuracy_change")
    return _alert(
        "GuardrailsEstimatedAccuracyDrop",
        f"{change} < -{ACCURACY_DROP}\n"
        f"and on ({MODEL}) ({change} < -{sigmas!r} * {scope('accuracy_error')})\n"
        f"and on ({MODEL}) ({scope('rows', feature='__confidence__')} >= {min_rows})",
        hold=duration(scope.window / 4),
        severity="critical",
        summary='{{ $labels.model }}: estimated accuracy has changed by {{ $value | printf "%.3f" }}',
        description="Estimated without labels, from how sure the answers are: the model meets more cases it was often "
        "wrong on. It cannot see that right answers themselves have changed.",
    )


def _blind(scope: Scope, min_rows: int) -> Rule:
    """No traffic, no scrape or no answers must not look like no drift."""
    rows = scope("rows")
    most = f"max by ({MODEL}) ({rows})"
    return {
        **_alert(
            "GuardrailsDriftBlind",
            f"({most} or on () vector(0)) < {min_rows}\n"
            f"or\n({rows} < {min_rows} and on ({MODEL}) {most} >= {min_rows})",
            hold=duration(scope.window / 2),
            severity="info",
            summary="{{ $labels.model }}: drift{{ with $labels.feature }} of {{ . }}{{ end }} cannot be judged",
            description=f'{{{{ $value | printf "%.0f" }}}} sampled rows in {scope.span}, {min_rows} are needed: sample '
            "at a higher rate, look at a longer window, or find out why nothing arrives (scraping? /metrics? another "
            "reference?).",
        ),
        # All labels: where nothing was exported there are none to take over.
        "labels": {"severity": "info", "model": scope.model, "ref": scope.ref},
    }


def _on_host(scope: Scope) -> Rule:
    return _alert(
        "GuardrailsDriftAlarm",
        f"max by ({FEATURE}) ({scope.raw(semconv.DRIFT_ALARM)}) > 0",
        severity="warning",
        summary="{{ $labels.model }}: the drift detector of a server has raised an alarm about {{ $labels.feature }}",
        description="Its /guardrails/status shows the alarm, with examples; it stands until it is acknowledged there.",
    )


def _alert(name: str, expression: str, *, severity: str, hold: str | None = None, **annotations: str) -> Rule:
    held = {} if hold is None else {"for": hold}
    return {"alert": name, "expr": expression, **held, "labels": {"severity": severity}, "annotations": annotations}


def _moved_bins(profile: Profile, scope: Scope) -> str:
    """A template that names the three bins whose shares have changed most, in words where there is room."""
    gap, before, now = (scope.name(what) for what in ("gap", "reference_share", "share"))
    labels = "{model=%q,ref=%q,feature=%q}"
    most = quoted(f"sort_desc({gap}{labels} and topk(3, abs({gap}{labels})))")
    words = _words(profile)
    name = '{{ template "bin" (args $feature .Labels.bin) }}' if words else "bin {{ .Labels.bin }}"
    whose = "$labels.model $labels.ref $labels.feature"
    return (
        f"{words}{{{{ $model := $labels.model }}}}{{{{ $ref := $labels.ref }}}}{{{{ $feature := $labels.feature }}}}"
        f"Shares that changed most: {{{{ range $i, $bin := query (printf {most} {whose} {whose}) }}}}"
        f"{{{{ if $i }}}}; {{{{ end }}}}{name}: {_share_of_bin(before)} -> {_share_of_bin(now)}{{{{ end }}}}."
    )


def _share_of_bin(metric: str) -> str:
    asked = quoted(f"{metric}{{model=%q,ref=%q,feature=%q,bin=%q}}")
    one = f"query (printf {asked} $model $ref $feature $bin.Labels.bin)"
    return f"{{{{ range {one} }}}}{{{{ .Value | humanizePercentage }}}}{{{{ end }}}}"


def _words(profile: Profile) -> str:
    """A table of bins in words, as a template of its own; empty where there are too many."""
    watched = Watched.of(profile)
    if len(watched.cells) > MAX_WORDS:
        return ""
    rows = []
    for j in watched.columns:
        texts = {profile.bins.label(b): bin_text(profile, j, b) for b in profile.bins.used(j)}
        bins = "".join(_if(".arg1", label, f"{{{{ {quoted(text)} }}}}") for label, text in texts.items())
        rows.append(f"{_if('.arg0', profile.bins.names[j], bins)}{{{{- /* */ -}}}}\n")
    return '{{ define "bin" -}}\n' + "".join(rows) + "{{ end -}}\n"


def _if(variable: str, value: str, then: str) -> str:
    return f"{{{{ if eq {variable} {quoted(value)} }}}}{then}{{{{ end }}}}"
