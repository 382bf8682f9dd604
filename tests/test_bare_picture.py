"""What is said beside the pixels of a picture does not travel; the pixels do."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from chextriev.radiograph_file import RadiographFile
from chextriev.reading.bare_picture import without_texts

PLANTED = "Planted^Patient"
PIXELS = np.add.outer(np.arange(60), np.arange(50)).astype(np.uint8)


def picture(kind: str, mode: str = "L", **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(PIXELS).convert(mode)
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Patient", PLANTED)
        image.save(stream, kind, pnginfo=texts)
        return stream.getvalue()
    exif = Image.Exif()
    exif[0x010E] = PLANTED
    image.save(stream, kind, comment=PLANTED.encode(), exif=exif, **options)
    return stream.getvalue() + PLANTED.encode()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "L", {}),
        ("PNG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {"progressive": True}),
    ],
)
def test_texts_go_and_pixels_stay(kind: str, mode: str, options: dict[str, bool], tmp_path: Path) -> None:
    content = picture(kind, mode, **options)
    assert PLANTED.encode() in content
    bare = without_texts(content)
    assert PLANTED.encode() not in bare
    assert (np.asarray(Image.open(io.BytesIO(bare))) == np.asarray(Image.open(io.BytesIO(content)))).all()
    path = tmp_path / "file"
    path.write_bytes(content)
    assert RadiographFile.from_path(path).content == bare == RadiographFile.from_bytes(content).content


def segment(marker: int, told: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(told)) + told


def chunk(kind: bytes, told: bytes) -> bytes:
    return struct.pack(">I", len(told)) + kind + told + struct.pack(">I", zlib.crc32(kind + told))


def bare_jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG", **options)
    return stream.getvalue()


def hidden() -> dict[str, bytes]:
    """Files that decoders read, with a text where only a look at every part finds it."""
    text = PLANTED.encode()
    plain, several, chunks = bare_jpeg(), bare_jpeg(progressive=True), picture("PNG")
    comment = segment(0xFE, b"\0" + text)
    between = several.index(b"\xff\xc4", several.index(b"\xff\xda"))
    thumbnail = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1" + bytes((1, len(text) // 3)) + text)
    return {
        "junk behind a comment": plain[:2] + comment + b"\0" + plain[2:],
        "an end behind the end": plain + text + b"\xff\xd9",
        "a picture behind the end": plain + plain[:2] + comment + plain[2:],
        "between scans": several[:between] + comment + several[between:],
        "an application of another kind": plain[:2] + segment(0xE0, text) + plain[2:],
        "a thumbnail": plain[:2] + thumbnail + plain[2:],
        "behind what Adobe says": plain[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0" + text) + plain[2:],
        "without an end": chunks.removesuffix(chunk(b"IEND", b"")),
        "behind the end": chunks + text,
    }


@pytest.mark.parametrize("place", hidden())
def test_texts_in_odd_places_go_too(place: str) -> None:
    content = hidden()[place]
    assert PLANTED.encode() in content
    bare = without_texts(content)
    assert PLANTED.encode() not in bare
    assert (np.asarray(Image.open(io.BytesIO(bare))) == np.asarray(Image.open(io.BytesIO(content)))).all()
    assert RadiographFile.from_bytes(content).content == bare


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"P5 1 1 255\n0", b"\xff\xd8\xff\xe1\xff"])
def test_what_is_no_picture_stays_as_it_is(content: bytes) -> None:
    assert without_texts(content) == content


@given(st.binary(max_size=60), st.integers(0, 300), st.sampled_from(["PNG", "JPEG"]))
def test_damage_is_left_to_the_decoder(damage: bytes, place: int, kind: str) -> None:
    content = picture(kind)
    damaged = content[:place] + damage + content[place + len(damage) :]
    assert len(without_texts(damaged)) <= len(damaged)
