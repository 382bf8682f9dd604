"""DICOM files: every transfer syntax and every way of saying what a stored value means."""

import io
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
from pydicom import config, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from chextriev import Radiograph, ReadSettings, read_image
from chextriev.errors import EmptyImage, ImageError, UnreadableImage, UnsuitableImage
from chextriev.radiograph_image import RadiographImage
from chextriev.reading.decoder import decode_dicom
from chextriev.reading.dicom_file import NO_KEY
from chextriev.reading.dicom_parts import read_codes, read_data_set
from chextriev.reading.facts import Facts
from chextriev.uid_key import UidKey
from tests import dicom_files
from tests.dicom_files import PLANTED, as_bytes, chest, data_set, look_up_table, view_code

LIMITS = asdict(ReadSettings())
HALF = 2048  # of 12 bits
KEY = UidKey(b"k" * 32)


def grey(data: Dataset | None = None, syntax: str = dicom_files.EXPLICIT, **changes: Any) -> np.ndarray[Any, Any]:
    """Grey levels of a synthetic chest, read in this process."""
    return decode_dicom(as_bytes(data or data_set(**changes), syntax), LIMITS)[1]


def facts(**changes: Any) -> Facts:
    return decode_dicom(as_bytes(data_set(**changes)), LIMITS)[0]


def linear(values: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    return np.rint(255 * ((values.astype(float) - low) / (high - low)).clip(0, 1)).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", dicom_files.LOSSLESS)
def test_lossless_syntaxes_are_equal_to_the_bit(syntax: str, bits: int) -> None:
    found = grey(bits=bits, syntax=syntax)
    assert np.array_equal(found, grey(bits=bits))
    assert np.array_equal(found, linear(chest(bits), 0, 2**bits - 1))


@pytest.mark.parametrize("syntax", [dicom_files.IMPLICIT, dicom_files.BIG_ENDIAN, dicom_files.RLE, dicom_files.JPEG_LS])
def test_signed_pixels_are_read(syntax: str) -> None:
    signed = chest().astype(np.int16) - HALF
    found = grey(data_set(signed, WindowCenter=0, WindowWidth=4096), syntax)
    assert np.array_equal(found, linear(chest(), 0, 4095))


@pytest.mark.parametrize(
    ("syntax", "bits", "levels"),
    [
        (dicom_files.JPEG, 8, 8),
        (dicom_files.JPEG_12, 10, 1),
        (dicom_files.JPEG_12, 12, 1),
        (dicom_files.JPEG_LS_NEAR, 8, 2),
        (dicom_files.JPEG_LS_NEAR, 12, 1),
        (dicom_files.J2K_LOSSY, 12, 12),
    ],
)
def test_lossy_syntaxes_are_near(syntax: str, bits: int, levels: int) -> None:
    found, wanted = grey(bits=bits, syntax=syntax).astype(int), grey(bits=bits).astype(int)
    assert np.abs(found - wanted).max() <= levels
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({"WindowCenter": 1000, "WindowWidth": 401}, 799.5, 1199.5),
        ({"WindowCenter": [1000, 3000], "WindowWidth": [401, 9]}, 799.5, 1199.5),
        ({"WindowCenter": 1000, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, 800, 1200),
        ({"WindowCenter": 2000, "WindowWidth": 801, "RescaleSlope": 2, "RescaleIntercept": 0}, 799.75, 1199.75),
        ({"WindowCenter": 0, "WindowWidth": 401, "RescaleSlope": 1, "RescaleIntercept": -1000}, 799.5, 1199.5),
    ],
)
def test_windows_are_those_of_the_standard(changes: dict[str, Any], low: float, high: float) -> None:
    assert np.array_equal(grey(**changes), linear(chest(), low, high))


def test_a_sigmoid_window_is_a_sigmoid() -> None:
    found = grey(WindowCenter=1500, WindowWidth=900, VOILUTFunction="SIGMOID")
    assert np.array_equal(found, np.rint(255 / (1 + np.exp(-4 * (chest() - 1500.0) / 900))).astype(np.uint8))


@pytest.mark.parametrize("syntax", dicom_files.NATIVE)
def test_a_table_goes_before_a_window(syntax: str) -> None:
    found = grey(data_set(VOILUTSequence=[look_up_table()]), syntax)
    assert np.abs(found - 255 * np.sqrt(chest() / 4095.0)).max() <= 0.6


def test_a_table_starts_at_its_first_value_and_holds_its_ends() -> None:
    found = grey(VOILUTSequence=[look_up_table(first=1000)])
    assert np.abs(found - 255 * np.sqrt((chest() - 1000.0).clip(0, 4095) / 4095)).max() <= 0.6


def test_a_modality_table_goes_before_a_window() -> None:
    found = grey(ModalityLUTSequence=[look_up_table()])
    assert np.abs(found - 255 * np.sqrt(chest() / 4095.0)).max() <= 0.6


