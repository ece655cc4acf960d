"""What the pipeline needs to know of the server it runs in. BentoML's answers are in `guardrails.serving.host`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from guardrails.typing import Guard


class Host(Protocol):
    """The server around a guarded method."""

    def batchable(self, owner: type, name: str) -> bool:
        """Whether requests are merged before they reach ``owner.name``."""

    def route(self, owner: type, name: str) -> str:
        """The path under which ``owner.name`` is served."""

    def installed(self, owner: type) -> Sequence[Guard]:
        """Guards that `install` put around every guarded method of this service."""

    def tracer_provider(self) -> TracerProvider:
        """The provider whose spans this process exports."""

    def at_shutdown(self, owner: Any, close: Callable[[], None]) -> None:
        """Call ``close`` once when the worker that serves ``owner`` stops."""

    def workers(self, owner: Any) -> int:
        """How many processes on this host serve ``owner``."""

    def pinned(self, owner: type, tag: str) -> str:
        """The exact tag the running bento was built with, for a tag such as ``name:latest``."""

    def function_behind(self, attribute: Any) -> Callable[..., Any] | None:
        """The plain function behind a server's own descriptor (BentoML's APIMethod), else None."""

    def is_dependency(self, owner: type, name: str) -> bool:
        """Whether ``owner.name`` is another service (``bentoml.depends``)."""

    def dependency_function(self, owner: type, name: str, api: str) -> Callable[..., Any] | None:
        """The function behind an API of such a service, where its code is here; None where it is only an address.

        Raises:
            DecorationError: its code is here, and it has no such API.
        """


class PlainHost:
    """No server: a notebook, a unit test, a script."""

    def batchable(self, owner: type, name: str) -> bool:  # noqa: ARG002
        """Nothing merges calls here."""
        return False

    def route(self, owner: type, name: str) -> str:  # noqa: ARG002
        """As BentoML would name it."""
        return f"/{name}"

    def installed(self, owner: type) -> Sequence[Guard]:  # noqa: ARG002
        """Nothing is installed."""
        return ()

    def tracer_provider(self) -> TracerProvider:
        """OpenTelemetry's global provider, as for any library."""
        from opentelemetry import trace

        return trace.get_tracer_provider()

    def at_shutdown(self, owner: Any, close: Callable[[], None]) -> None:  # noqa: ARG002
        """Close at interpreter exit."""
        import atexit

        atexit.register(close)

    def workers(self, owner: Any) -> int:  # noqa: ARG002
        """This one."""
        return 1

    def pinned(self, owner: type, tag: str) -> str:  # noqa: ARG002
        """Nothing is pinned."""
        return tag

    def function_behind(self, attribute: Any) -> Callable[..., Any] | None:  # noqa: ARG002
        """There are no descriptors."""
        return None

    def is_dependency(self, owner: type, name: str) -> bool:  # noqa: ARG002
        """There are no other services."""
        return False

    def dependency_function(self, owner: type, name: str, api: str) -> Callable[..., Any] | None:  # noqa: ARG002
        """There are no other services."""
        return None


_host: Host = PlainHost()


def host() -> Host:
    """The server this process runs in."""
    return _host


def set_host(new: Host) -> None:
    """Name the server this process runs in (`guardrails.serving` does, when it is imported)."""
    global _host
    _host = new
