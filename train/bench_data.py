"""How fast the data stages are: scene graphs a second, and radiographs a second of the feature stage.

Everything runs in one process on data made for the purpose; engines take turns, so that their ratio compares like with
like. Figures are medians over the repeats.
"""

import csv
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.errors import InvalidSetting
from chextriev.machine import describe_machine, median_ratio
from chextriev.preprocess import CropSpec, region_crops
from chextriev.radiograph import read_pixels
from chextriev.study_table import StudyTable, read_study_table
from chextriev.train.backbones import Backbone, load_backbone
from chextriev.train.features import FeatureExtractor, FeatureSettings, compute_features
from chextriev.train.phantom.dataset import write_phantoms
from chextriev.train.phantom.scene_graph import write_scene_graphs
from chextriev.train.prepare import prepare
from chextriev.train.study_source import PrepareSettings

Engines = Mapping[str, Callable[[Backbone], FeatureExtractor]]
_DISTINCT = 200  # scene graphs that are generated; the others repeat them under other ids
_SIDE = "4000"  # pixels; large enough for every generated box


@dataclass(frozen=True)
class DataBenchSettings:
    """What is measured.

    scene_graphs: in the zip that `data prepare` reads. radiographs: of the feature stage, each `height` pixels high
    (MIMIC-CXR-JPG: about 2,500 to 3,000). batch: radiographs a call of the extractor.
    """

    scene_graphs: int = 6000
    radiographs: int = 12
    height: int = 2544
    backbone: str = "efficientnet-lite0"
    weights: str | None = None
    batch: int = 4
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("scene_graphs", "radiographs", "height", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"bench data: {name} is {getattr(self, name)}; at least 1 is needed")


def bench_data(settings: DataBenchSettings, engines: Engines) -> dict[str, Any]:
    """Measure; every value is JSON-able. The first engine is what the others are compared with (their `ratio`).

    engines: by name, what puts a backbone on an engine.
    """
    if not engines:
        raise InvalidSetting("bench data: no engine is given; give at least one")
    backbone = load_backbone(settings.backbone, weights=settings.weights)
    with TemporaryDirectory() as folder:
        prepared = _bench_prepare(settings, Path(folder))
        table = _large_radiographs(settings, Path(folder))
        extractors = {name: make(backbone) for name, make in engines.items()}
        return {
            "settings": asdict(settings),
            "machine": describe_machine(),
            "weights": backbone.weights_note,
            "prepare": prepared,
            "features": _bench_features(settings, table, extractors, Path(folder)),
        }


def _bench_prepare(settings: DataBenchSettings, folder: Path) -> dict[str, Any]:
    """Seconds of the whole of `data prepare`: listing, reading, checking, writing."""
    size = _write_layout(folder / "layout", settings.scene_graphs)
    forced = PrepareSettings(check_files=False, force=True)
    runs = [
        _seconds(partial(prepare, folder / "layout", folder / "study", settings=forced))
        for _ in range(settings.repeats)
    ]
    return {
        "scene_graphs_per_s": settings.scene_graphs / median(runs),
        "seconds": runs,
        "bytes_per_scene_graph": size // settings.scene_graphs,
    }


def _bench_features(
    settings: DataBenchSettings, table: StudyTable, extractors: Mapping[str, FeatureExtractor], folder: Path
) -> dict[str, Any]:
    """Radiographs a second: decoding and cropping in one thread, extraction alone, and the stage, by engine."""
    crops = np.concatenate([_crops(table, row % len(table)) for row in range(settings.batch)])[:, None]
    stage = FeatureSettings(batch=settings.batch)
    decoding = [_seconds(partial(_crop_all, table)) for _ in range(settings.repeats)]
    extraction: dict[str, list[float]] = {name: [] for name in extractors}
    whole: dict[str, list[float]] = {name: [] for name in extractors}
    for extractor in extractors.values():
        extractor.extract(crops)  # the first call allocates
    for repeat in range(settings.repeats):
        for name, extractor in extractors.items():
            extraction[name].append(_seconds(partial(extractor.extract, crops)))
            out = folder / f"features-{name}-{repeat}"
            whole[name].append(_seconds(partial(compute_features, table, out, extractor, settings=stage)))
    return {
        "image_pixels": [int(np.median(table.width)), int(np.median(table.height))],
        "decode_and_crop_per_s": len(table) / median(decoding),
        "extract_per_s": {name: settings.batch / median(runs) for name, runs in extraction.items()},
        "stage_per_s": {name: len(table) / median(runs) for name, runs in whole.items()},
        "ratio": _ratios(extraction),
    }


