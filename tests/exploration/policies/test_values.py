"""Numbers around a prediction: densities that integrate to one, and samples that have them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import truncnorm

from guardrails.errors import DecorationError
from guardrails.exploration.policies import TruncatedGaussian, UniformMixture
from guardrails.testing import check_policy

POLICIES = [
    TruncatedGaussian(0.1, 0.0, 1.0),
    TruncatedGaussian(1e4, -1.0, 3.0),
    UniformMixture(0.1, 0.2, -1.0, 1.0),
    UniformMixture(0.0, 0.2, 0.0, 1.0),
    UniformMixture(0.5, 50.0, 0.0, 1.0),
    TruncatedGaussian(0.2, 0.99, 2.99, step=0.05),
    TruncatedGaussian(1e-12, 0.0, 5.0, step=1.0),
    UniformMixture(0.1, 0.3, 0.99, 2.99, step=0.25),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_they_keep_the_protocol(policy):
    """testing.check_policy has nothing to say, and the logged text makes an equal one."""
    check_policy(policy)
    assert eval(repr(policy)) == policy
    assert policy.kind == "value"


@settings(max_examples=300, deadline=None)
@given(st.floats(-4, 5), st.floats(0.02, 10), st.floats(0, 1))
def test_the_density_is_scipys(prediction, deviation, value):
    """Also 250 deviations outside the range; to 1e-9 of its logarithm."""
    policy = TruncatedGaussian(deviation, 0.0, 1.0)
    ends = (0.0 - prediction) / deviation, (1.0 - prediction) / deviation
    expected = truncnorm.logpdf(value, *ends, loc=prediction, scale=deviation)
    assert abs(policy.log_pdf(prediction, value) - expected) <= 1e-9 * max(1.0, abs(expected))
    np.testing.assert_allclose(policy.pdf(prediction, value), np.exp(expected), rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize("prediction", [0.5, 0.0, 1.0, 0.95, -0.3, 1.3, -3.0, 4.0, -1e3, 1e4])
@pytest.mark.parametrize("deviation", [0.03, 0.1, 5.0, 1e5])
def test_a_truncated_gaussian_integrates_to_one_and_samples_its_quantiles(prediction, deviation):
    """Integrals by adaptive quadrature between the sampled quantiles are the uniform numbers' gaps."""
    policy = TruncatedGaussian(deviation, 0.0, 1.0)
    uniform = np.array([0.0, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.99, 1 - 1e-6, 1.0])
    values = policy.sample(prediction, uniform)
    assert (values[0], values[-1]) == pytest.approx((0.0, 1.0), abs=1e-9)
    masses = [
        quad(lambda x: float(policy.pdf(prediction, x)), a, b, epsabs=1e-12)[0]
        for a, b in itertools.pairwise(values[1:-1])
    ]
    np.testing.assert_allclose(masses, np.diff(uniform[1:-1]), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("prediction", [0.95, 1.2, -0.1, 30.0, -500.0])
def test_no_value_is_an_end(prediction):
    """Clipping a Gaussian of deviation 0.1 around 0.95 would put 31 % on the end; truncating puts nothing there."""
    uniform = np.random.default_rng(0).random(200_000)
    values = TruncatedGaussian(0.1, 0.0, 1.0).sample(prediction, uniform)
    assert ((values > 0.0) & (values < 1.0)).all()
    assert len(np.unique(values)) > 0.999 * len(values)
    clipped = np.clip(np.random.default_rng(0).normal(prediction, 0.1, 1000), 0, 1)
    assert (np.isin(clipped, (0.0, 1.0))).mean() > 0.1


def test_far_outside_it_is_exponential():
    """The limit of a tail, a million deviations away: rate away / deviation, measured from the end."""
    policy, away = TruncatedGaussian(0.1, 0.0, 1.0), 1e6
    for prediction, end, inwards in ((-away * 0.1, 0.0, 1.0), (1.0 + away * 0.1, 1.0, -1.0)):
        rate = away / 0.1
        assert policy.pdf(prediction, end) == pytest.approx(rate, rel=1e-9)
        median = policy.sample(prediction, 0.5)
        assert (median - end) * inwards == pytest.approx(np.log(2) / rate, rel=1e-6)


def test_predictions_that_floats_cannot_follow_are_refused():
    """Where all values would be the end itself; with a step they may be."""
    for method in (TruncatedGaussian(0.1, 0.0, 1.0).sample, TruncatedGaussian(0.1, 0.0, 1.0).pdf):
        for prediction in (1e12, -1e308, 1e308):
            with pytest.raises(ValueError, match="too coarse"):
                method(prediction, 0.5)
    prices = TruncatedGaussian(0.1, 0.0, 1.0, step=0.25)
    for prediction, end in ((1e12, 1.0), (-1e308, 0.0), (1e308, 1.0)):
        assert prices.sample(prediction, 0.5) == end
        np.testing.assert_allclose(prices.pdf(prediction, prices.grid), prices.grid == end)


@settings(max_examples=200, deadline=None)
@given(st.floats(-2, 3), st.just(0.0) | st.floats(0.001, 0.5), st.floats(0.01, 3), st.floats(0, 1))
def test_a_uniform_mixture_is_its_formula(prediction, epsilon, half_width, value):
    """epsilon / range, plus (1 - epsilon) / width in the window; its inverse gives back the uniform number."""
    policy = UniformMixture(epsilon, half_width, 0.0, 1.0)
    centre = min(max(prediction, 0.0), 1.0)
    left, right = max(centre - half_width, 0.0), min(centre + half_width, 1.0)
    expected = epsilon + (1 - epsilon) / (right - left) * (left <= value <= right)
    assert policy.pdf(prediction, value) == pytest.approx(expected, rel=1e-12)
    below = epsilon * value + (1 - epsilon) * np.clip((value - left) / (right - left), 0, 1)
    if expected > 0:  # nobody is sent where the density is zero
        assert policy.sample(prediction, min(below, 1.0)) == pytest.approx(value, abs=1e-9)
    assert right - left >= min(half_width, 1.0) - 1e-12


@settings(max_examples=150, deadline=None)
@given(
    st.floats(-3, 9),
    st.sampled_from([0.05, 0.25, 0.5, 1.0, 2.0, 4.0]),
    st.floats(0.01, 3),
    st.booleans(),
    st.floats(0, 1),
)
def test_steps_have_the_probability_of_their_cells(prediction, step, width, gaussian, u):
    """The integral of the density over what is rounded to each; together exactly one."""
    make = TruncatedGaussian if gaussian else (lambda *args, **options: UniformMixture(0.1, *args, **options))
    smooth, stepped = make(width, 0.99, 4.99), make(width, 0.99, 4.99, step=step)
    grid = stepped.grid
    mass = stepped.pdf(prediction, grid)
    assert abs(mass.sum() - 1.0) < 1e-12
    assert stepped.sample(prediction, u) in grid
    at = len(grid) // 2
    start, stop = max(grid[at] - step / 2, 0.99), min(grid[at] + step / 2, 4.99)
    centre = np.clip(prediction, 0.99, 4.99)
    inner = smooth.sample(prediction, np.array([1e-9, 1e-3, 0.1, 0.5, 0.9, 1 - 1e-3, 1 - 1e-9]))  # where it is steep
    edges = np.unique(np.clip([start, centre - width, centre, centre + width, *inner, stop], start, stop))
    cell = sum(quad(lambda x: float(smooth.pdf(prediction, x)), a, b)[0] for a, b in itertools.pairwise(edges))
    assert abs(cell - mass[at]) < 1e-6
    assert stepped.pdf(prediction, grid[at] + 0.3 * step) == 0


def test_prices_are_prices():
    """Values on the grid have no noise in the last digits, and are recognised with some."""
    policy = TruncatedGaussian(0.5, 0.99, 2.99, step=0.05)
    assert policy.grid.tolist() == [round(0.99 + 0.05 * at, 2) for at in range(41)]
    assert policy.sample(1.8, 0.5) in policy.grid
    assert policy.pdf(1.8, 0.99 + 3 * 0.05) == policy.pdf(1.8, 1.14) > 0
    assert TruncatedGaussian(0.5, 0.0, 1.0).grid is None


def test_arrays_are_their_elements():
    """pdf and sample broadcast; one of each is a float."""
    rng = np.random.default_rng(0)
    predictions, uniform = rng.uniform(-3, 4, 300), rng.random(300)
    for policy in POLICIES:
        values = policy.sample(predictions, uniform)
        alone = [policy.sample(p, u) for p, u in zip(predictions.tolist(), uniform.tolist(), strict=True)]
        assert all(type(value) is float for value in alone)
        np.testing.assert_allclose(values, alone, rtol=1e-12, atol=1e-14)
        densities = [float(policy.pdf(p, v)) for p, v in zip(predictions.tolist(), alone, strict=True)]
        np.testing.assert_allclose(policy.pdf(predictions, alone), densities, rtol=1e-9)
        assert (np.array(densities) > 0).all()
        assert policy.pdf(predictions[:, None], values[None, :5]).shape == (300, 5)


@pytest.mark.parametrize("policy", POLICIES[:3], ids=repr)
def test_nonsense_is_refused(policy):
    """Predictions that are not finite, values that are none, uniform numbers out of range."""
    for prediction in (np.nan, np.inf, -np.inf, [0.1, np.nan]):
        with pytest.raises(ValueError, match="not finite"):
            policy.pdf(prediction, 0.5)
        with pytest.raises(ValueError, match="not finite"):
            policy.sample(prediction, 0.5)
    with pytest.raises(ValueError, match="value is NaN"):
        policy.pdf(0.5, np.nan)
    for u in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="uniform"):
            policy.sample(0.5, u)
    assert policy.pdf(0.5, [np.inf, -np.inf]).tolist() == [0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TruncatedGaussian(0.0, 0.0, 1.0),
        lambda: TruncatedGaussian(-1.0, 0.0, 1.0),
        lambda: TruncatedGaussian(np.inf, 0.0, 1.0),
        lambda: TruncatedGaussian(1e-14, 0.0, 1.0),
        lambda: TruncatedGaussian(1e7, 0.0, 1.0),
        lambda: TruncatedGaussian(0.1, 1.0, 1.0),
        lambda: TruncatedGaussian(0.1, 0.0, np.inf),
        lambda: TruncatedGaussian(0.1, np.nan, 1.0),
        lambda: TruncatedGaussian(0.1, -1e308, 1e308),
        lambda: TruncatedGaussian(0.1, 0.0, 1.0, step=0.3),
        lambda: TruncatedGaussian(0.1, 0.0, 1.0, step=2.0),
        lambda: TruncatedGaussian(0.1, 0.0, 1.0, step=0.0),
        lambda: TruncatedGaussian(0.1, 0.0, 1.0, step=1e-9),
        lambda: UniformMixture(0.6, 0.1, 0.0, 1.0),
        lambda: UniformMixture(0.1, 0.0, 0.0, 1.0),
        lambda: UniformMixture(0.1, 1e-14, 0.0, 1.0),
        lambda: UniformMixture(0.1, 0.1, 0.0, -1.0),
    ],
)
def test_impossible_options_are_refused(make):
    """At construction, naming the policy and the rule."""
    with pytest.raises(DecorationError, match=r"(TruncatedGaussian|UniformMixture)\(.*\): "):
        make()
