"""What one worker knows of itself, and of what it shares with the others."""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import datetime, timezone
from typing import Any

from guardrails._version import __version__
from guardrails.core.host import host
from guardrails.core.pipeline import Pipeline, Plan
from guardrails.decisions.sinks import Sinks, Spec, databases_in, open_sink
from guardrails.decisions.writer import DecisionLog
from guardrails.drift.sampler import samplers
from guardrails.evaluation.verdict import Stream
from guardrails.profile.profile import Profile
from guardrails.profile.reference import ProfileRef, resolve
from guardrails.serving.host import settle_media_type
from guardrails.serving.loop_status import LoopStatus

logger = logging.getLogger("guardrails")

RETRY_AFTER = 5.0
"""Seconds between two tries to set up what could not be set up at start."""


class Worker:
    """One worker of a guarded service.

    Args:
        service: the service's name.
        pipelines: its guarded methods.
        profile: the profile `install` was given, if any.
        decisions: where decisions go, if they are kept.
        retention: how long a database keeps them.
        asgi_spans: whether the ASGI layer's own spans stay in the traces.

    Attributes:
        problem: why it is not ready; None when it is.
    """

    def __init__(
        self,
        service: str,
        pipelines: dict[str, Pipeline],
        profile: Profile | ProfileRef | None,
        decisions: Spec | None,
        *,
        retention: float | str | None = None,
        asgi_spans: bool = False,
    ) -> None:
        self._asgi_spans = asgi_spans
        self.service, self.pipelines = service, pipelines
        self._spec, self._kept, self._retention = profile, decisions, retention
        self.profile: Profile | None = None
        self.problem: str | None = "starting"
        self.log: DecisionLog | Sinks | None = None
        self._loop: LoopStatus | None = None
        self._plans: dict[str, Plan] = {}
        self._started = time.time()

    def start(self, instance: Any) -> None:
        """Set everything up; what fails is logged, named in the status, keeps the worker unready and is retried."""
        self._started = time.time()
        from guardrails.tracing.keep import keeper_of, quieten

        provider = host().tracer_provider()
        keeper = keeper_of(provider)
        if not self._asgi_spans:
            quieten(provider)
        elif keeper is not None:
            keeper.asgi_spans = True
        if keeper is not None:
            host().at_shutdown(instance, keeper.flush)
        if not self._try(instance):
            threading.Thread(target=self._retry, args=(instance,), name="guardrails-setup", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """As ``GET /guardrails/status`` answers it. Counts of drift are of all workers; the rest is this one's."""
        return {
            "service": self.service,
            "ready": self.problem is None,
            "problem": self.problem,
            "worker": {"pid": os.getpid(), "started": _iso(self._started)},
            "version": __version__,
            "profile": self._profile(),
            "guards": {name: [repr(guard) for guard in p.guards] for name, p in self.pipelines.items()},
            "state": {name: plan.status() for name, plan in self._plans.items()},
            "decisions": self._decisions(),
            "drift": self._drift(),
        }

    def _try(self, instance: Any) -> bool:
        try:
            if self._kept is not None:
                sink = open_sink(self._kept, self._retention)
                self.log = sink if isinstance(sink, DecisionLog | Sinks) else None
                self._loop = self._loop or self._loop_of(self._kept)
            if self._spec is not None:
                self.profile = resolve(self._spec, instance)
            for name, pipeline in self.pipelines.items():
                self._plans[name] = pipeline.bind(instance)
                settle_media_type(type(instance), name)
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
            logger.exception("%s is not ready: its guards could not be set up", self.service)
            return False
        self.problem = None
        return True

    def _loop_of(self, kept: Spec) -> LoopStatus | None:
        """Where something is explored and a database can be read."""
        explored = any(getattr(guard, "name", "") == "explore" for p in self.pipelines.values() for guard in p.guards)
        databases = databases_in(kept)
        return LoopStatus(databases[0]) if explored and databases else None

    def _retry(self, instance: Any) -> None:
        while not self._try(instance):
            time.sleep(RETRY_AFTER)

    def _profile(self) -> dict[str, Any] | None:
        if self.profile is None:
            return None
        return {
            "tag": self.profile.tag,
            "digest": self.profile.digest,
            "model": self.profile.model,
            "features": len(self.profile.schema.features),
            "alpha": self.profile.outliers.alpha,
            "calibration_rows": len(self.profile.outliers.calibration),
            "created": self.profile.created,
            "fitted_with": self.profile.versions,
        }

    def _decisions(self) -> dict[str, Any] | None:
        log = self.log
        if log is None or log.store is None:
            return None
        return {
            "store": log.store.url,
            "written": log.written,
            "waiting": log.waiting,
            "dropped": log.dropped,
            "error": log.last_error,
        }

    def _drift(self) -> list[dict[str, Any]]:
        return [Stream.of(sampler).status() for sampler in samplers()]

    def drift(self) -> list[dict[str, Any]]:
        """As ``GET /guardrails/drift`` answers it: every watched stream in full, over all workers of the host."""
        return [Stream.of(sampler).document() for sampler in samplers()]

    def loop(self) -> dict[str, Any] | None:
        """As ``GET /guardrails/loop`` answers it: how strong the feedback loop is, by the store; None without one."""
        return None if self._loop is None else self._loop.latest()

    def command_drift(self, action: str, profile: str | None, **details: Any) -> int:
        """Leave word for whoever judges drift on this host.

        Returns:
            How many watched streams it concerns: all, or those of one profile (a tag or digest).
        """
        chosen = [s for s in samplers() if profile in (None, s.profile.tag, s.profile.digest)]
        for sampler in chosen:
            sampler.leader.command(action, **details)
        return len(chosen)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
