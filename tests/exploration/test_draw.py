"""The draw: it follows the probabilities it is given, and only unit and key decide it."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from guardrails.exploration import EpsilonGreedy, draw
from guardrails.exploration.randomness import PICK, uniform

KEY = b"0123456789abcdef"
ALPHA = 1e-4


def frequencies(pmf, draws, key=KEY, prefix="unit"):
    """How often each action is drawn over different units."""
    return np.bincount([draw(pmf, f"{prefix}-{i}", key) for i in range(draws)], minlength=len(pmf))


@pytest.mark.parametrize(("actions", "epsilon"), [(2, 0.02), (2, 0.5), (10, 0.1), (200, 0.2)])
def test_100_000_draws_follow_the_probabilities(actions, epsilon):
    """Chi-square of the frequencies against epsilon-greedy's pmf."""
    pmf = EpsilonGreedy(epsilon).pmf(np.random.default_rng(actions).normal(size=actions))
    counts = frequencies(pmf, 100_000, prefix=f"{actions}/{epsilon}")
    assert stats.chisquare(counts, pmf * 100_000).pvalue > ALPHA


@pytest.mark.parametrize(
    "scores", [np.zeros(10), np.array([np.inf, -np.inf, 0.0]), np.array([1e308, -1e308, 1e308, 0.0])], ids=str
)
def test_draws_follow_the_probabilities_of_odd_scores(scores):
    """Ties, infinities, huge numbers."""
    pmf = EpsilonGreedy(0.3).pmf(scores)
    counts = frequencies(pmf, 20_000, prefix=str(scores))
    assert stats.chisquare(counts, pmf * 20_000).pvalue > ALPHA


def test_draws_follow_any_probabilities():
    """Very unequal ones, with holes."""
    pmf = np.array([0.0, 0.001, 0.0, 0.9, 0.099, 0.0])
    counts = frequencies(pmf, 100_000, prefix="holes")
    assert counts[[0, 2, 5]].sum() == 0
    used = pmf > 0
    assert stats.chisquare(counts[used], pmf[used] * 100_000).pvalue > ALPHA


@settings(max_examples=300, deadline=None)
@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=1, max_size=50).filter(any),
    unit=st.text(max_size=20),
)
def test_an_action_of_probability_zero_is_never_drawn(weights, unit):
    """Any pmf, also one whose floats do not quite add up to one."""
    pmf = np.array(weights) / sum(weights)
    assert pmf[draw(pmf, unit, KEY)] > 0


@pytest.mark.parametrize("word", [0.0, np.nextafter(1.0, 0.0), 0.5, np.nextafter(0.5, 0.0)])
@pytest.mark.parametrize(
    "pmf",
    [[0.0, 0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0], [0.0, 1.0], [0.1] * 10, [1 / 3] * 3, [1e-300, 1.0, 1e-300]],
    ids=str,
)
def test_the_extreme_words_hit_actions_of_positive_probability(monkeypatch, word, pmf):
    """The smallest and the largest random number, and those at a border."""
    monkeypatch.setattr("guardrails.exploration.randomness.uniform", lambda *_: word)
    pmf = np.array(pmf)
    assert pmf[draw(pmf, "any", KEY)] > 0


def test_the_same_unit_and_key_draw_the_same_in_another_process():
    """A replay, days later, on another machine."""
    program = (
        "import numpy as np; from guardrails.exploration import draw, EpsilonGreedy;"
        "pmf = EpsilonGreedy(.5).pmf(np.arange(10.));"
        "print([draw(pmf, f'unit-{i}', b'0123456789abcdef') for i in range(200)])"
    )
    here = [draw(EpsilonGreedy(0.5).pmf(np.arange(10.0)), f"unit-{i}", KEY) for i in range(200)]
    for seed in ("0", "7"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert there.stdout.strip() == str(here)


def test_the_numbers_are_pinned():
    """Recorded draws have to replay with later versions too."""
    assert uniform("unit-0", KEY) == uniform(b"unit-0", KEY)
    assert [round(uniform(f"unit-{i}", KEY), 12) for i in range(3)] == PINNED


PINNED = [round(value, 12) for value in (
    # blake2b("unit-i", key=KEY, person="guardrails/ex/v1"), bytes 8 to 16, little endian, upper 53 bits / 2**53
    *(
        (int.from_bytes(
            __import__("hashlib").blake2b(f"unit-{i}".encode(), digest_size=32, key=KEY, person=b"guardrails/ex/v1").digest()[8:16],
            "little",
        ) >> 11) / 2**53
        for i in range(3)
    ),
)]  # fmt: skip


def test_another_key_draws_otherwise():
    """Two keys agree only as often as chance has it."""
    pmf = np.full(10, 0.1)
    agree = sum(draw(pmf, f"u{i}", KEY) == draw(pmf, f"u{i}", b"another key of 26 bytes ..") for i in range(10_000))
    assert stats.binomtest(agree, 10_000, 0.1).pvalue > ALPHA


def test_the_words_of_a_unit_are_uniform_and_independent():
    """Word 0 (gates) says nothing about word 1 (the pick), nor the others about each other."""
    words = np.array([[uniform(f"unit-{i}", KEY, word) for word in range(4)] for i in range(20_000)])
    assert words.min() >= 0
    assert words.max() < 1
    for word in range(4):
        assert stats.kstest(words[:, word], "uniform").pvalue > ALPHA
    for one in range(4):
        for two in range(one):
            table = np.histogram2d(words[:, one], words[:, two], bins=10, range=[[0, 1]] * 2)[0]
            assert stats.chisquare(table.ravel()).pvalue > ALPHA
    assert PICK == 1


def test_neighbouring_units_draw_independently():
    """Unit i and unit i + 1, as counters give them."""
    words = np.array([uniform(str(i), KEY) for i in range(20_001)])
    table = np.histogram2d(words[:-1], words[1:], bins=10, range=[[0, 1]] * 2)[0]
    assert stats.chisquare(table.ravel()).pvalue > ALPHA


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 15, b"x" * 65])
def test_a_key_of_the_wrong_size_is_refused(key):
    """The docstring says 16 to 64 bytes; an empty key is no key: anybody could predict the draws."""
    with pytest.raises(ValueError):
        draw(np.array([0.5, 0.5]), "unit", key)


def test_a_word_that_does_not_exist_is_refused():
    """There are four; a fifth would silently be 0.0 for everybody."""
    with pytest.raises((ValueError, IndexError)):
        uniform("unit", KEY, 4)


@pytest.mark.parametrize("actions", [51, 200, 1000])
def test_a_long_array_draws_what_the_same_list_draws(actions):
    """To the last bit: records are replayed from lists, requests draw from arrays."""
    rng = np.random.default_rng(actions)
    for number in range(300):
        pmf = rng.dirichlet(np.full(actions, 0.1))
        assert draw(pmf, f"request {number}", KEY) == draw(pmf.tolist(), f"request {number}", KEY)
        np.testing.assert_array_equal(pmf.cumsum(), list(itertools.accumulate(pmf.tolist())))
    for wrong in (np.full(actions, 1.0), np.full(actions, np.nan), np.r_[-1.0, 2.0, np.zeros(actions - 2)]):
        with pytest.raises(ValueError, match="probabilit"):
            draw(wrong, "request", KEY)
