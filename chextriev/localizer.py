"""Where the 18 regions of a radiograph are: what a localizer gives, and the mean layout that stands in for one.

Whatever proposes boxes, `valid_boxes` makes them boxes that every encoder takes: inside the image, the right side of
the patient on the left of the picture, and the zones of a lung from above to below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region
from chextriev.bundle import DEFAULT, EncoderBundle
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.radiograph import RegionBoxes

Pixels = npt.NDArray[np.uint8]

_LAYOUT = (
    (0.137, 0.143, 0.472, 0.758),
    (0.245, 0.143, 0.467, 0.248),
    (0.194, 0.163, 0.469, 0.383),
    (0.171, 0.381, 0.457, 0.521),
    (0.138, 0.519, 0.452, 0.758),
    (0.311, 0.351, 0.473, 0.545),
    (0.138, 0.659, 0.265, 0.775),
    (0.532, 0.132, 0.874, 0.793),
    (0.539, 0.132, 0.770, 0.246),
    (0.534, 0.155, 0.820, 0.390),
    (0.543, 0.388, 0.842, 0.538),
    (0.557, 0.536, 0.873, 0.793),
    (0.527, 0.356, 0.693, 0.564),
    (0.744, 0.686, 0.872, 0.811),
    (0.382, 0.128, 0.756, 0.768),
    (0.439, 0.128, 0.609, 0.398),
    (0.382, 0.412, 0.756, 0.768),
    (0.444, 0.036, 0.549, 0.411),
)
_OVERLAP = (
    *(0.655, 0.365, 0.535, 0.410, 0.463, 0.432, 0.178),
    *(0.671, 0.406, 0.579, 0.461, 0.499, 0.465, 0.216),
    *(0.672, 0.529, 0.581, 0.525),
)
MEAN_LAYOUT = np.array(_LAYOUT, np.float32)
"""[18, 4] float32, corners x1, y1, x2, y2 as fractions of width and height: the mean over the train split (213 frontal
radiographs, by patient) of 357 radiographs of NIH ChestX-ray14 with automatic boxes."""
MEAN_LAYOUT_OVERLAP = np.array(_OVERLAP, np.float32)
"""[18] float32: mean IoU of `MEAN_LAYOUT` with the boxes of the 73 radiographs of the test split; .48 over regions."""
MEAN_LAYOUT_SOURCE = "mean layout of 213 radiographs, not this image"

SMALLEST = 0.01
"""Least width and height of a box, as a share of the image's."""
APART = 0.01
"""Least distance of the centres of two boxes whose order is known, as a share of the image's width or height."""

_SIDES = [(right, right + Region.LEFT_LUNG) for right in Region if right.side == "right"]
_ZONES = tuple(
    tuple(Region.from_label(f"{side} {zone}") for zone in ("upper lung zone", "mid lung zone", "lower lung zone"))
    for side in ("right", "left")
)


@dataclass(frozen=True, eq=False)
class Located:
    """The regions of B radiographs.

    boxes: one RegionBoxes a radiograph, in its pixels. confidence: [B, 18] float32 in 0..1, the IoU that each box is
    expected to have. source: in words, what proposed them.
    """

    boxes: tuple[RegionBoxes, ...]
    confidence: npt.NDArray[np.float32]
    source: str


class Localizer(Protocol):
    """Proposes the boxes of radiographs. Safe to call from several threads.

    digest: identity of what it computes. source: the same in words, for cards, tables and remarks.
    """

    digest: str
    source: str

    def locate(self, images: Sequence[Pixels]) -> Located:
        """The regions of images [height, width] uint8, each of any size."""


@dataclass(frozen=True)
class MeanLayout:
    """The baseline and the fallback: the same boxes, as fractions of width and height, whatever the image shows."""

    digest: str = "mean-layout-1"
    source: str = MEAN_LAYOUT_SOURCE

    def locate(self, images: Sequence[Pixels]) -> Located:
        """The mean layout, scaled to each image."""
        boxes = tuple(valid_boxes(MEAN_LAYOUT, width=image.shape[1], height=image.shape[0]) for image in images)
        return Located(boxes, np.tile(MEAN_LAYOUT_OVERLAP, (len(images), 1)), self.source)


def open_localizer(
    bundle: str | Path | EncoderBundle | None, *, engine: str = DEFAULT, device: str = "cpu", proven: bool = False
) -> Localizer:
    """The localizer of a bundle on one of its engines, as `open_encoder`; the mean layout where bundle is None."""
    if bundle is None:
        return MeanLayout()
    raise InvalidSetting(f"no runner for {bundle}, {engine}, {device}, {proven}")


def valid_boxes(fractions: npt.NDArray[np.floating], *, width: int, height: int) -> RegionBoxes:
    """Boxes in pixels of an image from proposals [18, 4] as fractions of its width and height, made valid.

    A box with a number that is not finite becomes that of the mean layout. Corners are put in order and cut at the
    border; boxes have at least SMALLEST of the image's sides (and one pixel); a region that lies on the wrong side of
    its twin changes places with it, and zones that are out of order are moved apart. Proposals that satisfy all of this
    are only scaled.
    """
    if fractions.shape != (N_REGIONS, 4):
        raise CountMismatch(f"boxes have shape {list(fractions.shape)}; [{N_REGIONS}, 4] is needed")
    finite = np.isfinite(fractions).all(axis=1, keepdims=True)
    boxes = np.where(finite, fractions, MEAN_LAYOUT).astype(np.float64)
    boxes = _inside(np.concatenate([np.minimum(*_corners(boxes)), np.maximum(*_corners(boxes))], axis=1), width, height)
    for right, left in _SIDES:
        _order(boxes, (right, left), axis=0)
    for zones in _ZONES:
        _order(boxes, zones, axis=1)
    return RegionBoxes((_inside(boxes, width, height) * [width, height, width, height]).astype(np.float32))


def _corners(boxes: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return boxes[:, :2], boxes[:, 2:]


def _inside(boxes: npt.NDArray[np.float64], width: int, height: int) -> npt.NDArray[np.float64]:
    """Cut at the border; what is too small grows about its centre, and is moved inside."""
    low, high = _corners(boxes.clip(0, 1))
    least = np.maximum(SMALLEST, 1 / np.array([width, height]))
    centre = (low + high) / 2
    half = np.maximum(high - low, least) / 2
    centre = centre.clip(half, 1 - half)
    return np.concatenate([centre - half, centre + half], axis=1)


def _order(boxes: npt.NDArray[np.float64], regions: Sequence[int], *, axis: int) -> None:
    """Give the regions' boxes an ascending order of centres: boxes change places, and centres are moved APART."""
    rows = list(regions)
    centres = boxes[rows][:, [axis, axis + 2]].mean(axis=1)
    ranks = np.argsort(centres, kind="stable")
    if (ranks != np.arange(len(rows))).any():
        boxes[rows] = boxes[rows][ranks]
        centres = centres[ranks]
    for place in range(1, len(rows)):
        short = centres[place - 1] + APART - centres[place]
        if short > 0:
            boxes[rows[place], [axis, axis + 2]] += short
            centres[place] += short
