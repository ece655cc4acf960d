"""@explore: a small, recorded share of answers differs from the model's own choice."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from guardrails import semconv
from guardrails.core.call import Call, Stage
from guardrails.core.method import Method
from guardrails.core.payload import Index, counts_rows, is_missing, take
from guardrails.core.pipeline import attach, brief
from guardrails.decisions.guard import Features, Record
from guardrails.decisions.records import Decision
from guardrails.errors import DecorationError
from guardrails.exploration import codec
from guardrails.exploration.randomness import draw
from guardrails.typing import F, Guard, Hooks, Policy, Probabilities, Scores, Sink

logger = logging.getLogger("guardrails")

KEY_VARIABLE = "GUARDRAILS_EXPLORATION_KEY"
_KEY_SIZES = range(16, 65)
_MATRIX = 2

Apply = Callable[[Any, "int | None", int, int], Any]


@dataclass(frozen=True, repr=False)
class explore:  # noqa: N801  # a decorator is read as a verb
    """Serve a little, recorded randomness, so that a model does not only learn what it already shows.

    The draw comes after the model's answer and before the response, on primary answers only: outliers and fallbacks
    are never explored. The logged propensity is the probability with which the served action was drawn. Where nothing
    is changed, the model's own object is returned.

    Args:
        policy: turns scores into probabilities, e.g. `EpsilonGreedy`.
        unit: what is randomised: each row by itself (None), or an argument's name, e.g. ``"user_id"``, whose values
            then keep their draw for a day (with several workers only if they share a key).
        scores: reads the candidates' scores from the answer; by default an ``(n, K)`` array, or its ``scores`` field.
        apply: writes the served action back, as ``apply(answer, row, greedy, action)``; by default the two scores
            change places and an ``action`` or ``label`` field follows.
        key: the environment variable that holds the secret of the draws (16 to 64 bytes). Without it each worker makes
            a secret of its own: propensities are as exact, but records cannot be replayed.
        decisions: where to record, for a service without `install(decisions=...)`: a URL, or a sink.
        features: what a record keeps of the row then: ``"store"``, ``"hash"`` or ``"none"``.
        enforce: False draws and records what would have been served, and always serves the model's own choice.

    Raises:
        DecorationError: at decoration, when the method streams or an option is none.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> seen = []
        >>> @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
        ... def rank(listeners: np.ndarray) -> np.ndarray:
        ...     return np.tile([0.1, 0.7, 0.2], (len(listeners), 1))
        >>> answer = rank(np.zeros((1, 4)))
        >>> bool(answer.argmax() == seen[0].action), seen[0].propensity in (0.5 + 0.5 / 3, 0.5 / 3)
        (True, True)
    """

    policy: Policy
    unit: str | None = None
    scores: Callable[[Any], npt.ArrayLike] = codec.scores_of
    apply: Apply = codec.serve
    key: str = KEY_VARIABLE
    decisions: str | Sink | None = None
    features: Features = "none"
    enforce: bool = True
    name: ClassVar[str] = "explore"
    stage: Stage = Stage.EXPLORE
    __repr__ = brief

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        return attach(self, fn)

    def check(self, method: Method) -> None:
        """At decoration: there is one answer to choose from, and a policy to choose by."""
        if method.shape.streams:
            raise DecorationError(
                f"{method.fn.__qualname__}() streams, and its items leave before there is an answer to explore. "
                "Explore the method that chooses what is streamed."
            )
        if not callable(getattr(self.policy, "pmf", None)):
            raise DecorationError(f"explore({self.policy!r}): a policy has pmf(scores), as EpsilonGreedy(0.02) has.")
        if self.unit is not None and self.unit not in [param.name for param in method.params]:
            raise DecorationError(f"explore(unit={self.unit!r}) names no argument of {method.fn.__qualname__}().")

    def companions(self) -> tuple[Guard, ...]:
        """What has to stand beside it where nothing else records decisions."""
        return () if self.decisions is None else (Record(self.decisions, self.features),)

    def bind(self, method: Method) -> Hooks:
        """At worker start: take the secret."""
        return Hooks(after=_Explorer(self, method, *_secret(self.key)).after)


@dataclass(slots=True)
class Exploration:
    """What was drawn for the rows the primary answered.

    Attributes:
        policy, salt_id: how, and with which (unnamed) key.
        row_of: the position of a row of the request in the arrays below; None when they are the same.
        scores, pmf: shape ``(m, K)``.
        greedy, action: shape ``(m,)``.
        eligible: which rows were allowed to differ, shape ``(m,)``.
        served: whether the drawn actions were served; otherwise the greedy ones were.
    """

    policy: str
    salt_id: str
    row_of: dict[int, int] | None
    scores: Scores | Sequence[Sequence[float]]
    pmf: Probabilities | Sequence[Sequence[float]]
    greedy: list[int]
    action: list[int]
    eligible: list[bool]
    served: bool = True

    def describe(self, decision: Decision, row: int) -> None:
        """Write one row's draw into its record."""
        at = row if self.row_of is None else self.row_of.get(row)
        if at is None:
            return
        decision.policy, decision.salt_id = self.policy, self.salt_id
        decision.scores, decision.greedy = self.scores[at], self.greedy[at]
        if not self.served:  # the greedy action, with certainty: eligible stays False, the propensity one
            decision.action = self.greedy[at]
            if self.action[at] != self.greedy[at] and decision.shadow is None:  # else it would not have been explored
                decision.shadow = f"explored:{self.action[at]}"
            return
        decision.pmf, decision.action = self.pmf[at], self.action[at]
        decision.eligible = self.eligible[at]
        decision.propensity = float(self.pmf[at][self.action[at]])


