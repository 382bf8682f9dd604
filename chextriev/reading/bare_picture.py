"""JPEG and PNG files without what is said beside their pixels: EXIF, comments and texts may name a person."""

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_KEPT_APPLICATIONS = (0xE0, 0xEE)
"""JFIF and Adobe: they say how the pixels are coded."""
_APPLICATIONS, _COMMENT, _SCAN = range(0xE0, 0xF0), 0xFE, 0xDA
_BARE_MARKERS = (0x01, *range(0xD0, 0xD9))
_PNG_PARTS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")


def without_texts(content: bytes) -> bytes:
    """The file with the same pixels and nothing beside them; as it is where its parts cannot be told apart.

    A decoder refuses such a file, or gives what it shows: nothing of it is understood here.
    """
    if content.startswith(_JPEG):
        return _bare_jpeg(content)
    return _bare_png(content) if content.startswith(_PNG) else content


def _bare_jpeg(content: bytes) -> bytes:
    """Segments before the first scan, without those of applications and comments (ITU T.81, B.1.1)."""
    parts, place = [content[:2]], 2
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            return content
        marker = content[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker in _BARE_MARKERS:
            parts.append(content[place : place + 2])
            place += 2
            continue
        if marker == _SCAN:
            return b"".join([*parts, content[place : _end_of_jpeg(content)]])
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if end < place + 4 or end > len(content):
            return content
        if marker != _COMMENT and (marker not in _APPLICATIONS or marker in _KEPT_APPLICATIONS):
            parts.append(content[place:end])
        place = end
    return content


def _end_of_jpeg(content: bytes) -> int:
    """Behind the last end-of-image marker, where programs append what they like."""
    found = content.rfind(b"\xff\xd9")
    return len(content) if found < 0 else found + 2


def _bare_png(content: bytes) -> bytes:
    """The chunks that make the picture (PNG specification, 11.2)."""
    parts, place = [_PNG], len(_PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if end > len(content):
            return content
        kind = content[place + 4 : place + 8]
        if kind in _PNG_PARTS:
            parts.append(content[place:end])
        if kind == b"IEND":
            return b"".join(parts)
        place = end
    return content
