"""two_sample against SciPy and alibi-detect, its promises by simulation, and its errors."""

import importlib.util
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.signal import lfilter
from scipy.spatial.distance import jensenshannon

from guardrails.drift.statistics import autocorrelation, kolmogorov, mmd
from guardrails.drift.statistics.contingency import cuts
from guardrails.drift.two_sample import TwoSample, two_sample
from guardrails.errors import ProfileError

ALIBI = importlib.util.find_spec("alibi_detect") is not None
needs_alibi = pytest.mark.skipif(not ALIBI, reason="alibi-detect is not installed (it needs numpy below 2)")
VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10, allow_subnormal=False))


def limit(level, trials, errors=3.5):
    """The most a rate may be that is `level` in truth."""
    return level + errors * math.sqrt(level * (1 - level) / trials)


def ar(rng, rho, n, d):
    """A stationary series of standard deviation ``(1 - rho^2) ** -.5``."""
    return lfilter([1], [1, -rho], rng.normal(size=(n + 300, d)), axis=0)[300:]


# Equality with SciPy


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:ks_2samp. Exact calculation")
@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=40), st.lists(VALUES, min_size=1, max_size=40))
def test_rank_statistics_and_p_values_are_scipys(x, y):
    """Whatever the ties and sizes: Kolmogorov-Smirnov exact and asymptotic, Cramér-von Mises, Wasserstein."""
    for method, scipys in (("exact", "exact"), ("asymptotic", "asymp")):
        found, truth = two_sample(x, y, "ks", method=method), stats.ks_2samp(x, y, method=scipys)
        assert found.statistic[0] == pytest.approx(truth.statistic, abs=1e-12)
        if len(x) + len(y) > 2:  # SciPy's asymptotic formula knows no samples of one row each
            assert found.p_value[0] == pytest.approx(truth.pvalue, abs=5e-6)
    assert two_sample(x, y).p_value[0] == pytest.approx(stats.ks_2samp(x, y, method="exact").pvalue, abs=1e-12)
    area = stats.wasserstein_distance(x, y)
    assert two_sample(x, y, "wasserstein").statistic[0] == pytest.approx(area, rel=1e-9, abs=1e-12)
    if min(len(x), len(y)) > 1:
        found, truth = two_sample(x, y, "cvm"), stats.cramervonmises_2samp(x, y)
        assert found.statistic[0] == pytest.approx(truth.statistic, abs=1e-12)
        assert found.p_value[0] == pytest.approx(truth.pvalue, abs=1e-6)


def test_infinities_are_the_largest_and_smallest_values():
    """As SciPy has it; the Wasserstein distance is infinite then."""
    x, y = np.array([-np.inf, 0, 1, 2, np.inf, np.inf]), np.array([-np.inf, 3, np.inf])
    for a, b in ((x, y), (y, x), (x[1:4], y), (x, y[1:2])):
        assert two_sample(a, b).statistic[0] == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)
        assert two_sample(a, b, "wasserstein").statistic[0] == np.inf


