"""Folders and zip archives: every radiograph in them is read, everything else refused in words."""

import io
import os
import re
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from chextriev import RadiographImage, ReadSettings, read_image, read_images, read_radiograph
from chextriev.errors import TruncatedArchive, UnreadableImage
from chextriev.refusals import Refusal
from tests.dicom_files import as_bytes, chest, data_set
from tests.test_read_pictures import saved

DICOM, PNG = as_bytes(data_set()), saved(chest(8).astype(np.uint8))


def zipped(members: dict[str, bytes], *, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def filled(folder: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


MEMBERS = {"DICOMDIR": b"index", "a/one": DICOM, "b/two.png": PNG, "c.txt": b"notes", ".hidden": b"x"}


@pytest.mark.parametrize("packed", [False, True])
def test_every_radiograph_of_a_folder_or_archive_is_read(tmp_path: Path, packed: bool) -> None:
    source = filled(tmp_path, MEMBERS)
    if packed:
        source = tmp_path / "radiographs"  # no suffix: the content decides
        source.write_bytes(zipped(MEMBERS))
    found = list(read_images(source))
    images = [item for item in found if isinstance(item, RadiographImage)]
    assert sorted(image.image_id for image in images if image.view is None) == ["b/two"]
    assert [image.view for image in images if image.view] == ["PA"]
    (refusal,) = [item for item in found if isinstance(item, Refusal)]
    assert refusal.reason == "UnreadableImage"
    assert "c.txt" not in refusal.detail + refusal.image_id
    assert refusal.detail.startswith(f"file {refusal.row}: not a readable JPEG or PNG image, nor DICOM")


def test_a_single_file_and_bytes_are_read_as_folders_are(tmp_path: Path) -> None:
    path = filled(tmp_path, {"two.png": PNG}) / "two.png"
    for source, name in ((path, "two"), (PNG, "image"), (zipped({"two.png": PNG}), "two")):
        (found,) = read_images(source)
        assert isinstance(found, RadiographImage)
        assert found.image_id == name


def test_one_radiograph_is_read_from_what_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(zipped({"DICOMDIR": b"index", "notes.txt": b"notes", "IM1": DICOM}))
    assert read_radiograph(path, image_id="mine").image_id == "mine"
    assert read_image(filled(tmp_path / "folder", {"IM1": DICOM})).view == "PA"
    assert read_image(path.read_bytes()).view == "PA"
    for members, words in (
        ({"one": DICOM, "two": PNG}, "more than one radiograph; read_images reads them all"),
        ({"notes.txt": b"notes"}, "no radiograph among 1 files; .*of another kind.*; read_images says why"),
        ({}, "no radiograph among 0 files"),
    ):
        with pytest.raises(UnreadableImage, match=words):
            read_image(zipped(members))


@pytest.mark.parametrize(
    ("name", "words"),
    [("../two.png", "leads out of"), ("/two.png", "leads out of"), ("c:/two.png", "leads out of")],
)
def test_names_that_lead_out_are_refused(name: str, words: str) -> None:
    (found,) = read_images(zipped({name: PNG}))
    assert isinstance(found, Refusal)
    assert words in found.detail
    assert "two" not in found.detail


@pytest.mark.parametrize("name", [".", "./."])
def test_a_member_without_a_name_is_read(name: str) -> None:
    (found,) = read_images(zipped({name: PNG}))
    assert isinstance(found, RadiographImage)
    assert found.image_id == "image"


def beyond() -> bytes:
    """An archive whose member starts farther off than a file can reach."""
    content = zipped({"two.png": PNG})
    entry, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    directory, tail = bytearray(content[entry:end]), bytearray(content[end:])
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    struct.pack_into("<H", directory, 30, len(extra))
    struct.pack_into("<I", directory, 42, 2**32 - 1)
    struct.pack_into("<I", tail, 12, len(directory) + len(extra))
    return content[:entry] + bytes(directory) + extra + bytes(tail)


def two_ends() -> bytes:
    """An archive that says within a member that its directory is short, and where zipfile looks that it is long."""

    def record(entries: int, length: int, offset: int) -> bytes:
        return struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, length, offset)

    names = {f"{number:04}": b"" for number in range(2000)}
    content = zipped({"false": record(1, 1, 1), **names}, kind=zipfile.ZIP_STORED)
    end = content.index(b"PK\x05\x06")
    entries, length, offset = struct.unpack_from("<HII", content, end + 10)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, content.index(b"PK\x06\x06"), 1)
    tail = bytearray(content[end:])
    struct.pack_into("<HHII", tail, 8, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1)
    return content[:end] + record(entries, length, offset) + locator + bytes(tail)


