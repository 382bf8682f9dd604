"""Faiss behind one small class: vectors in, rows out. The only file that calls Faiss."""

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch, DamagedArtifact, InvalidSetting
from chextriev.index.exact import PROPOSAL_MARGIN, Rows, Vectors, unit_rows
from chextriev.index.spec import IndexSpec
from chextriev.optional import require
from chextriev.progress import track

faiss = require("faiss", extra="index")

ADD_BLOCK = 16_384  # vectors, 64 MiB at width 1,024
TRAIN_PER_LIST = 64  # Faiss warns below 39 and ignores more than 256
TRAIN_AT_LEAST = 16_384
TIE_SLACK = 8
# The types that a spec may make and that are opened again: "fourcc", the first four bytes of a Faiss file.
FOURCCS = {
    b"IxFI": "Flat",
    b"IxSQ": "SQ",
    b"IxPq": "PQ",
    b"IPfs": "PQ fast scan",
    b"IwFl": "IVF Flat",
    b"IwSq": "IVF SQ",
    b"IwPQ": "IVF PQ",
    b"IwPf": "IVF PQ fast scan",
    b"IHNf": "HNSW Flat",
    b"IHNs": "HNSW SQ",
    b"IxRF": "Refine",
    b"IxPT": "OPQ or PCA",
}
_TYPES = ", ".join(FOURCCS.values())
_HEADER = struct.Struct("<4siqqqBi")  # fourcc, width, number, two unused, is trained, metric
_READING = threading.Lock()  # Faiss keeps its read limit in a global


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """Unit vectors that can be searched by cosine. Safe to search from several threads at once."""

    spec: IndexSpec
    faiss_index: Any

    def __len__(self) -> int:
        return int(self.faiss_index.ntotal)

    @property
    def width(self) -> int:
        """D, the width of its vectors."""
        return int(self.faiss_index.d)

    def search(
        self, queries: npt.NDArray[Any], count: int, *, nprobe: int | None = None
    ) -> tuple[npt.NDArray[np.float32], Rows]:
        """The `count` (or all, if fewer) nearest rows [Q, count] int64 and cosines [Q, count] float32, best first.

        Ties go to the lower row. Where an approximate index finds fewer, the line ends with row -1 and score -inf.
        An answer does not depend on the other queries of its batch. nprobe: in place of the spec's (IVF only).
        """
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise CountMismatch(
                f"queries have shape {list(queries.shape)}; this index needs [number, {self.width}]: "
                "use vectors of the encoder that it was built with"
            )
        if count < 1:
            raise InvalidSetting(f"k = {count}; ask for at least 1 result")
        unit, count = unit_rows(queries, "query"), min(count, len(self))
        if isinstance(self.faiss_index, faiss.IndexFlat):
            scores, rows = self._search_flat(unit, count, nprobe)
        else:
            scores, rows = self.faiss_index.search(unit, count, params=self._parameters(nprobe))
        scores[rows < 0] = -np.inf
        order = np.lexsort((rows, -scores), axis=1)[:, :count]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _search_flat(self, unit: Vectors, count: int, nprobe: int | None) -> tuple[npt.NDArray[np.float32], Rows]:
        """Faiss scores batches and single queries by different sums: fetch past any tie, then score pair by pair."""
        if nprobe is not None:
            raise InvalidSetting(f"nprobe = {nprobe}, but this index is exact and has no lists; leave nprobe out")
        fetch = count + TIE_SLACK
        while True:
            scores, rows = self.faiss_index.search(unit, min(fetch, len(self)))
            if fetch >= len(self) or np.all(scores[:, -1] < scores[:, count - 1] - PROPOSAL_MARGIN):
                break
            fetch *= 4
        self.faiss_index.compute_distance_subset(
            len(unit), faiss.swig_ptr(unit), rows.shape[1], faiss.swig_ptr(scores), faiss.swig_ptr(rows)
        )
        return scores, rows

    def _parameters(self, nprobe: int | None) -> Any:
        lists = faiss.try_extract_index_ivf(self.faiss_index)
        if nprobe is not None and (lists is None or nprobe < 1):
            raise InvalidSetting(f"nprobe = {nprobe}; give 1 or more, and only for an index of inverted lists (IVF)")
        return _search_parameters(self.faiss_index, nprobe or self.spec.nprobe, self.spec.rerank)

    def save(self, path: Path) -> None:
        """Write one Faiss file."""
        faiss.write_index(self.faiss_index, str(path))


