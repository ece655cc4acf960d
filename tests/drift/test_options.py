"""How drift is judged, as a service says it: time spans, and values that make no sense."""

import math

import numpy as np
import pytest

import guardrails as gr
from guardrails.drift import Monitor
from guardrails.drift.options import DAY, DriftOptions, in_words, seconds
from guardrails.errors import DecorationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("30d", 30 * DAY),
        ("12h", 43_200.0),
        ("90m", 5400.0),
        ("45s", 45.0),
        ("2w", 14 * DAY),
        ("1.5h", 5400.0),
        (" 7 d ", 7 * DAY),
        ("0s", 0.0),
        (3600, 3600.0),
        (0.5, 0.5),
        (np.float64(60.0), 60.0),
        (0, 0.0),
    ],
)
def test_a_time_span_is_read(value, expected):
    """Text with a unit, or seconds."""
    assert seconds(value, "run_length") == expected


@pytest.mark.parametrize(
    "value",
    ["", "d", "30", "30 days", "30D", "-1d", "1d12h", "1e3s", "inf", "1.d", ".5d", None, True, [30], b"30d", {}],
)
def test_what_is_no_time_span_is_refused(value):
    """With the option's name, what was given, and how to write it."""
    with pytest.raises(DecorationError, match=r"debounce=.*no time span.*'30d'") as error:
        seconds(value, "debounce")
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (30 * DAY, "30 days"),
        (2 * DAY, "2 days"),
        (DAY, "24 hours"),
        (1.5 * DAY, "36 hours"),
        (7200, "2 hours"),
        (3600, "60 minutes"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (0.5, "0.5 seconds"),
    ],
)
def test_a_time_span_in_words(span, text):
    """In the largest unit that it fills twice."""
    assert in_words(span) == text
    assert DriftOptions(run_length=max(60.0, span)).text == in_words(max(60.0, span))


def test_the_defaults_are_a_month_and_an_hour():
    """One false alarm a month, and a pause of an hour."""
    options = DriftOptions()
    assert (options.run_length, options.in_rows, options.on_alarm, options.debounce) == (30 * DAY, False, None, 3600.0)
    assert options.text == "30 days"
    assert DriftOptions(100_000.0, in_rows=True).text == "100000 rows"


@pytest.mark.parametrize("run_length", [59.9, 0.0, -1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("in_rows", [False, True])
def test_a_run_length_that_makes_no_sense_is_refused(run_length, in_rows):
    """Nobody means a minute between false alarms, nor never."""
    with pytest.raises(DecorationError, match=r"run_length=.*at least a minute"):
        DriftOptions(run_length=run_length, in_rows=in_rows)


def test_the_least_run_lengths():
    """A minute; a hundred rows."""
    assert DriftOptions(run_length=60.0).run_length == 60.0
    assert DriftOptions(run_length=100.0, in_rows=True).run_length == 100.0
    with pytest.raises(DecorationError, match="100 rows"):
        DriftOptions(run_length=99.0, in_rows=True)


@pytest.mark.parametrize("debounce", [-1.0, math.nan, -math.inf])
def test_a_debounce_that_makes_no_sense_is_refused(debounce):
    """None is a time, zero is."""
    with pytest.raises(DecorationError, match="debounce"):
        DriftOptions(debounce=debounce)
    assert DriftOptions(debounce=0.0).debounce == 0.0


PROFILE = gr.Profile.fit(np.random.default_rng(0).normal(size=(600, 2)), alpha=0.05)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"run_length": "soon"}, "run_length='soon'"),
        ({"run_length": "10s"}, "run_length"),
        ({"run_length": float("inf")}, "run_length"),
        ({"debounce": "often"}, "debounce='often'"),
        ({"debounce": -5}, "debounce"),
        ({"on_alarm": ""}, "on_alarm"),
        ({"on_alarm": 5}, "on_alarm"),
        ({"rate": 0.0}, "rate"),
    ],
    ids=str,
)
def test_a_decorator_says_at_decoration_which_option_is_wrong(options, named):
    """Not when the first request comes."""
    with pytest.raises(DecorationError) as error:
        gr.sample_drift(PROFILE, **options)
    assert named in str(error.value)


def test_a_decorator_knows_how_drift_is_judged():
    """Text is read once; a Monitor's run length counts rows."""
    assert gr.sample_drift(PROFILE).options == DriftOptions()
    options = gr.sample_drift(PROFILE, run_length="7d", debounce="10m", on_alarm="retrain").options
    assert options == DriftOptions(7 * DAY, False, "retrain", 600.0)
    rows = gr.sample_drift(Monitor(PROFILE, run_length=5000), debounce=0, on_alarm=print).options
    assert rows == DriftOptions(5000.0, True, print, 0.0)
