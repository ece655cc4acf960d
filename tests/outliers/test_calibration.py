"""The promise of split-conformal calibration: alpha is the share of ordinary traffic called an outlier."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guardrails import outliers
from guardrails.errors import ProfileError
from guardrails.outliers import CalibratedDetector, IsolationForest, calibrate
from guardrails.outliers.conformal import TIE

NO_FILL = np.array([np.nan])
CENTRAL = 3.2905
"""Half the width of a 99.9 % interval, in standard errors."""


class FirstColumn:
    """The cheapest detector: the first column is the score."""

    def score(self, rows):
        """Score rows (n, d)."""
        return rows[:, 0]


class Norm:
    """Distance from zero."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.sqrt((rows**2).sum(axis=1))


def calibrated(scores, alpha):
    """A detector whose calibration scores are these."""
    return CalibratedDetector(FirstColumn(), np.sort(np.asarray(scores, dtype=float)), alpha, NO_FILL)


def promised(alpha, n):
    """The exact share, computed in whole numbers."""
    return math.floor(Fraction(str(alpha)) * (n + 1)) / (n + 1)


def flagged_shares(detector, alpha, *, n, repetitions, draw, seed=0):
    """The share of fresh ordinary rows flagged, once per random calibration set."""
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(repetitions):
        fitted = calibrate(detector, draw(rng, n), alpha=alpha, fill=np.full(3, np.nan))
        shares.append(fitted.is_outlier(draw(rng, 1000)).mean())
    return np.array(shares)


def normal(rng, n):
    """Ordinary rows."""
    return rng.normal(size=(n, 3))


def heavy(rng, n):
    """Rows with very heavy tails."""
    return rng.standard_cauchy(size=(n, 3))


def within(shares, expected):
    """Whether the mean lies inside its 99.9 % interval around what is expected."""
    return abs(shares.mean() - expected) <= CENTRAL * shares.std(ddof=1) / math.sqrt(len(shares))


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize("n", [150, 299, 1000])
@pytest.mark.parametrize("draw", [normal, heavy])
def test_alpha_is_the_share_of_ordinary_rows_flagged(alpha, n, draw):
    """Over 200 calibration sets the mean share is floor(alpha (n + 1)) / (n + 1), whatever the distribution."""
    shares = flagged_shares(Norm(), alpha, n=n, repetitions=200, draw=draw, seed=n)
    assert within(shares, promised(alpha, n)), (shares.mean(), promised(alpha, n))


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_alpha_is_the_share_flagged_by_a_forest_that_was_fitted_and_calibrated_by_fit(alpha):
    """The same through outliers.fit: 200 random splits, 300 calibration rows each, a small forest."""
    rng = np.random.default_rng(20)
    shares = []
    for seed in range(200):
        X = rng.normal(size=(420, 2))
        order = np.random.default_rng(seed).permutation(420)  # the split fit() makes, with a forest of ten trees
        forest = IsolationForest.fit(X[order[300:]], trees=10, seed=seed)
        detector = calibrate(forest, X[order[:300]], alpha=alpha, fill=np.full(2, np.nan))
        shares.append(detector.is_outlier(rng.normal(size=(1000, 2))).mean())
    shares = np.array(shares)
    # A small forest ties now and then, and ties only ever flag less.
    assert shares.mean() <= promised(alpha, 300) + CENTRAL * shares.std(ddof=1) / math.sqrt(200)
    assert shares.mean() >= 0.6 * promised(alpha, 300)


@pytest.mark.full
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_alpha_is_the_share_flagged_by_the_default_forest(alpha):
    """outliers.fit as users call it, 100 trees, 200 splits."""
    rng = np.random.default_rng(21)
    shares = np.array(
        [
            outliers.fit(rng.normal(size=(1000, 4)), alpha=alpha, seed=seed)
            .is_outlier(rng.normal(size=(2000, 4)))
            .mean()
            for seed in range(200)
        ]
    )
    assert within(shares, promised(alpha, 300)), shares.mean()


