"""`.npy` files: one that grows by rows while they are made, one that is read only if it is just what numpy writes, and
anybody's.

numpy evaluates the header of a file as Python, so that what a stranger made of it ends in errors of the tokenizer, in
warnings or in arrays of objects; in the parts of an artefact it must match to the letter.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chextriev.errors import DamagedArtifact, InvalidValue, MissingFile

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER_LIMIT = 256
_HEADER = re.compile(
    rb"\{'descr': '([|][biu]1|<[iuf][248])', 'fortran_order': False,"
    rb" 'shape': \(((?:[0-9]{1,15}, ?)*[0-9]{0,15})\), \} *\n"
)


@contextmanager
def writing_rows(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[Callable[[Any], None]]:
    """Yield what appends rows [n, *shape] to a new file; their number stands in its header when the body has ended."""
    kind, count = np.dtype(dtype), 0

    def append(rows: npt.NDArray[Any]) -> None:
        nonlocal count
        content = np.ascontiguousarray(rows, kind)
        if content.shape[1:] != shape:
            raise ValueError(f"rows of shape {list(content.shape[1:])} in an array of rows {list(shape)}")
        stream.write(content.data)
        count += len(content)

    with path.open("wb") as stream:
        _write_header(stream, (0, *shape), kind)
        yield append
        stream.seek(0)
        _write_header(stream, (count, *shape), kind)


def _write_header(stream: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """numpy leaves room for any number of rows, so that a header of more is as long."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def map_array(path: Path) -> npt.NDArray[Any]:
    """The array of a file of numbers as a read-only memory map. Raises DamagedArtifact where it is not a whole one."""
    try:
        with path.open("rb") as stream:
            dtype, shape, offset = _read_header(stream.read(_HEADER_LIMIT), path)
            stated, size = offset + dtype.itemsize * math.prod(shape), stream.seek(0, 2)
    except OSError as error:
        raise DamagedArtifact(f"{path} cannot be read ({error!s:.200}); make it again") from error
    if stated != size:
        raise DamagedArtifact(
            f"{path} has {size:,} bytes; an array {dtype} {list(shape)} has {stated:,}: make it again"
        )
    if size == offset:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)


def load_array(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Anybody's array of numbers or text, as numpy.save writes; MissingFile or InvalidValue where it is none."""
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None)
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}; give a .npy file, as numpy.save writes") from None
    except PermissionError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InvalidValue(
            f"{path} is not a .npy file of numbers ({error!s:.200}); write it with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray):
        raise InvalidValue(f"{path} holds an archive; one array is needed, as numpy.save writes")
    return array


def parse_array(content: bytes, path: Path) -> npt.NDArray[Any]:
    """The array of these bytes of a file, read-only; DamagedArtifact as from `map_array`, which is for large files."""
    dtype, shape, offset = _read_header(content[:_HEADER_LIMIT], path)
    stated = offset + dtype.itemsize * math.prod(shape)
    if stated != len(content):
        raise DamagedArtifact(
            f"{path} has {len(content):,} bytes; an array {dtype} {list(shape)} has {stated:,}: make it again"
        )
    return np.frombuffer(content, dtype, offset=offset).reshape(shape)


def _read_header(start: bytes, path: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Type, shape and where the numbers begin."""
    first = len(_MAGIC) + 2
    end = first + int.from_bytes(start[len(_MAGIC) : first], "little")
    found = _HEADER.fullmatch(start[first:end])
    if not start.startswith(_MAGIC) or len(start) < end or not found:
        raise DamagedArtifact(f"{path} is not an array of numbers as numpy writes one; make it again")
    shape = tuple(int(length) for length in found[2].split(b",") if length.strip())
    return np.dtype(found[1].decode()), shape, end
