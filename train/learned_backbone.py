"""A backbone that learns together with the encoder, from grey crops."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chextriev.systems import AthSpec, LocalizerSpec, SystemSpec
from chextriev.train.ath import ATH_BACKBONE, AthTrunk
from chextriev.train.backbones import Backbone, RegionExtractor, load_backbone
from chextriev.train.localizer_network import LocalizerTrunk, localizer_backbone

CROPS_AT_ONCE = 36
"""Two radiographs: the activations of so many crops are in memory, whatever the batch."""


class LearnedBackbone(nn.Module):
    """Grey crops to features, by convolutions with gradients.

    recompute: drop the activations of each 36 crops and compute them again in the backward pass, which trades a third
    more arithmetic for memory that does not grow with the batch. Only for convolutions whose batch norm keeps its
    statistics: that of others needs the whole batch.
    """

    def __init__(self, extractor: RegionExtractor, *, size: int, recompute: bool) -> None:
        super().__init__()
        self.extractor, self.size, self.recompute = extractor, size, recompute
        extractor.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, crops: Tensor) -> Tensor:
        """[B, crops, size * size] uint8 -> [B, crops, width] float32."""
        flat = crops.reshape(-1, 1, self.size, self.size)
        if not self.extractor.trunk.frozen:
            return cast(Tensor, self.extractor(flat)).reshape(*crops.shape[:2], -1)
        parts = [self._features(part) for part in torch.split(flat, CROPS_AT_ONCE)]
        return torch.cat(parts).reshape(*crops.shape[:2], -1)

    def _features(self, crops: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self.extractor, crops, use_reentrant=False))
        return cast(Tensor, self.extractor(crops))


def new_learned_backbone(
    spec: SystemSpec, *, name: str, weights: str | None = None, recompute: bool = True
) -> tuple[LearnedBackbone, Backbone]:
    """The convolutions of a system that trains them, and what they start from.

    ATH has convolutions of its own, from random weights; the localizer adds some to those of EfficientNet-Lite0, whose
    `weights` it takes; the others fine-tune the backbone `name` from `weights`, as
    for `load_backbone`.
    """
    if isinstance(spec, AthSpec):
        start = Backbone(AthTrunk(), ATH_BACKBONE, digest="", weights_note="random")
    elif isinstance(spec, LocalizerSpec):
        start = _localizer_start(spec, weights)
    else:
        start = load_backbone(name, weights=weights)
        start.module.fine_tune()
    learned = LearnedBackbone(RegionExtractor(start), size=spec.crops.size, recompute=recompute)
    return learned, start


def _localizer_start(spec: LocalizerSpec, weights: str | None) -> Backbone:
    """The localizer's convolutions: published where there are such, fresh where they are its own.

    Only those of its own are not in the digest: they depend on the seed, which is among the settings of a run.
    """
    published, trunk = load_backbone("efficientnet-lite0", weights=weights), LocalizerTrunk()
    trunk.lite0.load_state_dict(published.module.state_dict(), strict=False)  # all but its last convolution
    trunk.freeze().fine_tune()
    return Backbone(trunk, localizer_backbone(spec.size), published.digest, published.weights_note)
