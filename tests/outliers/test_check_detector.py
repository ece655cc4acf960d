"""testing.check_detector: the forest passes, and what is broken is found."""

import numpy as np
import pytest

from guardrails import outliers
from guardrails.outliers import IsolationForest
from guardrails.testing import check_detector

ROWS = np.random.default_rng(0).normal(size=(300, 4))


class Good:
    """Distance from zero, correctly."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.abs(rows).sum(axis=1)


class TwoDimensional(Good):
    """One column too many."""

    def score(self, rows):
        """Score rows (n, d)."""
        return super().score(rows)[:, None]


class OneScore(Good):
    """One number for all."""

    def score(self, rows):
        """Score rows (n, d)."""
        return super().score(rows).mean()


class NotFinite(Good):
    """NaN for the middle."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.where(np.arange(len(rows)) == len(rows) // 2, np.nan, super().score(rows))


class Mutates(Good):
    """Standardises in place."""

    def score(self, rows):
        """Score rows (n, d)."""
        rows -= rows.mean(axis=0)
        return super().score(rows)


class Ranks(Good):
    """Scores by rank within the batch."""

    def score(self, rows):
        """Score rows (n, d)."""
        return super().score(rows).argsort().argsort().astype(float)


class Cumulates(Good):
    """Depends on the rows before."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.maximum.accumulate(super().score(rows))


class Inverted(Good):
    """scikit-learn's sign: higher is more ordinary."""

    def score(self, rows):
        """Score rows (n, d)."""
        return -super().score(rows)


class Random(Good):
    """Another score each time."""

    def score(self, rows):
        """Score rows (n, d)."""
        return super().score(rows) + np.random.default_rng().normal(size=len(rows))


class Labels(Good):
    """Answers 'outlier or not' with no order inside: never above the median far out."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.zeros(len(rows))


@pytest.mark.parametrize(
    "detector",
    [Good(), IsolationForest.fit(ROWS, trees=20), outliers.fit(ROWS, alpha=0.05)],
    ids=["simple", "forest", "calibrated"],
)
def test_detectors_that_keep_the_protocol_pass(detector):
    """No complaint, and the rows are as they were."""
    before = ROWS.copy()
    check_detector(detector, ROWS)
    np.testing.assert_array_equal(ROWS, before)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (TwoDimensional, "shape"),
        (OneScore, "shape"),
        (NotFinite, "not finite"),
        (Mutates, "changes the rows"),
        (Ranks, "one row alone"),
        (Cumulates, "order of rows"),
        (Inverted, "higher has to be stranger"),
        (Random, "one row alone"),
        (Labels, "higher has to be stranger"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_detectors_are_found(broken, message):
    """Each complaint names what is wrong."""
    with pytest.raises(AssertionError, match=message):
        check_detector(broken(), ROWS.copy())


def test_a_detector_without_a_calibration_is_refused_where_it_is_written():
    """It says who is stranger than whom, and not what is too strange; the message says what makes it say that."""
    from sklearn.ensemble import IsolationForest as Fitted

    import guardrails as gr

    X = np.random.default_rng(0).normal(size=(100, 2))
    for detector in (Fitted(random_state=0).fit(X), gr.outliers.Mahalanobis.fit(X)):
        with pytest.raises(gr.DecorationError, match=r"Calibrate it on ordinary rows .*outliers\.fit\(X, detector="):
            gr.check_outliers(detector)(lambda rows: rows)
