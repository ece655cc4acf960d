"""Intervals: against vw-estimators, closed forms, and by how often they hold."""

import numpy as np
import pytest
from estimators.bandits import cressieread, gaussian

from guardrails.evaluation import balanced_ips, cross_fitted, dr, ips, snips
from guardrails.evaluation.off_policy import Sums, cressie_read

Z_999 = 3.09


@pytest.mark.filterwarnings("ignore:IncrementalFsum:DeprecationWarning")
@pytest.mark.parametrize("largest", [np.inf, 60.0])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-3.0, 2.0), (5.0, 6.0)])
def test_cressie_read_is_that_of_vw_estimators(ends, largest):
    """On random logs from 5 to 300 rows, any range of rewards, with and without a largest weight."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        n = int(rng.integers(5, 300))
        p, t = rng.uniform(0.02, 1, n), rng.random(n) * (rng.random(n) < 0.6)
        r = ends[0] + (ends[1] - ends[0]) * rng.choice([rng.random(n), rng.random(n) < 0.3])
        theirs = cressieread.Interval(rmin=ends[0], rmax=ends[1], wmax=largest)
        for row in zip(p, r, t, strict=True):
            theirs.add_example(*row)
        options = {} if largest == np.inf else {"weight_range": (0.0, largest)}
        ours = snips(r, p, t, reward_range=ends, on_low_overlap="ignore", **options)
        assert (ours.low, ours.high) == pytest.approx(theirs.get(0.05), abs=1e-6 * (ends[1] - ends[0]))


def test_sums_of_parts_are_those_of_the_whole():
    """Sums add up: a log may be summed as it grows, or by several workers."""
    rng = np.random.default_rng(0)
    w, r = rng.exponential(1, 1000), rng.random(1000)
    parts = Sums.of(w[:300], r[:300]) + Sums.of(w[300:], r[300:])
    assert cressie_read(parts) == pytest.approx(cressie_read(Sums.of(w, r)), rel=1e-12)


def test_cressie_read_does_not_depend_on_the_units_of_rewards():
    """Rewards in cents, or counted from a million, give the same interval in those units."""
    rng = np.random.default_rng(0)
    r, p, t = rng.random(500), rng.uniform(0.1, 1, 500), rng.random(500)
    plain = snips(r, p, t, reward_range=(0, 1))
    moved = snips(1e6 + 100 * r, p, t, reward_range=(1e6, 1e6 + 100))
    assert ((moved.low - 1e6) / 100, (moved.high - 1e6) / 100) == pytest.approx((plain.low, plain.high), abs=1e-6)


def test_the_delta_interval_of_ips_is_the_normal_one():
    """Against the Gaussian interval of vw-estimators; Student's t is .1 % wider at n 1000."""
    rng = np.random.default_rng(0)
    r, p, t = rng.random(1000), rng.uniform(0.1, 1, 1000), rng.random(1000)
    theirs = gaussian.Interval()
    for row in zip(p, r, t, strict=True):
        theirs.add_example(*row)
    ours = ips(r, p, t, interval="delta")
    assert (ours.low, ours.high) == pytest.approx(theirs.get(0.05), abs=2e-3 * (ours.high - ours.low))


def test_the_delta_interval_of_few_rows_is_students():
    """Of five rewards with weight 1: the textbook's t interval, 2.776 standard errors either way."""
    r = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    half = 2.7764451 * r.std(ddof=1) / 5**0.5
    found = snips(r, np.full(5, 0.5), np.full(5, 0.5), interval="delta")
    assert (found.low, found.high) == pytest.approx((r.mean() - half, r.mean() + half), rel=1e-6)


def test_the_bootstrap_is_like_the_delta_interval_where_that_is_right():
    """With many light weights both are the same, up to the noise of 2000 draws; and the seed decides the draws."""
    rng = np.random.default_rng(0)
    r, p, t = rng.random(4000), rng.uniform(0.3, 1, 4000), rng.random(4000)
    delta, drawn = (snips(r, p, t, interval=kind) for kind in ("delta", "bootstrap"))
    assert (drawn.low, drawn.high) == pytest.approx((delta.low, delta.high), abs=0.1 * (delta.high - delta.low))
    assert drawn == snips(r, p, t, interval="bootstrap")
    assert drawn != snips(r, p, t, interval="bootstrap", seed=1)


