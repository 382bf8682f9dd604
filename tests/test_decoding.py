"""What is read from a JPEG file is what Pillow reads from it, to the bit and in what is refused."""

import base64
import io
import os
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chextriev.errors import EmptyImage, UnreadableImage
from chextriev.radiograph import MAX_PIXELS, decode_pixels, raw_image, read_pixels

Pixels = npt.NDArray[np.uint8]
CORRUPTIONS = 2_000

ARITHMETIC = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02B@n5)Ta&5)cv>6%-gAG9exu93DL^E+jHZKuk+VKt@GST61DhRc%&9Mr4R(ZFhTtf`Lw8jhBplmUDiA"
    "eE-P+3kU!U01W{F5di<p00saM5C#9*00;pA002J#{^W%ZweMiJlKPTcjTe1i8|tDrF#p*"
)
"""A JPEG file with arithmetic coding, which Pillow does not write: a slope of 13 x 11 pixels, by jpegtran."""


def picture(width: int = 100, height: int = 120, *, seed: int = 0) -> Image.Image:
    """A slope with noise."""
    slope = np.add.outer(np.arange(height), np.arange(width)) * 1.5
    noise = np.random.default_rng(seed).normal(0, 9, (height, width))
    return Image.fromarray(np.clip(slope + noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, "JPEG", **options)
    return stream.getvalue()


def frame(width: int = 100, height: int = 120, *, bits: int = 8) -> bytes:
    """The segment of a grey JPEG file that states its size."""
    return struct.pack(">HHBHHB3B", 0xFFC0, 11, bits, height, width, 1, 1, 0x11, 0)


def by_pillow(content: bytes) -> Pixels | None:
    """Pixels of a JPEG file decoded by Pillow alone; None where they are refused."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if image.mode not in ("L", "RGB") or image.width * image.height > MAX_PIXELS:
                return None
            pixels = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    return None if pixels.min() == pixels.max() else pixels


def by_simplejpeg(content: bytes) -> Pixels | None:
    """Pixels of a JPEG file decoded by simplejpeg alone; None where it warns or refuses."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours != "Gray" or width * height > MAX_PIXELS:
            return None
        return np.asarray(simplejpeg.decode_jpeg(content, "GRAY")[..., 0])
    except ValueError:
        return None


def as_read(content: bytes, path: Path) -> Pixels | None:
    """What `read_pixels` makes of a file; None where it is refused as it should be."""
    path.write_bytes(content)
    try:
        return read_pixels(path)
    except (UnreadableImage, EmptyImage):
        return None


def same(one: Pixels | None, other: Pixels | None) -> bool:
    return one is other is None or (one is not None and other is not None and np.array_equal(one, other))


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x112] = orientation
    return found


OPTIONS = st.fixed_dictionaries(
    {"quality": st.integers(1, 100), "progressive": st.booleans(), "optimize": st.booleans()},
    optional={
        "restart_marker_blocks": st.integers(1, 9),
        "restart_marker_rows": st.integers(1, 3),
        "exif": st.builds(exif, st.integers(1, 8)),
        "comment": st.binary(max_size=40),
        "subsampling": st.integers(0, 2),
        "icc_profile": st.binary(min_size=1, max_size=40),
    },
)


@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 70), height=st.integers(1, 70), seed=st.integers(0, 99), colour=st.booleans(), options=OPTIONS
)
def test_jpeg_files_of_every_kind_are_read_as_pillow_reads_them(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    seed: int,
    colour: bool,
    options: dict[str, object],
) -> None:
    image = picture(width, height, seed=seed)
    content = jpeg(image.convert("RGB") if colour else image, **options)
    assert same(as_read(content, tmp_path_factory.getbasetemp() / "chest.jpg"), by_pillow(content))
    assert colour or np.array_equal(simplejpeg.decode_jpeg(content, "GRAY")[..., 0], Image.open(io.BytesIO(content)))


def corrupted(content: bytes, rng: np.random.Generator) -> bytes:
    """A JPEG file cut short, or with bytes changed, lost or added, in its header as often as in its pixels."""
    place = int(rng.integers(len(content) if rng.integers(2) else min(700, len(content))))
    noise = rng.bytes(int(rng.integers(1, 20)))
    match rng.integers(5):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + noise[:3] + content[place + len(noise[:3]) :]
        case 2:
            return content[:place] + content[place + len(noise) :]
        case 3:
            return content[:place] + noise + content[place:]
        case _:
            return content + noise


@pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")  # of damaged EXIF data, which are not pixels
def test_damaged_jpeg_files_are_repaired_or_refused_as_pillow_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = [
        jpeg(),
        jpeg(picture(61, 37), progressive=True, quality=30, exif=exif(6)),
        jpeg(restart_marker_rows=1, comment=b"chest"),
        jpeg(picture().convert("RGB"), quality=90),
        ARITHMETIC,
    ]
    turbo = repaired = refused = 0
    for number in range(CORRUPTIONS):
        content = corrupted(kinds[number % len(kinds)], rng)
        found, wanted = as_read(content, tmp_path / "chest.jpg"), by_pillow(content)
        assert same(found, wanted), f"corruption {number}"
        strict = by_simplejpeg(content)
        turbo += strict is not None
        repaired += strict is None and wanted is not None
        refused += wanted is None
    assert min(turbo, repaired, refused) > CORRUPTIONS / 10, "every outcome is tried"


def test_arithmetic_coding_is_read(tmp_path: Path) -> None:
    assert ARITHMETIC.count(b"\xff\xc9") == 1  # the frame of arithmetic coding
    found = as_read(ARITHMETIC, tmp_path / "chest.jpg")
    slope = np.add.outer(np.arange(11), np.arange(13)) * 10
    assert found is not None
    assert np.abs(found - slope).max() <= 12
    assert same(found, by_pillow(ARITHMETIC))


def test_a_grey_jpeg_file_is_decoded_into_the_array_itself(tmp_path: Path) -> None:
    found = as_read(jpeg(), tmp_path / "chest.jpg")
    assert found is not None
    assert found.base is not None
    assert found.base.shape == (120, 100, 1)  # what simplejpeg returns, and Pillow does not
    assert found.base.flags.owndata
    assert found.flags.c_contiguous


def never(*_: object) -> None:
    raise AssertionError("simplejpeg was given a file that it must not have")


def test_a_file_whose_size_the_two_read_differently_is_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", lambda content: (60_000, 60_000, "Gray", "Gray"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
    assert same(as_read(jpeg(), tmp_path / "chest.jpg"), by_pillow(jpeg()))


def test_a_file_too_large_to_hold_is_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", never)
    (tmp_path / "chest.jpg").write_bytes(jpeg())
    os.truncate(tmp_path / "chest.jpg", MAX_PIXELS + 1)  # what follows the image is no part of it
    assert same(read_pixels(tmp_path / "chest.jpg"), by_pillow(jpeg()))


@pytest.mark.parametrize("name", ["chest.jpg", "chest.png"])
def test_pixels_are_read_only(tmp_path: Path, name: str) -> None:
    picture().save(tmp_path / name)
    with pytest.raises(ValueError, match="read-only"):
        read_pixels(tmp_path / name)[0, 0] = 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jpeg().replace(frame(), frame(9_435, 9_435)), f"at most {MAX_PIXELS:,}"),
        (jpeg().replace(frame(), frame(60_000, 60_000)), f"at most {MAX_PIXELS:,}"),
        (jpeg().replace(frame(), frame(60_000, 60_000) + frame()), "not a readable JPEG"),
        (jpeg().replace(frame(), frame(bits=12)), "not a readable JPEG"),
        (jpeg()[:-2], "truncated"),
        (jpeg()[:2_000], "truncated"),
        (jpeg(picture().convert("CMYK")), "pixel format CMYK; 8-bit grey"),
    ],
    ids=["too-large", "bomb", "two-sizes", "12-bits", "no-end", "truncated", "print"],
)
def test_what_pillow_refuses_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "chest.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=rf"chest\.jpg: .*{words}"):
        read_pixels(tmp_path / "chest.jpg")


def test_a_flat_jpeg_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "chest.jpg").write_bytes(jpeg(Image.new("L", (50, 50), 9)))
    with pytest.raises(EmptyImage, match="every pixel is equal"):
        read_pixels(tmp_path / "chest.jpg")


@pytest.mark.real
@pytest.mark.skipif("CHEXTRIEV_REAL_DATA" not in os.environ, reason="CHEXTRIEV_REAL_DATA is not set")
def test_real_radiographs_are_read_as_pillow_reads_them() -> None:
    paths = sorted((Path(os.environ["CHEXTRIEV_REAL_DATA"]) / "images").glob("*.jpg"))
    assert paths
    for path in paths:
        content = path.read_bytes()
        assert same(read_pixels(path), by_pillow(content)), path
        assert same(by_simplejpeg(content), by_pillow(content)), path


def test_raw_pixels_come_back_as_they_were_and_are_not_copied() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (70, 50)).astype(np.uint8)
    content = raw_image(pixels)
    found = decode_pixels(content, where="raw")
    assert (found == pixels).all()
    assert np.shares_memory(found, np.frombuffer(content, np.uint8))
    assert not found.flags.writeable
    assert (decode_pixels(content.replace(b"P5 50", b"P5  50"), where="another's") == pixels).all()