@pytest.mark.parametrize("levels", [2, 5, 50])
def test_ties_flag_less_never_more(levels):
    """Scores of a few levels: at most alpha on average."""
    shares = flagged_shares(
        FirstColumn(), 0.05, n=199, repetitions=200, draw=lambda rng, n: rng.integers(0, levels, (n, 3)).astype(float)
    )
    assert shares.mean() <= 0.05 + CENTRAL * shares.std(ddof=1) / math.sqrt(200)


def test_p_values_of_ordinary_rows_are_super_uniform():
    """P(p <= t) <= t on every attainable level t, and equal to it without ties."""
    rng = np.random.default_rng(22)
    n, repetitions, fresh = 39, 4000, 5
    p = np.array([calibrated(rng.normal(size=n), 0.1).p_value(rng.normal(size=(fresh, 1))) for _ in range(repetitions)])
    for k in range(1, n + 2):
        share = (p <= k / (n + 1)).mean(axis=1)
        assert abs(share.mean() - k / (n + 1)) <= 4.5 * share.std(ddof=1) / math.sqrt(repetitions) + 1e-12


def test_p_values_with_ties_are_super_uniform():
    """P(p <= t) <= t with scores that are small whole numbers."""
    rng = np.random.default_rng(23)
    n, repetitions = 39, 4000
    p = np.array(
        [calibrated(rng.poisson(2, n), 0.1).p_value(rng.poisson(2, (5, 1)).astype(float)) for _ in range(repetitions)]
    )
    for k in range(1, n + 2):
        share = (p <= k / (n + 1)).mean(axis=1)
        assert share.mean() <= k / (n + 1) + 4.5 * share.std(ddof=1) / math.sqrt(repetitions) + 1e-12


@settings(max_examples=300, deadline=None)
@given(
    scores=st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e38, 1e38)), min_size=1, max_size=120),
    hundredths=st.integers(1, 99),
    data=st.data(),
)
def test_the_threshold_and_the_p_value_never_disagree(scores, hundredths, data):
    """is_outlier is p <= alpha, for calibration scores, their neighbours (which tie with them) and anything else."""
    alpha = hundredths / 100
    if Fraction(hundredths, 100) * (len(scores) + 1) < 1:
        with pytest.raises(ProfileError, match="cannot be promised"):
            calibrated(scores, alpha)
        return
    detector = calibrated(scores, alpha)
    tested = list(scores) + [np.nextafter(s, np.inf) for s in scores] + [np.nextafter(s, -np.inf) for s in scores]
    tested.append(data.draw(st.floats(-1e38, 1e38)))
    rows = np.array(tested)[:, None]
    whole = [Fraction(1 + sum(c >= s - TIE * abs(s) for c in scores), len(scores) + 1) for s in tested]
    by_definition = [p <= Fraction(hundredths, 100) for p in whole]
    assert detector.is_outlier(rows).tolist() == by_definition
    assert (detector.p_value(rows) <= alpha).tolist() == by_definition
    np.testing.assert_array_equal(detector.p_value(rows), [p.numerator / p.denominator for p in whole])


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 3000))
@example(n=48)
def test_the_smallest_alpha_that_can_be_promised_is_accepted(n):
    """alpha = 1/(n+1) is what the error message calls attainable; rounding must not refuse it (1/49 * 49 < 1)."""
    detector = calibrated(np.arange(n), 1 / (n + 1))
    assert detector.is_outlier(np.array([[n - 1.0], [n + 0.0]])).tolist() == [False, True]


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 500), alpha=st.floats(1e-4, 0.999))
def test_the_advice_in_the_error_is_right(n, alpha):
    """Whoever follows 'give at least m calibration rows' is not refused again."""
    try:
        calibrated(np.arange(n), alpha)
    except ProfileError as error:
        wanted = int(str(error).split("Give at least ")[1].split()[0])
        assert wanted > n
        calibrated(np.arange(wanted), alpha)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_an_alpha_that_is_no_share_is_refused(alpha):
    """The message names the value and what is wanted."""
    with pytest.raises(ProfileError, match="between 0 and 1"):
        calibrated(np.arange(100), alpha)


def test_an_alpha_below_the_smallest_p_value_is_refused_with_a_way_out():
    """A promise that cannot be kept is not made."""
    with pytest.raises(ProfileError, match="Give at least 999 calibration rows, or a larger alpha"):
        calibrated(np.arange(100), 0.001)


