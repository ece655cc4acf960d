"""The kill switch: exploration stops within a second, on all workers, without a restart."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from guardrails.core.shared_folder import in_server, shared_folder

logger = logging.getLogger("guardrails")

VARIABLE = "GUARDRAILS_EXPLORATION_SWITCH"
"""Names a file: while it is there, nothing is explored. On a shared volume it reaches a whole fleet."""
INTERVAL = 0.25
"""Seconds between two looks at the file."""
STALE = 5.0
"""Seconds after which a look is too old to rely on: whoever cannot see the switch does not explore."""
KEEP_ALIVE = 3600.0
"""Seconds between two touches of the file, or of its folder: what sweeps old files away must not throw the switch."""
_NAME = "exploration-off"


class Switch:
    """Whether exploration is switched off, as a file says that all workers watch.

    Asking costs a comparison; a thread looks at the file. A file that cannot be looked at (no permission, a volume that
    hangs, or is not mounted: its folder is not there) counts as switched off.

    Args:
        path: the file; None, outside of a server, is a switch of this process alone.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._off = False
        self._held = False  # off here, although the file could not be written
        self._looked = self._touched = time.monotonic()
        self._lock = threading.Lock()
        if path is not None:
            self._look()
            threading.Thread(target=self._watch, name="guardrails-switch", daemon=True).start()

    @property
    def off(self) -> bool:
        """Whether nothing may be explored now."""
        return self._off or self._held or (self.path is not None and time.monotonic() - self._looked > STALE)

    def stop(self, why: str = "") -> None:
        """Switch exploration off, here at once and elsewhere within a second.

        Raises:
            OSError: the file cannot be written; here it is off all the same.
        """
        self._held = True
        logger.warning("exploration is switched off%s", f": {why}" if why else "")
        if self.path is None:
            return
        with self._lock:  # a look that began before this must not end after it
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            partial.write_text(json.dumps({"since": time.time(), "why": why}))
            partial.replace(self.path)
            self._off, self._held = True, False

    def start(self) -> None:
        """Let exploration go on.

        Raises:
            OSError: the file cannot be removed.
        """
        with self._lock:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.unlink(missing_ok=True)
            self._off = self._held = False
        logger.warning("exploration is switched on")

    def status(self) -> dict[str, Any]:
        """For the status page."""
        return {"off": self.off, "file": None if self.path is None else str(self.path)}

    def _watch(self) -> None:
        while True:
            time.sleep(INTERVAL)
            self._look()

    def _look(self) -> None:
        assert self.path is not None  # noqa: S101  # only a switch with a file is watched
        before = self._off
        with self._lock:
            self._off = self._is_there(self.path)
        self._looked = time.monotonic()
        if self._off is not before:
            logger.warning("exploration is switched %s (%s)", "off" if self._off else "on", self.path)

    def _is_there(self, path: Path) -> bool:
        try:
            os.stat(path)  # noqa: PTH116  # one system call, four times a second
        except FileNotFoundError:
            self._keep_alive(path.parent)
            # A folder that is not there is a volume that is not mounted, or a name with a slip of the pen in it.
            return not path.parent.is_dir()
        except OSError:
            return True
        self._keep_alive(path)
        return True

    def _keep_alive(self, path: Path) -> None:
        if time.monotonic() - self._touched > KEEP_ALIVE:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(path)


_switches: dict[Path | None, Switch] = {}
_lock = threading.Lock()


def switch_of(path: str | None = None) -> Switch:
    """The switch of a file, one per process and file.

    Args:
        path: the file; None is what ``GUARDRAILS_EXPLORATION_SWITCH`` names, else one that the workers of this server
            share, else (outside of a server) a switch of this process alone.
    """
    named = path or os.environ.get(VARIABLE)
    if named:
        place: Path | None = Path(named).absolute()
    else:
        place = shared_folder() / _NAME if in_server() else None
    with _lock:
        if place not in _switches:
            _switches[place] = Switch(place)
        return _switches[place]


def switches() -> list[Switch]:
    """Those of this process."""
    with _lock:
        return list(_switches.values())
