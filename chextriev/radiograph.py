"""A radiograph and the boxes of its 18 regions, checked when they are made."""

import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from chextriev.anatomy import N_REGIONS, Region
from chextriev.errors import (
    BoxOutside,
    CountMismatch,
    DuplicateRegion,
    EmptyBox,
    EmptyImage,
    ImageError,
    InvalidBox,
    MissingRegion,
    UnreadableImage,
)

if TYPE_CHECKING:
    from chextriev.localizer import Localizer
    from chextriev.reading import ReadSettings

View = Literal["AP", "PA"]
_OWN_HEADER = re.compile(rb"P5 ([0-9]{1,6}) ([0-9]{1,6}) 255\n")
GIVEN = "given"
"""The source of boxes that somebody gave, rather than a localizer."""
MAX_PIXELS = 89_000_000
"""Largest image that is decoded and largest box that is cut (Pillow refuses more); a 43 x 35 cm detector at 0.1 mm has
15 million pixels."""
PILLOW_FAULTS = (OSError, SyntaxError, ValueError)
"""What Pillow raises for a picture that it cannot read."""
_SURELY_SMALL = 4_700  # boxes within +-4,700 pixels cover fewer than MAX_PIXELS


@dataclass(frozen=True, eq=False)
class RegionBoxes:
    """One box for each of the 18 regions.

    xyxy: [18, 4] float32, corners x1, y1, x2, y2 in pixels of the original image, in the order of `Region`. A box may
    reach past the border (there the crop is black), but it has an area and touches the image.
    """

    xyxy: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.xyxy.shape != (N_REGIONS, 4):
            raise CountMismatch(f"boxes have shape {list(self.xyxy.shape)}; [{N_REGIONS}, 4] is needed")
        x1, y1, x2, y2 = self.xyxy.T
        if not (np.abs(self.xyxy).max() <= _SURELY_SMALL and (x1 < x2).all() and (y1 < y2).all()):
            for region, box in zip(Region, self.xyxy, strict=True):
                _check_box(region.label, box)
        self.xyxy.setflags(write=False)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, Sequence[float]]], *, where: str) -> "RegionBoxes":
        """Boxes from (region name, [x1, y1, x2, y2]) pairs in any order; `where` names the source in errors."""
        found: dict[Region, Sequence[float]] = {}
        for name, corners in pairs:
            region = Region.from_label(name, where=where)
            if region in found:
                raise DuplicateRegion(f"{where}: region {name!r} has two boxes; give one")
            found[region] = corners
        missing = [region.label for region in Region if region not in found]
        if missing:
            raise MissingRegion(f"{where}: no box for {', '.join(missing)}; all {N_REGIONS} regions are needed")
        return cls.from_rows([found[region] for region in Region], where=where)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float]], *, where: str) -> "RegionBoxes":
        """Boxes from 18 rows in the order of `Region`."""
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
                return cls(np.asarray(rows, dtype=np.float32).copy())
        except (InvalidBox, EmptyBox, CountMismatch) as error:
            raise type(error)(f"{where}: {error}") from None
        except (TypeError, ValueError, OverflowError):
            raise InvalidBox(f"{where}: each box is four numbers, x1, y1, x2, y2 in pixels") from None

    def check_inside(self, width: int, height: int, *, where: str) -> None:
        """Raise BoxOutside if no pixel of an image of this size lies in a box's crop, cut at whole pixels."""
        from chextriev.preprocess import integer_corners  # that module imports this one

        x1, y1, x2, y2 = integer_corners(self).T
        outside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
        if outside.any():
            region = tuple(Region)[int(np.flatnonzero(outside)[0])]
            raise BoxOutside(
                f"{where}: box of {region.label!r} {_as_text(self.xyxy[region])} does not touch the image of"
                f" {width} x {height} pixels; boxes are in pixels of the original image"
            )


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One frontal chest image with its region boxes. A study may hold several.

    pixels: [height, width] uint8, air dark. Sex is "F" or "M", age in years; None where unknown. boxes_source: in
    words, who or what drew the boxes. remarks: what a reader should know of the file, a sentence each.
    """

    image_id: str
    pixels: npt.NDArray[np.uint8]
    boxes: RegionBoxes
    study_id: str | None = None
    patient_id: str | None = None
    view: View | None = None
    sex: str | None = None
    age: int | None = None
    boxes_source: str = GIVEN
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype != np.uint8:
            kind = f"{list(self.pixels.shape)} {self.pixels.dtype}"
            raise UnreadableImage(f"image {self.image_id}: pixels are {kind}; [height, width] uint8 is needed")
        height, width = self.pixels.shape
        self.boxes.check_inside(width, height, where=f"image {self.image_id}")


def read_radiograph(
    path: str | Path,
    boxes: RegionBoxes | str | Path | None = None,
    *,
    image_id: str | None = None,
    localizer: "Localizer | None" = None,
    settings: "ReadSettings | None" = None,
) -> Radiograph:
    """Read a DICOM, JPEG or PNG file, or a folder or zip archive with one of them.

    boxes: its boxes or the file that holds them (see `read_boxes`); where None, the localizer proposes them, and the
    mean layout where that is None too: `boxes_source` says which. The id is the file's stem, or for DICOM a keyed hash
    of its UID, unless given. Raises ImageError for what is no frontal chest radiograph, BoxError for the boxes.
    """
    from chextriev.reading import DEFAULTS, read_image  # that package imports this module

    image = read_image(path, image_id=image_id, settings=settings or DEFAULTS)
    if boxes is None:
        return image.located(localizer)
    given = boxes if isinstance(boxes, RegionBoxes) else read_boxes(boxes, image_id=image.image_id)
    return image.with_boxes(given)


def read_pixels(path: str | Path) -> npt.NDArray[np.uint8]:
    """Decode a JPEG or PNG file of 8 bits to grey levels [height, width] uint8, read-only.

    They are those that Pillow reads, whatever decodes them here. Raises UnreadableImage for anything else, EmptyImage
    where every pixel is equal.
    """
    return _decode(path, ("JPEG", "PNG"), where=str(path))


def decode_pixels(content: bytes, *, where: str) -> npt.NDArray[np.uint8]:
    """`read_pixels` of a file's bytes, or of raw pixels as `raw_image` writes them; `where` names them in errors."""
    own = _own_pixels(content)
    if own is not None:
        return _not_empty(own, where)
    return _decode(
        io.BytesIO(content), ("JPEG", "PNG", "PPM") if content[:2] == b"P5" else ("JPEG", "PNG"), where=where
    )


