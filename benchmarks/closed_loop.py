"""Does exploration weaken the loop? ``python -m benchmarks.closed_loop [--quick] [--seeds N]``.

Recommend, collect clicks, retrain on all that was logged, recommend again: four segments, a hundred songs, lists of
five, looked at from the top down. The first log is of lists drawn by a popularity that has nothing to do with what
anybody likes. Exploration is the library's `PoolInjection`, exposures come from its exact marginals, and each learner
is one of `services.songs.learners`. A figure is the mean over seeds, with its 95 % interval (Student's t); worlds and
listeners are the same for all arms of a seed, so gains are paired.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.measure import conditions
from guardrails.evaluation.loop import LoopGain, coverage, gini, homogenisation, loop_gain, tail_share
from guardrails.exploration.rankings import Boost, PoolInjection
from services.songs.audience import SONGS, Audience
from services.songs.learners import LEARNERS, Sums

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LAST = 5
"""A value "at the end" is the mean of the last so many rounds."""
HEAD = 0.2
"""The tail is all but the fifth of the songs that history showed most."""


@dataclass(frozen=True)
class Arm:
    """One way of running the loop.

    Attributes:
        learner: of `LEARNERS`.
        epsilon: the share of lists with one explored song.
        boost: how many times more often the boosted half of the pool is explored.
        wrong: the exposures handed to the learner are those of no policy: all alike.
        replaced: songs a round that give way to new ones.
        rounds, listeners: how long, and how many lists a round.
    """

    learner: str = "count"
    epsilon: float = 0.0
    boost: float = 1.0
    wrong: bool = False
    replaced: int = 0
    rounds: int = 40
    listeners: int = 4000

    @property
    def name(self) -> str:
        """As the table has it."""
        new = f", {self.replaced} new song a round" if self.replaced else ""
        return self.learner + (" (wrong exposures)" if self.wrong else "") + new

    def policy(self, slots: int, seed: int) -> PoolInjection:
        """The library's policy; another half is boosted for each seed."""
        boost = None if self.boost == 1.0 else Boost(self.boost, salt=f"closed loop {seed}")
        return PoolInjection(self.epsilon, slots=slots, boost=boost)


@dataclass(eq=False)
class Run:
    """What was measured: one number per round (never of round 0, the history), and the state at both ends."""

    rounds: dict[str, list[float]] = field(default_factory=dict)
    boosted: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    among: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    before: Array = field(default_factory=lambda: np.zeros(0))
    scores: Array = field(default_factory=lambda: np.zeros(0))

    def note(self, **measured: float) -> None:
        """One round's numbers."""
        for name, value in measured.items():
            self.rounds.setdefault(name, []).append(value)

    def end(self, name: str) -> float:
        """The mean of the last rounds."""
        return float(np.mean(self.rounds[name][-LAST:]))


def run(arm: Arm, seed: int) -> Run:
    """One world from its history to the last round."""
    audience, rng = Audience.make(seed), np.random.default_rng([seed, 1])
    news = np.random.default_rng([seed, 3])
    segments, songs = audience.chances.shape
    look = audience.examination
    policy, learn = arm.policy(len(look), seed), LEARNERS[arm.learner]
    tail = np.argsort(-audience.popularity)[int(HEAD * songs) :]
    sums, result = Sums.empty(segments, songs), Run()
    who, lists = audience.history(arm.listeners, rng)
    exposure = np.tile(audience.history_exposure(), (segments, 1))
    for number in range(arm.rounds + 1):
        if number:
            if arm.replaced:
                audience = audience.with_new_songs(gone := news.choice(songs, arm.replaced, replace=False), news)
                sums.forget(gone)
            scores = learn(sums)
            who = rng.integers(0, segments, arm.listeners)
            greedy, lists, exposure = recommend(policy, scores, who, look, rng)
            if number == 1:
                result.among = np.isin(np.arange(songs), np.setdiff1d(tail, greedy))
                result.before = sums.clicks.mean(axis=0)
            result.note(**measure(audience, who, greedy, lists, tail))
        believed = np.full_like(exposure, look.mean()) if arm.wrong else exposure
        clicked = audience.clicks(who, lists, rng)
        sums.add(who, lists, clicked, believed[who[:, None], lists], look, believed)
    # Counts add up, and what history put there is no effect of the boost.
    adds_up = arm.learner == "count" or arm.wrong
    result.scores = learn(sums).mean(axis=0) if not adds_up else sums.clicks.mean(axis=0) - result.before
    result.boosted = np.zeros(songs, bool) if policy.boost is None else policy.boost.boosted(np.arange(songs))
    return result


