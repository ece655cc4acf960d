"""``guardrails show TAG``: what a profile holds and what it promises."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from guardrails._version import __version__


@click.group()
@click.version_option(__version__, package_name="bento-guardrails")
def main() -> None:
    """Look after guarded BentoML services."""


@main.command()
@click.argument("tag")
def show(tag: str) -> None:
    """Show the profile TAG (a tag of the BentoML model store, or a folder)."""
    from guardrails.errors import ProfileError
    from guardrails.profile import Profile

    try:
        profile = Profile.load(tag)
    except ProfileError as error:
        raise click.ClickException(str(error)) from error
    detector = profile.outliers
    n, alpha = len(detector.calibration), detector.alpha
    console = Console()
    console.print(f"[bold]{profile.tag or tag}[/bold]  digest {profile.digest}, fitted {profile.created}")
    console.print(f"model {profile.model or 'not named'}; fitted with {profile.versions}")
    console.print(
        f"outliers: {getattr(detector.detector, 'kind', 'live detector')}, threshold {detector.threshold:.4f} from "
        f"{n} calibration rows: alpha {alpha:g} sends {detector.share:.4f} of ordinary traffic to the fallback, "
        "on average"
    )
    table = Table("feature", "kind", "range or categories", "missing", box=None)
    for feature in profile.schema.features:
        categories = escape(", ".join(map(str, feature.categories[:6]))) + (
            " ..." if len(feature.categories) > 6 else ""
        )
        span = categories if feature.categories else f"{feature.low:.4g} to {feature.high:.4g}"
        table.add_row(escape(feature.name), feature.kind, span, f"{feature.missing:.1%}")
    console.print(table)
