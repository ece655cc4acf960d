"""Charts as inline SVG: bars of a column then and now, evidence over time. No script; colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guardrails.drift.page.wording import name, number, share, text, when

Bin = Mapping[str, Any]

HEIGHT = 40
"""Of bars, in units of the drawing."""
STEP = 10
_APART = 6
"""Between the intervals of numbers and the bins for all else."""
SPECIAL = ("other", "nan")
TIP = 60
"""Characters of a bin's name in a tooltip."""
END = 30
"""Characters of a bin's name under the chart."""
MOMENTS = 5
_STEPS = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000, 7776000)
_DAY, _YEAR = 86400, 300 * 86400
TOP = 1.12
"""Where the evidence chart ends, if nothing is higher."""


def bars(bins: Sequence[Bin], label: str) -> str:
    """The bins of a column: wide bars for the reference, narrow ones for now.

    Args:
        bins: each with ``bin``, ``text``, ``reference`` and ``now``; what nobody falls into besides them is left out.
        label: what it shows, for those who do not see it; plain text.
    """
    pairs = [(entry, _share(entry, "reference"), _share(entry, "now")) for entry in bins]
    shown = [pair for pair in pairs if pair[1] or pair[2] or pair[0].get("bin") not in SPECIAL]
    places, width = _places([entry for entry, _, _ in shown])
    most = max((max(then, now) for _, then, now in shown), default=0.0) or 1.0
    wide, narrow, tips = [], [], []
    for x, (entry, then, now) in zip(places, shown, strict=True):
        wide.append(_bar(x + 0.5, STEP - 1, then / most))
        narrow.append(_bar(x + 2.5, STEP - 5, now / most))
        said = f"{text(entry.get('text', ''), TIP)}: {share(then)} then, {share(now)} now"
        tips.append(f'<rect x="{x}" width="{STEP}" height="{HEIGHT}"><title>{said}</title></rect>')
    plain = [entry for entry, _, _ in shown if entry.get("bin") not in SPECIAL]
    special = [entry for entry, _, _ in shown if entry.get("bin") in SPECIAL]
    outer = [*plain[:1], *plain[1:][-1:], *special[-1:]]
    ends = "".join(f"<span>{name(entry.get('text', ''), END)}</span>" for entry in outer)
    return (
        f'<div class="bars" style="max-width:{max(len(shown), 4) * 2.4:g}rem"><svg role="img" '
        f'aria-label="{text(label, 300)}" viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none">'
        f'<path class="then" d="{"".join(wide)}"/><path class="now" d="{"".join(narrow)}"/>{"".join(tips)}</svg>'
        f'<div class="ends" aria-hidden="true">{ends}</div></div>'
    )


def _share(entry: Bin, side: str) -> float:
    return number(entry.get(side)) or 0.0


def _places(bins: Sequence[Bin]) -> tuple[list[int], int]:
    """Where each bar begins, and how wide the drawing is."""
    places: list[int] = []
    x, before = 0, False
    for entry in bins:
        special = entry.get("bin") in SPECIAL
        x += _APART if special and not before and places else 0
        places.append(x)
        x, before = x + STEP, special
    return places, max(x, STEP)


def _bar(x: float, width: float, part: float) -> str:
    height = part * (HEIGHT - 1)
    if part > 0:
        height = max(height, 0.6)  # a bin that is not empty is not drawn empty
    return f"M{x:g} {HEIGHT}v{-height:.3g}h{width:g}v{height:.3g}z" if height else ""


def evidence(history: Sequence[Sequence[Any]], alarms: Sequence[Any], label: str) -> str:
    """The evidence over time, the line at which an alarm is due, and the alarms there were.

    Args:
        history: moments: Unix seconds, rows, share of what an alarm needs; oldest first, at least one.
        alarms: their times (Unix seconds).
        label: what it shows, for those who do not see it; plain text.
    """
    points = [
        (at, max(0.0, value))
        for at, value in ((number(m[0]), number(m[2])) for m in history)
        if at and value is not None
    ]
    raised = [at for at in map(number, alarms) if at]
    plane = _Plane.around(points, raised)
    line = [f"{plane.x(at):.1f},{plane.y(value):.1f}" for at, value in points]
    marks = "".join(f"M{plane.x(at):.1f} 0V100" for at in raised)
    ticks = plane.ticks()
    grid = "".join(f"M{plane.x(at):.1f} 0V100" for at in ticks) + f"M0 {plane.y(0.5):.1f}H1000"
    scale = "".join(
        f'<span style="top:{plane.y(value):.1f}%">{said}</span>'
        for value, said in ((1.0, "alarm"), (0.5, "half"), (0.0, "0"))
    )
    labels = "".join(f'<span style="left:{plane.x(at) / 10:.1f}%">{plane.said(at)}</span>' for at in ticks)
    return (
        f'<div class="evidence"><div class="scale" aria-hidden="true">{scale}</div><div class="plot">'
        f'<svg role="img" aria-label="{text(label, 300)}" viewBox="0 0 1000 100" preserveAspectRatio="none">'
        f'<path class="grid" d="{grid}"/><path class="due" d="M0 {plane.y(1):.1f}H1000"/>'
        f'<path class="raised" d="{marks}"/><polyline class="line" points="{" ".join(line + line[-1:])}"/></svg>'
        f'<div class="moments" aria-hidden="true">{labels}</div></div></div>'
    )


@dataclass(frozen=True)
class _Plane:
    """Times and shares as places in a drawing of 1000 by 100."""

    first: float
    last: float
    top: float

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]], raised: Sequence[float]) -> _Plane:
        times = [*(at for at, _ in points), *raised]
        return cls(min(times, default=0.0), max(times, default=0.0), max([TOP, *(value for _, value in points)]))

    def x(self, at: float) -> float:
        return (at - self.first) / max(self.last - self.first, 1.0) * 1000

    def y(self, value: float) -> float:
        return 100 - value / self.top * 100

    def ticks(self) -> Sequence[float]:
        """Round times, few enough to stand side by side on a telephone."""
        span = self.last - self.first
        step = next((step for step in _STEPS if span / step <= MOMENTS), max(1, round(span / MOMENTS / _DAY)) * _DAY)
        begin = math.ceil(self.first / step) * step
        return list(range(begin, math.floor(self.last) + 1, step)) or [self.first]

    def said(self, at: float) -> str:
        moment = when(at)
        if moment is None:
            return ""
        clock = f"{moment:%H:%M:%S}" if self.last - self.first < _STEPS[4] * MOMENTS else f"{moment:%H:%M}"
        return f"{clock}<br>{moment:%d %b %Y}" if self.last - self.first > _YEAR else f"{clock}<br>{moment:%d %b}"
