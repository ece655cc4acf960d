"""Serial dependence: how well it is measured, when it is believed, and what rows are then worth."""

import numpy as np
import pytest

from guardrails.drift.watch import Dependence
from guardrails.profile import serial
from guardrails.profile.bins import Bins
from guardrails.profile.serial import FALSE_ALARM, LARGEST, Neighbours, gamma, normal_scores, significant


def ar1(rng, n, rho, columns=1):
    """Standard normal AR(1) streams, shape (n, columns)."""
    noise = rng.normal(size=(n, columns)) * np.sqrt(1 - rho**2)
    noise[0] /= np.sqrt(1 - rho**2)
    for row in range(1, n):
        noise[row] += rho * noise[row - 1]
    return noise


def sticky(rng, n, rho, shares):
    """A category that keeps its value with probability rho, else draws anew."""
    fresh = rng.choice(len(shares), n, p=shares)
    keeps = rng.random(n) < rho
    keeps[0] = False
    last = np.maximum.accumulate(np.where(keeps, 0, np.arange(n)))
    return fresh[last].astype(float)[:, None]


def estimate(bins, rows):
    """The autocorrelation of rows, column by column."""
    neighbours, codes = Neighbours(bins), bins.codes(rows)
    distances, pairs = neighbours.distances(codes, None)
    return neighbours.autocorrelation(bins.tally(codes).astype(float), distances, pairs.astype(float))


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_the_autocorrelation_of_an_ar1_stream_is_found(rho):
    """Through 16 bins, within .02 and five standard errors (n = 20,000); the bins take a little away, not more."""
    rng = np.random.default_rng(int(rho * 10))
    bins = Bins.fit(["x"], rng.normal(size=(5000, 1)), [False])
    found = estimate(bins, ar1(rng, 20_000, rho))[0]
    assert abs(found - rho) < 0.02 + 5 * np.sqrt((1 - rho**2) / 20_000)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.7, 0.2, 0.1], [0.97, 0.03], [0.1] * 10], ids=str)
def test_the_stickiness_of_a_category_is_found(rho, shares):
    """The probability with which it keeps its value, whatever its categories; also where it is coded as a number."""
    rng = np.random.default_rng(int(rho * 10) + len(shares))
    rows = sticky(rng, 40_000, rho, shares)
    bins = Bins.fit(["c"], rows[:10_000], [True])
    assert abs(estimate(bins, rows)[0] - rho) < 0.06
    if len(shares) == 2:
        as_number = Bins.fit(["c"], rows[:10_000], [False])
        assert abs(estimate(as_number, rows)[0] - rho) < 0.06


def test_missing_values_that_come_in_runs_are_dependence():
    """A sensor that is off for an hour."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(20_000, 2))
    rows[sticky(rng, 20_000, 0.95, [0.5, 0.5])[:, 0] > 0, 0] = np.nan
    bins = Bins.fit(["often off", "fine"], rows, [False, False])
    assert bins.rho[1] == 0.0
    found = estimate(Bins.fit(["c"], np.isnan(rows[:, :1]).astype(float), [True]), np.isnan(rows[:, :1]).astype(float))
    assert found[0] == pytest.approx(0.95, abs=0.03)


def test_a_mean_that_has_moved_is_no_dependence():
    """Compared with rows that moved along, independent ones are independent: 1 standard deviation higher."""
    rng = np.random.default_rng(2)
    bins = Bins.fit(["x"], rng.normal(size=(5000, 1)), [False])
    assert abs(estimate(bins, rng.normal(size=(20_000, 1)) + 1.0)[0]) < 0.03


def test_rows_that_shun_their_neighbours_are_worth_no_more_than_independent_ones():
    """Negative autocorrelation counts as none."""
    rng = np.random.default_rng(3)
    rows = ar1(rng, 3000, -0.8)
    bins = Bins.fit(["x"], rows, [False])
    assert bins.rho[0] == 0.0
    assert estimate(bins, rows)[0] < -0.7
    assert gamma(estimate(bins, rows))[0] == 1.0


@pytest.mark.parametrize(
    ("rho", "expected"),
    [(0.0, 1.0), (-0.5, 1.0), (0.5, 1 / 3), (0.9, 0.1 / 1.9), (1.0, 0.01 / 1.99), (5.0, 0.01 / 1.99)],
)
def test_what_a_row_is_worth(rho, expected):
    """(1 - rho) / (1 + rho), never more than a row nor nothing at all."""
    assert gamma(np.array([rho]))[0] == pytest.approx(expected)
    assert LARGEST == 0.99


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_that_many_rows_say_as_much_about_a_mean(rho):
    """The variance of the mean of 2,000 rows is that of 2,000 gamma independent ones (400 streams, 5 standard errors)."""
    means = ar1(np.random.default_rng(4), 2000, rho, columns=400).mean(axis=0)
    assert means.var() * 2000 * gamma(np.array([rho]))[0] == pytest.approx(1.0, abs=5 * np.sqrt(2 / 400))


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_a_stream_dealt_out_among_workers_is_put_together_again(workers, rho):
    """Each request goes to any of W workers; each sees its own neighbours; the formula finds the whole stream's rho."""
    rng = np.random.default_rng(workers * 10 + int(rho * 10))
    n = 60_000
    bins = Bins.fit(["x"], rng.normal(size=(5000, 1)), [False])
    rows, dealt = ar1(rng, n, rho), rng.integers(0, workers, n)
    dependence, neighbours = Dependence(bins), Neighbours(bins)
    for worker in range(workers):
        codes = bins.codes(rows[dealt == worker])
        distances, pairs = neighbours.distances(codes, None)
        dependence.counts += bins.tally(codes)
        dependence.distances += distances
        dependence.pairs += pairs
    seen = dependence.autocorrelation(1)[0]
    assert seen == pytest.approx(rho / (workers - rho * (workers - 1)), abs=0.03)
    assert dependence.autocorrelation(workers)[0] == pytest.approx(rho, abs=0.02 + 0.03 * workers * (1 - rho))


