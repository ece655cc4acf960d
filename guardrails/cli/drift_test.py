"""``guardrails drift test URL``: drift detectors that need rows, over the rows that decisions were stored with."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.cli.common import Age, decisions, load_profile

if TYPE_CHECKING:
    from guardrails.drift.by_rows.rows import StoredRows
    from guardrails.drift.by_rows.verdicts import DriftReport
    from guardrails.profile import Profile
    from guardrails.typing import Rows

SHOWN = 10


@dataclass(frozen=True)
class Samples:
    """What is compared: rows ``(n, d)``, the reference's None where the detector has its own."""

    window: Rows
    reference: Rows | None
    names: tuple[str, ...]
    categorical: tuple[str, ...]


@click.command("test")
@click.argument("url")
@click.option("--detector", "detectors", multiple=True, required=True, help="KSDrift, ...; module:factory; a folder.")
@click.option("--profile", "tag", help="Read the rows by this profile; by default the one that judged the newest.")
@click.option("--reference", "file", type=click.Path(exists=True, dir_okay=False), help="Rows: .npy, .npz or .csv.")
@click.option("--reference-until", "until", type=Age(), help="Decisions older than this, e.g. 7d, are the reference.")
@click.option("--since", type=Age(), help="Judge decisions of the last, e.g. 24h.")
@click.option("--api", help="Only decisions of this method.")
@click.option("--window", "size", type=click.IntRange(min=1), help="Judge the newest so many rows.")
@click.option("--all-rows", is_flag=True, help="All rows of a request that had several, not one.")
@click.option("--python", help="The interpreter to run detectors with, if alibi-detect lives in another environment.")
@click.option("--option", "options", multiple=True, help="KEY=JSON, or DETECTOR.KEY=JSON for one of several.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds a detector may take.")
@click.option("--runs-code", is_flag=True, help="Load a saved folder, which runs code that is in it.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, one entry per detector.")
@click.option("--fail-on-drift", is_flag=True, help="Exit with 1 if a detector sees drift.")
def drift_test(
    url: str,
    detectors: tuple[str, ...],
    tag: str | None,
    file: str | None,
    until: float | None,
    since: float | None,
    api: str | None,
    size: int | None,
    all_rows: bool,
    python: str | None,
    options: tuple[str, ...],
    timeout: float,
    runs_code: bool,
    as_json: bool,
    fail_on_drift: bool,
) -> None:
    """Judge the rows of the decisions in the store URL. Detectors run in processes of their own.

    This is one look at one window: a test at 5 % that is run every day says "drift" every three weeks for nothing.
    """
    from guardrails.errors import GuardrailsError

    wanted = {detector: _options(options, detector, detectors) for detector in detectors}
    border = _border(since, until)
    profile = None if tag is None else load_profile(tag)
    try:
        samples = _samples(decisions(url, None if until is not None else since, api), profile, file, border, all_rows)
        if size is not None:
            samples = Samples(samples.window[-size:], samples.reference, samples.names, samples.categorical)
        reports = []
        for detector in detectors:
            reports.append(_judge(detector, samples, wanted[detector], python, timeout, runs_code))
            if not as_json:
                click.echo("\n".join(lines(reports[-1])))
    except GuardrailsError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([report.to_json() for report in reports], indent=2))
    if fail_on_drift and any(report.is_drift for report in reports):
        raise click.exceptions.Exit(1)


def lines(report: DriftReport) -> list[str]:
    """A verdict for people."""
    said = "DRIFT" if report.is_drift else "no drift"
    where = f" in {len(report.features)} of {len(report.columns)} columns" if report.features else ""
    against = f"{report.rows} rows against {report.reference_rows}"
    told = [f"{report.detector}: {said}{where} ({against}, {report.seconds:.2f} s)"]
    if isinstance(report.threshold, float):
        of = "the statistic is above" if report.p_value is None else "a p-value is below"
        told.append(f"  drift where {of} {report.threshold:.4g}")
    if report.columns:
        order = [report.columns.index(name) for name in report.features] or [_nearest(report)]
        told += [f"  {_column(report, j)}" for j in order[:SHOWN]]
        told += [f"  and {len(order) - SHOWN} more"] if len(order) > SHOWN else []
    else:
        told.append("  " + _values(report.p_value, report.statistic))
    return [*told, f"  note: {report.note}"] if report.note else told


