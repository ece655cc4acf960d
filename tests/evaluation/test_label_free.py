"""Accuracy and class shares without labels: as good as promised, blind where it says so, honest where it cannot tell."""

import json
from dataclasses import replace

import numpy as np
import pytest

import guardrails as gr
from guardrails.errors import GuardrailsError
from guardrails.evaluation import label_free
from guardrails.evaluation.label_free import estimate_accuracy, estimate_prior
from guardrails.profile.validated import Validated

PREDICTION, CONFIDENCE, OUTLIER = "__prediction__", "__confidence__", "__outlier__"


def column(profile, name):
    """Where a watched column stands."""
    return profile.bins.names.index(name)


def table(profile, rows, scores):
    """Rows of all watched columns, none of them an outlier."""
    return np.column_stack([rows, scores.argmax(axis=1), scores.max(axis=1), np.zeros(len(rows))])


# --- a world that shifts -------------------------------------------------------------------------------------------


def truth(rng, rows, concept=False):
    """One of three classes; after concept drift, two inputs have swapped their meaning."""
    a, b = (rows[:, 1], rows[:, 0]) if concept else (rows[:, 0], rows[:, 1])
    logits = 3.5 * np.column_stack([1.6 * a + 1.2 * np.sin(2 * b), -1.2 * a + b * b - 1, 1.2 * b - 0.8 * a * b])
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def drawn(rng, n, shift):
    """Rows and their true classes."""
    rows = rng.normal(size=(n, 4))
    if shift == "covariate":
        rows = rows * [1.2, 1, 1, 1] + [0.8, -0.4, 0, 0]
    labels = truth(rng, rows, concept=shift == "concept")
    if shift == "label":  # class 2 comes twice as often as it did, the others less
        wanted = (n // 8, n // 8, n // 4)
        kept = np.concatenate([np.flatnonzero(labels == k)[:many] for k, many in enumerate(wanted)])
        rng.shuffle(kept)
        rows, labels = rows[kept], labels[kept]
    return rows, labels


@pytest.fixture(scope="module")
def world():
    """A boosting model's profile, and pools of answered rows for every shift: bins, right or not, true classes."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(1)
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, random_state=0)
    with threadpool_limits(1):  # beside others on few cores its threads would wait for each other
        rows, labels = drawn(rng, 8000, None)
        model.fit(rows, labels)
        known, right = drawn(rng, 6000, None)
        profile = gr.Profile.fit(rows, validation=(known, model.predict_proba(known), right), alpha=0.05)
        pools = {}
        for shift in (None, "covariate", "label", "concept"):
            rows, labels = drawn(rng, 24000, shift)
            watched = table(profile, rows, model.predict_proba(rows))
            watched[:, -1] = profile.outliers.is_outlier(rows)
            pools[shift] = (profile.bins.codes(watched), watched[:, -3] == labels, labels)
    return profile, pools


def windows(world, shift, many=40, size=2000):
    """The estimate of each of many windows, how right it truly was, and its true class shares."""
    profile, pools = world
    codes, correct, labels = pools[shift]
    rng = np.random.default_rng(2)
    for _ in range(many):
        chosen = rng.choice(len(codes), size, replace=False)
        counts = profile.bins.tally(codes[chosen])
        yield (
            estimate_accuracy(profile, counts),
            estimate_prior(profile, counts),
            correct[chosen].mean(),
            np.bincount(labels[chosen], minlength=3) / size,
        )


@pytest.mark.parametrize(("shift", "most"), [(None, 0.015), ("covariate", 0.015), ("label", 0.02)])
def test_accuracy_is_found_where_inputs_or_class_shares_move(world, shift, most):
    """Mean error over 40 windows of 2000; 6000 validation rows alone are worth an error of .0035."""
    done = [(accuracy, realised) for accuracy, _, realised, _ in windows(world, shift)]
    errors = [abs(accuracy.value - realised) for accuracy, realised in done]
    assert np.mean(errors) < most
    assert all(accuracy.supported for accuracy, _ in done)
    if shift is not None:
        unchanged = np.mean([abs(accuracy.reference - realised) for accuracy, realised in done])
        assert np.mean(errors) < unchanged / 2, "no better than to assume that nothing changed"


def test_concept_drift_is_invisible_and_the_note_says_so(world):
    """The answers look as ever while a third of them became wrong: this estimate must not be trusted alone."""
    for accuracy, _, realised, _ in windows(world, "concept", many=10):
        assert realised < 0.6
        assert abs(accuracy.value - accuracy.reference) < 0.03
        assert accuracy.value - realised > 0.25
        assert accuracy.low > realised
        assert "Concept drift is invisible" in accuracy.note
        assert "concept drift" in accuracy.sentence()


def test_class_shares_are_found_under_label_shift(world):
    """Mean error of a share over 40 windows of 2000, and all classes are reported as moved."""
    done = [(prior, shares) for _, prior, _, shares in windows(world, "label")]
    errors = [np.abs(prior.value - shares).mean() for prior, shares in done]
    assert np.mean(errors) < 0.02
    assert np.mean([np.abs(prior.reference - shares).mean() for prior, shares in done]) > 0.1
    assert all(2 in prior.moved and prior.supported for prior, _ in done)


def test_class_shares_do_not_move_where_nothing_does(world):
    """At most one window in twenty, by the level; 40 windows of one pool leave room for some more."""
    assert np.mean([len(prior.moved) > 0 for _, prior, _, _ in windows(world, None)]) <= 0.15


def test_rows_unlike_training_make_an_estimate_unsupported(world):
    """A model far from what it knows is as sure as ever; that many rows are outliers is what gives it away."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    rows, labels = drawn(rng, 6000, None)
    model = LogisticRegression().fit(rows[:4000], labels[:4000])
    known = (rows[4000:], model.predict_proba(rows[4000:]), labels[4000:])
    profile = gr.Profile.fit(rows[:4000], validation=known, alpha=0.05)
    far = rng.normal([0, 3, 0, 0], 1, size=(3000, 4))
    watched = table(profile, far, model.predict_proba(far))
    realised = (watched[:, -3] == truth(rng, far)).mean()
    unaware = estimate_accuracy(profile, profile.bins.count(watched))
    assert unaware.value - realised > 0.5
    assert unaware.supported, "otherwise this test shows nothing about outliers"
    watched[:, -1] = profile.outliers.is_outlier(far)
    counts = profile.bins.count(watched)
    aware = estimate_accuracy(profile, counts)
    assert not aware.supported
    assert aware.meets(0.5) is None
    assert "are outliers" in aware.note
    assert "are outliers" in aware.sentence()
    assert not estimate_prior(profile, counts).supported


def test_outliers_that_somebody_else_answered_do_not_count(world):
    """A fallback answered them: the model's own answers are to ordinary rows."""
    profile, pools = world
    counts = profile.bins.tally(pools[None][0][:2000])
    counts[column(profile, OUTLIER)] = 0
    counts[column(profile, OUTLIER), :2] = [2000, 900]
    assert estimate_accuracy(profile, counts).supported
    counts[column(profile, OUTLIER), :2] = [1100, 900]
    assert not estimate_accuracy(profile, counts).supported


# --- intervals -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unsure():
    """A profile whose confidences fill sixteen bins alike."""
    sure = np.random.default_rng(1).uniform(0.5, 1, 4000)
    return gr.Profile.fit(sure[:, None], outputs=np.column_stack([sure, 1 - sure]), labels=np.arange(4000) % 2)


def with_validation(profile, right, total):
    """The profile, had validation shown this in its sixteen intervals of confidence."""
    width = profile.bins.counts.shape[1]
    right, total = (np.concatenate([counts, np.zeros(width - 16, np.int64)]) for counts in (right, total))
    confusion = np.zeros((width, 2), np.int64)
    confusion[0] = [right.sum(), total.sum() - right.sum()]
    return replace(
        profile, validated=Validated(right, total, confusion, np.arange(2.0), np.array([right.sum(), 0], np.int64))
    )


def of_confidence(profile, counts):
    """A window with these counts in the sixteen intervals of confidence."""
    window = profile.bins.empty()
    window[column(profile, CONFIDENCE), : len(counts)] = counts
    return window


EVEN = np.full(16, 1 / 16)
LOW = np.exp(-np.arange(16) / 3) / np.exp(-np.arange(16) / 3).sum()
CURVES = {
    "rising": np.linspace(0.4, 0.99, 16),
    "good": np.linspace(0.9, 1, 16),
    "nearly perfect": np.full(16, 0.995),
    "steep": np.concatenate([[0.3, 0.5, 0.8], np.full(13, 0.999)]),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(("validation", "size"), [(300, 20), (300, 3000), (2000, 300), (2000, 3000)])
@pytest.mark.parametrize("shares", [EVEN, LOW], ids=["even", "low"])
def test_the_interval_holds_the_accuracy_of_the_window(unsure, curve, validation, size, shares):
    """Where bins are calibrated, in 95 % of windows; 1000 windows measure that with a standard error of .7 %."""
    rng = np.random.default_rng(validation + size)
    right_rate, held, widths = CURVES[curve], [], []
    for _ in range(1000):
        total = rng.multinomial(validation, EVEN)
        profile = with_validation(unsure, rng.binomial(total, right_rate), total)
        window = rng.multinomial(size, shares)
        realised = rng.binomial(window, right_rate).sum() / size
        estimate = estimate_accuracy(profile, of_confidence(profile, window))
        held.append(estimate.low - 1e-12 <= realised <= estimate.high + 1e-12)
        widths.append(estimate.high - estimate.low)
    assert np.mean(held) >= 0.93
    if size == 3000 and curve == "rising":
        assert np.mean(held) <= 0.975, "wider than it says"
        plain = 2 * 1.96 * np.sqrt(right_rate.mean() * (1 - right_rate.mean()) * (1 / validation + 1 / size))
        assert np.mean(widths) < (1.0 if shares is EVEN else 1.9) * plain


def test_another_level_gives_another_coverage(unsure):
    """At 80 %, eight windows in ten (standard error 1.3 %)."""
    rng, held = np.random.default_rng(0), []
    for _ in range(1000):
        total = rng.multinomial(1000, EVEN)
        profile = with_validation(unsure, rng.binomial(total, CURVES["rising"]), total)
        window = rng.multinomial(1000, EVEN)
        realised = rng.binomial(window, CURVES["rising"]).sum() / 1000
        estimate = estimate_accuracy(profile, of_confidence(profile, window), level=0.8)
        held.append(estimate.low <= realised <= estimate.high)
    assert 0.76 <= np.mean(held) <= 0.85


MISTAKES = {
    "some": np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.05, 0.1, 0.85]]),
    "few": np.array([[0.97, 0.02, 0.0], [0.03, 0.97, 0.01], [0.0, 0.01, 0.99]]),
}
BEFORE = np.array([0.5, 0.3, 0.2])


