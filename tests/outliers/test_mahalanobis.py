"""The compiled Mahalanobis distance against scikit-learn's, and where a covariance alone would say nothing."""

import numpy as np
import pytest
from sklearn.covariance import OAS, EllipticEnvelope, EmpiricalCovariance, LedoitWolf, MinCovDet, ShrunkCovariance
from sklearn.decomposition import PCA

from guardrails.errors import ProfileError
from guardrails.outliers.mahalanobis import Mahalanobis

ESTIMATORS = {
    "empirical": EmpiricalCovariance(),
    "centred": EmpiricalCovariance(assume_centered=True),
    "without precision": EmpiricalCovariance(store_precision=False),
    "robust": MinCovDet(random_state=0),
    "envelope": EllipticEnvelope(random_state=0),
    "ledoit-wolf": LedoitWolf(),
    "oas": OAS(),
    "shrunk": ShrunkCovariance(),
}


def correlated(n, d, seed=0):
    """Correlated normal rows around 1."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d)) / d**0.5) + 1.0


def rounding_of(compiled, rows):
    """How far two honest evaluations of the same quadratic form may lie apart: each rounds every product and sum."""
    away = np.abs(rows - compiled.location)
    terms = np.einsum("ij,jk,ik->i", away, np.abs(compiled.precision), away)
    return 4 * rows.shape[1] * np.finfo(float).eps * terms


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("width", [1, 2, 10, 60])
def test_compiled_scores_are_scikit_learns(name, width):
    """Equal to 1e-12, near and far, for every estimator with a location and a precision."""
    X = correlated(1500, width)
    fitted = ESTIMATORS[name].fit(X)
    rows = np.vstack([correlated(3000, width, seed=1), 1e6 * correlated(50, width, seed=2)])
    np.testing.assert_allclose(Mahalanobis.compile(fitted).score(rows), fitted.mahalanobis(rows), rtol=1e-12)


@pytest.mark.parametrize("noise", [1e-3, 1e-5, 1e-7])
def test_a_nearly_singular_covariance_scores_as_scikit_learns_up_to_rounding(noise):
    """Large terms of the form cancel: the same number up to what rounding them allows, and not more."""
    X = correlated(1000, 5)
    X[:, 4] = X[:, :4].sum(axis=1) + noise * np.random.default_rng(3).normal(size=1000)
    fitted = EmpiricalCovariance().fit(X)
    compiled = Mahalanobis.compile(fitted)
    assert np.linalg.cond(fitted.covariance_) > 0.1 / noise**2
    assert (np.abs(compiled.score(X) - fitted.mahalanobis(X)) <= rounding_of(compiled, X)).all()


@pytest.mark.parametrize(("robust", "reference"), [(False, EmpiricalCovariance()), (True, MinCovDet(random_state=0))])
def test_fit_is_scikit_learns_fit_where_the_covariance_can_be_inverted(robust, reference):
    """Columns are standardised on the way, which changes rounding and nothing else."""
    X, rows = correlated(800, 6), correlated(2000, 6, seed=1)
    detector = Mahalanobis.fit(X, robust=robust, seed=0)
    np.testing.assert_allclose(detector.score(rows), reference.fit(X).mahalanobis(rows), rtol=1e-10)


@pytest.mark.parametrize("robust", [False, True])
def test_units_of_the_columns_do_not_matter(robust):
    """Columns between 1e-6 and 1e6 score as the same columns in one unit: a plain inverse would lose digits here."""
    X, rows = correlated(800, 5), correlated(500, 5, seed=1)
    units = np.array([1e-6, 1e6, 1.0, 1e-3, 1e4])
    plain, scaled = Mahalanobis.fit(X, robust=robust), Mahalanobis.fit(X * units, robust=robust)
    np.testing.assert_allclose(scaled.score(rows * units), plain.score(rows), rtol=1e-9)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("constant", [0.0, 0.1, -7e8, 3e-9])
def test_a_constant_column_is_silent_until_it_changes(constant, robust):
    """On the constant nothing is disturbed; off it the row is stranger than all others, and scores a number."""
    X, rows = correlated(500, 3), correlated(500, 3, seed=1)
    detector = Mahalanobis.fit(np.column_stack([X, np.full(500, constant)]), robust=robust)
    without = Mahalanobis.fit(X, robust=robust).score(rows)
    on = np.column_stack([rows, np.full(500, constant)])
    np.testing.assert_allclose(detector.score(on), without, rtol=1e-9)
    rounded = np.column_stack([rows, np.full(500, np.float32(constant), float)])
    np.testing.assert_allclose(detector.score(rounded), without, atol=0.01)
    off = on + np.array([0.0, 0.0, 0.0, 0.01 * abs(constant) or 0.01])
    assert detector.score(off).min() > 1e3 * without.max()
    assert np.isfinite(detector.score(off)).all()
    assert detector.contributions(off[0]).argmax() == 3


def test_a_row_that_breaks_an_exact_relation_between_columns_is_strange():
    """A sum of columns adds nothing while it holds, and is noticed when it does not: a pseudo-inverse would not."""
    X, rows = correlated(500, 3), correlated(300, 3, seed=1)
    detector = Mahalanobis.fit(np.column_stack([X, X.sum(axis=1)]))
    without = Mahalanobis.fit(X).score(rows)
    np.testing.assert_allclose(detector.score(np.column_stack([rows, rows.sum(axis=1)])), without, rtol=1e-6)
    assert detector.score(np.column_stack([rows, rows.sum(axis=1) + 0.1])).min() > 100 * without.max()


def test_outliers_in_the_reference_do_not_hide_from_the_robust_fit():
    """A tenth of the rows lie far away together: the plain covariance stretches to them, the robust one does not."""
    X = correlated(500, 3)
    X[:50] = X[:50] * 0.1 + 30.0
    ordinary = correlated(500, 3, seed=1)
    plain, robust = Mahalanobis.fit(X), Mahalanobis.fit(X, robust=True)
    assert robust.score(X[:50]).min() > 10 * robust.score(ordinary).max()
    assert plain.score(X[:50]).min() < 10 * plain.score(ordinary).max()


def test_one_row_is_a_reference_of_constants():
    """It scores zero, and everything else is strange."""
    detector = Mahalanobis.fit(np.array([[1.0, 0.0, -2.0]]))
    scores = detector.score(np.array([[1.0, 0.0, -2.0], [1.0, 0.5, -2.0]]))
    assert scores[0] == 0.0
    assert 1e6 < scores[1] < np.inf


def test_too_few_rows_for_a_robust_fit_are_refused():
    """The message names how many are needed."""
    with pytest.raises(ProfileError, match="4 columns needs at least 8 rows, not 7"):
        Mahalanobis.fit(correlated(7, 4), robust=True)


def test_rows_without_a_robust_covariance_are_refused():
    """More than half of them are the same."""
    X = np.zeros((100, 2))
    X[:5] = correlated(5, 2)
    with pytest.raises(ProfileError, match="robust=False"):
        Mahalanobis.fit(X, robust=True)
    assert np.isfinite(Mahalanobis.fit(X).score(X)).all()


def test_contributions_are_the_terms_of_the_form():
    """They add up to the score where none is negative, and to more where some are cut off."""
    X = correlated(500, 4)
    detector = Mahalanobis.fit(X)
    for row in correlated(100, 4, seed=1):
        away = row - detector.location
        terms = away * (detector.precision @ away)
        np.testing.assert_allclose(detector.contributions(row), np.maximum(terms, 0.0), atol=1e-12)
        assert detector.contributions(row).sum() >= detector.score_one(row) * (1 - 1e-12)
    assert detector.contributions(X.mean(axis=0) + np.array([0, 0, 9.0, 0])).argmax() == 2


def test_a_precision_that_overflows_is_refused():
    """Columns that vary by 1e-130 make the square of the largest float32 infinite; fit() knows to bound that."""
    X = 1e-130 * correlated(100, 2)
    with pytest.raises(ProfileError, match="one scale"):
        Mahalanobis.compile(EmpiricalCovariance().fit(X))
    assert Mahalanobis.fit(X).score(np.full((1, 2), 3.4e38))[0] < np.inf


def test_a_square_that_rounds_below_zero_is_zero():
    """As it may where the precision itself is spoilt by rounding."""
    detector = Mahalanobis(np.zeros(2), np.array([[1.0, -1.0 - 1e-15], [-1.0 - 1e-15, 1.0]]))
    row = np.array([1.0, 1.0])
    assert row @ detector.precision @ row < 0
    assert detector.score(row[None, :]).tolist() == [0.0]
    assert detector.score_one(row) == 0.0


@pytest.mark.parametrize(
    "stranger", [EmpiricalCovariance(), PCA().fit(np.eye(3)), None], ids=["unfitted", "PCA", "None"]
)
def test_what_is_no_fitted_covariance_is_refused(stranger):
    """compile() says what it wants."""
    with pytest.raises(TypeError, match="no fitted scikit-learn covariance"):
        Mahalanobis.compile(stranger)
