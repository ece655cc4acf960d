"""@install: what a whole service gets: endpoints, headers, readiness, records, a flush at shutdown."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bentoml

from guardrails.core.pipeline import MARK, Pipeline
from guardrails.decisions.guard import Features, Record
from guardrails.decisions.sinks import Spec, databases_in
from guardrails.errors import DecorationError
from guardrails.fallbacks.ceiling import FallbackShare
from guardrails.profile.profile import Profile
from guardrails.profile.reference import ProfileRef
from guardrails.serving.endpoints import Endpoints
from guardrails.serving.host import INSTALLED, mark_serving, prepare_shutdown
from guardrails.serving.middleware import GuardMiddleware
from guardrails.serving.status import Worker
from guardrails.typing import Guard

if TYPE_CHECKING:
    from _bentoml_sdk import Service

logger = logging.getLogger("guardrails")

STARTUP_HOOK = "zz_guardrails_startup"
"""After the service's own start-up hooks, which may load what a guard's ``lambda self: ...`` asks for."""
DEPLOYMENT_HOOK = "zz_guardrails_deployment"


@dataclass(frozen=True)
class install:  # noqa: N801  # a decorator is read as a verb
    """Prepare a service for its guards: stands above ``@bentoml.service``.

    It adds ``Guardrails-*`` response headers and the JSON body of refusals, ``GET <path>/status``, ``GET <path>/``,
    ``POST <path>/feedback``, a decision record for every answered request, a readiness that says no while a guard
    cannot be set up, and a bounded flush of spans and records when the worker stops. It pins the profile in the bento.

    Args:
        profile: the service's profile, by reference or in hand; for the bento and for the status.
        decisions: ``sqlite:///decisions.db`` or a PostgreSQL URL (SQLAlchemy's form), ``otlp+http://host:4318/v1/logs``
            (a Collector), a function that takes each record, or a list of these; None records nothing.
        model: the attribute of the service that names the model in records, for services without a profile (whose
            model it would be): a stored model, or a text that may change when the service retrains. By default the
            service's one ``BentoModel``, if it has exactly one.
        retention: how long a database keeps decisions and what became of them, such as ``"90d"``; None is for ever.
        path: where the endpoints are.
        token: when set, the endpoints want ``Authorization: Bearer <token>``.
        features: what a decision record keeps of the row: ``"store"``, ``"hash"`` or ``"none"``.
        asgi_spans: keep the four or five "http send" and "http receive" spans that the ASGI layer adds to each request
            (and one per item of a stream). They say nothing that the server span does not, and cost more than all
            guards together; the default leaves them out of this service's traces.
        fallback_ceiling: the share of recent rows, per method and worker, that somebody else than the method may
            answer before ``guardrails_fallback_alarm`` says 1. The share itself is always measured.
        batch_links: tell the clients of *batchable* methods apart: headers of their own, the verdict on each request's
            own span, links from the batch's span to these. It goes into BentoML's dispatcher (of every service in the
            process) if that is as it was read, and warns in one line if not. See `guardrails.serving.batches`.

    Raises:
        DecorationError: at import, when it stands below ``@bentoml.service``, or a guard cannot work in this service.
    """

    profile: Profile | ProfileRef | None = None
    decisions: Spec | None = None
    path: str = "/guardrails"
    token: str | None = None
    features: Features = "none"
    asgi_spans: bool = False
    fallback_ceiling: float | None = None
    batch_links: bool = False
    retention: float | str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or self.path == "/":
            raise DecorationError(f"install(path={self.path!r}): the path begins with a slash and is more than one.")
        if self.fallback_ceiling is not None and not 0.0 < self.fallback_ceiling < 1.0:
            raise DecorationError(f"install(fallback_ceiling={self.fallback_ceiling!r}): a share, between 0 and 1.")
        if self.features not in ("store", "hash", "none"):
            raise DecorationError(f"install(features={self.features!r}): it is 'store', 'hash' or 'none'.")

    def __call__(self, service: Service[Any]) -> Service[Any]:
        """Prepare a service."""
        from bentoml import Service
        from bentoml.models import BentoModel

        if not isinstance(service, Service):
            raise DecorationError(
                f"install stands below @bentoml.service on {getattr(service, '__name__', service)!r}. "
                "Move it above: it prepares the finished service."
            )
        if getattr(service.inner, STARTUP_HOOK, None) is not None:
            raise DecorationError(f"{service.name} has @guardrails.install twice. Keep one.")
        pipelines = guarded_apis(service)
        _verify(service.inner, pipelines)
        worker = Worker(
            service.name, pipelines, self.profile, self.decisions, retention=self.retention, asgi_spans=self.asgi_spans
        )
        installed: tuple[Guard, ...] = (FallbackShare(self.fallback_ceiling),)
        if self.decisions is not None:
            model = self.model or _only_model(service.inner, getattr(self.profile, "tag", None))
            installed += (Record(self.decisions, self.features, model),)
            setattr(service.inner, DEPLOYMENT_HOOK, bentoml.on_deployment(_prepare_stores(self.decisions)))
        setattr(service.inner, INSTALLED, installed)
        prepare_shutdown(service.inner)
        tag = getattr(self.profile, "tag", None)
        if tag is not None and all(str(getattr(model, "tag", "")) != tag for model in service.models):
            service.models.append(BentoModel(tag))
        setattr(service.inner, STARTUP_HOOK, bentoml.on_startup(_start(worker)))
        service.inner.__is_ready__ = _ready(worker, getattr(service.inner, "__is_ready__", None))
        routes = tuple(service.apis[name].route for name in pipelines)
        service.add_asgi_middleware(GuardMiddleware, guarded=routes)
        if self.batch_links:
            from guardrails.serving.batches import link_batches

            link_batches()
        # A plain callable, not a Starlette app: BentoML lists a Starlette's routes in the service's schema.
        service.mount_asgi_app(Endpoints(worker, self.path, self.token), path=self.path, name="guardrails")
        return service


def guarded_apis(service: Service[Any]) -> dict[str, Pipeline]:
    """The pipelines of a service's guarded methods, by the name of the API."""
    functions = {name: api.func for name, api in service.apis.items()}
    return {name: getattr(fn, MARK) for name, fn in functions.items() if getattr(fn, MARK, None) is not None}