def test_without_a_window_the_range_of_the_pixels_is_spread() -> None:
    pixels = chest() // 8 + 300
    pixels[0, 0], pixels[0, 1] = 4095, 0  # two dead pixels of 7,680
    found = grey(data_set(pixels, WindowCenter=None, WindowWidth=None))
    inside = pixels[1:]
    assert np.abs(found[1:].astype(int) - linear(inside, inside.min(), inside.max())).max() <= 12
    assert found[0, 0] == 255


@pytest.mark.parametrize(
    "changes",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "monochrome1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ],
    ids=["monochrome1", "small letters", "both", "shape"],
)
def test_air_is_dark_however_the_file_says_that_it_is_stored_bright(changes: dict[str, Any]) -> None:
    assert np.abs(grey(data_set(4095 - chest(), **changes)).astype(int) - grey()).max() <= 1


def test_padding_is_black_and_does_not_count() -> None:
    pixels = chest() // 2 + 100
    pixels[:, :20] = 4000
    for changes in ({}, {"PhotometricInterpretation": "MONOCHROME1"}):
        data = data_set(pixels, WindowCenter=None, WindowWidth=None, PixelPaddingValue=4000, **changes)
        found = grey(data)
        assert (found[:, :20] == 0).all()
        assert found[:, 20:].max() == 255
    limited = data_set(pixels, PixelPaddingValue=3990, PixelPaddingRangeLimit=4010)
    assert (grey(limited)[:, :20] == 0).all()


def test_overlays_in_unused_bits_are_left_out() -> None:
    marked = chest() | (np.uint16(1) << 14)
    assert np.array_equal(grey(data_set(marked)), grey())
    raised = data_set((chest() << 4).astype(np.uint16), HighBit=15)
    assert np.array_equal(grey(raised), grey())


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (["L", "F"], lambda pixels: pixels),
        (["R", "F"], lambda pixels: pixels[:, ::-1]),
        (["L", "H"], lambda pixels: pixels[::-1]),
        (["R", "H"], lambda pixels: pixels[::-1, ::-1]),
        (["F", "L"], lambda pixels: pixels.T),
        (["H", "R"], lambda pixels: np.rot90(pixels.T, 2)),
        (["F", "R"], lambda pixels: np.rot90(pixels)),
        (["H", "L"], lambda pixels: np.rot90(pixels, -1)),
    ],
)
def test_stated_orientation_is_undone(orientation: list[str], turned: Any) -> None:
    stored = np.ascontiguousarray(turned(chest()))
    said, pixels = decode_dicom(as_bytes(data_set(stored, PatientOrientation=orientation)), LIMITS)
    assert np.array_equal(pixels, grey())
    assert any("patient orientation" in remark for remark in said.remarks) == (orientation != ["L", "F"])


def test_facts_are_those_of_the_header() -> None:
    found = facts()
    assert (found.view, found.sex, found.age, found.remarks) == ("PA", "F", 60, ())
    assert facts(PatientAge="103Y").age == 90
    assert facts(PatientAge="011M", PatientSex="O").age == 0
    assert facts(PatientAge="sixty").age is None
    assert facts(PatientSex="O").sex is None
    assert facts(ViewPosition=None, ViewCodeSequence=[view_code()]).view == "AP"
    assert facts(ViewPosition=None, ViewCodeSequence=[view_code("R-10214", "SRT")]).view == "PA"
    assert facts(ViewPosition=None).view is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BodyPartExamined": None}, "taken as a chest"),
        ({"BurnedInAnnotation": "YES"}, "burned-in text"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
        ({"PixelSpacing": [0.1, 0.2]}, "not square"),
        ({"PixelAspectRatio": [3, 4]}, "not square"),
    ],
)
def test_what_a_reader_should_know_is_remarked(changes: dict[str, Any], words: str) -> None:
    (remark,) = facts(**changes).remarks
    assert words in remark
    assert facts(PixelSpacing=[0.15, 0.15]).remarks == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Modality": "CT"}, "its modality is CT; CR, DX, RG are read"),
        ({"Modality": PLANTED}, "its modality is none that is known"),
        ({"Modality": None}, "its modality is not said"),
        ({"BodyPartExamined": "KNEE"}, "its body part is KNEE; CHEST and THORAX"),
        ({"BodyPartExamined": PLANTED}, "its body part is another one"),
        ({"ViewPosition": "LL"}, "a view that is lateral"),
        ({"ViewPosition": "RLD"}, "a view that is lateral"),
        ({"ViewPosition": "RAO"}, "a view that is oblique"),
        ({"ViewPosition": "LATERAL"}, "a view that is lateral"),
        ({"ViewPosition": PLANTED}, "neither AP nor PA"),
        ({"ViewPosition": None, "ViewCodeSequence": [view_code("R-10236", "SRT")]}, "a view that is lateral"),
        ({"PatientOrientation": ["A", "F"]}, "a lateral view, by its patient orientation"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "a colour image"),
        ({"NumberOfFrames": 12}, "12 frames; one is read"),
        ({"BitsAllocated": 32}, "12 of 32 bits"),
    ],
)
def test_what_is_no_frontal_chest_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsuitableImage, match=words) as caught:
        facts(**changes)
    assert PLANTED.upper() not in str(caught.value).upper()


