"""Checkpoints of our own training: read without running code, refused in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chextriev.errors import ChextrievError, UnreadableCheckpoint
from chextriev.systems import SystemSpec, system_from_dict, trains_backbone
from chextriev.train.backbones import Backbone, backbone_digest
from chextriev.train.encoders import SystemEncoder, find_backbone_spec, new_encoder
from chextriev.train.torch_files import load_plain

_ENCODER, _BACKBONE = "encoder.", "backbone.extractor.trunk."

PROVENANCE = ("backbone", "backbone_digest", "crops_digest", "features_digest", "table_digest")


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder with its weights, and the digests of what it was trained on.

    backbone: the convolutions that were trained with it; None where they were frozen and are found by their digest.
    """

    encoder: SystemEncoder
    feature_width: int
    provenance: dict[str, str]
    backbone: Backbone | None = None

    @property
    def spec(self) -> SystemSpec:
        """What the encoder is."""
        return self.encoder.spec


def load_checkpoint(path: str | Path) -> TrainedEncoder:
    """Read a checkpoint written by `chextriev train fit`.

    Only tensors and plain values are accepted (`weights_only=True`); a truncated file, a pickle with code or other
    names raise UnreadableCheckpoint.
    """
    content = load_plain(Path(path))
    if not isinstance(content, dict):
        raise UnreadableCheckpoint(f"{path} holds a {type(content).__name__}; a checkpoint is a dictionary")
    try:
        settings = content["hyper_parameters"]
        spec = system_from_dict(settings["system"])
        encoder = new_encoder(spec, settings["feature_width"])
        state: dict[str, torch.Tensor] = content["state_dict"]
        encoder.load_state_dict(_under(state, _ENCODER))
        provenance = {key: str(settings["provenance"][key]) for key in PROVENANCE}
        backbone = _trained_backbone(provenance["backbone"], state) if trains_backbone(spec) else None
    except (KeyError, TypeError, AttributeError, RuntimeError, ChextrievError) as error:
        raise UnreadableCheckpoint(f"{path} is not a checkpoint of `chextriev train fit`: {error}") from error
    if backbone is not None:
        provenance["backbone_digest"] = backbone.digest
    return TrainedEncoder(encoder.eval(), settings["feature_width"], provenance, backbone)


def _trained_backbone(name: str, state: dict[str, torch.Tensor]) -> Backbone:
    spec = find_backbone_spec(name)
    module = spec.network()
    module.load_state_dict(_under(state, _BACKBONE))
    return Backbone(
        module.freeze(), spec, backbone_digest(spec, module, "trained with the encoder"), "of the checkpoint"
    )


def _under(state: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
