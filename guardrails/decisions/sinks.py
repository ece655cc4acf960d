"""Where decisions go: a store by its URL, somebody's callable, or several of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from guardrails.core import metrics
from guardrails.decisions.records import Reward
from guardrails.decisions.writer import CLOSE_TIMEOUT, DecisionLog, Record, close_all, open_log
from guardrails.errors import DecorationError
from guardrails.typing import Sink

logger = logging.getLogger("guardrails")

OTLP = "otlp+"
"""How the URL of a Collector begins."""


class Store(Protocol):
    """What a `DecisionLog` writes to, from its thread."""

    @property
    def url(self) -> str:
        """How it is called in logs and on the status page: without passwords."""

    def create(self) -> None:
        """Make ready; called until it has succeeded once."""

    def write(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> int | None:
        """Take rows of a kind (``"decision"``, ``"reward"``) for good: all of them, or raise.

        It may be given rows again that it has taken. Returns how many were new (None: all). A `ValueError` or
        `TypeError` means that a row is bad; after anything else the same rows are tried again.
        """

    def knows(self, decision_id: str) -> bool | None:
        """Whether this decision is there; None where that cannot be told."""

    def close(self) -> None:
        """Give everything back."""


class Sinks:
    """Several sinks as one: each gets every record, whatever happens to the others.

    It can be asked what a `DecisionLog` can be asked: of its logs, the first that is a database speaks for all.

    Example:
        >>> seen = []
        >>> both = Sinks([seen.append, lambda record: None])
        >>> both("a record"), seen
        (True, ['a record'])
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = tuple(sinks)
        self.logs = tuple(sink for sink in self.sinks if isinstance(sink, DecisionLog))
        databases = [log for log in self.logs if hasattr(log.store, "read")]
        self.main: DecisionLog | None = next(iter([*databases, *self.logs]), None)
        self._failed: set[int] = set()

    def __call__(self, record: Record) -> bool:
        """Give it to all; False if one of them did not take it."""
        taken = True
        # A callable takes decisions; rewards go to stores.
        for number, sink in enumerate(self.logs if isinstance(record, Reward) else self.sinks):
            try:
                taken &= sink(record) is not False  # type: ignore[arg-type]
            except Exception:  # somebody's sink failing must not cost the others the record
                taken = False
                metrics.decisions_dropped().labels("sink").inc()
                if number not in self._failed:
                    self._failed.add(number)
                    logger.exception("a sink of decisions failed; from now on this is only counted")
        return taken

    @property
    def store(self) -> Store | None:
        """The store that answers questions."""
        return None if self.main is None else self.main.store

    @property
    def written(self) -> int:
        """Records written to the store that answers questions."""
        return 0 if self.main is None else self.main.written

    @property
    def waiting(self) -> int:
        """Records that wait, for any store."""
        return sum(log.waiting for log in self.logs)

    @property
    def dropped(self) -> int:
        """Records lost, by any log."""
        return sum(log.dropped for log in self.logs)

    @property
    def last_error(self) -> str | None:
        """What keeps stores from taking records."""
        errors = [f"{log.store.url}: {log.last_error}" for log in self.logs if log.last_error is not None]
        return "; ".join(errors) or None

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Wait until what was taken before is committed everywhere."""
        deadline = time.monotonic() + timeout
        return all(log.flush(max(0.0, deadline - time.monotonic())) for log in self.logs)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close all logs, within ``timeout`` seconds together."""
        close_all(self.logs, timeout)


Spec: TypeAlias = "str | Sink | Sequence[str | Sink]"


def open_sink(spec: Spec, retention: float | str | None = None) -> Sink | DecisionLog | Sinks:
    """What ``decisions=`` names: a store's URL, a callable that takes each record, or a sequence of both.

    Args:
        spec: as given.
        retention: how long databases keep decisions; see `open_log`.

    Raises:
        DecorationError: it is none of these.
        DecisionStoreError: a store cannot be opened.
    """
    if isinstance(spec, str):
        return open_log(spec, retention if not spec.startswith(OTLP) else None)
    if callable(spec):
        return spec
    return Sinks([open_sink(one, retention) for one in _listed(spec)])


def databases_in(spec: Spec) -> list[str]:
    """The URLs of the databases among what ``decisions=`` names.

    Raises:
        DecorationError: it is no place for decisions.
    """
    given = [spec] if isinstance(spec, str) or callable(spec) else _listed(spec)
    return [one for one in given if isinstance(one, str) and not one.startswith(OTLP)]


def _listed(spec: Any) -> Sequence[str | Sink]:
    known = isinstance(spec, list | tuple) and spec and all(isinstance(one, str) or callable(one) for one in spec)
    if not known:
        raise DecorationError(
            f"decisions={spec!r}: a store's URL such as sqlite:///decisions.db, a callable that takes decisions, or "
            "a list of these."
        )
    places: Sequence[str | Sink] = spec
    return places
