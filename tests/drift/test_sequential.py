"""The sequential detector: its recursion against plain Python, its bets against the mathematics they rest on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.drift import alternatives
from guardrails.drift.alternatives import LEAST_ROWS, SHIFTS, SPREADS, SURGES, judged
from guardrails.drift.sequential import SequentialDetector
from guardrails.profile.bins import Bins
from guardrails.profile.serial import gamma
from guardrails.profile.watched import OUTLIER

N = 4000


def drawn(seed, n):
    """Rows of six columns: normal, skewed with holes, few values, constant, a category, an outlier flag."""
    rng = np.random.default_rng(seed)
    skewed = rng.exponential(size=n)
    skewed[rng.random(n) < 0.1] = np.nan
    return np.column_stack(
        [
            rng.normal(size=n),
            skewed,
            rng.poisson(0.4, n),
            np.full(n, 5.0),
            rng.choice(6, n, p=[0.5, 0.2, 0.15, 0.1, 0.045, 0.005]),
            rng.random(n) < 0.05,
        ]
    )


NAMES = ["normal", "skewed", "few", "constant", "category", OUTLIER]
KINDS = [False, False, False, False, True, True]


@pytest.fixture(scope="module")
def bins():
    """A reference of 4,000 rows."""
    return Bins.fit(NAMES, drawn(0, N), KINDS)


def bets(bins, column, run_length=1e5, columns=6):
    """All bets on a column, among six."""
    return alternatives.bets(bins, column, run_length, columns)


def smoothed(bins, column):
    """The reference shares as a bet knows them: a row more in each bin that a value can fall into."""
    used = bins.used(column)
    n = bins.effective_rows[column]
    counts = bins.counts[column, used] * n / bins.counts[column].sum()
    share = np.zeros(bins.counts.shape[1])
    share[used] = (counts + 1) / (n + len(used))
    return share


def plain(detector, bins, ticks, worth=None):
    """The recursion of the docstring, bet by bet, in ordinary numbers."""
    evidence = [0.0] * len(detector.bets)
    excess, since, clock = [0.0] * len(detector.bets), [0.0] * len(detector.bets), 0.0
    for counts, elapsed in ticks:
        for k, bet in enumerate(detector.bets):
            gain = sum(int(counts[bet.column, b]) * float(bet.gains[b]) for b in range(counts.shape[1])) * (
                1.0 if worth is None else worth[bet.column]
            )
            passed = elapsed if counts[bet.column].sum() else 0.0  # without a row time stands still
            evidence[k] = (evidence[k] + passed) * math.exp(gain)
            if excess[k] <= 0.0:
                since[k] = clock
            excess[k] = max(excess[k], 0.0) + gain
        clock += elapsed
    columns = {}
    for bet, r in zip(detector.bets, evidence, strict=True):
        columns[bet.column] = columns.get(bet.column, 0.0) + bet.weight * r
    return evidence, columns, sum(columns.values()) / len(columns), since


@pytest.mark.parametrize("worth", [None, [1.0, 0.5, 0.1, 1.0, 0.7, 0.3]])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_recursion_is_the_one_of_the_docstring(bins, size, worth):
    """30 ticks, among them empty ones and some of a drift: every bet, every column, the total, and since when."""
    detector = SequentialDetector(bins, 10_000.0)
    rows = drawn(1, 30 * size)
    rows[20 * size :, 0] += 0.5
    ticks = []
    for at in range(30):
        counts = bins.count(rows[at * size : (at + 1) * size]) if at % 5 else bins.empty()
        ticks.append((counts, float(1 + at % 3)))
    for counts, elapsed in ticks:
        found = detector.update(counts, elapsed, None if worth is None else np.array(worth))
    evidence, columns, total, since = plain(detector, bins, ticks, worth)
    np.testing.assert_allclose(np.exp(detector.log_evidence), evidence, rtol=1e-9)
    np.testing.assert_allclose(np.exp(found.columns), [columns[c] for c in detector.judged], rtol=1e-9)
    assert math.exp(found.total) == pytest.approx(total, rel=1e-9)
    np.testing.assert_allclose(detector.since, since)
    assert detector.clock == sum(elapsed for _, elapsed in ticks)
    for column in detector.judged:
        bet, began = detector.best(column)
        own = [k for k, b in enumerate(detector.bets) if b.column == column]
        best = max(own, key=lambda k: detector.bets[k].weight * evidence[k])
        assert bet is detector.bets[best]
        assert began == since[best]


def test_every_bets_gains_are_counted_as_they_stand(bins):
    """The fast product for all bets is the plain sum over bins, for any counts at all."""
    detector = SequentialDetector(bins, 10_000.0)
    rng = np.random.default_rng(2)
    for _ in range(20):
        counts = bins.empty()
        for column in range(len(NAMES)):
            used = bins.used(column)
            counts[column, used] = rng.poisson(rng.choice([0.1, 3, 100]), len(used))
        expected = [float((counts[bet.column] * bet.gains).sum()) for bet in detector.bets]
        np.testing.assert_allclose(detector._gains(counts), expected, rtol=1e-12, atol=1e-12)


def test_counts_in_one_tick_or_in_many_without_time_between_are_the_same(bins):
    """Counts are all it needs: however they are split, in whatever order, with the time at the front."""
    rows = drawn(3, 300)
    whole, parts = SequentialDetector(bins, 1e4), SequentialDetector(bins, 1e4)
    for at in range(0, 300, 60):
        block = rows[at : at + 60]
        whole.update(bins.count(block), 60.0)
        cuts = np.random.default_rng(at).integers(0, 60, 3)
        pieces = np.split(np.random.default_rng(at).permutation(block), np.sort(cuts))
        for number, piece in enumerate(pieces):
            parts.update(bins.count(piece), 60.0 if number == 0 else 0.0)
    np.testing.assert_allclose(parts.log_evidence, whole.log_evidence, atol=1e-9)
    assert parts.evidence().total == pytest.approx(whole.evidence().total, abs=1e-9)


def test_workers_counts_are_weighed_like_one_workers(bins):
    """Merging is addition: four tables of a quarter each."""
    rows = drawn(4, 400)
    one, four = SequentialDetector(bins, 1e4), SequentialDetector(bins, 1e4)
    one.update(bins.count(rows), 400.0)
    four.update(sum(bins.count(rows[w::4]) for w in range(4)), 400.0)
    np.testing.assert_array_equal(one.log_evidence, four.log_evidence)


@pytest.mark.parametrize("column", range(6), ids=NAMES)
def test_without_drift_no_bet_gains_on_average(bins, column, monkeypatch):
    """With the reference known exactly, and nothing paid: the mean factor of a row is 1 for each shift and spread.

    A single bin's bet is against a bound of its share: the mean is 1 at that bound, and less at what was seen.
    """
    monkeypatch.setattr(alternatives, "CAUTION", {1.0: 0.0, 2.0: 0.0})
    share = smoothed(bins, column)
    assert share.sum() == pytest.approx(1.0, abs=1e-12)
    for bet in bets(bins, column):
        if bet.bin is None:
            mean = float((share * np.exp(bet.gains)).sum())
            assert mean == pytest.approx(1.0, abs=1e-10), (bet.kind, bet.size)


def single(bins, bet):
    """What a bet on one bin gains in it and elsewhere; and the share of the bin at which it gains nothing on average."""
    elsewhere = next(b for b in bins.used(bet.column) if b != bet.bin)
    inside, outside = math.exp(bet.gains[bet.bin]), math.exp(bet.gains[elsewhere])
    return inside, outside, (1.0 - outside) / (inside - outside)


@pytest.mark.parametrize("column", range(6), ids=NAMES)
@pytest.mark.parametrize("run_length", [1e3, 1e5, 1e7])
def test_a_bet_pays_for_not_being_sure_of_the_reference(bins, column, run_length):
    """The mean factor of a row without drift is below 1; a single bin's also for the shares a reference may come from.

    Its bound is Clopper and Pearson's, between the middle and 2.5 standard errors.
    """
    from scipy.stats import binom, norm

    share, n = smoothed(bins, column), bins.effective_rows[column]
    found = bets(bins, column, run_length)
    assert found
    for bet in found:
        if bet.bin is None:
            assert float((share * np.exp(bet.gains)).sum()) < 1.0
            continue
        inside, outside, bound = single(bins, bet)
        seen = int(bins.counts[column, bet.bin])
        up = bet.kind == "surge"
        assert (inside > 1.0 > outside) if up else (inside < 1.0 < outside)
        for p in (seen / n, (seen / n + bound) / 2, bound):
            assert p * inside + (1 - p) * outside <= 1 + 1e-9
        tail = binom.cdf(seen, n, bound) if up else binom.sf(seen - 1, n, bound)
        assert norm.cdf(-2.5) * 0.99 <= tail <= 0.5 * 1.01


def test_what_is_paid_is_the_same_in_every_bin_and_less_with_more_reference_rows(bins, monkeypatch):
    """And it grows with the run length, which gives errors more time to add up."""
    from dataclasses import replace

    more = replace(bins, counts=bins.counts * 10)
    with monkeypatch.context() as free:
        free.setattr(alternatives, "CAUTION", {1.0: 0.0, 2.0: 0.0})
        known = {(b.kind, b.size): b.gains for b in bets(bins, 0) if b.bin is None}
        known_more = {(b.kind, b.size): b.gains for b in bets(more, 0) if b.bin is None}
    used, prices = bins.used(0), {}
    for name, reference, run_length in [("usual", bins, 1e5), ("long", bins, 1e8), ("more", more, 1e5)]:
        for bet in bets(reference, 0, run_length):
            if bet.bin is None:
                free_gains = (known_more if name == "more" else known)[bet.kind, bet.size]
                price = (free_gains - bet.gains)[used]
                np.testing.assert_allclose(price, price[0], rtol=1e-9)
                prices[name, bet.kind, bet.size] = price[0]
    for kind, size in known:
        assert 0 < prices["more", kind, size] < prices["usual", kind, size] <= prices["long", kind, size]


def test_evidence_less_time_never_grows_on_average_without_drift(bins):
    """Rows from the reference's own shares: the mean of R over 4,000 streams of 50 rows is at most the time passed."""
    rng = np.random.default_rng(5)
    detector = SequentialDetector(bins, 1e4)
    gains = np.array([bet.gains for bet in detector.bets if bet.column == 0])
    weight = np.array([bet.weight for bet in detector.bets if bet.column == 0])
    share = smoothed(bins, 0)
    evidence = np.zeros((4000, len(gains)))
    for _ in range(50):
        codes = rng.choice(len(share), 4000, p=share)
        evidence = (evidence + 1.0) * np.exp(gains[:, codes].T)
    column = evidence @ weight
    assert column.mean() <= 50 + 4 * column.std() / math.sqrt(4000)


