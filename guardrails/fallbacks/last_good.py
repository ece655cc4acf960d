"""The last good answer: what the model said of the same thing before, if that is not too long ago."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from guardrails import semconv
from guardrails.core.payload import count_rows, counts_rows, merge, take
from guardrails.core.targets import Target, lift
from guardrails.errors import DecorationError

if TYPE_CHECKING:
    from guardrails.core.call import Call
    from guardrails.core.method import Method


@dataclass(frozen=True)
class LastGood:
    """What is remembered, and for how long."""

    key: Callable[..., Hashable] | None = None
    max_age: float = 300.0
    max_entries: int = 1000

    def __post_init__(self) -> None:
        if not self.max_age > 0 or self.max_entries < 1:
            raise DecorationError(
                f"last_good(max_age={self.max_age!r}, max_entries={self.max_entries!r}): give seconds above 0, and at "
                "least one entry."
            )

    def target_for(self, method: Method) -> Target:
        """Resolve against a bound method.

        Raises:
            DecorationError: the method streams.
        """
        if method.shape.streams:
            raise DecorationError(
                f"{method.fn.__qualname__}() streams, and last_good() remembers answers. Use another fallback."
            )
        memory = _Memory(self, method)
        route = f"{semconv.FALLBACK_PREFIX}last_good"
        return Target(route, lift(memory.answer, method), instant=True, learn=memory.learn)


class _Memory:
    """The answers of one method in one worker: bounded, the longest unused forgotten first."""

    def __init__(self, options: LastGood, method: Method) -> None:
        self._options, self._at, self._api = options, method.argument(), method.name
        self._known: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def learn(self, call: Call) -> None:
        """Remember what the primary answered, row by row where it answered by row."""
        if not call.primary_answered:
            return
        args, kwargs = call.arguments_for(call.primary)
        answer, keys = call.primary.result, self._keys(args, kwargs)
        if len(keys) > 1 and not counts_rows(answer, len(keys)):
            return
        now = time.monotonic()
        with self._lock:
            for row, key in enumerate(keys):
                own = answer if len(keys) == 1 else take(answer, np.array([row]))
                # A copy: the model may use its buffer again.
                self._known[key] = now, own.copy() if isinstance(own, np.ndarray) else own
                self._known.move_to_end(key)
            while len(self._known) > self._options.max_entries:
                self._known.popitem(last=False)

    def answer(self, *args: Any, **kwargs: Any) -> Any:
        """What was answered before.

        Raises:
            LookupError: of some row nothing is known, or only something too old. The next fallback answers then.
        """
        keys = self._keys(args, kwargs)
        oldest = time.monotonic() - self._options.max_age
        answers = []
        with self._lock:
            for key in keys:
                at, known = self._known.get(key, (-1.0, None))
                if at < oldest:
                    raise LookupError(
                        f"{self._api}() has given no good answer to this within {self._options.max_age} s"
                    )
                self._known.move_to_end(key)
                answers.append(known)
        if len(answers) == 1:
            return answers[0].copy() if isinstance(answers[0], np.ndarray) else answers[0]
        return merge([(np.array([row]), answer) for row, answer in enumerate(answers)], len(answers))

    def _keys(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Hashable]:
        """What names the request; one key for each row of a request of several."""
        at, own = self._at, self._options.key
        payload = args[at.position] if at.position < len(args) else kwargs.get(at.name, at.default)
        n = count_rows(payload)
        if n == 1:
            return [_fingerprint(payload) if own is None else own(*args, **kwargs)]
        rows = [take(payload, np.array([row])) for row in range(n)]
        if own is None:
            return [_fingerprint(row) for row in rows]
        if at.position < len(args):
            return [own(*args[: at.position], row, *args[at.position + 1 :], **kwargs) for row in rows]
        return [own(*args, **{**kwargs, at.name: row}) for row in rows]


def _fingerprint(payload: Any) -> Hashable:
    """The payload's own content as a key."""
    if isinstance(payload, np.ndarray):
        return payload.shape, payload.dtype.str, payload.tobytes()
    if hasattr(payload, "model_dump_json"):
        return str(payload.model_dump_json())
    if hasattr(payload, "to_json"):  # a DataFrame or a Series
        return str(payload.to_json())
    return repr(payload)
