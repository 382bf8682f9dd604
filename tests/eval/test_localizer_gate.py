"""The gate passes boxes that are PyTorch's and names what strays: a region, a box, or the fit to what was given."""

from dataclasses import replace

import numpy as np
import pytest

from chextriev.anatomy import Region
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.localizer_gate import BUDGETS, judge_localizer
from chextriev.located_table import LocatedTable
from tests.tiny import make_tiny_table


@pytest.fixture(scope="module")
def reference() -> LocatedTable:
    """PyTorch's boxes, a pixel off the given ones of 60 radiographs of 30 patients."""
    table = make_tiny_table(["validate"] * 60)
    return LocatedTable(table, table.boxes_xyxy + 1, np.full((60, 18), 0.5, np.float32), "by hand")


def moved(located: LocatedTable, by: float, *, regions: list[int] | slice = slice(None), rows=slice(None)):
    boxes = located.boxes_xyxy.copy()
    chosen = boxes[rows]
    chosen[:, regions] += by
    boxes[rows] = chosen
    return replace(located, boxes_xyxy=boxes)


@pytest.mark.parametrize("precision", BUDGETS)
def test_the_same_boxes_pass_and_change_nothing(reference: LocatedTable, precision: str) -> None:
    judged = judge_localizer(reference, reference, precision=precision)
    assert (judged.passed, judged.failures, judged.remarks) == (True, (), ())
    assert judged.measured["iou_with_pytorch"] == pytest.approx(1)
    assert judged.measured["least_box"] == pytest.approx(1)
    told = judged.measured["mean_iou"]
    assert (told["change"], told["interval"]) == (0, (0, 0))
    assert told["reference"] == told["engine"] < 1
    assert set(judged.budget_as_dict()) == {"overlap", "least", "loss"}


def test_a_region_that_strays_is_named(reference: LocatedTable) -> None:
    judged = judge_localizer(reference, moved(reference, -2, regions=[Region.TRACHEA]), precision="int8")
    assert not judged.passed
    assert judged.failures == ("IoU with PyTorch's boxes 0.8373 for trachea (at least 0.93)",)
    assert judged.measured["iou_by_region"]["left lung"] == pytest.approx(1)


def test_a_single_box_that_strays_fails(reference: LocatedTable) -> None:
    judged = judge_localizer(reference, moved(reference, 15, regions=[3], rows=slice(1)), precision="int8")
    assert [words.split(" for one")[0] for words in judged.failures] == ["IoU with PyTorch's box 0.2727"]
    assert judged.measured["least_region"] > 0.98


def test_boxes_that_fit_better_than_pytorchs_are_no_loss(reference: LocatedTable) -> None:
    """Half a pixel towards the given boxes is within the budget of integers, half a pixel away from them is not."""
    nearer, farther = (judge_localizer(reference, moved(reference, by), precision="int8") for by in (-0.5, 0.5))
    assert nearer.passed
    assert nearer.measured["mean_iou"]["change"] == pytest.approx(-farther.measured["mean_iou"]["change"], rel=0.1)
    assert [words.split(",")[0] for words in farther.failures] == ["the interval of the change of mean IoU"]
    assert farther.failures[0].endswith("leaves a loss above 0.01")


def test_a_small_sample_is_said(reference: LocatedTable) -> None:
    few = LocatedTable(
        reference.table.take(np.arange(7)), reference.boxes_xyxy[:7], reference.confidence[:7], reference.source
    )
    assert judge_localizer(few, few, precision="fp32").remarks == ("small sample, n=7",)


def test_what_does_not_compare_is_refused(reference: LocatedTable) -> None:
    other = replace(reference, table=reference.table.take(np.arange(59)))
    with pytest.raises(CountMismatch, match="60 radiographs by PyTorch, 59 by the engine"):
        judge_localizer(reference, other, precision="int8")
    with pytest.raises(InvalidSetting, match="no budget for precision 'int4'; choose one of fp32, fp16, int8"):
        judge_localizer(reference, reference, precision="int4")
