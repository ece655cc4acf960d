"""Epsilon-greedy, the probabilities it states; and the check that any policy keeps its protocol."""

import sys
import types

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
        scores = np.asarray(scores, dtype=float)
        if scores.shape[-1] == 0 or np.isnan(scores).any():
            raise ValueError("no action, or NaN")
        top = scores.max(axis=-1, keepdims=True)
        weights = np.exp(np.where(scores == top, 0.0, scores - top))
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


class ChangesTheScores(Temperature):
    """Works in place."""

    def pmf(self, scores):
        """Probabilities."""
        scores += 1.0
        return super().pmf(scores)


class TakesNan(Temperature):
    """Counts a NaN as nothing."""

    def pmf(self, scores):
        """Probabilities."""
        return super().pmf(np.nan_to_num(scores, nan=0.0, posinf=1e300, neginf=-1e300))


class NanForInfinity(Temperature):
    """The textbook formula."""

    def pmf(self, scores):
        """Probabilities."""
        super().pmf(scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)


class RefusesHuge(Temperature):
    """Refuses what it could compare."""

    def pmf(self, scores):
        """Probabilities."""
        if (np.abs(scores) > 1e300).any():
            raise ValueError("too much for me")
        return super().pmf(scores)


class NothingFromNothing(Temperature):
    """No action, no probabilities, no error."""

    def pmf(self, scores):
        """Probabilities."""
        return super().pmf(scores) if scores.shape[-1] else np.empty(scores.shape)


class NoTies(Temperature):
    """Scales by the spread."""

    def pmf(self, scores):
        """Probabilities."""
        super().pmf(scores)
        with np.errstate(all="ignore"):
            return super().pmf(scores / np.ptp(scores, axis=-1, keepdims=True))


class MixesRows(Temperature):
    """Normalises by what else is in the batch."""

    def pmf(self, scores):
        """Probabilities."""
        super().pmf(scores)
        size = np.abs(scores[np.isfinite(scores)]).max(initial=1e-300)
        with np.errstate(over="ignore"):
            return super().pmf(scores / size)


class FastIsAnother(Temperature):
    """Its fast path has another temperature."""

    def pmf_of(self, scores, greedy):
        """Probabilities."""
        return self.pmf(np.array(scores) * 1.001).tolist()


class FastIsAnArray(Temperature):
    """Its fast path returns no list."""

    def pmf_of(self, scores, greedy):
        """Probabilities."""
        return self.pmf(np.array(scores))


class FastIgnoresGreedy(EpsilonGreedy):
    """Its fast path takes the best one itself."""

    def pmf_of(self, scores, greedy):
        """Probabilities."""
        return self.pmf(np.array(scores)).tolist()


class AvoidsTheGreedy(Temperature):
    """Takes greedy for what is not to be served."""

    def pmf(self, scores, greedy=None):
        """Probabilities."""
        best = super().pmf(scores)
        if greedy is not None and not np.array_equal(greedy, scores.argmax(axis=-1)):
            np.put_along_axis(best, np.expand_dims(greedy, -1), 0.0, axis=-1)
        return best / best.sum(axis=-1, keepdims=True)


class ChangesWhenTold(EpsilonGreedy):
    """Is surer of a greedy action that it is told."""

    def pmf(self, scores, greedy=None):
        """Probabilities."""
        return super().pmf(scores) if greedy is None else EpsilonGreedy(self.epsilon / 2).pmf(scores, greedy=greedy)


class OneGreedyForAll(EpsilonGreedy):
    """Takes the first row's greedy action for every row."""

    def pmf(self, scores, greedy=None):
        """Probabilities."""
        if greedy is None or np.array_equal(greedy, scores.argmax(axis=-1)):
            return super().pmf(scores)
        return super().pmf(scores, greedy=np.full_like(greedy, np.ravel(greedy)[0]))


class StopsCounting(Temperature):
    """Has no probabilities after a thousand decisions."""

    def pmf(self, scores, seen=0):
        """Probabilities."""
        return super().pmf(scores) * (seen < 1000)


