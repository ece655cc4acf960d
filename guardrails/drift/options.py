"""What a service says of how its drift is judged: one number, and what an alarm sets off."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from guardrails.drift.triggers import Trigger, check
from guardrails.errors import DecorationError

DAY = 86_400.0
RUN_LENGTH = 30 * DAY
DEBOUNCE = 3600.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}


@dataclass(frozen=True)
class DriftOptions:
    """How drift is judged.

    Attributes:
        run_length: the wanted mean time between two false alarms: seconds, or rows.
        in_rows: whether it is rows.
        on_alarm: what an alarm sets off.
        debounce: seconds before it may be set off again.

    Raises:
        DecorationError: a value makes no sense.
    """

    run_length: float = RUN_LENGTH
    in_rows: bool = False
    on_alarm: Trigger | None = None
    debounce: float = DEBOUNCE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.run_length) and self.run_length >= (100.0 if self.in_rows else 60.0)):
            raise DecorationError(
                f"run_length={self.run_length!r}: the mean time between two false alarms, such as '30d'; "
                "at least a minute (of a Monitor: at least 100 rows)."
            )
        if not self.debounce >= 0.0:
            raise DecorationError(f"debounce={self.debounce!r}: a time, such as '1h'.")
        check(self.on_alarm)

    @property
    def text(self) -> str:
        """The run length for people."""
        return f"{self.run_length:.0f} rows" if self.in_rows else in_words(self.run_length)


def seconds(value: float | str, name: str) -> float:
    """A time span in seconds: a number of them, or text such as ``30d``, ``12h``, ``90m``.

    Raises:
        DecorationError: it is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", str(value))
    if match is None:
        raise DecorationError(f"{name}={value!r} is no time span; write e.g. '30d', '12h', '90m', or seconds.")
    return float(match[1]) * _UNITS[match[2]]


def in_words(span: float) -> str:
    """A time span in the largest unit that it fills at least twice."""
    for unit, name in (("d", "days"), ("h", "hours"), ("m", "minutes")):
        if span >= 2 * _UNITS[unit]:
            return f"{span / _UNITS[unit]:g} {name}"
    return f"{span:g} seconds"
