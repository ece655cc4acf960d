"""How much exploration is allowed: a cap for each user, a budget for all. Both decide before the draw."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass

from guardrails.errors import DecorationError

LEAST = 0.01
"""Below this share of its exploration a request does not explore: the weights would grow without bound."""
UNITS = 100_000
"""Users whose explored answers are remembered; the one heard of longest ago is forgotten first."""


@dataclass(frozen=True)
class Cap:
    """At most so many explored answers for one unit within a window.

    Whether the cap is reached is known before the draw and depends on the past alone, so the logged probability stays
    exact: at the cap the model's own answer is served with probability one. Each worker keeps its own count, so that a
    unit may see up to ``answers`` from each of them.

    Args:
        answers: how many answers that differ from the model's own.
        window: seconds.

    Raises:
        DecorationError: one of them is not positive.
    """

    answers: int
    window: float = 86_400.0

    def __post_init__(self) -> None:
        whole = isinstance(self.answers, int) and not isinstance(self.answers, bool)
        if not whole or self.answers < 1 or not self.window > 0:
            raise DecorationError(
                f"{self!r}: a whole number of answers from 1, within a window of more than 0 seconds."
            )


@dataclass(frozen=True)
class RegretBudget:
    """How much predicted score exploration may give up per second (a token bucket).

    The predicted regret of a request is what its exploration costs on average by the model's own scores,
    ``sum_a p_a (s_greedy - s_a)``. While the bucket holds less than that, the request explores with that share of its
    policy's probabilities and serves the model's own choice otherwise. The share is fixed before the draw and depends
    on the past alone, and what is charged is the expectation, not what came of the draw: the probabilities stay exact.

    Args:
        per_second: score units per second, over all workers of the service on this host.
        burst: how much may be saved up; by default ten seconds' worth.

    Raises:
        DecorationError: one of them is not positive.
    """

    per_second: float
    burst: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.per_second < float("inf") or (self.burst is not None and not self.burst > 0):
            raise DecorationError(f"{self!r}: a budget is a positive number of score units per second.")


class CapCounter:
    """How many explored answers each unit has had lately.

    Args:
        cap: the limit.
        units: how many units are remembered.
    """

    def __init__(self, cap: Cap, units: int = UNITS) -> None:
        self._cap, self._units = cap, units
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()
        self._taken: Counter[str] = Counter()  # by requests under way
        self._lock = threading.Lock()

    def take(self, unit: str) -> bool:
        """Take one of a unit's places until `settle` says whether it was needed; False where all are taken."""
        with self._lock:
            times = self._seen.get(unit) or deque()
            horizon = time.monotonic() - self._cap.window
            while times and times[0] <= horizon:
                times.popleft()
            if len(times) + self._taken[unit] >= self._cap.answers:
                return False
            self._taken[unit] += 1
            return True

    def settle(self, unit: str, *, explored: bool) -> None:
        """Give a place back, or keep it for the window: the unit was served something else than the model's own."""
        with self._lock:
            self._taken[unit] -= 1
            if self._taken[unit] <= 0:
                del self._taken[unit]
            if not explored:
                return
            self._seen.setdefault(unit, deque()).append(time.monotonic())
            self._seen.move_to_end(unit)
            if len(self._seen) > self._units:
                self._seen.popitem(last=False)


class Bucket:
    """The budget's token bucket.

    Args:
        budget: how it fills.
        workers: among how many workers it is shared out.
    """

    def __init__(self, budget: RegretBudget, workers: int = 1) -> None:
        self._rate = budget.per_second / workers
        self._most = (10 * budget.per_second if budget.burst is None else budget.burst) / workers
        self._tokens, self._at = self._most, time.monotonic()
        self._lock = threading.Lock()

    def share(self, regret: float) -> float:
        """Which share of a request's exploration the bucket can pay for, and pay for it.

        Args:
            regret: predicted, in score units; not negative.

        Returns:
            Between 0.01 and 1, or 0.
        """
        if not regret > 0:
            return 1.0 if regret == 0 else 0.0
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
            self._at = now
            share = min(1.0, self._tokens / regret)
            if share < LEAST:
                return 0.0
            self._tokens -= share * regret
            return share

    @property
    def tokens(self) -> float:
        """What is left, in score units."""
        with self._lock:
            return min(self._most, self._tokens + (time.monotonic() - self._at) * self._rate)
