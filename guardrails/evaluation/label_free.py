"""How right the model still is, and which classes come more often, from counts of its answers alone: no labels needed.

Both estimates read the count table of drift, so those of workers, hours and replicas add up first. Both rest on an
assumption that no data without labels can test in full, and say so. Neither sees concept drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import GuardrailsError
from guardrails.evaluation.label_shift import STRAY, mixture, quantile
from guardrails.profile.answers import CONFIDENCE, PREDICTION
from guardrails.profile.watched import OUTLIER

if TYPE_CHECKING:
    from guardrails.profile.bins import Bins
    from guardrails.profile.profile import Profile
    from guardrails.profile.validated import Validated

Floats = npt.NDArray[np.float64]

FEW = 5
"""A bin with fewer validation rows than this says nothing about how right the model is there."""
STRANGERS = 3.0
"""More than so many times the share of outliers that training had is not what validation was about."""
ENOUGH = 10.0
"""So many errors of the model's are half enough to believe how they are spread over the bins."""
BLIND = "Concept drift is invisible to this: where the right answers themselves have changed, only labels tell."
LABEL_SHIFT = "It assumes label shift: classes come more or less often, but look as they did on validation."
CONFIDENCES, CLASS_SHARES = "confidence", "class shares"
_ASSUMED = {
    CONFIDENCES: "It assumes that equally sure answers are right as often as they were on validation.",
    CLASS_SHARES: "It assumes that only the shares of the classes have changed; with scores it would assume less.",
}


@dataclass(frozen=True)
class AccuracyEstimate:
    """How right the answers of a window probably were.

    Attributes:
        value: the estimated share of right answers; NaN where nothing can be said.
        low, high: where the share of right answers among the window's own rows lies, at `level`.
        reference: the share of right answers among the validation rows.
        rows: answers in the window.
        supported: whether the answers stayed where validation had rows, and rows where training had: no more outliers
            than chance and some drift would bring. If not, the interval promises nothing.
        method: ``confidence`` (how sure the answers were), or ``class shares`` (for a model without scores).
        level: of the interval.
        note: what to know before believing it.
    """

    value: float
    low: float
    high: float
    reference: float
    rows: int
    supported: bool
    method: str
    level: float
    note: str

    def meets(self, target: float) -> bool | None:
        """Whether accuracy is at least `target`; None where the interval straddles it, or nothing supports it."""
        if not self.supported or self.low < target <= self.high:
            return None
        return self.low >= target

    def to_json(self) -> dict[str, Any]:
        """All of it, with None for NaN."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def sentence(self) -> str:
        """One line for people."""
        if np.isnan(self.value):
            return f"Accuracy cannot be estimated without labels: {self.note}"
        return (
            f"Accuracy without labels: about {self.value:.3f} ({self.low:.3f} to {self.high:.3f} at {self.level:.0%}) "
            f"over {self.rows} answers; {self.reference:.3f} on validation. {_caveat(self)}"
        )


@dataclass(frozen=True, eq=False)
class PriorEstimate:
    """How often each class probably is the true one, in what a window was drawn from.

    Attributes:
        classes: class numbers, shape ``(K,)``.
        value: their shares, which sum to one, shape ``(K,)``; NaN where nothing can be said, as of a class that was
            predicted, but never true on validation.
        low, high: an interval for each share, at `level`, shape ``(K,)``.
        reference: their shares among the validation rows, shape ``(K,)``.
        moved: the classes whose share differs from the reference by more than chance explains.
        rows: answers in the window.
        condition: of the matrix that was inverted: by how much it magnifies errors at worst; inf without an inverse.
        supported: whether a mixture of the validated classes could give such answers, without many outliers.
        level: of the intervals; `moved` names no class wrongly with this probability.
        note: what to know before believing it.
    """

    classes: tuple[int, ...]
    value: Floats
    low: Floats
    high: Floats
    reference: Floats
    moved: tuple[int, ...]
    rows: int
    condition: float
    supported: bool
    level: float
    note: str

    def to_json(self) -> dict[str, Any]:
        """All of it, with lists for arrays and None for NaN."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def sentence(self) -> str:
        """One line for people."""
        if np.isnan(self.value).all():
            return f"Class shares cannot be estimated without labels: {self.note}"
        moved = [
            f"class {number} {value:.3f} ({low:.3f} to {high:.3f} at {self.level:.0%}), {was:.3f} on validation"
            for number, value, low, high, was in zip(
                self.classes, self.value, self.low, self.high, self.reference, strict=True
            )
            if number in self.moved
        ]
        what = "; ".join(moved) if moved else "none moved by more than chance explains"
        return f"Class shares without labels, over {self.rows} answers: {what}. {_caveat(self)}"


