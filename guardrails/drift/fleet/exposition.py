"""The count table as Prometheus counters, and beside it the reference: what a fleet's drift is computed from.

Every worker adds its own counts; BentoML's ``/metrics`` adds up the workers, Prometheus the replicas
(`guardrails.drift.fleet.rules`). Nothing here is on a request.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from guardrails import semconv
from guardrails.core.metrics import counter, gauge
from guardrails.drift.announce import labels_of
from guardrails.profile.answers import CONFIDENCE
from guardrails.profile.bins import Counts
from guardrails.profile.profile import Profile

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

logger = logging.getLogger("guardrails")

MAX_SERIES = 2000
"""Bins that one profile exports at most. Prometheus keeps each of them for each replica, and the worker that answers a
scrape renders them all in one go, which its other requests wait for."""
BREATH = 200
"""Series to make or add to in one go: how long a request may have to wait for the interpreter."""
DAY = 86_400.0
HOUR = 3_600.0
REPEATS = 12.0
"""A window that is judged 60 times while it slides by gives at most this many times the alarms of a single look."""
NOISE = 2.0
"""A matrix whose smallest singular value is less than this many of its sampling errors has no inverse to speak of."""

Item = TypeVar("Item")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Watched:
    """The cells of the count table that are exported.

    Attributes:
        columns: numbers of the columns, in the order of the table.
        left_out: names of the columns for which there was no room.
        cells: (column, bin) of every counter.
    """

    columns: tuple[int, ...]
    left_out: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, profile: Profile, limit: int | None = None) -> Watched:
        """Outputs and the outlier flag first, then features, as many as `limit` (`MAX_SERIES`) has room for."""
        bins, width = profile.bins, len(profile.schema.features)
        room = MAX_SERIES if limit is None else limit
        taken: list[int] = []
        left_out: list[str] = []
        for column in [*range(width, len(bins.names)), *range(width)]:
            if not bins.counts[column].any():
                continue  # no reference, nothing to compare with
            need = len(bins.used(column))
            if need <= room and not left_out:
                taken.append(column)
                room -= need
            else:
                left_out.append(bins.names[column])
        columns = tuple(sorted(taken))
        return cls(columns, tuple(left_out), tuple((j, b) for j in columns for b in bins.used(j)))


def critical_chi2(profile: Profile, *, run_length: float = 30 * DAY, window: float = HOUR) -> dict[int, float]:
    """What the chi-square statistic of each exported column has to exceed before it is called significant.

    Bonferroni over the columns and over the looks: `REPEATS` for each window of the wanted run length. (The bound is
    generous: columns move together, and windows that overlap do.)

    Args:
        profile: the reference.
        run_length: wanted seconds between two false alarms of the whole profile.
        window: seconds of traffic that are looked at together.

    Returns:
        The critical value by the number of the column.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 1)))
        >>> {profile.bins.names[j]: round(value, 1) for j, value in critical_chi2(profile).items()}
        {'feature_0': 47.5, '__outlier__': 22.2}
    """
    from scipy.stats import chi2

    columns = Watched.of(profile).columns
    alpha = alarm_rate(run_length, window) / max(len(columns), 1)
    return {j: float(chi2.isf(alpha, max(len(profile.bins.used(j)) - 1, 1))) for j in columns}


def alarm_rate(run_length: float, window: float) -> float:
    """The chance that a look may give a false alarm, if alarms are to be `run_length` apart."""
    return float(min(0.5, window / (run_length * REPEATS)))


def bin_accuracy(profile: Profile) -> dict[int, float]:
    """How right the model was on validation rows, by bin of ``__confidence__``; empty where it gives no scores."""
    validated = profile.validated
    if validated is None or not len(validated.total):
        return {}
    accuracy = validated.bin_accuracy
    return {b: float(accuracy[b]) for b in profile.bins.used(profile.bins.names.index(CONFIDENCE))}


def prior_matrix(profile: Profile) -> dict[tuple[int, int], float]:
    """What turns shares of predictions into shares of true classes: weights by (class number, bin).

    Black-box shift estimation (Lipton, Wang and Smola 2018): the inverse of the matrix of predictions given the class.
    Predictions that validation never had are not in it. Empty where validation cannot tell the classes apart: where
    the smallest singular value of the matrix is less than `NOISE` times its sampling error, as in
    `guardrails.evaluation.estimate_prior`.
    """
    validated = profile.validated
    if validated is None:
        return {}
    known = np.flatnonzero(validated.confusion.sum(axis=0))
    answered = np.flatnonzero(validated.confusion.sum(axis=1))
    table = validated.confusion[np.ix_(answered, known)].astype(np.float64)
    if not _tells_apart(table):
        return {}
    inverse = np.linalg.pinv(table / table.sum(axis=0))
    return {
        (int(validated.classes[k]), int(b)): float(inverse[i, j])
        for i, k in enumerate(known)
        for j, b in enumerate(answered)
    }


def _tells_apart(table: Floats) -> bool:
    """Whether rows by prediction (first axis) and class (second) tell the classes apart beyond sampling error."""
    bins, classes = table.shape
    if classes < 2 or bins < classes:  # noqa: PLR2004
        return False
    n = table.sum(axis=0)
    smooth = (table + 1 / bins) / (n + 1)  # an empty cell is no certainty
    variance = smooth * (1 - smooth) / n
    # The norm of a matrix of independent errors is about that of its largest row plus that of its largest column.
    noise = np.sqrt(variance.sum(axis=0).max()) + np.sqrt(variance.sum(axis=1).max())
    return bool(np.linalg.svd(table / n, compute_uv=False)[-1] >= NOISE * noise)


class Exposition:
    """Exports the counts of one profile; one per process, made before the first row is counted.

    Every counter exists from the start, at 0: Prometheus cannot see the increase of a series that begins at 3.

    Args:
        profile: the reference.
        run_length_seconds: wanted seconds between two false alarms of rules that look at an hour.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> rows = np.random.default_rng(0).normal(size=(500, 1))
        >>> profile = gr.Profile.fit(rows, model="docs:1")
        >>> exposition = Exposition(profile)
        >>> table = np.column_stack([rows[:3], np.zeros(3)])
        >>> exposition.add(profile.bins.count(table))
        >>> from prometheus_client import REGISTRY
        >>> labels = {"model": "docs:1", "ref": profile.bins.ref, "feature": "__outlier__", "bin": "00"}
        >>> REGISTRY.get_sample_value("guardrails_feature_bin_total", labels)
        3.0
    """

    def __init__(self, profile: Profile, *, run_length_seconds: float = 30 * DAY) -> None:
        watched = Watched.of(profile)
        self.series = len(watched.cells)
        if watched.left_out:
            logger.warning(
                "drift: %d of %d columns are not exported to Prometheus, which would take more than %d series: %s%s. "
                "The drift detector on this machine watches them all the same.",
                len(watched.left_out),
                len(profile.bins.names),
                MAX_SERIES,
                ", ".join(watched.left_out[:5]),
                ", ..." if len(watched.left_out) > 5 else "",  # noqa: PLR2004
            )
        self._width = profile.bins.counts.shape[1]
        model, ref = labels_of(profile)
        names, label = profile.bins.names, profile.bins.label
        self._children = {
            j * self._width + b: feature_bin().labels(model, ref, names[j], label(b))
            for j, b in _breathing(watched.cells)
        }
        _show_reference(profile, watched, run_length_seconds)
        _show_validation(profile)

    def add(self, counts: Counts) -> None:
        """Add what one flush counted: a table of increments, of the shape of ``profile.bins.counts``."""
        flat = counts.ravel()
        for cell in _breathing(np.flatnonzero(flat > 0).tolist()):
            child = self._children.get(cell)
            if child is not None:
                child.inc(int(flat[cell]))


def _breathing(items: Sequence[Item]) -> Iterator[Item]:
    """One after the other, letting go of the interpreter now and then."""
    for number, item in enumerate(items, start=1):
        if number % BREATH == 0:
            time.sleep(0)
        yield item


def _show_reference(profile: Profile, watched: Watched, run_length: float) -> None:
    model, ref = labels_of(profile)
    bins = profile.bins
    shares = bins.counts / np.maximum(bins.counts.sum(axis=1, keepdims=True), 1)
    for j, b in _breathing(watched.cells):
        reference_bin_ratio().labels(model, ref, bins.names[j], bins.label(b)).set(float(shares[j, b]))
    for j, critical in critical_chi2(profile, run_length=run_length).items():
        reference_size().labels(model, ref, bins.names[j]).set(float(bins.effective_rows[j]))
        drift_critical_chi2().labels(model, ref, bins.names[j]).set(critical)


def _show_validation(profile: Profile) -> None:
    if profile.validated is None:
        return
    model, ref = labels_of(profile)
    reference_accuracy().labels(model, ref).set(profile.validated.accuracy)
    for b, accuracy in bin_accuracy(profile).items():
        reference_bin_accuracy().labels(model, ref, profile.bins.label(b)).set(accuracy)
    for (number, b), weight in prior_matrix(profile).items():
        bbse_matrix().labels(model, ref, str(number), profile.bins.label(b)).set(weight)


# Every worker shows the same reference. Their maximum is that value, and it outlives the worker that set it.
_static = functools.partial(gauge, over_workers="max")


@functools.cache
def feature_bin() -> Counter:
    """Sampled values, by feature and bin."""
    return counter(semconv.FEATURE_BIN_TOTAL, "Sampled values by bin.", ("model", "ref", "feature", "bin"))


@functools.cache
def reference_bin_ratio() -> Gauge:
    """The reference's share of each bin."""
    text = "The share of the reference that lies in this bin."
    return _static(semconv.REFERENCE_BIN_RATIO, text, ("model", "ref", "feature", "bin"))


@functools.cache
def reference_size() -> Gauge:
    """How large the reference is."""
    text = "How many independent rows the reference of this column is worth."
    return _static(semconv.REFERENCE_SIZE, text, ("model", "ref", "feature"))


@functools.cache
def drift_critical_chi2() -> Gauge:
    """When a statistic is significant."""
    text = "What the chi-square statistic of an hour has to exceed, for alarms no more often than was asked."
    return _static(semconv.DRIFT_CRITICAL_CHI2, text, ("model", "ref", "feature"))


@functools.cache
def reference_bin_accuracy() -> Gauge:
    """How right the model was, by confidence."""
    text = "The share of right answers among validation rows with a confidence in this bin."
    return _static(semconv.REFERENCE_BIN_ACCURACY, text, ("model", "ref", "bin"))


@functools.cache
def reference_accuracy() -> Gauge:
    """How right the model was."""
    return _static(semconv.REFERENCE_ACCURACY, "The share of right answers on validation.", ("model", "ref"))


@functools.cache
def bbse_matrix() -> Gauge:
    """From shares of predictions to shares of true classes."""
    text = "Weight of the share of this predicted bin in the estimated share of this true class."
    return _static(semconv.BBSE_MATRIX, text, ("model", "ref", "class", "bin"))
