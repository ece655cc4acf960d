"""The closed loop at the size of a test: exploration is worth what the weights make of it, and lambda tells."""

import numpy as np
import pytest
from scipy.stats import chisquare

from benchmarks.closed_loop import Arm, gain_of, gains, interval, recommend, runs, said, small
from guardrails.exploration.rankings import Boost, PoolInjection
from services.songs.audience import Audience

SEEDS = 8
ALPHA = 1e-4
ARMS = {
    "naive": Arm("count"),
    "explored": Arm("count", 0.1, boost=3.0),
    "weighted": Arm("count + IPS", 0.1),
    "boosted": Arm("count + IPS", 0.1, boost=3.0),
    "wrong": Arm("count + IPS", 0.1, boost=3.0, wrong=True),
}


@pytest.fixture(scope="module")
def done():
    """Every arm in the same worlds; the figures are printed."""
    results = {name: runs(small(arm), SEEDS) for name, arm in ARMS.items()}
    for name, some in results.items():
        ends = {key: said([one.end(key) for one in some]) for key in ("greedy_value", "shown_value", "greedy_coverage")}
        print(name, ends)
    return results


def test_exploration_without_weights_changes_nothing(done):
    """The greedy value stays where it is without exploration, in every world, though everything is shown."""
    gained = gains(done["explored"], done["naive"])
    print("gained", interval(gained))
    assert np.abs(gained).max() <= 0.02
    assert np.mean([one.end("shown_coverage") for one in done["explored"]]) > 0.8
    assert np.mean([one.end("shown_coverage") for one in done["naive"]]) < 0.15


def test_weights_make_exploration_worth_it(done):
    """With propensities the greedy value rises by a fifth of the ideal or more, paired, and in every world by some."""
    gained = gains(done["weighted"], done["naive"])
    mean, half = interval(gained)
    print(f"gained {mean:.3f} +- {half:.3f}, least {gained.min():.3f}")
    assert mean >= 0.2
    assert gained.min() > 0.1
    shown = [a.end("shown_value") - b.end("shown_value") for a, b in zip(done["weighted"], done["naive"], strict=True)]
    assert min(shown) > 0.1  # the cost of exploring is paid for, too


def test_wrong_propensities_gain_nothing(done):
    """Exposures of no policy are worth as much as none."""
    gained = gains(done["wrong"], done["naive"])
    print("gained", interval(gained))
    assert np.abs(gained).max() <= 0.02


def test_lambda_tells_them_apart(done):
    """The loop gain is one for the counter and for wrong weights, and zero for right ones, with intervals that say so."""
    naive, weighted, wrong = (gain_of(done[name], 3.0) for name in ("explored", "boosted", "wrong"))
    print(naive, weighted, wrong, sep="\n")
    assert 0.8 <= naive.value <= 1.2
    assert 0.8 <= wrong.value <= 1.2
    assert -0.2 <= weighted.value <= 0.2
    assert weighted.low < 0.0 < weighted.high < naive.low < 1.0 < naive.high


def test_exploration_makes_the_models_own_lists_different(done):
    """Only with weights do the model's own lists leave the head, and the segments each other."""
    naive, weighted = done["naive"], done["weighted"]
    for one, other in zip(naive, weighted, strict=True):
        assert other.end("greedy_tail") > one.end("greedy_tail") + 0.3
        assert other.end("jaccard") < one.end("jaccard")
        assert other.end("greedy_coverage") > one.end("greedy_coverage")


def test_what_is_shown_moves_mechanically(done):
    """Without weights the Gini of what is shown falls by what mixing does, while the greedy one stays."""
    for one, base in zip(done["explored"], done["naive"], strict=True):
        assert one.end("greedy_gini") == pytest.approx(base.end("greedy_gini"), abs=0.005)
        mixed = (1 - 0.1 / 5) * one.end("greedy_gini")  # one of five places, in one of ten lists
        assert one.end("shown_gini") == pytest.approx(mixed, abs=0.01)


def listeners(n, rng):
    return rng.integers(0, 4, n)


def test_coverage_of_a_round_is_what_can_be_computed():
    """With several segments, exploration reaches each song as often as the pools it is in make it."""
    rng, n, epsilon, rounds = np.random.default_rng(0), 2000, 0.05, 200
    scores, look = rng.normal(size=(4, 100)), Audience.make(0).examination
    policy = PoolInjection(epsilon, slots=5)
    covered, expected = [], []
    for _ in range(rounds):
        who = listeners(n, rng)
        greedy, lists, _ = recommend(policy, scores, who, look, rng)
        explored = lists[lists != greedy[who]]
        covered.append(len(np.unique(explored)) / 100)
        outside = np.ones((4, 100))
        np.put_along_axis(outside, greedy, 0.0, axis=1)
        never = (1 - epsilon * outside / 95) ** np.bincount(who, minlength=4)[:, None]
        expected.append(1 - never.prod(axis=0).mean())
    assert np.mean(covered) == pytest.approx(np.mean(expected), abs=4 * np.std(covered) / np.sqrt(rounds))


