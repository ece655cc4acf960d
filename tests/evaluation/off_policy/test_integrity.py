"""Integrity tests of logs: quiet on right ones, loud on the ways in which real ones go wrong."""

import numpy as np
import pytest

from guardrails.evaluation import DiffersMonitor, check_log
from guardrails.evaluation.off_policy.integrity import bennett


def drawn(rng, n=20_000, eps=0.1, K=10, moving=True):
    """Greedy choices, probabilities and actions of eps-greedy."""
    greedy = rng.integers(0, K, n) if moving else np.zeros(n, int)
    pmf = np.full((n, K), eps / K)
    pmf[np.arange(n), greedy] += 1 - eps
    return greedy, pmf, pick(rng, pmf)


def pick(rng, pmf):
    """One action per row."""
    return (rng.random((len(pmf), 1)) > pmf.cumsum(axis=1)).sum(axis=1).clip(0, pmf.shape[1] - 1)


def own(pmf, action):
    """The probability of each row's action."""
    return pmf[np.arange(len(pmf)), action]


def softmax(rng, n=3000, K=10):
    """Probabilities that differ from row to row, and the likeliest action."""
    scores = rng.normal(size=(n, K)) * 2
    pmf = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return pmf.argmax(axis=1), pmf, pick(rng, pmf)


RIGHT = {
    "eps-greedy": lambda rng: drawn(rng, n=4000),
    "many actions": lambda rng: drawn(rng, n=2000, eps=0.2, K=200, moving=False),
    "few rows": lambda rng: drawn(rng, n=300, eps=0.02, K=5, moving=False),
    "softmax": softmax,
}


@pytest.mark.parametrize("kind", RIGHT)
def test_right_logs_pass(kind):
    """At alpha .01 at most 1 % of 200 logs fail any test, and three standard errors."""
    failed = []
    for seed in range(200):
        greedy, pmf, action = RIGHT[kind](np.random.default_rng(seed))
        checked = check_log(action, pmf, own(pmf, action), greedy=greedy, served=action)
        failed += checked.failed
    print(kind, len(failed) / 200, failed)
    assert len(failed) / 200 <= 0.01 + 3 * (0.01 * 0.99 / 200) ** 0.5


def test_the_wrong_formula_of_eps_greedy_is_found():
    """Logged as 1 - eps and eps / (K - 1), though exploration may hit the greedy action: found in 40,000 rows."""
    for seed in range(10):
        greedy, _, action = drawn(np.random.default_rng(seed), n=40_000)
        wrong = np.where(np.arange(10) == greedy[:, None], 0.9, 0.1 / 9)
        checked = check_log(action, wrong, own(wrong, action), greedy=greedy)
        assert {"harmonic", "differs"} <= set(checked.failed), str(checked)


