"""A `.npy` file that grows by rows while they are made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt


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
