"""Real logs: the Open Bandit Dataset's printed estimates, and Vowpal Wabbit's printed metrics."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from guardrails.evaluation import check_log, cross_fitted, dm, dr, ips, overlap, snips

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "ope"

PRINTED = {
    ("all", "random"): {"truth": 0.0042, "ips": 0.00455288, "snips": 0.00477583, "dr": 0.00457822, "ess": 1640},
    ("all", "bts"): {"truth": 0.0038, "ips": 0.00235964, "snips": 0.00233371, "dr": 0.00255216, "ess": 340},
    ("men", "random"): {"truth": 0.0069, "ips": 0.00453356, "snips": 0.00460423, "dr": 0.00461306, "ess": 2467},
    ("men", "bts"): {"truth": 0.0046, "ips": 0.00300863, "snips": 0.00318942, "dr": 0.00311357, "ess": 656},
}
MEAN_AND_LARGEST = {
    ("all", "random"): (0.953, 19.6), ("all", "bts"): (1.011, 278),
    ("men", "random"): (0.985, 10.7), ("men", "bts"): (0.943, 178),
}  # fmt: skip
LAST_DIGIT = 5e-9


def rows(campaign, policy):
    """Actions, positions, clicks and propensities of one log."""
    path = DATA / f"obd_{campaign}_{policy}.csv.gz"
    if not path.is_file():
        pytest.skip(f"the Open Bandit data is not at {path}")
    with gzip.open(path, "rt") as file:
        read = list(csv.DictReader(file))
    columns = [("item_id", int), ("position", int), ("click", float), ("propensity_score", float)]
    item, position, click, propensity = (np.array([kind(row[name]) for row in read]) for name, kind in columns)
    return item, position - 1, click, propensity


def choices(campaign, policy):
    """The probabilities of all items at each position under the other policy, shape (K, 3)."""
    with (DATA / f"obd_{campaign}_policy_bts_mc.csv").open() as file:
        each = np.array(
            [[float(row[f"p_{name}"]) for name in ("left", "center", "right")] for row in csv.DictReader(file)]
        )
    return each if policy == "random" else np.full_like(each, 1 / len(each))


@pytest.fixture(params=PRINTED, ids="-".join, scope="module")
def log(request):
    """One log with the other policy's probabilities, and what is printed of it."""
    item, position, click, propensity = rows(*request.param)
    target = choices(*request.param)
    return item, position, click, propensity, target, PRINTED[request.param], request.param


def test_ips_and_snips_are_the_printed_ones(log):
    """To the last digit printed, and their ratio is the mean weight."""
    item, position, click, propensity, target, printed, key = log
    would = target[item, position]
    plain, normalised = ips(click, propensity, would), snips(click, propensity, would)
    assert plain.value == pytest.approx(printed["ips"], abs=LAST_DIGIT)
    assert normalised.value == pytest.approx(printed["snips"], abs=LAST_DIGIT)
    assert plain.value / normalised.value == pytest.approx(plain.mean_weight, rel=1e-12)
    assert (round(plain.mean_weight, 3), plain.max_weight) == pytest.approx(MEAN_AND_LARGEST[key], rel=3e-3)
    assert plain.ess == pytest.approx(printed["ess"], abs=0.6)


def test_doubly_robust_is_the_printed_one(log):
    """Means per item and position, three interleaved folds, fifty rows of prior: to the last digit printed."""
    item, position, click, propensity, target, printed, _ = log
    q = cross_fitted(None, item, click, len(target), position=position, prior_rows=50)
    pmf = target[:, position].T
    pmf = pmf / pmf.sum(axis=1, keepdims=True)
    would, own = target[item, position], q[np.arange(len(item)), item]
    estimate = dr(click, propensity, would, own, (pmf * q).sum(axis=1))
    assert estimate.value == pytest.approx(printed["dr"], abs=LAST_DIGIT)
    assert 0.5 * click.mean() < dm((pmf * q).sum(axis=1)).value < 2 * click.mean()


def test_what_the_policy_really_earned_is_within_the_interval(log):
    """The other arm of the same experiment: its clicks per row lie within the interval, and so does its own interval."""
    item, position, click, propensity, target, printed, (campaign, policy) = log
    other = rows(campaign, "bts" if policy == "random" else "random")[2]
    assert other.mean() == pytest.approx(printed["truth"], abs=1e-12)
    estimate = snips(click, propensity, target[item, position])
    off = abs(estimate.value - other.mean()) / other.mean()
    noise = np.hypot((estimate.value * (1 - estimate.value) / estimate.ess) ** 0.5, other.std() / len(other) ** 0.5)
    print(campaign, policy, f"relative error {off:.3f}", estimate)
    assert estimate.low <= other.mean() <= estimate.high
    assert abs(estimate.value - other.mean()) < 3 * noise


def test_nothing_here_has_low_overlap(log):
    """An effective 3.4 to 25 % of the log are enough: no warning (which would be an error here)."""
    item, position, _, propensity, target, _, _ = log
    seen = overlap(propensity, target[item, position])
    assert not seen.low
    assert seen.sentence().startswith("10000 rows are worth")


def test_the_bootstrap_of_the_printed_example_is_like_the_printed_one():
    """zr-obp's notebook prints .001531 to .009254 for all, random to bts; our IPS bootstrap is within a tenth of it."""
    item, position, click, propensity = rows("all", "random")
    estimate = ips(click, propensity, choices("all", "random")[item, position], interval="bootstrap")
    assert (estimate.low, estimate.high) == pytest.approx((0.001531, 0.009254), rel=0.1)


def test_the_random_arm_was_drawn_at_random():
    """The published uniform arm passes the integrity tests; its rows said to be Thompson's fail them."""
    item, position, _, propensity = rows("men", "random")
    uniform = np.full((len(item), 34), 1 / 34)
    assert check_log(item, uniform, propensity).ok
    thompson = choices("men", "random")[:, position].T
    thompson = thompson / thompson.sum(axis=1, keepdims=True)
    assert not check_log(item, thompson, thompson[np.arange(len(item)), item]).ok


def test_vowpal_wabbits_printed_metrics():
    """Costs sum to -12, to -6 where action 1 was taken; always action 1: IPS -.306905, SNIPS -.666667."""
    path = DATA / "vw_dsjson_cb.json"
    if not path.is_file():
        pytest.skip(f"the decision-service events are not at {path}")
    events = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    cost, probability, action = (
        np.array([event[f"_label_{name}"] for event in events]) for name in ("cost", "probability", "Action")
    )
    first = action == 1
    assert (cost.sum(), cost[first].sum()) == (-12, -6)
    assert ips(cost, probability, first, reward_range=(-1, 0)).value == pytest.approx(-0.306905, abs=5e-7)
    assert snips(cost, probability, first, reward_range=(-1, 0)).value == pytest.approx(-0.666667, abs=5e-7)
    negated = snips(-cost, probability, first)
    same = snips(cost, probability, first, reward_range=(-1, 0))
    assert (negated.low, negated.high) == pytest.approx((-same.high, -same.low))