@pytest.mark.parametrize(("n", "m"), [(1000, 200), (500, 20_000)])
@pytest.mark.parametrize("rounded", [False, True])
def test_many_columns_at_once_are_scipys_one_by_one(n, m, rounded):
    """Sizes of a real reference, with and without ties, several shifts, a window larger than the reference."""
    rng = np.random.default_rng(n)
    X, Y = rng.normal(size=(n, 6)), rng.normal(size=(m, 6)) * [1, 1, 1, 2, 1, 0.1] + [0, 0.05, 0.1, 0, 1, 4]
    if rounded:
        X, Y = X.round(1), Y.round(1)
    ks, cvm = two_sample(X, Y, method="asymptotic"), two_sample(X, Y, "cvm")
    area = two_sample(X, Y, "wasserstein")
    for j in range(6):
        truth = stats.ks_2samp(X[:, j], Y[:, j], method="asymp")
        assert ks.statistic[j] == pytest.approx(truth.statistic, abs=1e-12)
        assert ks.p_value[j] == pytest.approx(truth.pvalue, abs=5e-6)
        truth = stats.cramervonmises_2samp(X[:, j], Y[:, j])
        assert cvm.statistic[j] == pytest.approx(truth.statistic, abs=1e-9)
        assert cvm.p_value[j] == pytest.approx(truth.pvalue, abs=1e-6)
        assert area.statistic[j] == pytest.approx(stats.wasserstein_distance(X[:, j], Y[:, j]), rel=1e-9)
    assert area.scaled == pytest.approx(area.statistic / X.std(axis=0))
    assert np.isnan(area.p_value).all()


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 20, 33, 60, 99, 140, 141, 170, 196, 909, 5000, 20_000])
def test_the_table_is_as_good_as_the_distribution_it_was_made_of(rows):
    """At random places and in the tail, within 5e-6 of SciPy's kstwo, and of p by three digits and more."""
    rng = np.random.default_rng(rows)
    k = 10 if rows <= 5000 else 1
    scaled = np.concatenate([rng.uniform(0, 0.6, 2 * k), rng.uniform(0.3, 2.5, 10 * k), rng.uniform(2, 5, 3 * k)])
    statistic = np.minimum(scaled / math.sqrt(rows), 1.0)
    found, truth = kolmogorov.survival(statistic, rows), stats.kstwo.sf(statistic, rows)
    assert np.abs(found - truth).max() < 5e-6
    seen = truth > 1e-200
    assert np.abs(found[seen] / truth[seen] - 1).max() < 1e-3
    assert kolmogorov.survival(np.full(9, 1.0), rows).tolist() == [0.0] * 9


def test_beyond_every_table_the_limit_holds():
    """A million rows against a million: Kolmogorov's limiting distribution."""
    scaled = np.linspace(0.3, 3.0, 50)
    found = kolmogorov.survival(scaled / math.sqrt(500_000), 500_000)
    assert np.abs(found - stats.kstwobign.sf(scaled)).max() < 1e-3
    assert (np.diff(found) <= 0).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_chi_square_is_scipys_where_every_value_is_frequent(data):
    """Statistic always, p-value where all are expected 5 times."""
    k = data.draw(st.integers(2, 8))
    n, m = (np.array(data.draw(st.lists(st.integers(1, 300), min_size=k, max_size=k))) for _ in "nm")
    names = np.array([f"level {i}" for i in range(k)], dtype=object)
    found = two_sample(np.repeat(names, n), np.repeat(names, m), "chi2")
    truth = stats.chi2_contingency([n, m])
    assert found.statistic[0] == pytest.approx(truth.statistic, abs=1e-9)
    if truth.expected_freq.min() >= 5:
        assert found.p_value[0] == pytest.approx(truth.pvalue, abs=1e-12)
    plain = two_sample(np.repeat(names, n), np.repeat(names, m), "chi2", correction=False)
    assert plain.statistic[0] == pytest.approx(stats.chi2_contingency([n, m], correction=False).statistic, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_jensen_shannon_and_psi_are_their_definitions(data):
    """Jensen-Shannon is SciPy's distance squared, in bits and within 0 and 1; PSI has half a row in every cell."""
    k = data.draw(st.integers(2, 8))
    n, m = (np.array(data.draw(st.lists(st.integers(0, 50), min_size=k, max_size=k))) for _ in "nm")
    n[0], m[-1] = n[0] + 1, m[-1] + 1
    X, Y = np.repeat(np.arange(k), n), np.repeat(np.arange(k), m)
    js = two_sample(X, Y, "js", categorical=[0])
    assert js.statistic[0] == pytest.approx(jensenshannon(n, m, base=2) ** 2, abs=1e-9)
    assert 0 <= js.statistic[0] <= 1
    psi = two_sample(X, Y, "psi", categorical=[0])
    used = n + m > 0
    p, q = ((c[used] + 0.5) / (c[used] + 0.5).sum() for c in (n, m))
    assert psi.statistic[0] == pytest.approx(((q - p) * np.log(q / p)).sum(), abs=1e-9)
    for found in (js, psi):
        assert 0 <= found.p_value[0] <= 1


def test_psi_and_jensen_shannon_p_values_are_the_published_formula():
    """Yurdakul: PSI over 1/n + 1/m is chi-square; Jensen-Shannon is the same form over 8 ln 2."""
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=4000), rng.normal(size=500) + 0.1
    spread = 1 / 4000 + 1 / 500
    psi, js = two_sample(X, Y, "psi"), two_sample(X, Y, "js")
    assert psi.p_value[0] == pytest.approx(stats.chi2.sf(psi.statistic[0] / spread, 9))
    assert js.p_value[0] == pytest.approx(stats.chi2.sf(8 * math.log(2) * js.statistic[0] / spread, 9))


