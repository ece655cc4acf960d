"""outliers.fit: the split, the fill, and what it refuses."""

import math

import numpy as np
import pytest

import guardrails as gr
from guardrails import outliers
from guardrails.errors import ProfileError
from guardrails.outliers import IsolationForest
from guardrails.outliers.kinds import read_detector

RNG_ROWS = np.random.default_rng(0).normal(size=(1000, 3))


class Remembers:
    """Keeps every row it is asked to score."""

    def __init__(self):
        self.seen = []

    def score(self, rows):
        """Score rows (n, d)."""
        self.seen.append(rows.copy())
        return rows[:, 0]


def test_a_fitted_detector_is_calibrated_on_all_rows_and_never_refitted():
    """It is asked to score X once, and nothing else."""
    detector = Remembers()
    calibrated = outliers.fit(RNG_ROWS, detector=detector, alpha=0.05)
    assert calibrated.detector is detector
    np.testing.assert_array_equal(np.vstack(detector.seen), RNG_ROWS)
    np.testing.assert_array_equal(calibrated.calibration, np.sort(RNG_ROWS[:, 0]))


@pytest.mark.parametrize(("share", "held"), [(0.3, 300), (0.5, 500), (0.1, 100)])
def test_the_share_kept_back_calibrates(share, held):
    """As many calibration scores as were asked for."""
    assert len(outliers.fit(RNG_ROWS, alpha=0.05, calibration=share).calibration) == held


def test_fit_and_calibration_rows_do_not_overlap(monkeypatch):
    """Every row is used once, on one side."""
    fitted_on = []

    class Spy(IsolationForest):
        """Remembers what it is fitted on."""

    def fit(rows, seed):
        fitted_on.append(rows)
        return Remembers()

    monkeypatch.setattr("guardrails.outliers.fitting.fitter", lambda name: fit)
    calibrated = outliers.fit(RNG_ROWS, alpha=0.05)
    scored = calibrated.detector.seen[0]
    together = np.vstack([fitted_on[0], scored])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(RNG_ROWS, axis=0))
    assert len(np.unique(together, axis=0)) == 1000


def test_the_seed_decides_everything():
    """Same seed, same scores; another seed, others."""
    first, same, other = (outliers.fit(RNG_ROWS, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.calibration, same.calibration)
    assert not np.array_equal(first.calibration, other.calibration)


def test_missing_values_are_filled_with_the_median_where_there_are_any():
    """NaN in `fill` says: missing here would be strange."""
    X = RNG_ROWS.copy()
    X[:100, 1] = np.nan
    detector = outliers.fit(X, alpha=0.01)
    np.testing.assert_array_equal(np.isnan(detector.fill), [True, False, True])
    assert detector.fill[1] == np.nanmedian(X[:, 1])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.empty((0, 3)), "shape"),
        (np.empty((3, 0)), "shape"),
        (np.array([[1.0, 2.0]]), "too few"),
        (np.column_stack([RNG_ROWS[:, 0], np.full(1000, np.nan)]), "columns 1 of X hold no value"),
        (np.where(np.arange(3000).reshape(1000, 3) == 4, np.inf, RNG_ROWS), "infinities in columns 1"),
        (np.where(np.arange(3000).reshape(1000, 3) == 5, -np.inf, RNG_ROWS), "infinities in columns 2"),
        (RNG_ROWS[:20], "cannot be promised"),
    ],
    ids=["1-d", "3-d", "no rows", "no columns", "one row", "all missing", "inf", "-inf", "too few for alpha"],
)
def test_rows_that_do_not_allow_it_are_refused(X, message):
    """A clear error, not a stack trace out of scikit-learn."""
    with pytest.raises(ProfileError, match=message):
        outliers.fit(X, alpha=0.01)


def test_values_beyond_float32_are_refused_or_handled_whichever_side_they_fall_on():
    """scikit-learn refuses them with an error of its own; ours has to name the column, or live with them."""
    for seed in range(8):
        X = RNG_ROWS[:400].copy()
        X[np.random.default_rng(seed).integers(0, 400, 4), 1] = 1e39
        try:
            outliers.fit(X, alpha=0.05, seed=seed)
        except ProfileError as error:
            assert "column" in str(error)  # noqa: PT017  # either answer is right


@pytest.mark.parametrize("share", [0.0, 1.0, -1, 2])
def test_a_calibration_share_that_is_none_is_refused(share):
    """Some rows fit, others calibrate."""
    with pytest.raises(ProfileError, match="no share of the rows"):
        outliers.fit(RNG_ROWS, calibration=share)


def test_an_unknown_detector_is_refused_by_name():
    """The message lists what there is."""
    with pytest.raises(ProfileError, match="'isolation_forest'"):
        outliers.fit(RNG_ROWS, detector="isolation forrest")


def test_an_unknown_kind_of_stored_detector_is_refused():
    """A profile from a later version says so."""
    with pytest.raises(ProfileError, match="knows no detector of kind 'oracle'"):
        read_detector("oracle", {})


def test_rare_missing_values_keep_alpha():
    """Each of 300 columns is missing in one row of 500: ordinary rows with a gap are still flagged at alpha only."""
    rng = np.random.default_rng(33)
    d, n, alpha = 300, 500, 0.05

    def draw(size):
        X = rng.normal(size=(size, d))
        X[rng.random(X.shape) < 1 / n] = np.nan
        return X

    shares = [outliers.fit(draw(n), detector=Remembers(), alpha=alpha).is_outlier(draw(500)).mean() for _ in range(20)]
    se = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert np.mean(shares) <= alpha + 3.3 * se, np.mean(shares)


def test_rare_categories_keep_alpha():
    """A long tail of categories: some fresh ordinary rows hold one that training did not, and alpha still holds."""
    rng = np.random.default_rng(34)

    def draw(size):
        return np.column_stack([np.minimum(rng.zipf(1.6, size), 900), rng.normal(size=size)])

    shares = []
    for seed in range(5):
        profile = gr.Profile.fit(draw(1000), categorical=[0], alpha=0.05, seed=seed)
        from guardrails.core.payload import read

        shares.append(profile.outliers.is_outlier(read(draw(2000), profile.layout).matrix).mean())
    assert np.mean(shares) <= 0.05 + 3.3 * np.std(shares, ddof=1) / math.sqrt(5), shares
