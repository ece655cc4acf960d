"""Two samples of rows, column by column: did the distribution change, and in which columns?

One look at one window. It says nothing about looking again and again: for that there is a monitor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from guardrails.drift.statistics import contingency
from guardrails.drift.statistics.autocorrelation import Dependence
from guardrails.drift.statistics.columns import Columns, is_numeric, matched, positions, read
from guardrails.drift.statistics.mmd import MeanEmbedding
from guardrails.drift.statistics.multiple import benjamini_hochberg, holm
from guardrails.drift.statistics.rank_tests import Method, RankTest
from guardrails.errors import ProfileError

Test = Literal["ks", "cvm", "chi2", "psi", "js", "wasserstein", "mmd"]
Values = npt.NDArray[np.float64]

JOINT = "__joint__"
"""The name of mmd's one entry: it compares whole rows."""
_CUT = "Numbers with more than {most} distinct values are no categories: cut at the reference's deciles ({names})."
_AUTOCORRELATED = (
    "Rows look autocorrelated ({names}), but p-values take them for independent: expect false alarms. Set "
    "autocorrelated=True, or take rows further apart."
)
_DEPENDENT = (
    "Rows depend on those before them ({names}): p-values count as many rows as these are worth. Trends and seasons "
    "longer than a sample are real differences all the same: compare like with like."
)


@dataclass(frozen=True, eq=False)
class TwoSampleResult:
    """What a comparison found, one entry per column (one in all for mmd).

    Attributes:
        test: what was asked for.
        features: names of the columns.
        tests: what each was compared by: a category is compared by chi-square where the test is one of ranks.
        statistic: of that test, shape ``(d,)``; NaN where a column had no value.
        p_value: shape ``(d,)``; NaN where the measure has none, or a column had no value.
        scale: the unit of the statistic: for Wasserstein the standard deviation of the reference, else 1.
        reference_rows, window_rows: how many (independent) rows the p-values count, shape ``(d,)``.
        note: what a reader should know before believing the numbers; empty where there is nothing.
    """

    test: Test
    features: tuple[str, ...]
    tests: tuple[Test, ...]
    statistic: Values
    p_value: Values
    scale: Values
    reference_rows: Values
    window_rows: Values
    note: str

    @property
    def scaled(self) -> Values:
        """The statistic over its `scale`: Wasserstein distances that can be compared between columns."""
        return self.statistic / self.scale

    def drifted(self, alpha: float = 0.05) -> list[str]:
        """The columns that changed; of those listed, a share of at most alpha is expected to be false alarms.

        Args:
            alpha: that share (Benjamini and Hochberg's false discovery rate).

        Raises:
            ProfileError: the measure has no p-values.
        """
        adjusted = benjamini_hochberg(self._judged())
        return [name for name, p in zip(self.features, adjusted.tolist(), strict=True) if p <= alpha]

    def verdict(self, alpha: float = 0.05) -> bool:
        """Whether anything changed; with no change at all this is so in at most a share alpha of windows.

        Args:
            alpha: that share (Holm's family-wise error rate).

        Raises:
            ProfileError: the measure has no p-values.
        """
        return bool((holm(self._judged()) <= alpha).any())

    def _judged(self) -> Values:
        if "wasserstein" in self.tests:
            raise ProfileError(
                "the Wasserstein distance has no p-value, so there is no verdict. Compare .scaled with a distance that "
                "matters to you, or take test='ks' or test='cvm'."
            )
        return self.p_value


