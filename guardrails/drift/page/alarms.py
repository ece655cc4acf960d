"""Of the drift report: what moved, as alarms tell it, with decisions to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guardrails.drift.page.wording import change, moment, name, number, plural, share, text, times

Document = Mapping[str, Any]

SHOWN_ALARMS = SHOWN_FINDINGS = 5
SHOWN_EXAMPLES = 8
SHOWN_NAMES = 20


def moved(document: Document, key: str) -> str:
    """What the alarms of a stream are about, the latest first.

    Args:
        document: of the stream.
        key: how the ids of its columns' rows begin, for links to them.
    """
    alarms = list(document.get("alarms") or [])
    waiting = [alarm for alarm in reversed(alarms) if not alarm.get("acknowledged")]
    known = [alarm for alarm in reversed(alarms) if alarm.get("acknowledged")]
    places = {entry.get("feature"): f"#{key}-c{at}" for at, entry in enumerate(document.get("features") or [])}
    told = "".join(_alarm(alarm, places) for alarm in waiting[:SHOWN_ALARMS])
    if not waiting:
        told = "<p>No alarm is waiting to be acknowledged.</p>"
        if document.get("drifted"):
            names = ", ".join(map(name, document["drifted"][:SHOWN_NAMES]))
            told = f"<p>No alarm was raised; one look at the counts finds {names} changed.</p>"
    return (
        f"<section><h3>What moved</h3>{told}{_brief('earlier alarm', waiting[SHOWN_ALARMS:])}"
        f"{_brief('acknowledged alarm', known)}</section>"
    )


def _brief(what: str, alarms: Sequence[Document]) -> str:
    """Alarms, a line each, folded away."""
    if not alarms:
        return ""
    lines = "".join(
        f"<li>{moment(alarm.get('at'))}: <bdi>{text(alarm.get('sentence', ''), 400)}</bdi></li>" for alarm in alarms
    )
    return f"<details><summary>{plural(len(alarms), what)}</summary><ul>{lines}</ul></details>"


def _alarm(alarm: Document, places: Mapping[Any, str]) -> str:
    findings = list(alarm.get("findings") or [])
    often = number(alarm.get("times")) or 1
    again = f", and {plural(often - 1, 'more time')} since; figures are of the latest" if often > 1 else ""
    over = f"over about {plural(alarm.get('since'), 'row')}, with {times(alarm.get('evidence'))} the evidence it takes"
    shown = "".join(_finding(finding, places) for finding in findings[:SHOWN_FINDINGS])
    ids = _examples(list(alarm.get("examples") or []))
    more = "".join(f"<li>{_sentence(finding, places)}</li>" for finding in findings[SHOWN_FINDINGS:])
    if more:
        summary = plural(len(findings) - SHOWN_FINDINGS, "further column")
        shown += f"<details><summary>{summary}</summary><ul>{more}</ul></details>"
    return (
        f'<section class="alarm"><h4>Alarm <code>{text(alarm.get("id", ""))}</code></h4>'
        f'<p class="quiet">Raised {moment(alarm.get("at"))}{again}; {over}.</p>{shown}{ids}</section>'
    )


def _examples(decisions: list[Any]) -> str:
    """Ids to copy, the latest in plain sight."""
    if not decisions:
        return ""
    ids = [f"<li><code>{text(entry)}</code></li>" for entry in decisions]
    folded = "".join(ids[SHOWN_EXAMPLES:])
    if folded:
        folded = f'<details><summary>{len(ids) - SHOWN_EXAMPLES} more</summary><ul class="ids">{folded}</ul></details>'
    return (
        "<p>Decisions whose rows lie in the bins that filled up, latest first:</p>"
        f'<ul class="ids">{"".join(ids[:SHOWN_EXAMPLES])}</ul>{folded}'
    )


def _sentence(finding: Document, places: Mapping[Any, str]) -> str:
    feature = finding.get("feature", "")
    named = f'<a href="{places[feature]}">{name(feature)}</a>' if feature in places else name(feature)
    return f"{named} <bdi>{text(finding.get('direction', 'moved'), 300)}</bdi>"


def _finding(finding: Document, places: Mapping[Any, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{name(move.get("text", ""))}</th><td class="n">{share(move.get("reference"))}</td>'
        f'<td class="n">{share(move.get("now"))}</td>'
        f'<td class="n">{change(move.get("reference"), move.get("now"))}</td></tr>'
        for move in finding.get("bins") or []
    )
    table = (
        f'<table><caption>{share(finding.get("share"))} of the evidence</caption><thead><tr><th scope="col">Bin</th>'
        '<th scope="col" class="n">Then</th><th scope="col" class="n">Now</th><th scope="col" class="n">Points</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )
    return f"<h5>{_sentence(finding, places)}</h5>{table if rows else ''}"
