"""Decision records as OpenTelemetry log records over OTLP/HTTP: a fleet sends them through its Collector."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from guardrails.decisions.stores.faults import RefusedRows
from guardrails.errors import DecisionStoreError

MAX_BYTES = 2 * 1024 * 1024
"""Of records in one request, about: Collectors refuse large ones (4 MiB over gRPC, 20 MiB over HTTP)."""
TIMEOUT = 5.0
_NEEDED = "The OTLP sink needs opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http of 1.39 or later"
_JSON = ("actions", "excluded", "scores", "pmf", "served", "features", "label")
_LONG = {*_JSON, "v", "ts", "trace_id", "decision_id"}
"""What is no attribute: it stands in the body, or in a field of the log record's own."""
_TOO_LARGE, _BAD = 413, 400


class OtlpStore:
    """The store of a `DecisionLog` whose records are sent on: nothing is kept here and nothing can be read back.

    Each record is one log record: event name ``guardrails.decision`` or ``guardrails.reward``, its own time and trace
    id, the plain columns as attributes (``guardrails.decision.<column>``, ``guardrails.reward.<column>``; both have
    ``guardrails.decision.id``), the whole as JSON in the body. A record may arrive twice (after an answer that was
    lost): its id tells. Headers, certificates and compression are set as for every OTLP exporter
    (``OTEL_EXPORTER_OTLP_LOGS_HEADERS`` ...).

    Args:
        url: ``otlp+http://host:4318/v1/logs`` or ``otlp+https://...``; without a path, ``/v1/logs``.

    Raises:
        DecisionStoreError: the URL is none, or OpenTelemetry's logs SDK is of another version than this knows.
    """

    def __init__(self, url: str) -> None:
        self.endpoint, self.url = _endpoint(url)
        self._status: int | None = None
        self._sent: set[tuple[str, str, str]] = set()
        self._api = _Api()
        self._exporter: Any = None

    def create(self) -> None:
        """Make the exporter; it connects when there is something to send."""
        import requests

        session = requests.Session()
        session.hooks["response"].append(self._answered)
        self._exporter = self._api.exporter(endpoint=self.endpoint, session=session, timeout=TIMEOUT)
        self._resource = _resource()

    def write(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Send rows of one kind.

        Raises:
            DecisionStoreError: the receiver does not take them now.
            RefusedRows: it never will (it answered 400 or 413).
        """
        if self._exporter is None:
            self.create()
        for part in _portions(kind, rows, self._sent):
            records = [self._api.record(kind, row, body, self._resource) for row, body in part]
            self._status = None
            with _unobserved():
                result = self._exporter.export(records)
            if result.name != "SUCCESS":
                if self._status in (_BAD, _TOO_LARGE):
                    raise RefusedRows(f"{self.url} answered {self._status}")
                answer = "cannot be reached" if self._status is None else f"answered {self._status}"
                raise DecisionStoreError(f"{self.url} {answer}.")
            self._sent.update(_identity(kind, row) for row, _ in part)
        self._sent.clear()
        return len(rows)

    def knows(self, _decision_id: str) -> None:
        """Nobody here can tell."""

    def close(self) -> None:
        """Close the connection."""
        if self._exporter is not None:
            self._exporter.shutdown()
            self._exporter = None

    def _answered(self, response: Any, *_: Any, **__: Any) -> None:
        self._status = response.status_code


class _Api:
    """OpenTelemetry's logs SDK, which is not stable: its names are looked up once, and early."""

    def __init__(self) -> None:
        try:
            from opentelemetry._logs import LogRecord, SeverityNumber
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
            from opentelemetry.sdk._logs import ReadableLogRecord
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope

            from guardrails._version import __version__

            LogRecord(timestamp=0, body="", attributes={}, event_name="", context=None)
        except (ImportError, TypeError) as error:
            raise DecisionStoreError(f"{_NEEDED}; found another: {error}.") from error
        self.exporter: Callable[..., Any] = OTLPLogExporter
        self._record, self._readable = LogRecord, ReadableLogRecord
        self._severity = SeverityNumber.INFO
        self._scope = InstrumentationScope("guardrails", __version__)

    def record(self, kind: str, row: Mapping[str, Any], body: str, resource: Any) -> Any:
        """One row as a log record."""
        attributes: dict[str, Any] = {"guardrails.decision.id": row["decision_id"]}
        attributes |= {
            f"guardrails.{kind}.{name}": value for name, value in row.items() if value is not None and name not in _LONG
        }
        record = self._record(
            timestamp=round(row["ts"] * 1e6) * 1000,  # a double holds no more than microseconds of it
            observed_timestamp=time.time_ns(),
            context=_context(row.get("trace_id")),
            severity_number=self._severity,
            body=body,
            attributes=attributes,
            event_name=f"guardrails.{kind}",
        )
        return self._readable(log_record=record, resource=resource, instrumentation_scope=self._scope)


def _endpoint(url: str) -> tuple[str, str]:
    """Where to send to, and the same without a password."""
    from urllib.parse import urlsplit

    parts = urlsplit(url.removeprefix("otlp+"))
    try:
        parts.port  # noqa: B018  # raises where it is no number
    except ValueError:
        parts = parts._replace(netloc="")
    if not url.startswith("otlp+") or parts.scheme not in ("http", "https") or not parts.hostname:
        raise DecisionStoreError(
            f"decisions={url.rpartition('@')[2]!r} is no OTLP address. Write otlp+http://host:4318/v1/logs."
        )
    path = parts.path if parts.path not in ("", "/") else "/v1/logs"
    shown = parts._replace(path=path, netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    return parts._replace(path=path).geturl(), f"otlp+{shown}"


def _portions(
    kind: str, rows: Sequence[Mapping[str, Any]], sent: set[tuple[str, str, str]]
) -> Iterator[list[tuple[Mapping[str, Any], str]]]:
    """Rows with their bodies, not too many at once; without those that an attempt before this one has sent."""
    part: list[tuple[Mapping[str, Any], str]] = []
    size = 0
    for row in rows:
        if sent and _identity(kind, row) in sent:
            continue
        body = _body(row)
        if part and size + len(body) > MAX_BYTES:
            yield part
            part, size = [], 0
        part.append((row, body))
        size += len(body)
    if part:
        yield part


def _identity(kind: str, row: Mapping[str, Any]) -> tuple[str, str, str]:
    return kind, row["decision_id"], row.get("feedback_id") or ""


def _body(row: Mapping[str, Any]) -> str:
    return json.dumps({name: _unpacked(value) if name in _JSON else value for name, value in row.items()})


def _unpacked(value: Any) -> Any:
    """JSON text as what it says, so that the body is no JSON within JSON; other text (a hash, NaN) as it is."""
    if value is None:
        return None
    try:
        return json.loads(value, parse_constant=_refuse)
    except (ValueError, TypeError, RecursionError):
        return value


def _refuse(name: str) -> None:
    raise ValueError(name)


def _context(trace_id: str | None) -> Any:
    """A context with the trace that the decision belongs to, and no other's."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    known = trace.SpanContext(int(trace_id or "0", 16), 0, is_remote=False)
    return trace.set_span_in_context(trace.NonRecordingSpan(known), Context())


def _resource() -> Any:
    """The service as its traces name it."""
    from opentelemetry.sdk.resources import Resource

    from guardrails.core.host import host

    try:
        found = getattr(host().tracer_provider(), "resource", None)
    except Exception:  # noqa: BLE001  # outside of a service there may be no provider
        found = None
    return found if found is not None else Resource.create()


class _unobserved:  # noqa: N801  # read as a word: with _unobserved(): ...
    """Sending records leaves no spans of its own."""

    def __enter__(self) -> None:
        from opentelemetry import context

        key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
        self._token = context.attach(context.set_value(key, True))

    def __exit__(self, *_: object) -> None:
        from opentelemetry import context

        context.detach(self._token)
