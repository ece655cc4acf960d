"""How right the model was where labels are known, by how sure it was: what accuracy without labels is made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.profile.answers import CONFIDENCE, PREDICTION, Columns
from guardrails.profile.bins import Bins, Codes, Counts

_SHOWN = 6
"""Class numbers an error message lists at most."""


@dataclass(frozen=True, eq=False)
class Validated:
    """What the model got right on rows it was not trained on.

    Attributes:
        right: rows answered rightly, per bin of ``__confidence__``, shape ``(b,)``; of length 0 without scores.
        total: rows per bin of ``__confidence__``, the same shape.
        confusion: rows by bin of ``__prediction__`` (first axis) and true class (second), shape ``(b, K)``. The bins
            are not the classes: one that is never predicted has no bin, rare ones share the bin ``other``.
        classes: the classes that were true or predicted, ascending: the second axis of `confusion`, shape ``(K,)``.
        right_by_class: rows answered rightly, per true class, shape ``(K,)``.
    """

    right: Counts
    total: Counts
    confusion: Counts
    classes: npt.NDArray[np.float64]
    right_by_class: Counts

    @classmethod
    def fit(cls, bins: Bins, answers: Columns, labels: npt.ArrayLike) -> Validated:
        """Count what was right.

        Args:
            bins: the reference, which has the columns of the answers.
            answers: the columns of the model's answers, each of shape ``(n,)``.
            labels: the true classes, numbered as the model numbers them, shape ``(n,)``.

        Raises:
            ProfileError: the model does not predict classes, or the labels are not of its numbers.
        """
        if PREDICTION not in answers:
            raise ProfileError(
                "labels need answers that name a class: outputs of integer labels, or of (n, K) scores. "
                "For a model that predicts numbers leave labels out."
            )
        predicted = answers[PREDICTION]
        truth = _truth(labels, len(predicted))
        correct = predicted == truth
        if not correct.any():
            raise ProfileError(
                f"not one of {len(truth)} answers is right: the labels are numbered otherwise than the answers "
                f"(labels {_some(truth)}, answers {_some(predicted)})."
            )
        width = bins.counts.shape[1]
        classes = np.union1d(truth, predicted)
        true_class = np.searchsorted(classes, truth)
        confusion = np.zeros((width, len(classes)), np.int64)
        np.add.at(confusion, (_codes(bins, PREDICTION, answers), true_class), 1)
        right = total = np.zeros(0, np.int64)
        if CONFIDENCE in answers:
            sure = _codes(bins, CONFIDENCE, answers)
            right, total = _tally(sure[correct], width), _tally(sure, width)
        return cls(right, total, confusion, classes, _tally(true_class[correct], len(classes)))

    @property
    def rows(self) -> int:
        """How many rows had labels."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share answered rightly."""
        return float(self.right_by_class.sum() / self.rows)

    @property
    def bin_accuracy(self) -> npt.NDArray[np.float64]:
        """The share answered rightly per bin of ``__confidence__``, shape ``(b,)``; of length 0 without scores.

        Each bin counts one row more than it has, answered as rightly as all rows were: so no bin claims to be always
        right or never, and one without rows has the accuracy of all.
        """
        return np.asarray((self.right + self.usual) / (self.total + 1.0))

    @property
    def usual(self) -> float:
        """The share answered rightly, kept off 0 and 1 by Jeffreys' half a row of each: what a further row would be."""
        return float((self.right_by_class.sum() + 0.5) / (self.rows + 1.0))


def _truth(labels: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    try:
        truth = np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise ProfileError(f"labels are no array of one class number per answer: {error}") from error
    if truth.shape != (n,):
        raise ProfileError(f"labels have shape {truth.shape}; one for each of the {n} answers is needed, shape ({n},).")
    if truth.dtype.kind not in "biuf":
        raise ProfileError(f"labels are {truth.dtype}; they are class numbers (0, 1, ...), as the model's answers are.")
    values = truth.astype(np.float64)
    if not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        raise ProfileError(f"{missing} of {n} labels are missing (NaN) or infinite: leave these rows out.")
    if (values != np.round(values)).any():
        wrong = values[values != np.round(values)][0]
        raise ProfileError(f"a label is {wrong:g}; labels are class numbers (0, 1, ...), as the model's answers are.")
    return values


def _codes(bins: Bins, column: str, answers: Columns) -> Codes:
    """The bins of one column's values, shape ``(n,)``."""
    j = [bins.names.index(column)]
    alone = Bins((column,), bins.edges[j], bins.categorical[j], bins.counts[j])
    return alone.codes(answers[column][:, None])[:, 0]


def _tally(numbers: Codes, size: int) -> Counts:
    return np.bincount(numbers, minlength=size).astype(np.int64)


def _some(values: npt.NDArray[np.float64]) -> str:
    numbers = np.unique(values)
    return ", ".join(f"{number:g}" for number in numbers[:_SHOWN]) + (", ..." if len(numbers) > _SHOWN else "")
