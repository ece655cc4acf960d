"""What watching for drift costs, and what it finds: ``python -m benchmarks.drift [--quick] [--check]``.

Three parts. What a request pays: a pipeline with `sample_drift` against an empty one, and the hooks and the queue by
themselves. What the background pays: for a sampled row, and for each look at what has been counted. And run lengths and
delays side by side with other detectors, on the same streams: ten normal columns, of which one shifts; those that are
not installed are named. Kolmogorov and Smirnov's test every 100 rows is what alibi-detect's KSDrift comes to where it
is asked again and again; its p-values are ours, only slower (`benchmarks.two_sample`).
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import guardrails as gr
from benchmarks.measure import Arm, Budget, conditions, failed, microseconds, print_budgets, take_turns
from guardrails.core.call import Call, Stage
from guardrails.core.payload import RowSet
from guardrails.core.pipeline import attach
from guardrails.drift import sampler_of
from guardrails.drift.leader import Leader
from guardrails.drift.options import DriftOptions
from guardrails.drift.reading import Reader, Sample
from guardrails.drift.tables import HostTables, Totals
from guardrails.drift.two_sample import TwoSample
from guardrails.drift.watch import Watch
from guardrails.profile.profile import Profile
from guardrails.profile.serial import Neighbours
from guardrails.typing import Hooks, Rows

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FEATURES, ACTIONS, REFERENCE = 30, 5, 2000
WIDTHS = (10, 100, 1000)
WAITING = 200
"""Samples read at once in the background: half a second at 400 requests a second."""
COLUMNS, TICK, WINDOW = 10, 50, 100
RUN_LENGTH, LEVEL = 1e5, 0.05
SHIFTS = (0.25, 0.5, 1.0)
"""Standard deviations, in one of the ten columns."""
AFTER = 4000
"""Rows after a change, within which it is found or missed."""


class Sizes(NamedTuple):
    """How long to measure; streams are of ours and of tests, slower detectors get a share of them."""

    blocks: int
    calls: int
    streams: int
    rows: int
    delays: int


FULL, QUICK = Sizes(40, 300, 200, 20_000, 200), Sizes(9, 150, 20, 10_000, 20)


# What a request pays


@dataclass(frozen=True)
class _Nothing:
    """A guard without hooks: what is left is the pipeline."""

    name: ClassVar[str] = "nothing"
    stage: Stage = Stage.OBSERVE

    def __call__(self, fn: Any) -> Any:
        return attach(self, fn)

    def bind(self, method: object) -> Hooks:  # noqa: ARG002
        return Hooks()


def request_arms() -> tuple[dict[str, Arm], Callable[[], object]]:
    """A method behind pipelines with and without drift sampling; and how to let the flusher catch up."""
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(REFERENCE, FEATURES)), rng.normal(size=(FEATURES, ACTIONS))
    requests = cycle(rng.normal(size=(REFERENCE, 1, FEATURES)))  # the same one over and over would be drift
    row = next(requests)
    answer = row @ weights
    profile = Profile.fit(X, outputs=X @ weights)
    sampler = sampler_of(profile, DriftOptions())

    def predict(rows: Any) -> Any:  # noqa: ARG001
        return answer

    sampled = gr.compose(gr.sample_drift(profile))(predict)
    validate = gr.validate(profile, margin=None)
    pipelines = {
        "empty pipeline": _Nothing()(predict),
        "sample_drift": sampled,
        "sample_drift, unsampled": gr.compose(gr.sample_drift(profile, rate=1e-9))(predict),
        "validate": validate(predict),
        "validate and sample_drift": gr.compose(validate, gr.sample_drift(profile))(predict),
    }
    arms: dict[str, Arm] = {name: lambda method=method: method(next(requests)) for name, method in pipelines.items()}  # type: ignore[misc]
    before, after, call = hooks_of(sampled, row)
    queued = (call.rows_read, answer, None, 0, call.id)
    arms |= {
        "nothing": lambda: None,
        "the queue's append": lambda: sampler.offer(*queued),
        "hook before, rows read already": lambda: before(call),
        "hook after": lambda: after(call),
        "of it: the answer's copy": answer.copy,
    }
    for method in pipelines.values():
        method(row)
    return arms, sampler.flush


def hooks_of(method: Any, row: Rows) -> tuple[Callable[[Call], None], Callable[[Call], None], Call]:
    """The hooks of the only guard of a method, and a call that has been answered."""
    method(row)
    pipeline = gr.pipeline_of(method)
    plan = pipeline._plan
    if plan is None:
        raise RuntimeError("the pipeline was not bound by its first call")
    with pipeline.open((row,), {}) as call:
        for attempt in call:
            with attempt:
                attempt.result = attempt.target(*attempt.args, **attempt.kwargs)
    before = next(hook for name, hook, *_ in plan._befores if name == "sample_drift")
    return before, dict(plan._afters)["sample_drift"], call


def compare_requests(console: Console, sizes: Sizes) -> list[Budget]:
    """What drift sampling adds to a request: differences within a block, and their medians."""
    arms, catch_up = request_arms()
    took = {
        name: 1e6 * np.array(seconds)
        for name, seconds in take_turns(arms, blocks=sizes.blocks, calls=sizes.calls, between=catch_up).items()
    }
    pairs = {
        "sample_drift alone: reads the row, samples it": ("sample_drift", "empty pipeline"),
        "sample_drift alone, a request that is not sampled": ("sample_drift, unsampled", "empty pipeline"),
        "sample_drift beside a guard that reads the row": ("validate and sample_drift", "validate"),
        **{
            name: (name, "nothing")
            for name in (
                "hook before, rows read already",
                "hook after",
                "of it: the answer's copy",
                "the queue's append",
            )
        },
    }
    added = {name: took[arm] - took[bare] for name, (arm, bare) in pairs.items()}
    table = Table("", "us", "quartiles", title=f"A request of one row, {FEATURES} features", title_justify="left")
    for name, us in added.items():
        low, middle, high = np.quantile(us, [0.25, 0.5, 0.75])
        table.add_row(name, f"{middle:.2f}", f"{low:.2f} - {high:.2f}")
    console.print(table)
    middle = {name: float(np.median(us)) for name, us in added.items()}
    hooks = middle["hook before, rows read already"] + middle["hook after"]
    beside = middle["sample_drift beside a guard that reads the row"]
    return [
        Budget("drift sampling, both hooks", hooks, 1.0),
        Budget("drift sampling in a pipeline that reads the row anyway", beside, 1.0),
        Budget("drift sampling, the queue's append", middle["the queue's append"], 1.0),
    ]


# What the background pays


class _Live:
    """A detector that is somebody's object: the background does not ask it, and there is no outlier flag."""

    def score(self, rows: Rows) -> Rows:
        return np.asarray(rows[:, 0])


