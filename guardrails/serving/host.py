"""BentoML's answers to what the pipeline asks of its host."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import bentoml

from guardrails.errors import DecorationError, Rejected

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from guardrails.typing import Guard

logger = logging.getLogger("guardrails")

INSTALLED = "__guardrails_installed__"
SHUTDOWN_HOOK = "zz_guardrails_shutdown"
"""BentoML runs hooks in the order of their names: ours comes after the service's own, which may still log decisions."""

_closers: dict[int, list[Callable[[], None]]] = {}
_lock = threading.Lock()
_serving = threading.Event()


def api_method(attribute: Any) -> Any:
    """The attribute, if it is what ``@bentoml.api`` makes, else None.

    BentoML loads its SDK (0.6 s) when somebody first uses it: as long as nobody has, nothing can be of its making.
    """
    module = sys.modules.get("_bentoml_sdk.method")
    return attribute if module is not None and isinstance(attribute, module.APIMethod) else None


def mark_serving() -> None:
    """This process is a worker: from now on BentoML's own tracer provider is the one that exports."""
    _serving.set()
    logging.getLogger("bentoml._internal.server.http_app").addFilter(_refusal_in_one_line)


def _refusal_in_one_line(record: logging.LogRecord) -> bool:
    """A refused request is an answer, not an accident: one line in the log, no traceback of forty."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, Rejected):
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
        record.msg, record.args = "refused (%s, decision %s): %s", (error.reason, error.decision_id, error)
    return True


class BentoHost:
    """BentoML around a guarded method."""

    def batchable(self, owner: type, name: str) -> bool:
        """As ``@bentoml.api(batchable=...)`` says."""
        api = api_method(inspect.getattr_static(owner, name, None))
        return api is not None and bool(api.batchable)

    def route(self, owner: type, name: str) -> str:
        """As ``@bentoml.api(route=...)`` says, below the service's prefix."""
        api = api_method(inspect.getattr_static(owner, name, None))
        service = service_of(owner)
        prefix = str(getattr(service, "path_prefix", None) or "").rstrip("/")
        return f"/{name}" if api is None else f"{prefix}{api.route}"

    def installed(self, owner: type) -> Sequence[Guard]:
        """What `install` left on the class."""
        guards: Sequence[Guard] = getattr(owner, INSTALLED, ())
        return guards

    def tracer_provider(self) -> TracerProvider:
        """BentoML's provider while serving (asking for it earlier would build it before it is configured)."""
        if _serving.is_set() or _in_request():
            from bentoml._internal.configuration.containers import BentoMLContainer

            return BentoMLContainer.tracer_provider.get()  # type: ignore[no-any-return]
        from opentelemetry import trace

        return trace.get_tracer_provider()

    def at_shutdown(self, owner: Any, close: Callable[[], None]) -> None:
        """In a worker, in BentoML's shutdown hook (``atexit`` does not run there); elsewhere at exit."""
        if owner is None or not (_serving.is_set() or _in_request()):
            atexit.register(close)
            return
        with _lock:
            closers = _closers.setdefault(id(type(owner)), [])
            if close not in closers:
                closers.append(close)
        prepare_shutdown(type(owner))

    def workers(self, owner: Any) -> int:
        """As ``@bentoml.service(workers=...)`` says; one outside of a server."""
        service = service_of(type(owner))
        if service is None or not _serving.is_set():
            return 1
        asked = service.config.get("workers", 1)
        if asked == "cpu_count":
            return os.cpu_count() or 1
        return max(len(asked) if isinstance(asked, list) else int(asked or 1), 1)

    def pinned(self, owner: type, tag: str) -> str:
        """The version in the running bento: ``bentoml serve`` itself would take the newest one on this machine."""
        service = service_of(owner)
        bento = None if service is None else service.bento
        if bento is None:
            return tag
        name = tag.partition(":")[0]
        pinned = (str(info.tag) for info in bento.info.all_models if info.tag.name == name)
        return next(pinned, tag)

    def function_behind(self, attribute: Any) -> Callable[..., Any] | None:
        """The function an ``@bentoml.api`` wraps; of a guarded one, the guarded function."""
        api = api_method(attribute)
        fn: Callable[..., Any] | None = None if api is None else api.func
        return fn

    def is_dependency(self, owner: type, name: str) -> bool:
        """As ``name = bentoml.depends(...)`` says."""
        return _dependency(owner, name) is not None

    def dependency_function(self, owner: type, name: str, api: str) -> Callable[..., Any] | None:
        """The function behind the other service's API; None where it is a URL or a deployment."""
        on = getattr(_dependency(owner, name), "on", None)
        if on is None:
            return None
        if api not in on.apis:
            raise DecorationError(f"{on.name} has no API {api!r}; it has {', '.join(on.apis)}. Name one of these.")
        fn: Callable[..., Any] = on.apis[api].func
        return fn


def _dependency(owner: type, name: str) -> Any:
    module = sys.modules.get("_bentoml_sdk.service.dependency")
    attribute = inspect.getattr_static(owner, name, None)
    return attribute if module is not None and isinstance(attribute, module.Dependency) else None


def prepare_shutdown(owner: type) -> None:
    """Give a service class its shutdown hook; at import where that is possible.

    Older versions of BentoML walk through the class's attributes while start-up hooks run, and end where one is added.
    """
    if SHUTDOWN_HOOK not in vars(owner):
        setattr(owner, SHUTDOWN_HOOK, bentoml.on_shutdown(_close_all))


def settle_media_type(owner: type, name: str) -> None:
    """Work out the media type of an API once.

    BentoML makes the JSON schema of the answer anew for each response, to look
    its type up there: at 0.1 to 0.2 ms that is more than most guards take.
    """
    api = api_method(inspect.getattr_static(owner, name, None))
    spec = None if api is None else api.output_spec
    if spec is not None:
        with contextlib.suppress(Exception):  # a saving, never a reason not to start
            settled = spec.mime_type()
            spec.mime_type = classmethod(lambda _: settled)


def service_of(owner: type) -> Any:
    """The BentoML service made of a class; None where there is none."""
    module = sys.modules.get(owner.__module__)
    for value in () if module is None else tuple(vars(module).values()):
        if type(value).__name__ == "Service" and getattr(value, "inner", None) is owner:
            return value
    return None


def _in_request() -> bool:
    try:
        bentoml.Context().request  # noqa: B018  # raises outside of a request
    except LookupError:
        return False
    return True


def _close_all(self: Any) -> None:
    """Flush and close, side by side: a store that is down must not take the collector's time."""
    with _lock:
        closers = _closers.pop(id(type(self)), [])
    threads = [threading.Thread(target=_close_quietly, args=(close,), daemon=True) for close in closers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(CLOSE_TIMEOUT)


CLOSE_TIMEOUT = 8.0
"""Seconds any one of them may hold up the shutdown; they run side by side."""


def _close_quietly(close: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        close()
