"""Recording rules: drift, accuracy and class shares over a whole fleet, computed by Prometheus from the counts.

`rules` makes the document for one profile. Counts of all workers and replicas are added first, so a statistic means the
same over one machine or fifty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from guardrails import semconv
from guardrails.drift.fleet.alerts import alert_rules, service_alerts
from guardrails.drift.fleet.exposition import DAY, Watched, bin_accuracy, critical_chi2, prior_matrix
from guardrails.drift.fleet.promql import BIN, FEATURE, MODEL, Scope, duration, span_of
from guardrails.drift.report import MIN_ROWS
from guardrails.profile.answers import CONFIDENCE, PREDICTION
from guardrails.profile.profile import Profile
from guardrails.profile.serial import gamma

LEAST_EXPECTED = 5
"""Bins that expect fewer rows in the smaller sample weigh as if they expected these."""
LOOKS = 60
"""How often a window is judged while it slides by; what `exposition.REPEATS` allows for."""
Rule = dict[str, Any]


def rules(
    profile: Profile, *, window: str | float = "1h", run_length: str | float = 30 * DAY, min_rows: int = MIN_ROWS
) -> dict[str, Any]:
    """The rules of one profile: a Prometheus rule file as a mapping.

    Args:
        profile: what the services were told to watch; the rules see the series of this model and reference only.
        window: how much traffic is looked at together; at least some 20 scrapes.
        run_length: the wanted time between two false alarms, over all columns.
        min_rows: fewer sampled rows in a window are not judged, but reported.

    Returns:
        ``{"groups": [...]}``; `to_yaml` writes it.

    Raises:
        ProfileError: the window or the run length is no time span.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 2)), model="docs:1")
        >>> [group["name"][:25] for group in rules(profile)["groups"]]
        ['guardrails drift docs:1 (', 'guardrails alerts docs:1 ']
    """
    scope = Scope.of(profile, window)
    length = span_of(run_length, "run_length")
    watched = Watched.of(profile)
    recorded = [
        *_shares(profile, scope, watched),
        *_distances(profile, scope, watched),
        *_significance(profile, scope, length, min_rows),
        *(_accuracy(scope) if bin_accuracy(profile) else ()),
        *(_prior(scope) if prior_matrix(profile) else ()),
    ]
    of = f"{scope.model} ({scope.ref})"
    every = duration(min(60.0, scope.window / LOOKS))
    alerts = alert_rules(profile, window=window, run_length=run_length, min_rows=min_rows)
    return {
        "groups": [
            {"name": f"guardrails drift {of}", "interval": every, "rules": recorded},
            {"name": f"guardrails alerts {of}", "interval": every, "rules": alerts},
        ]
    }


def service_rules() -> dict[str, Any]:
    """Alerts on what every guarded service exports, whatever its profile: one file for all of them."""
    return {"groups": [{"name": "guardrails services", "interval": "1m", "rules": service_alerts()}]}


def to_yaml(document: dict[str, Any]) -> str:
    """A rule file as Prometheus reads it."""
    import yaml  # type: ignore[import-untyped,unused-ignore]

    dumper_type: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})

    def text(dumper: Any, data: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    dumper_type.add_representer(str, text)
    written: str = yaml.dump(document, Dumper=dumper_type, sort_keys=False, width=1000, allow_unicode=True)
    return written


def series(profile: Profile) -> int:
    """About how many series the rules of a profile record: by bin, by column, by column and cut."""
    watched, bins = Watched.of(profile), profile.bins
    cuts = max((len(bins.used(j)) - 1 for j in watched.columns if not bins.categorical[j]), default=0)
    return 7 * len(watched.cells) + (11 + cuts) * len(watched.columns)


def _shares(profile: Profile, scope: Scope, watched: Watched) -> Iterator[Rule]:
    """What was counted in the window, what the reference had, and both as shares."""
    s = scope
    yield _record(s, "bin_rows", f"sum by ({BIN}) (increase({s.raw(semconv.FEATURE_BIN_TOTAL + '_total')}[{s.span}]))")
    yield _record(s, "rows", f"sum by ({FEATURE}) ({s('bin_rows')})")
    yield from _effective(profile, scope, watched)
    yield _record(s, "share", f"{s('bin_rows')}\n/ on ({FEATURE}) group_left ()\n({s('rows')} > 0)")
    yield _record(s, "reference_share", f"max by ({BIN}) ({s.raw(semconv.REFERENCE_BIN_RATIO)})")
    yield _record(s, "reference_rows", f"max by ({FEATURE}) ({s.raw(semconv.REFERENCE_SIZE)})")
    # For PSI, half a row more in every bin that either sample has rows in: a logarithm takes no zero.
    reference = f"({s('reference_share')} * on ({FEATURE}) group_left () {s('reference_rows')})"
    seen = f"{reference} + on ({BIN}) {s('bin_rows')} > 0"
    yield _record(s, "smoothed", _smoothed(s("bin_rows"), seen))
    yield _record(s, "reference_smoothed", _smoothed(reference, seen))


def _effective(profile: Profile, scope: Scope, watched: Watched) -> Iterator[Rule]:
    """How many independent rows the window is worth: rows that resemble their neighbours say less."""
    rows = scope("rows")
    worth = gamma(profile.bins.rho)
    alike = [j for j in watched.columns if worth[j] < 1.0]
    for j in alike:
        labels = {"model": scope.model, "ref": scope.ref, "feature": profile.bins.names[j]}
        yield {"record": scope.name("weight"), "expr": f"vector({float(worth[j])!r})", "labels": labels}
    weighted = f"{rows} * on ({FEATURE}) {scope('weight')}\nor on ({FEATURE})\n{rows}"
    yield _record(scope, "effective", weighted if alike else rows)


def _smoothed(rows: str, seen: str) -> str:
    padded = f"({rows} + 0.5 and on ({BIN}) ({seen}))"
    return f"{padded}\n/ on ({FEATURE}) group_left ()\nsum by ({FEATURE}) {padded}"


def _distances(profile: Profile, scope: Scope, watched: Watched) -> Iterator[Rule]:
    """How far apart the window and the reference are, by every usual measure."""
    s = scope
    yield _record(s, "gap", f"{s('share')} - {s('reference_share')}")
    any_rows = f"and on ({FEATURE}) ({s('rows')} > 0)"
    yield _record(s, "psi", f"{_psi(s('smoothed'), s('reference_smoothed'))}\n{any_rows}")
    q, p = (f"clamp_min({s(name)}, 1e-12)" for name in ("share", "reference_share"))
    half = f"(({q} + {p}) / 2)"
    js = f"sum by ({FEATURE}) (\n  {q} * log2({q} / {half})\n  + {p} * log2({p} / {half})\n) / 2"
    yield _record(s, "js", js)
    yield _record(s, "tv", f"sum by ({FEATURE}) (abs({s('gap')})) / 2")
    yield from _kolmogorov_smirnov(profile, scope, watched.columns)
    yield _record(s, "psi_vs_week", _psi_vs_week(s))


def _psi(now: str, then: str) -> str:
    return f"sum by ({FEATURE}) (\n  ({now} - {then})\n  * ln({now} / {then})\n)"


def _psi_vs_week(scope: Scope) -> str:
    """Against the same hour a week ago: what daily and weekly rhythms cannot explain."""

    def share(offset: str) -> str:
        padded = f"({scope('bin_rows')}{offset} + 0.5)"
        rows = f"({scope('rows')}{offset} > 0)"
        return f"({padded} / on ({FEATURE}) group_left () (sum by ({FEATURE}) {padded} and on ({FEATURE}) {rows}))"

    return _psi(share(""), share(" offset 1w"))


def _kolmogorov_smirnov(profile: Profile, scope: Scope, columns: Sequence[int]) -> Iterator[Rule]:
    """The largest distance of the distribution functions at the cuts: PromQL adds up bins by name only."""
    bins = profile.bins
    ordered = [len(bins.used(j)) - 1 for j in columns if not bins.categorical[j]]
    below: list[str] = []
    for cut in range(max(ordered, default=0)):
        below.append(bins.label(cut))
        inside = scope("gap", bin="~" + "|".join(below))
        labels = {"cut": bins.label(cut)}
        yield {**_record(scope, "cdf_gap", f"abs(sum by ({FEATURE}) ({inside}))"), "labels": labels}
    if ordered:  # categories have no order; they are the columns with a bin for other values
        category = scope("reference_share", bin="other")
        yield _record(scope, "ks", f"max by ({FEATURE}) ({scope('cdf_gap')})\nunless on ({FEATURE})\n{category}")


def _significance(profile: Profile, scope: Scope, run_length: float, min_rows: int) -> Iterator[Rule]:
    """The two-sample chi-square statistic, what it has to exceed, and how many columns exceed it."""
    s = scope
    n, m, k = s("reference_rows"), s("effective"), s("smaller")
    yield _record(s, "smaller", f"{n} < {m}\nor on ({FEATURE})\n({m} > 0)")
    pooled = (
        f"{s('reference_share')} * on ({FEATURE}) group_left () {n}\n"
        f"  + on ({BIN}) {s('share')} * on ({FEATURE}) group_left () {m}"
    )
    expected = f"({pooled})\n  * on ({FEATURE}) group_left () ({k} / ({n} + {m}))"
    yield _record(s, "expected", f"clamp_min(\n  {expected},\n  {LEAST_EXPECTED})")
    # Pearson's statistic, with two corrections for bins of few rows, whose tails are heavier than a normal variable's:
    # the least expectation above, and abs() / 12 below. Without them one stray row in a bin that is empty in the
    # reference would be an alarm.
    square = (
        f"{s('gap')} ^ 2\n"
        f"  / ({s('expected')} * on ({FEATURE}) group_left () (1 / {n} + 1 / {m}) + abs({s('gap')}) / 12)"
    )
    yield _record(s, "chi2", f"sum by ({FEATURE}) (\n  {square}\n)\n* on ({FEATURE})\n{k}")
    yield _record(s, "critical", _critical(profile, scope, run_length))
    exceeds = f"{s('chi2')} > bool on ({FEATURE}) {s('critical')} and on ({FEATURE}) {s('rows')} >= {min_rows}"
    yield _record(s, "significant", f"avg by ({MODEL}) (\n  {exceeds}\n)")


def _critical(profile: Profile, scope: Scope, run_length: float) -> str:
    """It depends on how many bins a column has."""
    found = critical_chi2(profile, run_length=run_length, window=scope.window)
    by_bins = {len(profile.bins.used(j)): value for j, value in found.items()}
    bins = f"count by ({FEATURE}) ({scope('reference_share')})"
    return "\nor\n".join(f"({bins} == {number}) * 0 + {value!r}" for number, value in sorted(by_bins.items()))


def _accuracy(scope: Scope) -> Iterator[Rule]:
    """Confidence-based performance estimation on bins; blind to concept drift."""
    s = scope
    share = s("share", feature=CONFIDENCE)
    right = f"max by ({MODEL}, bin) ({s.raw(semconv.REFERENCE_BIN_ACCURACY)})"
    value = f"sum by ({MODEL}) (\n  {share}\n  * on ({MODEL}, bin) group_left () {right}\n)"
    square = f"sum by ({MODEL}) (\n  {share}\n  * on ({MODEL}, bin) group_left () {right} ^ 2\n)"
    yield _record(s, "accuracy", value)
    reference = f"max by ({MODEL}) ({s.raw(semconv.REFERENCE_ACCURACY)})"
    yield _record(s, "accuracy_change", f"{s('accuracy')} - on ({MODEL}) {reference}")
    # How far the estimate strays by chance alone while nothing has changed.
    rows = f"(1 / {s('effective', feature=CONFIDENCE)}\n    + 1 / {s('reference_rows', feature=CONFIDENCE)})"
    spread = f"clamp_min({square} - on ({MODEL}) {s('accuracy')} ^ 2, 0)"
    yield _record(s, "accuracy_error", f"sqrt(\n  {spread}\n  * on ({MODEL}) {rows}\n)")


def _prior(scope: Scope) -> Iterator[Rule]:
    """Black-box shift estimation: shares of the true classes, if nothing but these has changed."""
    s = scope
    weight = f"max by ({MODEL}, class, bin) ({s.raw(semconv.BBSE_MATRIX)})"
    share = f"on ({MODEL}, bin) group_left () {s('share', feature=PREDICTION)}"
    by_class = f"sum by ({MODEL}, class)"
    # Predictions that validation never had are in no row of the matrix: the shares are of the others.
    known = f"({by_class} ({weight} ^ 0 * {share}) > 0)"
    yield _record(s, "raw_prior", f"{by_class} (\n  {weight}\n  * {share}\n)\n/\n{known}")
    clipped = f"clamp_min({s('raw_prior')}, 0)"
    yield _record(s, "prior", f"{clipped}\n/ on ({MODEL}) group_left ()\nsum by ({MODEL}) ({clipped})")


def _record(scope: Scope, what: str, expression: str) -> Rule:
    return {"record": scope.name(what), "expr": expression}