@pytest.fixture(scope="module")
def scoreless():
    """A profile of a model that says a class and nothing else."""
    labels = np.arange(1000) % 3
    return gr.Profile.fit(np.random.default_rng(0).normal(size=(1000, 1)), outputs=labels, labels=labels, alpha=0.05)


def confused(profile, confusion):
    """The profile, had validation shown this."""
    table = np.zeros((profile.bins.counts.shape[1], confusion.shape[1]), np.int64)
    table[: len(confusion)] = confusion
    none = np.zeros(0, np.int64)
    classes = np.arange(float(confusion.shape[1]))
    return replace(profile, validated=Validated(none, none, table, classes, np.diag(confusion).astype(np.int64)))


def of_prediction(profile, counts):
    """A window with these counts of predicted classes."""
    window = profile.bins.empty()
    window[column(profile, PREDICTION), : len(counts)] = counts
    return window


@pytest.mark.parametrize("mistakes", MISTAKES)
@pytest.mark.parametrize("after", [BEFORE, np.array([0.25, 0.25, 0.5])], ids=["same", "moved"])
@pytest.mark.parametrize(("validation", "size"), [(1000, 200), (2000, 2000)])
def test_class_shares_and_what_follows_from_them_lie_in_their_intervals(scoreless, mistakes, after, validation, size):
    """Under label shift, in 95 % of 500 windows: shares, and the accuracy of a model without scores (s.e. 1 %)."""
    rng, given = np.random.default_rng(size), MISTAKES[mistakes]
    held, accuracy_held, named, errors = [], [], [], []
    for _ in range(500):
        labelled, true = rng.multinomial(validation, BEFORE), rng.multinomial(size, after)
        profile = confused(scoreless, np.column_stack([rng.multinomial(labelled[k], given[:, k]) for k in range(3)]))
        answered = np.column_stack([rng.multinomial(true[k], given[:, k]) for k in range(3)])
        counts = of_prediction(profile, answered.sum(axis=1))
        prior, accuracy = estimate_prior(profile, counts), estimate_accuracy(profile, counts)
        realised = np.trace(answered) / size
        held.append((prior.low <= after) & (after <= prior.high))
        accuracy_held.append(accuracy.low <= realised <= accuracy.high)
        errors.append(np.abs(prior.value - after).mean())
        named.append(len(prior.moved) > 0)
        assert accuracy.method == "class shares"
        assert np.isclose(prior.value.sum(), 1)
    assert np.mean(held, axis=0).min() >= 0.92
    assert 0.92 <= np.mean(accuracy_held) <= 0.99
    assert np.mean(errors) < (0.05 if size == 200 else 0.02)
    if after is BEFORE:
        assert np.mean(named) <= 0.08, "classes are named as moved that did not move"
    elif size == 2000:
        assert np.mean(named) == 1.0


