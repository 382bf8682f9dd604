"""Real radiographs, made into DICOM files of every lossless syntax: what is read is what was put in."""

from pathlib import Path

import numpy as np
import pytest

from chextriev import RadiographImage, read_image, read_images
from chextriev.radiograph import read_pixels
from tests import dicom_files
from tests.dicom_files import as_bytes, data_set

pytestmark = pytest.mark.real
SHARE = 40
"""Every so many radiographs are read."""


def some(real_data: Path) -> list[Path]:
    found = sorted((real_data / "images").iterdir())[::SHARE]
    assert found
    return found


def test_pictures_are_read_as_they_are(real_data: Path) -> None:
    for path in some(real_data):
        assert np.array_equal(read_image(path).pixels, read_pixels(path))


@pytest.mark.parametrize("syntax", dicom_files.LOSSLESS)
def test_dicom_files_of_them_are_read_as_they_are(real_data: Path, syntax: str) -> None:
    for path in some(real_data)[:3]:
        pixels = read_pixels(path)
        data = data_set(pixels.astype(np.uint16), bits=8, WindowCenter=128, WindowWidth=256)
        assert np.array_equal(read_image(as_bytes(data, syntax)).pixels, pixels)
        deep = data_set(pixels.astype(np.uint16) * 16, bits=12, WindowCenter=None, WindowWidth=None)
        found = read_image(as_bytes(deep, syntax)).pixels
        assert np.corrcoef(found.ravel(), pixels.ravel())[0, 1] > 0.995


def test_dark_on_bright_and_bright_on_dark_are_read_alike(real_data: Path) -> None:
    for path in some(real_data)[:3]:
        pixels = read_pixels(path).astype(np.uint16)
        data = data_set(255 - pixels, bits=8, PhotometricInterpretation="MONOCHROME1")
        assert np.array_equal(read_image(as_bytes(data)).pixels, read_image(as_bytes(data_set(pixels, bits=8))).pixels)


def test_a_folder_of_them_is_read_whole(real_data: Path) -> None:
    found = list(read_images(real_data / "images"))
    assert not [item for item in found if not isinstance(item, RadiographImage)]
    assert len(found) == len(list((real_data / "images").iterdir()))
