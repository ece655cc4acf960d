"""The two tables of a decision store, and how a store of an earlier version becomes one of this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from guardrails.decisions.records import VERSION
from guardrails.decisions.stores.engines import shown_url
from guardrails.errors import DecisionStoreError

_metadata = sa.MetaData()
_ID = sa.String(64)
_LARGE = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows by themselves as INTEGER only

DECISIONS = sa.Table(
    "decisions",
    _metadata,
    sa.Column("decision_id", _ID, primary_key=True),
    sa.Column("v", sa.Integer, nullable=False),
    sa.Column("ts", sa.Float(53), nullable=False, index=True),
    sa.Column("api", sa.Text, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.Column("profile", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("outlier_score", sa.Float(53)),
    sa.Column("outlier_p_value", sa.Float(53)),
    sa.Column("duration", sa.Float(53)),
    sa.Column("policy", sa.Text),
    sa.Column("kind", sa.Text),
    sa.Column("eligible", sa.Boolean, nullable=False),
    sa.Column("ineligible", sa.Text),
    sa.Column("actions", sa.Text),
    sa.Column("excluded", sa.Text),
    sa.Column("scores", sa.Text),
    sa.Column("pmf", sa.Text),
    sa.Column("greedy", sa.Integer),
    sa.Column("action", sa.Integer),
    sa.Column("served", sa.Text),
    sa.Column("propensity", sa.Float(53), nullable=False),
    sa.Column("strength", sa.Float(53), server_default=sa.text("1.0")),
    sa.Column("ramp", sa.Float(53)),
    sa.Column("unit", sa.Text),
    sa.Column("cluster", sa.Text),
    sa.Column("salt_id", sa.Text),
    sa.Column("deferred", sa.Boolean, server_default=sa.false()),
    sa.Column("features", sa.Text),
    sa.Column("error_type", sa.Text),
    sa.Column("shadow", sa.Text),
)

REWARDS = sa.Table(
    "rewards",
    _metadata,
    sa.Column("id", _LARGE, primary_key=True),
    sa.Column("decision_id", _ID, nullable=False),
    sa.Column("v", sa.Integer, nullable=False),
    sa.Column("ts", sa.Float(53), nullable=False, index=True),
    sa.Column("reward", sa.Float(53)),
    sa.Column("label", sa.Text),
    sa.Column("served_action", sa.Integer),
    sa.Column("served", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("slot", sa.Integer),
    sa.Column("shown", sa.Boolean, server_default=sa.false()),
    sa.Column("feedback_id", sa.String(200)),
    # Also finds the rewards of a decision. Rows without an id (from before there were any) are all different.
    sa.Index("ux_rewards_feedback", "decision_id", "feedback_id", unique=True),
)

TABLES: Mapping[str, sa.Table] = {"decision": DECISIONS, "reward": REWARDS}
_DEFAULTS = {"strength": sa.literal(1.0), "deferred": sa.false(), "shown": sa.false()}
_LOCK = 0x6A7D_6172_6473  # any number that nobody else takes for PostgreSQL's advisory locks
_LOOK_BACK = 1000


def prepare(engine: sa.Engine) -> None:
    """Make what is missing: tables, columns, indexes. One process at a time; nothing is written where all is there.

    Raises:
        DecisionStoreError: a later version has written here.
    """
    with engine.connect() as connection:
        complete = is_complete(connection)
        if complete:
            check_version(connection, shown_url(engine.url))
    if complete:
        return
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver would begin with the first row written
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        for table in _metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            _add_missing(connection, table)
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
        check_version(connection, shown_url(engine.url))


def is_complete(connection: sa.Connection) -> bool:
    """Whether a store has all that this version writes to."""
    found = sa.inspect(connection)
    for table in _metadata.sorted_tables:
        if not found.has_table(table.name):
            return False
        columns = {column["name"]: column["type"] for column in found.get_columns(table.name)}
        if not set(table.columns.keys()) <= set(columns) or _too_narrow(connection, table, columns):
            return False
        if not {index.name for index in table.indexes} <= {index["name"] for index in found.get_indexes(table.name)}:
            return False
    return True


def check_version(connection: sa.Connection, url: str) -> None:
    """Refuse records this version would misread. Looks at the newest rows: at most a thousand of each kind.

    Raises:
        DecisionStoreError: there are some.
    """
    for table in TABLES.values():
        if not sa.inspect(connection).has_table(table.name):
            continue
        newest = sa.select(table.c.v).order_by(table.c.ts.desc()).limit(_LOOK_BACK).subquery()
        version = connection.execute(sa.select(sa.func.max(newest.c.v))).scalar()
        if version is not None and version > VERSION:
            raise DecisionStoreError(
                f"{url} holds records of version {version}; this version of guardrails knows up to {VERSION}. "
                "Upgrade it (pip install -U bento-guardrails), or give this service a store of its own."
            )


def columns_of(connection: sa.Connection, table: sa.Table) -> list[Any]:
    """All columns; those that a store of an earlier version lacks stand with what they mean when nothing is said."""
    there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    return [
        column if column.name in there else _DEFAULTS.get(column.name, sa.null()).label(column.name)
        for column in table.columns
    ]


def _add_missing(connection: sa.Connection, table: sa.Table) -> None:
    columns = {column["name"]: column["type"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in columns:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
    for name in _too_narrow(connection, table, columns):
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ALTER COLUMN {name} TYPE TEXT")  # no row is rewritten


def _too_narrow(connection: sa.Connection, table: sa.Table, columns: Mapping[str, Any]) -> list[str]:
    """Columns of bounded text that have to hold any: PostgreSQL refuses what is longer, SQLite does not look."""
    if connection.dialect.name == "sqlite":
        return []
    return [
        column.name
        for column in table.columns
        if isinstance(column.type, sa.Text) and getattr(columns.get(column.name), "length", None) is not None
    ]
