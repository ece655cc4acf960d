"""A collector for tests and demos: receive spans and log records over OTLP/HTTP and look at them."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came over OTLP; ``links`` are the span ids it links to."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[str, ...]
    service: str
    links: tuple[str, ...] = ()

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e6


@dataclass(frozen=True)
class ReceivedLog:
    """One log record as it came over OTLP."""

    event_name: str
    time_ns: int
    trace_id: str | None
    span_id: str | None
    body: Any
    attributes: dict[str, Any]
    service: str


@dataclass
class OtlpReceiver:
    """An OTLP/HTTP endpoint on 127.0.0.1 that keeps what it receives: a collector for tests and demos.

    Args:
        port: where it listens; 0 is any that is free.

    Attributes:
        spans, logs: what came, in the order it came.
        answer: the status of every answer. With another than 200, nothing is kept.

    Example:
        >>> from guardrails.testing import OtlpReceiver
        >>> with OtlpReceiver() as receiver:
        ...     receiver.endpoint.startswith("http://127.0.0.1:"), receiver.spans
        (True, [])
    """

    spans: list[ReceivedSpan] = field(default_factory=list)
    logs: list[ReceivedLog] = field(default_factory=list)
    answer: int = 200
    port: int = 0
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> OtlpReceiver:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``."""
        if self._server is None:
            raise RuntimeError("enter the receiver first: with OtlpReceiver() as receiver: ...")
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    @property
    def logs_endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_LOGS_ENDPOINT``."""
        return self.endpoint.removesuffix("/v1/traces") + "/v1/logs"

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """The spans by trace, each trace in the order of its start times."""
        found: dict[str, list[ReceivedSpan]] = {}
        for span in sorted(self.spans, key=lambda span: span.start_ns):
            found.setdefault(span.trace_id, []).append(span)
        return found


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if receiver.answer == 200:  # noqa: PLR2004
                if self.path.endswith("/v1/logs"):
                    receiver.logs.extend(_parse_logs(body))
                else:
                    receiver.spans.extend(_parse(body))
            answer = json.dumps({}).encode() if "json" in self.headers.get("Content-Type", "") else b""
            self.send_response(receiver.answer)
            self.send_header("Content-Type", self.headers.get("Content-Type", "application/x-protobuf"))
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _parse(body: bytes) -> list[ReceivedSpan]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    spans = []
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            spans += [_span(span, service) for span in scope.spans]
    return spans


def _span(span: Any, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple(event.name for event in span.events),
        service=service,
        links=tuple(link.span_id.hex() for link in span.links),
    )


def _parse_logs(body: bytes) -> list[ReceivedLog]:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    logs = []
    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_logs:
            logs += [_log(record, service) for record in scope.log_records]
    return logs


def _log(record: Any, service: str) -> ReceivedLog:
    return ReceivedLog(
        event_name=record.event_name,
        time_ns=record.time_unix_nano,
        trace_id=record.trace_id.hex() or None,
        span_id=record.span_id.hex() or None,
        body=_value(record.body),
        attributes=_attributes(record.attributes),
        service=service,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    """What an attribute says; of an attribute of several values, a tuple."""
    kind = value.WhichOneof("value") or "string_value"
    if kind == "array_value":
        return tuple(_value(entry) for entry in value.array_value.values)
    return getattr(value, kind)
