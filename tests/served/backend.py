"""A real OpenTelemetry backend to send traces to, and to read them back from: Arize Phoenix in a process of its own.

```python
with TraceBackend() as backend:
    serve(traces_to=backend.otlp_endpoint)
    spans = backend.wait_for(lambda spans: len(spans) >= 3)
```

What Phoenix keeps of a span, and what not:

- name, ids, status, events and attributes: unchanged, with the exceptions below.
- The OpenTelemetry kind (SERVER, INTERNAL ...) and the resource (``service.name``) are not stored. `Span.kind` is the
  OpenInference kind, ``UNKNOWN`` for ordinary spans.
- An attribute that is NaN or infinite is dropped (inside a list it becomes None). A span with an attribute of bytes is
  lost altogether. An ``exception`` event keeps its type, message, stack trace and escape flag, nothing else.
- Names that Phoenix gives a meaning (``input.value``, ``metadata``, ``gen_ai.*``) may be rewritten or added to, and a
  number between two dots is an index: ``a.5.b`` without ``a.0.b`` comes back as the latter.
- Spans go to the project ``default`` unless their resource carries ``openinference.project.name``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, final
from urllib.parse import quote

import httpx

ROOT = Path(__file__).resolve().parents[2]
INHERITED = ("PHOENIX_", "OTEL_", "PYTHON")  # settings of this process that must not reach Phoenix
OFFLINE = {
    "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",  # the switch that matters: no downloads, no telemetry, no remote docs
    "PHOENIX_TELEMETRY_ENABLED": "false",
    "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
    "PHOENIX_ENABLE_MCP_SERVER": "false",
    "PHOENIX_ALLOWED_SANDBOX_PROVIDERS": "NONE",
    "PHOENIX_LOG_MIGRATIONS": "false",  # thousands of lines otherwise
}
PAGE = 1000  # spans per request, the most that Phoenix allows
AFRESH = httpx.Limits(max_keepalive_connections=0)  # never meet a connection that the server is just closing
POLL = 0.2  # seconds between two looks
LOG_TAIL = 2000  # characters of Phoenix' output shown when it does not start


@dataclass(frozen=True)
class Event:
    """Something that happened during a span, such as an exception.

    Attributes:
        name: what happened.
        attributes: under their dotted names.
    """

    name: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Span:
    """One span as the backend stored it.

    Attributes:
        trace_id: 32 hexadecimal digits, shared by all spans of a request.
        span_id: 16 hexadecimal digits.
        parent_id: the span this one is a part of; None for the root of a trace.
        name: the operation.
        kind: the OpenInference kind; ``UNKNOWN`` for ordinary spans, whatever their OpenTelemetry kind.
        attributes: under the dotted names they were sent with.
        events: in the order they happened.
        status: ``UNSET``, ``OK`` or ``ERROR``.
        status_message: why, if an error says so.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    status: str
    status_message: str = ""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Span:
        """The span in an item of Phoenix' ``/v1/projects/{name}/spans``."""
        return cls(
            trace_id=stored["context"]["trace_id"],
            span_id=stored["context"]["span_id"],
            parent_id=stored["parent_id"],
            name=stored["name"],
            kind=stored["span_kind"],
            attributes=stored["attributes"],
            events=tuple(Event(event["name"], event["attributes"]) for event in stored["events"]),
            status=stored["status_code"],
            status_message=stored["status_message"],
        )


