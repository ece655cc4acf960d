"""combine(): several detectors as one, and alpha still exact, however they depend on each other."""

import itertools
import math

import numpy as np
import pytest
from sklearn.svm import OneClassSVM

from guardrails import outliers
from guardrails.errors import ProfileError
from guardrails.outliers import IsolationForest, calibrate
from guardrails.outliers.calibration import STRANGEST
from guardrails.outliers.kinds import read_detector
from guardrails.outliers.voting import _RULES, Combined, Vote, combine
from guardrails.testing import check_detector

CENTRAL = 3.2905
"""Half the width of a 99.9 % interval, in standard errors."""
RULES = list(_RULES)
ROWS = np.random.default_rng(0).normal(size=(600, 3))


class Column:
    """One column is the score."""

    def __init__(self, column, scale=1.0):
        self.column, self.scale = column, scale

    def score(self, rows):
        """Score rows (n, d)."""
        return self.scale * rows[:, self.column]


class Norm:
    """Distance from zero."""

    def score(self, rows):
        """Score rows (n, d)."""
        return np.sqrt((rows**2).sum(axis=1))


def heavy(rng, n):
    """Rows with very heavy tails, the columns far from independent."""
    common = rng.standard_cauchy(size=(n, 1))
    return common + 0.1 * rng.standard_cauchy(size=(n, 3))


def normal(rng, n):
    """Ordinary rows."""
    return rng.normal(size=(n, 3))


@pytest.mark.parametrize("merge", RULES)
@pytest.mark.parametrize("draw", [normal, heavy])
@pytest.mark.parametrize(
    "members",
    [(Norm(), Norm()), (Norm(), Column(0), Column(0, 3.0)), (Column(0), Column(0, -1.0))],
    ids=["the same twice", "strongly dependent", "opposed"],
)
def test_alpha_is_exact_however_the_members_depend_on_each_other(merge, draw, members):
    """Over 200 splits the mean share flagged is floor(alpha (n + 1)) / (n + 1), up to its 99.9 % interval."""
    rng = np.random.default_rng(1)
    n, alpha, shares = 199, 0.05, []
    for seed in range(200):
        vote = combine(*members, merge=merge).fit_members(draw(rng, 60), seed)
        shares.append(calibrate(vote, draw(rng, n), alpha=alpha).is_outlier(draw(rng, 300)).mean())
    promised = math.floor(alpha * (n + 1)) / (n + 1)
    assert abs(np.mean(shares) - promised) <= CENTRAL * np.std(shares, ddof=1) / math.sqrt(200), np.mean(shares)


def test_alpha_holds_through_fit_with_members_that_are_fitted():
    """outliers.fit as users call it: 40 splits, two small forests of the same rows and a distance."""
    rng = np.random.default_rng(2)
    shares = []
    for seed in range(40):
        vote = combine(lambda rows: IsolationForest.fit(rows, trees=5), "isolation_forest", Norm())
        detector = outliers.fit(rng.normal(size=(300, 3)), detector=vote, alpha=0.1, calibration=0.33, seed=seed)
        shares.append(detector.is_outlier(rng.normal(size=(500, 3))).mean())
    assert len(detector.calibration) == 99
    assert abs(np.mean(shares) - 0.1) <= CENTRAL * np.std(shares, ddof=1) / math.sqrt(40), np.mean(shares)


@pytest.mark.parametrize("merge", RULES)
def test_rows_score_alone_as_in_a_batch(merge):
    """The detector protocol, and the same bits one by one."""
    vote = combine("isolation_forest", Norm(), merge=merge).fit_members(ROWS, 0)
    check_detector(vote, ROWS[:100])
    rows = np.vstack([ROWS[:100], 20 * ROWS[:20], 1e9 * ROWS[:5]])
    np.testing.assert_array_equal([vote.score_one(row) for row in rows], vote.score(rows))
    assert vote.score(rows[:0]).shape == (0,)


