"""What a client is given: radiographs as files or pixels, or what reads one when its turn comes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from chextriev.errors import InvalidSetting
from chextriev.radiograph import Radiograph
from chextriev.radiograph_file import RadiographFile
from chextriev.radiograph_image import RadiographImage
from chextriev.serving.wire import MAX_BATCH

Given = Radiograph | RadiographFile | RadiographImage | str | Path | bytes
Source = Given | Callable[[], Given]
"""A file with its boxes or without (sent as it is), a radiograph or image (its pixels are sent without loss), the path
or the bytes of a DICOM, JPEG or PNG file, which has no boxes, or what reads any of these. DICOM is decoded here."""

REQUEST_BYTES = 48 * 2**20
"""Of images in one request, unless a single one is larger; Triton's HTTP takes 64 MiB."""

_RAW = (bytes, bytearray, memoryview)

Item = TypeVar("Item")


def as_file(source: Source) -> RadiographFile:
    """The source as it travels; raises what reading it raises."""
    found = source() if callable(source) else source
    if isinstance(found, Radiograph | RadiographImage):
        return RadiographFile.from_radiograph(found)
    if isinstance(found, str | Path):
        return RadiographFile.from_path(found)
    if isinstance(found, _RAW):
        return RadiographFile.from_bytes(bytes(found))
    if not isinstance(found, RadiographFile):
        raise InvalidSetting(
            f"a {type(found).__name__} where a radiograph is needed; give the path or the bytes of a DICOM, JPEG or PNG"
            " file, a RadiographFile, which may have boxes, or a Radiograph"
        )
    return found


def as_list(sources: Source | Sequence[Source]) -> list[Source]:
    """One source or several as a list."""
    several = isinstance(sources, Sequence) and not isinstance(sources, (str, *_RAW))
    return list(sources) if several else [sources]  # type: ignore[arg-type, list-item]


def cut(files: Iterable[RadiographFile]) -> Iterator[list[RadiographFile]]:
    """Requests in order: at most MAX_BATCH radiographs and REQUEST_BYTES each, but at least one.

    Those with boxes and those without go by different models, so that a request has one kind.
    """
    request: list[RadiographFile] = []
    size = 0
    for file in files:
        full = len(request) == MAX_BATCH or size + len(file.content) > REQUEST_BYTES
        if request and (full or (file.boxes is None) != (request[0].boxes is None)):
            yield request
            request, size = [], 0
        request.append(file)
        size += len(file.content)
    if request:
        yield request


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def check_stream(concurrency: int, batch: int) -> None:
    """InvalidSetting for a stream without a request at a time, or with more radiographs in one than a server takes."""
    if concurrency < 1 or not 1 <= batch <= MAX_BATCH:
        raise InvalidSetting(
            f"concurrency {concurrency}, batch {batch}; concurrency is at least 1, batch 1 to {MAX_BATCH}"
        )
