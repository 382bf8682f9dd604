"""Patients, studies and splits of a plain table: stated in images.csv, in splits/*.csv beside it, or derived."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidValue, MissingFile, MissingRow
from chextriev.train.csv_columns import CsvColumns, read_csv, rows_of
from chextriev.train.quarantine import Screen

SPLIT_FILES: Mapping[str, str] = {"train": "train.csv", "validate": "valid.csv", "test": "test.csv"}
_SPLIT_WORDS = {"train": "train", "validate": "validate", "valid": "validate", "test": "test", "": ""}
_SHARES = ((0.7, "train"), (0.8, "validate"), (1.0, "test"))


@dataclass(frozen=True, eq=False)
class SplitRows:
    """The rows of splits/{train,valid,test}.csv, concatenated; patient and study are None where no file has them."""

    image_id: npt.NDArray[np.object_]
    split: npt.NDArray[np.object_]
    patient_id: npt.NDArray[np.object_] | None
    study_id: npt.NDArray[np.object_] | None


@dataclass
class Identities:
    """Adds patient_id, study_id and split to rows, and notes in words what it had to assume."""

    images: CsvColumns
    listed: SplitRows | None
    remarks: list[str] = field(default_factory=list)

    def add(self, rows: Screen) -> None:
        """Fill the three columns; `rows` has `row`, the row number in images.csv."""
        self._set_aside_unlisted(rows)
        rows.columns["patient_id"] = self._ids(rows, "patient_id", "each image counts as a patient of its own")
        rows.columns["study_id"] = self._ids(rows, "study_id", "each image counts as a study of its own")
        rows.columns["split"] = self._split(rows)
        rows.set_aside(
            rows["split"] == "",
            lambda row: MissingRow(f"{self.images.path.name}: image {rows['image_id'][row]} has a blank split"),
        )

    def _set_aside_unlisted(self, rows: Screen) -> None:
        if "split" in self.images or self.listed is None:
            return
        found = rows_of(rows["image_id"], self.listed.image_id)
        rows.set_aside(found < 0, lambda row: MissingRow(f"splits/*.csv have no row for image {rows['image_id'][row]}"))

    def _ids(self, rows: Screen, name: str, assumption: str) -> npt.NDArray[Any]:
        if name in self.images:
            return np.asarray(self.images.ids(name)[rows["row"]])
        listed = getattr(self.listed, name, None)
        if listed is not None and "split" not in self.images:
            self.remarks.append(f"{name} comes from splits/*.csv")
            return np.asarray(listed[self._listed_rows(rows)])
        self.remarks.append(f"no column {name}: {assumption}")
        return rows["image_id"]

    def _split(self, rows: Screen) -> npt.NDArray[Any]:
        if "split" in self.images:
            return np.asarray(self.images.choices("split", _SPLIT_WORDS)[rows["row"]])
        if self.listed is not None:
            return np.asarray(self.listed.split[self._listed_rows(rows)])
        self.remarks.append("no split is stated: patients are split 70/10/20 by a hash of their ids")
        return np.asarray([hashed_split(patient) for patient in rows["patient_id"]], dtype=object)

    def _listed_rows(self, rows: Screen) -> npt.NDArray[np.int64]:
        return rows_of(rows["image_id"], self.listed.image_id if self.listed else rows["image_id"])


def hashed_split(patient_id: str) -> str:
    """The split of a patient, from a hash of the id alone: 70 % train, 10 % validate, 20 % test, stable anywhere."""
    place = int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8], "big") / 2**64
    return next(name for share, name in _SHARES if place < share or share == 1.0)


def split_paths(folder: Path) -> dict[str, Path]:
    """The three split files by split; empty if there is no folder `splits`.

    Raises MissingFile if the folder holds some of them only.
    """
    paths = {split: folder / "splits" / name for split, name in SPLIT_FILES.items()}
    absent = [path for path in paths.values() if not path.is_file()]
    if len(absent) == len(paths):
        return {}
    if absent:
        raise MissingFile(f"{absent[0]} does not exist; splits/ holds train.csv, valid.csv and test.csv")
    return paths


def read_splits(paths: Mapping[str, Path]) -> SplitRows | None:
    """Read the split files, or None if there are none; an image in two of them is an InvalidValue."""
    if not paths:
        return None
    tables = {
        split: read_csv(path, required=("dicom_id",), optional=("subject_id", "study_id"))
        for split, path in paths.items()
    }
    for image_id, first, second in _in_two(tables):
        raise InvalidValue(f"{second}: image {image_id} stands in {first.name} too; an image is in one split")
    return SplitRows(
        image_id=_joined(tables, "dicom_id"),
        split=np.concatenate([np.full(len(table), split, dtype=object) for split, table in tables.items()]),
        patient_id=_joined(tables, "subject_id") if _in_all(tables, "subject_id") else None,
        study_id=_joined(tables, "study_id") if _in_all(tables, "study_id") else None,
    )


def _in_two(tables: Mapping[str, CsvColumns]) -> Iterator[tuple[str, Path, Path]]:
    seen: dict[str, Path] = {}
    for table in tables.values():
        for image_id in table.text("dicom_id"):
            if seen.setdefault(image_id, table.path) != table.path:
                yield image_id, seen[image_id], table.path


def _in_all(tables: Mapping[str, CsvColumns], name: str) -> bool:
    return all(name in table for table in tables.values())


def _joined(tables: Mapping[str, CsvColumns], name: str) -> npt.NDArray[Any]:
    return np.concatenate([table.ids(name) for table in tables.values()])
