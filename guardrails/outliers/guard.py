"""@check_outliers: rows unlike anything seen in training are answered by somebody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from guardrails import semconv
from guardrails.core.call import Call, Stage, Verdict
from guardrails.core.method import Method
from guardrails.core.payload import Layout, Problem, RowSet
from guardrails.core.pipeline import attach, brief
from guardrails.core.targets import Fallbacks, Reject, at_least_one, chain
from guardrails.errors import DecorationError
from guardrails.outliers.calibration import CalibratedDetector
from guardrails.outliers.live import cost_of, name_of
from guardrails.profile.profile import Profile
from guardrails.profile.reference import ProfileRef, ProfileSpec, pin, resolve
from guardrails.typing import F, Hooks, Mask, Scores

DetectorSpec: TypeAlias = "ProfileSpec | CalibratedDetector | Callable[[Any], CalibratedDetector | Profile]"

logger = logging.getLogger("guardrails")

MAX_PROBLEMS = 20
"""Problems named in the body of one 422: enough to mend the client, not a way to fill a log."""
MAX_EXPLAINED = 5
"""Outlier rows of one request whose strangest features are named."""
MAX_FEATURES, LEAST_SHARE = 3, 0.05
"""Features named of one row, and the share of its strangeness below which one is not worth naming."""
DEAR = 1000.0
"""Microseconds for one row above which a live detector is worth a warning when a worker starts."""


@dataclass(frozen=True, repr=False)
class check_outliers:  # noqa: N801  # a decorator is read as a verb
    """Score each row; answer outliers by a fallback, row by row, and leave the verdict on the span.

    A row is an outlier when its conformal p-value is at most alpha, so alpha is the share of ordinary traffic sent to
    the fallback, whatever the detector. What is no row at all (not numeric, empty, of another width than the profile)
    is refused with a 422 as ``invalid``; in a batchable method, where that would fail every client, it goes to the
    fallback. A method that streams is answered as a whole, so one outlier among the rows of its request sends all of
    them to the fallback.

    Args:
        detector: a `Profile`, a `Profile.ref`, a calibrated detector (`outliers.fit`), or ``lambda self: ...``.
        fallback: who answers outliers: a method's name, a callable of the same signature, `reject()`, `constant(...)`,
            or a list of these, tried in order.
        alpha: overrides the profile's.
        features: the argument that holds the rows; the first one by default.
        on_guard_error: ``"pass"`` lets the request go on when the detector itself fails, ``"fallback"`` does not.
        enforce: False judges and records, and changes nothing: what would have been is on the span and in the record.

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
    enforce: bool = True
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
        """At decoration: the argument exists, the options are known, the detector is one that has a calibration."""
        method.argument(self.features)
        known = isinstance(self.detector, Profile | ProfileRef | CalibratedDetector) or callable(self.detector)
        if not known:
            kind = type(self.detector).__qualname__
            raise DecorationError(
                f"check_outliers({kind}): a detector alone does not say what is too strange. Calibrate it on ordinary "
                f"rows it has not seen: outliers.fit(X, detector=...), or Profile.fit(X, detector=...)."
            )
        if self.on_guard_error not in ("pass", "fallback"):
            raise DecorationError(f"on_guard_error={self.on_guard_error!r}: it is 'pass' or 'fallback'.")

    def bind(self, method: Method) -> Hooks:
        """At worker start: load the profile, resolve the fallback."""
        detector, layout, tags = _resolved(self.detector, method.owner)
        if self.alpha is not None:
            detector = detector.with_alpha(self.alpha)
        check = _Check(self, detector, layout, tags, method)
        return Hooks(check.before, None, check.status, check.chain if self.enforce else ())

    def verify(self, method: Method) -> None:
        """At start-up: the fallback can stand in for the method."""
        chain(self.fallback, method)

    def failed(self, call: Call) -> None:
        """The detector itself failed: go on, or be careful."""
        if self.on_guard_error == "fallback":
            fallback = chain(self.fallback, call.plan.method)
            if self.enforce:
                call.divert(None, fallback, semconv.ERROR)
            else:
                call.shadow(None, semconv.ERROR, fallback[0].route)


_ONE_ROW = np.ones(1, dtype=bool)


