"""The drift report in a real browser: nothing blocked, nothing asked for, nothing too wide, light and dark."""

import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections import Counter

import numpy as np
import pytest

import guardrails as gr
from guardrails.drift.page import render
from guardrails.evaluation.replayed_drift import replay_drift

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, google-chrome or chrome on the PATH")

NASTY = "<script>document.title='owned'</script>\"><img src=http://127.0.0.1:9/x onerror=document.title='owned'>"
PROBE = """<script>addEventListener('load', () => {
  const frame = document.querySelector('iframe'), page = frame.contentDocument;
  for (const details of page.querySelectorAll('details')) details.open = true;
  const wide = [...page.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > frame.clientWidth + 1
    && !e.closest('thead, .unseen') && getComputedStyle(e).position !== 'absolute');
  document.body.dataset.found = JSON.stringify({width: frame.clientWidth, scroll: page.documentElement.scrollWidth,
    wide: wide.slice(0, 5).map(e => e.tagName + '.' + (e.getAttribute('class') || '') + ' ' + e.textContent.slice(0, 40)),
    heights: [...page.querySelectorAll('.bars svg, .plot svg, .verdict')].map(e => e.getBoundingClientRect().height)});
});</script>"""


@pytest.fixture(scope="module")
def page():
    """Drift in one of five columns, whose names are what nobody should call a column."""
    rng = np.random.default_rng(0)
    names = ["income", NASTY, "w" * 1000, "\u05e9\u05dc\u05d5\u05dd \u202e right to left", "\U0001f600 mood"]
    profile = gr.Profile.fit(rng.normal(size=(2000, 5)), feature_names=names)
    rows = rng.normal(size=(800, 5)) + np.outer(np.arange(800) > 500, [0, 1.5, 0, 0, 0])
    records = [
        {"decision_id": f"{i:032x}", "ts": 1.79e9 + 60.0 * i, "profile": profile.digest, "features": json.dumps(row)}
        for i, row in enumerate(rows.tolist())
    ]
    document = replay_drift(records, profile).document()
    assert document["verdict"] == "drift"
    return render([document, {**document, "verdict": "no drift seen", "alarms": [], "drifted": []}], title=NASTY)