@pytest.mark.parametrize("merge", RULES)
def test_the_score_rises_with_each_member(merge):
    """Never falls when one member's score rises, within the held-out scores, between and far beyond them."""
    vote = Vote((Column(0), Column(1)), (np.linspace(-2, 2, 50), np.array([0.0, 0.0, 1.0, 5.0])), merge)
    grid = np.r_[np.linspace(-3, 7, 101), 1e2, 1e4, 1e8]
    for other in (-1.0, 0.5, 6.0):
        rows = np.column_stack([grid, np.full(len(grid), other)])
        assert (np.diff(vote.score(rows)) >= 0).all()
        assert (np.diff(vote.score(rows[:, ::-1])) >= 0).all()


@pytest.mark.parametrize("merge", ["bonferroni", "fisher", "harmonic"])
def test_far_rows_do_not_tie(merge):
    """Beyond the largest held-out score a p-value can fall no further; the score still tells far from farther."""
    vote = combine(Norm(), Column(0), merge=merge).fit_members(ROWS, 0)
    far = np.array([[5.0, 0, 0], [6.0, 0, 0], [60.0, 0, 0], [6e6, 0, 0]])
    assert (np.diff(vote.score(far)) > 0.1).all()


def test_surprise_is_minus_the_logarithm_of_the_p_value():
    """At each held-out score exactly, tied ones included; between them, between their neighbours'."""
    scale = np.array([1.0, 2.0, 2.0, 2.0 * (1 + 1e-15), 5.0])
    vote = Vote((Column(0), Column(0)), (scale, scale), "bonferroni")
    p = np.exp(-vote.score(np.array([[1.0], [2.0], [5.0], [0.0], [3.5]])))
    np.testing.assert_allclose(p[:4], [1.0, 5 / 6, 2 / 6, 1.0])
    assert 2 / 6 < p[4] < 5 / 6


