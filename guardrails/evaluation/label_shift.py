"""Label shift: which mixture of the validated classes gives the answers of a window (black-box shift estimation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from guardrails.profile.validated import Validated

Floats = npt.NDArray[np.float64]

STRAY = 0.01
"""The share of a window that may lie where validation had too few rows before the estimate counts as unsupported."""
NOISE = 2.0
"""The smallest singular value of the confusion matrix is at least this many times its sampling error, or no inverse."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Answers explained as a mixture of the validated classes.

    Attributes:
        refusal: why they cannot be; the rest is then of no use.
        condition: of the matrix of answers given the class.
        known: which classes had validation rows, shape ``(K,)``; and `rows`: how many, one entry for each known class.
        answered: which bins had validation rows, shape ``(b,)``.
        inverse: from shares of answered bins to shares of known classes.
        raw: shares of the known classes as solved; and `shares`: as projected.
        error: the standard errors of `raw`.
        stray: the window's share in other bins.
    """

    refusal: str
    condition: float
    known: npt.NDArray[np.bool_]
    rows: Floats
    answered: npt.NDArray[np.bool_]
    inverse: Floats
    raw: Floats
    shares: Floats
    error: Floats
    stray: float

    def doubt(self, level: float) -> str:
        """What speaks against it."""
        if self.stray > STRAY:
            return f"{self.stray:.1%} of the answers are ones that validation never had."
        if (self.raw < -quantile(level, len(self.raw)) * self.error).any():
            return "No mixture of the validated classes gives such answers: more than their shares has changed."
        return ""


def mixture(validated: Validated, row: Floats) -> Mixture:
    """Explain a window's answers.

    Args:
        validated: answers and truth on validation.
        row: how often each bin of ``__prediction__`` occurred in the window, shape ``(b,)``.
    """
    known, answered = validated.confusion.sum(axis=0) > 0, validated.confusion.sum(axis=1) > 0
    table = validated.confusion[np.ix_(answered, known)].astype(np.float64)
    n, bins = table.sum(axis=0), len(table)
    given, seen = table / n, row[answered]
    answers = seen.sum() or 1.0
    smooth = (table + 1 / bins) / (n + 1)
    refusal, condition = _refusal(given, smooth * (1 - smooth) / n, row, seen)
    inverse = np.linalg.pinv(given)
    window = (seen + 1 / bins) / (seen.sum() + 1)
    raw = inverse @ (seen / answers)
    shares = _projected(raw)
    error = _multinomial(window) / answers
    for share, given_class, labelled in zip(shares, smooth.T, n, strict=True):
        error = error + share**2 * _multinomial(given_class) / labelled
    return Mixture(
        refusal=refusal,
        condition=condition,
        known=known,
        rows=n,
        answered=answered,
        inverse=inverse,
        raw=raw,
        shares=shares,
        error=np.sqrt(np.maximum(np.diag(inverse @ error @ inverse.T), 0.0)),
        stray=float(1 - seen.sum() / row.sum()) if row.sum() else 0.0,
    )


def _refusal(given: Floats, variance: Floats, row: Floats, seen: Floats) -> tuple[str, float]:
    """Why the matrix of answers given the class is not to be inverted (or empty), and its condition number."""
    singular = np.linalg.svd(given, compute_uv=False)
    smallest = singular[-1] if given.shape[0] >= given.shape[1] else 0.0
    condition = float(singular[0] / smallest) if smallest > np.finfo(float).eps * singular[0] else float("inf")
    # The norm of a matrix of independent errors is about that of its largest row plus that of its largest column.
    noise = np.sqrt(variance.sum(axis=0).max()) + np.sqrt(variance.sum(axis=1).max())
    if given.shape[1] == 1:
        return "Validation had rows of one class only: there is nothing to tell apart.", condition
    if smallest < NOISE * noise:
        return (
            f"The answers do not tell the classes apart well enough on validation (condition number {condition:.3g}, "
            f"smallest singular value {smallest:.2g}, sampling error {noise:.2g}): more labelled rows of each class "
            "would help, or a model that predicts every class."
        ), condition
    if not row.sum():
        return "No answer was counted.", condition
    return ("" if seen.sum() else "No answer is one that validation had."), condition


def _projected(values: Floats) -> Floats:
    """The nearest point of the simplex (Duchi et al. 2008)."""
    ordered = np.sort(values)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
    return np.asarray(np.maximum(values - excess[np.flatnonzero(ordered > excess)[-1]], 0.0))


def _multinomial(shares: Floats) -> Floats:
    """The covariance of one draw."""
    return np.asarray(np.diag(shares) - np.outer(shares, shares))


def quantile(level: float, at_once: int = 1) -> float:
    """How many standard errors an interval of this level reaches to either side, or each of several at once."""
    from scipy.special import ndtri

    return float(-ndtri((1 - level) / 2 / at_once))
