"""Whether a row may be explored, and by which unit it is drawn: all of it settled before the draw.

A veto after the draw would make the logged probability wrong. So the kill switch, rules, the ramp and the cap decide
here, and a row that is not admitted gets the model's own answer with probability one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from guardrails.core.call import Call
from guardrails.core.method import Argument
from guardrails.core.payload import counts_rows, is_missing
from guardrails.errors import DecorationError
from guardrails.exploration.limits import Cap, CapCounter
from guardrails.exploration.randomness import GATE, token, uniform
from guardrails.exploration.switch import Switch

Rule = Callable[..., Any]
Rules = Mapping[str, Rule] | Sequence[Rule]

SWITCHED_OFF, RAMP, UNIT, CAP, BUDGET, MODEL_CHOICE, UNWRITABLE, SHADOW = (
    "switched_off", "ramp", "unit", "cap", "budget", "model_choice", "unwritable", "shadow",
)  # fmt: skip
RULE = "rule:"


@dataclass(slots=True)
class Admitted:
    """How one row is drawn.

    Attributes:
        unit: what keys its draw.
        token: the same, where it is not the decision's own id.
        cluster: what the unit is on every day.
        refused: why it is not explored; None where it may be.
        whom: whose cap a place was taken of.
    """

    unit: str
    token: str | None = None
    refused: str | None = None
    whom: str | None = None
    cluster: str | None = None


class Admission:
    """Decides for each row of a call.

    Args:
        key: the secret of the draws.
        switch: the kill switch.
        unit: the argument that names the units; None makes every row its own.
        rules: what has to hold, by name: functions of the method's arguments, True where a row may be explored.
        ramp: the share of units that are explored at all.
        cap: how often one unit is explored.
    """

    def __init__(
        self, key: bytes, switch: Switch, unit: Argument | None, rules: Rules = (), ramp: float = 1.0,
        cap: Cap | None = None,
    ) -> None:  # fmt: skip
        self._key, self._switch, self._unit, self._ramp = key, switch, unit, ramp
        self._rules = named(rules)
        self._counter = None if cap is None else CapCounter(cap)

    @property
    def open(self) -> bool:
        """Whether everybody is admitted, each row being its own unit: what most requests meet."""
        return self._unit is None and not self._rules and self._ramp >= 1.0 and not self._switch.off

    def of(self, call: Call, rows: Sequence[int]) -> list[Admitted]:
        """How each of these rows is drawn."""
        off = self._switch.off
        broken = {} if off else self._broken_rules(call)
        day = "" if self._unit is None else _day(call)
        admitted: list[Admitted] = []
        try:
            admitted.extend(self._row(call, row, day, SWITCHED_OFF if off else _first(broken, row)) for row in rows)
        except Exception:
            self.settle(admitted, None)  # places that were taken are given back
            raise
        return admitted

    def settle(self, admitted: Sequence[Admitted], differs: Sequence[bool] | None) -> None:
        """Tell which rows were served something else than the model's own answer; None where an error kept them all."""
        if self._counter is None:
            return
        for at, one in enumerate(admitted):
            if one.whom is not None:
                self._counter.settle(one.whom, explored=differs is not None and differs[at])

    def _row(self, call: Call, row: int, day: str, refused: str | None) -> Admitted:
        own = call.id if call.rows_total == 1 else f"{call.id}/{row}"
        if self._unit is None:
            if refused is None and self._ramp < 1.0 and uniform(own, self._key, GATE) >= self._ramp:
                refused = RAMP
            return Admitted(own, refused=refused)
        whom = _value(call.payload(self._unit), row, call.rows_total)
        if whom is None:  # no draw without a unit: a made-up one would not be the user's
            return Admitted(own, refused=refused or UNIT)
        # A user keeps the draw for a day. For ever, and the same few users would carry all of the exploration.
        # The method's, too: two methods that shared a user's number would explore at the same time.
        unit = token(f"{day}/{call.plan.method.name}/{whom}", self._key)
        user = token(str(whom), self._key)  # not the day's: who is in stays in while the ramp grows
        admitted = Admitted(unit, unit, refused, cluster=user)
        if refused is None and (self._ramp < 1.0 or self._counter is not None):
            if self._ramp < 1.0 and uniform(user, self._key, GATE) >= self._ramp:
                admitted.refused = RAMP
            elif self._counter is not None:
                taken = self._counter.take(user)
                admitted.refused, admitted.whom = (None, user) if taken else (CAP, None)
        return admitted

    def _broken_rules(self, call: Call) -> dict[str, Any]:
        """Which rules do not hold, and for which rows (True: all)."""
        broken: dict[str, Any] = {}
        for name, rule in self._rules.items():
            holds = np.asarray(rule(*call.args, **call.kwargs))
            if holds.dtype != bool or holds.shape not in ((), (call.rows_total,)):
                raise ValueError(
                    f"the rule {name!r} answered with {holds.dtype} of shape {holds.shape}; a rule says True or False, "
                    f"for the request or for each of its {call.rows_total} rows"
                )
            if holds.ndim:
                broken[RULE + name] = ~holds
            elif not holds:
                broken[RULE + name] = True
        return broken


def named(rules: Rules) -> dict[str, Rule]:
    """Rules by name.

    Raises:
        DecorationError: one cannot be called.
    """
    if not isinstance(rules, Mapping | list | tuple):
        raise DecorationError(f"explore(rules={rules!r}): a list of functions, or functions by name.")
    pairs: dict[str, Rule] = dict(rules) if isinstance(rules, Mapping) else {}
    for rule in () if isinstance(rules, Mapping) else rules:
        name = own = str(getattr(rule, "__name__", repr(rule)))
        while name in pairs:  # two lambdas have one name, and both are asked
            name = f"{own} {len(pairs) + 1}"
        pairs[name] = rule
    for name, rule in pairs.items():
        if not callable(rule) or inspect.iscoroutinefunction(rule) or inspect.isgeneratorfunction(rule):
            raise DecorationError(
                f"explore(rules=...): {name!r} is {rule!r}; a rule is a plain function of the method's arguments that "
                "says True where a row may be explored."
            )
    return pairs


def _first(broken: Mapping[str, Any], row: int) -> str | None:
    return next((name for name, rows in broken.items() if rows is True or rows[row]), None)


def _value(value: Any, row: int, rows: int) -> Any:
    """A row's unit; None where it has none. Several values are one for each row, or nobody knows whose they are."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if counts_rows(value, rows):
        value = one_of(value, row)
    elif isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes):
        return None
    try:
        return None if is_missing(value) or bool(value != value) else value  # noqa: PLR0124  # NaN, NaT
    except (TypeError, ValueError):  # a frame, an array of arrays: nothing that names a unit
        return None


def one_of(values: Any, row: int) -> Any:
    """One entry of an array, list, tuple or series."""
    return values.iloc[row] if hasattr(values, "iloc") else values[row]


def _day(call: Call) -> str:
    return datetime.fromtimestamp(call.started_ns / 1e9, timezone.utc).date().isoformat()
