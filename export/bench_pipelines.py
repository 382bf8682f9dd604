"""The ways from a radiograph's file to its embedding that `chextriev bench encode` compares, each in its parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from chextriev.bundle import REFERENCE, EncoderBundle
from chextriev.encoder import Encoder
from chextriev.errors import MissingDependency
from chextriev.export.bench_baseline import PlainPipeline
from chextriev.export.bench_bundle import Sample
from chextriev.export.tensorrt_machine import find_tensorrt
from chextriev.export.torch_runner import TorchEncoder
from chextriev.preprocess import region_crops
from chextriev.radiograph import Radiograph, read_pixels, read_radiograph

Work = Callable[[], object]

READING = ("decode", "crops")
PARTS = (*READING, "backbone", "encoder", "end_to_end")
"""Of every pipeline; the last is one radiograph's file to its embedding, not the sum of the others."""


@dataclass(frozen=True)
class Pipeline:
    """parts: by the names of PARTS, one radiograph each. several: as many radiographs as asked for, in batches."""

    parts: Mapping[str, Work]
    several: Work


def plain_pipeline(plain: PlainPipeline, sample: Sample, *, batch: int, batches: int) -> Pipeline:
    """The published eager pipeline; one step after the other, as it is."""
    source = sample.image, sample.boxes
    image = plain.decode(sample.image)
    crops = plain.crops(image, sample.boxes)
    features = plain.features(crops)[None]
    parts: dict[str, Work] = {
        "decode": lambda: plain.decode(sample.image),
        "crops": lambda: plain.crops(image, sample.boxes),
        "backbone": lambda: plain.features(crops).cpu(),
        "encoder": lambda: plain.embedding(features),
        "end_to_end": lambda: plain.encode([source]),
    }
    return Pipeline(parts, lambda: [plain.encode([source] * batch) for _ in range(batches)])


def engine_pipeline(encoder: Encoder, sample: Sample, *, batch: int, batches: int) -> Pipeline:
    """An engine as it serves: the next batch is read and cropped in threads while this one is encoded."""
    pixels = read_pixels(sample.image)
    crops = region_crops(pixels, sample.boxes)
    features = encoder.extract(crops)[None]

    def read() -> Radiograph:
        return read_radiograph(sample.image, sample.boxes)

    parts: dict[str, Work] = {
        "decode": lambda: read_pixels(sample.image),
        "crops": lambda: region_crops(pixels, sample.boxes),
        "backbone": lambda: encoder.extract(crops),
        "encoder": lambda: encoder.relate(features, ["radiograph"]),
        "end_to_end": lambda: list(encoder.stream([read], batch=1)),
    }
    return Pipeline(parts, lambda: list(encoder.stream([read] * (batch * batches), batch=batch)))


class TorchOnGpu(TorchEncoder):
    """The reference engine on a GPU, made faster by PyTorch's own means: float16 by autocast, compiled, or both."""

    def __init__(self, bundle: EncoderBundle, *, half: bool, compiled: bool) -> None:
        super().__init__(bundle, engine=REFERENCE, device="cuda")
        self._half = half
        if compiled:
            self._extractor = torch.compile(self._extractor, dynamic=False)  # type: ignore[assignment]
            self._encoder = torch.compile(self._encoder, dynamic=False)  # type: ignore[assignment]

    def _features(self, crops: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.autocast("cuda", torch.float16, enabled=self._half):
            return super()._features(crops)

    def _outputs(self, features: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        with torch.autocast("cuda", torch.float16, enabled=self._half):
            return super()._outputs(features)


def torch_on_gpu(bundle: EncoderBundle) -> dict[str, Encoder]:
    """What the GPU's engines are compared with, by name."""
    return {
        f"torch-{'compile' if compiled else 'eager'}-{'fp16' if half else 'fp32'}": TorchOnGpu(
            bundle, half=half, compiled=compiled
        )
        for half in (False, True)
        for compiled in (False, True)
    }


def engines_for(device: str) -> list[str]:
    """Engines to be made besides onnx-fp32: what a device is good for, and what is installed."""
    if device == "cpu":
        return ["onnx-int8"]
    try:
        runtime = find_tensorrt().runtime
    except MissingDependency:
        return ["onnx-fp16"]
    return ["onnx-fp16", "tensorrt-fp16"] if runtime == "tensorrt" else ["onnx-fp16"]
