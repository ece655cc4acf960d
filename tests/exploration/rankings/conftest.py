"""Draw many lists, and compare what came with what was stated."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2

ALPHA = 1e-4


def _chi_square(counts, expected):
    """The chance of counts that far from what is expected; the cells of fewer than 5 expected are one."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    assert not counts[expected <= 1e-12 * counts.sum()].any(), "something of probability 0 happened"
    few = expected < 5
    counts = np.append(counts[~few], counts[few].sum())
    expected = np.append(expected[~few], expected[few].sum())
    if expected[-1] < 1e-6 * expected.sum():
        counts, expected = counts[:-1], expected[:-1]
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), max(len(counts) - 1, 1))


@pytest.fixture(scope="session")
def draw_lists():
    """Lists of a policy with Philox numbers of a fixed seed."""

    def draw(policy, scores, count, seed=7, items=None):
        numbers = np.random.Generator(np.random.Philox(seed)).random((count, policy.slots + 3)).tolist()
        return [policy.sample(scores, lambda n, row=row: row[:n], items=items) for row in numbers]

    return draw


@pytest.fixture(scope="session")
def agrees(draw_lists):
    """Draws lists; positions have to agree with pmf, lists with their own propensities, marginals with pmf."""

    def check(policy, scores, count=100_000, seed=7, items=None):
        scores = np.asarray(scores, float)
        lists = draw_lists(policy, scores, count, seed, items)
        pmf = policy.pmf(scores, items=items)
        orders = np.array([ranked.order for ranked in lists])
        for position in range(policy.slots):
            counts = np.bincount(orders[:, position], minlength=len(scores))
            assert _chi_square(counts, count * pmf[position]) > ALPHA, f"position {position}"
        seen = Counter(ranked.order for ranked in lists)
        stated = {ranked.order: ranked for ranked in lists}
        often = {order: ranked for order, ranked in stated.items() if count * ranked.propensity >= 5}
        counts = [seen[order] for order in often]
        expected = [count * ranked.propensity for ranked in often.values()]
        rest = max(0.0, count - sum(expected))
        assert _chi_square([*counts, count - sum(counts)], [*expected, rest]) > ALPHA, "lists"
        for order, ranked in stated.items():
            if ranked.marginals is not None:
                np.testing.assert_allclose(ranked.marginals, pmf[:, list(order)].T, rtol=1e-12, atol=1e-15)
        return lists

    return check