@needs_alibi
@pytest.mark.parametrize("rounded", [False, True])
def test_p_values_are_alibi_detects(rounded):
    """KSDrift, CVMDrift and ChiSquareDrift on the same rows, in single precision as they keep them."""
    from alibi_detect.cd import ChiSquareDrift, CVMDrift, KSDrift

    rng = np.random.default_rng(5)
    X, Y = rng.normal(size=(10_000, 12)), rng.normal(size=(200, 12)) + np.linspace(0, 0.4, 12)
    if rounded:
        X, Y = X.round(1), Y.round(1)
    for test, kind in (("ks", KSDrift), ("cvm", CVMDrift)):
        theirs = kind(X).predict(Y, drift_type="feature")["data"]
        ours = two_sample(X, Y, test)
        assert np.abs(ours.p_value - theirs["p_val"]).max() < 1e-5
        assert ours.statistic == pytest.approx(theirs["distance"], rel=1e-6)
    X, Y = rng.integers(0, [2, 3, 6], (5000, 3)), rng.integers(0, [2, 3, 6], (300, 3))
    theirs = ChiSquareDrift(X).predict(Y, drift_type="feature")["data"]
    ours = two_sample(X, Y, "chi2")
    assert np.abs(ours.p_value - theirs["p_val"]).max() < 1e-6
    assert ours.statistic == pytest.approx(theirs["distance"], rel=1e-5)


# Promises


@pytest.mark.parametrize("test", ["ks", "cvm", "psi", "js", "chi2"])
@pytest.mark.parametrize("m", [50, 200])
def test_without_a_shift_alpha_holds(test, m):
    """1000 p-values of normal columns (12 values for chi2): at most 1 %, 5 % and 10 % of them are that small."""
    rng = np.random.default_rng(m)
    draw = (lambda n: rng.poisson(3, (n, 10))) if test == "chi2" else (lambda n: rng.normal(size=(n, 10)))
    compare = [TwoSample(draw(2000), test) for _ in range(10)]
    p = np.concatenate([one(draw(m)).p_value for one in compare for _ in range(10)])
    for level in (0.01, 0.05, 0.1):
        assert np.mean(p <= level) <= limit(level, len(p))
    assert np.mean(p <= 0.5) >= 0.2  # and not because nothing is ever small


