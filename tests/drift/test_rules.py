"""Rules for Prometheus: what promtool computes is what NumPy computes, and alerts fire exactly where they should."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml

import guardrails as gr
from guardrails.drift.fleet import alerts
from guardrails.drift.fleet import rules as made
from guardrails.drift.fleet.alerts import alert_rules
from guardrails.drift.fleet.dashboard import dashboard
from guardrails.drift.fleet.exposition import Exposition, Watched, bin_accuracy, critical_chi2, prior_matrix
from guardrails.drift.fleet.promql import Scope
from guardrails.errors import ProfileError
from guardrails.evaluation.label_free import estimate_accuracy, estimate_prior
from guardrails.profile.naming import bin_text
from guardrails.profile.serial import gamma

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
REPLICAS = ("10.0.0.1:3000", "10.0.0.2:3000", "10.0.0.3:3000")
ODD = 'colour "{{x}}"'


def population(rng, n):
    """A number with gaps, a category, few values, a slow series; and answers that know how sure they are."""
    slow = np.zeros(n)
    for i in range(1, n):
        slow[i] = 0.6 * slow[i - 1] + rng.normal()
    age = rng.normal(50, 10, n)
    age[rng.random(n) < 0.03] = np.nan
    frame = pd.DataFrame(
        {
            "age": age,
            ODD: rng.choice(["red", 'gr"een', "blue{{"], n, p=[0.6, 0.3, 0.1]),
            "few": rng.integers(0, 3, n),
            "slow": slow,
        }
    )
    scores = rng.dirichlet([0.4, 0.4, 0.4], n)
    labels = (scores.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return frame, scores, labels


@pytest.fixture(scope="module")
def fleet():
    """A profile with everything in it; its gauges are exported."""
    X, scores, labels = population(np.random.default_rng(0), 4000)
    made_of = gr.Profile.fit(X, outputs=scores, labels=labels, categorical=[ODD], model="songs:v1", feature_names=None)
    Exposition(made_of)
    return made_of


@pytest.fixture(scope="module")
def plain():
    """Numbers only, no answers."""
    X = np.random.default_rng(1).normal(size=(3000, 2))
    made_of = gr.Profile.fit(X, feature_names=["a", "b"], model="plain:v1")
    Exposition(made_of)
    return made_of


def gauges(profile):
    """What one service exports of its reference, as (series without the replica, value)."""
    from prometheus_client import REGISTRY

    return [
        (sample.name, dict(sample.labels), sample.value)
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if metric.type == "gauge" and sample.labels.get("ref") == profile.bins.ref
    ]


def series(name, labels, values):
    """One input series of promtool."""
    inside = ",".join(f"{label}={json.dumps(value)}" for label, value in labels.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


def inputs(profile, per_scrape, replicas=REPLICAS, scrapes=30):
    """Three replicas that each count the same every five minutes; the last one restarts inside the window."""
    scope = Scope.of(profile, "1h")
    labels = {"model": scope.model, "ref": scope.ref}
    found = []
    for replica in replicas:
        for j, b in Watched.of(profile).cells:
            k = int(per_scrape[j, b])
            steady = f"0+{k}x{scrapes}"
            restarted = f"0+{k}x18 {k}+{k}x{scrapes - 19}"
            of = {**labels, "feature": profile.bins.names[j], "bin": profile.bins.label(b), "instance": replica}
            values = restarted if replica == REPLICAS[2] else steady
            found.append(series("guardrails_feature_bin_total", of, values))
        for name, own, value in gauges(profile):
            found.append(series(name, {**own, "instance": replica}, f"{value!r}x{scrapes}"))
    return found


def window(per_scrape):
    """What the whole fleet counts in an hour."""
    return 12 * len(REPLICAS) * np.asarray(per_scrape)


def per_scrape(profile, rows=1500, **shares):
    """About so many rows in five minutes and replica, like the reference, but for the columns that are given otherwise."""
    counts = np.zeros(profile.bins.counts.shape, np.int64)
    for j, name in enumerate(profile.bins.names):
        share = shares.get(name, profile.bins.counts[j] / profile.bins.counts[j].sum())
        counts[j] = np.round(np.asarray(share) * rows)
    return counts


def shifted(profile, name, by=0.8):
    """The shares of a column whose values moved up."""
    j = profile.bins.names.index(name)
    used = profile.bins.used(j)[:-1]
    share = profile.bins.counts[j].astype(float)
    share[used] *= np.exp(by * np.linspace(-1.7, 1.7, len(used)))
    return share / share.sum()


def chi2_of(p, n, q, m):
    """The statistic of the rules: shares (..., b) of samples worth n and m rows."""
    smaller = np.minimum(n, m)[..., None]
    n, m = np.asarray(n, float)[..., None], np.asarray(m, float)[..., None]
    expected = np.maximum((n * p + m * q) * smaller / (n + m), made.LEAST_EXPECTED)
    gap = q - p
    return (smaller * gap**2 / (expected * (1 / n + 1 / m) + np.abs(gap) / 12)).sum(axis=-1)


def expected(profile, counts):
    """All statistics of all columns, by NumPy."""
    found = {}
    worth = gamma(profile.bins.rho)
    for j in Watched.of(profile).columns:
        used = profile.bins.used(j)
        reference, now = profile.bins.counts[j, used].astype(float), counts[j, used].astype(float)
        p, q = reference / reference.sum(), now / now.sum()
        n, m = float(profile.bins.effective_rows[j]), now.sum()
        padded = (p * n + now) > 0
        P, Q = (p * n + 0.5)[padded], (now + 0.5)[padded]
        P, Q = P / P.sum(), Q / Q.sum()
        P1, Q1 = np.maximum(p, 1e-12), np.maximum(q, 1e-12)
        M = (P1 + Q1) / 2
        own = {
            "psi": ((Q - P) * np.log(Q / P)).sum(),
            "js": (Q1 * np.log2(Q1 / M) + P1 * np.log2(P1 / M)).sum() / 2,
            "tv": np.abs(q - p).sum() / 2,
            "chi2": chi2_of(p, n, q, m * worth[j]),
            "critical": critical_chi2(profile)[j],
        }
        if not profile.bins.categorical[j]:
            own["ks"] = np.abs(np.cumsum(q) - np.cumsum(p)).max()
        found[profile.bins.names[j]] = {name: float(value) for name, value in own.items()}
    return found


def close(expression, value, labels):
    """A promtool expectation; it compares floats bit for bit, so the tolerance is part of the expression."""
    inside = ",".join(f"{label}={json.dumps(text)}" for label, text in labels.items())
    return {
        "expr": f"abs({expression} - {value!r}) < bool {1e-9 * max(1.0, abs(value))!r}",
        "eval_time": "2h",
        "exp_samples": [{"labels": f"{{{inside}}}", "value": 1}],
    }


def run(*arguments, folder):
    """Run promtool."""
    return subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def check(folder, document, tests, bare=True, every="5m"):
    """Run promtool over rules and unit tests; annotations out of the way unless they are what is tested."""
    document = copy.deepcopy(document)
    for group in document["groups"]:
        group["interval"] = every
        for rule in group["rules"] if bare else ():
            rule.pop("annotations", None)
    (folder / "rules.yml").write_text(made.to_yaml(document))
    whole = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests}
    (folder / "tests.yml").write_text(yaml.safe_dump(whole, sort_keys=False, width=10000))
    return run("test", "rules", "tests.yml", folder=folder)


def labels_of(profile, feature):
    """The labels of a recorded series."""
    return {"feature": feature, "model": profile.model, "ref": profile.bins.ref}


def expectations(profile, counts):
    """Every statistic of every column, accuracy and class shares, as promtool expectations."""
    scope = Scope.of(profile, "1h")
    whose = {"model": scope.model, "ref": scope.ref}
    found = [
        close(scope(what, feature=name), value, {"feature": name, **whose})
        for name, own in expected(profile, counts).items()
        for what, value in own.items()
    ]
    if profile.validated is not None:
        accuracy = estimate_accuracy(profile, counts)
        change = accuracy.value - profile.validated.accuracy
        found += [close(scope("accuracy"), accuracy.value, whose), close(scope("accuracy_change"), change, whose)]
        prior = estimate_prior(profile, counts)
        found += [
            close(scope("prior", **{"class": str(k)}), float(value), {"class": str(k), **whose})
            for k, value in zip(prior.classes, prior.value, strict=True)
        ]
    return found


@promtool
def test_prometheus_computes_what_numpy_computes(fleet, tmp_path):
    """PSI, JS, TV, KS, chi-square, critical values, accuracy and class shares, to 1e-9; and a wrong value is found."""
    moved = np.array([0.2, 0.5, 0.3])
    prediction = np.zeros(fleet.bins.counts.shape[1])
    prediction[:3] = moved
    minute = per_scrape(fleet, age=shifted(fleet, "age"), __prediction__=prediction)
    j = fleet.bins.names.index(ODD)
    minute[j, -2] += 9  # a category nobody knows
    tests = expectations(fleet, window(minute))
    assert {name for name, own in expected(fleet, window(minute)).items() if "ks" not in own} == {
        ODD,
        "__prediction__",
        "__outlier__",
    }
    assert gamma(fleet.bins.rho)[fleet.bins.names.index("slow")] < 0.5
    document = made.rules(fleet)
    done = check(
        tmp_path, document, [{"interval": "5m", "input_series": inputs(fleet, minute), "promql_expr_test": tests}]
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for expectation in tests:
        expectation["expr"] = expectation["expr"].replace(" - ", " - 1e-4 - ", 1)
    wrong = [{"interval": "5m", "input_series": inputs(fleet, minute), "promql_expr_test": tests}]
    done = check(tmp_path, document, wrong)
    assert (done.stdout + done.stderr).count("got:") == len(tests)


def alerts_at(profile, minute, names, fired, when="2h", replicas=REPLICAS[2:]):
    """A promtool test: exactly these alerts fire."""
    return {
        "interval": "5m",
        "input_series": inputs(profile, minute, replicas) if minute is not None else [],
        "alert_rule_test": [
            {
                "eval_time": when,
                "alertname": name,
                "exp_alerts": [{"exp_labels": labels} for labels in fired.get(name, [])],
            }
            for name in names
        ],
    }


NAMES = [
    "GuardrailsFeatureDrift",
    "GuardrailsFeatureDriftSevere",
    "GuardrailsEstimatedAccuracyDrop",
    "GuardrailsDriftBlind",
    "GuardrailsDriftAlarm",
]


def test_the_alerts_are_those(fleet, plain):
    """And without labels there is none about accuracy."""
    assert [rule["alert"] for rule in alert_rules(fleet)] == NAMES
    assert [rule["alert"] for rule in alert_rules(plain)] == [name for name in NAMES if "Accuracy" not in name]


@promtool
def test_alerts_fire_where_they_should_and_nowhere_else(fleet, tmp_path):
    """A quiet fleet, one that drifts in one column, and one whose answers have become unsure."""
    whose = {"model": "songs:v1", "ref": fleet.bins.ref}
    confidence = np.zeros(fleet.bins.counts.shape[1])
    confidence[0] = 1.0
    unsure = per_scrape(fleet, __confidence__=confidence)
    drift = [{**whose, "feature": "age", "severity": "warning"}]
    severe = [{**whose, "feature": "age", "severity": "critical"}]
    doubt = {
        "GuardrailsFeatureDrift": [{**whose, "feature": "__confidence__", "severity": "warning"}],
        "GuardrailsFeatureDriftSevere": [{**whose, "feature": "__confidence__", "severity": "critical"}],
        "GuardrailsEstimatedAccuracyDrop": [{**whose, "severity": "critical"}],
    }
    slight = per_scrape(fleet, age=shifted(fleet, "age", 0.4))
    assert 0.1 < expected(fleet, window(slight))["age"]["psi"] < 0.25
    tests = [
        alerts_at(fleet, per_scrape(fleet), NAMES, {}),
        alerts_at(fleet, slight, NAMES, {"GuardrailsFeatureDrift": drift}),
        alerts_at(
            fleet,
            per_scrape(fleet, age=shifted(fleet, "age")),
            NAMES,
            {"GuardrailsFeatureDrift": drift, "GuardrailsFeatureDriftSevere": severe},
        ),
        alerts_at(fleet, unsure, NAMES, doubt),
    ]
    done = check(tmp_path, made.rules(fleet), tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    wrong = [alerts_at(fleet, per_scrape(fleet), NAMES, {"GuardrailsFeatureDrift": drift})]
    assert check(tmp_path, made.rules(fleet), wrong).returncode != 0


@promtool
def test_a_large_shift_that_chance_explains_is_no_alarm(plain, tmp_path):
    """Few rows: the stability index is above its mark, the statistic is not."""
    few = np.zeros(plain.bins.counts.shape, np.int64)
    few[:, [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15]] = 1
    few[-1] = 0
    few[-1, 0] = 13
    scope = Scope.of(plain, "1h")
    found = expected(plain, 12 * few)
    assert all(found[name]["psi"] > 0.1 and found[name]["chi2"] < found[name]["critical"] for name in "ab")
    test = alerts_at(plain, few, ["GuardrailsFeatureDrift", "GuardrailsDriftBlind"], {}, replicas=REPLICAS[:1])
    test["promql_expr_test"] = [close(scope("psi", feature="a"), found["a"]["psi"], labels_of(plain, "a"))]
    done = check(tmp_path, made.rules(plain, min_rows=100), [test])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@promtool
def test_blind_is_said_and_is_not_no_drift(fleet, plain, tmp_path):
    """Nothing exported, nothing sampled, too little sampled, one column without values."""
    whose = {"model": "plain:v1", "ref": plain.bins.ref, "severity": "info"}
    blind = {"GuardrailsDriftBlind": [whose]}
    names = [name for name in NAMES if "Accuracy" not in name]
    few = np.zeros(plain.bins.counts.shape, np.int64)
    few[:, 0] = 1
    no_b = per_scrape(plain)
    no_b[1] = 0
    tests = [
        alerts_at(plain, None, names, blind),
        alerts_at(plain, 0 * few, names, blind),
        alerts_at(plain, few, names, blind, replicas=REPLICAS[:1]),
        alerts_at(plain, no_b, names, {"GuardrailsDriftBlind": [{**whose, "feature": "b"}]}),
        alerts_at(plain, per_scrape(plain), names, {}),
    ]
    done = check(tmp_path, made.rules(plain), tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@promtool
@pytest.mark.parametrize("in_words", [True, False])
def test_an_alert_names_the_bins_that_moved(fleet, tmp_path, in_words, monkeypatch):
    """In words, whatever characters these hold; by number where there are too many of them."""
    if not in_words:
        monkeypatch.setattr(alerts, "MAX_WORDS", 10)
    share = np.zeros(fleet.bins.counts.shape[1])
    share[[1, 2, -2]] = [0.3, 0.5, 0.2]  # no blue any more, less red, something new
    minute = per_scrape(fleet, **{ODD: share})
    j = fleet.bins.names.index(ODD)
    before = fleet.bins.counts[j] / fleet.bins.counts[j].sum()
    now = minute[j] / minute[j].sum()
    order = sorted(np.argsort(-np.abs(now - before))[:3], key=lambda b: before[b] - now[b])
    texts = [bin_text(fleet, j, b) if in_words else f"bin {fleet.bins.label(b)}" for b in order]
    moved = [f"{text}: {100 * before[b]:.4g}% -> {100 * now[b]:.4g}%" for text, b in zip(texts, order, strict=True)]
    psi = expected(fleet, 12 * minute)[ODD]["psi"]
    test = alerts_at(fleet, minute, NAMES[:1], {NAMES[0]: [{**labels_of(fleet, ODD), "severity": "warning"}]})
    test["alert_rule_test"][0]["exp_alerts"][0]["exp_annotations"] = {
        "summary": f"songs:v1: {ODD} has drifted (PSI {psi:.3f})",
        "description": f"Shares that changed most: {'; '.join(moved)}.",
    }
    done = check(tmp_path, made.rules(fleet), [test], bare=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@promtool
def test_last_week_is_a_reference_of_its_own(plain, tmp_path):
    """The same hour a week ago: far from the reference then and now is no change."""
    then, now = (
        per_scrape(plain, a=shifted(plain, "a")),
        per_scrape(plain, a=shifted(plain, "a"), b=shifted(plain, "b")),
    )
    given = inputs(plain, then, REPLICAS[:1], scrapes=344)
    cells = Watched.of(plain).cells
    for (j, b), entry in zip(cells, given[: len(cells)], strict=True):
        first = 338 * int(then[j, b])
        entry["values"] = f"0+{then[j, b]}x338 {first + now[j, b]}+{now[j, b]}x4"

    def psi(j):
        used = plain.bins.used(j)
        q, p = (2 * counts[j, used] + 0.5 for counts in (now, then))
        q, p = q / q.sum(), p / p.sum()
        return float(((q - p) * np.log(q / p)).sum())

    assert psi(0) == 0
    assert psi(1) > 0.25
    scope = Scope.of(plain, "1h")
    wanted = [close(scope("psi_vs_week", feature=name), psi(j), labels_of(plain, name)) for j, name in enumerate("ab")]
    for one in wanted:
        one["eval_time"] = "170h"
    tests = [{"interval": "30m", "input_series": given, "promql_expr_test": wanted}]
    document = made.rules(plain)
    needed = {scope.name(what) for what in ("bin_rows", "rows", "psi_vs_week")}
    document["groups"] = document["groups"][:1]
    document["groups"][0]["rules"] = [rule for rule in document["groups"][0]["rules"] if rule["record"] in needed]
    done = check(tmp_path, document, tests, every="30m")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@promtool
def test_models_that_share_a_prometheus_do_not_mix(fleet, plain, tmp_path):
    """Both files' rules over both fleets' series: each model's drift is its own, and no series comes twice."""
    both = {"groups": [*made.rules(fleet)["groups"], *made.rules(plain)["groups"]]}
    assert len({group["name"] for group in both["groups"]}) == 4
    minute = per_scrape(plain, a=shifted(plain, "a"))
    whose = {"model": "plain:v1", "ref": plain.bins.ref, "feature": "a"}
    test = alerts_at(
        plain,
        minute,
        NAMES,
        {
            "GuardrailsFeatureDrift": [{**whose, "severity": "warning"}],
            "GuardrailsFeatureDriftSevere": [{**whose, "severity": "critical"}],
        },
    )
    test["input_series"] += inputs(fleet, per_scrape(fleet))
    test["promql_expr_test"] = [
        close(f"sum by (model) ({Scope.of(p, '1h')('significant')})", value, {"model": p.model})
        for p, value in ((fleet, 0.0), (plain, 1 / 3))
    ]
    done = check(tmp_path, both, [test])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@promtool
