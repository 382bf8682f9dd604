"""ResNet-50 (He et al., 2016), stride in the 3x3 convolution; names of weights as in torchvision."""

import torch
from torch import nn

from chextriev.train.backbones.trunk import Trunk, pooled

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner width, number of blocks and stride of the first block, a stage."""
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * EXPANSION)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs, h, w] -> [n, 4 width, h/stride, w/stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = torch.relu(self.bn1(self.conv1(x)))
        inner = torch.relu(self.bn2(self.conv2(inner)))
        return torch.relu(self.bn3(self.conv3(inner)) + shortcut)


class ResNet50(Trunk):
    """Features [n, 2048]."""

    block: type[nn.Module] = Bottleneck
    stem = (("conv1", "bn1"),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for number, (width, blocks, stride) in enumerate(STAGES, start=1):
            self.add_module(f"layer{number}", self._stage(inputs, width, blocks, stride))
            inputs = width * EXPANSION

    def _stage(self, inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        outputs = width * EXPANSION
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        later = (self.block(outputs, width, 1, None) for _ in range(blocks - 1))
        return nn.Sequential(self.block(inputs, width, stride, shortcut), *later)

    @staticmethod
    def own_name(published: str) -> str | None:
        """Everything but the classifier."""
        return None if published.startswith("fc.") else published

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] -> [n, 2048]."""
        maps = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        for number in range(1, len(STAGES) + 1):
            maps = self.get_submodule(f"layer{number}")(maps)
        return pooled(maps)
