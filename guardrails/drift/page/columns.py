"""Of the drift report: the watched columns, one row each, with a chart and the numbers behind it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from guardrails.drift.alternatives import LEAST_ROWS
from guardrails.drift.page import charts
from guardrails.drift.page.wording import LONGEST, count, figure, name, number, plural, share, text
from guardrails.profile.answers import CONFIDENCE, OUTPUT, PREDICTION
from guardrails.profile.watched import OUTLIER

Document = Mapping[str, Any]

SHOWN_COLUMNS = 25
"""Columns in plain sight; the others are folded away."""
SHOWN_BINS = 24
"""Bins of one column; the smallest of the others are one."""
REST = "rest"
_HEADS = ("Column", "Evidence", "PSI", "KS", "Missing", "Reference and now")
_KNOWN = {
    PREDICTION: "predicted class",
    CONFIDENCE: "how sure the model was",
    OUTPUT: "the model's output",
    OUTLIER: "called an outlier",
}


def columns(document: Document, key: str) -> str:
    """All watched columns of a stream, worst first, and those that are not judged.

    Args:
        document: of the stream.
        key: how the ids of its rows begin; the number of the column follows.
    """
    features = list(document.get("features") or [])
    if not features:
        return ""
    alarmed = list(document.get("drifted") or [])
    rank = {feature: place for place, feature in enumerate(alarmed)}
    order = sorted(range(len(features)), key=lambda at: _badness(features[at], rank))
    unjudged = set(document.get("unjudged") or [])
    rows = [_row(features[at], f"{key}-c{at}", _chips(features[at], rank, unjudged)) for at in order]
    then = '<svg viewBox="0 0 24 12" aria-hidden="true"><rect class="{}" x="1" y="{}" width="22" height="{}"/></svg>{}'
    legend = f"<li>{then.format('then', 1, 10, 'reference')}</li><li>{then.format('now', 3, 6, 'now')}</li>"
    more = ""
    if len(rows) > SHOWN_COLUMNS:
        summary = plural(len(rows) - SHOWN_COLUMNS, "further column")
        more = f"<details><summary>{summary}</summary>{_table(rows[SHOWN_COLUMNS:])}</details>"
    return (
        f"<section><h3>Columns, worst first</h3><p>The evidence is that of each column by itself, since the last alarm "
        f'or reset.</p><ul class="key">{legend}</ul>{_table(rows[:SHOWN_COLUMNS])}{more}'
        f"{_unjudged(document, features)}</section>"
    )


def _badness(entry: Document, rank: Mapping[Any, int]) -> tuple[float, bool, float, float]:
    return (
        rank.get(entry.get("feature"), float("inf")),
        not entry.get("drifted"),
        -(number(entry.get("evidence")) or 0.0),
        -(number(entry.get("psi")) or 0.0),
    )


def _table(rows: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col"{" class=n" * (0 < at < 5)}>{head}</th>' for at, head in enumerate(_HEADS))  # noqa: PLR2004
    return f'<table class="columns"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _chips(entry: Document, alarmed: Container[Any], unjudged: Container[Any]) -> str:
    """What is the matter with a column, in words."""
    said = (
        ("drift", "in an alarm", entry.get("feature") in alarmed),
        ("open", "differs by one look", bool(entry.get("drifted"))),
        ("open", "not judged", entry.get("feature") in unjudged),
    )
    return "".join(f'<span class="chip {kind}">{words}</span>' for kind, words, holds in said if holds)


def _row(entry: Document, key: str, chips: str) -> str:
    feature = str(entry.get("feature", ""))
    bins = _fewer(list(entry.get("bins") or []))
    about = _KNOWN.get(feature) or str(entry.get("kind", ""))
    values = (_share_of_alarm(entry.get("evidence")), *map(figure, (entry.get("psi"), entry.get("ks"))))
    cells = "".join(
        f'<td class="n" data-of="{head}">{value}</td>'
        for head, value in zip(_HEADS[1:], (*values, share(entry.get("missing"))), strict=False)
    )
    full = f' title="{text(feature, None)}"' if len(feature) > LONGEST else ""
    return (
        f'<tr id="{key}"><th scope="row"{full}><b>{name(feature)}</b><small>{text(about)}, '
        f"{plural(entry.get('rows'), 'row')}</small>{chips}</th>{cells}<td>{_chart(feature, entry, bins)}</td></tr>"
    )


def _share_of_alarm(value: Any) -> str:
    """The evidence of one column; none at all, right after an alarm, is minus infinity as a logarithm."""
    return share(0.0) if value == float("-inf") else share(None if number(value) is None else max(0.0, value))


def _fewer(bins: list[Document]) -> list[Document]:
    """At most so many bins as a chart can show; the others as one."""
    if len(bins) <= SHOWN_BINS:
        return bins

    def weight(at: int) -> float:
        then, now = (number(bins[at].get(side)) or 0.0 for side in ("reference", "now"))
        return float("inf") if bins[at].get("bin") in charts.SPECIAL else max(then, now) + abs(then - now)

    kept = sorted(sorted(range(len(bins)), key=weight, reverse=True)[: SHOWN_BINS - 1])
    rest = [entry for at, entry in enumerate(bins) if at not in set(kept)]
    together = {side: sum(number(entry.get(side)) or 0.0 for entry in rest) for side in ("reference", "now", "count")}
    special = sum(bins[at].get("bin") in charts.SPECIAL for at in kept)  # these come last
    shown = [bins[at] for at in kept]
    shown.insert(len(shown) - special, {"bin": REST, "text": f"{len(rest)} smaller ones together", **together})
    return shown


def _chart(feature: str, entry: Document, bins: Sequence[Document]) -> str:
    if not bins:
        return ""
    moves = [abs((number(b.get("now")) or 0.0) - (number(b.get("reference")) or 0.0)) for b in bins]
    worst = bins[moves.index(max(moves))]
    label = f"{feature}: largest change at {worst.get('text', '')}"
    rows = "".join(
        f'<tr><th scope="row">{name(b.get("text", ""), charts.TIP)}</th><td class="n">{share(b.get("reference"))}</td>'
        f'<td class="n">{share(b.get("now"))}</td><td class="n">{count(b.get("count"))}</td></tr>'
        for b in bins
    )
    drawn = [b for b in bins if b.get("bin") != REST]  # so many together would dwarf all others
    return (
        f'{charts.bars(drawn, label)}<details class="small"><summary>'
        f'Numbers<span class="unseen"> of {name(feature, 60)}</span></summary><table class="numbers">'
        f'<caption>{_worth(entry)}</caption><thead><tr><th scope="col">Bin</th><th scope="col" class="n">Reference</th>'
        f'<th scope="col" class="n">Now</th><th scope="col" class="n">Rows</th></tr></thead><tbody>{rows}</tbody>'
        "</table></details>"
    )


def _worth(entry: Document) -> str:
    """What the numbers of a column rest on."""
    said = f"{plural(entry.get('reference_rows'), 'reference row')}"
    if number(entry.get("effective_reference_rows")) != number(entry.get("reference_rows")):
        said += f", worth {count(entry.get('effective_reference_rows'))} independent ones"
    worth = number(entry.get("worth"))
    if worth is not None and worth < 0.99:  # noqa: PLR2004
        said += f"; a row that comes is worth {figure(worth)} of an independent one"
    if number(entry.get("chi2")) is not None:
        said += f"; chi-square {figure(entry.get('chi2'))}, p {figure(entry.get('adjusted'))} after Holm's correction"
    return said


def _unjudged(document: Document, features: Sequence[Document]) -> str:
    """Columns that raise no alarm, and why."""
    names = list(document.get("unjudged") or [])
    if not names:
        return ""
    known = {entry.get("feature"): entry for entry in features}
    lines = []
    for feature in names:
        why = "too few rows came before the last reset"
        if not document.get("rebased"):
            worth = known.get(feature, {}).get("effective_reference_rows")
            why = f"its reference is worth {count(worth)} independent rows"
        lines.append(f"<li>{name(feature)}: {why}; {LEAST_ROWS:.0f} are needed.</li>")
    return f"<h4>Not judged</h4><p>These columns are counted, but raise no alarm:</p><ul>{''.join(lines)}</ul>"
