"""Point estimates against closed forms, and what is refused."""

import dataclasses

import numpy as np
import pytest
from estimators.bandits import ips as vw_ips
from estimators.bandits import snips as vw_snips

from guardrails.errors import GuardrailsWarning
from guardrails.evaluation import (
    Estimate,
    LowOverlap,
    balanced_ips,
    dm,
    dr,
    ips,
    overlap,
    snips,
    switch,
    weights_for_training,
)


def log(n=400, seed=0):
    """Rewards, propensities, target propensities."""
    rng = np.random.default_rng(seed)
    return rng.random(n), rng.uniform(0.05, 1, n), rng.random(n)


def test_the_first_fields_of_an_estimate_are_the_promised_ones():
    """`Estimate(value, low, high, ess, n, max_weight)`, all else has a default, and nothing can be changed."""
    estimate = Estimate(0.5, 0.4, 0.6, 12.3, 40, 8.0)
    assert (estimate.value, estimate.low, estimate.high, estimate.ess, estimate.n, estimate.max_weight) == (
        0.5, 0.4, 0.6, 12.3, 40, 8.0,
    )  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 1
    assert str(estimate) == "0.5000 (0.4000 to 0.6000 at 95 %), 40 rows worth 12, largest weight 8"
    assert estimate.to_json()["unsupported"] is None


def test_ips_and_snips_are_those_of_vw_estimators():
    """On random logs, to 1e-12."""
    for seed in range(20):
        r, p, t = log(seed=seed)
        theirs = {"ips": vw_ips.Estimator(), "snips": vw_snips.Estimator()}
        for one in theirs.values():
            for row in zip(p, r, t, strict=True):
                one.add_example(*row)
        assert ips(r, p, t).value == pytest.approx(theirs["ips"].get(), rel=1e-12)
        assert snips(r, p, t).value == pytest.approx(theirs["snips"].get(), rel=1e-12)


def test_what_an_estimate_tells_about_its_weights():
    """ESS, largest and mean weight are those of target over propensity."""
    r, p, t = log()
    w = t / p
    for estimate in (ips(r, p, t), snips(r, p, t), dr(r, p, t, r, r), balanced_ips(r, [p], t, shares=[1.0])):
        assert estimate.ess == pytest.approx(w.sum() ** 2 / (w * w).sum())
        assert (estimate.n, estimate.max_weight, estimate.mean_weight) == pytest.approx((400, w.max(), w.mean()))


def test_on_policy_every_estimate_is_the_mean():
    """Where the policy is the one that logged, nothing is left but the sample mean and its t interval."""
    r, p, _ = log(2000)
    mean, half = r.mean(), 1.9611 * r.std(ddof=1) / 2000**0.5
    for estimate in (ips(r, p, p), snips(r, p, p), dr(r, p, p, p, p)):
        assert estimate.value == pytest.approx(mean, abs=1e-12)
        assert (estimate.low, estimate.high) == pytest.approx((mean - half, mean + half), rel=2e-3)
        assert estimate.ess == pytest.approx(2000)


def test_doubly_robust_and_switch_are_their_formulas():
    """DR = DM + w (r - q); SWITCH the same where w <= tau; tau of infinity and 0 give DR and DM."""
    r, p, t = log()
    q, m = np.random.default_rng(3).random((2, 400))
    w = t / p
    assert dr(r, p, t, q, m).value == pytest.approx((m + w * (r - q)).mean(), rel=1e-12)
    assert switch(r, p, t, q, m, 1.5).value == pytest.approx((m + np.where(w <= 1.5, w, 0) * (r - q)).mean(), rel=1e-12)
    assert switch(r, p, t, q, m, np.inf).value == pytest.approx(dr(r, p, t, q, m).value, rel=1e-12)
    assert switch(r, p, t, q, m, 0).value == pytest.approx(dm(m).value, rel=1e-12)
    assert "reward model" in " ".join(switch(r, p, t, q, m, 0.5).warnings)


def test_a_perfect_model_leaves_no_noise():
    """Where the model is right in every row, DR is exact, whatever the weights."""
    _, p, t = log()
    q = np.random.default_rng(1).random(400)
    estimate = dr(q, p, t, q, np.full(400, 0.3))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.3, 0.3, 0.3), abs=1e-12)


