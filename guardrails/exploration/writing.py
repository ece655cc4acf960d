"""Write what was drawn into an answer, and find out before the draw whether that can be done at all."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from guardrails.exploration.codec.asked import Asked, Codec
from guardrails.exploration.outcome import CHOICE, RANKING, VALUE, Drawn

if TYPE_CHECKING:
    from guardrails.exploration.guard import explore

logger = logging.getLogger("guardrails")


class Writer:
    """Writes back.

    Whether an answer can be written must not depend on what was drawn: were only those lost that differ, what is left
    would be chosen by its own draw, and no logged probability would be true.

    Args:
        options: as the decorator was given them.

    Attributes:
        broken: an answer could not be written although the trial had gone well; nothing may be explored any more.
    """

    def __init__(self, options: explore) -> None:
        self._kind, self._policy = options.kind, options.policy
        # What the library reads and writes by itself it refuses on reading; functions of the service may do anything.
        self._foreign = options.enforce and (options.apply is not None or options.scores is not None)
        self.broken = False

    def try_out(self, answer: Any, codec: Codec, asked: Asked, drawn: list[Drawn], rows: Sequence[int]) -> None:
        """Write some other choice into a copy, for each row that might have differed, whether it does or not.

        Raises:
            Exception: whatever comes of it; then nothing is explored.
        """
        free = [at for at, one in enumerate(drawn) if self._foreign and self._might_differ(one)]
        if not free:
            return
        spare = copy.deepcopy(answer)  # it may be changed in place
        for at in free:
            spare = _write(codec, spare, None if asked.single else rows[at], *self._another(asked, at))

    def written(self, answer: Any, codec: Codec, asked: Asked, drawn: list[Drawn], rows: Sequence[int]) -> Any:
        """The answer with what was drawn in it: the model's own object where nothing differs.

        Raises:
            Exception: it could not be written; the model's own object is as it was.
        """
        differing = [(at, one) for at, one in enumerate(drawn) if one.differs]
        if differing and self._foreign:
            answer = copy.deepcopy(answer)
        try:
            for at, one in differing:
                answer = _write(codec, answer, None if asked.single else rows[at], *self._named(one, asked, at))
        except Exception:
            self.broken = True
            logger.exception("an answer could not be written back: this worker explores this method no more")
            raise
        return answer

    def _might_differ(self, one: Drawn) -> bool:
        """By the probabilities alone, never by what was drawn."""
        if one.refused is not None:
            return False
        return self._kind in (RANKING, VALUE) or float(one.pmf[one.own]) < 1.0

    def _named(self, one: Drawn, asked: Asked, at: int) -> tuple[Any, Any]:
        """The model's own choice and the drawn one as whoever writes them knows them: listed candidates by name."""
        if self._kind != RANKING or asked.names is None:
            return one.own, one.chosen
        names = asked.names[at]
        return [names[i] for i in one.own], [names[i] for i in one.chosen]

    def _another(self, asked: Asked, at: int) -> tuple[Any, Any]:
        """The model's own choice of a row, and some other one."""
        scores, policy = np.asarray(asked.scores[at]), self._policy
        if self._kind == RANKING:
            own = list(policy.organic(scores))  # type: ignore[attr-defined]  # checked at decoration
            names = list(range(len(scores))) if asked.names is None else asked.names[at]
            return [names[i] for i in own], [names[i] for i in reversed(own)]
        if self._kind == VALUE:
            return float(scores), float(scores)
        if asked.own is not None:
            greedy = asked.own[at]
        else:
            greedy = int(scores.argmax() if self._kind == CHOICE else policy.greedy(scores))  # type: ignore[attr-defined]
        return greedy, (greedy + 1) % len(scores) if self._kind == CHOICE else 1 - greedy


def _write(codec: Codec, answer: Any, row: int | None, own: Any, served: Any) -> Any:
    written = codec.write(answer, row, own, served)
    if written is None:
        raise ValueError("apply= answered None; it returns the answer with the other choice in it")
    return written
