"""What an opened Faiss index must be inside, so that a search of it ends, finds rows that there are, and stays small.

Faiss compares sizes while it reads. It does not ask whether lists name every row once, whether inner indexes are of
the same rows, or whether a stored search mode is one that this package sets.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import DamagedArtifact
from chextriev.optional import require

faiss = require("faiss", extra="index")

_LEAVES = ("IndexFlat", "IndexFlatIP", "IndexScalarQuantizer", "IndexPQ", "IndexPQFastScan")
_LISTS = ("IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexIVFPQ", "IndexIVFPQFastScan")
_GRAPHS = ("IndexHNSWFlat", "IndexHNSWSQ")
_NESTED = 4
_MODES = {"implem": 0, "bbs": 32, "qbs": 0, "skip": 0, "search_type": 0, "encode_signs": False}


def check_structure(index: Any, name: str) -> None:
    """DamagedArtifact for an index of vectors that this package would not have made. name: of its file."""
    _check(faiss.downcast_index(index), (index.ntotal, index.d), name, _NESTED)


def check_hash_structure(index: Any, name: str) -> None:
    """As `check_structure`, of hash codes."""
    if isinstance(index, faiss.IndexBinaryIVF):
        quantizer = faiss.downcast_IndexBinary(index.quantizer)
        if not isinstance(quantizer, faiss.IndexBinaryFlat) or (quantizer.ntotal, quantizer.d) != (
            index.nlist,
            index.d,
        ):
            raise _damaged(name, f"{quantizer.ntotal} centres of {quantizer.d} bits for {index.nlist} lists")
        _check_lists(index, name)


def _check(index: Any, shape: tuple[int, int], name: str, depth: int) -> None:
    """shape: number and width that it must have."""
    kind = type(index).__name__
    if kind not in (*_LEAVES, *_LISTS, *_GRAPHS, "IndexRefine", "IndexRefineFlat", "IndexPreTransform") or not depth:
        raise _damaged(name, f"a part of type {kind}")
    if (index.ntotal, index.d) != shape or not index.is_trained or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise _damaged(name, f"a part {kind} of {index.ntotal} x {index.d} vectors, metric {index.metric_type}")
    for mode, usual in _MODES.items():
        if getattr(index, mode, usual) != usual:
            raise _damaged(name, f"search mode {mode} = {getattr(index, mode)} of {kind}")
    if isinstance(index, (faiss.IndexFastScan, faiss.IndexIVFFastScan)):
        _check_blocks(index, name)
    for part, wanted in _parts(index, shape):
        _check(faiss.downcast_index(part), wanted, name, depth - 1)
    if kind in _LISTS:
        _check_lists(index, name)


def _parts(index: Any, shape: tuple[int, int]) -> list[tuple[Any, tuple[int, int]]]:
    """The indexes inside an index, with the number and width that each must have."""
    if isinstance(index, faiss.IndexRefine):
        return [(index.base_index, shape), (index.refine_index, shape)]
    if isinstance(index, faiss.IndexPreTransform):
        width = shape[1]
        for step in (index.chain.at(number) for number in range(index.chain.size())):
            width = step.d_out if step.d_in == width and step.is_trained else -1
        return [(index.index, (shape[0], width))]
    if isinstance(index, faiss.IndexIVF):
        return [(index.quantizer, (index.nlist, shape[1]))]
    return [(index.storage, shape)] if isinstance(index, faiss.IndexHNSW) else []


def _check_blocks(index: Any, name: str) -> None:
    """Codes of 4 bits lie in blocks: the numbers of rows and parts that these are filled up to."""
    parts = index.M + index.M % 2
    fits = index.M2 == index.M + index.M % 2
    if not isinstance(index, faiss.IndexIVF):
        filled = -(-index.ntotal // index.bbs) * index.bbs
        fits = fits and index.ntotal2 == filled and index.codes.size() == filled * parts // 2
    if not fits:
        raise _damaged(name, f"blocks of {index.M2} parts for {index.M} parts")


def _check_lists(index: Any, name: str) -> None:
    """Every row stands in one list, once."""
    lists, count = index.invlists, index.ntotal
    if lists.nlist != index.nlist or not 0 < index.nlist <= max(count, 1):
        raise _damaged(name, f"{index.nlist} lists of {count} vectors")
    if sum(lists.list_size(number) for number in range(index.nlist)) != count:
        raise _damaged(name, f"lists that do not hold {count} vectors")
    seen = np.zeros(count, np.bool_)
    for number in range(index.nlist):
        ids = _ids(lists, number)
        if len(ids) and not 0 <= ids.min() <= ids.max() < count:
            raise _damaged(name, f"rows in list {number} that it has not")
        seen[ids] = True
    if not seen.all():
        raise _damaged(name, f"no list for row {int(seen.argmin())}")


def _ids(lists: Any, number: int) -> npt.NDArray[np.int64]:
    size = lists.list_size(number)
    return faiss.rev_swig_ptr(lists.get_ids(number), size) if size else np.empty(0, np.int64)


def _damaged(name: str, what: str) -> DamagedArtifact:
    return DamagedArtifact(f"{name} has {what}, which no index of this package has; build it again")
