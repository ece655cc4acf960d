"""How every benchmark here measures: arms take turns in short blocks, and what is reported is a median over blocks.

A shared machine has slow seconds. Arms that take turns meet the same ones, and a median passes over those that met
none alike; a ratio is therefore taken within a block, between neighbours, wherever there is one.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

Arm = Callable[[], object]
Blocks = dict[str, list[float]]
"""Seconds per call, by arm: one mean per block."""

SLACK = 1.5
"""How far over its budget a figure may be before ``--check`` fails: a busy machine is no regression."""


@dataclass(frozen=True)
class Budget:
    """A line of DESIGN section 6.

    Attributes:
        what: what is held to it.
        measured: the figure.
        limit: the most (or, when ``least``, the least) it may be.
        unit: how to print both.
        least: the figure has to reach the limit, rather than stay below it.
    """

    what: str
    measured: float
    limit: float
    unit: str = "us"
    least: bool = False

    @property
    def over(self) -> float:
        """How many times over its budget: 1 is just within."""
        return self.limit / self.measured if self.least else self.measured / self.limit

    @property
    def verdict(self) -> str:
        """``within`` or ``over``."""
        return "within" if self.over <= 1.0 else "over"


def take_turns(
    arms: Mapping[str, Arm],
    *,
    blocks: int,
    calls: int | Mapping[str, int],
    between: Callable[[], object] = lambda: None,
) -> Blocks:
    """Time every arm in each block, in an order that turns, after one block that does not count.

    Args:
        arms: what to call, by name.
        blocks: how many blocks count.
        calls: calls per block, of every arm or by arm.
        between: called before each arm's turn, off the clock (to let background threads catch up).
    """
    gc.freeze()  # what is there already is nobody's garbage, and would make each collection as slow as an import
    names = list(arms)
    means: Blocks = {name: [] for name in names}
    for block in range(-1, blocks):
        shift = block % len(names)
        order = names[shift:] + names[:shift]
        for name in order if block % 2 else reversed(order):
            between()
            gc.collect()
            seconds = _mean(arms[name], calls if isinstance(calls, int) else calls[name])
            if block >= 0:
                means[name].append(seconds)
    return means


def _mean(arm: Arm, calls: int) -> float:
    turns = range(calls)
    begun = time.perf_counter()
    for _ in turns:
        arm()
    return (time.perf_counter() - begun) / calls


def microseconds(means: Blocks) -> dict[str, float]:
    """The median block of each arm, in microseconds."""
    return {name: 1e6 * median(seconds) for name, seconds in means.items()}


def print_budgets(console: Console, budgets: Sequence[Budget]) -> None:
    """One line per budget, with the ratio of what was measured to what is allowed."""
    table = Table(title="Budgets (DESIGN, section 6)", title_justify="left")
    for column, justify in (
        ("what", "left"),
        ("measured", "right"),
        ("budget", "right"),
        ("ratio", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for budget in budgets:
        sign = ">=" if budget.least else "<="
        ratio = budget.measured / budget.limit
        style = "green" if budget.over <= 1.0 else "red"
        table.add_row(
            budget.what,
            f"{budget.measured:,.3g} {budget.unit}",
            f"{sign} {budget.limit:g} {budget.unit}",
            f"{ratio:.2f}",
            f"[{style}]{budget.verdict}[/]",
        )
    console.print(table)


def failed(budgets: Sequence[Budget]) -> bool:
    """Whether any budget is over by more than a busy machine explains."""
    return any(budget.over > SLACK for budget in budgets)


def conditions() -> str:
    """The machine and how busy it was: no figure means anything without."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load}, {time.strftime('%Y-%m-%d %H:%M')} "
        f"({platform.machine()}, {platform.system()})"
    )
