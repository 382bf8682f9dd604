"""The report: what it says, that it needs nothing else, and that a browser shows it."""

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from chextriev.anatomy import Finding, Region
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.eval.adjacency_picture import RegionLinks
from chextriev.eval.cases import choose_cases, read_cases
from chextriev.eval.evaluation import RankedLists
from chextriev.eval.protocol import DEFAULT
from chextriev.eval.report import ReportContent, render_report
from chextriev.eval.run import evaluate

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


@pytest.fixture(scope="module")
def links():
    """Random similarities; no radiograph has a finding in trachea or mediastinum."""
    similarity = np.random.default_rng(5).random((18, 18))
    similarity = np.maximum(similarity, similarity.T)
    similarity[Region.TRACHEA, Region.MEDIASTINUM] = similarity[Region.MEDIASTINUM, Region.TRACHEA] = np.nan
    return RegionLinks(similarity, (similarity > 0.7).astype(np.int8), radiographs=12345, used=False)


@pytest.fixture(scope="module")
def content(made_up, pictures, links):
    """A report of two systems on the made-up data, with six cases."""
    strong = evaluate(made_up)
    generator = np.random.default_rng(1)
    weak = evaluate(replace(made_up, vectors=generator.normal(size=made_up.vectors.shape).astype(np.float32)))
    return ReportContent(
        title="Retrieval <on> made-up data",
        data_note="90 made-up radiographs of 60 patients.",
        rows=[("v6", strong), ("frozen features", weak)],
        cases=read_cases(pictures, strong.lists, choose_cases(strong.lists, pictures)),
        provenance={"embeddings": made_up.digest},
        remarks=["Noise & boxes."],
        warning="Synthetic phantoms: no patient.",
        links=links,
    )


@pytest.fixture(scope="module")
def page(content):
    return render_report(content)


class _Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_every_macro_number_stands_beside_its_chance(page, content):
    for k in DEFAULT.ks:
        scores = [evaluation.overall.at_k[k] for _, evaluation in content.rows]
        cells = "".join(f"<td><b>{each.measured.macro.rr:.3f}</b>.*?</td>" for each in scores)
        assert re.search(f'scope="row">RR@k</th>{cells}<td>{scores[0].chance.macro.rr:.3f}</td>', page)


def test_the_headline_states_both_systems_and_chance(page, content):
    headline = re.search(r'class="headline">(.*?)</p>', page, re.DOTALL).group(1)
    macros = [evaluation.overall.at_k[5] for _, evaluation in content.rows]
    for number in (*(each.measured.macro.precision for each in macros), macros[0].chance.macro.precision):
        assert f"{100 * number:.0f} %" in headline


def test_text_is_escaped_and_warnings_show(page):
    assert "Retrieval &lt;on&gt; made-up data" in page
    assert "Noise &amp; boxes." in page
    assert "Synthetic phantoms: no patient." in page
    assert "banner" not in page.split("<body>")[1].replace('class="banner"', "")


def test_without_a_warning_there_is_no_banner(content):
    assert 'class="banner"' not in render_report(replace(content, warning="", cases=()))


def test_nothing_refers_outside_the_file(page):
    elements = _Elements(page)
    references = [
        value
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert references
    assert all(reference.startswith("data:") for reference in references)
    assert not elements.of("script")
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_tables_and_pictures_are_named_for_those_who_do_not_see_them(page):
    elements = _Elements(page)
    assert elements.of("html") == [{"lang": "en"}]
    assert all(cell.get("scope") for cell in elements.of("th"))
    assert all(image["alt"].strip() for image in elements.of("img"))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") == "true" for drawing in elements.of("svg"))


def test_a_query_shows_18_named_boxes_and_five_neighbours(page, content):
    articles = re.findall(r"<article.*?</article>", page, re.DOTALL)
    assert len(articles) == 6
    for article, case in zip(articles, content.cases, strict=True):
        assert re.findall(r"<title>(.*?)</title>", article) == list(Region.labels())
        shown = [case.query, *(neighbour.picture for neighbour in case.neighbours)]
        assert len(shown) == 6
        assert all(picture.image_id in article for picture in shown)
        assert all(f"score {neighbour.score:.3f}" in article for neighbour in case.neighbours)
        shared = sum(int(((case.query.findings == 1) & (each.findings == 1)).sum()) for each in shown[1:])
        assert article.count('<span class="hidden">shared: </span>') == shared


def test_pictures_are_the_radiographs_and_small(page, content):
    jpegs = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(jpegs) == 36
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpegs[0]))), float)
    assert np.abs(first - content.cases[0].query.pixels).mean() < 15
    assert len(page) < 3_000_000


