"""Which values made a row strange."""

import numpy as np
import pytest

import guardrails as gr
from guardrails import outliers
from guardrails.outliers.calibration import MAX_OCCLUDED

KINDS = ["isolation_forest", "mahalanobis", "knn", "hbos", "ecod", "feature_space"]


@pytest.fixture(scope="module")
def X():
    """Ordinary rows: eight columns of very different widths."""
    return np.random.default_rng(0).normal(size=(1200, 8)) * 10.0 ** np.arange(-3, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_guilty_column_is_named(X, kind):
    """One value far out, in each column in turn: its share is the largest, and shares add up to one."""
    detector = outliers.fit(X, detector=kind, alpha=0.05)
    for column in range(8):
        row = np.median(X, axis=0)
        row[column] += 12 * X[:, column].std()
        shares = detector.contributions(row)
        assert shares.argmax() == column, (kind, shares)
        assert shares.sum() == pytest.approx(1.0)
        assert (shares >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_two_guilty_columns_share_the_blame(X, kind):
    """Both are named before any other."""
    detector = outliers.fit(X, detector=kind, alpha=0.05)
    row = np.median(X, axis=0)
    row[[2, 6]] += 12 * X[:, [2, 6]].std(axis=0)
    assert set(np.argsort(-detector.contributions(row))[:2]) == {2, 6}


def test_a_value_that_cannot_be_is_the_whole_reason():
    """Infinite, or missing where nothing ever was; a gap where there were gaps is judged by what fills it."""
    X = np.random.default_rng(1).normal(size=(500, 3))
    X[::10, 2] = np.nan
    detector = outliers.fit(X, alpha=0.05)
    assert detector.contributions(np.array([np.inf, 9.0, 0.0])).tolist() == [1.0, 0.0, 0.0]
    assert detector.contributions(np.array([np.nan, -np.inf, 0.0])).tolist() == [0.5, 0.5, 0.0]
    assert detector.contributions(np.array([0.0, 9.0, np.nan])).argmax() == 1


def test_a_live_detector_of_many_columns_is_not_asked_a_thousand_times():
    """Occlusion costs a score for each column: above a limit nobody is named."""

    class Live:
        """Counts what it is asked."""

        asked = 0

        def score(self, rows):
            """Score rows (n, d)."""
            self.asked += len(rows)
            return np.abs(rows).sum(axis=1)

    live = Live()
    wide = np.random.default_rng(2).normal(size=(200, MAX_OCCLUDED + 1))
    detector = outliers.fit(wide, detector=live, alpha=0.05)
    live.asked = 0
    assert not detector.contributions(10 * wide[0]).any()
    assert live.asked == 0


def test_names_reach_the_refusal_and_never_the_values():
    """The body of the 422 names features with their shares; what the client sent is not in it."""
    names = ["age", "dose", "weight"]
    X = np.random.default_rng(3).normal(size=(800, 3))
    profile = gr.Profile.fit(X, feature_names=names, alpha=0.05)

    @gr.check_outliers(profile)
    def predict(rows):
        return [0.0] * len(rows)

    with pytest.raises(gr.Rejected) as caught:
        predict([[0.1, 31.4159, 0.2], [0.0, 0.0, 0.0], [27.1828, 0.0, -27.1828]])
    first, second = caught.value.details
    assert next(iter(first["features"])) == "dose"
    assert set(list(second["features"])[:2]) == {"age", "weight"}
    assert "31.4159" not in str(caught.value.body())
    assert "27.1828" not in str(caught.value.body())
