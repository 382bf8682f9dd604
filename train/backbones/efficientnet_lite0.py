"""EfficientNet-Lite0 (Google, 2020), whose ImageNet weights install as a package; input x / 127.5 - 1."""

from typing import Any

import torch
from torch.nn.functional import relu6

from chextriev.optional import require
from chextriev.train.backbones.trunk import Trunk, pooled


class EfficientNetLite0(Trunk):
    """Features [n, 1280]. Layers and names of weights are those of the package `efficientnet-lite-pytorch`."""

    stem = (("_conv_stem", "_bn0"),)

    def __init__(self) -> None:
        super().__init__()
        package = require("efficientnet_lite_pytorch", extra="train")
        network: Any = package.EfficientNet.from_name("efficientnet-lite0")
        self._conv_stem, self._bn0 = network._conv_stem, network._bn0
        self._blocks = network._blocks
        self._conv_head, self._bn1 = network._conv_head, network._bn1

    @staticmethod
    def own_name(published: str) -> str | None:
        """Everything but the classifier."""
        return None if published.startswith("_fc.") else published

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 3, 224, 224] -> [n, 1280]; the padding of its convolutions is made for 224 pixels."""
        maps = relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            maps = block(maps)
        return pooled(relu6(self._bn1(self._conv_head(maps))))
