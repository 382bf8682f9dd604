"""Views of radiographs that the quality check is fitted to, and pictures that are none.

A view is what another detector, plate or field might have shown: a part of the image, or more than it, in another
proportion and exposure. What is no chest radiograph is made from radiographs and from chance, so that no collection of
photographs is needed: one in six each of scrambled phases, shuffled tiles, details, shapes, clouds and blobs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.errors import InvalidSetting
from chextriev.quality_view import SHRUNK, Frame, View, look, view_of

Grey = npt.NDArray[np.float64]
_SOURCE = 256  # the long side of what views are cut from, in pixels
_GRID = np.mgrid[:SHRUNK, :SHRUNK] / SHRUNK


@dataclass(frozen=True)
class ViewSettings:
    """How far views differ from their image. Shares of its sides, and standard deviations of normal distributions.

    smallest, largest: side of the part that is shown, drawn evenly. squeeze: of its proportions. shift: of its centre.
    exposure: of the logarithm of the exponent of grey levels. keep: share of views that stay inside the image.
    """

    smallest: float = 0.88
    largest: float = 1.12
    squeeze: float = 0.06
    shift: float = 0.05
    exposure: float = 0.3
    keep: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest <= 2 or min(self.squeeze, self.shift, self.exposure) < 0:
            raise InvalidSetting(f"{self}: 0 < smallest <= largest <= 2 and deviations of at least 0 are needed")


MILD = ViewSettings()
WIDE = ViewSettings(smallest=0.72, largest=1.1, shift=0.13, keep=0.6)


def cut_view(
    pixels: npt.NDArray[np.uint8], lungs: Grey, settings: ViewSettings, rng: np.random.Generator
) -> tuple[View, Grey]:
    """A view of an image, and where its lungs end there.

    lungs: [4] left, top, right, bottom as shares of the image's sides; the answer is in shares of the view inside its
    frame, below 0 or above 1 where the view has cut them.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_SOURCE, _SOURCE), Image.Resampling.BILINEAR)
    width = rng.uniform(settings.smallest, settings.largest)
    sides = np.array([width, width * np.exp(rng.normal(0, settings.squeeze))])
    start = 0.5 - sides / 2 + rng.normal(0, settings.shift, 2)
    if rng.random() < settings.keep:
        start = np.maximum(np.minimum(start, 1 - sides), 0)
    box = np.concatenate([start, start + sides])
    shown = image.transform(
        (SHRUNK, SHRUNK), Image.Transform.EXTENT, tuple(box * [*image.size, *image.size]), Image.Resampling.BILINEAR
    )
    frame, grey = look(_exposed(np.asarray(shown), np.exp(rng.normal(0, settings.exposure))))
    return view_of(grey, frame), _within((lungs - np.tile(start, 2)) / np.tile(sides, 2), frame)


def no_chest(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> View:
    """A picture that is no chest radiograph, made from one or from chance."""
    _, grey = look(pixels)
    make = _MAKERS[rng.integers(len(_MAKERS))]
    drawn = make(grey.astype(np.float64), rng)
    low, high = drawn.min(), drawn.max()
    frame, seen = look(((drawn - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))
    return view_of(seen, frame)


def _exposed(pixels: npt.NDArray[np.uint8], exponent: float) -> npt.NDArray[np.uint8]:
    return np.asarray(255 * (pixels / 255) ** exponent, np.uint8)


def _within(lungs: Grey, frame: Frame) -> Grey:
    start = np.array([frame.left, frame.top] * 2)
    sides = np.array([frame.right - frame.left, frame.bottom - frame.top] * 2)
    return np.asarray((lungs - start) / sides)


def _scrambled(grey: Grey, rng: np.random.Generator) -> Grey:
    """The same spatial frequencies with the phases of noise."""
    phases = np.angle(np.fft.fft2(rng.normal(size=grey.shape)))
    return np.asarray(np.real(np.fft.ifft2(np.abs(np.fft.fft2(grey)) * np.exp(1j * phases))))


def _shuffled(grey: Grey, rng: np.random.Generator) -> Grey:
    """Its quarters or sixteenths in another order."""
    count = int(rng.choice([2, 4]))
    side = SHRUNK // count
    tiles = grey.reshape(count, side, count, side).swapaxes(1, 2).reshape(-1, side, side)
    order = np.roll(rng.permutation(len(tiles)), 1)
    return tiles[order].reshape(count, count, side, side).swapaxes(1, 2).reshape(grey.shape)


def _detail(grey: Grey, rng: np.random.Generator) -> Grey:
    """A quarter to a half of its width and height."""
    side = int(rng.uniform(0.25, 0.5) * SHRUNK)
    row, column = rng.integers(0, SHRUNK - side, 2)
    part = Image.fromarray(grey[row : row + side, column : column + side].astype(np.float32))
    return np.asarray(part.resize((SHRUNK, SHRUNK), Image.Resampling.BILINEAR), np.float64)


def _shapes(_: Grey, rng: np.random.Generator) -> Grey:
    """Up to eight ellipses and rectangles with noise."""
    drawn = np.full((SHRUNK, SHRUNK), rng.uniform(0, 255))
    for _number in range(rng.integers(1, 9)):
        down, across = _GRID - rng.uniform(0, 1, (2, 1, 1))
        turn, (width, height) = rng.uniform(0, np.pi), rng.uniform(0.05, 0.5, 2)
        first = np.abs(across * np.cos(turn) + down * np.sin(turn)) / width
        second = np.abs(down * np.cos(turn) - across * np.sin(turn)) / height
        inside = first**2 + second**2 < 1 if rng.random() < 0.5 else np.maximum(first, second) < 1
        drawn[inside] = rng.uniform(0, 255)
    return drawn + rng.normal(0, rng.uniform(1, 20), drawn.shape)


def _clouds(_: Grey, rng: np.random.Generator) -> Grey:
    """Noise whose strength falls with frequency, mirrored about the middle in half of the cases."""
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(SHRUNK), np.fft.fftfreq(SHRUNK))) + 0.005
    spectrum = np.fft.fft2(rng.normal(size=(SHRUNK, SHRUNK))) / frequencies ** rng.uniform(0.5, 2.2)
    drawn = np.real(np.fft.ifft2(spectrum))
    drawn = drawn + drawn[:, ::-1] if rng.random() < 0.5 else drawn
    return np.asarray(drawn / drawn.std())


def _blob(grey: Grey, rng: np.random.Generator) -> Grey:
    """A soft bright ellipse with symmetric clouds in it: a head, a hand, a fruit."""
    clouds = _clouds(grey, rng)
    down, across = _GRID - np.array([rng.uniform(0.3, 0.7), 0.5]).reshape(2, 1, 1)
    width, height = rng.uniform(0.2, 0.5, 2)
    outside = (across / width) ** 2 + (down / height) ** 2 - 1
    return np.asarray(rng.uniform(2, 6) / (1 + np.exp(outside * rng.uniform(3, 20))) + clouds + clouds[:, ::-1])


_MAKERS: tuple[Callable[[Grey, np.random.Generator], Grey], ...] = (
    _scrambled,
    _shuffled,
    _detail,
    _shapes,
    _clouds,
    _blob,
)
