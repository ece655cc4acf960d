"""The loop of a service as its store tells it now: ``python -m guardrails.evaluation.loop.recent URL`` prints JSON.

Run by the status page in a process of its own: reading 100,000 records beside requests would slow them down.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from typing import Any

from guardrails.decisions.joined.join import join
from guardrails.decisions.stores.store import DecisionStore
from guardrails.evaluation.loop.report import report

DAYS = 7.0
MOST = 200_000
"""Decisions that are read at most, the earliest of the days first: how it began is half of what there is to know."""
_SINGLE = ("choice", "ranking")


def recent(url: str, days: float = DAYS, most: int = MOST) -> dict[str, Any]:
    """Loop strength by explored method.

    Args:
        url: the store.
        days: how far back.
        most: how many decisions to read.

    Returns:
        By method `LoopReport.document`, or an ``error``.
    """
    store = DecisionStore(url)
    now = time.time()
    try:
        rows = list(itertools.islice(store.iterate("decision", since=now - days * 86_400), most))
    finally:
        store.close()
    explored = sorted({(row["api"], row["kind"]) for row in rows if row["kind"] in _SINGLE})
    found: dict[str, Any] = {}
    for api, kind in explored:
        try:
            logged = join(rows, [], window=1e-6, now=now + 1.0, api=api, kind=kind)  # rewards play no part
            found[api] = report(logged).document()
        except ValueError as error:
            found[api] = {"error": str(error)}
    return found


def main(url: str) -> None:
    """Print it, at low priority."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(10)
    print(json.dumps(recent(url)))  # noqa: T201  # its answer


if __name__ == "__main__":
    main(sys.argv[1])
