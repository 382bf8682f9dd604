"""The encoder and, where it learns, the backbone of any system."""

from torch import Tensor, nn

from chextriev.systems import LOCALIZER, AnaxnetSpec, AthSpec, GlobalCnnSpec, LocalizerSpec, SystemSpec
from chextriev.train.anaxnet import AnaXNet
from chextriev.train.ath import ATH_BACKBONE, AthHead
from chextriev.train.backbones import BACKBONES, BackboneSpec
from chextriev.train.global_cnn import GlobalCnn
from chextriev.train.localizer_network import LocalizerHead, localizer_backbone
from chextriev.train.region_encoder import RegionEncoder

SystemEncoder = RegionEncoder | AnaXNet | GlobalCnn | AthHead | LocalizerHead


def new_encoder(spec: SystemSpec, feature_width: int, adjacency: Tensor | None = None) -> SystemEncoder:
    """A fresh encoder: backbone features [B, crops, feature_width] float32 -> EncoderOutput, or LocalizerOutput.

    adjacency: [18, 18] of 0 and 1, for the systems that have one; None links every pair of regions.
    """
    if isinstance(spec, GlobalCnnSpec):
        return GlobalCnn(spec, feature_width)
    if isinstance(spec, AthSpec):
        return AthHead(spec, feature_width)
    if isinstance(spec, LocalizerSpec):
        return LocalizerHead(spec, feature_width)
    if isinstance(spec, AnaxnetSpec):
        return AnaXNet(spec, feature_width, adjacency)
    return RegionEncoder(spec, feature_width, adjacency)


def find_backbone_spec(name: str) -> BackboneSpec:
    """A backbone by name, that of ATH and those of the localizer ("localizer-SIZE") included."""
    family, _, size = name.rpartition("-")
    if family == LOCALIZER.name and size.isdecimal():
        return localizer_backbone(int(size))
    return ATH_BACKBONE if name == ATH_BACKBONE.name else BACKBONES[name]


def set_adjacency(encoder: nn.Module, adjacency: Tensor) -> None:
    """Replace the adjacency [18, 18] of an encoder that has one."""
    encoder.adjacency.copy_(adjacency)  # type: ignore[operator]
