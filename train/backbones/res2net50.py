"""Res2Net-50, 26w x 4s (Gao et al., 2019): each block looks at four splits of its channels at growing scales.

Names of weights as in the authors' `res2net50_26w_4s`.
"""

import torch
from torch import nn

from chextriev.train.backbones.resnet50 import EXPANSION, ResNet50

SCALE, BASE_WIDTH = 4, 26


class Res2Bottleneck(nn.Module):
    """A bottleneck whose 3x3 convolution is a chain over `SCALE` splits.

    Split i passes through a convolution after the result of split i-1 was added; the last split passes unchanged. In
    the first block of a stage the splits are independent, and the last one is average-pooled (its size may halve).
    """

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.split = width * BASE_WIDTH // 64
        self.conv1 = nn.Conv2d(inputs, self.split * SCALE, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.split * SCALE)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.split, self.split, 3, stride, 1, bias=False) for _ in range(SCALE - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.split) for _ in range(SCALE - 1))
        self.conv3 = nn.Conv2d(self.split * SCALE, width * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * EXPANSION)
        self.downsample = downsample
        self.pool = None if downsample is None else nn.AvgPool2d(3, stride, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs, h, w] -> [n, 4 width, h/stride, w/stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        *splits, last = torch.split(torch.relu(self.bn1(self.conv1(x))), self.split, dim=1)
        scales: list[torch.Tensor] = []
        for split, convolution, norm in zip(splits, self.convs, self.bns, strict=True):
            before = split if self.pool is not None or not scales else split + scales[-1]
            scales.append(torch.relu(norm(convolution(before))))
        scales.append(last if self.pool is None else self.pool(last))
        return torch.relu(self.bn3(self.conv3(torch.cat(scales, dim=1))) + shortcut)


class Res2Net50(ResNet50):
    """Features [n, 2048]."""

    block = Res2Bottleneck
