"""The drift report: one HTML page that needs nothing else, no script and no network; every value on it is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from guardrails._version import __version__
from guardrails.drift.page import charts
from guardrails.drift.page.alarms import moved
from guardrails.drift.page.columns import columns
from guardrails.drift.page.wording import count, made, moment, name, number, plural, share, text

Document = Mapping[str, Any]

SHOWN_NAMES = 5
SHOWN_MOMENTS = 50
SHOWN_CLASSES = 50
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_SIGNS = {
    "drift": '<path d="M12 3 22.5 21h-21zM12 9.5v5.5M12 18v.1"/>',
    "calm": '<circle cx="12" cy="12" r="10"/><path d="m7.5 12.5 3 3 6-6.5"/>',
    "open": '<circle cx="12" cy="12" r="10"/><path d="M9 9.3c.3-3.8 6.3-3.6 6 0-.2 2-3 2.2-3 4.7M12 17.5v.1"/>',
}
_READING = """\
<li><b>Evidence</b> is what raises alarms: it may be looked at as often as you like, it is measured on a logarithmic
scale (about half is ordinary), and where nothing has changed it reaches the line no more often than the run length
says, on average.</li>
<li><b>PSI</b> (0 is no difference; above 0.2 is by custom called large, and with few rows comes by chance), <b>KS</b>
(the largest distance of the two distribution functions, from 0 to 1, for numbers only) and the <b>missing</b> share say
how large a difference is over all rows since the last reset, not how sure it is; &ldquo;differs by one look&rdquo; is a
chi-square test of them, which holds for one look and not for looking every day.</li>
<li>In the <b>charts</b> wide pale bars are shares of the reference rows, narrow dark bars shares of the rows that came;
point at a bar, or open its numbers, to read them.</li>
<li><b>What to do next</b>: look at the example decisions of an alarm; if you know the cause and it does no harm,
<code>guardrails drift acknowledge</code>; if this is how things are from now on and the model still holds,
<code>guardrails drift reset --baseline recent</code>; if it does not, retrain it and fit a new profile.</li>
"""


@dataclass(frozen=True)
class Verdict:
    """What a stream looks like, in words: markup, safe to show.

    Attributes:
        kind: ``drift``, ``calm`` or ``open``; decides the colour and the sign beside the words.
        words: in short.
        detail: in a sentence.
    """

    kind: str
    words: str
    detail: str

    @classmethod
    def of(cls, document: Document) -> Verdict:
        """Of a stream's document."""
        said = str(document.get("verdict", ""))
        head, _, problem = said.partition(", by one look that holds once and not for ever: ")
        which = _which(list(document.get("drifted") or []))
        if problem:
            once = f"One look at the counts holds once and not for ever; evidence is not weighed: {text(problem, None)}"
            if head == "drift":
                return cls("drift", "Drift, by one look", f"{which} {once}")
            return cls("open", "Not judged; no drift by one look", once)
        if head == "drift":
            return cls("drift", "Drift", which)
        if head == "no drift seen":
            return cls("calm", "No drift seen", f"{_standing(document)}.")
        why = head.removeprefix("undecided: ")
        return cls("open", "Undecided", text(f"{why[:1].upper()}{why[1:]}."))


def _which(drifted: Sequence[Any]) -> str:
    more = f" and {len(drifted) - SHOWN_NAMES} more" if len(drifted) > SHOWN_NAMES else ""
    return f"{plural(len(drifted), 'column')} moved: {', '.join(map(name, drifted[:SHOWN_NAMES]))}{more}."