# --- what the numbers are ------------------------------------------------------------------------------------------


def test_the_value_is_the_sum_of_shares_times_accuracies(unsure):
    """By hand: 10 rows where 30 of 40 were right, 30 rows where 57 of 60 were; a bin counts one row of all's more."""
    right, total = np.zeros(16, np.int64), np.zeros(16, np.int64)
    right[[3, 9]], total[[3, 9]] = [30, 57], [40, 60]
    profile = with_validation(unsure, right, total)
    window = np.zeros(16)
    window[[3, 9]] = [10, 30]
    estimate = estimate_accuracy(profile, of_confidence(profile, window))
    usual = 87.5 / 101
    assert estimate.value == pytest.approx(0.25 * (30 + usual) / 41 + 0.75 * (57 + usual) / 61, abs=1e-15)
    assert estimate.reference == pytest.approx(0.87)
    assert (estimate.rows, estimate.method, estimate.supported) == (40, "confidence", True)


def test_validation_itself_gives_the_reference(unsure):
    """The same distribution, the same accuracy; every bin has as many rows."""
    estimate = estimate_accuracy(unsure, unsure.bins.counts)
    assert estimate.value == pytest.approx(estimate.reference, abs=1e-3)
    assert estimate.low < estimate.reference < estimate.high


def test_the_inverse_is_exact_without_sampling_error(scoreless):
    """Shares of predictions that a mixture gives exactly give back the mixture."""
    given = np.round(MISTAKES["some"] * 1000).astype(int)
    profile = confused(scoreless, given)
    estimate = estimate_prior(profile, of_prediction(profile, given @ [1, 2, 5]))
    np.testing.assert_allclose(estimate.value, [1 / 8, 2 / 8, 5 / 8], atol=1e-12)
    np.testing.assert_allclose(estimate.reference, 1 / 3)
    assert estimate.condition == pytest.approx(np.linalg.cond(given / 1000))
    assert estimate.moved == (0, 1, 2)
    assert f"Condition number {estimate.condition:.3g}" in estimate.note


