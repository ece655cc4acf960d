"""The watched columns of rows and answers: in their places, and absent is not missing."""

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.errors import ProfileError
from guardrails.profile import answers
from guardrails.profile.watched import OUTLIER, table

NAMES = ("a", "b", "__prediction__", "__confidence__", OUTLIER)
ROWS = np.array([[1.0, np.nan], [3.0, 4.0], [np.inf, 6.0]])


def test_everything_said_has_its_place():
    """Features first, answers by their names, the flag as 0 and 1; nothing is absent then."""
    said = {"__confidence__": np.array([0.5, np.nan, 0.7]), "__prediction__": np.array([2.0, 0.0, 1.0])}
    values, absent = table(NAMES, ROWS, said, np.array([False, True, False]))
    assert absent is None
    np.testing.assert_array_equal(values[:, :2], ROWS)
    np.testing.assert_array_equal(values[:, 2], [2, 0, 1])
    np.testing.assert_array_equal(values[:, 3], [0.5, np.nan, 0.7])
    np.testing.assert_array_equal(values[:, 4], [0, 1, 0])
    assert values.dtype == np.float64


@pytest.mark.parametrize(
    ("said", "outliers", "expected"),
    [
        (None, None, [2, 3, 4]),
        ({}, None, [2, 3, 4]),
        (None, np.zeros(3, bool), [2, 3]),
        ({"__prediction__": np.zeros(3)}, np.zeros(3, bool), [3]),
        ({"__prediction__": np.zeros(3), "__confidence__": np.zeros(3)}, None, [4]),
        ({"__output__": np.zeros(3)}, np.zeros(3, bool), [2, 3]),
    ],
    ids=["nobody", "nothing", "no answer", "no confidence", "nobody looked", "another answer"],
)
def test_what_nobody_could_have_given_is_absent(said, outliers, expected):
    """Whole columns of it, and no others; a missing feature is missing."""
    _, absent = table(NAMES, ROWS, said, outliers)
    assert np.flatnonzero(absent.all(axis=0)).tolist() == expected
    assert np.flatnonzero(absent.any(axis=0)).tolist() == expected


def test_features_alone_are_never_absent():
    """A profile without outputs and with a live detector."""
    values, absent = table(("a", "b"), ROWS, None, None)
    assert absent is None
    np.testing.assert_array_equal(values, ROWS)
    values, absent = table(("a", "b"), ROWS, {"__prediction__": np.zeros(3)}, np.zeros(3, bool))
    assert absent is None
    assert values.shape == (3, 2)


def test_neither_rows_nor_answers_are_changed():
    """The guards that come after read the same objects."""
    rows, said = ROWS.copy(), {"__prediction__": np.arange(3.0)}
    values, _ = table(NAMES, rows, said, None)
    values[:] = 9
    np.testing.assert_array_equal(rows, ROWS)
    assert list(said) == ["__prediction__"]
    np.testing.assert_array_equal(said["__prediction__"], np.arange(3.0))


def test_no_rows_are_a_table_of_no_rows():
    """Of the right width."""
    values, absent = table(NAMES, np.empty((0, 2)), None, None)
    assert values.shape == absent.shape == (0, 5) if absent is not None else values.shape == (0, 5)


@pytest.mark.parametrize("name", [OUTLIER, answers.PREDICTION, answers.CONFIDENCE, answers.OUTPUT])
@pytest.mark.parametrize("frame", [False, True])
def test_a_feature_may_not_be_called_like_what_is_watched_beside_it(name, frame):
    """Its values would be counted as somebody else's; the message names it."""
    X = np.random.default_rng(0).normal(size=(600, 2))
    rows = pd.DataFrame(X, columns=["a", name]) if frame else X
    with pytest.raises(ProfileError, match=name):
        gr.Profile.fit(rows, feature_names=None if frame else ["a", name], outputs=X[:, 0], alpha=0.05)


def test_the_columns_of_a_profile_are_the_columns_of_the_table():
    """Counted at fit and when serving by the same function, so the same rows give the same counts."""
    rng = np.random.default_rng(1)
    X, scores = rng.normal(size=(800, 2)), rng.dirichlet([1, 1, 1], 800)
    profile = gr.Profile.fit(X, outputs=scores, alpha=0.05)
    values, absent = table(profile.bins.names, X, answers.columns(scores, 800), profile.outliers.is_outlier(X))
    assert absent is None
    np.testing.assert_array_equal(profile.bins.count(values)[:-1], profile.bins.counts[:-1])