class Background:
    """One worker's background, step by step, for so many features.

    Args:
        width: how many.
        flags: whether there is an outlier flag (an isolation forest of 100 trees is asked about every row).
        folder: for the tables and the ledger.
    """

    def __init__(self, width: int, folder: Path, *, flags: bool) -> None:
        rng = np.random.default_rng(width)
        X = rng.normal(size=(REFERENCE, width))
        self.profile = Profile.fit(X, outputs=X[:, :2], detector="isolation_forest" if flags else _Live())
        rows = rng.normal(size=(WAITING, 1, width))
        self.samples = [Sample(RowSet(row, False, ()), row[:, :2], None, 0, "") for row in rows]
        self.tables = HostTables(folder, f"{width}{flags}_", self.profile.bins.counts.shape)
        self.reader, self.neighbours = Reader(self.profile), Neighbours(self.profile.bins)
        self.watch = Watch(self.profile, 1e12)
        self.leader = Leader(self.profile, DriftOptions(1e12), folder, f"{width}{flags}_")
        self.fresh = self.count()

    def count(self) -> Totals:
        """What the flusher does with what waits."""
        codes, _ = self.reader.codes(self.samples)
        counts = self.profile.bins.tally(codes)
        distances, pairs = self.neighbours.distances(codes, None)
        self.tables.own.add(counts, distances, pairs, 0)
        return Totals(counts, distances, pairs)

    def tick(self) -> None:
        """One look."""
        self.watch.tick(self.fresh.counts, self.fresh.distances, self.fresh.pairs.astype(float), float(WAITING))

    def lead(self) -> None:
        """One look of the leader, with new counts each time: the sum over the tables, the detector, the ledger."""
        self.tables.own.counts[:, 0] += 1
        self.leader.tick(self.tables.totals())