def test_shares_below_zero_go_to_the_nearest_mixture(scoreless):
    """Solved: (.98, .05, -.03) or so; on the simplex the excess comes off what is left in equal parts."""
    given = np.array([[90, 5, 5], [5, 90, 5], [5, 5, 90]])
    profile = confused(scoreless, given)
    raw = np.linalg.solve(given / 100, np.array([0.89, 0.09, 0.02]))
    assert raw.min() < 0
    estimate = estimate_prior(profile, of_prediction(profile, [89, 9, 2]))
    np.testing.assert_allclose(estimate.value, [raw[0] + raw[2] / 2, raw[1] + raw[2] / 2, 0], atol=1e-12)
    assert (estimate.low >= 0).all()
    assert (estimate.low <= estimate.value).all()
    assert (estimate.value <= estimate.high).all()


@pytest.mark.parametrize("shift", [None, "covariate", "label"])
def test_summed_counts_say_what_all_rows_say(world, shift):
    """Workers, hours and replicas are added, in any split and order."""
    profile, pools = world
    codes = pools[shift][0][:3000]
    whole = profile.bins.tally(codes)
    parts = [profile.bins.tally(codes[k::7]) for k in range(7)]
    for estimate in (estimate_accuracy, estimate_prior):
        assert estimate(profile, sum(reversed(parts))).to_json() == estimate(profile, whole).to_json()
    assert [estimate_accuracy(profile, part).rows for part in parts] == [len(codes[k::7]) for k in range(7)]


