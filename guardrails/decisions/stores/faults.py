"""Whose fault a failed write is: the store's, which may be back in a second, or a row's, which never will be right."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from guardrails.core import metrics

if TYPE_CHECKING:
    from guardrails.decisions.writer import DecisionLog

_BAD_ROW = ("22", "23", "42804", "42846")
"""PostgreSQL's SQLSTATEs (or their classes) of data that cannot be stored: values, constraints, types."""


class RefusedRows(ValueError):
    """A store that works does not take these rows; not later either."""


def is_the_stores_fault(error: Exception) -> bool:
    """Whether another try may succeed: a database that is locked, full, gone; not a row that it cannot hold."""
    from sqlalchemy import exc

    if isinstance(error, exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        if state is not None:
            return not str(state).startswith(_BAD_ROW)
        if isinstance(error, exc.DataError | exc.IntegrityError):
            return False
        text = str(error.orig).lower()
        return not (
            isinstance(error, exc.InterfaceError | exc.ProgrammingError) and ("bind" in text or "adapt" in text)
        )
    return not isinstance(error, TypeError | ValueError | ArithmeticError | LookupError)


_down: set[DecisionLog] = set()
_lock = threading.Lock()


def tell_down(log: DecisionLog, down: bool) -> None:
    """Set the gauge of this kind of store: 1 while any of this process's is down."""
    with _lock:
        (_down.add if down else _down.discard)(log)
        kind = _kind(log)
        metrics.decisions_store_down().labels(kind).set(float(any(_kind(other) == kind for other in _down)))


def _kind(log: DecisionLog) -> str:
    return log.store.url.partition(":")[0].partition("+")[0]