class TwoSample:
    """A comparison whose reference is prepared once, and which is then called with windows.

    The arguments are those of `two_sample`.

    Example:
        >>> import numpy as np
        >>> from guardrails.drift.two_sample import TwoSample
        >>> rng = np.random.default_rng(0)
        >>> compare = TwoSample(rng.normal(size=(10_000, 3)))
        >>> [compare(rng.normal(size=(200, 3)) + shift).drifted() for shift in (0.0, [0.0, 0.5, 0.0])]
        [[], ['feature_1']]
    """

    def __init__(
        self,
        reference: Any,
        test: Test = "ks",
        categorical: Collection[str | int] = (),
        *,
        method: Method = "auto",
        autocorrelated: bool = False,
        correction: bool = True,
        seed: int = 0,
    ) -> None:
        _one_of("test", test, get_args(Test))
        _one_of("method", method, get_args(Method))
        columns = read(reference)
        names = columns.names
        declared = positions(names, categorical)
        self.test, self.autocorrelated = test, autocorrelated
        self._names, self._rows = names, columns.rows
        self._ranked: list[int] = []
        self._embedding: MeanEmbedding | None = None
        if test == "mmd":
            self._embedding = _embedding(columns, declared, seed)
        elif test == "ks" or test == "cvm" or test == "wasserstein":  # noqa: PLR1714  # so that mypy narrows it
            self._ranked = [j for j in range(len(names)) if j not in declared]
            numbers = columns.numbers(self._ranked)
            self._rank_test = RankTest.fit(test, method, numbers, [names[j] for j in self._ranked])
        counting: Test = test if test in ("psi", "js") else "chi2"
        self._measure = contingency.measure(counting, correction=correction)
        counted = [j for j in range(len(names)) if j not in self._ranked and test != "mmd"]
        self._cut = {j for j in counted if _is_cut(columns, j, declared, test)}
        self._counts = {j: contingency.Counted.of(columns, j, cut=j in self._cut) for j in counted}
        self._tests = tuple(test if j in self._ranked else counting for j in range(len(names)))
        self._dependence = Dependence(columns, frozenset(_texts(columns) if test == "chi2" else ()) | declared)

    def __call__(self, window: Any) -> TwoSampleResult:
        """Compare a window with the reference.

        Args:
            window: of the reference's form; columns of a DataFrame are found by name.

        Raises:
            ProfileError: the columns are not the reference's, or hold something else.
        """
        columns = matched(read(window), self._names)
        dependence = self._dependence.of(columns)
        times = np.stack([self._dependence.times, dependence.times]) if self.autocorrelated else None
        notes = self._cuts_noted() + self._dependence_noted(dependence)
        if self._embedding is not None:
            return self._joint(self._embedding, columns, times, notes)
        found, scale = np.full((4, len(self._names)), np.nan), np.ones(len(self._names))
        if self._ranked:
            ranked = self._rank_test.compare(
                columns.numbers(self._ranked), None if times is None else times[:, self._ranked]
            )
            found[:, self._ranked] = ranked.statistic, ranked.p_value, ranked.n, ranked.m
            scale[self._ranked] = self._rank_test.scale
        for j, counted in self._counts.items():
            table = counted.table(counted.count(columns, j))
            shares = (1.0, 1.0) if times is None else (1 / times[0, j], 1 / times[1, j])
            p_value = contingency.p_value(table, self._measure, shares)
            found[:, j] = self._measure.statistic(table), p_value, self._rows * shares[0], columns.rows * shares[1]
        if empty := [self._names[j] for j in np.flatnonzero(np.isnan(found[0])).tolist()]:
            notes.append(f"The window has no value at all in {', '.join(empty[:10])}: not compared.")
        statistic, p_value, n, m = found
        return TwoSampleResult(self.test, self._names, self._tests, statistic, p_value, scale, n, m, " ".join(notes))

    def _joint(
        self, embedding: MeanEmbedding, columns: Columns, times: Values | None, notes: list[str]
    ) -> TwoSampleResult:
        slowest = (1.0, 1.0) if times is None else times.max(axis=1).tolist()
        effective = (self._rows / slowest[0], columns.rows / slowest[1])
        found = embedding.compare(columns.numbers(range(len(self._names))), effective)
        statistic, p_value, n, m = np.array([[*found, *effective]]).T
        return TwoSampleResult("mmd", (JOINT,), ("mmd",), statistic, p_value, np.ones(1), n, m, " ".join(notes))

    def _cuts_noted(self) -> list[str]:
        if self.test != "chi2" or not self._cut:
            return []
        names = ", ".join(self._names[j] for j in sorted(self._cut)[:5])
        return [_CUT.format(most=contingency.MAX_LEVELS, names=names)]

    def _dependence_noted(self, window: Dependence) -> list[str]:
        found = self._dependence.noticed | window.noticed
        if not found.any():
            return []
        names = ", ".join(self._names[j] for j in np.flatnonzero(found)[:5].tolist())
        return [(_DEPENDENT if self.autocorrelated else _AUTOCORRELATED).format(names=names)]


