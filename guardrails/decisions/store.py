"""Where records live: SQLite (WAL) by default, PostgreSQL when several replicas share a store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from guardrails.decisions.records import VERSION
from guardrails.errors import DecisionStoreError

_metadata = sa.MetaData()

DECISIONS = sa.Table(
    "decisions",
    _metadata,
    sa.Column("decision_id", sa.String(64), primary_key=True),
    sa.Column("v", sa.Integer, nullable=False),
    sa.Column("ts", sa.Float(53), nullable=False, index=True),
    sa.Column("api", sa.String(200), nullable=False),
    sa.Column("route", sa.String(200), nullable=False),
    sa.Column("reason", sa.String(40)),
    sa.Column("trace_id", sa.String(32)),
    sa.Column("profile", sa.String(200)),
    sa.Column("model", sa.String(200)),
    sa.Column("outlier_score", sa.Float(53)),
    sa.Column("outlier_p_value", sa.Float(53)),
    sa.Column("duration", sa.Float(53)),
    sa.Column("policy", sa.String(200)),
    sa.Column("eligible", sa.Boolean, nullable=False),
    sa.Column("scores", sa.Text),
    sa.Column("pmf", sa.Text),
    sa.Column("greedy", sa.Integer),
    sa.Column("action", sa.Integer),
    sa.Column("propensity", sa.Float(53), nullable=False),
    sa.Column("salt_id", sa.String(40)),
    sa.Column("features", sa.Text),
    sa.Column("error_type", sa.String(200)),
    sa.Column("shadow", sa.Text),
)
_ADDED = (DECISIONS.c.shadow,)
"""Columns that stores of an earlier version lack."""


REWARDS = sa.Table(
    "rewards",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("decision_id", sa.String(64), nullable=False, index=True),
    sa.Column("v", sa.Integer, nullable=False),
    sa.Column("ts", sa.Float(53), nullable=False),
    sa.Column("reward", sa.Float(53)),
    sa.Column("label", sa.Text),
    sa.Column("served_action", sa.Integer),
)

_TABLES: Mapping[str, sa.Table] = {"decision": DECISIONS, "reward": REWARDS}
BUSY_TIMEOUT = 5.0
"""Seconds a writer waits for another worker's transaction before it tries again later."""
_SETUP_TRIES = 40
_BACKENDS = ("sqlite", "postgresql")


