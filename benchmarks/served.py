"""What the guards cost a served request: ``python -m benchmarks.served [--quick] [--check]``.

Real servers, ``bentoml serve`` with one worker each: the bare service twice (the second one shows how far two equal
servers differ: the noise floor), the service with `install` and no guard (which spares BentoML some work per request,
and so pays for part of the guards), the service behind all guards, the same with a timeout that interrupts, and the
service with alibi-detect's isolation forest called in its handler. One keep-alive connection each, blocks of requests
in turns, ordinary rows nobody was trained on. Spans go to a real OTLP receiver in a process of its own.

The ratio is the median over blocks of (mean latency bare / mean latency of the arm); 1 is free. ``cpu`` is the
processor time of the server and its worker per request, their background threads included. Requests per second
under load are measured apart, with several connections at once. The client is a bare socket, so that next to nothing
is measured but the servers.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Budget, conditions, failed, print_budgets

ROOT = Path(__file__).resolve().parents[1]
SERVICES = "benchmarks.served_services"
ARMS = {
    "bare": "Bare",
    "bare again": "Bare",
    "install only": "Installed",
    "guarded": "Guarded",
    "guarded, timeout": "Timed",
    "alibi inline": "Inline",
}
BARE, GUARDED = "bare", "guarded"
QUICK_ARMS = {0.0: ("bare", "bare again", "guarded", "alibi inline"), 1.0: ("bare", "guarded")}
"""Starting a server takes seconds of both cores: a quick run starts no more than it has to."""
BUDGETS = {0.0: 0.95, 1.0: 0.90}
START_TIMEOUT, STOP_TIMEOUT, ANSWER_TIMEOUT = 90.0, 20.0, 30.0
UNTIMED = 3
"""Requests at the beginning of a block that do not count: a new connection, caches somebody else has used."""
LIFETIME = 1800
"""Seconds after which a server stops by itself, should this process have died."""


class Sizes(NamedTuple):
    """How long to measure, per sampling rate."""

    blocks: int
    requests: int
    warm_up: int
    load_rounds: int
    load_seconds: float
    connections: int = 8

    @property
    def asked(self) -> int:
        """Requests per arm while latency is measured, with those that do not count."""
        return self.blocks * (self.requests + UNTIMED) + self.warm_up + UNTIMED


FULL, QUICK = Sizes(60, 100, 300, 4, 2.5), Sizes(10, 50, 50, 2, 0.8)


_HEAD = b"POST /predict HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Connection:
    """One keep-alive HTTP/1.1 connection that posts prepared requests: a socket and a few slices."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @staticmethod
    def prepare(bodies: list[bytes]) -> list[bytes]:
        """The requests, byte by byte, made before anything is timed."""
        return [_HEAD % len(body) + body for body in bodies]

    def post(self, request: bytes) -> bytes:
        """Send one request, read its answer: head and body.

        Raises:
            RuntimeError: the answer is not a 200.
        """
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not a 200: {answer[:500]!r}")
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data


class Server(NamedTuple):
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path


@contextmanager
def running(
    service: str, folder: Path, store: Path, env: Mapping[str, str], module: str = SERVICES
) -> Iterator[Server]:
    """Serve a service from a folder and a BENTOML_HOME of its own; stop it at the end, whatever happened."""
    shutil.copytree(store, folder / "home")
    port, log = _free_port(), folder / "server.log"
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        f"{module}:{service}",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    if shutil.which("timeout"):
        command = ["timeout", "--kill-after=10", str(LIFETIME), *command]
    environment = {**os.environ, **env, "BENTOML_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Server(process, port, log)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with suppress(ProcessLookupError, PermissionError):  # its own session: whatever it left behind, and nothing else
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_TIMEOUT)


def wait_until_ready(server: Server) -> None:
    """Wait for the worker.

    Raises:
        RuntimeError: it does not come up; the message ends with its log.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and server.process.poll() is None:
        if _answers(server.port):
            return
        time.sleep(0.2)
    raise RuntimeError(f"a server is not ready:\n{server.log.read_text(errors='replace')[-3000:]}")


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def cpu_seconds(server: Server) -> float:
    """Processor time of a server and its workers so far: it does not grow while somebody else has the processor."""
    server_itself = psutil.Process(server.process.pid)
    times = [one.cpu_times() for one in (server_itself, *server_itself.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


_RECEIVER = """
import os, sys
from guardrails.testing import OtlpReceiver

