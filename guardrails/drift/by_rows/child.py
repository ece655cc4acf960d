"""The process a drift detector runs in: started, asked, killed when it is late, and ended with this one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from guardrails.contrib import alibi_drift
from guardrails.contrib.alibi_drift import read_frame, write_frame
from guardrails.errors import GuardrailsError

LAST_WORDS = 2000
"""Bytes of what the child prints that are kept, for the error if it dies."""
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Died(GuardrailsError):
    """The process ended before it answered, by itself or by somebody else's hand."""


class Child:
    """The process, and one exchange with it at a time. What goes wrong on the way ends it.

    Args:
        name: the detector's, for errors.
        python: the interpreter; None for this one.

    Attributes:
        facts: what it said of the detector when that was made; empty until then.

    Raises:
        GuardrailsError: the interpreter cannot be started.
    """

    def __init__(self, name: str, python: str | Path | None) -> None:
        self.name = name
        self.facts: dict[str, Any] = {}
        environment = {**os.environ, **_ONE_THREAD}
        if python is not None:  # packages of this interpreter are not those of the other one
            environment.pop("PYTHONPATH", None)
            environment.pop("PYTHONHOME", None)
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [str(python or sys.executable), str(Path(alibi_drift.__file__).absolute())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # a group of its own: what it starts ends with it
            )
        except OSError as error:
            raise GuardrailsError(f"{python or sys.executable} cannot be started: {error}") from error
        self._said = bytearray()
        self.stop = weakref.finalize(self, _stop, self._process, os.getpid())
        threading.Thread(target=_drain, args=(self._process.stderr, self._said), daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known: one that was just killed may still look so."""
        return self.stop.alive and self._process.poll() is None

    def ask(self, *frames: bytes, timeout: float) -> dict[str, Any]:
        """Send messages and read the one answer; the child is killed when that takes too long."""
        late = threading.Event()

        def expire() -> None:
            late.set()
            _kill(self._process)

        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            answer = self._exchange(frames)
        except BaseException:  # Ctrl-C: the answer would be taken for that to the next question
            self.stop()
            raise
        finally:
            timer.cancel()
        if answer is None and late.is_set():
            self.stop()
            raise GuardrailsError(
                f"{self.name} took longer than {timeout:g} s and was killed. To allow more: timeout=, or "
                "start_timeout= where it was still being made."
            )
        if answer is None:
            raise Died(self._obituary())
        if "error" in answer:
            if not self.facts:  # it could not be made, and the process waits for nothing
                self.stop()
            raise GuardrailsError(f"{self.name}: {answer['error']}.".replace("..", "."))
        return answer

    def _exchange(self, frames: Sequence[bytes]) -> dict[str, Any] | None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101  # pipes, both of them
        assert stdout is not None  # noqa: S101
        try:
            for frame in frames:
                write_frame(stdin, frame)  # type: ignore[arg-type]
            reply = read_frame(stdout)  # type: ignore[arg-type]
        except (OSError, ValueError):  # ValueError: somebody has closed the pipe meanwhile
            return None
        return None if reply is None else dict(json.loads(reply))

    def _obituary(self) -> str:
        if not self.stop.alive:
            return f"{self.name} was closed while it computed."
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.poll()
        self.stop()
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        words = " ".join(bytes(self._said).decode(errors="replace").split())[-400:]
        return f"{self.name}: its process ended {how}. " + (f"Its last words: {words}" if words else "It said nothing.")


def _drain(stream: IO[bytes], said: bytearray) -> None:
    """Keep the end of what the child prints; nobody else reads it, and a full pipe would stop it."""
    with contextlib.suppress(OSError, ValueError), stream:
        while chunk := os.read(stream.fileno(), 65536):
            said += chunk
            del said[:-LAST_WORDS]


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, OSError):  # no such thing on Windows
        process.kill()


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork inherits the object, not the child
        return
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
