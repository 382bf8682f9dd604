"""Checkpoints of the published code as encoders of ours.

Such a file is Lightning's: a dictionary with `state_dict`. Only tensors are read, without running code, and nothing in
it is trusted: every name, shape and value is checked before it is used, and all that is wrong is said at once.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chextriev.errors import UnreadableCheckpoint
from chextriev.export.reference_names import ReferenceNames, published_tensors, reference_names
from chextriev.export.reference_weights import State, check, fill
from chextriev.systems import AthSpec, SystemSpec, find_system
from chextriev.train.ath import ATH_BACKBONE
from chextriev.train.backbones import BACKBONES, Backbone, BackboneSpec, backbone_digest
from chextriev.train.backbones.trunk import Trunk
from chextriev.train.encoder_output import EncoderOutput
from chextriev.train.encoders import SystemEncoder, new_encoder
from chextriev.train.torch_files import load_plain


class ImportedEncoder(nn.Module):
    """A published encoder in eval mode, its weights frozen.

    encoder: features to answers. backbone: the convolutions of the file, with their identity, and trunk: the same as a
    module; None where the file holds a head alone. unused: the names of the file, sorted, that the published code has
    and that no answer depends on. feature_width: D, numbers a crop.
    """

    def __init__(
        self, encoder: SystemEncoder, backbone: Backbone | None, *, feature_width: int, unused: list[str]
    ) -> None:
        super().__init__()
        self.encoder, self.backbone = encoder, backbone
        self.trunk: Trunk | None = None if backbone is None else backbone.module
        self.feature_width, self.unused = feature_width, unused
        self.requires_grad_(False)
        self.eval()

    @property
    def spec(self) -> SystemSpec:
        """What the encoder is."""
        return self.encoder.spec

    def forward(self, features: Tensor) -> EncoderOutput:
        """Backbone features [B, 18, D] float32; [B, D] or [B, 1, D] for global-cnn.

        ATH, of which the backbone is a part, takes normalised images [B, 3, 256, 256].
        """
        if self.trunk is not None and isinstance(self.spec, AthSpec):
            features = self.trunk(features)
        output: EncoderOutput = self.encoder(features)
        return output


def import_checkpoint(path: str | Path, system: str) -> ImportedEncoder:
    """Read a checkpoint of the published code as the system that it was trained as.

    The tensors do not say which system that is: v4, v4-local, v6 and v6-e2e have the same. The adjacency is that of the
    file, complete where it has none. The first projection tells the width of the backbone; a file without any weight of
    a backbone is a head.

    Raises UnknownSystem; UnreadableCheckpoint for a file that is truncated, is no checkpoint, or holds more than
    tensors and plain values; MismatchedWeights, which lists every name that is missing, extra, misshaped or of
    senseless values.
    """
    spec = find_system(system)
    state = _read_state(Path(path))
    names = reference_names(spec)
    width = names.feature_width(state)
    encoder = new_encoder(spec, width)
    wanted = published_tensors(encoder, names.encoder)
    found = _new_trunk(spec, names, width, [name for name in state if name not in wanted])
    if found is not None:
        wanted |= published_tensors(found[1], names.trunk)
    unused = sorted(name for name in state if name not in wanted and names.is_unused(name))
    extra = [name for name in state if name not in wanted and name not in unused]
    check(state, wanted, extra=extra, where=f"{path} does not fit system {system}")
    fill(wanted, state)
    backbone = None if found is None else _frozen(*found)
    return ImportedEncoder(encoder, backbone, feature_width=width, unused=unused)


def _read_state(path: Path) -> State:
    if not path.is_file():
        raise UnreadableCheckpoint(f"there is no checkpoint {path}; give a .ckpt file of the published code")
    content: Any = load_plain(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UnreadableCheckpoint(f"{path} is not a checkpoint: a dictionary with a `state_dict` is needed")
    strange = [str(name) for name, value in state.items() if not (isinstance(name, str) and _is_dense(value))]
    if strange:
        raise UnreadableCheckpoint(f"{path}: only dense tensors belong in a state_dict, unlike {', '.join(strange)}")
    return state


def _is_dense(value: object) -> bool:
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout is torch.strided and value.device.type == "cpu"


def _new_trunk(
    spec: SystemSpec, names: ReferenceNames, width: int, given: list[str]
) -> tuple[BackboneSpec, Trunk] | None:
    """The backbone of this width to which most of the given names belong, without their weights; None for a head."""
    if isinstance(spec, AthSpec):
        return ATH_BACKBONE, ATH_BACKBONE.network()
    if not any(name.startswith(names.trunk_prefix) and not names.is_unused(name) for name in given):
        return None
    candidates = [choice for choice in BACKBONES.values() if choice.width == width]
    with torch.device("meta"):
        tensors = [published_tensors(choice.network(), names.trunk) for choice in candidates]
    shared = [len(found.keys() & set(given)) for found in tensors]
    chosen = candidates[shared.index(max(shared))]
    return (chosen, chosen.network()) if max(shared) > 0 else None


def _frozen(spec: BackboneSpec, trunk: Trunk) -> Backbone:
    return Backbone(trunk.freeze(), spec, backbone_digest(spec, trunk, "imported"), "of the imported checkpoint")