def test_one_worker_is_the_stream_itself():
    """And independent rows stay independent, among however many."""
    rng = np.random.default_rng(6)
    bins = Bins.fit(["x"], rng.normal(size=(5000, 1)), [False])
    dependence, neighbours = Dependence(bins), Neighbours(bins)
    for _ in range(20):
        codes = bins.codes(rng.normal(size=(500, 1)))
        worth = dependence.update(bins.tally(codes), *map(np.asarray, neighbours.distances(codes, None)))
    assert worth[0] > 0.9
    for workers in (1, 2, 8, 64):
        assert 0.0 <= dependence.autocorrelation(workers)[0] < 1.0


@pytest.mark.parametrize(
    ("kind", "draw", "category"),
    [
        ("normal", lambda rng: rng.normal(size=(600, 10)), False),
        ("coins", lambda rng: rng.integers(0, 2, (600, 10)).astype(float), True),
        ("coins as numbers", lambda rng: rng.integers(0, 2, (600, 10)).astype(float), False),
        ("categories", lambda rng: rng.choice(4, (600, 10), p=[0.6, 0.2, 0.15, 0.05]).astype(float), True),
        ("few values", lambda rng: rng.poisson(0.5, (600, 10)).astype(float), False),
        ("rare flag", lambda rng: (rng.random((600, 10)) < 0.01).astype(float), True),
        ("rare flag as a number", lambda rng: (rng.random((600, 10)) < 0.01).astype(float), False),
        (
            "often missing",
            lambda rng: np.where(rng.random((600, 10)) < 0.02, np.nan, rng.normal(size=(600, 10))),
            False,
        ),
    ],
)
def test_independent_references_are_seldom_taken_for_autocorrelated(kind, draw, category):
    """300 references of 10 columns: any column at all in a share 0.001 of them, plus four standard errors."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(300):
        rows = draw(rng)
        rows[:2] = rows[:2] if not category else np.array([[0.0], [1.0]])  # both values are there
        bins = Bins.fit([f"x{i}" for i in range(10)], rows, [category] * 10)
        wrong += bool(bins.rho.any())
    assert wrong <= 300 * FALSE_ALARM + 4 * np.sqrt(300 * FALSE_ALARM), kind


@pytest.mark.parametrize(("rho", "n"), [(0.3, 600), (0.6, 600), (0.9, 600), (0.15, 3000)])
def test_autocorrelated_references_are_recognised(rho, n):
    """19 of 20 of them at least, and with about the right value; in the column they are in, not beside it."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(40):
        rows = np.column_stack([rng.normal(size=n), ar1(rng, n, rho)])
        bins = Bins.fit(["independent", "slow"], rows, [False, False])
        assert bins.rho[0] == 0.0
        found.append(bins.rho[1])
    assert np.mean(np.array(found) > 0) >= 0.95
    assert np.median(found) == pytest.approx(rho, abs=0.06)


def test_a_little_autocorrelation_in_many_rows_is_recognised():
    """0.1 in 20,000 rows is fourteen standard errors: no column of it is taken for independent."""
    rows = ar1(np.random.default_rng(15), 20_000, 0.1, columns=12)
    bins = Bins.fit([f"x{i}" for i in range(12)], rows, [False] * 12)
    assert bins.rho == pytest.approx(0.1, abs=0.04)