def recommend(
    policy: PoolInjection, scores: Array, who: Ints, look: Array, rng: np.random.Generator
) -> tuple[Ints, Ints, Array]:
    """Lists for many listeners at once, drawn from the policy's marginals: at most one place of a list differs.

    Returns:
        The model's own lists ``(G, k)``, those served ``(n, k)``, and every song's exposure by segment ``(G, I)``.
    """
    slots, songs = len(look), scores.shape[1]
    marginals = policy.pmf(scores)  # (G, k, I)
    greedy = np.argsort(-scores, axis=1, kind="stable")[:, :slots]
    lists = greedy[who]
    injected = marginals.copy()
    np.put_along_axis(injected, np.repeat(greedy[:, None, :], slots, axis=1), 0.0, axis=2)
    cumulative = injected.reshape(len(scores), slots * songs).cumsum(axis=1)
    uniforms = rng.random(len(who))
    for segment, line in enumerate(cumulative):
        rows = np.flatnonzero((who == segment) & (uniforms < line[-1]))
        slot, song = np.divmod(np.searchsorted(line, uniforms[rows], side="right"), songs)
        lists[rows, slot] = song
    return greedy, lists, np.einsum("k,gki->gi", look, marginals)


def measure(audience: Audience, who: Ints, greedy: Ints, lists: Ints, tail: Ints) -> dict[str, float]:
    """Everything the table shows of one round, for the model's own lists and for those shown."""
    songs = audience.chances.shape[1]
    own, shown = (np.bincount(some.ravel(), minlength=songs) for some in (greedy[who], lists))
    return {
        "greedy_coverage": coverage(own),
        "shown_coverage": coverage(shown),
        "explored_coverage": coverage(np.bincount(lists[lists != greedy[who]], minlength=songs)),
        "greedy_gini": gini(own),
        "shown_gini": gini(shown),
        "greedy_tail": tail_share(own, tail),
        "greedy_value": audience.value(greedy),
        "shown_value": audience.value_shown(who, lists),
        "jaccard": homogenisation(greedy),
    }


def runs(arm: Arm, seeds: int) -> list[Run]:
    """The same arm in many worlds."""
    return [run(arm, seed) for seed in range(seeds)]


def gain_of(results: Sequence[Run], factor: float) -> LoopGain:
    """Lambda over all worlds."""
    stacked = {name: np.stack([getattr(one, name) for one in results]) for name in ("scores", "boosted", "among")}
    return loop_gain(stacked["scores"], stacked["boosted"], factor, among=stacked["among"])


def interval(values: npt.ArrayLike) -> tuple[float, float]:
    """A mean over seeds, and half of its 95 % interval (Student's t)."""
    from scipy.stats import t

    of = np.asarray(values, dtype=np.float64)
    return float(of.mean()), float(t.ppf(0.975, len(of) - 1) * of.std(ddof=1) / np.sqrt(len(of)))


