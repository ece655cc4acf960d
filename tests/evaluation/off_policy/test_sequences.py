"""Confidence sequences: right at every look, as tight as the design lets them be, the same however they are fed."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammainc, gammaln

from guardrails.evaluation import ConfidenceSequence, confidence_sequence
from guardrails.evaluation.off_policy.sequences import log_wealth, tuned

LOOKS = np.unique(np.geomspace(50, 5000, 30).astype(int))
RUNS = 200


def drawn(seed, n=5000, eps=0.2, K=5, value=0.4):
    """Weights and rewards of a policy without exploration under eps-greedy; it agrees with the greedy choice in a half."""
    rng = np.random.default_rng(seed)
    chance = np.where(rng.random(n) < 0.5, 1 - eps + eps / K, eps / K)
    agrees = rng.random(n) < chance
    return np.where(agrees, 1 / chance, 0.0), (rng.random(n) < value) * 1.0


def misses(bounds, value=0.4):
    """The share of logs in which the interval missed the value at any look."""
    return float(np.mean([((low > value) | (high < value)).any() for low, high in bounds]))


@pytest.mark.parametrize("design", [{}, {"planned": 5000}, {"planned": 5000, "mean_square_weight": 13.0}], ids=str)
def test_the_truth_is_missed_in_few_logs_over_all_looks(design):
    """At thirty looks together the truth is missed in at most 5 % of 200 logs (and three standard errors)."""
    found = []
    for seed in range(RUNS):
        w, r = drawn(seed)
        low, high = confidence_sequence(r, *as_probabilities(w), running=LOOKS, **design)
        found.append((low, high))
    share = misses(found)
    print(design, share, np.mean([high[-1] - low[-1] for low, high in found]))
    assert share <= 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5


def as_probabilities(w):
    """Propensities and target probabilities that give these weights."""
    return np.where(w > 0, 1 / np.maximum(w, 1), 0.5), (w > 0) * 1.0


def test_the_same_looks_defeat_an_ordinary_interval():
    """A normal 95 % interval looked at thirty times misses in over 15 % of the same logs: the test above can tell."""
    found = []
    for seed in range(RUNS):
        w, r = drawn(seed)
        x, n = w * r, np.arange(1, 5001)
        mean = np.cumsum(x) / n
        half = 1.96 * np.sqrt(np.maximum(np.cumsum(x * x) / n - mean**2, 0) / n)
        found.append(((mean - half)[LOOKS - 1], (mean + half)[LOOKS - 1]))
    share = misses(found)
    print("normal", share)
    assert share > 0.15


def test_an_adaptive_log_is_covered_too():
    """The exploration rate follows past rewards; the truth is still missed in at most 5 % of logs."""
    found = []
    for seed in range(60):
        rng, sequence, bounds, eps = np.random.default_rng(seed), ConfidenceSequence(planned=2000), [], 0.5
        for _ in range(20):
            explored = rng.random(100) < eps
            reward = (rng.random(100) < 0.4) * 1.0
            sequence.update(np.where(explored, 1 / eps, 0.0), reward)
            bounds.append(sequence.interval)
            eps = 0.1 + 0.4 * float(reward[explored].mean() if explored.any() else 0.5)
        found.append(tuple(np.array(bounds).T))
    assert misses(found) <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5


def test_the_wealth_is_the_mixture_it_claims_to_be():
    """Against numerical integration of exp(l s - (-log(1 - l) - l) v) over the truncated gamma density of 1 - l."""
    for s, v, rho in ((3.0, 10.0, 2.0), (0.5, 1.0, 5.0), (20.0, 30.0, 1.0)):
        constant = rho * np.log(rho) - rho - gammaln(rho) - np.log(gammainc(rho, rho))

        def product(bet, s=s, v=v, rho=rho, constant=constant):
            density = constant + (rho - 1) * np.log1p(-bet) + rho * bet
            return np.exp(density + bet * s - v * (-np.log1p(-bet) - bet))

        expected = np.log(quad(product, 0, 1)[0])
        assert log_wealth(np.array([v]), np.array([rho]))(np.array([s]))[0] == pytest.approx(expected, rel=1e-6)


def test_rows_one_by_one_in_batches_or_all_at_once_give_the_same():
    """However rows arrive, and as the last of the running bounds, the interval is the same."""
    w, r = drawn(0, n=600)
    single, batches = ConfidenceSequence(planned=600), ConfidenceSequence(planned=600)
    for row in zip(w.tolist(), r.tolist(), strict=True):
        single.update(*row)
    for start in range(0, 600, 100):
        batches.update(w[start : start + 100], r[start : start + 100])
    whole = confidence_sequence(r, *as_probabilities(w), planned=600)
    low, high = confidence_sequence(r, *as_probabilities(w), planned=600, running=True)
    assert single.interval == pytest.approx(batches.interval, abs=1e-9)
    assert single.interval == pytest.approx(whole, abs=1e-9)
    assert (low[-1] >= whole[0] - 1e-9, high[-1] <= whole[1] + 1e-9) == (True, True)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) <= 0).all()
    assert single.n == 600
    some = confidence_sequence(r, *as_probabilities(w), planned=600, running=[300, 600])
    assert (some[0][0] <= low[299], some[1][-1] >= high[-1]) == (True, True)


def test_a_design_makes_it_tighter_and_none_costs_little():
    """Tuned to the design it is narrowest; without any, at most a quarter wider, at 500 rows as at 50,000."""
    for n in (500, 50_000):
        w, r = drawn(1, n=n, eps=0.8)
        low, high = confidence_sequence(r, *as_probabilities(w), planned=n, mean_square_weight=float((w * w).mean()))
        wide = confidence_sequence(r, *as_probabilities(w))
        assert high - low < wide[1] - wide[0] < 1.25 * (high - low)


def test_the_range_of_rewards_scales_the_interval():
    """Rewards from -2 to 8 give the interval of the same rewards as shares of that range."""
    w, r = drawn(2, n=2000)
    plain = confidence_sequence(r, *as_probabilities(w))
    moved = confidence_sequence(-2 + 10 * r, *as_probabilities(w), reward_range=(-2, 8))
    assert moved == pytest.approx(tuple(-2 + 10 * end for end in plain), abs=1e-9)


def test_before_any_row_it_is_the_whole_range():
    """Nothing seen, nothing known; and one row hardly changes that."""
    sequence = ConfidenceSequence(reward_range=(-1, 1))
    assert sequence.interval == (-1.0, 1.0)
    sequence.update(1.0, 1.0)
    assert sequence.interval == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ConfidenceSequence(alpha=0), "alpha"),
        (lambda: ConfidenceSequence(reward_range=(1, 0)), "lowest, highest"),
        (lambda: ConfidenceSequence(planned=0), "planned"),
        (lambda: ConfidenceSequence(mean_square_weight=4.0), "together with planned"),
        (lambda: ConfidenceSequence(planned=10, mean_square_weight=-1), "above 0"),
        (lambda: ConfidenceSequence().update(1.0, 2.0), "outside of reward_range"),
        (lambda: ConfidenceSequence().update(-1.0, 0.5), "not be negative"),
        (lambda: ConfidenceSequence().update(float("nan"), 0.5), "weight is not a finite number"),
        (lambda: ConfidenceSequence().update([1.0, 1.0], [0.5]), "same rows"),
        (lambda: confidence_sequence([0.5], [0.0], [1.0]), "propensity is 0 in row 0"),
    ],
)
def test_what_cannot_be_is_refused(call, says):
    """Wrong options and rows raise ValueError with a sentence."""
    with pytest.raises(ValueError, match=says):
        call()


def test_a_refused_row_changes_nothing():
    """After an error the sequence is what it was."""
    sequence = ConfidenceSequence()
    sequence.update([1.0, 2.0], [0.5, 1.0])
    before = sequence.interval, sequence.n
    with pytest.raises(ValueError, match="reward_range"):
        sequence.update([1.0, 1.0], [0.5, 7.0])
    assert (sequence.interval, sequence.n) == before


def test_rho_depends_on_the_design_alone():
    """One rho for a whole design, else several; none of them looks at data."""
    assert len(tuned(1000, 10.0, 0.025)) == 1
    assert len(tuned(1000, None, 0.025)) > 1
    assert tuned(1000, 10.0, 0.025)[0] == pytest.approx(5000 / (2 * np.log(40) + np.log(1 + 2 * np.log(40))))
