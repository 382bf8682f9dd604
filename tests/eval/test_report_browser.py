"""A browser shows the report, narrow, wide, dark and on paper, without complaint and without a request."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from chextriev.eval.report import Section, Table, render_report

CHROMIUM = shutil.which("chromium")
HEADLESS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--hide-scrollbars",
]


LAYOUT = """<!doctype html><body style="margin:0">
<iframe src="report.html" style="border:0;width:390px;height:6000px"></iframe><pre></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument;
  for (const each of page.querySelectorAll("details")) each.open = true;
  const resources = frame.contentWindow.performance.getEntriesByType("resource").map(each => each.name);
  const broken = [...page.images].filter(each => !each.complete || !each.naturalWidth).length;
  document.querySelector("pre").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth, resources: resources.filter(each => !each.startsWith("data:")),
    images: page.images.length, broken, figures: page.querySelectorAll("svg.chextriev-figure").length });
};
</script>"""
"""Opens a report as wide as a telephone and writes down how wide it became and what it asked for."""

PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 50" width="900" height="50" aria-label="A wide picture">'
    '<style>text { fill: red; }</style><text id="title" x="5" y="20">wide</text></svg>'
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium on PATH")


@pytest.fixture(scope="module")
def full(content):
    """The report with all its parts: two drawn pictures, a table too wide for a telephone, pairs of regions."""
    wide = Table(tuple(f"column {each}" for each in range(20)), [tuple("0.123" for _ in range(20))])
    sections = [Section("Strata", "Text.", [wide], PICTURE), Section("Occlusion", svg=PICTURE)]
    first = content.cases[0]
    paired = [replace(each, picture_of_similarity=PICTURE) for each in first.neighbours]
    cases = [replace(first, neighbours=tuple(paired)), *content.cases[1:]]
    return render_report(replace(content, sections=sections, cases=cases))


def run(folder, *words):
    """Start the browser; what it printed."""
    command = [str(CHROMIUM), *HEADLESS, f"--user-data-dir={folder / 'profile'}", *words]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in outcome.stderr
    return outcome.stdout


def screenshot(page, folder, *words, width):
    path, shot = folder / "report.html", folder / "shot.png"
    path.write_text(page)
    run(folder, *words, f"--window-size={width},2400", f"--screenshot={shot}", path.as_uri())
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (2400, width)
    return pixels


def test_a_browser_shows_it_without_complaint(full, tmp_path):
    pixels = screenshot(full, tmp_path, width=1280)
    assert (pixels < 128).mean() > 0.01
    assert (pixels > 250).mean() > 0.3


def test_a_browser_that_prefers_dark_pages_shows_a_dark_one(page, tmp_path):
    pixels = screenshot(page, tmp_path, "--blink-settings=preferredColorScheme=0", width=1280)
    assert (pixels > 128).mean() > 0.01
    assert (pixels < 60).mean() > 0.6


def test_on_a_telephone_nothing_overflows_and_nothing_is_fetched(full, tmp_path):
    (tmp_path / "report.html").write_text(full)
    (tmp_path / "layout.html").write_text(LAYOUT)
    dom = run(tmp_path, "--allow-file-access-from-files", "--dump-dom", (tmp_path / "layout.html").as_uri())
    found = json.loads(re.search(r"<pre>(.*?)</pre>", dom).group(1))
    assert found["width"] == 390
    assert found["resources"] == []
    assert (found["images"], found["broken"]) == (36 + 2 + 5, 0)
    assert found["figures"] == 10


def test_it_prints_with_its_folded_tables(content, tmp_path):
    """With pictures and cases left out, three pages of paper hold all but the tables at every k."""
    (tmp_path / "report.html").write_text(render_report(replace(content, cases=(), links=None)))
    paper = tmp_path / "report.pdf"
    run(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", (tmp_path / "report.html").as_uri())
    assert paper.read_bytes().startswith(b"%PDF-")
    assert pages(paper.read_bytes()) >= 7


def pages(pdf):
    """How many pages a PDF has."""
    return len(re.findall(rb"/Type\s*/Page[^s]", pdf))
