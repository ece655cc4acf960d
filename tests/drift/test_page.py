"""The drift report as a page: complete, escaped, readable in every state a stream can be in."""

import copy
import html
import itertools
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from guardrails.drift.page import POLICY, Verdict, charts, render, wording
from guardrails.drift.page import columns as page_columns

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</title></style></svg><h1>",
    "&lt;b&gt; &amp",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "\U0001f600\U0001f4a5",
    "\x00\x1b[31m\x85",
    "\ud800 alone",
    "{} {0} %s",
    "x" * 1000,
]
VOID = {"meta", "link", "br"}
ONE_LOOK = ", by one look that holds once and not for ever: "


def column(feature, **changes):
    """A watched number with four bins."""
    shares = [(0.25, 0.1), (0.25, 0.2), (0.5, 0.65), (0.0, 0.05)]
    bins = [
        {"bin": name, "text": said, "reference": then, "now": now, "count": round(now * 1000)}
        for name, said, (then, now) in zip(
            ["00", "01", "02", "nan"], ["at most 1", "1 to 2", "above 2", "missing"], shares, strict=True
        )
    ]
    known = {"feature": feature, "rows": 1000, "psi": 0.12, "ks": 0.2, "chi2": 40.0, "p_value": 1e-6, "adjusted": 1e-5}
    known |= {"missing": 0.05, "drifted": False, "kind": "number", "reference_rows": 3000, "evidence": 0.4}
    return known | {"effective_reference_rows": 2500.0, "worth": 0.8, "bins": bins} | changes


def alarm(*features, **changes):
    """One that nobody has acknowledged."""
    moves = [{"bin": "02", "text": "above 2", "reference": 0.5, "now": 0.65}]
    found = [{"feature": f, "share": 1 / len(features), "direction": "is higher", "bins": moves} for f in features]
    known = {"findings": found, "evidence": 3.2, "rows": 900, "since": 120, "id": "a1b2", "at": 1_700_000_000.0}
    known |= {"examples": [f"{i:032x}" for i in range(12)], "acknowledged": False, "times": 1}
    return known | {"features": list(features), "sentence": f"{features[0]} is higher"} | changes


def document(*columns, **changes):
    """A stream without drift."""
    known = {"profile": "songs:1", "digest": "0123456789ab", "model": "model:2", "ref": "ba9876543210", "rows": 1000}
    known |= {"reference_rows": 3000, "created": "2025-11-22T03:45:00+00:00", "at": 1_700_000_500.0, "workers": 3}
    known |= {"verdict": "no drift seen", "drifted": [], "run_length": "30 days", "evidence": 0.43, "alarms": []}
    known |= {"history": [[1_700_000_000.0 + 10 * i, 10 * i, 0.004 * i] for i in range(100)], "rebased": False}
    known |= {"unjudged": [], "consequence": None, "dropped": 0, "unreadable": 0, "last_command": None}
    return known | {"features": list(columns or [column("age"), column("dose")])} | changes


def drifted(*columns, **changes):
    """A stream with an alarm about its first column."""
    columns = columns or (column("age", drifted=True), column("dose"))
    first = columns[0]["feature"]
    return document(*columns, **({"verdict": "drift", "drifted": [first], "alarms": [alarm(first)]} | changes))


class Tree(HTMLParser):
    """What a browser would make of a page, if every tag has to be closed."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text, self.problems = [], [], [], []
        self.feed(page)
        self.close()
        self.problems += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}>")

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def of(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def tree(*documents, **options):
    """The page about them, read and well-formed."""
    found = Tree(render(list(documents), now=1_700_001_000.0, **options))
    assert found.problems == []
    return found


def strings(value):
    """The places of all strings in a document."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from ((value, key),) if isinstance(entry, str) else strings(entry)
    elif isinstance(value, list):
        for at, entry in enumerate(value):
            yield from ((value, at),) if isinstance(entry, str) else strings(entry)


