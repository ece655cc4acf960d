"""Measures of concentration, and the counters a worker keeps of its own choices and of those shown."""

import math
import threading

import numpy as np
import pytest

from guardrails.exploration.exposure import Exposure, coverage, gini, normalised_entropy, top_share

MEASURES = [coverage, gini, normalised_entropy, top_share]


def gini_by_pairs(counts):
    """The definition: mean absolute difference of all pairs over twice the mean."""
    values = np.asarray(counts, dtype=float)
    return np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())


@pytest.mark.parametrize("seed", range(5))
def test_gini_is_the_mean_difference_of_all_pairs(seed):
    """The sum over sorted counts equals the definition, ties and zeros included."""
    counts = np.random.default_rng(seed).poisson(2, size=50)
    assert gini(counts) == pytest.approx(gini_by_pairs(counts), abs=1e-12)


def test_extremes():
    """All alike and one for all, at the values the docstrings name."""
    alike, single = np.full(20, 3), np.eye(20)[7]
    assert (coverage(alike), gini(alike), normalised_entropy(alike)) == (1.0, 0.0, pytest.approx(1.0))
    assert (coverage(single), gini(single), normalised_entropy(single)) == (0.05, pytest.approx(0.95), 0.0)
    assert top_share(single) == 1.0
    assert top_share(alike) == pytest.approx(0.1)


def test_order_and_scale_do_not_matter():
    """Permuted and multiplied counts are as concentrated as before."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(3, size=40)
    for measure in MEASURES:
        assert measure(rng.permutation(counts)) == pytest.approx(measure(counts))
        assert measure(7 * counts) == pytest.approx(measure(counts))


def test_nothing_chosen_is_not_a_number():
    """Where nothing was chosen there is no concentration, and coverage is zero."""
    assert coverage([0, 0]) == 0.0
    assert all(math.isnan(measure([0, 0])) for measure in (gini, normalised_entropy, top_share))


def test_at_least_and_top_choose_how_much_counts():
    """Coverage may ask for more than one choice, and the top may be any share, rounded up."""
    assert coverage([5, 1, 0, 2], at_least=2) == 0.5
    assert top_share([5, 1, 0, 2], top=0.5) == pytest.approx(7 / 8)
    assert top_share(np.ones(70), top=0.1) == pytest.approx(0.1)  # 0.1 * 70 is a little more than 7


@pytest.mark.parametrize("counts", [[], [[1, 2]], [-1, 2], [math.nan, 1], [math.inf, 1]])
@pytest.mark.parametrize("measure", MEASURES)
def test_what_are_no_counts_is_refused(measure, counts):
    """Negative counts, NaN, infinities, no counts and matrices are errors, not figures."""
    with pytest.raises(ValueError, match="count"):
        measure(counts)


def test_top_is_a_share():
    """Nothing, and more than all, are no shares."""
    for top in (0.0, 1.5):
        with pytest.raises(ValueError, match="share"):
            top_share([1, 2], top)


def test_status_is_what_the_measures_say():
    """Incremental counts give the figures of the arrays they stand for."""
    rng = np.random.default_rng(3)
    own, served = rng.integers(0, 5, 400), rng.integers(0, 30, 400)
    exposure = Exposure()
    for greedy, shown in zip(own, served, strict=True):
        exposure.add(int(greedy), int(shown), candidates=30)
    status = exposure.status()
    assert status["decisions"] == 400
    assert status["differs"] == pytest.approx((own != served).mean())
    for side, actions in (("greedy", own), ("shown", served)):
        counts = np.bincount(actions, minlength=30)
        figures = [coverage(counts), gini(counts), normalised_entropy(counts), top_share(counts)]
        assert list(status[side].values()) == pytest.approx(figures)


@pytest.mark.parametrize("make", [list, tuple, np.array])
def test_lists_count_by_place(make):
    """A ranking counts each of its items, and differs when any place does; arrays and lists are the same."""
    exposure = Exposure()
    exposure.add(make([1, 2, 3]), make([1, 2, 3]), candidates=6)
    exposure.add(make([1, 2, 3]), make([1, 9, 3]), candidates=6)
    status = exposure.status()
    assert status["differs"] == 0.5
    assert status["greedy"]["coverage"] == pytest.approx(3 / 6)
    assert status["shown"]["coverage"] == pytest.approx(4 / 6)


def test_names_numpy_numbers_and_things_that_are_no_keys():
    """Ids may be text, a NumPy number is the number, and what cannot be a key is kept by its text."""
    exposure = Exposure()
    for action in ("a", "b", np.int64(3), 3, {"id": 1}, [{"id": 1}]):
        exposure.add(action, action)
    assert exposure.status()["actions"] == 4


def test_nothing_yet():
    """Before the first decision every figure is None: JSON has no NaN."""
    status = Exposure().status()
    assert status["decisions"] == 0
    assert set(status["greedy"].values()) == {None}
    assert status["differs"] is None


def test_memory_is_bounded():
    """Beyond the cap actions are counted together, and those within it go on being counted."""
    exposure = Exposure(cap=10)
    for action in range(1000):
        exposure.add(0, action)
    exposure.add(0, 5)
    status = exposure.status()
    assert status["other"] == 990
    assert len(exposure._now.shown) == 10
    assert exposure._now.shown[5] == 2


def test_old_decisions_are_forgotten():
    """After a window the figures are of the model that answers now, after two of nothing before."""
    exposure = Exposure(window=100)
    for _ in range(100):
        exposure.add(0, 0)
    for action in range(200):
        exposure.add(action % 50, action % 50, candidates=50)
    exposure.add(1, 1)
    status = exposure.status()
    assert status["decisions"] == 101  # the last whole window, and what has come since
    assert status["greedy"]["coverage"] == 1.0
    assert status["greedy"]["gini"] == pytest.approx(0.0, abs=0.05)


def test_threads_lose_no_count():
    """Several threads of one worker add at once."""
    exposure = Exposure()

    def work():
        for action in range(2000):
            exposure.add(action % 3, action % 7)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exposure.status()["decisions"] == 8000
    assert sum(exposure._now.shown.values()) == 8000


def test_options_that_count_nothing_are_refused():
    """A cap or a window of nothing is a mistake."""
    for options in ({"cap": 0}, {"window": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Exposure(**options)


def test_the_short_way_counts_the_same():
    """Two numbers of actions, added without the lock, give the figures of `add`, across windows and beyond the cap."""
    rng = np.random.default_rng(4)
    short, long = Exposure(cap=20, window=150), Exposure(cap=20, window=150)
    for greedy, shown in rng.integers(0, 30, (500, 2)).tolist():
        short.add_one(greedy, shown, 30)
        long.add(greedy, shown, 30)
    assert short.status() == long.status()
