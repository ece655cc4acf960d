"""@check_outliers: rows unlike anything seen in training are answered by somebody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from guardrails import semconv
from guardrails.core.call import Call, Stage, Verdict
from guardrails.core.method import Argument, Method
from guardrails.core.payload import Layout, Problem, RowSet
from guardrails.core.pipeline import attach, brief
from guardrails.core.targets import Chain, Fallbacks, Reject, at_least_one, chain
from guardrails.errors import DecorationError
from guardrails.outliers.calibration import CalibratedDetector
from guardrails.profile.profile import Profile
from guardrails.profile.reference import ProfileSpec, pin, resolve
from guardrails.typing import F, Hooks, Mask, Scores

DetectorSpec: TypeAlias = "ProfileSpec | CalibratedDetector | Callable[[Any], CalibratedDetector | Profile]"

MAX_PROBLEMS = 20
"""Problems named in the body of one 422: enough to mend the client, not a way to fill a log."""


@dataclass(frozen=True, repr=False)
class check_outliers:  # noqa: N801  # a decorator is read as a verb
    """Score each row; answer outliers by a fallback, row by row, and leave the verdict on the span.

    A row is an outlier when its conformal p-value is at most alpha, so alpha is the share of ordinary traffic sent to
    the fallback, whatever the detector. What is no row at all (not numeric, empty, of another width than the profile)
    is refused with a 422 as ``invalid``; in a batchable method, where that would fail every client, it goes to the
    fallback.

    Args:
        detector: a `Profile`, a `Profile.ref`, a calibrated detector (`outliers.fit`), or ``lambda self: ...``.
        fallback: who answers outliers: a method's name, a callable of the same signature, `reject()`, `constant(...)`,
            or a list of these, tried in order.
        alpha: overrides the profile's.
        features: the argument that holds the rows; the first one by default.
        on_guard_error: ``"pass"`` lets the request go on when the detector itself fails, ``"fallback"`` does not.

    Raises:
        DecorationError: at decoration or start-up, when the fallback cannot stand in for the method.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 2)))
        >>> @gr.check_outliers(profile, fallback=gr.constant([-1.0]))
        ... def predict(rows: np.ndarray) -> list:
        ...     return rows.sum(axis=1).tolist()
        >>> predict(np.array([[1.0, 2.0], [50.0, -80.0]]))
        [3.0, -1.0]
    """

    detector: DetectorSpec
    fallback: Fallbacks = field(default_factory=Reject)
    alpha: float | None = None
    features: str | None = None
    on_guard_error: Literal["pass", "fallback"] = "pass"
    name: ClassVar[str] = "check_outliers"
    stage: Stage = Stage.CHECK
    __repr__ = brief

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0.0 < self.alpha < 1.0:
            raise DecorationError(f"check_outliers(alpha={self.alpha!r}): a share of traffic, between 0 and 1.")
        at_least_one(self.fallback, "check_outliers(fallback=[])")

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        guarded = attach(self, fn)
        pin(self.detector, fn)
        return guarded

    def check(self, method: Method) -> None:
        """At decoration: the argument exists, the options are known."""
        method.argument(self.features)
        if self.on_guard_error not in ("pass", "fallback"):
            raise DecorationError(f"on_guard_error={self.on_guard_error!r}: it is 'pass' or 'fallback'.")

    def bind(self, method: Method) -> Hooks:
        """At worker start: load the profile, resolve the fallback."""
        detector, layout, tags = _resolved(self.detector, method.owner)
        if self.alpha is not None:
            detector = detector.with_alpha(self.alpha)
        check = _Check(detector, layout, method.argument(self.features), chain(self.fallback, method), tags, method)
        return Hooks(check.before)

    def verify(self, method: Method) -> None:
        """At start-up: the fallback can stand in for the method."""
        chain(self.fallback, method)

    def failed(self, call: Call) -> None:
        """The detector itself failed: go on, or be careful."""
        if self.on_guard_error == "fallback":
            call.divert(None, chain(self.fallback, call.plan.method), semconv.ERROR)


_ONE_ROW = np.ones(1, dtype=bool)


class _Check:
    """What one checked method needs at run time."""

    def __init__(
        self,
        detector: CalibratedDetector,
        layout: Layout,
        at: Argument,
        fallback: Chain,
        tags: dict[str, str],
        method: Method,
    ) -> None:
        self._detector, self._layout, self._at = detector, layout, at
        self._chain, self._tags = fallback, tags
        self._refuses = not method.batchable
        self._threshold = detector.threshold

    def before(self, call: Call) -> None:
        call.attributes.update(self._tags)
        if call.refused:
            return
        rows = call.rows(self._at, self._layout)
        if rows.problems and not self._sent_away(call, rows):
            self._invalid(call, rows)
            if self._refuses:
                return
        if len(rows.matrix) == 1:
            self._judge_one(call, rows)
            return
        scores = self._detector.score(rows.matrix)
        p_values = self._detector.p_value_of(scores)
        mask = scores > self._threshold
        worst = int(np.argmax(scores))
        outlier = bool(mask[worst])
        mask = mask if not outlier else call.undecided(mask)
        call.verdict = Verdict(scores, p_values, mask)
        self._describe(call, float(scores[worst]), float(p_values[worst]), outlier=outlier)
        if outlier and mask.any():
            call.problems = self._explained(mask, p_values, single=rows.single)
            call.divert(mask, self._chain, semconv.OUTLIER)

    def _judge_one(self, call: Call, rows: RowSet) -> None:
        """The same for one row, in plain numbers: what nearly every request pays."""
        score, p_value = self._detector.judge_one(rows.matrix, rows.values)
        outlier = score > self._threshold
        call.verdict = Verdict((score,), (p_value,), (outlier,))
        self._describe(call, score, p_value, outlier=outlier)
        if outlier and call.undecided(_ONE_ROW).any():
            call.problems = self._explained(_ONE_ROW, np.array([p_value]), single=rows.single)
            call.divert(None, self._chain, semconv.OUTLIER)

    def _describe(self, call: Call, score: float, p_value: float, *, outlier: bool) -> None:
        attributes = call.attributes
        attributes[semconv.OUTLIER_SCORE] = score
        attributes[semconv.OUTLIER_P_VALUE] = p_value
        attributes[semconv.OUTLIER_THRESHOLD] = self._threshold
        attributes[semconv.IS_OUTLIER] = outlier

    def _sent_away(self, call: Call, rows: RowSet) -> bool:
        """Whether an earlier guard has already sent away whatever cannot be read."""
        bad = rows.rows_with_problems()
        return not call.undecided(np.ones(len(rows), dtype=bool) if bad is None else bad).any()

    def _explained(self, mask: Mask, p_values: Scores, *, single: bool) -> tuple[Problem, ...]:
        expected = f"a p-value above {self._detector.alpha:g}"
        return tuple(
            Problem("outlier", expected, f"{p_values[row]:.4g}", row=None if single else int(row))
            for row in np.flatnonzero(mask)[:MAX_PROBLEMS]
        )

    def _invalid(self, call: Call, rows: RowSet) -> None:
        if self._refuses:
            call.refuse(invalid_message(rows), semconv.INVALID, rows.problems[:MAX_PROBLEMS])
            return
        mask = rows.rows_with_problems()
        call.divert(mask, self._chain, semconv.INVALID)


def invalid_message(rows: RowSet) -> str:
    """One sentence for the client: the first problem, and how many more there are."""
    first = rows.problems[0]
    where = " ".join(
        [f"row {first.row}" if first.row is not None else "the input", f"field {first.field!r}" if first.field else ""]
    ).strip()
    more = f" ({len(rows.problems) - 1} more problems)" if len(rows.problems) > 1 else ""
    return f"Invalid input: in {where}, {first.expected} expected, {first.found} found{more}."


def _resolved(spec: DetectorSpec, owner: Any) -> tuple[CalibratedDetector, Layout, dict[str, str]]:
    found: Any = spec
    if callable(found) and not isinstance(found, Profile | CalibratedDetector):
        found = found(owner)
    if isinstance(found, CalibratedDetector):
        names = tuple(f"feature_{column}" for column in range(len(found.fill)))
        return found, Layout(names), {}
    profile = resolve(found, owner)
    return profile.outliers, profile.layout, profile.span_attributes
