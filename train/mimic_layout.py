"""MIMIC-CXR-JPG with Chest ImaGenome, as PhysioNet lays them out, into a study table.

Rules of the published CheXtriev: frontal images with all 18 boxes, the split of MIMIC-CXR-JPG (Chest ImaGenome's own
splits are not used), image findings = any over regions, and nothing unknown: what no phrase mentions is absent.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import file_digest
from chextriev.errors import AvoidedImage, InvalidSetting, InvalidValue, MissingFile, MissingRow, NotFrontal
from chextriev.study_table import SPLITS, VIEWS
from chextriev.train.archive import SceneGraphArchive, SceneGraphBatch, open_archive
from chextriev.train.csv_columns import CsvColumns, find_csv, read_csv, rows_of
from chextriev.train.image_files import add_file_sizes
from chextriev.train.quarantine import Quarantine, Screen
from chextriev.train.study_source import (
    PrepareSettings,
    Reading,
    any_over_regions,
    check_patient_splits,
    reading_of,
    set_aside_boxes_outside,
)

SPLIT_CSV = "mimic-cxr-2.0.0-split"
METADATA_CSV = "mimic-cxr-2.0.0-metadata"
SILVER = "silver_dataset"
_MAX_DEPTH = 5  # physionet.org/files/chest-imagenome/1.0.0/silver_dataset
_NOT_SEARCHED = re.compile(r"p\d\d|scene_graph|\..*")  # the patients' folders hold hundreds of thousands of others
_MAX_SIDE = 100_000  # pixels
_IMAGE_ID = re.compile(r"\w[\w.-]*")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class MimicLayout:
    """The two data sets, found: the folder of MIMIC-CXR-JPG, its two tables, and the silver set's scene graphs."""

    image_root: Path
    split_csv: Path
    metadata_csv: Path
    scene_graphs: SceneGraphArchive
    avoid_csv: Path | None = None
    layout: str = "MIMIC-CXR-JPG and Chest ImaGenome"

    def parents(self) -> dict[str, str]:
        """Digests of the tables, and of the scene graphs by the names, sizes and CRC-32s of the archive's members."""
        tables = {"split": self.split_csv, "metadata": self.metadata_csv, "images to avoid": self.avoid_csv}
        digests = {role: file_digest(path) for role, path in tables.items() if path}
        return {**digests, "scene graphs": self.scene_graphs.digest}

    def read(self, settings: PrepareSettings, quarantine: Quarantine) -> Reading:
        """Stream the scene graphs, join them with the tables, and set aside what the rules leave out."""
        split, metadata = _read_split(self.split_csv), _read_metadata(self.metadata_csv)
        rows = Screen(_gather(self.scene_graphs.batches(workers=settings.workers), quarantine), quarantine)
        rows.set_aside_repeated()
        _set_aside_avoided(rows, self.avoid_csv)
        _join_split(rows, split)
        _join_metadata(rows, metadata)
        set_aside_boxes_outside(rows)
        check_patient_splits(rows["patient_id"], rows["split"], where=str(self.split_csv))
        rows.columns |= {"path": _paths(rows), "image_findings": any_over_regions(rows["region_findings"])}
        if settings.check_files:
            add_file_sizes(rows, self.image_root)
        rows.sort()
        return reading_of(rows, self.image_root, remarks=self._remarks(len(split)))

    def _remarks(self, listed: int) -> Iterator[str]:
        yield f"{len(self.scene_graphs.members)} scene graphs for the {listed} images of {self.split_csv.name}"
        if self.avoid_csv is None:
            yield "no images_to_avoid.csv was found beside the scene graphs"


def find_mimic(source: Path, settings: PrepareSettings) -> MimicLayout | None:
    """The layout under `source` (or the folders that the settings name), or None if neither part is there.

    Raises MissingFile if one part is there without the other, InvalidSetting if a part is there twice.
    """
    images = _only(_folders_with_split(settings.mimic or source), "MIMIC-CXR-JPG", "--mimic")
    silver = _only(_folders_with_graphs(settings.imagenome or source), "Chest ImaGenome's silver set", "--imagenome")
    if images is None and silver is None:
        return None
    if images is None:
        raise MissingFile(f"no {SPLIT_CSV}.csv.gz under {settings.mimic or source}; name its folder with --mimic")
    if silver is None:
        place = settings.imagenome or source
        raise MissingFile(f"no {SILVER}/scene_graph.zip or folder under {place}; name its folder with --imagenome")
    avoid = (folder / "images_to_avoid.csv" for folder in (silver.parent / "splits", silver.parent))
    return MimicLayout(
        image_root=images,
        split_csv=_table_path(images, SPLIT_CSV),
        metadata_csv=_table_path(images, METADATA_CSV),
        scene_graphs=open_archive(silver),
        avoid_csv=next((path for path in avoid if path.is_file()), None),
    )


def _folders_with_split(root: Path) -> Iterator[Path]:
    return (folder for folder in _folders(root) if find_csv(folder, SPLIT_CSV))


