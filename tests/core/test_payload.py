"""Any payload is read as rows or refused by name, never with an exception; rows taken apart come together again."""

from __future__ import annotations

import enum
import math
import warnings
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from guardrails.core.payload import Layout, NotByRowError, RowSet, counts_rows, merge, read, take

PLAIN = Layout(("a", "b"))
MIXED = Layout(("a", "colour"), {1: {"red": 0, "blue": 1}})
ONE = Layout(("a",))
IMAGE = Layout(tuple(f"p{i}" for i in range(12)))
UNSEEN = math.inf


class Row(BaseModel):
    a: Any = None
    colour: Any = None


class Colour(str, enum.Enum):
    RED = "red"


def table(rows: RowSet) -> list[list[float]]:
    return rows.matrix.tolist()


def same(rows: RowSet, wanted: list[list[float]]) -> bool:
    return rows.matrix.dtype == np.float64 and np.array_equal(
        rows.matrix, np.array(wanted, dtype=float), equal_nan=True
    )


def rules(rows: RowSet) -> list[tuple[str, int | None, str | None]]:
    return [(problem.rule, problem.row, problem.field) for problem in rows.problems]


@pytest.mark.parametrize(
    ("payload", "wanted", "single"),
    [
        (np.array([1.0, 2.0]), [[1, 2]], True),
        (np.array([[1.0, 2.0]]), [[1, 2]], False),
        (np.array([[1, 2], [3, 4], [5, 6]]), [[1, 2], [3, 4], [5, 6]], False),
        (np.array([[1, 2]], dtype="uint8"), [[1, 2]], False),
        (np.array([[1, 2]], dtype="float16"), [[1, 2]], False),
        (np.array([[1, 2]], dtype=">f4"), [[1, 2]], False),
        (np.array([[1, 2]], dtype=object), [[1, 2]], False),
        (np.array([[True, False]]), [[1, 0]], False),
        (np.array([[np.nan, np.inf]]), [[np.nan, np.inf]], False),
        (np.array([[None, 1.0]], dtype=object), [[np.nan, 1]], False),
        (np.arange(8.0).reshape(4, 2)[::2], [[0, 1], [4, 5]], False),
        (np.asfortranarray(np.arange(4.0).reshape(2, 2)), [[0, 1], [2, 3]], False),
        ([1, 2.5], [[1, 2.5]], True),
        ((1, 2), [[1, 2]], True),
        ([[1, 2]], [[1, 2]], False),
        ([(1, 2), [3, 4]], [[1, 2], [3, 4]], False),
        ([np.array([1, 2]), np.array([3.0, 4.0])], [[1, 2], [3, 4]], False),
        ([[True, None]], [[1, np.nan]], False),
        ([[np.float32(1.5), np.int64(2)]], [[1.5, 2]], False),
        ({"a": 1, "b": 2, "more": "ignored"}, [[1, 2]], True),
        ({"b": 2, "a": None}, [[np.nan, 2]], True),
        ([{"a": 1, "b": 2}, {"b": 4, "a": 3}], [[1, 2], [3, 4]], False),
        (pd.DataFrame({"b": [2.0, 4.0], "a": [1, 3], "c": ["x", "y"]}), [[1, 2], [3, 4]], False),
        (pd.DataFrame({"a": [1.0, np.nan], "b": [2, 4]}, index=[7, 7]), [[1, 2], [np.nan, 4]], False),
    ],
)
def test_numbers(payload: Any, wanted: list[list[float]], single: bool) -> None:
    """Arrays, lists, mappings and frames of numbers are rows, columns in the profile's order, missing values NaN."""
    rows = read(payload, PLAIN)
    assert (rules(rows), rows.single) == ([], single)
    assert same(rows, wanted)


@pytest.mark.parametrize(
    ("payload", "n", "single"),
    [
        (np.zeros((3, 4)), 1, True),
        (np.zeros(12), 1, True),
        (np.zeros((1, 3, 4)), 1, False),
        (np.zeros((5, 3, 4)), 5, False),
        (np.zeros((5, 3, 2, 2), dtype="uint8"), 5, False),
        (np.zeros((5, 12)), 5, False),
        ([np.zeros((3, 4)), np.ones((3, 4))], 2, False),
    ],
)
def test_images(payload: Any, n: int, single: bool) -> None:
    """The trailing axes of an image are one row of its pixels."""
    rows = read(payload, IMAGE)
    assert (rows.matrix.shape, rows.single, rows.problems) == ((n, 12), single, ())


