"""The Markdown twin of a report: every number of its tables and figures, for people without a browser."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chextriev.eval.markdown import DASH, METRIC_NAMES, format_interval, format_value
from chextriev.eval.report_content import ReportContent
from chextriev.eval.report_twin import Twin, lines_at_k, macro_at_k, metric_name, n_classes, report_as_dict, view_lines
from chextriev.index.bench.table import table_lines

DISCLAIMER = "Not a medical device. For research: nothing here may guide the care of a patient."


def render_report_markdown(content: ReportContent) -> str:
    """The text; it names the radiographs of the cases that the page shows."""
    return markdown_of(report_as_dict(content))


def markdown_of(twin: Twin) -> str:
    """The same of the JSON twin."""
    parts = [
        f"# {twin['title']}",
        twin["data_note"],
        *([f"**{twin['warning']}**"] if twin["warning"] else []),
        f"{headline(twin)} {DISCLAIMER}",
        twin["population"],
        *(part for k in twin["ks"] for part in _at_k(twin, k)),
        *_views(twin),
        *_bench(twin),
        *(part for section in twin["sections"] for part in _section(section)),
        *_cases(twin),
        *_links(twin),
        *_origin(twin),
    ]
    return "\n\n".join(parts) + "\n"


def headline(twin: Twin) -> str:
    """One sentence: the share of hits among the first k of each system, and by chance."""
    k = twin["shown"]["k"]
    line = next(line for line in lines_at_k(twin, "precision", k) if line["is_average"])
    labels = list(twin["systems"])
    shares = [f"{percent(value)} ({label})" for label, (value, _) in zip(labels, line["cells"], strict=True)]
    return (
        f"Of the {k} most similar cases, {'; '.join(shares)} share the finding asked for; by chance"
        f" {percent(line['chance'])}. Mean over {n_classes(twin, k)} findings."
    )


def percent(value: float | None) -> str:
    """A share in whole percent, or a dash."""
    return DASH if value is None else f"{100 * value:.0f} %"


def count(numbers: Sequence[int]) -> str:
    """Queries of each system, once where they agree."""
    return " / ".join(f"{n:,}" for n in dict.fromkeys(numbers))


def _at_k(twin: Twin, k: int) -> Iterable[str]:
    labels = list(twin["systems"])
    yield f"## k = {k}: macro average over {n_classes(twin, k)} findings"
    rows = [(line["name"], *_cells(line)) for line in macro_at_k(twin, k)]
    yield table(("metric", *labels, "chance"), rows)
    for metric in METRIC_NAMES:
        yield f"### {metric_name(metric, k)} of each finding"
        lines = lines_at_k(twin, metric, k)
        yield table(
            ("finding", "n", *labels, "chance"), [(line["name"], count(line["n"]), *_cells(line)) for line in lines]
        )


def _cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Each system with its interval, then chance."""
    cells = [
        format_value(value) + (f" ({format_interval(interval)})" if interval else "")
        for value, interval in line["cells"]
    ]
    return (*cells, format_value(line["chance"]))


def _views(twin: Twin) -> Iterable[str]:
    lines = view_lines(twin)
    if not lines:
        return
    yield f"## Within one view: macro precision@{twin['shown']['k']}"
    few = [DASH] * (len(twin["systems"]) + 1)
    rows = [
        (
            f"{line['view']} in {line['view']}",
            line["n"],
            *((*map(format_value, line["values"]), format_value(line["chance"])) if line["values"] else few),
        )
        for line in lines
    ]
    yield table(("view", "queries", *twin["systems"], "chance"), rows)


def _bench(twin: Twin) -> Iterable[str]:
    if twin["bench"] is not None:
        yield "## Recall against latency of the index"
        yield "\n".join(["```", *table_lines(twin["bench"]), "```"])


def _section(section: Mapping[str, Any]) -> Iterable[str]:
    yield f"## {section['title']}"
    if section["text"]:
        yield section["text"]
    for each in section["tables"]:
        if each["caption"]:
            yield f"### {each['caption']}"
        yield table(each["header"], each["rows"])


def _cases(twin: Twin) -> Iterable[str]:
    if not twin["cases"]:
        return
    yield f"## {len(twin['cases'])} queries and their nearest cases, found by {next(iter(twin['systems']))}"
    for number, case in enumerate(twin["cases"], 1):
        found = ", ".join(f"{name} {hits}" for name, hits in case["hits"].items())
        yield f"### {number}. {', '.join(case['findings'])}"
        yield f"Query {case['query']} ({case['about']}): {case['reason']}. Found in the nearest: {found}."
        rows = [
            (str(rank), each["id"], each["about"], f"{each['score']:.3f}", *map(_names, each["findings"].values()))
            for rank, each in enumerate(case["neighbours"], 1)
        ]
        yield table(("rank", "case", "about", "score", "shared", "lacks", "not known", "also has"), rows)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or DASH


def _links(twin: Twin) -> Iterable[str]:
    links = twin["links"]
    if links is None:
        return
    regions = links["regions"]
    partners = [
        [other for other, linked in zip(regions, row, strict=True) if linked and other != region]
        for region, row in zip(regions, links["adjacency"], strict=True)
    ]
    yield "## Which regions carry the same findings"
    yield f"From the {links['radiographs']:,} radiographs of the train split alone."
    rows = [(region, ", ".join(others) or "no other") for region, others in zip(regions, partners, strict=True)]
    yield table(("region", "linked with"), rows)


def _origin(twin: Twin) -> Iterable[str]:
    if twin["remarks"] or twin["provenance"]:
        yield "## Where the numbers come from"
    yield from twin["remarks"]
    if twin["provenance"]:
        yield table(("made from", "digest (sha256)"), [(name, f"`{it}`") for name, it in twin["provenance"].items()])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left, bars in the text escaped."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in cells] for cells in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