@final
class TraceBackend:
    """Phoenix on free loopback ports, started on entry and gone on exit, with an empty database of its own.

    Args:
        executable: the ``phoenix`` command; what `find_phoenix` finds if not given.
        timeout: seconds it may take to become healthy. Ten to fifteen are normal on two cores.
    """

    def __init__(self, executable: Path | None = None, *, timeout: float = 120.0) -> None:
        self._executable = executable
        self._timeout = timeout
        self._http_port, self._grpc_port = free_ports(2)
        self._cleanup = ExitStack()
        self.url = f"http://127.0.0.1:{self._http_port}"
        """Where a browser shows the traces."""
        self.otlp_endpoint = f"{self.url}/v1/traces"
        """Where an OTLP exporter posts them (http/protobuf, the full path)."""

    def __enter__(self) -> TraceBackend:
        executable = self._executable or find_phoenix()
        if executable is None:
            raise FileNotFoundError("no phoenix executable: install arize-phoenix apart, or set GUARDRAILS_PHOENIX")
        with ExitStack() as stack:  # what was started is stopped again when the rest of the start fails
            home = Path(stack.enter_context(TemporaryDirectory(prefix="phoenix-", ignore_cleanup_errors=True)))
            process = self._start(executable, home)
            stack.callback(_stop, process)
            self._client = stack.enter_context(
                httpx.Client(base_url=self.url, timeout=30.0, trust_env=False, limits=AFRESH)
            )
            self._wait_until_ready(process, home)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def spans(self, project: str = "default") -> list[Span]:
        """Every span of a project, in the order stored; none if nothing was sent to it. Its name has no slash."""
        spans: list[Span] = []
        query: dict[str, str | int] = {"limit": PAGE, "sort": "id", "order": "asc"}
        while True:
            answer = self._client.get(f"/v1/projects/{quote(project, safe='')}/spans", params=query)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return spans
            page = answer.raise_for_status().json()
            spans += map(Span.of, page["data"])
            if page["next_cursor"] is None:
                return spans
            query["cursor"] = page["next_cursor"]

    def wait_for(
        self, predicate: Callable[[list[Span]], bool], timeout: float = 30.0, *, project: str = "default"
    ) -> list[Span]:
        """The spans, as soon as they satisfy ``predicate``. Phoenix stores what it accepts a moment later.

        Raises:
            TimeoutError: they did not within ``timeout`` seconds; the message names the spans there are.
        """
        deadline = (asked := time.monotonic()) + timeout
        while not predicate(spans := self.spans(project)):
            if (now := time.monotonic()) > deadline:
                names = sorted({span.name for span in spans})
                raise TimeoutError(f"after {timeout} s the backend holds {len(spans)} spans, named {names}")
            time.sleep(max(POLL, 2 * (now - asked)))  # reading takes time from storing: leave it the larger part
            asked = time.monotonic()
        return spans

    def _start(self, executable: Path, home: Path) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
        settings = {
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(self._http_port),
            "PHOENIX_GRPC_PORT": str(self._grpc_port),
            "PHOENIX_WORKING_DIR": str(home),
        }
        with (home / "phoenix.log").open("wb") as log:  # a pipe nobody reads would block it in the end
            return subprocess.Popen(
                [executable.absolute(), "serve"],
                env=kept | OFFLINE | settings,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own, so that exactly it can be stopped
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], home: Path) -> None:
        deadline = time.monotonic() + self._timeout
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                state = "did not become healthy" if process.poll() is None else f"exited with {process.returncode}"
                log = (home / "phoenix.log").read_text(errors="replace")
                raise RuntimeError(f"phoenix {state} within {self._timeout} s:\n{log[-LOG_TAIL:]}")
            time.sleep(POLL)

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False


def find_phoenix() -> Path | None:
    """The ``phoenix`` command: the one GUARDRAILS_PHOENIX names, else that of a project environment, else None."""
    places = [ROOT / ".envs" / environment / "bin" / "phoenix" for environment in ("backend", "px")]
    if named := os.environ.get("GUARDRAILS_PHOENIX"):
        places.insert(0, Path(named))
    return next((place for place in places if os.access(place, os.X_OK) and place.is_file()), None)


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody listens on. All are held until the last is known, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _stop(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End the process group that ``process`` leads: politely first, then for good."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:  # once it is reaped, its number may be somebody else's
            os.killpg(process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
