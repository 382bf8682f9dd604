"""From the stored values of a DICOM image to grey levels of 8 bits with air dark (PS3.3 C.11.1, C.11.2, C.7.6.3).

Every step is a function of one stored value, and there are at most 65,536 of them: the steps are done on all values,
once, and the pixels look theirs up.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import UnreadableImage
from chextriev.reading.facts import text_of
from chextriev.reading.levels import used_range

Levels = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """How pixels are stored: bits of each and whether they have a sign."""

    bits: int
    signed: bool

    @property
    def values(self) -> npt.NDArray[np.int64]:
        """The value of every code, [2**bits] int64."""
        codes = np.arange(2**self.bits, dtype=np.int64)
        return codes - np.where(codes >= 2 ** (self.bits - 1), 2**self.bits, 0) if self.signed else codes


def to_grey(codes: npt.NDArray[np.uint16], stored: Stored, data: Any) -> npt.NDArray[np.uint8]:
    """Grey levels [height, width] uint8 of codes [height, width] uint16, as the data set says.

    Modality LUT or rescale; VOI LUT or window, the first of several, or where there is neither the range that the
    pixels use; inverted for MONOCHROME1 or presentation LUT shape INVERSE (which DX files of MONOCHROME1 have besides:
    both mean one inversion); padding is black.
    """
    padding = _padding(stored, data)
    levels = _shown(_modality(stored.values, data), codes, padding, data)
    named = text_of(data, "PhotometricInterpretation"), text_of(data, "PresentationLUTShape")
    if named[0] == "MONOCHROME1" or named[1] == "INVERSE":
        levels = 1 - levels
    levels[padding] = 0
    grey: npt.NDArray[np.uint8] = np.rint(255 * levels.clip(0, 1)).astype(np.uint8)
    return grey[codes]


def _modality(values: npt.NDArray[np.int64], data: Any) -> Levels:
    if data.get("ModalityLUTSequence"):
        entries, first, _ = _table(data.ModalityLUTSequence[0], data)
        return np.asarray(entries[(values - first).clip(0, len(entries) - 1)])
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    return np.asarray(values * float(1 if slope is None else slope) + float(intercept or 0), np.float64)


def _shown(levels: Levels, codes: npt.NDArray[np.uint16], padding: npt.NDArray[np.bool_], data: Any) -> Levels:
    """Levels as shares of the display's range."""
    if data.get("VOILUTSequence"):
        entries, first, bits = _table(data.VOILUTSequence[0], data)
        return np.asarray(entries[(np.rint(levels).astype(np.int64) - first).clip(0, len(entries) - 1)] / (2**bits - 1))
    centre, width = _first(data.get("WindowCenter")), _first(data.get("WindowWidth"))
    if centre is not None and width is not None:
        return windowed(levels, centre, width, function=str(data.get("VOILUTFunction") or "LINEAR"))
    seen = levels[codes]
    low, high = used_range(seen[~padding[codes]].reshape(1, -1) if padding.any() else seen)
    return (levels - low) / ((high - low) or 1)


def windowed(levels: Levels, centre: float, width: float, *, function: str) -> Levels:
    """Levels through a window (PS3.3 C.11.2.1.2 and C.11.2.1.3), in 0..1."""
    if function == "SIGMOID" and width > 0:
        return np.asarray(1 / (1 + np.exp((-4 * (levels - centre) / width).clip(-500, 500))))
    if function == "LINEAR_EXACT" and width > 0:
        return ((levels - centre) / width + 0.5).clip(0, 1)
    if function == "LINEAR" and width >= 1:
        if width == 1:
            return (levels > centre - 0.5).astype(np.float64)
        return ((levels - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1)
    raise UnreadableImage("its window has no width or no known function; LINEAR, LINEAR_EXACT and SIGMOID are read")


def _table(item: Any, data: Any) -> tuple[Levels, int, int]:
    """Entries, first mapped value and bits of a look-up table."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    content = item.LUTData
    if isinstance(content, bytes):
        wide = len(content) >= 2 * (count or 2**16)
        content = np.frombuffer(content, (">u2" if data.big_endian else "<u2") if wide else np.uint8)
    entries = np.atleast_1d(np.asarray(content, dtype=np.float64))[: count or 2**16]
    if not (8 <= bits <= 16 and entries.size and np.ptp(entries)):
        raise UnreadableImage(f"a look-up table of {entries.size} entries of {bits} bits; one of 8 to 16 bits is read")
    return entries, first, bits


def _padding(stored: Stored, data: Any) -> npt.NDArray[np.bool_]:
    """Which codes are padding, [2**bits] bool."""
    value, limit = data.get("PixelPaddingValue"), data.get("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(2**stored.bits, np.bool_)
    ends = sorted((int(value), int(value if limit is None else limit)))
    padding = (stored.values >= ends[0]) & (stored.values <= ends[1])
    return padding if not padding.all() else ~padding


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float) else value[0] if not isinstance(value, str) else value)


def turned_upright(pixels: npt.NDArray[np.uint8], turn: str) -> npt.NDArray[np.uint8]:
    """Pixels with rows to the patient's left and columns to the feet; turn: where they run to, as "RF" or "HL"."""
    row, column = turn[0], turn[1]
    if row in "FH":
        pixels, row, column = pixels.T, column, row
    if row == "R":
        pixels = pixels[:, ::-1]
    if column == "H":
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
