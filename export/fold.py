"""What does not depend on the radiograph, computed once: the networks that engines are made from.

Backbone: a radiograph is grey, so the convolutions that see it need one channel, and the normalisation of its levels is
linear, so it becomes part of their weights. What normalisation adds is a constant, but not the same constant
everywhere: the published convolutions pad with zeros after it, and zero is not a grey level. So it is a map, which
differs from its inner value near the border, of the shape of the convolution's output. Batch norm follows and is folded
too; the exporter folds those further in.

Graph transformer: edges, adjacency and their projection E We do not depend on the input.

All of this is exact up to rounding.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from chextriev.errors import InvalidSetting
from chextriev.train.backbones import Backbone, RegionExtractor, region_extractor
from chextriev.train.encoders import SystemEncoder
from chextriev.train.graph_transformer import EdgeAttention, GraphTransformer


class GreyConvolution(nn.Module):
    """The first convolution with normalisation and batch norm inside: grey levels [n, 1, h, w] float32 -> maps.

    border: [1, channels, h', w'], what zero padding adds to the inner constant, which is the convolution's bias; zero
    but near the border.
    """

    border: Tensor

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, normalise: RegionExtractor, size: int) -> None:
        super().__init__()
        weight, bias = _with_norm(convolution, norm)
        levels = normalise.shift.expand(1, -1, size, size)  # [1, 3, size, size]: what a black image becomes
        published = copy.deepcopy(convolution)
        published.weight, published.bias = nn.Parameter(weight), nn.Parameter(bias)
        constant = published(levels)
        inner = constant[:, :, constant.shape[2] // 2, constant.shape[3] // 2]  # [1, channels]
        self.convolution = copy.deepcopy(convolution)
        self.convolution.in_channels = 1
        self.convolution.weight = nn.Parameter((weight * normalise.scale).sum(dim=1, keepdim=True))
        self.convolution.bias = nn.Parameter(inner[0].clone())
        self.register_buffer("border", constant - inner[:, :, None, None])

    def forward(self, levels: Tensor) -> Tensor:
        """[n, 1, h, w] float32 in 0..255 -> [n, channels, h', w']."""
        maps: Tensor = self.convolution(levels) + self.border
        return maps


class FoldedExtractor(nn.Module):
    """A backbone whose first convolutions take grey levels: crops [n, 1, size, size] uint8 -> features [n, width]."""

    def __init__(self, backbone: Backbone, size: int) -> None:
        super().__init__()
        extractor = region_extractor(backbone)
        self.trunk = copy.deepcopy(extractor.trunk)
        for convolution, norm in self.trunk.stem:
            convolution_module, norm_module = self.trunk.get_submodule(convolution), self.trunk.get_submodule(norm)
            folded = GreyConvolution(convolution_module, norm_module, extractor, size)  # type: ignore[arg-type]
            self.trunk.set_submodule(convolution, folded)
            self.trunk.set_submodule(norm, nn.Identity())

    def forward(self, crops: Tensor) -> Tensor:
        """[n, 1, size, size] uint8 -> [n, width] float32."""
        features: Tensor = self.trunk(crops.to(torch.float32))
        return features


@torch.inference_mode()
def fold_backbone(backbone: Backbone, size: int) -> FoldedExtractor:
    """The extractor of a backbone for crops of this size, folded, in eval mode."""
    return FoldedExtractor(backbone, size).eval()


class FoldedAttention(nn.Module):
    """Edge attention whose projected edges [N, N, heads, head_width] are a constant."""

    edges: Tensor

    def __init__(self, attention: EdgeAttention, edges: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.register_buffer("edges", attention.project_edges(edges))

    def forward(self, regions: Tensor, _: Tensor) -> Tensor:
        """[B, N, width] -> [B, N, width]."""
        related: Tensor = self.attention.attend(regions, self.edges)
        return related


@torch.inference_mode()
def fold_encoder(encoder: SystemEncoder) -> SystemEncoder:
    """A copy of an encoder whose edges are constants; the encoder itself where it has none."""
    transformer = getattr(encoder, "transformer", None)
    if not isinstance(transformer, GraphTransformer):
        return encoder
    folded = copy.deepcopy(encoder)
    edges = transformer.edge_vectors()
    for layer in folded.transformer.layers:  # type: ignore[union-attr]
        layer.attention = FoldedAttention(layer.attention, edges)
    return folded


def _with_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the batch norm after it, as one."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise InvalidSetting("a batch norm without running statistics cannot be folded")
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), bias.detach()
