"""What is said beside the pixels of a picture does not travel; the pixels do."""

import io
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


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"P5 1 1 255\n0", b"\xff\xd8\xff\xe1\xff"])
def test_what_is_no_picture_stays_as_it_is(content: bytes) -> None:
    assert without_texts(content) == content


@given(st.binary(max_size=60), st.integers(0, 300), st.sampled_from(["PNG", "JPEG"]))
def test_damage_is_left_to_the_decoder(damage: bytes, place: int, kind: str) -> None:
    content = picture(kind)
    damaged = content[:place] + damage + content[place + len(damage) :]
    assert len(without_texts(damaged)) <= len(damaged)
