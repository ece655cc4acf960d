"""The command line: ``guardrails show``."""

from guardrails.cli.main import main

__all__ = ["main"]