def test_constant_scores_flag_what_is_larger_and_nothing_else():
    """All calibration scores equal: the value itself is ordinary, p = 1."""
    detector = calibrated(np.full(99, 7.0), 0.05)
    rows = np.array([[6.0], [7.0], [7.1]])
    assert detector.is_outlier(rows).tolist() == [False, False, True]
    np.testing.assert_array_equal(detector.p_value(rows), [1.0, 1.0, 0.01])


def test_with_alpha_keeps_the_detector_and_moves_the_threshold():
    """Another alpha needs no second calibration; one that cannot be promised is refused as at first."""
    detector = calibrated(np.arange(100), 0.05)
    assert detector.with_alpha(0.5).threshold == np.arange(100)[100 - 50]
    assert detector.alpha == 0.05
    with pytest.raises(ProfileError):
        detector.with_alpha(0.001)


def test_one_row_has_the_p_value_it_has_in_a_batch():
    """The fast way for one row gives the same as the way for many, ties included."""
    detector = calibrated(np.random.default_rng(24).integers(0, 20, 200), 0.05)
    rows = np.arange(-2.0, 23.0, 0.5)[:, None]
    np.testing.assert_array_equal(detector.p_value(rows), [detector.p_value(row[None])[0] for row in rows])


def test_a_row_that_ties_with_the_calibration_is_ordinary_alone_and_in_a_batch():
    """Data of few values: the same row, asked for alone, must not score a hair more than its twin in the calibration."""
    patterns = np.array(np.meshgrid(*[range(4)] * 3)).reshape(3, -1).T.astype(float)
    differing = flagged_alone = flagged_together = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        detector = outliers.fit(rng.binomial(3, 0.3, size=(1000, 3)), alpha=0.05, seed=seed)
        together = detector.is_outlier(patterns)
        alone = np.array([detector.is_outlier(row[None])[0] for row in patterns])
        p_together, p_alone = detector.p_value(patterns), np.array([detector.p_value(row[None])[0] for row in patterns])
        differing += (together != alone).sum() + (p_together != p_alone).sum()
        weights = np.prod(np.array([0.343, 0.441, 0.189, 0.027])[patterns.astype(int)], axis=1)
        flagged_together += weights @ together / 20
        flagged_alone += weights @ alone / 20
    assert flagged_alone == pytest.approx(flagged_together, abs=1e-12)
    assert differing == 0


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf, 1e308, -1e308, 3.5e38], ids=str)
def test_what_the_reference_never_held_is_the_strangest(strange):
    """Not a number, infinite, beyond float32: an outlier with the smallest p-value and a finite score."""
    detector = outliers.fit(np.random.default_rng(25).normal(size=(1000, 3)), alpha=0.01)
    n = len(detector.calibration)
    for column in range(3):
        row = np.zeros((1, 3))
        row[0, column] = strange
        assert detector.is_outlier(row).tolist() == [True]
        assert detector.p_value(row).tolist() == [1 / (n + 1)]
        assert np.isfinite(detector.score(row)).all()


def test_a_strange_row_does_not_change_the_rows_around_it():
    """In a batch, the others score as they do alone."""
    detector = outliers.fit(np.random.default_rng(26).normal(size=(1000, 3)), alpha=0.01)
    rows = np.random.default_rng(27).normal(size=(50, 3))
    mixed = rows.copy()
    mixed[::7, 1] = [np.nan, np.inf, -np.inf, 1e308, np.nan, 1e39, -1e39, np.inf]
    others = np.arange(50) % 7 != 0
    np.testing.assert_array_equal(detector.score(mixed)[others], detector.score(rows)[others])
    assert detector.is_outlier(mixed)[~others].all()
    np.testing.assert_array_equal(np.isnan(mixed[::7, 1]), [True, False, False, False, True, False, False, False])


def test_the_largest_float32_is_still_a_value():
    """What float32 can hold goes to the detector, like scikit-learn."""
    detector = outliers.fit(np.random.default_rng(28).normal(size=(1000, 1)), alpha=0.01)
    assert detector.score(np.array([[3.4e38]]))[0] < 1.0


