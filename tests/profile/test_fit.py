"""Profile.fit: what it learns from arrays and DataFrames, and what it refuses."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.core.payload import read
from guardrails.errors import ProfileError
from guardrails.outliers import IsolationForest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 3))


@pytest.fixture(scope="module")
def frame():
    """Numbers, texts, flags, a constant, and holes."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame(
        {
            "age": rng.normal(50, 10, 600),
            "colour": rng.choice(["red", "green", "blue"], 600),
            "member": rng.random(600) < 0.5,
            "always": np.full(600, 5.0),
            "visits": rng.integers(0, 9, 600),
        }
    )
    data.loc[:59, "age"] = np.nan
    data.loc[30:89, "colour"] = None
    return data


def test_an_array_gets_numbered_names_and_its_ranges():
    """feature_0, feature_1, ...; the range seen; nothing missing."""
    features = gr.Profile.fit(X, alpha=0.05).schema.features
    assert [feature.name for feature in features] == ["feature_0", "feature_1", "feature_2"]
    assert [(feature.low, feature.high) for feature in features] == list(zip(X.min(axis=0), X.max(axis=0), strict=True))
    assert {(feature.kind, feature.missing, feature.constant) for feature in features} == {("number", 0.0, False)}


def test_a_list_of_lists_is_an_array():
    """Whatever NumPy makes a matrix of."""
    profile = gr.Profile.fit(X.tolist(), alpha=0.05)
    np.testing.assert_array_equal(profile.outliers.calibration, gr.Profile.fit(X, alpha=0.05).outliers.calibration)


def test_given_names_are_kept():
    """In their order."""
    profile = gr.Profile.fit(X, feature_names=["b", "a", "c"], alpha=0.05)
    assert profile.layout.names == ("b", "a", "c")


def test_images_are_flattened():
    """One column per pixel."""
    assert len(gr.Profile.fit(RNG.normal(size=(300, 4, 5)), alpha=0.05).schema.features) == 20


def test_a_frame_is_learned_column_by_column(frame):
    """Names, kinds, categories, missing shares, constants."""
    profile = gr.Profile.fit(frame, categorical=["colour", "member"], alpha=0.05)
    age, colour, member, always, visits = profile.schema.features
    assert (age.name, age.kind, age.missing) == ("age", "number", 0.1)
    assert (colour.kind, colour.categories, colour.missing) == ("category", ("blue", "green", "red"), 0.1)
    assert (member.kind, member.categories) == ("category", (False, True))
    assert always.constant
    assert not visits.constant
    assert (visits.low, visits.high) == (0.0, 8.0)
    assert profile.bins.names == ("age", "colour", "member", "always", "visits", "__outlier__")
    np.testing.assert_array_equal(profile.bins.categorical, [False, True, True, False, False, True])


def test_categories_may_be_named_by_number(frame):
    """Column numbers and names mean the same."""
    by_name = gr.Profile.fit(frame, categorical=["colour", "member"], alpha=0.05)
    by_number = gr.Profile.fit(frame, categorical=[1, 2], alpha=0.05)
    assert by_name.schema == by_number.schema
    numpy_number = gr.Profile.fit(frame, categorical=np.array([1, 2]), alpha=0.05)
    assert numpy_number.schema == by_name.schema


def test_the_reference_counts_are_the_training_rows(frame):
    """Every column adds up to all rows, missing ones in their own bin."""
    bins = gr.Profile.fit(frame, categorical=["colour", "member"], alpha=0.05).bins
    assert bins.rows == 600
    np.testing.assert_array_equal(bins.counts[:-1].sum(axis=1), np.full(5, 600))
    np.testing.assert_array_equal(bins.counts[:, -1], [60, 60, 0, 0, 0, 0])
    np.testing.assert_array_equal(bins.counts[:, -2], 0)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_the_reference_of_outliers_are_the_calibration_rows(alpha):
    """As many of them are outliers as the calibration says that ordinary rows will be."""
    profile = gr.Profile.fit(X, alpha=alpha, calibration=0.5)
    n = len(profile.outliers.calibration)
    assert profile.bins.names[-1] == "__outlier__"
    assert profile.bins.categorical[-1]
    none, some = profile.bins.counts[-1, :2].tolist()
    assert none + some == profile.bins.counts[-1].sum() == n
    assert abs(some / n - alpha) <= 1.5 / n


