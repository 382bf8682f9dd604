"""Rows of an array that is too large to copy: chosen now, read when asked for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class LazyRows:
    """The rows [n] int64 of a memory map [N, ...], in this order; indexing reads only what is asked for.

    The first axis takes whatever an array takes, later ones integers or slices.

    >>> chosen = LazyRows(np.arange(10).reshape(5, 2), np.array([4, 0, 2]))
    >>> chosen.shape, chosen[1:].tolist(), chosen[:, 1].tolist()
    ((3, 2), [[0, 1], [4, 5]], [9, 1, 5])
    """

    source: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Any) -> npt.NDArray[Any]:
        first, *later = chosen if isinstance(chosen, tuple) else (chosen,)
        return np.asarray(self.source[(self.rows[first], *later)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("rows of a memory map cannot be had without copying them")
        return np.asarray(self.source[self.rows], dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...]."""
        return (len(self.rows), *self.source.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the memory map."""
        return self.source.dtype

    def take(self, rows: npt.NDArray[np.int64]) -> "LazyRows":
        """These of its rows, still unread."""
        return LazyRows(self.source, self.rows[rows])
