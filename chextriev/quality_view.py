"""What the quality check sees of a radiograph: a thumbnail without its frame, and the directions of its edges.

Both are the same for every exposure: grey levels are replaced by their ranks, and edges are counted in each of 8 x 8
cells by direction, each cell scaled by its own strength (histograms of oriented gradients: N. Dalal and B. Triggs, CVPR
2005). A picture that is turned or inverted has the same numbers in other places, so that all eight ways in which it
may lie are judged for the price of one.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

SHRUNK = 128
SIDE = 64
CELLS = 8
DIRECTIONS = 8
GREYS = 16
_FLAT = 0.03  # a border is flat where its inner 80 % span less than this share of the picture's grey levels
_MOST_TRIMMED = 0.4
_WEAK = 0.3  # of the mean strength: what keeps the noise of an empty cell from counting as an edge
_GREY_SHARE = 0.25  # ranks are of order 1, a cell's directions of order .3


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the picture is within its flat border: shares of the image's width and height, and its proportions.

    spread: grey levels between the 2nd and the 98th percentile.
    """

    left: float
    top: float
    right: float
    bottom: float
    aspect: float
    spread: float


@dataclass(frozen=True, eq=False)
class View:
    """directions: [8, 8, 8] float32 (row, column, direction). greys: [256] float32, 16 x 16 ranks."""

    directions: Floats
    greys: Floats

    @property
    def both(self) -> Floats:
        """[768] float32."""
        return np.concatenate([self.directions.ravel(), self.greys])


def look(pixels: npt.NDArray[np.uint8]) -> tuple[Frame, Floats]:
    """The frame of an image [height, width] uint8 and the image, shrunk: [128, 128] float32, 0 to 255."""
    height, width = pixels.shape
    shrunk = Image.fromarray(pixels).resize((SHRUNK, SHRUNK), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = np.asarray(shrunk, np.float32)
    low, high = np.percentile(grey, (2, 98))
    flat = max(_FLAT * float(high - low), 1.0)
    (top, bottom), (left, right) = _trimmed(grey, flat), _trimmed(grey.T, flat)
    aspect = (right - left) * width / ((bottom - top) * height)
    return Frame(left, top, right, bottom, aspect, float(high - low)), grey


def view_of(grey: Floats, frame: Frame) -> View:
    """The picture inside its frame."""
    box = (SHRUNK * frame.left, SHRUNK * frame.top, SHRUNK * frame.right, SHRUNK * frame.bottom)
    inner = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    ranks = _ranks(np.asarray(inner, np.float32))
    return View(_directions(ranks), _GREY_SHARE * _pooled(ranks, GREYS).ravel())


def turned(directions: npt.NDArray[np.floating], quarters: int) -> npt.NDArray[np.floating]:
    """The directions [8, 8, 8] of a picture that is turned clockwise by so many quarters."""
    return np.roll(np.rot90(directions, -quarters), quarters * DIRECTIONS // 4, axis=2)


def inverted(directions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The directions [8, 8, 8] of the negative of a picture."""
    return np.roll(directions, DIRECTIONS // 2, axis=2)


def mirrored(directions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The directions [8, 8, 8] of a picture with left and right exchanged."""
    return directions[:, ::-1, (DIRECTIONS // 2 - np.arange(DIRECTIONS)) % DIRECTIONS]


def _trimmed(grey: Floats, flat: float) -> tuple[float, float]:
    """First and last share of the rows that are not part of a flat border."""
    low, high = np.percentile(grey, (10, 90), axis=1)
    lively = np.flatnonzero(high - low >= flat)
    if not len(lively):
        return 0.0, 1.0
    most = int(_MOST_TRIMMED * SHRUNK)
    return min(int(lively[0]), most) / SHRUNK, max(int(lively[-1]) + 1, SHRUNK - most) / SHRUNK


def _ranks(grey: Floats) -> Floats:
    """Ranks of grey levels, mean 0 and deviation 1; equal levels (to a quarter) have equal ranks."""
    _, place, counts = np.unique(np.round(4 * grey), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2)[place].reshape(grey.shape)
    ranks -= ranks.mean()
    return np.asarray(ranks / max(float(ranks.std()), 1e-6), np.float32)


def _directions(ranks: Floats) -> Floats:
    """[8, 8, 8] float32: strength of the edges of each cell towards right, right and down, down, ..."""
    across, down = np.zeros_like(ranks), np.zeros_like(ranks)
    across[:, 1:-1] = ranks[:, 2:] - ranks[:, :-2]
    down[1:-1] = ranks[2:] - ranks[:-2]
    strength = np.hypot(across, down)
    angle = np.arctan2(down, across) * (DIRECTIONS / (2 * np.pi)) % DIRECTIONS
    lower = np.floor(angle)
    share, lower = angle - lower, lower.astype(np.intp) % DIRECTIONS
    rows = np.arange(SIDE) // (SIDE // CELLS)
    cell = (rows[:, None] * CELLS + rows) * DIRECTIONS
    count = CELLS * CELLS * DIRECTIONS
    found = np.bincount((cell + lower).ravel(), (strength * (1 - share)).ravel(), count)
    found += np.bincount((cell + (lower + 1) % DIRECTIONS).ravel(), (strength * share).ravel(), count)
    found = found.reshape(CELLS, CELLS, DIRECTIONS)
    total = np.linalg.norm(found, axis=2, keepdims=True)
    return np.asarray(found / (total + _WEAK * total.mean() + 1e-6), np.float32)


def _pooled(ranks: Floats, side: int) -> Floats:
    return np.asarray(ranks.reshape(side, SIDE // side, side, SIDE // side).mean(axis=(1, 3)))