def test_overridden_traffic_is_found_without_an_echo():
    """2 % of all answers replaced by any other, after the draw and logged as if drawn: found in 20,000 rows."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        greedy, pmf, action = drawn(rng)
        action = np.where(rng.random(20_000) < 0.02, rng.integers(0, 10, 20_000), action)
        assert {"ranks", "differs"} <= set(check_log(action, pmf, own(pmf, action), greedy=greedy).failed)


def test_the_echo_tells_what_chance_cannot():
    """Half a per cent overridden: too little to be seen in frequencies, but the clients say it."""
    rng = np.random.default_rng(0)
    greedy, pmf, action = drawn(rng, n=4000)
    served = np.where(rng.random(4000) < 0.005, (action + 1) % 10, action)
    served[:1000] = -1  # these clients said nothing
    checked = check_log(action, pmf, own(pmf, action), greedy=greedy, served=served)
    assert checked.failed == ("overridden",)
    assert "of 4000 rows" in checked["overridden"].sentence
    assert "3000 say what" in checked["overridden"].sentence
    assert check_log(action, pmf, own(pmf, action), greedy=greedy, served=action)["overridden"].ok
    assert check_log(action, pmf, own(pmf, action))["overridden"].ok is None


@pytest.mark.parametrize("honest", [False, True], ids=["pmf kept", "pmf one-hot"])
def test_a_veto_after_the_draw_is_found(honest):
    """Explored actions 0 and 1 are vetoed and logged as the greedy one with p 1, with the pmf as drawn or one-hot."""
    for seed in range(5):
        greedy, pmf, action = drawn(np.random.default_rng(seed))
        vetoed = (action < 2) & (action != greedy)
        action = np.where(vetoed, greedy, action)
        if honest:
            pmf[vetoed] = 0
            pmf[vetoed, greedy[vetoed]] = 1
        checked = check_log(action, pmf, np.where(vetoed, 1.0, own(pmf, action)), greedy=greedy)
        assert "actions" in checked.failed
        assert checked["propensity"].ok is honest


def test_thompson_sampling_logged_as_uniform_is_found():
    """Actions come from a concentrated posterior, the log says 1/n for all."""
    rng = np.random.default_rng(0)
    action = rng.choice(10, 2000, p=rng.dirichlet(np.full(10, 0.5)))
    pmf = np.full((2000, 10), 0.1)
    assert {"actions", "frequencies"} <= set(check_log(action, pmf, own(pmf, action)).failed)


def test_a_propensity_that_is_not_its_actions_is_found():
    """Rounded to two digits, or that of another action: no chance is involved, one row is enough."""
    greedy, pmf, action = drawn(np.random.default_rng(0), n=500, eps=0.123)
    for propensity in (np.round(own(pmf, action), 2), np.where(np.arange(500) == 7, 0.5, own(pmf, action))):
        checked = check_log(action, pmf, propensity, greedy=greedy)
        assert checked.failed[0] == "propensity"
    assert "row 7" in checked["propensity"].sentence
    assert str(checked).startswith("500 rows failed propensity")


def test_rows_of_one_unit_share_a_draw():
    """Drawn once per user and logged for fifty requests each: passes with units, fails without."""
    rng = np.random.default_rng(0)
    greedy, pmf, action = (np.repeat(a, 50, axis=0) for a in drawn(rng, n=200, eps=0.5, moving=False))
    unit = np.repeat(np.arange(200), 50)
    with_units = check_log(action, pmf, own(pmf, action), greedy=greedy, unit=unit)
    assert (with_units.ok, with_units.rows) == (True, 200)
    assert not check_log(action, pmf, own(pmf, action), greedy=greedy).ok


def test_rows_with_different_numbers_of_candidates():
    """A list of rows of 2 to 6 candidates is tested as it is, rows without exploration among them."""
    rng = np.random.default_rng(0)
    pmf = [np.eye(k)[0] * 0.8 + 0.2 / k if i % 3 else np.eye(k)[0] for i, k in enumerate(rng.integers(2, 7, 5000))]
    action = np.array([rng.choice(len(p), p=p / p.sum()) for p in pmf])
    logged = np.array([p[a] for p, a in zip(pmf, action, strict=True)])
    checked = check_log(action, pmf, logged, greedy=np.zeros(5000, int))
    assert checked.ok, str(checked)


def test_bennetts_bound_is_one():
    """Of sums of 30 to 3000 rare draws it is no smaller than the exact tail, and within a factor of 40 at p .001."""
    from scipy.stats import binom

    for n, p in ((30, 0.05), (300, 0.01), (3000, 0.3)):
        k = np.arange(n + 1)
        tail = np.where(k > n * p, binom.sf(k - 1, n, p), binom.cdf(k, n, p))
        bound = bennett(k - n * p, np.full(n + 1, n * p * (1 - p)), np.ones(n + 1), np.ones(n + 1))
        assert (bound >= tail - 1e-15).all()
        near = (tail > 3e-4) & (tail < 3e-3) & (k > n * p)
        assert (bound[near] < 40 * tail[near]).all()


def test_the_monitor_may_be_read_at_every_row():
    """Read after each of 2000 rows, a right log reaches p .05 in at most 5 % of 200 (and three standard errors)."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        q = rng.choice([0.0, 0.05, 0.3], 2000)
        monitor = DiffersMonitor()
        monitor.update(rng.random(2000) < q, q)
        alarms += monitor.p_value() < 0.05
    print(alarms / 200)
    assert alarms / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_the_monitor_takes_rows_one_by_one_and_knows_the_impossible():
    """The same evidence however rows arrive; a difference that cannot be is certain evidence."""
    rng = np.random.default_rng(0)
    differs, q = rng.random(500) < 0.2, np.full(500, 0.1)
    one, all_at_once = DiffersMonitor(), DiffersMonitor()
    for row in zip(differs, q, strict=True):
        one.update(*row)
    all_at_once.update(differs, q)
    assert one.evidence == pytest.approx(all_at_once.evidence)
    assert one.p_value() < 1e-4
    one.update(1, 0.0)
    assert one.p_value() == 0.0
    with pytest.raises(ValueError, match="probabilities"):
        one.update([1], [1.5])


@pytest.mark.full
def test_how_soon_overrides_are_found():
    """2 % of traffic overridden: the monitor, read at every row, finds it in all logs within 40,000 rows."""
    found = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        greedy, _, action = drawn(rng, n=40_000)
        action = np.where(rng.random(40_000) < 0.02, rng.integers(0, 10, 40_000), action)
        monitor = DiffersMonitor()
        for start in range(0, 40_000, 100):
            rows = slice(start, start + 100)
            monitor.update(action[rows] != greedy[rows], np.full(100, 0.09))
            if monitor.p_value() < 0.01:
                found.append(start + 100)
                break
    print("found", len(found), "median rows", np.median(found))
    assert len(found) == 50


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"action": [0, 5]}, "action must be numbered from 0 to 1"),
        ({"action": [0.0, 1.0]}, "whole number"),
        ({"pmf": [[0.5, 0.5]]}, "one row per logged row"),
        ({"propensity": [0.5, 0.0]}, "above 0"),
        ({"alpha": 2}, "alpha"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    """ValueError with a sentence."""
    right = {"action": [0, 1], "pmf": [[0.5, 0.5], [0.5, 0.5]], "propensity": [0.5, 0.5]}
    check_log(**right)
    with pytest.raises(ValueError, match=says):
        check_log(**{**right, **change})
