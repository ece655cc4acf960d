"""compare(): the statistics against their definitions and scipy's, and what the alarms are worth by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from guardrails.drift import compare
from guardrails.drift import report as module
from guardrails.drift.statistics.multiple import holm
from guardrails.profile.bins import BINS, Bins


def bins_of(reference, categorical=None):
    """Reference bins of a matrix."""
    names = [f"x{i}" for i in range(reference.shape[1])]
    return Bins.fit(names, reference, categorical or [False] * len(names))


def by_name(found):
    """A report by feature."""
    return {entry.feature: entry for entry in found}


def merged(reference, window):
    """Neighbours joined until both samples expect at least five rows, written down once more."""
    n, m = reference.sum(), window.sum()
    table, held = [], np.zeros(2)
    for pair in zip(reference, window, strict=True):
        held = held + pair
        if held.sum() * min(n, m) / (n + m) >= 5:
            table.append(held)
            held = np.zeros(2)
    if held.sum():
        if table:
            table[-1] = table[-1] + held
        else:
            table.append(held)
    return np.array(table).T


COUNTS = st.lists(st.integers(0, 300), min_size=4, max_size=15)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_chi_square_is_scipys_on_the_merged_table(data):
    """Statistic and p-value of chi2_contingency without Yates' correction; PSI, KS and shares finite and in range."""
    reference = np.array(data.draw(COUNTS))
    window = np.array(data.draw(st.lists(st.integers(0, 300), min_size=len(reference), max_size=len(reference))))
    bins = Bins(("x",), np.zeros((1, len(reference) - 3)), np.array([False]), reference[None].astype(np.int64))
    found = compare(bins, window[None].astype(np.int64))
    if not reference.sum() or not window.sum():
        assert found == ()
        return
    (entry,) = found
    table = merged(reference, window)
    if table.shape[1] == 1:
        assert (entry.chi2, entry.p_value) == (0.0, 1.0)
    else:
        expected = stats.chi2_contingency(table, correction=False)
        assert expected.expected_freq.min() >= 5 - 1e-9
        assert entry.chi2 == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
        assert entry.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-300)
    p, q = reference / reference.sum(), window / window.sum()
    assert entry.ks == pytest.approx(np.abs(np.cumsum(p) - np.cumsum(q)).max(), abs=1e-12)
    assert math.isfinite(entry.psi)
    assert entry.psi >= -1e-12
    assert entry.rows == window.sum()
    assert entry.missing == pytest.approx(q[-1])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.5, 1.0])), max_size=12), st.floats(0.001, 0.5))
def test_holm_is_its_definition(p_values, alpha):
    """Step down: reject the smallest while p(k) <= alpha / (m - k); and never lose the order."""
    adjusted = holm(p_values).tolist()
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    expected, largest = [0.0] * m, 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        expected[i] = largest
    assert adjusted == pytest.approx(expected)
    rejected = set()
    for rank, i in enumerate(order):
        if (m - rank) * p_values[i] > alpha:
            break
        rejected.add(i)
    assert {i for i in range(m) if adjusted[i] <= alpha} == rejected


@pytest.mark.parametrize("rows", [200, 2000])
def test_p_values_without_drift_are_uniform(rows):
    """400 windows from the distribution of the reference, which is drawn anew each time: no more small p than there should be."""
    rng = np.random.default_rng(rows)
    p = []
    for _ in range(400):
        bins = bins_of(rng.normal(size=(1000, 2)))
        p += [entry.p_value for entry in compare(bins, bins.count(rng.normal(size=(rows, 2))))]
    assert stats.kstest(p, "uniform").pvalue > 1e-4
    for level in (0.01, 0.05, 0.1):
        assert np.mean(np.array(p) <= level) <= level + 3 * math.sqrt(level * (1 - level) / len(p))


@pytest.mark.parametrize("kind", ["normal", "rare categories", "few values", "heavy tails", "often missing"])
def test_the_family_wise_false_alarm_rate_holds(kind):
    """300 clean looks at 10 columns, 300 rows each: any alarm at all in at most 1 % + 3 standard errors."""
    rng = np.random.default_rng(len(kind))
    probabilities = 1 / np.arange(1, 41) ** 1.5
    probabilities /= probabilities.sum()

    def draw(n):
        if kind == "normal":
            return rng.normal(size=(n, 10))
        if kind == "rare categories":
            return rng.choice(40, (n, 10), p=probabilities).astype(float)
        if kind == "few values":
            return rng.poisson(0.3, (n, 10)).astype(float)
        if kind == "heavy tails":
            return rng.standard_cauchy((n, 10))
        X = rng.normal(size=(n, 10))
        X[rng.random(X.shape) < 0.4] = np.nan
        return X

    alarms = 0
    for _ in range(300):
        bins = bins_of(draw(1500), [kind == "rare categories"] * 10)
        alarms += any(entry.drifted for entry in compare(bins, bins.count(draw(300))))
    assert alarms / 300 <= module.ALPHA + 3 * math.sqrt(module.ALPHA * (1 - module.ALPHA) / 300)


def test_half_a_sigma_in_one_of_ten_columns_is_found_and_named_first():
    """2,000 rows are plenty, whichever column it is; the others stay quiet (1 % of the looks may err: 2 of 10 would be odd)."""
    wrong = 0
    for shifted in range(10):
        rng = np.random.default_rng(100 + shifted)
        bins = bins_of(rng.normal(size=(5000, 10)))
        window = rng.normal(size=(2000, 10))
        window[:, shifted] += 0.5
        found = compare(bins, bins.count(window))
        assert found[0].feature == f"x{shifted}"
        assert found[0].drifted
        wrong += any(entry.drifted for entry in found[1:])
    assert wrong <= 2


