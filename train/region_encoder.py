"""The encoder of V0 to V6: backbone features of 18 regions to an embedding and finding logits."""

import torch
from torch import Tensor, nn

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.train.encoder_output import EncoderOutput
from chextriev.train.graph_transformer import GraphTransformer
from chextriev.variants import VariantSpec


class RegionEncoder(nn.Module):
    """Project each region, relate the regions if the variant does, and read embedding and findings.

    Source: CheXtriev (MICCAI 2024). With a graph, the region vectors are the sum of the projected features and every
    layer's output, and one head reads regions and image from the last layer; without one (V0) they are the projected
    features and regions and image have a head each. There the whole image may be a 19th vector of
    the embedding alone, after the regions, as in the published evaluation.

    V0 that learns from the regions alone has no head of the image, since no loss would train it (as none does in the
    published code): a finding's logit is the largest of its regions'.
    """

    def __init__(self, spec: VariantSpec, feature_width: int, adjacency: Tensor | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.projection = nn.Sequential(
            nn.Linear(feature_width, spec.width), nn.ReLU(), nn.Linear(spec.width, spec.width)
        )
        self.transformer = GraphTransformer(spec, adjacency) if spec.graph else None
        self.region_head = _head(spec.width)
        self.finding_head: nn.Module | None = self.region_head
        if not spec.graph:
            self.finding_head = _head(spec.width) if spec.region_loss_share < 1 else None
            # A head that the loss never reaches must not wait for gradients.
            self.region_head.requires_grad_(spec.region_loss_share > 0)

    @property
    def adjacency(self) -> Tensor | None:
        """[18, 18] int64, of variants with a graph."""
        return None if self.transformer is None else self.transformer.adjacency

    def forward(self, features: Tensor) -> EncoderOutput:
        """Backbone features [B, 18, feature_width] float32, before the projection; 19 with the whole image."""
        first = self.projection(features)
        outputs = [first] if self.transformer is None else [first, *self.transformer(first)]
        region_vectors = torch.stack(outputs).sum(dim=0)
        regions = outputs[-1][:, :N_REGIONS]
        region_logits = self.region_head(regions)
        of_image = region_logits.amax(dim=1) if self.finding_head is None else self.finding_head(regions.mean(dim=1))
        return EncoderOutput(
            embedding=region_vectors.mean(dim=1),
            finding_logits=of_image,
            region_logits=region_logits,
            region_vectors=region_vectors,
        )


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, N_FINDINGS))