def test_another_correct_policy_passes_the_check():
    """Softmax is fine."""
    check_policy(Temperature())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (NotNormalised, "do not sum to one"),
        (Negative, "negative"),
        (RandomItself, "no randomness"),
        (FavoursTheFirst, "the order matters"),
        (OneRowOnly, "has shape"),
        (ChangesTheScores, "changes the scores"),
        (TakesNan, "refuse a NaN"),
        (NanForInfinity, "negative or NaN"),
        (RefusesHuge, "too much for me"),
        (NothingFromNothing, "refuse no action"),
        (NoTies, "refuses|negative or NaN"),
        (MixesRows, "row alone"),
        (FastIsAnother, "is not pmf"),
        (FastIsAnArray, "return a list"),
        (lambda: FastIgnoresGreedy(0.1), "is not pmf"),
        (AvoidsTheGreedy, "drawn less"),
        (lambda: ChangesWhenTold(0.1), "changes something"),
        (lambda: OneGreedyForAll(0.1), "drawn less|row alone"),
        (StopsCounting, "do not sum to one"),
    ],
)
def test_broken_policies_are_found(broken, said):
    """Each breaks one sentence of the protocol, and the message says which."""
    with pytest.raises((AssertionError, ValueError), match=said):
        check_policy(broken(), 6)


class Cutoff:
    """Accepts from 0.5 on, and one in ten below."""

    kind = "threshold"
    threshold = 0.5

    def accept(self, scores):
        """P(accept)."""
        return np.where(scores >= 0.5, 1.0, 0.1)

    def pmf(self, scores):
        """Probabilities."""
        if np.isnan(scores).any():
            raise ValueError("NaN")
        accept = self.accept(np.asarray(scores))
        return np.stack([1 - accept, accept], axis=-1)

    def greedy(self, scores):
        """Accept from 0.5 on."""
        return (np.asarray(scores) >= 0.5).astype(int)


class TwoSided(Cutoff):
    """Refuses some that it should accept."""

    def accept(self, scores):
        """P(accept)."""
        return np.where(scores >= 0.5, 0.9, 0.1)


class WorseIsLikelier(Cutoff):
    """Prefers the worst of those that fall short."""

    def accept(self, scores):
        """P(accept)."""
        return np.where(scores >= 0.5, 1.0, np.where(scores < 0, 0.2, 0.1))


class AcceptsTheWorse(Cutoff):
    """Higher is worse to the model."""

    def greedy(self, scores):
        """Accept below 0.5."""
        return (np.asarray(scores) < 0.5).astype(int)


class ShareOfTheBatch(Cutoff):
    """P(accept) by rank."""

    def accept(self, scores):
        """P(accept)."""
        return np.where(scores >= 0.5, 1.0, 0.1 / np.size(scores))


class OnlyAccept(Cutoff):
    """Forgets P(refuse)."""

    def pmf(self, scores):
        """Probabilities."""
        return super().pmf(scores)[..., 1]


class AcceptsNan(Cutoff):
    """NaN falls short."""

    def pmf(self, scores):
        """Probabilities."""
        return super().pmf(np.nan_to_num(scores, nan=0.0))


class SaysMaybe(Cutoff):
    """Probabilities for the model's own decision."""

    def greedy(self, scores):
        """Half a decision."""
        return self.accept(np.asarray(scores))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (TwoSided, "may be refused"),
        (WorseIsLikelier, "smaller probability"),
        (AcceptsTheWorse, "refuses a better one"),
        (ShareOfTheBatch, "score alone"),
        (OnlyAccept, "has shape"),
        (AcceptsNan, "refuse a NaN"),
        (SaysMaybe, "1 .accept. or 0"),
    ],
)
def test_broken_thresholds_are_found(broken, said):
    """The correct one passes, and each other breaks one sentence."""
    check_policy(Cutoff())
    with pytest.raises(AssertionError, match=said):
        check_policy(broken())


class Anywhere:
    """Uniform on [0, 2], whatever the prediction."""

    kind = "value"
    low, high, step = 0.0, 2.0, None

    def pdf(self, prediction, value):
        """Density."""
        prediction, value = np.broadcast_arrays(np.asarray(prediction, dtype=float), value)
        if np.isnan(prediction).any():
            raise ValueError("NaN")
        return np.where((value >= 0) & (value <= 2), 0.5, 0.0)

    def sample(self, prediction, u):
        """Value."""
        if np.isnan(prediction):
            raise ValueError("NaN")
        return 2.0 * u


class ClipsAfterNoise(Anywhere):
    """Adds noise and clips it."""

    def sample(self, prediction, u):
        """Value."""
        super().sample(prediction, u)
        return float(np.clip(prediction + 2.0 * (u - 0.5), 0.0, 2.0))

    def pdf(self, prediction, value):
        """Density."""
        near = np.abs(np.subtract(value, prediction)) <= 1.0
        return super().pdf(prediction, value) * near