@pytest.mark.parametrize(("n", "epsilon"), [(1000, 0.05), (4000, 0.05), (1000, 0.2)])
def test_coverage_of_a_pool(n, epsilon):
    """With one list for all, n of them reach 1 - (1 - 1/(I - k))^(n eps) of the songs outside it."""
    rng, rounds = np.random.default_rng(9), 300
    scores, look = rng.normal(size=(1, 100)), Audience.make(0).examination
    policy, who, covered = PoolInjection(epsilon, slots=5), np.zeros(n, dtype=int), []
    for _ in range(rounds):
        greedy, lists, _ = recommend(policy, scores, who, look, rng)
        covered.append(len(np.setdiff1d(lists, greedy)) / 95)
    error = 4 * np.std(covered) / np.sqrt(rounds)
    assert np.mean(covered) == pytest.approx(1 - (1 - 1 / 95) ** (n * epsilon), abs=error + 0.003)


def test_lists_come_from_the_policys_marginals():
    """Drawn many at a time, every song stands at every place as often as the library's policy says."""
    rng = np.random.default_rng(1)
    scores, look = rng.normal(size=(1, 30)), Audience.make(0, songs=30).examination
    policy = PoolInjection(0.3, slots=5, boost=Boost(3.0, salt="test"))
    _, lists, exposure = recommend(policy, scores, np.zeros(40_000, dtype=int), look, rng)
    marginals = policy.pmf(scores)[0]
    for place in range(5):
        counts = np.bincount(lists[:, place], minlength=30)
        there = marginals[place] > 0
        assert counts[~there].sum() == 0
        assert chisquare(counts[there], 40_000 * marginals[place][there]).pvalue > ALPHA
    assert exposure[0] == pytest.approx(look @ marginals)
    assert (np.diff(np.sort(lists, axis=1), axis=1) > 0).all()  # nobody sees a song twice


def test_history_is_looked_at_as_its_exposure_says():
    """The exact marginals of the popularity lists are those of the lists that are drawn."""
    audience = Audience.make(3, songs=40)
    _, lists = audience.history(40_000, np.random.default_rng(2))
    looks = np.zeros(40)
    for place, look in enumerate(audience.examination):
        looks += look * np.bincount(lists[:, place], minlength=40) / 40_000
    assert looks == pytest.approx(audience.history_exposure(), abs=4 * 0.5 / np.sqrt(40_000))
    assert audience.history_exposure().sum() == pytest.approx(audience.examination.sum(), abs=1e-6)


def test_clicks_are_what_the_truth_expects():
    """Clicks on the best lists come as often as expected, and no lists are worth more."""
    audience, rng = Audience.make(4), np.random.default_rng(5)
    who = listeners(20_000, rng)
    clicks = audience.clicks(who, audience.ideal[who], rng).sum(axis=1)
    assert clicks.mean() == pytest.approx(audience.expected(audience.ideal)[who].mean(), abs=4 * clicks.std() / 141)
    assert audience.value(audience.ideal) == 1.0
    assert audience.value(np.sort(audience.ideal, axis=1)) < 1.0
    assert audience.value_shown(who, audience.ideal[who]) == pytest.approx(1.0)


def test_new_songs_take_the_place_of_old_ones():
    """What is replaced is liked as much as any song, and the others as before."""
    audience = Audience.make(6)
    gone = np.array([3, 50])
    after = audience.with_new_songs(gone, np.random.default_rng(7))
    kept = np.setdiff1d(np.arange(100), gone)
    assert (after.chances[:, kept] == audience.chances[:, kept]).all()
    assert not np.isclose(after.chances[:, gone], audience.chances[:, gone]).any()


def test_never_shown():
    """A song outside the list stays unseen through N lists with probability (1 - eps/(I - k))^N."""
    rng, n, epsilon, worlds = np.random.default_rng(8), 100, 0.1, 3000
    scores, look = np.arange(20.0)[None], Audience.make(0, songs=20).examination
    policy, unseen = PoolInjection(epsilon, slots=5), 0
    who = np.zeros(n, dtype=int)
    for _ in range(worlds):
        unseen += int(not (recommend(policy, scores, who, look, rng)[1] == 0).any())
    expected = (1 - epsilon / 15) ** n
    assert unseen / worlds == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / worlds))
