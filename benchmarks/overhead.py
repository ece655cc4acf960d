"""What the guards add to one request, in process: ``python -m benchmarks.overhead [--quick] [--check]``.

The request is one row of 30 features, the answer five scores; the model is one matrix product, so that next to nothing
is measured but the guards. Like every request in BentoML it stands inside a server span. The yardstick is the same
method inside ONE OpenTelemetry span that carries the very attributes the guarded call's span carries, from a provider
of the same making: recording, sampled, exported to nobody. Decisions go to a real `DecisionLog` on SQLite and rows to a
real drift sampler. Their threads catch up between the blocks, off the clock, as they do between the requests of a
service; what they cost is printed as a line of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from bentoml._internal.utils.telemetry import ParentBasedTraceIdRatio
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from rich.console import Console
from rich.table import Table

import guardrails as gr
from benchmarks.measure import Arm, Budget, conditions, failed, microseconds, print_budgets, take_turns
from guardrails.core.call import Call
from guardrails.core.payload import read
from guardrails.decisions.writer import DecisionLog, open_log
from guardrails.drift import sampler_of
from guardrails.exploration import draw
from guardrails.outliers.forest import IsolationForest
from guardrails.validation.rules import Rules

FEATURES, ACTIONS, ROWS = 30, 5, 4000
DEADLINE, EPSILON, ALPHA, TIMEOUT = 1.0, 0.02, 0.01, 0.2
BATCHES = (1, 10, 100, 1000, 10_000)

Guarded = Callable[[Any], Any]


class Sizes(NamedTuple):
    """How long to measure."""

    blocks: int
    calls: int
    detector_seconds: float
    imports: int


FULL, QUICK = Sizes(40, 300, 0.03, 5), Sizes(9, 150, 0.01, 2)


class Discard(SpanProcessor):
    """Exports to nobody, and remembers the last span for its attributes."""

    last: ReadableSpan | None = None

    def on_end(self, span: ReadableSpan) -> None:
        self.last = span


class Bench:
    """The method, bare and guarded, with everything that stands around it.

    Args:
        folder: where the decision store is.
    """

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(ROWS, FEATURES))
        self.weights = rng.normal(size=(FEATURES, ACTIONS))
        self.profile = gr.Profile.fit(self.X, outputs=self.X @ self.weights, alpha=ALPHA, model="bench:1")
        self.row = rng.normal(size=(1, FEATURES))
        self.strange = np.full((1, FEATURES), 9.0)
        self.url = f"sqlite:///{folder / 'decisions.db'}"
        self.spans = Discard()
        self.provider = provider_with(self.spans)
        trace.set_tracer_provider(self.provider)  # outside of BentoML this is the one the guards use
        self.log: DecisionLog = open_log(self.url)

    def bare(self, rows: Any) -> Any:
        return rows @ self.weights

    def charts(self, rows: Any) -> Any:
        return np.zeros((len(rows), ACTIONS))

    def guards(self) -> dict[str, Callable[[Any], Any]]:
        """Each guard by name, as the services use it."""
        profile = self.profile
        return {
            "traced(deadline)": gr.traced(deadline=DEADLINE),
            "validate": gr.validate(profile, margin=2.0),
            "check_outliers": gr.check_outliers(profile, fallback=self.charts),
            "fall_back": gr.fall_back(to=self.charts),
            "explore": gr.explore(gr.EpsilonGreedy(EPSILON), decisions=self.url),
            "sample_drift": gr.sample_drift(profile),
        }

    def guarded(self, *, timeout: float | None = None, without: str = "") -> Guarded:
        """All guards on; with a timeout, each call waits for a thread of its own."""
        guards = self.guards() | {"fall_back": gr.fall_back(to=self.charts, timeout=timeout)}
        return self.wrap(*(guard for name, guard in guards.items() if name != without))

    def wrap(self, *guards: Callable[[Any], Any]) -> Guarded:
        """The bare method behind guards, as a plain function: bound to nobody, like the bare one here."""
        weights = self.weights

        def recommend(rows: Any) -> Any:
            return rows @ weights

        return gr.compose(*guards)(recommend)

    def catch_up(self) -> None:
        """Let the background threads finish what the last block left them."""
        self.log.flush()
        sampler_of(self.profile).flush()


def provider_with(processor: SpanProcessor) -> TracerProvider:
    """A provider that samples as BentoML's does: by its parent, and without one, everything."""
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(1.0))
    provider.add_span_processor(processor)
    return provider


