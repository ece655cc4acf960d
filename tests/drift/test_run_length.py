"""What the sequential detector promises, by simulation: how rarely it errs, and how soon it finds what has changed.

Every stream has a reference of its own: a promise that holds for lucky references only is none. Where rows are
independent, counts are drawn from the true shares of the bins, which is the same and much faster; streams whose rows
resemble each other go through Monitor, row by row. With ``-s`` the measured figures are printed.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.special import ndtr

import guardrails as gr
from guardrails.drift import Monitor
from guardrails.drift.sequential import SequentialDetector
from guardrails.drift.watch import Watch
from guardrails.errors import ProfileError
from guardrails.profile.bins import Bins
from guardrails.profile.serial import Neighbours
from guardrails.profile.watched import table

LEVELS = (0.5, 0.25, 0.15, 0.08, 0.015, 0.005)
"""Shares of a category's levels; the last one a reference of 1,000 rows has seen about five times."""
TICK = 50
BLOCK = 100
"""Ticks drawn at once."""
PUBLISHED = {  # mean delays: (reference rows, rows a tick): of shifts by .25, .5 and 1 standard deviation
    (1000, 50): {0.25: 573, 0.5: 152, 1.0: 64},
    (1000, 1): {0.25: 509, 0.5: 112, 1.0: 31},
    (10_000, 50): {0.25: 453, 0.5: 143, 1.0: 66},
}
"""A prototype's, 10 bins (16 row by row), ten columns, run length 1e5, in the same simulation of 200 streams."""
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "drift" / "elec2.csv.gz"
CHANGE, DAY = 17424, 48
"""The first row after the market was joined with Victoria's; half hours of a day."""
MARKET = ["nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]


@dataclass(frozen=True)
class World:
    """Where rows come from: standard normal numbers, then categories. What drifts is the first column of its kind."""

    numbers: int = 10
    categories: int = 0
    shift: float = 0.0
    missing: float = 0.0
    new: float = 0.0

    @property
    def kinds(self):
        return [False] * self.numbers + [True] * self.categories

    @property
    def names(self):
        return [f"x{column}" for column in range(len(self.kinds))]

    def rows(self, rng, n, rho=0.0):
        """Rows (n, columns); each number is an AR(1) process."""
        X = np.concatenate([ar1(rng, n, self.numbers, rho), rng.choice(len(LEVELS), (n, self.categories), p=LEVELS)], 1)
        if self.numbers:
            X[:, 0] += self.shift
            X[rng.random(n) < self.missing, 0] = np.nan
        return X

    def shares(self, bins):
        """The true share of each bin of a reference, shape (columns, bins)."""
        found = np.zeros(bins.counts.shape)
        for column, category in enumerate(self.kinds):
            if category:
                self._levels(bins.edges[column], found[column], self.new if column == self.numbers else 0.0)
            else:
                first = column == 0
                below = np.concatenate([[0.0], ndtr(bins.edges[column] - self.shift * first), [1.0]])
                missing = self.missing * first
                found[column, :-2], found[column, -1] = np.diff(below) * (1.0 - missing), missing
        return found

    @staticmethod
    def _levels(known, found, new):
        for level, share in enumerate(LEVELS):
            at = np.flatnonzero(known == level)
            found[at[0] if len(at) else -2] += share * (1.0 - new)
        found[-2] += new


def ar1(rng, n, columns, rho):
    """Stationary standard normal AR(1) columns, shape (n, columns)."""
    if not rho:
        return rng.normal(size=(n, columns))
    start = rng.normal(size=(1, columns))
    noise = math.sqrt(1.0 - rho**2) * rng.normal(size=(n, columns))
    return lfilter([1.0], [1.0, -rho], noise, axis=0, zi=rho * start)[0]


class Run(NamedTuple):
    """How often it erred."""

    rows: int
    alarms: int

    @property
    def mean(self):
        """Rows between two false alarms."""
        return self.rows / max(self.alarms, 1)

    def keeps(self, asked, what):
        """Whether false alarms are no more frequent than asked; prints the figure with its Poisson error."""
        error = self.mean / math.sqrt(max(self.alarms, 1))
        least = "at least " if not self.alarms else ""
        print(f"\n  {what}: {least}{self.mean:,.0f} +- {error:,.0f} rows ({self.alarms} alarms), asked {asked:,.0f}")
        return self.mean >= asked


class Found(NamedTuple):
    """How soon a change was found, and whether the right column was named first; one entry per stream."""

    delays: np.ndarray
    right: np.ndarray

    @property
    def mean(self):
        return float(self.delays.mean())

    @property
    def error(self):
        """Of the mean, one standard error."""
        return float(self.delays.std(ddof=1) / math.sqrt(len(self.delays)))

    def within(self, most, what, errors=2.0):
        """Whether it is no slower, up to two standard errors of a difference of two such simulations; prints."""
        mean = f"{self.mean:.0f} +- {self.error:.0f} rows (median {np.median(self.delays):.0f}, limit {most:.0f})"
        print(f"\n  {what}: {mean}, right {self.right.mean():.3f}")
        return self.mean <= most + errors * math.sqrt(2.0) * self.error


def counts_of(rng, shares, ticks, size):
    """Counts of ticks of independent rows, shape (ticks, columns, bins)."""
    return rng.multinomial(size, shares, size=(ticks, len(shares)))


def alarms_over_counts(world, run_length, n_ref, streams, rows, seed, size=TICK):
    """False alarms of the detector alone, told counts."""
    alarms = 0
    for stream in range(streams):
        rng = np.random.default_rng([seed, stream])
        bins = Bins.fit(world.names, world.rows(rng, n_ref), world.kinds)
        detector, shares = SequentialDetector(bins, run_length), world.shares(bins)
        for _ in range(rows // (size * BLOCK)):
            for counts in counts_of(rng, shares, BLOCK, size):
                if detector.update(counts, size).total >= detector.due:
                    alarms += 1
                    detector.reset()
    return Run(streams * (rows // (size * BLOCK)) * size * BLOCK, alarms)


def profile_of(world, rng, n_ref):
    """A profile with an outlier flag beside the columns; half of the rows calibrate it, so that it is judged, too."""
    return gr.Profile.fit(
        world.rows(rng, n_ref),
        feature_names=world.names,
        categorical=world.names[world.numbers :],
        detector="mahalanobis",
        alpha=0.02,
        calibration=0.5,
    )


def alarms_of_monitors(world, run_length, n_ref, streams, rows, seed, rho=0.0):
    """False alarms of Monitor, told rows."""
    alarms = 0
    for stream in range(streams):
        rng = np.random.default_rng([seed, stream])
        monitor = Monitor(profile_of(world, rng, n_ref), run_length)
        assert monitor.unjudged == ()
        for tick in np.split(world.rows(rng, rows, rho), rows // TICK):
            alarms += monitor.update(tick) is not None
    return Run(streams * rows, alarms)


def found_over_counts(before, after, n_ref, streams, seed, size=TICK, run_length=1e5):
    """Delays of the detector alone; the change comes anywhere within a tick."""
    delays, right = [], []
    changed = after.numbers if after.new else 0
    for stream in range(streams):
        rng = np.random.default_rng([seed, stream])
        bins = Bins.fit(before.names, before.rows(rng, n_ref), before.kinds)
        detector, change = SequentialDetector(bins, run_length), int(rng.integers(2000, 4000))
        old, new = before.shares(bins), after.shares(bins)
        for counts in counts_of(rng, old, change // size, size):
            if detector.update(counts, size).total >= detector.due:
                detector.reset()
        passed = change % size
        mixed = rng.multinomial(passed, old) + rng.multinomial(size - passed, new)
        evidence, ticks = detector.update(mixed, size), 1
        while evidence.total < detector.due:
            evidence, ticks = detector.update(rng.multinomial(size, new), size), ticks + 1
        delays.append(ticks * size - passed)
        right.append(detector.judged[int(np.argmax(evidence.columns))] == changed)
    return Found(np.array(delays), np.array(right))


def found_by_monitors(before, after, n_ref, streams, seed, run_length=1e5):
    """Delays of Monitor."""
    delays, right = [], []
    for stream in range(streams):
        rng = np.random.default_rng([seed, stream])
        monitor, change = Monitor(profile_of(before, rng, n_ref), run_length), int(rng.integers(2000, 4000))
        rows = np.concatenate([before.rows(rng, change), after.rows(rng, 6000 - change)])
        for end in range(TICK, len(rows) + 1, TICK):
            alarm = monitor.update(rows[end - TICK : end])
            if alarm is not None and end > change:
                delays.append(end - change)
                right.append(alarm.features[0] == "x0")
                break
    assert len(delays) == streams
    return Found(np.array(delays), np.array(right))


# What every commit is held to


def test_false_alarms_are_as_rare_as_asked():
    """200 streams of independent rows, each with 1,000 reference rows of its own."""
    run = alarms_over_counts(World(), 1e4, 1000, 200, 10_000, seed=1)
    assert run.keeps(1e4, "independent, 1,000 reference rows")


def test_false_alarms_are_as_rare_as_asked_where_rows_resemble_each_other():
    """AR(1), rho .6: taken for independent, such rows raise one alarm after the other (here: every 200 rows or so)."""
    run = alarms_of_monitors(World(), 1e4, 1000, 40, 10_000, seed=2, rho=0.6)
    assert run.keeps(1e4, "AR(1) .6, 1,000 reference rows")


def test_rows_that_resemble_each_other_would_otherwise_flood_with_alarms():
    """The same streams, weighed as if they were independent: the simulation is hard enough to fail."""
    alarms, rows = 0, 0
    for stream in range(10):
        rng = np.random.default_rng([2, stream])
        bins = Bins.fit(World().names, World().rows(rng, 1000), World().kinds)
        detector = SequentialDetector(bins, 1e4)
        for tick in np.split(World().rows(rng, 10_000, 0.6), 200):
            rows += len(tick)
            if detector.update(bins.count(tick), len(tick)).total >= detector.due:
                alarms += 1
                detector.reset()
    print(f"\n  AR(1) .6, not weighed down: every {rows / alarms:,.0f} rows")
    assert rows / alarms < 2000


def test_half_a_standard_deviation_is_found_as_soon_as_promised():
    """Through Monitor, in one of ten columns, and that column is named first."""
    found = found_by_monitors(World(), World(shift=0.5), 1000, 60, seed=3)
    assert found.within(PUBLISHED[1000, 50][0.5], "0.5 sd, Monitor, 1,000 reference rows")
    assert found.right.mean() >= 0.95


# The whole grid


@pytest.mark.full
@pytest.mark.parametrize("n_ref", [1000, 10_000])
@pytest.mark.parametrize("run_length", [1e4, 1e5])
def test_the_run_length_is_kept_with_independent_rows(run_length, n_ref):
    """200 streams, twice as long as the run length: about 400 alarms are allowed."""
    run = alarms_over_counts(World(), run_length, n_ref, 200, int(2 * run_length), seed=11)
    assert run.keeps(run_length, f"independent, {n_ref:,} reference rows")


@pytest.mark.full
def test_the_run_length_is_kept_row_by_row():
    """An alarm may come after any row, not only after fifty."""
    run = alarms_over_counts(World(), 1e4, 1000, 200, 10_000, seed=12, size=1)
    assert run.keeps(1e4, "independent, 1,000 reference rows, row by row")


@pytest.mark.full
@pytest.mark.parametrize("n_ref", [1000, 10_000])
def test_the_run_length_is_kept_by_monitors(n_ref):
    """What is true of counts is true of rows: 200 monitors, each with an outlier flag of its own."""
    run = alarms_of_monitors(World(), 1e4, n_ref, 200, 10_000, seed=13)
    assert run.keeps(1e4, f"independent, Monitor, {n_ref:,} reference rows")


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rho", [0.3, 0.6])
@pytest.mark.parametrize("n_ref", [1000, 10_000])
@pytest.mark.parametrize(("run_length", "rows"), [(1e4, 20_000), (1e5, 60_000)])
def test_the_run_length_is_kept_where_rows_resemble_each_other(run_length, rows, n_ref, rho):
    """200 AR(1) streams against independent reference rows."""
    run = alarms_of_monitors(World(), run_length, n_ref, 200, rows, seed=14, rho=rho)
    assert run.keeps(run_length, f"AR(1) {rho}, {n_ref:,} reference rows")


@pytest.mark.full
@pytest.mark.parametrize("run_length", [1e4, 1e5])
def test_the_run_length_is_kept_with_100_columns(run_length):
    """More columns are more chances to err: the promise is for all of them together."""
    run = alarms_over_counts(World(numbers=100), run_length, 1000, 200, int(run_length), seed=15)
    assert run.keeps(run_length, "100 columns, 1,000 reference rows")


@pytest.mark.full
@pytest.mark.parametrize("n_ref", [1000, 10_000])
@pytest.mark.parametrize("run_length", [1e4, 1e5])
def test_the_run_length_is_kept_with_categories(run_length, n_ref):
    """Ten categories with rare levels, one of which a reference may have missed."""
    run = alarms_over_counts(World(0, 10), run_length, n_ref, 200, int(2 * run_length), seed=16)
    assert run.keeps(run_length, f"10 categories, {n_ref:,} reference rows")


@pytest.mark.full
@pytest.mark.parametrize("missing", [0.0005, 0.01])
def test_the_run_length_is_kept_where_values_are_missing(missing):
    """Now and then a value is missing: of 1,000 reference rows perhaps none."""
    run = alarms_over_counts(World(missing=missing), 1e4, 1000, 200, 20_000, seed=17)
    assert run.keeps(1e4, f"missing {missing:.2%}, 1,000 reference rows")


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_the_run_length_is_kept_by_four_workers(rho):
    """One AR(1) stream dealt out at random: each worker sees little of the dependence, all together see all of it."""
    run = alarms_of_four(World(), 1e4, 1000, 200, 20_000, seed=18, rho=rho)
    assert run.keeps(1e4, f"AR(1) {rho} among 4 workers, 1,000 reference rows")


def alarms_of_four(world, run_length, n_ref, streams, rows, seed, rho, workers=4):
    """False alarms of a Watch that is told the summed counts and neighbours of workers."""
    alarms = 0
    for stream in range(streams):
        rng = np.random.default_rng([seed, stream])
        profile = profile_of(world, rng, n_ref)
        bins, neighbours, watch = profile.bins, Neighbours(profile.bins), Watch(profile, run_length)
        X = world.rows(rng, rows, rho)
        codes = bins.codes(*table(bins.names, X, None, profile.outliers.is_outlier(X)))
        owner, before = rng.integers(workers, size=rows), [None] * workers
        for begin in range(0, rows, TICK):
            tick, distances, pairs = codes[begin : begin + TICK], 0.0, 0.0
            for worker in range(workers):
                own = tick[owner[begin : begin + TICK] == worker]
                if len(own):
                    apart, how_many = neighbours.distances(own, before[worker])
                    before[worker] = own[-1]
                    distances, pairs = distances + apart, pairs + how_many
            alarms += watch.tick(bins.tally(tick), distances, pairs, TICK, workers) is not None
    return Run(streams * rows, alarms)


@pytest.mark.full
@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(("n_ref", "size"), PUBLISHED)
def test_shifts_are_found_as_soon_as_promised(n_ref, size, shift):
    """200 streams, the change anywhere in rows 2,000 to 4,000."""
    found = found_over_counts(World(), World(shift=shift), n_ref, 200, seed=21, size=size)
    assert found.within(PUBLISHED[n_ref, size][shift], f"{shift} sd, {n_ref:,} reference rows, ticks of {size}")
    assert found.right.mean() >= 0.95


@pytest.mark.full
@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_shifts_are_found_as_soon_by_monitors(shift):
    """With everything around it: an outlier flag, and an estimate of the dependence that is not quite 0."""
    found = found_by_monitors(World(), World(shift=shift), 1000, 200, seed=22)
    assert found.within(PUBLISHED[1000, 50][shift], f"{shift} sd, Monitor, 1,000 reference rows")
    assert found.right.mean() >= 0.95


@pytest.mark.full
@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_ten_times_as_many_columns_cost_little(shift):
    """A logarithm: 100 columns delay by no more than a half."""
    ten = found_over_counts(World(), World(shift=shift), 1000, 200, seed=23)
    hundred = found_over_counts(World(100), World(100, shift=shift), 1000, 200, seed=23)
    assert hundred.within(1.5 * ten.mean, f"{shift} sd in 1 of 100 columns (in 1 of 10: {ten.mean:.0f})")
    assert hundred.right.mean() >= 0.95


@pytest.mark.full
@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_a_new_level_is_found(share):
    """Not much later than whoever knew it would have to wait: Lorden's bound for a share that training never saw."""
    found = found_over_counts(World(0, 10), World(0, 10, new=share), 1000, 200, seed=24)
    assert found.within(3 * bound(share, 1 / 1000) + TICK, f"a new level of {share:.0%}")
    assert found.right.mean() >= 0.95


@pytest.mark.full
@pytest.mark.parametrize("usual", [0.0, 0.01])
def test_values_going_missing_are_found(usual):
    """Five per cent more than usual."""
    found = found_over_counts(World(missing=usual), World(missing=usual + 0.05), 1000, 200, seed=25)
    most = 3 * bound(usual + 0.05, max(usual, 1 / 1000)) + TICK
    assert found.within(most, f"missing {usual:.0%}, then {usual + 0.05:.0%}")
    assert found.right.mean() >= 0.95


def bound(now, before, run_length=1e5):
    """Rows nobody can do without: log(run length) / (Kullback and Leibler's divergence of the two shares)."""
    divergence = now * math.log(now / before) + (1 - now) * math.log((1 - now) / (1 - before))
    return math.log(run_length) / divergence


# The electricity market: half-hourly, rows much like the ones before them, and one change that is known


@pytest.fixture(scope="module")
def market():
    """Its five numbers in order of time; skips where it is not there."""
    pandas = pytest.importorskip("pandas")
    if not DATA.is_file():
        pytest.skip(f"the drift data is not at {DATA}")
    return pandas.read_csv(DATA)[MARKET].to_numpy()


def market_profile(rows):
    return gr.Profile.fit(rows, feature_names=MARKET, detector="mahalanobis")


def alarms_in(monitor, rows, size=DAY):
    """Where an alarm came (the first row of its tick), and for what."""
    found = [(at, monitor.update(rows[at : at + size])) for at in range(0, len(rows), size)]
    return [(at, alarm) for at, alarm in found if alarm is not None]


@pytest.mark.parametrize("seed", range(3))
def test_the_market_is_quiet_when_shuffled_and_loud_after_the_change(market, seed):
    """A shuffled half before the change against the other, without one alarm; then one in the first hours after it."""
    order = np.random.default_rng(seed).permutation(CHANGE)
    monitor = Monitor(market_profile(market[order[: CHANGE // 2]]))
    assert monitor.unjudged == ()
    assert alarms_in(monitor, market[order[CHANGE // 2 :]]) == []
    at, alarm = alarms_in(monitor, market[CHANGE:])[0]
    print(f"\n  elec2: alarm within {at + DAY} half hours of the change: {alarm.features}")
    assert at == 0
    assert set(alarm.features) >= {"vicprice", "vicdemand", "transfer"}


def test_the_market_in_order_of_time_does_not_flood_with_alarms(market):
    """Weeks differ, and alarms are right to say so; but a day of half hours is no 48 news, and is not taken for such.

    Against a reference that saw the whole year, what little is left is prices. Taken for independent, the same rows
    raise an alarm four days of seven.
    """
    order = np.random.default_rng(0).permutation(CHANGE)
    monitor = Monitor(market_profile(market[order[: CHANGE // 2]]))
    weighed = alarms_in(monitor, market[:CHANGE])
    detector, flood = SequentialDetector(monitor.profile.bins, 1e5), 0
    for at in range(0, CHANGE, DAY):
        rows = market[at : at + DAY]
        values, absent = table(monitor.profile.bins.names, rows, None, monitor.profile.outliers.is_outlier(rows))
        bins = monitor.profile.bins
        if detector.update(bins.tally(bins.codes(values, absent)), len(rows)).total >= detector.due:
            flood += 1
            detector.reset()
    worth = dict(zip(monitor.profile.bins.names, monitor.watch.worth.round(3).tolist(), strict=True))
    print(
        f"\n  elec2, {CHANGE // 336} weeks in order: {len(weighed)} alarms, {flood} if rows were independent; {worth}"
    )
    assert worth["nswprice"] < 0.15
    assert worth["nswdemand"] < 0.05
    assert flood > 150
    assert len(weighed) < CHANGE / 336 / 2  # less often than every other week
    assert {name for _, alarm in weighed for name in alarm.features} <= {"nswprice", "nswdemand", "__outlier__"}


@pytest.mark.parametrize("rows", [2000, 5000])
def test_a_reference_in_order_of_time_is_no_large_one(market, rows):
    """The first weeks: of 5,000 half hours prices are worth 398 rows, too few to judge; and later weeks are quiet."""
    profile = market_profile(market[:rows])
    monitor = Monitor(profile)
    assert monitor.unjudged == ("nswprice", "nswdemand", "__outlier__")
    assert alarms_in(monitor, market[rows:CHANGE]) == []
    at, alarm = alarms_in(monitor, market[CHANGE:])[0]
    print(f"\n  elec2, {rows} rows in order: alarm within {at + DAY} half hours of the change: {alarm.features}")
    assert at <= 2 * DAY
    assert set(alarm.features) & {"vicprice", "vicdemand", "transfer"}


def test_a_column_that_never_changed_is_found_when_it_does(market):
    """Row by row, the first hours after the change: what training saw once is no stream of rows that resemble."""
    order = np.random.default_rng(0).permutation(CHANGE)
    monitor = Monitor(market_profile(market[order[: CHANGE // 2]]))
    alarms_in(monitor, market[order[CHANGE // 2 :]])
    at, alarm = alarms_in(monitor, market[CHANGE : CHANGE + DAY], size=1)[0]
    print(f"\n  elec2, row by row: alarm after {at + 1} half hours: {alarm.features}")
    assert at < 10
    assert set(alarm.features) & {"vicprice", "vicdemand", "transfer"}


@pytest.mark.parametrize("categorical", [[], [1]], ids=["number", "category"])
@pytest.mark.parametrize("size", [1, 10, TICK])
def test_a_constant_that_is_another_one_is_found_at_once(size, categorical):
    """A column that was 0 in training and is 1 from now on: within ten rows, or the first tick."""
    rng = np.random.default_rng(4)
    rows = np.column_stack([rng.normal(size=5000), np.zeros(5000)])
    monitor = Monitor(gr.Profile.fit(rows, categorical=categorical, detector="mahalanobis"))
    assert alarms_in(monitor, rows[:1000], size) == []
    changed = np.column_stack([rng.normal(size=1000), np.ones(1000)])
    at, alarm = alarms_in(monitor, changed, size)[0]
    assert at < 10
    assert alarm.features[0] == "feature_1"


def test_a_reference_of_half_a_year_in_order_of_time_meets_other_seasons(market):
    """Enough to judge prices, and the other half year has others: alarms come, but not every other week.

    What is then found is the season, which no reference of half a year knows.
    """
    half = CHANGE // 2
    monitor = Monitor(market_profile(market[:half]))
    assert monitor.unjudged == ("nswdemand", "__outlier__")
    found = alarms_in(monitor, market[half:CHANGE])
    print(f"\n  elec2, reference in order: {len(found)} alarms in {half // 336} weeks of the other half year")
    assert {name for _, alarm in found for name in alarm.features} == {"nswprice"}
    assert len(found) < half / 336 / 2


def test_prices_and_demand_alone_in_order_of_time_are_refused(market):
    """What is too small to judge is said, and what would help."""
    profile = gr.Profile.fit(market[:5000, :2], feature_names=MARKET[:2], detector="mahalanobis")
    with pytest.raises(ProfileError, match=r"at most 398 independent rows .*'nswprice'.*shuffle them first"):
        Monitor(profile)
    with pytest.raises(ProfileError, match="500 are needed"):
        Monitor(market_profile(market[:336]))