@pytest.mark.parametrize(
    ("change", "which"),
    [
        (lambda X: X * 1.5, "spread"),
        (lambda X: np.where(np.random.default_rng(9).random(X.shape) < 0.1, np.nan, X), "missing"),
        (lambda X: X + 1e300, "all beyond"),
        (np.zeros_like, "stuck"),
        (lambda X: np.full_like(X, np.nan), "all missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_kinds_of_drift_are_found(change, which):
    """Spread, missing values, a unit, a sensor that hangs."""
    rng = np.random.default_rng(5)
    bins = bins_of(rng.normal(size=(3000, 2)))
    window = rng.normal(size=(1000, 2))
    window[:, 1] = change(window[:, 1])
    found = compare(bins, bins.count(window))
    assert [entry.drifted for entry in found] == [True, False]
    assert found[0].feature == "x1"
    assert all(math.isfinite(value) for value in (found[0].psi, found[0].chi2, found[0].ks))


@pytest.mark.parametrize("value", [3.0, 5.5, np.nan])
def test_a_constant_column_that_changes_is_found(value):
    """Upwards, downwards, or gone."""
    rng = np.random.default_rng(6)
    bins = bins_of(np.column_stack([np.full(1000, 5.0), rng.normal(size=1000)]))
    window = np.column_stack([np.full(500, value), rng.normal(size=500)])
    assert by_name(compare(bins, bins.count(window)))["x0"].drifted


def test_a_category_training_never_saw_is_found():
    """A tenth of the rows hold a new one."""
    rng = np.random.default_rng(7)
    bins = bins_of(rng.integers(0, 4, (2000, 1)).astype(float), [True])
    window = rng.integers(0, 4, (400, 1)).astype(float)
    window[:40] = np.inf
    assert compare(bins, bins.count(window))[0].drifted


@pytest.mark.parametrize("rows", [1, 50, 199])
def test_fewer_than_200_rows_decide_nothing(rows):
    """However far away they are."""
    bins = bins_of(np.random.default_rng(8).normal(size=(1000, 2)))
    found = compare(bins, bins.count(np.full((rows, 2), 99.0)))
    assert not any(entry.drifted for entry in found)
    assert all(math.isfinite(entry.psi) and 0 <= entry.adjusted <= 1 for entry in found)


def test_200_rows_decide():
    """The limit itself is enough."""
    bins = bins_of(np.random.default_rng(8).normal(size=(1000, 1)))
    assert compare(bins, bins.count(np.full((200, 1), 99.0)))[0].drifted


def test_nothing_counted_is_nothing_reported():
    """No rows, no verdict."""
    bins = bins_of(np.random.default_rng(8).normal(size=(1000, 2)))
    assert compare(bins, bins.empty()) == ()


def test_a_column_nobody_counted_is_left_out_of_the_correction():
    """Outputs of a service that only ever fell back."""
    rng = np.random.default_rng(9)
    bins = bins_of(rng.normal(size=(1000, 2)))
    counts = bins.count(rng.normal(size=(300, 2)))
    counts[1] = 0
    (entry,) = compare(bins, counts)
    assert entry.feature == "x0"
    assert entry.adjusted == entry.p_value


def test_a_category_has_no_ks():
    """Its bins have no order: NaN, which is null in JSON; a number beside it keeps its own."""
    rng = np.random.default_rng(7)
    reference = np.column_stack([rng.integers(0, 4, 2000), rng.normal(size=2000)]).astype(float)
    bins = bins_of(reference, [True, False])
    found = by_name(compare(bins, bins.count(reference[:500])))
    assert math.isnan(found["x0"].ks)
    assert found["x0"].to_json()["ks"] is None
    assert 0 <= found["x1"].ks < 0.1


def test_a_report_is_json():
    """For the status page."""
    import json

    bins = bins_of(np.random.default_rng(10).normal(size=(1000, 1)))
    (entry,) = compare(bins, bins.count(np.full((300, 1), 99.0)))
    assert json.loads(json.dumps(entry.to_json()))["feature"] == "x0"


def test_psi_of_equal_shares_is_nothing_and_grows_with_distance():
    """And it is the textbook's sum where all bins are full."""
    bins = bins_of(np.arange(160_000.0)[:, None])
    same = compare(bins, bins.counts)[0].psi
    assert abs(same) < 1e-12
    window = bins.counts.copy()
    window[0, 0] += 20_000
    p = bins.counts[0, :BINS] / bins.counts[0].sum()
    q = window[0, :BINS] / window[0].sum()
    assert compare(bins, window)[0].psi == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("rows", [200, 1000, 5000])
@pytest.mark.parametrize("reference", [300, 2000])
def test_p_values_are_uniform_for_many_sizes(rows, reference):
    """2,000 repetitions."""
    rng = np.random.default_rng(rows + reference)
    p = []
    for _ in range(2000):
        bins = bins_of(rng.normal(size=(reference, 1)))
        p.append(compare(bins, bins.count(rng.normal(size=(rows, 1))))[0].p_value)
    for level in (0.001, 0.01, 0.05):
        assert np.mean(np.array(p) <= level) <= level + 3.5 * math.sqrt(level * (1 - level) / len(p))
