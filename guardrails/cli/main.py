"""The command line: what a profile promises, whether production keeps to it, and what a change would have done."""

from __future__ import annotations

import click

from guardrails._version import __version__
from guardrails.cli.drift import drift
from guardrails.cli.evaluate import evaluate
from guardrails.cli.export import export
from guardrails.cli.recalibrate import recalibrate
from guardrails.cli.replay import replay
from guardrails.cli.rules import rules
from guardrails.cli.show import show


@click.group()
@click.version_option(__version__, package_name="bento-guardrails")
def main() -> None:
    """Look after guarded BentoML services."""


for command in (show, drift, rules, recalibrate, replay, export, evaluate):
    main.add_command(command)