def test_snips_does_not_move_with_a_constant_where_ips_does():
    """Adding 5 to all rewards adds 5 to SNIPS, and w-mean x 5 to IPS."""
    r, p, t = log()
    assert snips(r + 5, p, t).value == pytest.approx(snips(r, p, t).value + 5)
    assert ips(r + 5, p, t).value == pytest.approx(ips(r, p, t).value + 5 * (t / p).mean())


def test_balanced_weights_are_those_of_the_mixture():
    """Its propensity is the share-weighted mean over versions; one version alone is plain IPS."""
    r, p, t = log()
    other = np.random.default_rng(5).uniform(0, 1, 400)
    version = np.arange(400) % 4 // 3
    mixed = 0.75 * p + 0.25 * other
    both = balanced_ips(r, [p, other], t, version=version)
    assert both.value == pytest.approx((t / mixed * r).mean(), rel=1e-12)
    assert balanced_ips(r, [p, other], t, shares=[0.75, 0.25]) == both
    assert balanced_ips(r, [p], t, version=np.zeros(400, int)).value == pytest.approx(ips(r, p, t).value)
    normalised = balanced_ips(r, [p, other], t, version=version, self_normalised=True)
    assert normalised.value == pytest.approx((t / mixed * r).sum() / (t / mixed).sum(), rel=1e-12)


def test_balancing_lessens_the_variance_where_a_version_hardly_explored():
    """Of a log half of eps .02 and half of eps .5, the mixture's weights are worth several times as many rows."""
    rng, n, K = np.random.default_rng(0), 4000, 5
    version = np.arange(n) % 2
    hit = np.array([0.02, 0.5])[:, None] / K
    agrees = rng.random(n) < hit[version, 0]
    reward = rng.random(n) < 0.5
    each = np.where(agrees, hit, 1 - hit)
    plain = ips(reward, each[version, np.arange(n)], agrees, on_low_overlap="ignore")
    assert balanced_ips(reward, each, agrees, version=version).ess > 3 * plain.ess


def test_clipping_reports_what_it_cuts_off():
    """The value is that of clipped weights, the mean weight cut off is told, and a sentence says it."""
    r, p, t = log()
    w = t / p
    estimate = ips(r, p, t, clip=2.0)
    assert estimate.value == pytest.approx((np.minimum(w, 2) * r).mean())
    assert estimate.clipped == pytest.approx((w - np.minimum(w, 2)).mean())
    assert estimate.max_weight == 2.0
    assert any("Clipping" in text for text in estimate.warnings)


def test_unsupported_actions_are_found_from_the_probabilities():
    """What the log gives probability 0 and the policy does not is the unsupported mass; the interval allows for it."""
    rng, n = np.random.default_rng(0), 4000
    pmf, target = np.tile([0.5, 0.5, 0.0], (n, 1)), np.tile([0.4, 0.2, 0.4], (n, 1))
    action = (rng.random(n) < 0.5).astype(int)
    reward = np.where(action == 0, 0.5, 0.2)  # and 1 for the third, which the log never shows
    estimate = snips(reward, pmf[0, action], target[0, action], pmf=pmf, target_pmf=target)
    assert estimate.unsupported == pytest.approx(0.4)
    assert any("40.0%" in text for text in estimate.warnings)
    assert estimate.low < 0.4 * 0.5 + 0.2 * 0.2 + 0.4 * 1.0 < estimate.high
    seen = overlap(pmf[0, action], target[0, action], pmf=pmf, target_pmf=target)
    assert seen.unsupported == pytest.approx(0.4)
    assert seen.p_value > 1e-4  # the mean weight is .6, as these probabilities say
    assert overlap(pmf[0, action], target[0, action]).p_value < 1e-4  # without them it should have been 1


def test_low_overlap_warns_refuses_or_is_ignored():
    """Fewer effective rows than 1 % of the log: a warning that tests can turn into an error, a refusal, or a note."""
    n = 1000
    p, t = np.full(n, 0.5), np.zeros(n)
    t[:5] = 0.5
    with pytest.warns(LowOverlap, match="0.50%") as caught:
        snips(np.ones(n), p, t)
    assert caught[0].filename == __file__
    assert issubclass(LowOverlap, GuardrailsWarning)
    with pytest.raises(ValueError, match=r"worth only 5\.0"):
        ips(np.ones(n), p, t, on_low_overlap="refuse")
    assert any("worth only" in text for text in dr(np.ones(n), p, t, t, t, on_low_overlap="ignore").warnings)
    with pytest.raises(ValueError, match="on_low_overlap"):
        ips(np.ones(n), p, t, on_low_overlap="never")