def test_a_tie_stays_a_tie_where_a_score_differs_in_its_last_bits():
    """Scores of few values with rounding noise on them: a row is not torn from its twins."""
    scale = np.sort(np.repeat([1.0, 2.0], 50) * (1 + 1e-16 * np.arange(100)))
    vote = Vote((Column(0), Column(0)), (scale, scale), "fisher")
    noisy = 2.0 * (1 + 1e-16 * np.array([[0], [60], [75], [90], [200]]))
    assert len(np.unique(noisy)) == 5
    np.testing.assert_allclose(vote.score(noisy), vote.score(noisy)[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("merge", "expected"), [("bonferroni", 0.01), ("fisher", 0.005), ("mean", 0.255), ("harmonic", 1 / 51)]
)
def test_the_rules_are_those_they_are_named_after(merge, expected):
    """Of p-values .01 and .5: the least, the product, the two means."""
    assert math.exp(-_RULES[merge]([-math.log(0.01), -math.log(0.5)])) == pytest.approx(expected)


def test_different_strangeness_is_seen_by_one_or_the_other():
    """Each member is blind to one of two rows; the combination sees both."""
    detector = outliers.fit(ROWS, detector=combine(Column(0), Column(1)), alpha=0.02)
    assert detector.is_outlier(np.array([[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]])).tolist() == [True, True, False]


class Breaks:
    """Cannot put a number on rows beyond 3."""

    def __init__(self, value):
        self.value = value

    def score(self, rows):
        """Score rows (n, d)."""
        return np.where(rows[:, 0] > 3, self.value, rows[:, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("merge", ["bonferroni", "fisher", "harmonic"])
def test_a_vote_that_is_no_number_is_the_strangest(merge, value):
    """And a finite number for whoever asks, wherever the member stands."""
    rows = np.array([[4.0, 0, 0], [0.0, 0, 0]])
    for members in itertools.permutations([Breaks(value), Norm()]):
        vote = Vote(members, (np.linspace(-3, 3, 50),) * 2, merge)
        assert vote.score(rows)[0] == vote.score_one(rows[0]) == STRANGEST
        assert vote.score(rows)[1] < 10


class Ranked:
    """A live detector whose scores depend on the batch; each row by itself has another way."""

    def score(self, rows):
        """Score rows (n, d)."""
        return rows[:, 0].argsort().argsort().astype(float)

    def score_each(self, rows):
        """Score rows (n, d) one by one."""
        return np.abs(rows[:, 0])


def test_members_that_depend_on_the_batch_are_asked_row_by_row():
    """The combination does not depend on it."""
    vote = combine(Ranked(), Norm()).fit_members(ROWS, 0)
    check_detector(vote, ROWS[:50])
    np.testing.assert_array_equal(vote.scales[0], np.sort(np.abs(ROWS[:, 0])))
    np.testing.assert_array_equal([vote.score_one(row) for row in ROWS[:50]], vote.score(ROWS[:50]))


def test_fitted_members_are_not_refitted_and_scale_on_all_rows():
    """Nothing to fit, nothing to keep back; adopted objects of other packages are members too."""
    svm = OneClassSVM().fit(ROWS[:100])
    vote = combine(Norm(), svm).fit_members(ROWS[100:], 0)
    assert type(vote) is Vote
    assert vote.members[1].original is svm
    assert [len(scale) for scale in vote.scales] == [500, 500]
    assert not hasattr(vote, "arrays")
    assert vote.name.startswith("combined(")
    assert "sklearn.svm" in vote.name


def test_rows_that_fit_the_members_do_not_scale_them():
    """Every row is used once, on one side; the seed decides which, and the forest."""
    fitted_on = []

    def train(rows):
        fitted_on.append(rows)
        return Column(0)

    vote = combine(train, Norm(), held=0.4).fit_members(ROWS, 7)
    assert len(fitted_on[0]) == 360
    together = np.r_[fitted_on[0][:, 0], vote.scales[0]]
    np.testing.assert_array_equal(np.sort(together), np.sort(ROWS[:, 0]))
    first, same, other = (combine("isolation_forest", Norm()).fit_members(ROWS, seed).score(ROWS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_two_of_a_name_are_fitted_with_different_seeds():
    """Two forests, not one counted twice."""
    vote = combine("isolation_forest", "isolation_forest").fit_members(ROWS, 0)
    assert not np.array_equal(vote.members[0].score(ROWS), vote.members[1].score(ROWS))


@pytest.mark.parametrize("merge", RULES)
def test_compiled_members_make_a_compiled_detector(merge):
    """Arrays without objects, read back to the same bits, also as a member of another combination."""
    inner = combine("mahalanobis", "knn", IsolationForest.fit(ROWS, trees=5), merge=merge).fit_members(ROWS, 0)
    outer = combine(inner, "isolation_forest").fit_members(ROWS, 0)
    for vote in (inner, outer):
        assert type(vote) is Combined
        arrays = vote.arrays()
        assert not any(array.dtype.hasobject for array in arrays.values())
        read = read_detector("combined", arrays)
        assert read.merge == vote.merge
        np.testing.assert_array_equal(read.score(ROWS), vote.score(ROWS))


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ((Norm(),), {}, "two or more"),
        ((Norm(), Norm()), {"merge": "median"}, "'bonferroni', 'fisher'"),
        ((Norm(), Norm()), {"held": 1.0}, "no share of the rows"),
        ((Norm(), "isolation forrest"), {}, "'isolation_forest'"),
    ],
    ids=["one", "rule", "held", "name"],
)
def test_what_cannot_be_combined_is_refused_when_it_is_written(members, options, message):
    """Not when somebody fits it."""
    with pytest.raises(ProfileError, match=message):
        combine(*members, **options)


def test_a_member_that_is_no_detector_is_refused():
    """As `adopt` does."""
    with pytest.raises(TypeError, match=r"has no score\(rows\)"):
        combine(Norm(), 7)


class Wide:
    """Two numbers per row."""

    def score(self, rows):
        """Score rows (n, d)."""
        return rows[:, :2]


@pytest.mark.parametrize(
    ("members", "n", "message"),
    [
        ((Norm(), Wide()), 100, "not one score a row"),
        ((Norm(), Breaks(np.nan)), 100, "no finite numbers"),
        ((Norm(), "isolation_forest"), 20, "20 rows are too few"),
        ((Norm(), Norm()), 5, "too few"),
    ],
    ids=["shape", "nan", "too few to split", "too few"],
)
def test_what_cannot_be_scaled_is_refused(members, n, message):
    """With the member's name, or the number of rows."""
    rows = ROWS[:n].copy()
    rows[0, 0] = 9.0
    with pytest.raises(ProfileError, match=message):
        combine(*members).fit_members(rows, 0)