def _caveat(estimate: AccuracyEstimate | PriorEstimate) -> str:
    return "Blind to concept drift." if estimate.supported else f"Unsupported: {estimate.note}"


def estimate_accuracy(profile: Profile, counts: npt.ArrayLike, level: float = 0.95) -> AccuracyEstimate | None:
    r"""Estimate how many of a window's answers were right, from how sure the model was.

    With scores: confidence-based performance estimation on bins, $\sum_b q_b a_b$, where $q_b$ is the window's share
    of bin $b$ of ``__confidence__`` and $a_b$ how right the model was there on validation
    (`Validated.bin_accuracy`). It assumes that equally sure answers are right as often as they were on validation.
    That holds while inputs move within what the model was fitted well on; nearly, where classes come more or less
    often; not, where inputs go to places the model knows little of. Many outliers tell the last case
    (`AccuracyEstimate.supported`), if it is not a small move.

    Without scores: $\sum_j \pi_j r_j$, the recall of each class weighted by the class shares of `estimate_prior`. It
    assumes that nothing but the shares of the classes has changed, which is much more.

    The interval is for the share of right answers among the window's own rows. Its variance
    $\sum_b q_b a_b (1 - a_b) / m + \sum_b q_b^2 a_b (1 - a_b) / n_b$ (m rows of the window, n_b of validation) is
    turned into that many rows of a plain proportion, and these into a Jeffreys interval (after Korn and Graubard 1998),
    widened by half a row as the truth is a whole number of rows. With few errors on validation these are not many more
    rows than there are. Rows in bins where validation had fewer than `FEW` may all have been right, or wrong. Given
    how sure the answers are, their errors are taken to be independent.

    Args:
        profile: fitted with ``labels`` or ``validation``.
        counts: of the window, in the bins of the profile, shape ``(f, b)`` as ``profile.bins.counts``; those of
            several workers or hours are added.
        level: with what probability the interval holds the truth.

    Returns:
        The estimate, or None for a profile without labels. Without answers, or where class shares cannot be told, its
        value is NaN and its note says why.

    Raises:
        GuardrailsError: the counts are not of this profile, or the level is not between 0 and 1.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(size=(4000, 1))
        >>> scores = np.hstack([X, 1 - X])
        >>> labels = (rng.uniform(size=4000) > X[:, 0]).astype(int)
        >>> profile = gr.Profile.fit(X, outputs=scores, labels=labels)
        >>> close = np.column_stack([X, scores.argmax(axis=1), scores.max(axis=1), 0 * X])[scores.max(axis=1) < 0.6]
        >>> estimate = estimate_accuracy(profile, profile.bins.count(close))
        >>> round(estimate.reference, 2), round(estimate.value, 2), estimate.meets(0.7)
        (0.74, 0.54, False)
    """
    table, validated = _checked(profile, counts, level), profile.validated
    if validated is None:
        return None
    by_confidence = len(validated.total) > 0
    row = table[profile.bins.names.index(CONFIDENCE if by_confidence else PREDICTION)]
    said = (
        _by_confidence(validated, row, level)
        if by_confidence
        else _by_class_shares(profile.bins, validated, row, level)
    )
    doubt = said.doubt or _strangers(profile.bins, table, row.sum())
    method = CONFIDENCES if by_confidence else CLASS_SHARES
    return AccuracyEstimate(
        value=said.value,
        low=said.low,
        high=said.high,
        reference=validated.accuracy,
        rows=round(row.sum()),
        supported=not doubt,
        method=method,
        level=level,
        note=f"{doubt} {_ASSUMED[method]} {BLIND}".strip(),
    )


