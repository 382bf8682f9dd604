"""The boxes that a localizer proposes for the radiographs of a study table."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from chextriev.ahead import map_ahead
from chextriev.artifacts import digest_of
from chextriev.errors import EmptySplit, ImageError, InvalidValue
from chextriev.localizer import Localizer, Pixels
from chextriev.progress import track
from chextriev.radiograph import read_pixels
from chextriev.refusals import Refusal
from chextriev.study_table import StudyTable

AHEAD = 4
"""Radiographs that are in memory at once, at full size; they are located one at a time."""


@dataclass(frozen=True, eq=False)
class LocatedTable:
    """What a localizer proposes for N radiographs.

    table: those that could be read, with the boxes that they came with. boxes_xyxy: [N, 18, 4] float32 pixels, the
    proposals. confidence: [N, 18] float32, the IoU that each is expected to have. source: in words, what proposed
    them. refusals: the radiographs that could not be read.
    """

    table: StudyTable
    boxes_xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    source: str
    refusals: tuple[Refusal, ...] = ()


def locate_table(table: StudyTable, localizer: Localizer) -> LocatedTable:
    """Propose boxes for every radiograph of a table that can be read; EmptySplit where none can."""
    rows, boxes, confidence, refusals = [], [], [], []
    with closing(_images(table)) as images:
        for row, pixels in track(images, "locate", total=len(table), unit="radiograph"):
            if isinstance(pixels, Refusal):
                refusals.append(pixels)
                continue
            found = localizer.locate([pixels])
            rows.append(row)
            boxes.append(found.boxes[0].xyxy)
            confidence.append(found.confidence[0])
    if not rows:
        raise EmptySplit("no radiograph to locate regions in: the table is empty or all of its images are unreadable")
    return LocatedTable(
        table.take(np.array(rows)), np.stack(boxes), np.stack(confidence), localizer.source, tuple(refusals)
    )


def predicted_table(table: StudyTable, localizer: Localizer) -> StudyTable:
    """The table with a localizer's boxes in place of its own, and a digest that says so; nothing else differs.

    What cannot be read keeps its boxes: whoever reads the images next refuses it. EmptySplit where nothing can be read.
    """
    located = locate_table(table, localizer)
    rows = {name: row for row, name in enumerate(table.image_id)}
    boxes = table.boxes_xyxy.copy()
    boxes[[rows[name] for name in located.table.image_id]] = located.boxes_xyxy
    parents = {"study table": table.digest, "localizer": localizer.digest, "source": localizer.source}
    return replace(table, boxes_xyxy=boxes, digest=digest_of(parents))


def _images(table: StudyTable) -> Generator[tuple[int, Pixels | Refusal], None, None]:
    def read(row: int) -> tuple[int, Pixels | Refusal]:
        try:
            pixels = read_pixels(table.image_path(row))
            _check_size(pixels.shape, (int(table.height[row]), int(table.width[row])))
        except (ImageError, InvalidValue) as error:
            detail = str(error).replace(f"{table.image_root}/", "")
            return row, Refusal(row, str(table.image_id[row]), type(error).__name__, detail)
        return row, pixels

    return map_ahead(read, range(len(table)), ahead=AHEAD)


def _check_size(found: tuple[int, ...], stated: tuple[int, int]) -> None:
    if found != stated:
        sizes = f"{found[1]} x {found[0]} pixels, the study table says {stated[1]} x {stated[0]}"
        raise InvalidValue(f"the image has {sizes}; boxes are in pixels of the latter")
