"""Other radiographs from those at hand: moved, scaled, turned, exposed and covered otherwise, with their boxes.

What an image becomes depends on the seed, the epoch and its row alone, whatever batch or process it is in, so that a
resumed training sees what an unbroken one would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from chextriev.errors import InvalidSetting

SEEN = 0.7
"""A region of which less is left in the image is not learned from."""
_BLUR = torch.tensor([0.06, 0.24, 0.4, 0.24, 0.06])  # a Gaussian of about one pixel


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed; every change is drawn evenly between none and the whole, in both directions.

    zoom, stretch: of both sides alike, and of width against height, as factors (.2 is 1/1.2 to 1.2). shift: share of
    the image's side. turn: degrees. brightness: share of the range of grey levels. contrast, gamma: as factors. noise:
    grey levels (standard deviation). blur: share of a Gaussian of one pixel. covers: rectangles of even grey, each up
    to half as wide and high as the image.
    """

    zoom: float = 0.25
    stretch: float = 0.12
    shift: float = 0.10
    turn: float = 7.0
    brightness: float = 0.1
    contrast: float = 0.3
    gamma: float = 0.5
    noise: float = 6.0
    blur: float = 1.0
    covers: int = 1

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if not 0 <= value <= _HIGHEST.get(setting.name, 1):
                highest = _HIGHEST.get(setting.name, 1)
                raise InvalidSetting(f"augmentation: {setting.name} is {value!r}; 0 to {highest} is possible")


_HIGHEST = {"turn": 45, "noise": 64, "covers": 8, "shift": 0.5}
DEFAULT_AUGMENTATION = Augmentation()


class Augmented(NamedTuple):
    """images [B, size, size] uint8. boxes [B, 18, 4] float32, fractions of the image. seen [B, 18] bool: enough is
    left of the region.
    """

    images: Tensor
    boxes: Tensor
    seen: Tensor


def augment(images: Tensor, boxes: Tensor, keys: Sequence[Sequence[int]], change: Augmentation) -> Augmented:
    """Images [B, size, size] uint8 and their boxes [B, 18, 4] float32 as fractions, each changed as its key draws.

    A turned box bounds the ellipse that it held: regions are round, and the hull of turned corners would be too large.
    """
    draws = [np.random.default_rng(tuple(key)) for key in keys]
    placed = torch.from_numpy(np.stack([_placement(draw, change) for draw in draws]))  # [B, 2, 3]
    size = images.shape[-1]
    grid = functional.affine_grid(placed, [len(images), 1, size, size], align_corners=False)
    levels = functional.grid_sample(images[:, None].float(), grid, align_corners=False)[:, 0]
    levels = _exposed(levels, draws, change)
    for one, draw in zip(levels, draws, strict=True):
        _cover(one, draw, change.covers)
    return Augmented(levels.round_().clamp_(0, 255).to(torch.uint8), *_moved(boxes, placed))


def _placement(draw: np.random.Generator, change: Augmentation) -> npt.NDArray[np.float32]:
    """[2, 3]: where in the image (-1..1 in both directions) each place of the new one is found."""
    zoom, stretch = _factor(draw, change.zoom), _factor(draw, change.stretch) ** 0.5
    angle = np.deg2rad(draw.uniform(-change.turn, change.turn))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turned / (zoom * np.array([stretch, 1 / stretch]))
    shift = 2 * draw.uniform(-change.shift, change.shift, (2, 1))
    return np.concatenate([matrix, shift], axis=1).astype(np.float32)


def _factor(draw: np.random.Generator, most: float) -> float:
    return float((1 + most) ** draw.uniform(-1, 1))


def _moved(boxes: Tensor, placed: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes in the new image, cut at its border, and whether enough of each is left."""
    low, high = 2 * boxes[..., :2] - 1, 2 * boxes[..., 2:] - 1
    forth = torch.linalg.inv(placed[:, :, :2])  # [B, 2, 2]
    centre = ((low + high) / 2 - placed[:, None, :, 2]) @ forth.mT
    half = (((high - low) / 2) ** 2 @ (forth**2).mT).sqrt()
    whole = (torch.cat([centre - half, centre + half], dim=2) + 1) / 2
    cut = whole.clamp(0, 1)
    return cut, _area(cut) >= SEEN * _area(whole)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def _exposed(levels: Tensor, draws: Sequence[np.random.Generator], change: Augmentation) -> Tensor:
    drawn = [_exposure(draw, change) for draw in draws]
    gamma, contrast, brightness, noise, blur = torch.tensor(drawn, dtype=torch.float32).T[:, :, None, None]
    shape = levels.shape[1:]
    grain = torch.from_numpy(np.stack([draw.standard_normal(shape, np.float32) for draw in draws]))
    levels = torch.lerp(levels, _blurred(levels), blur)
    levels = 255 * (levels / 255).clamp(0, 1) ** gamma
    exposed: Tensor = (levels - 127.5) * contrast + 127.5 + 255 * brightness + noise * grain
    return exposed


def _exposure(draw: np.random.Generator, change: Augmentation) -> tuple[float, ...]:
    gamma, contrast = _factor(draw, change.gamma), _factor(draw, change.contrast)
    brightness = draw.uniform(-change.brightness, change.brightness)
    return gamma, contrast, brightness, draw.uniform(0, change.noise), draw.uniform(0, change.blur)


def _blurred(levels: Tensor) -> Tensor:
    wide = functional.pad(levels[:, None], (2, 2, 2, 2), mode="replicate")
    across = functional.conv2d(wide, _BLUR.reshape(1, 1, 1, 5))
    blurred: Tensor = functional.conv2d(across, _BLUR.reshape(1, 1, 5, 1))[:, 0]
    return blurred


def _cover(levels: Tensor, draw: np.random.Generator, covers: int) -> None:
    size = levels.shape[-1]
    for _ in range(int(draw.integers(0, covers + 1))):
        sides = draw.integers(size // 16, size // 2, 2)
        y, x = draw.integers(0, size - sides)
        levels[y : y + sides[0], x : x + sides[1]] = float(draw.uniform(0, 255))
