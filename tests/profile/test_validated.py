"""What a profile knows of how right the model was: counted by hand, from fit to store and back."""

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.errors import ProfileError
from guardrails.evaluation.label_free import estimate_accuracy, estimate_prior

CONFIDENCE, PREDICTION = "__confidence__", "__prediction__"
X = np.random.default_rng(0).normal(size=(600, 2))
LABELS = np.random.default_rng(1).integers(0, 3, 600)


def scores_of(predicted, sure):
    """Scores (n, 3) whose largest is at the predicted class."""
    scores = np.repeat((1 - sure)[:, None] / 2, 3, axis=1)
    scores[np.arange(len(predicted)), predicted] = sure
    return scores


def fitted(**given):
    """A profile of X."""
    return gr.Profile.fit(X, alpha=0.05, **given)


@pytest.fixture(scope="module")
def answered():
    """Predictions of which the surer ones are right more often, how sure each is, and what a profile makes of them."""
    rng = np.random.default_rng(2)
    sure = rng.uniform(0.4, 1, 600)
    predicted = np.where(rng.uniform(size=600) < sure, LABELS, (LABELS + 1) % 3)
    return predicted, sure, fitted(outputs=scores_of(predicted, sure), labels=LABELS)


def test_right_answers_are_counted_by_how_sure_they_are(answered):
    """Bin by bin, as the edges of the bins say."""
    predicted, sure, profile = answered
    edges = profile.bins.edges[profile.bins.names.index(CONFIDENCE)]
    bins = (sure[:, None] > edges[np.isfinite(edges)]).sum(axis=1)
    for b in range(len(profile.validated.total)):
        assert profile.validated.total[b] == (bins == b).sum()
        assert profile.validated.right[b] == ((bins == b) & (predicted == LABELS)).sum()
    assert profile.validated.right[:4].sum() < profile.validated.right[12:16].sum()


def test_predictions_are_counted_by_the_true_class(answered):
    """Rows are bins of the prediction, columns true classes."""
    predicted, _, profile = answered
    validated = profile.validated
    np.testing.assert_array_equal(validated.classes, [0, 1, 2])
    for bin_ in range(3):
        for k in range(3):
            assert validated.confusion[bin_, k] == ((predicted == bin_) & (k == LABELS)).sum()
    assert validated.confusion[3:].sum() == 0
    np.testing.assert_array_equal(
        validated.right_by_class, [((predicted == k) & (k == LABELS)).sum() for k in range(3)]
    )


def test_everything_adds_up(answered):
    """The same rows, however they are counted."""
    predicted, _, profile = answered
    validated = profile.validated
    assert validated.rows == validated.total.sum() == 600
    assert validated.right.sum() == validated.right_by_class.sum() == (predicted == LABELS).sum()
    assert validated.accuracy == (predicted == LABELS).mean()
    np.testing.assert_array_equal(validated.total, profile.bins.counts[profile.bins.names.index(CONFIDENCE)])
    np.testing.assert_array_equal(
        validated.confusion.sum(axis=1), profile.bins.counts[profile.bins.names.index(PREDICTION)]
    )


def test_no_bin_claims_certainty(answered):
    """One more row of the usual kind in each: bins without rows are as right as all are, full ones as they were."""
    validated = answered[2].validated
    empty = validated.total == 0
    assert empty.any()
    np.testing.assert_allclose(validated.bin_accuracy[empty], validated.usual)
    np.testing.assert_allclose(
        validated.bin_accuracy[~empty], validated.right[~empty] / validated.total[~empty], atol=0.02
    )
    perfect = fitted(outputs=scores_of(LABELS, answered[1]), labels=LABELS).validated
    assert perfect.accuracy == 1.0
    assert 0.99 < perfect.bin_accuracy.min() <= perfect.bin_accuracy.max() < 1


def test_a_model_without_scores_has_classes_only():
    """Labels are enough to know what is mistaken for what."""
    predicted = np.where(np.arange(600) % 4 == 0, (LABELS + 1) % 3, LABELS)
    validated = fitted(outputs=predicted, labels=LABELS).validated
    assert len(validated.right) == len(validated.total) == len(validated.bin_accuracy) == 0
    assert validated.accuracy == 0.75
    assert validated.rows == 600