class _Explorer:
    """What one explored method needs at run time."""

    def __init__(self, options: explore, method: Method, key: bytes, salt_id: str) -> None:
        self._policy, self._key, self._salt_id = options.policy, key, salt_id
        self._policy_name, self._enforce = repr(options.policy), options.enforce
        self._scores, self._apply = options.scores, options.apply
        self._pmf_of: Callable[[list[float], int], list[float]] | None = getattr(options.policy, "pmf_of", None)
        self._plain = options.unit is None and options.scores is codec.scores_of and options.apply is codec.serve
        self._unit = None if options.unit is None else method.argument(options.unit)

    def after(self, call: Call) -> None:
        if not call.primary_answered:
            return
        index = call.primary.index
        answer = call.result
        if self._plain and index is None and _is_one_row(answer):
            call.exploration = drawn = self._draw_one(call, answer[0].tolist())
            greedy, action = drawn.greedy[0], drawn.action[0]
            if greedy != action and self._enforce:
                call.result = codec.serve(answer, 0, greedy, action)
            self._describe(call, drawn)
            return
        own = answer if index is None or not counts_rows(answer, call.rows_total) else take(answer, index)
        read = np.array(self._scores(own))  # a copy: the model may use its buffer again before the record is written
        single = read.ndim == 1
        scores = read.reshape(1, -1) if single else read
        if call.rows_read is None:
            call.rows_total = len(scores)
        elif index is not None and own is answer:
            scores = scores[index]
        if len(scores) != (call.rows_total if index is None else len(index)):
            raise ValueError(f"{call.rows_total} rows were answered with scores of shape {read.shape}: no row each")
        exploration = self._drawn(call, scores, index)
        for at, (greedy, action) in enumerate(zip(exploration.greedy, exploration.action, strict=True)):
            if greedy != action and self._enforce:
                row = at if index is None else int(index[at])
                answer = self._apply(answer, None if single else row, greedy, action)
        # Only now: had writing the answer failed, the model's own would have been served, with probability one.
        call.result = answer
        call.exploration = exploration
        self._describe(call, exploration)

    def _draw_one(self, call: Call, scores: list[float]) -> Exploration:
        """The same as `_drawn` for what most requests are: one row, one array of scores, the request as the unit."""
        greedy = scores.index(max(scores))
        if self._pmf_of is not None and sum(scores) == sum(scores):  # no NaN, which max() may overlook
            pmf = self._pmf_of(scores, greedy)
        else:
            array = np.array(scores)
            greedy, pmf = int(array.argmax()), np.asarray(self._policy.pmf(array)).tolist()
        if call.rows_read is None:
            call.rows_total = 1
        action = draw(pmf, call.id, self._key)
        return Exploration(
            self._policy_name, self._salt_id, None, [scores], [pmf], [greedy], [action], [True], self._enforce
        )

    def _drawn(self, call: Call, scores: Scores, index: Index | None) -> Exploration:
        rows = range(len(scores)) if index is None else index.tolist()
        # A copy: the array is the policy's, to keep or to hand out again.
        pmf = np.array([self._policy.pmf(scores[0])] if len(scores) == 1 else self._policy.pmf(scores))
        greedy = scores.argmax(axis=1).tolist()
        action, eligible = [], []
        for at, row in enumerate(rows):
            unit = self._unit_of(call, row)
            eligible.append(unit is not None)
            if unit is None:  # no draw without a unit: a made-up one would not be the user's
                pmf[at] = 0.0
                pmf[at, greedy[at]] = 1.0
            action.append(greedy[at] if unit is None else draw(pmf[at], unit, self._key))
        row_of = None if index is None else {row: at for at, row in enumerate(rows)}
        return Exploration(
            self._policy_name, self._salt_id, row_of, scores, pmf, greedy, action, eligible, self._enforce
        )

    def _unit_of(self, call: Call, row: int) -> str | None:
        if self._unit is None:
            return call.id if call.rows_total == 1 else f"{call.id}/{row}"
        value = call.payload(self._unit)
        if isinstance(value, list | tuple | np.ndarray):
            value = value[row] if row < len(value) else None
        if is_missing(value):
            return None
        # A user keeps the draw for a day. For ever, and the same few users would carry all of the exploration.
        day = datetime.fromtimestamp(call.started_ns / 1e9, timezone.utc).date().isoformat()
        return f"{day}/{value}"

    def _describe(self, call: Call, drawn: Exploration) -> None:
        # One span, one row: the first that differs, else the first.
        differing = (at for at, greedy in enumerate(drawn.greedy) if greedy != drawn.action[at])
        at = next(differing, 0)
        action, greedy = drawn.action[at], drawn.greedy[at]
        call.attributes[semconv.POLICY] = self._policy_name
        served = action if drawn.served else greedy
        call.attributes[semconv.EXPLORED] = served != greedy
        call.attributes[semconv.PROPENSITY] = float(drawn.pmf[at][action]) if drawn.served else 1.0
        call.attributes[semconv.ACTION] = served
        call.attributes[semconv.GREEDY_ACTION] = greedy


def _is_one_row(answer: Any) -> bool:
    return isinstance(answer, np.ndarray) and answer.ndim == _MATRIX and len(answer) == 1 and answer.dtype.kind == "f"


def _secret(variable: str) -> tuple[bytes, str]:
    """The key of the draws, and an id that names it without giving it away."""
    text = os.environ.get(variable)
    if text is None:
        key = os.urandom(32)
        logger.info("%s is not set: draws use a secret of this worker's own and cannot be replayed", variable)
    else:
        key = text.encode()
        if len(key) not in _KEY_SIZES:
            raise DecorationError(f"{variable} holds {len(key)} bytes; a key has 16 to 64.")
    return key, hashlib.sha256(b"guardrails salt id" + key).hexdigest()[:12]