def estimate_prior(profile: Profile, counts: npt.ArrayLike, level: float = 0.95) -> PriorEstimate | None:
    r"""Estimate how often each class is the true one, from how often each is predicted.

    Black-box shift estimation (Lipton, Wang and Smola 2018): with $C_{ij}$ the validation share of rows predicted $i$
    that truly were $j$ and $\mu$ the window's shares of predictions, $w = C^{-1} \mu$ says how much more often each
    class comes than on validation. Here the same is solved for the shares $\pi_j = w_j p_j$ themselves, by the matrix
    of predictions given the class; shares below 0 go by projection to the nearest mixture (in the Euclidean sense).

    It assumes label shift: the classes come in other proportions, but each looks, and is mistaken, as it was. Where
    inputs change otherwise it is wrong, and only sometimes does the table contradict it (`PriorEstimate.supported`).

    Intervals are by the delta method, before the projection and cut to [0, 1], from the sampling errors of window and
    validation, with one more row each spread over the bins so that no empty cell claims certainty. Rows are taken to
    be independent. `PriorEstimate.moved` counts the sampling error of the reference, too, and all classes at once.

    Args:
        profile: fitted with ``labels`` or ``validation``.
        counts: of the window, in the bins of the profile, shape ``(f, b)`` as ``profile.bins.counts``; those of
            several workers or hours are added.
        level: with what probability each interval holds the truth.

    Returns:
        The estimate, or None for a profile without labels. Where the smallest singular value of the matrix is not
        twice its sampling error, or there are no answers, its values are NaN and its note says why.

    Raises:
        GuardrailsError: the counts are not of this profile, or the level is not between 0 and 1.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(0, 2, 4000)
        >>> X = rng.normal(2 * labels, 1)[:, None]
        >>> predicted = (X[:, 0] > 1).astype(int)
        >>> profile = gr.Profile.fit(X, outputs=predicted, labels=labels)
        >>> more = np.column_stack([X, predicted, 0 * X])[(labels == 1) | (rng.random(4000) < 0.25)]
        >>> estimate = estimate_prior(profile, profile.bins.count(more))
        >>> estimate.reference.round(1), estimate.value.round(1), estimate.moved
        (array([0.5, 0.5]), array([0.2, 0.8]), (0, 1))
    """
    table, validated = _checked(profile, counts, level), profile.validated
    if validated is None:
        return None
    row = table[profile.bins.names.index(PREDICTION)]
    mix = mixture(validated, row)
    reference = validated.confusion.sum(axis=0) / validated.rows
    value, low, high = (np.full(len(reference), fill) for fill in (np.nan, 0.0, 1.0))
    moved, doubt = np.zeros(len(reference), dtype=bool), mix.refusal
    if not mix.refusal:
        reach, was = quantile(level) * mix.error, reference[mix.known]
        value[mix.known] = mix.shares
        low[mix.known] = np.clip(np.minimum(mix.raw - reach, mix.shares), 0, 1)
        high[mix.known] = np.clip(np.maximum(mix.raw + reach, mix.shares), 0, 1)
        apart = np.sqrt(mix.error**2 + was * (1 - was) / validated.rows)
        moved[mix.known] = np.abs(mix.raw - was) > quantile(level, len(was)) * apart
        doubt = mix.doubt(level) or _strangers(profile.bins, table, row.sum())
    classes = tuple(int(number) for number in validated.classes)
    never = ", ".join(str(number) for number, is_known in zip(classes, mix.known, strict=True) if not is_known)
    unknown = f"Taken not to occur, as validation had no row of them: classes {never}." if never else ""
    return PriorEstimate(
        classes=classes,
        value=value,
        low=low,
        high=high,
        reference=reference,
        moved=tuple(number for number, is_moved in zip(classes, moved, strict=True) if is_moved),
        rows=round(row.sum()),
        condition=mix.condition,
        supported=not doubt,
        level=level,
        note=" ".join(filter(None, [doubt or f"Condition number {mix.condition:.3g}.", unknown, LABEL_SHIFT, BLIND])),
    )


@dataclass(frozen=True)
class _Said:
    """An accuracy with its interval, and what speaks against it."""

    doubt: str
    value: float = float("nan")
    low: float = 0.0
    high: float = 1.0


def _by_confidence(validated: Validated, row: Floats, level: float) -> _Said:
    """Right answers by how sure they were."""
    if not row.sum():
        return _Said("No answer with a confidence was counted.")
    right, known = validated.bin_accuracy, validated.total >= FEW
    stray = float(row[~known].sum() / row.sum())
    doubt = ""
    if stray > STRAY:
        doubt = f"{stray:.1%} of the answers have a confidence that validation had too few rows of, or none."
    value, low, high = float(row @ right / row.sum()), 0.0, 1.0  # a stray answer may be right, or wrong
    if row[known].any():
        rows = float(row[known].sum())
        share, right, labelled = row[known] / rows, right[known], validated.total[known] + 1.0
        low, high = _interval(float(share @ right), share, right * (1 - right), labelled, rows, level)
    return _Said(doubt, value, (1 - stray) * low, min(1.0, (1 - stray) * high + stray))


