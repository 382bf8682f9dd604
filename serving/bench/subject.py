"""What is measured: a bundle, and one radiograph as the files that a client may send."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.bundle import EncoderBundle, open_bundle
from chextriev.radiograph import RegionBoxes, decode_pixels
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.bench.settings import ServeBenchSettings

QUERY, SMALL, ORIGINAL = "query", "small", "original"
QUERY_BYTES = 250_000
"""Of a query at most: the radiograph in all its pixels, compressed until it fits."""
SMALL_SIDE = 512
BEST_QUALITY = 95
"""That of MIMIC-CXR-JPG; https://physionet.org/content/mimic-cxr-jpg/2.1.0/."""


@dataclass(frozen=True)
class Query:
    """A JPEG file to send, and what it is."""

    file: RadiographFile
    quality: int
    size: tuple[int, int]  # width, height

    def described(self) -> dict[str, int]:
        """For the results."""
        width, height = self.size
        return {"width": width, "height": height, "quality": self.quality, "bytes": len(self.file.content)}


@dataclass(frozen=True)
class ServeSubject:
    """Everything that is measured. queries: by name, QUERY, SMALL and ORIGINAL."""

    bundle: EncoderBundle
    queries: Mapping[str, Query]

    @property
    def file(self) -> RadiographFile:
        """The query that the load consists of."""
        return self.queries[QUERY].file


def make_serve_subject(folder: Path, settings: ServeBenchSettings) -> ServeSubject:
    """A made-up radiograph, and the bundle or one with random weights, in an empty folder."""
    from chextriev.export.bench_bundle import EncodeBenchSettings, make_subject, write_sample

    made = EncodeBenchSettings(backbone=settings.backbone, height=settings.height, width=settings.width)
    if settings.bundle is None:
        subject = make_subject(folder, made, [])
        bundle, sample = subject.bundle, subject.sample
    else:
        bundle, sample = open_bundle(settings.bundle), write_sample(folder, made)
    return ServeSubject(bundle, make_queries(sample.image.read_bytes(), sample.boxes))


def make_queries(original: bytes, boxes: RegionBoxes) -> dict[str, Query]:
    """The radiograph as it is, in all its pixels within QUERY_BYTES, and reduced to SMALL_SIDE pixels."""
    pixels = decode_pixels(original, where="the bench's radiograph")
    height, width = pixels.shape
    scale = min(1.0, SMALL_SIDE / max(pixels.shape))
    size = (round(width * scale), round(height * scale))
    reduced = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    small = RegionBoxes(boxes.xyxy * np.float32(scale))
    return {
        QUERY: _compressed(pixels, boxes, limit=QUERY_BYTES),
        SMALL: _compressed(reduced, small, limit=QUERY_BYTES),
        ORIGINAL: Query(RadiographFile(ORIGINAL, original, boxes), BEST_QUALITY, (width, height)),
    }


def _compressed(pixels: npt.NDArray[np.uint8], boxes: RegionBoxes, *, limit: int) -> Query:
    """The best quality whose file is small enough; the least where none is."""
    for quality in range(BEST_QUALITY, 0, -1):
        stream = io.BytesIO()
        image: Any = Image.fromarray(pixels)
        image.save(stream, "JPEG", quality=quality)
        if stream.tell() <= limit:
            break
    return Query(RadiographFile(QUERY, stream.getvalue(), boxes), quality, (pixels.shape[1], pixels.shape[0]))
