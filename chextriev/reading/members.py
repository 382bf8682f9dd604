"""The files of a folder or a zip archive, one after the other, within limits; nothing is unpacked to disk."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from chextriev.errors import ImageError, TruncatedArchive, UnreadableImage
from chextriev.reading.settings import ReadSettings

Member = tuple[str, bytes | ImageError]
"""The name of a file within the folder or archive, and its bytes, or why they are not read."""

_NO_IMAGES = frozenset({"DICOMDIR", "Thumbs.db", "__MACOSX"})
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES, _COMMENT_BYTES, _LOCATOR_BYTES, _END_64_BYTES = 22, 65_535, 20, 56
_ENTRY_BYTES = 256  # of a member's entry in the directory of an archive, more than names usually need
_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, ValueError),
    NotImplementedError,
)


def read_bounded(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file; UnreadableImage where it is none, or has more than the limit."""
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(f"{path}: not a file")
            if status.st_size > limit:
                raise UnreadableImage(f"{path}: {status.st_size:,} bytes; at most {limit:,} are read")
            return stream.read(limit)
    except OSError as error:
        raise UnreadableImage(
            f"{path}: not a readable file ({error.strerror}); give one, a folder or a zip archive"
        ) from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a named pipe would wait for a writer


def folder_members(folder: Path, settings: ReadSettings) -> Iterator[Member]:
    """The files of a folder and its folders, in the order of their names; links and hidden files are left out."""
    count = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _ignored(name))
        for name in sorted(names):
            path = Path(root, name)
            if _ignored(name) or path.is_symlink():
                continue
            count += 1
            _check_count(count, settings)
            yield path.relative_to(folder).as_posix(), _content(path, settings)


def _content(path: Path, settings: ReadSettings) -> bytes | ImageError:
    try:
        return read_bounded(path, settings.max_file_bytes)
    except UnreadableImage as error:
        return UnreadableImage(str(error).removeprefix(f"{path}: "))


def archive_members(source: Path | bytes, settings: ReadSettings, *, where: str) -> Iterator[Member]:
    """The files of a zip archive, in its order; TruncatedArchive where it cannot be read at all."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
            _check_directory(stream, settings, where)
            with zipfile.ZipFile(stream) as archive:
                yield from _members(archive, settings)
    except _FAULTS as error:
        if isinstance(error, ImageError | TruncatedArchive):
            raise
        raise TruncatedArchive(f"{where}: not a zip archive that can be read; it is damaged or ends early") from None


def _members(archive: zipfile.ZipFile, settings: ReadSettings) -> Iterator[Member]:
    left = settings.max_archive_bytes
    for count, entry in enumerate((item for item in archive.infolist() if not item.is_dir()), start=1):
        _check_count(count, settings)
        if any(_ignored(part) for part in PurePosixPath(entry.filename).parts if part != ".."):
            continue
        content = _unpacked(archive, entry, settings)
        left -= len(content) if isinstance(content, bytes) else 0
        if left < 0:
            raise UnreadableImage(f"more than {settings.max_archive_bytes:,} bytes in all when unpacked")
        yield entry.filename, content


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, settings: ReadSettings) -> bytes | ImageError:
    refused = _refused(entry, settings)
    if refused:
        return UnreadableImage(refused)
    try:
        with archive.open(entry) as stream:
            content = stream.read(settings.max_file_bytes + 1)
    except (*_FAULTS, RuntimeError):
        return UnreadableImage("damaged in its archive")
    if len(content) > settings.max_file_bytes:
        return UnreadableImage(f"more than {settings.max_file_bytes:,} bytes when unpacked")
    return content


def _refused(entry: zipfile.ZipInfo, settings: ReadSettings) -> str:
    """Why a member is not unpacked; empty where it is."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "its name leads out of the archive"
    if entry.flag_bits & 0x1:
        return "it is encrypted; unpack the archive with its password"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "it is a link"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed in another way than deflate; pack it anew"
    if entry.file_size > settings.max_file_bytes:
        return f"{entry.file_size:,} bytes; at most {settings.max_file_bytes:,} are read"
    if entry.file_size > 2**20 and entry.file_size > settings.max_ratio * entry.compress_size:
        return f"{entry.file_size:,} bytes packed into {entry.compress_size:,}; a radiograph never is"
    return ""


def _check_directory(stream: IO[bytes], settings: ReadSettings, where: str) -> None:
    """Refuse an archive whose directory is too long to be held in memory, before it is."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _END_BYTES - _COMMENT_BYTES - _LOCATOR_BYTES))
    tail = stream.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + _END_BYTES:
        raise TruncatedArchive(f"{where}: a zip archive that ends early; copy it again")
    (length,) = struct.unpack_from("<I", tail, at + 12)
    if tail[max(0, at - _LOCATOR_BYTES) : at].startswith(_END_64):
        # zipfile looks right before the locator, whatever that says; other versions of it may not.
        (stated,) = struct.unpack_from("<Q", tail, at - _LOCATOR_BYTES + 8)
        before = max(0, size - len(tail) + at - _LOCATOR_BYTES - _END_64_BYTES)
        length = max(_directory_bytes(stream, offset) for offset in (min(stated, size), before))
    if length > _ENTRY_BYTES * settings.max_members:
        raise UnreadableImage(f"{where}: more than {settings.max_members:,} files; split the archive")
    stream.seek(0)


def _directory_bytes(stream: IO[bytes], offset: int) -> int:
    stream.seek(offset)
    (length,) = struct.unpack_from("<Q", stream.read(_END_64_BYTES).ljust(_END_64_BYTES, b"\0"), 40)
    return int(length)


def _check_count(count: int, settings: ReadSettings) -> None:
    if count > settings.max_members:
        raise UnreadableImage(f"more than {settings.max_members:,} files; read a part of them")


def _ignored(name: str) -> bool:
    return name in _NO_IMAGES or name.startswith(".")
