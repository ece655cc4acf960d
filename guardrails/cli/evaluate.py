"""``guardrails evaluate URL``: what other policies would have earned, and whether the log can be believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from guardrails.cli.joined import join_options

if TYPE_CHECKING:
    from guardrails.decisions.joined.logged import Logged
    from guardrails.evaluation.from_log import Evaluation, Judged
    from guardrails.evaluation.off_policy.estimate import Estimate

TARGETS = ("greedy", "uniform")
BROKEN = 2
"""The exit code where the log contradicts its own propensities."""


class Evaluate(click.Command):
    """Exits with 1 where it was asked in a wrong way: 2 has a meaning of its own here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            setattr(error, "exit_code", 1)  # noqa: B010  # click has it as the class's
            raise


@click.command(cls=Evaluate)
@join_options
@click.option(
    "--target", "targets", multiple=True, help="greedy, uniform, logged, 'EpsilonGreedy(0.05)', or a file; repeatable."
)
@click.option("--estimator", help="One or several of ips, snips, dm, dr, switch, with commas in between.")
@click.option("--by", type=click.Choice(["model", "policy"]), help="A table for each model, or each policy.")
@click.option("--loop", "with_loop", is_flag=True, help="How strong the feedback loop is, too.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def evaluate(
    joined: Callable[[], Logged],
    targets: tuple[str, ...],
    estimator: str | None,
    by: str | None,
    with_loop: bool,
    as_json: bool,
) -> None:
    """Judge policies by the decisions in the store URL, and the log by its own randomness.

    A file (.npz, .parquet) has decision_id and pmf, or action. The estimates are of decisions that exploration was
    allowed to act on, and say nothing of the others. Exits with 2 where the log contradicts its own propensities.
    """
    from guardrails.evaluation.targets import target_of

    try:
        asked = [target_of(text) for text in targets or TARGETS]
    except (ValueError, TypeError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    logged = joined()
    chosen = None if estimator is None else [name.strip() for name in estimator.split(",")]
    document: dict[str, Any] = {"counts": asdict(logged.counts), "groups": []}
    if not as_json:
        click.echo(str(logged.counts))
    broken = False
    for name, part in _parts(logged, by):
        try:
            told, bad = _one(part, asked, chosen, with_loop, default=not targets)
        except (ValueError, ImportError) as error:
            raise click.ClickException(f"{f'{by} {name}: ' if by else ''}{error}") from error
        broken = broken or bad
        if as_json:
            document["groups"].append({**({by: name} if by else {}), **_json_of(told)})
        else:
            _show(told, f"{by} {name}" if by else None)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    if broken:
        raise click.exceptions.Exit(BROKEN)


def _parts(logged: Logged, by: str | None) -> list[tuple[str, Logged]]:
    """The decisions, or those of each model or policy that exploration had a part in."""
    import numpy as np

    if by is None:
        return [("", logged)]
    names = [str(name or "") for name in getattr(logged, by)]
    used = sorted({name for name, usable in zip(names, logged.learnable, strict=True) if usable})
    if not used:
        raise click.ClickException(f"none of the {len(logged)} decisions was explored.")
    return [(name or "unnamed", logged.select(np.array([other == name for other in names]))) for name in used]


def _one(
    logged: Logged, targets: list[Any], estimators: list[str] | None, with_loop: bool, *, default: bool
) -> tuple[dict[str, Any], bool]:
    """All there is to say of one group of decisions, and whether its log contradicts itself."""
    from guardrails.evaluation.from_log import evaluate as judge
    from guardrails.evaluation.from_log import integrity

    if default and logged.kind == "value":  # nobody serves exactly the model's own value, and uniform over what?
        targets = ["logged"]
    told: dict[str, Any] = {"evaluation": judge(logged, targets, estimators), "integrity": integrity(logged)}
    if with_loop:
        from guardrails.evaluation.loop.report import report

        told["loop"] = report(logged)
    return told, told["integrity"] is not None and not told["integrity"].ok


def _json_of(told: dict[str, Any]) -> dict[str, Any]:
    done: Evaluation = told["evaluation"]
    plain = {
        "decisions": done.decisions,
        "learnable": done.learnable,
        "explorable": done.explorable,
        "mean_reward": done.mean_reward,
        "on_policy": done.on_policy.to_json(),
        "versions": done.versions,
        "notes": list(done.notes),
        "targets": [
            {
                "target": judged.target,
                "estimator": judged.estimator,
                **judged.estimate.to_json(),
                "overlap": _finite(asdict(judged.overlap)),
            }
            for judged in done.judged
        ],
    }
    checked = told["integrity"]
    plain["integrity"] = None
    if checked is not None:
        checks = [_finite(asdict(check)) for check in checked.checks]
        plain["integrity"] = {"ok": checked.ok, "rows": checked.rows, "alpha": checked.alpha, "checks": checks}
    return {**plain, "loop": told["loop"].document()} if "loop" in told else plain


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """What is no finite number is None in JSON."""
    import math

    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _show(told: dict[str, Any], title: str | None) -> None:
    """For people."""
    from rich.console import Console

    done: Evaluation = told["evaluation"]
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if title:
        say(f"\n{title}")
    say(
        f"on-policy mean {_interval(done.on_policy)} of {done.learnable:,} decisions that were open to exploration "
        f"({done.explorable:.1%}); mean of all {done.decisions:,}: {done.mean_reward:.4g}"
    )
    if done.explorable < 1:
        say("The estimates are about the decisions open to exploration, and say nothing of the others.")
    console.print(_table(done.judged))
    for note in dict.fromkeys([*done.notes, *_warnings(done.judged)]):
        say(f"note: {note}")
    _show_integrity(told["integrity"], say)
    if "loop" in told:
        say(f"\nloop: {told['loop']}")


def _table(judged: tuple[Judged, ...]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("policy", overflow="fold")
    for name in ("by", "value", "95 % interval", "ESS", "max weight", "rows used"):
        table.add_column(name, no_wrap=True)
    for one in judged:
        estimate = one.estimate
        table.add_row(
            escape(one.target),
            one.estimator,
            f"{estimate.value:.4g}",
            f"{estimate.low:.4g} to {estimate.high:.4g}",
            f"{one.overlap.ess:,.0f} ({_share(one.overlap.share)})",
            f"{one.overlap.max_weight:.4g}",
            _share(one.overlap.supported),
        )
    return table


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _warnings(judged: tuple[Judged, ...]) -> list[str]:
    return [f"{one.target}, {one.estimator}: {warning}" for one in judged for warning in one.estimate.warnings]


def _show_integrity(checked: Any, say: Callable[[str], None]) -> None:
    if checked is None:
        say("integrity: not tested (it is for choices and thresholds)")
        return
    verdict = "passed" if checked.ok else f"FAILED {', '.join(checked.failed)}"
    say(f"integrity: {verdict} ({checked.rows:,} decisions)")
    for check in checked.checks:
        if check.ok is False:
            say(f"  {check.name}: {check.sentence}")
    if not checked.ok:
        say("The log contradicts its own propensities: believe no estimate until that is understood.")
