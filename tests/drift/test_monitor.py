"""Monitor: rows in, an alarm out, and what the alarm says is what happened."""

import json

import numpy as np
import pandas as pd
import pytest

import guardrails as gr
from guardrails.drift import Alarm, Monitor
from guardrails.errors import GuardrailsError, ProfileError

NAMES = ["age", "visits", "colour"]


def frame(seed, n):
    """Ordinary rows: two numbers, one of them sometimes missing, and a category."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame(
        {
            "age": rng.normal(50, 10, n),
            "visits": rng.gamma(2.0, 3.0, n),
            "colour": rng.choice(["red", "green", "blue"], n, p=[0.6, 0.3, 0.1]),
        }
    )
    data.loc[rng.random(n) < 0.05, "visits"] = np.nan
    return data


def scores(data):
    """A model: how likely it is that somebody older than 50 is meant."""
    p = 1 / (1 + np.exp(-(data["age"].to_numpy() - 50) / 10))
    return np.column_stack([1 - p, p])


@pytest.fixture(scope="module")
def profile():
    """Of 3,000 rows, half of which calibrate the detector, and the model's answers to them."""
    data = frame(0, 3000)
    return gr.Profile.fit(data, outputs=scores(data), categorical=["colour"], calibration=0.5)


@pytest.fixture
def monitor(profile):
    """One of its own."""
    return Monitor(profile, run_length=10_000)


def test_ordinary_rows_raise_no_alarm(profile):
    """3,000 rows of the reference's kind at a run length of a hundred thousand, row by row of their answers too."""
    watching = Monitor(profile, run_length=100_000)
    for seed in range(1, 31):
        data = frame(seed, 100)
        assert watching.update(data, scores(data)) is None
    assert all(0 <= share < 1 for share in watching.evidence.values())
    assert set(watching.evidence) == {"age", "visits", "colour", "__prediction__", "__confidence__", "__outlier__"}
    assert watching.unjudged == ()


def changed(kind, data, rng=None):
    """Ordinary rows, changed."""
    n = len(data)
    some = (rng or np.random.default_rng(0)).random(n)
    if kind == "age higher":
        data["age"] += 8
    elif kind == "age lower":
        data["age"] -= 8
    elif kind == "age wider":
        data["age"] = 50 + (data["age"] - 50) * 1.8
    elif kind == "age narrower":
        data["age"] = 50 + (data["age"] - 50) * 0.5
    elif kind == "age missing":
        data.loc[some < 0.15, "age"] = np.nan
    elif kind == "visits missing":
        data.loc[some < 0.3, "visits"] = np.nan
    elif kind == "more blue":
        data.loc[some < 0.3, "colour"] = "blue"
    elif kind == "colour missing":
        data.loc[some < 0.15, "colour"] = None
    elif kind == "new colour":
        data.loc[some < 0.1, "colour"] = "ultraviolet"
    return data


KINDS = {
    "age higher": ("age", "is higher by about", None),
    "age lower": ("age", "is lower by about", None),
    "age wider": ("age", "is wider spread, by a factor of about", None),
    "age narrower": ("age", "is narrower spread, by a factor of about", None),
    "age missing": ("age", "is more often missing, by about", "missing"),
    "visits missing": ("visits", "is more often missing, by about", "missing"),
    "more blue": ("colour", "is more often 'blue', by about", "'blue'"),
    "colour missing": ("colour", "is more often missing, by about", "missing"),
    "new colour": (
        "colour",
        "is more often a category training had not seen",
        "a category training had not seen or that is rare",
    ),
}


def until_alarm(monitor, kind, ticks=60, n=50):
    """The first alarm of a changed stream, and after how many rows."""
    for tick in range(ticks):
        rng = np.random.default_rng(1000 + tick)
        alarm = monitor.update(changed(kind, frame(500 + tick, n), rng))
        if alarm is not None:
            return alarm, (tick + 1) * n
    raise AssertionError(f"no alarm for {kind} in {ticks * n} rows")