class _Check:
    """What one checked method needs at run time."""

    def __init__(
        self,
        options: check_outliers,
        detector: CalibratedDetector,
        layout: Layout,
        tags: dict[str, str],
        method: Method,
    ) -> None:
        self._detector, self._layout, self._at = detector, layout, method.argument(options.features)
        self.chain, self._tags, self._enforce = chain(options.fallback, method), tags, options.enforce
        self._refuses = not method.batchable
        self._cost = cost_of(detector)
        if self._cost is not None and self._cost > DEAR:
            logger.warning(
                "%s: the live detector %s takes %.0f us for one row, on every request; a compiled one takes a few",
                method.name, name_of(detector.detector), self._cost,
            )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """What the status page says of it."""
        detector = self._detector
        said = {"detector": name_of(detector.detector), "alpha": detector.alpha, "enforced": self._enforce}
        return said if self._cost is None else {**said, "live_detector_us": round(self._cost, 1)}

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
        verdict = self._detector.judge(rows.matrix)
        least = verdict.p_values == verdict.p_values.min()
        worst = int(np.argmax(np.where(least, verdict.scores, -np.inf)))
        outlier = bool(verdict.mask[worst])
        mask = verdict.mask if not outlier else call.undecided(verdict.mask)
        call.verdict = Verdict(verdict.scores, verdict.p_values, mask)
        self._describe(
            call,
            float(verdict.scores[worst]),
            float(verdict.p_values[worst]),
            float(verdict.thresholds[worst]),
            outlier=outlier,
        )
        if outlier and mask.any():
            self._divert(call, rows, mask, verdict.p_values, worst)

    def _judge_one(self, call: Call, rows: RowSet) -> None:
        """The same for one row, in plain numbers: what nearly every request pays."""
        score, p_value, threshold = self._detector.judge_one(rows.matrix, rows.values)
        outlier = self._detector.is_outlier_one(score, threshold)
        call.verdict = Verdict((score,), (p_value,), (outlier,))
        self._describe(call, score, p_value, threshold, outlier=outlier)
        if outlier and call.undecided(_ONE_ROW).any():
            self._divert(call, rows, _ONE_ROW, np.array([p_value]), 0)

    def _describe(self, call: Call, score: float, p_value: float, threshold: float, *, outlier: bool) -> None:
        attributes = call.attributes
        attributes[semconv.OUTLIER_SCORE] = score
        attributes[semconv.OUTLIER_P_VALUE] = p_value
        attributes[semconv.OUTLIER_THRESHOLD] = threshold
        attributes[semconv.IS_OUTLIER] = outlier

    def _divert(self, call: Call, rows: RowSet, mask: Mask, p_values: Scores, worst: int) -> None:
        strangest = self._strangest(rows.matrix[worst])
        if strangest:
            call.attributes[semconv.OUTLIER_FEATURES] = tuple(strangest)
        whom = None if len(rows.matrix) == 1 else mask
        if not self._enforce:
            call.shadow(whom, semconv.OUTLIER, self.chain[0].route)
            return
        call.problems = self._explained(rows, mask, p_values, {worst: strangest})
        call.divert(whom, self.chain, semconv.OUTLIER)

    def _sent_away(self, call: Call, rows: RowSet) -> bool:
        """Whether an earlier guard has already sent away whatever cannot be read."""
        bad = rows.rows_with_problems()
        bad = np.ones(len(rows), dtype=bool) if bad is None else bad
        return not call.undecided(bad, shadows=not self._enforce).any()

    def _strangest(self, row: npt.NDArray[np.float64]) -> dict[str, float]:
        """The values that made a row strange, and their shares: names, never the values themselves."""
        shares = self._detector.contributions(row)
        largest = np.argsort(-shares, kind="stable")[:MAX_FEATURES]
        names = self._layout.names
        return {names[i]: round(float(shares[i]), 3) for i in largest if shares[i] >= LEAST_SHARE}

    def _explained(
        self, rows: RowSet, mask: Mask, p_values: Scores, known: dict[int, dict[str, float]]
    ) -> tuple[Problem, ...]:
        expected = f"a p-value above {self._detector.alpha:g}"
        flagged = np.flatnonzero(mask)[:MAX_PROBLEMS].tolist()
        # Only a refusal has a body to say it in, and only the first few rows are worth what it costs.
        for row in flagged[:MAX_EXPLAINED] if self.chain[0].rejects else ():
            if row not in known:
                known[row] = self._strangest(rows.matrix[row])
        return tuple(
            Problem("outlier", expected, f"{p_values[row]:.4g}", None, None if rows.single else row, known.get(row))
            for row in flagged
        )

    def _invalid(self, call: Call, rows: RowSet) -> None:
        mask = rows.rows_with_problems()
        if not self._enforce:
            call.shadow(mask, semconv.INVALID, semconv.REJECTED if self._refuses else self.chain[0].route)
        elif self._refuses:
            call.refuse(invalid_message(rows, len(rows.problems)), semconv.INVALID, rows.problems[:MAX_PROBLEMS])
        else:
            call.divert(mask, self.chain, semconv.INVALID)


def invalid_message(rows: RowSet, total: int) -> str:
    """One sentence for the client: the first problem, and how many more there are."""
    first = rows.problems[0]
    where = " ".join(
        [f"row {first.row}" if first.row is not None else "the input", f"field {first.field!r}" if first.field else ""]
    ).strip()
    more = f" (and {total - 1} more)" if total > 1 else ""
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
