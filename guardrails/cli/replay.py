"""``guardrails replay URL``: what a changed guard would have done to the traffic there was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from guardrails.cli.common import Age, decisions, load_profile

if TYPE_CHECKING:
    from guardrails.evaluation import Replay

SHOWN = 5


@click.command()
@click.argument("url")
@click.option("--alpha", type=float, help="Another share of ordinary traffic that may be called an outlier.")
@click.option("--profile", "tag", help="Another profile (needs the rows: install(features='store')).")
@click.option("--margin", type=float, help="With --profile: validate with this margin, too.")
@click.option("--since", type=Age(), help="Only decisions of the last, e.g. 36h or 7d.")
@click.option("--api", help="Only decisions of this method.")
def replay(
    url: str, alpha: float | None, tag: str | None, margin: float | None, since: float | None, api: str | None
) -> None:
    """Run another threshold or profile over the decisions in the store URL. Nothing is changed."""
    from guardrails.errors import GuardrailsError
    from guardrails.evaluation import replay as run
    from guardrails.outliers.guard import check_outliers
    from guardrails.validation.guard import validate

    if tag is None and (alpha is None or margin is not None):
        raise click.UsageError("Give --alpha for another threshold, or --profile TAG for another profile.")
    records = decisions(url, since, api)
    try:
        if tag is None:
            done = run(records, alpha=alpha)
        else:
            profile = load_profile(tag)
            guards: list[Any] = [check_outliers(profile, alpha=alpha)]
            guards += [] if margin is None else [validate(profile, margin=margin)]
            done = run(records, *guards)
    except GuardrailsError as error:
        raise click.ClickException(str(error)) from error
    for line in report(done):
        click.echo(line)


def report(done: Replay) -> list[str]:
    """What would have changed, in lines."""
    lines = [f"{done.rows} decisions judged again"]
    lines += [f"  {count} not judged: {why}" for why, count in done.skipped.items()]
    if not done.rows:
        return lines
    for verdict in sorted({*done.before, *done.after}):
        before, after = done.before[verdict], done.after[verdict]
        lines.append(f"{verdict:9} {before:8} ({before / done.rows:.4f}) -> {after:8} ({after / done.rows:.4f})")
    if not done.changes:
        return [*lines, "none would have been another"]
    for way, count in sorted(done.moved().items()):
        moved = [change for change in done.changes if (change.before, change.after) == way]
        rewards = [change.reward for change in moved if change.reward is not None]
        told = f"; mean reward {sum(rewards) / len(rewards):.4g} of {len(rewards)}" if rewards else ""
        lines.append(f"{count} {way[0]} -> {way[1]}{told}, e.g. {', '.join(c.decision_id for c in moved[:SHOWN])}")
    return lines