@pytest.mark.parametrize("kind", ["delta", "bootstrap"])
def test_rows_of_one_unit_widen_the_interval(kind):
    """Each row logged nine times over: with units the interval is that of the rows once, without a third as wide."""
    rng = np.random.default_rng(0)
    r, p, t = rng.random(500), rng.uniform(0.3, 1, 500), rng.random(500)
    once = snips(r, p, t, interval=kind)
    nine = [np.tile(a, 9) for a in (r, p, t)]
    width = once.high - once.low
    naive = snips(*nine, interval=kind)
    right = snips(*nine, interval=kind, unit=np.tile(np.arange(500), 9))
    assert right.high - right.low == pytest.approx(width, rel=0.1)
    assert naive.high - naive.low == pytest.approx(width / 3, rel=0.1)
    assert snips(*nine, unit=np.tile(np.arange(500), 9)).method == "snips, bootstrap"
    with pytest.raises(ValueError, match="independent"):
        snips(*nine, interval="cressie_read", unit=np.tile(np.arange(500), 9))


def test_rare_rewards_say_what_would_help():
    """An interval that is wide for want of a largest weight says so; with one it is what the note promised."""
    rng = np.random.default_rng(0)
    agrees = rng.random(5000) < 0.03
    reward, p = rng.random(5000) < 0.01, np.where(agrees, 0.03, 0.97)
    wide = snips(reward, p, agrees)
    told = snips(reward, p, agrees, weight_range=(0, 1 / 0.03))
    assert any("weight_range=" in text for text in wide.warnings)
    assert told.high - told.low < 0.5 * (wide.high - wide.low)
    assert not told.warnings
    pmf = np.tile([0.97, 0.03], (5000, 1))
    target = np.tile([0.0, 1.0], (5000, 1))
    found = snips(reward, p, agrees, pmf=pmf, target_pmf=target)
    assert (found.low, found.high) == pytest.approx((told.low, told.high), rel=1e-9)
    assert any("rows worth" in text for text in snips(reward, p, agrees, interval="delta").warnings)


def test_rewards_outside_zero_to_one_name_the_range_taken():
    """Costs from -1 to 0 widen the default range, which a sentence tells; a named range needs none."""
    rng = np.random.default_rng(0)
    reward, p = -(rng.random(300) < 0.5).astype(float), np.full(300, 0.5)
    assert any("between -1 and 1" in text for text in snips(reward, p, p).warnings)
    assert not snips(reward, p, p, reward_range=(-1, 0)).warnings


def test_doubly_robust_cressie_read_with_a_constant_model_is_the_plain_one():
    """A model that knows nothing must change nothing."""
    rng = np.random.default_rng(0)
    r, p, t = (rng.random(500) < 0.2).astype(float), rng.uniform(0.1, 1, 500), rng.random(500)
    for options in ({}, {"weight_range": (0.0, 10.0)}):
        plain = ips(r, p, t, **options)
        same = dr(r, p, t, np.full(500, 0.3), np.full(500, 0.3), interval="cressie_read", **options)
        assert (same.low, same.high) == pytest.approx((plain.low, plain.high), abs=1e-12)


def world(rng, n, eps, K=10, base=0.25, p_agree=0.27):
    """A log of eps-greedy and a policy that agrees with its greedy choice in some rows; the policy's value is 2 base."""
    agree = rng.random(n) < p_agree
    greedy, other = 1 - eps + eps / K, eps / K
    same = rng.random(n) < np.where(agree, greedy, other)
    p = np.where(agree == same, greedy, other)
    p = np.where(same, np.where(agree, greedy, other), np.where(agree, other, p))
    return (rng.random(n) < np.where(same, 2 * base, base)) * 1.0, p, same * 1.0, 2 * base


def covered(seeds, options, method=snips, **design):
    """How often the interval holds."""
    hits = 0
    for seed in range(seeds):
        r, p, t, truth = world(np.random.default_rng(seed), **design)
        estimate = method(r, p, t, on_low_overlap="ignore", **options)
        hits += estimate.low <= truth <= estimate.high
    return hits / seeds


DESIGNS = [
    {"n": 5000, "eps": 0.1},
    {"n": 5000, "eps": 0.3},
    {"n": 5000, "eps": 0.1, "base": 0.0025},
    {"n": 5000, "eps": 0.3, "base": 0.02},
    {"n": 500, "eps": 0.5, "base": 0.4, "K": 4},
]


