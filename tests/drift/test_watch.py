"""Watch: what a stream of counts is weighed by, remembered as, and handed on with."""

import numpy as np
import pytest

import guardrails as gr
from guardrails.drift import watch as module
from guardrails.drift.watch import Watch
from guardrails.errors import ProfileError
from guardrails.profile.serial import Neighbours


@pytest.fixture(scope="module")
def profile():
    """Three numbers."""
    return gr.Profile.fit(np.random.default_rng(0).normal(size=(2000, 3)), feature_names=["a", "b", "c"], alpha=0.05)


def ticks(profile, seed, number, size, shift=0.0, column=1):
    """Counts, distances and pairs of ticks of rows with an outlier flag beside them."""
    rng, neighbours, before = np.random.default_rng(seed), Neighbours(profile.bins), None
    for _ in range(number):
        rows = rng.normal(size=(size, 3))
        rows[:, column] += shift
        codes = profile.bins.codes(np.column_stack([rows, rng.random(size) < 0.05]))
        distances, pairs = neighbours.distances(codes, before)
        before = codes[-1]
        yield profile.bins.tally(codes), distances, pairs.astype(float), float(size)


def test_an_alarm_comes_when_the_evidence_reaches_the_run_length(profile):
    """Not a tick before, and with everything forgotten after."""
    watch = Watch(profile, 10_000.0)
    for counts, distances, pairs, elapsed in ticks(profile, 1, 60, 25, shift=0.7):
        alarm = watch.tick(counts, distances, pairs, elapsed)
        if alarm is not None:
            break
        assert watch.evidence.total < np.log(10_000.0)
    assert alarm.features[0] == "b"
    assert alarm.evidence >= 1.0
    assert watch.evidence.total == -np.inf
    assert watch.window.sum() == 0


@pytest.mark.parametrize("cut", [1, 10, 33])
def test_whoever_takes_over_goes_on_as_if_nothing_had_been(profile, cut):
    """Through arrays and back: the same evidence after every later tick, and the same alarm."""
    one, first, second = (Watch(profile, 5000.0) for _ in range(3))
    stream = [*ticks(profile, 2, 25, 20), *ticks(profile, 3, 40, 20, shift=0.4)]
    for tick in stream[:cut]:
        one.tick(*tick)
        first.tick(*tick)
    second.go_on_from({name: np.array(array) for name, array in first.state().items()})
    np.testing.assert_array_equal(second.window, one.window)
    np.testing.assert_array_equal(second.worth, one.worth)
    for tick in stream[cut:]:
        expected, found = one.tick(*tick), second.tick(*tick)
        assert (expected is None) is (found is None)
        assert second.evidence.total == one.evidence.total
        np.testing.assert_array_equal(second.worth, one.worth)
        if expected is not None:
            assert found.features == expected.features
            assert found.rows == expected.rows
            assert 0 < found.since <= found.rows
            return
    raise AssertionError("no alarm")


def test_what_was_handed_on_is_a_copy(profile):
    """The one who goes on and the one who left do not share memory; nor does a saved state change afterwards."""
    one, other = Watch(profile, 5000.0), Watch(profile, 5000.0)
    stream = list(ticks(profile, 4, 20, 20))
    for tick in stream[:10]:
        one.tick(*tick)
    state = one.state()
    kept = {name: np.array(array) for name, array in state.items()}
    other.go_on_from(state)
    for tick in stream[10:]:
        other.tick(*tick)
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, kept[name], err_msg=name)


def test_the_state_is_all_of_it(profile):
    """Two who are told the same have the same state, to the last array; and all of it can be stored without pickle."""
    one, other = Watch(profile, 5000.0), Watch(profile, 5000.0)
    for tick in ticks(profile, 5, 10, 20):
        one.tick(*tick)
        other.tick(*tick)
    assert one.state().keys() == other.state().keys()
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, other.state()[name])
        assert np.asarray(array).dtype.kind in "iufbU"


def test_the_window_holds_every_row_since_the_start(profile):
    """Rows are weighed once each."""
    watch = Watch(profile, 1e9)
    stream = list(ticks(profile, 6, 100, 13))
    for tick in stream:
        watch.tick(*tick)
    np.testing.assert_array_equal(watch.window, sum(counts for counts, *_ in stream))
    assert watch.detector.clock == 1300


