"""From a store's URL to a database: which drivers, which time-outs, which pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import sqlalchemy as sa

from guardrails.errors import DecisionStoreError

_BACKENDS = ("sqlite", "postgresql")
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
"""A PostgreSQL whose machine is gone is noticed within 15 to 25 s, not within the hours TCP waits by itself."""
_SECRETS = ("password", "sslpassword", "passfile")
_EXTRA = 'PostgreSQL needs psycopg 3: pip install "bento-guardrails[postgres]".'


class Opened(NamedTuple):
    """A database, how it is shown (without its password), and its file, if it is one."""

    engine: sa.Engine
    url: str
    file: Path | None


def open_engine(url: str, timeout: float) -> Opened:
    """The database behind a URL; not connected to yet.

    Args:
        url: SQLAlchemy's form; ``postgresql://`` without a driver means psycopg 3.
        timeout: seconds to wait for a lock or a connection.

    Raises:
        DecisionStoreError: the URL is none of SQLite or PostgreSQL, or its driver is missing.
    """
    shown = _without_credentials(url)
    try:
        parsed = _with_driver(sa.make_url(_modern(url)))
        shown = shown_url(parsed)
        backend = parsed.get_backend_name()
        if backend not in _BACKENDS:
            raise DecisionStoreError(
                f"decisions={shown!r}: decisions live in SQLite or PostgreSQL, as in sqlite:///decisions.db."
            )
        if backend == "sqlite":
            return _sqlite(parsed, shown, timeout)
        options = {"connect_timeout": max(1, int(timeout)), **_KEEPALIVE}
        arguments = {name: value for name, value in options.items() if name not in parsed.query}
        return Opened(
            sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True, connect_args=arguments), shown, None
        )
    except ImportError as error:
        hint = _EXTRA if "psycopg" in str(error) or "pq" in str(error) else "Install its driver."
        raise DecisionStoreError(f"decisions={shown!r} cannot be opened: {error}. {hint}") from error
    except (sa.exc.ArgumentError, ValueError, OSError) as error:
        reason = error if isinstance(error, OSError) else "it is no such URL"  # SQLAlchemy's own words repeat it
        raise DecisionStoreError(
            f"decisions={shown!r} cannot be opened: {reason}. Give an SQLAlchemy URL such as sqlite:///decisions.db."
        ) from error


def _sqlite(url: sa.URL, shown: str, timeout: float) -> Opened:
    options: dict[str, Any] = {"connect_args": {"timeout": timeout, "check_same_thread": False}}
    file = _file_of(url)
    if file is None:  # in memory there is one connection, which everybody has to share
        options |= {"poolclass": sa.pool.QueuePool, "pool_size": 1, "max_overflow": 0}
    elif not (url.database or "").startswith("file:"):
        file.parent.mkdir(parents=True, exist_ok=True)
    return Opened(sa.create_engine(url, hide_parameters=True, **options), shown, file)


def _file_of(url: sa.URL) -> Path | None:
    name = url.database or ""
    if name in ("", ":memory:") or ":memory:" in name or "memory" in url.query.values():
        return None
    return Path(unquote(name.removeprefix("file:"))) if name.startswith("file:") else Path(name)


def _modern(url: str) -> str:
    scheme, colon, rest = url.partition("://")
    scheme = scheme.lower()
    return f"{'postgresql' if scheme == 'postgres' else scheme}{colon}{rest}"


def shown_url(url: sa.URL) -> str:
    """How a database is called in logs and on the status page: without what opens it."""
    query = {name: "***" if name in _SECRETS else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def _without_credentials(url: str) -> str:
    """Of a URL that may not even be one: nothing from before the last at-sign, and no query."""
    scheme, colon, rest = str(url).partition("://")
    rest = rest.partition("?")[0] if colon else scheme.partition("?")[0]
    rest = f"***@{rest.rpartition('@')[2]}" if "@" in rest else rest
    return f"{scheme}://{rest}" if colon else rest


def _with_driver(url: sa.URL) -> sa.URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