CONSEQUENCE = {
    "accuracy": {"sentence": "Accuracy without labels: about 0.8. Blind to concept drift."},
    "prior": {
        "sentence": "Class shares: class 1 0.7.",
        "classes": [0, 1],
        "reference": [0.5, 0.5],
        "value": [0.3, None],
        "low": [0.2, 0.6],
        "high": [0.4, 0.8],
        "level": 0.95,
    },
}
FULL = drifted(
    unjudged=["dose"],
    consequence=CONSEQUENCE,
    last_command="reset refused: 3 rows",
    source="stored decisions",
    alarms=[alarm("dose", acknowledged=True), alarm("age", "dose", times=3)],
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_string_holds_it_is_text(text):
    """Every string of a document at once: the page has the very same elements and attributes as with harmless ones."""
    harmless, bad = copy.deepcopy(FULL), copy.deepcopy(FULL)
    for one, replacement in ((harmless, "harmless"), (bad, text)):
        for holder, key in list(strings(one)):
            if key not in ("bin", "verdict"):
                holder[key] = replacement
        one["verdict"] = f"drift{ONE_LOOK}{replacement}"
    page = render([bad], title=text, now=0.0)
    page.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]", page)
    expected, found = Tree(render([harmless], title="harmless", now=0.0)), Tree(page)
    assert found.problems == []
    # A name too long to be shown stands whole in a title attribute.
    shape = [[(tag, sorted(set(a) - {"title"})) for tag, a in one.tags] for one in (expected, found)]
    assert shape[0] == shape[1]
    assert "script" not in {tag for tag, _ in found.tags}


def test_long_names_keep_both_ends_and_stand_whole_where_pointed_at():
    """Names of 1000 characters that differ at their end are still told apart."""
    long = "n" * 990 + "_at_the_end"
    page = tree(document(column(long)))
    shown = wording.text(long)
    assert len(shown) == wording.LONGEST
    assert shown.endswith("_at_the_end")
    assert shown in page.words
    assert [a["title"] for a in page.of("th") if "title" in a] == [long]


def test_the_page_needs_nothing_from_elsewhere():
    """No script, no address, and a policy that forbids both."""
    page = render([FULL, document()], now=0.0)
    found = Tree(page)
    assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.tags}
    addresses = [a[key] for _, a in found.tags for key in ("src", "href", "xlink:href", "action") if key in a]
    assert all(address.startswith("#") or address == "data:," for address in addresses)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)
    assert not [key for _, a in found.tags for key in a if key.startswith("on")]
    policy = [a["content"] for a in found.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == [POLICY]
    assert POLICY.startswith("default-src 'none'")


def test_links_lead_somewhere_and_ids_are_unique():
    """Also with several streams on one page."""
    found = tree(FULL, drifted(), document())
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in found.of("a")}
    assert {"s0", "s1", "s2", "s0-c0"} <= targets <= set(ids)
    assert all(a["aria-labelledby"] in ids for a in found.of("article"))


