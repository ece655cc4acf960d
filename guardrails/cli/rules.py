"""``guardrails rules TAG``: what Prometheus and Grafana need to watch a fleet for drift."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click


@click.command()
@click.argument("tag")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path, file_okay=False), default=".", help="Where to write."
)
@click.option("--window", default="1h", show_default=True, help="How much traffic is looked at together.")
@click.option("--run-length", default="30d", show_default=True, help="Wanted time between two false alarms.")
def rules(tag: str, folder: Path, window: str, run_length: str) -> None:
    """Write Prometheus rules and a Grafana dashboard for the profile TAG."""
    from guardrails.cli.common import load_profile
    from guardrails.drift.announce import labels_of
    from guardrails.drift.fleet import rules as made
    from guardrails.drift.fleet.dashboard import dashboard
    from guardrails.drift.fleet.exposition import Watched
    from guardrails.errors import ProfileError

    profile = load_profile(tag)
    try:
        document, board = made.rules(profile, window=window, run_length=run_length), dashboard(profile, window=window)
    except ProfileError as error:
        raise click.ClickException(str(error)) from error
    model, ref = labels_of(profile)
    stem = f"guardrails_{re.sub(r'[^A-Za-z0-9.-]+', '_', model)}"
    files = {
        f"{stem}.rules.yml": made.to_yaml(document),
        "guardrails_services.rules.yml": made.to_yaml(made.service_rules()),
        f"{stem}.dashboard.json": json.dumps(board, indent=1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        click.echo(f"wrote {folder / name}")
    watched = Watched.of(profile)
    click.echo("In prometheus.yml, next to the scrape of your services' /metrics:")
    click.echo("rule_files:")
    click.echo(f"  - {(folder / '*.rules.yml').resolve()}")
    click.echo("In Grafana: Dashboards, New, Import, and choose the .dashboard.json.")
    click.echo(
        f"Each replica exports {2 * len(watched.cells)} series for {len(watched.columns)} columns of {model} "
        f"(reference {ref}); the rules record {made.series(profile)} more, however many replicas there are."
    )
    if watched.left_out:
        click.echo(f"{len(watched.left_out)} columns have no room: {', '.join(watched.left_out[:5])}, ...")