def test_large_pictures_are_made_smaller(content):
    query = replace(content.cases[0].query, pixels=np.tile(content.cases[0].query.pixels, (32, 24)))
    text = render_report(replace(content, cases=[replace(content.cases[0], query=query, neighbours=())]))
    jpeg = re.search(r"base64,([^\"]+)", text).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(jpeg))).size == (336, 448)


def test_the_choice_repeats_covers_findings_and_includes_the_least_successful(made_up, pictures):
    lists = evaluate(made_up).lists
    choices = choose_cases(lists, pictures)
    assert choices == choose_cases(lists, pictures)
    assert len({choice.row for choice in choices}) == 6
    labels = {name: row == 1 for name, row in zip(pictures.image_id, pictures.image_findings, strict=True)}
    for choice in choices[:-1]:
        finding = next(each for each in Finding if choice.reason.endswith(each.label))
        assert labels[lists.query_ids[choice.row]][finding]
    assert len({choice.reason for choice in choices}) == 6

    def success(row):
        asked = labels[lists.query_ids[row]]
        return np.mean([labels[name][asked] for name in lists.neighbour_ids[row, :5]])

    assert success(choices[-1].row) == min(success(row) for row in range(len(lists.query_ids)))


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (12, 12), (500, 87)])
def test_as_many_cases_as_asked_for_or_as_there_are(made_up, pictures, asked, got):
    lists = evaluate(made_up).lists
    assert len(lists.query_ids) == 87
    choices = choose_cases(lists, pictures, count=asked)
    assert len({choice.row for choice in choices}) == len(choices) == got


def test_a_list_that_ends_early_shows_fewer_cases(pictures):
    names = pictures.image_id[pictures.image_findings.max(axis=1) == 1][:2]
    lists = RankedLists(
        names[:1], np.array([[names[1], None, None]], object), np.array([[0.5, -np.inf, -np.inf]], np.float32)
    )
    case = read_cases(pictures, lists, choose_cases(lists, pictures))[0]
    assert [neighbour.picture.image_id for neighbour in case.neighbours] == [names[1]]


def test_what_does_not_belong_together_is_refused(content, made_up, pictures):
    other = evaluate(made_up, replace(DEFAULT, ks=(3, 5)))
    with pytest.raises(InvalidSetting, match="'x' has another protocol"):
        replace(content, rows=[*content.rows, ("x", other)])
    with pytest.raises(CountMismatch, match="'x' answers other queries"):
        replace(content, rows=[*content.rows, ("x", evaluate(made_up.take(np.arange(40))))])
    only_queries = made_up.take(np.flatnonzero((made_up.findings == 1).any(axis=1)))
    with pytest.raises(CountMismatch, match="'x' searches 87 radiographs, 'v6' 90"):
        replace(content, rows=[*content.rows, ("x", evaluate(only_queries))])
    with pytest.raises(InvalidSetting, match="without an evaluation"):
        replace(content, rows=[])
    lists = content.rows[0][1].lists
    with pytest.raises(InvalidValue, match="the study table has no image"):
        choose_cases(lists, pictures.take(np.arange(10)))
    with pytest.raises(InvalidSetting, match="count = 0"):
        choose_cases(lists, pictures, count=0)


def section(page):
    return re.search(r'<section aria-labelledby="links".*?</section>', page, re.DOTALL).group()


