"""Serve a bento for real: its own processes, its own BENTOML_HOME, a free port on 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START_TIMEOUT = 120.0
STOP_TIMEOUT = 30.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BentoServer:
    """``bentoml serve`` as a context manager.

    Args:
        target: what to serve: ``module:Service``, a bento's tag or folder.
        home: BENTOML_HOME. One server each: BentoML empties the folder of the metrics when a server starts.
        cwd: the working directory, where relative store URLs end up.
        env: variables besides this process's own; None takes one away.
        python: the interpreter.
        ready: wait until ``/readyz`` says so; False waits for ``/livez`` only.
    """

    def __init__(
        self,
        target: str,
        *,
        home: Path,
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        python: str = sys.executable,
        ready: bool = True,
    ) -> None:
        self.target, self.home, self.cwd, self.python = target, home, cwd, python
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = cwd / f"serve-{self.port}.log"
        self._env = {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(home), "NO_COLOR": "1", **(env or {})}
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BentoServer:
        environment = dict(os.environ)
        for name, value in self._env.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        command = [self.python, "-m", "bentoml", "serve", self.target, "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, arguments as a list
                command, cwd=self.cwd, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process.pid

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        import psutil

        children = psutil.Process(self.pid).children(recursive=True)
        return [child.pid for child in children if "worker" in " ".join(_command(child))]

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """GET a path: parsed where the answer is JSON, else text."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:  # noqa: S310  # our own http:// address
            body = response.read().decode()
            return json.loads(body) if "json" in response.headers.get("Content-Type", "") else body

    def stop(self, timeout: float = STOP_TIMEOUT) -> float:
        """SIGTERM, as any orchestrator sends it; SIGKILL to its own process group after ``timeout`` seconds.

        Returns:
            How many seconds it took.
        """
        process, began = self._process, time.monotonic()
        if process is None or process.poll() is not None:
            return 0.0
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return time.monotonic() - began

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        path = "/readyz" if self._ready else "/livez"
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url + path, timeout=5):  # noqa: S310  # our own http:// address
                    return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.1)
        raise RuntimeError(f"{self.target} did not answer {path} within {START_TIMEOUT:.0f} s:\n{self.text()[-3000:]}")


def _command(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
