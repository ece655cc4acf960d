"""``GET /guardrails/loop``: how strong the feedback loop is, worked out in a process of its own, now and then."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Any

logger = logging.getLogger("guardrails")

MAX_AGE = 300.0
"""Seconds for which an answer is good enough."""
TIMEOUT = 120.0
_VARIABLE = "GUARDRAILS_LOOP_STORE"


class LoopStatus:
    """The last known loop strength of a store; asking for it sets a new one off when that is old.

    Args:
        url: the store; None where there is none to read.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._known: dict[str, Any] | None = None
        self._asked = -float("inf")

    def latest(self) -> dict[str, Any] | None:
        """As of ``computed``; the first time it is still under way. None where there is no store to read."""
        if self._url is None:
            return None
        with self._lock:
            if time.monotonic() - self._asked > MAX_AGE:
                self._asked = time.monotonic()
                threading.Thread(target=self._compute, name="guardrails-loop", daemon=True).start()
            return self._known or {"computed": None, "apis": {}, "detail": "Being worked out; ask again in a moment."}

    def _compute(self) -> None:
        try:
            apis: dict[str, Any] = _in_a_process(str(self._url))
            known: dict[str, Any] = {"computed": datetime.now(timezone.utc).isoformat(timespec="seconds"), "apis": apis}
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            logger.warning("the loop strength could not be worked out: %s", error)
            known = {"computed": None, "apis": {}, "detail": "It could not be worked out: see the service's log."}
        with self._lock:
            self._known = known


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
