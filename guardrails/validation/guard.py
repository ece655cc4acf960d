"""@validate: types, missing values, unseen categories and ranges, as training had them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from guardrails import semconv
from guardrails.core.call import Call, Stage
from guardrails.core.method import Method
from guardrails.core.payload import Problem, RowSet
from guardrails.core.pipeline import attach, brief
from guardrails.core.targets import Chain, Fallbacks, Reject, at_least_one, chain
from guardrails.errors import DecorationError
from guardrails.outliers.guard import MAX_PROBLEMS, invalid_message
from guardrails.profile.profile import Profile
from guardrails.profile.reference import ProfileSpec, pin, resolve
from guardrails.profile.schema import MAX_CATEGORIES
from guardrails.typing import F, Hooks, Mask, Rows


@dataclass(frozen=True, repr=False)
class validate:  # noqa: N801  # a decorator is read as a verb
    """Hold each row to the profile's schema; refuse, or answer by a fallback, what breaks it.

    A row breaks it when a value is no number where training had numbers, is missing where training never missed it, is
    a category training never saw, or lies further outside the range training saw than ``margin`` times its width.

    Args:
        profile: a `Profile`, a `Profile.ref`, or ``lambda self: ...``.
        on_invalid: ``"reject"`` (a 422 that names field, rule, expected and found), or a fallback, row by row.
        margin: how far outside of the range is still taken, in widths of the range.
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

    profile: ProfileSpec
    on_invalid: Literal["reject"] | Fallbacks = "reject"
    margin: float = 1.0
    features: str | None = None
    in_batch: Fallbacks | None = None
    enforce: bool = True
    name: ClassVar[str] = "validate"
    stage: Stage = Stage.VALIDATE
    __repr__ = brief

    def __post_init__(self) -> None:
        if not self.margin >= 0:
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
        profile = resolve(self.profile, method.owner)
        validator = _Validator(profile, self, method, chain(self._fallback(method), method))
        return Hooks(validator.before, chain=validator.chain)

    def _fallback(self, method: Method) -> Fallbacks:
        if method.batchable and self.in_batch is not None:
            return self.in_batch
        return Reject() if self.on_invalid == "reject" else self.on_invalid


class _Validator:
    """What one validated method needs at run time."""

    def __init__(self, profile: Profile, options: validate, method: Method, fallback: Chain) -> None:
        features, margin = profile.schema.features, options.margin
        self._at, self._enforce = method.argument(options.features), options.enforce
        self._layout, self.chain, self._batchable = profile.layout, fallback, method.batchable
        self._names = [feature.name for feature in features]
        low = np.array([-np.inf if feature.low is None else feature.low for feature in features])
        high = np.array([np.inf if feature.high is None else feature.high for feature in features])
        widths = np.nan_to_num(high - low, nan=0.0, posinf=0.0)
        self._low, self._high = low - margin * widths, high + margin * widths
        self._categorical = np.array([bool(feature.categories) for feature in features])
        self._lows = np.where(self._categorical, 0.0, self._low).tolist()
        self._highs = np.where(self._categorical, MAX_CATEGORIES, self._high).tolist()  # an unseen one is infinite
        self._any_category = bool(self._categorical.any())
        self._may_miss = np.array([feature.missing > 0 for feature in features])

    def before(self, call: Call) -> None:
        rows = call.rows(self._at, self._layout)
        if rows.problems:
            self._answer(call, rows, rows.rows_with_problems())
            return
        matrix = rows.matrix
        if len(matrix) == 1:
            for low, value, high in zip(self._lows, rows.values, self._highs, strict=True):
                if not low <= value <= high:
                    break
            else:
                return
        within = (matrix >= self._low) & (matrix <= self._high)  # NaN is in no range, inf (an unseen category) may be
        if self._any_category:
            within &= np.isfinite(matrix) | ~self._categorical
        if within.all():
            return
        within |= np.isnan(matrix) & self._may_miss
        bad = ~within.all(axis=1)
        if bad.any():
            problems = self._problems(matrix, within, single=rows.single)
            self._answer(call, RowSet(matrix, rows.single, problems), bad)

    def _answer(self, call: Call, rows: RowSet, bad: Mask | None) -> None:
        problems = rows.problems[:MAX_PROBLEMS]
        if not self._enforce:
            call.shadow(bad, semconv.INVALID, self.chain[0].route)
            return
        if self.chain[0].rejects:
            call.refuse(invalid_message(rows), semconv.INVALID, problems)
            return
        unreadable = any(p.rule in ("rows", "width", "empty") and p.row is None for p in problems)
        if unreadable and not self._batchable:
            call.refuse(invalid_message(rows), semconv.INVALID, problems)
            return
        call.problems = problems
        call.divert(bad, self.chain, semconv.INVALID)

    def _problems(self, matrix: Rows, within: Mask, *, single: bool) -> tuple[Problem, ...]:
        return tuple(
            self._problem(row, column, matrix[row, column], single=single)
            for row, column in np.argwhere(~within)[: MAX_PROBLEMS + 1].tolist()
        )

    def _problem(self, row: int, column: int, value: float, *, single: bool) -> Problem:
        at, name = (None if single else row), self._names[column]
        if np.isnan(value):
            return Problem("missing", "a value", "none", field=name, row=at)
        if self._categorical[column]:
            return Problem("category", "a category known from training", "an unknown one", field=name, row=at)
        expected = f"between {self._low[column]:.4g} and {self._high[column]:.4g}"
        return Problem("range", expected, "larger" if value > self._high[column] else "smaller", field=name, row=at)