def compare_background(console: Console, sizes: Sizes) -> None:
    """Microseconds per sampled row and per look."""
    table = Table(
        "features",
        "a row, us",
        "with outlier flag, us",
        "Watch.tick, us",
        "Leader.tick with ledger, us",
        title=f"In the background, {WAITING} rows at once",
        title_justify="left",
    )
    for width in WIDTHS:
        with tempfile.TemporaryDirectory(prefix="guardrails-bench-") as name:
            plain, flagged = (Background(width, Path(name), flags=flags) for flags in (False, True))
            arms = {"row": plain.count, "flag": flagged.count, "tick": flagged.tick, "leader": flagged.lead}
            calls = max(1, sizes.calls // (3 * width))
            took = microseconds(take_turns(arms, blocks=max(5, sizes.blocks // 4), calls=calls))
            flagged.leader.close()
        table.add_row(
            f"{width:,}",
            *(f"{took[arm] / WAITING:,.2f}" for arm in ("row", "flag")),
            *(f"{took[arm]:,.0f}" for arm in ("tick", "leader")),
        )
    console.print(table)


# Who finds what, and how often for nothing

Alarms = Callable[[Rows, Rows], Iterator[int]]
"""The rows after which an alarm came, told a reference (n, d) and a stream (m, d); it starts anew after each."""


def ours(reference: Rows, stream: Rows) -> Iterator[int]:
    """Monitor, told 50 rows at a time."""
    monitor = gr.drift.Monitor(Profile.fit(reference, detector="mahalanobis"), RUN_LENGTH)
    for end in range(TICK, len(stream) + 1, TICK):
        if monitor.update(stream[end - TICK : end]) is not None:
            yield end


def repeated_test(reference: Rows, stream: Rows) -> Iterator[int]:
    """KS on every 100 rows, p < .05 after Bonferroni's correction: right for one look, asked for ever."""
    compare = TwoSample(reference, method="asymptotic")
    for end in range(WINDOW, len(stream) + 1, WINDOW):
        if (compare(stream[end - WINDOW : end]).p_value < LEVEL / COLUMNS).any():
            yield end


def river(name: str) -> Alarms:
    """One of river's detectors for each column, with its defaults: they see no reference."""
    from river import drift

    made = getattr(drift, name)

    def alarms(reference: Rows, stream: Rows) -> Iterator[int]:
        detectors = [made() for _ in range(COLUMNS)]
        for row in reference[-WINDOW:].tolist():
            for detector, value in zip(detectors, row, strict=True):
                detector.update(value)
        for at, row in enumerate(stream.tolist(), start=1):
            for detector, value in zip(detectors, row, strict=True):
                detector.update(value)
            if any(detector.drift_detected for detector in detectors):
                yield at
                detectors = [made() for _ in range(COLUMNS)]

    return alarms


def alibi_online(ert: float, bootstraps: int, n_ref: int) -> Alarms:
    """CVMDriftOnline. Its thresholds are simulated for one reference, so all streams share that one."""
    from alibi_detect.cd import CVMDriftOnline

    fixed = np.random.default_rng(0).normal(size=(n_ref, COLUMNS))
    detector = CVMDriftOnline(fixed, ert=ert, window_sizes=[20, 100], n_bootstraps=bootstraps, verbose=False)

    def alarms(_reference: Rows, stream: Rows) -> Iterator[int]:
        detector.reset_state()
        for at, row in enumerate(stream, start=1):
            if detector.predict(row)["data"]["is_drift"]:
                yield at
                detector.reset_state()

    return alarms


@dataclass(frozen=True)
class Contender:
    """A detector and how long it is watched.

    Attributes:
        alarms: it.
        asked: the run length it was asked for, in rows; None where it cannot be asked.
        streams: without a change.
        rows: of each.
        delays: streams with a change, for each shift.
        earliest: where the change comes at the earliest; at the latest twice as late.
    """

    alarms: Alarms
    asked: float | None
    streams: int
    rows: int
    delays: int
    earliest: int = 2000


def contenders(console: Console, sizes: Sizes, *, quick: bool) -> dict[str, Contender]:
    """All that are installed; the others are named."""
    streams, rows, delays = sizes.streams, sizes.rows, sizes.delays
    found = {
        f"guardrails, every {TICK} rows": Contender(ours, RUN_LENGTH, streams, rows, delays),
        f"KS every {WINDOW} rows, p < .05 / {COLUMNS}": Contender(repeated_test, None, streams, rows, delays),
    }
    if importlib.util.find_spec("alibi_detect") is None:
        console.print("alibi-detect is not installed (it needs numpy below 2): its CVMDriftOnline is left out.")
    else:
        ert, bootstraps, n_ref = (50.0, 1000, 200) if quick else (250.0, 5000, 1000)
        online = alibi_online(ert, bootstraps, n_ref)
        name = f"alibi-detect's CVMDriftOnline, {n_ref:,} reference rows"
        found[name] = Contender(online, ert, 2 if quick else 20, 500 if quick else 2000, 3 if quick else 20, 200)
    if importlib.util.find_spec("river") is None:
        console.print("river is not installed: its ADWIN and PageHinkley are left out.")
    else:
        for name in ("ADWIN", "PageHinkley"):
            found[f"river's {name}"] = Contender(river(name), None, max(3, streams // 3), rows, max(3, delays // 3))
    return found


def false_alarms(contender: Contender, n_ref: int) -> tuple[int, float]:
    """Alarms without a change, and seconds spent."""
    begun, alarms = time.perf_counter(), 0
    for stream in range(contender.streams):
        rng = np.random.default_rng([1, stream])
        reference = rng.normal(size=(n_ref, COLUMNS))
        alarms += sum(1 for _ in contender.alarms(reference, rng.normal(size=(contender.rows, COLUMNS))))
    return alarms, time.perf_counter() - begun


def delays_of(contender: Contender, shift: float, n_ref: int) -> tuple[Rows, float]:
    """Rows from the change to the first alarm after it, and the share of streams in which there was none."""
    delays: list[int] = []
    for stream in range(contender.delays):
        rng = np.random.default_rng([2, stream])
        reference = rng.normal(size=(n_ref, COLUMNS))
        change = int(rng.integers(contender.earliest, 2 * contender.earliest))
        rows = rng.normal(size=(change + AFTER, COLUMNS))
        rows[change:, 0] += shift
        first = next((at for at in contender.alarms(reference, rows) if at > change), None)
        delays += [] if first is None else [first - change]
    return np.array(delays, float), 1.0 - len(delays) / contender.delays


def compare_detectors(console: Console, sizes: Sizes, *, quick: bool, n_ref: int = 1000) -> list[Budget]:
    """One line per detector; each stream has a reference of its own."""
    table = Table(
        "detector",
        "asked",
        "rows between false alarms",
        *(f"{shift} sd" for shift in SHIFTS),
        "us a row",
        title=f"{COLUMNS} normal columns, {n_ref:,} reference rows; mean rows until a shift in one of them is found",
        title_justify="left",
    )
    budgets = []
    for name, contender in contenders(console, sizes, quick=quick).items():
        alarms, seconds = false_alarms(contender, n_ref)
        total = contender.streams * contender.rows
        between = total / max(alarms, 1)
        said = f"{between:,.0f} +- {between / alarms**0.5:,.0f}" if alarms else f"> {total:,}"
        found = []
        for shift in SHIFTS:
            delays, missed = delays_of(contender, shift, n_ref)
            error = delays.std(ddof=1) / len(delays) ** 0.5 if len(delays) > 1 else float("nan")
            found.append(f"{delays.mean():,.0f} +- {error:,.0f}" if len(delays) else "-")
            found[-1] += f" ({missed:.0%} missed)" if missed else ""
        asked = "-" if contender.asked is None else f"{contender.asked:,.0f}"
        table.add_row(name, asked, said, *found, f"{1e6 * seconds / total:,.1f}")
        if contender.alarms is ours:
            budgets.append(Budget("run length: measured / asked", between / RUN_LENGTH, 1.0, "x", least=True))
    console.print(table)
    return budgets


def main() -> int:
    """Measure, print, and say with ``--check`` whether a budget is far over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="under a minute, rough figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is over by more than half")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sizes, console = QUICK if options.quick else FULL, Console(width=140)
    console.print(conditions())
    budgets = compare_requests(console, sizes)
    compare_background(console, sizes)
    budgets += compare_detectors(console, sizes, quick=options.quick)
    print_budgets(console, budgets)
    console.print(conditions())
    return int(options.check and failed(budgets))


if __name__ == "__main__":
    sys.exit(main())
