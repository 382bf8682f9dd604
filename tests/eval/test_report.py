"""The report: what it says, that it needs nothing else, and that a browser shows it."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from chextriev.anatomy import Finding, Region
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.eval.cases import choose_cases, read_cases
from chextriev.eval.evaluation import RankedLists
from chextriev.eval.markdown import METRIC_NAMES
from chextriev.eval.protocol import DEFAULT
from chextriev.eval.report import render_report
from chextriev.eval.run import evaluate


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


def number(value, bounds=None):
    """The cell of a number as a pattern: three decimals, its interval after it."""
    shown = f'<span class="range">{bounds[0]:.3f}\N{EN DASH}{bounds[1]:.3f}</span>' if bounds else ""
    return f"<td><b>{value:.3f}</b>{shown}</td>" if value is not None else "<td><b>\N{EN DASH}</b></td>"


def line(name, cells, chance, counted=""):
    """A row of a table as text, each number with its interval and chance at the end."""
    expected = "\N{EN DASH}" if chance is None else f"{chance:.3f}"
    return f'<th scope="row">{name}</th>{counted}{"".join(cells)}<td>{expected}</td>'


def test_the_first_table_has_every_macro_average_with_interval_and_chance(page, content):
    scores = [evaluation.overall.at_k[5] for _, evaluation in content.rows]
    for metric, name in METRIC_NAMES.items():
        cells = [number(getattr(each.measured.macro, metric), each.interval[metric]) for each in scores]
        assert line(name.replace("@k", "@5"), cells, getattr(scores[0].chance.macro, metric)) in page
    graded = [number(each.graded.value) for each in scores]
    assert line("nDCG@5 graded by shared findings, all queries", graded, scores[0].graded.chance) in page


def test_every_number_of_every_finding_and_average_is_there_at_every_k(page, content):
    tables = re.findall(r'<table class="full">(.*?)</table>', page, re.DOTALL)
    assert len(tables) == len(DEFAULT.ks)
    for k, text in zip(DEFAULT.ks, tables, strict=True):
        groups = text.split('scope="rowgroup"')[1:]
        assert len(groups) == len(METRIC_NAMES)
        scores = [evaluation.overall.at_k[k] for _, evaluation in content.rows]
        for metric, group in zip(METRIC_NAMES, groups, strict=True):
            for name, expected in scores[0].chance.per_finding.items():
                of_finding = [(each.measured.per_finding[name], each.finding_interval[name][metric]) for each in scores]
                cells = [number(getattr(measures, metric), bounds) for measures, bounds in of_finding]
                counted = f"<td>{of_finding[0][0].n}</td>"
                assert line(name, cells, getattr(expected, metric), counted) in group
            for average in ("weighted", "micro"):
                cells = [number(getattr(getattr(each.measured, average), metric)) for each in scores]
                assert f"{''.join(cells)}<td>{getattr(getattr(scores[0].chance, average), metric):.3f}</td>" in group


def test_the_full_tables_are_folded_and_printed_open(page):
    assert page.count('<details class="print">') == len(DEFAULT.ks)
    assert "<details open" not in page
    assert "details.print::details-content { content-visibility: visible; }" in page


def test_a_system_without_intervals_shows_none(content):
    bare = []
    for label, evaluation in content.rows:
        at_k = {k: replace(each, interval={}, finding_interval={}) for k, each in evaluation.overall.at_k.items()}
        bare.append((label, replace(evaluation, overall=replace(evaluation.overall, at_k=at_k))))
    text = render_report(replace(content, rows=bare, cases=()))
    assert 'class="range"' not in text
    assert 'class="whisker"' not in text
    assert 'class="range"' in render_report(replace(content, cases=()))


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
    assert "http" not in page.replace("http-equiv", "").replace('xmlns="http://www.w3.org/2000/svg"', "")


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
    shuffled = made_up.findings[np.random.default_rng(2).permutation(90)]
    shuffled[(made_up.findings == 1).any(axis=1) != (shuffled == 1).any(axis=1)] = 1
    shuffled[~(made_up.findings == 1).any(axis=1)] = 0
    relabelled = evaluate(replace(made_up, findings=shuffled))
    with pytest.raises(CountMismatch, match="'x' has another chance than 'v6'"):
        replace(content, rows=[*content.rows, ("x", relabelled)])
    with pytest.raises(InvalidSetting, match="two rows are named 'v6'"):
        replace(content, rows=[*content.rows, content.rows[0]])
    with pytest.raises(InvalidSetting, match="no metric 'recall'; choose one of precision"):
        replace(content, metric="recall")
    with pytest.raises(InvalidSetting, match="without an evaluation"):
        replace(content, rows=[])
    lists = content.rows[0][1].lists
    with pytest.raises(InvalidValue, match="the study table has no image"):
        choose_cases(lists, pictures.take(np.arange(10)))
    with pytest.raises(InvalidSetting, match="count = 0"):
        choose_cases(lists, pictures, count=0)