def render(documents: Sequence[Document], *, title: str | None = None, now: float | None = None) -> str:
    """One page about watched streams, complete in itself.

    Args:
        documents: as ``GET /guardrails/drift`` answers them, or `ReplayedDrift.document`.
        title: stands above all.
        now: when it was made (Unix seconds).

    Returns:
        HTML, to be written as UTF-8.

    Example:
        >>> from guardrails.drift.page import render
        >>> page = render([{"profile": "songs:1", "verdict": "no drift seen", "rows": 1200}], now=0)
        >>> "No drift seen" in page, "<script" in page, "http" in page.replace("http-equiv", "")
        (True, False, False)
    """
    verdicts = [Verdict.of(document) for document in documents]
    heading = text(title) if title else "Drift report"
    if len(documents) == 1:
        tab = f"{verdicts[0].words}: {text(documents[0].get('profile', ''))}"
    else:
        tab = f"{sum(verdict.kind == 'drift' for verdict in verdicts)} of {plural(len(documents), 'stream')} with drift"
    streams = "".join(
        _stream(document, verdict, f"s{at}")
        for at, (document, verdict) in enumerate(zip(documents, verdicts, strict=True))
    )
    style = resources.files("guardrails.drift.page").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" '
        'content="no-referrer"><meta name="robots" content="noindex"><link rel="icon" href="data:,">'
        f"<title>{tab} - {heading}</title><style>{style}</style></head><body><header><h1>{heading}</h1>"
        f"{_overview(documents, verdicts)}</header><main>{streams or _NO_STREAM}<section><h2>How to read this</h2>"
        f'<ol class="read">{_READING}</ol></section></main>'
        f"<footer>Made {moment(time.time() if now is None else now)} by guardrails {text(__version__)}. "
        "Nothing on this page is loaded from elsewhere.</footer></body></html>\n"
    )


_NO_STREAM = "<p>No stream is watched for drift: put <code>@sample_drift(profile)</code> on a method.</p>"


def _overview(documents: Sequence[Document], verdicts: Sequence[Verdict]) -> str:
    """Where there are several streams, the verdict on each."""
    if len(documents) < 2:  # noqa: PLR2004
        return ""
    entries = "".join(
        f'<li><span class="chip {verdict.kind}">{verdict.words}</span> '
        f'<a href="#s{at}">{name(document.get("profile", ""))}</a></li>'
        for at, (document, verdict) in enumerate(zip(documents, verdicts, strict=True))
    )
    return f'<nav aria-label="Streams"><ul class="streams">{entries}</ul></nav>'


def _stream(document: Document, verdict: Verdict, key: str) -> str:
    sign = f'<svg class="sign" viewBox="0 0 24 24" aria-hidden="true">{_SIGNS[verdict.kind]}</svg>'
    return (
        f'<article class="stream" id="{key}" aria-labelledby="{key}-name">'
        f'<h2 id="{key}-name">{name(document.get("profile", "no name"))}</h2>'
        f'<div class="verdict {verdict.kind}">{sign}<div><strong>{verdict.words}</strong><p>{verdict.detail}</p></div>'
        f"</div>{_facts(document)}{moved(document, key)}{_over_time(document)}{columns(document, key)}"
        f"{_consequence(document)}</article>"
    )


def _facts(document: Document) -> str:
    source, workers = document.get("source"), document.get("workers")
    facts = [
        ("Profile", name(document.get("profile", ""))),
        ("Model", name(document["model"]) if document.get("model") else "not named"),
        ("Rows", count(document.get("rows"))),
        ("Reference rows", count(document.get("reference_rows"))),
        ("Source", text(source)) if source else ("Workers", count(workers)),
        ("False alarms", f"at most one false alarm in {text(document.get('run_length', '?'))}, on average"),
        ("Last update", moment(document.get("at"))),
        ("Profile made", made(document.get("created", ""))),
        ("Reference", f"<code>{text(document.get('ref', ''))}</code>"),
    ]
    if document.get("rebased"):
        facts.append(("Compared with", "rows that came before the last reset, not with training"))
    if document.get("dropped"):
        facts.append(("Not counted", f"{count(document['dropped'])} that found the queue full"))
    if document.get("unreadable"):
        facts.append(("Not readable", count(document["unreadable"])))
    if document.get("last_command"):
        facts.append(("Last command", text(document["last_command"], 300)))
    return f'<dl class="facts">{"".join(f"<div><dt>{what}</dt><dd>{said}</dd></div>" for what, said in facts)}</dl>'