def test_strict_asks_for_body_part_and_view() -> None:
    for changes in ({"BodyPartExamined": None}, {"ViewPosition": None}):
        with pytest.raises(UnsuitableImage, match="without strict"):
            decode_dicom(as_bytes(data_set(**changes)), {**LIMITS, "strict": True})
    assert decode_dicom(as_bytes(data_set()), {**LIMITS, "strict": True})[0].view == "PA"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"Rows": 4000}, UnreadableImage, "15,360 bytes of pixels; 640,000 are needed for 80 x 4000"),
        ({"Rows": 60_000, "Columns": 60_000}, UnreadableImage, "60000 x 60000 pixels; 1 to 89,000,000"),
        ({"Rows": 0}, UnreadableImage, "80 x 0 pixels"),
        ({"WindowWidth": 0}, UnreadableImage, "no width or no known function"),
        ({"VOILUTFunction": "CUBIC"}, UnreadableImage, "no known function"),
        ({"Columns": None}, UnreadableImage, "damaged, or no DICOM image"),
        ({"WindowCenter": 1e5, "WindowWidth": 2}, EmptyImage, "every pixel is equal"),
    ],
)
def test_pixels_that_cannot_be_shown_are_refused(changes: dict[str, Any], error: type[ImageError], words: str) -> None:
    with pytest.raises(error, match=words):
        grey(**changes)


def test_a_file_has_keyed_hashes_for_identifiers() -> None:
    settings = ReadSettings(key=KEY)
    found = read_image(as_bytes(data_set()), settings=settings)
    assert found.image_id == KEY.hash("1.2.3.4.5", kind="image")
    assert found.study_id == KEY.hash("1.2.3.4", kind="study")
    other = read_image(as_bytes(data_set(SOPInstanceUID="1.2.3.4.6")), settings=settings, image_id="mine")
    assert (other.image_id, other.patient_id) == ("mine", found.patient_id)
    elsewhere = read_image(as_bytes(data_set(IssuerOfPatientID="elsewhere")), settings=settings)
    assert elsewhere.patient_id != found.patient_id
    assert found.remarks == ()
    nameless = [data_set(PatientID=None, StudyInstanceUID=None, SOPInstanceUID=None, PatientAge=age) for age in "12"]
    one, two = (read_image(as_bytes(data), settings=settings) for data in nameless)
    assert (one.patient_id, one.study_id) == (None, None)
    assert one.image_id != two.image_id, "of the whole file where it has no UID"


def test_without_a_key_hashes_hold_within_the_process_and_that_is_said() -> None:
    one, other = (read_image(as_bytes(data_set(SOPInstanceUID=uid))) for uid in ("1.2.1", "1.2.2"))
    assert one.patient_id == other.patient_id
    assert one.image_id != other.image_id
    assert one.remarks == (NO_KEY,)
    assert one.patient_id != UidKey(bytes(32)).hash("Planted-0815\\", kind="patient")


def shipped(name: str) -> bytes:
    """A file that pydicom ships, made by another writer; said to be a chest."""
    with config.disable_value_validation():
        data = dcmread(get_testdata_file(name, download=False))
        data.Modality, data.BodyPartExamined, data.ViewPosition, data.PatientOrientation = "DX", "CHEST", "AP", None
        stream = io.BytesIO()
        data.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "name",
    [f"MR_small_{kind}.dcm" for kind in ("RLE", "jp2klossless", "jpeg_ls_lossless", "implicit", "bigendian", "expb")],
)
def test_files_of_other_writers_are_equal_to_the_bit(name: str) -> None:
    found = decode_dicom(shipped(name), LIMITS)[1]
    assert np.array_equal(found, decode_dicom(shipped("MR_small.dcm"), LIMITS)[1])


def test_jpeg_of_twelve_bits_of_another_writer_is_read() -> None:
    data = read_data_set(shipped("JPGExtended.dcm"), max_elements=1000, max_inflated_bytes=2**20)
    codes, stored = read_codes(data, max_pixels=2**20)
    assert (stored.bits, codes[420, 140], codes[230, 120]) == (12, 244, 95)  # as pydicom's own tests have it


def test_files_without_meta_information_are_read() -> None:
    bare = as_bytes(data_set(), dicom_files.IMPLICIT)
    start = bare.index(b"\x08\x00\x16\x00")
    found = read_image(bare[start:], settings=ReadSettings(key=KEY))
    assert np.array_equal(found.pixels, grey())
    assert np.array_equal(read_image(bare[132:]).pixels, grey())


def test_a_radiograph_carries_all_that_its_image_says() -> None:
    image = read_image(as_bytes(data_set()))
    radiograph = image.located()
    shared = {field.name for field in fields(RadiographImage)} & {field.name for field in fields(Radiograph)}
    assert shared == {field.name for field in fields(RadiographImage)}
    assert all(getattr(radiograph, name) is getattr(image, name) for name in shared)
    assert radiograph.boxes_source.startswith("mean layout")
