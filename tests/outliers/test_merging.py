"""merge_p_values(): valid under any dependence, by factors that cannot be smaller."""

import math

import numpy as np
import pytest

from guardrails.outliers.merging import harmonic_factor, merge_p_values

CENTRAL = 3.2905
"""Half the width of a 99.9 % interval, in standard errors."""


def joint(kind, members, n, rng):
    """True p-values, shape (members, n): uniform each, with different dependence."""
    u = rng.random((members, n))
    if kind == "the same":
        u[:] = u[0]
    elif kind == "opposed":
        u[1::2] = 1 - u[0]
        u[::2] = u[0]
    elif kind == "shuffled blocks":  # one is small where the others are not: what Bonferroni's factor is for
        u = np.stack([(u[0] + i / members) % 1 for i in range(members)])
    elif kind == "common factor":
        z = 0.8 * rng.normal(size=n) + 0.6 * rng.normal(size=(members, n))
        u = np.argsort(np.argsort(z, axis=1), axis=1) / n + rng.random((members, n)) / n
    return u


@pytest.mark.parametrize("rule", ["bonferroni", "mean", "harmonic"])
@pytest.mark.parametrize("kind", ["independent", "the same", "opposed", "shuffled blocks", "common factor"])
@pytest.mark.parametrize("members", [2, 3, 8])
def test_merged_p_values_are_valid_under_any_dependence(rule, kind, members):
    """A share t of true p-values at most is merged to below t."""
    n = 200_000
    merged = merge_p_values(joint(kind, members, n, np.random.default_rng(3)), rule)
    assert merged.shape == (n,)
    assert merged.max() <= 1
    for t in (0.01, 0.05, 0.2, 0.5):
        assert (merged <= t).mean() <= t + CENTRAL * math.sqrt(t * (1 - t) / n), (t, (merged <= t).mean())


def worst(rule, t):
    """Two p-values whose dependence is the worst for the rule at t: the share merged to at most t."""
    u = (np.arange(200_000) + 0.5) / 200_000
    never_both_small, mirrored_where_small = (u + 0.5) % 1, np.where(u < t, t - u, u)
    other = never_both_small if rule == "bonferroni" else mirrored_where_small
    return (merge_p_values([u, other], rule) <= t).mean()


@pytest.mark.parametrize("rule", ["bonferroni", "mean", "harmonic"])
def test_no_smaller_factor_would_do(rule):
    """For two p-values there is a dependence that uses up what the rule promises: the factors are the least ones."""
    assert 0.95 * 0.1 <= worst(rule, 0.1) <= 0.1 + 1e-4


@pytest.mark.parametrize("members", [2, 3, 4, 10, 100])
def test_the_harmonic_factor_is_the_sharp_bound(members):
    """The dual bound of Embrechts and Puccetti on a sum of K Pareto variables, which is attained: min over r is one."""
    factor = harmonic_factor(members)
    r = np.linspace(1e-6, factor - 1e-6, 400_001)
    bound = (np.log((factor * members - (members - 1) * r) / r) / (factor - r)).min()
    assert bound == pytest.approx(1.0, abs=1e-6)
    assert members == 2 or factor <= math.e * math.log(members)


def test_one_p_value_is_itself():
    """No factor without a choice; and a single column may be given flat."""
    p = np.array([[0.01, 0.0, 1.0]])
    for rule in ("bonferroni", "mean", "harmonic"):
        np.testing.assert_allclose(merge_p_values(p, rule), p[0])
        assert merge_p_values([0.0, 0.5], rule) <= 0.5


@pytest.mark.parametrize(
    ("p", "rule", "message"),
    [
        ([[0.1], [1.1]], "mean", "from 0 to 1"),
        ([[0.1], [-0.1]], "mean", "from 0 to 1"),
        ([[0.1], [np.nan]], "mean", "from 0 to 1"),
        (0.5, "mean", "from 0 to 1"),
        ([], "mean", "from 0 to 1"),
        ([[0.1], [0.2]], "fisher", "independent p-values only"),
        ([[0.1], [0.2]], "median", "'harmonic'"),
    ],
)
def test_what_cannot_be_merged_is_refused(p, rule, message):
    """No p-values, or a rule that dependence would break."""
    with pytest.raises(ValueError, match=message):
        merge_p_values(p, rule)
