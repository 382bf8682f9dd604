"""The parts of a DICOM file that reading needs, taken out within limits: its data set and the codes of its pixels."""

import io
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import UnreadableImage, UnsuitableImage
from chextriev.optional import require
from chextriev.reading.deep_jpeg import decode_deep_jpeg
from chextriev.reading.dicom_levels import Stored

NEEDED = (
    *("Modality", "BodyPartExamined", "ViewPosition", "ViewCodeSequence", "PatientOrientation", "BurnedInAnnotation"),
    *("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SOPInstanceUID", "PatientSex", "PatientAge"),
    *("PresentationIntentType", "PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "SamplesPerPixel"),
    *("PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope"),
    *("ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth", "PresentationLUTShape"),
    *("PixelData", "LossyImageCompression"),
)
"""Elements that are kept; pydicom skips the others as it reads."""
PLUGINS = {
    **dict.fromkeys(("1.2.840.10008.1.2.4.50",), "pillow"),  # JPEG baseline: libjpeg-turbo
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{kind}" for kind in (51, 57, 70)), "gdcm"),  # 12 bits, and lossless
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{kind}" for kind in (80, 81)), "pyjpegls"),  # JPEG-LS: CharLS
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{kind}" for kind in (90, 91, 201, 202, 203)), "pylibjpeg"),  # OpenJPEG
    **dict.fromkeys(("1.2.840.10008.1.2.5",), "pylibjpeg"),  # RLE
}
"""What decodes which transfer syntax: one library each, so that every machine reads the same pixels."""
NATIVE = {  # transfer syntax -> implicit, little endian
    "1.2.840.10008.1.2": (True, True),
    "1.2.840.10008.1.2.1": (False, True),
    "1.2.840.10008.1.2.1.99": (False, True),
    "1.2.840.10008.1.2.2": (False, False),
}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXTENDED = "1.2.840.10008.1.2.4.51"
_MAGIC_AT = 128


def read_data_set(content: bytes, *, max_elements: int, max_inflated_bytes: int) -> Any:
    """The needed elements of a file as a pydicom data set, with its transfer syntax, inflated where it was deflated."""
    filereader = require("pydicom.filereader", extra="dicom")
    count = 0

    def enough(_tag: object, _kind: object, _length: int) -> bool:
        nonlocal count
        count += 1
        if count > max_elements:
            raise UnreadableImage(f"more than {max_elements:,} elements")
        return False

    syntax, body = _body(content, filereader)
    if syntax not in NATIVE and syntax not in PLUGINS:
        raise UnreadableImage("a transfer syntax that is not read; those of one grey frame, from raw to HTJ2K, are")
    if syntax == _DEFLATED:
        body = io.BytesIO(_inflate(body.read(), max_inflated_bytes))
    implicit, little = NATIVE.get(syntax, (False, True))
    tags = [require("pydicom.datadict", extra="dicom").tag_for_keyword(name) for name in NEEDED]
    data = filereader.read_dataset(body, implicit, little, stop_when=enough, specific_tags=tags)
    data.syntax, data.big_endian = syntax, not little
    return data


def _body(content: bytes, filereader: Any) -> tuple[str, io.BytesIO]:
    """The transfer syntax, and the file after its meta information."""
    stream = io.BytesIO(content)
    stream.seek(_MAGIC_AT + 4 if content[_MAGIC_AT : _MAGIC_AT + 4] == b"DICM" else 0)
    meta = filereader.read_dataset(stream, False, True, stop_when=lambda tag, _kind, _length: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID") or "1.2.840.10008.1.2").strip("\0 ")
    return syntax, stream


def _inflate(packed: bytes, limit: int) -> bytes:
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit + 1)
    if len(inflated) > limit:
        raise UnreadableImage(f"more than {limit:,} bytes when inflated")
    return inflated


def read_codes(data: Any, *, max_pixels: int) -> tuple[npt.NDArray[np.uint16], Stored]:
    """The pixels as stored, [height, width] uint16 of the stored bits alone, and what they mean."""
    rows, columns = int(data.Rows), int(data.Columns)
    allocated, bits = int(data.BitsAllocated), int(data.BitsStored)
    signed = int(data.get("PixelRepresentation") or 0) == 1
    if rows * columns > max_pixels or rows < 1 or columns < 1:
        raise UnreadableImage(f"{columns} x {rows} pixels; 1 to {max_pixels:,} pixels are read")
    if allocated not in (8, 16) or not 1 <= bits <= allocated:
        raise UnsuitableImage(f"{bits} of {allocated} bits a pixel; up to 16 bits are read")
    if "PixelData" not in data:
        raise UnsuitableImage("it has no pixel data")
    found = _native(data, rows, columns, allocated) if data.syntax in NATIVE else _decoded(data)
    if found.shape != (rows, columns):
        raise UnreadableImage("its compressed pixels have another size than its header says")
    high = int(data.get("HighBit", bits - 1)) if data.syntax in NATIVE else bits - 1
    shift = min(max(high + 1 - bits, 0), allocated - bits)
    codes: npt.NDArray[np.uint16] = (found.astype(np.uint16) >> shift) & (2**bits - 1)
    return codes, Stored(bits, signed)


def _native(data: Any, rows: int, columns: int, allocated: int) -> npt.NDArray[Any]:
    content, size = data.PixelData, rows * columns * allocated // 8
    if len(content) < size:
        raise UnreadableImage(f"{len(content):,} bytes of pixels; {size:,} are needed for {columns} x {rows}")
    swapped = data.big_endian and allocated == 8 and data["PixelData"].VR == "OW"  # bytes of words are swapped
    if swapped:
        content = np.frombuffer(content[: len(content) // 2 * 2], ">u2").astype("<u2").tobytes()
    kind = np.uint8 if allocated == 8 else np.dtype(">u2" if data.big_endian else "<u2")
    return np.frombuffer(content, kind, count=rows * columns).reshape(rows, columns)


def _decoded(data: Any) -> npt.NDArray[Any]:
    pixels = require("pydicom.pixels", extra="dicom")
    if data.syntax == _EXTENDED and data.BitsAllocated == 16:
        encaps = require("pydicom.encaps", extra="dicom")
        return decode_deep_jpeg(encaps.get_frame(data.PixelData, 0, number_of_frames=1), data)
    data.file_meta = require("pydicom.dataset", extra="dicom").FileMetaDataset()
    data.file_meta.TransferSyntaxUID = data.syntax
    plugin = "pillow" if data.syntax == _EXTENDED else PLUGINS[data.syntax]
    found, _ = pixels.get_decoder(data.syntax).as_array(data, raw=True, decoding_plugin=plugin)
    return np.asarray(found)