def test_an_image_in_a_list_keeps_its_pixels_in_order() -> None:
    """Pixels are read row by row, as reshape does."""
    image = np.arange(12).reshape(3, 4)
    assert same(read([image], IMAGE), [list(range(12))])


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        ([3], [[3]]),
        ([3, 4], [[3], [4]]),
        ([[3], [4]], [[3], [4]]),
        (np.array([3.0, 4.0]), [[3], [4]]),
        (np.array(3.0), [[3]]),
        ({"a": 3}, [[3]]),
    ],
)
def test_one_column(payload: Any, wanted: list[list[float]]) -> None:
    """With one column a list of numbers is one row each."""
    rows = read(payload, ONE)
    assert same(rows, wanted)
    assert not rows.problems


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("red", 0), ("blue", 1), (Colour.RED, 0), (np.str_("blue"), 1),
        ("green", UNSEEN), (3, UNSEEN), (b"red", UNSEEN), ("", np.nan), (None, np.nan),
        (float("nan"), np.nan), (np.nan, np.nan), (pd.NA, np.nan), (pd.NaT, np.nan),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["record", "model", "list", "rows", "array", "frame"])
def test_categories(cell: Any, code: float, form: str) -> None:
    """A category is its code, an unseen one infinite, a missing one (None, "", NaN, pandas' NA) NaN, in every form."""
    payload: Any = {
        "record": lambda: {"a": 1.0, "colour": cell},
        "model": lambda: Row(a=1.0, colour=cell),
        "list": lambda: [1.0, cell],
        "rows": lambda: [[1.0, cell]],
        "array": lambda: np.array([[1.0, cell]], dtype=object),
        "frame": lambda: pd.DataFrame({"a": [1.0], "colour": pd.Series([cell], dtype=object)}),
    }[form]()
    rows = read(payload, MIXED)
    assert rules(rows) == []
    assert same(rows, [[1.0, code]])


def test_categories_of_pandas_dtypes() -> None:
    """pandas' own categorical, string and nullable columns hold missing values, not wrong types."""
    for dtype in ("category", "string", object):
        frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "colour": pd.Series(["red", None, "green"], dtype=dtype)})
        rows = read(frame, MIXED)
        assert (rules(rows), same(rows, [[1, 0], [2, np.nan], [3, UNSEEN]])) == ([], True), dtype
    for dtype in ("Int64", "Float64", "boolean"):
        frame = pd.DataFrame({"a": pd.array([1, None], dtype=dtype), "b": [0.0, 0.0]})
        rows = read(frame, PLAIN)
        assert (rules(rows), same(rows, [[1, 0], [np.nan, 0]])) == ([], True), dtype


@pytest.mark.parametrize("category", [["red"], {"red": 1}, [], [["red"]], np.array(["red", "blue"]), {"x"}])
@pytest.mark.parametrize("form", ["record", "model", "rows"])
def test_a_category_that_is_no_word(category: Any, form: str) -> None:
    """What cannot be a category at all is unseen or a problem, not an exception."""
    payload: Any = {
        "record": {"a": 1.0, "colour": category},
        "model": Row(a=1.0, colour=category),
        "rows": [[1.0, category]],
    }[form]
    rows = read(payload, MIXED)
    assert rows.problems or rows.matrix[0, 1] == UNSEEN


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "text",
        b"bytes",
        3,
        3.5,
        True,
        object(),
        {1, 2},
        iter([1, 2]),
        range(2),
        pd.Series([1.0, 2.0]),
        lambda: None,
        enum,
    ],
)
def test_what_is_no_payload(payload: Any) -> None:
    """Anything else is one problem that concerns the payload as a whole."""
    rows = read(payload, PLAIN)
    assert (len(rows), rows.problems[0].row) == (1, None)
    assert np.isnan(rows.matrix).all()


@pytest.mark.parametrize(
    "payload",
    [
        np.array([]),
        np.zeros((0, 2)),
        np.zeros((2, 0)),
        np.zeros((0, 3)),
        [],
        (),
        pd.DataFrame({"a": [], "b": []}),
        [[]],
        {},
        [{}],
        [[], []],
    ],
)
def test_nothing(payload: Any) -> None:
    """An empty payload is a problem."""
    assert read(payload, PLAIN).problems


@pytest.mark.parametrize(
    "payload",
    [
        np.zeros(3), np.zeros((2, 3)), np.zeros((3, 1)), np.array(1.0), np.zeros((2, 2, 2)), np.zeros((1, 1, 1, 3)),
        [1], [1, 2, 3], [[1, 2, 3]], [[1, 2], [3]], [[1, 2], [3, 4, 5]], [[1, 2], []], [[[1, 2], [3, 4]]],
        [[1, 2], 3], [[1, 2], None], [[1, 2], "ab"], [{"a": 1, "b": 2}, [1, 2]], [{"a": 1, "b": 2}, None],
        [1, [2]], [[1], 2], [[[1], 2]], [[[1, 2], [3]]], [[1, [2]]], [[[1, 2], 3], [4, 5]], [np.zeros(3)], [[1, {}]],
        pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": [1.0], "B": [1.0]}),
        {"a": 1}, [{"a": 1, "b": 2}, {"a": 1}],
    ],
)  # fmt: skip
def test_wrong_widths_and_ragged_payloads(payload: Any) -> None:
    """Another width, a ragged list, a field that is missing: named, never raised."""
    rows = read(payload, PLAIN)
    assert rows.problems
    assert all(isinstance(problem.detail(), dict) for problem in rows.problems)


