"""The JSON twin of a report: all its numbers as plain values, from which its tables and figures are made."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from chextriev.anatomy import Finding, Region
from chextriev.eval.adjacency_picture import RegionLinks
from chextriev.eval.cases import Case
from chextriev.eval.markdown import METRIC_NAMES, describe
from chextriev.eval.report_cases import findings_in_words, hits, marks
from chextriev.eval.report_content import ReportContent, Section
from chextriev.eval.report_parts import all_sections

KIND = "chextriev report"
AVERAGES = {"macro": "macro average", "weighted": "weighted by positives", "micro": "micro average"}
"""The averages over findings, as people read them."""

Twin = Mapping[str, Any]
"""What `report_as_dict` gives, or the same read back from its JSON."""


def report_as_dict(content: ReportContent) -> dict[str, Any]:
    """Plain values: the evaluations by system, and all other parts. Radiographs are named, not shown."""
    first = content.rows[0][1]
    return {
        "kind": KIND,
        "title": content.title,
        "data_note": content.data_note,
        "warning": content.warning,
        "population": describe(first.protocol, first.overall),
        "shown": {"k": content.shown_k, "metric": content.metric},
        "ks": list(first.protocol.ks),
        "systems": {label: evaluation.as_dict() for label, evaluation in content.rows},
        "sections": [_section(section) for section in all_sections(content)],
        "bench": None if content.bench is None else dict(content.bench),
        "cases": [_case(case) for case in content.cases],
        "links": None if content.links is None else _links(content.links),
        "provenance": dict(content.provenance),
        "remarks": list(content.remarks),
    }


def metric_name(metric: str, k: int) -> str:
    """As people read it, with its k."""
    return METRIC_NAMES[metric].replace("@k", f"@{k}")


def lines_at_k(twin: Twin, metric: str, k: int) -> list[dict[str, Any]]:
    """One line a finding and one an average: name, n, cells (value, interval) of each system, chance, is_average.

    n: queries of each system, of a finding; systems differ in it where a protocol leaves queries without a hit out.
    """
    systems = [evaluation["k"][str(k)] for evaluation in twin["systems"].values()]
    chance = systems[0]["chance"]
    findings = [
        {
            "name": name,
            "n": [at_k["per_finding"][name]["n"] for at_k in systems],
            "cells": [
                (at_k["per_finding"][name][metric], _interval(at_k, "per_finding", name, metric)) for at_k in systems
            ],
            "chance": chance["per_finding"][name][metric],
            "is_average": False,
        }
        for name in systems[0]["per_finding"]
    ]
    averages = [
        {
            "name": name,
            "n": [at_k[average]["n"] for at_k in systems],
            "cells": [(at_k[average][metric], _interval(at_k, average, metric)) for at_k in systems],
            "chance": chance[average][metric],
            "is_average": True,
        }
        for average, name in AVERAGES.items()
    ]
    return [*findings, *averages]


def macro_at_k(twin: Twin, k: int) -> list[dict[str, Any]]:
    """One line a metric: name, cells of each system (value and interval of the macro average) and chance.

    The last is nDCG graded by shared findings, which goes over all queries and has no interval.
    """
    lines = [
        {**next(line for line in lines_at_k(twin, metric, k) if line["is_average"]), "name": metric_name(metric, k)}
        for metric in METRIC_NAMES
    ]
    graded = [evaluation["k"][str(k)]["ndcg_jaccard"] for evaluation in twin["systems"].values()]
    last = {
        "name": f"nDCG@{k} graded by shared findings, all queries",
        "cells": [(each["value"], None) for each in graded],
        "chance": graded[0]["chance"],
    }
    return [*lines, last]


def n_classes(twin: Twin, k: int) -> int:
    """Over how many findings the macro average of the first system goes."""
    first = next(iter(twin["systems"].values()))
    return int(first["k"][str(k)]["n_classes"])


def view_lines(twin: Twin) -> list[dict[str, Any]]:
    """One line a view: its name, queries in words, macro precision of each system at the shown k, chance.

    No values where there are too few queries, or where telling their number would give away another view's.
    """
    k = str(twin["shown"]["k"])
    systems = list(twin["systems"].values())
    lines = []
    for view, first in systems[0]["view"].items():
        at_k = [evaluation["view"][view]["k"].get(k) for evaluation in systems if view in evaluation["view"]]
        shown = [scores for scores in at_k if scores is not None]
        values = [scores["macro"]["precision"] for scores in shown]
        chance = shown[0]["chance"]["macro"]["precision"] if shown else None
        lines.append({"view": view, "n": f"{first['n_queries']:,}", "values": values, "chance": chance})
    few = systems[0].get("view_withheld", {})
    return lines + [{"view": view, "n": told, "values": [], "chance": None} for view, told in few.items()]


def _interval(at_k: Mapping[str, Any], *path: str) -> tuple[float, float] | None:
    """The bounds, None where they were not drawn."""
    bounds: Any = at_k.get("interval", {})
    for name in path:
        bounds = (bounds or {}).get(name)
    return (bounds[0], bounds[1]) if bounds else None


def _section(section: Section) -> dict[str, Any]:
    tables = [
        {"caption": table.caption, "header": list(table.header), "rows": [list(row) for row in table.rows]}
        for table in section.tables
    ]
    data = None if section.data is None else dict(section.data)
    return {"title": section.title, "text": section.text, "tables": tables, "svg": section.svg, "data": data}


def _case(case: Case) -> dict[str, Any]:
    return {
        "query": case.query.image_id,
        "about": case.query.caption,
        "reason": case.reason,
        "findings": findings_in_words(case.query.findings == 1),
        "hits": dict(hits(case)),
        "neighbours": [
            {
                "id": neighbour.picture.image_id,
                "about": neighbour.picture.caption,
                "score": neighbour.score,
                "findings": {
                    kind: [
                        name for mark, name in marks(case.query.findings, neighbour.picture.findings) if mark == kind
                    ]
                    for kind in ("shared", "missing", "unknown", "also")
                },
            }
            for neighbour in case.neighbours
        ],
    }


def _links(links: RegionLinks) -> dict[str, Any]:
    similarity = [[None if np.isnan(value) else float(value) for value in row] for row in links.similarity]
    return {
        "regions": list(Region.labels()),
        "findings": len(Finding),
        "similarity": similarity,
        "adjacency": links.adjacency.tolist(),
        "radiographs": links.radiographs,
        "used": links.used,
    }