def _verify(cls: type, pipelines: dict[str, Pipeline]) -> None:
    """Resolve every fallback at import, on an instance never set up: names and shapes are the class's."""
    blank: Any = object.__new__(cls)
    for pipeline in pipelines.values():
        method = pipeline.method.bound_to(blank)
        for guard in pipeline.guards:
            verify = getattr(guard, "verify", None)
            if verify is not None:
                verify(method)


def _only_model(cls: type, profile: str | None) -> str | None:
    """The class's one stored model, the profile apart."""
    from bentoml.models import BentoModel

    known = {name: value for one in reversed(cls.__mro__) for name, value in vars(one).items()}
    names = [name for name, value in known.items() if isinstance(value, BentoModel) and str(value.tag) != profile]
    return names[0] if len(names) == 1 else None


def _prepare_stores(decisions: Spec) -> Any:
    urls = databases_in(decisions)

    def prepare() -> None:
        """Make the tables once, before the workers start."""
        from guardrails.decisions.stores.store import DecisionStore

        try:
            for url in urls:
                store = DecisionStore(url)
                store.create()
                store.close()
        except Exception:  # the workers' writers try again; a store that is down never keeps a service down
            logger.exception("the decision store could not be prepared; records will wait for it")

    return staticmethod(prepare)


def _start(worker: Worker) -> Any:
    def start(self: Any) -> None:
        """Bind every pipeline, so that no request pays for it; what fails keeps the worker from being ready."""
        mark_serving()
        worker.start(self)

    return start


def _ready(worker: Worker, before: Any) -> Any:
    async def ready(self: Any) -> bool:
        if worker.problem is not None:
            return False
        if before is None:
            return True
        answer = before(self)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    return ready
