"""Decode and crop radiographs in threads ahead of the consumer, in order and in bounded memory."""

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chextriev.ahead import map_ahead
from chextriev.errors import BoxError, ImageError, InvalidSetting, InvalidValue
from chextriev.preprocess import CropSpec, region_crops
from chextriev.radiograph import read_pixels
from chextriev.refusals import Refusal
from chextriev.study_table import StudyTable

SHARD_BYTES = 64 * 1024**2
"""A shard is built in memory; 512 radiographs of 18 x 2048 float16 are 38 MB."""


@dataclass(frozen=True)
class FeatureSettings:
    """How features are computed.

    batch: radiographs a call of the extractor. workers: threads that decode and crop. shard_rows: radiographs a file;
    None is a sixteenth of the table, from 16 to 512 and of 64 MiB at most, so that a run that is stopped loses
    little of its work.
    """

    crops: CropSpec = field(default_factory=CropSpec)
    batch: int = 4
    workers: int = 2
    shard_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "workers", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidSetting(f"features: {name} is {value}; at least 1 is needed")

    def rows_a_shard(self, radiographs: int, row_bytes: int) -> int:
        """Radiographs a file, for a table of this many, each of so many bytes."""
        return self.shard_rows or max(1, min(max(radiographs // 16, 16), 512, SHARD_BYTES // row_bytes))


Crops = npt.NDArray[np.uint8]  # [spec.count, size, size]


def crops_in_order(
    table: StudyTable, rows: range, settings: FeatureSettings
) -> Generator[tuple[int, Crops | Refusal], None, None]:
    """Each row with its crops [count, size, size] uint8, or why there are none.

    At most two batches are in memory before the consumer asks for them.
    """

    def read(row: int) -> tuple[int, Crops | Refusal]:
        return row, read_crops(table, row, settings.crops)

    return map_ahead(read, rows, workers=settings.workers, ahead=2 * settings.batch)


def read_crops(table: StudyTable, row: int, spec: CropSpec) -> Crops | Refusal:
    """Decode one radiograph and cut its crops [count, size, size] uint8; what is wrong with it becomes a Refusal."""
    try:
        height, width = int(table.height[row]), int(table.width[row])
        pixels, boxes = read_pixels(table.image_path(row)), table.boxes(row)
        _check_size(pixels.shape, (height, width))
        boxes.check_inside(width, height, where=f"image {table.image_id[row]}")
        return region_crops(pixels, boxes, spec)
    except (ImageError, BoxError, InvalidValue) as error:
        detail = str(error).replace(f"{table.image_root}/", "")
        return Refusal(row, str(table.image_id[row]), type(error).__name__, detail)


def _check_size(found: tuple[int, ...], stated: tuple[int, int]) -> None:
    if found != stated:
        sizes = f"{found[1]} x {found[0]} pixels, the study table says {stated[1]} x {stated[0]}"
        raise InvalidValue(f"the image has {sizes}; its boxes are in pixels of the latter")