@pytest.mark.parametrize("test", ["chi2", "psi", "js"])
@pytest.mark.parametrize("m", [30, 200, 2000])
def test_rare_categories_raise_no_alarms(test, m):
    """40 categories, of which half are rarer than 1 %, in 800 windows; the plain chi-square test fails this at 200."""
    rng = np.random.default_rng(m)
    share = 1 / np.arange(1, 41) ** 2.0
    share /= share.sum()

    def draw(n):
        return rng.choice(40, (n, 4), p=share)

    compare = [TwoSample(draw(5000), test, categorical=range(4)) for _ in range(20)]
    p = np.concatenate([one(draw(m)).p_value for one in compare for _ in range(10)])
    for level in (0.004, 0.01, 0.05):
        assert np.mean(p <= level) <= limit(level, len(p)), level
    if (test, m) == ("chi2", 200):
        counts = [np.bincount(draw(n)[:, 0], minlength=40) for n in [5000, 200] * 300]
        tables = [np.array(pair) for pair in zip(counts[::2], counts[1::2], strict=True)]
        plain = [stats.chi2_contingency(t[:, t.sum(axis=0) > 0], correction=False).pvalue for t in tables]
        assert np.mean(np.array(plain) <= 0.004) > limit(0.004, len(plain))


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda w, rng: np.where(rng.random(w.shape) < 0.2, 1, w), 0.8),  # a common value becomes more so
        (lambda w, rng: np.where(rng.random(w.shape) < 0.02, 99, w), 0.8),  # one that training never saw
        (lambda w, rng: np.where(rng.random(w.shape) < 0.02, 39, w), 0.7),  # one that training hardly saw
    ],
)
def test_rare_categories_hide_no_shift(change, least):
    """Windows of 200, 40 categories, threshold .004: common values, new values and rare values are all found."""
    rng = np.random.default_rng(8)
    share = 1 / np.arange(1, 41) ** 2.0
    share /= share.sum()
    compare = TwoSample(rng.choice(40, 10_000, p=share), "chi2")
    found = [compare(change(rng.choice(40, 200, p=share), rng)).p_value[0] < 0.004 for _ in range(100)]
    assert np.mean(found) >= least - 3 * math.sqrt(least * (1 - least) / 100)


HEAVY = [pytest.param(*sizes, marks=pytest.mark.full) for sizes in [(5000, 500, 10), (5000, 200, 64)]]


@pytest.mark.parametrize("kind", ["normal", "exponential", "clusters", "counts"])
@pytest.mark.parametrize(("n", "m", "d"), [(5000, 50, 10), (1000, 200, 10), (3000, 200, 1), *HEAVY])
def test_mmd_holds_alpha(kind, n, m, d):
    """12 references, 20 windows each: a share of .05 alarms. Windows share a reference: .03 more is allowed for that."""
    places = np.random.default_rng(99).normal(size=(8, d)) * 2
    draw = {
        "normal": lambda rng, k: rng.normal(size=(k, d)),
        "exponential": lambda rng, k: rng.exponential(size=(k, d)),
        "clusters": lambda rng, k: places[rng.integers(0, 8, k)] + rng.normal(size=(k, d)) / 2,
        "counts": lambda rng, k: rng.poisson(0.5, (k, d)),
    }[kind]
    alarms = 0
    for r in range(12):
        rng = np.random.default_rng([r, m])
        compare = TwoSample(draw(rng, n), "mmd", seed=r)
        alarms += sum(compare(draw(rng, m)).verdict() for _ in range(20))
    assert alarms / 240 <= limit(0.05, 240) + 0.03


def test_mmd_sees_what_no_column_shows():
    """Windows of 500 rows of 10 columns: a mean, a correlation of .4 that KS by columns cannot see, a cluster of 8 %."""

    def mean(rng):
        return rng.normal(size=(500, 10)) + 0.3 * np.eye(10)[0]

    def correlation(rng):
        x = rng.normal(size=(500, 10))
        x[:, 1] = 0.4 * x[:, 0] + math.sqrt(1 - 0.16) * x[:, 1]
        return x

    def cluster(rng):
        x = rng.normal(size=(500, 10))
        return np.where(rng.random((500, 1)) < 0.08, 2 + 0.3 * x, x)

    rng = np.random.default_rng(1)
    reference = rng.normal(size=(5000, 10))
    joint, single = TwoSample(reference, "mmd"), TwoSample(reference)
    power = {
        change.__name__: np.mean([joint(change(rng)).verdict() for _ in range(40)])
        for change in (mean, correlation, cluster)
    }
    assert power["mean"] >= 0.7, power
    assert power["correlation"] >= 0.7, power
    assert power["cluster"] == 1.0, power
    assert np.mean([single(correlation(rng)).verdict() for _ in range(40)]) <= limit(0.05, 40)


