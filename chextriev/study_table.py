"""The study table: every radiograph that a data set yields, validated, with its boxes, findings and split.

On disk it is an artefact of kind "study table": `study.parquet`, `quarantine.csv` (image id, reason, detail) and a
manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS, UNKNOWN
from chextriev.artifacts import Manifest, open_artifact
from chextriev.errors import CountMismatch, DuplicateImage, EmptySplit, InvalidSetting, InvalidValue
from chextriev.optional import require
from chextriev.radiograph import Radiograph, RegionBoxes, read_pixels

KIND = "study table"
STUDY_FILE = "study.parquet"
QUARANTINE_FILE = "quarantine.csv"
Split = Literal["train", "validate", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
VIEWS = ("AP", "PA")
SEXES = ("F", "M")
_PARQUET = "pyarrow.parquet"


@dataclass(frozen=True, eq=False)
class StudyTable:
    """Columns of equal length N, one row a radiograph.

    path: relative to image_root. view: "AP", "PA" or None. sex: "F", "M" or None. age: years, -1 where unknown.
    width, height: pixels of the original image. boxes_xyxy: [N, 18, 4] float32 pixels.
    region_findings: [N, 18, 9] int8 and image_findings: [N, 9] int8, each 1, 0 or -1 (unknown).
    """

    image_id: npt.NDArray[np.object_]
    study_id: npt.NDArray[np.object_]
    patient_id: npt.NDArray[np.object_]
    path: npt.NDArray[np.object_]
    view: npt.NDArray[np.object_]
    sex: npt.NDArray[np.object_]
    age: npt.NDArray[np.int16]
    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    boxes_xyxy: npt.NDArray[np.float32]
    region_findings: npt.NDArray[np.int8]
    image_findings: npt.NDArray[np.int8]
    split: npt.NDArray[np.object_]
    image_root: Path = Path(".")
    digest: str = ""

    def __post_init__(self) -> None:
        for name, tail in _SHAPES.items():
            column = getattr(self, name)
            if column.shape != (len(self.image_id), *tail):
                wanted = [len(self.image_id), *tail]
                raise CountMismatch(f"study table: column {name} has shape {list(column.shape)}; {wanted} is needed")
        if len(set(self.image_id)) != len(self.image_id):
            raise DuplicateImage("study table: an image id stands twice; image ids are unique")
        _check_values("split", self.split, SPLITS)
        _check_values("view", self.view, (*VIEWS, None))
        _check_values("sex", self.sex, (*SEXES, None))
        for name in ("region_findings", "image_findings"):
            column = getattr(self, name)
            if column.size and (column.min() < UNKNOWN or column.max() > 1):
                raise InvalidValue(f"study table: {name} holds values outside 1, 0 and -1 (unknown)")

    def __len__(self) -> int:
        return len(self.image_id)

    def of_split(self, split: str) -> "StudyTable":
        """The rows of one split; EmptySplit if there are none."""
        if split not in SPLITS:
            raise InvalidSetting(f"no split {split!r}; choose one of {', '.join(SPLITS)}")
        rows = np.flatnonzero(self.split == split)
        if not len(rows):
            counts = ", ".join(f"{name} {int((self.split == name).sum())}" for name in SPLITS)
            raise EmptySplit(f"the study table has no radiograph in split {split!r} (it has {counts})")
        return self.take(rows)

    def take(self, rows: npt.NDArray[np.int64]) -> "StudyTable":
        """The table of these rows, in this order; it keeps the digest of the whole."""
        columns = {name: getattr(self, name)[rows] for name in _SHAPES}
        return StudyTable(**columns, image_root=self.image_root, digest=self.digest)

    def row_of(self, image_id: str) -> int:
        """Row number of an image."""
        rows = np.flatnonzero(self.image_id == image_id)
        if not len(rows):
            raise InvalidValue(f"the study table has no image {image_id!r}")
        return int(rows[0])

    def boxes(self, row: int) -> RegionBoxes:
        """The boxes of one radiograph."""
        return RegionBoxes(self.boxes_xyxy[row].copy())

    def image_path(self, row: int) -> Path:
        """Where the pixels of one radiograph are."""
        return self.image_root / str(self.path[row])

    def radiograph(self, row: int) -> Radiograph:
        """Read one radiograph from disk."""
        age = int(self.age[row])
        return Radiograph(
            image_id=self.image_id[row],
            pixels=read_pixels(self.image_path(row)),
            boxes=self.boxes(row),
            study_id=self.study_id[row],
            patient_id=self.patient_id[row],
            view=self.view[row],
            sex=self.sex[row],
            age=age if age >= 0 else None,
        )


_SHAPES: Mapping[str, tuple[int, ...]] = {
    field.name: {
        "boxes_xyxy": (N_REGIONS, 4),
        "region_findings": (N_REGIONS, N_FINDINGS),
        "image_findings": (N_FINDINGS,),
    }.get(field.name, ())
    for field in fields(StudyTable)
    if field.name not in ("image_root", "digest")
}


def write_study_parquet(table: StudyTable, path: Path) -> None:
    """Write the columns as Parquet; arrays become fixed-size lists, flattened in C order."""
    pyarrow, parquet = require("pyarrow", extra="train"), require(_PARQUET, extra="train")
    columns = {name: _to_arrow(pyarrow, getattr(table, name)) for name in _SHAPES}
    parquet.write_table(pyarrow.table(columns), path)


def read_study_table(directory: str | Path) -> StudyTable:
    """Open a study table, its files verified."""
    directory = Path(directory)
    manifest = open_artifact(directory, KIND)
    parquet = require(_PARQUET, extra="train").read_table(directory / STUDY_FILE)
    columns = {name: _from_arrow(parquet.column(name), tail) for name, tail in _SHAPES.items()}
    return StudyTable(**columns, image_root=_image_root(directory, manifest), digest=manifest.digest)


def _image_root(directory: Path, manifest: Manifest) -> Path:
    """The manifest states the root relative to the table, so that both can move together."""
    return (directory / str(manifest.facts["image_root"])).resolve()


def _to_arrow(pyarrow: Any, column: npt.NDArray[Any]) -> Any:
    if column.dtype == object:
        return pyarrow.array(column, type=pyarrow.string())
    if column.ndim == 1:
        return pyarrow.array(column)
    flat = pyarrow.array(np.ascontiguousarray(column).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape[1:])))


def _from_arrow(column: Any, tail: tuple[int, ...]) -> npt.NDArray[Any]:
    if not tail:
        return np.asarray(column.to_numpy())
    chunk = column.combine_chunks()
    return np.asarray(chunk.flatten().to_numpy()).reshape(len(chunk), *tail)


def _check_values(name: str, column: npt.NDArray[np.object_], allowed: tuple[str | None, ...]) -> None:
    others = set(column) - set(allowed)
    if others:
        shown = ", ".join(repr(value) for value in sorted(others, key=str)[:3])
        raise InvalidValue(f"study table: column {name} holds {shown}; allowed are {', '.join(map(str, allowed))}")
