"""AnaXNet: two graph convolutions over the regions and an attention from each region to what they found.

Source: Agu et al., AnaXNet (MICCAI 2021), as the CheXtriev code sets it up.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.systems import AnaxnetSpec
from chextriev.train.encoder_output import EncoderOutput

SLOPE = 0.2
"""Of the leaky rectifier between the convolutions."""


class GraphConvolution(nn.Module):
    """A (x W) for a given adjacency A, neither normalised nor with a bias.

    Equals `torch_geometric.nn.GCNConv(normalize=False, add_self_loops=False, bias=False)`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs)))

    def forward(self, regions: Tensor, adjacency: Tensor) -> Tensor:
        """regions [B, N, inputs], adjacency [N, N] -> [B, N, outputs]."""
        return adjacency @ (regions @ self.weight)


class AnaXNet(nn.Module):
    """Backbone features to an embedding as wide as they are. Region logits are none of its outputs."""

    adjacency: Tensor

    def __init__(self, spec: AnaxnetSpec, feature_width: int, adjacency: Tensor | None = None) -> None:
        super().__init__()
        self.spec = spec
        linked = torch.ones(N_REGIONS, N_REGIONS) if adjacency is None else adjacency
        self.register_buffer("adjacency", linked.float())
        self.convolution1 = GraphConvolution(feature_width, spec.hidden)
        self.convolution2 = GraphConvolution(spec.hidden, feature_width)
        self.norm = nn.LayerNorm(feature_width)
        self.classifier = nn.Linear(feature_width, N_FINDINGS)

    def forward(self, features: Tensor) -> EncoderOutput:
        """Backbone features [B, 18, feature_width] float32."""
        related = functional.leaky_relu(self.convolution1(features, self.adjacency), SLOPE)
        related = self.convolution2(related, self.adjacency)
        attention = torch.softmax(features @ related.transpose(1, 2), dim=-1)  # [B, 18, 18]
        regions = attention @ features + features
        region_vectors = self.norm(regions)
        return EncoderOutput(
            embedding=region_vectors.mean(dim=1),
            finding_logits=self.classifier(self.norm(regions.mean(dim=1))),
            region_vectors=region_vectors,
        )
