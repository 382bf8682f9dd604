"""The picture of a split similarity: two radiographs, the boxes of the strongest pairs, and a link for each."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Region
from chextriev.eval.occlusion_table import MINUS
from chextriev.eval.region_pairs import WHOLE_IMAGE, RegionPair, RegionPairs
from chextriev.pictures import Axis, jpeg_base64, read_template
from chextriev.radiograph import RegionBoxes

TEMPLATE = "region_pairs.svg.j2"
IMAGE, MIDDLE, TOP, ROW = 320, 250, 28, 52
"""Width of a radiograph and of the column between; what stands over them; height of a pair in that column."""

JPEG_PIXELS = 448
"""Longest side of the radiographs in the file."""

WIDTHS, OPACITIES = (1.0, 5.0), (0.45, 1.0)
"""Of the lines, for no contribution and for the strongest."""


class Shown(Protocol):
    """What is drawn: a `Radiograph`, or a `Picture` of a report."""

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """[height, width] uint8."""

    @property
    def boxes(self) -> RegionBoxes:
        """Of the 18 regions, in pixels of the image."""


def draw_pairs(pairs: RegionPairs, query: Shown, case: Shown, *, count: int = 6) -> str:
    """The SVG text, which stands by itself or inline in a page: it has no ids, no style sheet and no network.

    count: pairs drawn, the strongest first. Lines are the wider and the more opaque the more a pair contributes; a
    negative contribution is orange and dashed.
    """
    chosen = pairs.strongest(count)
    most = abs(chosen[0].contribution) or 1.0
    images = [_image(query, 0), _image(case, IMAGE + MIDDLE)]
    height = max(*(image["height"] for image in images), ROW * len(chosen))
    rows = [_row(pair, place, images, most) for place, pair in enumerate(chosen)]
    text: str = read_template("chextriev.eval", f"templates/{TEMPLATE}").render(
        images=[{**image, "boxes": _boxes(rows, end)} for image, end in zip(images, ENDS, strict=True)],
        rows=rows,
        top=TOP,
        middle=(IMAGE, IMAGE + MIDDLE),
        size=(2 * IMAGE + MIDDLE, TOP + height + 44),
        head="region pairs" + (", above other cases" if pairs.others else ""),
        summary=_summary(pairs, chosen),
        label=_spoken(pairs, chosen),
    )
    return text


ENDS = ("query", "case")


def _image(shown: Shown, x: int) -> dict[str, Any]:
    height, width = shown.pixels.shape
    return {
        "x": x,
        "height": round(IMAGE * height / width, 1),
        "jpeg": jpeg_base64(shown.pixels, JPEG_PIXELS),
        "corners": {**dict(zip(Region.labels(), shown.boxes.xyxy, strict=True)), WHOLE_IMAGE: (0, 0, width, height)},
        "scale": IMAGE / width,
    }


def _rectangle(image: dict[str, Any], region: str) -> dict[str, float]:
    """The box of a region in the picture's own pixels, cut where it reaches past the radiograph."""
    x1, y1, x2, y2 = (float(corner) * image["scale"] for corner in image["corners"][region])
    x1, x2 = (min(max(x, 2.0), IMAGE - 2.0) + image["x"] for x in (x1, x2))
    y1, y2 = (min(max(y, 2.0), image["height"] - 2.0) for y in (y1, y2))
    return {
        "x": round(x1, 1),
        "y": round(TOP + y1, 1),
        "width": round(x2 - x1, 1),
        "height": round(y2 - y1, 1),
    }


def _row(pair: RegionPair, place: int, images: list[dict[str, Any]], most: float) -> dict[str, Any]:
    """A pair: its text between the radiographs, how its lines look, and its two links."""
    share = abs(pair.contribution) / most
    first, second = (_rectangle(image, region) for image, region in zip(images, (pair.query, pair.case), strict=True))
    y = TOP + ROW * place + 18
    ends = (
        (first["x"] + first["width"], first["y"] + first["height"] / 2),
        (second["x"], second["y"] + second["height"] / 2),
    )
    return {
        "query": pair.query,
        "case": pair.case,
        "value": _signed(pair.contribution),
        "y": y,
        "links": [_curve(ends[0], (IMAGE + 8.0, y + 8.0)), _curve((IMAGE + MIDDLE - 8.0, y + 8.0), ends[1])],
        "negative": pair.contribution < 0,
        "stroke": Axis((0.0, 1.0), WIDTHS).place(share),
        "opacity": round(OPACITIES[0] + share * (OPACITIES[1] - OPACITIES[0]), 2),
        "rectangles": {"query": first, "case": second},
    }


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    """An SVG path that leaves and arrives level."""
    bend = (start[0] + end[0]) / 2
    return f"M{start[0]:.1f} {start[1]:.1f}C{bend:.1f} {start[1]:.1f} {bend:.1f} {end[1]:.1f} {end[0]:.1f} {end[1]:.1f}"


def _boxes(rows: list[dict[str, Any]], end: str) -> list[dict[str, Any]]:
    """Each region once, as its strongest pair has it; the strongest is painted last."""
    strongest = {row[end]: row for row in reversed(rows)}
    drawn = [
        {**row["rectangles"][end], "title": name, **{key: row[key] for key in ("negative", "stroke", "opacity")}}
        for name, row in strongest.items()
    ]
    return sorted(drawn, key=lambda box: box["stroke"])


def _summary(pairs: RegionPairs, chosen: tuple[RegionPair, ...]) -> str:
    carried = sum(pair.contribution for pair in chosen)
    whole = "the cosine" if not pairs.others else f"what the cosine exceeds the mean of {pairs.others} other cases by"
    strongest = "strongest pair" if len(chosen) == 1 else f"{len(chosen)} strongest pairs"
    return (
        f"The {strongest} of {pairs.contributions.size} add up to {_signed(carried)}; all add up to {whole},"
        f" {_signed(pairs.similarity)}."
    )


def _spoken(pairs: RegionPairs, chosen: tuple[RegionPair, ...]) -> str:
    told = "; ".join(f"{pair.query} with {pair.case} {_signed(pair.contribution)}" for pair in chosen)
    return f"Query and similar case: {told}. {_summary(pairs, chosen)}"


def _signed(value: float) -> str:
    """In four decimals, as there are hundreds of pairs."""
    return f"{value:+.4f}".replace("-", MINUS)
