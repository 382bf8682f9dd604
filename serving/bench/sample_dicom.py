"""A made-up DICOM file, to measure with."""

from pathlib import Path

import numpy as np
from PIL import Image

from chextriev.optional import require

_ROOT = "1.2.826.0.1.3680043.8.498."
"""pydicom's own root of UIDs, under which anybody may make some up."""


def write_dicom(path: Path, *, height: int, width: int, seed: int = 0) -> Path:
    """Smooth shades of 12 bits with the grain of a detector, as an uncompressed DX image of a chest."""
    pydicom, uid = require("pydicom", extra="dicom"), require("pydicom.uid", extra="dicom")
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.uniform(600, 3500, (height // 100 + 2, width // 100 + 2)).astype(np.float32))
    shades = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + rng.normal(0, 40, (height, width))
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = f"{_ROOT}3"
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{_ROOT}1", f"{_ROOT}2"
    data.PatientID = data.PatientName = "made up"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = height, width
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = np.clip(shades, 0, 4095).astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path