def test_few_moments_are_remembered_however_long_it_lasts(profile):
    """Also early ones: memory is bounded, and a change long ago can still be told."""
    watch = Watch(profile, 1e9)
    for tick in ticks(profile, 7, 1000, 3):
        watch.tick(*tick)
    clocks = [clock for clock, _ in watch._moments]
    assert len(clocks) <= module.SNAPSHOTS
    assert clocks == sorted(clocks)
    assert clocks[0] == 0.0
    assert clocks[-1] == 3000.0
    assert np.diff(clocks[-8:]).max() <= 20


def test_an_alarm_shows_what_came_after_the_change(profile):
    """Shares of the rows since, not of the long quiet time before."""
    watch = Watch(profile, 5000.0)
    for tick in ticks(profile, 8, 200, 10):
        assert watch.tick(*tick) is None
    for tick in ticks(profile, 9, 100, 10, shift=2.0):
        alarm = watch.tick(*tick)
        if alarm is not None:
            break
    drifted = alarm.rows - 2000
    assert 10 <= drifted < 200
    assert alarm.since <= 4 * drifted + 100
    top = alarm.findings[0].bins[0]
    assert top.now > 0.15 > top.reference


def test_all_columns_that_would_have_raised_an_alarm_are_found_worst_first(profile):
    """Two drifted at once, one more than the other."""
    watch = Watch(profile, 1000.0)
    rng = np.random.default_rng(10)
    rows = rng.normal([0.0, 1.5, 0.8], 1.0, (500, 3))
    codes = profile.bins.codes(np.column_stack([rows, np.zeros(500)]))
    distances, pairs = Neighbours(profile.bins).distances(codes, None)
    alarm = watch.tick(profile.bins.tally(codes), distances, pairs.astype(float), 500.0)
    assert alarm.features[:2] == ("b", "c")
    assert "a" not in alarm.features
    shares = [finding.share for finding in alarm.findings]
    assert shares == sorted(shares, reverse=True)


def test_another_reference_is_what_production_is_compared_with(profile):
    """What would be drift of the profile is none of the baseline; and going back to the profile is."""
    rng = np.random.default_rng(11)
    shifted = rng.normal([0.0, 1.0, 0.0], 1.0, (1000, 3))
    baseline = profile.bins.count(np.column_stack([shifted, rng.random(1000) < 0.05]))
    watch, plain = Watch(profile, 10_000.0, baseline), Watch(profile, 10_000.0)
    assert not [a for tick in ticks(profile, 12, 40, 25, shift=1.0) if (a := watch.tick(*tick))]
    assert [a for tick in ticks(profile, 12, 40, 25, shift=1.0) if (a := plain.tick(*tick))]
    back = Watch(profile, 10_000.0, baseline)
    found = [a for tick in ticks(profile, 13, 40, 25) if (a := back.tick(*tick))]
    assert found[0].features[0] == "b"
    assert "lower" in found[0].findings[0].direction


def test_a_reference_of_less_than_500_rows_is_refused(profile):
    """The given one, not the profile's."""
    rows = np.column_stack([np.random.default_rng(14).normal(size=(499, 3)), np.zeros(499)])
    with pytest.raises(ProfileError, match=r"499.*500 are needed"):
        Watch(profile, 1000.0, profile.bins.count(rows))


def test_columns_nobody_filled_in_a_baseline_are_not_judged(profile):
    """Outputs of a service that only fell back: no evidence for or against them."""
    baseline = profile.bins.counts.copy()
    baseline[2:] = 0
    watch = Watch(profile, 1000.0, baseline)
    assert watch.unjudged == ("c", "__outlier__")
    (tick,) = ticks(profile, 15, 1, 400, shift=3.0, column=2)
    assert watch.tick(*tick) is None


def test_rows_of_a_slow_stream_are_worth_less(profile):
    """Evidence grows by what rows are worth, column by column."""
    watch = Watch(profile, 1e12)
    (tick,) = ticks(profile, 16, 1, 1000)
    counts, distances, pairs, elapsed = tick
    slow = distances.copy()
    slow[0] *= 0.1
    watch.tick(counts, slow, pairs, elapsed)
    assert watch.worth[0] < 0.12
    assert (watch.worth[1:3] > 0.85).all()


def test_more_workers_mean_more_dependence(profile):
    """Neighbours in one worker's stream are further apart in the stream as a whole."""
    (tick,) = ticks(profile, 17, 1, 4000)
    counts, distances, pairs, elapsed = tick
    worth = []
    for workers in (1, 2, 8):
        watch = Watch(profile, 1e12)
        watch.tick(counts, distances * 0.8, pairs, elapsed, workers)
        worth.append(watch.worth[0])
    assert worth[0] > worth[1] > worth[2] > 0
