"""Kolmogorov-Smirnov, Cramér-von Mises and Wasserstein over many numeric columns, the reference sorted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from guardrails.drift.statistics import cramer, kolmogorov, ranks
from guardrails.errors import ProfileError
from guardrails.typing import Rows

Values = npt.NDArray[np.float64]
RankMeasure = Literal["ks", "cvm", "wasserstein"]
Method = Literal["auto", "exact", "asymptotic"]

EXACT_PAIRS = 10_000
"""Up to so many pairs of rows ``method="auto"`` takes the exact distribution of KS: 100 rows against 100."""
EXACT_CVM = 20
"""SciPy's own rule for the Cramér-von Mises statistic: both samples have at most so many rows."""

_STATISTIC = {"ks": ranks.kolmogorov_smirnov, "cvm": ranks.cramer_von_mises, "wasserstein": ranks.wasserstein}


@dataclass(frozen=True, eq=False)
class Ranked:
    """One entry per column, each of shape ``(k,)``; NaN where a column of the window had no value.

    Attributes:
        statistic, p_value: of the test.
        n, m: rows of the reference and of the window that the p-value counts.
    """

    statistic: Values
    p_value: Values
    n: Values
    m: Values


@dataclass(frozen=True, eq=False)
class RankTest:
    """A rank test and its reference.

    Attributes:
        measure: which one.
        method: how p-values are found.
        reference: sorted.
        scale: the standard deviation of each column for Wasserstein (1 where nothing varies), else 1.
    """

    measure: RankMeasure
    method: Method
    reference: ranks.SortedReference
    scale: Values

    @classmethod
    def fit(cls, measure: RankMeasure, method: Method, X: Rows, names: Sequence[str]) -> RankTest:
        """Sort a reference ``(n, k)``; NaN is missing.

        Raises:
            ProfileError: a column has no value at all.
        """
        reference = ranks.SortedReference.of(X)
        columns = reference.columns
        if empty := [name for name, column in zip(names, columns, strict=True) if not len(column.values)]:
            raise ProfileError(
                f"the reference has no value at all in {', '.join(empty[:10])}. Leave these columns out."
            )
        scale = np.ones(len(columns))
        if measure == "wasserstein":
            with np.errstate(invalid="ignore"):  # infinities have no deviation
                scale = np.array([column.values.std() for column in columns])
        return cls(measure, method, reference, np.where(scale > 0, scale, 1.0))

    def compare(self, rows: Rows, times: Values | None = None) -> Ranked:
        """Compare a window ``(m, k)``.

        Args:
            rows: NaN is missing, and left out.
            times: how many rows of the reference and of the window make one independent row, shape ``(2, k)``; None
                where rows are independent.
        """
        found = Ranked(*np.full((4, len(self.reference.columns)), np.nan))
        for placed in self.reference.place(rows):
            where = placed.columns
            statistic = _STATISTIC[self.measure](placed)
            n, m = placed.n[:, 0].astype(np.float64), np.full(len(where), float(placed.m))
            if times is not None:
                n, m = n / times[0, where], m / times[1, where]
            found.statistic[where], found.n[where], found.m[where] = statistic, n, m
            if self.measure == "ks":
                found.p_value[where] = self._ks(placed, statistic, n, m, exact=times is None)
            elif self.measure == "cvm":
                found.p_value[where] = self._cvm(placed, statistic, n, m, exact=times is None)
        return found

    def _ks(self, placed: ranks.Placed, statistic: Values, n: Values, m: Values, *, exact: bool) -> Values:
        limit = {"auto": EXACT_PAIRS, "exact": np.inf, "asymptotic": -1}[self.method if exact else "asymptotic"]
        exactly = placed.n[:, 0] * placed.m <= limit
        size = np.maximum(np.rint(n * m / (n + m)), 1).astype(np.int64)
        found = np.empty(len(statistic))
        for rows in np.unique(size[~exactly]).tolist():
            same = (size == rows) & ~exactly
            found[same] = kolmogorov.survival(statistic[same], rows)
        for i in np.flatnonzero(exactly).tolist():
            found[i] = _exact_ks(placed.reference[i].values, placed.values[i])
        return found

    def _cvm(self, placed: ranks.Placed, statistic: Values, n: Values, m: Values, *, exact: bool) -> Values:
        limit = {"auto": EXACT_CVM, "exact": np.inf, "asymptotic": -1}[self.method if exact else "asymptotic"]
        counted = placed.n[:, 0].astype(np.float64)
        share = n * m / (n + m) / (counted * placed.m / (counted + placed.m))
        found = cramer.survival(statistic, counted, placed.m, share)
        for i, column in enumerate(placed.reference):
            if min(len(column.values), placed.m) > 1 and max(len(column.values), placed.m) <= limit:
                found[i] = _exact_cvm(column.values, placed.values[i])
        return found


def _exact_ks(reference: Values, window: Values) -> float:
    """SciPy's exact p-value; for samples so large that it has none, SciPy takes the asymptotic one."""
    import warnings

    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ks_2samp(reference, window, method="exact").pvalue)


def _exact_cvm(reference: Values, window: Values) -> float:
    from scipy.stats import cramervonmises_2samp

    return float(cramervonmises_2samp(reference, window, method="exact").pvalue)