def _by_class_shares(bins: Bins, validated: Validated, row: Floats, level: float) -> _Said:
    """Right answers by the class they probably belong to: the recall of each class, weighted by its share."""
    mix = mixture(validated, row)
    if mix.refusal:
        return _Said(mix.refusal)
    n, hits, usual = mix.rows, validated.right_by_class[mix.known], validated.usual
    classes = np.repeat(validated.classes[mix.known, None], len(bins.names), axis=1)
    own_bin = bins.codes(classes)[:, bins.names.index(PREDICTION)]
    # Unsmoothed, the value is recall @ inverse @ shares of answers = weight @ shares of answers. So what a row adds to
    # its error is (was it right) - weight[its bin], whose mean is 0 in each class, and whose variance is this:
    weight = np.zeros(len(row))
    weight[mix.answered] = (hits / n) @ mix.inverse
    spread = hits / n * (1 - 2 * weight[own_bin]) + weight**2 @ (validated.confusion[:, mix.known] / n)
    spread = (n * np.maximum(spread, 0) + usual * (1 - usual)) / (n + 1)
    value, seen = float(mix.shares @ ((hits + usual) / (n + 1))), 1 - mix.stray
    low, high = _interval(value, mix.shares, spread, n, float(row.sum()) * seen, level)
    value, high = seen * value + mix.stray * usual, min(1.0, seen * high + mix.stray)
    return _Said(mix.doubt(level), value, seen * low, high)


def _strangers(bins: Bins, table: Floats, answers: float) -> str:
    """What speaks against an estimate if many more of the answered rows than on training are outliers."""
    if OUTLIER not in bins.names:
        return ""
    column = bins.names.index(OUTLIER)
    looked, usual = table[column].sum(), max(bins.counts[column, 1], 1) / bins.counts[column].sum()
    # Outliers may have been answered by somebody else: as many as rows were looked at but not answered.
    outliers = table[column, 1] - max(0.0, looked - answers)
    most = STRANGERS * usual * answers
    if outliers <= most + STRANGERS * np.sqrt(most) or not answers:
        return ""
    return (
        f"{outliers / answers:.1%} of the answered rows are outliers, {usual:.1%} were on training: validation did not "
        "tell how right the model is on such rows."
    )


def _interval(
    value: float, share: Floats, spread: Floats, known: Floats, rows: float, level: float
) -> tuple[float, float]:
    """A Jeffreys interval of as many rows of a plain proportion as err like this, half a row wider.

    Args:
        value: the estimate.
        share: what share of the window each stratum (bin, class) has, shape ``(s,)``.
        spread: the variance that one row of a stratum brings, shape ``(s,)``.
        known: validation rows per stratum, shape ``(s,)``.
        rows: of the window.
        level: of the interval.
    """
    from scipy.special import betaincinv

    plain = 1 / (1 / rows + share**2 @ (1 / known))
    gain = value * (1 - value) / (share @ spread / rows + share**2 @ (spread / known)) / plain
    if gain > 1:  # strata that differ make the estimate better, but a few errors do not show that they differ
        errors = value * (1 - value) * plain
        gain = 1 + (gain - 1) * errors / (errors + ENOUGH)
    right, wrong, tail = value * gain * plain + 0.5, (1 - value) * gain * plain + 0.5, (1 - level) / 2
    low = float(betaincinv(right, wrong, tail)) - 0.5 / rows
    high = float(betaincinv(right, wrong, 1 - tail)) + 0.5 / rows
    return max(0.0, min(low, value)), min(1.0, max(high, value))


def _checked(profile: Profile, counts: npt.ArrayLike, level: float) -> Floats:
    if not 0 < level < 1:
        raise GuardrailsError(f"level={level!r} is the probability of an interval: between 0 and 1, such as 0.95.")
    table, shape = np.asarray(counts, dtype=np.float64), profile.bins.counts.shape
    if table.shape != shape:
        raise GuardrailsError(
            f"counts have shape {table.shape}, the profile's bins {shape}: give counts made with this profile, "
            "profile.bins.count(rows of all watched columns)."
        )
    if not (np.isfinite(table) & (table >= 0)).all():
        raise GuardrailsError("counts are how often each bin occurred: finite, and none below 0.")
    return table


def _plain(value: Any) -> Any:
    """As JSON has it: lists for arrays, None for NaN and infinity."""
    if isinstance(value, np.ndarray | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):  # NumPy's are, too
        return float(value) if np.isfinite(value) else None
    return value