@pytest.mark.parametrize("kind", KINDS)
def test_an_alarm_says_what_happened(monitor, kind):
    """The right column first, the right direction in words, and the bins that moved with their shares."""
    for seed in range(1, 7):
        assert monitor.update(frame(seed, 50)) is None
    feature, words, text = KINDS[kind]
    alarm, rows = until_alarm(monitor, kind)
    assert isinstance(alarm, Alarm)
    worst = alarm.findings[0]
    assert alarm.features[0] == worst.feature == feature
    assert words in worst.direction
    assert alarm.rows == 300 + rows
    assert alarm.evidence >= 1.0
    assert 0 < alarm.since <= alarm.rows
    assert sum(finding.share for finding in alarm.findings) <= 1 + 1e-9
    assert worst.share == max(finding.share for finding in alarm.findings) > 0
    assert 1 <= len(worst.bins) <= 3
    for move in worst.bins:
        assert 0 <= move.reference <= 1
        assert 0 <= move.now <= 1
        assert move.reference != move.now
    distances = [abs(move.now - move.reference) for move in worst.bins]
    assert distances == sorted(distances, reverse=True)
    if text is not None:
        move = next(move for move in worst.bins if move.text == text)
        assert move.now > move.reference


def test_more_outliers_are_an_alarm_of_their_own():
    """Rows each of whose values is ordinary, together they are not: only the outlier flag can tell."""
    rng = np.random.default_rng(2)

    def pairs(n):
        first = rng.normal(size=n)
        return np.column_stack([first, first + 0.1 * rng.normal(size=n)])

    def knn_like(n):
        first = rng.normal(size=n)
        return np.column_stack([first, -first])

    profile = gr.Profile.fit(pairs(4000), detector="mahalanobis", alpha=0.02, calibration=0.5)
    watching = Monitor(profile, run_length=10_000)
    for _ in range(10):
        assert watching.update(pairs(50)) is None
    for _ in range(40):
        rows = pairs(50)
        rows[:10] = knn_like(10)
        alarm = watching.update(rows)
        if alarm is not None:
            break
    assert alarm is not None
    assert alarm.features[0] == "__outlier__"
    assert "is more often an outlier" in alarm.findings[0].direction
    assert alarm.findings[0].bins[0].text in ("an outlier", "no outlier")


def test_outputs_are_watched_where_they_are_given(profile):
    """The inputs are as ever, the model has become sure of everything: confidence, or what it predicts, is named."""
    watching = Monitor(profile, run_length=10_000)
    for tick in range(60):
        data = frame(700 + tick, 50)
        alarm = watching.update(data, np.column_stack([np.full(50, 0.01), np.full(50, 0.99)]))
        if alarm is not None:
            break
    assert set(alarm.features[:2]) <= {"__prediction__", "__confidence__"}
    without = Monitor(profile, run_length=10_000)
    for tick in range(10):
        assert without.update(frame(700 + tick, 50)) is None
    assert without.watch.window[profile.bins.names.index("__prediction__")].sum() == 0


def test_an_alarm_is_returned_once_and_the_detector_starts_anew(monitor):
    """The next rows begin with no evidence; as long as the drift lasts, alarms come again."""
    first, _ = until_alarm(monitor, "age higher")
    assert max(monitor.evidence.values()) == 0.0
    assert monitor.watch.window.sum() == 0
    assert monitor.update(frame(1, 1)) is None
    second, rows = until_alarm(monitor, "age higher")
    assert second is not first
    assert second.rows == rows + 1
    assert second.features[0] == "age"


def test_rows_one_at_a_time_raise_the_same_alarm_about_as_soon(profile):
    """A tick may be a row."""
    data = changed("age higher", frame(800, 600))
    one, many = Monitor(profile, run_length=10_000), Monitor(profile, run_length=10_000)
    records = data.to_dict("records")
    after = next(n for n, record in enumerate(records, 1) if one.update(record))
    blocks = next(n for n in range(20, 601, 20) if many.update(data.iloc[n - 20 : n]))
    assert abs(after - blocks) <= 40


@pytest.mark.parametrize(
    "sizes", [[300], [1] * 300, [7, 0, 93, 150, 0, 50], [150, 150]], ids=["one", "rows", "mixed", "two"]
)
def test_ticks_of_any_size_count_the_same_rows(profile, sizes):
    """The window, the clock, and what is known of neighbours do not depend on how rows are handed over."""
    data, watching = frame(9, 300), Monitor(profile, run_length=1e9)
    start = 0
    for size in sizes:
        watching.update(data.iloc[start : start + size])
        start += size
    whole = Monitor(profile, run_length=1e9)
    whole.update(data)
    np.testing.assert_array_equal(watching.watch.window, whole.watch.window)
    assert watching.watch.detector.clock == 300
    np.testing.assert_allclose(watching.watch.dependence.pairs[:3], whole.watch.dependence.pairs[:3], rtol=0.05)
    assert whole.watch.dependence.pairs[0] == 299