class TwiceTheDensity(Anywhere):
    """Integrates to two."""

    def pdf(self, prediction, value):
        """Density."""
        return 2 * super().pdf(prediction, value)


class AnotherDensity(Anywhere):
    """Samples the square."""

    def sample(self, prediction, u):
        """Value."""
        return super().sample(prediction, u**2)


class HasMassUnsampled(Anywhere):
    """Says that the upper half is sampled."""

    def sample(self, prediction, u):
        """Value."""
        return super().sample(prediction, u / 2)

    def pdf(self, prediction, value):
        """Density."""
        return 2 * super().pdf(prediction, value)


class LeavesTheRange(Anywhere):
    """Adds noise and does not clip it."""

    def sample(self, prediction, u):
        """Value."""
        return super().sample(prediction, u) + 0.5


class Backwards(Anywhere):
    """The other tail."""

    def sample(self, prediction, u):
        """Value."""
        return super().sample(prediction, 1 - u)


class MassOutside(Anywhere):
    """A density everywhere."""

    def pdf(self, prediction, value):
        """Density."""
        return super().pdf(prediction, value) + 0.001


class TakesNanPredictions(Anywhere):
    """Never looks at the prediction."""

    def sample(self, prediction, u):
        """Value."""
        return 2.0 * u


class DrawsItself(Anywhere):
    """Ignores the uniform number now and then."""

    def __init__(self):
        self.rng, self.last = np.random.default_rng(), 0.0

    def sample(self, prediction, u):
        """Value."""
        return super().sample(prediction, u) + (1e-9 * self.rng.random() if u == 0.25 else 0.0)


class AloneIsAnother(Anywhere):
    """Depends on how many are asked for."""

    def pdf(self, prediction, value):
        """Density."""
        return super().pdf(prediction, value) * (0.9 if np.ndim(value) == 0 else 1.0)


class Steps(Anywhere):
    """0, 1 or 2."""

    step, grid = 1.0, np.arange(3.0)

    def sample(self, prediction, u):
        """Value."""
        return round(super().sample(prediction, u) - 1e-12)

    def pdf(self, prediction, value):
        """Probability."""
        return super().pdf(prediction, value) / np.where(np.asarray(value) == 1.0, 1.0, 2.0)


class StepsWithADensity(Steps):
    """Forgets that rounding makes probabilities."""

    def pdf(self, prediction, value):
        """Density."""
        return Anywhere.pdf(self, prediction, value)


class EvenSteps(Steps):
    """As if each step came as often."""

    def pdf(self, prediction, value):
        """Probability."""
        return Anywhere.pdf(self, prediction, value) / 1.5


class OffTheSteps(Steps):
    """Does not round."""

    def sample(self, prediction, u):
        """Value."""
        return Anywhere.sample(self, prediction, u)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (ClipsAfterNoise, "mass on a point"),
        (TwiceTheDensity, "not the density"),
        (AnotherDensity, "not the density"),
        (HasMassUnsampled, "integrates to 2"),
        (LeavesTheRange, "leaves"),
        (Backwards, "does not grow"),
        (MassOutside, "out of range"),
        (TakesNanPredictions, "refuse a NaN"),
        (DrawsItself, "draws itself"),
        (AloneIsAnother, "value alone"),
        (StepsWithADensity, "do not sum to one"),
        (EvenSteps, "what pdf"),
        (OffTheSteps, "no step"),
    ],
)
def test_broken_value_policies_are_found(broken, said):
    """The correct ones pass, and each other breaks one sentence."""
    check_policy(Anywhere())
    check_policy(Steps())
    with pytest.raises(AssertionError, match=said):
        check_policy(broken())


def test_a_ranking_is_checked_as_one(monkeypatch):
    """With at least as many candidates as asked for, and more than slots."""
    asked = []
    stub = types.ModuleType("guardrails.testing.rankings")
    stub.check_ranking = lambda policy, candidates=8: asked.append((policy.slots, candidates))
    monkeypatch.setitem(sys.modules, "guardrails.testing.rankings", stub)
    for slots, actions in ((3, 5), (3, 20), (9, 5)):
        check_policy(types.SimpleNamespace(kind="ranking", slots=slots), actions)
    assert asked == [(3, 8), (3, 20), (9, 10)]


def test_an_unknown_kind_is_no_policy():
    """There are four."""
    with pytest.raises(AssertionError, match="choice, threshold, ranking or value"):
        check_policy(types.SimpleNamespace(kind="slate"))
