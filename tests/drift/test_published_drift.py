"""two_sample on real data: alibi-detect's printed figures for Adult, the clean batches, and the electricity market."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from guardrails.drift.two_sample import TwoSample, two_sample

pandas = pytest.importorskip("pandas")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "drift"
NUMBERS = ["age", "capital_gain", "capital_loss", "hours_per_week"]
CATEGORIES = [
    "workclass", "education", "marital_status", "occupation", "relationship", "race", "sex", "country",
]  # fmt: skip
PRINTED = {  # statistic and p-value of rows 10000-19999, then of rows 20000-29999; reference rows 0-9999
    "age": (0.012, 0.512, 0.007, 0.967), "workclass": (8.487, 0.387, 5.800, 0.670),
    "education": (4.753, 0.576, 5.413, 0.492), "marital_status": (3.160, 0.368, 1.167, 0.761),
    "occupation": (8.194, 0.415, 12.296, 0.138), "relationship": (0.485, 0.993, 6.520, 0.259),
    "race": (0.587, 0.965, 1.417, 0.841), "sex": (0.217, 0.641, 0.008, 0.928),
    "capital_gain": (0.002, 1.000, 0.005, 0.999), "capital_loss": (0.002, 1.000, 0.003, 1.000),
    "hours_per_week": (0.012, 0.512, 0.004, 1.000), "country": (9.991, 0.441, 11.256, 0.338),
}  # fmt: skip
CHANGE = 17424
"""The first row after the market was joined with Victoria's."""
MARKET = ["nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
WEEK = 336


def table(file):
    """One file as a frame; skips where it is not there."""
    path = DATA / file
    if not path.is_file():
        pytest.skip(f"the drift data is not at {path}")
    return pandas.read_csv(path, na_filter=False)


@pytest.fixture(scope="module")
def adult():
    """The features of Adult."""
    return table("adult_mapped_30000.csv.gz")[NUMBERS + CATEGORIES]


@pytest.fixture(scope="module")
def market():
    """The electricity market."""
    return table("elec2.csv.gz")


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_all_48_printed_figures_of_adult_are_reproduced(adult, method):
    """To half of the last digit printed, and KS p-values to .005; no column and no table is said to drift."""
    compare = TwoSample(adult[:10_000], "ks", CATEGORIES, method=method)
    for part, window in enumerate((adult[10_000:20_000], adult[20_000:])):
        found = compare(window)
        for name, statistic, p_value in zip(found.features, found.statistic, found.p_value, strict=True):
            printed = PRINTED[name][2 * part : 2 * part + 2]
            assert statistic == pytest.approx(printed[0], abs=0.0005001), name
            assert p_value == pytest.approx(printed[1], abs=0.005 if name in NUMBERS else 0.0005001), name
        assert found.drifted() == []
        assert not found.verdict()
        assert found.note == ""


def test_clean_batches_of_adult_raise_no_more_alarms_than_they_may(adult):
    """400 batches of 200 rows, threshold .05/12 a column: at most .075 of them alarm (the plain chi-square: .155)."""
    compare = TwoSample(adult[:10_000], "ks", CATEGORIES)
    rest, rng = adult[10_000:], np.random.default_rng(0)
    p = np.array([compare(rest.iloc[rng.choice(len(rest), 200, replace=False)]).p_value for _ in range(400)])
    alarms = (p < 0.05 / 12).any(axis=1)
    assert alarms.mean() <= 0.075
    assert (p[:, 4:] < 0.05 / 12).any(axis=1).mean() <= 0.075
    # Each column by itself, up to 3.5 standard errors of 400 batches.
    assert ((p < 0.05).mean(axis=0) <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 400)).all()


@pytest.mark.parametrize(
    ("column", "value", "share", "least"),
    [
        ("workclass", "Self-emp-not-inc", 0.12, 0.6),  # a common value, next to two that are hardly ever seen
        ("occupation", "Military-service-abroad", 0.02, 0.75),  # one that training never saw
        ("workclass", "Never-worked", 0.02, 0.6),  # one that it saw in one row of 10,000
        ("country", "South-America", 0.12, 0.9),
        ("age", 70, 0.2, 0.9),
    ],
)
def test_shifted_batches_of_adult_are_found(adult, column, value, share, least):
    """60 batches of 200 rows of which a share has another value in one column: the column is named, threshold .05/12."""
    compare = TwoSample(adult[:10_000], "ks", CATEGORIES)
    rest, rng, named = adult[10_000:], np.random.default_rng(1), []
    for _ in range(60):
        batch = rest.iloc[rng.choice(len(rest), 200, replace=False)].copy()
        batch.loc[rng.random(200) < share, column] = value
        found = compare(batch)
        named.append(found.p_value[found.features.index(column)] < 0.05 / 12)
    assert np.mean(named) >= least


def test_the_change_of_the_market_is_found_with_the_printed_figures(market):
    """KS before against after: .507, .121, .710, .506, .765; PSI 1.34 and .095; every test says drift."""
    before, after = market[MARKET][:CHANGE], market[MARKET][CHANGE:]
    found = two_sample(before, after)
    assert found.statistic == pytest.approx([0.507, 0.121, 0.710, 0.506, 0.765], abs=0.0005001)
    assert found.drifted() == MARKET
    assert "autocorrelated" in found.note
    # The other three columns are constant before: a bin for each side of the constant, where the printed 7.18, 4.67 and
    # 1.87 know one side only.
    psi = two_sample(before, after, "psi")
    assert psi.statistic[:2] == pytest.approx([1.34, 0.095], abs=0.005)
    assert (psi.statistic[2:] > 2).all()
    assert two_sample(before[MARKET[:2]], after[MARKET[:2]], "mmd").verdict()
    assert two_sample(before, after, autocorrelated=True).verdict()


def test_shuffled_halves_of_the_market_raise_few_alarms(market):
    """300 splits of the rows before the change, in random order: a family-wise rate of .05 up to its standard error."""
    rows, alarms = market[MARKET[:2]][:CHANGE].to_numpy(), 0
    for seed in range(300):
        order = np.random.default_rng(seed).permutation(CHANGE)
        found = two_sample(rows[order[: CHANGE // 2]], rows[order[CHANGE // 2 :]])
        assert found.note == ""
        alarms += found.verdict()
    assert alarms / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_consecutive_weeks_are_explained_and_handled(market):
    """50 pairs of weeks before the change. Rows taken for independent: all alarm, and every note says why.

    Told that they are not, a quarter does: prices do change from one week to the next, and no correction of the number
    of rows should hide that.
    """
    rows = market[MARKET[:2]][:CHANGE].to_numpy()
    weeks = [rows[i * WEEK : (i + 1) * WEEK] for i in range(51)]
    pairs = list(itertools.pairwise(weeks))
    naive = [two_sample(a, b) for a, b in pairs]
    told = [two_sample(a, b, autocorrelated=True) for a, b in pairs]
    assert np.mean([found.verdict() for found in naive]) == 1.0
    assert all("autocorrelated=True" in found.note for found in naive)
    assert np.mean([found.verdict() for found in told]) < 0.4
    assert all("real differences" in found.note for found in told)
    assert all((found.window_rows < WEEK / 3).all() for found in told)
