"""Attention-based triplet hashing: a small residual network, and a hash and findings of what it sees.

Source: Fang et al., Deep triplet hashing network for case-based medical image retrieval (Medical Image Analysis 2021),
as the CheXtriev code sets it up: 48,394 parameters.
"""

import torch
from torch import Tensor, nn

from chextriev.anatomy import N_FINDINGS
from chextriev.systems import AthSpec
from chextriev.train.backbones import BackboneSpec
from chextriev.train.backbones.trunk import Trunk
from chextriev.train.encoder_output import EncoderOutput


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 3x3 shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolution(inputs, outputs, 2),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _convolution(outputs, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(_convolution(inputs, outputs, 2), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h/2, w/2]."""
        return torch.relu(self.inner(x) + self.shortcut(x))


class SpatialAttention(nn.Module):
    """Weigh each position by what a convolution makes of its mean and its maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = _convolution(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w], unchanged in shape."""
        seen = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.weigh(seen))


class AthTrunk(Trunk):
    """Normalised images [n, 3, 256, 256] -> 32 x 32 positions as features [n, 1024]."""

    stem = (("block1.inner.0", "block1.inner.1"), ("block1.shortcut.0", "block1.shortcut.1"))

    def __init__(self) -> None:
        super().__init__()
        self.block1 = ResidualBlock(3, 16)
        self.maximum = nn.MaxPool2d(3, 1, 1)
        self.attention = SpatialAttention()
        self.block2 = ResidualBlock(16, 8)
        self.average = nn.AvgPool2d(3, 1, 1)
        self.block3 = ResidualBlock(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, 256, 256] float32 -> [n, 1024]."""
        maps = self.attention(self.maximum(self.block1(images)))
        features: Tensor = self.block3(self.average(self.block2(maps)))
        return features.flatten(1)


ATH_BACKBONE = BackboneSpec("ath", 1024, AthTrunk, weights_file="")
"""Trained with the rest, never loaded from a published file by itself."""


class AthHead(nn.Module):
    """The hash and the findings, each one linear map of the features."""

    adjacency = None

    def __init__(self, spec: AthSpec, feature_width: int) -> None:
        super().__init__()
        self.spec = spec
        self.code = nn.Linear(feature_width, spec.bits)
        self.classifier = nn.Linear(feature_width, N_FINDINGS)

    def forward(self, features: Tensor) -> EncoderOutput:
        """Features of the trunk [B, 1, 1024] float32, or without the dimension of one crop."""
        feature = features.flatten(1)
        code = self.code(feature)
        return EncoderOutput(code, self.classifier(feature), hash_bits=(code > 0).to(torch.uint8))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    nn.init.xavier_normal_(layer.weight)
    return layer
