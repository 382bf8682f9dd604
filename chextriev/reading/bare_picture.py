"""JPEG and PNG files without what is said beside their pixels: EXIF, comments and texts may name a person."""

import re

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_JFIF, _ADOBE = (0xE0, b"JFIF\0", 14), (0xEE, b"Adobe", 12)
"""Applications that say how the pixels are coded: marker, name, and the bytes that do, behind which anything stands."""
_SKIPPED = (*range(0xE0, 0xF0), 0xFE, 0xDC)  # by decoders: applications, comments, the number of lines
_STUFFED, _FILL, _SCAN, _END = 0x00, 0xFF, 0xDA, 0xD9
_BARE_MARKERS = (0x01, *range(0xD0, 0xD9))
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_PNG_PARTS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")


def without_texts(content: bytes) -> bytes:
    """The file with the same pixels and nothing beside them; another file as it is.

    What decoders skip is left out. A damaged file stays as damaged, for the decoder to refuse or to show.
    """
    if content.startswith(_JPEG):
        return _bare_jpeg(content)
    return _bare_png(content) if content.startswith(_PNG) else content


def _bare_jpeg(content: bytes) -> bytes:
    """The segments that make the picture, and its scans (ITU T.81, B.1.1)."""
    parts, place = [content[:2]], 2
    while (place := content.find(b"\xff", place)) >= 0 and place + 2 <= len(content):
        marker = content[place + 1]
        if marker in (_STUFFED, _FILL):
            place += 1 if marker == _FILL else 2
            continue
        if marker in _BARE_MARKERS or marker == _END:
            parts.append(content[place : place + 2])
            place += 2
            if marker == _END:
                break
            continue
        if place + 4 > len(content):
            parts.append(content[place:])
            break
        end = place + 2 + max(int.from_bytes(content[place + 2 : place + 4], "big"), 2)
        if marker == _SCAN:
            end = _end_of_scan(content, end)
        parts.append(_bare_segment(content[place:end]))
        place = end
    return b"".join(parts)


def _bare_segment(segment: bytes) -> bytes:
    marker, told = segment[1], segment[4:]
    if marker not in _SKIPPED:
        return segment
    for kind, name, count in (_JFIF, _ADOBE):
        if marker == kind and told.startswith(name) and len(told) >= count:
            kept = told[:12].ljust(count, b"\0")  # of JFIF: a thumbnail of 0 x 0 pixels
            return segment[:2] + (2 + count).to_bytes(2, "big") + kept
    return b""


def _end_of_scan(content: bytes, start: int) -> int:
    """Where the marker stands that ends the coded pixels."""
    found = _NEXT_MARKER.search(content, start)
    return len(content) if found is None else found.end() - 2


def _bare_png(content: bytes) -> bytes:
    """The chunks that make the picture (PNG specification, 11.2)."""
    parts, place = [_PNG], len(_PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        if kind in _PNG_PARTS:
            parts.append(content[place:end])
        if kind == b"IEND":
            break
        place = end
    return b"".join(parts)
