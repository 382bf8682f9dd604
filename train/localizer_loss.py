"""How far boxes are from those wanted, and what a localizer is trained on.

Boxes are [..., 4] float32 corners x1, y1, x2, y2 as fractions of an image's width and height; IoU does not depend on
the unit.
"""

import torch
from torch import Tensor
from torch.nn import functional

from chextriev.train.localizer_network import LocalizerOutput

DISTANCE_WEIGHT, OVERLAP_WEIGHT, CONFIDENCE_WEIGHT = 5.0, 2.0, 0.5
"""Of the sides' distance and of 1 - GIoU, as in DETR (Carion et al., ECCV 2020), and of the confidence's entropy."""


def box_iou(found: Tensor, wanted: Tensor) -> Tensor:
    """Intersection over union [...] of boxes [..., 4], each with that in the same place; 0 where both have no area."""
    inside, union = _shared(found, wanted)
    return inside / union.clamp(min=1e-9)


def box_giou(found: Tensor, wanted: Tensor) -> Tensor:
    """IoU less the empty share of the hull of both, -1..1 (Rezatofighi et al., CVPR 2019): it has a slope where boxes
    do not touch.
    """
    inside, union = _shared(found, wanted)
    low, high = torch.minimum(found[..., :2], wanted[..., :2]), torch.maximum(found[..., 2:], wanted[..., 2:])
    hull = (high - low).prod(dim=-1).clamp(min=1e-9)
    return inside / union.clamp(min=1e-9) - (hull - union) / hull


def located_loss(output: LocalizerOutput, boxes: Tensor, seen: Tensor) -> Tensor:
    """What a localizer is trained on, from wanted boxes [B, 18, 4]; those that are not seen [B, 18] do not count.

    The confidence learns the IoU that its box has, and does not change the box.
    """
    found = output.region_boxes.float()
    distance = (found - boxes).abs().sum(dim=-1)
    overlap = box_iou(found.detach(), boxes)
    sure = functional.binary_cross_entropy(output.box_confidence.float(), overlap, reduction="none")
    each = DISTANCE_WEIGHT * distance + OVERLAP_WEIGHT * (1 - box_giou(found, boxes)) + CONFIDENCE_WEIGHT * sure
    return (each * seen).sum() / seen.sum().clamp(min=1)


def _shared(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    low, high = torch.maximum(found[..., :2], wanted[..., :2]), torch.minimum(found[..., 2:], wanted[..., 2:])
    inside = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (found, wanted)]
    return inside, areas[0] + areas[1] - inside