# Evidence


def _standing(document: Document) -> str:
    at = share(max(0.0, number(document.get("evidence")) or 0.0))
    anew = "; it starts anew after each alarm" if document.get("alarms") else ""
    return f"The evidence stands at {at} of what an alarm needs, on a logarithmic scale{anew}"


def _over_time(document: Document) -> str:
    history = [entry for entry in document.get("history") or [] if len(entry) == 3]  # noqa: PLR2004
    if not history:
        never = "by one look" in str(document.get("verdict", ""))
        said = "No evidence is weighed; why stands above." if never else "No evidence has been weighed yet."
        return f"<section><h3>Evidence over time</h3><p>{said}</p></section>"
    alarms = [alarm.get("at") for alarm in document.get("alarms") or []]
    highest = max((number(entry[2]) or 0.0 for entry in history), default=0.0)
    label = f"Evidence over time. Highest {highest:.0%} of what an alarm needs; {plural(len(alarms), 'alarm')}."
    line = '<svg viewBox="0 0 24 12" aria-hidden="true"><path class="{}" d="{}"/></svg>{}'
    key = "".join(
        f"<li>{line.format(*entry)}</li>"
        for entry in (
            ("line", "M0 6H24", "evidence, as a share of what an alarm needs (logarithmic)"),
            ("due", "M0 6H24", "an alarm is due"),
            ("raised", "M12 0V12", "an alarm was first raised"),
        )
    )
    step = -(-len(history) // SHOWN_MOMENTS)
    rows = "".join(
        f'<tr><th scope="row">{moment(at)}</th><td class="n">{count(rows)}</td><td class="n">{share(value)}</td></tr>'
        for at, rows, value in history[::-1][::step]
    )
    every = "" if step == 1 else f", one in {step} moments"
    return (
        f"<section><h3>Evidence over time</h3><p>{_standing(document)}.</p>"
        f'<ul class="key">{key}</ul>{charts.evidence(history, alarms, label)}'
        f'<details class="small"><summary>Numbers{every}</summary><table class="numbers"><thead><tr>'
        '<th scope="col">Time</th><th scope="col" class="n">Rows</th><th scope="col" class="n">Evidence</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></details></section>"
    )


# Consequence


def _consequence(document: Document) -> str:
    found = document.get("consequence")
    if not found:
        said = (
            "<p>How right the model still is cannot be told from here: that takes a profile that was fitted with "
            "labels (<code>Profile.fit(..., validation=(X, outputs, labels))</code>), and rows.</p>"
        )
    else:
        estimates = [entry for entry in (found.get("accuracy"), found.get("prior")) if entry]
        said = "".join(f"<p>{text(entry.get('sentence', ''), None)}</p>" for entry in estimates)
        said += _classes(found.get("prior") or {})
    return (
        f"<section><h3>What it may cost</h3>{said}<p><b>Concept drift is invisible to this:</b> where the right "
        "answers to the same rows have changed, the counts look as before, and only labels tell.</p></section>"
    )


def _classes(prior: Document) -> str:
    parts = [list(prior.get(part) or []) for part in ("classes", "reference", "value", "low", "high")]
    if not all(parts) or len(parts[0]) > SHOWN_CLASSES:
        return ""
    rows = "".join(
        f'<tr><th scope="row">class {text(label)}</th><td class="n">{share(was)}</td><td class="n">{share(value)}</td>'
        f'<td class="n">{share(low)} to {share(high)}</td></tr>'
        for label, was, value, low, high in zip(*parts, strict=False)
    )
    return (
        '<details class="small"><summary>Class shares</summary><table class="numbers"><thead><tr><th scope="col">Class'
        '</th><th scope="col" class="n">Validation</th><th scope="col" class="n">Now, estimated</th>'
        f'<th scope="col" class="n">{share(prior.get("level"))} interval</th></tr></thead><tbody>{rows}</tbody></table>'
        "</details>"
    )