def test_an_autocorrelated_reference_is_worth_less_and_a_shuffled_one_all():
    """The order of the rows is what matters, and nothing else."""
    rows = ar1(np.random.default_rng(9), 4000, 0.8)
    slow = Bins.fit(["x"], rows, [False])
    shuffled = Bins.fit(["x"], np.random.default_rng(0).permutation(rows), [False])
    assert slow.effective_rows[0] == pytest.approx(4000 * 0.2 / 1.8, rel=0.15)
    assert shuffled.effective_rows[0] == 4000
    np.testing.assert_array_equal(slow.counts, shuffled.counts)


def test_a_sorted_reference_is_worth_next_to_nothing():
    """Each row is almost the one before."""
    bins = Bins.fit(["x"], np.sort(np.random.default_rng(10).normal(size=3000))[:, None], [False])
    assert bins.rho[0] == LARGEST
    assert bins.effective_rows[0] < 20


@pytest.mark.parametrize(
    "column",
    [np.full(700, 3.0), np.r_[np.full(699, np.nan), 1.0], np.r_[np.zeros(699), 1.0]],
    ids=["constant", "one value", "once"],
)
@pytest.mark.parametrize("category", [False, True])
def test_columns_that_hardly_vary_are_finite(column, category):
    """No division by nothing."""
    bins = Bins.fit(["k"], column[:, None], [category])
    assert 0.0 <= bins.rho[0] <= LARGEST
    assert np.isfinite(bins.effective_rows[0])
    assert np.isfinite(normal_scores(bins)).all()


def test_one_row_has_no_neighbours():
    """Nothing is claimed."""
    bins = Bins.fit(["x"], np.array([[1.0]]), [False])
    assert bins.rho.tolist() == [0.0]
    distances, pairs = Neighbours(bins).distances(bins.codes(np.array([[1.0]])), None)
    assert (distances[0], pairs[0]) == (0.0, 0)


def test_scores_stand_for_normal_values():
    """Of mean 0 over the reference, variance near 1, rising with the value; 0 for who is missing."""
    rng = np.random.default_rng(11)
    bins = Bins.fit(["x", "skewed"], np.column_stack([rng.normal(size=3200), rng.exponential(size=3200)]), [False] * 2)
    scores = normal_scores(bins)
    share = bins.counts / bins.counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose((share * scores).sum(axis=1), 0.0, atol=1e-9)
    assert ((share * scores**2).sum(axis=1) > 0.95).all()
    for column in range(2):
        assert (np.diff(scores[column, bins.used(column)[:-1]]) > 0).all()
        assert scores[column, -1] == 0.0


def test_neighbours_across_blocks_are_neighbours():
    """However a stream is cut into flushes, the sums are those of the whole; absent values have no neighbours."""
    rng = np.random.default_rng(12)
    rows = np.column_stack([ar1(rng, 200, 0.5)[:, 0], rng.integers(0, 3, 200)])
    bins = Bins.fit(["x", "c"], rows, [False, True])
    absent = rng.random((200, 2)) < 0.2
    codes, neighbours = bins.codes(rows, absent), Neighbours(bins)
    whole, pairs = neighbours.distances(codes, None)
    total, number, before = np.zeros(2), np.zeros(2, int), None
    for block in np.split(codes, [1, 2, 50, 51, 120]):
        distances, found = neighbours.distances(block, before)
        total, number, before = total + distances, number + found, block[-1]
    np.testing.assert_allclose(total, whole)
    np.testing.assert_array_equal(number, pairs)
    np.testing.assert_array_equal(pairs, (~absent[1:] & ~absent[:-1]).sum(axis=0))
    by_hand = sum(codes[i, 1] != codes[i + 1, 1] for i in range(199) if not absent[i : i + 2, 1].any())
    assert whole[1] == by_hand


def test_what_was_long_ago_counts_for_less():
    """A stream that was slow and no longer is, is found out: after some half-lives."""
    rng = np.random.default_rng(13)
    bins = Bins.fit(["x"], rng.normal(size=(5000, 1)), [False])
    dependence, neighbours = Dependence(bins), Neighbours(bins)
    for rows in (ar1(rng, 10_000, 0.9), rng.normal(size=(40_000, 1))):
        for block in np.split(rows, len(rows) // 500):
            codes = bins.codes(block)
            distances, pairs = neighbours.distances(codes, None)
            worth = dependence.update(bins.tally(codes), distances, pairs.astype(float))
        last = worth[0]
        if rows.std() and len(rows) == 10_000:
            assert last < 0.12
    assert last > 0.9


def test_significant_is_what_fit_uses():
    """Bins.fit and the function agree."""
    rows = ar1(np.random.default_rng(14), 1000, 0.5, columns=2)
    bins = Bins.fit(["a", "b"], rows, [False, False])
    np.testing.assert_array_equal(significant(bins, bins.codes(rows)), bins.rho)
    assert serial.FALSE_ALARM == 1e-3
