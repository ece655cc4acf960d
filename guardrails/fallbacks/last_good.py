"""The last good answer: what the model said of the same thing before, if that is not too long ago."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from guardrails import semconv
from guardrails.core.payload import count_rows, counts_rows, merge, take
from guardrails.core.returns import refuse_other_arguments
from guardrails.core.targets import Target, lift
from guardrails.errors import DecorationError
from guardrails.fallbacks.fingerprint import NoContentError, fingerprint

if TYPE_CHECKING:
    from guardrails.core.call import Call, Part
    from guardrails.core.method import Method


MAX_ROWS = 256
"""Rows of one request up to which it is remembered: each row costs some microseconds before it is answered."""


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
            DecorationError: the method streams, or the key does not take its arguments.
        """
        if method.shape.streams:
            raise DecorationError(
                f"{method.fn.__qualname__}() streams, and last_good() remembers answers. Use another fallback."
            )
        if self.key is not None:
            refuse_other_arguments(self.key, method, "last_good(key=...)")
        memory = _Memory(self, method)
        return Target(
            f"{semconv.FALLBACK_PREFIX}last_good",
            lift(memory.answer, method),
            for_call=memory.for_call,
            instant=True,
            notice=memory.notice,
            learn=memory.learn,
        )


class _Memory:
    """The answers of one method in one worker: bounded, the longest unused forgotten first."""

    def __init__(self, options: LastGood, method: Method) -> None:
        self._options, self._method = options, method
        self._at, self._api = method.argument(), method.name
        self._names = tuple(param.name for param in method.params)
        self._known: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def notice(self, call: Call) -> None:
        """Take the keys before the method sees its input: it may change it."""
        call.noticed[id(self)] = self._keys(call.args, call.kwargs)

    def learn(self, call: Call) -> None:
        """Remember what the primary answered, row by row where it answered by row."""
        keys = self._noticed(call, call.primary)
        if keys is None or not call.primary_answered:
            return
        answer = call.primary.result
        if len(keys) > 1 and not counts_rows(answer, len(keys)):
            return
        now = time.monotonic()
        # Copies: the model may use its buffer again, and a caller may change what it got.
        own = [answer] if len(keys) == 1 else [take(answer, np.array([row])) for row in range(len(keys))]
        own = copy.deepcopy(own)
        with self._lock:
            for key, entry in zip(keys, own, strict=True):
                self._known[key] = now, entry
                self._known.move_to_end(key)
            while len(self._known) > self._options.max_entries:
                self._known.popitem(last=False)

    def for_call(self, call: Call, part: Part) -> Callable[..., Any]:
        """Who answers a part: by the keys its rows came with."""
        keys = self._noticed(call, part)
        return lift(self.answer if keys is None else lambda *_, **__: self._recalled(keys), self._method)

    def answer(self, *args: Any, **kwargs: Any) -> Any:
        """What was answered to these arguments before.

        Raises:
            LookupError: as `_recalled`.
        """
        return self._recalled(self._keys(args, kwargs))

    def _recalled(self, keys: list[Hashable] | None) -> Any:
        """What is remembered under some keys.

        Raises:
            LookupError: of some row nothing is known, or only something too old. The next fallback answers then.
        """
        if keys is None:
            raise LookupError(f"{self._api}() was asked with something that says nothing of what it holds")
        oldest = time.monotonic() - self._options.max_age
        answers = []
        with self._lock:
            for key in keys:
                known = self._known.get(key)
                if known is None or known[0] < oldest:
                    raise LookupError(
                        f"{self._api}() has given no good answer to this within {self._options.max_age:g} s"
                    )
                self._known.move_to_end(key)
                answers.append(known[1])
        answers = copy.deepcopy(answers)
        if len(answers) == 1:
            return answers[0]
        return merge([(np.array([row]), answer) for row, answer in enumerate(answers)], len(answers))

    def _noticed(self, call: Call, part: Part) -> list[Hashable] | None:
        keys: list[Hashable] | None = call.noticed.get(id(self))
        return keys if keys is None or part.index is None else [keys[row] for row in part.index.tolist()]

    def _keys(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Hashable] | None:
        """What names the request, one key for each row of a request of several; None where nothing does."""
        at = self._at
        payload = args[at.position] if at.position < len(args) else kwargs.get(at.name, at.default)
        n = count_rows(payload)
        if n > MAX_ROWS:
            return None
        try:
            if n == 1:
                return [self._key(args, kwargs)]
            return [self._key(*self._of_row(args, kwargs, n, row), row) for row in range(n)]
        except NoContentError:
            return None

    def _of_row(
        self, args: Sequence[Any], kwargs: dict[str, Any], n: int, row: int
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with one row of what goes by row."""
        at, chosen = self._at, np.array([row])

        def of(value: Any, *, is_payload: bool) -> Any:
            by_row = is_payload or (counts_rows(value, n) and not isinstance(value, list | tuple))
            return take(value, chosen) if by_row else value

        named = {name: of(value, is_payload=name == at.name) for name, value in kwargs.items()}
        return [of(value, is_payload=i == at.position) for i, value in enumerate(args)], named

    def _key(self, args: Sequence[Any], kwargs: dict[str, Any], row: int | None = None) -> Hashable:
        if self._options.key is not None:
            return self._options.key(*args, **kwargs)
        named = {**dict(zip(self._names, args, strict=False)), **kwargs}
        own = fingerprint({name: value for name, value in named.items() if name not in ("ctx", "context")})
        # A list beside the rows may hold an entry for each: then rows differ by their place in it.
        beside = any(isinstance(value, list | tuple) for name, value in named.items() if name != self._at.name)
        return (own, row) if beside else own
