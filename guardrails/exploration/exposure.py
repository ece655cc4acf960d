"""Who is chosen how often: measures over counts, and counters a worker can afford to keep for its status page."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]

CAP = 10_000
"""Different actions one counter keeps apart; what comes beyond is counted together."""
WINDOW = 50_000
"""Decisions after which the older half of what is counted is forgotten, so that a retrained model shows."""
TOP = 0.1
"""The top share is that of the tenth of the actions chosen most."""


def coverage(counts: npt.ArrayLike, at_least: float = 1) -> float:
    """The share of the actions that were chosen at all.

    Args:
        counts: how often each action was chosen, shape ``(K,)``; those never chosen belong in it, as zeros.
        at_least: how often counts as chosen.

    Raises:
        ValueError: counts are negative, not numbers, or none.

    Example:
        >>> coverage([5, 0, 1, 0])
        0.5
    """
    return float((_counts(counts) >= at_least).mean())


def gini(counts: npt.ArrayLike) -> float:
    """How unequally the choices fall on the actions: 0 where all get the same, ``1 - 1/K`` where one gets all.

    ``sum_i (2 i - K - 1) x_(i) / (K sum_i x_i)`` over the counts in ascending order. Mixing a share ``e`` of uniform
    choices into any others multiplies it by exactly ``1 - e``, whatever a model has learned: see
    `guardrails.evaluation.loop.mechanical_gini`.

    Args:
        counts: how often each action was chosen, shape ``(K,)``; those never chosen belong in it, as zeros.

    Returns:
        NaN where nothing was chosen.

    Raises:
        ValueError: counts are negative, not numbers, or none.

    Example:
        >>> gini([1, 1, 1, 1]), gini([8, 0, 0, 0])
        (0.0, 0.75)
    """
    ordered = np.sort(_counts(counts))
    total = ordered.sum()
    if total == 0:
        return float("nan")
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def normalised_entropy(counts: npt.ArrayLike) -> float:
    """Shannon's entropy of the choices over that of equal ones: 1 where all actions get the same, 0 where one gets all.

    Args:
        counts: how often each action was chosen, shape ``(K,)``; those never chosen belong in it, as zeros.

    Returns:
        NaN where nothing was chosen, or there is only one action.

    Raises:
        ValueError: counts are negative, not numbers, or none.

    Example:
        >>> normalised_entropy([2, 2, 0, 0])
        0.5
    """
    values = _counts(counts)
    total = values.sum()
    if total == 0 or len(values) == 1:
        return float("nan")
    shares = values[values > 0] / total
    return abs(float(-(shares * np.log(shares)).sum() / np.log(len(values))))  # abs: no -0.0


def top_share(counts: npt.ArrayLike, top: float = TOP) -> float:
    """The share of the choices that went to the most chosen actions.

    Args:
        counts: how often each action was chosen, shape ``(K,)``; those never chosen belong in it, as zeros.
        top: which share of the actions, rounded up to whole ones.

    Returns:
        NaN where nothing was chosen.

    Raises:
        ValueError: counts are negative, not numbers, or none; ``top`` is not in (0, 1].

    Example:
        >>> top_share([6, 2, 1, 1])
        0.6
    """
    if not 0 < top <= 1:
        raise ValueError(f"top={top!r}: a share of the actions lies above 0 and is at most 1")
    values = np.sort(_counts(counts))[::-1]
    total = values.sum()
    # Rounded first: 0.1 * 70 is 7.000000000000001, and that is seven actions.
    return float(values[: int(np.ceil(round(top * len(values), 9)))].sum() / total) if total else float("nan")


def _counts(counts: npt.ArrayLike) -> Counts:
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"counts of shape {values.shape}: one number per action, shape (K,) with K at least 1")
    if not (values >= 0).all() or not np.isfinite(values).all():
        raise ValueError("counts are finite numbers from 0; there is a negative one, an infinity or a NaN")
    return values


class Exposure:
    """Counts what a model chose itself (greedy) and what was shown, separately, at a constant cost per decision.

    Exploration spreads what is *shown* by itself; only the *greedy* choices tell whether the model has learned from it.
    One object per explored method and worker. Memory is bounded by ``cap``, and decisions older than one to two windows
    are forgotten, so that the figures are of the model that answers now.

    Args:
        cap: different actions that are kept apart; choices of others are counted together (``other``).
        window: decisions after which a new set of counts begins; the figures are of it and the one before.

    Example:
        >>> exposure = Exposure()
        >>> for shown in (0, 0, 0, 3):
        ...     exposure.add(0, shown, candidates=4)
        >>> status = exposure.status()
        >>> status["greedy"]["coverage"], status["shown"]["coverage"], status["differs"]
        (0.25, 0.5, 0.25)
    """

    def __init__(self, cap: int = CAP, window: int = WINDOW) -> None:
        if cap < 1 or window < 1:
            raise ValueError(f"Exposure(cap={cap!r}, window={window!r}): both are at least 1")
        self._cap, self._window = cap, window
        self._now, self._before = _Counted(), _Counted()
        self._candidates = 0
        self._lock = threading.Lock()  # threads of one worker add at once, and a lost count would be no count

    def add(self, greedy: Any, shown: Any, candidates: int = 0) -> None:
        """Count one decision. Never raises for what an action is: one that cannot be a key is kept by its `repr`.

        Args:
            greedy: the model's own choice: an action (its number or id), or for a ranking the sequence of them.
            shown: what was served, likewise.
            candidates: how many actions there were to choose from, where that is known: coverage and Gini are over as
                many actions as the largest of these, or over those seen where they are more.
        """
        own, served = _actions(greedy), _actions(shown)
        with self._lock:
            if self._now.decisions >= self._window:
                self._now, self._before = _Counted(), self._now
            self._candidates = max(self._candidates, candidates)
            self._now.add(own, served, self._cap)

    def add_one(self, greedy: int, shown: int, candidates: int) -> None:
        """The same for two numbers of actions, for what every request pays: without the lock.

        Two threads that add at the same moment may lose one of the two counts.
        """
        now = self._now
        if (
            now.decisions >= self._window
            or candidates > self._candidates
            or greedy not in now.greedy
            or shown not in now.shown
        ):
            self.add(greedy, shown, candidates)
            return
        now.decisions += 1
        now.greedy[greedy] += 1
        now.shown[shown] += 1
        if greedy != shown:
            now.differs += 1

    def status(self) -> dict[str, Any]:
        """What a status page shows: plain numbers, None where nothing was counted.

        Returns:
            ``decisions``; ``actions`` (how many the figures are over); ``differs`` (share of decisions in which
            something else than the model's own was shown); ``other`` (choices beyond the cap, in none of the figures);
            and for ``greedy`` and ``shown``: ``coverage``, ``gini``, ``entropy`` and ``top_share``.
        """
        with self._lock:
            parts = self._before, self._now
            greedy, shown = _added(*(part.greedy for part in parts)), _added(*(part.shown for part in parts))
            decisions, differs, other = (sum(getattr(part, name) for part in parts) for name in _Counted.NUMBERS)
            candidates = self._candidates
        actions = max(candidates, len(greedy.keys() | shown.keys()))
        return {
            "decisions": decisions,
            "actions": actions,
            "differs": differs / decisions if decisions else None,
            "other": other,
            "greedy": _figures(greedy.values(), actions),
            "shown": _figures(shown.values(), actions),
        }


class _Counted:
    """One window's counts."""

    NUMBERS = ("decisions", "differs", "other")
    __slots__ = ("decisions", "differs", "greedy", "other", "shown")

    def __init__(self) -> None:
        self.greedy: dict[Hashable, int] = {}
        self.shown: dict[Hashable, int] = {}
        self.decisions = self.differs = self.other = 0

    def add(self, greedy: Sequence[Hashable], shown: Sequence[Hashable], cap: int) -> None:
        self.decisions += 1
        self.differs += greedy != shown
        for counts, actions in ((self.greedy, greedy), (self.shown, shown)):
            for action in actions:
                if action in counts:
                    counts[action] += 1
                elif len(counts) < cap:
                    counts[action] = 1
                else:
                    self.other += 1


def _actions(chosen: Any) -> tuple[Hashable, ...]:
    if isinstance(chosen, int | str):
        return (chosen,)
    if isinstance(chosen, np.ndarray | np.generic):
        chosen = chosen.tolist()
    actions = tuple(chosen) if isinstance(chosen, list | tuple) else (chosen,)
    try:
        hash(actions)
    except TypeError:
        return tuple(map(repr, actions))
    return actions


def _added(first: dict[Hashable, int], second: dict[Hashable, int]) -> dict[Hashable, int]:
    return {action: first.get(action, 0) + second.get(action, 0) for action in first.keys() | second.keys()}


def _figures(chosen: Iterable[int], actions: int) -> dict[str, float | None]:
    counts = np.zeros(max(actions, 1))
    held = np.fromiter(chosen, dtype=np.float64)
    if not len(held):
        return dict.fromkeys(("coverage", "gini", "entropy", "top_share"))
    counts[: len(held)] = held
    figures = {
        "coverage": coverage(counts),
        "gini": gini(counts),
        "entropy": normalised_entropy(counts),
        "top_share": top_share(counts),
    }
    return {name: value if value == value else None for name, value in figures.items()}  # noqa: PLR0124  # NaN