def two_sample(
    reference: Any,
    window: Any,
    test: Test = "ks",
    categorical: Collection[str | int] = (),
    *,
    method: Method = "auto",
    autocorrelated: bool = False,
    correction: bool = True,
    seed: int = 0,
) -> TwoSampleResult:
    """Compare a window of rows with a reference, column by column.

    =============== ============================================ ==================================================
    test            statistic                                    p-value
    =============== ============================================ ==================================================
    ``ks``          largest distance of distribution functions   Kolmogorov's, exact for small samples
    ``cvm``         Anderson's T (Cramér-von Mises)              limiting, exact for small samples
    ``wasserstein`` area between distribution functions          none (NaN); see ``.scaled``
    ``chi2``        Pearson's, of homogeneity                    chi-square; rare values apart (`contingency`)
    ``psi``         population stability index                   Yurdakul's chi-square
    ``js``          Jensen-Shannon divergence in bits, 0 to 1    the same quadratic form
    ``mmd``         Hotelling's T^2 of random Fourier features   one for whole rows (`mmd`)
    =============== ============================================ ==================================================

    The first three are for numbers; columns declared categorical are compared by chi-square there, so ``ks`` with
    ``categorical`` is the test for mixed tables. ``chi2`` takes every column for a category, by its distinct values; a
    number with more than 64 of them is cut at the reference's deciles, as ``psi`` and ``js`` cut any number.

    Missing values (NaN, None, pandas' own) are left out of a column by the rank tests, which need one value at least;
    for ``chi2``, ``psi`` and ``js`` they are a category of their own; ``mmd`` refuses them.

    Args:
        reference: what is ordinary: an array ``(n, d)``, a vector ``(n,)`` (one column) or a DataFrame.
        window: what is asked about, ``(m, d)``; columns of a DataFrame are found by name.
        test: see above.
        categorical: names or numbers of the columns that are categories; they may hold text.
        method: of the rank tests' p-values: ``exact`` and ``asymptotic`` are SciPy's (alibi-detect's KSDrift takes
            the asymptotic one); ``auto`` is exact where that differs noticeably: KS up to 10,000 pairs of rows (100
            against 100), Cramér-von Mises up to 20 rows in either sample.
        autocorrelated: whether rows came in an order that matters, as of a time series: then p-values are asymptotic
            and count only as many rows as these are worth (`autocorrelation`). Without it, ``.note`` warns where they
            look so.
        correction: Yates' correction where a category has two values, as in SciPy (and alibi-detect).
        seed: of mmd's random waves.

    Raises:
        ProfileError: the test is unknown, the columns do not match, or one cannot be compared by this test.

    Example:
        >>> import numpy as np
        >>> from guardrails.drift.two_sample import two_sample
        >>> rng = np.random.default_rng(0)
        >>> found = two_sample(rng.normal(size=(5000, 2)), rng.normal(size=(300, 2)) * [1.0, 2.0])
        >>> found.statistic.round(3), found.p_value.round(3)
        (array([0.04 , 0.204]), array([0.744, 0.   ]))
        >>> found.drifted(), found.verdict()
        (['feature_1'], True)
    """
    return TwoSample(
        reference,
        test,
        categorical,
        method=method,
        autocorrelated=autocorrelated,
        correction=correction,
        seed=seed,
    )(window)


def _embedding(columns: Columns, declared: Collection[int], seed: int) -> MeanEmbedding:
    if declared:
        raise ProfileError("mmd compares numbers: encode the categories, or compare the columns with test='ks'.")
    return MeanEmbedding.fit(columns.numbers(range(len(columns.names))), seed=seed)


def _texts(columns: Columns) -> list[int]:
    return [j for j in range(len(columns.names)) if not is_numeric(columns.column(j))]


def _is_cut(columns: Columns, index: int, declared: Collection[int], test: Test) -> bool:
    """Whether a counted column is cut into bins, rather than counted by its values."""
    if index in declared:
        return False
    if test == "chi2":
        return is_numeric(columns.column(index)) and len(columns.levels(index)) > contingency.MAX_LEVELS
    columns.numbers([index])  # says which value is no number, and what to do
    return True


def _one_of(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ProfileError(f"{name}={value!r} is not known; it is one of {', '.join(known)}.")
