"""DICOM files of synthetic chests, in every transfer syntax that is read."""

import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
BIG_ENDIAN, RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LOSSLESS_1 = (f"1.2.840.10008.1.2.4.{kind}" for kind in (50, 51, 57, 70))
JPEG_LS, JPEG_LS_NEAR, J2K, J2K_LOSSY = (f"1.2.840.10008.1.2.4.{kind}" for kind in (80, 81, 90, 91))
HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY = (f"1.2.840.10008.1.2.4.{kind}" for kind in (201, 202, 203))
LOSSLESS = (*NATIVE, RLE, JPEG_LOSSLESS, JPEG_LOSSLESS_1, JPEG_LS, J2K)

PLANTED = "Planted^Patient"
"""A name that no error, remark or artefact may hold."""
_CLASS = "1.2.840.10008.5.1.4.1.1.1.1"  # digital X-ray image, for presentation


def chest(bits: int = 12, *, height: int = 96, width: int = 80) -> npt.NDArray[np.uint16]:
    """A synthetic frontal chest [height, width] uint16: air dark, darker lungs, a heart on the right of the picture."""
    return np.rint(_shade(height, width) * (2**bits - 1)).astype(np.uint16)


@cache
def _shade(height: int, width: int) -> npt.NDArray[np.float64]:
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    body = np.exp(-(((across - 0.5) / 0.42) ** 8) - ((down - 0.55) / 0.6) ** 8)
    lungs = sum(np.exp(-(((across - x) / 0.13) ** 4) - ((down - 0.45) / 0.28) ** 4) for x in (0.3, 0.7))
    heart = np.exp(-(((across - 0.58) / 0.12) ** 4) - ((down - 0.62) / 0.13) ** 4)
    texture = np.random.default_rng(7).normal(0, 0.01, (height, width))
    return np.asarray((0.05 + body * (0.75 - 0.5 * lungs * (1 - heart)) + texture).clip(0, 1))


def data_set(pixels: npt.NDArray[Any] | None = None, *, bits: int = 12, **changes: Any) -> Dataset:
    """A data set of a frontal chest, explicit little endian; changes: elements by keyword, None to leave one out."""
    pixels = chest(bits) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UID(_CLASS), UID(EXPLICIT)
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4.5")
    data = Dataset()
    data.file_meta = meta
    allocated = 8 if bits <= 8 else 16
    values: dict[str, Any] = {
        "SOPClassUID": _CLASS,
        "SOPInstanceUID": "1.2.3.4.5",
        "StudyInstanceUID": "1.2.3.4",
        "PatientID": "Planted-0815",
        "PatientName": PLANTED,
        "PatientBirthDate": "19500203",
        "PatientSex": "F",
        "PatientAge": "067Y",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientOrientation": ["L", "F"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "WindowCenter": 2.0 ** (bits - 1),
        "WindowWidth": 2.0**bits,
        **changes,
    }
    with config.disable_value_validation():
        for name, value in values.items():
            if value is not None:
                setattr(data, name, value)
    data.PixelData = pixels.astype(f"<{pixels.dtype.kind}{allocated // 8}").tobytes()
    data["PixelData"].VR = "OW" if allocated == 16 else "OB"
    return data


def as_bytes(data: Dataset, syntax: str = EXPLICIT) -> bytes:
    """The file, in a transfer syntax."""
    if syntax in NATIVE:
        data.file_meta.TransferSyntaxUID = UID(syntax)
        if syntax == BIG_ENDIAN and data.BitsAllocated == 16:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    else:
        data.PixelData = encapsulate([_encoded(data, syntax)])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = UID(syntax)
    stream = io.BytesIO()
    with config.disable_value_validation():
        data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _encoded(data: Dataset, syntax: str) -> bytes:
    kind = "<u1" if data.BitsAllocated == 8 else "<i2" if data.PixelRepresentation else "<u2"
    pixels = np.frombuffer(data.PixelData, kind).reshape(data.Rows, data.Columns)
    if syntax in (JPEG_12, JPEG_LOSSLESS, JPEG_LOSSLESS_1):
        return _by_gdcm(data, syntax)
    if syntax == JPEG:
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=95)
        return stream.getvalue()
    if syntax in (JPEG_LS, JPEG_LS_NEAR):
        import jpeg_ls

        lossy = 2 if syntax == JPEG_LS_NEAR else 0
        codes = pixels.view(f"<u{pixels.itemsize}") & (2**data.BitsStored - 1)  # it knows no signs
        return bytes(jpeg_ls.encode_array(codes, lossy_error=lossy))
    if syntax == RLE:
        from pydicom.pixels.encoders import RLELosslessEncoder

        return bytes(RLELosslessEncoder.encode(data, encoding_plugin="pydicom"))
    from openjpeg import encode as to_j2k

    lossy = {"compression_ratios": [8.0]} if syntax == J2K_LOSSY else {}
    return bytes(to_j2k(pixels, bits_stored=data.BitsStored, photometric_interpretation=2, **lossy))


def _by_gdcm(data: Dataset, syntax: str) -> bytes:
    """JPEG with more than 8 bits and lossless JPEG, which only GDCM writes."""
    import gdcm

    writer = gdcm.ImageWriter()
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((data.Columns, data.Rows, 1))
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ImplicitVRLittleEndian))
    stored = (data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation)
    image.SetPixelFormat(gdcm.PixelFormat(1, *stored))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(data.PixelData)
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(image)
    assert change.Change(), f"GDCM does not write {syntax}"
    frame: str = change.GetOutput().GetDataElement().GetSequenceOfFragments().GetFragment(0).GetByteValue().GetBuffer()
    return frame.encode("utf-8", "surrogateescape")


def look_up_table(*, first: int = 0, bits: int = 12, inverted: bool = False) -> Dataset:
    """An item of a VOI or modality LUT sequence: the square root, over 4,096 values."""
    item = Dataset()
    entries = np.rint(np.sqrt(np.linspace(0, 1, 4096)) * (2**bits - 1)).astype(np.uint16)
    item.add_new("LUTDescriptor", "US", [4096, first, bits])
    item.add_new("LUTData", "US", (entries[::-1] if inverted else entries).tolist())
    return item


def view_code(value: str = "399348003", scheme: str = "SCT") -> Dataset:
    """An item of a view code sequence; by default antero-posterior."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, PLANTED
    return item