def test_it_can_be_read_without_eyes():
    """Headings in order, headers with a scope, drawings with a text, a language."""
    found = tree(FULL)
    assert found.of("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert {a.get("scope") for a in found.of("th")} == {"row", "col"}
    for drawing in found.of("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and len(drawing["aria-label"]) > 10)
    assert any("above 2" in a.get("aria-label", "") or "at most 1" in a.get("aria-label", "") for a in found.of("svg"))


@pytest.mark.parametrize(
    ("said", "names", "kind", "words", "told"),
    [
        ("drift", ["age"], "drift", "Drift", "1 column moved"),
        ("no drift seen", [], "calm", "No drift seen", "43.0% of what an alarm needs"),
        ("undecided: fewer than 200 rows", [], "open", "Undecided", "Fewer than 200 rows."),
        ("undecided: not judged yet", [], "open", "Undecided", "Not judged yet."),
        (f"no drift seen{ONE_LOOK}the reference is too small", [], "open", "Not judged", "the reference is too small"),
        (f"drift{ONE_LOOK}the reference is too small", ["age"], "drift", "by one look", "the reference is too small"),
    ],
)
def test_the_verdict_is_said_in_words_and_colour(said, names, kind, words, told):
    """The tab, the heading and the band say the same."""
    stream = document(verdict=said, drifted=names, history=[])
    verdict = Verdict.of(stream)
    assert verdict.kind == kind
    assert words in verdict.words
    assert told in html.unescape(re.sub("<[^>]+>", "", verdict.detail))
    found = tree(stream)
    assert [a for a in found.of("div") if a.get("class") == f"verdict {kind}"]
    assert verdict.words in found.words
    assert f"<title>{verdict.words}: songs:1" in render([stream])


def test_facts_are_there():
    """What it was compared with, how much was seen, and what was promised."""
    words = tree(document(rebased=True, dropped=12, unreadable=3)).words
    for fact in ("model:2", "1,000", "3,000", "at most one false alarm in 30 days", "2025-11-22 03:45:00 UTC"):
        assert fact in words
    for fact in ("Workers 3", "not with training", "12 that found the queue full", "Not readable 3"):
        assert fact in words
    assert "Source stored decisions" in tree(FULL).words


def test_what_moved_comes_first_with_decisions_to_look_at():
    """The alarm nobody has acknowledged in full, with then and now; the known one folded away."""
    page = render([FULL], now=0.0)
    words = tree(FULL).words
    assert words.index("What moved") < words.index("Evidence over time") < words.index("Columns, worst first")
    assert "age is higher" in words
    assert "above 2 50.0% 65.0% +15.0" in words
    assert "2 more times since" in words
    assert "1 acknowledged alarm" in words
    assert all(f"<code>{i:032x}</code>" in page for i in range(12))
    assert words.count("Decisions whose rows lie") == 1
    assert "No alarm is waiting" in tree(document()).words


def test_columns_stand_worst_first():
    """Those of alarms, then those that differ, then by evidence."""
    columns = [
        column("calm", evidence=0.1),
        column("near", evidence=0.9),
        column("just after an alarm", evidence=float("-inf"), psi=0.0),
        column("differs", evidence=0.2, drifted=True),
        column("alarmed", evidence=0.0),
    ]
    stream = document(*columns, verdict="drift", drifted=["alarmed"])
    order = re.findall(r'<tr id="s0-c(\d+)">', render([stream]))
    assert [columns[int(at)]["feature"] for at in order] == [
        "alarmed",
        "differs",
        "near",
        "calm",
        "just after an alarm",
    ]


def test_a_column_says_its_figures():
    """Evidence, PSI, KS, missing; a bar and a row of the table for every bin."""
    stream = document(column("age"), column("town", kind="category", ks=None, evidence=1.3))
    words = tree(stream).words
    assert "age number, 1,000 rows 40.0% 0.120 0.200 5.0%" in words
    assert "town category, 1,000 rows 130.0% 0.120 – 5.0%" in words  # noqa: RUF001
    assert "3,000 reference rows, worth 2,500 independent ones; a row that comes is worth 0.800" in words
    assert "1 to 2 25.0% 20.0% 200" in words
    assert "1 to 2: 25.0% then, 20.0% now" in words


def test_columns_that_are_not_judged_say_why():
    """Their reference is too small, by how much."""
    stream = document(column("age"), column("rare", evidence=None, effective_reference_rows=123.4), unjudged=["rare"])
    words = tree(stream).words
    assert "rare : its reference is worth 123 independent rows; 500 are needed." in words
    assert words.count("not judged") == 1
    assert "Not judged" not in tree(document()).words


def test_a_column_nobody_counted_yet_has_no_figures():
    """Its document lacks them altogether."""
    bare = {
        "feature": "age",
        "rows": 0,
        "drifted": False,
        "kind": "number",
        "evidence": None,
        "bins": column("")["bins"],
    }
    words = tree(document(bare, rows=0, verdict="undecided: fewer than 200 rows", history=[])).words
    assert "age number, 0 rows – – – –" in words  # noqa: RUF001
    assert "No evidence has been weighed yet." in words


def test_consequence_never_hides_what_it_cannot_see():
    """Concept drift is named whether there is an estimate or not."""
    for stream in (FULL, document(), document(consequence={"accuracy": None, "prior": None})):
        assert "Concept drift is invisible to this" in tree(stream).words
    words = tree(FULL).words
    assert "Accuracy without labels: about 0.8." in words
    assert "class 0 50.0% 30.0% 20.0% to 40.0%" in words
    assert "takes a profile that was fitted with labels" in tree(document()).words


def test_it_says_how_to_read_it():
    """Which figure is which, and what to do next, once a page."""
    found = tree(document(), document())
    assert len([a for a in found.of("ol") if a.get("class") == "read"]) == 1
    for word in ("Evidence", "PSI", "KS", "acknowledge", "reset --baseline recent", "retrain"):
        assert word in found.words


def test_several_streams_and_none():
    """A list of verdicts that leads to each; a sentence where nothing is watched."""
    page = render([document(), drifted(profile="books:1")])
    assert "<title>1 of 2 streams with drift" in page
    assert Tree(page).words.index("Drift books:1") < Tree(page).words.index("What moved")
    assert "No stream is watched" in tree().words


def test_300_columns_stay_small_and_quick():
    """The worst in plain sight, all others one click away."""
    bins = [
        {"bin": f"{i:02d}", "text": f"{i}.123 to {i}.456", "reference": 0.0625, "now": 0.0512, "count": 512}
        for i in range(17)
    ]
    wide = document(*(column(f"feature_{i}", bins=bins) for i in range(300)))
    began = time.process_time()
    page = render([wide])
    assert time.process_time() - began < 2.0
    assert len(page.encode()) < 2_000_000
    assert "275 further columns" in page
    assert page.count('<div class="bars"') == 300


def test_many_categories_are_shown_as_few():
    """The largest and those that moved; the shares of all others as one, so that nothing is lost."""
    bins = [{"bin": f"{i:02d}", "text": f"'{i}'", "reference": 1 / 66, "now": 1 / 66, "count": 5} for i in range(66)]
    bins[40]["now"], bins[41]["now"] = 0.3, 0.0
    bins += [{"bin": "other", "text": "other", "reference": 0.0, "now": 0.01, "count": 1}]
    shown = page_columns._fewer(bins)
    assert len(shown) == page_columns.SHOWN_BINS
    assert {"40", "other", "rest"} <= {entry["bin"] for entry in shown}
    for side in ("reference", "now", "count"):
        assert sum(entry[side] for entry in shown) == pytest.approx(sum(entry[side] for entry in bins))
    assert [entry["bin"] for entry in shown[-2:]] == ["rest", "other"]
    page = tree(document(column("town", bins=bins)))
    assert "44 smaller ones together" in page.words
    assert len(page.of("rect")) - 2 == page_columns.SHOWN_BINS - 1  # two are of the legend


def test_bars_have_the_heights_of_their_shares():
    """In one scale for both; an empty bin for what is no value is left out, a nearly empty one is not."""
    drawing = charts.bars(column("age")["bins"], "age")
    heights = [
        [float(h) for h in re.findall(r"v-([\d.]+)h", d)] for d in re.findall(r'path class="\w+" d="([^"]*)"', drawing)
    ]
    full = charts.HEIGHT - 1
    assert heights[0] == pytest.approx([full * 0.25 / 0.65, full * 0.25 / 0.65, full * 0.5 / 0.65], rel=0.01)
    assert heights[1] == pytest.approx([full * 0.1 / 0.65, full * 0.2 / 0.65, full, full * 0.05 / 0.65], rel=0.01)
    assert drawing.count("<rect") == 4
    none_missing = [{**entry, "now": 0.0} if entry["bin"] == "nan" else entry for entry in column("age")["bins"]]
    assert charts.bars(none_missing, "age").count("<rect") == 3
    faint = [{"bin": "00", "reference": 1.0, "now": 1e-6}]
    assert float(re.findall(r"v-([\d.]+)h", charts.bars(faint, ""))[1]) > 0.5


def test_the_evidence_is_drawn_where_it_is():
    """Time from left to right, the line of alarms at one, and everything inside the drawing."""
    history = [[1000.0, 10, 0.0], [1050.0, 20, 0.5], [1100.0, 30, 1.0], [1100.5, 31, -3.0]]
    drawing = charts.evidence(history, [1100.0], "label")
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', drawing)[1].split()]
    due = float(re.search(r'class="due" d="M0 ([\d.]+)H', drawing)[1])
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[0] == (0.0, 100.0)
    assert points[2][1] == pytest.approx(due, abs=0.11)
    assert points[3][1] == 100.0
    assert 0 < due < 20
    assert f'class="raised" d="M{points[2][0]:.1f} 0V100"' in drawing
    higher = charts.evidence([[0.0, 1, 0.1], [9.0, 2, 3.0]], [], "")
    assert all(0 <= float(y) <= 100 for y in re.findall(r"[\d.]+,([\d.]+)", higher))


@pytest.mark.parametrize("span", [0, 3, 100, 3600, 86_400, 40 * 86_400, 4000 * 86_400])
def test_the_time_axis_has_few_round_labels(span):
    """From seconds to years."""
    drawing = charts.evidence([[1_700_000_123.0, 1, 0.2], [1_700_000_123.0 + span, 2, 0.3]], [], "label")
    labels = re.findall(r'left:([\d.]+)%">([^<]+)<br>', drawing)
    assert 1 <= len(labels) <= charts.MOMENTS + 1
    assert len({float(place) for place, _ in labels}) == len(labels)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.share(0.1234), "12.3%"),
        (wording.share(0.0), "0%"),
        (wording.share(1), "100%"),
        (wording.share(0.0001), "&lt;0.1%"),
        (wording.share(float("nan")), wording.NOTHING),
        (wording.share("<b>"), wording.NOTHING),
        (wording.share(10**400), wording.NOTHING),
        (wording.count(1234567), "1,234,567"),
        (wording.count(None), wording.NOTHING),
        (wording.figure(0.00001), "&lt;0.001"),
        (wording.figure(0.0), "0.000"),
        (wording.figure(12345.6), "12,346"),
        (wording.change(0.5, 0.25), "\N{MINUS SIGN}25.0"),
        (wording.times(1e300), "more than 1,000 times"),
        (wording.times(1.26), "1.3 times"),
        (wording.plural(1, "row"), "1 row"),
        (wording.plural(2000, "row"), "2,000 rows"),
        (wording.moment(0), '<time datetime="1970-01-01T00:00:00+00:00">1970-01-01 00:00:00 UTC</time>'),
        (wording.moment(1e300), wording.NOTHING),
        (wording.made("yesterday <"), "yesterday &lt;"),
    ],
)
def test_numbers_are_written_for_people(said, expected):
    """No number is shown as something it is not, and nothing that is no number as one."""
    assert said == expected


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    """From 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_in_both_themes(theme):
    """WCAG 2 AA: 4.5 for text, 3 for what draws the charts."""
    style = Path(charts.__file__).with_name("page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]))
    texts = [("front", "back"), ("quiet", "back"), ("link", "back"), ("front", "raised")]
    texts += [(kind, f"{kind}-back") for kind in ("drift", "calm", "open")]
    for text, back in texts:
        assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
    for mark, back in [
        ("then-line", "back"),
        ("now", "back"),
        ("now", "then"),
        ("drift-line", "back"),
        ("calm-line", "back"),
    ]:
        assert contrast(colours[mark], colours[back]) >= 3.0, (mark, back)
