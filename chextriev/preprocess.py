"""Crop and resize: the one definition that training, every engine and the server share.

The published code crops each box in original pixels (outside is black) and resizes it to 224 x 224 with antialiased
bilinear interpolation, ignoring the aspect ratio. Here the crop is Pillow's and the arithmetic is 8-bit: each of its
two passes rounds to a grey level, so a pixel may differ from the published floating-point form by up to
`TOLERANCE_GREY_LEVELS`. The passes are across, then down; and the other way round where the height shrinks by more than
twice as many pixels as the width. That is Pillow 13's order: an earlier one differs by a grey level in such crops.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.anatomy import N_REGIONS
from chextriev.artifacts import digest_of
from chextriev.errors import InvalidSetting, MissingRegion
from chextriev.radiograph import RegionBoxes

TOLERANCE_GREY_LEVELS = 1.01
"""Largest difference to the published resize, in grey levels of 255: half a level a pass, and Pillow's 22-bit weights.

Measured: 1.0007 on noise, the worst content (tests/test_preprocess.py).
"""


AREAS = {"regions": N_REGIONS, "image": 1, "regions+image": N_REGIONS + 1}
"""Crops a radiograph, by what is cropped."""


@dataclass(frozen=True)
class CropSpec:
    """How a radiograph becomes the backbone's input. Saved with everything that depends on it.

    area: the 18 regions, the whole image, or the regions and then the image. size: of a crop, in pixels.
    """

    size: int = 224
    area: Literal["regions", "image", "regions+image"] = "regions"
    resize: str = "bilinear-antialias-uint8"
    corners: str = "nearest-integer"
    outside: str = "black"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidSetting(f"crop size {self.size}; a positive number of pixels is needed")
        if self.area not in AREAS:
            raise InvalidSetting(f"crop area {self.area!r}; choose one of {', '.join(AREAS)}")
        if (self.resize, self.corners, self.outside) != ("bilinear-antialias-uint8", "nearest-integer", "black"):
            raise InvalidSetting(f"unknown preprocessing {asdict(self)}; this release implements {asdict(CropSpec())}")

    @property
    def count(self) -> int:
        """Crops a radiograph."""
        return AREAS[self.area]

    @property
    def digest(self) -> str:
        """Identity of the preprocessing."""
        return digest_of(asdict(self))


def region_crops(
    pixels: npt.NDArray[np.uint8], boxes: RegionBoxes | None, spec: CropSpec | None = None
) -> npt.NDArray[np.uint8]:
    """The crops [spec.count, size, size] uint8 of a radiograph [height, width] uint8; by default of its regions.

    boxes: not looked at where only the whole image is cropped, and may be None there; MissingRegion elsewhere.

    Each is cut before it is resized, which takes a thirtieth of the time: Pillow's resize of a box in place blends in
    what lies beside the box.
    """
    spec = spec or CropSpec()
    image = Image.fromarray(pixels)
    cut = [image.crop(tuple(corners)) for corners in _corners(boxes)] if spec.area != "image" else []
    if spec.area != "regions":
        cut.append(image)
    size = (spec.size, spec.size)
    return np.stack([np.asarray(crop.resize(size, Image.Resampling.BILINEAR)) for crop in cut])


def _corners(boxes: RegionBoxes | None) -> npt.NDArray[np.int64]:
    if boxes is None:
        raise MissingRegion("no boxes; crops of the regions need those of all 18: give them, or have them proposed")
    return integer_corners(boxes)


def integer_corners(boxes: RegionBoxes) -> npt.NDArray[np.int64]:
    """[18, 4] int64 corners to cut at."""
    return nearest_corners(boxes.xyxy)


def nearest_corners(xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """[..., 4] int64: the nearest integers (halves up) of [..., 4] corners, at least one pixel wide and high."""
    corners = np.floor(xyxy.astype(np.float64) + 0.5).astype(np.int64)
    corners[..., 2:] = np.maximum(corners[..., 2:], corners[..., :2] + 1)
    return corners