def _folders_with_graphs(root: Path) -> Iterator[Path]:
    """The zip, else the folder it unpacks to (some tools make scene_graph/scene_graph/)."""
    for folder in _folders(root):
        if folder.name != SILVER and folder != root:
            continue
        places = (folder / "scene_graph.zip", folder / "scene_graph" / "scene_graph", folder / "scene_graph")
        yield from [place for place in places if place.exists()][:1]


def _folders(root: Path, depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """`root` and the folders below it, to a depth, in order of name; the patients' folders are not entered."""
    yield root
    if depth == 0 or not root.is_dir():
        return
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not _NOT_SEARCHED.fullmatch(e.name))
    for name in names:
        yield from _folders(root / name, depth - 1)


def _only(found: Iterable[Path], what: str, option: str) -> Path | None:
    places = list(found)
    if len(places) > 1:
        raise InvalidSetting(f"{what} is there twice, {places[0]} and {places[1]}; name one with {option}")
    return places[0] if places else None


def _table_path(folder: Path, name: str) -> Path:
    path = find_csv(folder, name)
    if path is None:
        raise MissingFile(f"{folder} has no {name}.csv.gz (nor .csv), which belongs beside {SPLIT_CSV}")
    return path


def _read_split(path: Path) -> CsvColumns:
    return read_csv(path, required=("dicom_id", "study_id", "subject_id", "split"))


def _read_metadata(path: Path) -> CsvColumns:
    return read_csv(path, required=("dicom_id", "ViewPosition", "Rows", "Columns"))


def _gather(batches: Iterable[SceneGraphBatch], quarantine: Quarantine) -> dict[str, npt.NDArray[Any]]:
    """Concatenate the batches, in file order; scene graphs that were refused go to the quarantine."""
    kept = []
    for batch in batches:
        for image_id, error in batch.refused:
            quarantine.add(image_id, error)
        kept.append(batch)
    columns = {
        name: np.asarray([value for batch in kept for value in getattr(batch, name)], dtype=object)
        for name in ("image_id", "viewpoint", "sex")
    }
    arrays = {
        name: np.concatenate([getattr(batch, name) for batch in kept])
        for name in ("age", "boxes_xyxy", "region_findings")
    }
    return {**columns, **arrays}


def _set_aside_avoided(rows: Screen, path: Path | None) -> None:
    if path is None:
        return
    avoided = set(read_csv(path, required=("dicom_id",)).text("dicom_id"))
    mask = np.fromiter((name in avoided for name in rows["image_id"]), dtype=bool, count=len(rows))
    rows.set_aside(mask, lambda row: AvoidedImage(f"image {rows['image_id'][row]} is listed in {path.name}"))


def _join_split(rows: Screen, split: CsvColumns) -> None:
    """Add patient_id, study_id and split."""
    found = rows_of(rows["image_id"], split.text("dicom_id"))
    _set_aside_absent(rows, found, split.path)
    found = found[found >= 0]
    subject, study = (_plain_ids(split, name, _NUMBER) for name in ("subject_id", "study_id"))
    _plain_ids(split, "dicom_id", _IMAGE_ID)
    rows.columns |= {
        "patient_id": subject[found],
        "study_id": study[found],
        "split": split.choices("split", {name: name for name in SPLITS})[found],
    }


def _join_metadata(rows: Screen, metadata: CsvColumns) -> None:
    """Add view, width and height; the scene graph's viewpoint stands in for a blank ViewPosition."""
    found = rows_of(rows["image_id"], metadata.text("dicom_id"))
    _set_aside_absent(rows, found, metadata.path)
    found = found[found >= 0]
    stated, said = metadata.text("ViewPosition")[found], rows["viewpoint"]
    views = [(position.strip() or other).upper() for position, other in zip(stated, said, strict=True)]
    rows.columns |= {
        "view": np.asarray(views, dtype=object),
        "width": metadata.numbers("Columns", low=1, high=_MAX_SIDE)[found],
        "height": metadata.numbers("Rows", low=1, high=_MAX_SIDE)[found],
    }
    rows.set_aside(
        ~np.isin(rows["view"].astype(str), VIEWS),
        lambda row: NotFrontal(f"image {rows['image_id'][row]}: view is {rows['view'][row]!r}; AP or PA is needed"),
    )
    rows.set_aside(
        np.isnan(rows["width"] + rows["height"]),
        lambda row: InvalidValue(f"{metadata.path.name}, image {rows['image_id'][row]}: Rows or Columns is blank"),
    )


def _set_aside_absent(rows: Screen, found: npt.NDArray[np.int64], path: Path) -> None:
    rows.set_aside(found < 0, lambda row: MissingRow(f"{path.name} has no row for image {rows['image_id'][row]}"))


def _plain_ids(table: CsvColumns, name: str, pattern: re.Pattern[str]) -> npt.NDArray[Any]:
    """Ids that are safe as parts of a path."""
    allowed = f"an id that matches {pattern.pattern}"
    return table.convert(name, lambda text: text if pattern.fullmatch(text) else None, allowed=allowed, dtype=object)


def _image_path(patient: str, study: str, image: str) -> str:
    return f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg"


def _paths(rows: Screen) -> npt.NDArray[np.object_]:
    ids = zip(rows["patient_id"], rows["study_id"], rows["image_id"], strict=True)
    return np.asarray([_image_path(*triple) for triple in ids], dtype=object)
