"""Bins in words: what they say is what falls into them."""

import re

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.profile.bins import OTHER
from guardrails.profile.naming import bin_text


@pytest.fixture(scope="module")
def profile():
    """Numbers, few values, a constant, texts, flags, whole categories; and outputs."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "size": rng.normal(1000, 300, 900),
            "visits": rng.poisson(1, 900),
            "always": np.full(900, 5.0),
            "colour": rng.choice(["red", "it's", "blau"], 900),
            "member": rng.random(900) < 0.5,
            "code": rng.choice([10, 20, 30], 900),
        }
    )
    return gr.Profile.fit(data, categorical=["colour", "member", "code"], outputs=rng.random((900, 3)), alpha=0.05)


def texts(profile, name):
    """Of all bins a value of a column can fall into."""
    column = profile.bins.names.index(name)
    return {bin_: bin_text(profile, column, bin_) for bin_ in profile.bins.used(column)}


def holds(text, value):
    """Whether a number is in the bin that a text speaks of."""
    if match := re.fullmatch(r"(at most|above|below|always|exactly) (\S+)", text):
        bound = float(match[2])
        return {
            "at most": value <= bound, "above": value > bound, "below": value < bound,
            "always": value == bound, "exactly": value == bound,
        }[match[1]]  # fmt: skip
    low, high = map(float, re.fullmatch(r"(\S+) to (\S+)", text).groups())
    return low < value <= high


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("size", np.linspace(100, 2000, 77)),
        ("visits", np.arange(-1.0, 9.0)),
        ("always", np.array([-1e9, 4.9, 5.0, 5.1, 1e9])),
        ("__confidence__", np.linspace(0.34, 0.99, 40)),
    ],
)
def test_a_number_lies_in_the_bin_that_its_text_names(profile, name, values):
    """And in no other; to four digits, so values right beside a cut are left out."""
    column = profile.bins.names.index(name)
    rows = np.zeros((len(values), len(profile.bins.names)))
    rows[:, column] = values
    said = texts(profile, name)
    cuts = profile.bins.edges[column]
    for value, code in zip(values, profile.bins.codes(rows)[:, column], strict=True):
        near = np.isclose(cuts, value, rtol=1e-3) & (cuts != value)
        if name == "always" or not near.any():
            found = [bin_ for bin_, text in said.items() if text != "missing" and holds(text, value)]
            assert found == [code], (value, said)


def test_each_bin_has_a_text_of_its_own(profile):
    """Nobody has to guess which of two is meant."""
    for name in profile.bins.names:
        said = list(texts(profile, name).values())
        assert len(set(said)) == len(said), said
        assert said[-1] == "missing"


def test_categories_are_called_as_training_called_them(profile):
    """Text in quotes, flags and numbers as they are."""
    assert [*texts(profile, "colour").values()][:3] == ["'blau'", "'red'", '"it\'s"'] or {
        *list(texts(profile, "colour").values())[:3]
    } == {"'blau'", "'red'", '"it\'s"'}
    assert {"False", "True"} < set(texts(profile, "member").values())
    assert {"10", "20", "30"} < set(texts(profile, "code").values())


def test_the_text_of_a_category_is_the_one_that_falls_there(profile):
    """By the layout's own codes."""
    column = profile.bins.names.index("colour")
    for category, code in profile.layout.categories[column].items():
        row = np.zeros((1, len(profile.bins.names)))
        row[0, column] = code
        assert bin_text(profile, column, int(profile.bins.codes(row)[0, column])) == repr(category)


def test_what_training_had_not_seen_is_called_so(profile):
    """The bin other, of every category; also of predictions."""
    for name in ("colour", "member", "code", "__prediction__"):
        column = profile.bins.names.index(name)
        other = next(b for b in profile.bins.used(column) if profile.bins.label(b) == OTHER)
        assert "not seen" in bin_text(profile, column, other)


def test_outputs_and_outliers_are_called_by_what_they_are(profile):
    """A class, an outlier."""
    assert [*texts(profile, "__prediction__").values()][:3] == ["class 0", "class 1", "class 2"]
    assert [*texts(profile, "__outlier__").values()][:2] == ["no outlier", "an outlier"]


def test_classes_are_called_by_their_own_numbers():
    """Not by the number of their bin: of classes 3 and 7, the first bin is class 3."""
    rng = np.random.default_rng(1)
    profile = gr.Profile.fit(rng.normal(size=(600, 2)), outputs=rng.choice([3, 7], 600), alpha=0.05)
    assert [*texts(profile, "__prediction__").values()][:2] == ["class 3", "class 7"]


def test_rare_categories_share_a_text():
    """Beyond 64, and the text says so."""
    codes = np.concatenate([np.repeat(np.arange(64), 20), np.arange(64, 90)])
    X = np.column_stack([codes, np.random.default_rng(2).normal(size=len(codes))])
    profile = gr.Profile.fit(X, categorical=[0], alpha=0.05)
    column_texts = [*texts(profile, "feature_0").values()]
    assert "rare" in column_texts[-2]
    assert len(column_texts) == 64 + 2


@pytest.mark.parametrize("value", [-np.inf, np.inf])
def test_infinite_outputs_lie_in_the_bin_that_their_text_names(value):
    """Three values, one of them infinite."""
    rng = np.random.default_rng(3)
    outputs = rng.choice([value, 0.0, 1.0, 2.0], 600)
    profile = gr.Profile.fit(rng.normal(size=(600, 1)), outputs=outputs, alpha=0.05)
    for shown in (value, 0.0, 1.0, 2.0):
        code = int(profile.bins.codes(np.array([[0.0, shown, 0.0]]))[0, 1])
        assert holds(bin_text(profile, 1, code), shown), (shown, bin_text(profile, 1, code))
