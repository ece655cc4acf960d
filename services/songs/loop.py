"""The closed loop, live: ``python -m services.songs.loop`` (``make demo-loop``). Ends by itself, writes to ``.demo/``.

Four services with the same listeners: with and without exploration, retrained with and without weights. Every list
comes from the decorated method of a service, is recorded in an SQLite store of its own, earns clicks as feedback by
position, is joined with them an (imagined) hour later, and trains the next model of the model store. In the end the log
is asked how strong the loop is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from guardrails import semconv
from guardrails.core.request import CURRENT, RequestState
from guardrails.decisions import DecisionLog, Reward, open_log
from guardrails.decisions.joined.logged import Logged
from guardrails.decisions.stores.store import DecisionStore
from guardrails.evaluation.loop import LoopReport, homogenisation, report
from guardrails.exploration import PoolInjection
from services.songs.audience import Audience, Ints
from services.songs.learners import Array
from services.songs.loop_page import render
from services.songs.recommender import EXPERIMENT, playlists
from services.songs.retrain import NAIVE, WEIGHTED, WINDOW, first, read, retrain, segments_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".demo" / "loop"


@dataclass(frozen=True)
class Size:
    """How large an audience, and how long.

    Attributes:
        songs, slots: of the catalogue, of a list.
        rounds: retrains, and one more for the first model.
        listeners: lists a round.
        call: listeners in one request.
        epsilon: the share of lists with an explored song, in arms that explore.
        seed: of the audience. Draws of the service are its own.
    """

    songs: int = 60
    slots: int = 5
    rounds: int = 25
    listeners: int = 2000
    call: int = 250
    epsilon: float = 0.2
    seed: int = 1


@dataclass(frozen=True)
class Arm:
    """One of the services that are compared."""

    key: str
    name: str
    explores: bool
    weighs: bool

    @property
    def learner(self) -> str:
        """What it is retrained with."""
        return WEIGHTED if self.weighs else NAIVE

    def policy(self, size: Size) -> PoolInjection:
        """How its lists are drawn."""
        if not self.explores:
            return PoolInjection(0.0, slots=size.slots)
        return PoolInjection(size.epsilon, slots=size.slots, boost=EXPERIMENT)


ARMS = (
    Arm("neither", "no exploration, no weights", explores=False, weighs=False),
    Arm("exploration", "exploration, no weights", explores=True, weighs=False),
    Arm("weights", "weights, no exploration", explores=False, weighs=True),
    Arm("both", "exploration and weights", explores=True, weighs=True),
)


@dataclass
class Rounds:
    """What the truth says of each round's model."""

    coverage: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    value_shown: list[float] = field(default_factory=list)
    alike: list[float] = field(default_factory=list)

    def note(self, audience: Audience, scores: Array, who: Ints, shown: Ints) -> None:
        """One round: the model's own lists, and those that were shown."""
        own = np.argsort(-scores, axis=1, kind="stable")[:, : shown.shape[1]]
        self.coverage.append(len(np.unique(own)) / scores.shape[1])
        self.value.append(audience.value(own))
        self.value_shown.append(audience.value_shown(who, shown))
        self.alike.append(homogenisation(own))


@dataclass(frozen=True)
class Track:
    """What became of one arm.

    Attributes:
        arm: which.
        rounds: figures by round.
        report: what its log says in the end.
        clicks: how many there were.
        seconds: how long it took.
    """

    arm: Arm
    rounds: Rounds
    report: LoopReport
    clicks: int
    seconds: float


