"""JPEG of 12 bits a pixel (extended, process 4), which pydicom hands to no decoder though GDCM reads it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import UnreadableImage
from chextriev.optional import require


def decode_deep_jpeg(frame: bytes, data: Any) -> npt.NDArray[np.uint16]:
    """Codes [rows, columns] uint16 of one frame; data: the data set that says their size.

    Equal to what was encoded to 1 of 4,095, which is the transform's own rounding.
    """
    gdcm = require("gdcm", extra="dicom")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((data.Columns, data.Rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(data.syntax)))
    bits = int(data.BitsStored)
    image.SetPixelFormat(gdcm.PixelFormat(1, int(data.BitsAllocated), bits, bits - 1, 0))
    text = image.GetBuffer()
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else b""
    if len(content) != 2 * data.Rows * data.Columns:
        raise UnreadableImage("its JPEG of 12 bits does not decode to the size that its header says")
    return np.frombuffer(content, "<u2").reshape(data.Rows, data.Columns)