def test_only_the_bad_rows_are_blamed() -> None:
    """Rows that can be read are read, and the problems number those that cannot."""
    rows = read([[1, 2], [3, "x"], [5, 6], [7]], PLAIN)
    assert rules(rows) == [("type", 1, "b"), ("width", 3, None)]
    assert same(rows, [[1, 2], [3, np.nan], [5, 6], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        (10**400, math.inf), (-(10**400), -math.inf), (2**70, 2.0**70), (1e308, 1e308), (-1e308, -1e308), (5e-324, 5e-324),
        (math.nan, math.nan), (math.inf, math.inf), (-math.inf, -math.inf), (-0.0, 0.0), (np.longdouble("1e4000"), math.inf),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["list", "rows", "record", "array", "mixed"])
def test_extreme_numbers(cell: Any, wanted: float, form: str) -> None:
    """Numbers beyond float64 are infinite, with no warning and no exception."""
    payload: Any = {
        "list": [cell, 1.0],
        "rows": [[cell, 1.0], [1.0, 1.0]],
        "record": {"a": cell, "b": 1},
        "array": np.array([[cell, 1.0]], dtype=object),
        "mixed": [[cell, None]],
    }[form]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = read(payload, PLAIN)
    assert rules(rows) == []
    assert np.array_equal(rows.matrix[0, 0], wanted, equal_nan=True)


@pytest.mark.parametrize(
    "dtype", ["complex128", "datetime64[s]", "timedelta64[s]", "U3", "S3", "O", "i4,f8", "longdouble"]
)
def test_arrays_of_every_kind(dtype: str) -> None:
    """An array of any dtype is read or refused, cell by cell, without an exception or a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = read(np.zeros((2, 2), dtype=dtype), PLAIN)
    assert len(rows) == 2
    assert bool(rows.problems) == (dtype not in ("O", "longdouble"))


@pytest.mark.parametrize(
    "cell", ["1.5", b"1", 1 + 2j, Decimal(1), [1], {}, object(), np.datetime64("2020-01-01"), np.array([1, 2])]
)
def test_cells_that_are_no_numbers(cell: Any) -> None:
    """A cell that is no number is a problem of its field; its value is not in the message."""
    for payload in ({"a": cell, "b": 1.0}, [{"a": cell, "b": 1.0}]):
        rows = read(payload, PLAIN)
        assert [(problem.rule, problem.field) for problem in rows.problems] == [("type", "a")]
        assert "1.5" not in str(rows.problems)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "colour", "x"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(payload=json_values, layout=st.sampled_from([PLAIN, MIXED, ONE, IMAGE]))
def test_any_json_is_read_without_an_exception(payload: Any, layout: Layout) -> None:
    """Whatever JSON a client sends, it is rows, or it is refused by name."""
    rows = read(payload, layout)
    assert rows.matrix.ndim == 2
    assert rows.matrix.shape[1] == layout.width
    assert len(rows) >= 1
    assert all(problem.row is None or 0 <= problem.row < len(rows) for problem in rows.problems)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), n=st.integers(1, 6), layout=st.sampled_from([PLAIN, MIXED]))
def test_any_records_are_read_row_by_row(data: st.DataObject, n: int, layout: Layout) -> None:
    """A list of records has as many rows as it has records, whatever its cells hold."""
    cells = st.fixed_dictionaries(dict.fromkeys(layout.names, json_values))
    records = data.draw(st.lists(cells, min_size=n, max_size=n))
    assert len(read(records, layout)) == n
    assert len(read([list(record.values()) for record in records], layout)) == n


def test_the_payload_is_not_written_to() -> None:
    """Reading leaves the payload as it was."""
    payload = np.array([[1.0, np.nan]])
    payload.flags.writeable = False
    assert same(read(payload, PLAIN), [[1, np.nan]])


def test_what_is_read_stays_what_came() -> None:
    """A method that scales its input in place changes no row that was read before (records and drift read later)."""
    payload = np.array([[1.0, 2.0]])
    rows = read(payload, PLAIN)
    payload *= 100
    assert same(rows, [[1, 2]])


# Taking apart and putting together

masks = st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=12)
CONTAINERS = {
    "1-D array": lambda n: np.arange(n) * 1.5,
    "2-D array": lambda n: np.arange(3 * n).reshape(n, 3),
    "3-D array": lambda n: np.arange(4 * n).reshape(n, 2, 2).astype("float32"),
    "bool array": lambda n: np.arange(n) % 2 == 0,
    "text array": lambda n: np.array([f"row {i}" * (i + 1) for i in range(n)]),
    "object array": lambda n: np.array([[i] for i in range(n)] + [None], dtype=object)[:n],
    "date array": lambda n: np.arange(n).astype("datetime64[D]"),
    "list": lambda n: [object() for _ in range(n)],
    "list of arrays": lambda n: [np.arange(i) for i in range(n)],
    "tuple": lambda n: tuple({"row": i} for i in range(n)),
    "frame": lambda n: pd.DataFrame({"i": range(n), "x": np.arange(n) / 2, "s": [f"{i}" for i in range(n)]}),
    "frame with an index": lambda n: pd.DataFrame({"i": range(n)}, index=[f"id {-i}" for i in range(n)]),
    "frame with a repeated index": lambda n: pd.DataFrame({"i": range(n)}, index=[7] * n),
    "categorical frame": lambda n: pd.DataFrame({"c": pd.Categorical(["x", "y", "z"] * n)[:n]}),
}


@settings(max_examples=150, deadline=None)
@given(groups=masks, kind=st.sampled_from(sorted(CONTAINERS)))
def test_merge_of_a_split_is_the_identity(groups: list[int], kind: str) -> None:
    """Split by any mask into up to three groups and merge in any order of groups: the same container again."""
    n, mask = len(groups), np.array(groups)
    payload = CONTAINERS[kind](n)
    indices = [np.flatnonzero(mask == group) for group in (2, 0, 1) if (mask == group).any()]
    assert all(counts_rows(payload, n) for _ in indices)
    back = merge([(index, take(payload, index)) for index in indices], n)
    assert type(back) is type(payload)
    if isinstance(payload, pd.DataFrame):
        pd.testing.assert_frame_equal(back, payload)
    elif isinstance(payload, np.ndarray):
        assert back.dtype == payload.dtype
        assert np.array_equal(back, payload)
    else:
        assert all(one is other for one, other in zip(back, payload, strict=True))


@pytest.mark.parametrize(
    "answer",
    [None, 3.0, "ab", {"a": 1, "b": 2}, [1], [1, 2, 3], np.float64(1), np.array(1.0), np.zeros(3), {1, 2}, Row()],
)
def test_an_answer_that_does_not_go_by_row(answer: Any) -> None:
    """An answer without one entry per row cannot be merged, and says so in one way."""
    with pytest.raises(NotByRowError):
        merge([(np.array([0, 2]), answer), (np.array([1]), [5])], 3)


ODD_COUPLES = [
    (pd.DataFrame({"q": [1, 2]}), [5]),
    (pd.DataFrame({"q": [1, 2], "r": [1, 2]}), [5]),
    (pd.DataFrame({"q": [1, 2]}), np.array([5])),
    (np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"), np.array([0.5])),
    (np.zeros(2, dtype="i4,f8"), np.array([0.5])),
    (np.zeros((2, 3)), np.zeros((1, 4))),
    (np.zeros((2, 3)), np.zeros(1)),
]


@pytest.mark.parametrize(("first", "second"), ODD_COUPLES)
def test_answers_that_do_not_belong_together(first: Any, second: Any) -> None:
    """Answers of kinds that cannot stand in one container are refused as not by row, never mangled."""
    with pytest.raises(NotByRowError):
        merge([(np.array([0, 2]), first), (np.array([1]), second)], 3)


def test_numbers_stay_numbers_next_to_text() -> None:
    """A fallback that answers in words does not turn the model's numbers into words."""
    merged = merge([(np.array([0]), np.array([0.25])), (np.array([1]), np.array(["ask a doctor"]))], 2)
    assert (merged[0], merged[1]) == (0.25, "ask a doctor")


def test_a_namedtuple_is_one_thing() -> None:
    """A namedtuple of as many fields as there are rows is not cut into rows, or is cut without an exception."""
    from collections import namedtuple

    pair = namedtuple("pair", "x y")(1, 2)  # noqa: PYI024
    if counts_rows(pair, 2):
        take(pair, np.array([0]))


def test_widths_of_numbers_are_promoted() -> None:
    """Integers next to floats become floats, in rows of one shape."""
    merged = merge([(np.array([1]), np.array([1], dtype="int32")), (np.array([0]), np.array([0.5]))], 2)
    assert merged.tolist() == [0.5, 1.0]