def raw_image(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels [height, width] uint8 with a header that says their size: a portable graymap of 8 bits (Netpbm P5)."""
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise UnreadableImage(f"pixels are {list(pixels.shape)} {pixels.dtype}; [height, width] uint8 is needed")
    height, width = pixels.shape
    return b"P5 %d %d 255\n" % (width, height) + pixels.tobytes()


def _own_pixels(content: bytes) -> npt.NDArray[np.uint8] | None:
    """What `raw_image` wrote, without a copy; None for anything else, which Pillow is to read or to refuse."""
    found = _OWN_HEADER.match(content)
    if found is None:
        return None
    width, height = int(found[1]), int(found[2])
    if width * height > MAX_PIXELS or len(content) - found.end() != width * height:
        return None
    return np.frombuffer(content, np.uint8, offset=found.end()).reshape(height, width)


def _not_empty(pixels: npt.NDArray[np.uint8], where: str) -> npt.NDArray[np.uint8]:
    if pixels.size == 0 or pixels.min() == pixels.max():
        raise EmptyImage(f"{where}: every pixel is equal; a radiograph is needed")
    return pixels


def _decode(source: str | Path | IO[bytes], formats: tuple[str, ...], *, where: str) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(source, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width} x {image.height}"
                raise UnreadableImage(f"{where}: {size} pixels; at most {MAX_PIXELS:,} pixels are read")
            pixels = _grey(image, where)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(f"{where}: too many pixels; at most {MAX_PIXELS:,} are read") from None
    except PILLOW_FAULTS as error:
        if isinstance(error, ImageError):
            raise
        raise UnreadableImage(f"{where}: not a readable JPEG or PNG image ({fault_words(error)})") from None
    return _not_empty(pixels, where)


def read_boxes(path: str | Path, *, image_id: str) -> RegionBoxes:
    """Boxes of one image from a JSON file `{region name: [x1, y1, x2, y2]}` or `regions.csv` (the rows of image_id)."""
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return RegionBoxes.from_pairs(_csv_pairs(path, image_id), where=f"{path}, image {image_id}")
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidBox(f"{path}: not a JSON file of boxes ({fault_words(error)})") from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise InvalidBox(f"{path}: boxes are a JSON object, region name to [x1, y1, x2, y2]")
    return RegionBoxes.from_pairs(pairs, where=str(path))


def _csv_pairs(path: Path, image_id: str) -> list[tuple[str, list[float]]]:
    import csv

    corners = ("x1", "y1", "x2", "y2")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.DictReader(stream) if row["image_id"] == image_id]
        pairs = [(row["region"], [float(row[corner]) for corner in corners]) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InvalidBox(f"{path}: needs columns image_id, region, x1, y1, x2, y2 ({fault_words(error)})") from None
    if not pairs:
        raise MissingRegion(f"{path} has no box for image {image_id!r}; give the image's id with --image-id")
    return pairs


def _check_box(name: str, box: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(box).all():
        raise InvalidBox(f"box of {name!r} is {_as_text(box)}; four finite numbers are needed")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise EmptyBox(f"box of {name!r} {_as_text(box)} has no area; x1 < x2 and y1 < y2 are needed")
    width, height = float(box[2]) - float(box[0]), float(box[3]) - float(box[1])
    if max(width, height, width * height) > MAX_PIXELS:
        raise InvalidBox(f"box of {name!r} {_as_text(box)} covers more than {MAX_PIXELS:,} pixels")


def _grey(image: ImageFile, where: str) -> npt.NDArray[np.uint8]:
    if image.mode not in ("L", "RGB"):
        raise UnreadableImage(f"{where}: pixel format {image.mode}; 8-bit grey (or grey stored as RGB) is needed")
    if image.mode == "RGB":
        return np.asarray(image.convert("L"))
    pixels = _grey_jpeg(image) if image.format == "JPEG" else None
    return np.asarray(image) if pixels is None else pixels


def _grey_jpeg(image: ImageFile) -> npt.NDArray[np.uint8] | None:
    """Pixels of a grey JPEG file, decoded into the array itself; None where Pillow is to decide.

    Both libraries are libjpeg-turbo and decode alike; but Pillow's pixels are copied on their way to numpy, for up to
    half as long as the decoding takes. A file that gives simplejpeg any warning, or another size than Pillow, is
    Pillow's to repair or to refuse.
    """
    stream = image.fp
    if stream is None or (size := stream.seek(0, os.SEEK_END)) > MAX_PIXELS:  # the file is held in memory
        return None
    stream.seek(0)
    content = stream.read(size)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if (width, height, colours) != (image.width, image.height, "Gray"):
            return None
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "GRAY")[..., 0]
    except ValueError:
        return None
    pixels.setflags(write=False)  # as Pillow's are
    return pixels


def _as_text(box: Iterable[float]) -> str:
    return "[" + ", ".join(f"{corner:g}" for corner in box) + "]"


def fault_words(error: Exception) -> str:
    """The error's own words without the path, which the caller has named already."""
    if isinstance(error, UnidentifiedImageError):
        return "it is of another kind"
    return str(getattr(error, "strerror", None) or error).split(":", maxsplit=1)[0]
