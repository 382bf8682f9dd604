"""Reading radiographs from whatever holds them: the content decides, never the name."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from chextriev.burned_in import find_burned_in_text
from chextriev.errors import ImageError, UnreadableImage
from chextriev.radiograph import raw_image
from chextriev.radiograph_image import RadiographImage
from chextriev.reading.bare_picture import without_texts
from chextriev.reading.dicom_file import read_dicom
from chextriev.reading.members import Member, archive_members, folder_members, read_bounded
from chextriev.reading.picture_file import plain_mode, read_picture
from chextriev.reading.settings import DEFAULTS, ReadSettings
from chextriev.refusals import Refusal

_DICOM_AT = slice(128, 132)
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06")
_BARE_DICOM = (b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x08\x00\x16\x00")


def read_image(
    source: str | Path | bytes, *, image_id: str | None = None, settings: ReadSettings = DEFAULTS
) -> RadiographImage:
    """Read a DICOM, JPEG or PNG file, or its bytes, or a folder or zip archive with one of them.

    The id is the stem of the file's name, or for DICOM a keyed hash of its UID, unless given. Raises UnreadableImage,
    UnsuitableImage or EmptyImage for what is no frontal chest radiograph, TruncatedArchive for a damaged archive.
    """
    where = "the bytes given" if isinstance(source, bytes) else str(source)
    content = _content(source, settings)
    if content is None or content.startswith(_ARCHIVES):
        return _only(source, where, image_id, settings)
    return _image(content, where, image_id, _stem(source), settings)


def read_images(
    source: str | Path | bytes, *, settings: ReadSettings = DEFAULTS
) -> Iterator[RadiographImage | Refusal]:
    """Every radiograph of a folder, with the folders in it, or of a zip archive, and a Refusal for each other file.

    A picture's id is its path within, without suffix. Refusals count files from 0 and name neither file nor source.
    Hidden files, links and DICOMDIR are left out. Raises UnreadableImage past a limit of the whole, TruncatedArchive
    for a damaged archive.
    """
    where = "the bytes given" if isinstance(source, bytes) else str(source)
    for row, (name, content) in enumerate(_members(source, where, settings)):
        place = f"file {row}"  # a folder or archive often bears the name of its patient
        path = PurePosixPath(name)
        stem = path.with_suffix("").as_posix() if path.name else "image"
        try:
            if isinstance(content, ImageError):
                raise type(content)(f"{place}: {content}")
            if content.startswith(_ARCHIVES):
                raise UnreadableImage(f"{place}: an archive in a folder or archive; read it by itself")
            found = _image(content, place, None, stem, settings)
        except ImageError as error:
            yield Refusal(row, f"file {row}", type(error).__name__, str(error))
        else:
            yield found


def travelling(source: Path | bytes, *, image_id: str | None, settings: ReadSettings) -> tuple[str, bytes]:
    """Id and bytes of a radiograph that is sent to a server.

    JPEG and PNG files of 8 bits are as they are but for texts beside the pixels, all else is raw pixels.
    """
    content = _content(source, settings)
    pictured = content is not None and content.startswith(_PICTURES) and content[_DICOM_AT] != b"DICM"
    modes = plain_mode(content) if content is not None and pictured else None
    if content is not None and modes == "L":
        return image_id or _stem(source), without_texts(content)
    image = read_image(source, image_id=image_id, settings=settings)
    if content is not None and modes == "RGB":  # not coloured, which a server would not see
        return image.image_id, without_texts(content)
    return image.image_id, raw_image(image.pixels)


def _stem(source: str | Path | bytes) -> str:
    return "image" if isinstance(source, bytes) else Path(source).stem


def _content(source: str | Path | bytes, settings: ReadSettings) -> bytes | None:
    """The bytes of one file; None for a folder, and the first bytes of an archive."""
    if isinstance(source, bytes):
        return source
    path = Path(source)
    if path.is_dir():
        return None
    if path.is_file():
        with path.open("rb") as stream:
            first = stream.read(4)
        if first.startswith(_ARCHIVES):
            return first
    return read_bounded(path, settings.max_file_bytes)


def _image(content: bytes, where: str, image_id: str | None, name: str, settings: ReadSettings) -> RadiographImage:
    if len(content) > settings.max_file_bytes:
        raise UnreadableImage(f"{where}: {len(content):,} bytes; at most {settings.max_file_bytes:,} are read")
    if content[_DICOM_AT] == b"DICM" or content.startswith(_BARE_DICOM):
        image = read_dicom(content, settings, where=where, image_id=image_id)
    elif content.startswith(_PICTURES):
        pixels, remarks = read_picture(content, where=where, max_pixels=settings.max_pixels)
        image = RadiographImage(image_id or name, pixels, remarks=tuple(remarks))
    else:
        raise UnreadableImage(f"{where}: not a readable JPEG or PNG image, nor DICOM (it is of another kind)")
    text = find_burned_in_text(image.pixels)
    return image if text is None else replace(image, remarks=(*image.remarks, text.remark))


def _members(source: str | Path | bytes, where: str, settings: ReadSettings) -> Iterator[Member]:
    content = _content(source, settings)
    if content is None:
        return folder_members(Path(str(source)), settings)
    if content.startswith(_ARCHIVES):
        return archive_members(source if isinstance(source, bytes) else Path(source), settings, where=where)
    return iter([("" if isinstance(source, bytes) else Path(source).name, content)])


def _only(source: str | Path | bytes, where: str, image_id: str | None, settings: ReadSettings) -> RadiographImage:
    """The one radiograph of a folder or archive."""
    found: list[RadiographImage] = []
    refusals: list[Refusal] = []
    for item in read_images(source, settings=settings):
        if isinstance(item, Refusal):
            refusals.append(item)
        else:
            found.append(item)
        if len(found) > 1:
            raise UnreadableImage(f"{where}: more than one radiograph; read_images reads them all (data import)")
    if not found:
        why = f"; {refusals[0].detail}" if refusals else ""
        raise UnreadableImage(f"{where}: no radiograph among {len(refusals)} files{why}; read_images says why of each")
    return replace(found[0], image_id=image_id) if image_id else found[0]
