"""From sampled requests to rows of watched columns: in the background, many at once where they are alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from guardrails.core.payload import Index, RowSet, read
from guardrails.profile import answers
from guardrails.profile.bins import Codes
from guardrails.profile.profile import Profile
from guardrails.profile.watched import OUTLIER, table
from guardrails.typing import Rows

logger = logging.getLogger("guardrails")

BREATH = 32
"""Requests read in one go: how long a request may have to wait for the flusher."""


class Sample(NamedTuple):
    """References to what one request brought and got.

    Attributes:
        rows: its rows, read or as they came.
        answer: the model's own answer; None where it gave none.
        answered: which rows the model answered; None for all.
        pick: which row counts, modulo how many there are.
        id: the decision's.
    """

    rows: Any
    answer: Any
    answered: Index | None
    pick: int
    id: str = ""


class Said(NamedTuple):
    """An answer that has been read already, because it is that of many rows."""

    columns: answers.Columns | None


class Reader:
    """Reads samples as rows of a profile's watched columns.

    Args:
        profile: whose.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._names = profile.bins.names
        self._flags = OUTLIER in self._names
        self._complained = -60.0

    def codes(self, samples: Sequence[Sample]) -> tuple[Codes, list[str]]:
        """The bins of one row of each request that can be read, in the order in which they came; and their ids.

        Returns:
            Codes of shape ``(n, f)``, n at most ``len(samples)``, and n decision ids.
        """
        alike, others = _sorted_out(samples)
        blocks = [self._at_once([samples[place] for place in alike])] if alike else []
        singles, places = [], list(alike)
        for number, place in enumerate(others):
            if number % BREATH == 0:
                time.sleep(0)  # let go of the GIL: a request may be waiting, and would for 5 ms
            try:
                one = self._one(samples[place])
            except Exception as error:  # noqa: BLE001  # one sample that nobody can read costs no other
                self._complain(error)
                continue
            if one is not None:
                singles.append(one)
                places.append(place)
        found = [*blocks, *singles]
        if not found:
            return np.empty((0, len(self._names)), np.int64), []
        order = np.argsort(places, kind="stable")
        return np.concatenate(found)[order], [samples[places[at]].id for at in order]

    def _complain(self, error: Exception) -> None:
        """Once a minute; of the error the type, for its text may hold a value."""
        if time.monotonic() - self._complained >= 60.0:  # noqa: PLR2004
            self._complained = time.monotonic()
            logger.warning(
                "a sampled request could not be read for drift and was passed over (%s)", type(error).__name__
            )

    def _at_once(self, samples: list[Sample]) -> Codes:
        rows = np.concatenate([sample.rows.matrix for sample in samples])
        return self._coded(rows, answers.columns(np.concatenate([sample.answer for sample in samples]), len(samples)))

    def _one(self, sample: Sample) -> Codes | None:
        """One row of one request; None where the request holds no such row."""
        rows = sample.rows if isinstance(sample.rows, RowSet) else read(sample.rows, self.profile.layout)
        at = sample.pick % len(rows)
        if rows.rows_with_problems() is None:
            return None  # the payload as a whole is none; a cell that is none is a missing value
        said = None
        if isinstance(sample.answer, Said):
            said = sample.answer.columns
        elif sample.answer is not None and (sample.answered is None or at in sample.answered):
            said = outputs(sample.answer, at, len(rows))
        return self._coded(rows.matrix[at : at + 1], said)

    def _coded(self, rows: Rows, said: answers.Columns | None) -> Codes:
        outliers = self.profile.outliers.is_outlier(rows) if self._flags else None
        return self.profile.bins.codes(*table(self._names, rows, said, outliers))


def _sorted_out(samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
    """Requests of one plain row answered with one array row of the same shape, which are read at once; and the rest."""
    alike: list[int] = []
    others: list[int] = []
    shape: tuple[int, ...] | None = None
    for place, sample in enumerate(samples):
        rows, answer = sample.rows, sample.answer
        plain = isinstance(rows, RowSet) and not rows.problems and len(rows.matrix) == 1 and sample.answered is None
        if plain and isinstance(answer, np.ndarray) and answer.dtype.kind == "f" and answer.shape[:1] == (1,):
            shape = shape or answer.shape
            (alike if answer.shape == shape else others).append(place)
        else:
            others.append(place)
    return alike, others


def outputs(answer: Any, at: int, n: int) -> answers.Columns | None:
    """What the model said of one of ``n`` rows."""
    found = answers.columns(answer, n)
    if found is not None:
        return {name: column[at : at + 1] for name, column in found.items()}
    if n > 1 and isinstance(answer, list | tuple | np.ndarray) and len(answer) == n:
        # Some other row was answered by a fallback, with something else.
        return answers.columns(answer[at : at + 1], 1)
    return None
