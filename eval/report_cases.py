"""The galleries of a report: a query, its nearest cases, and which findings they share."""

from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding, Region
from chextriev.eval.cases import Case, Neighbour, Picture
from chextriev.pictures import jpeg_base64

QUERY_PIXELS, NEIGHBOUR_PIXELS = 448, 256
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


def show_case(case: Case) -> dict[str, Any]:
    """What the template needs: pictures as JPEG, boxes, and the findings of each case beside those of the query."""
    return {
        "query": _shown(case.query, QUERY_PIXELS),
        "reason": case.reason,
        "findings": findings_in_words(case.query.findings == 1),
        "hits": hits(case),
        "neighbours": [_neighbour(case, neighbour) for neighbour in case.neighbours],
    }


def hits(case: Case) -> list[tuple[str, int]]:
    """For each finding of the query, how many of the neighbours have it."""
    has_it = [neighbour.picture.findings == 1 for neighbour in case.neighbours]
    asked = [finding for finding in Finding if case.query.findings[finding] == 1]
    return [(finding.label, sum(int(line[finding]) for line in has_it)) for finding in asked]


def marks(query: npt.NDArray[np.int8], other: npt.NDArray[np.int8]) -> list[tuple[str, str]]:
    """(kind, finding) of a neighbour: shared, missing or unknown where the query has it, also where it does not."""
    asked = query == 1
    kinds = {
        "shared": asked & (other == 1),
        "missing": asked & (other == 0),
        "unknown": asked & (other < 0),
        "also": ~asked & (other == 1),
    }
    return [(kind, name) for kind, mask in kinds.items() for name in findings_in_words(mask)]


def findings_in_words(mask: npt.NDArray[np.bool_]) -> list[str]:
    """Names of the findings that a mask [9] holds."""
    return [finding.label for finding in Finding if mask[finding]]


def _neighbour(case: Case, neighbour: Neighbour) -> dict[str, Any]:
    return {
        **_shown(neighbour.picture, NEIGHBOUR_PIXELS),
        "score": neighbour.score,
        "marks": marks(case.query.findings, neighbour.picture.findings),
        "pairs": neighbour.picture_of_similarity,
    }


def _shown(picture: Picture, longest: int) -> dict[str, Any]:
    height, width = picture.pixels.shape
    return {
        "image_id": picture.image_id,
        "caption": picture.caption,
        "jpeg": jpeg_base64(picture.pixels, longest),
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