def test_rates_of_prometheus_do_as_counts(unsure):
    """increase() extrapolates to fractions of a row."""
    whole, parts = (estimate_accuracy(unsure, unsure.bins.counts * factor) for factor in (1, 0.9999))
    assert parts.value == pytest.approx(whole.value, abs=1e-9)
    assert isinstance(parts.rows, int)
    fraction = estimate_accuracy(unsure, of_confidence(unsure, np.full(16, 0.01)))
    assert (fraction.low, fraction.high) == (0.0, 1.0)


# --- where there is little, or nothing, to go by -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_window_of_few_rows_says_little(unsure, size):
    """One row is right or wrong: both are in the interval."""
    window = np.zeros(16)
    window[15] = size
    estimate = estimate_accuracy(unsure, of_confidence(unsure, window))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    if size == 1:
        assert (estimate.low, estimate.high) == (0.0, 1.0)
        assert estimate.meets(0.5) is None


def test_no_rows_say_nothing(unsure, scoreless):
    """No number is made up, and nothing is met or missed."""
    for profile in (unsure, scoreless):
        accuracy, prior = (
            estimate_accuracy(profile, profile.bins.empty()),
            estimate_prior(profile, profile.bins.empty()),
        )
        assert np.isnan(accuracy.value)
        assert (accuracy.low, accuracy.high, accuracy.rows, accuracy.supported) == (0.0, 1.0, 0, False)
        assert accuracy.meets(0.0) is accuracy.meets(1.0) is None
        assert "No answer" in accuracy.sentence()
        assert np.isnan(prior.value).all()
        assert (prior.low, prior.high) == (pytest.approx([0] * len(prior.low)), pytest.approx([1] * len(prior.high)))
        assert not prior.supported
        assert prior.moved == ()
        assert "counted" in prior.sentence()


def test_a_profile_without_labels_has_no_estimate():
    """None, not a guess."""
    profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(300, 1)), outputs=np.arange(300) % 2, alpha=0.05)
    assert estimate_accuracy(profile, profile.bins.counts) is None
    assert estimate_prior(profile, profile.bins.counts) is None


@pytest.mark.parametrize("rows", [6, 30, 2000])
def test_all_right_on_validation_is_no_certainty(unsure, rows):
    """The rule of three: after n right of n, about 3 / n may be wrong."""
    profile = with_validation(unsure, np.full(16, rows), np.full(16, rows))
    estimate = estimate_accuracy(profile, of_confidence(profile, np.full(16, 10**6)))
    assert estimate.high == pytest.approx(1, abs=1e-4)
    assert 1 / (16 * rows) < 1 - estimate.low < 4.5 / (16 * rows)
    none = with_validation(unsure, np.zeros(16, np.int64), np.full(16, rows))
    worst = estimate_accuracy(none, of_confidence(none, np.full(16, 10**6)))
    assert worst.low == pytest.approx(0, abs=1e-4)
    assert worst.high == pytest.approx(1 - estimate.low, rel=0.01)


@pytest.mark.parametrize("known", [0, label_free.FEW - 1])
def test_confidences_that_validation_never_had_may_be_right_or_wrong(unsure, known):
    """A fifth of the rows in such a bin widens the interval by a fifth, and it is not supported."""
    right, total = np.full(16, 80), np.full(16, 100)
    right[15] = total[15] = known
    profile = with_validation(unsure, right, total)
    window = np.full(16, 1000.0)
    window[15] = 0
    inside = estimate_accuracy(profile, of_confidence(profile, window))
    window[15] = window.sum() / 4
    outside = estimate_accuracy(profile, of_confidence(profile, window))
    assert inside.supported
    assert not outside.supported
    assert 0.2 < outside.high - outside.low < 0.2 + 2 * (inside.high - inside.low)
    assert outside.meets(0.1) is None
    assert "20.0% of the answers have a confidence" in outside.note
    window[15] = window[:15].sum() / 200
    assert estimate_accuracy(profile, of_confidence(profile, window)).supported, "half a percent is no matter"