def test_missing_values_are_ordinary_where_training_had_them():
    """Column 1 was missing in 30 % of the reference: such rows are flagged at alpha too; column 0 never was."""
    rng = np.random.default_rng(29)

    def draw(n):
        X = rng.normal(size=(n, 2))
        X[rng.random(n) < 0.3, 1] = np.nan
        return X

    detector = outliers.fit(draw(4000), alpha=0.05)
    assert detector.is_outlier(draw(4000)).mean() < 0.08
    assert not detector.is_outlier(np.array([[0.0, np.nan]]))[0]
    assert detector.is_outlier(np.array([[np.nan, 0.0]]))[0]


@pytest.mark.parametrize("shape", [(3,), (1, 2), (1, 4), (2, 3, 1)], ids=str)
def test_rows_of_another_width_are_refused(shape):
    """The error names what is expected and what came."""
    detector = outliers.fit(np.random.default_rng(30).normal(size=(400, 3)), alpha=0.01)
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        detector.score(np.zeros(shape))


def test_no_rows_have_no_verdicts():
    """Zero rows are answered with zero numbers."""
    detector = outliers.fit(np.random.default_rng(31).normal(size=(400, 3)), alpha=0.01)
    rows = np.empty((0, 3))
    assert detector.score(rows).shape == detector.p_value(rows).shape == detector.is_outlier(rows).shape == (0,)


class Breaks:
    """A live detector that cannot score rows beyond 3."""

    def __init__(self, value):
        self.value = value

    def score(self, rows):
        """Score rows (n, d)."""
        return np.where(np.abs(rows[:, 0]) > 3, self.value, np.abs(rows[:, 0]))


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_a_score_that_is_no_number_is_the_strangest_alone_and_in_a_batch(value):
    """A live detector's NaN: p-value and verdict agree with each other, for one row and for many."""
    detector = calibrate(Breaks(value), np.linspace(-1, 1, 99)[:, None], alpha=0.05, fill=NO_FILL)
    one, many = np.array([[4.0]]), np.array([[4.0], [0.0]])
    assert detector.p_value(one)[0] == detector.p_value(many)[0] == 0.01
    assert detector.is_outlier(one).tolist() == [True]
    assert detector.is_outlier(many).tolist() == [True, False]
    assert np.isfinite(detector.score(many)).all()


class Lists:
    """A live detector that answers with a list: calibrate() and check_detector() accept it."""

    def score(self, rows):
        """Score rows (n, d)."""
        return [float(abs(row[0])) for row in rows]


def test_a_detector_that_is_accepted_at_calibration_works_afterwards():
    """What calibrate() takes (it converts the scores), score() and is_outlier() take too."""
    detector = calibrate(Lists(), np.linspace(-1, 1, 99)[:, None], alpha=0.05, fill=NO_FILL)
    assert detector.is_outlier(np.array([[0.0], [9.0]])).tolist() == [False, True]
    assert detector.is_outlier(np.array([[9.0]])).tolist() == [True]


def test_calibration_rows_are_scored_as_rows_are_scored_later():
    """5 % of ordinary rows lie beyond float32: they are ordinary, so at most about alpha = 1 % may be flagged."""
    rng = np.random.default_rng(32)

    def draw(n):
        return np.where(rng.random((n, 1)) < 0.05, 1e39, rng.normal(size=(n, 1)))

    detector = outliers.fit(draw(2000), detector=Norm(), alpha=0.01)
    assert detector.is_outlier(draw(4000)).mean() <= 0.02


class Shaped:
    """Scores of the wrong shape."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.zeros((len(rows), 1))


def test_scores_of_another_shape_are_refused():
    """One score per row."""
    with pytest.raises(ProfileError, match="one score per row"):
        calibrate(Shaped(), np.zeros((50, 1)), alpha=0.05, fill=NO_FILL)


def test_calibration_scores_that_are_no_numbers_are_refused():
    """A detector that fails on ordinary rows cannot be calibrated."""
    with pytest.raises(ProfileError, match="no finite numbers"):
        calibrate(Breaks(np.nan), np.full((50, 1), 9.0), alpha=0.05, fill=NO_FILL)