def said(values: npt.ArrayLike, digits: int = 3) -> str:
    """A mean and its interval as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f}±{half:.{digits}f}"


COLUMNS = {
    "shown coverage": "shown_coverage",
    "greedy coverage": "greedy_coverage",
    "Gini shown": "shown_gini",
    "Gini greedy": "greedy_gini",
    "tail share greedy": "greedy_tail",
    "value greedy": "greedy_value",
    "value shown": "shown_value",
    "Jaccard": "jaccard",
}


def show(console: Console, arms: Sequence[Arm], seeds: int) -> dict[Arm, list[Run]]:
    """The table: one line per arm."""
    results = {arm: runs(arm, seeds) for arm in arms}
    table = titled(f"The last {LAST} rounds, {seeds} seeds", "learner", "epsilon", *COLUMNS, "cumulative")
    for arm, done in results.items():
        cells = []
        for column, name in COLUMNS.items():
            ends = [one.end(name) for one in done]
            cells.append(said(ends) if column.startswith("value") else f"{np.mean(ends):.3f}")
        table.add_row(arm.name, f"{arm.epsilon:g}", *cells, said([np.mean(one.rounds["shown_value"]) for one in done]))
    console.print(table)
    return results


def show_gains(console: Console, results: dict[Arm, list[Run]]) -> None:
    """What each arm gains over the first one without exploration in the same worlds, seed by seed."""
    table = titled("Paired, seed by seed", "learner", "epsilon", "against", "greedy value gained", "least")
    bases: dict[int, Arm] = {}
    for arm, done in results.items():
        base = bases.setdefault(arm.replaced, arm)
        if arm != base:
            gained = gains(done, results[base])
            mean, half = interval(gained)
            against = f"{base.learner}, {base.epsilon:g}"
            table.add_row(arm.name, f"{arm.epsilon:g}", against, f"{mean:+.3f}±{half:.3f}", f"{gained.min():+.3f}")
    console.print(table)


def gains(done: Sequence[Run], base: Sequence[Run]) -> Array:
    """By how much the greedy value at the end is higher, seed by seed."""
    return np.array(
        [one.end("greedy_value") - other.end("greedy_value") for one, other in zip(done, base, strict=True)]
    )


def show_lambda(console: Console, arms: Sequence[Arm], seeds: int) -> None:
    """Loop gain of learners whose pool was boosted."""
    table = titled("Loop gain", "learner", "epsilon", "boost", "lambda", "95 %", "items")
    for arm in arms:
        gain = gain_of(runs(arm, seeds), arm.boost)
        ends = f"[{gain.low:+.2f}, {gain.high:+.2f}]"
        table.add_row(arm.name, f"{arm.epsilon:g}", f"{arm.boost:g}", f"{gain.value:+.3f}", ends, f"{gain.items}")
    console.print(table)


def titled(title: str, *columns: str) -> Table:
    """An empty table."""
    return Table(*columns, title=title, title_justify="left")


FULL = [
    *(Arm("count", epsilon) for epsilon in (0.0, 0.05, 0.1)),
    *(Arm("count + IPS", epsilon) for epsilon in (0.05, 0.1)),
    *(Arm("SNIPS", epsilon) for epsilon in (0.0, 0.02, 0.05, 0.1, 0.2)),
    *(Arm("balanced", epsilon) for epsilon in (0.0, 0.05, 0.1)),
    *(Arm("rate", epsilon, replaced=1) for epsilon in (0.0, 0.02, 0.05, 0.1)),
    Arm("count + IPS", 0.1, wrong=True),
]
QUICK = [Arm("count"), Arm("count", 0.1), Arm("count + IPS", 0.1), Arm("count + IPS", 0.1, wrong=True)]
BOOSTED = [
    Arm("count", 0.1, boost=3.0),
    Arm("count + IPS", 0.1, boost=3.0),
    Arm("SNIPS", 0.1, boost=3.0),
    Arm("balanced", 0.1, boost=3.0),
    Arm("count + IPS", 0.1, boost=3.0, wrong=True),
]


def small(arm: Arm) -> Arm:
    """The size of a test."""
    return replace(arm, rounds=25, listeners=2000)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="25 rounds of 2,000 listeners, eight seeds, four arms")
    parser.add_argument("--seeds", type=int, default=None, help="worlds (20; quick: 8)")
    options = parser.parse_args()
    seeds = options.seeds or (8 if options.quick else 20)
    arms = [small(arm) for arm in QUICK] if options.quick else FULL
    boosted = [small(arm) for arm in BOOSTED if arm.learner.startswith("count")] if options.quick else BOOSTED
    console, begun = Console(width=180), time.perf_counter()
    console.print(conditions())
    results = show(console, arms, seeds)
    show_gains(console, results)
    show_lambda(console, boosted, seeds)
    ideal = [Audience.make(seed).ideal for seed in range(seeds)]
    covered = np.mean([len(np.unique(best)) / SONGS for best in ideal])
    alike = np.mean([homogenisation(best) for best in ideal])
    console.print(f"The best lists cover {covered:.3f} of the songs, with a Jaccard index of {alike:.2f}.")
    console.print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
