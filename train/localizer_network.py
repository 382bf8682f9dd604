"""The anatomy localizer: convolutions that keep where things are, and a head whose positions vote for box sides.

The convolutions are EfficientNet-Lite0's from their published weights, its three finest useful stages brought together
at 14 x 14 positions (for 224 pixels). Each of the 72 box sides is an expectation: every position has a weight (a
softmax over positions) and a vote (its own place and a learned step from there). Source: the soft-argmax of Nibali et
al., Numerical coordinate regression with convolutional neural networks (2018), with the votes of Xiong et al., A2J
(ICCV 2019). It needs few examples, because one map serves every place that a side may have.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from chextriev.anatomy import N_REGIONS
from chextriev.localizer import MEAN_LAYOUT
from chextriev.systems import LOCALIZER, LocalizerSpec
from chextriev.train.backbones import BackboneSpec
from chextriev.train.backbones.efficientnet_lite0 import EfficientNetLite0
from chextriev.train.backbones.trunk import Trunk

STRIDE = 16
"""Pixels of the image between the positions of the map."""
CHANNELS = 96
"""Numbers a position."""
SIDES = 4 * N_REGIONS
"""Box sides, as the corners x1, y1, x2, y2 of each region."""
_STAGES = (4, 10, 15)  # the last block of each stage, at strides of 8, 16 and 32 pixels
_STAGE_CHANNELS = (40, 112, 320)
_KEPT_BLOCKS = 3  # a third of a training step, at full resolution
_NEAR = 0.12  # how far from the mean layout's side a fresh network looks, as a share of the image
_LEAST = 1e-3  # of width and height: the softplus rounds to 0 where sides have crossed
_SHARPNESS = 100.0  # of the softplus that keeps widths above 0: it moves no width above .05 by more than .0001


class LocalizerOutput(NamedTuple):
    """What a localizer says about B radiographs.

    region_boxes [B, 18, 4]: corners x1, y1, x2, y2 as fractions of width and height; x1 < x2 and y1 < y2, and a side
    may lie past the border. box_confidence [B, 18] in 0..1: the IoU that each box is expected to have.
    """

    region_boxes: Tensor
    box_confidence: Tensor


class LocalizerTrunk(Trunk):
    """Normalised images [n, 3, size, size] -> 96 numbers at each of (size / 16)^2 positions, as [n, width]."""

    stem = (("lite0._conv_stem", "lite0._bn0"),)

    def __init__(self) -> None:
        super().__init__()
        self.lite0 = EfficientNetLite0()
        del self.lite0._conv_head, self.lite0._bn1
        self.lateral = nn.ModuleList(nn.Conv2d(channels, CHANNELS, 1) for channels in _STAGE_CHANNELS)
        self.join = nn.Sequential(
            nn.ReLU6(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 1),
            nn.ReLU6(),
        )

    def fine_tune(self) -> Self:
        """Let all weights learn but those before the second stage, which see edges; batch norm keeps its statistics."""
        super().fine_tune()
        for kept in (self.lite0._conv_stem, self.lite0._bn0, self.lite0._blocks[:_KEPT_BLOCKS]):
            kept.requires_grad_(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, size, size] float32, size a multiple of 32 -> [n, width], channels first."""
        lite0, maps = self.lite0, list[Tensor]()
        x = functional.relu6(lite0._bn0(lite0._conv_stem(images)))
        for number, block in enumerate(lite0._blocks):
            x = block(x)
            if number in _STAGES:
                maps.append(self.lateral[len(maps)](x))
        fine, middle, coarse = maps
        joined = functional.avg_pool2d(fine, 2) + middle + functional.interpolate(coarse, scale_factor=2.0)
        features: Tensor = self.join(joined)
        return features.flatten(1)


def localizer_backbone(size: int = LOCALIZER.size) -> BackboneSpec:
    """The localizer's convolutions for images of this size; trained with its head, never loaded by themselves."""
    width = CHANNELS * (size // STRIDE) ** 2
    return BackboneSpec(
        f"{LOCALIZER.name}-{size}", width, LocalizerTrunk, weights_file="", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


class LocalizerHead(nn.Module):
    """Box sides as expectations over positions, corrected by what the sides say of each other, and a confidence."""

    adjacency = None
    places: Tensor
    layout: Tensor

    def __init__(self, spec: LocalizerSpec, feature_width: int) -> None:
        super().__init__()
        self.spec, positions = spec, feature_width // CHANNELS
        grid = round(positions**0.5)
        steps = (torch.arange(grid) + 0.5) / grid
        down, across = (axis.flatten() for axis in torch.meshgrid(steps, steps, indexing="ij"))
        layout = torch.from_numpy(MEAN_LAYOUT)  # [18, 4]
        self.register_buffer("places", torch.stack([across, down]).repeat(SIDES // 2, 1), persistent=False)
        self.register_buffer("layout", layout.flatten(), persistent=False)
        self.weigh = nn.Conv1d(CHANNELS, SIDES, 1)
        self.step = nn.Conv1d(CHANNELS, SIDES, 1)
        self.prior = nn.Parameter(_near_layout(layout, across, down))
        self.relate = nn.Linear(SIDES, SIDES)
        self.sure = nn.Linear(CHANNELS, N_REGIONS)
        self.sure_of_votes = nn.Parameter(torch.zeros(N_REGIONS, 4))
        for layer in (self.weigh, self.step, self.relate, self.sure):
            nn.init.normal_(layer.weight, std=0.01 if layer in (self.weigh, self.step) else 0.0)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> LocalizerOutput:
        """Features of the trunk [B, 1, width] float32, or without the dimension of one crop."""
        maps = features.reshape(-1, CHANNELS, self.places.shape[1])  # [B, 96, positions]
        weights = torch.softmax(self.weigh(maps) + self.prior, dim=2)  # [B, 72, positions]
        votes = self.places + self.step(maps)
        sides = (weights * votes).sum(dim=2)  # [B, 72]
        spread = (weights * (votes - sides[..., None]) ** 2).sum(dim=2)
        sides = sides + self.relate(sides - self.layout)
        return LocalizerOutput(_boxes(sides), self._confidence(maps.detach(), spread.detach()))

    def _confidence(self, maps: Tensor, spread: Tensor) -> Tensor:
        """[B, 18] from what is seen and how far apart the votes lie; it teaches neither."""
        apart = torch.log(spread.reshape(-1, N_REGIONS, 4) + 1e-6)
        return torch.sigmoid(self.sure(maps.mean(dim=2)) + (apart * self.sure_of_votes).sum(dim=2))


def _boxes(sides: Tensor) -> Tensor:
    """[B, 72] sides -> [B, 18, 4] corners, each box with an area."""
    low, high = sides.reshape(-1, N_REGIONS, 2, 2).unbind(dim=2)
    extent = functional.softplus((high - low) * _SHARPNESS) / _SHARPNESS
    return torch.cat([low, low + extent.clamp(min=_LEAST)], dim=2)


def _near_layout(layout: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """[72, positions]: scores that fall with the distance from the middle of each side of the layout [18, 4]."""
    x1, y1, x2, y2 = layout.T
    x = torch.stack([x1, (x1 + x2) / 2, x2, (x1 + x2) / 2], dim=1).reshape(-1, 1)
    y = torch.stack([(y1 + y2) / 2, y1, (y1 + y2) / 2, y2], dim=1).reshape(-1, 1)
    return -((across - x) ** 2 + (down - y) ** 2) / (2 * _NEAR**2)
