"""A Grafana dashboard for one profile: what has drifted, how far, in which bins, and what it may cost in accuracy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from guardrails import semconv
from guardrails.drift.fleet.alerts import ACCURACY_DROP, LARGE, SEVERE
from guardrails.drift.fleet.exposition import bin_accuracy, prior_matrix
from guardrails.drift.fleet.promql import Scope, quoted
from guardrails.profile.profile import Profile

SCHEMA = 39
"""Of Grafana 10.4; later versions read it and migrate it."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_CHOSEN = "~${feature:regex}"
Panel = dict[str, Any]


def dashboard(profile: Profile, *, window: str | float = "1h") -> dict[str, Any]:
    """The dashboard of one profile, to be imported into Grafana as JSON.

    Args:
        profile: what the services were told to watch.
        window: as given to `guardrails.drift.fleet.rules.rules`, whose series it shows.

    Raises:
        ProfileError: the window is no time span.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 2)), model="docs:1")
        >>> board = dashboard(profile)
        >>> board["title"], [variable["name"] for variable in board["templating"]["list"]]
        ('Guardrails: docs:1', ['datasource', 'feature'])
    """
    scope = Scope.of(profile, window)
    panels = [*_now(profile, scope), *_features(scope), *_chosen(scope), *_answers(profile, scope)]
    uid = hashlib.sha256(f"{scope.model}\0{scope.ref}\0{scope.span}".encode()).hexdigest()[:24]
    return {
        "uid": f"guardrails-{uid}",
        "title": f"Guardrails: {scope.model}",
        "tags": ["guardrails", "drift"],
        "description": f"Drift of {scope.model} against the reference {scope.ref}, over {scope.span}.",
        "schemaVersion": SCHEMA,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [_datasource(), _feature(scope)]},
        "annotations": {"list": []},
        "panels": _laid_out(panels),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _feature(scope: Scope) -> dict[str, Any]:
    query = f"label_values({scope('rows')}, feature)"
    return {
        "name": "feature",
        "label": "Feature",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "features"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
        "current": {},
    }


def _now(profile: Profile, scope: Scope) -> Iterator[Panel]:
    """One glance: is anything wrong?"""
    alerts = f'ALERTS{{alertstate="firing",alertname=~"Guardrails.*",model={quoted(scope.model)}}}'
    firing = f"count({alerts}) or vector(0)"
    yield _panel("Alerts firing", "stat", 6, 4, [(firing, "")], steps=[(None, "green"), (1, "red")])
    moved = f"count({scope('psi')} > {LARGE} and {scope('chi2')} > {scope('critical')}) or vector(0)"
    yield _panel("Columns in drift", "stat", 6, 4, [(moved, "")], steps=[(None, "green"), (1, "red")])
    rows = f"max({scope('rows')}) or vector(0)"
    yield _panel(
        f"Sampled rows in {scope.span}",
        "stat",
        6,
        4,
        [(rows, "")],
        steps=[(None, "orange"), (200, "green")],
        decimals=0,
    )
    if profile.validated is not None and bin_accuracy(profile):
        least = profile.validated.accuracy - ACCURACY_DROP
        steps: list[tuple[float | None, str]] = [(None, "red"), (least, "green")]
        yield _panel("Estimated accuracy", "stat", 6, 4, [(scope("accuracy"), "")], steps=steps, unit="percentunit")


def _features(scope: Scope) -> Iterator[Panel]:
    """All columns, over time."""
    steps: list[tuple[float | None, str]] = [(None, "transparent"), (LARGE, "orange"), (SEVERE, "red")]
    yield _panel(
        "Population stability index",
        "timeseries",
        12,
        9,
        [(f"topk(20, {scope('psi')})", "{{feature}}")],
        steps=steps,
        about=f"How far each column is from its reference. Above {LARGE} it matters, above {SEVERE} much.",
    )
    yield _panel(
        "Significance (chi-square over its critical value)",
        "timeseries",
        12,
        9,
        [(f"topk(20, {scope('chi2')} / {scope('critical')})", "{{feature}}")],
        steps=[(None, "transparent"), (1, "red")],
        about="Above 1 chance does not explain the difference. An alert needs this and a large stability index.",
    )
    yield _panel(
        "Evidence on the servers",
        "timeseries",
        12,
        8,
        [(f"max by (instance) ({scope.raw(semconv.DRIFT_EVIDENCE)})", "{{instance}}")],
        steps=[(None, "transparent"), (1, "red")],
        about="The sequential detector of each server: at 1 it raises an alarm.",
    )
    yield _panel(
        "Alarms raised by servers",
        "timeseries",
        12,
        8,
        [(f"sum by (feature) ({scope.raw(semconv.DRIFT_ALARM)})", "{{feature}}")],
        about="Servers on which an alarm about this column stands and has not been acknowledged.",
        decimals=0,
    )