def test_missing_confidences_are_unsupported_unless_validation_had_them(unsure):
    """A model that answers NaN."""
    window = of_confidence(unsure, np.full(16, 100))
    window[column(unsure, CONFIDENCE), -1] = 400
    estimate = estimate_accuracy(unsure, window)
    assert not estimate.supported
    assert estimate.high - estimate.low > 0.2

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000)
    scores = np.where(labels[:, None] == [0, 1], 0.8, 0.2)
    scores[:300] = np.nan  # argmax of NaN is class 0
    profile = gr.Profile.fit(rng.normal(size=(1000, 1)), outputs=scores, labels=labels, alpha=0.05)
    known = estimate_accuracy(profile, profile.bins.counts)
    assert known.supported
    assert known.value == pytest.approx(known.reference, abs=0.002)
    assert 0.8 < known.reference < 0.9


def test_a_model_that_is_always_as_sure():
    """One confidence, one bin; any other is one that validation never had."""
    scores = np.tile([0.7, 0.3], (500, 1))
    labels = (np.arange(500) % 10 < 3).astype(int)
    profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(500, 1)), outputs=scores, labels=labels, alpha=0.05)
    same = estimate_accuracy(profile, profile.bins.counts)
    assert same.supported
    assert same.value == pytest.approx(0.7, abs=1e-3)
    surer = estimate_accuracy(
        profile, profile.bins.count(table(profile, np.zeros((50, 1)), np.tile([0.9, 0.1], (50, 1))))
    )
    assert not surer.supported
    assert (surer.low, surer.high) == (0.0, 1.0)


def test_one_class_on_validation_leaves_nothing_to_tell_apart(scoreless):
    """Neither of shares nor, without scores, of accuracy."""
    profile = confused(scoreless, np.array([[50]]))
    counts = of_prediction(profile, [10])
    prior, accuracy = estimate_prior(profile, counts), estimate_accuracy(profile, counts)
    assert np.isnan(prior.value).all()
    assert np.isnan(accuracy.value)
    assert "one class only" in prior.sentence()
    assert "one class only" in accuracy.sentence()
    assert accuracy.reference == 1.0


@pytest.mark.parametrize(
    "confusion",
    [
        np.array([[60, 50, 40], [30, 40, 30], [10, 10, 30]]),
        np.array([[50, 50], [50, 50]]),
        np.array([[90, 10, 50], [10, 90, 50], [0, 0, 0]]),
        np.array([[2, 1], [1, 2]]),
    ],
    ids=["weak", "useless", "a class never predicted", "six rows"],
)
def test_a_matrix_that_has_no_honest_inverse_is_refused(scoreless, confusion):
    """By its smallest singular value and what sampling may have added to that; the condition number is stated."""
    profile = confused(scoreless, confusion)
    counts = of_prediction(profile, [500, 300])
    estimate = estimate_prior(profile, counts)
    assert np.isnan(estimate.value).all()
    assert not estimate.supported
    assert estimate.moved == ()
    assert "do not tell the classes apart" in estimate.note
    assert f"condition number {estimate.condition:.3g}" in estimate.note
    assert estimate.condition > 2
    assert np.isnan(estimate_accuracy(profile, counts).value)


def test_the_same_shares_from_more_rows_are_accepted(scoreless):
    """What cannot be told from 300 labels can be from 30000."""
    profile = confused(scoreless, 100 * np.array([[60, 50, 40], [30, 40, 30], [10, 10, 30]]))
    assert np.isfinite(estimate_prior(profile, of_prediction(profile, [500, 350, 150])).value).all()


def test_answers_that_no_mixture_gives_are_unsupported(scoreless):
    """Each class is mistaken in a tenth of rows: nobody is right in all of them."""
    profile = confused(scoreless, np.array([[800, 100, 100], [100, 800, 100], [100, 100, 800]]))
    estimate = estimate_prior(profile, of_prediction(profile, [3000, 0, 0]))
    assert not estimate.supported
    assert "No mixture" in estimate.sentence()
    assert not estimate_accuracy(profile, of_prediction(profile, [3000, 0, 0])).supported


def test_a_class_that_was_never_predicted_before_is_unsupported(scoreless):
    """It falls into the bin of others."""
    counts = of_prediction(scoreless, [300, 300, 300])
    counts[column(scoreless, PREDICTION), -2] = 100
    prior, accuracy = estimate_prior(scoreless, counts), estimate_accuracy(scoreless, counts)
    assert not prior.supported
    assert "10.0% of the answers are ones that validation never had" in prior.note
    assert not accuracy.supported
    assert accuracy.low < 0.9
    assert accuracy.high == pytest.approx(1, abs=1e-3), "they may all be right"


