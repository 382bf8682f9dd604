"""What the bench searches: unit vectors around centres, all at once or in blocks, with queries held out of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidSetting
from chextriev.index.exact import Vectors, unit_rows
from chextriev.progress import track
from chextriev.row_file import writing_rows

BLOCK = 16_384


@dataclass(frozen=True)
class Mixture:
    """n vectors of this width around `centres` centres, and as many queries held out of them.

    spread: standard deviation within a centre, in units of that between centres.
    """

    n: int
    width: int = 1_024
    queries: int = 1_000
    centres: int = 2_048
    spread: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n", "width", "queries", "centres"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"bench index: {name} = {getattr(self, name)}; give 1 or more")
        if not 0 < self.spread < np.inf:
            raise InvalidSetting(f"bench index: spread = {self.spread}; give a positive number")


def clustered_vectors(mixture: Mixture) -> Vectors:
    """Unit vectors [n + queries, width] float32 of a mixture of equal Gaussians, the queries last."""
    rng, count = np.random.default_rng(mixture.seed), mixture.n + mixture.queries
    return _drawn(rng, _centres(rng, mixture), count, mixture)


def write_clustered(mixture: Mixture, path: Path) -> None:
    """The like in a `.npy` file, made block by block: other vectors of the same mixture."""
    rng = np.random.default_rng(mixture.seed)
    centres = _centres(rng, mixture)
    with writing_rows(path, (mixture.width,), np.float32) as append:
        for size in track(_sizes(mixture.n + mixture.queries), "vectors", unit="block"):
            append(_drawn(rng, centres, size, mixture))


def _sizes(count: int) -> Iterator[int]:
    return (min(BLOCK, count - start) for start in range(0, count, BLOCK))


def _centres(rng: np.random.Generator, mixture: Mixture) -> npt.NDArray[np.float32]:
    return rng.standard_normal((mixture.centres, mixture.width), np.float32)


def _drawn(rng: np.random.Generator, centres: Vectors, count: int, mixture: Mixture) -> Vectors:
    vectors = rng.standard_normal((count, mixture.width), np.float32)
    vectors *= np.float32(mixture.spread)
    vectors += centres[rng.integers(0, mixture.centres, count)]
    return unit_rows(vectors, "vector")
