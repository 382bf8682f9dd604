"""What makes any proposal of the 18 boxes a valid one, and the mean layout that stands in where there is none.

Valid: inside the image, the right side of the patient on the left of the picture, and the zones of a lung from above
to below. Both orders are of centres, the one across and the other down, so that neither mending undoes the other.
"""

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region
from chextriev.errors import CountMismatch
from chextriev.radiograph import RegionBoxes

Values = npt.NDArray[np.float64]

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

_RIGHT = [region for region in Region if region.side == "right"]
_LEFT = [region for region in Region if region.side == "left"]  # in the same order
_ZONES = [
    [Region.from_label(f"{side} {zone}") for zone in ("upper lung zone", "mid lung zone", "lower lung zone")]
    for side in ("right", "left")
]
_APICAL = [Region.RIGHT_APICAL_ZONE, Region.LEFT_APICAL_ZONE]
_ACROSS, _DOWN = 0, 1


def valid_boxes(fractions: npt.NDArray[np.floating], *, width: int, height: int) -> RegionBoxes:
    """Boxes in pixels of an image from proposals [18, 4], corners as fractions of its width and height, made valid.

    A box with a number that is not finite becomes that of the mean layout. Corners are put in order and cut at the
    border; a box has at least SMALLEST of the image's sides, and one pixel. A region that lies on the wrong side of its
    twin changes places with it; the zones of a lung (upper, mid, lower, and the apical one above the mid) share out
    their extents from above to below; and centres that are still too near are moved APART, where the image has two
    pixels in that direction. Proposals that satisfy all of this are only scaled. CountMismatch for another shape.
    """
    if fractions.shape != (N_REGIONS, 4):
        raise CountMismatch(f"boxes have shape {list(fractions.shape)}; [{N_REGIONS}, 4] is needed")
    size = np.array([width, height], np.float64)
    finite = np.isfinite(fractions).all(axis=1, keepdims=True)
    corners = np.where(finite, fractions, MEAN_LAYOUT).astype(np.float64).clip(0, 1).reshape(N_REGIONS, 2, 2)
    low, high = corners.min(axis=1), corners.max(axis=1)  # [18, 2] each
    centres, halves = (low + high) / 2, (high - low) / 2
    least = np.maximum(SMALLEST, 1 / size) / 2  # half of a smallest box; centres are as far from the border
    _swap_twins(centres, halves)
    _sort_zones(centres, halves)
    _spread(centres, least, np.minimum(APART, (1 - 2 * least) / 2))
    room = np.minimum(centres, 1 - centres)
    halves = np.minimum(np.maximum(halves, least), room)
    corners = np.stack([centres - halves, centres + halves], axis=1) * size
    return RegionBoxes(corners.clip(0, size).reshape(N_REGIONS, 4).astype(np.float32))


def valid_confidence(
    confidence: npt.NDArray[np.floating], fractions: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """[B, 18] float32 in 0..1 of what was said of proposals [B, 18, 4]: 0 where it is no number.

    Of a box that `valid_boxes` takes from the mean layout it is that layout's.
    """
    usable = np.isfinite(fractions).all(axis=2)
    said = np.nan_to_num(confidence, nan=0.0).clip(0, 1)
    return np.where(usable, said, MEAN_LAYOUT_OVERLAP).astype(np.float32)


def _swap_twins(centres: Values, halves: Values) -> None:
    """Whole boxes of [18, 2] change places, so that what is right of the patient is left in the picture."""
    wrong = centres[_RIGHT, _ACROSS] > centres[_LEFT, _ACROSS]
    right, left = np.array(_RIGHT)[wrong], np.array(_LEFT)[wrong]
    for values in (centres, halves):
        values[[*right, *left]] = values[[*left, *right]]


def _sort_zones(centres: Values, halves: Values) -> None:
    """Extents from above to below change places within a lung; where the boxes lie across stays."""
    for zones in _ZONES:
        order = np.array(zones)[np.argsort(centres[zones, _DOWN], kind="stable")]
        for values in (centres, halves):
            values[zones, _DOWN] = values[order, _DOWN]


def _spread(centres: Values, least: Values, apart: Values) -> None:
    """Move centres inside, and those of known order `apart` (APART, or what room there is; both [2], as `least`).

    Twins move by the same way from their middle; of a lung the mid zone stays where it can and the others make way.
    """
    centres[:] = centres.clip(least, 1 - least)
    end, step = least[_ACROSS], apart[_ACROSS]
    right, left = centres[_RIGHT, _ACROSS], centres[_LEFT, _ACROSS]
    middle = ((right + left) / 2).clip(end + step / 2, 1 - end - step / 2)
    near = left - right < step
    centres[_RIGHT, _ACROSS] = np.where(near, middle - step / 2, right)
    centres[_LEFT, _ACROSS] = np.where(near, middle + step / 2, left)

    end, step = least[_DOWN], apart[_DOWN]
    upper, mid, lower = ([zones[place] for zones in _ZONES] for place in range(3))
    middle = centres[mid, _DOWN].clip(end + step, 1 - end - step)
    centres[mid, _DOWN] = middle
    for above in (upper, _APICAL):
        centres[above, _DOWN] = np.minimum(centres[above, _DOWN], middle - step)
    centres[lower, _DOWN] = np.maximum(centres[lower, _DOWN], middle + step)
