"""What `chextriev bench encode` measures: a radiograph's file, and a real bundle of untrained weights with its engines.

Random weights do not change the speed; they keep the measurement free of a download and of data.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from chextriev.anatomy import N_REGIONS, Region
from chextriev.artifacts import Recipe, seal
from chextriev.bundle import CARD_FILE, DEFAULT, KIND, PARTS, REGION_BACKBONE, EncoderBundle, EngineRecord, open_bundle
from chextriev.errors import InvalidSetting
from chextriev.export.build_bundle import publish_bundle
from chextriev.export.checkpoint import TrainedEncoder
from chextriev.export.onnx_runner import PROVIDERS
from chextriev.export.qdq_for_tensorrt import to_float16
from chextriev.export.quantize import CalibrationSettings, QuantizedBackbone
from chextriev.export.tensorrt_machine import this_machine
from chextriev.export.tensorrt_runner import plan_entry
from chextriev.export.to_tensorrt import backbone_settings, build_plan, encoder_settings
from chextriev.radiograph import RegionBoxes
from chextriev.train.backbones import Backbone, load_backbone
from chextriev.train.encoders import new_encoder
from chextriev.variants import VARIANTS, VariantSpec

JPEG_QUALITY = 95
"""That of MIMIC-CXR-JPG; https://physionet.org/content/mimic-cxr-jpg/2.1.0/."""

CALIBRATION = CalibrationSettings(crops=36)
"""Ranges decide on answers, not on speed, so few crops do."""


@dataclass(frozen=True)
class EncodeBenchSettings:
    """What is measured: a radiograph of height x width pixels to its embedding, `repeats` times.

    batch: radiographs at once where throughput is measured. starts: fresh processes whose memory and cold start are
    measured.
    """

    backbone: str = "resnet50"
    weights: str | None = "random:0"
    system: VariantSpec = VARIANTS["v6"]
    device: str = "cpu"
    height: int = 3000
    width: int = 2500
    batch: int = 8
    repeats: int = 7
    starts: int = 3

    def __post_init__(self) -> None:
        if self.device not in PROVIDERS:
            raise InvalidSetting(f"bench encode: device {self.device!r}; choose one of {', '.join(PROVIDERS)}")
        if min(self.height, self.width, self.batch, self.repeats, self.starts) < 1:
            raise InvalidSetting("bench encode: height, width, batch, repeats and starts are at least 1")


@dataclass(frozen=True)
class Sample:
    """A radiograph on disk. image: a grey JPEG file. boxes_file: the boxes as JSON, for `read_boxes`."""

    image: Path
    boxes_file: Path
    boxes: RegionBoxes


@dataclass(frozen=True)
class Subject:
    """Everything that is measured: a radiograph, the weights, and the bundle made of them."""

    sample: Sample
    backbone: Backbone
    trained: TrainedEncoder
    bundle: EncoderBundle


def make_subject(folder: Path, settings: EncodeBenchSettings, engines: Sequence[str]) -> Subject:
    """Write a radiograph and a bundle with these engines, besides those that every bundle has, into an empty folder."""
    backbone = load_backbone(settings.backbone, weights=settings.weights)
    torch.manual_seed(0)
    encoder = new_encoder(settings.system, backbone.spec.width).eval()
    trained = TrainedEncoder(encoder, backbone.spec.width, {})
    return Subject(
        write_sample(folder, settings), backbone, trained, make_bundle(folder / "bundle", backbone, trained, engines)
    )


def write_sample(folder: Path, settings: EncodeBenchSettings) -> Sample:
    """Smooth shades with the grain of a detector: at 3000 x 2500 pixels 1.9 MB, as radiographs of that size take.

    The 18 boxes cover 1.4 times the image's area together, about what the regions of a chest do.
    """
    rng = np.random.default_rng(0)
    shape, size = (settings.height, settings.width), (settings.width, settings.height)
    shades = _smooth(rng.uniform(40, 215, (shape[0] // 100 + 2, shape[1] // 100 + 2)).astype(np.float32), size)
    pixels = np.clip(shades + rng.normal(0, 2.5, shape), 0, 255).astype(np.uint8)
    image, boxes_file = folder / "radiograph.jpg", folder / "boxes.json"
    Image.fromarray(pixels).save(image, quality=JPEG_QUALITY)
    corners = rng.uniform(0, 0.6, (N_REGIONS, 2)) * size
    xyxy = np.concatenate([corners, corners + rng.uniform(0.15, 0.4, (N_REGIONS, 2)) * size], axis=1)
    rows = xyxy.astype(np.float32).tolist()
    boxes_file.write_text(json.dumps({region.label: row for region, row in zip(Region, rows, strict=True)}))
    return Sample(image, boxes_file, RegionBoxes.from_rows(rows, where=str(boxes_file)))


def make_bundle(directory: Path, backbone: Backbone, trained: TrainedEncoder, engines: Sequence[str]) -> EncoderBundle:
    """A bundle with these engines besides those that every bundle has; no gate has seen them."""
    publish_bundle(directory, Recipe(), trained, backbone, training={})
    for name in engines:
        bundle = open_bundle(directory)
        record, files = _MAKERS[name](bundle)
        for file, content in files.items():
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (directory / file).write_bytes(content)
        (directory / CARD_FILE).write_text(bundle.card.with_engine(name, record).to_json())
        seal(directory, KIND, bundle.manifest.recipe)
    return open_bundle(directory)


Made = tuple[EngineRecord, dict[str, bytes]]


def _int8(bundle: EncoderBundle) -> Made:
    size = bundle.card.crops.size
    rng = np.random.default_rng(1)
    coarse = rng.uniform(0, 255, (CALIBRATION.crops, size // 16, size // 16)).astype(np.float32)
    crops = np.stack([np.clip(_smooth(shades, (size, size)), 0, 255).astype(np.uint8) for shades in coarse])
    engine = QuantizedBackbone(_float32(bundle, REGION_BACKBONE), crops[:, np.newaxis], CALIBRATION).make()
    return _stored(bundle, "onnx-int8", {REGION_BACKBONE: engine})


def _fp16(bundle: EncoderBundle) -> Made:
    return _stored(bundle, "onnx-fp16", {part: to_float16(_float32(bundle, part)) for part in PARTS})


def _tensorrt_fp16(bundle: EncoderBundle) -> Made:
    here, crops = this_machine(), bundle.card.crops.count
    settings = dict(zip(PARTS, (backbone_settings(crops), encoder_settings()), strict=True))
    files = {part: f"tensorrt-fp16/{here.folder}/{part}.plan" for part in PARTS}
    plans = {files[part]: build_plan(to_float16(_float32(bundle, part)), settings[part]) for part in PARTS}
    sources = bundle.engine(DEFAULT).files
    return EngineRecord(sources, {}, plans={here.folder: plan_entry(here, files)}), plans


_MAKERS = {"onnx-int8": _int8, "onnx-fp16": _fp16, "tensorrt-fp16": _tensorrt_fp16}


def _float32(bundle: EncoderBundle, part: str) -> bytes:
    return bundle.read(bundle.engine(DEFAULT).files[part])


def _stored(bundle: EncoderBundle, name: str, parts: dict[str, bytes]) -> Made:
    """The record of an engine of these parts; what is not among them is that of the float32 engine."""
    own = {part: f"{name}/{part}.onnx" for part in parts}
    record = EngineRecord({**bundle.engine(DEFAULT).files, **own})
    return record, {own[part]: content for part, content in parts.items()}


def _smooth(shades: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Coarse shades [h, w] at another size (width, height)."""
    resized: Any = Image.fromarray(shades).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)
