"""What a reader of one data layout offers to `prepare`, and the rules that both readers share."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS, UNKNOWN, Finding, Region
from chextriev.errors import BoxOutside, InputError, InvalidSetting, InvalidValue
from chextriev.preprocess import nearest_corners
from chextriev.radiograph import RegionBoxes
from chextriev.study_table import StudyTable
from chextriev.train.image_files import digest_of_sizes
from chextriev.train.quarantine import Quarantine, Screen


@dataclass(frozen=True)
class PrepareSettings:
    """How to prepare a study table.

    check_files: see that every image file is there, and notice later if its size changed.
    strict: the first image that would be left out is an error.
    mimic, imagenome: the two folders of the MIMIC layout, where they do not lie under one.
    workers: processes that read scene graphs; None is one for each core. force: make the table even if it is there.
    """

    check_files: bool = True
    strict: bool = False
    mimic: Path | None = None
    imagenome: Path | None = None
    workers: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= 256:
            raise InvalidSetting(f"workers is {self.workers}; a number from 1 to 256 is needed")


@dataclass(frozen=True, eq=False)
class Reading:
    """The rows that a reader kept, and what it did that a person should know, in words.

    images: digest of the image files by name and size; None if they were not looked at.
    """

    table: StudyTable
    remarks: tuple[str, ...]
    images: str | None


class StudySource(Protocol):
    """A data set found on disk."""

    @property
    def layout(self) -> str:
        """The layout's name, for the manifest."""

    @property
    def image_root(self) -> Path:
        """The folder that the table's paths are relative to."""

    def parents(self) -> dict[str, str]:
        """Digests of the files that the table is made from, by role; the images are not among them."""

    def read(self, settings: PrepareSettings, quarantine: Quarantine) -> Reading:
        """Read and check everything; images left out go to the quarantine."""


def _carriers() -> npt.NDArray[np.bool_]:
    """[18, 9] bool: where a finding may sit.

    The mediastinum, the upper mediastinum and the trachea carry none; enlargement is said of the heart alone.
    """
    carries = np.ones((N_REGIONS, N_FINDINGS), dtype=bool)
    carries[[Region.MEDIASTINUM, Region.UPPER_MEDIASTINUM, Region.TRACHEA]] = False
    carries[:, Finding.ENLARGED_CARDIAC_SILHOUETTE] = False
    carries[Region.CARDIAC_SILHOUETTE, Finding.ENLARGED_CARDIAC_SILHOUETTE] = True
    return carries


CARRIERS = _carriers()


def any_over_regions(region_findings: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Image findings [N, 9] int8 from region findings [N, 18, 9] int8.

    1 if any region has the finding, 0 if it is absent from every region that can carry it, else -1 (unknown).
    """
    present = (region_findings == 1).any(axis=1)
    absent = ((region_findings == 0) | ~CARRIERS).all(axis=1)
    return np.where(present, 1, np.where(absent, 0, UNKNOWN)).astype(np.int8)


def reading_of(rows: Screen, image_root: Path, *, remarks: Iterable[str]) -> Reading:
    """The table of the rows that are left, from their columns of the same names; and, if seen, `bytes` of the files."""
    names = {field.name for field in fields(StudyTable)} - {"image_root", "digest"}
    columns: dict[str, Any] = {name: rows[name] for name in names}
    columns |= {name: rows[name].astype(np.int32) for name in ("width", "height")}  # read as float64, for blanks
    table = StudyTable(**columns, image_root=image_root)
    images = digest_of_sizes(rows["path"], rows["bytes"]) if "bytes" in rows.columns else None
    return Reading(table, tuple(remarks), images)


def set_aside_boxes_outside(rows: Screen) -> None:
    """Leave out images with a box that does not touch the image (columns boxes_xyxy, width, height)."""
    x1, y1, x2, y2 = np.moveaxis(nearest_corners(rows["boxes_xyxy"]), -1, 0)
    width, height = rows["width"][:, None], rows["height"][:, None]
    outside = ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)).any(axis=1)
    rows.set_aside(outside, lambda row: _outside_error(rows, row))


def _outside_error(rows: Screen, row: int) -> InputError:
    """The message of the one definition of a box outside, which names the region."""
    where, width, height = f"image {rows['image_id'][row]}", int(rows["width"][row]), int(rows["height"][row])
    try:
        RegionBoxes(rows["boxes_xyxy"][row].copy()).check_inside(width, height, where=where)
    except BoxOutside as error:
        return error
    return BoxOutside(f"{where}: a box does not touch the image of {width} x {height} pixels")


def check_relative(path: str, *, where: str) -> None:
    """Refuse a file name that leaves its folder."""
    parts = PurePosixPath(path.replace("\\", "/"))
    if not path or parts.is_absolute() or PureWindowsPath(path).drive or ".." in parts.parts:
        raise InvalidValue(f"{where}: file is {path!r}; a path inside the folder, relative to it, is needed")


def check_patient_splits(patient_id: npt.NDArray[Any], split: npt.NDArray[Any], *, where: str) -> None:
    """Refuse a patient with images in two splits: the test would be of memory."""
    seen: dict[str, str] = {}
    for patient, name in zip(patient_id, split, strict=True):
        if seen.setdefault(patient, name) != name:
            raise InvalidValue(
                f"{where}: patient {patient} has images in {seen[patient]} and in {name}; splits are by patient"
            )
