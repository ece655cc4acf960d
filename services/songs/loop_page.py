"""The loop as one HTML page: curves by round and the loop gain, drawn as SVG. No script, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from services.songs.audience import Audience

if TYPE_CHECKING:
    from services.songs.loop import Arm, Size, Track

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 34
NAMES = 225
_STYLE = """
:root { --neither: #82071e; --exploration: #9a6700; --weights: #6e40c9; --both: #0b57b0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --neither: #f85149; --exploration: #e3b341; --weights: #bc8cff; --both: #79b8ff; }
}
figure { margin: 1rem 0 2rem; max-width: 46rem; }
figcaption { color: var(--quiet); font-size: .9rem; }
.chart { width: 100%; height: auto; display: block; }
.chart text { fill: var(--quiet); font-size: 12px; font-family: inherit; }
.chart .grid, .chart .axis { stroke: var(--line); fill: none; }
.chart .mark { stroke: var(--quiet); stroke-dasharray: 2 4; fill: none; }
.curve { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.curve.neither { stroke: var(--neither); stroke-width: 5; stroke-opacity: .55; }
.exploration { stroke: var(--exploration); stroke-dasharray: 8 5; }
.weights { stroke: var(--weights); stroke-dasharray: 2 3; }
.both { stroke: var(--both); }
.span { stroke-width: 2.5; fill: none; }
.span.exploration, .span.both { stroke-dasharray: none; stroke-opacity: 1; }
.wide { overflow-x: auto; }
.wide th, .wide td { overflow-wrap: normal; min-width: 4.2rem; } .wide th[scope="row"] { min-width: 11rem; }
@media (max-width: 46rem) { .chart text { font-size: 17px; } }
.dot.exploration { fill: var(--exploration); } .dot.both { fill: var(--both); }
"""
_READING = """
<li><b>Neither alone is enough.</b> Without weights a retrain counts what was shown, so exploration changes what
listeners see and nothing of what the model learns. Without exploration weights have nothing to work on: a song that is
never shown has no clicks to weigh.</li>
<li><b>Exploration costs first.</b> Weighted clicks are few and heavy in the beginning, so the lists get worse before
they get better; and every explored song takes the place of one that the model holds for better.</li>
<li><b>Coverage of what is shown says nothing</b>: mixing in a random song covers the whole catalogue whatever the model
learns. Look at the model's own choices, and at the loop gain.</li>
<li><b>The loop gain is a randomised experiment</b>: half of the songs, chosen by a hash, were explored four times as
often. Where scores come out four times as high (1), the model learns exposure; where they come out equal (0), it learns
what listeners like. Without exploration nothing is randomised, and nobody can know.</li>
<li><b>A kind assumption hides the loop.</b> A model that takes songs it has not seen for as good as those it has will
try them all by itself. Few products dare; here the unseen is taken for worthless.</li>
"""


def render(tracks: Sequence[Track], size: Size) -> str:
    """The page, complete in itself; to be written as UTF-8."""
    style = resources.files("guardrails.drift.page").joinpath("page.css").read_text(encoding="utf-8") + _STYLE
    values = [(track.arm, track.rounds.value) for track in tracks]
    covered = [(track.arm, track.rounds.coverage) for track in tracks]
    audience = Audience.make(size.seed, songs=size.songs, slots=size.slots)
    of_songs, ideal = "Share of the songs in its own lists", len(np.unique(audience.ideal)) / size.songs
    parts = (
        _key(tracks),
        _figure(
            "How good the model is", "Expected clicks on its own lists, of the best there are (1 is ideal).", values
        ),
        _figure(
            "How much of the catalogue it chooses itself", f"{of_songs} (the best lists have {ideal:.2f}).", covered
        ),
        _gains(tracks),
        _table(tracks),
        f"<section><h2>How to read this</h2><ol class='read'>{_READING}</ol></section>",
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>The closed loop</title><style>{style}</style></head><body>"
        "<header><h1>A recommender that retrains from its own log</h1></header>"
        f"<main><p>{len(tracks)} services, {size.rounds} retrains, {size.listeners:,} lists of {size.slots} out of "
        f"{size.songs} songs a round. Where there is exploration, {size.epsilon:.0%} of the lists have one song in "
        f"them that the model would not have shown.</p>{''.join(parts)}</main>"
        "<footer>Nothing on this page is loaded from elsewhere.</footer></body></html>\n"
    )


def _key(tracks: Sequence[Track]) -> str:
    entries = "".join(
        f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="curve {track.arm.key}" d="M0 4H24"/></svg>'
        f"{escape(track.arm.name)}</li>"
        for track in tracks
    )
    return f'<ul class="key">{entries}</ul>'


def _section(title: str, width: int, height: int, label: str, drawing: str, caption: str) -> str:
    return (
        f'<section><h3>{title}</h3><figure><svg class="chart" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width} {height}">{drawing}</svg><figcaption>{caption}</figcaption></figure></section>'
    )


def _figure(title: str, caption: str, curves: Sequence[tuple[Arm, list[float]]]) -> str:
    """Curves over the rounds, all on one scale."""
    plane = _Plane.around([value for _, values in curves for value in values], max(len(v) for _, v in curves) - 1)
    lines, told = [], []
    for arm, values in curves:
        points = " ".join(f"{plane.x(at):.1f},{plane.y(value):.1f}" for at, value in enumerate(values))
        said = escape(f"{arm.name}: {values[0]:.2f} at first, {values[-1]:.2f} in the end")
        lines.append(f'<polyline class="curve {arm.key}" points="{points}"><title>{said}</title></polyline>')
        told.append(f"{arm.name} {values[0]:.2f} to {values[-1]:.2f}")
    drawing = plane.grid() + "".join(lines)
    return _section(title, WIDTH, HEIGHT, f"{title}: {'; '.join(told)}", drawing, caption)


@dataclass(frozen=True)
class _Plane:
    """Rounds and shares as places in the drawing."""

    low: float
    high: float
    step: float
    rounds: int

    @classmethod
    def around(cls, values: Sequence[float], rounds: int) -> _Plane:
        low, high = math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10) / 10
        high = max(high, low + 0.1)
        return cls(low, high, 0.1 if high - low < 0.65 else 0.2, max(rounds, 1))

    def x(self, at: float) -> float:
        return LEFT + at / self.rounds * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> str:
        """Lines at round values, and what the axes say."""
        ticks = [self.low + at * self.step for at in range(round((self.high - self.low) / self.step) + 1)]
        lines = "".join(f"M{LEFT} {self.y(value):.1f}H{WIDTH - RIGHT}" for value in ticks)
        said = [
            f'<text x="{LEFT - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>' for value in ticks
        ]
        foot = HEIGHT - BOTTOM + 18
        shown = range(0, self.rounds + 1, max(1, self.rounds // 5))
        said += [f'<text x="{self.x(at):.1f}" y="{foot}" text-anchor="middle">{at}</text>' for at in shown]
        said.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">retrains</text>')
        return f'<path class="grid" d="{lines}"/>{"".join(said)}'


def _gains(tracks: Sequence[Track]) -> str:
    """Lambda as a dot with its interval, and where 0 and 1 are."""
    title = "How strong the loop is"
    known = [(track.arm, track.report.gain) for track in tracks if track.report.gain is not None]
    if not known:
        reasons = "; ".join(escape(f"{track.arm.name}: {track.report.no_gain}") for track in tracks)
        return f"<section><h3>{title}</h3><p>Not known. {reasons}.</p></section>"
    low = min(-0.5, *(max(gain.low, -2.0) for _, gain in known))
    high = max(1.5, *(min(gain.high, 3.0) for _, gain in known))

    def x(value: float) -> float:
        return NAMES + (min(max(value, low), high) - low) / (high - low) * (WIDTH - NAMES - RIGHT)

    drawn, height = [], 40 * len(known) + 34
    for value, said in ((0.0, "0"), (1.0, "1")):
        drawn.append(f'<path class="mark" d="M{x(value):.1f} 6V{height - 24}"/>')
        drawn.append(f'<text x="{x(value):.1f}" y="{height - 8}" text-anchor="middle">{said}</text>')
    for at, (arm, gain) in enumerate(known):
        y = 24 + 40 * at
        drawn.append(f'<text x="0" y="{y + 4}">{escape(arm.name)}</text>')
        drawn.append(f'<path class="span {arm.key}" d="M{x(gain.low):.1f} {y}H{x(gain.high):.1f}"/>')
        drawn.append(f'<circle class="dot {arm.key}" cx="{x(gain.value):.1f}" cy="{y}" r="6">')
        drawn.append(f"<title>{escape(str(gain))}</title></circle>")
    told = "; ".join(f"{arm.name} {gain}" for arm, gain in known)
    caption = (
        "Loop gain with its 95 % interval, from the log alone. At 1 a model learns what is shown, at 0 what is liked. "
        "Without exploration nobody can know."
    )
    return _section(title, WIDTH, height, told, "".join(drawn), caption)


def _table(tracks: Sequence[Track]) -> str:
    """The same in numbers."""
    heads = (
        "",
        "value at first",
        "in the end",
        "of lists shown",
        "own songs",
        "songs shown",
        "segments alike",
        "clicks",
    )
    head = "".join(f"<th scope='col' class='n'>{name}</th>" for name in heads)
    rows = []
    for track in tracks:
        of = track.rounds
        shares = (
            of.value[0],
            of.value[-1],
            of.value_shown[-1],
            of.coverage[-1],
            track.report.shown.coverage,
            of.alike[-1],
        )
        cells = "".join(f'<td class="n">{said}</td>' for said in (*map("{:.2f}".format, shares), f"{track.clicks:,}"))
        rows.append(f"<tr><th scope='row'>{escape(track.arm.name)}</th>{cells}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<section><h3>In numbers</h3><div class='wide'>{table}</div></section>"
