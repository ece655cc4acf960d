"""``guardrails show TAG``: what a profile holds and what it promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from guardrails.profile import Profile
    from guardrails.profile.schema import Feature

LEVEL = 0.99


@click.command()
@click.argument("tag")
def show(tag: str) -> None:
    """Show the profile TAG (a tag of the BentoML model store, or a folder)."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from guardrails.cli.common import load_profile

    profile = load_profile(tag)
    console = Console()
    console.print(f"[bold]{profile.tag or tag}[/bold]  digest {profile.digest}, fitted {profile.created}")
    console.print(f"model {profile.model or 'not named'}; fitted with {profile.versions}")
    for line in promise(profile):
        console.print(escape(line))
    table = Table("feature", "kind", "range or categories", "missing", box=None)
    for feature in profile.schema.features:
        table.add_row(escape(feature.name), feature.kind, escape(_span(feature)), f"{feature.missing:.1%}")
    console.print(table)


def promise(profile: Profile) -> list[str]:
    """What a profile's calibrated detector promises, in sentences."""
    from guardrails.outliers.conformal import share_interval
    from guardrails.outliers.live import name_of

    detector = profile.outliers
    n, alpha = len(detector.calibration), detector.alpha
    low, high = detector.share_interval(LEVEL)
    whole = (
        f"outliers: {name_of(detector.detector)}, threshold {detector.threshold:.4f} from {n} calibration rows: alpha "
        f"{alpha:g} sends {detector.share:.4f} of ordinary traffic to the fallback, on average over such samples; with "
        f"this one, {LEVEL:.0%} sure, between {low:.4f} and {high:.4f} (more calibration rows narrow it)"
    )
    if detector.groups is None:
        return [whole]
    lines, column = [whole], profile.schema.features[detector.groups.column]
    for name, scores in detector.by_group.items():
        low, high = share_interval(alpha, len(scores), LEVEL)
        shown = column.categories[int(name)] if column.categories and name != "rest" else name
        lines.append(f"  {column.name} {shown}: {len(scores)} calibration rows, between {low:.4f} and {high:.4f}")
    return lines


def _span(feature: Feature) -> str:
    if feature.categories:
        return ", ".join(map(str, feature.categories[:6])) + (" ..." if len(feature.categories) > 6 else "")
    low, high = (bound for bound in (feature.low, feature.high))
    return "always " + f"{low:.4g}" if feature.constant else f"{low:.4g} to {high:.4g}"