def test_the_picture_of_links_shows_every_pair_of_regions(page, links):
    drawn = re.search(r'<svg class="matrix".*?</svg>', section(page), re.DOTALL).group()
    names = re.findall(r">([^<>]+)</text>", drawn)
    assert sorted(names) == sorted(2 * Region.labels())
    cells = re.findall(r"<g><title>(.*?)</title>(.*?)</g>", drawn, re.DOTALL)
    assert len(cells) == 18 * 18
    for (row, column), (title, marks) in zip(np.ndindex(18, 18), cells, strict=True):
        a, b, linked = Region(row), Region(column), links.adjacency[row, column]
        assert title.startswith(
            a.label if a == b else f"{a.label} \N{EN DASH} {b.label}: {'linked' if linked else 'not linked'}"
        )
        assert ('class="linked"' in marks) == bool(linked and a != b)
    titles = [title for title, _ in cells]
    pair = Region.LEFT_LUNG, Region.LEFT_HILAR_STRUCTURES
    assert titles[18 * pair[0] + pair[1]].endswith(f"linked, similarity {links.similarity[pair]:.2f}")
    unseen = "trachea \N{EN DASH} mediastinum: not linked, no radiograph has a finding in either"
    assert [title for title, marks in cells if 'class="unseen"' in marks][-1] == unseen


def test_the_links_are_told_to_those_who_do_not_see_the_picture(page, links):
    text = section(page)
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', text)
    assert [name for name, _ in rows] == list(Region.labels())
    for (_, partners), region in zip(rows, Region, strict=True):
        linked = [other for other in Region if other != region and links.adjacency[region, other]]
        assert partners == ", ".join(other.label for other in linked)
    count = int(np.triu(links.adjacency, 1).sum())
    assert 0 < count < 153
    assert text.count(f"{count} of 153 pairs") == 2


def test_the_links_say_where_they_are_from_and_whether_they_are_used(page, content, links):
    text = " ".join(section(page).split())
    assert "the 12,345 radiographs of the train split alone" in text
    assert "Lacking a finding together counts as much as having it together" in text
    assert "v6, the encoder of this report, does not use these links." in text
    used = render_report(replace(content, links=replace(links, used=True), cases=()))
    assert "v6, the encoder of this report, uses these links." in used


def test_a_report_without_links_has_no_such_section(content):
    assert "carry the same findings" not in render_report(replace(content, links=None, cases=()))


def test_a_region_without_links_says_so(content, links):
    alone = replace(links, adjacency=np.eye(18, dtype=np.int8))
    text = section(render_report(replace(content, links=alone, cases=())))
    assert text.count("<td>no other</td>") == 18
    assert "0 of 153 pairs of regions are linked" in text


def test_links_that_are_none_are_refused(links):
    lopsided = links.adjacency.copy()
    lopsided[0, 1] = 1 - lopsided[0, 1]
    for changes, error, said in (
        ({"adjacency": links.adjacency[:9]}, CountMismatch, r"adjacency has shape \[9, 18\]; \[18, 18\] is needed"),
        ({"similarity": links.similarity[:, :9]}, CountMismatch, r"similarity has shape \[18, 9\]"),
        ({"adjacency": lopsided}, InvalidValue, "adjacency differs from its transpose"),
        ({"adjacency": 2 * links.adjacency}, InvalidValue, "other values than 0 and 1"),
        ({"similarity": links.similarity + 1}, InvalidValue, "values outside 0 to 1"),
    ):
        with pytest.raises(error, match=said):
            replace(links, **changes)


def screenshot(page, folder, *words, width):
    path, shot = folder / "report.html", folder / "shot.png"
    path.write_text(page)
    outcome = subprocess.run(
        [
            str(CHROMIUM),
            *HEADLESS,
            *words,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},2400",
            f"--screenshot={shot}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in outcome.stderr
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (2400, width)
    return pixels


@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium on PATH")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it_without_complaint(page, tmp_path, width):
    pixels = screenshot(page, tmp_path, width=width)
    assert (pixels < 128).mean() > 0.01
    assert (pixels > 250).mean() > 0.3


@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium on PATH")
def test_a_browser_that_prefers_dark_pages_shows_a_dark_one(page, tmp_path):
    pixels = screenshot(page, tmp_path, "--blink-settings=preferredColorScheme=0", width=1280)
    assert (pixels > 128).mean() > 0.01
    assert (pixels < 60).mean() > 0.6
