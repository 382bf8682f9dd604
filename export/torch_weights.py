"""The weights of a bundle's reference engine, as files of tensors and plain values."""

import io
from pathlib import Path
from typing import Any

import torch

from chextriev.errors import UnreadableCheckpoint
from chextriev.export.checkpoint import TrainedEncoder
from chextriev.systems import SystemSpec
from chextriev.train.backbones import Backbone, RegionExtractor, region_extractor
from chextriev.train.encoders import SystemEncoder, find_backbone_spec, new_encoder
from chextriev.train.torch_files import load_plain


def write_weights(trained: TrainedEncoder, backbone: Backbone, backbone_path: Path, encoder_path: Path) -> None:
    """Write both parts of the reference engine."""
    torch.save({"backbone": backbone.spec.name, "state": backbone.module.state_dict()}, backbone_path)
    torch.save({"feature_width": trained.feature_width, "state": trained.encoder.state_dict()}, encoder_path)


def read_weights(content: bytes, path: Path) -> dict[str, Any]:
    """The content of one such file, read without running code; UnreadableCheckpoint for anything else."""
    weights = load_plain(path, content=io.BytesIO(content))
    if not isinstance(weights, dict):
        raise UnreadableCheckpoint(f"{path} holds a {type(weights).__name__}; weights are a dictionary")
    return weights


def restore_backbone(weights: dict[str, Any]) -> RegionExtractor:
    """The extractor that `write_weights` was given, in eval mode."""
    return region_extractor(stored_backbone(weights))


def stored_backbone(weights: dict[str, Any]) -> Backbone:
    """The backbone that `write_weights` was given; its digest is that of its card and left out here."""
    spec = find_backbone_spec(weights["backbone"])
    module = spec.network()
    module.load_state_dict(weights["state"])
    return Backbone(module.freeze(), spec, digest="", weights_note="of the bundle")


def restore_encoder(spec: SystemSpec, weights: dict[str, Any]) -> SystemEncoder:
    """The encoder that `write_weights` was given, in eval mode."""
    encoder = new_encoder(spec, weights["feature_width"])
    encoder.load_state_dict(weights["state"])
    return encoder.eval()
