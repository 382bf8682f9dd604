"""Copies of radiographs with a fault made on purpose, and others that are changed but sound."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.anatomy import Region
from chextriev.localizer import Located, valid_boxes
from chextriev.radiograph import Radiograph

Pixels = npt.NDArray[np.uint8]
CUTS = (0.1, 0.2, 0.3, 0.5)
"""Shares of the lungs' width (left and right) or height (top and bottom) that a cropped copy has lost."""
BORDERS = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Copy:
    """What is done to a radiograph. expected: the kind of reason that is to be found; None for a sound copy.

    make: the pixels, and the corners x1, y1, x2, y2 of the image that they show where they are a part of it.
    """

    name: str
    expected: str | None
    make: Callable[[Radiograph], tuple[Pixels, tuple[int, int, int, int] | None]]


def copies() -> list[Copy]:
    """All of them, the radiograph itself first."""
    kept = Copy("as it is", None, lambda each: (each.pixels, (0, 0, each.pixels.shape[1], each.pixels.shape[0])))
    return [kept, *_sound(), *_lying(), *_empty(), *_cropped()]


def located_in(radiograph: Radiograph, part: tuple[int, int, int, int]) -> Located:
    """The given boxes as far as a part of the image shows them, as from a localizer that makes no mistake."""
    x1, y1, x2, y2 = part
    width, height = x2 - x1, y2 - y1
    fractions = (radiograph.boxes.xyxy - np.array([x1, y1, x1, y1])) / np.array([width, height] * 2)
    boxes = valid_boxes(fractions, width=width, height=height)
    return Located((boxes,), np.ones((1, len(boxes.xyxy)), np.float32), "given boxes")


def _whole(name: str, expected: str | None, change: Callable[[Pixels], npt.NDArray[np.generic]]) -> Copy:
    return Copy(name, expected, lambda each: (np.ascontiguousarray(change(each.pixels), np.uint8), None))


def _sound() -> list[Copy]:
    return [
        _whole("black frame of 15 %", None, lambda p: np.pad(p, _share(p, 0.15))),
        _whole("white frame of 15 %", None, lambda p: np.pad(p, _share(p, 0.15), constant_values=255)),
        _whole("oblique black corners", None, _collimated),
        _whole("two bright markers", None, _marked),
        _whole("64 pixels wide", None, lambda p: _resized(p, 64, 64 * p.shape[0] // p.shape[1])),
        _whole("16 grey levels of 256", None, lambda p: 100 + p // 16),
        _whole("levels 0 to 40, some at 255", None, _spiked),
        _whole("darker (gamma 2)", None, lambda p: 255 * (p / 255) ** 2),
        _whole("brighter (gamma 0.5)", None, lambda p: 255 * (p / 255) ** 0.5),
        _whole("1.4 times as wide", None, lambda p: _resized(p, p.shape[1] * 7 // 5, p.shape[0])),
        _whole("1.4 times as high", None, lambda p: _resized(p, p.shape[1], p.shape[0] * 7 // 5)),
    ]


def _lying() -> list[Copy]:
    return [
        _whole("inverted", "inverted", lambda p: 255 - p),
        *(_whole(f"turned by {90 * q}", "turned", partial(np.rot90, k=-q)) for q in (1, 2, 3)),
        *(_whole(f"inverted, turned by {90 * q}", "inverted", partial(_negative, quarters=q)) for q in (1, 2, 3)),
        _whole("left and right exchanged", "mirrored", lambda p: p[:, ::-1]),
        _whole("stretched 4 to 1", "stretched", lambda p: _resized(p, 4 * p.shape[1], p.shape[0])),
    ]


def _empty() -> list[Copy]:
    return [
        _whole("flat with two levels", "blank", lambda p: 90 + (np.arange(p.size) % 2).reshape(p.shape)),
        _whole("4 grey levels of 256", "blank", lambda p: 100 + p // 64),
        _whole("noise", "not a chest", lambda p: np.random.default_rng(p.size).integers(0, 256, p.shape)),
        _whole("its right half only", "not a chest", lambda p: p[:, : p.shape[1] // 2]),
        _whole("middle quarter only", "not a chest", _middle),
    ]


def _cropped() -> list[Copy]:
    return [
        Copy(f"cut {border}, {share:.0%} of the lungs", "cropped", partial(_cut, border=place, share=share))
        for share in CUTS
        for place, border in enumerate(BORDERS)
    ]


def _cut(radiograph: Radiograph, *, border: int, share: float) -> tuple[Pixels, tuple[int, int, int, int]]:
    height, width = radiograph.pixels.shape
    lungs = radiograph.boxes.xyxy[[Region.RIGHT_LUNG, Region.LEFT_LUNG]]
    ends = np.concatenate([lungs[:, :2].min(axis=0), lungs[:, 2:].max(axis=0)])
    part = [0, 0, width, height]
    opposite = ends[(border + 2) % 4]
    part[border] = round(float(ends[border] + share * (opposite - ends[border])))
    x1, y1, x2, y2 = max(part[0], 0), max(part[1], 0), min(part[2], width), min(part[3], height)
    return np.ascontiguousarray(radiograph.pixels[y1:y2, x1:x2]), (x1, y1, x2, y2)


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _share(pixels: Pixels, share: float) -> int:
    return int(share * min(pixels.shape))


def _spiked(pixels: Pixels) -> Pixels:
    """As a 16-bit image looks that was scaled by its highest value, a metal marker."""
    squeezed = pixels * (40 / 255)
    squeezed[: len(pixels) // 20, : len(pixels) // 20] = 255
    return squeezed.astype(np.uint8)


def _marked(pixels: Pixels) -> Pixels:
    marked, size = pixels.copy(), max(len(pixels) // 14, 1)
    marked[size : 2 * size, size : 2 * size] = 255
    marked[size : 2 * size, -4 * size : -size] = 255
    return marked


def _negative(pixels: Pixels, *, quarters: int) -> Pixels:
    return 255 - np.rot90(pixels, -quarters)


def _middle(pixels: Pixels) -> Pixels:
    height, width = pixels.shape
    return pixels[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]


def _collimated(pixels: Pixels) -> Pixels:
    """Black outside a frame that is turned by six degrees, about as far as shutters stand askew."""
    height, width = pixels.shape
    down, across = np.mgrid[:height, :width]
    down, across = down / height - 0.5, across / width - 0.5
    x, y = across * np.cos(0.1) + down * np.sin(0.1), down * np.cos(0.1) - across * np.sin(0.1)
    return np.where(np.maximum(np.abs(x), np.abs(y)) < 0.49, pixels, 0).astype(np.uint8)
