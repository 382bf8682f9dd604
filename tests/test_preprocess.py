"""Our crop and resize is the published one, within the stated tolerance."""

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from chextriev.anatomy import N_REGIONS
from chextriev.errors import BoxOutside, InvalidSetting
from chextriev.preprocess import AREAS, TOLERANCE_GREY_LEVELS, CropSpec, integer_corners, region_crops
from chextriev.radiograph import RegionBoxes, read_pixels

Pixels = npt.NDArray[np.uint8]


def published(pixels: Pixels, corners: npt.NDArray[np.int64], size: int = 224) -> npt.NDArray[np.float32]:
    """The published form in floating point: crop (outside is black), antialiased bilinear, aspect ignored."""
    x1, y1, x2, y2 = (int(corner) for corner in corners)
    height, width = pixels.shape
    crop = np.zeros((y2 - y1, x2 - x1), np.float32)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    crop[top - y1 : bottom - y1, left - x1 : right - x1] = pixels[top:bottom, left:right]
    resized = interpolate(
        torch.from_numpy(crop)[None, None], size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return np.asarray(resized[0, 0].numpy())


def random_boxes(rng: np.random.Generator, width: int, height: int) -> RegionBoxes:
    """18 boxes of one pixel to twice the image, inside, across each border, thin and large."""
    sizes = np.stack([rng.geometric(1 / side, N_REGIONS) for side in (width / 3, height / 3)], axis=1)
    sizes = np.minimum(np.maximum(sizes, 1), 2 * max(width, height))
    centres = rng.random((N_REGIONS, 2)) * [width - 1, height - 1]
    start = np.floor(centres - rng.random((N_REGIONS, 2)) * (sizes - 1))
    return RegionBoxes(np.concatenate([start, start + sizes], axis=1).astype(np.float32))


def boxes_at_the_edges(width: int, height: int) -> RegionBoxes:
    """18 boxes on an image's borders, across them and on its corners, large, and one pixel wide or high."""
    right, bottom = width - 1, height - 1
    return RegionBoxes(
        np.float32(
            [
                *([0, 0, width, height], [-1, -1, width + 1, height + 1], [-width, -height, 2 * width, 2 * height]),
                *([0, 0, 900, 1200], [width - 900, 0, width, 1200], [0, height - 1200, 900, height]),
                *(
                    [width - 900, height - 1200, width, height],
                    [-300, 700, 500, 1600],
                    [width - 500, 700, width + 7, 1600],
                ),
                *([700, -450, 1700, 300], [700, height - 300, 1700, height + 450], [-900, -900, 1, 1]),
                *([right, bottom, width + 900, height + 900], [0, 0, 1, height], [right, 0, width, height]),
                *([0, bottom, width, height], [1_200, -50, 1_201, height + 50], [-50, 1_500, width + 50, 1_501]),
            ]
        )
    )


def weights(length: int, size: int) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """For each of `size` places the first pixel that it takes and their weights in 2**-22, as Pillow rounds them."""
    scale = length / size
    reach = max(scale, 1.0)
    found = []
    for place in range(size):
        centre = (place + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        triangle = np.maximum(1 - np.abs((np.arange(last - first) + first - centre + 0.5) * (1 / reach)), 0)
        found.append((first, np.floor(triangle / np.cumsum(triangle)[-1] * 2**22 + 0.5).astype(np.int64)))
    return found


def resized_rows(rows: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """[height, size] grey levels of [height, width]: one of the two passes."""
    taken = [rows[:, first : first + len(kernel)] @ kernel for first, kernel in weights(rows.shape[1], size)]
    return (np.stack(taken, axis=1) + 2**21) >> 22


def in_integers(pixels: Pixels, corners: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """The definition of a crop written out: black outside, two passes, each rounded to a grey level."""
    x1, y1, x2, y2 = (int(corner) for corner in corners)
    height, width = pixels.shape
    rows, columns = np.arange(y1, y2), np.arange(x1, x2)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    crop = np.where(inside, pixels[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))], 0).astype(np.int64)
    if y2 - y1 - size > max(0, 2 * (x2 - x1 - size)):
        return resized_rows(resized_rows(crop.T, size).T, size)  # down, then across
    return resized_rows(resized_rows(crop, size).T, size).T


def largest_difference(pixels: Pixels, boxes: RegionBoxes) -> float:
    ours = region_crops(pixels, boxes).astype(np.float32)
    theirs = np.stack([published(pixels, corners) for corners in integer_corners(boxes)])
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize(("width", "height", "seed"), [(300, 340, 0), (1000, 700, 1), (2544, 3056, 2), (40, 60, 3)])
def test_crops_equal_the_published_form_on_noise(width: int, height: int, seed: int) -> None:
    """Noise is the worst content: every rounding of the first pass matters in the second."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width)).astype(np.uint8)
    boxes = random_boxes(rng, width, height)
    corners = integer_corners(boxes)
    assert (corners[:, :2] < 0).any() or (corners[:, 2:] > [width, height]).any()
    assert 0.5 < largest_difference(pixels, boxes) <= TOLERANCE_GREY_LEVELS


@pytest.mark.parametrize("content", ["noise", "black and white", "slope"])
def test_crops_at_the_edges_of_a_large_image_equal_the_published_form(content: str) -> None:
    width, height = 2500, 3000
    noise = np.random.default_rng(7).integers(0, 256, (height, width))
    slope = np.add.outer(np.arange(height), np.arange(width)) // 22
    pixels = {"noise": noise, "black and white": (noise // 128) * 255, "slope": slope}[content].astype(np.uint8)
    assert 0 < largest_difference(pixels, boxes_at_the_edges(width, height)) <= TOLERANCE_GREY_LEVELS


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(3, 90), st.integers(3, 90)),
    size=st.sampled_from([7, 16, 33]),
    seed=st.integers(0, 2**32 - 1),
)
def test_crops_are_exactly_what_the_definition_says(shape: tuple[int, int], size: int, seed: int) -> None:
    """So that another implementation, or another Pillow, that differs by one grey level anywhere is noticed."""
    rng = np.random.default_rng(seed)
    pixels, boxes = rng.integers(0, 256, shape).astype(np.uint8), random_boxes(rng, shape[1], shape[0])
    wanted = [in_integers(pixels, corners, size) for corners in integer_corners(boxes)]
    assert np.array_equal(region_crops(pixels, boxes, CropSpec(size=size)), wanted)


def test_large_crops_are_exactly_what_the_definition_says() -> None:
    rng = np.random.default_rng(8)
    pixels = rng.integers(0, 256, (3000, 2500)).astype(np.uint8)
    boxes = boxes_at_the_edges(2500, 3000)
    chosen = [0, 1, 6, 8, 12, 13, 16, 17]
    wanted = [in_integers(pixels, integer_corners(boxes)[region], 224) for region in chosen]
    assert np.array_equal(region_crops(pixels, boxes)[chosen], wanted)


def test_outside_is_black_and_inside_is_the_image() -> None:
    pixels = np.full((100, 100), 200, np.uint8)
    rows = np.tile(np.float32([0, 0, 100, 100]), (N_REGIONS, 1))
    rows[0] = [-100, 0, 100, 100]
    crops = region_crops(pixels, RegionBoxes(rows))
    assert (crops[0, :, :110] == 0).all()
    assert (crops[0, :, 114:] == 200).all()
    assert (crops[1:] == 200).all()


def test_a_box_of_the_crops_own_size_is_copied_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    boxes = RegionBoxes(np.tile(np.float32([20, 31, 244, 255]), (N_REGIONS, 1)))
    assert np.array_equal(region_crops(pixels, boxes)[7], pixels[31:255, 20:244])


def test_corners_are_the_nearest_integers_and_never_empty() -> None:
    rows = np.tile(np.float32([1.4, 1.5, 9.49, 9.5]), (N_REGIONS, 1))
    rows[1] = [-0.5, -1.5, 2.5, 3.5]
    rows[2] = [5.1, 5.1, 5.2, 5.2]
    corners = integer_corners(RegionBoxes(rows))
    assert corners[0].tolist() == [1, 2, 9, 10]
    assert corners[1].tolist() == [0, -1, 3, 4]
    assert corners[2].tolist() == [5, 5, 6, 6]


@pytest.mark.parametrize(
    ("box", "touches"),
    [
        ([99.6, 0, 120, 50], False),
        ([0, 79.5, 50, 90], False),
        ([-9, 0, 0.4, 50], False),
        ([0, -9, 50, 0.49], False),
        ([99.4, 0, 120, 50], True),
        ([0, 79.4, 50, 79.45], True),
        ([-9, 0, 0.5, 50], True),
    ],
)
def test_a_box_touches_the_image_if_its_crop_does(box: list[float], touches: bool) -> None:
    """An image of 100 x 80 pixels, all white: a box is accepted if, and only if, its crop is not black."""
    rows = np.tile(np.float32([3, 4, 40, 30]), (N_REGIONS, 1))
    rows[5] = box
    boxes = RegionBoxes(rows)
    assert bool(region_crops(np.full((80, 100), 255, np.uint8), boxes)[5].any()) == touches
    with nullcontext() if touches else pytest.raises(BoxOutside, match=r"the image of 100 x 80 pixels"):
        boxes.check_inside(100, 80, where="image x")


def test_crops_have_the_size_asked_for() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60)).astype(np.uint8)
    boxes = RegionBoxes(np.tile(np.float32([3, 4, 40, 30]), (N_REGIONS, 1)))
    assert region_crops(pixels, boxes).shape == (N_REGIONS, 224, 224)
    assert region_crops(pixels, boxes, CropSpec(size=96)).shape == (N_REGIONS, 96, 96)


@pytest.mark.parametrize("size", [224, 256])
def test_the_whole_image_is_the_published_form(size: int) -> None:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (700, 500)).astype(np.uint8)
    (found,) = region_crops(pixels, random_boxes(rng, 500, 700), CropSpec(size=size, area="image"))
    wanted = published(pixels, np.array([0, 0, 500, 700]), size)
    assert np.abs(found.astype(np.float32) - wanted).max() <= TOLERANCE_GREY_LEVELS


def test_the_whole_image_does_not_depend_on_boxes() -> None:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (70, 50)).astype(np.uint8)
    one, other = (region_crops(pixels, random_boxes(rng, 50, 70), CropSpec(size=64, area="image")) for _ in range(2))
    assert one.shape == (1, 64, 64)
    assert np.array_equal(one, other)


def test_regions_and_image_are_the_regions_and_then_the_image() -> None:
    rng = np.random.default_rng(6)
    pixels, boxes = rng.integers(0, 256, (70, 50)).astype(np.uint8), random_boxes(rng, 50, 70)
    regions, image, both = (region_crops(pixels, boxes, CropSpec(size=64, area=area)) for area in AREAS)
    assert np.array_equal(both, np.concatenate([regions, image]))
    assert [CropSpec(area=area).count for area in AREAS] == [len(regions), len(image), len(both)] == [18, 1, 19]


def test_other_preprocessing_has_another_digest_or_is_refused() -> None:
    assert CropSpec().digest == CropSpec(size=224).digest != CropSpec(size=225).digest
    assert len({CropSpec(area=area).digest for area in AREAS}) == 3
    with pytest.raises(InvalidSetting, match=r"crop area 'lungs'; choose one of regions, image, regions\+image"):
        CropSpec(area="lungs")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="crop size 0"):
        CropSpec(size=0)
    with pytest.raises(InvalidSetting, match="bicubic"):
        CropSpec(resize="bicubic")


@pytest.mark.real
@pytest.mark.skipif("CHEXTRIEV_REAL_DATA" not in os.environ, reason="CHEXTRIEV_REAL_DATA is not set")
def test_crops_equal_the_published_form_on_real_radiographs() -> None:
    from chextriev.radiograph import read_boxes

    folder = Path(os.environ["CHEXTRIEV_REAL_DATA"])
    for path in sorted((folder / "images").glob("*.jpg"))[::60]:
        boxes = read_boxes(folder / "regions.csv", image_id=path.stem)
        assert largest_difference(read_pixels(path), boxes) <= TOLERANCE_GREY_LEVELS