def in_a_span(call: Guarded, row: Any, attributes: dict[str, Any]) -> Arm:
    """A call inside one span with these attributes, from a provider without the guards' own processor."""
    provider = provider_with(Discard())
    tracer = provider.get_tracer("benchmark")

    def spanned(one: Any) -> Any:
        with tracer.start_as_current_span("yardstick", attributes=attributes):
            return call(one)

    return served(provider, spanned, row)


def served(provider: TracerProvider, call: Guarded, row: Any, *, sampled: bool = True) -> Arm:
    """A call inside a server span, as every request in BentoML is; unsampled as under a sample_rate of 0."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    upstream = NonRecordingSpan(SpanContext(1 << 100 | 7, 7, is_remote=True, trace_flags=flags))
    server = provider.get_tracer("server").start_span("POST /recommend", context=trace.set_span_in_context(upstream))
    around = trace.set_span_in_context(server)

    def arm() -> object:
        token = otel.attach(around)
        try:
            return call(row)
        finally:
            otel.detach(token)

    return arm


def request_arms(bench: Bench) -> dict[str, Arm]:
    """The request: bare, in a span, behind all guards, behind each guard alone."""
    row, everything, timed = bench.row, bench.guarded(), bench.guarded(timeout=TIMEOUT)
    bare = bench.wrap()
    everything(row)
    span = bench.spans.last
    attributes = dict(span.attributes or {}) if span is not None else {}
    arms: dict[str, Arm] = {
        "bare": served(bench.provider, bare, row),
        "one span": in_a_span(bare, row, attributes),
        "all guards": served(bench.provider, everything, row),
        "all guards, unsampled": served(bench.provider, everything, row, sampled=False),
        "all guards, timeout": served(bench.provider, timed, row),
        "all guards, an outlier": served(bench.provider, everything, bench.strange),
    }
    guards = bench.guards().items()
    return arms | {f"only {name}": served(bench.provider, bench.wrap(guard), row) for name, guard in guards}


def hook_arms(bench: Bench) -> dict[str, Arm]:
    """What the request pays for drift sampling and for exploring, hook by hook, on a call that has been answered."""
    wrapper = bench.guarded()
    wrapper(bench.row)
    plan = gr.pipeline_of(wrapper)._plan
    if plan is None:
        raise RuntimeError("the pipeline was not bound by its first call")
    hooks = dict(plan._afters)
    with gr.pipeline_of(wrapper).open((bench.row,), {}) as call:
        for attempt in call:
            with attempt:
                attempt.result = attempt.target(*attempt.args, **attempt.kwargs)
    scores, policy, key, offer = call.result[0], gr.EpsilonGreedy(EPSILON), b"k" * 32, sampler_of(bench.profile).offer
    rows, record = call.rows_read, hooks["record"]

    judge, layout = Rules.of(bench.profile.schema, 2.0).admit, bench.profile.layout

    def explored() -> None:
        hooks["explore"](call)
        record(call)

    return {
        "nothing": lambda: None,
        "drift: sampler.offer": lambda: offer(rows, scores, None, 0),
        "drift: the guard's hook": _hook(hooks["sample_drift"], call),
        "validate: read and judged": lambda: judge(read(bench.row, layout).values),
        "explore: pmf and draw": lambda: draw(policy.pmf(scores), call.id, key),
        "explore: the guard's hook": _hook(hooks["explore"], call),
        "record: the decision, enqueued": _hook(record, call),
        "explore and record": explored,
    }


def _hook(hook: Callable[[Call], None], call: Call) -> Arm:
    return lambda: hook(call)


class Detectors(NamedTuple):
    """One fitted forest, three ways to ask it."""

    arms: dict[str, Callable[[Any], Any]]
    offset: dict[str, float]


def detectors(X: Any) -> Detectors:
    """The same scikit-learn forest behind this library, scikit-learn and (where installed) alibi-detect."""
    from sklearn.ensemble import IsolationForest as Fitted

    fitted = Fitted(n_estimators=100, random_state=0).fit(X)
    ours = gr.outliers.calibration.CalibratedDetector(
        IsolationForest.compile(fitted), np.sort(-fitted.score_samples(X)), ALPHA, np.full(X.shape[1], np.nan)
    )
    arms: dict[str, Callable[[Any], Any]] = {
        "guardrails": ours.score,
        "scikit-learn": lambda X: -fitted.score_samples(X),
    }
    if importlib.util.find_spec("alibi_detect") is None:
        return Detectors(arms, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alibi_detect.od import IForest
    theirs = IForest(threshold=0.0, n_estimators=100)
    theirs.isolationforest = fitted
    arms["alibi-detect"] = theirs.score
    return Detectors(arms, {"alibi-detect": float(fitted.offset_)})  # it scores minus decision_function


def compare_detectors(console: Console, bench: Bench, sizes: Sizes) -> list[Budget]:
    """Score batches of growing size with each, print times and the largest difference of scores."""
    compared = detectors(bench.X)
    table = Table(title="Isolation forest, 100 trees: us per call", title_justify="left")
    for column in ("rows", *compared.arms, "fastest other / ours", "largest difference"):
        table.add_column(column, justify="right")
    rng, speedups, differences = np.random.default_rng(1), {}, []
    for n in BATCHES:
        rows = rng.normal(size=(n, FEATURES))
        arms: dict[str, Arm] = {name: partial(score, rows) for name, score in compared.arms.items()}
        calls = {name: _calls_in(arm, seconds=sizes.detector_seconds) for name, arm in arms.items()}
        took = microseconds(take_turns(arms, blocks=sizes.blocks // 3, calls=calls))
        own = compared.arms["guardrails"](rows)
        gaps = [
            float(np.abs(own - (score(rows) - compared.offset.get(name, 0.0))).max())
            for name, score in compared.arms.items()
        ]
        differences.append(max(gaps))
        speedups[n] = min(us for name, us in took.items() if name != "guardrails") / took["guardrails"]
        table.add_row(
            f"{n:,}", *(f"{us:,.0f}" for us in took.values()), f"{speedups[n]:.2f} x", f"{differences[-1]:.1e}"
        )
    console.print(table)
    return [
        Budget("isolation forest, one row: times faster than the fastest other", speedups[1], 100.0, "x", least=True),
        Budget("isolation forest, the worst of all batch sizes", min(speedups.values()), 1.0, "x", least=True),
        Budget("isolation forest, largest difference of scores", max(differences), 1e-12, ""),
    ]


def _calls_in(arm: Arm, seconds: float) -> int:
    """How many calls take about that long: one of a slow arm, many of a quick one."""
    arm()
    begun = time.perf_counter()
    arm()
    return max(1, min(500, int(seconds / (time.perf_counter() - begun))))


_CHILD = """
import sys, time
import bentoml, numpy
{before}
begun = time.perf_counter()
import {module}
print(time.perf_counter() - begun)
"""


def import_seconds(module: str, before: str = "") -> float:
    """Seconds ``import module`` takes in a fresh interpreter that has imported bentoml and numpy."""
    child = [sys.executable, "-c", _CHILD.format(module=module, before=before)]
    done = subprocess.run(child, capture_output=True, text=True, timeout=120, check=True)
    return float(done.stdout)


def compare_imports(console: Console, sizes: Sizes) -> list[Budget]:
    """Interleaved runs; ``import bentoml`` is lazy, so what every service module loads anyway is told apart."""
    service = "bentoml.service, bentoml.api, bentoml.models"
    arms = {
        "import guardrails, after import bentoml, numpy": ("guardrails", ""),
        "BentoML's own part: bentoml.service, loaded lazily": ("_bentoml_sdk.service", ""),
        "import guardrails, after bentoml.service was touched": ("guardrails", service),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(sizes.imports):
        for name, (module, before) in arms.items():
            times[name].append(1e3 * import_seconds(module, before))
    table = Table("", "ms", "from", "to", title="Import", title_justify="left")
    for name, took in times.items():
        table.add_row(name, f"{median(took):.0f}", f"{min(took):.0f}", f"{max(took):.0f}")
    console.print(table)
    first = next(iter(times))
    return [Budget(first, median(times[first]), 150.0, "ms")]


def compare_requests(console: Console, bench: Bench, sizes: Sizes) -> list[Budget]:
    """Time the request's arms, print what each adds to the bare function, and that as a multiple of one span.

    Differences and ratios are taken within a block, between neighbours, and their medians are what is printed.
    """
    means = take_turns(request_arms(bench), blocks=sizes.blocks, calls=sizes.calls, between=bench.catch_up)
    took = {name: np.array(seconds) for name, seconds in means.items()}
    added = {name: seconds - took["bare"] for name, seconds in took.items()}
    us = {name: 1e6 * float(np.median(seconds)) for name, seconds in added.items()}
    times = {name: float(np.median(seconds / added["one span"])) for name, seconds in added.items()}
    table = Table(title="One request, 30 features, 5 scores: us", title_justify="left")
    for column in ("", "takes", "quartiles", "adds", "/ one span"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in took.items():
        low, middle, high = 1e6 * np.quantile(seconds, [0.25, 0.5, 0.75])
        table.add_row(name, f"{middle:.1f}", f"{low:.1f} - {high:.1f}", f"{us[name]:.1f}", f"{times[name]:.2f} x")
    console.print(table)
    budgets = []
    for name in ("all guards", "all guards, unsampled"):  # a timeout on a sync method is a thread hop, printed above
        budgets += [Budget(f"{name}: times one span", times[name], 3.0, "x"), Budget(f"{name}: added", us[name], 100.0)]
    return budgets


def compare_hooks(console: Console, bench: Bench, sizes: Sizes) -> list[Budget]:
    """Time drift sampling and exploration by themselves."""
    took = microseconds(take_turns(hook_arms(bench), blocks=sizes.blocks, calls=sizes.calls, between=bench.catch_up))
    nothing = took.pop("nothing")
    table = Table("", "us", title="Hooks on the request path", title_justify="left")
    for name, us in took.items():
        table.add_row(name, f"{us - nothing:.2f}")
    console.print(table)
    return [
        Budget("validate: 30 numeric fields, read and judged", took["validate: read and judged"] - nothing, 5.0),
        Budget("drift sampling: the append", took["drift: sampler.offer"] - nothing, 1.0),
        Budget("drift sampling: the whole hook", took["drift: the guard's hook"] - nothing, 1.0),
        Budget("exploration: draw, and enqueue the decision", took["explore and record"] - nothing, 10.0),
    ]


def background(console: Console, bench: Bench, requests: int) -> None:
    """What the threads spend on one request after it was answered: processor time, all threads of this process."""
    call = bench.guarded()
    for _ in range(requests):
        call(bench.row)
        if sampler_of(bench.profile)._queue and len(sampler_of(bench.profile)._queue) > 2000:
            break
    table = Table("", "us per request", title="In the background", title_justify="left")
    for name, flush, waiting in (
        ("decision log: SQLite, committed", bench.log.flush, bench.log.waiting),
        ("drift sampler: binned and published", sampler_of(bench.profile).flush, len(sampler_of(bench.profile)._queue)),
    ):
        begun = time.process_time()
        flush()
        if waiting:
            table.add_row(f"{name} ({waiting} waited)", f"{1e6 * (time.process_time() - begun) / waiting:.1f}")
    console.print(table)


@contextmanager
def bench_in_a_folder() -> Iterator[Bench]:
    """A bench whose store is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="guardrails-bench-") as folder:
        bench = Bench(Path(folder))
        try:
            yield bench
        finally:
            bench.catch_up()
            bench.log.close()


def main() -> int:
    """Measure, print, and say with ``--check`` whether a budget is far over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a few seconds, rough figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is over by more than half")
    options = parser.parse_args()
    sizes, console = QUICK if options.quick else FULL, Console(width=120)
    console.print(conditions())
    with bench_in_a_folder() as bench:
        budgets = compare_requests(console, bench, sizes)
        budgets += compare_hooks(console, bench, sizes)
        background(console, bench, 1000)
        budgets += compare_detectors(console, bench, sizes)
    budgets += compare_imports(console, sizes)
    print_budgets(console, budgets)
    console.print(conditions())
    return int(options.check and failed(budgets))


if __name__ == "__main__":
    sys.exit(main())