class DecisionStore:
    """A database of decisions and rewards.

    Args:
        url: an SQLAlchemy URL; ``sqlite:///decisions.db`` is a file in the working directory.

    Raises:
        DecisionStoreError: the URL is none of SQLite or PostgreSQL, or its driver is missing.
    """

    def __init__(self, url: str) -> None:
        shown = url
        try:
            parsed = sa.make_url(url)
            shown = parsed.render_as_string(hide_password=True)
            if parsed.get_backend_name() not in _BACKENDS:
                raise DecisionStoreError(
                    f"decisions={shown!r}: decisions live in SQLite or PostgreSQL, as in sqlite:///decisions.db."
                )
            options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": int(BUSY_TIMEOUT)}}
            if parsed.get_backend_name() == "sqlite":
                options = {"connect_args": {"timeout": BUSY_TIMEOUT, "check_same_thread": False}}
                if parsed.database and not parsed.database.startswith("file:"):
                    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(url, **options)
        except (sa.exc.ArgumentError, ModuleNotFoundError, OSError) as error:
            raise DecisionStoreError(
                f"decisions={shown!r} cannot be opened: {error}. Give an SQLAlchemy URL such as sqlite:///decisions.db."
            ) from error
        self.url = shown
        self._made = False
        self._file = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
        if parsed.get_backend_name() == "sqlite":
            sa.event.listen(self.engine, "connect", _durable)

    def create(self) -> None:
        """Make the tables if they are missing. Safe when several processes do it at once: they try until one is done.

        Raises:
            DecisionStoreError: the database cannot be reached or written to.
        """
        for attempt in range(_SETUP_TRIES):
            try:
                self._create_once()
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

    def write(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Commit rows of one kind in one transaction; rows of a decision that is there already are passed over."""
        self._make_again_if_gone()
        statement, order = self._inserts[kind]
        parameters: list[Any] = [tuple(row[name] for name in order) for row in rows] if order else list(rows)
        with self.engine.begin() as connection:
            # Compiled once: SQLAlchemy's own way through every row costs the request threads' GIL 15 us a record.
            connection.exec_driver_sql(statement, parameters)

    def knows(self, decision_id: str) -> bool:
        """Whether this decision has been written."""
        query = sa.select(sa.literal(1)).where(DECISIONS.c.decision_id == decision_id)
        with self.engine.connect() as connection:
            return connection.execute(query).first() is not None

    def read(self, kind: str = "decision") -> list[dict[str, Any]]:
        """All rows of one kind, oldest first."""
        table = _TABLES[kind]
        query = sa.select(*self._columns(table)).order_by(table.c.ts)
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def joined(self) -> list[dict[str, Any]]:
        """Decisions with their rewards: one row per pair, and one for each decision without any."""
        rewards = [REWARDS.c[name].label(name) for name in ("reward", "label", "served_action")]
        rewards.append(REWARDS.c.ts.label("rewarded_at"))
        source = sa.outerjoin(DECISIONS, REWARDS, DECISIONS.c.decision_id == REWARDS.c.decision_id)
        query = sa.select(*self._columns(DECISIONS), *rewards).select_from(source).order_by(DECISIONS.c.ts)
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def _columns(self, table: sa.Table) -> list[Any]:
        """All columns; those that a store of an earlier version lacks are empty."""
        there = {column["name"] for column in sa.inspect(self.engine).get_columns(table.name)}
        return [column if column.name in there else sa.null().label(column.name) for column in table.columns]

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    def _make_again_if_gone(self) -> None:
        """SQLite would go on writing to a file without a name after somebody has deleted it."""
        if self._file is not None and self._made and not self._file.exists():
            self.engine.dispose()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self.create()

    @cached_property
    def _inserts(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Per kind the INSERT in the driver's own words, and the order of its parameters (empty: they are named)."""
        inserts = {}
        for kind, table in _TABLES.items():
            columns: dict[str, Any] = {
                column.name: sa.bindparam(column.name) for column in table.columns if column.name != "id"
            }
            statement: Any = sa.insert(table)
            if kind == "decision":
                statement = _insert_new(self.engine.dialect.name, table)
            compiled = statement.values(columns).compile(dialect=self.engine.dialect)
            inserts[kind] = (str(compiled), tuple(compiled.positiontup or ()))
        return inserts

    def _create_once(self) -> None:
        with self.engine.begin() as connection:
            for table in _metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))
            _add_missing(connection)
            newest = connection.execute(sa.select(sa.func.max(DECISIONS.c.v))).scalar()
        if newest is not None and newest > VERSION:
            raise DecisionStoreError(
                f"{self.url} holds records of version {newest}; this version writes {VERSION}. Upgrade it."
            )


def _add_missing(connection: sa.Connection) -> None:
    known = {column["name"] for column in sa.inspect(connection).get_columns(DECISIONS.name)}
    for column in _ADDED:
        if column.name not in known:
            kind = column.type.compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {DECISIONS.name} ADD COLUMN {column.name} {kind}")


def _insert_new(dialect: str, table: sa.Table) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return insert.on_conflict_do_nothing(index_elements=["decision_id"])


def _durable(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Waits for other workers first: switching to WAL while somebody writes fails at once otherwise.
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # acknowledged means committed, also through a power cut
    cursor.close()


def _may_pass(error: sa.exc.DBAPIError) -> bool:
    text = str(error.orig).lower()
    return any(word in text for word in ("locked", "busy", "already exists", "duplicate", "unique", "concurrently"))
