"""lambda: what it is for learners whose answer is known, how often its interval is right, and what it refuses."""

import math

import numpy as np
import pytest

from guardrails.evaluation.loop import loop_gain

K = 400
BOOSTED = np.random.default_rng(0).random(K) < 0.5


def world(seed, factor=3.0):
    """Items of any quality, looked at in proportion to their exposure; what a counter and a rate make of them."""
    rng = np.random.default_rng(seed)
    quality = rng.beta(2, 6, K)
    looks = rng.poisson(np.where(BOOSTED, factor, 1.0) * 40)
    return quality, looks, rng.binomial(looks, quality)


def test_counts_close_the_loop():
    """Clicks grow with exposure: lambda is one, whatever the factor."""
    for factor in (3.0, 0.5):
        gain = loop_gain(world(1, factor)[2], BOOSTED, factor)
        assert gain.value == pytest.approx(1.0, abs=0.15)
        assert gain.low < 1.0 < gain.high
        assert "closed" in gain.meaning


def test_rates_do_not():
    """Clicks over looks do not care about exposure: lambda is zero."""
    _, looks, clicks = world(2)
    gain = loop_gain(clicks / np.maximum(looks, 1), BOOSTED, 3.0)
    assert gain.value == pytest.approx(0.0, abs=0.12)
    assert gain.low < 0.0 < gain.high
    assert "no sign" in gain.meaning


@pytest.mark.parametrize(("prior", "sign"), [(0.02, 1), (0.9, -1)])
def test_priors_show(prior, sign):
    """A pessimistic prior keeps what is seen less often down (lambda small, above 0), an optimistic one up."""
    _, looks, clicks = world(3)
    gain = loop_gain((clicks + 20 * prior) / (looks + 20), BOOSTED, 3.0)
    assert 0.0 < sign * gain.value < 0.7
    assert sign * gain.low > 0.0
    assert sign * gain.high > 0.0


def test_the_interval_is_right_as_often_as_it_says():
    """95 % intervals have the truth in them in about 95 of 100 worlds."""
    hits = 0
    for seed in range(300):
        gain = loop_gain(world(seed + 10)[2], BOOSTED, 3.0, resamples=400)
        hits += gain.low <= 1.0 <= gain.high
    assert 0.91 <= hits / 300 <= 0.985


def test_runs_are_drawn_as_well():
    """Repeated runs that differ from each other make the interval wider than their items alone would."""
    rng = np.random.default_rng(5)
    exponents = rng.normal(0.5, 0.4, 10)
    scores = np.stack([np.where(BOOSTED, 3.0**e, 1.0) * rng.uniform(0.9, 1.1, K) for e in exponents])
    together = loop_gain(scores, BOOSTED, 3.0)
    as_items = loop_gain(scores.ravel(), np.tile(BOOSTED, 10), 3.0)
    assert together.value == pytest.approx(as_items.value)
    assert (together.runs, together.items) == (10, 10 * K)
    assert together.high - together.low > 1.5 * (as_items.high - as_items.low)


def test_what_was_there_before_is_taken_off():
    """A count's history has nothing to do with the boost, and dilutes lambda unless it is taken off."""
    clicks = world(6)[2]
    history = np.random.default_rng(6).poisson(500, K)
    assert loop_gain(clicks + history, BOOSTED, 3.0).value < 0.3
    gain = loop_gain(clicks + history, BOOSTED, 3.0, before=history)
    assert gain.value == loop_gain(clicks, BOOSTED, 3.0).value


def test_only_the_items_among_count():
    """Items the model showed by itself are left out, by mask, also per run."""
    clicks = world(7)[2].astype(float)
    among = np.arange(K) >= 50
    spoiled = np.where(among, clicks, math.nan)
    gain = loop_gain(spoiled, BOOSTED, 3.0, among=among)
    assert gain.items == K - 50
    assert gain.value == loop_gain(clicks[among], BOOSTED[among], 3.0).value


def test_zeros_do_not_bias():
    """Weighted scores are mostly zero; the logarithm of means stays right where the mean of logarithms would not."""
    rng = np.random.default_rng(8)
    exposure = np.where(BOOSTED, 0.03, 0.01)
    runs = [rng.binomial(300, 0.3 * exposure) / exposure / 300 for _ in range(30)]
    gain = loop_gain(np.stack(runs), BOOSTED, 3.0)
    assert (np.stack(runs) == 0).mean() > 0.1
    assert gain.value == pytest.approx(0.0, abs=0.05)


def test_the_same_seed_gives_the_same_interval():
    """The bootstrap is fixed by its seed."""
    clicks = world(9)[2]
    assert loop_gain(clicks, BOOSTED, 3.0) == loop_gain(clicks, BOOSTED, 3.0)
    assert loop_gain(clicks, BOOSTED, 3.0, seed=1) != loop_gain(clicks, BOOSTED, 3.0)


@pytest.mark.parametrize("factor", [1.0, 0.0, -2.0, math.nan, math.inf])
def test_no_boost_no_lambda(factor):
    """Without a boost nothing was randomised."""
    with pytest.raises(ValueError, match="no boost"):
        loop_gain(np.ones(K), BOOSTED, factor)


@pytest.mark.parametrize("boosted", [np.arange(K) < 4, np.arange(K) >= 4])
def test_too_few_items(boosted):
    """With four items on a side a bootstrap says nothing."""
    with pytest.raises(ValueError, match="needs 5 of each"):
        loop_gain(np.ones(K), boosted, 3.0)


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        (np.full(K, -1.0), {}, "above 0"),
        (np.where(BOOSTED, 0.0, 1.0), {}, "above 0"),
        (np.full(K, math.nan), {}, "NaN"),
        (np.full(K, math.inf), {}, "infinite"),
        (np.ones(K), {"before": np.ones(K)}, "above 0"),
        (np.ones(K), {"among": np.arange(5)}, "mask"),
        (np.ones(K), {"among": np.ones(5, bool)}, "shape"),
        (np.ones((2, K)), {"before": np.ones((3, K))}, "shape"),
        (np.ones(K), {"level": 1.0}, "level"),
    ],
)
def test_what_has_no_logarithm_is_refused(scores, options, words):
    """Log-odds, NaN, and masks that are none are errors that say what to do."""
    with pytest.raises(ValueError, match=words):
        loop_gain(scores, BOOSTED, 3.0, **options)


def test_it_reads_well():
    """Printed, it is a sentence with the interval."""
    text = str(loop_gain(world(1)[2], BOOSTED, 3.0))
    assert text.startswith("+")
    assert f"from {K} items" in text
