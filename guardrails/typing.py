"""The extension points: one-method Protocols, so that a plug-in author has one name to learn and nothing to inherit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from guardrails.core.call import Call, Stage
    from guardrails.core.method import Method
    from guardrails.core.targets import Target
    from guardrails.decisions.records import Decision

Rows: TypeAlias = npt.NDArray[np.float64]
"""A matrix of rows, shape ``(n, d)``."""
Scores: TypeAlias = npt.NDArray[np.float64]
"""One score per row, shape ``(n,)``; higher is stranger."""
Mask: TypeAlias = npt.NDArray[np.bool_]
"""One bit per row, shape ``(n,)``."""
Probabilities: TypeAlias = npt.NDArray[np.float64]
"""One probability per action, shape ``(K,)`` or ``(n, K)``; the last axis sums to one."""

F = TypeVar("F", bound=Callable[..., Any])
"""A decorated method: it comes back with the type it came with."""


class Hooks(NamedTuple):
    """What a bound guard does around a call, and says of itself: plain synchronous functions, any may be absent.

    Attributes:
        before, after: look at the call before and after the answer.
        status: what the status page says of the guard.
        chain: who answers what it sends away.
    """

    before: Callable[[Call], None] | None = None
    after: Callable[[Call], None] | None = None
    status: Callable[[], Mapping[str, Any]] | None = None
    chain: tuple[Target, ...] = ()


class Guard(Protocol):
    """Something that looks at a call before and after. It never calls the method itself."""

    @property
    def stage(self) -> Stage:
        """Where in the flow it stands, whatever the order of the decorators."""

    def bind(self, method: Method, /) -> Hooks:
        """Resolve options against the live service, once per worker; return specialised closures."""


@runtime_checkable
class Detector(Protocol):
    """An outlier detector that is already fitted. Higher is stranger, as in PyOD, river and alibi-detect."""

    def score(self, rows: Rows, /) -> Scores:
        """Score rows of shape ``(n, d)``."""


@runtime_checkable
class Policy(Protocol):
    """An exploration policy: scores to probabilities, exactly, with no state and no randomness of its own.

    A policy of actions needs no more than this. Policies of lists say ``kind = "ranking"`` and have `sample` and
    `organic`, too (`guardrails.exploration.rankings.RankingPolicy`); those of a threshold ``kind = "threshold"`` and
    `greedy`; those of numbers ``kind = "value"``, and a density `pdf` and `sample` in place of `pmf`.
    `guardrails.testing.check_policy` checks one of your own, of any kind.
    """

    def pmf(self, scores: Scores, /) -> Probabilities:
        """Probabilities of the actions for scores of shape ``(K,)`` or ``(n, K)``; the last axis sums to one."""


@runtime_checkable
class Sink(Protocol):
    """Where decision records go. It must not block and must not raise."""

    def __call__(self, record: Decision, /) -> object:
        """Take one record."""