def forms(data):
    """The same rows in every form."""
    cells = [[None if pd.isna(v) else v for v in row] for row in data.to_numpy(dtype=object).tolist()]
    return {
        "frame": data,
        "shuffled columns": data[["colour", "age", "visits"]],
        "records": [dict(zip(NAMES, row, strict=True)) for row in cells],
        "lists": cells,
        "objects": data.to_numpy(dtype=object),
    }


@pytest.mark.parametrize("form", ["frame", "shuffled columns", "records", "lists", "objects"])
def test_rows_are_read_in_every_form(profile, form):
    """Frames, records, lists: the same counts."""
    data = frame(10, 40)
    expected, watching = Monitor(profile), Monitor(profile)
    expected.update(data)
    assert watching.update(forms(data)[form]) is None
    np.testing.assert_array_equal(watching.watch.window, expected.watch.window)
    assert watching.watch.window[0].sum() == 40


def test_one_row_without_a_row_axis(profile):
    """A record, or the values of one row."""
    watching = Monitor(profile)
    watching.update({"age": 50.0, "visits": 3.0, "colour": "red"})
    watching.update([50.0, 3.0, "red"])
    assert watching.watch.window[0].sum() == 2


@pytest.mark.parametrize(
    "nothing", [[], np.empty((0, 3)), pd.DataFrame({name: [] for name in NAMES})], ids=["list", "array", "frame"]
)
def test_no_rows_are_no_news(monitor, nothing):
    """A quiet hour."""
    assert monitor.update(nothing) is None
    assert monitor.watch.detector.clock == 0.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"age": 50.0, "colour": "red"}], r"row 0.*'visits'"),
        (pd.DataFrame({"age": [50.0], "colour": ["red"]}), "visits"),
        ([[50.0, 3.0, "red"], [50.0, "three", "red"]], r"row 1.*'visits'.*number"),
        (np.zeros((4, 2)), r"3 values.*\(4, 2\)"),
        (None, "null"),
        (3.0, "float"),
        ("rows", "str"),
        ([None], "."),
        ([[1.0, 2.0, "red"], [1.0]], "row 1"),
    ],
    ids=["record", "frame", "text", "width", "None", "number", "string", "hole", "ragged"],
)
def test_rows_that_are_none_are_refused_and_change_nothing(monitor, rows, message):
    """The error says where and why; the next rows are weighed as if nothing had been."""
    with pytest.raises(GuardrailsError, match=message):
        monitor.update(rows)
    assert monitor.watch.window.sum() == 0
    assert monitor.watch.detector.clock == 0.0
    assert monitor.update(frame(1, 20)) is None
    assert monitor.watch.window[0].sum() == 20


@pytest.mark.parametrize(
    "outputs",
    [[1.0], np.zeros((21, 2)), ["yes"] * 20, "text", object()],
    ids=["short", "long", "text", "string", "object"],
)
def test_outputs_that_are_none_are_refused_and_change_nothing(monitor, outputs):
    """As Profile.fit refuses them."""
    with pytest.raises(GuardrailsError, match="20"):
        monitor.update(frame(1, 20), outputs)
    assert monitor.watch.window.sum() == 0


def test_a_reference_that_is_too_small_is_refused_with_the_sentence():
    """How many rows there are, how many are needed, and what to do."""
    rng = np.random.default_rng(3)
    with pytest.raises(ProfileError, match=r"too small.*499.*500 are needed.*[Ff]it the profile on more rows"):
        Monitor(gr.Profile.fit(rng.normal(size=(499, 2)), alpha=0.05))
    Monitor(gr.Profile.fit(rng.normal(size=(500, 2)), alpha=0.05))


