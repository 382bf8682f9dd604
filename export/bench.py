"""How fast an encoder is: eager PyTorch against the exported engines, in one run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chextriev.anatomy import N_REGIONS
from chextriev.errors import InvalidSetting
from chextriev.export.build_bundle import write_encoder, write_region_backbone
from chextriev.export.checkpoint import TrainedEncoder
from chextriev.export.onnx_runner import PROVIDERS, open_session
from chextriev.machine import describe_machine, median_ratio, time_in_turn
from chextriev.preprocess import region_crops
from chextriev.radiograph import RegionBoxes
from chextriev.systems import find_system
from chextriev.train.backbones import load_backbone, region_extractor
from chextriev.train.encoders import new_encoder


@dataclass(frozen=True)
class EncodeBenchSettings:
    """What is measured: one radiograph of height x width pixels to its embedding, `repeats` times.

    Random weights do not change the speed; they keep the measurement free of a download.
    """

    backbone: str = "resnet50"
    weights: str | None = "random:0"
    system: str = "v6"
    device: str = "cpu"
    height: int = 3000
    width: int = 2500
    repeats: int = 5

    def __post_init__(self) -> None:
        if self.device not in PROVIDERS:
            raise InvalidSetting(f"bench encode: device {self.device!r}; choose one of {', '.join(PROVIDERS)}")
        if min(self.height, self.width, self.repeats) < 1:
            raise InvalidSetting("bench encode: height, width and repeats are at least 1")


def bench_encode(settings: EncodeBenchSettings) -> dict[str, Any]:
    """Milliseconds (medians) of each part in PyTorch and in ONNX Runtime, and their ratios; JSON-able."""
    pixels, boxes = _radiograph(settings)
    parts: dict[str, Callable[[], object]] = {"crops": lambda: region_crops(pixels, boxes)}
    crops = region_crops(pixels, boxes)[:, np.newaxis]
    parts |= _torch_parts(settings, crops) | _onnx_parts(settings, crops)
    seconds = time_in_turn(parts, repeats=settings.repeats)
    whole = {
        engine: [
            sum(times)
            for times in zip(seconds["crops"], *(seconds[f"{engine} {part}"] for part in _PARTS), strict=True)
        ]
        for engine in ("torch", "onnx")
    }
    return {
        "settings": asdict(settings),
        "machine": describe_machine(),
        "ms": {name: 1000 * median(times) for name, times in (seconds | whole).items()},
        "onnx_times_faster": {
            **{part: median_ratio(seconds[f"torch {part}"], seconds[f"onnx {part}"]) for part in _PARTS},
            "end_to_end": median_ratio(whole["torch"], whole["onnx"]),
        },
    }


_PARTS = ("backbone", "encoder")


def _modules(settings: EncodeBenchSettings) -> tuple[Any, TrainedEncoder]:
    backbone = load_backbone(settings.backbone, weights=settings.weights)
    torch.manual_seed(0)
    encoder = new_encoder(find_system(settings.system), backbone.spec.width).eval()
    return backbone, TrainedEncoder(encoder, backbone.spec.width, {})


def _torch_parts(settings: EncodeBenchSettings, crops: npt.NDArray[np.uint8]) -> dict[str, Callable[[], object]]:
    backbone, trained = _modules(settings)
    extractor = region_extractor(backbone).to(settings.device)
    encoder = trained.encoder.to(settings.device)
    features = torch.zeros(1, N_REGIONS, trained.feature_width, device=settings.device)

    @torch.inference_mode()
    def run_backbone() -> object:
        return extractor(torch.from_numpy(crops).to(settings.device)).cpu()

    @torch.inference_mode()
    def run_encoder() -> object:
        return encoder(features).embedding.cpu()

    return {"torch backbone": run_backbone, "torch encoder": run_encoder}


def _onnx_parts(settings: EncodeBenchSettings, crops: npt.NDArray[np.uint8]) -> dict[str, Callable[[], object]]:
    backbone, trained = _modules(settings)
    with TemporaryDirectory() as folder:
        paths = Path(folder) / "backbone.onnx", Path(folder) / "encoder.onnx"
        write_region_backbone(backbone, paths[0])
        write_encoder(trained, paths[1])
        extractor, encoder = (open_session(path.read_bytes(), settings.device) for path in paths)
    features = np.zeros((1, N_REGIONS, trained.feature_width), np.float32)
    return {
        "onnx backbone": lambda: extractor.run(None, {"crops": crops}),
        "onnx encoder": lambda: encoder.run(["embedding"], {"features": features}),
    }


def _radiograph(settings: EncodeBenchSettings) -> tuple[npt.NDArray[np.uint8], RegionBoxes]:
    rng = np.random.default_rng(0)
    size = np.array([settings.width, settings.height])
    corners = rng.uniform(0, 0.6, (N_REGIONS, 2)) * size
    boxes = np.concatenate([corners, corners + rng.uniform(0.15, 0.4, (N_REGIONS, 2)) * size], axis=1)
    pixels = rng.integers(0, 255, (settings.height, settings.width), np.uint8)
    return pixels, RegionBoxes(boxes.astype(np.float32))
