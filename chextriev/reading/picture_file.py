"""JPEG and PNG files: grey, of 8 or 16 bits."""

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from chextriev.errors import EmptyImage, ImageError, UnreadableImage, UnsuitableImage
from chextriev.radiograph import MAX_PIXELS, PILLOW_FAULTS, decode_pixels, fault_words
from chextriev.reading.levels import spread

Pixels = npt.NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG")
_OPAQUE = {"LA": "L", "RGBA": "RGB"}
_ORIENTATION = 0x0112  # EXIF
VISIBLE_COLOUR = 24
"""Channels of a grey image stored as colour differ by less, in grey levels: JPEG rounds them apart by a few."""
_COLOURED = 0.001  # share of pixels that may differ by more, as where JPEG compressed sharp lines
TURNED = "turned as its EXIF orientation says"
DEEP = "16 bits a pixel, spread over the range that the image uses"


def plain_mode(content: bytes) -> str | None:
    """Pillow's mode of a picture that `decode_pixels` reads as `read_picture` does, "L" or "RGB"; None for another.

    "L" where its header cannot be read: whoever decodes it says why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return image.mode if image.mode in ("L", "RGB") and _orientation(image) == 1 else None
    except (Image.DecompressionBombError, *PILLOW_FAULTS):
        return "L"


def read_picture(content: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, list[str]]:
    """Grey levels [height, width] uint8 of a JPEG or PNG file and what is to be said of them.

    Those of 8 bits are as `decode_pixels` has them; 16 bits are spread over the range that the image uses. A file whose
    EXIF orientation says so is turned. Colour that a person would see, and transparent pixels, are refused.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data, which are not pixels
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > max_pixels:
                    size = f"{image.width} x {image.height}"
                    raise UnreadableImage(f"{where}: {size} pixels; at most {max_pixels:,} pixels are read")
                if image.mode == "L" and _orientation(image) == 1:
                    return decode_pixels(content, where=where), []
                return _pixels(image, where)
    except Image.DecompressionBombError:
        raise UnreadableImage(f"{where}: too many pixels; at most {max_pixels:,} are read") from None
    except PILLOW_FAULTS as error:
        if isinstance(error, ImageError):
            raise
        raise UnreadableImage(f"{where}: not a readable JPEG or PNG image ({fault_words(error)})") from None


def _pixels(image: Any, where: str) -> tuple[Pixels, list[str]]:
    remarks = [TURNED] if _orientation(image) != 1 else []
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _OPAQUE:
        if upright.getchannel("A").getextrema() != (255, 255):
            raise UnsuitableImage(f"{where}: some pixels are transparent; save the image without an alpha channel")
        upright = upright.convert(_OPAQUE[upright.mode])
    levels = np.asarray(upright)
    if levels.size == 0 or levels.min() == levels.max():
        raise EmptyImage(f"{where}: every pixel is equal; a radiograph is needed")
    if upright.mode == "I;16":
        return spread(levels), [*remarks, DEEP]
    if upright.mode not in ("L", "RGB"):
        raise UnreadableImage(f"{where}: pixel format {upright.mode}; grey of 8 or 16 bits is needed")
    if upright.mode == "RGB":
        _check_grey(levels, where)
    return np.asarray(upright.convert("L")), remarks


def _check_grey(colours: Pixels, where: str) -> None:
    red, green, blue = np.moveaxis(colours, -1, 0)
    apart = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if (apart > VISIBLE_COLOUR).sum() > _COLOURED * apart.size:
        raise UnsuitableImage(f"{where}: a colour image; a radiograph is grey (or grey stored as RGB)")


def _orientation(image: Any) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1  # damaged files hold texts here, or infinity