def run(arm: Arm, size: Size, folder: Path) -> Track:
    """One arm from its first model to the report of its log.

    Args:
        arm: which.
        size: how large.
        folder: where its store of decisions goes.
    """
    begun, start = time.perf_counter(), time.time()
    audience = Audience.make(size.seed, songs=size.songs, slots=size.slots)
    rng = np.random.default_rng([size.seed, 5])
    url, name = f"sqlite:///{folder / f'{arm.key}.db'}", f"playlists-{arm.key}"
    model, rounds, clicks = first(audience, arm.learner, size.listeners, size.seed), Rounds(), 0
    for _ in range(size.rounds + 1):
        model.save(name)
        who, since = rng.integers(0, len(audience.chances), size.listeners), time.time()
        shown, clicked = serve(playlists(arm.policy(size), url, name).inner(), audience, who, url, size.call, rng)
        rounds.note(audience, model.scores, who, shown)
        clicks += clicked
        until = time.time()
        model = retrain(model, logged(url, since, until), arm.learner, until)
    everything = logged(url, start, time.time())
    tail = np.argsort(-audience.popularity)[size.songs // 5 :].tolist()
    said = report(
        everything, items=range(size.songs), tail=tail, segments=segments_of(everything), adds_up=not arm.weighs
    )
    return Track(arm, rounds, said, clicks, time.perf_counter() - begun)


def logged(url: str, since: float, until: float) -> Logged:
    """What was decided between two moments and became of it, as if the hour for it were over."""
    store = DecisionStore(url)
    try:
        return read(store, since, until, now=until + WINDOW)
    finally:
        store.close()


def serve(
    service: Any, audience: Audience, who: Ints, url: str, call: int, rng: np.random.Generator
) -> tuple[Ints, int]:
    """A round of listeners, some in each request: the lists they are shown, and how often they click."""
    log, shown, clicks = open_log(url), [], 0  # the log that the service writes to
    for listeners in np.split(who, range(call, len(who), call)):
        lists, decision_id = ask(service, listeners, len(audience.examination))
        clicked = audience.clicks(listeners, lists, rng)
        give_feedback(log, decision_id, clicked)
        shown.append(lists)
        clicks += int(clicked.sum())
    if not log.flush(60.0):
        raise RuntimeError(f"{url} did not take {log.waiting} records within a minute: {log.last_error}")
    return np.concatenate(shown), clicks


def ask(service: Any, listeners: Ints, slots: int) -> tuple[Ints, str]:
    """Call the service as a server does: the lists shown, ``(n, k)``, and the id that the response's header has."""
    request = RequestState()
    token = CURRENT.set(request)
    try:
        scores = service.playlist(listeners[:, None].astype(np.float64))
    finally:
        CURRENT.reset(token)
    lists: Ints = np.argsort(-scores, axis=1, kind="stable")[:, :slots]
    return lists, request.headers[semconv.HEADER_DECISION_ID]


def give_feedback(log: DecisionLog, decision_id: str, clicked: npt.NDArray[np.bool_]) -> None:
    """One reward for each click, by row and position, as ``POST /guardrails/feedback`` would write it."""
    now = time.time()
    for row, slot in np.argwhere(clicked).tolist():
        log(Reward(f"{decision_id}/{row}", now, reward=1.0, slot=slot, feedback_id=f"click {slot}"))


def run_all(size: Size, console: Console) -> list[Track]:
    """All arms, two at a time, each in a process of its own."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "store").mkdir(parents=True)
    os.environ.update(BENTOML_HOME=str(FOLDER / "store"), BENTOML_DO_NOT_TRACK="true")
    lists, where = size.listeners * (size.rounds + 1), FOLDER.relative_to(ROOT)
    console.print(f"{len(ARMS)} services, {size.rounds} retrains each, {lists:,} lists each, recorded in {where}/")
    tracks: dict[Arm, Track] = {}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, arm, size, FOLDER) for arm in ARMS]):
            track = done.result()
            tracks[track.arm] = track
            console.print(f"  {track.arm.name}: {track.clicks:,} clicks, {track.seconds:.0f} s")
    return [tracks[arm] for arm in ARMS]


def show(tracks: Sequence[Track], size: Size, console: Console) -> None:
    """The table: what the truth says of each arm, and what its own log says of the loop."""
    table = Table(title=f"After {size.rounds} retrains", title_justify="left", box=SIMPLE)
    for column in ("", "greedy value", "coverage greedy", "shown", "Gini greedy", "shown", "segments alike", "clicks"):
        table.add_column(column, justify="left" if not column else "right")
    for track in tracks:
        own, served, rounds = track.report.greedy, track.report.shown, track.rounds
        table.add_row(
            track.arm.name, f"{rounds.value[0]:.2f} -> {rounds.value[-1]:.2f}", f"{rounds.coverage[-1]:.2f}",
            f"{served.coverage:.2f}", f"{own.gini:.2f}", f"{served.gini:.2f}", f"{rounds.alike[-1]:.2f}",
            f"{track.clicks:,}",
        )  # fmt: skip
    console.print(table)
    console.print("[bold]Loop gain[/bold], from the log alone (1: the loop is closed, 0: it is not)")
    for track in tracks:
        said = track.report.no_gain if track.report.gain is None else str(track.report.gain)
        console.print(f"  {track.arm.name:26} {said}", highlight=False)


def main() -> None:
    """Run, show, write the page."""
    parser = argparse.ArgumentParser(prog="python -m services.songs.loop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=Size.rounds, help="retrains (%(default)s)")
    parser.add_argument("--listeners", type=int, default=Size.listeners, help="lists a round (%(default)s)")
    parser.add_argument("--seed", type=int, default=Size.seed, help="another audience (%(default)s)")
    options = parser.parse_args()
    size = Size(rounds=options.rounds, listeners=options.listeners, seed=options.seed)
    console = Console(width=120)
    begun = time.perf_counter()
    console.rule("[bold]guardrails: a recommender that retrains from its own log")
    tracks = run_all(size, console)
    show(tracks, size, console)
    page = FOLDER / "loop.html"
    page.write_text(render(tracks, size), encoding="utf-8")
    console.print(f"\nthe rounds as a page: {page.relative_to(ROOT)}\n{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
