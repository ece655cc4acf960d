"""Where records live: SQLite, PostgreSQL, or a Collector's logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def read(
    url: str, kind: str = "decision", since: float | None = None, until: float | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a store, oldest first, a page at a time.

    Args:
        url: the store's.
        kind: ``"decision"`` or ``"reward"``.
        since: only rows from then on, in seconds since 1970.
        until: only rows before then.

    Yields:
        A row by column, as `guardrails.decisions.records` describes them; lists are JSON text.

    Raises:
        DecisionStoreError: there is no such store, or a later version has written to it.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import guardrails as gr
        >>> with TemporaryDirectory() as folder:
        ...     url = f"sqlite:///{folder}/decisions.db"
        ...     said = gr.feedback("0" * 32, reward=1.0, decisions=url)
        ...     [row["reward"] for row in gr.decisions.read(url, "reward")]
        [1.0]
    """
    from guardrails.decisions.stores.store import DecisionStore  # SQLAlchemy takes 0.6 s to import: not at import

    store = DecisionStore(url)
    try:
        store.require()
        yield from store.iterate(kind, since, until)
    finally:
        store.close()
