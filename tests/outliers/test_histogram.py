"""The histogram score against bins counted by hand."""

import math

import numpy as np
import pytest

from guardrails.errors import ProfileError
from guardrails.outliers.histogram import Histogram

COLUMN = np.r_[np.zeros(6), 1.1, 1.2, 4.0][:, None]
"""Four bins of width 1 hold 6, 2, 0 and 1 rows."""


@pytest.mark.parametrize(
    ("value", "height"),
    [(0.0, 6.5), (0.99, 6.5), (1.0, 2.5), (1.99, 2.5), (2.0, 0.5), (2.99, 0.5), (3.0, 1.5), (4.0, 1.5)],
)
def test_a_value_costs_the_log_of_its_bins_height(value, height):
    """Relative to the fullest bin; half a row stands in every bin; the last bin holds its far edge."""
    detector = Histogram.fit(COLUMN, bins=4)
    assert detector.score_one(np.array([value])) == pytest.approx(math.log(6.5 / height), abs=1e-12)


@pytest.mark.parametrize("value", [-1e-9, 4.0 + 1e-9, -2.0, 9.0, -1e6, 3e38])
def test_out_of_range_an_empty_bin_and_one_per_standard_deviation(value):
    """Just outside costs what an empty bin does; farther is stranger, without end."""
    beyond = max(-value, value - 4.0) / COLUMN.std()
    score = Histogram.fit(COLUMN, bins=4).score_one(np.array([value]))
    assert score == pytest.approx(math.log(6.5 / 0.5) + beyond, rel=1e-12)
    assert math.isfinite(score)


def test_far_is_stranger_than_near():
    """Strictly, on both sides, over the whole range of float32."""
    detector = Histogram.fit(np.random.default_rng(0).normal(size=(500, 1)))
    outward = np.geomspace(4.0, 3.4e38, 200)[:, None]
    assert (np.diff(detector.score(outward)) > 0).all()
    assert (np.diff(detector.score(-outward)) > 0).all()
    assert detector.score(outward)[0] > detector.score(np.linspace(-3, 3, 500)[:, None]).max() - 1e-12


def test_columns_add_up():
    """The score of a row is the sum of its values' scores, and these are the contributions."""
    rng = np.random.default_rng(1)
    X, rows = rng.normal(size=(400, 5)), 2 * rng.normal(size=(100, 5))
    alone = np.column_stack([Histogram.fit(X[:, [j]]).score(rows[:, [j]]) for j in range(5)])
    detector = Histogram.fit(X)
    np.testing.assert_allclose(detector.score(rows), alone.sum(axis=1), rtol=1e-12)
    for row, parts in zip(rows, alone, strict=True):
        np.testing.assert_allclose(detector.contributions(row), parts, rtol=1e-12)


def test_the_number_of_bins_follows_the_number_of_rows():
    """Rice's rule: twice the cube root."""
    rng = np.random.default_rng(2)
    for n, bins in ((1, 2), (8, 4), (1000, 20), (27_000, 60)):
        assert Histogram.fit(rng.normal(size=(n, 2))).cost.shape == (2, bins)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7e8])
def test_a_constant_column_is_silent_until_it_changes(constant):
    """On the constant it costs nothing, off it more than everything else."""
    rng = np.random.default_rng(3)
    X, rows = rng.normal(size=(300, 2)), rng.normal(size=(100, 2))
    detector = Histogram.fit(np.column_stack([X, np.full(300, constant)]))
    without = Histogram.fit(X).score(rows)
    on = np.column_stack([rows, np.full(100, constant)])
    np.testing.assert_array_equal(detector.score(on), without)
    off = detector.score(on + np.array([0.0, 0.0, 0.01 * abs(constant) or 0.01]))
    assert off.min() > 100 * without.max()
    assert np.isfinite(off).all()


def test_units_of_the_columns_do_not_matter():
    """Columns of 1e-6 and 1e6 score as columns of 1."""
    rng = np.random.default_rng(4)
    X, rows, units = rng.normal(size=(500, 2)), 2 * rng.normal(size=(200, 2)), np.array([2.0**-20, 2.0**20])
    np.testing.assert_allclose(Histogram.fit(X * units).score(rows * units), Histogram.fit(X).score(rows), rtol=1e-12)


def test_no_bins_are_refused():
    """The message says what is meant."""
    with pytest.raises(ProfileError, match="at least one bin"):
        Histogram.fit(COLUMN, bins=0)
