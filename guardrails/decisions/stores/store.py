"""Where records live: SQLite (WAL) by default, PostgreSQL when several replicas share a store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from guardrails.decisions.stores.engines import open_engine
from guardrails.decisions.stores.schema import DECISIONS, REWARDS, TABLES, check_version, columns_of, prepare
from guardrails.errors import DecisionStoreError

BUSY_TIMEOUT = 5.0
"""Seconds a writer waits for another worker's transaction, or for a connection, before it tries again later."""
PAGE = 2000
"""Rows read in one go."""
GULP = 32
"""Rows inserted in one go, about 0.5 ms. SQLite's driver lets go of the GIL for every row, but is back too soon for a
waiting request to take it: without a rest in between, one waits for 5 ms."""
GULP_OVER_A_NETWORK = 125
"""The same where each costs a round trip; the driver waits for answers without the GIL."""
REST = 5e-5
_SETUP_TRIES = 40
_MANY = 500  # values in one IN (...)


class DecisionStore:
    """A database of decisions and rewards.

    Args:
        url: an SQLAlchemy URL; ``sqlite:///decisions.db`` is a file in the working directory. ``postgresql://...``
            needs the extra ``postgres`` (psycopg 3).

    Attributes:
        hurry: whether writing goes on without rests, in which requests would get their turn.

    Raises:
        DecisionStoreError: the URL is none of SQLite or PostgreSQL, or its driver is missing.

    Example:
        >>> from guardrails.decisions.records import Decision
        >>> store = DecisionStore("sqlite://")  # in memory
        >>> store.create()
        >>> store.write("decision", [Decision("a", 1.0, "predict", "primary", propensity=0.5).row()])
        1
        >>> [(row["decision_id"], row["propensity"]) for row in store.iterate("decision")]
        [('a', 0.5)]
    """

    def __init__(self, url: str) -> None:
        self.engine, self.url, self._file = open_engine(url, BUSY_TIMEOUT)
        self.hurry = False
        self._made = False
        self._seen: tuple[int, int] | None = None
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", self._connected)

    def create(self) -> None:
        """Make the tables, columns and indexes that are missing. Safe when several processes do it at once.

        Raises:
            DecisionStoreError: the database cannot be reached or written to, or a later version has written to it.
        """
        for attempt in range(_SETUP_TRIES):
            try:
                prepare(self.engine)
                self._made = True
            except sa.exc.DBAPIError as error:
                if attempt == _SETUP_TRIES - 1 or not _may_pass(error):
                    raise DecisionStoreError(f"{self.url} cannot be set up: {error.orig}") from error
                time.sleep(0.05)
            else:
                return

    def exists(self) -> bool:
        """Whether there are decisions to read: a store that nobody has written to is not made by looking at it."""
        if self._file is not None and not self._file.exists():
            return False
        return sa.inspect(self.engine).has_table(DECISIONS.name)

    def require(self) -> None:
        """For whoever reads.

        Raises:
            DecisionStoreError: there is nothing to read: no service has written here.
        """
        if not self.exists():
            raise DecisionStoreError(f"{self.url} holds no decisions: no service has written to it.")

    def write(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Commit rows of one kind in one transaction.

        Args:
            kind: ``"decision"`` or ``"reward"``.
            rows: as `Decision.row` and `Reward.row` give them.

        Returns:
            How many were new: a decision that is there already is passed over, and so is feedback with an id that
            this decision has been given before.
        """
        self._make_again_if_gone()
        statement, order = self._inserts[kind]
        new, gulp = 0, GULP if self.engine.dialect.name == "sqlite" else GULP_OVER_A_NETWORK
        with self.engine.begin() as connection:
            for start in range(0, len(rows), gulp):
                if start and not self.hurry:
                    time.sleep(REST)
                # Compiled once: SQLAlchemy's own way through every row costs the request threads' GIL 15 us a record.
                part = _ordered(rows[start : start + gulp], order)
                new += int(connection.exec_driver_sql(statement, part).rowcount)
            opened = connection.info.get("file")
        self._check_kept(opened)
        return new

    def deliver(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Commit feedback in one transaction, as `write` does.

        Returns:
            For each row whether it was new.
        """
        self._make_again_if_gone()
        statement, order = self._inserts["reward"]
        parameters = _ordered(rows, order)
        with self.engine.begin() as connection:
            if self.engine.dialect.driver == "psycopg":  # all in one round trip
                cursor: Any = connection.connection.cursor()
                cursor.executemany(statement, parameters, returning=True)
                new = [cursor.rowcount == 1]
                while cursor.nextset():
                    new.append(cursor.rowcount == 1)
            else:
                new = [connection.exec_driver_sql(statement, row).rowcount == 1 for row in parameters]
            opened = connection.info.get("file")
        self._check_kept(opened)
        return new

    def knows(self, decision_id: str) -> bool:
        """Whether this decision has been written."""
        return decision_id in self.known([decision_id])

    def known(self, decision_ids: Iterable[str]) -> set[str]:
        """Those of the ids whose decisions have been written."""
        ids = list(decision_ids)
        found: set[str] = set()
        with self.engine.connect() as connection:
            for start in range(0, len(ids), _MANY):
                chosen = DECISIONS.c.decision_id.in_(ids[start : start + _MANY])
                found.update(connection.scalars(sa.select(DECISIONS.c.decision_id).where(chosen)))
        return found

    def read(self, kind: str = "decision") -> list[dict[str, Any]]:
        """All rows of one kind, oldest first; see `iterate` for what does not fit into memory."""
        return list(self.iterate(kind))

    def iterate(
        self, kind: str = "decision", since: float | None = None, until: float | None = None, chunk: int = PAGE
    ) -> Iterator[dict[str, Any]]:
        """Rows of one kind, oldest first, a page at a time: nothing is locked and no transaction open in between.

        Args:
            kind: ``"decision"`` or ``"reward"``.
            since: only rows from then on, in seconds since 1970.
            until: only rows before then.
            chunk: how many rows a page has.

        Yields:
            A row by column; JSON text in ``actions``, ``scores``, ``pmf``, ``served``, ``features`` and ``label``; of
            a reward that names several shown actions, ``served_action`` is the JSON text of their list. What a store
            of an earlier version lacks reads as what it means when nothing is said.

        Raises:
            DecisionStoreError: a later version has written here.
        """
        table = TABLES[kind]
        key = table.c.id if kind == "reward" else table.c.decision_id
        with self.engine.connect() as connection:
            check_version(connection, self.url)
            query = sa.select(*columns_of(connection, table)).order_by(table.c.ts, key).limit(chunk)
        names = table.columns.keys()
        if until is not None:
            query = query.where(table.c.ts < until)
        page = query if since is None else query.where(table.c.ts >= since)
        while True:
            with self.engine.connect() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                values = dict(zip(names, row, strict=True))
                if kind == "reward" and values["served"] is not None:
                    values["served_action"] = values["served"]
                yield values
            if len(rows) < chunk:
                return
            last = values["ts"], values[key.name]
            page = query.where(sa.tuple_(table.c.ts, key) > sa.tuple_(sa.literal(last[0]), sa.literal(last[1])))

    def began(self, latest: int) -> float | None:
        """When the earliest of so many latest decisions was made; None where there are fewer."""
        query = sa.select(DECISIONS.c.ts).order_by(DECISIONS.c.ts.desc()).offset(max(latest - 1, 0)).limit(1)
        with self.engine.connect() as connection:
            found: float | None = connection.execute(query).scalar()
        return found

    def joined(self) -> list[dict[str, Any]]:
        """Decisions with their rewards: one row per pair, and one for each decision without any."""
        rewards = [REWARDS.c[name].label(name) for name in ("reward", "label", "served_action")]
        rewards.append(REWARDS.c.ts.label("rewarded_at"))
        source = sa.outerjoin(DECISIONS, REWARDS, DECISIONS.c.decision_id == REWARDS.c.decision_id)
        with self.engine.connect() as connection:
            check_version(connection, self.url)
            query = sa.select(*columns_of(connection, DECISIONS), *rewards).select_from(source).order_by(DECISIONS.c.ts)
            return [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def prune(self, older_than: float, *, chunk: int = 500, most: int | None = None) -> int:
        """Delete old decisions with all their rewards, and old rewards that belong to no decision.

        In small transactions, so that nobody waits long. SQLite's file does not shrink: what is free is used again.

        Args:
            older_than: seconds before now.
            chunk: how many decisions, or rewards, are deleted in one transaction.
            most: stop after about so many.

        Returns:
            How many records are gone.
        """
        before, gone = time.time() - older_than, 0
        for step in (self._prune_decisions, self._prune_orphans):
            while most is None or gone < most:
                deleted = step(before, chunk)
                if not deleted:
                    break
                gone += deleted
        return gone

    def forget_connections(self) -> None:
        """In a process that was forked off: the connections are the parent's, and are left alone."""
        self.engine.dispose(close=False)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    def _prune_decisions(self, before: float, chunk: int) -> int:
        query = sa.select(DECISIONS.c.decision_id).where(DECISIONS.c.ts < before).order_by(DECISIONS.c.ts).limit(chunk)
        with self.engine.connect() as connection:
            ids = connection.scalars(query).all()
        if not ids:
            return 0
        with self.engine.begin() as connection:  # by their ids: another worker may be deleting, too
            rewards = connection.execute(sa.delete(REWARDS).where(REWARDS.c.decision_id.in_(ids))).rowcount
            connection.execute(sa.delete(DECISIONS).where(DECISIONS.c.decision_id.in_(ids)))
        return len(ids) + int(rewards)

    def _prune_orphans(self, before: float, chunk: int) -> int:
        known = sa.exists().where(DECISIONS.c.decision_id == REWARDS.c.decision_id)
        query = sa.select(REWARDS.c.id).where(REWARDS.c.ts < before, ~known).limit(chunk)
        with self.engine.begin() as connection:
            return int(connection.execute(sa.delete(REWARDS).where(REWARDS.c.id.in_(query.scalar_subquery()))).rowcount)

    def _make_again_if_gone(self) -> None:
        """SQLite would go on writing to a file without a name after somebody has deleted or replaced it."""
        if self._file is None or not self._made:
            return
        there = self._identity()
        if there is None or there != self._seen:
            self.engine.dispose()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self.create()

    def _check_kept(self, opened: tuple[int, int] | None) -> None:
        if opened is not None and opened != self._identity():
            self.engine.dispose()
            raise DecisionStoreError(f"{self.url} was deleted or replaced while it was written to.")

    def _identity(self) -> tuple[int, int] | None:
        """Which file it is that has the name now."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _connected(self, connection: Any, record: Any) -> None:
        _durable(connection)
        if self._file is not None:
            self._seen = record.info["file"] = self._identity()

    @cached_property
    def _inserts(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Per kind the INSERT in the driver's own words, and the order of its parameters (empty: they are named)."""
        from sqlalchemy.dialects import postgresql, sqlite

        insert: Any = sqlite.insert if self.engine.dialect.name == "sqlite" else postgresql.insert
        inserts = {}
        for kind, table in TABLES.items():
            columns: dict[str, Any] = {
                column.name: sa.bindparam(column.name) for column in table.columns if column.name != "id"
            }
            statement = insert(table).values(columns).on_conflict_do_nothing()
            compiled = statement.compile(dialect=self.engine.dialect)
            inserts[kind] = (str(compiled), tuple(compiled.positiontup or ()))
        return inserts


def _ordered(rows: Sequence[Mapping[str, Any]], order: tuple[str, ...]) -> list[Any]:
    return [tuple(row[name] for name in order) for row in rows] if order else [dict(row) for row in rows]


def _durable(connection: Any) -> None:
    cursor = connection.cursor()
    # Waits for other workers first: switching to WAL while somebody writes fails at once otherwise.
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # acknowledged means committed, also through a power cut
    cursor.close()


def _may_pass(error: sa.exc.DBAPIError) -> bool:
    text = str(error.orig).lower()
    return any(word in text for word in ("locked", "busy", "already exists", "duplicate", "unique", "concurrently"))
