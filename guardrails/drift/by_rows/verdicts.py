"""What any drift detector said, in one form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = "float | tuple[float, ...] | None"
"""One for all columns, one for each, or none."""


@dataclass(frozen=True)
class DriftReport:
    """A verdict on one window of rows.

    Attributes:
        detector: whose.
        is_drift: whether the window, taken as a whole, has drifted.
        p_value: of the test, or one per column and not corrected for their number; online detectors have none.
        statistic: what was compared: a distance, an odds ratio (FETDrift), online the largest of all windows.
        threshold: what the p-values were compared with, corrected for the number of columns; online, the statistic.
        features: the columns that drifted, worst first; empty where the detector looks at all of them together.
        columns: the columns that the entries of ``p_value`` and ``statistic`` stand for.
        rows: rows of the window that were judged.
        reference_rows: rows they were compared with.
        online: whether rows were judged one by one, with those before them.
        seconds: how long it took.
        note: what else to know, such as rows or columns that were left out.
    """

    detector: str
    is_drift: bool
    p_value: Numbers = None
    statistic: Numbers = None
    threshold: Numbers = None
    features: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: int = 0
    reference_rows: int = 0
    online: bool = False
    seconds: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`; what is no number there is None."""
        return {key: _json(value) for key, value in asdict(self).items()}

    @classmethod
    def read(cls, answer: Mapping[str, Any], *, names: Sequence[str], note: str = "", **known: Any) -> DriftReport:
        """Out of what a detector with alibi-detect's protocol answers.

        Args:
            answer: ``is_drift`` (one, or one per column) and any of ``p_val``, ``distance``, ``test_stat`` (online;
                one, or of shape ``(windows, columns)``) and ``threshold``.
            names: of the columns it was given.
            note: what else to know.
            known: the other fields.

        Example:
            >>> from guardrails.drift.by_rows.verdicts import DriftReport
            >>> answer = {"is_drift": 1, "p_val": [0.3, 1e-9], "distance": [0.1, 0.8], "threshold": 0.025}
            >>> DriftReport.read(answer, names=["age", "dose"], detector="KSDrift").features
            ('dose',)
        """
        said, p, threshold = (_array(answer.get(key)) for key in ("is_drift", "p_val", "threshold"))
        statistic = _statistic(answer)
        if answer.get("correction") == "fdr" and threshold is not None and threshold.ndim:
            threshold = threshold[0]  # nothing drifted: these are those of all ranks; the first is the worst column's
        per_column = next((v for v in (p, statistic) if v is not None and v.ndim == 1), None)
        count = 0 if per_column is None else len(per_column)
        columns = tuple(names) if count == len(names) else tuple(f"output_{i}" for i in range(count))
        drifted = said is not None and bool(np.any(said != 0))
        features = _worst_first(said, p, statistic, threshold, columns) if drifted and columns else ()
        silent = "" if p is None else ", ".join(np.array(columns)[np.isnan(p)]) if p.shape == (count,) else "it"
        if p is not None and np.isnan(p).any():
            note = "; ".join(filter(None, (note, f"no p-value, so no verdict, for {silent}")))
        return cls(
            is_drift=drifted,
            p_value=_numbers(p),
            statistic=_numbers(statistic),
            threshold=_numbers(threshold),
            features=features,
            columns=columns,
            note=note,
            **known,
        )


def _array(value: Any) -> npt.NDArray[np.float64] | None:
    return None if value is None else np.asarray(value, dtype=np.float64)


def _statistic(answer: Mapping[str, Any]) -> npt.NDArray[np.float64] | None:
    """One, or one per column: of an online detector's windows the largest, NaN while none of them is full."""
    statistic = _array(answer.get("distance", answer.get("test_stat")))
    if statistic is None or statistic.ndim < 2:  # noqa: PLR2004
        return statistic
    full = np.where(np.isnan(statistic), -np.inf, statistic).max(axis=0)
    return np.where(np.isneginf(full), np.nan, full)


def _worst_first(
    said: npt.NDArray[np.float64] | None,
    p: npt.NDArray[np.float64] | None,
    statistic: npt.NDArray[np.float64] | None,
    threshold: npt.NDArray[np.float64] | None,
    columns: tuple[str, ...],
) -> tuple[str, ...]:
    severity = np.zeros(len(columns)) if statistic is None or statistic.ndim != 1 else statistic
    found = np.zeros(len(columns), dtype=bool)  # which of them is known only with a threshold
    if p is not None and p.ndim == 1:
        order = np.lexsort((-severity, p))  # p-values of 0 are many: the statistic tells them apart
        if threshold is not None:
            found = p < threshold
    else:
        order = np.argsort(-(severity - (0.0 if threshold is None else threshold)), kind="stable")
        if threshold is not None:
            # FETDriftOnline calls some of the statistics that equal the threshold drift, by a draw.
            found = severity > threshold if (severity > threshold).any() else severity >= threshold
    if said is not None and said.shape == (len(columns),):
        found = said != 0
    return tuple(columns[i] for i in order.tolist() if found[i])


def _numbers(value: npt.NDArray[np.float64] | None) -> Numbers:
    if value is None:
        return None
    return tuple(float(entry) for entry in value.ravel()) if value.ndim else float(value)


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