def _nearest(report: DriftReport) -> int:
    """The column that came nearest to drift."""
    import numpy as np

    values = report.statistic if report.p_value is None else report.p_value
    each = np.atleast_1d(np.asarray(values, dtype=np.float64)) * (-1 if report.p_value is None else 1)
    return int(np.argmin(np.where(np.isnan(each), np.inf, each))) if len(each) == len(report.columns) else 0


def _column(report: DriftReport, j: int) -> str:
    def entry(value: Any) -> Any:
        return value[j] if isinstance(value, tuple) and len(value) == len(report.columns) else None

    return f"{report.columns[j]}: {_values(entry(report.p_value), entry(report.statistic))}"


def _values(p_value: Any, statistic: Any) -> str:
    named = (("p", p_value), ("statistic", statistic))
    return ", ".join(f"{name} {value:.4g}" for name, value in named if isinstance(value, float))


def _options(given: tuple[str, ...], detector: str, detectors: tuple[str, ...]) -> dict[str, Any]:
    """The options of one detector: JSON, or text where it is none."""
    found: dict[str, Any] = {}
    for entry in given:
        key, equals, text = entry.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--option {entry}: write KEY=JSON, e.g. p_val=0.01.")
        owner, dot, own = key.rpartition(".")
        if dot and owner not in detectors:
            raise click.UsageError(f"--option {entry}: {owner} is none of the detectors: {', '.join(detectors)}.")
        if owner in ("", detector):
            try:
                found[own] = json.loads(text)
            except ValueError:
                found[own] = text
    return found


def _border(since: float | None, until: float | None) -> tuple[float, float] | None:
    """From when on rows are judged, and up to when they are the reference."""
    if until is None:
        return None
    if since is not None and since > until:
        raise click.UsageError("--since reaches back into the reference: give less than --reference-until.")
    now = time.time()
    return now - (until if since is None else since), now - until


def _samples(
    records: list[dict[str, Any]],
    profile: Profile | None,
    file: str | None,
    border: tuple[float, float] | None,
    all_rows: bool,
) -> Samples:
    from guardrails.drift.by_rows.rows import reference_rows, stored_rows

    if file is not None and border is not None:
        raise click.UsageError("Give --reference or --reference-until, not both.")
    stored = stored_rows(records, profile, all_rows=all_rows)
    _require_rows(len(stored.matrix), len(records), stored)
    window, reference, names = stored.matrix, None, stored.names
    if border is not None:
        window, reference = stored.matrix[stored.ts >= border[0]], stored.matrix[stored.ts < border[1]]
        if not (len(window) and len(reference)):
            raise click.ClickException(
                f"{len(reference)} stored rows are older than --reference-until and {len(window)} are to be judged: "
                "both are needed."
            )
    elif file is not None:
        reference, named = reference_rows(file, stored.schema)
        names = named if named is not None and len(named) == stored.matrix.shape[1] else names
    return Samples(window, reference, names, stored.categorical)


def _require_rows(rows: int, found: int, stored: StoredRows) -> None:
    if not rows:
        why = "".join(f"\n  {count} {reason}" for reason, count in stored.skipped.items())
        raise click.ClickException(f"there is no row to judge among {found} decisions.{why}")
    for reason, count in stored.skipped.items():
        click.echo(f"{count} decisions {reason}", err=True)


def _judge(
    detector: str, samples: Samples, options: dict[str, Any], python: str | None, timeout: float, runs_code: bool
) -> DriftReport:
    from guardrails.contrib.alibi_drift import DETECTORS
    from guardrails.drift.by_rows.process import ProcessDetector

    folder = detector not in DETECTORS and Path(detector).is_dir()
    if samples.reference is None and detector in DETECTORS:
        raise click.UsageError(f"What is {detector} to compare with? Give --reference FILE or --reference-until AGE.")
    with ProcessDetector(
        detector,
        None if folder else samples.reference,
        options=options,
        python=python,
        timeout=timeout,
        feature_names=samples.names,
        categorical=samples.categorical,
        runs_code=runs_code,
    ) as running:
        return running.predict(samples.window)
