"""A first two-sample report: what was counted, against what training had, per watched column."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.drift.statistics.multiple import holm
from guardrails.profile.bins import Bins, Counts

MIN_ROWS = 200
"""Fewer sampled rows than this are no basis for a verdict."""
ALPHA = 0.01
_EXPECTED = 5.0


@dataclass(frozen=True)
class FeatureDrift:
    """One watched column.

    Attributes:
        feature: its name.
        rows: values counted.
        psi: population stability index over the reference bins.
        ks: the largest distance of the two distribution functions, at the bins' edges; None for a category.
        chi2: the two-sample chi-square statistic; bins that expect fewer than 5 are merged.
        p_value: of the chi-square test.
        adjusted: the p-value after Holm's correction for all watched columns.
        missing: the share of missing values.
        drifted: adjusted p-value below 0.01, with at least 200 rows.
    """

    feature: str
    rows: int
    psi: float
    ks: float
    chi2: float
    p_value: float
    adjusted: float
    missing: float
    drifted: bool

    def to_json(self) -> dict[str, Any]:
        """Rounded for people."""
        values = {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {k: None if v != v else v for k, v in values.items()}  # noqa: PLR0124  # NaN is no JSON


def compare(bins: Bins, counts: Counts, baseline: Counts | None = None) -> tuple[FeatureDrift, ...]:
    """Compare counts with the reference, worst column first.

    This is one look at one window, valid for the look you take: it does not control false alarms over repeated looks.

    Args:
        bins: the reference.
        counts: what was counted, of the shape of ``bins.counts``.
        baseline: what to compare with instead of the reference, of the same shape.
    """
    from scipy.stats import chi2 as chi2_distribution

    found = []
    for j, name in enumerate(bins.names):
        reference, window = (bins.counts if baseline is None else baseline)[j].astype(float), counts[j].astype(float)
        if not reference.sum() or not window.sum():
            continue
        statistic, freedom = _chi2(reference, window)
        p_value = float(chi2_distribution.sf(statistic, freedom)) if freedom else 1.0
        found.append((name, reference, window, statistic, p_value))
    categories = {name for name, category in zip(bins.names, bins.categorical, strict=True) if category}
    adjusted = holm([entry[-1] for entry in found]).tolist()
    report = [
        FeatureDrift(
            feature=name,
            rows=int(window.sum()),
            psi=_psi(reference, window),
            ks=_ks(reference, window, category=name in categories),
            chi2=statistic,
            p_value=p_value,
            adjusted=corrected,
            missing=float(window[-1] / window.sum()),
            drifted=bool(corrected < ALPHA and window.sum() >= MIN_ROWS),
        )
        for (name, reference, window, statistic, p_value), corrected in zip(found, adjusted, strict=True)
    ]
    return tuple(sorted(report, key=lambda entry: (entry.p_value, -entry.psi)))


def _ks(reference: npt.NDArray[np.float64], window: npt.NDArray[np.float64], *, category: bool) -> float:
    """The largest distance of the distribution functions; NaN for categories, which have no order."""
    if category:
        return float("nan")
    return float(np.abs(np.cumsum(reference) / reference.sum() - np.cumsum(window) / window.sum()).max())


def _psi(reference: npt.NDArray[np.float64], window: npt.NDArray[np.float64]) -> float:
    """Sum of (q - p) ln(q / p), with half a row in bins nobody is in, so that it stays finite."""
    used = (reference + window) > 0
    p, q = reference[used] + 0.5, window[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _chi2(reference: npt.NDArray[np.float64], window: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Two-sample chi-square of homogeneity over bins that both expect at least 5 rows in."""
    n, m = reference.sum(), window.sum()
    table = np.array(_merged(list(zip(reference, window, strict=True)), _EXPECTED * (n + m) / min(n, m))).T
    freedom = table.shape[1] - 1
    if freedom == 0:
        return 0.0, 0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), freedom


def _merged(bins: list[tuple[float, float]], least: float) -> list[tuple[float, float]]:
    """Join neighbours until each bin holds ``least`` rows of both samples together."""
    merged: list[tuple[float, float]] = []
    held = (0.0, 0.0)
    for reference, window in bins:
        held = (held[0] + reference, held[1] + window)
        if sum(held) >= least:
            merged.append(held)
            held = (0.0, 0.0)
    if sum(held):
        last = merged.pop() if merged else (0.0, 0.0)
        merged.append((last[0] + held[0], last[1] + held[1]))
    return merged