class Counting(list):
    seen = 0
    def extend(self, spans):
        self.seen += len(spans)

os.nice(10)
counting = Counting()
with OtlpReceiver(spans=counting) as receiver:
    print(receiver.endpoint, flush=True)
    sys.stdin.read()
print(counting.seen, flush=True)
"""


class Receiver(NamedTuple):
    """An OTLP receiver in a process of its own; it ends when its standard input does, at the latest with us."""

    process: subprocess.Popen[str]
    endpoint: str

    def count(self) -> int:
        """Stop it; the number of spans it was sent."""
        return int(self.process.communicate(timeout=30)[0])


def start_receiver() -> Receiver:
    """Start one."""
    process = subprocess.Popen(
        [sys.executable, "-c", _RECEIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    if process.stdout is None:
        raise RuntimeError("the receiver has no standard output")
    return Receiver(process, process.stdout.readline().strip())


class Latencies(NamedTuple):
    """Seconds per request, by arm: (blocks, requests)."""

    of: dict[str, np.ndarray]

    def ratio(self, arm: str) -> tuple[float, float, float]:
        """The quartiles over blocks of (mean latency bare / mean latency of the arm): low, median, high."""
        ratios = self.of[BARE].mean(axis=1) / self.of[arm].mean(axis=1)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)

    def quantile(self, arm: str, q: float) -> float:
        """A quantile over all requests, in milliseconds."""
        return 1e3 * float(np.quantile(self.of[arm], q))


def measure_latency(ports: Mapping[str, int], bodies: list[bytes], sizes: Sizes) -> Latencies:
    """One connection at a time, blocks in turns; the order turns and reverses from block to block."""
    requests = {arm: cycle(Connection.prepare(bodies)) for arm in ports}
    for arm, port in ports.items():
        _block(port, requests[arm], sizes.warm_up)
    arms = list(ports)
    taken = {arm: np.empty((sizes.blocks, sizes.requests)) for arm in arms}
    for block in range(sizes.blocks):
        shift = block // 2 % len(arms)
        order = arms[shift:] + arms[:shift]
        for arm in order if block % 2 else reversed(order):
            taken[arm][block] = _block(ports[arm], requests[arm], sizes.requests)
    return Latencies(taken)


def _block(port: int, requests: Iterator[bytes], n: int) -> list[float]:
    """Seconds of n requests in a row. A connection per block: uvicorn closes one that is idle for 5 s."""
    connection = Connection(port)
    for _ in range(UNTIMED):
        connection.post(next(requests))
    seconds = []
    for _ in range(n):
        request = next(requests)
        begun = time.perf_counter()
        connection.post(request)
        seconds.append(time.perf_counter() - begun)
    connection.close()
    return seconds


def measure_load(ports: Mapping[str, int], bodies: list[bytes], sizes: Sizes) -> dict[str, float]:
    """Requests per second of each arm with several connections at once: the median over rounds in turns."""
    rates: dict[str, list[float]] = {arm: [] for arm in ports}
    arms = list(ports)
    for turn in range(sizes.load_rounds):
        for arm in arms if turn % 2 else reversed(arms):
            rates[arm].append(_load(ports[arm], bodies, sizes))
    return {arm: median(values) for arm, values in rates.items()}


def _load(port: int, bodies: list[bytes], sizes: Sizes) -> float:
    done = [0] * sizes.connections
    stop = threading.Event()

    def keep_posting(number: int) -> None:
        connection = Connection(port)
        for request in cycle(connection.prepare(bodies[number:] + bodies[:number])):
            if stop.is_set():
                break
            connection.post(request)
            done[number] += 1
        connection.close()

    threads = [threading.Thread(target=keep_posting, args=(n,)) for n in range(sizes.connections)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    stop.wait(sizes.load_seconds)
    stop.set()
    for thread in threads:
        thread.join(ANSWER_TIMEOUT)
    return sum(done) / (time.perf_counter() - begun)


def routes_of(port: int, bodies: list[bytes]) -> dict[str, int]:
    """Who answered, over all rows once: that the measured traffic is ordinary."""
    connection, counted = Connection(port), {}
    for request in connection.prepare(bodies):
        route = (
            connection.post(request).lower().partition(b"guardrails-route:")[2].partition(b"\r\n")[0].strip().decode()
        )
        counted[route] = counted.get(route, 0) + 1
    connection.close()
    return counted


def compare(
    console: Console, rate: float, arms: Mapping[str, str], store: Path, folder: Path, sizes: Sizes
) -> list[Budget]:
    """Serve all arms at one head-sampling rate, measure, print."""
    from benchmarks import served_services

    bodies = served_services.bodies()
    receiver = start_receiver()
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
                servers[arm] = stack.enter_context(running(service, own, store, env))
            for server in servers.values():
                wait_until_ready(server)
            ports = {arm: server.port for arm, server in servers.items()}
            routes = routes_of(ports[GUARDED], bodies)
            spent = {arm: cpu_seconds(server) for arm, server in servers.items()}
            latencies = measure_latency(ports, bodies, sizes)
            cpu = {arm: 1e3 * (cpu_seconds(server) - spent[arm]) / sizes.asked for arm, server in servers.items()}
            load = measure_load(ports, bodies, sizes)
    finally:
        spans = receiver.count()
    _print(console, rate, latencies, load, cpu, sizes)
    console.print(
        f"routes of the {len(bodies)} rows: {routes}; the receiver was sent {spans:,} spans; {conditions()}\n"
    )
    middle = latencies.ratio(GUARDED)[1]
    return [Budget(f"served, head sampling {rate:g}: bare / all guards on", middle, BUDGETS[rate], "", least=True)]


def _print(
    console: Console,
    rate: float,
    latencies: Latencies,
    load: Mapping[str, float],
    cpu: Mapping[str, float],
    sizes: Sizes,
) -> None:
    title = f"Head sampling {rate:g}: {sizes.blocks} blocks of {sizes.requests} requests"
    table = Table("", title=title, title_justify="left")
    for heading in (
        "bare / arm",
        "quartiles",
        "p50 ms",
        "p99 ms",
        "cpu ms",
        f"req/s ({sizes.connections} conn.)",
        "/ bare",
    ):
        table.add_column(heading, justify="right")
    for arm in latencies.of:
        low, middle, high = latencies.ratio(arm)
        table.add_row(
            arm,
            f"{middle:.3f}",
            f"{low:.3f} - {high:.3f}",
            f"{latencies.quantile(arm, 0.5):.3f}",
            f"{latencies.quantile(arm, 0.99):.3f}",
            f"{cpu[arm]:.3f}",
            f"{load[arm]:,.0f}",
            f"{load[arm] / load[BARE]:.3f}",
        )
    console.print(table)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Measure, print, and say with ``--check`` whether a budget is far over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="under a minute, rough figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is over by more than half")
    parser.add_argument("--blocks", type=int, help="blocks per sampling rate")
    parser.add_argument("--rate", type=float, choices=list(BUDGETS), help="one head-sampling rate only")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), help="these arms only (bare and guarded always are)")
    options = parser.parse_args()
    sizes, console = QUICK if options.quick else FULL, Console(width=120)
    if options.blocks:
        sizes = sizes._replace(blocks=options.blocks)
    chosen = {arm: ARMS[arm] for arm in ARMS if not options.arms or arm in {*options.arms, BARE, GUARDED}}
    if importlib.util.find_spec("alibi_detect") is None and chosen.pop("alibi inline", None):
        console.print("alibi-detect is not installed: the arm that calls it is left out")
    rates = list(BUDGETS) if options.rate is None else [options.rate]
    arms_at = {
        rate: {arm: chosen[arm] for arm in QUICK_ARMS[rate] if arm in chosen} if options.quick else chosen
        for rate in rates
    }
    budgets: list[Budget] = []
    with tempfile.TemporaryDirectory(prefix="guardrails-bench-") as name:
        folder = Path(name)
        store = folder / "store"
        env = {**os.environ, "BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "true"}
        subprocess.run([sys.executable, "-m", SERVICES], cwd=ROOT, env=env, check=True, timeout=120)
        for rate in rates:
            budgets += compare(console, rate, arms_at[rate], store, folder, sizes)
    print_budgets(console, budgets)
    return int(options.check and failed(budgets))


if __name__ == "__main__":
    sys.exit(main())
