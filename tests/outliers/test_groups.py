"""Calibration by group, and what one calibration set promises."""

import math

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails import outliers
from guardrails.errors import ProfileError
from guardrails.outliers import CalibratedDetector, calibrate
from guardrails.outliers.conformal import Groups, share_interval

CENTRAL = 3.2905
"""Half the width of a 99.9 % interval, in standard errors."""
ALPHA = 0.05


class Norm:
    """Distance from zero of all columns but the first, which names the group."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.sqrt((rows[:, 1:] ** 2).sum(axis=1))


def draw(rng, n):
    """Two groups: the second is a tenth of the traffic, and four times as wide."""
    group = (rng.random(n) < 0.1).astype(float)
    return np.column_stack([group, rng.normal(size=(n, 2)) * (1 + 3 * group)[:, None]])


def test_alpha_holds_within_each_group_and_not_only_over_all():
    """200 calibration sets: each group's share is its own floor(alpha (n_g + 1)) / (n_g + 1); pooled, it is far off."""
    rng = np.random.default_rng(7)
    off, pooled = [], []
    for _ in range(200):
        rows, fresh = draw(rng, 1000), draw(rng, 4000)
        by_group = calibrate(Norm(), rows, alpha=ALPHA, group_by=0)
        together = calibrate(Norm(), rows, alpha=ALPHA)
        for code in (0.0, 1.0):
            mine = fresh[fresh[:, 0] == code]
            n = int((rows[:, 0] == code).sum())
            off.append((code, by_group.is_outlier(mine).mean() - math.floor(ALPHA * (n + 1)) / (n + 1)))
            pooled.append((code, together.is_outlier(mine).mean()))
    for code in (0.0, 1.0):
        mine = np.array([value for own, value in off if own == code])
        assert abs(mine.mean()) <= CENTRAL * mine.std(ddof=1) / math.sqrt(len(mine)), code
    assert np.mean([share for code, share in pooled if code == 1.0]) > 0.3
    assert np.mean([share for code, share in pooled if code == 0.0]) < 0.02


def test_one_row_and_a_batch_agree_by_group():
    """Scores, p-values, thresholds and verdicts, for known groups, one never seen and a missing one."""
    rng = np.random.default_rng(3)
    detector = calibrate(Norm(), draw(rng, 800), alpha=ALPHA, group_by=0, fill=np.array([0.0, np.nan, np.nan]))
    rows = draw(rng, 200)
    rows[:5, 0], rows[5:10, 0] = 7.0, np.nan
    judged = detector.judge(rows)
    for at, row in enumerate(rows):
        score, p_value, threshold = detector.judge_one(row[None], row.tolist())
        assert score == pytest.approx(judged.scores[at], rel=1e-12)
        assert (p_value, threshold) == (judged.p_values[at], judged.thresholds[at])
        assert detector.is_outlier_one(score, threshold) == judged.mask[at]
        assert judged.mask[at] == (judged.p_values[at] <= ALPHA)


def test_small_groups_are_taken_together():
    """Groups that alpha cannot be promised for share a calibration; a stranger is compared with them."""
    codes = np.repeat([0.0, 1.0, 2.0, 3.0], [100, 12, 12, 3])
    scores = np.arange(127.0)
    groups = Groups.of(0, codes, scores, ALPHA)
    assert list(groups.scores) == [0.0]
    np.testing.assert_array_equal(groups.rest, scores[100:])
    assert groups.of_row(9.0) is groups.rest
    # Too few of them even together: then everybody is who they are compared with.
    few = Groups.of(0, codes[:105], scores[:105], ALPHA)
    np.testing.assert_array_equal(few.rest, scores[:105])
    with pytest.raises(ProfileError, match="no group of column 0 has the 19 calibration rows"):
        Groups.of(0, np.arange(100.0), np.arange(100.0), ALPHA)


def test_a_smaller_alpha_than_a_group_can_promise_is_refused_by_name():
    """The message names the group, and what it would need."""
    detector = calibrate(Norm(), draw(np.random.default_rng(0), 600), alpha=ALPHA, group_by=0)
    with pytest.raises(ProfileError, match=r"cannot be promised with \d+ calibration rows of group 1"):
        detector.with_alpha(0.005)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_the_interval_of_the_share_covers_what_it_says(alpha):
    """Over 2000 calibration sets of 400, the true share lies in the 90 % interval in 90 % of them."""
    rng = np.random.default_rng(11)
    low, high = share_interval(alpha, 400, 0.9)
    inside = 0
    for _ in range(2000):
        threshold = CalibratedDetector(Norm(), np.sort(rng.random(400)), alpha, np.zeros(2)).threshold
        inside += low <= 1 - threshold <= high  # uniform scores: the share above a threshold is known exactly
    assert abs(inside / 2000 - 0.9) <= CENTRAL * math.sqrt(0.9 * 0.1 / 2000)


def test_a_profile_keeps_its_groups(tmp_path):
    """By the name of a categorical column, through the store and back, with the same verdicts."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    rng = np.random.default_rng(5)
    rows = draw(rng, 2000)
    frame = pd.DataFrame({"country": np.where(rows[:, 0] > 0, "no", "de"), "a": rows[:, 1], "b": rows[:, 2]})
    profile = gr.Profile.fit(frame, categorical=["country"], group_by="country", alpha=ALPHA)
    assert set(profile.outliers.by_group) == {"0", "1", "rest"}
    (tmp_path / "models").mkdir()
    BentoMLContainer.model_store.set(ModelStore(str(tmp_path / "models")))
    try:
        again = gr.Profile.load(profile.save("by-country"))
    finally:
        BentoMLContainer.model_store.reset()
    fresh = draw(rng, 500)
    for mine, other in zip(profile.outliers.judge(fresh), again.outliers.judge(fresh), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert again.digest == profile.digest
    with pytest.raises(ProfileError, match="names no column"):
        gr.Profile.fit(frame, categorical=["country"], group_by="land")
    with pytest.raises(ProfileError, match="names no column"):
        outliers.fit(rows, group_by=3)


def test_scores_that_differ_in_the_last_bits_tie():
    """A row equal to a calibration row is no stranger than it, however its score was summed up."""
    scores = np.array([1.0, 2.0, 3.0])
    detector = CalibratedDetector(Norm(), scores, 0.25, np.zeros(2))
    for score in (3.0, np.nextafter(3.0, 4.0), 3.0 * (1 + 5e-13)):
        assert not detector.is_outlier_one(score, detector.threshold)
        assert detector.p_value_of(np.array([score])) == 0.5
    assert detector.is_outlier_one(3.0 * (1 + 1e-11), detector.threshold)
