"""Whatever numbers come, boxes are valid: inside, with an area, right and left in place, zones from above to below."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chextriev.anatomy import Region
from chextriev.errors import CountMismatch
from chextriev.radiograph import RegionBoxes
from chextriev.valid_boxes import APART, MEAN_LAYOUT, SMALLEST, valid_boxes

TWINS = [(right, Region(right + Region.LEFT_LUNG)) for right in Region if right.side == "right"]
ZONES = [
    (Region.from_label(f"{side} {above}"), Region.from_label(f"{side} {below}"))
    for side in ("right", "left")
    for above, below in (
        ("upper lung zone", "mid lung zone"),
        ("mid lung zone", "lower lung zone"),
        ("apical zone", "mid lung zone"),
    )
]
SIDES = st.integers(1, 10_000) | st.sampled_from([1, 2, 3, 10_000])
PROPOSALS = arrays(np.float32, (18, 4), elements=st.floats(width=32)) | arrays(
    np.float64, (18, 4), elements=st.floats(-0.5, 1.5) | st.sampled_from([0.0, 0.5, 1.0])
)


def centres(boxes: RegionBoxes, axis: int) -> np.ndarray:
    return (boxes.xyxy[:, axis].astype(np.float64) + boxes.xyxy[:, axis + 2]) / 2


def check_valid(boxes: RegionBoxes, width: int, height: int) -> None:
    """In pixels; whatever is rounded is rounded to float32."""
    size = np.array([width, height])
    rounding = 1e-6 * size
    low, high = boxes.xyxy[:, :2].astype(np.float64), boxes.xyxy[:, 2:].astype(np.float64)
    assert (low >= 0).all()
    assert (high <= size).all()
    assert (high - low >= np.maximum(SMALLEST * size, 1) - rounding).all()
    boxes.check_inside(width, height, where="a test")
    if width > 1:
        across = centres(boxes, 0)
        assert all(across[left] - across[right] >= APART * width - 2 * rounding[0] for right, left in TWINS)
    if height > 1:
        down = centres(boxes, 1)
        assert all(down[below] - down[above] >= APART * height - 2 * rounding[1] for above, below in ZONES)


@given(PROPOSALS, SIDES, SIDES)
def test_any_numbers_become_valid_boxes_and_stay_as_they_are_then(
    proposals: np.ndarray, width: int, height: int
) -> None:
    before = proposals.copy()
    boxes = valid_boxes(proposals, width=width, height=height)
    assert np.array_equal(before, proposals, equal_nan=True)
    check_valid(boxes, width, height)
    again = valid_boxes(boxes.xyxy / np.float64([width, height] * 2), width=width, height=height)
    assert np.abs(again.xyxy - boxes.xyxy).max() <= 1e-6 * max(width, height)


@given(
    arrays(np.float64, (18, 2), elements=st.floats(0.2, 0.8)),
    arrays(np.float64, (18, 2), elements=st.floats(SMALLEST / 2, 0.2)),
)
def test_a_valid_proposal_is_only_scaled(middles: np.ndarray, halves: np.ndarray) -> None:
    for right, left in TWINS:
        middles[right, 0], middles[left, 0] = middles[right, 0] / 2 + 0.1, middles[left, 0] / 2 + 0.42
    for above, mid, below in ((2, 3, 4), (9, 10, 11)):
        middles[above, 1], middles[mid, 1], middles[below, 1] = 0.3, 0.5, 0.7
    for apical in (1, 8):
        middles[apical, 1] = min(middles[apical, 1], 0.45)
    proposal = np.concatenate([middles - halves, middles + halves], axis=1).clip(0, 1)
    found = valid_boxes(proposal, width=640, height=480).xyxy
    np.testing.assert_allclose(found, proposal * [640, 480, 640, 480], rtol=1e-6, atol=1e-4)


def test_the_mean_layout_is_valid_as_it_is() -> None:
    found = valid_boxes(MEAN_LAYOUT, width=1000, height=2000).xyxy
    np.testing.assert_allclose(found, MEAN_LAYOUT * np.float32([1000, 2000, 1000, 2000]), rtol=1e-6)


def test_a_mirrored_proposal_is_mirrored_back() -> None:
    """Each box takes its twin's place, so that no region stands on the other side."""
    swapped = MEAN_LAYOUT.copy()
    for right, left in TWINS:
        swapped[[right, left]] = swapped[[left, right]]
    np.testing.assert_array_equal(
        valid_boxes(swapped, width=512, height=512).xyxy, valid_boxes(MEAN_LAYOUT, width=512, height=512).xyxy
    )


def test_zones_in_the_wrong_order_share_out_their_extents() -> None:
    turned = MEAN_LAYOUT.copy()
    turned[[2, 4]] = turned[[4, 2]]
    found, wanted = (valid_boxes(boxes, width=100, height=100).xyxy for boxes in (turned, MEAN_LAYOUT))
    np.testing.assert_array_equal(found[2:5, [1, 3]], wanted[2:5, [1, 3]])
    np.testing.assert_array_equal(found[[2, 4]][:, [0, 2]], wanted[[4, 2]][:, [0, 2]])


def test_boxes_of_the_whole_image_shrink_until_they_are_in_order() -> None:
    check_valid(valid_boxes(np.tile([0.0, 0, 1, 1], (18, 1)), width=300, height=200), 300, 200)


def test_what_is_not_finite_is_the_mean_layouts() -> None:
    proposal = MEAN_LAYOUT + np.float32(0.01)
    proposal[5, 2], proposal[16, 0] = np.nan, -np.inf
    found = valid_boxes(proposal, width=200, height=100).xyxy / np.float32([200, 100, 200, 100])
    np.testing.assert_allclose(found[[5, 16]], MEAN_LAYOUT[[5, 16]], atol=1e-6)
    np.testing.assert_allclose(found[4], proposal[4], atol=1e-6)


def test_another_shape_is_refused() -> None:
    with pytest.raises(CountMismatch, match=r"boxes have shape \[17, 4\]; \[18, 4\] is needed"):
        valid_boxes(np.zeros((17, 4)), width=10, height=10)


@pytest.mark.real
def test_what_was_annotated_is_valid_as_it_is(real_data: Path) -> None:
    with (real_data / "images.csv").open(newline="") as stream:
        sizes = {row["image_id"]: (int(row["width"]), int(row["height"])) for row in csv.DictReader(stream)}
    boxes: dict[str, np.ndarray] = defaultdict(lambda: np.full((18, 4), np.nan, np.float32))
    with (real_data / "regions.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            corners = [float(row[name]) for name in ("x1", "y1", "x2", "y2")]
            boxes[row["image_id"]][Region.from_label(row["region"])] = corners
    assert len(boxes) > 300
    for image, xyxy in boxes.items():
        width, height = sizes[image]
        found = valid_boxes(xyxy / np.float32([width, height] * 2), width=width, height=height)
        np.testing.assert_allclose(found.xyxy, xyxy, rtol=1e-6, atol=1e-4)