def train_index(vectors: Vectors, spec: IndexSpec, *, held_out: Rows | None = None) -> VectorIndex:
    """Train on a bounded sample and add all vectors [N, D] (may be a memory map), in order.

    held_out: rows kept out of the sample. The same vectors give the same index. Raises InvalidSetting if Faiss
    cannot make this spec of these vectors.
    """
    n, width = vectors.shape
    index = _explained(spec, vectors, faiss.index_factory, width, spec.factory, faiss.METRIC_INNER_PRODUCT)
    if bytes(faiss.serialize_index(index)[:4]) not in FOURCCS:
        raise InvalidSetting(
            f"index spec {spec.factory!r} makes a type that is not opened here; choose one of {_TYPES}"
        )
    _tune(index)
    if not index.is_trained:
        sample = _training_rows(n, index, held_out)
        _explained(spec, vectors, index.train, unit_rows(vectors[sample], "vector of the training sample"))
    for start in track(range(0, n, ADD_BLOCK), "index", unit="block"):
        _explained(spec, vectors, index.add, unit_rows(vectors[start : start + ADD_BLOCK], "vector", first=start))
    return VectorIndex(spec, index)


def load_index(path: Path, spec: IndexSpec, shape: tuple[int, int]) -> VectorIndex:
    """Open a Faiss file that must hold this shape [N, D]; type, size and width are checked before Faiss sees it.

    The caller has compared the file's digest. Raises DamagedArtifact.
    """
    _check_header(path, shape)
    with _READING:
        limit = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(path.stat().st_size)  # no array is larger than its file
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise DamagedArtifact(f"{path}: Faiss cannot read it ({_reason(error)}); build the index again") from error
        finally:
            faiss.set_deserialization_vector_byte_limit(limit)
    if (index.ntotal, index.d) != shape or not index.is_trained:
        raise DamagedArtifact(f"{path} holds {index.ntotal} x {index.d} vectors, not {shape[0]} x {shape[1]}")
    return VectorIndex(spec, index)


def _check_header(path: Path, shape: tuple[int, int]) -> None:
    with path.open("rb") as stream:
        start = stream.read(_HEADER.size)
    if len(start) < _HEADER.size or start[:4] not in FOURCCS:
        raise DamagedArtifact(f"{path} is no Faiss file of a type known here ({_TYPES}); build the index again")
    _, width, number, _, _, trained, metric = _HEADER.unpack(start)
    if (number, width) != shape or trained != 1 or metric != faiss.METRIC_INNER_PRODUCT:
        raise DamagedArtifact(
            f"{path} says {number} x {width} vectors, metric {metric}; its manifest {shape[0]} x {shape[1]}, "
            f"metric {faiss.METRIC_INNER_PRODUCT} (inner product); build the index again"
        )


def _tune(index: Any) -> None:
    """Cluster on the sphere, as cosine needs, and give OPQ 5 rounds: Faiss's 50 take ten times as long."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        _tune(index.base_index)
    elif isinstance(index, faiss.IndexIVF):
        index.cp.spherical = True
    elif isinstance(index, faiss.IndexPreTransform):
        _tune(index.index)
        for step in (faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())):
            if isinstance(step, faiss.OPQMatrix):
                step.niter = 5


def _training_rows(n: int, index: Any, held_out: Rows | None) -> Rows:
    """A sorted sample, large enough for the lists of this index, without the rows held out."""
    lists = faiss.try_extract_index_ivf(index)
    wanted = max(TRAIN_AT_LEAST, TRAIN_PER_LIST * (lists.nlist if lists is not None else 0))
    rows = np.arange(n) if held_out is None else np.setdiff1d(np.arange(n), held_out)
    return np.sort(np.random.default_rng(0).permutation(rows)[:wanted])


def _search_parameters(index: Any, nprobe: int, rerank: int) -> Any:
    """Parameters of one call, so that the shared index is never changed; None where the type takes none."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        inner = _search_parameters(index.base_index, nprobe, rerank)
        return faiss.IndexRefineSearchParameters(k_factor=rerank, base_index_params=inner)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_search_parameters(index.index, nprobe, rerank))
    return faiss.SearchParametersIVF(nprobe=nprobe) if isinstance(index, faiss.IndexIVF) else None


def _explained(spec: IndexSpec, vectors: Vectors, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except RuntimeError as error:
        raise InvalidSetting(
            f"index spec {spec.factory!r} does not fit {vectors.shape[0]} vectors of width {vectors.shape[1]}: "
            f"Faiss says {_reason(error)}; choose another, or leave the spec out"
        ) from error


def _reason(error: RuntimeError) -> str:
    """What Faiss says, without where in its source it says so."""
    text = str(error)
    for mark in ("failed: ", "Error: ", ".cpp:"):
        if mark in text:
            return text.split(mark, 1)[1].strip()
    return text