@pytest.mark.parametrize("never", [0, 1, 2])
def test_a_class_that_is_never_predicted_has_no_bin(never):
    """The bins of predictions are then not the classes, and accuracy does not take them for these."""
    predicted = np.where(never == LABELS, (never + 1) % 3, LABELS)
    validated = fitted(outputs=predicted, labels=LABELS).validated
    assert validated.accuracy == (predicted == LABELS).mean()
    assert validated.right_by_class[never] == 0
    assert validated.confusion.sum(axis=0).tolist() == np.bincount(LABELS).tolist()
    assert (validated.confusion.sum(axis=1) > 0).sum() == 2


def test_a_class_that_is_never_true_is_a_class_all_the_same():
    """Its column is empty."""
    predicted = np.where(np.arange(600) < 30, 7, LABELS)
    validated = fitted(outputs=predicted, labels=LABELS).validated
    np.testing.assert_array_equal(validated.classes, [0, 1, 2, 7])
    assert validated.confusion[:, 3].sum() == 0
    assert validated.accuracy == 0.95


def test_more_classes_than_bins():
    """Rare ones share the bin of others, and still count as right or wrong."""
    labels = np.concatenate([np.repeat(np.arange(60), 9), np.arange(60, 120)])
    predicted = np.where(np.arange(600) % 10 == 0, (labels + 1) % 120, labels)
    validated = fitted(outputs=predicted, labels=labels).validated
    assert validated.confusion[-2].sum() > 0
    assert validated.accuracy == (predicted == labels).mean()
    assert validated.confusion.shape[1] == 120


def test_classes_need_not_begin_with_zero():
    """Nor follow each other."""
    names = np.array([-5, 10, 1000])
    validated = fitted(outputs=names[LABELS], labels=names[LABELS]).validated
    np.testing.assert_array_equal(validated.classes, names)
    assert validated.accuracy == 1.0


def test_a_missing_confidence_is_a_bin():
    """A model that answers NaN is counted there, not dropped."""
    scores = scores_of(LABELS, np.full(600, 0.9))
    scores[:50] = np.nan
    validated = fitted(outputs=scores, labels=LABELS).validated
    assert validated.total[-1] == 50
    assert validated.right[-1] == (LABELS[:50] == 0).sum()
    assert validated.total.sum() == 600


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.tolist(),
        LABELS.astype(np.uint8),
        LABELS.astype(float),
        pd.Series(LABELS, index=np.arange(600)[::-1]),
        pd.Series(LABELS).astype("category").cat.codes,
    ],
    ids=["list", "uint8", "whole floats", "Series", "codes"],
)
def test_labels_in_any_form(labels):
    """By position, whatever holds them."""
    validated = fitted(outputs=LABELS, labels=labels).validated
    assert validated.accuracy == 1.0
    np.testing.assert_array_equal(validated.classes, [0, 1, 2])


def test_truth_as_flags():
    """False and True are the classes 0 and 1."""
    validated = fitted(outputs=scores_of((LABELS > 0).astype(int), np.full(600, 0.9)), labels=LABELS > 0).validated
    assert validated.accuracy == 1.0
    np.testing.assert_array_equal(validated.classes, [0, 1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:599], r"shape \(599,\); one for each of the 600"),
        (LABELS[:, None], r"shape \(600, 1\); one for each of the 600"),
        ([], r"shape \(0,\)"),
        (3, r"shape \(\)"),
        ([[1], [1, 2]], "no array of one class number per answer"),
        (np.where(LABELS == 0, np.nan, LABELS), f"{(LABELS == 0).sum()} of 600 labels are missing"),
        (np.where(LABELS == 0, np.inf, LABELS), "infinite"),
        (LABELS + 0.5, r"a label is \d\.5; labels are class numbers"),
        (LABELS.astype(str), "labels are <U"),
        (np.array([None] * 600), "labels are object"),
        (LABELS + 10, r"not one of 600 answers is right.*labels 10, 11, 12, answers 0, 1, 2"),
        (np.arange(600) + 10, r"labels 10, 11, 12, 13, 14, 15, \.\.\., answers 0, 1, 2\)"),
    ],
    ids=["short", "column", "empty", "scalar", "ragged", "nan", "inf", "halves", "texts", "None", "shifted", "many"],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    """With what was wrong and what to give."""
    with pytest.raises(ProfileError, match=message):
        fitted(outputs=LABELS, labels=labels)


