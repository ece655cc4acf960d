"""``GET /guardrails/``: the status, readable: no script, nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_DRIFT = ("feature", "rows", "psi", "ks", "p_value", "adjusted", "missing", "drifted")
_LOOP = ("coverage", "gini", "entropy", "top_share")


def render(status: dict[str, Any], loop: dict[str, Any] | None) -> str:
    """The page.

    Args:
        status: as ``GET /guardrails/status`` has it.
        loop: as ``GET /guardrails/loop`` has it; None where there is no store.
    """
    parts = [f"<h1>{escape(status['service'])}</h1>"]
    parts.append(f"<p><b>{'ready' if status['ready'] else 'not ready'}</b> {escape(status['problem'] or '')}</p>")
    for name in ("profile", "decisions"):
        if status[name]:
            rows = "".join(f"<tr><th>{escape(k)}<td>{escape(str(v))}" for k, v in status[name].items())
            parts.append(f"<h2>{name}</h2><table>{rows}</table>")
    for name, guards in status["guards"].items():
        state = json.dumps(status["state"].get(name, {}), indent=1)
        parts.append(f"<h2>{escape(name)}</h2><pre>{escape(chr(10).join(guards))}</pre><pre>{escape(state)}</pre>")
        if loop is not None and name in loop["apis"]:
            parts.append(_loop(loop["apis"][name], str(loop["computed"])))
    if loop is not None and "detail" in loop:
        parts.append(f"<p>Feedback loop: {escape(loop['detail'])}</p>")
    parts.extend(_drift(drift) for drift in status["drift"])
    head = f"<!doctype html><meta charset=utf-8><title>{escape(status['service'])}</title><style>{_STYLE}</style>"
    return head + "".join(parts)


def _loop(known: dict[str, Any], computed: str) -> str:
    """The loop strength of one method."""
    if "error" in known:
        return f"<p>Feedback loop: {escape(known['error'])}</p>"
    gain = known["gain"]
    said = escape(str(known["no_gain"]))
    if gain is not None:
        value, low, high = (_number(gain[name]) or "unknown" for name in ("value", "low", "high"))
        said = f"{value} ({low} to {high}): {escape(gain['meaning'])}"
    cells = "".join(
        f"<tr><th>{name.replace('_', ' ')}<td>{_number(known['greedy'][name])}<td>{_number(known['shown'][name])}"
        for name in _LOOP
    )
    return (
        f"<h3>Feedback loop</h3><p>Loop gain: {said}.</p><table><tr><th>of {known['decisions']} decisions"
        f"<th>the model's own<th>shown</tr>{cells}</table><p>All workers, of the store, {escape(computed)}.</p>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _drift(drift: dict[str, Any]) -> str:
    """One watched stream."""
    parts = [f"<h2>drift: {escape(drift['verdict'])}</h2><p>{drift['rows']} rows, all workers; "]
    parts.append("<a href='drift/report'>all of it as a page</a></p>")
    parts.extend(f"<p>{escape(alarm['sentence'])}</p>" for alarm in drift["alarms"] if not alarm["acknowledged"])
    head = "".join(f"<th>{column}" for column in _DRIFT)
    cells = ("<tr>" + "".join(f"<td>{escape(str(entry[column]))}" for column in _DRIFT) for entry in drift["features"])
    return "".join([*parts, f"<table><tr>{head}{''.join(cells)}</table>"])


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ddd}"
    "pre{background:#f6f6f6;padding:.6rem;overflow:auto}"
)
