"""Calibrating anew: alpha holds on recent traffic, and the threshold does not creep."""

import numpy as np
import pytest

from guardrails import outliers
from guardrails.errors import ProfileError
from guardrails.outliers import CalibratedDetector, calibrate, recalibrate


class Norm:
    """Distance from zero."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.sqrt((rows**2).sum(axis=1))


@pytest.fixture
def detector():
    """Calibrated on two standard normal columns."""
    return calibrate(Norm(), np.random.default_rng(0).normal(size=(5000, 2)), alpha=0.05)


def ordinary(n, seed, width=1.0):
    """Rows like those, or wider."""
    return width * np.random.default_rng(seed).normal(size=(n, 2))


def test_the_threshold_does_not_creep_on_traffic_that_does_not_change(detector):
    """Thirty recalibrations in a row on traffic as before, always without what was flagged: the share stays alpha."""
    now = detector
    for step in range(30):
        now = recalibrate(now, now.score(ordinary(5000, step))).after
    share = now.is_outlier(ordinary(100_000, 99)).mean()
    assert 0.035 < share < 0.065, share
    # Had the flagged rows simply been left out, each step would have cut five per cent off the one before.
    naive = detector
    for step in range(30):
        scores = naive.score(ordinary(5000, step))
        naive = CalibratedDetector(Norm(), np.sort(scores[scores <= naive.threshold]), 0.05, naive.fill)
    assert naive.is_outlier(ordinary(100_000, 99)).mean() > 0.2


def test_outliers_do_not_calibrate(detector):
    """A tenth of the recent traffic is strange: the threshold hardly moves."""
    recent = np.vstack([ordinary(4500, 1), 50 + ordinary(500, 2)])
    done = recalibrate(detector, detector.score(recent))
    assert done.after.threshold == pytest.approx(detector.threshold, rel=0.1)
    assert done.rows == 5000
    assert done.used < 4800
    assert calibrated_with_everything(detector, recent).threshold > 30


def calibrated_with_everything(detector, recent):
    """What somebody gets who says that all of it is ordinary."""
    return recalibrate(detector, detector.score(recent), all_ordinary=True).after


def test_wider_traffic_that_is_ordinary_is_let_through(detector):
    """All of it is known to be ordinary: alpha holds on it again."""
    done = recalibrate(detector, detector.score(ordinary(5000, 3, width=2.0)), all_ordinary=True)
    assert done.flagged_before > 0.3
    assert done.flagged_after == pytest.approx(0.05, abs=0.001)
    assert 0.04 < done.after.is_outlier(ordinary(50_000, 4, width=2.0)).mean() < 0.06


def test_too_few_rows_and_groups_without_rows_are_refused(detector):
    """With a sentence each."""
    with pytest.raises(ProfileError, match="cannot be promised with 10 calibration rows"):
        recalibrate(detector, detector.score(ordinary(10, 5)), all_ordinary=True)
    rows = np.column_stack([np.arange(1000) % 2, ordinary(1000, 6)])
    grouped = outliers.fit(rows, alpha=0.05, group_by=0, detector=Norm())
    with pytest.raises(ProfileError, match="by group, so the recent rows themselves are needed"):
        recalibrate(grouped, grouped.score(rows))
    again = recalibrate(grouped, grouped.score(rows), rows=rows, all_ordinary=True).after
    assert set(again.by_group) == {"0", "1", "rest"}
    assert again.is_outlier(rows).mean() == pytest.approx(0.05, abs=0.01)
