"""A real PostgreSQL for tests: from a wheel, in a folder of its own, on a socket; it can be stopped and started."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any


class Postgres:
    """A server with as many empty databases as asked for."""

    def __init__(self) -> None:
        import pgserver

        self.folder = Path(tempfile.mkdtemp(prefix="guardrails-pg-"))
        self.folder.chmod(0o755)  # as root, the server runs as somebody else
        self.server: Any = pgserver.get_server(self.folder / "data", cleanup_mode="stop")
        self._numbers = itertools.count()

    def database(self) -> str:
        """The URL of a new, empty database, as users write it: without a driver."""
        import psycopg

        name = f"d{next(self._numbers)}"
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.server.get_uri(name)

    def stop(self) -> None:
        """As a crash does it: connections break, nobody is asked."""
        from pgserver._commands import pg_ctl

        pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self.server.pgdata, user=self.server.system_user)

    def start(self) -> None:
        """Up again, on the same data and the same socket."""
        self.server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        self.server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)
