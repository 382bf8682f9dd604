"""What every backbone's network is: normalised images in, pooled features out, weights under their published names."""

from typing import ClassVar, Self

import torch
from torch import nn


class Trunk(nn.Module):
    """Maps normalised images [n, 3, 224, 224] float32 to pooled features [n, width] float32.

    Names in the state dict are those of the published weights, without the classifier.
    """

    frozen = False
    stem: ClassVar[tuple[tuple[str, str], ...]]
    """Every convolution that sees the image, with the batch norm after it, by name."""

    @staticmethod
    def own_name(published: str) -> str | None:
        """The name here of a published weight, or None for one that features do not need."""
        return published

    def freeze(self) -> Self:
        """Stop learning for good: no gradients, and batch norm keeps the statistics it came with.

        A later `train()`, which a training loop calls on everything it holds, leaves a frozen trunk in eval mode.
        """
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def fine_tune(self) -> Self:
        """Let the weights of a frozen trunk learn; batch norm keeps its statistics, which a few crops would spoil."""
        return self.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, unless frozen."""
        return super().train(mode and not self.frozen)


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Mean over positions: [n, channels, height, width] -> [n, channels]."""
    return maps.mean(dim=(2, 3))
