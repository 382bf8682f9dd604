"""The picture of a localizer: radiographs with the boxes that were given and those that it proposes.

It holds radiographs, so nobody writes it unasked, and it names none of them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Region
from chextriev.box_overlap import box_overlap
from chextriev.errors import InvalidSetting
from chextriev.eval.localizer import Values
from chextriev.located_table import LocatedTable
from chextriev.pictures import jpeg_base64, read_template

TEMPLATE = "localizer.svg.j2"
COLUMNS, WIDTH, GAP, HEAD = 4, 300, 12, 26
"""Radiographs side by side; of each its width, the room beside it, and that for the words above it."""
JPEG_PIXELS = 448
"""Longest side of the radiographs in the file."""

COLOURS = {
    "lungs": "#4cc2ff",
    "zones": "#7ddc6f",
    "hilar structures": "#e58cff",
    "costophrenic angles": "#ff9a3c",
    "mediastinum": "#ffe14d",
    "cardiac silhouette": "#ff5d6c",
    "trachea": "#5ff0d8",
}
_OF_A_SIDE = ("lungs", "zones", "zones", "zones", "zones", "hilar structures", "costophrenic angles")
_GROUPS = (*_OF_A_SIDE, *_OF_A_SIDE, "mediastinum", "mediastinum", "cardiac silhouette", "trachea")
"""The group of each region, in the order of `Region`."""


def draw_located(located: LocatedTable, *, count: int = 16) -> str:
    """The SVG text of `count` radiographs, spread evenly from the worst mean IoU to the best, or of all if fewer.

    Boxes that were given are thin and grey, those proposed are coloured by what they show.
    """
    if count < 1:
        raise InvalidSetting(f"a picture of {count} radiographs; ask for at least 1")
    overlaps = box_overlap(located.boxes_xyxy, located.table.boxes_xyxy)  # [N, 18]
    order = np.argsort(overlaps.mean(axis=1), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
    cells = [_cell(located, int(row), overlaps) for row in chosen]
    lines = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    top = float(HEAD + GAP)
    for line in lines:
        for column, cell in enumerate(line):
            cell["x"], cell["y"] = column * (WIDTH + GAP), round(top + HEAD, 1)
        top += max(cell["height"] for cell in line) + HEAD + GAP
    mean = float(overlaps.mean())
    text: str = read_template("chextriev.eval", f"templates/{TEMPLATE}").render(
        cells=cells,
        width=WIDTH,
        legend=[{"name": name, "colour": colour} for name, colour in COLOURS.items()],
        size=(COLUMNS * (WIDTH + GAP) - GAP, round(top + HEAD, 1)),
        head=f"{len(cells)} of {len(located.table)} radiographs, from the worst mean IoU to the best; mean of all"
        f" {mean:.3f}",
        source=located.source,
    )
    return text


def _cell(located: LocatedTable, row: int, overlaps: Values) -> dict[str, Any]:
    pixels = located.table.radiograph(row).pixels
    scale = WIDTH / pixels.shape[1]
    worst = Region(int(overlaps[row].argmin()))  # type: ignore[call-arg]
    return {
        "height": round(pixels.shape[0] * scale, 1),
        "jpeg": jpeg_base64(pixels, JPEG_PIXELS),
        "given": [_rectangle(box, scale) for box in located.table.boxes_xyxy[row]],
        "proposed": [
            {**_rectangle(box, scale), "title": f"{region.label}: IoU {overlap:.2f}", "colour": COLOURS[group]}
            for region, group, box, overlap in zip(Region, _GROUPS, located.boxes_xyxy[row], overlaps[row], strict=True)
        ],
        "text": f"mean IoU {overlaps[row].mean():.2f}; worst {worst.label} {overlaps[row].min():.2f}",
    }


def _rectangle(box: npt.NDArray[np.float32], scale: float) -> dict[str, float]:
    x1, y1, x2, y2 = (float(corner) * scale for corner in box)
    return {"x": round(x1, 1), "y": round(y1, 1), "width": round(x2 - x1, 1), "height": round(y2 - y1, 1)}