def test_an_autocorrelated_reference_is_refused_with_the_sentence():
    """3,000 rows of which each is much like the one before; and the way out, which works."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(3000, 2))
    for row in range(1, 3000):
        rows[row] += 0.9 * rows[row - 1]
    with pytest.raises(ProfileError, match=r"independent rows.*autocorrelation up to 0\.(8|9)\d*.*more rows.*shuffle"):
        Monitor(gr.Profile.fit(rows, alpha=0.05))
    assert Monitor(gr.Profile.fit(rng.permutation(rows), alpha=0.05)).unjudged == ()


def test_a_column_that_is_too_small_is_not_judged_but_the_others_are():
    """Of two columns one is autocorrelated; and few rows calibrate the detector."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(1200, 2))
    for row in range(1, 1200):
        rows[row, 1] += 0.95 * rows[row - 1, 1]
    watching = Monitor(gr.Profile.fit(rows, feature_names=["fine", "slow"], alpha=0.05), run_length=1000)
    assert set(watching.unjudged) == {"slow", "__outlier__"}
    assert set(watching.evidence) == {"fine"}
    assert watching.update(np.column_stack([rng.normal(size=200), np.full(200, 99.0)])) is None
    alarm = watching.update(np.column_stack([rng.normal(size=300) + 2, rng.normal(size=300)]))
    assert alarm.features == ("fine",)


@pytest.mark.parametrize("wrong", [None, "songs-profile:latest", gr.Profile.ref("songs"), np.zeros((5, 2))], ids=repr)
def test_what_is_no_profile_is_refused(wrong):
    """With what would be one."""
    with pytest.raises(ProfileError, match="Profile"):
        Monitor(wrong)


@pytest.mark.parametrize("run_length", [99.9, 0, -1, float("nan")])
def test_a_run_length_of_next_to_nothing_is_refused(profile, run_length):
    """At least 100 rows."""
    with pytest.raises(ProfileError, match="at least 100"):
        Monitor(profile, run_length=run_length)


def test_a_run_length_that_never_ends_is_refused(profile):
    """Infinity is no mean number of rows; nothing could ever be due."""
    with pytest.raises(ProfileError, match="run_length"):
        Monitor(profile, run_length=float("inf"))


def test_an_alarm_is_json_and_comes_back(monitor):
    """As it stands in the status; the sentence names column, direction, rows and bins."""
    alarm, _ = until_alarm(monitor, "new colour")
    document = json.loads(json.dumps(alarm.to_json()))
    assert Alarm.from_json(document) == alarm
    assert document["features"] == list(alarm.features)
    sentence = alarm.sentence()
    assert sentence.startswith("colour is more often a category training had not seen")
    assert f"about {alarm.since} rows" in sentence
    assert f"{alarm.findings[0].bins[0].now:.1%} now" in sentence


def test_since_is_about_how_many_rows_ago_it_changed(profile):
    """1,000 quiet rows, then a jump: the alarm speaks of the rows after it."""
    watching = Monitor(profile, run_length=10_000)
    for seed in range(1, 51):
        assert watching.update(frame(seed, 20)) is None
    for tick in range(30):
        alarm = watching.update(changed("age higher", frame(900 + tick, 20)))
        if alarm is not None:
            break
    drifted = (tick + 1) * 20
    assert drifted <= alarm.since + 40
    assert alarm.since <= drifted + 100


def test_autocorrelated_rows_are_weighed_by_what_they_are_worth():
    """A stream of rho .9, whose means wander: 30 streams of 2,000 rows raise few alarms; unweighed, most would."""
    rng = np.random.default_rng(6)
    profile = gr.Profile.fit(rng.normal(size=(4000, 1)), alpha=0.05)
    alarms = 0
    for _ in range(30):
        watching = Monitor(profile, run_length=100_000)
        rows = rng.normal(size=(2000, 1)) * np.sqrt(1 - 0.81)
        for row in range(1, 2000):
            rows[row] += 0.9 * rows[row - 1]
        alarms += any(watching.update(block) is not None for block in np.split(rows, 40))
        assert alarms or watching.watch.worth[0] < 0.15
    assert alarms <= 8


def test_two_monitors_do_not_know_of_each_other(profile):
    """One profile, two streams."""
    one, other = Monitor(profile, run_length=10_000), Monitor(profile, run_length=10_000)
    until_alarm(one, "age higher")
    one.update(changed("age higher", frame(1, 50)))
    assert other.watch.window.sum() == 0
    assert max(other.evidence.values()) == 0.0