def test_mmd_is_one_number_and_the_same_every_time():
    """A fixed seed; one entry; few reference rows give few features, and still an answer."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(800, 3)), rng.normal(size=(100, 3))
    first, again = two_sample(X, Y, "mmd"), two_sample(X, Y, "mmd")
    assert (first.statistic, first.p_value) == (again.statistic, again.p_value)
    assert first.statistic.shape == first.p_value.shape == (1,)
    assert first.features == ("__joint__",)
    assert two_sample(X, Y + 1, "mmd").drifted() == ["__joint__"]
    assert mmd.MeanEmbedding.fit(X).waves.shape == (3, 800 // (2 * mmd.ROWS_PER_FEATURE))


@pytest.mark.parametrize("test", ["ks", "cvm", "psi", "js", "mmd"])
def test_dependent_rows_raise_no_alarms_when_they_are_said_to_be(test):
    """AR(1) of .6, 1000 rows: told so, alarms keep to 5 %; not told, they do not, and the note says why."""
    alarms = {True: [], False: []}
    for r in range(25):
        rng = np.random.default_rng([r, 6])
        X, Y = ar(rng, 0.6, 5000, 4), ar(rng, 0.6, 1000, 4)
        for told, counted in alarms.items():
            found = two_sample(X, Y, test, autocorrelated=told)
            counted.append(found.p_value < 0.05)
            assert ("autocorrelated=True" in found.note) is not told
            assert "feature_0" in found.note
    trials = np.size(alarms[True])
    assert np.mean(alarms[True]) <= limit(0.05, trials)
    assert np.mean(alarms[False]) > limit(0.05, trials)


def test_a_shift_of_dependent_rows_is_still_found():
    """A mean of one standard deviation, told that rows depend on each other."""
    rng = np.random.default_rng(2)
    X, Y = ar(rng, 0.6, 5000, 3), ar(rng, 0.6, 500, 3) + np.array([0, 1.25, 0])
    found = two_sample(X, Y, autocorrelated=True)
    assert found.drifted() == ["feature_1"]
    assert (found.window_rows < 250).all()
    assert (found.window_rows > 40).all()


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_autocorrelation_times_are_those_of_the_process(rho):
    """(1 + rho) / (1 - rho), the mean of 60 series of 4000 rows, within a tenth; for numbers and for their sign."""
    rng = np.random.default_rng(4)
    x = ar(rng, rho, 4000, 60)
    assert np.mean(autocorrelation.times(x)) == pytest.approx((1 + rho) / (1 - rho), rel=0.12)
    signs = (x > 0).astype(np.int64)
    # The arcsine law: the correlation of signs is 2/pi asin(rho^k).
    expected = 1 + 2 * (2 / np.pi * np.arcsin(rho ** np.arange(1, 400))).sum()
    assert np.mean([autocorrelation.time_of_levels(s) for s in signs.T]) == pytest.approx(expected, rel=0.12)


def test_independent_rows_are_not_called_autocorrelated():
    """200 windows of independent heavy-tailed and categorical rows: no note."""
    rng = np.random.default_rng(0)

    def draw(n):
        return np.column_stack([rng.standard_t(2, n), rng.exponential(size=n), rng.integers(0, 4, n)])

    compare = TwoSample(draw(3000), categorical=[2])
    assert [compare(draw(200)).note for _ in range(200)] == [""] * 200


# Columns


def frame(rng, n, shift=0.0):
    """Numbers, text with missing entries, whole numbers."""
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({
        "x": rng.normal(size=n) + shift,
        "colour": rng.choice(np.array(["red", "green", None], dtype=object), n),
        "k": rng.integers(0, 4, n),
    })  # fmt: skip


def test_a_mixed_frame_is_compared_by_ranks_and_chi_square():
    """The same figures from a frame, from an object array, with columns in another order, and from SciPy."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    X, Y = frame(rng, 3000), frame(rng, 400, shift=0.5)
    found = two_sample(X, Y, "ks", categorical=["colour", "k"])
    assert found.features == ("x", "colour", "k")
    assert found.tests == ("ks", "chi2", "chi2")
    assert found.drifted() == ["x"]
    tables = [[d[c].fillna("-").value_counts().sort_index() for d in (X, Y)] for c in ("colour", "k")]
    assert found.p_value[1:] == pytest.approx([stats.chi2_contingency(t).pvalue for t in tables])
    assert found.p_value[0] == pytest.approx(stats.ks_2samp(X.x, Y.x, method="asymp").pvalue, abs=1e-5)
    compare = TwoSample(X, categorical=["colour", "k"])
    for same in (Y[["k", "x", "colour"]], Y.to_numpy(dtype=object)):
        assert compare(same).p_value == pytest.approx(found.p_value)
    nullable = Y.astype({"k": "Int64", "x": "Float64"})
    assert compare(nullable).p_value == pytest.approx(found.p_value)
    assert two_sample(X.x, pandas.Series(Y.x)).features == ("x",)


