"""The Markdown and JSON twins of a report, the files on disk, and the notebook that redraws the figures."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue, OutputExists
from chextriev.eval.markdown import METRIC_NAMES
from chextriev.eval.protocol import DEFAULT
from chextriev.eval.report import Section, Table, render_report, render_report_markdown, report_as_dict, write_report
from chextriev.eval.report_figures import draw_bench_content, draw_findings, draw_over_k

ROOT = Path(__file__).parents[2]
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" aria-label="Two marks"><text id="title">a &amp; b</text></svg>'


@pytest.fixture(scope="module")
def bench():
    """What the bench of the index measured, as it lies in the repository."""
    return json.loads((ROOT / "eval" / "results" / "bench-index.json").read_text())


@pytest.fixture(scope="module")
def whole(content, bench):
    """The report with all its parts."""
    table = Table(("group", "queries", "value"), [("AP | PA", "22", "0.5"), ("unknown", "< 20", "\N{EN DASH}")], "view")
    sections = [
        Section("Strata", "One paragraph.\n\nAnother <one>.", [table], data={"AP": 0.5}),
        Section("Significance", svg=PICTURE),
    ]
    return replace(content, bench=bench, sections=sections)


@pytest.fixture(scope="module")
def written(whole, tmp_path_factory):
    """Where it was written."""
    return write_report(tmp_path_factory.mktemp("report") / "report.html", whole)


def test_three_files_lie_beside_each_other(written, whole):
    assert [path.name for path in written] == ["report.html", "report.md", "report.json"]
    assert sorted(written[0].parent.iterdir()) == sorted(written)
    assert written[0].read_text() == render_report(whole) + "\n"
    assert written[1].read_text() == render_report_markdown(whole)
    assert json.loads(written[2].read_text()) == json.loads(json.dumps(report_as_dict(whole)))


def test_the_json_holds_the_evaluations_as_they_are(written, whole):
    twin = json.loads(written[2].read_text())
    for label, evaluation in whole.rows:
        assert twin["systems"][label] == json.loads(json.dumps(evaluation.as_dict()))
    assert twin["bench"] == whole.bench
    assert twin["provenance"] == dict(whole.provenance)
    assert (twin["title"], twin["warning"]) == (whole.title, whole.warning)
    assert twin["shown"] == {"k": 5, "metric": "precision"}


def test_the_json_names_the_cases_and_what_they_share(written, whole):
    cases = json.loads(written[2].read_text())["cases"]
    assert len(cases) == 6
    for told, case in zip(cases, whole.cases, strict=True):
        assert told["query"] == case.query.image_id
        for place, neighbour in enumerate(case.neighbours):
            shared = int(((case.query.findings == 1) & (neighbour.picture.findings == 1)).sum())
            assert len(told["neighbours"][place]["findings"]["shared"]) == shared
            assert told["neighbours"][place]["score"] == neighbour.score
        assert sum(told["hits"].values()) == sum(len(each["findings"]["shared"]) for each in told["neighbours"])


def test_the_json_holds_the_links_with_null_where_nothing_is_known(written, links):
    told = json.loads(written[2].read_text())["links"]
    similarity = np.array(told["similarity"], np.float64)
    assert np.array_equal(similarity, links.similarity, equal_nan=True)
    assert np.isnan(similarity).any()
    assert np.array_equal(told["adjacency"], links.adjacency)


def test_the_page_shows_the_figures_that_the_json_draws(written):
    page, twin = written[0].read_text(), json.loads(written[2].read_text())
    drawn = [draw_findings(twin, k=5, metric=metric) for metric in METRIC_NAMES]
    drawn += [draw_over_k(twin, metric=metric) for metric in ("ap_over_hits", "ap_over_min_k_r", "precision")]
    assert all(svg in page for svg in drawn)
    assert page.count('class="chextriev-figure"') == len(drawn)


def test_the_markdown_has_every_number_of_the_tables(written, whole):
    text = written[1].read_text()
    for k in DEFAULT.ks:
        systems = [evaluation.overall.at_k[k] for _, evaluation in whole.rows]
        for metric, title in METRIC_NAMES.items():
            part = text.split(f"### {title.replace('@k', f'@{k}')} of each finding\n")[1].split("\n#")[0]
            for name, chance in systems[0].chance.per_finding.items():
                cells = []
                for at_k in systems:
                    low, high = at_k.finding_interval[name][metric]
                    value = getattr(at_k.measured.per_finding[name], metric)
                    cells.append(f"{value:.3f} ({low:.3f}\N{EN DASH}{high:.3f})")
                n = systems[0].measured.per_finding[name].n
                assert f"| {name} | {n} | {' | '.join(cells)} | {getattr(chance, metric):.3f} |" in part


def test_the_markdown_says_what_the_page_says(written, whole):
    text = written[1].read_text()
    assert text.startswith("# Retrieval <on> made-up data\n")
    assert f"**{whole.warning}**" in text
    assert "Noise & boxes." in text
    assert "| AP \\| PA | 22 | 0.5 |" in text
    assert "ann_recall@10" in text
    for case in whole.cases:
        assert f"Query {case.query.image_id} " in text
        assert all(f" {each.picture.image_id} | " in text for each in case.neighbours)
    bare = render_report_markdown(replace(whole, cases=(), bench=None, links=None, sections=(), provenance={}))
    assert "ann_recall" not in bare
    assert "nearest cases" not in bare


def test_ready_sections_show_their_text_tables_and_pictures(written):
    page = written[0].read_text()
    assert "Another &lt;one&gt;." in page
    assert '<th scope="row">AP | PA</th><td>22</td><td>0.5</td>' in page
    assert 'alt="Two marks"' in page
    assert 'id="title"' not in page


def test_without_a_measurement_of_the_index_the_page_says_so(content, written):
    sentence = "No measurement of an index was given"
    assert sentence in render_report(replace(content, cases=()))
    assert sentence not in written[0].read_text()


def test_pairs_of_regions_stand_folded_below_their_case(content):
    first = content.cases[0]
    paired = [replace(first.neighbours[0], picture_of_similarity=PICTURE), *first.neighbours[1:]]
    page = render_report(replace(content, cases=[replace(first, neighbours=tuple(paired))]))
    folded = page.split("<summary>Which pairs of regions speak for each case</summary>")[1].split("</details>")[0]
    assert folded.count("<img") == 1
    assert "Nearest case 1" in folded
    assert "Which pairs of regions" not in render_report(replace(content, cases=[first]))


def test_what_is_no_picture_is_refused(content):
    for svg, said in (("<svg", "not SVG"), ("<svg/>", "without words"), ("<svg><desc/></svg>", "without words")):
        with pytest.raises(InvalidValue, match=said):
            render_report(replace(content, cases=(), sections=[Section("x", svg=svg)]))
    with pytest.raises(CountMismatch, match="a row of 1 cells under 2 headings: 'a'"):
        Table(("x", "y"), [("a",)])


def test_a_report_is_replaced_and_nothing_else_is(content, tmp_path):
    small = replace(content, cases=(), links=None)
    out = tmp_path / "new" / "report.html"
    write_report(out, small)
    write_report(out, replace(small, title="Another"))
    assert "<h1>Another</h1>" in out.read_text()
    for name, text in (("a.md", "mine"), ("b.json", "{}"), ("c.json", "[1]"), ("d.html", "mine")):
        (tmp_path / name).write_text(text)
        with pytest.raises(OutputExists, match=f"{name} exists and is no part of a report"):
            write_report((tmp_path / name).with_suffix(".html"), small)
        assert (tmp_path / name).read_text() == text
    with pytest.raises(InvalidSetting, match=r"has to end in \.html"):
        write_report(tmp_path / "report.htm", small)


def test_the_notebook_redraws_the_figures_of_the_report(written, whole):
    notebook = nbformat.read(ROOT / "docs" / "figures.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(written[0].parent)}}).execute()
    drawn = [
        ElementTree.canonicalize(output.data["image/svg+xml"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output and "image/svg+xml" in output.data
    ]
    twin = report_as_dict(whole)
    expected = [draw_findings(twin, k=5, metric=metric) for metric in ("precision", "ap_over_hits")]
    expected += [draw_over_k(twin, metric=metric) for metric in ("ap_over_hits", "ap_over_min_k_r", "precision")]
    expected += [draw_bench_content(whole.bench), PICTURE]
    assert drawn == [ElementTree.canonicalize(svg) for svg in expected]
    assert all(svg in written[0].read_text() for svg in expected[:5])
