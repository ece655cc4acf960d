"""Checks for an exploration policy for lists of your own: run them in your tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from guardrails.exploration.rankings.ranked import Ranked, RankingPolicy, Uniforms
from guardrails.typing import Probabilities, Scores

_DRAWS = 20_000
_NUMBERS = 256
_ALPHA = 1e-6
_FEWEST = 5.0
_SMALL = 0.5
_IMPOSSIBLE = 1e-12


def check_ranking(policy: RankingPolicy, candidates: int = 8) -> None:
    """Check that an exploration policy for lists keeps the `RankingPolicy` protocol, and its word.

    Probabilities are compared with 20,000 drawn lists (fixed seed; chi-square tests at a level of one in a million
    each, cells of fewer than 5 expected pooled): who stands where, and each list's own propensity.

    Args:
        policy: yours.
        candidates: how many candidates to choose from; at least ``policy.slots``.

    Raises:
        AssertionError: it does not; the message says in what.

    Example:
        >>> from guardrails.exploration.rankings import FairPairs
        >>> from guardrails.testing.rankings import check_ranking
        >>> check_ranking(FairPairs(slots=3))
    """
    assert policy.kind == "ranking", f'kind is {policy.kind!r}, not "ranking"'
    assert 1 <= policy.slots <= candidates, f"{candidates} candidates are too few for {policy.slots} slots"
    rng = np.random.default_rng(0)
    several = rng.normal(size=(5, candidates))
    for scores in (several[0], np.zeros(candidates), np.round(several[1]), several):
        _check_pmf(policy, scores)
    np.testing.assert_allclose(
        policy.pmf(several), [policy.pmf(row) for row in several], atol=1e-12, err_msg="a list alone has another pmf()"
    )
    _check_refusals(policy, several[0])
    for scores in (several[0], np.round(several[1])):
        _check_organic(policy, scores)
        numbers = np.random.default_rng(1).random((_DRAWS, min(_NUMBERS, 8 * candidates)))
        lists = [policy.sample(scores, _stream(row)) for row in numbers]
        _check_lists(policy, scores, lists, numbers)
        _check_positions(policy, scores, lists)
        _check_propensities(policy, lists, tuple(policy.organic(scores)))


def _stream(numbers: Probabilities) -> Uniforms:
    values: list[float] = numbers.tolist()

    def first(count: int) -> list[float]:
        assert count <= len(values), f"sample() asks for {count} numbers; {len(values)} would do for most"
        return values[:count]

    return first


def _check_pmf(policy: RankingPolicy, scores: Scores) -> None:
    before = scores.copy()
    pmf = np.asarray(policy.pmf(scores))
    shape = (*scores.shape[:-1], policy.slots, scores.shape[-1])
    assert pmf.shape == shape, f"pmf() of scores {scores.shape} has shape {pmf.shape}, not {shape}"
    assert (pmf >= 0).all(), "a probability is negative"
    np.testing.assert_allclose(pmf.sum(axis=-1), 1.0, atol=1e-9, err_msg="a position's probabilities do not sum to one")
    assert (pmf.sum(axis=-2) <= 1 + 1e-9).all(), "a candidate stands on a list more than once: a column exceeds one"
    assert np.array_equal(pmf, policy.pmf(scores)), "pmf() of the same scores differs: a policy has no randomness"
    assert np.array_equal(scores, before), "pmf() changes the scores it is given"


def _check_refusals(policy: RankingPolicy, scores: Scores) -> None:
    broken = scores.copy()
    broken[-1] = np.nan
    numbers = np.full(_NUMBERS, 0.5)
    for wrong, what in ((broken, "a score of NaN"), (scores[: policy.slots - 1], "fewer candidates than slots")):
        for name, call in (("pmf", policy.pmf), ("sample", lambda row: policy.sample(row, _stream(numbers)))):
            try:
                call(wrong)
            except ValueError:
                continue
            raise AssertionError(f"{name}() takes {what} instead of a ValueError")


def _check_organic(policy: RankingPolicy, scores: Scores) -> None:
    expected = tuple((-scores).argsort(kind="stable")[: policy.slots].tolist())
    assert tuple(policy.organic(scores)) == expected, "organic() is not the best by stable descending sort"


def _check_lists(policy: RankingPolicy, scores: Scores, lists: Sequence[Ranked], numbers: Probabilities) -> None:
    pmf = policy.pmf(scores)
    for ranked in lists:
        order = list(ranked.order)
        assert len(order) == policy.slots, f"a list of {len(order)} candidates, not {policy.slots}"
        assert len(set(order)) == len(order), f"a candidate stands on the list twice: {order}"
        assert set(order) <= set(range(len(scores))), f"numbers that are no candidate's: {order}"
        assert all(type(number) is int for number in order), "numbers are plain ints: they are written as JSON"
        assert 0 < ranked.propensity <= 1 + 1e-12, f"a propensity of {ranked.propensity}"
    stated = [(ranked.order, ranked.marginals) for ranked in lists if ranked.marginals is not None]
    if stated:
        shapes = {marginals.shape for _, marginals in stated}
        assert shapes == {(policy.slots, policy.slots)}, f"marginals have shapes {shapes}"
        expected = pmf.T[np.array([order for order, _ in stated])]
        given = np.array([marginals for _, marginals in stated])
        np.testing.assert_allclose(given, expected, atol=1e-9, err_msg="marginals are not those of pmf()")
    for ranked, row in zip(lists[:50], numbers, strict=False):
        again = policy.sample(scores, _stream(row))
        same = again.order == ranked.order and again.propensity == ranked.propensity
        assert same, "sample() of the same numbers differs: a policy has no randomness of its own"


def _check_positions(policy: RankingPolicy, scores: Scores, lists: Sequence[Ranked]) -> None:
    pmf = policy.pmf(scores)
    orders = np.array([ranked.order for ranked in lists])
    for position in range(policy.slots):
        counts = np.bincount(orders[:, position], minlength=len(scores)).astype(np.float64)
        _chi_square(counts, len(lists) * pmf[position], f"who stands at position {position} differs from pmf()")


def _check_propensities(policy: RankingPolicy, lists: Sequence[Ranked], organic: tuple[int, ...]) -> None:
    stated: dict[tuple[int, ...], float] = {}
    for ranked in lists:
        first = stated.setdefault(ranked.order, ranked.propensity)
        assert abs(first - ranked.propensity) <= 1e-9 * first, f"{ranked.order} has two propensities"
    total = sum(stated.values())
    assert total <= 1 + 1e-9, f"the propensities of the lists that came sum to {total}, more than one"
    seen = Counter(ranked.order for ranked in lists)
    expected = np.array([len(lists) * propensity for propensity in stated.values()])
    counts = np.array([seen[order] for order in stated], dtype=np.float64)
    often = expected >= _FEWEST
    # All others are one cell, those that never came among them: rare lists that did come are no fair sample of them.
    counts = np.append(counts[often], counts[~often].sum())
    expected = np.append(expected[often], max(0.0, len(lists) - expected[often].sum()))
    _chi_square(counts, expected, "how often the lists come differs from their propensities")
    epsilon = getattr(policy, "epsilon", 1.0)
    if 0.0 < epsilon < _SMALL:
        usual = max(seen, key=seen.__getitem__)
        assert usual == organic, f"epsilon is {epsilon}, and yet {usual} comes more often than {organic}"


def _chi_square(counts: Scores, expected: Scores, what: str) -> None:
    """Pearson's test, cells of small expectation pooled; what cannot happen must not have happened."""
    from scipy.stats import chi2

    impossible = expected <= _IMPOSSIBLE * counts.sum()
    assert not counts[impossible].any(), f"{what}: something of probability 0 happened"
    counts, expected = counts[~impossible], expected[~impossible]
    order = expected.argsort()
    counts, expected = counts[order], expected[order]
    # The rarest together, as many as are needed to be expected often enough.
    rare = min(int(np.searchsorted(expected.cumsum(), _FEWEST)) + 1, len(expected))
    rare = max(rare, int(np.searchsorted(expected, _FEWEST)))
    counts = np.append(counts[rare:], counts[:rare].sum())
    expected = np.append(expected[rare:], expected[:rare].sum())
    if len(counts) > 1:
        statistic = float(((counts - expected) ** 2 / expected).sum())
        chance = float(chi2.sf(statistic, len(counts) - 1))
        assert chance > _ALPHA, f"{what}: chi-square {statistic:.1f} on {len(counts) - 1} degrees, p = {chance:.1g}"
