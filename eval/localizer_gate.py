"""Whether an engine of a localizer proposes what fp32 PyTorch proposes: the gate, with IoU in place of retrieval.

Both locate the regions of the same radiographs. Two measures say how near the engine's boxes are to PyTorch's (mean and
least IoU between them), one what the engine costs: the change of the mean IoU with the boxes that were given, and its
paired interval, patients drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chextriev.anatomy import Region
from chextriev.box_overlap import box_overlap
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.bootstrap import mean_intervals
from chextriev.eval.gate import Judgement
from chextriev.eval.protocol import IntervalSpec
from chextriev.located_table import LocatedTable

ENOUGH_RADIOGRAPHS = 50
"""Below, the verdict says that the sample is small."""


@dataclass(frozen=True)
class OverlapBudget:
    """What an engine may lose.

    overlap: least mean IoU of any region's boxes with PyTorch's. least: least IoU of any single box with PyTorch's.
    loss: greatest loss of the mean IoU with the given boxes that the interval may leave possible.
    """

    overlap: float
    least: float
    loss: float


BUDGETS = {
    "fp32": OverlapBudget(overlap=0.999, least=0.99, loss=1e-4),
    "fp16": OverlapBudget(overlap=0.99, least=0.95, loss=1e-3),
    "int8": OverlapBudget(overlap=0.93, least=0.6, loss=1e-2),
}
"""Of integers a region's boxes may lie about as far off as two people's would by a few pixels of 224: what decides is
that they are no worse."""


def judge_localizer(reference: LocatedTable, engine: LocatedTable, *, precision: str) -> Judgement:
    """Compare an engine's boxes with those of fp32 PyTorch, of the same radiographs in the same order.

    measured: `iou_with_pytorch` (mean over boxes), `iou_by_region` (mean of each), `least_region`, `least_box`,
    `mean_iou` with the given boxes as `reference`, `engine`, `change` and `interval`, and `confidence_change` (largest
    absolute). CountMismatch for other radiographs.
    """
    if precision not in BUDGETS:
        raise InvalidSetting(f"no budget for precision {precision!r}; choose one of {', '.join(BUDGETS)}")
    if reference.table.image_id.tolist() != engine.table.image_id.tolist():
        raise CountMismatch(
            f"{len(reference.table)} radiographs by PyTorch, {len(engine.table)} by the engine; the same, in the same"
            " order, are needed to compare them"
        )
    budget, measured = BUDGETS[precision], _measure(reference, engine)
    failures = tuple(_failures(measured, budget))
    count = len(reference.table)
    remarks = (f"small sample, n={count}",) if count < ENOUGH_RADIOGRAPHS else ()
    return Judgement(not failures, measured, budget, failures, remarks)


def _measure(reference: LocatedTable, engine: LocatedTable) -> dict[str, Any]:
    between = box_overlap(engine.boxes_xyxy, reference.boxes_xyxy)  # [N, 18]
    given = reference.table.boxes_xyxy
    before, after = (box_overlap(found.boxes_xyxy, given).mean(axis=1) for found in (reference, engine))  # [N] each
    change = after - before
    low, high = mean_intervals(change[:, None], reference.table.patient_id.astype(str), IntervalSpec())[:, 0]
    by_region = dict(zip(Region.labels(), between.mean(axis=0).tolist(), strict=True))
    return {
        "iou_with_pytorch": float(between.mean()),
        "iou_by_region": by_region,
        "least_region": min(by_region.values()),
        "least_box": float(between.min()),
        "mean_iou": {
            "reference": float(before.mean()),
            "engine": float(after.mean()),
            "change": float(change.mean()),
            "interval": (float(low), float(high)),
        },
        "confidence_change": float(np.abs(engine.confidence - reference.confidence).max()),
    }


def _failures(measured: Mapping[str, Any], budget: OverlapBudget) -> list[str]:
    found = []
    worst = min(measured["iou_by_region"], key=lambda name: measured["iou_by_region"][name])
    if not measured["least_region"] >= budget.overlap:
        found.append(
            f"IoU with PyTorch's boxes {measured['least_region']:.4f} for {worst} (at least {budget.overlap:g})"
        )
    if not measured["least_box"] >= budget.least:
        found.append(f"IoU with PyTorch's box {measured['least_box']:.4f} for one of them (at least {budget.least:g})")
    low, high = measured["mean_iou"]["interval"]
    if not low >= -budget.loss:
        found.append(
            f"the interval of the change of mean IoU, {low:+.5f} to {high:+.5f}, leaves a loss above {budget.loss:g}"
        )
    return found
