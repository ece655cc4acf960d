"""Two-sample tests side by side: ``python -m benchmarks.two_sample [--quick] [--check]``.

KS over D columns, asymptotic p-values, the reference prepared and p-value tables warm, against alibi-detect's KSDrift
on the same rows where it is installed; then every test of ours at the size of the budget. Arms take turns; a figure is
the median over blocks, a ratio the median over the ratios of one block. p-values are compared with KSDrift's, and
without it with SciPy's.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Budget, conditions, failed, print_budgets, take_turns
from guardrails.drift.two_sample import Test, TwoSample
from guardrails.typing import Rows

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BUDGET = (30, 10_000, 200)
"""Columns, reference and window of the line in DESIGN section 6."""
_CELLS = 100_000_000
"""References of so many values (1,000 columns of 100,000) are left out: 800 MB, and each library keeps its own."""


def sizes(*, quick: bool) -> list[tuple[int, int, int]]:
    """Columns, reference rows, window rows; the budget's first."""
    widths, references, windows = (10, 30, 100), (1000, 10_000), (100, 200, 1000)
    if not quick:
        widths, references = (*widths, 1000), (*references, 100_000)
    grid = [(d, n, m) for d in widths for n in references for m in windows if d * n < _CELLS]
    return [BUDGET, *[size for size in grid if size != BUDGET]]


def rows(d: int, n: int, m: int) -> tuple[Rows, Rows]:
    """A reference and a window of which a third of the columns is shifted, so that p-values are large and small."""
    rng = np.random.default_rng(d + n + m)
    shift = np.where(np.arange(d) % 3 == 0, 0.3, 0.0)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + shift


def alibi(reference: Rows) -> Callable[[Rows], Any] | None:
    """KSDrift's answer by column; None where alibi-detect is not installed."""
    try:
        from alibi_detect.cd import KSDrift
    except ImportError:
        return None
    detector = KSDrift(reference, p_val=0.05)
    return lambda window: detector.predict(window, drift_type="feature")["data"]["p_val"]


def compare(d: int, n: int, m: int, *, blocks: int) -> tuple[float, float | None, float | None, float]:
    """Our milliseconds, theirs, theirs over ours, and the largest difference of the p-values."""
    reference, window = rows(d, n, m)
    ours, theirs = TwoSample(reference, method="asymptotic"), alibi(reference)
    p_values = ours(window).p_value  # and the tables are warm
    if theirs is None:
        from scipy.stats import ks_2samp

        truth = [ks_2samp(reference[:, j], window[:, j], method="asymp").pvalue for j in range(d)]
        means = take_turns({"ours": lambda: ours(window)}, blocks=blocks, calls=_calls(d, m))
        return 1e3 * median(means["ours"]), None, None, float(np.abs(p_values - truth).max())
    difference = float(np.abs(p_values - theirs(window)).max())
    means = take_turns(
        {"ours": lambda: ours(window), "alibi": lambda: theirs(window)},
        blocks=blocks,
        calls={"ours": _calls(d, m), "alibi": 1},
    )
    ratio = median(b / a for a, b in zip(means["ours"], means["alibi"], strict=True))
    return 1e3 * median(means["ours"]), 1e3 * median(means["alibi"]), ratio, difference


def _calls(d: int, m: int) -> int:
    """Enough for about 20 ms."""
    return max(1, 1_000_000 // (d * m))


def kolmogorov_smirnov(console: Console, *, quick: bool) -> list[Budget]:
    """One line per size."""
    table = Table("columns", "reference", "window", "ours ms", "KSDrift ms", "KSDrift / ours", "largest p difference")
    table.title, table.title_justify = "KS, asymptotic p-values, tables warm", "left"
    budgets = []
    for d, n, m in sizes(quick=quick):
        blocks = 15 if (d, n, m) == BUDGET else 5 if d * n < 10_000_000 else 3
        ours, theirs, ratio, difference = compare(d, n, m, blocks=blocks)
        shown = ("-", "-") if theirs is None else (f"{theirs:,.1f}", f"{ratio:,.0f}")
        table.add_row(f"{d}", f"{n:,}", f"{m:,}", f"{ours:,.3f}", *shown, f"{difference:.0e}")
        if (d, n, m) == BUDGET:
            budgets.append(Budget("KS p-values, largest difference", difference, 1e-5, "of p"))
            if ratio is not None:
                budgets.append(Budget(f"KS over {d} columns, {n:,} x {m}", ratio, 20, "times", least=True))
    console.print(table)
    return budgets


def every_test(console: Console) -> None:
    """Preparing the reference, and one window, at the budget's size; no other library beside."""
    reference, window = rows(*BUDGET)
    table = Table("test", "reference ms", "window ms")
    table.title, table.title_justify = "Every test at {} columns, {:,} x {}".format(*BUDGET), "left"
    for test in get_args(Test):
        prepared = TwoSample(reference, test)
        arms = {"reference": lambda test=test: TwoSample(reference, test), "window": lambda p=prepared: p(window)}
        means = take_turns(arms, blocks=5, calls={"reference": 1, "window": 10})
        table.add_row(test, *[f"{1e3 * median(means[arm]):,.2f}" for arm in arms])
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without 1,000 columns and 100,000 reference rows")
    parser.add_argument("--check", action="store_true", help="fail where a budget is missed by far")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    console = Console(width=120)
    console.print(conditions())
    if alibi(np.zeros((2, 1))) is None:
        console.print("alibi-detect is not installed (it needs numpy below 2): KSDrift is left out.")
    budgets = kolmogorov_smirnov(console, quick=options.quick)
    every_test(console)
    print_budgets(console, budgets)
    if options.check and failed(budgets):
        sys.exit(1)


if __name__ == "__main__":
    main()
