"""A plain table, `images.csv` and `regions.csv` in one folder, into a study table.

images.csv: image_id, file (relative to the folder); optional width, height, patient_id, study_id, view, sex, age,
split. regions.csv: image_id, region, x1, y1, x2, y2 in pixels, 18 rows an image. Both may have the nine findings as
columns: 1, 0, or blank for unknown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import UNKNOWN
from chextriev.artifacts import file_digest
from chextriev.errors import MissingFile, NotFrontal
from chextriev.study_table import SEXES, VIEWS
from chextriev.train.csv_columns import CsvColumns, find_csv
from chextriev.train.plain_columns import check_any_finding, findings_of, ignored_columns, read_with_findings
from chextriev.train.plain_regions import CORNERS, add_regions
from chextriev.train.plain_sizes import add_sizes
from chextriev.train.plain_splits import Identities, read_splits, split_paths
from chextriev.train.quarantine import Quarantine, Screen
from chextriev.train.study_source import (
    PrepareSettings,
    Reading,
    any_over_regions,
    check_patient_splits,
    check_relative,
    reading_of,
    set_aside_boxes_outside,
)

_IMAGE_NEEDS = ("image_id", "file")
_IMAGE_MAY = ("width", "height", "patient_id", "study_id", "view", "sex", "age", "split")
_REGION_NEEDS = ("image_id", "region", *CORNERS)
_MAX_AGE = 120  # years


@dataclass(frozen=True)
class PlainTable:
    """The two CSV files, found."""

    image_root: Path
    images_csv: Path
    regions_csv: Path
    layout: str = "plain table"

    def parents(self) -> dict[str, str]:
        """Digests of the CSV files."""
        paths = {"images": self.images_csv, "regions": self.regions_csv, **split_paths(self.image_root)}
        return {role: file_digest(path) for role, path in paths.items()}

    def read(self, settings: PrepareSettings, quarantine: Quarantine) -> Reading:
        """Read and check both files; faults of the layout raise, faults of one image go to the quarantine."""
        images = read_with_findings(self.images_csv, _IMAGE_NEEDS, _IMAGE_MAY)
        regions = read_with_findings(self.regions_csv, _REGION_NEEDS)
        check_any_finding(images, regions)
        rows = Screen(_image_columns(images), quarantine)
        rows.set_aside_repeated()
        identities = Identities(images, read_splits(split_paths(self.image_root)))
        identities.add(rows)
        _set_aside_views(rows)
        add_regions(rows, regions, images)
        add_sizes(rows, images, self.image_root if settings.check_files else None)
        set_aside_boxes_outside(rows)
        _fill_image_findings(rows)
        check_patient_splits(rows["patient_id"], rows["split"], where=str(self.images_csv))
        rows.sort()
        remarks = [*ignored_columns(images, regions), *identities.remarks, *_remarks(rows)]
        return reading_of(rows, self.image_root, remarks=remarks)


def find_plain(source: Path) -> PlainTable | None:
    """The layout in `source`, or None if neither file is there; MissingFile if one of the two is."""
    images, regions = find_csv(source, "images"), find_csv(source, "regions")
    if images is None and regions is None:
        return None
    if images is None or regions is None:
        absent = "images.csv" if images is None else "regions.csv"
        raise MissingFile(f"{source} has no {absent}; a plain table is images.csv and regions.csv together")
    return PlainTable(source, images, regions)


def _image_columns(images: CsvColumns) -> dict[str, npt.NDArray[Any]]:
    """Everything that images.csv says itself; `row` is the row number there."""
    for row, name in enumerate(images.text("file")):
        check_relative(name, where=images.line(row))
    rows = np.arange(len(images))
    unknown = np.full(len(rows), None, dtype=object)
    sexes = {**{sex: sex for sex in SEXES}, "": None}
    return {
        "row": rows,
        "image_id": images.ids("image_id"),
        "path": images.text("file"),
        "view": _views(images) if "view" in images else unknown,
        "sex": images.choices("sex", sexes) if "sex" in images else unknown,
        "age": _ages(images),
        "image_findings": findings_of(images),
    }


def _views(images: CsvColumns) -> npt.NDArray[Any]:
    return np.asarray([text.strip().upper() or None for text in images.text("view")], dtype=object)


def _ages(images: CsvColumns) -> npt.NDArray[np.int16]:
    if "age" not in images:
        return np.full(len(images), UNKNOWN, dtype=np.int16)
    years = images.numbers("age", low=0, high=_MAX_AGE)
    return np.where(np.isnan(years), UNKNOWN, np.nan_to_num(years)).astype(np.int16)


def _set_aside_views(rows: Screen) -> None:
    mask = np.fromiter((view not in (*VIEWS, None) for view in rows["view"]), dtype=bool, count=len(rows))
    rows.set_aside(
        mask,
        lambda row: NotFrontal(f"image {rows['image_id'][row]}: view is {rows['view'][row]!r}; AP or PA is needed"),
    )


def _fill_image_findings(rows: Screen) -> None:
    """Where images.csv leaves a finding unknown, what the regions say of it."""
    stated, said = rows["image_findings"], any_over_regions(rows["region_findings"])
    rows.columns["image_findings"] = np.where(stated == UNKNOWN, said, stated)


def _remarks(rows: Screen) -> Iterator[str]:
    unviewed = sum(view is None for view in rows["view"])
    if unviewed:
        yield f"{unviewed} images state no view and count as frontal"
    said = any_over_regions(rows["region_findings"])
    conflicts = int(((rows["image_findings"] == 0) & (said == 1)).sum())
    if conflicts:
        yield f"{conflicts} findings are absent by images.csv and present in a region; images.csv stands"
