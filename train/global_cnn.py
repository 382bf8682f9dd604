"""The baseline without anatomy: a classifier on the backbone's feature of the whole image."""

import torch
from torch import Tensor, nn

from chextriev.anatomy import N_FINDINGS
from chextriev.systems import GlobalCnnSpec
from chextriev.train.encoder_output import EncoderOutput


class GlobalCnn(nn.Module):
    """Linear, ReLU, Linear; what is searched is the backbone's feature or the hidden layer."""

    adjacency = None

    def __init__(self, spec: GlobalCnnSpec, feature_width: int) -> None:
        super().__init__()
        self.spec = spec
        self.hidden = nn.Linear(feature_width, spec.hidden)
        self.classifier = nn.Linear(spec.hidden, N_FINDINGS)

    def forward(self, features: Tensor) -> EncoderOutput:
        """Backbone features [B, 1, feature_width] float32, or without the dimension of one crop."""
        feature = features.flatten(1)
        hidden = self.hidden(feature)
        embedding = feature if self.spec.embedding == "backbone" else hidden
        return EncoderOutput(embedding, self.classifier(torch.relu(hidden)))