def test_another_calibration_has_another_reference_of_outliers():
    """And the column stands there once."""
    profile = gr.Profile.fit(X, alpha=0.05)
    other = profile.with_outliers(profile.outliers.with_alpha(0.2))
    assert other.bins.names == profile.bins.names
    np.testing.assert_array_equal(other.bins.counts[:-1], profile.bins.counts[:-1])
    n = other.bins.counts[-1].sum()
    assert abs(other.bins.counts[-1, 1] / n - 0.2) <= 1.5 / n
    assert other.digest != profile.digest
    assert other.bins.ref != profile.bins.ref


def test_a_live_detector_is_not_asked_in_the_background():
    """Somebody's live object may take milliseconds a row: outliers are then no watched column."""

    class Live:
        def score(self, rows):
            return np.abs(rows).sum(axis=1)

    profile = gr.Profile.fit(X, detector=Live(), alpha=0.05)
    assert profile.bins.names == ("feature_0", "feature_1", "feature_2")
    compiled = gr.Profile.fit(X, alpha=0.05)
    assert compiled.with_outliers(profile.outliers).bins.names == profile.bins.names
    assert profile.with_outliers(compiled.outliers).bins.names == compiled.bins.names


@pytest.mark.parametrize(
    ("outputs", "names", "categorical"),
    [
        (np.arange(600) % 3, ("__prediction__",), [True]),
        ((np.arange(600) % 2).astype(bool), ("__prediction__",), [True]),
        (np.linspace(0, 1, 600), ("__output__",), [False]),
        (np.random.default_rng(2).random((600, 4)), ("__prediction__", "__confidence__"), [True, False]),
        (np.linspace(0, 1, 600)[:, None], ("__output__",), [False]),
        (list(range(600)), ("__prediction__",), [True]),
    ],
    ids=["labels", "flags", "numbers", "scores", "column", "list"],
)
def test_outputs_are_watched_too(outputs, names, categorical):
    """Labels are categories, numbers are numbers, scores are a prediction and its confidence."""
    bins = gr.Profile.fit(X, outputs=outputs, alpha=0.05).bins
    assert bins.names[3:] == (*names, "__outlier__")
    assert bins.categorical[3:].tolist() == [*categorical, True]
    np.testing.assert_array_equal(bins.counts[:-1].sum(axis=1), 600)


@pytest.mark.parametrize("value", [-np.inf, np.inf])
def test_outputs_may_hold_infinities(value):
    """Log-probabilities do: counted at the ends, and everything stays finite."""
    outputs = np.log(np.linspace(0.001, 1, 600))
    outputs[:200] = value
    bins = gr.Profile.fit(X, outputs=outputs, alpha=0.05).bins
    assert bins.counts[3].sum() == 600
    assert not np.isnan(bins.edges).any()


@pytest.mark.parametrize("outputs", [np.arange(599), np.zeros((600, 2, 2)), 3.0], ids=["599", "3-d", "number"])
def test_outputs_that_do_not_go_row_by_row_are_refused(outputs):
    """The message says how many entries there should be."""
    with pytest.raises(ProfileError, match="600 rows"):
        gr.Profile.fit(X, outputs=outputs, alpha=0.05)