def test_labels_to_numbers_are_refused():
    """A regression has no right answers."""
    with pytest.raises(ProfileError, match="leave labels out"):
        fitted(outputs=X[:, 0], labels=LABELS)


def test_labels_without_answers_are_refused():
    """There is nothing to be right."""
    with pytest.raises(ProfileError, match="give these, too, as outputs"):
        fitted(labels=LABELS)


def test_without_labels_there_is_nothing():
    """Neither with outputs nor without."""
    assert fitted().validated is None
    assert fitted(outputs=LABELS).validated is None


def test_validation_rows_are_the_reference_of_the_answers(answered):
    """Their number, their confidences, their accuracy; the features' reference stays the training rows'."""
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 150)
    scores = scores_of(truth, rng.uniform(0.4, 1, 150))
    profile = fitted(validation=(rng.normal(size=(150, 2)), scores, truth))
    for name in (PREDICTION, CONFIDENCE):
        assert profile.bins.counts[profile.bins.names.index(name)].sum() == 150
    assert profile.bins.counts[0].sum() == 600
    np.testing.assert_array_equal(
        profile.bins.counts[0][profile.bins.counts[0] > 0], answered[2].bins.counts[0][answered[2].bins.counts[0] > 0]
    )
    assert profile.validated.rows == 150
    assert profile.validated.accuracy == 1.0


@pytest.mark.parametrize("validation", [(X, LABELS), X, "rows", ()])
def test_validation_is_three_things(validation):
    """Rows, answers, truth."""
    with pytest.raises(ProfileError, match=r"validation is \(X, outputs, labels\)"):
        fitted(validation=validation)


def test_validation_answers_are_one_for_each_row():
    """Of the validation rows, not of the training rows."""
    with pytest.raises(ProfileError, match="each of X's 150 rows"):
        fitted(validation=(X[:150], scores_of(LABELS, np.full(600, 0.9)), LABELS))


def test_stored_and_loaded_it_is_the_same(store, answered):
    """Bit for bit, types and shapes, and the same estimates come from it."""
    predicted, sure, profile = answered
    again = gr.Profile.load(profile.save("validated"))
    assert again.digest == profile.digest
    assert set(vars(again.validated)) == set(vars(profile.validated))
    for name, array in vars(profile.validated).items():
        loaded = getattr(again.validated, name)
        np.testing.assert_array_equal(loaded, array)
        assert loaded.dtype == array.dtype
        assert loaded.shape == array.shape
    counts = profile.bins.count(np.column_stack([X, predicted, sure, np.zeros(600)])[sure > 0.7])
    for estimate in (estimate_accuracy, estimate_prior):
        assert estimate(again, counts).to_json() == estimate(profile, counts).to_json()


@pytest.mark.parametrize("given", [{}, {"outputs": LABELS}, {"outputs": LABELS, "labels": LABELS}])
def test_stored_and_loaded_without_scores_or_labels(store, given):
    """None stays None, arrays of length 0 stay such."""
    profile = fitted(**given)
    again = gr.Profile.load(profile.save("bare"))
    assert again.digest == profile.digest
    assert (again.validated is None) == ("labels" not in given)
    if again.validated is not None:
        assert again.validated.total.shape == (0,)
        assert again.validated.accuracy == 1.0


def test_labels_are_part_of_the_digest(answered):
    """Another truth is another profile: estimates from it are not comparable."""
    predicted, sure, profile = answered
    other = fitted(outputs=scores_of(predicted, sure), labels=predicted)
    assert other.bins.ref == profile.bins.ref
    assert other.digest != profile.digest


def test_another_outlier_threshold_keeps_it(answered):
    """Recalibration changes who is an outlier, not how right the model was."""
    profile = answered[2]
    again = profile.with_outliers(profile.outliers.with_alpha(0.2))
    assert again.validated is profile.validated
    assert estimate_accuracy(again, again.bins.counts).value == estimate_accuracy(profile, profile.bins.counts).value


def test_the_table_is_as_wide_as_the_bins():
    """Flags alone and one predicted class make a table narrower than the outlier flag needs."""
    flags = np.random.default_rng(0).integers(0, 2, size=(600, 2)).astype(float)
    labels = (np.arange(600) % 5 == 0).astype(int)
    profile = gr.Profile.fit(flags, outputs=np.zeros(600, int), labels=labels, alpha=0.05)
    assert len(profile.validated.confusion) == profile.bins.counts.shape[1]
