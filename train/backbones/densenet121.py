"""DenseNet-121 (Huang et al., 2017); names of weights as in torchvision, new (`norm1`) or old (`norm.1`)."""

import re

import torch
from torch import nn

from chextriev.train.backbones.trunk import Trunk, pooled

BLOCKS = (6, 12, 24, 16)
GROWTH, BOTTLENECK = 32, 4
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class DenseLayer(nn.Module):
    """Adds `GROWTH` channels to what came before."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, BOTTLENECK * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * GROWTH)
        self.conv2 = nn.Conv2d(BOTTLENECK * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs, h, w] -> [n, inputs + 32, h, w]."""
        inner = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat((x, self.conv2(torch.relu(self.norm2(inner)))), dim=1)


class DenseNet121(Trunk):
    """Features [n, 1024]."""

    stem = (("features.conv0", "features.norm0"),)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(64))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        channels = 64
        for number, layers in enumerate(BLOCKS, start=1):
            self.features.add_module(f"denseblock{number}", _dense_block(channels, layers))
            channels += layers * GROWTH
            if number < len(BLOCKS):
                self.features.add_module(f"transition{number}", _transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))

    @staticmethod
    def own_name(published: str) -> str | None:
        """Everything but the classifier, old names made new."""
        return None if published.startswith("classifier.") else _OLD_NAME.sub(r"\1\2", published)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] -> [n, 1024]."""
        return pooled(torch.relu(self.features(images)))


def _dense_block(channels: int, layers: int) -> nn.Sequential:
    block = nn.Sequential()
    for index in range(layers):
        block.add_module(f"denselayer{index + 1}", DenseLayer(channels + index * GROWTH))
    return block


def _transition(channels: int) -> nn.Sequential:
    transition = nn.Sequential()
    transition.add_module("norm", nn.BatchNorm2d(channels))
    transition.add_module("relu", nn.ReLU())
    transition.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
    transition.add_module("pool", nn.AvgPool2d(2, 2))
    return transition
