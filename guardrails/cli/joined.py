"""The decisions of a store with what became of them, for the commands that learn from them."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import click

from guardrails.cli.common import Age

if TYPE_CHECKING:
    from guardrails.decisions.joined.logged import Logged

Command = Callable[..., Any]
KINDS = ("choice", "ranking", "threshold", "value")


class DefaultReward(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.2 on
    """A number, or ``none``."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | None:
        """Read it."""
        try:
            return None if value is None or str(value).lower() == "none" else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor none.", param, ctx)


def join_options(command: Command) -> Command:
    """Add the options that say how decisions and rewards are joined; the command gets them as ``joined``, called."""
    from guardrails.decisions.joined.delivered import Aggregate

    options = (
        click.option("--window", required=True, help="How long a decision may earn rewards, e.g. 24h or 30m."),
        click.option(
            "--default", type=DefaultReward(), default="0", show_default=True, help="Reward where none came, or none."
        ),
        click.option(
            "--aggregate", type=click.Choice(get_args(Aggregate)), default="last", show_default=True, help="Of several."
        ),
        click.option("--name", help='Only rewards of this name, e.g. click; "" are those without one.'),
        click.option("--label", "match", is_flag=True, help="A label equal to the served action earns 1, another 0."),
        click.option("--since", type=Age(), help="Only decisions of the last, e.g. 36h or 7d."),
        click.option("--until", type=Age(), help="Only decisions older than, e.g. 24h."),
        click.option("--api", help="Only decisions of this method."),
        click.option("--kind", type=click.Choice(KINDS), help="Only decisions of this kind."),
    )

    @functools.wraps(command)
    def run(*args: Any, url: str, window: str, since: float | None, until: float | None, **rest: Any) -> Any:
        now = time.time()
        join = {name: rest.pop(name) for name in ("default", "aggregate", "name", "api", "kind")}
        join |= {"since": None if since is None else now - since, "until": None if until is None else now - until}
        join |= {"now": now, "label_reward": "match" if rest.pop("match") else None}
        return command(*args, joined=functools.partial(joined, url, window=window, **join), **rest)

    for option in reversed(options):
        run = option(run)
    return click.argument("url")(run)


def joined(url: str, **options: Any) -> Logged:
    """The joined decisions of a store, or an error that a terminal can show."""
    from guardrails.decisions.joined.join import join_store
    from guardrails.errors import DecisionStoreError

    try:
        logged = join_store(url, **options)
    except DecisionStoreError as error:
        raise click.ClickException(str(error)) from error
    except ValueError as error:
        raise click.ClickException(_as_options(str(error))) from error
    for problem, count in logged.counts.problems.items():
        click.echo(f"{count} decisions left out: {problem}", err=True)
    if not len(logged):
        raise click.ClickException(f"there is nothing to learn from yet: {logged.counts}.{_hint(logged)}")
    return logged


def _as_options(text: str) -> str:
    """What a function calls ``name=`` is an option here."""
    return re.sub(r"\b(name|kind|api|default|window)= ?", r"--\1 ", text)


def _hint(logged: Logged) -> str:
    counts = logged.counts
    if counts.pending and counts.pending >= max(counts.deferred, counts.malformed, counts.other):
        return " Their windows are not over: wait, or give a shorter --window."
    return ""