@pytest.fixture
def browse(tmp_path):
    """Runs the browser on a page, with a profile folder of its own; gives its output and its log."""

    def run(content, *flags, scripts=True):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "page.html").write_text(content, encoding="utf-8")
        (folder / "user" / "Default").mkdir(parents=True)
        allowed = {"default_content_setting_values": {"javascript": 1 if scripts else 2}}
        (folder / "user" / "Default" / "Preferences").write_text(json.dumps({"profile": allowed}))
        command = [CHROMIUM, "--headless=new", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        command += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={folder / 'user'}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        address = (folder / "page.html").as_uri()
        done = subprocess.run([*command, *flags, address], capture_output=True, timeout=60, cwd=folder, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        return done.stdout.decode("utf-8"), done.stderr.decode(errors="replace"), folder

    return run


def pixels(path):
    """How often each colour occurs in a PNG of eight bits a channel, as (r, g, b)."""
    content = path.read_bytes()
    at, packed = 8, b""
    while at < len(content):
        (size,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        if kind == b"IHDR":
            width, height, depth, colours = struct.unpack(">IIBB", content[at + 8 : at + 18])
        packed += content[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    assert depth == 8
    channels = {2: 3, 6: 4}[colours]
    raw = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * channels)
    before = np.zeros((width, channels), np.int64)
    counted = Counter()
    for line in raw:
        now = line[1:].reshape(width, channels).astype(np.int64)
        before = _unfiltered(int(line[0]), now, before)
        colours, often = np.unique(before[:, :3], axis=0, return_counts=True)
        counted.update(dict(zip(map(tuple, colours.tolist()), often.tolist(), strict=True)))
    return counted


def _unfiltered(kind, now, before):
    """One line of a PNG, whose filter is given by its first byte."""
    if kind == 0:
        return now
    if kind == 1:
        return np.cumsum(now, axis=0) % 256
    if kind == 2:
        return (now + before) % 256
    line, left, corner = [], [0] * now.shape[1], [0] * now.shape[1]
    for pixel, above in zip(now.tolist(), before.tolist(), strict=True):
        guess = [(a + b) // 2 if kind == 3 else _paeth(a, b, c) for a, b, c in zip(left, above, corner, strict=True)]
        left, corner = [(value + g) % 256 for value, g in zip(pixel, guess, strict=True)], above
        line.append(left)
    return np.array(line)


def _paeth(a, b, c):
    guess = a + b - c
    return min((abs(guess - a), 0, a), (abs(guess - b), 1, b), (abs(guess - c), 2, c))[2]


def test_it_loads_without_a_complaint_and_asks_for_nothing(browse, page):
    """The policy on the page blocks nothing of the page; names that are markup stay names."""
    dom, log, _ = browse(page, "--dump-dom")
    assert "CONSOLE" not in log
    assert "owned" not in re.search("<title>(.*?)</title>", dom)[1].replace("document.title='owned'", "")
    assert "<script" not in dom.replace("&lt;script", "")
    assert "<img" not in dom.replace("&lt;img", "")
    assert not re.findall(r'\s(?:src|href)="(?!#|data:,")[^"]*"', re.sub(r'(?:title|aria-label)="[^"]*"', "", dom))
    assert dom.count('class="bars"') == page.count('class="bars"') > 10


def test_a_complaint_would_be_seen(browse, page):
    """What the first test looks for is there when something is wrong."""
    _, log, _ = browse(page.replace("</body>", "<script>1</script></body>"), "--dump-dom")
    assert "CONSOLE" in log
    assert "Content Security Policy" in log


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_too_wide(browse, page, width):
    """Also with everything unfolded, and names of a thousand letters."""
    frame = f'<iframe src="inner.html" style="width:{width}px;height:800px;border:0"></iframe>'
    inner = page.replace("</title>", "</title><!-- inner -->", 1)
    outer = f"<!doctype html><body>{frame}{PROBE}</body>"
    content = outer.replace('src="inner.html"', f'srcdoc="{_quoted(inner)}"')
    dom, _, _ = browse(content, "--dump-dom", "--window-size=1400,900")
    found = json.loads(re.search(r'data-found="([^"]*)"', dom)[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert found["width"] == width
    assert found["wide"] == []
    assert found["scroll"] <= width
    assert min(found["heights"]) > 30


def _quoted(text):
    return text.replace("&", "&amp;").replace('"', "&quot;")


def test_scripts_can_be_forbidden(browse):
    """By the setting that the next test relies on."""
    content = "<!doctype html><body>before<script>document.body.textContent = 'after'</script></body>"
    assert "after</body>" in browse(content, "--dump-dom")[0]
    assert "before<script>" in browse(content, "--dump-dom", scripts=False)[0]


def test_it_looks_the_same_without_javascript_and_differs_in_the_dark(browse, page):
    """Screenshots: the same pixels with scripts forbidden; other colours where the reader wants it dark."""

    def shot(*flags, **options):
        _, log, folder = browse(page, "--screenshot=shot.png", "--window-size=600,600", *flags, **options)
        assert "CONSOLE" not in log
        return folder / "shot.png"

    plain, unscripted = shot(), shot(scripts=False)
    assert plain.read_bytes() == unscripted.read_bytes()
    light, dark = pixels(plain), pixels(shot("--blink-settings=preferredColorScheme=0"))
    assert light.most_common(1)[0][0] == (255, 255, 255)
    assert dark.most_common(1)[0][0] == (0x0D, 0x11, 0x17)
    # The band of the verdict, and its border.
    assert light[0xFF, 0xEB, 0xE9] > 10_000 < dark[0x3C, 0x16, 0x18]
    assert light[0xCF, 0x22, 0x2E] > 500 < dark[0xF8, 0x51, 0x49]
