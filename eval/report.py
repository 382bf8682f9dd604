"""The report: one self-contained HTML file that needs no network, reads on a phone and prints; with two twins."""

import base64
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from chextriev.artifacts import write_text
from chextriev.errors import InvalidSetting, InvalidValue, OutputExists
from chextriev.eval.adjacency_picture import draw_links
from chextriev.eval.markdown import METRIC_NAMES, format_interval, format_value
from chextriev.eval.metrics import METRICS
from chextriev.eval.protocol import MIN_QUERIES
from chextriev.eval.report_cases import show_case
from chextriev.eval.report_content import ReportContent, Section, Table
from chextriev.eval.report_figures import OVER_K, draw_bench, draw_findings, draw_over_k
from chextriev.eval.report_markdown import DISCLAIMER, count, markdown_of, percent, render_report_markdown
from chextriev.eval.report_parts import all_sections
from chextriev.eval.report_twin import (
    KIND,
    Twin,
    lines_at_k,
    macro_at_k,
    metric_name,
    n_classes,
    report_as_dict,
    view_lines,
)
from chextriev.pictures import read_template

__all__ = [
    "ReportContent",
    "Section",
    "Table",
    "render_report",
    "render_report_markdown",
    "report_as_dict",
    "write_report",
]

TEMPLATE, STYLE = "report.html.j2", "report.css"


def render_report(content: ReportContent) -> str:
    """The HTML text. Chance is shown once a line, as all systems answer the same queries."""
    return _page(content, report_as_dict(content))


def write_report(out: str | Path, content: ReportContent) -> tuple[Path, Path, Path]:
    """Write the page at `out` and its Markdown and JSON twins beside it, each file whole or not at all; their paths.

    An earlier report of this name is replaced; OutputExists where a file of the three is something else.
    """
    page, markdown, twin_path = paths = report_paths(out)
    if any(path.exists() for path in paths) and not _is_report(twin_path):
        there = next(path for path in paths if path.exists())
        raise OutputExists(f"{there} exists and is no part of a report; choose another name or move it away")
    twin = report_as_dict(content)
    texts = _page(content, twin), markdown_of(twin), json.dumps(twin, indent=1, ensure_ascii=False, allow_nan=False)
    page.parent.mkdir(parents=True, exist_ok=True)
    for path, text in reversed(list(zip(paths, texts, strict=True))):  # the twin first: it marks the others as ours
        write_text(path, text if text.endswith("\n") else text + "\n")
    return page, markdown, twin_path


def report_paths(out: str | Path) -> tuple[Path, Path, Path]:
    """Page, Markdown and JSON of a report at `out`; InvalidSetting where that does not end in .html."""
    page = Path(out)
    if page.suffix != ".html":
        raise InvalidSetting(f"a report at {page}; the name has to end in .html, as in report.html")
    return page, page.with_suffix(".md"), page.with_suffix(".json")


def _is_report(twin: Path) -> bool:
    try:
        return bool(json.loads(twin.read_text())["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _page(content: ReportContent, twin: Twin) -> str:
    filters: dict[str, Callable[..., str]] = {
        "value": format_value,
        "interval": format_interval,
        "percent": percent,
        "metric": lambda name: str(METRIC_NAMES[name]),
        "count": count,
    }
    template = read_template("chextriev.eval", f"templates/{TEMPLATE}", **filters)
    k, ks, metric = content.shown_k, twin["ks"], content.metric
    second = "precision" if metric == "ap_over_hits" else "ap_over_hits"
    bench = draw_bench(twin)
    text: str = template.render(
        content=content,
        style=files("chextriev.eval").joinpath(f"templates/{STYLE}").read_text().strip(),
        population=twin["population"],
        disclaimer=DISCLAIMER,
        labels=list(twin["systems"]),
        shown_k=k,
        n_classes=n_classes(twin, k),
        headline=next(line for line in lines_at_k(twin, "precision", k) if line["is_average"]),
        macro=macro_at_k(twin, k),
        tables=[_tables_at(twin, each) for each in ks],
        figures=[draw_findings(twin, k=k, metric=name) for name in (metric, second)],
        more_figures=[draw_findings(twin, k=k, metric=name) for name in METRIC_NAMES if name not in (metric, second)],
        curves=[draw_over_k(twin, metric=name) for name in OVER_K],
        bench=None if bench is None else embed_picture(bench),
        views=view_lines(twin),
        sections=[_section(section) for section in all_sections(content)],
        definitions=_definitions(),
        cases=[_case(case) for case in map(show_case, content.cases)],
        drawing=draw_links(content.links) if content.links is not None else None,
        min_queries=MIN_QUERIES,
    )
    return text


def embed_picture(svg: str) -> dict[str, Any]:
    """An SVG as the source of an image, so that its styles and ids stay its own and no script in it could run.

    Its words for those who do not see it are its aria-label, <desc> or <title>; InvalidValue where it has none.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise InvalidValue(f"a picture that is not SVG ({error}); give the text of an SVG file") from error
    parts = (root.findtext(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("desc", "title"))
    told = root.get("aria-label") or next(filter(None, parts), None)
    if not told:
        raise InvalidValue("a picture without words; give the <svg> an aria-label, a <desc> or a <title>")
    return {"base64": base64.b64encode(svg.encode()).decode(), "alt": told, "width": root.get("width")}


def _tables_at(twin: Twin, k: int) -> dict[str, Any]:
    """For each metric the lines of all findings and averages."""
    groups = [{"name": metric_name(metric, k), "lines": lines_at_k(twin, metric, k)} for metric in METRIC_NAMES]
    return {"k": k, "n_classes": n_classes(twin, k), "groups": groups, "graded": macro_at_k(twin, k)[-1]}


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "paragraphs": [part for part in section.text.split("\n\n") if part.strip()],
        "tables": section.tables,
        "picture": None if section.svg is None else embed_picture(section.svg),
    }


def _case(shown: dict[str, Any]) -> dict[str, Any]:
    """The pictures of similarity stand below the row, where they have room."""
    pairs = [
        {"rank": rank, "picture": embed_picture(neighbour["pairs"])}
        for rank, neighbour in enumerate(shown["neighbours"], 1)
        if neighbour["pairs"] is not None
    ]
    return {**shown, "pairs": pairs}


def _definitions() -> Sequence[tuple[str, str]]:
    """Metric and its first sentence in the documentation of the code, the one place where it is defined."""
    return [(name, (METRICS[metric].__doc__ or "").split("\n\n")[0]) for metric, name in METRIC_NAMES.items()]
