"""The whole job on embedded defaults: train, serve three bentos, send requests, show what the guards did with them.

``python -m services.demo`` ends by itself; ``--keep`` leaves the services running until Ctrl-C; ``--phoenix PATH``
sends the traces to a real backend instead of the small receiver in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from rich.tree import Tree

from guardrails.drift.page import render
from guardrails.testing import BentoServer, OtlpReceiver, ReceivedSpan, free_port

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".demo"
SERVICES = ("tumor", "songs", "digits")
BATCHED = ("recommend_many", "classify")
EXAMPLES = ("diagnose", "recommend", "read")
SERVER_KIND = 2
SHOWN = ("route", "reason", "outlier.p_value", "outlier.features", "outlier.score", "deadline.met", "decision.id")
console = Console()


@dataclass
class Answered:
    """What came back from one API."""

    api: str
    routes: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    milliseconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, status: int, headers: Any, body: str, seconds: float) -> None:
        """Count one answer under the route that its headers name."""
        key = (headers.get("Guardrails-Route") or f"BentoML {status}", headers.get("Guardrails-Reason") or "")
        self.routes[key] += 1
        self.examples.setdefault(key, body)
        self.milliseconds.setdefault(key, []).append(1000 * seconds)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m services.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the services running until Ctrl-C")
    parser.add_argument("--phoenix", type=Path, help="Arize Phoenix' executable: send the traces there")
    options = parser.parse_args()
    console.rule("[bold]guardrails: three guarded bentos")
    home = train()
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(OtlpReceiver())
        backend = stack.enter_context(phoenix(options.phoenix)) if options.phoenix else None
        endpoint = f"{backend}/v1/traces" if backend else receiver.endpoint
        servers = [server(f"services.{name}.service:{name.title()}", home, endpoint) for name in SERVICES]
        with ThreadPoolExecutor() as pool:  # they start side by side: it is the longest part of all this
            tumor, songs, digits = pool.map(stack.enter_context, servers)
        where = ", ".join(f"{name} at [b]{one.url}[/b]" for name, one in zip(SERVICES, servers, strict=True))
        console.print(f"serving {where}, two workers each\n", soft_wrap=True)
        show_routes([*send_tumor(tumor), *send_songs(songs), *send_digits(digits)])
        show_stream(digits)
        time.sleep(2.5)  # the exporter and the writers of records send every half second here
        if backend is None:
            show_traces(receiver)
        show_decisions(*servers)
        show_drift(songs, digits)
        how_to_go_on(tumor, backend, keep=options.keep)
        if options.keep:
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def train() -> Path:
    """Train the models and fit their profiles, in a model store of the demo's own."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    home = FOLDER / "store"
    home.mkdir(parents=True)
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
    with console.status("training the models and fitting their profiles ..."):
        commands = [[sys.executable, "-m", f"services.{name}.train"] for name in SERVICES]
        run = partial(subprocess.run, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
        with ThreadPoolExecutor() as pool:
            for name, done in zip(SERVICES, pool.map(run, commands), strict=True):
                console.print(f"{name}: {', '.join(done.stdout.split()[1::2])}")
    return home


def server(target: str, store: Path, endpoint: str) -> BentoServer:
    """A server with a home and a working directory of its own; head sampling is 0, so only flagged traces leave it."""
    name = target.split(".")[1]
    home, cwd = FOLDER / f"{name}-home", FOLDER / name
    shutil.copytree(store, home)
    cwd.mkdir()
    environment = {
        "PYTHONPATH": str(ROOT),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    console.print(f"[dim]starting {name} (log: {(cwd / 'serve-*.log').relative_to(ROOT)}) ...[/dim]")
    return BentoServer(target, home=home, cwd=cwd, env=environment)


def send_tumor(tumor: BentoServer) -> list[Answered]:
    """Real held-out cases, cases nobody has, and bodies that are none."""
    import numpy as np

    from services.tumor.train import held_out

    X, _ = held_out()
    rng = np.random.default_rng(1)
    # Every measurement is one that occurs, but no tumor has them together.
    edge = np.where(rng.random((20, X.shape[1])) < 0.5, X.min(axis=0), X.max(axis=0))
    bodies: list[Any] = [{"cases": [row.tolist()]} for row in [*X, *edge]]
    bodies += [{"cases": X[:5].tolist()}, {"cases": [X[0].tolist(), edge[0].tolist()]}]
    bodies += [{"cases": [[1.0, 2.0]]}, {"cases": [["text"] * 30]}, {"cases": [(X[0] * 1e6).tolist()]}, {}, "no JSON"]
    return [send(tumor, "diagnose", bodies)]


def send_songs(songs: BentoServer) -> list[Answered]:
    """Ordinary listeners, and some whose tastes contradict each other wildly."""
    from services.songs.train import listeners

    ordinary, strange = listeners(300, seed=11), listeners(15, seed=12)
    strange[:, 0], strange[:, 1], strange[:, 2] = 6.0, -6.0, 6.0
    rows = [row.tolist() for row in [*ordinary, *strange]]
    return [
        send(songs, "recommend", [{"listener": [row]} for row in rows]),
        send(songs, "next_song", [{"listener": row} for row in rows[200:]]),
        send(songs, "recommend_many", [{"listener": rows[i : i + 3]} for i in range(0, 60, 3)]),
    ]


def send_digits(digits: BentoServer) -> list[Answered]:
    """Digits by many hands; digits askew, noisy, white on black; pictures of something else; and what is no image."""
    import numpy as np

    from services.digits import edge_cases
    from services.digits.train import held_out

    ordinary = held_out()[0][:150]
    odd = np.concatenate(list(edge_cases.every_kind(ordinary[:6]).values()))
    bodies: list[Any] = [{"images": [image.tolist()]} for image in [*ordinary, *odd]]
    bodies += [{"images": np.concatenate([ordinary[:5], odd[-1:]]).tolist()}]
    bodies += [{"images": [image.tolist()]} for image in (ordinary[0][:7], ordinary[0] * 17, ordinary[0].ravel())]
    batches = [{"images": ordinary[i : i + 3].tolist()} for i in range(0, 60, 3)]
    return [send(digits, "read", bodies), send(digits, "classify", batches)]


def send(to: BentoServer, api: str, bodies: Sequence[Any]) -> Answered:
    """POST each body and note who answered."""
    answered = Answered(api)
    for body in track(bodies, description=f"POST /{api:15}", console=console):
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310  # our own server
            f"{to.url}/{api}", content, {"Content-Type": "application/json"}
        )
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                status, headers, text = response.status, response.headers, response.read().decode()
        except urllib.error.HTTPError as error:
            status, headers, text = error.code, error.headers, error.read().decode()
        answered.add(status, headers, text, time.perf_counter() - began)
    return answered


def show_routes(everything: list[Answered]) -> None:
    """Who answered how many requests, and what each of them said."""
    table = Table(
        "API", "route", "reason", "requests", "p50 ms", title="\nWho answered", title_style="bold", box=SIMPLE
    )
    for answered in everything:
        for key, count in answered.routes.most_common():
            route, reason = shown(answered.api, *key)
            table.add_row(
                answered.api, route, reason, str(count), f"{statistics.median(answered.milliseconds[key]):.1f}"
            )
    console.print(table)
    console.print("[bold]What they said[/bold], for example")
    for answered in (one for one in everything if one.api in EXAMPLES):
        for key, body in answered.examples.items():
            console.print(f"  {shown(answered.api, *key)[0]:26} {escape(body[:49])}", overflow="crop", no_wrap=True)


def shown(api: str, route: str, reason: str) -> tuple[str, str]:
    """A route as the table names it: one call of a batchable method serves many clients, so it has no headers."""
    return ("batched", "") if api in BATCHED and route.startswith("BentoML 200") else (route, reason)


def show_stream(digits: BentoServer) -> None:
    """A digit as the stream tells of it, line by line."""
    from services.digits.train import held_out

    image = held_out()[0][2].tolist()
    body = json.dumps({"image": image}).encode()
    request = urllib.request.Request(  # noqa: S310  # our own server
        f"{digits.url}/narrate", body, {"Content-Type": "application/json"}
    )
    console.print("\n[bold]A stream[/bold]: what the next line makes of a digit")
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        for line in response:
            console.print(f"  {escape(line.decode().rstrip())}", highlight=False)


def show_traces(receiver: OtlpReceiver) -> None:
    """Three flagged requests as they came over OTLP, one for each way of being flagged."""
    traces = receiver.traces()
    console.print(
        "\n[bold]Traces[/bold]: head sampling is 0, so ordinary requests sent none; "
        f"{len(traces)} flagged ones came over OTLP."
    )
    chosen: dict[tuple[str, str], list[ReceivedSpan]] = {}
    for spans in traces.values():
        for span in spans:
            route = str(span.attributes.get("guardrails.route", ""))
            if route:
                chosen.setdefault((route.partition(":")[0], span.service), spans)
    for spans in list(chosen.values())[:3]:
        console.print(tree_of(spans))


def tree_of(spans: list[ReceivedSpan]) -> Tree:
    """A trace as a tree."""
    branches: dict[str, Tree] = {}
    root = Tree(f"[dim]trace {spans[0].trace_id}, service {spans[0].service}[/dim]")
    for span in sorted(spans, key=lambda span: (span.kind != SERVER_KIND, span.start_ns)):
        parent = branches.get(span.parent_id or "", root)
        branch = branches[span.span_id] = parent.add(f"[b]{span.name}[/b] {span.milliseconds:.2f} ms")
        for name in SHOWN:
            value = span.attributes.get(f"guardrails.{name}")
            if value is not None:
                branch.add(
                    f"guardrails.{name} = {value:.4g}" if isinstance(value, float) else f"guardrails.{name} = {value}"
                )
    return root


def show_decisions(*servers: BentoServer) -> None:
    """Where the records are, and what they say of the exploration."""
    console.print("\n[bold]Decisions[/bold]")
    for one in servers:
        for path in one.cwd.glob("*.db"):
            with contextlib.closing(sqlite3.connect(path)) as database:
                total = database.execute("select count(*) from decisions").fetchone()[0]
                drawn, differ, least = database.execute(
                    "select count(*), sum(action != greedy), min(propensity) from decisions where policy is not null"
                ).fetchone()
            line = f"{path.relative_to(ROOT)}: {total} records"
            if drawn:
                line += f"; {drawn} drawn, {differ} of them not the model's own choice, smallest propensity {least:g}"
            console.print(line)


def show_drift(songs: BentoServer, digits: BentoServer) -> None:
    """Listeners as ever, then listeners whose taste has moved: when the alarm comes, and what it says."""
    from services.songs.train import listeners

    (before,) = drift_of(songs)
    console.print(f"\n[bold]Drift[/bold] of songs so far: {before['rows']} sampled rows, {before['verdict']}")
    moved = listeners(1200, seed=13)
    moved[:, 3] += 0.8
    sent = 0
    for part in range(0, len(moved), 100):
        send(songs, "recommend", [{"listener": [row.tolist()]} for row in moved[part : part + 100]])
        sent += 100
        time.sleep(2.2)  # counts are weighed every two seconds
        (now,) = drift_of(songs)
        if now["alarms"]:
            break
    console.print(f"then {sent} listeners who like taste_3 more than those before (half of them sampled):")
    for alarm in now["alarms"]:
        console.print(f"  [bold]alarm[/bold]: {escape(alarm['sentence'])}", soft_wrap=True)
    if not now["alarms"]:
        console.print(f"  no alarm yet: {now['verdict']}")
    for stream in drift_of(digits):
        accuracy = (stream["consequence"] or {}).get("accuracy")
        if accuracy:
            console.print(f"digits, without labels: {escape(accuracy['sentence'])}", soft_wrap=True)
    report = FOLDER / "drift.html"
    report.write_text(render(songs.get("/guardrails/drift")), encoding="utf-8")
    console.print(f"all of it as a page: {report.relative_to(ROOT)} (what `guardrails drift report --url ...` writes)")


def drift_of(one: BentoServer) -> list[dict[str, Any]]:
    """What any worker says of all of them."""
    found: list[dict[str, Any]] = one.get("/guardrails/status")["drift"]
    return found


def how_to_go_on(tumor: BentoServer, backend: str | None, *, keep: bool) -> None:
    """What to try next."""
    case = '{"cases": [[' + ", ".join(["1.0"] * 30) + "]]}"
    console.print("\n[bold]How to go on[/bold]")
    if keep:
        console.print(f"curl -i {tumor.url}/diagnose -H 'Content-Type: application/json' -d '{case}'", soft_wrap=True)
        console.print(f"open {tumor.url}/guardrails/ (status), {tumor.url}/metrics, {tumor.url}/ (the API)")
        if backend:
            console.print(f"open {backend} (the traces)")
        console.print("Ctrl-C stops everything.")
        return
    console.print("make serve    the same, left running, with a curl line to try")
    console.print("make traces   the same, with the traces in a real backend (Arize Phoenix, installs 850 MB once)")
    console.print("make test     everything that is promised, checked")


@contextlib.contextmanager
def phoenix(executable: Path) -> Iterator[str]:
    """Arize Phoenix on 127.0.0.1; yields its address."""
    port, folder = free_port(), FOLDER / "phoenix"
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
    }
    url = f"http://127.0.0.1:{port}"
    with (folder / "phoenix.log").open("wb") as log:
        process = subprocess.Popen([executable, "serve"], env=environment, stdout=log, stderr=log)  # noqa: S603
    try:
        with console.status("starting Arize Phoenix ..."):
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/healthz", timeout=2).close()  # noqa: S310
                    break
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main()
