"""@validate: types, missing values, unseen categories and ranges, as training had them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from guardrails import semconv
from guardrails.core.call import Call, Stage
from guardrails.core.method import Method
from guardrails.core.payload import Layout, RowSet
from guardrails.core.pipeline import attach, brief
from guardrails.core.targets import Chain, Fallbacks, Reject, at_least_one, chain
from guardrails.errors import DecorationError
from guardrails.outliers.guard import MAX_PROBLEMS, invalid_message
from guardrails.profile.reference import ProfileSpec, pin, resolve
from guardrails.profile.schema import Schema
from guardrails.typing import F, Hooks, Mask
from guardrails.validation.rules import Rules


@dataclass(frozen=True, repr=False)
class validate:  # noqa: N801  # a decorator is read as a verb
    """Hold each row to the profile's schema; refuse, or answer by a fallback, what breaks it.

    A row breaks it when a value is no number where training had numbers, no whole number where a DataFrame had whole
    numbers, is missing where training never missed it, is a category training never saw, differs from what never
    varied, or lies further outside the range training saw than ``margin`` times its width.

    Args:
        profile: a `Profile`, a `Profile.ref`, a `Schema` given by hand, or ``lambda self: ...``.
        on_invalid: ``"reject"`` (a 422 that names field, rule, expected and found), or a fallback, row by row.
        margin: how far outside of the range is still taken, in widths of the range; by default one width of what was
            learned, and nothing outside of what was given by hand.
        features: the argument that holds the rows; the first one by default.
        in_batch: who answers invalid rows in a batchable method, where nothing can be rejected.
        enforce: False judges and records, and changes nothing.

    Raises:
        DecorationError: at decoration or start-up, when the fallback cannot stand in for the method.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> X = np.random.default_rng(0).normal(size=(500, 2))
        >>> @gr.validate(gr.Profile.fit(X, feature_names=["age", "dose"]))
        ... def predict(rows: np.ndarray) -> list:
        ...     return rows.sum(axis=1).tolist()
        >>> predict(np.array([[0.0, 1e9]]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        guardrails.errors.Rejected: Invalid input: in row 0 field 'dose', between ... and ... expected, larger found.
    """

    profile: ProfileSpec | Schema
    on_invalid: Literal["reject"] | Fallbacks = "reject"
    margin: float | None = None
    features: str | None = None
    in_batch: Fallbacks | None = None
    enforce: bool = True
    name: ClassVar[str] = "validate"
    stage: Stage = Stage.VALIDATE
    __repr__ = brief

    def __post_init__(self) -> None:
        if self.margin is not None and not self.margin >= 0:
            raise DecorationError(f"validate(margin={self.margin!r}): a margin is zero or more widths of the range.")
        at_least_one(self.on_invalid, "validate(on_invalid=[])")

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        guarded = attach(self, fn)
        pin(self.profile, fn)
        return guarded

    def check(self, method: Method) -> None:
        """At decoration: the argument exists."""
        method.argument(self.features)

    def verify(self, method: Method) -> None:
        """At start-up: the fallback can stand in for the method."""
        chain(self._fallback(method), method)

    def bind(self, method: Method) -> Hooks:
        """At worker start: load the profile, resolve the fallback."""
        if isinstance(self.profile, Schema):
            schema, layout, margin = self.profile, self.profile.layout(), 0.0
        else:
            profile = resolve(self.profile, method.owner)
            schema, layout, margin = profile.schema, profile.layout, 1.0
        rules = Rules.of(schema, margin if self.margin is None else self.margin)
        validator = _Validator(rules, layout, self, method, chain(self._fallback(method), method))
        return Hooks(validator.before, chain=validator.chain if self.enforce else ())

    def _fallback(self, method: Method) -> Fallbacks:
        if method.batchable and self.in_batch is not None:
            return self.in_batch
        return Reject() if self.on_invalid == "reject" else self.on_invalid


class _Validator:
    """What one validated method needs at run time."""

    def __init__(self, rules: Rules, layout: Layout, options: validate, method: Method, fallback: Chain) -> None:
        self._at, self._enforce = method.argument(options.features), options.enforce
        self._rules, self._layout = rules, layout
        self.chain, self._batchable = fallback, method.batchable

    def before(self, call: Call) -> None:
        rows = call.rows(self._at, self._layout)
        if rows.problems:
            self._answer(call, rows, rows.rows_with_problems(), len(rows.problems))
            return
        matrix = rows.matrix
        if len(matrix) == 1 and self._rules.admit(rows.values):
            return
        broken = self._rules.broken(matrix)
        bad = broken.any(axis=1)
        if bad.any():
            problems = tuple(
                self._rules.problem(column, matrix[row, column], None if rows.single else row)
                for row, column in np.argwhere(broken)[:MAX_PROBLEMS].tolist()
            )
            self._answer(call, RowSet(matrix, rows.single, problems), bad, int(broken.sum()))

    def _answer(self, call: Call, rows: RowSet, bad: Mask | None, total: int) -> None:
        problems = rows.problems[:MAX_PROBLEMS]
        unreadable = any(p.rule in ("rows", "width", "empty") and p.row is None for p in problems)
        refused = self.chain[0].rejects or (unreadable and not self._batchable)
        if not self._enforce:
            call.shadow(bad, semconv.INVALID, semconv.REJECTED if refused else self.chain[0].route)
            return
        if refused:
            call.refuse(invalid_message(rows, total), semconv.INVALID, problems)
            return
        call.problems = problems
        call.divert(bad, self.chain, semconv.INVALID)
