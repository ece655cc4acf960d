"""Values as people read them, safe to stand in HTML: whatever came in, what goes out is text and never markup."""

from __future__ import annotations

import html
import math
import re
from datetime import datetime, timezone
from typing import Any

LONGEST = 120
"""Characters of a name that are shown; a longer one loses its middle."""
NOTHING = "–"  # noqa: RUF001  # a dash that stands for no number
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_FACTORS = 1000.0


def text(value: Any, most: int | None = LONGEST) -> str:
    """Any text, escaped, without characters that no page may hold, and without its middle where it is long."""
    said = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(value))
    if most is not None and len(said) > most:
        tail = most // 4
        said = f"{said[: most - tail - 1]}…{said[-tail:]}"
    return html.escape(said)


def name(value: Any, most: int | None = LONGEST) -> str:
    """A name that somebody else chose; letters that run from right to left leave those around it alone."""
    return f"<bdi>{text(value, most)}</bdi>"


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def count(value: Any) -> str:
    """How many, with separators."""
    known = number(value)
    return NOTHING if known is None else f"{known:,.0f}"


def share(value: Any) -> str:
    """A share in percent; a small one is not called none."""
    known = number(value)
    if known is None:
        return NOTHING
    if 0 < known < 0.0005:  # noqa: PLR2004  # it would be rounded to none
        return "&lt;0.1%"
    return f"{known:.0%}" if known in (0.0, 1.0) else f"{known:.1%}"


def change(before: Any, after: Any) -> str:
    """By how many percentage points a share has changed."""
    then, now = number(before), number(after)
    return NOTHING if then is None or now is None else f"{100 * (now - then):+.1f}".replace("-", "\N{MINUS SIGN}")


def figure(value: Any) -> str:
    """A statistic in three figures."""
    known = number(value)
    if known is None:
        return NOTHING
    if abs(known) >= 10:  # noqa: PLR2004
        return f"{known:,.0f}" if abs(known) < 1e6 else f"{known:.1e}"  # noqa: PLR2004
    return "&lt;0.001" if 0 < known < 0.0005 else f"{known:.3f}"  # noqa: PLR2004


def times(value: Any) -> str:
    """How many times as much."""
    known = number(value)
    if known is None:
        return NOTHING
    return f"more than {_FACTORS:,.0f} times" if known > _FACTORS else f"{known:.1f} times"


def plural(many: Any, one: str) -> str:
    """A number of things."""
    return f"{count(many)} {one}{'' if many == 1 else 's'}"


def moment(seconds: Any) -> str:
    """A time, UTC, for people and for machines."""
    at = when(seconds)
    if at is None:
        return NOTHING
    return f'<time datetime="{at.isoformat(timespec="seconds")}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'


def when(seconds: Any) -> datetime | None:
    """Unix seconds as a time, UTC; None where they are none."""
    known = number(seconds)
    try:
        return None if known is None else datetime.fromtimestamp(known, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None


def made(value: Any) -> str:
    """An ISO 8601 time as `moment` has it; as it is, where it is none."""
    try:
        return moment(datetime.fromisoformat(str(value)).timestamp())
    except (ValueError, OverflowError):
        return text(value)
