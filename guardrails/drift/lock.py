"""A lock between the processes of a host: who holds it leads, and it is free the moment its holder is gone."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  # no such locks on Windows, where BentoML runs one worker
    fcntl = None  # type: ignore[assignment]


class HostLock:
    """A lock that one process of this host holds until it ends, however it ends.

    Args:
        path: its file, on a disk of this host.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.held = False
        if hasattr(os, "register_at_fork"):  # a forked child would hold the lock together with its parent
            os.register_at_fork(after_in_child=self.release)

    def acquire(self) -> bool:
        """Try to get it; whether this process holds it."""
        if fcntl is None:
            self.held = True
            return True
        if self._file is not None and not self._in_place():
            self.release()  # somebody has tidied up: a lock that nobody else can see is none
        if self.held:
            return True
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self.held = True
        return True

    def _in_place(self) -> bool:
        try:
            return self._file is not None and os.fstat(self._file).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give it up."""
        self.held = False
        if self._file is not None:
            os.close(self._file)
            self._file = None