@pytest.mark.parametrize("column", range(6), ids=NAMES)
def test_the_weights_of_a_columns_bets_sum_to_one(bins, column):
    """Each column has one vote, however many bets it holds."""
    assert sum(bet.weight for bet in bets(bins, column)) == pytest.approx(1.0, abs=1e-12)
    assert all(bet.weight > 0 for bet in bets(bins, column))


def test_what_is_bet_on(bins):
    """Numbers: shifts, spreads, missing; categories: each of them, the unseen, the missing; outliers: more of them."""
    kinds = {name: {(b.kind, b.size) for b in bets(bins, j)} for j, name in enumerate(NAMES)}
    moves = {("shift", size) for size in SHIFTS} | {("spread", size) for size in SPREADS}
    surges = {("surge", size) for size in SURGES}
    assert kinds["normal"] == kinds["few"] == kinds["constant"] == moves | surges
    # A tenth is missing: that may become rarer; 2 % more would be hard to tell from the reference's own error.
    assert (
        moves | {("surge", 0.1), ("surge", 0.3), ("halve", 0.5)} <= kinds["skewed"] <= moves | surges | {("halve", 0.5)}
    )
    assert kinds["category"] == surges | {("halve", 0.5)}
    assert {("surge", 0.1), ("surge", 0.3)} <= kinds[OUTLIER] <= surges
    for column in range(4):
        missing = bins.used(column)[-1]
        assert {b.bin for b in bets(bins, column) if b.bin is not None} == {missing}
    category = bets(bins, 4)
    assert {b.bin for b in category if b.kind == "surge"} == set(bins.used(4))
    assert {b.bin for b in category if b.kind == "halve"} == {0, 1, 2, 3, 4}  # half a percent is not worth halving
    assert {b.bin for b in bets(bins, 5)} == {1}