def test_missing_values_are_left_out_of_ranks_and_counted_elsewhere():
    """NaN: no rows for KS (SciPy's on the rest); a category for chi2, psi and js, so that their share is compared."""
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(1000, 3)), rng.normal(size=(200, 3))
    X[rng.random(X.shape) < 0.1] = np.nan
    Y[rng.random(Y.shape) < [0.1, 0.5, 0.0]] = np.nan
    found = two_sample(X, Y, method="asymptotic")
    for j in range(3):
        x, y = X[~np.isnan(X[:, j]), j], Y[~np.isnan(Y[:, j]), j]
        truth = stats.ks_2samp(x, y, method="asymp")
        assert (found.statistic[j], found.p_value[j]) == pytest.approx((truth.statistic, truth.pvalue), abs=5e-6)
        assert (found.reference_rows[j], found.window_rows[j]) == (len(x), len(y))
    assert found.drifted() == []
    for test in ("psi", "js", "chi2"):
        assert {"feature_1", "feature_2"} == set(two_sample(X, Y, test).drifted()), test


def test_a_column_without_values_is_said_not_to_be_compared():
    """In the window: NaN and a note, the others are compared. In the reference: an error."""
    X, Y = np.zeros((50, 2)), np.zeros((20, 2))
    X[:, 0], Y[:, 0] = np.arange(50), 100
    Y[:, 1] = np.nan
    found = two_sample(X, Y)
    assert np.isnan([found.statistic[1], found.p_value[1]]).all()
    assert "feature_1" in found.note
    assert found.drifted() == ["feature_0"]
    with pytest.raises(ProfileError, match="feature_1"):
        TwoSample(Y)


def test_bins_are_not_blind():
    """Constants that move up or down, mostly-zero columns that stop being so, two values that swap."""
    rng = np.random.default_rng(0)
    constant, zeros = np.full(2000, 7.0), np.where(rng.random(2000) < 0.95, 0.0, rng.exponential(size=2000))
    rare = (rng.random(2000) < 0.03).astype(float)
    X = np.column_stack([constant, constant, zeros, rare])
    moved = np.column_stack([constant + 1, constant - 1, rng.exponential(size=2000), 1 - rare])[:200]
    for test in ("psi", "js"):
        compare = TwoSample(X, test)
        assert compare(moved).drifted() == [f"feature_{j}" for j in range(4)]
        assert compare(X[:200]).drifted() == []
    assert np.isfinite(two_sample(X, moved, "psi").statistic).all()
    assert len(cuts(rng.normal(size=500))) == 9


