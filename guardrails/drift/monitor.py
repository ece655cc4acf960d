"""Monitor: rows in, an alarm out when they are no longer what training was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.core.payload import read
from guardrails.drift.alarm import Alarm
from guardrails.drift.watch import Watch
from guardrails.errors import GuardrailsError, ProfileError
from guardrails.profile import answers
from guardrails.profile.bins import Codes
from guardrails.profile.profile import Profile
from guardrails.profile.serial import Neighbours
from guardrails.profile.watched import OUTLIER, table

LEAST_RUN_LENGTH = 100.0


class Monitor:
    """Watches rows as they come, and raises an alarm when they are no longer what training was.

    It may be asked after every row: without drift, alarms come no sooner than every ``run_length`` rows on average.
    Rows that resemble their neighbours are weighed by what they are worth; rows of one request best come one per
    request. After an alarm the detector starts anew. See `guardrails.drift.sequential` for the method.

    Not thread-safe: one monitor, one stream.

    Args:
        profile: what training looked like; columns whose reference is worth fewer than 500 rows are not judged.
        run_length: the wanted mean number of rows between two false alarms.

    Raises:
        ProfileError: no feature has a reference that is worth 500 independent rows.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> rng = np.random.default_rng(0)
        >>> monitor = gr.drift.Monitor(gr.Profile.fit(rng.normal(size=(2000, 3))), run_length=100_000)
        >>> monitor.update(rng.normal(size=(500, 3))) is None
        True
        >>> alarm = monitor.update(rng.normal(size=(500, 3)) + [0.0, 0.7, 0.0])
        >>> alarm.features[0]
        'feature_1'
        >>> alarm.findings[0].direction
        'is higher by about 0.5 standard deviations'
    """

    def __init__(self, profile: Profile, run_length: float = 100_000.0) -> None:
        if not isinstance(profile, Profile):
            raise ProfileError(f"Monitor({profile!r}): give a fitted Profile, or Profile.load(tag).")
        if not (math.isfinite(run_length) and run_length >= LEAST_RUN_LENGTH):
            raise ProfileError(
                f"Monitor(run_length={run_length!r}): the mean number of rows between two false alarms, at least 100."
            )
        self.profile, self.run_length = profile, float(run_length)
        self.watch = Watch(profile, self.run_length)
        self._neighbours = Neighbours(profile.bins)
        self._flags = OUTLIER in profile.bins.names and OUTLIER not in self.watch.unjudged
        self._before: Codes | None = None

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Watched columns whose reference is too small to judge."""
        return self.watch.unjudged

    @property
    def evidence(self) -> dict[str, float]:
        """The evidence of each judged column by itself, as a share of what an alarm needs."""
        columns = (self.profile.bins.names[column] for column in self.watch.detector.judged)
        shares = np.exp(np.minimum(self.watch.evidence.columns - self.watch.detector.due, 700.0))
        return dict(zip(columns, shares.tolist(), strict=True))

    def update(self, rows: Any, outputs: Any = None) -> Alarm | None:
        """Weigh the next rows; ticks may differ in size.

        Args:
            rows: ``(n, d)`` or ``(d,)`` values, a DataFrame, or records, in the order in which they came.
            outputs: the model's answers to them, as `Profile.fit` takes them; not watched where they are not given.

        Returns:
            An alarm, once, if one is due; the detector then starts anew.

        Raises:
            GuardrailsError: rows are not readable as rows of the profile, or outputs not as answers to them.
        """
        matrix = self._read(rows)
        if matrix is None:
            return None
        said = None if outputs is None else self._said(outputs, len(matrix))
        outliers = self.profile.outliers.is_outlier(matrix) if self._flags else None
        codes = self.profile.bins.codes(*table(self.profile.bins.names, matrix, said, outliers))
        distances, pairs = self._neighbours.distances(codes, self._before)
        self._before = codes[-1]
        return self.watch.tick(self.profile.bins.tally(codes), distances, pairs.astype(float), float(len(matrix)))

    def _read(self, rows: Any) -> npt.NDArray[np.float64] | None:
        if hasattr(rows, "__len__") and not len(rows):
            return None
        found = read(rows, self.profile.layout)
        if found.problems:
            problem = found.problems[0]
            where = "" if problem.row is None else f" in row {problem.row}"
            where += "" if problem.field is None else f", column {problem.field!r}"
            raise GuardrailsError(
                f"these are no rows of the profile{where}: {problem.expected} expected, {problem.found} found."
            )
        return found.matrix

    def _said(self, outputs: Any, n: int) -> answers.Columns:
        found = answers.columns(outputs, n)
        if found is None:
            raise GuardrailsError(f"outputs are numbers (labels, predictions, scores), one entry for each of {n} rows.")
        return found
