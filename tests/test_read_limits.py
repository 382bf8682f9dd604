"""What a damaged or hostile DICOM file cannot do: take memory or time, end the process, say what it holds."""

import io
import logging
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from chextriev import ReadSettings, read_image
from chextriev.errors import ChextrievError, UnreadableImage
from chextriev.reading.decoders import Decoders
from tests import dicom_files
from tests.dicom_files import PLANTED, as_bytes, chest, data_set

SMALL = ReadSettings(max_inflated_bytes=2**21)
SIZ = b"\xff\x51"  # the marker of a JPEG 2000 codestream that states its size


def deflated_file() -> bytes:
    """A file of some kilobytes that inflates to 64 MiB."""
    head = as_bytes(data_set(), dicom_files.DEFLATED)
    start = 132 + 12 + struct.unpack_from("<I", head, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = zlib.decompress(head[start:], -zlib.MAX_WBITS)
    return head[:start] + packer.compress(plain + bytes(2**26)) + packer.flush()


def many_elements() -> bytes:
    return as_bytes(data_set())[:-15_372] + b"".join(
        struct.pack("<HH2sH", 0x0029, number, b"CS", 0) for number in range(0x1000, 0xFFFF)
    )


def nested(depth: int = 20_000) -> bytes:
    """Sequences in sequences, all of undefined length, which pydicom reads by recursion."""
    level = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    sound = as_bytes(data_set())
    start = 132 + 12 + struct.unpack_from("<I", sound, 140)[0]
    return sound[:start] + level * depth


def fragments(count: int = 5_000) -> bytes:
    """A frame in thousands of pieces, of which none is an image."""
    data = data_set()
    data.PixelData = encapsulate([bytes(2 * count)], fragments_per_frame=count)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = dicom_files.J2K
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def huge_codestream() -> bytes:
    """JPEG 2000 that claims 60,000 x 60,000 pixels in a file of 80 x 96."""
    content = as_bytes(data_set(), dicom_files.J2K)
    place = content.index(SIZ) + 6
    sizes = struct.pack(">II", 60_000, 60_000)
    return content[:place] + sizes + content[place + 8 :]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (deflated_file(), "more than 2,097,152 bytes when inflated"),
        (many_elements(), "more than 20,000 elements"),
        (nested(), "damaged, or no DICOM image|broke the decoder"),
        (fragments(), "damaged, or no DICOM image"),
        (huge_codestream(), "damaged, or no DICOM image|another size|more memory|broke the decoder"),
        (as_bytes(data_set(Rows=60_000, Columns=1_480)), "15,360 bytes of pixels; 177,600,000 are needed"),
    ],
    ids=["deflated", "elements", "nested", "fragments", "codestream", "rows"],
)
def test_bombs_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(UnreadableImage, match=f"the bytes given: ({words})"):
        read_image(content, settings=SMALL)


def test_a_file_that_takes_too_long_ends_its_process_and_no_other() -> None:
    large = as_bytes(data_set(chest(height=700, width=700)), dicom_files.J2K)
    with pytest.raises(UnreadableImage, match=r"took more than 0\.0001 s or broke the decoder"):
        read_image(large, settings=ReadSettings(decode_timeout_s=1e-4))
    assert read_image(large).pixels.shape == (700, 700)


def test_a_file_that_takes_too_much_memory_is_refused() -> None:
    large = as_bytes(data_set(chest(height=700, width=700)), dicom_files.J2K)
    with pytest.raises(UnreadableImage, match=r"memory|damaged|broke the decoder"):
        read_image(large, settings=ReadSettings(decode_memory_bytes=2**20))
    assert read_image(large).pixels.shape == (700, 700)


def test_the_limits_of_one_file_are_not_those_of_the_next() -> None:
    decoders = Decoders()
    decoders.ask(as_bytes(data_set()), ReadSettings(decode_memory_bytes=2**24))
    header, _ = decoders.ask(as_bytes(data_set(EncapsulatedDocument=bytes(2**25))), ReadSettings())
    decoders.close()
    assert header["shape"] == [96, 80]


def test_threads_read_at_once() -> None:
    contents = [as_bytes(data_set(SOPInstanceUID=f"1.2.{number}"), dicom_files.RLE) for number in range(12)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(read_image, contents))
    assert len({image.image_id for image in found}) == 12
    assert all(np.array_equal(image.pixels, found[0].pixels) for image in found)


def test_closed_decoders_start_again() -> None:
    decoders = Decoders()
    for _ in range(2):
        header, pixels = decoders.ask(as_bytes(data_set()), ReadSettings())
        assert len(pixels) == header["shape"][0] * header["shape"][1]
        decoders.close()


def corrupted(changes: dict[str, Any]) -> bytes:
    with_names = {"StudyDescription": PLANTED, "InstitutionName": PLANTED, "PatientComments": PLANTED}
    return as_bytes(data_set(**{**with_names, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": PLANTED},
        {"PatientAge": PLANTED, "Rows": 0},
        {"WindowCenter": None, "WindowWidth": None, "VOILUTFunction": PLANTED, "PhotometricInterpretation": PLANTED},
        {"VOILUTFunction": PLANTED},
        {"VOILUTSequence": [Dataset()]},
        {"StudyInstanceUID": PLANTED, "BitsAllocated": 64},
    ],
)
def test_no_value_of_a_file_is_said(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    content = corrupted(changes)
    caplog.clear()
    with caplog.at_level(logging.DEBUG), pytest.raises(ChextrievError) as caught:
        read_image(content)
    chain = [str(caught.value), str(caught.value.__cause__), caplog.text, *capfd.readouterr()]
    assert not [text for text in chain if "planted" in text.lower()]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_fork_leaves_its_parents_decoders_alone() -> None:
    code = (
        "import os, sys\n"
        "from chextriev import read_image\n"
        "from chextriev.reading.decoders import DECODERS\n"
        "content = sys.stdin.buffer.read()\n"
        "read_image(content)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    DECODERS.close()\n"
        "    read_image(content)\n"
        "    DECODERS.close()\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "read_image(content)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=as_bytes(data_set()), capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
