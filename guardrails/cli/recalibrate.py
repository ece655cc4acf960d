"""``guardrails recalibrate TAG``: calibrate a profile's detector anew, from recent accepted traffic."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from guardrails.cli.common import Age, decisions, load_profile, of_profile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from guardrails.profile import Profile


@click.command()
@click.argument("tag")
@click.option("--decisions", "url", required=True, help="The decision store, e.g. sqlite:///decisions.db.")
@click.option("--since", type=Age(), help="Only decisions of the last, e.g. 36h or 7d.")
@click.option("--api", help="Only decisions of this method.")
@click.option("--alpha", type=float, help="Another share of ordinary traffic that may be called an outlier.")
@click.option("--all-ordinary", is_flag=True, help="Every recent row is known to be ordinary: leave none out.")
@click.option("--save", "name", help="Store the result under this name; without it nothing is changed.")
def recalibrate(
    tag: str, url: str, since: float | None, api: str | None, alpha: float | None, all_ordinary: bool, name: str | None
) -> None:
    """Calibrate the detector of the profile TAG on recent traffic that it judged."""
    from guardrails.cli.show import promise
    from guardrails.errors import ProfileError
    from guardrails.outliers import recalibrate as calibrate_anew

    profile = load_profile(tag)
    recent = {row["decision_id"]: row for row in decisions(url, since, api) if of_profile(row, profile)}
    scores, rows = _judged(list(recent.values()), profile)
    if not len(scores):
        raise click.ClickException(
            f"none of the decisions in {url} was judged by {profile.tag or tag}: give the tag that is deployed, or a "
            "longer --since."
        )
    try:
        done = calibrate_anew(profile.outliers, scores, rows=rows, all_ordinary=all_ordinary, alpha=alpha)
    except ProfileError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{done.rows} recent rows, {done.used} of them calibrate it")
    click.echo(f"threshold {done.before.threshold:.4f} -> {done.after.threshold:.4f}")
    click.echo(f"flagged among the recent rows {done.flagged_before:.4f} -> {done.flagged_after:.4f}")
    recalibrated = profile.with_outliers(done.after)
    for line in promise(recalibrated):
        click.echo(line)
    if name is None:
        click.echo("nothing was changed; --save NAME stores it")
    else:
        click.echo(f"saved {recalibrated.save(name)}")


def _judged(
    records: list[dict[str, Any]], profile: Profile
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """Scores of the decisions the outlier check judged; and their rows, where calibration is by group."""
    import numpy as np

    judged = [record for record in records if record["outlier_score"] is not None]
    scores = np.array([record["outlier_score"] for record in judged])
    if profile.outliers.groups is None or not judged:
        return scores, None
    try:
        rows = np.array([json.loads(record["features"]) for record in judged], dtype=np.float64)
    except (TypeError, ValueError):
        raise click.ClickException(
            "this profile is calibrated by group, which needs the rows: install(features='store') keeps them."
        ) from None
    return scores, rows
