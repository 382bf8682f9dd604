"""Hash codes behind the interface of `VectorIndex`: the signs of vectors, compared bit by bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidSetting
from chextriev.index.exact import Rows, Scores
from chextriev.index.faiss_files import reason, write_file
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import ADD_BLOCK, ANY, Scan, best_first, check_queries, faiss, selector
from chextriev.progress import track

TRAIN_AT_MOST = 65_536
_FETCH_MORE = 64


@dataclass(frozen=True, eq=False)
class HashIndex:
    """Codes of `width` bits that can be searched by Hamming distance. Safe to search from several threads at once.

    faiss_index: holds the codes in lists or one after the other. flat: one after the other (the same if it has none).
    """

    spec: IndexSpec
    faiss_index: Any
    flat: Any

    def __len__(self) -> int:
        return int(self.flat.ntotal)

    @property
    def width(self) -> int:
        """The number of bits."""
        return int(self.flat.d)

    def search(self, queries: npt.NDArray[Any], count: int, scan: Scan = ANY) -> tuple[Scores, Rows]:
        """As `VectorIndex.search`; a score is the cosine of the codes, 1 - 2 x distance / bits (`distances` undoes it).

        queries: vectors [Q, bits], of which the signs are taken. Where rows are chosen, all their codes are compared.
        """
        check_queries(queries, self.width, count)
        codes, count = signs(queries), min(count, len(self))
        if not count or not len(codes):
            return np.empty((len(codes), count), np.float32), np.empty((len(codes), count), np.int64)
        lists = None if self.faiss_index is self.flat else self.faiss_index
        if scan.nprobe is not None and (lists is None or scan.nprobe < 1):
            raise InvalidSetting(
                f"nprobe = {scan.nprobe}; give 1 or more, and only to an index of inverted lists (BIVF)"
            )
        if lists is None or scan.exact or scan.allowed is not None:
            parameters = None if scan.allowed is None else faiss.SearchParameters(sel=selector(scan.allowed))
            distances, rows = _past_ties(self.flat, codes, count, parameters)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=scan.nprobe or self.spec.nprobe)
            distances, rows = _past_ties(lists, codes, count, parameters)
        return best_first(similarity(distances, self.width), rows, count, scan.rank)

    def add(self, vectors: npt.NDArray[Any]) -> None:
        """Add vectors [n, bits] to codes that lie one after the other; not while others search them."""
        self.flat.add(signs(vectors))

    def reconstruct(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """[stop - start, bits] float32 of -1 and 1, by row."""
        return np.unpackbits(self.codes()[start:stop], axis=1).astype(np.float32) * 2 - 1

    def save(self, path: Path) -> None:
        """Write one Faiss file, and the codes as `codes.npy` beside it where they lie in lists."""
        write_file(faiss.write_index_binary, self.faiss_index, path)
        if self.faiss_index is not self.flat:
            np.save(path.with_name(f"{path.stem}-codes.npy"), self.codes())

    def codes(self) -> npt.NDArray[np.uint8]:
        """[N, bits / 8] uint8, packed."""
        return np.asarray(faiss.vector_to_array(self.flat.xb)).reshape(len(self), self.width // 8)


def signs(vectors: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """[n, bits / 8] uint8: the signs of vectors [n, bits], packed; zero counts as negative, NaN is refused."""
    if vectors.shape[1] % 8:
        raise InvalidSetting(f"hash codes have {vectors.shape[1]} bits; Faiss needs a multiple of 8")
    if np.isnan(vectors).any():
        raise InvalidSetting("a vector has a value that is not a number; its sign is not known")
    return np.packbits(vectors > 0, axis=1)


def similarity(distances: npt.NDArray[np.int32], bits: int) -> Scores:
    """The cosine of codes of -1 and +1 at these Hamming distances."""
    return np.asarray(1 - 2 * distances.astype(np.float64) / bits, np.float32)


def distance(score: float, bits: int) -> int:
    """The Hamming distance of two codes with this cosine."""
    return round((1 - score) * bits / 2)


def train_hash_index(vectors: npt.NDArray[Any], spec: IndexSpec) -> HashIndex:
    """Take the signs of vectors [N, bits] and add them, in order. InvalidSetting if Faiss cannot make this spec."""
    n, bits = vectors.shape
    codes = np.concatenate([signs(vectors[start : start + ADD_BLOCK]) for start in range(0, n, ADD_BLOCK)])
    flat = faiss.IndexBinaryFlat(bits)
    flat.add(codes)
    if spec.is_exact:
        return HashIndex(spec, flat, flat)
    index = faiss.index_binary_factory(bits, spec.factory)
    try:
        sample = np.sort(np.random.default_rng(0).permutation(n)[:TRAIN_AT_MOST])
        index.train(codes[sample])
        for start in track(range(0, n, ADD_BLOCK), "index", unit="block"):
            index.add(codes[start : start + ADD_BLOCK])
    except RuntimeError as error:
        raise InvalidSetting(
            f"index spec {spec.factory!r} does not fit {n} codes of {bits} bits: Faiss says {reason(error)}; choose"
            " another, or 'BFlat'"
        ) from error
    return HashIndex(spec, index, flat)


def _past_ties(
    index: Any, codes: npt.NDArray[np.uint8], count: int, parameters: Any
) -> tuple[npt.NDArray[np.int32], Rows]:
    """Candidates of which none left out is as near as the last of `count`: distances take few values and tie often."""
    fetch = count + _FETCH_MORE
    while True:
        distances, rows = index.search(codes, min(fetch, index.ntotal), params=parameters)
        tied = (distances[:, -1] <= distances[:, count - 1]) & (rows[:, -1] >= 0)
        if fetch >= index.ntotal or not tied.any():
            return distances, rows
        fetch *= 4