def test_a_shift_is_bet_on_in_its_own_direction(bins):
    """Gains rise with the value for a shift up, fall for one down; a spread gains at both ends."""
    used = bins.used(0)[:-1]
    for bet in bets(bins, 0):
        gains = bet.gains[used]
        if bet.kind == "shift":
            assert (np.diff(gains) * bet.size > 0).all()
        if bet.kind == "spread":
            middle = gains[len(gains) // 2]
            assert (gains[0] > middle) == (gains[-1] > middle) == (bet.size > 1)


def surge(bins, column, bin_, share, n=400):
    """Reference-like counts in which a bin has taken a share of all rows."""
    counts = bins.empty()
    for j in range(len(NAMES)):
        counts[j] = np.round(bins.counts[j] * n / bins.counts[j].sum())
    counts[column] = np.round(counts[column] * (1 - share))
    counts[column, bin_] += round(share * n)
    return counts


@pytest.mark.parametrize(
    ("column", "bin_"),
    [(0, -1), (1, -1), (2, -1), (3, -1), (3, 0), (3, 2), (4, -1), (4, -2), (4, 5), (5, 1)],
    ids=["missing", "more missing", "few missing", "constant missing", "constant lower", "constant higher",
         "category missing", "unseen", "rare", "outliers"],
)  # fmt: skip
def test_a_surge_of_any_kind_is_found_in_its_column(bins, column, bin_):
    """A tenth more of all rows, in a bin that was rare or empty: evidence for this column and no other."""
    detector = SequentialDetector(bins, 1e5)
    at = bins.counts.shape[1] + bin_ if bin_ < 0 else bin_
    found = detector.update(surge(bins, column, at, 0.1), 400.0)
    assert found.total > detector.due
    place = detector.judged.index(column)
    assert np.argmax(found.columns) == place
    assert (np.delete(found.columns, place) < detector.due).all()
    bet, _ = detector.best(column)
    if column != 3 or bin_ == -1:
        assert bet.bin == at
        assert bet.kind == "surge"


def test_a_category_half_as_frequent_is_found(bins):
    """Half the rows were of it, now a quarter are."""
    detector = SequentialDetector(bins, 1e5)
    counts = surge(bins, 4, 0, 0.0)
    counts[4, 0] //= 2
    detector.update(counts, 300.0)
    bet, _ = detector.best(4)
    assert (bet.kind, bet.bin) == ("halve", 0)


def test_one_row_of_something_impossible_is_not_the_end_of_the_world(bins):
    """One unseen category or missing value weighs something, but raises no alarm at a usual run length."""
    for column in range(len(NAMES)):
        counts = bins.empty()
        counts[column, -1] = 1
        assert SequentialDetector(bins, 1e5).update(counts, 1.0).total < math.log(1e5)


def test_no_counts_bring_nothing(bins):
    """Time alone is no evidence."""
    detector = SequentialDetector(bins, 1e4)
    for _ in range(10):
        found = detector.update(bins.empty(), 3.0)
    assert (detector.log_evidence == -np.inf).all()
    assert found.total == -np.inf
    assert detector.clock == 30.0


def test_columns_nobody_counts_do_not_move(bins):
    """Outputs of a service that only ever fell back."""
    detector = SequentialDetector(bins, 1e4)
    counts = bins.count(drawn(6, 500))
    counts[4:] = 0
    found = detector.update(counts, 500.0)
    assert (found.columns[4:] == -np.inf).all()
    assert np.isfinite(found.columns[:4]).all()


def test_a_hundred_columns_cost_the_logarithm_of_a_hundred():
    """The evidence is the mean over D columns: of a drift in one, what it is alone, less about log D."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(2000, 100))
    many = Bins.fit([f"x{i}" for i in range(100)], rows, [False] * 100)
    alone = Bins.fit(["x3"], rows[:, 3:4], [False])
    counts = many.empty()
    counts[3] = many.count(rng.normal(size=(400, 100)) + 0.5)[3]
    all_of_them, single = SequentialDetector(many, 1e5), SequentialDetector(alone, 1e5)
    found = all_of_them.update(counts, 400.0)
    expected = single.update(counts[3:4], 400.0)
    assert found.total == pytest.approx(found.columns[3] - math.log(100), abs=1e-9)
    # Over a hundred columns somewhat more is paid for the reference's errors, too.
    assert math.log(100) - 1e-6 <= expected.total - found.total <= math.log(100) + 2.0


def test_columns_with_too_small_a_reference_are_not_judged():
    """500 rows are enough, 499 are not; nor are 2,000 that resemble each other."""
    rng = np.random.default_rng(8)
    one = Bins.fit(["x"], rng.normal(size=(500, 1)), [False])
    few = Bins.fit(["y"], rng.normal(size=(499, 1)), [False])
    slow = Bins(("z",), one.edges, one.categorical, one.counts * 4, np.array([0.7]))
    both = one.beside(few).beside(slow)
    assert judged(both) == [0]
    assert slow.effective_rows[0] == pytest.approx(2000 * 0.3 / 1.7)
    assert slow.effective_rows[0] < LEAST_ROWS
    detector = SequentialDetector(both, 1e4)
    assert {bet.column for bet in detector.bets} == {0}
    counts = both.empty()
    counts[1:, 0] = 1000  # what is not judged cannot alarm
    assert detector.update(counts, 1.0).total == -np.inf
    assert len(detector.evidence().columns) == 1


ALL_IN_ONE = [(j, at) for j, category in enumerate(KINDS) for at in ([0, 1, -2, -1] if category else [0, 1, -1])]


@pytest.mark.parametrize(("column", "filled"), ALL_IN_ONE)
def test_a_reference_that_is_all_in_one_bin_is_judged_all_the_same(bins, column, filled):
    """A baseline of recent rows may be like that: all missing, all outliers. Each judged column keeps its evidence."""
    from dataclasses import replace

    counts = bins.counts.copy()
    counts[column] = 0
    counts[column, filled] = 4000
    detector = SequentialDetector(replace(bins, counts=counts), 1e5)
    # Of rows that were all outliers there can hardly be more: such a column may have no bet, and is then not judged.
    assert column in detector.judged or (NAMES[column], filled) == (OUTLIER, 1)
    assert set(detector.judged) == {bet.column for bet in detector.bets}
    usual = bins.count(drawn(12, 200))
    usual[column] = 0
    usual[column, filled] = 200
    found = detector.update(usual, 200.0)
    assert len(found.columns) == len(detector.judged)
    assert np.isfinite(found.columns).all()
    assert found.total < detector.due
    moved = usual.copy()
    moved[column] = bins.count(drawn(13, 200))[column]
    if column in detector.judged and (bins.counts[column] > 0).sum() > 1:  # the others now come as they used to
        after = detector.update(moved, 200.0)
        assert after.columns[detector.judged.index(column)] > found.columns[detector.judged.index(column)]


def test_nothing_to_judge_is_no_evidence():
    """No column at all is large enough."""
    few = Bins.fit(["y"], np.arange(50.0)[:, None], [False])
    detector = SequentialDetector(few, 1e4)
    assert detector.update(few.counts, 10.0).total == -math.inf
    assert detector.evidence().total < detector.due


def test_a_reference_of_fewer_independent_rows_bets_with_less():
    """The same counts, said to be autocorrelated: each gain is smaller."""
    rng = np.random.default_rng(9)
    sure = Bins.fit(["x"], rng.normal(size=(5000, 1)), [False])
    unsure = Bins(sure.names, sure.edges, sure.categorical, sure.counts, np.array([0.5]))
    counts = sure.count(rng.normal(size=(200, 1)) + 0.5)
    found = [SequentialDetector(b, 1e5).update(counts, 200.0).total for b in (sure, unsure)]
    assert found[1] < found[0]
    assert unsure.effective_rows[0] == pytest.approx(5000 * gamma(np.array([0.5]))[0])


def test_best_says_since_when(bins):
    """The change came after 600 quiet rows; the detector says so within a few ticks."""
    detector = SequentialDetector(bins, 1e5)
    for seed in range(30):
        detector.update(bins.count(drawn(100 + seed, 20)), 20.0)
    for seed in range(10):
        rows = drawn(200 + seed, 20)
        rows[:, 0] += 1.0
        detector.update(bins.count(rows), 20.0)
    bet, since = detector.best(0)
    assert (bet.kind, bet.size) == ("shift", 1.0)
    assert 560.0 <= since <= 620.0


def test_reset_forgets_all_but_the_clock(bins):
    """And begins anew from there."""
    detector = SequentialDetector(bins, 1e5)
    detector.update(bins.count(drawn(10, 300)), 300.0)
    detector.reset()
    assert detector.clock == 300.0
    assert (detector.since == 300.0).all()
    assert (detector.excess == 0.0).all()
    assert detector.evidence().total == -math.inf
    fresh = SequentialDetector(bins, 1e5)
    counts = bins.count(drawn(11, 50))
    assert detector.update(counts, 50.0).total == fresh.update(counts, 50.0).total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_enormous_counts_stay_finite(seed, sizes):
    """A million rows at once, all in one bin: no overflow, no NaN."""
    bins = Bins.fit(NAMES, drawn(0, 600), KINDS)
    detector = SequentialDetector(bins, 1e5)
    rng = np.random.default_rng(seed)
    for size in sizes:
        counts = bins.empty()
        for column in range(len(NAMES)):
            counts[column, rng.choice(bins.used(column))] = size
        found = detector.update(counts, float(max(size, 1)))
        assert not np.isnan(detector.log_evidence).any()
        assert not np.isnan(found.total)
        assert found.total < math.inf


def test_a_column_that_nobody_speaks_of_never_raises_an_alarm(bins):
    """Time alone is no evidence: ten run lengths of rows that say nothing of half of the columns."""
    detector = SequentialDetector(bins, 1_000.0)
    counts = bins.count(drawn(3, 10))
    counts[3:] = 0
    silent = [place for place, column in enumerate(detector.judged) if column >= 3]
    for _ in range(1000):
        found = detector.update(counts * 0, 10.0)
    assert found.total == -np.inf
    for tick in range(1000):
        counts[:3] = bins.count(drawn(tick, 10))[:3]
        found = detector.update(counts, 10.0)
    assert (found.columns[silent] == -np.inf).all()
