"""What a client is given: radiographs as files or pixels, or what reads one when its turn comes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from chextriev.errors import InvalidSetting
from chextriev.radiograph import Radiograph
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.wire import MAX_BATCH

Source = Radiograph | RadiographFile | Callable[[], Radiograph | RadiographFile]
"""A file's bytes with its boxes (sent as they are), a radiograph (its pixels are sent without loss), or what reads
either."""

REQUEST_BYTES = 48 * 2**20
"""Of images in one request, unless a single one is larger; Triton's HTTP takes 64 MiB."""

_RAW = (bytes, bytearray, memoryview)

Item = TypeVar("Item")


def as_file(source: Source) -> RadiographFile:
    """The source as it travels; raises what reading it raises."""
    found = source() if callable(source) else source
    if isinstance(found, Radiograph):
        return RadiographFile.from_radiograph(found)
    if not isinstance(found, RadiographFile):
        raise InvalidSetting(
            f"{_kind_of(found)} where a RadiographFile or a Radiograph is needed;"
            " RadiographFile(image_id, content, boxes) holds a file's bytes"
        )
    return found


def _kind_of(given: object) -> str:
    return "bytes" if isinstance(given, _RAW) else f"a {type(given).__name__}"


def as_list(sources: Source | Sequence[Source]) -> list[Source]:
    """One source or several as a list."""
    several = isinstance(sources, Sequence) and not isinstance(sources, (str, *_RAW))
    return list(sources) if several else [sources]  # type: ignore[arg-type, list-item]


def cut(files: Iterable[RadiographFile]) -> Iterator[list[RadiographFile]]:
    """Requests in order: at most MAX_BATCH radiographs and REQUEST_BYTES each, but at least one."""
    request: list[RadiographFile] = []
    size = 0
    for file in files:
        if request and (len(request) == MAX_BATCH or size + len(file.content) > REQUEST_BYTES):
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
