"""Stores of both kinds: SQLite files and databases of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guardrails.decisions.stores.store import DecisionStore
from tests.decisions.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests that need one."""
    pytest.importorskip("pgserver", reason="a real PostgreSQL: pip install pgserver")
    pytest.importorskip("psycopg", reason='pip install "bento-guardrails[postgres]"')
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/d.db"
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def store(url: str) -> Iterator[DecisionStore]:
    """A store that is set up."""
    store = DecisionStore(url)
    store.create()
    yield store
    store.close()


@pytest.fixture
def open_store() -> Iterator[Callable[[str], DecisionStore]]:
    """Open stores that are closed with the test."""
    opened: list[DecisionStore] = []

    def open_one(url: str) -> DecisionStore:
        opened.append(DecisionStore(url))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()
