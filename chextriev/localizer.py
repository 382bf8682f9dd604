"""Where the 18 regions of a radiograph are: what a localizer gives, and the mean layout that stands in for one.

Whatever proposes boxes, `valid_boxes` makes them boxes that every encoder takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS
from chextriev.bundle import DEFAULT, EncoderBundle
from chextriev.encoder import Encoder, open_encoder
from chextriev.preprocess import region_crops
from chextriev.radiograph import RegionBoxes
from chextriev.valid_boxes import MEAN_LAYOUT as MEAN_LAYOUT
from chextriev.valid_boxes import MEAN_LAYOUT_OVERLAP, MEAN_LAYOUT_SOURCE, valid_confidence
from chextriev.valid_boxes import valid_boxes as valid_boxes

Pixels = npt.NDArray[np.uint8]


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
    """Proposes the boxes of radiographs. Safe to call from several threads."""

    @property
    def digest(self) -> str:
        """Identity of what it computes, whatever executes it."""

    @property
    def source(self) -> str:
        """The same in words, and what executes it, for cards, tables and remarks."""

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


class EngineLocalizer:
    """A localizer's bundle on one of its engines; InvalidSetting where the bundle is an encoder's.

    digest: that of the bundle, the same for all of its engines.
    """

    def __init__(self, encoder: Encoder) -> None:
        encoder.bundle.check_locates()
        self._encoder = encoder
        self.digest = encoder.bundle.digest
        self.source = localizer_source(self.digest, encoder.engine)

    def locate(self, images: Sequence[Pixels]) -> Located:
        """The regions of images [height, width] uint8, each of any size."""
        if not len(images):
            return Located((), np.empty((0, N_REGIONS), np.float32), self.source)
        card = self._encoder.bundle.card
        crops = np.concatenate([region_crops(image, None, card.crops) for image in images])  # [B, size, size]
        return self.locate_crops(crops, [(image.shape[1], image.shape[0]) for image in images])

    def locate_crops(self, crops: Pixels, sizes: Sequence[tuple[int, int]]) -> Located:
        """The regions of radiographs of these sizes (width, height), from what the bundle's crops show of them.

        crops: [B, size, size] uint8.
        """
        features = self._encoder.extract(crops)
        found = self._encoder.outputs(features.reshape(len(sizes), 1, -1))
        fractions = found["region_boxes"]  # [B, 18, 4] float32
        boxes = [
            valid_boxes(each, width=width, height=height)
            for each, (width, height) in zip(fractions, sizes, strict=True)
        ]
        return Located(tuple(boxes), valid_confidence(found["box_confidence"], fractions), self.source)


def localizer_source(digest: str, engine: str) -> str:
    """What proposed boxes, in words: the bundle of this digest on one of its engines, wherever it runs."""
    return f"localizer {digest[:12]}, engine {engine}"


def open_localizer(
    bundle: str | Path | EncoderBundle | None, *, engine: str = DEFAULT, device: str = "cpu", proven: bool = False
) -> Localizer:
    """The localizer of a bundle on one of its engines, as `open_encoder`; the mean layout where bundle is None.

    InvalidSetting where the bundle is an encoder's.
    """
    if bundle is None:
        return MeanLayout()
    return EngineLocalizer(open_encoder(bundle, engine=engine, device=device, proven=proven))