def _chosen(scope: Scope) -> Iterator[Panel]:
    """One column, bin by bin."""
    shares = [(scope("reference_share", feature=_CHOSEN), "reference"), (scope("share", feature=_CHOSEN), "now")]
    bars = _panel("$feature: share of each bin, reference and now", "barchart", 12, 9, shares, unit="percentunit")
    for target in bars["targets"]:
        target.update(format="table", instant=True, range=False)
    keep = {"bin": True, "Value #A": True, "Value #B": True}
    bars["transformations"] = [
        {"id": "joinByField", "options": {"byField": "bin", "mode": "outer"}},
        {"id": "filterFieldsByName", "options": {"include": {"names": list(keep)}}},
        {"id": "organize", "options": {"renameByName": {"Value #A": "reference", "Value #B": "now"}}},
    ]
    bars["options"] = {"xField": "bin", "orientation": "vertical", "stacking": "none", "showValue": "never"}
    yield bars
    yield _panel(
        "$feature: distances",
        "timeseries",
        12,
        9,
        [
            (scope("psi", feature=_CHOSEN), "stability index"),
            (scope("psi_vs_week", feature=_CHOSEN), "stability index against a week ago"),
            (scope("ks", feature=_CHOSEN), "Kolmogorov-Smirnov"),
            (scope("js", feature=_CHOSEN), "Jensen-Shannon (bits)"),
            (scope("tv", feature=_CHOSEN), "total variation"),
        ],
        about="Far from the reference but near the same hour a week ago: the reference misses a rhythm.",
    )


def _answers(profile: Profile, scope: Scope) -> Iterator[Panel]:
    """What drift may cost; only where the profile knows labels."""
    if bin_accuracy(profile):
        margin = f"2 * {scope('accuracy_error')}"
        yield _panel(
            "Estimated accuracy (no labels)",
            "timeseries",
            12,
            8,
            [
                (scope("accuracy"), "estimate"),
                (f"{scope('accuracy')} - {margin}", "two standard errors below"),
                (f"{scope('accuracy')} + {margin}", "two standard errors above"),
                (f"max({scope.raw(semconv.REFERENCE_ACCURACY)})", "validation"),
            ],
            unit="percentunit",
            about="From how sure the answers are. Blind to concept drift: only labels show that.",
        )
    if prior_matrix(profile):
        yield _panel(
            "Estimated share of each true class (no labels)",
            "timeseries",
            12,
            8,
            [(scope("prior"), "class {{class}}")],
            unit="percentunit",
            about="If only the shares of the classes have changed, and not how each of them looks.",
        )


def _panel(
    title: str,
    kind: str,
    width: int,
    height: int,
    queries: list[tuple[str, str]],
    *,
    steps: list[tuple[float | None, str]] | None = None,
    unit: str = "short",
    about: str = "",
    decimals: int | None = None,
) -> Panel:
    thresholds = [{"value": value, "color": color} for value, color in steps or [(None, "green")]]
    lined = kind == "timeseries" and steps is not None
    custom = {"custom": {"thresholdsStyle": {"mode": "line"}}} if lined else {}
    rounded = {} if decimals is None else {"decimals": decimals}
    return {
        "title": title,
        "type": kind,
        "description": about,
        "datasource": _SOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {
            "defaults": {"unit": unit, **rounded, **custom, "thresholds": {"mode": "absolute", "steps": thresholds}},
            "overrides": [],
        },
        "options": {},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(queries)
        ],
    }


def _laid_out(panels: list[Panel]) -> list[Panel]:
    """Side by side in rows 24 wide."""
    x = y = tallest = 0
    for number, panel in enumerate(panels, start=1):
        place = panel["gridPos"]
        if x + place["w"] > 24:  # noqa: PLR2004
            x, y, tallest = 0, y + tallest, 0
        place.update(x=x, y=y)
        panel["id"] = number
        x, tallest = x + place["w"], max(tallest, place["h"])
    return panels