def test_the_directory_that_is_read_is_the_one_that_is_bounded() -> None:
    with pytest.raises(UnreadableImage, match="more than 100 files; split the archive"):
        list(read_images(two_ends(), settings=ReadSettings(max_members=100)))


def encrypted() -> bytes:
    content = bytearray(zipped({"two.png": PNG}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    return bytes(content)


def linked() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        entry = zipfile.ZipInfo("two.png")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/hostname")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encrypted(), "it is encrypted"),
        (linked(), "it is a link"),
        (beyond(), "damaged in its archive"),
        (zipped({"inner.zip": zipped({"two.png": PNG})}), "an archive in a folder or archive"),
        (zipped({"two.png": PNG}, kind=zipfile.ZIP_BZIP2), "packed in another way than deflate"),
        (zipped({"bomb": bytes(2**22)}), "4,194,304 bytes packed into .*; a radiograph never is"),
        (zipped({"large": bytes(2**23)}), "8,388,608 bytes; at most 6,000,000 are read"),
    ],
    ids=["encrypted", "link", "beyond", "nested", "bzip2", "ratio", "large"],
)
def test_members_that_are_not_unpacked_say_why(content: bytes, words: str) -> None:
    (found,) = read_images(content, settings=ReadSettings(max_file_bytes=6_000_000))
    assert isinstance(found, Refusal)
    assert re.search(words, found.detail)


def test_a_member_that_is_larger_than_it_says_is_cut_off() -> None:
    content = bytearray(zipped({"bomb": bytes(2**22)}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(mark) + offset, 1000)
    (found,) = read_images(bytes(content), settings=ReadSettings(max_file_bytes=10_000))
    assert isinstance(found, Refusal)


def test_limits_of_the_whole_end_the_reading() -> None:
    several = zipped({f"{number}.png": PNG for number in range(9)}, kind=zipfile.ZIP_STORED)
    with pytest.raises(UnreadableImage, match="more than 5 files"):
        list(read_images(several, settings=ReadSettings(max_members=5)))
    with pytest.raises(UnreadableImage, match="more than 20,000 bytes in all"):
        list(read_images(several, settings=ReadSettings(max_archive_bytes=20_000)))
    many = zipped({f"{number:04}": b"" for number in range(2000)})
    with pytest.raises(UnreadableImage, match="more than 100 files; split the archive"):
        list(read_images(many, settings=ReadSettings(max_members=100)))


def test_damaged_archives_are_refused() -> None:
    sound = zipped({"two.png": PNG})
    for content in (sound[:-30], sound[:40], sound[: len(sound) // 2]):
        with pytest.raises(TruncatedArchive, match="ends early"):
            list(read_images(content))
    broken = bytearray(sound)
    broken[60:70] = bytes(10)
    (found,) = read_images(bytes(broken))
    assert isinstance(found, Refusal)
    assert found.detail.endswith("damaged in its archive")


def test_links_and_pipes_in_folders_are_not_followed(tmp_path: Path) -> None:
    filled(tmp_path / "outside", {"two.png": PNG})
    folder = filled(tmp_path / "inside", {"one.png": PNG})
    (folder / "linked.png").symlink_to(tmp_path / "outside" / "two.png")
    (folder / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe")
    images = list(read_images(folder))
    assert [item.image_id for item in images if isinstance(item, RadiographImage)] == ["one"]
    assert [item.detail.split(": ")[-1] for item in images if isinstance(item, Refusal)] == ["not a file"]
    with pytest.raises(UnreadableImage, match="pipe: not a file"):
        read_image(folder / "pipe")


def test_names_are_not_said_where_the_folder_has_a_colon(tmp_path: Path) -> None:
    folder = tmp_path / "Case: one"
    folder.mkdir()
    os.mkfifo(folder / "Planted.dcm")
    (found,) = read_images(folder)
    assert isinstance(found, Refusal)
    assert found.detail == "file 0: not a file"


def test_nothing_is_unpacked_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert len(list(read_images(zipped(MEMBERS)))) == 3
    assert list(tmp_path.iterdir()) == []