def test_a_class_that_was_predicted_but_never_true_has_no_share(scoreless):
    """NaN for it alone; the others share the rest."""
    profile = confused(scoreless, np.array([[90, 10, 0], [5, 85, 0], [5, 5, 0]]))
    estimate = estimate_prior(profile, of_prediction(profile, [50, 45, 5]))
    assert np.isnan(estimate.value).tolist() == [False, False, True]
    assert estimate.value[:2].sum() == pytest.approx(1)
    assert (estimate.low[2], estimate.high[2]) == (0, 1)
    assert "no row of them: classes 2" in estimate.note


def test_many_classes_without_scores_fall_back_on_the_bin_of_others():
    """More than 64 classes: the rare ones share a bin, so their shares cannot be told, and that is said."""
    labels = np.repeat(np.arange(80), 20)
    profile = gr.Profile.fit(np.random.default_rng(0).normal(size=(1600, 1)), outputs=labels, labels=labels, alpha=0.05)
    assert profile.validated.accuracy == 1.0
    estimate = estimate_prior(profile, profile.bins.counts)
    assert np.isnan(estimate.value).all()
    assert np.isinf(estimate.condition)
    assert estimate.to_json()["condition"] is None


# --- answers for people and programs -------------------------------------------------------------------------------


def test_a_target_is_met_missed_or_undecided(unsure):
    """By the whole interval, not by the value."""
    estimate = estimate_accuracy(unsure, unsure.bins.counts)
    assert estimate.meets(estimate.low - 0.01) is True
    assert estimate.meets(estimate.low) is True
    assert estimate.meets(estimate.high + 0.01) is False
    assert estimate.meets(estimate.high) is None
    assert estimate.meets(estimate.value) is None


def test_both_go_through_json(world, scoreless):
    """Strict JSON, NaN as null, every field there."""
    profile, pools = world
    counts = profile.bins.tally(pools["label"][0][:500])
    refused = confused(scoreless, np.array([[50, 50], [50, 50]]))
    estimates = [estimate_accuracy(profile, counts), estimate_prior(profile, counts)]
    estimates += [estimate(refused, of_prediction(refused, [5, 5])) for estimate in (estimate_accuracy, estimate_prior)]
    for estimate in estimates:
        document = json.loads(json.dumps(estimate.to_json(), allow_nan=False))
        assert set(document) == set(vars(estimate))
        assert document["rows"] == estimate.rows
        assert isinstance(document["supported"], bool)
    assert json.loads(json.dumps(estimates[1].to_json()))["value"] == pytest.approx(estimates[1].value.tolist())
    assert estimates[2].to_json()["value"] is None
    assert estimates[3].to_json()["value"] == [None, None]


def test_sentences_are_one_line_and_say_the_numbers(world):
    """For a status page."""
    profile, pools = world
    counts = profile.bins.tally(pools["label"][0][:2000])
    accuracy, prior = estimate_accuracy(profile, counts), estimate_prior(profile, counts)
    for sentence in (accuracy.sentence(), prior.sentence()):
        assert "\n" not in sentence
        assert "2000 answers" in sentence
        assert "lind to concept drift" in sentence
    assert f"{accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f} at 95%)" in accuracy.sentence()
    assert f"class 2 {prior.value[2]:.3f}" in prior.sentence()
    still = replace(prior, moved=())
    assert "none moved" in still.sentence()


@pytest.mark.parametrize("level", [0, 1, -1, 95, float("nan")])
def test_a_level_is_a_probability(unsure, level):
    """95 is not 0.95."""
    for estimate in (estimate_accuracy, estimate_prior):
        with pytest.raises(GuardrailsError, match=r"such as 0\.95"):
            estimate(unsure, unsure.bins.counts, level=level)


@pytest.mark.parametrize("spoil", [lambda c: c[:, :-1], lambda c: c[:1], lambda c: c[0], lambda c: c.sum()])
def test_counts_of_another_profile_are_refused(unsure, spoil):
    """By their shape, with both named."""
    with pytest.raises(GuardrailsError, match="the profile's bins"):
        estimate_accuracy(unsure, spoil(unsure.bins.counts))


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_what_is_no_count_is_refused(unsure, value):
    """A reset counter, a gap in the series."""
    counts = unsure.bins.counts.astype(float)
    counts[0, 0] = value
    with pytest.raises(GuardrailsError, match="finite, and none below 0"):
        estimate_prior(unsure, counts)