def _ratios(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """How many times faster than the first engine."""
    first = next(iter(seconds.values()))
    return {name: median_ratio(first, runs) for name, runs in seconds.items()}


def _crop_all(table: StudyTable) -> None:
    for row in range(len(table)):
        _crops(table, row)


def _crops(table: StudyTable, row: int) -> npt.NDArray[np.uint8]:
    return region_crops(read_pixels(table.image_path(row)), table.boxes(row), CropSpec())


def _large_radiographs(settings: DataBenchSettings, folder: Path) -> StudyTable:
    """Phantoms enlarged to the size of real radiographs."""
    write_phantoms(folder / "phantoms", patients=max(10, settings.radiographs), seed=0)
    prepare(folder / "phantoms", folder / "phantom-study")
    table = read_study_table(folder / "phantom-study")
    table = table.take(np.arange(settings.radiographs))
    scale = (settings.height / table.height).astype(np.float32)
    sizes = np.stack([np.round(table.width * scale), np.round(table.height * scale)], axis=1).astype(np.int32)
    for row, (width, height) in enumerate(sizes):
        picture = Image.fromarray(read_pixels(table.image_path(row))).resize((int(width), int(height)))
        picture.save(folder / f"{row}.jpg", quality=95)
    return replace(
        table,
        path=np.asarray([f"{row}.jpg" for row in range(len(table))], dtype=object),
        width=sizes[:, 0],
        height=sizes[:, 1],
        boxes_xyxy=table.boxes_xyxy * scale[:, None, None],
        image_root=folder,
    )


def _write_layout(root: Path, count: int) -> int:
    """Write a zip of scene graphs and the two tables that belong to it; bytes of all scene graphs, unpacked."""
    images, silver = root / "mimic-cxr-jpg", root / "silver_dataset"
    images.mkdir(parents=True)
    silver.mkdir()
    write_scene_graphs(root / "distinct.zip", min(count, _DISTINCT), seed=0)
    names, size = _repeat_members(root / "distinct.zip", silver / "scene_graph.zip", count)
    splits = [(name, f"{50_000_000 + i}", f"{10_000_000 + i}", "train") for i, name in enumerate(names)]
    _write_csv(images / "mimic-cxr-2.0.0-split.csv", ("dicom_id", "study_id", "subject_id", "split"), splits)
    shapes = [(name, "AP", _SIDE, _SIDE) for name in names]
    _write_csv(images / "mimic-cxr-2.0.0-metadata.csv", ("dicom_id", "ViewPosition", "Rows", "Columns"), shapes)
    return size


def _repeat_members(source: Path, target: Path, count: int) -> tuple[list[str], int]:
    """Copy scene graphs round and round, each under an id of its own; the ids and the bytes written."""
    names, size = [], 0
    with zipfile.ZipFile(source) as originals, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copies:
        members = originals.namelist()
        contents = [originals.read(member) for member in members]
        for index in range(count):
            member, content = members[index % len(members)], contents[index % len(members)]
            old = Path(member).name.removesuffix("_SceneGraph.json")
            new = f"{index:08x}{old[8:]}"
            content = content.replace(old.encode(), new.encode())
            copies.writestr(member.replace(old, new), content)
            names.append(new)
            size += len(content)
    return names, size


def _write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