def test_text_outputs_are_refused_for_what_they_are():
    """600 labels for 600 rows: the trouble is not their number."""
    with pytest.raises(ProfileError, match=r"(?i)number|numeric|text|str"):
        gr.Profile.fit(X, outputs=np.array(["yes", "no"] * 300), alpha=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_names": ["a", "b"]}, "2 feature names for 3 columns"),
        ({"feature_names": ["a", "b", "a"]}, "a name twice"),
        ({"categorical": ["colour"]}, "'colour'.*names no column"),
        ({"categorical": [3]}, "names no column"),
        ({"categorical": [-1]}, "names no column"),
        ({"alpha": 0.0001}, "cannot be promised"),
        ({"alpha": 2}, "between 0 and 1"),
        ({"detector": "oracle"}, "unknown"),
        ({"calibration": 1.0}, "no share"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_the_data_are_refused(options, message):
    """Each message names what is wrong."""
    with pytest.raises(ProfileError, match=message):
        gr.Profile.fit(X, **{"alpha": 0.05, **options})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", "b"] * 300, r"'bad' holds values that are no numbers.*categorical=\['bad'\]"),
        ([np.nan] * 600, "'bad' holds no value at all"),
        ([None] * 600, "'bad' holds no value at all"),
        ([np.inf] + [0.0] * 599, "'bad' holds infinities"),
    ],
    ids=["text", "NaN", "None", "inf"],
)
def test_columns_that_cannot_be_learned_are_named(column, message):
    """The error names the column and, where there is one, the option that mends it."""
    with pytest.raises(ProfileError, match=message):
        gr.Profile.fit(pd.DataFrame({"good": X[:, 0], "bad": column}), alpha=0.05)


def test_a_category_without_any_value_is_refused():
    """Nothing but holes."""
    with pytest.raises(ProfileError, match="no value at all"):
        gr.Profile.fit(pd.DataFrame({"a": [None, ""] * 300, "b": X[:, 0]}), categorical=["a"], alpha=0.05)


def test_an_identifier_is_no_category():
    """More than a thousand values are refused with the count."""
    with pytest.raises(ProfileError, match="2000 categories"):
        gr.Profile.fit(np.column_stack([np.arange(2000), np.zeros(2000)]), categorical=[0], alpha=0.05)


@pytest.mark.parametrize("shape", [(0, 3), (600,), (3, 0)], ids=str)
def test_what_is_no_table_is_refused(shape):
    """Rows and columns are needed."""
    with pytest.raises(ProfileError):
        gr.Profile.fit(np.zeros(shape), alpha=0.05)


def test_nullable_columns_of_pandas_are_read(frame):
    """Int64, boolean, string and category columns with pd.NA: missing values, not errors."""
    nullable = frame.assign(
        visits=frame["visits"].astype("Int64").mask(frame.index < 60),
        member=frame["member"].astype("boolean").mask(frame.index < 60),
        colour=frame["colour"].astype("category"),
    )
    profile = gr.Profile.fit(nullable, categorical=["colour", "member"], alpha=0.05)
    assert [round(feature.missing, 3) for feature in profile.schema.features] == [0.1, 0.1, 0.1, 0.0, 0.1]


def test_string_columns_of_pandas_with_missing_values_are_read(frame):
    """pd.NA is neither equal nor unequal to anything, so comparing with it raises."""
    nullable = frame.assign(colour=frame["colour"].astype("string"))
    profile = gr.Profile.fit(nullable, categorical=["colour", "member"], alpha=0.05)
    assert profile.schema.features[1].categories == ("blue", "green", "red")
    assert profile.schema.features[1].missing == 0.1


@pytest.mark.parametrize("gap", [None, "", float("nan"), np.nan, pd.NA, pd.NaT], ids=repr)
def test_a_missing_category_is_missing_in_training_and_in_a_request(gap):
    """What counts as missing when fitting counts as missing when serving: train-serving skew begins here."""
    colours = np.array(["red", "green", "blue"] * 200, dtype=object)
    colours[:120] = None
    profile = gr.Profile.fit(pd.DataFrame({"colour": colours, "age": X[:, 0]}), categorical=["colour"], alpha=0.05)
    rows = read([[gap, 0.0]], profile.layout)
    assert not rows.problems
    assert np.isnan(rows.matrix[0, 0]), rows.matrix
    rows = read(pd.DataFrame({"colour": [gap], "age": [0.0]}), profile.layout)
    assert np.isnan(rows.matrix[0, 0]), rows.matrix