def test_chi_square_of_numbers_says_when_it_cuts_them():
    """Few distinct values are categories; many are cut at the deciles, and the note says so."""
    rng = np.random.default_rng(0)
    X, Y = (np.column_stack([rng.normal(size=n), rng.integers(0, 5, n)]) for n in (2000, 300))
    found = two_sample(X, Y, "chi2")
    assert "feature_0" in found.note
    assert "feature_1" not in found.note
    edges = np.quantile(X[:, 0], np.arange(1, 10) / 10)
    table = [np.bincount(np.searchsorted(edges, z[:, 0], "right"), minlength=10) for z in (X, Y)]
    assert found.statistic[0] == pytest.approx(stats.chi2_contingency(table).statistic)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_order_does_not_matter_and_shapes_hold(n, m, d, seed):
    """Shuffled rows and columns give the same entries in their places; the same sample twice is no shift."""
    rng = np.random.default_rng(seed)
    X, Y = rng.integers(0, 6, (n, d)) / 2, rng.integers(0, 6, (m, d)) / 2
    columns = rng.permutation(d)
    for test in ("ks", "cvm", "wasserstein", "chi2", "psi", "js"):
        found = two_sample(X, Y, test)
        assert found.statistic.shape == found.p_value.shape == (d,)
        shuffled = two_sample(rng.permutation(X)[:, columns], rng.permutation(Y)[:, columns], test)
        assert shuffled.statistic == pytest.approx(found.statistic[columns], rel=1e-9, abs=1e-12)
        assert shuffled.p_value == pytest.approx(found.p_value[columns], nan_ok=True)
        p = found.p_value[~np.isnan(found.p_value)]
        assert ((p >= 0) & (p <= 1)).all()
        same = two_sample(X, X, test)
        assert np.nanmin([1.0, *same.p_value]) > 0.5


def test_a_prepared_reference_answers_as_the_function_does():
    """And as often as it is asked, whatever the size of the window."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 4))
    for test in ("ks", "cvm", "chi2", "psi", "js", "mmd"):
        compare = TwoSample(X, test)
        for m in (40, 300, 40):
            Y = rng.normal(size=(m, 4))
            assert compare(Y).p_value == pytest.approx(two_sample(X, Y, test).p_value, abs=5e-6)


@pytest.mark.parametrize(
    ("reference", "window", "options", "message"),
    [
        (np.zeros((9, 2)), np.zeros((9, 3)), {}, "3 columns, the reference 2"),
        (np.zeros((9, 2)), np.zeros((0, 2)), {}, "0 rows"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"test": "kolmogorov"}, "wasserstein"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"method": "asymp"}, "asymptotic"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"categorical": ["colour"]}, "colour"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"categorical": [2]}, "2"),
        ([["a", 1.0]] * 9, [["b", 1.0]] * 9, {}, r"categorical=\['feature_0'\]"),
        ([["a", 1.0]] * 9, [["b", 1.0]] * 9, {"test": "psi"}, r"categorical=\['feature_0'\]"),
        ([[1.0, 1.0]] * 9, [["b", 1.0]] * 9, {}, "'b', which is no number"),
        ([[[1]]] * 9, 7, {}, "no table"),
        (np.zeros((200, 2)), np.zeros((9, 2)), {"test": "mmd"}, "the same"),
        (np.zeros((99, 2)), np.zeros((9, 2)), {"test": "mmd"}, "150 rows"),
        (np.eye(200), np.full((9, 200), np.nan), {"test": "mmd"}, "row 0, column 0 of the window"),
        (np.eye(200), np.eye(200), {"test": "mmd", "categorical": [0]}, "mmd"),
    ],
)  # fmt: skip
def test_errors_say_what_was_wrong(reference, window, options, message):
    """Which column, which value, what to do."""
    with pytest.raises(ProfileError, match=message):
        two_sample(reference, window, **options)


def test_missing_frame_columns_are_named():
    """A frame without one of the reference's columns."""
    rng = np.random.default_rng(0)
    X = frame(rng, 20)
    with pytest.raises(ProfileError, match="colour"):
        two_sample(X, X.drop(columns="colour"), categorical=["colour"])


def test_wasserstein_gives_no_verdict():
    """It has no p-value; silence would read as no drift."""
    found = two_sample(np.arange(9.0), np.arange(9.0) + 100, "wasserstein")
    for ask in (found.drifted, found.verdict):
        with pytest.raises(ProfileError, match="no p-value"):
            ask()
