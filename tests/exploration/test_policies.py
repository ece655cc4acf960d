"""Epsilon-greedy: the probabilities it states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guardrails.errors import DecorationError
from guardrails.exploration import EpsilonGreedy
from guardrails.testing import check_policy

SCORES = st.floats(allow_nan=False, allow_infinity=True)


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("actions", [1, 2, 10, 200])
def test_it_keeps_the_protocol(epsilon, actions):
    """testing.check_policy has nothing to say."""
    check_policy(EpsilonGreedy(epsilon), actions)


@settings(max_examples=200, deadline=None)
@given(
    scores=hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=2, max_side=12), elements=SCORES),
    epsilon=st.floats(0, 0.5),
)
def test_every_row_sums_to_one_and_the_first_best_leads(scores, epsilon):
    """Any scores: one action has 1 - epsilon + epsilon/K, the others epsilon/K each."""
    pmf = EpsilonGreedy(epsilon).pmf(scores)
    assert pmf.shape == scores.shape
    np.testing.assert_allclose(pmf.sum(axis=-1), 1.0, atol=1e-12)
    for row, probabilities in zip(np.atleast_2d(scores), np.atleast_2d(pmf), strict=True):
        expected = np.full(len(row), epsilon / len(row))
        expected[row.tolist().index(row.max())] += 1 - epsilon
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-15)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=SCORES), st.floats(0, 0.5))
def test_a_row_alone_has_the_probabilities_it_has_in_a_batch(scores, epsilon):
    """To the bit: a propensity is replayed from one row."""
    policy = EpsilonGreedy(epsilon)
    np.testing.assert_array_equal(policy.pmf(scores), [policy.pmf(row) for row in scores])


@pytest.mark.parametrize(
    "scores",
    [
        [0.5, 0.5, 0.5],
        [-np.inf, -np.inf],
        [np.inf, np.inf, 0.0],
        [1e308, -1e308, 1e308],
        [5e-324, 0.0],
        [0, 2, 2],
        [True, False],
    ],
    ids=str,
)
def test_ties_infinities_and_huge_scores(scores):
    """The first of several best ones is the greedy one, whatever the size or kind of the numbers."""
    pmf = EpsilonGreedy(0.2).pmf(np.array(scores))
    assert pmf.argmax() == int(np.argmax(scores))
    np.testing.assert_allclose(pmf.sum(), 1.0, atol=1e-15)
    np.testing.assert_allclose(np.sort(pmf)[:-1], 0.2 / len(scores))


@pytest.mark.parametrize("scores", [[np.nan, 1.0], [[0.0, 1.0], [1.0, np.nan]], [np.nan]], ids=str)
def test_a_score_that_is_no_number_is_refused(scores):
    """It cannot be compared, so nobody knows who leads."""
    with pytest.raises(ValueError, match="NaN"):
        EpsilonGreedy(0.1).pmf(np.array(scores))


@pytest.mark.parametrize("scores", [[], 3.0, np.empty((4, 0))], ids=["none", "number", "no columns"])
def test_no_action_is_refused(scores):
    """There has to be something to choose."""
    with pytest.raises(ValueError, match="no action"):
        EpsilonGreedy(0.1).pmf(np.array(scores))


def test_no_rows_have_no_probabilities():
    """Zero rows of three actions."""
    assert EpsilonGreedy(0.1).pmf(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("epsilon", [-0.1, 0.51, 1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_no_small_share_is_refused(epsilon):
    """At construction, with the limits in the message."""
    with pytest.raises(DecorationError, match=r"between 0 and 0.5"):
        EpsilonGreedy(epsilon)


def test_the_scores_are_not_changed():
    """And the answer is a fresh array each time."""
    scores = np.array([0.1, 0.9])
    policy = EpsilonGreedy(0.1)
    first = policy.pmf(scores)
    first[:] = 7
    np.testing.assert_array_equal(scores, [0.1, 0.9])
    np.testing.assert_allclose(policy.pmf(scores), [0.05, 0.95])


class Temperature:
    """Softmax, for the check."""

    def pmf(self, scores):
        """Probabilities."""
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)


class NotNormalised(Temperature):
    """Sums to two."""

    def pmf(self, scores):
        """Probabilities."""
        return 2 * super().pmf(scores)


class Negative(Temperature):
    """Sums to one with a negative entry."""

    def pmf(self, scores):
        """Probabilities."""
        pmf = super().pmf(scores)
        pmf[..., 0] -= 2
        pmf[..., 1] += 2
        return pmf


class RandomItself(Temperature):
    """Draws."""

    def pmf(self, scores):
        """Probabilities."""
        pmf = np.zeros_like(scores)
        pmf[..., np.random.default_rng().integers(scores.shape[-1])] = 1
        return pmf


class FavoursTheFirst(Temperature):
    """By position, not by score."""

    def pmf(self, scores):
        """Probabilities."""
        pmf = np.zeros_like(scores)
        pmf[..., 0] = 1
        return pmf


class OneRowOnly(Temperature):
    """Forgets the row axis."""

    def pmf(self, scores):
        """Probabilities."""
        return super().pmf(scores.reshape(-1))


def test_another_correct_policy_passes_the_check():
    """Softmax is fine."""
    check_policy(Temperature())


@pytest.mark.parametrize("broken", [NotNormalised, Negative, RandomItself, FavoursTheFirst, OneRowOnly])
def test_broken_policies_are_found(broken):
    """Each breaks one sentence of the protocol."""
    with pytest.raises(AssertionError):
        check_policy(broken(), 6)
