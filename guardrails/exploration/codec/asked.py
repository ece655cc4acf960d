"""What an answer offers to explore, and the protocol of those who read it and write it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(slots=True)
class Asked:
    """Row by row, what there is to choose from.

    Attributes:
        scores: per row the candidates' scores, shape ``(K,)``; of a threshold or a value one number.
        single: whether the answer has no row axis.
        names: per row the candidates' names; None where they are numbered from 0.
        own: per row what the model itself chose, where the answer says so and the scores do not.
    """

    scores: Sequence[npt.NDArray[np.float64]] | npt.NDArray[np.float64]
    single: bool
    names: list[list[Any]] | None = None
    own: list[int] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def of(self, rows: Sequence[int]) -> Asked:
        """Some of the rows."""
        names, own = self.names, self.own
        return Asked(
            [self.scores[at] for at in rows],
            self.single,
            None if names is None else [names[at] for at in rows],
            None if own is None else [own[at] for at in rows],
        )


class Codec(Protocol):
    """Reads what an answer offers and writes back what was drawn."""

    def read(self, answer: Any, pool: Sequence[Any] | None = None) -> Asked:
        """What the answer offers; ``pool`` are candidates besides those in it."""

    def write(self, answer: Any, row: int | None, own: Any, served: Any) -> Any:
        """A copy that says ``served`` where the model said ``own``."""
