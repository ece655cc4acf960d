"""A folder that the workers of one server share, and nobody else: where they leave word for each other."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import stat
import tempfile
from pathlib import Path

logger = logging.getLogger("guardrails")

SERVING_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Set in every worker of a BentoML server, and nowhere else."""


def in_server() -> bool:
    """Whether this process is a worker of a server."""
    return SERVING_VARIABLE in os.environ


def shared_folder() -> Path:
    """A folder for the workers of this server and nobody else, of this user's own; a new one elsewhere.

    Not BentoML's folder for metrics, although it has one: whoever starts another server with the same BENTOML_HOME
    empties that under this one.
    """
    alone = Path(tempfile.gettempdir())
    if not in_server():
        return Path(tempfile.mkdtemp(prefix="guardrails-"))
    supervisor, owner = os.getppid(), os.getuid() if hasattr(os, "getuid") else 0
    # Of this host: containers that share a folder for temporary files do not see each other's processes.
    prefix = f"guardrails-{owner}-{re.sub('[^a-zA-Z0-9]', '', socket.gethostname())[:32]}-"
    folder = alone / f"{prefix}{supervisor}-{_began(supervisor)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    known = folder.lstat()
    if stat.S_ISLNK(known.st_mode) or (hasattr(os, "getuid") and known.st_uid != owner):
        logger.warning("%s belongs to somebody else: this worker shares nothing with the others", folder)
        return Path(tempfile.mkdtemp(prefix="guardrails-"))
    _sweep(alone, prefix)
    return folder


def _began(pid: int) -> int:
    """When a process began, as a number that no step of the clock changes: workers started later find it, too."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):  # no such file on this system
        import psutil

        return int(psutil.Process(pid).create_time() * 100)


def _sweep(where: Path, prefix: str) -> None:
    """Remove what servers that are gone have left."""
    import psutil

    for folder in where.glob(f"{prefix}*-*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
