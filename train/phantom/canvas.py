"""The drawing grid of a phantom, and the few shapes that everything is made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from chextriev.anatomy import Side
from chextriev.train.phantom.findings import SIDES
from chextriev.train.phantom.layout import Layout, Points

Field = npt.NDArray[np.float32]  # [height, width] of the grid
_STEP = 2  # pixels of the picture per pixel of the grid
_WALL_STEPS = 512  # entries per lung height


@dataclass(frozen=True, eq=False)
class Canvas:
    """The grid of one radiograph, with what every part of the drawing needs.

    x, y: patient coordinates; offset: distance from the midline; lungs: 0..1 by side, without what hides them.
    """

    layout: Layout
    x: Field
    y: Field
    offset: Field
    lungs: dict[Side, Field]
    depth: dict[Side, Field]
    heart: Field
    vessels: Field

    @classmethod
    def of(cls, layout: Layout) -> "Canvas":
        """The grid for a layout."""
        columns = np.arange(0.5 * _STEP, layout.pose.width, _STEP)[None]
        rows = np.arange(0.5 * _STEP, layout.pose.height, _STEP)[:, None]
        x, y = layout.from_pixels(columns, rows)
        sides = {"right": x < 0, "left": x >= 0}
        both = mask(layout, *(layout.lungs[side] for side in SIDES), blur=1.2)
        lungs = {side: both * sides[side] for side in SIDES}
        depth = {
            side: np.where(sides[side], _wall(layout, y, side) - np.abs(x), -1).astype(np.float32) for side in SIDES
        }
        heart = mask(layout, layout.heart, blur=1.6)
        return cls(layout, x, y, np.abs(x), lungs, depth, heart, mask(layout, layout.upper_mediastinum, blur=2.0))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return self.x.shape[0], self.x.shape[1]

    def blob(self, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
        """A Gaussian hill of height one; lengths in lung heights."""
        return _hill((self.x - np.float32(centre[0])) / radii[0], (self.y - np.float32(centre[1])) / radii[1])

    def twin_blobs(self, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
        """A Gaussian hill on each side of the midline."""
        return _hill((self.offset - np.float32(centre[0])) / radii[0], (self.y - np.float32(centre[1])) / radii[1])

    def noise(self, rng: np.random.Generator, cells: int) -> Field:
        """A smooth random field of unit standard deviation and `cells` cells across."""
        return smooth_noise(rng, self.shape, cells)


def _hill(across: Field, down: Field) -> Field:
    return np.asarray(np.exp(-(across * across + down * down)), np.float32)


def mask(layout: Layout, *outlines: Points, blur: float) -> Field:
    """Filled outlines of the patient frame on the grid, 0..1, their edges softened over about `blur` grid pixels."""
    image = Image.new("L", (layout.pose.width // _STEP, layout.pose.height // _STEP))
    pen = ImageDraw.Draw(image)
    for outline in outlines:
        pen.polygon((layout.to_pixels(outline) / _STEP).ravel().tolist(), fill=255)
    return np.asarray(image.filter(ImageFilter.BoxBlur(1.5 * blur)), np.float32) / np.float32(255)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Field:
    """A smooth random field [height, width] of about unit standard deviation."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    grown = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(grown, np.float32)


def ramp(values: npt.NDArray[np.floating], width: float) -> Field:
    """0 below zero, 1 above `width`, linear between."""
    return np.asarray(np.clip(values / np.float32(width), 0, 1), np.float32)


def _wall(layout: Layout, y: Field, side: Side) -> Field:
    """The chest wall's distance from the midline, looked up in a table."""
    table = layout.lateral_edge(np.arange(0, 1.5, 1 / _WALL_STEPS), side).astype(np.float32)
    return np.asarray(table[np.clip(y * _WALL_STEPS, 0, len(table) - 1).astype(np.intp)])