def test_numeric_categories_with_holes_in_an_array_are_missing():
    """An (n, d) float array says NaN for missing, also in a column of categories."""
    table = np.column_stack([np.tile([1.0, 2.0, np.nan], 200), X[:, 0]])
    profile = gr.Profile.fit(table, categorical=[0], alpha=0.05)
    rows = read(table[:6], profile.layout)
    np.testing.assert_array_equal(rows.matrix[:, 0], [0, 1, np.nan] * 2)


def test_training_rows_are_read_the_same_way_by_a_request(frame):
    """The row a profile was fitted on and the same row as a payload are the same numbers."""
    data = frame.fillna({"age": 0.0}).dropna()
    profile = gr.Profile.fit(data, categorical=["colour", "member"], alpha=0.05)
    by_frame = read(data, profile.layout).matrix
    by_records = read(data.to_dict("records"), profile.layout).matrix
    np.testing.assert_array_equal(by_frame, by_records)
    flags = profile.outliers.is_outlier(by_frame).astype(float)
    counted = profile.bins.count(np.column_stack([by_frame, flags]))
    np.testing.assert_array_equal(counted[:-1], profile.bins.counts[:-1])


@pytest.mark.parametrize("junk", [["red"], {"a": 1}, {"red"}, np.array([1, 2])], ids=repr)
def test_junk_where_a_category_stands_is_a_problem_not_a_crash(junk):
    """Bad input is a verdict that names the field: never an exception of the guard."""
    profile = gr.Profile.fit(
        pd.DataFrame({"colour": ["red", "blue"] * 300, "age": X[:, 0]}), categorical=["colour"], alpha=0.05
    )
    for payload in ([[junk, 0.0]], {"colour": junk, "age": 0.0}, [{"colour": junk, "age": 0.0}]):
        rows = read(payload, profile.layout)
        assert rows.problems or not np.isfinite(rows.matrix[0, 0])


def test_an_unseen_category_is_an_outlier(frame):
    """Its code is infinite, its p-value the smallest."""
    profile = gr.Profile.fit(frame, categorical=["colour", "member"], alpha=0.05)
    rows = read([[50.0, "ultraviolet", True, 5.0, 3], [50.0, "red", True, 5.0, 3]], profile.layout)
    assert profile.outliers.is_outlier(rows.matrix).tolist() == [True, False]


def test_categories_that_json_cannot_hold_are_refused_at_fit_or_kept():
    """Dates: an error that names the column while fitting, rather than a TypeError when saving."""
    days = [dt.date(2024, 1, 1 + i % 3) for i in range(600)]
    try:
        profile = gr.Profile.fit(pd.DataFrame({"day": days, "age": X[:, 0]}), categorical=["day"], alpha=0.05)
    except ProfileError as error:
        assert "day" in str(error)  # noqa: PT017  # either answer is right
    else:
        assert len(profile.digest) == 12


def test_a_compiled_detector_is_taken_as_it_is():
    """Not refitted; all of X calibrates it."""
    forest = IsolationForest.fit(RNG.normal(size=(500, 3)), trees=10)
    profile = gr.Profile.fit(X, detector=forest, alpha=0.05)
    assert profile.outliers.detector is forest
    assert len(profile.outliers.calibration) == 600


def test_everything_that_fitted_it_is_named():
    """Versions, creation time, the model."""
    profile = gr.Profile.fit(X, model="songs:abc", alpha=0.05)
    assert {"python", "numpy", "scikit-learn", "bentoml", "bento-guardrails"} <= set(profile.versions)
    assert dt.datetime.fromisoformat(profile.created).tzinfo is not None
    assert profile.model == "songs:abc"


def test_fitting_twice_gives_the_same_numbers():
    """The seed decides the split and the fit."""
    first, second = (gr.Profile.fit(X, alpha=0.05, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.outliers.calibration, second.outliers.calibration)


def test_the_data_is_not_changed(frame):
    """Neither arrays nor frames."""
    table, data = X.copy(), frame.copy()
    gr.Profile.fit(table, alpha=0.05)
    gr.Profile.fit(data, categorical=["colour", "member"], alpha=0.05)
    np.testing.assert_array_equal(table, X)
    pd.testing.assert_frame_equal(data, frame)
