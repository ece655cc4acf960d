"""``GET /guardrails/loop``: how strong the feedback loop is, worked out in a process of its own, now and then."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from guardrails.core.shared_folder import in_server, shared_folder
from guardrails.drift.lock import HostLock

logger = logging.getLogger("guardrails")

MAX_AGE = 300.0
"""Seconds for which an answer is good enough."""
TIMEOUT = 120.0
_VARIABLE = "GUARDRAILS_LOOP_STORE"


class LoopStatus:
    """The last known loop strength of a store; asking for it sets a new one off when that is old.

    The workers of a server share what one of them has worked out, and never work at the same time.

    Args:
        url: the store.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        name = f"loop-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        folder = shared_folder() if in_server() else Path(tempfile.mkdtemp(prefix="guardrails-"))
        self._file, self._working = folder / f"{name}.json", HostLock(folder / f"{name}.lock")
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def latest(self) -> dict[str, Any]:
        """As of ``computed``; the first time it is still under way."""
        known = self._read()
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and time.time() - known.pop("at", 0.0) > MAX_AGE:
                self._thread = threading.Thread(target=self._compute, name="guardrails-loop", daemon=True)
                self._thread.start()
        return known

    def _read(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {"computed": None, "apis": {}, "detail": "Being worked out; ask again in a moment."}
        return known

    def _compute(self) -> None:
        if not self._working.acquire():
            return  # another worker is at it
        try:
            known = {"at": time.time(), **self._worked_out()}
            partial = self._file.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(known))
            partial.replace(self._file)
        except OSError as error:
            logger.warning("the loop strength cannot be kept: %s", error)
        finally:
            self._working.release()

    def _worked_out(self) -> dict[str, Any]:
        try:
            apis = _in_a_process(self._url)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            logger.warning("the loop strength could not be worked out: %s", error)
            return {"computed": None, "apis": {}, "detail": "It could not be worked out: see the service's log."}
        return {"computed": datetime.now(timezone.utc).isoformat(timespec="seconds"), "apis": apis}


def _in_a_process(url: str) -> Any:
    # The URL may hold a password: on a command line everybody on the host could read it.
    code = f"import os; from guardrails.evaluation.loop.recent import main; main(os.environ[{_VARIABLE!r}])"
    done = subprocess.run(  # noqa: S603  # our own interpreter
        [sys.executable, "-c", code], env={**os.environ, _VARIABLE: url}, capture_output=True, text=True,
        timeout=TIMEOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given")
    return json.loads(done.stdout)