@pytest.mark.parametrize("known", [False, True], ids=["any weight", "largest known"])
@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_cressie_read_holds_as_often_as_it_says(design, known):
    """At nominal .95 at least .93, up to the simulation error of 400 logs (one standard error is .011)."""
    options = {"weight_range": (0.0, design.get("K", 10) / design["eps"])} if known else {}
    share = covered(400, options, **design)
    assert share >= 0.93 - Z_999 * (0.93 * 0.07 / 400) ** 0.5, share
    print(design, known, share)


def test_the_delta_interval_fails_on_rare_rewards_and_says_so():
    """It misses in more than a fifth of logs with few rewarded rows: the coverage test above can tell."""
    design = {"n": 5000, "eps": 0.3, "base": 0.0025}
    assert covered(200, {"interval": "delta"}, **design) < 0.8
    r, p, t, _ = world(np.random.default_rng(0), **design)
    assert any("too narrow" in text for text in snips(r, p, t, interval="delta").warnings)


def test_clipped_weights_keep_the_interval_right():
    """The clipped value is far off; the Cressie-Read interval still holds, the delta interval never does."""
    design = {"n": 5000, "eps": 0.1}
    assert covered(100, {"clip": 10.0}, method=ips, **design) >= 0.93
    assert covered(100, {"clip": 10.0, "weight_range": (0.0, 10.5)}, method=ips, **design) >= 0.93
    assert covered(100, {"clip": 10.0, "interval": "delta"}, method=ips, **design) < 0.1


def bandit(rng, theta, n, eps):
    """Features, true means, the target's choices, pmf, actions, rewards."""
    K = len(theta)
    X = rng.normal(size=(n, theta.shape[1]))
    mean = 1 / (1 + np.exp(-X @ theta.T))
    target = mean.argmax(axis=1)
    greedy = np.where(rng.random(n) < 0.27, target, rng.integers(0, K, n))
    pmf = np.full((n, K), eps / K)
    pmf[np.arange(n), greedy] += 1 - eps
    action = np.where(rng.random(n) < eps, rng.integers(0, K, n), greedy)
    reward = (rng.random(n) < mean[np.arange(n), action]) * 1.0
    return X, mean, target, pmf, action, reward


@pytest.mark.full
@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_errors_of_all_estimators(eps):
    """RMSE over 200 logs, n 5000, K 10: SNIPS beats IPS, DR is no worse than 1.15 SNIPS, clipping is biased."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(10, 5)) * 0.5
    truth = bandit(rng, theta, 400_000, eps)[1].max(axis=1).mean()
    errors, held = {}, {}
    for _ in range(200):
        X, _, target, pmf, action, reward = bandit(rng, theta, 5000, eps)
        i = np.arange(5000)
        p, t = pmf[i, action], (action == target) * 1.0
        q = cross_fitted(X, action, reward, 10)
        goal = np.eye(10)[target]
        found = {
            "ips": ips(reward, p, t),
            "snips": snips(reward, p, t),
            "clip": ips(reward, p, t, clip=10.0),
            "dr delta": dr(reward, p, t, q[i, action], q[i, target]),
            "dr cressie_read": dr(reward, p, t, q[i, action], q[i, target], pmf=pmf, target_pmf=goal),
            "snips known": snips(reward, p, t, pmf=pmf, target_pmf=goal),
        }
        for name, estimate in found.items():
            errors.setdefault(name, []).append(estimate.value - truth)
            held.setdefault(name, []).append(estimate.low <= truth <= estimate.high)
    rmse = {name: float(np.sqrt(np.mean(np.square(each)))) for name, each in errors.items()}
    print(eps, {name: (round(rmse[name], 4), round(float(np.mean(held[name])), 3)) for name in rmse})
    assert rmse["snips"] < rmse["ips"]
    assert rmse["dr delta"] < 1.15 * rmse["snips"]
    assert np.mean(errors["clip"]) < -0.1
    assert np.mean(held["dr cressie_read"]) >= 0.93 - Z_999 * 0.018
    assert np.mean(held["snips"]) >= 0.93 - Z_999 * 0.018


def test_balanced_intervals_hold():
    """Two versions, one that hardly explores: at least .93 of 200 logs, up to simulation error."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        version = np.arange(2000) % 2
        hit = np.array([0.02, 0.4])[:, None]
        agrees = rng.random(2000) < hit[version, 0]
        reward = rng.random(2000) < np.where(agrees, 0.6, 0.2)
        estimate = balanced_ips(reward, np.where(agrees, hit, 1 - hit), agrees, version=version, self_normalised=True)
        hits += estimate.low <= 0.6 <= estimate.high
    assert hits / 200 >= 0.93 - Z_999 * 0.018
