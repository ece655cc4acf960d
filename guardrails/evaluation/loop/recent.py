"""The loop of a service as its store tells it now: ``python -m guardrails.evaluation.loop.recent URL`` prints JSON.

Run by the status page in a process of its own: reading 100,000 records beside requests would slow them down.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from guardrails.decisions.joined.join import join
from guardrails.decisions.stores.store import DecisionStore
from guardrails.evaluation.loop.report import report

DAYS = 7.0
MOST = 200_000
"""Decisions that are read at most: the earliest half and the latest half, for the loop gain compares the two ends."""
MOST_TEXT = 100_000_000
"""Characters of lists (candidates, scores, probabilities) that are read at most: lists of a thousand candidates would
fill the memory of the host long before `MOST` decisions are read."""
PATIENCE = 150
"""Seconds after which it ends, whatever it has got."""
_SINGLE = ("choice", "ranking")
_LISTS = ("actions", "excluded", "scores", "pmf", "served")


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
        rows = _ends(store, now - days * 86_400, most)
    finally:
        store.close()
    explored = sorted({(row["api"], row["kind"]) for row in rows if row["kind"] in _SINGLE})
    found: dict[str, Any] = {}
    for api, kind in explored:
        try:
            logged = join(rows, [], window=1e-6, now=now + 1.0, api=api, kind=kind)  # rewards play no part
            found[api] = {**report(logged).document(), "from": float(logged.ts.min()), "until": float(logged.ts.max())}
        except ValueError as error:
            found[api] = {"error": str(error)}
    return found


def _ends(store: DecisionStore, since: float, most: int) -> list[dict[str, Any]]:
    """The earliest and the latest rows since then; all of them, where they are few enough."""
    half = most // 2
    first = list(_within(itertools.islice(store.iterate("decision", since=since), half), MOST_TEXT // 2))
    latest = store.began(half)
    if not first or latest is None or latest <= first[-1]["ts"]:
        latest = math.nextafter(first[-1]["ts"], math.inf) if first else since
    return first + list(_within(itertools.islice(store.iterate("decision", since=latest), half), MOST_TEXT // 2))


def _within(rows: Iterable[dict[str, Any]], most: int) -> Iterator[dict[str, Any]]:
    """The first rows, as many as have no more characters in their lists; without features, which play no part."""
    for row in rows:
        most -= sum(len(row[name] or "") for name in _LISTS)
        if most < 0:
            return
        row["features"] = None
        yield row


def main(url: str) -> None:
    """Print it, at low priority."""
    with contextlib.suppress(AttributeError, OSError):  # neither is there on every system
        os.nice(10)
        signal.alarm(PATIENCE)  # should the worker that waits for it be gone
    print(json.dumps(recent(url)))  # noqa: T201  # its answer


if __name__ == "__main__":
    main(sys.argv[1])
