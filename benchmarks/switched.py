"""What work in the background does to served requests: ``python -m benchmarks.switched drift|records [--quick]``.

Real servers, as in `benchmarks.served`, one worker each: bare twice, behind the guards with it switched off twice
(how far two equal servers differ is the noise floor), and switched on: every request sampled, counted and judged for
drift, or every decision committed to SQLite, in the same worker's background. Blocks of 500 requests in turns, so long
that the background comes in each of them, and no two rows alike. The ratio is that of the quantiles over all requests
of an arm; its range is a bootstrap of blocks, for neighbours in time are slow together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import served, served_services
from benchmarks.measure import Budget, conditions, failed, print_budgets

SERVICES = "benchmarks.switched_services"
WHAT = {
    "drift": ("drift sampling", "Recorded", "Sampled"),
    "records": ("the writer of records", "Unrecorded", "Recorded"),
}
"""What is switched, and the services without it and with it."""
PAIRS = (("bare again", "bare"), ("off again", "off"), ("on", "off"))
QUANTILES = (0.5, 0.99)
MOST = 1.05
"""p99 with it over p99 without."""
RESAMPLES = 1000
FULL, QUICK = served.Sizes(40, 500, 500, 0, 0.0), served.Sizes(4, 250, 100, 0, 0.0)


def ratios(latencies: served.Latencies, q: float) -> dict[tuple[str, str], tuple[float, float, float]]:
    """The ratio of two arms' quantiles, with a 90 % range over resampled blocks, for each pair."""
    rng = np.random.default_rng(0)
    blocks = len(next(iter(latencies.of.values())))
    draws = [rng.integers(blocks, size=blocks) for _ in range(RESAMPLES)]
    found = {}
    for one, other in PAIRS:
        over, under = latencies.of[one], latencies.of[other]
        drawn = [float(np.quantile(over[draw], q) / np.quantile(under[draw], q)) for draw in draws]
        low, high = np.quantile(drawn, [0.05, 0.95])
        found[one, other] = (float(np.quantile(over, q) / np.quantile(under, q)), float(low), float(high))
    return found


def counted(port: int, what: str) -> dict[str, Any]:
    """What the server in question says it has counted, or written."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/guardrails/status", timeout=10) as answer:
        status: dict[str, Any] = json.load(answer)
    said: dict[str, Any] = status["drift"][0] if what == "drift" else status["decisions"]
    return {name: value for name, value in said.items() if not isinstance(value, list | dict)}


def compare(console: Console, what: str, rate: float, store: Path, folder: Path, sizes: served.Sizes) -> list[Budget]:
    """Serve all arms at one head-sampling rate, measure, print."""
    from benchmarks import switched_services

    name, off, on = WHAT[what]
    arms = {"bare": "Bare", "bare again": "Bare", "off": off, "off again": off, "on": on}
    bodies = switched_services.bodies(sizes.asked)
    receiver = served.start_receiver()
    env = {
        "BENTOML_DO_NOT_TRACK": "true",
        served_services.SAMPLE_RATE: str(rate),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint,
    }
    try:
        with ExitStack() as stack:
            servers = {}
            for number, (arm, service) in enumerate(arms.items()):
                own = folder / f"{rate:g}-{number}"
                own.mkdir()
                servers[arm] = stack.enter_context(served.running(service, own, store, env, SERVICES))
            for server in servers.values():
                served.wait_until_ready(server)
            ports = {arm: server.port for arm, server in servers.items()}
            spent = {arm: served.cpu_seconds(server) for arm, server in servers.items()}
            latencies = served.measure_latency(ports, bodies, sizes)
            cpu = {arm: 1e3 * (served.cpu_seconds(one) - spent[arm]) / sizes.asked for arm, one in servers.items()}
            said = counted(ports["on"], what)
    finally:
        receiver.count()
    print_latencies(console, rate, latencies, cpu, sizes)
    console.print(f"the server with {name} says: {said}; {conditions()}\n")
    found = {q: print_ratios(console, latencies, q) for q in QUANTILES}
    return [Budget(f"served, head sampling {rate:g}: p99 with {name} / without", found[0.99], MOST, "x")]


def print_latencies(
    console: Console, rate: float, latencies: served.Latencies, cpu: dict[str, float], sizes: served.Sizes
) -> None:
    """One line per arm."""
    title = f"Head sampling {rate:g}: {sizes.blocks} blocks of {sizes.requests} requests an arm"
    table = Table("", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "cpu ms", title=title, title_justify="left")
    for arm in latencies.of:
        quantiles = (f"{latencies.quantile(arm, q):.3f}" for q in (0.5, 0.9, 0.99, 0.999))
        table.add_row(arm, *quantiles, f"{cpu[arm]:.3f}")
    console.print(table)


def print_ratios(console: Console, latencies: served.Latencies, q: float) -> float:
    """One line per pair; the ratio of the arm in question."""
    table = Table(f"p{100 * q:g}", "ratio", "90 % range", title_justify="left")
    found = ratios(latencies, q)
    for (one, other), (ratio, low, high) in found.items():
        table.add_row(f"{one} / {other}", f"{ratio:.3f}", f"{low:.3f} - {high:.3f}")
    console.print(table)
    return found["on", "off"][0]


def main() -> int:
    """Measure, print, and say with ``--check`` whether a budget is far over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=sorted(WHAT), help="what is switched on and off")
    parser.add_argument("--quick", action="store_true", help="1,000 requests an arm: rough figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is over by more than half")
    parser.add_argument("--blocks", type=int, help="blocks of 500 requests an arm")
    parser.add_argument("--rate", type=float, default=0.0, help="the head-sampling rate of traces")
    options = parser.parse_args()
    sizes, console = QUICK if options.quick else FULL, Console(width=120)
    if options.blocks:
        sizes = sizes._replace(blocks=options.blocks)
    with tempfile.TemporaryDirectory(prefix="guardrails-bench-") as name:
        folder = Path(name)
        store = folder / "store"
        env = {**os.environ, "BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "true"}
        subprocess.run([sys.executable, "-m", SERVICES], cwd=served.ROOT, env=env, check=True, timeout=120)
        budgets = compare(console, options.what, options.rate, store, folder, sizes)
    print_budgets(console, budgets)
    return int(options.check and failed(budgets))


if __name__ == "__main__":
    sys.exit(main())
