"""The rules of @validate: what each one lets through, and what the refusal says of it."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import guardrails as gr
from guardrails.errors import ProfileError
from guardrails.validation.rules import Rules

SCHEMA = gr.Schema(
    (
        gr.Feature("age", low=0, high=120, numeric="integer"),
        gr.Feature("dose", low=0.0, missing=0.1),
        gr.Feature("smoker", low=0, high=1, numeric="boolean"),
        gr.Feature("country", categories=("de", "no")),
        gr.Feature("device", low=0.1, high=0.1),
    )
)
GOOD = {"age": 40, "dose": 1.5, "smoker": True, "country": "no", "device": 0.1}
NAMES = list(GOOD)


class Patient(BaseModel):
    """A row as a body; types as loose as JSON's."""

    age: object = None
    dose: object = None
    smoker: object = None
    country: object = None
    device: object = None


FORMS = {
    "dict": lambda row: row,
    "list of dicts": lambda row: [row],
    "list": lambda row: [row[name] for name in NAMES],
    "list of lists": lambda row: [[row[name] for name in NAMES]],
    "DataFrame": lambda row: pd.DataFrame([row], dtype=object),
    "pydantic": lambda row: Patient(**row),
    "list of pydantic": lambda row: [Patient(**row)],
    "object array": lambda row: np.array([[row[name] for name in NAMES]], dtype=object),
}
BAD = {
    "too old": ({"age": 130}, "age", "range", "between 0 and 120", "larger"),
    "not born": ({"age": -1}, "age", "range", "between 0 and 120", "smaller"),
    "half a year": ({"age": 40.5}, "age", "integer", "a whole number", "a fraction"),
    "no age": ({"age": None}, "age", "missing", "a value", "none"),
    "text": ({"age": "forty"}, "age", "type", "a number", "str"),
    "negative dose": ({"dose": -0.1}, "dose", "range", "0 or more", "smaller"),
    "unknown country": ({"country": "se"}, "country", "category", "a category known from training", "an unknown one"),
    "two": ({"smoker": 2}, "smoker", "range", "between 0 and 1", "larger"),
    "other device": ({"device": 0.2}, "device", "constant", "0.1, which never varied", "larger"),
}


def predict(schema, **options):
    """A validated method that says how many rows it got."""
    return gr.validate(schema, **options)(lambda payload: 1.0)


@pytest.mark.parametrize("form", FORMS)
def test_what_keeps_the_rules_goes_through(form):
    """In every form; a dose may be missing, and 0.1 may come as a float32."""
    fn = predict(SCHEMA)
    for change in ({}, {"dose": None}, {"dose": 1e9}, {"age": 0}, {"age": 120.0}, {"device": float(np.float32(0.1))}):
        assert fn(FORMS[form]({**GOOD, **change})) == 1.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", BAD)
def test_what_breaks_a_rule_is_named(form, what):
    """Field, rule, expected and found, in every form; the sentence says the same."""
    change, field, rule, expected, found = BAD[what]
    with pytest.raises(gr.Rejected) as caught:
        predict(SCHEMA)(FORMS[form]({**GOOD, **change}))
    (detail,) = caught.value.details
    assert (detail["field"], detail["rule"], detail["expected"], detail["found"]) == (field, rule, expected, found)
    assert f"field '{field}', {expected} expected, {found} found" in str(caught.value)
    json.dumps(caught.value.body())


def test_by_hand_there_is_no_margin_unless_one_is_given():
    """What somebody wrote down is meant; what was learned is widened by one width of the range."""
    assert predict(SCHEMA, margin=0.5)({**GOOD, "age": 180}) == 1.0
    with pytest.raises(gr.Rejected):
        predict(SCHEMA, margin=0.5)({**GOOD, "age": 181})
    learned = gr.Profile.fit(np.linspace(0, 1, 300)[:, None], alpha=0.05)
    assert predict(learned)([2.0]) == 1.0
    with pytest.raises(gr.Rejected, match="between -1 and 2"):
        predict(learned)([2.01])


def test_kinds_are_learned_from_a_frame_and_not_from_a_matrix():
    """A DataFrame types each column; a matrix of integers says little about any of them."""
    frame = pd.DataFrame(
        {"n": [1, 2, 3] * 50, "b": [True, False, True] * 50, "x": [0.5, 1, 2] * 50, "c": 4.0, "g": [1, None, 2] * 50}
    )
    frame["g"] = frame["g"].astype("Int64")
    profile = gr.Profile.fit(frame, alpha=0.1)
    assert [f.kind for f in profile.schema.features] == ["integer", "boolean", "number", "number", "integer"]
    assert profile.schema.features[3].constant
    matrix = gr.Profile.fit(frame[["n", "x"]].to_numpy(), alpha=0.1)
    assert {f.kind for f in matrix.schema.features} == {"number"}
    fn = predict(profile)
    good = {"n": 2, "b": False, "x": 0.7, "c": 4.0, "g": None}
    assert fn(good) == 1.0
    for change, rule in (
        ({"n": 2.5}, "integer"),
        ({"b": 0.5}, "integer"),
        ({"c": 4.1}, "constant"),
        ({"b": 2}, "range"),
    ):
        with pytest.raises(gr.Rejected) as caught:
            fn({**good, **change})
        assert caught.value.details[0]["rule"] == rule


def test_rows_are_judged_one_by_one():
    """A fallback answers the bad rows of a batch, the method the others, in their order; the count is of all of them."""

    @gr.validate(SCHEMA, on_invalid=gr.constant(["sorry"]))
    def fn(rows):
        return [row["country"] for row in rows]

    assert fn([GOOD, {**GOOD, "age": 999}, {**GOOD, "country": "de"}]) == ["no", "sorry", "de"]
    with pytest.raises(gr.Rejected, match=r"\(and 29 more\)"):
        predict(SCHEMA)([{**GOOD, "age": 999}] * 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gr.Schema(()), "at least one column"),
        (lambda: gr.Schema((gr.Feature("a"), gr.Feature("a"))), "no name twice"),
        (lambda: gr.Feature("a", low=2, high=1), "no value is between"),
        (lambda: gr.Feature("a", numeric="complex"), "it is one of number"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(make, message):
    """When it is written, with the reason."""
    with pytest.raises(ProfileError, match=message):
        make()


cells = st.one_of(st.floats(-300, 300), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, 120.0, 0.1, 40.0]))


@settings(max_examples=400, deadline=None)
@given(row=st.lists(cells, min_size=5, max_size=5), margin=st.sampled_from([0.0, 0.3, 2.0]))
def test_the_quick_way_and_the_thorough_way_agree(row, margin):
    """Whatever one row is admitted by, no cell of it breaks a rule; what is not admitted breaks one, or may miss."""
    rules = Rules.of(SCHEMA, margin)
    broken = rules.broken(np.array([row]))[0]
    if rules.admit(row):
        assert not broken.any()
    else:
        assert broken.any() or np.isnan(row[1])
    for column in np.flatnonzero(broken):
        assert rules.problem(int(column), row[column], None).field == NAMES[column]
