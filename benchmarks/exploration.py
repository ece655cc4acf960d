"""What exploration costs, and what the stores take: ``python -m benchmarks.exploration [--quick] [--check]``.

Per policy: probabilities and draw by themselves, and a decorated method that decides and enqueues its record less the
same method behind a guard that does nothing (so what exploring and recording adds to a guarded request). Per store:
records per second through the writer's thread until they are committed, with explored decisions of ten actions. What
the writer does to the latency of served requests is in ``python -m benchmarks.switched records``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import guardrails as gr
from benchmarks.measure import Budget, conditions, failed, microseconds, print_budgets, take_turns
from guardrails.core.call import Stage
from guardrails.core.method import Method
from guardrails.core.pipeline import attach
from guardrails.decisions.records import Decision
from guardrails.decisions.stores.store import DecisionStore
from guardrails.decisions.writer import DecisionLog
from guardrails.exploration.randomness import PICK, draw, uniform, uniforms
from guardrails.typing import Hooks

KEY = b"a secret of 24 bytes ok."
ex = gr.exploration
MOST = 10.0
"""Microseconds to decide and enqueue, for epsilon-greedy over ten actions."""
LEAST = 5000.0
"""Records per second into SQLite."""
POLICIES: dict[str, Any] = {
    "EpsilonGreedy": ex.EpsilonGreedy(0.1),
    "Softmax": ex.Softmax(1.0),
    "SquareCB": ex.SquareCB(100.0),
    "Floor(Softmax)": ex.Floor(ex.Softmax(1.0), minimum=0.0005),
    "GaussianThompson": ex.GaussianThompson(0.5),
    "PoolInjection, 5 slots": ex.PoolInjection(0.1, slots=5),
    "FairPairs, 5 slots": ex.FairPairs(slots=5),
    "PlackettLuce, 5 slots": ex.PlackettLuce(temperature=1.0, slots=5),
}
SIZES = (10, 100, 1000)
SLOW = {("GaussianThompson", 1000)}
"""Not for the request: the quadrature grows with the square of the number of actions."""


@dataclass(frozen=True)
class Nothing:
    """A guard that does nothing: what any guard at all costs."""

    name: str = "nothing"
    stage: Stage = Stage.EXPLORE

    def check(self, method: Method) -> None:
        """Everything suits it."""

    def bind(self, method: Method) -> Hooks:  # noqa: ARG002
        """A hook, so that the call is made."""
        return Hooks(after=lambda call: None)  # noqa: ARG005


def alone(policy: Any, scores: np.ndarray) -> Callable[[], object]:
    """Probabilities and draw, without a service."""
    if getattr(policy, "kind", "choice") == "ranking":
        return lambda: policy.sample(scores[0], uniforms("0" * 32, KEY))
    if getattr(policy, "kind", "choice") == "value":
        return lambda: policy.sample(0.5, uniform("0" * 32, KEY, PICK))
    fast = getattr(policy, "pmf_of", None)
    row = scores[0].tolist()
    greedy = row.index(max(row))
    if fast is not None:
        return lambda: draw(fast(row, greedy), "0" * 32, KEY)
    return lambda: draw(policy.pmf(scores[0]), "0" * 32, KEY)


def guarded(policy: Any, scores: np.ndarray, queue: deque[Any]) -> Callable[[], object]:
    """A decorated method that decides and enqueues."""

    @gr.explore(policy, decisions=queue.append)
    def rank(rows: np.ndarray) -> np.ndarray:  # noqa: ARG001
        return scores

    rows = np.zeros((1, 3))
    return lambda: rank(rows)


def unguarded(scores: np.ndarray) -> Callable[[], object]:
    """The same method behind a guard that does nothing."""

    def rank(rows: np.ndarray) -> np.ndarray:  # noqa: ARG001
        return scores

    behind, rows = attach(Nothing(), rank), np.zeros((1, 3))
    return lambda: behind(rows)


def decide(console: Console, blocks: int, calls: int) -> list[Budget]:
    """Microseconds per decision, by policy and number of candidates."""
    table = Table("policy", title=f"Microseconds per decision, median of {blocks} blocks", title_justify="left")
    for size in SIZES:
        table.add_column(f"K={size}: draw", justify="right")
        table.add_column("decide + enqueue", justify="right")
    found: dict[str, list[str]] = {name: [] for name in POLICIES}
    budgets = []
    for size in SIZES:
        scores, queue = np.random.default_rng(size).random((1, size)), deque[Any](maxlen=1000)
        arms: dict[str, Callable[[], object]] = {"": unguarded(scores)}
        for name, policy in POLICIES.items():
            if (name, size) not in SLOW:
                arms[name], arms[f"{name}: draw"] = guarded(policy, scores, queue), alone(policy, scores)
        us = microseconds(take_turns(arms, blocks=blocks, calls=max(calls * 10 // size, 5)))
        for name, row in found.items():
            row.extend(["-", "-"] if name not in us else [f"{us[f'{name}: draw']:.1f}", f"{us[name] - us['']:.1f}"])
        if size == SIZES[0]:
            budgets.append(Budget("epsilon-greedy, K=10: decide + enqueue", us["EpsilonGreedy"] - us[""], MOST))
            console.print(f"a guard that does nothing: {us['']:.1f} us")
    for name, row in found.items():
        table.add_row(name, *row)
    console.print(table)
    return budgets


def records(n: int) -> list[Decision]:
    """Explored decisions of ten actions, as a service leaves them."""
    seen: list[Decision] = []
    scores = np.random.default_rng(0).random((n, 10))

    @gr.explore(ex.EpsilonGreedy(0.1), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return scores[rows[0, 0] : rows[0, 0] + 1]

    for number in range(n):
        rank(np.array([[number]]))
    return seen


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A real PostgreSQL server's URL."""
    import pgserver

    server = pgserver.get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def sustained(url: str, made: list[Decision]) -> float:
    """Records per second from the queue until they are committed."""
    store = DecisionStore(url)
    store.create()
    log = DecisionLog(store, capacity=len(made) + 1)
    begun = time.perf_counter()
    for one in made:
        log(one)
    if not log.flush(timeout=300) or log.dropped:
        raise RuntimeError(f"{log.dropped} records dropped, {log.waiting} waiting: {log.last_error}")
    seconds = time.perf_counter() - begun
    log.close()
    return len(made) / seconds


def stores(console: Console, n: int) -> list[Budget]:
    """Records per second, by store."""
    made, table = records(n), Table("store", "records/s", title=f"{n:,} explored decisions", title_justify="left")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guardrails-bench-")))
        sqlite = sustained(f"sqlite:///{folder}/decisions.db", made)
        table.add_row("SQLite (WAL, synchronous=FULL)", f"{sqlite:,.0f}")
        with suppress(ModuleNotFoundError):
            rate = sustained(stack.enter_context(postgres(folder)), made)
            table.add_row("PostgreSQL (local socket)", f"{rate:,.0f}")
        console.print(table)
    return [Budget("records into SQLite", sqlite, LEAST, "/s", least=True)]


def main() -> int:
    """Measure, print, and say with ``--check`` whether a budget is far over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer blocks and records: rough figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is over by more than half")
    options = parser.parse_args()
    console = Console(width=120)
    budgets = decide(console, *((5, 300) if options.quick else (30, 1000)))
    budgets += stores(console, 20_000 if options.quick else 100_000)
    print_budgets(console, budgets)
    console.print(conditions())
    return int(options.check and failed(budgets))


if __name__ == "__main__":
    sys.exit(main())
