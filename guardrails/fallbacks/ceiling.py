"""A ceiling on fallbacks: a service that is all fallback has failed, if safely, and somebody should know."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar

from guardrails import semconv
from guardrails.core import metrics
from guardrails.core.call import Call, Stage
from guardrails.core.method import Method
from guardrails.core.pipeline import brief
from guardrails.errors import is_clients
from guardrails.typing import Hooks

WINDOW = 500
"""Rows looked back upon."""
FEWEST = 50
"""Rows below which a share says nothing yet."""


@dataclass(frozen=True, repr=False)
class FallbackShare:
    """Watch how many of the last rows the primary did not answer (`install` adds it; it is no decorator of its own).

    Args:
        ceiling: the share above which ``guardrails_fallback_alarm`` is 1; None only measures.
    """

    ceiling: float | None = None
    name: ClassVar[str] = "fallback_share"
    stage: Stage = Stage.RECORD
    __repr__ = brief

    def bind(self, method: Method) -> Hooks:
        """One window for each method and worker."""
        window = _Window(method.name, self.ceiling)
        return Hooks(after=window.after, status=window.status)


class _Window:
    """The last rows of one method."""

    def __init__(self, api: str, ceiling: float | None) -> None:
        self._ceiling = ceiling
        self._calls: deque[tuple[int, int]] = deque()
        self._rows = self._elsewhere = 0
        self._alarm = False
        self._lock = threading.Lock()
        self._share_gauge, self._alarm_gauge = (
            metrics.fallback_share().labels(api),
            metrics.fallback_alarm().labels(api),
        )
        self._share_gauge.set(0.0)
        self._alarm_gauge.set(0)

    def after(self, call: Call) -> None:
        error = call.error
        if call.cancelled or (error is not None and is_clients(error) and call.route != semconv.REJECTED):
            return  # whoever left, or asked for what there is not, says nothing of who should have answered
        rows, elsewhere = call.count(), 0
        if error is not None or len(call.parts) > 1 or call.parts[0].route != semconv.PRIMARY:
            mine = (p for p in call.parts if p.route == semconv.PRIMARY and error is None)
            elsewhere = rows - sum(rows if p.index is None else len(p.index) for p in mine)
        with self._lock:
            self._calls.append((rows, elsewhere))
            self._rows += rows
            self._elsewhere += elsewhere
            changed = elsewhere
            while self._rows - self._calls[0][0] >= WINDOW:
                gone, went = self._calls.popleft()
                self._rows -= gone
                self._elsewhere -= went
                changed += went
            if changed or self._elsewhere:
                self._tell()

    def status(self) -> dict[str, Any]:
        """As the status page shows it."""
        return {"share": round(self._share(), 4), "rows": self._rows, "ceiling": self._ceiling, "alarm": self._alarm}

    def _share(self) -> float:
        return self._elsewhere / self._rows if self._rows else 0.0

    def _tell(self) -> None:
        share = self._share()
        self._share_gauge.set(share)
        alarm = self._ceiling is not None and self._rows >= FEWEST and share > self._ceiling
        if alarm is not self._alarm:
            self._alarm = alarm
            self._alarm_gauge.set(int(alarm))
