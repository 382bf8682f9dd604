"""High-throughput JPEG 2000, which no library of the tests writes."""

import base64
import io
from dataclasses import asdict

import numpy as np
import pytest
from pydicom.encaps import encapsulate

from chextriev import ReadSettings
from chextriev.reading.decoder import decode_dicom
from tests.dicom_files import EXPLICIT, HTJ2K, HTJ2K_LOSSY, HTJ2K_RPCL, as_bytes, data_set

SLOPE = (np.add.outer(np.arange(24) * 90, np.arange(20) * 110) % 4096).astype(np.uint16)
CODESTREAM = base64.b85decode(
    "|4;u>04YEK0000K0000O00000000000000K0000O0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&kdT"
    "mwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00000(*ObglfVEbJM#qxbO68r6F>kHKmZZ|8vX+ZbN~$e0|#^f{U>t(zyK3K024p}5"
    "rF@G01I>g<?#R_Gyni&0Kfnh5C8>K00AJq=KumQ0(Jm2<IM5ELIM7^0REtJ0Kfnh&;SK=00AiO-QC^0yZzWN*WrtI0F)^yDJlN+3`Q}5?6?5"
    ">0K#<uzyK|100plA0GwK_R;$%&wOXw<Bk%ZRdU|?#aRPe)vND-WCX>lzS^ED_3Nwg6d-fp#?7aa0fB#@`RRI6l"
)
"""SLOPE without loss, by OpenJPH 0.26.3 (imagecodecs 2026.3.6)."""
LIMITS = asdict(ReadSettings())


@pytest.mark.parametrize("syntax", [HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY])
def test_high_throughput_jpeg_2000_is_read(syntax: str) -> None:
    data = data_set(SLOPE, bits=16)
    plain = decode_dicom(as_bytes(data, EXPLICIT), LIMITS)[1]
    data.PixelData = encapsulate([CODESTREAM])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    assert np.array_equal(decode_dicom(stream.getvalue(), LIMITS)[1], plain)