def test_a_sick_service_is_reported(plain, tmp_path):
    """The fallback's share, an open breaker, lost decisions (also the first one), an alarm on a host."""
    host = series("guardrails_drift_alarm", {"model": "plain:v1", "ref": plain.bins.ref, "feature": "a"}, "0x12 1x12")
    other = series("guardrails_drift_alarm", {"model": "other", "ref": plain.bins.ref, "feature": "a"}, "1x24")
    given = [
        host,
        other,
        series("guardrails_fallback_alarm", {"api": "predict", "instance": "a"}, "0x12 1x12"),
        series("guardrails_fallback_alarm", {"api": "predict", "instance": "b"}, "0x24"),
        series("guardrails_breaker_state", {"api": "predict", "target": "rank"}, "0x12 2x12"),
        series("guardrails_breaker_state", {"api": "predict", "target": "well"}, "1x24"),
        series("guardrails_decisions_dropped_total", {"cause": "full"}, "_x13 3x12"),
        series("guardrails_decisions_dropped_total", {"cause": "disk"}, "2x12 5x12"),
        series("guardrails_decisions_dropped_total", {"cause": "old"}, "7x24"),
    ]

    def fired(when, **alerts):
        return [
            {"eval_time": when, "alertname": name, "exp_alerts": [{"exp_labels": own} for own in labels]}
            for name, labels in alerts.items()
        ]

    document = {"groups": [*made.rules(plain)["groups"], *made.service_rules()["groups"]]}
    critical = {"severity": "critical"}
    tests = [
        {
            "interval": "5m",
            "input_series": given,
            "alert_rule_test": [
                *fired(
                    "75m",
                    GuardrailsFallbackShare=[{"api": "predict", **critical}],
                    GuardrailsBreakerOpen=[{"api": "predict", "target": "rank", **critical}],
                    GuardrailsDecisionsDropped=[{"cause": "full", **critical}, {"cause": "disk", **critical}],
                    GuardrailsDriftAlarm=[
                        {"model": "plain:v1", "ref": plain.bins.ref, "feature": "a", "severity": "warning"}
                    ],
                ),
                *fired(
                    "55m",
                    GuardrailsFallbackShare=[],
                    GuardrailsBreakerOpen=[],
                    GuardrailsDecisionsDropped=[],
                    GuardrailsDriftAlarm=[],
                ),
                *fired("100m", GuardrailsDecisionsDropped=[]),
            ],
        }
    ]
    done = check(tmp_path, document, tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@promtool
@pytest.mark.parametrize("which", ["fleet", "plain"])
@pytest.mark.parametrize("span", ["1h", "20s", "2d"])
def test_promtool_accepts_rules_and_dashboard(which, span, request, tmp_path):
    """Every expression of both, for windows short and long."""
    profile = request.getfixturevalue(which)
    board = dashboard(profile, window=span)
    shown = [
        {"record": f"panel:{panel['id']}:{target['refId']}", "expr": target["expr"].replace("${feature:regex}", "age")}
        for panel in board["panels"]
        for target in panel["targets"]
    ]
    (tmp_path / "a.yml").write_text(made.to_yaml(made.rules(profile, window=span)))
    (tmp_path / "b.yml").write_text(made.to_yaml({"groups": [{"name": "dashboard", "rules": shown}]}))
    (tmp_path / "c.yml").write_text(made.to_yaml(made.service_rules()))
    done = run("check", "rules", "a.yml", "b.yml", "c.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("which", ["fleet", "plain"])
def test_the_dashboard_shows_what_is_recorded_or_exported(which, request):
    """Each name in a panel exists, panels do not overlap, and what Grafana needs to import it is there."""
    import re

    profile = request.getfixturevalue(which)
    board = json.loads(json.dumps(dashboard(profile)))
    document = made.rules(profile)
    recorded = {rule["record"] for group in document["groups"] for rule in group["rules"] if "record" in rule}
    exported = {name for name, _labels, _value in gauges(profile)} | {
        "guardrails_drift_alarm",
        "guardrails_drift_evidence",
    }
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"([a-z_]+:?[a-z0-9_:]*guardrails[a-z0-9_:]*|guardrails_[a-z0-9_]+)\{", target["expr"])
            assert set(names) <= recorded | exported
            assert names or "ALERTS" in target["expr"]
        assert panel["datasource"]["uid"] == "${datasource}"
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert board["schemaVersion"] >= 36
    assert 0 < len(board["uid"]) <= 40
    assert {"datasource", "feature"} == {variable["name"] for variable in board["templating"]["list"]}
    assert ("Estimated accuracy" in {panel["title"] for panel in board["panels"]}) is (which == "fleet")


def test_class_shares_are_left_out_exactly_where_they_cannot_be_told(fleet):
    """The same verdict as over the count table."""
    rng = np.random.default_rng(3)
    for accuracy, rows in ((1.0, 400), (0.9, 400), (0.55, 400), (0.5, 2000), (0.6, 4000)):
        labels = rng.integers(0, 2, rows)
        predicted = np.where(rng.random(rows) < accuracy, labels, 1 - labels)
        X = rng.normal(size=(rows, 1))
        made_of = gr.Profile.fit(X, outputs=predicted, labels=labels)
        told = not np.isnan(estimate_prior(made_of, made_of.bins.counts).value).any()
        assert bool(prior_matrix(made_of)) is told
        assert bin_accuracy(made_of) == {}
    assert prior_matrix(fleet)
    assert prior_matrix(gr.Profile.fit(X)) == {}


@pytest.mark.parametrize("wrong", ["soon", "5s", "0.5m1", "-1h", 3])
def test_a_window_that_is_none_is_refused(plain, wrong):
    """With the words to use."""
    with pytest.raises(ProfileError, match="window"):
        made.rules(plain, window=wrong)


def test_the_critical_value_grows_with_columns_and_run_length(plain):
    """And shrinks with longer windows, of which there are fewer."""
    month = critical_chi2(plain)[0]
    assert critical_chi2(plain, run_length=86400)[0] < month < critical_chi2(plain, run_length=3e7)[0]
    assert critical_chi2(plain, window=86400)[0] < month


def episodes(rng, hours, per_hour, n, run_hours, hold=5):
    """False alarms of a family of ten columns over so many hours: looked at every minute, held for five."""
    from scipy.stats import chi2

    kinds = [np.r_[np.full(16, 0.999 / 16), 0.001]] * 8
    kinds += [(1 / np.arange(1, 31)) / (1 / np.arange(1, 31)).sum(), np.array([0.99, 0.01, 0.0, 0.0])]
    alarms = np.zeros(60 * (hours - 1) + 1, bool)
    raw = held = 0
    for truth in kinds:
        p = rng.multinomial(n, truth) / n
        minutes = rng.poisson(truth * per_hour / 60, (60 * hours, len(truth))).cumsum(axis=0)
        minutes = np.concatenate([np.zeros((1, len(truth)), np.int64), minutes])
        counts = minutes[60:] - minutes[:-60]
        m = counts.sum(axis=1)
        statistic = chi2_of(p, np.full(len(m), n), counts / m[:, None], m)
        over = statistic > chi2.isf(1 / (run_hours * 12 * len(kinds)), len(truth) - 1)
        raw += int((np.diff(np.r_[0, over.astype(int)]) == 1).sum())
        runs = np.convolve(over, np.ones(hold + 1, int), "valid") == hold + 1
        held += int((np.diff(np.r_[0, runs.astype(int)]) == 1).sum())
    return raw, held, len(alarms)


@pytest.mark.parametrize(("per_hour", "n"), [(300, 20000), (3000, 20000), (3000, 2000)])
def test_false_alarms_come_no_more_often_than_asked(per_hour, n):
    """Ten columns, some with rare bins, one false alarm in 48 h asked: 24 times 48 h give at most 24 and 3 sigma."""
    rng = np.random.default_rng(5)
    found = np.array([episodes(rng, 48, per_hour, n, 48) for _ in range(24)])
    assert found[:, 1].sum() <= 24 + 3 * np.sqrt(24)
    assert found[:, 0].sum() >= found[:, 1].sum()


@pytest.mark.full
@pytest.mark.parametrize(("per_hour", "n"), [(300, 20000), (3000, 20000), (3000, 2000)])
def test_false_alarms_of_months(per_hour, n):
    """One in 30 days asked, 24 simulated months: at most 24 and 3 sigma."""
    rng = np.random.default_rng(6)
    found = np.array([episodes(rng, 720, per_hour, n, 720) for _ in range(24)])
    assert found[:, 1].sum() <= 24 + 3 * np.sqrt(24)
