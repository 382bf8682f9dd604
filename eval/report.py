"""The report: one self-contained HTML file that needs no network, reads on a phone and prints."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.anatomy import Finding, Region
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.adjacency_picture import RegionLinks, draw_links
from chextriev.eval.cases import Case, Picture
from chextriev.eval.evaluation import Evaluation, Measures
from chextriev.eval.markdown import DASH, METRIC_NAMES, describe, format_interval, format_value
from chextriev.eval.metrics import METRICS
from chextriev.eval.protocol import MIN_QUERIES
from chextriev.pictures import read_template

TEMPLATE = "report.html.j2"
QUERY_PIXELS, NEIGHBOUR_PIXELS = 448, 256
JPEG_QUALITY = 82
HEADLINE_K = 5
_SHORT_NAMES = {
    "apical zone": ("apex", "top outer"),
    "upper lung zone": ("upper", "bottom outer"),
    "mid lung zone": ("mid", "top outer"),
    "lower lung zone": ("lower", "top outer"),
    "hilar structures": ("hilum", "top outer"),
    "costophrenic angle": ("angle", "top outer"),
    "mediastinum": ("mediast.", "bottom inner"),
    "upper mediastinum": ("upper m.", "top outer"),
    "cardiac silhouette": ("heart", "top outer"),
    "trachea": ("trachea", "top outer"),
}
"""What is written into the boxes and in which corner, so that names do not meet; the lungs need none."""


@dataclass(frozen=True)
class ReportContent:
    """What a report says.

    data_note: which radiographs these are. warning: shown as a banner where they are synthetic or a subset; may be
    empty. rows: systems side by side, the one under study first; all under one protocol on the same queries.
    provenance: digest by name. remarks: sentences for the end. links: which regions carry the same findings; None
    leaves that section out.
    """

    title: str
    data_note: str
    rows: Sequence[tuple[str, Evaluation]]
    cases: Sequence[Case] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    warning: str = ""
    links: RegionLinks | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise InvalidSetting("a report without an evaluation; give at least one (label, evaluation) row")
        first = self.rows[0][1]
        for label, evaluation in self.rows[1:]:
            if (evaluation.protocol, evaluation.split) != (first.protocol, first.split):
                raise InvalidSetting(f"row {label!r} has another protocol or split than {self.rows[0][0]!r}; use one")
            if set(evaluation.lists.query_ids) != set(first.lists.query_ids):
                raise CountMismatch(
                    f"row {label!r} answers other queries than {self.rows[0][0]!r}; they do not compare"
                )
            if evaluation.overall.n_gallery != first.overall.n_gallery:
                sizes = f"{evaluation.overall.n_gallery} radiographs, {self.rows[0][0]!r} {first.overall.n_gallery}"
                raise CountMismatch(f"row {label!r} searches {sizes}; they do not compare")


def render_report(content: ReportContent) -> str:
    """The HTML text. Chance is shown once a line, as all systems answer the same queries."""
    template = read_template(
        "chextriev.eval", f"templates/{TEMPLATE}", value=format_value, interval=format_interval, percent=_percent
    )
    evaluation = content.rows[0][1]
    ks = evaluation.protocol.ks
    text: str = template.render(
        content=content,
        population=describe(evaluation.protocol, evaluation.overall),
        labels=[label for label, _ in content.rows],
        shown_k=HEADLINE_K if HEADLINE_K in ks else ks[0],
        tables=[_metric_table(content.rows, k) for k in ks],
        findings=_finding_rows(content.rows, HEADLINE_K if HEADLINE_K in ks else ks[0]),
        views=_view_rows(content.rows, HEADLINE_K if HEADLINE_K in ks else ks[0]),
        definitions=_definitions(),
        cases=[_case(case) for case in content.cases],
        drawing=draw_links(content.links) if content.links is not None else None,
        min_queries=MIN_QUERIES,
    )
    return text


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.0f} %"


def _metric_table(rows: Sequence[tuple[str, Evaluation]], k: int) -> dict[str, Any]:
    systems = [evaluation.overall.at_k[k] for _, evaluation in rows]
    lines = [
        {
            "name": name,
            "cells": [(getattr(at_k.measured.macro, metric), at_k.interval[metric]) for at_k in systems],
            "chance": getattr(systems[0].chance.macro, metric),
        }
        for metric, name in METRIC_NAMES.items()
    ]
    return {"k": k, "n_classes": systems[0].measured.n_classes, "lines": lines}


def _finding_rows(rows: Sequence[tuple[str, Evaluation]], k: int) -> list[dict[str, Any]]:
    """One line a finding: queries, precision of each system, chance."""
    systems = [evaluation.overall.at_k[k] for _, evaluation in rows]

    def line(name: str, measured: Sequence[Measures], chance: Measures) -> dict[str, Any]:
        return {
            "name": name,
            "n": measured[0].n,
            "values": [measures.precision for measures in measured],
            "chance": chance.precision,
        }

    first = systems[0]
    lines = [
        line(name, [at_k.measured.per_finding[name] for at_k in systems], first.chance.per_finding[name])
        for name in first.measured.per_finding
    ]
    return [*lines, line("macro average", [at_k.measured.macro for at_k in systems], first.chance.macro)]


def _view_rows(rows: Sequence[tuple[str, Evaluation]], k: int) -> list[dict[str, Any]]:
    """One line a view: counts, macro precision of each system, chance; no values where there are too few queries."""
    lines = []
    for view, scoring in rows[0][1].views.items():
        at_k = [evaluation.views[view].at_k.get(k) for _, evaluation in rows]
        shown = [scores for scores in at_k if scores is not None]
        lines.append(
            {
                "view": view,
                "n": scoring.n_queries,
                "values": [scores.measured.macro.precision for scores in shown],
                "chance": shown[0].chance.macro.precision if shown else None,
            }
        )
    return lines


def _definitions() -> list[tuple[str, str]]:
    """Metric and its first sentence in the documentation of the code, the one place where it is defined."""
    return [(name, (METRICS[metric].__doc__ or "").split("\n\n")[0]) for metric, name in METRIC_NAMES.items()]


def _case(case: Case) -> dict[str, Any]:
    return {
        "query": _shown(case.query, QUERY_PIXELS),
        "reason": case.reason,
        "findings": _names(case.query.findings == 1),
        "hits": _hits(case),
        "neighbours": [
            {
                **_shown(neighbour.picture, NEIGHBOUR_PIXELS),
                "score": neighbour.score,
                "marks": _marks(case.query.findings, neighbour.picture.findings),
            }
            for neighbour in case.neighbours
        ],
    }


def _hits(case: Case) -> list[tuple[str, int]]:
    """For each finding of the query, how many of the neighbours have it."""
    has_it = [neighbour.picture.findings == 1 for neighbour in case.neighbours]
    asked = [finding for finding in Finding if case.query.findings[finding] == 1]
    return [(finding.label, sum(int(line[finding]) for line in has_it)) for finding in asked]


def _marks(query: npt.NDArray[np.int8], other: npt.NDArray[np.int8]) -> list[tuple[str, str]]:
    """(kind, finding) of a neighbour: shared, missing or unknown where the query has it, also where it does not."""
    asked = query == 1
    kinds = {
        "shared": asked & (other == 1),
        "missing": asked & (other == 0),
        "unknown": asked & (other < 0),
        "also": ~asked & (other == 1),
    }
    return [(kind, name) for kind, mask in kinds.items() for name in _names(mask)]


def _names(mask: npt.NDArray[np.bool_]) -> list[str]:
    return [finding.label for finding in Finding if mask[finding]]


def _shown(picture: Picture, longest: int) -> dict[str, Any]:
    height, width = picture.pixels.shape
    return {
        "image_id": picture.image_id,
        "caption": picture.caption,
        "jpeg": _jpeg(picture.pixels, longest),
        "width": width,
        "height": height,
        "boxes": [_box(picture, region) for region in Region],
    }


def _box(picture: Picture, region: Region) -> dict[str, Any]:
    """The rectangle of a region in pixels of the original."""
    x1, y1, x2, y2 = (round(float(corner), 1) for corner in picture.boxes.xyxy[region])
    shape = {"x": x1, "y": y1, "width": round(x2 - x1, 1), "height": round(y2 - y1, 1)}
    return {"region": region.label, "side": region.side or "midline", **shape, "name": _box_name(picture, region)}


def _box_name(picture: Picture, region: Region) -> dict[str, Any] | None:
    """The short name of a region, where it stands, and its type size, in pixels of the original."""
    short = _SHORT_NAMES.get(region.label.removeprefix("right ").removeprefix("left "))
    if short is None:
        return None
    text, corner = short
    x1, y1, x2, y2 = map(float, picture.boxes.xyxy[region])
    size = 0.031 * picture.pixels.shape[1]
    at_x2 = (region.side == "left") == corner.endswith("outer")
    return {
        "text": text,
        "size": round(size, 1),
        "anchor": "end" if at_x2 else "start",
        "x": round(x2 - size / 4 if at_x2 else x1 + size / 4, 1),
        "y": round(y1 + size if corner.startswith("top") else y2 - size / 3, 1),
    }


def _jpeg(pixels: npt.NDArray[np.uint8], longest: int) -> str:
    """The picture, at most `longest` pixels on its long side, as base64 of a JPEG file."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
