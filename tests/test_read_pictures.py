"""JPEG and PNG files of 8 and 16 bits: what is read, turned, and refused in words."""

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from chextriev import ReadSettings, read_image, read_radiograph
from chextriev.errors import EmptyImage, ImageError, InvalidSetting, MissingFile, UnreadableImage, UnsuitableImage
from chextriev.localizer import MEAN_LAYOUT_SOURCE
from chextriev.radiograph import read_pixels
from chextriev.radiograph_file import RadiographFile
from chextriev.reading.picture_file import DEEP, TURNED
from tests.dicom_files import as_bytes, chest, data_set

CHEST = chest(8).astype(np.uint8)


def saved(image: Image.Image | npt.NDArray[np.generic], kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def oriented(orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return saved(CHEST, kind, exif=exif)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_plain_pictures_are_read_as_read_pixels_reads_them(tmp_path: Path, kind: str) -> None:
    (tmp_path / "chest").write_bytes(saved(CHEST, kind))  # no suffix: the content decides
    found = read_image(tmp_path / "chest")
    assert np.array_equal(found.pixels, read_pixels(tmp_path / "chest"))
    assert (found.image_id, found.remarks, found.view, found.patient_id) == ("chest", (), None, None)


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "chest.png").write_bytes(as_bytes(data_set()))
    assert read_image(tmp_path / "chest.png").view == "PA"
    (tmp_path / "chest.dcm").write_bytes(saved(CHEST))
    assert np.array_equal(read_image(tmp_path / "chest.dcm").pixels, CHEST)


def test_sixteen_bits_are_spread_over_the_range_that_is_used() -> None:
    for scale in (1, 16, 200):  # as of 8, 12 and nearly 16 bits
        found = read_image(saved(CHEST.astype(np.uint16) * scale + 50))
        assert found.remarks == (DEEP,)
        assert (found.pixels.min(), found.pixels.max()) == (0, 255)
        assert np.corrcoef(found.pixels.ravel(), CHEST.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    found = read_image(oriented(orientation, kind))
    upright = np.asarray(Image.open(io.BytesIO(saved(CHEST, kind))))
    wanted = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright),
    }
    assert np.array_equal(found.pixels, wanted[orientation])
    assert found.remarks == (TURNED,)


@pytest.mark.parametrize(
    "entry",
    [struct.pack("<HIf", 11, 1, np.inf), struct.pack("<HIf", 11, 1, np.nan), struct.pack("<HI4s", 2, 4, b"six")],
    ids=["infinity", "no number", "a text"],
)
def test_a_damaged_orientation_turns_nothing(entry: bytes) -> None:
    exif = b"Exif\0\0II*\0" + struct.pack("<IHH", 8, 1, 0x112) + entry + bytes(4)
    for content in (saved(CHEST, exif=exif), saved(CHEST.astype(np.uint16), exif=exif)):
        assert read_image(content).pixels.shape == CHEST.shape
        assert RadiographFile.from_bytes(content).decode_image().pixels.shape == CHEST.shape


def test_opaque_alpha_is_dropped_and_transparency_refused() -> None:
    for mode in ("LA", "RGBA"):
        picture = Image.fromarray(CHEST).convert(mode)
        assert np.array_equal(read_image(saved(picture)).pixels, CHEST)
        picture.putpixel((3, 3), (*picture.getpixel((3, 3))[:-1], 200))
        with pytest.raises(UnsuitableImage, match="some pixels are transparent"):
            read_image(saved(picture))


def test_colour_is_refused_and_grey_stored_as_colour_is_not() -> None:
    grey = Image.fromarray(CHEST).convert("RGB")
    assert np.array_equal(read_image(saved(grey)).pixels, CHEST)
    assert read_image(saved(grey, "JPEG", quality=30)).pixels.shape == CHEST.shape
    coloured = np.asarray(grey).copy()
    coloured[:10, :10] = (250, 30, 30)
    with pytest.raises(UnsuitableImage, match="a colour image"):
        read_image(saved(coloured))


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", UnreadableImage, "of another kind"),
        (b"not a picture", UnreadableImage, "not a readable JPEG or PNG image, nor DICOM"),
        (saved(CHEST, "GIF"), UnreadableImage, "of another kind"),
        (saved(CHEST)[:300], UnreadableImage, "not a readable JPEG or PNG"),
        (saved(Image.fromarray(CHEST).convert("P")), UnreadableImage, "pixel format P; grey of 8 or 16 bits"),
        (saved(np.full((9, 9), 7, np.uint8)), EmptyImage, "every pixel is equal"),
        (saved(np.full((9, 9), 7000, np.uint16)), EmptyImage, "every pixel is equal"),
        (saved(np.full((9, 9, 3), 7, np.uint8)), EmptyImage, "every pixel is equal"),
    ],
    ids=["empty", "text", "gif", "truncated", "palette", "flat", "flat-16", "flat-colour"],
)
def test_what_is_no_radiograph_is_refused(content: bytes, error: type[ImageError], words: str) -> None:
    with pytest.raises(error, match=rf"the bytes given: .*{words}"):
        read_image(content)


def test_limits_of_pixels_and_bytes_are_named() -> None:
    with pytest.raises(UnreadableImage, match="80 x 96 pixels; at most 7,000 pixels"):
        read_image(saved(CHEST), settings=ReadSettings(max_pixels=7000))
    with pytest.raises(UnreadableImage, match=r"bytes; at most 100 are read"):
        read_image(saved(CHEST), settings=ReadSettings(max_file_bytes=100))
    with pytest.raises(InvalidSetting, match="max_pixels is 0; a positive number"):
        ReadSettings(max_pixels=0)
    with pytest.raises(InvalidSetting, match="at most 89,000,000"):
        ReadSettings(max_pixels=10**9)
    with pytest.raises(InvalidSetting, match="key is no UidKey"):
        ReadSettings(key=b"secret")  # type: ignore[arg-type]


def test_without_boxes_the_mean_layout_stands_in_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "chest.png").write_bytes(saved(CHEST))
    found = read_radiograph(tmp_path / "chest.png")
    assert found.boxes_source == MEAN_LAYOUT_SOURCE
    given = read_radiograph(tmp_path / "chest.png", found.boxes)
    assert (given.boxes_source, given.boxes) == ("given", found.boxes)


def test_pictures_travel_as_they_are_and_dicom_as_pixels(tmp_path: Path) -> None:
    contents = {"grey": saved(CHEST), "jpeg": saved(CHEST, "JPEG"), "rgb": saved(Image.fromarray(CHEST).convert("RGB"))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert RadiographFile.from_path(tmp_path / name).content == content
    others = {"deep": saved(chest(16)), "turned": oriented(6), "dicom": as_bytes(data_set())}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        file = RadiographFile.from_path(tmp_path / name)
        assert file.content.startswith(b"P5")
        assert np.array_equal(file.decode_image().pixels, read_image(content).pixels)
        assert RadiographFile.from_bytes(content).content == file.content
    assert RadiographFile.from_bytes(contents["grey"]).image_id == "image"
    with pytest.raises(MissingFile, match=r"absent\.dcm: No such file"):
        RadiographFile.from_path(tmp_path / "absent.dcm")


def test_no_part_of_a_dicom_file_but_its_pixels_travels() -> None:
    file = RadiographFile.from_bytes(as_bytes(data_set()))
    assert b"Planted" not in file.content
    assert b"DICM" not in file.content
    assert len(file.content) == 96 * 80 + len(b"P5 80 96 255\n")
