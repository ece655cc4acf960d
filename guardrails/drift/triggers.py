"""What an alarm sets off: a function or a command of the user's own, not more often than it should."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

from guardrails.core import metrics
from guardrails.drift.alarm import Alarm
from guardrails.errors import DecorationError

logger = logging.getLogger("guardrails")

Trigger: TypeAlias = "Callable[[Alarm], object] | str | Sequence[str]"

COMMAND_TIMEOUT = 300.0
"""Seconds a command may take."""


def check(trigger: Trigger | None) -> None:
    """Refuse what can set off nothing.

    Raises:
        DecorationError: it is neither callable nor a command.
    """
    if trigger is None:
        return
    if inspect.iscoroutinefunction(trigger):
        raise DecorationError(f"on_alarm={trigger!r} is async, and nothing awaits it: give a plain function.")
    if callable(trigger):
        return
    try:
        words = _words(trigger)
    except (TypeError, ValueError):
        words = []
    if not words or not all(isinstance(word, str) for word in words):
        raise DecorationError(
            f"on_alarm={trigger!r}: give a function that takes the alarm, or a command such as 'retrain --now'."
        )


def _words(command: str | Sequence[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


def fire(trigger: Trigger, alarm: Alarm) -> threading.Thread:
    """Set it off, in a thread of its own: whatever it does, drift goes on being watched.

    A function gets the alarm. A command gets it as JSON on its standard input, and the names of the features, worst
    first, in ``GUARDRAILS_DRIFT_FEATURES``; it runs without a shell.
    """
    thread = threading.Thread(target=_run, args=(trigger, alarm), name="guardrails-drift-trigger", daemon=True)
    thread.start()
    return thread


def _run(trigger: Trigger, alarm: Alarm) -> None:
    try:
        if callable(trigger):
            trigger(alarm)
        else:
            _command(_words(trigger), alarm)
    except Exception:  # the user's own; the alarm stands in the status whatever became of it
        metrics.guard_errors().labels("sample_drift", "on_alarm").inc()
        logger.exception("the drift alarm %s could not set off %r", alarm.id, trigger)


def _command(words: list[str], alarm: Alarm) -> None:
    environment = {**os.environ, "GUARDRAILS_DRIFT_FEATURES": ",".join(alarm.features)}
    document = json.dumps(alarm.to_json())
    done = subprocess.run(  # noqa: S603  # the service's own command, as a list
        words, input=document, text=True, env=environment, capture_output=True, timeout=COMMAND_TIMEOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
