"""Losses that know what is unknown."""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from chextriev.anatomy import UNKNOWN


class Logits(Protocol):
    """What has finding_logits [B, 9] and region_logits [B, 18, 9]."""

    @property
    def finding_logits(self) -> Tensor:
        """[B, 9]."""

    @property
    def region_logits(self) -> Tensor:
        """[B, 18, 9]."""


def known_binary_cross_entropy(logits: Tensor, findings: Tensor) -> Tensor:
    """Mean binary cross-entropy over the known findings; zero, with a gradient of zero, if none is known.

    logits float32 and findings int8 (1, 0, -1 unknown) of one shape.
    """
    known = (findings != UNKNOWN).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(
        logits, findings.clamp(min=0).to(logits.dtype), reduction="none"
    )
    return (losses * known).sum() / torch.clamp(known.sum(), min=1)


def finding_loss(
    output: Logits, image_findings: Tensor, region_findings: Tensor, level: Literal["image", "region"]
) -> Tensor:
    """The loss of a variant: over image findings [B, 9] or region findings [B, 18, 9]."""
    if level == "region":
        return known_binary_cross_entropy(output.region_logits, region_findings)
    return known_binary_cross_entropy(output.finding_logits, image_findings)
