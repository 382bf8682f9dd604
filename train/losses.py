"""Losses that know what is unknown."""

import torch
from torch import Tensor
from torch.nn import functional

from chextriev.anatomy import UNKNOWN
from chextriev.errors import InvalidSetting
from chextriev.systems import AthSpec, SystemSpec
from chextriev.train.encoder_output import EncoderOutput


def system_loss(spec: SystemSpec, output: EncoderOutput, image_findings: Tensor, region_findings: Tensor) -> Tensor:
    """What a system is trained on. image_findings [B, 9], region_findings [B, 18, 9] int8.

    Binary cross-entropy of the image's findings, shared with that of the regions' by `region_loss_share`; ATH adds the
    triplet loss of its codes. Computed in float32, whatever the precision of the output.
    """
    image = known_binary_cross_entropy(output.finding_logits, image_findings)
    if isinstance(spec, AthSpec):
        return image + triplet_loss(output.embedding, image_findings, margin=spec.margin)
    share = getattr(spec, "region_loss_share", 0.0)
    if share == 0:
        return image
    if output.region_logits is None:
        raise InvalidSetting(f"system {spec.name} has no region logits; region_loss_share must be 0")
    region = known_binary_cross_entropy(output.region_logits, region_findings)
    return region if share == 1 else (1 - share) * image + share * region


def split_loss(
    spec: SystemSpec, output: EncoderOutput, image_findings: Tensor, region_findings: Tensor, *, block: int = 24
) -> Tensor:
    """`system_loss` of a whole split, from all its rows in the order of the table.

    Triplets are mined as in training: among `block` consecutive rows, by default as many as ATH's published batch has.
    Their loss is the mean over all rows, and its memory linear in them.
    """
    if not isinstance(spec, AthSpec):
        return system_loss(spec, output, image_findings, region_findings)
    parts = zip(torch.split(output.embedding, block), torch.split(image_findings, block), strict=True)
    sums = [len(codes) * triplet_loss(codes, findings, margin=spec.margin) for codes, findings in parts]
    image = known_binary_cross_entropy(output.finding_logits, image_findings)
    return image + torch.stack(sums).sum() / len(image_findings)


def known_binary_cross_entropy(logits: Tensor, findings: Tensor) -> Tensor:
    """Mean binary cross-entropy over the known findings; zero, with a gradient of zero, if none is known.

    logits, of which the loss is computed in float32, and findings int8 (1, 0, -1 unknown) of one shape.
    """
    logits = logits.float()  # in bfloat16 a sum above 256 loses its units
    known = (findings != UNKNOWN).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(
        logits, findings.clamp(min=0).to(logits.dtype), reduction="none"
    )
    return (losses * known).sum() / torch.clamp(known.sum(), min=1)


def triplet_loss(codes: Tensor, findings: Tensor, *, margin: float) -> Tensor:
    """Mean over anchors of max(0, d(anchor, positive) - d(anchor, negative) + margin * bits), of in-batch triplets.

    codes [B, bits], of which the loss is computed in float32; findings [B, 9] int8; d is the squared distance averaged
    over bits.
    Source: ATH (Fang et al., 2021), with the triplets of `mine_triplets`.
    """
    codes = codes.float()  # a margin of 16 has steps of a tenth in bfloat16
    positive, negative = mine_triplets(findings)
    near = (codes - codes[positive]).square().mean(dim=1)
    far = (codes - codes[negative]).square().mean(dim=1)
    return torch.relu(near - far + margin * codes.shape[1]).mean()


def mine_triplets(findings: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative of each anchor: [B] int64 each, of findings [B, 9] int8.

    The positive shares most findings, present or absent, and is not the anchor (unless it is alone); the negative
    shares fewest and may be the anchor or the positive. Ties go to the lower row. An unknown finding is shared with
    nobody.
    """
    rows = len(findings)
    present, absent = (findings == 1).float(), (findings == 0).float()
    shared = (present @ present.T + absent @ absent.T).long()  # [B, B]
    # Counts times B leave room for the row below them, so that no two candidates of an anchor are equal.
    ranked, row = shared * rows, torch.arange(rows, device=findings.device)
    others = (ranked + (rows - 1 - row)).fill_diagonal_(-1)
    return others.argmax(dim=1), (ranked + row).argmin(dim=1)
