"""A study table small enough for a test, with pictures whose findings can be learned."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.anatomy import Finding, Region
from chextriev.artifacts import Recipe, publishing, seal
from chextriev.radiograph import RegionBoxes
from chextriev.study_table import KIND, STUDY_FILE, StudyTable, read_study_table, write_study_parquet

HEIGHT, WIDTH = 120, 100


def boxes(shift: int = 0) -> RegionBoxes:
    """18 valid boxes, the right side of the patient on the left of the picture."""
    rows = []
    for region in Region:
        left = {"right": 5, "left": 55, None: 40}[region.side] + shift
        top = 5 + 4 * (int(region) % 7)
        rows.append([left, top, left + 35, top + 60])
    return RegionBoxes.from_rows(rows, where="tiny")


def write_tiny_table(folder: Path, *, per_split: tuple[int, int, int] = (12, 6, 8), seed: int = 0) -> StudyTable:
    """Write images and a study table; every second patient has a bright patch in the lungs, which is an opacity."""
    rng = np.random.default_rng(seed)
    names = [name for name, count in zip(("train", "validate", "test"), per_split, strict=True) for _ in range(count)]
    (folder / "images").mkdir(parents=True)
    table = make_tiny_table(names)
    for row, opaque in enumerate(table.image_findings[:, Finding.LUNG_OPACITY] == 1):
        Image.fromarray(_picture(rng, bool(opaque))).save(folder / str(table.path[row]), quality=90)
    with publishing(folder / "study", KIND) as scratch:
        write_study_parquet(table, scratch / STUDY_FILE)
        (scratch / "quarantine.csv").write_text("image_id,reason,detail\n")
        seal(scratch, KIND, Recipe({"seed": seed}), {"image_root": os.path.relpath(folder, scratch)})
    return read_study_table(folder / "study")


def make_tiny_table(splits: list[str]) -> StudyTable:
    """The columns: two images a patient, so that patients can be excluded."""
    count = len(splits)
    patient = np.arange(count) // 2
    region_findings = np.zeros((count, len(Region), len(Finding)), np.int8)
    region_findings[patient % 2 == 0, Region.RIGHT_LUNG, Finding.LUNG_OPACITY] = 1
    region_findings[patient % 3 == 0, Region.CARDIAC_SILHOUETTE, Finding.ENLARGED_CARDIAC_SILHOUETTE] = 1
    image_findings = region_findings.max(axis=1)
    image_findings[0, Finding.PNEUMONIA] = -1

    def column(values: object) -> npt.NDArray[np.object_]:
        return np.array(values, dtype=object)

    return StudyTable(
        image_id=column([f"image-{row:03d}" for row in range(count)]),
        study_id=column([f"study-{row:03d}" for row in range(count)]),
        patient_id=column([f"patient-{split}-{p}" for split, p in zip(splits, patient, strict=True)]),
        path=column([f"images/image-{row:03d}.jpg" for row in range(count)]),
        view=column(["AP" if row % 4 < 2 else "PA" for row in range(count)]),
        sex=column([("F", "M", None)[row % 3] for row in range(count)]),
        age=np.array([40 + row if row % 5 else -1 for row in range(count)], np.int16),
        width=np.full(count, WIDTH, np.int32),
        height=np.full(count, HEIGHT, np.int32),
        boxes_xyxy=np.stack([boxes(row % 3).xyxy for row in range(count)]),
        region_findings=region_findings,
        image_findings=image_findings,
        split=column(splits),
    )


def _picture(rng: np.random.Generator, opaque: bool) -> npt.NDArray[np.uint8]:
    pixels = rng.normal(110, 12, (HEIGHT, WIDTH))
    pixels[20:90, 10:40] += 90 if opaque else -60
    return np.clip(pixels, 0, 255).astype(np.uint8)


def as_mapping(boxes: RegionBoxes) -> dict[str, list[float]]:
    """The JSON form of boxes."""
    return {region.label: boxes.xyxy[region].tolist() for region in Region}
