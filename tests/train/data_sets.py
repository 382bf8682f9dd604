"""Tiny data sets in both layouts that `prepare` reads, written by the tests and then broken by them."""

import csv
import gzip
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from chextriev.anatomy import Finding, Region
from tests.tiny import HEIGHT, WIDTH, boxes

CORNERS = ("x1", "y1", "x2", "y2")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize(size).save(path)


@dataclass
class PlainData:
    """images.csv and regions.csv as rows that a test may change before they are written."""

    folder: Path
    images: list[dict[str, Any]] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, split in enumerate(["train", "train", "validate", "test"]):
            name = f"im-{number}"
            row = {"image_id": name, "file": f"images/{name}.jpg", "width": WIDTH, "height": HEIGHT}
            row |= {"patient_id": f"pt-{number}", "study_id": f"st-{number}", "view": "AP" if number % 2 else "PA"}
            row |= {"sex": ("F", "M", "")[number % 3], "age": ("61", "")[number % 2], "split": split}
            self.images.append(row | {finding.label: "0" for finding in Finding})
            for region in Region:
                corners = dict(zip(CORNERS, boxes().xyxy[region].tolist(), strict=True))
                self.regions.append({"image_id": name, "region": region.label, **corners})

    def write(self) -> Path:
        for row in self.images:
            write_image(self.folder / "images" / f"{row['image_id']}.jpg")
        write_rows(self.folder / "images.csv", self.images)
        write_rows(self.folder / "regions.csv", self.regions)
        return self.folder

    def region(self, image: int, region: Region) -> dict[str, Any]:
        return self.regions[image * len(Region) + int(region)]

    def drop(self, *names: str) -> None:
        for row in (*self.images, *self.regions):
            for name in names:
                row.pop(name, None)


def scene_graph(image_id: str, **changes: Any) -> dict[str, Any]:
    objects = [
        {"bbox_name": region.label, "x1": 1, "y1": 1, "x2": 2, "y2": 2}
        | {f"original_{key}": value for key, value in zip(CORNERS, boxes().xyxy[region].tolist(), strict=True)}
        for region in Region
    ]
    return {"image_id": image_id, "viewpoint": "AP", "gender": "F", "age_decile": "50-60", "objects": objects} | changes


@dataclass
class MimicData:
    """MIMIC-CXR-JPG and Chest ImaGenome, nested as PhysioNet's mirrors nest them."""

    folder: Path
    graphs: dict[str, Any] = field(default_factory=dict)
    split: list[dict[str, str]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, split in enumerate(["train", "train", "validate", "test"]):
            name = f"aa{number}-bb"
            self.graphs[name] = scene_graph(name)
            ids = {"dicom_id": name, "study_id": f"5000{number}", "subject_id": f"1{number}00"}
            self.split.append(ids | {"split": split})
            self.metadata.append(ids | {"ViewPosition": "PA", "Rows": HEIGHT, "Columns": WIDTH})

    @property
    def mimic(self) -> Path:
        return self.folder / "physionet.org/files/mimic-cxr-jpg/2.0.0"

    @property
    def silver(self) -> Path:
        return self.folder / "physionet.org/files/chest-imagenome/1.0.0/silver_dataset"

    @property
    def zip(self) -> Path:
        return self.silver / "scene_graph.zip"

    def write(self, *, suffix: str = ".csv.gz") -> Path:
        for row in self.split:
            write_image(self.image(row))
        self.silver.mkdir(parents=True)
        write_rows(self.mimic / f"mimic-cxr-2.0.0-split{suffix}", self.split)
        write_rows(self.mimic / f"mimic-cxr-2.0.0-metadata{suffix}", self.metadata)
        write_zip(self.zip, self.graphs)
        return self.folder

    def image(self, row: Mapping[str, str]) -> Path:
        patient = f"p{row['subject_id']}"
        return self.mimic / "files" / patient[:3] / patient / f"s{row['study_id']}" / f"{row['dicom_id']}.jpg"


def write_zip(path: Path, graphs: Mapping[str, Any]) -> None:
    """A graph that is text is written as it is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, graph in graphs.items():
            content = graph if isinstance(graph, str) else json.dumps(graph)
            archive.writestr(f"scene_graph/{name}_SceneGraph.json", content)
