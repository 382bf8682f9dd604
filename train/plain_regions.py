"""regions.csv of a plain table: 18 boxes and their findings for each image."""

from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS, UNKNOWN, Region
from chextriev.errors import BoxError, CountMismatch, InputError, InvalidBox
from chextriev.radiograph import RegionBoxes
from chextriev.train.csv_columns import CsvColumns, rows_of
from chextriev.train.plain_columns import findings_of
from chextriev.train.quarantine import Screen

CORNERS = ("x1", "y1", "x2", "y2")
_FAR = 1_000_000  # pixels; ten times the largest image


def add_regions(rows: Screen, regions: CsvColumns, images: CsvColumns) -> None:
    """Add boxes_xyxy and region_findings to every image; unusable boxes go to the quarantine."""
    ids, names = regions.text("image_id"), regions.text("region")
    _check_counts(ids, regions, images)
    region = _region_numbers(regions)
    xyxy = np.stack([regions.numbers(corner, low=-_FAR, high=_FAR) for corner in CORNERS], axis=1)
    image = rows_of(ids, rows["image_id"])
    used = image >= 0
    boxes = np.full((len(rows), N_REGIONS, 4), np.nan, dtype=np.float32)
    findings = np.full((len(rows), N_REGIONS, N_FINDINGS), UNKNOWN, dtype=np.int8)
    boxes[image[used], region[used]] = xyxy[used]
    findings[image[used], region[used]] = findings_of(regions)[used]
    times = np.bincount(image[used] * N_REGIONS + region[used], minlength=len(rows) * N_REGIONS)
    rows.columns |= {"boxes_xyxy": boxes, "region_findings": findings}

    def fault(row: int) -> InputError:
        where = f"{regions.path.name}, image {rows['image_id'][row]}"
        mine = np.flatnonzero(image == row)
        pairs = [(names[line], list(xyxy[line])) for line in mine if not np.isnan(xyxy[line]).all()]
        return _box_fault(pairs, where=where)

    usable = (boxes[..., 0] < boxes[..., 2]) & (boxes[..., 1] < boxes[..., 3])  # false for NaN
    usable &= times.reshape(-1, N_REGIONS) == 1
    rows.set_aside(np.asarray(~usable.all(axis=1)), fault)


def _region_numbers(regions: CsvColumns) -> npt.NDArray[np.int64]:
    """[R] int64; UnknownRegion names the line."""
    numbers = {region.label: int(region) for region in Region}
    names = np.asarray([name.strip() for name in regions.text("region")], dtype=object)
    strangers = [row for row, name in enumerate(names) if name not in numbers]
    if strangers:
        Region.from_label(names[strangers[0]], where=regions.line(strangers[0]))
    return np.asarray([numbers[name] for name in names], dtype=np.int64)


def _box_fault(pairs: list[tuple[str, list[float]]], *, where: str) -> InputError:
    """The error of the one definition of usable boxes."""
    try:
        RegionBoxes.from_pairs(pairs, where=where)
    except BoxError as error:
        return error
    return InvalidBox(f"{where}: its boxes are not usable")


def _check_counts(ids: npt.NDArray[Any], regions: CsvColumns, images: CsvColumns) -> None:
    """Every image has 18 rows, and every row an image."""
    strangers = np.flatnonzero(rows_of(ids, images.text("image_id")) < 0)
    if len(strangers):
        line = regions.line(int(strangers[0]))
        raise CountMismatch(f"{line}: image {ids[strangers[0]]!r} is not in {images.path}")
    names, counts = np.unique(ids.astype(str), return_counts=True)
    found = dict(zip(names, counts, strict=True))
    for image_id in images.text("image_id"):
        if found.get(image_id, 0) != N_REGIONS:
            raise CountMismatch(
                f"{regions.path}: image {image_id} has {found.get(image_id, 0)} rows; {N_REGIONS} are needed,"
                " one a region (leave the corners blank where a region has no box)"
            )