def test_a_policy_that_does_nothing_logged_has_no_value():
    """SNIPS is NaN and its interval the whole range; IPS is 0, and its interval nearly so."""
    r, p, _ = log()
    nothing = snips(r, p, np.zeros(400), on_low_overlap="ignore")
    assert np.isnan(nothing.value)
    assert (nothing.low, nothing.high, nothing.ess) == (0.0, 1.0, 0.0)
    estimate = ips(r, p, np.zeros(400), on_low_overlap="ignore")
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reward": [1.0, np.nan]}, "reward is not a finite number in row 1"),
        ({"propensity": [0.5, 0.0]}, "propensity is 0 in row 1; it must be above 0"),
        ({"propensity": [0.5, np.nan]}, "propensity is not a finite number in row 1"),
        ({"propensity": [0.5, 1.2]}, "density=True"),
        ({"propensity": [0.5, -0.1]}, "above 0"),
        ({"propensity": [0.5, 1e-200]}, "cannot be right"),
        ({"propensity": [0.5]}, "1 rows where the reward has 2"),
        ({"target_propensity": [0.5, -0.1]}, "not negative"),
        ({"target_propensity": [0.5, 1.1]}, "at most 1"),
        ({"reward": []}, "empty"),
        ({"reward": [[1.0], [2.0]]}, "shape"),
        ({"clip": 0.0}, "clip"),
        ({"confidence": 1.0}, "confidence"),
        ({"interval": "exact"}, "'cressie_read'"),
        ({"reward_range": (0.0, 0.5)}, "1 rewards lie outside"),
        ({"reward_range": (1.0, 0.0)}, "lowest, highest"),
        ({"weight_range": (0.0, 1.5)}, "outside of weight_range"),
        ({"unit": ["a"]}, "one unit per row"),
        ({"pmf": [[0.5, 0.5]] * 2}, "belong together"),
        ({"pmf": [[0.5, 0.6]] * 2, "target_pmf": [[0.5, 0.5]] * 2}, "pmf is no distribution in row 0"),
    ],
)
@pytest.mark.parametrize("estimator", [ips, snips])
def test_what_cannot_be_is_refused_with_a_sentence(estimator, change, says):
    """Each mistake raises ValueError, which names the array and the row or the option."""
    right = {"reward": [1.0, 0.0], "propensity": [0.5, 0.5], "target_propensity": [1.0, 0.5]}
    estimator(**right)
    with pytest.raises(ValueError, match=says):
        estimator(**{**right, **change})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "either version="),
        ({"version": [0, 1], "shares": [0.5, 0.5]}, "either version="),
        ({"version": [0, 2]}, "from 0 to 1"),
        ({"shares": [0.5, 0.6]}, "sum to 1"),
    ],
)
def test_balanced_ips_must_know_who_wrote_how_much(options, says):
    """Neither, both, or impossible shares are refused; so is a row that no version could have logged."""
    with pytest.raises(ValueError, match=says):
        balanced_ips([1, 0], [[0.5, 0.5], [0.2, 0.8]], [1, 0], **options)
    with pytest.raises(ValueError, match="above 0"):
        balanced_ips([1, 0], [[0.5, 0.0], [0.2, 0.0]], [1, 0], version=[0, 1])


def test_densities_may_exceed_one():
    """Of continuous actions both are densities: the truth of a shifted normal target is within the interval."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.1, 20_000)
    logged, target = (np.exp(-((x - m) ** 2) / 0.02) / (0.1 * (2 * np.pi) ** 0.5) for m in (0, 0.05))
    estimate = snips(np.clip(0.5 + x, 0, 1), logged, target, density=True)
    assert estimate.low < 0.55 < estimate.high
    assert estimate.value == pytest.approx(0.55, abs=0.01)


def test_weights_for_training_undo_the_policy():
    """They are inverse propensities with a mean of 1, clipped only where asked for."""
    p = np.array([0.9, 0.9, 0.05, 0.5])
    weight = weights_for_training(p)
    assert weight.mean() == pytest.approx(1)
    assert weight / weight[0] == pytest.approx(p[0] / p)
    assert weights_for_training(p, clip=1.0).max() < weight.max()
    with pytest.raises(ValueError, match="propensity is 0 in row 1"):
        weights_for_training([1.0, 0.0])
