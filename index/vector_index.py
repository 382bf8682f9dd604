"""Faiss behind one small class: vectors in, rows out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.index.exact import PROPOSAL_MARGIN, Rows, Scores, Vectors, unit_rows
from chextriev.index.faiss_files import FOURCCS, KNOWN_TYPES, reason, write_file
from chextriev.index.gpu_build import finding_lists, train_lists
from chextriev.index.gpu_devices import Copier
from chextriev.index.spec import IndexSpec
from chextriev.optional import require
from chextriev.progress import track

faiss = require("faiss", extra="index")

ADD_BLOCK = 16_384  # vectors, 64 MiB at width 1,024
TRAIN_PER_LIST = 64  # Faiss warns below 39 and ignores more than 256
TRAIN_AT_LEAST = 16_384
TIE_SLACK = 8
SCAN_BELOW = 4_096  # allowed rows, up to which comparing with each of them costs less than any detour


@dataclass(frozen=True, eq=False)
class Scan:
    """How one search is to be made; what is None is as the index's spec says.

    allowed: [N] bool, the rows that may be found. rank: [N] int64, the place of each row's id among all ids, by which
    ties are ordered; by row if None. exact: compare with every vector (as it is stored).
    """

    nprobe: int | None = None
    rerank: float | None = None
    ef_search: int | None = None
    allowed: npt.NDArray[np.bool_] | None = None
    rank: Rows | None = None
    exact: bool = False


ANY = Scan()


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

    def search(self, queries: npt.NDArray[Any], count: int, scan: Scan = ANY) -> tuple[Scores, Rows]:
        """The `count` (or all, if fewer) nearest rows [Q, count] int64 and cosines [Q, count] float32, best first.

        Ties go to the lower rank. Where an approximate index finds fewer, or fewer are allowed, the line ends with row
        -1 and score -inf. An answer does not depend on the other queries of its batch.
        """
        check_queries(queries, self.width, count)
        unit, count = unit_rows(queries, "query"), min(count, len(self))
        if not count or not len(unit):
            return np.empty((len(unit), count), np.float32), np.empty((len(unit), count), np.int64)
        searched, scan = self._chosen(scan)
        with _threads_for(len(unit)):
            if isinstance(searched, faiss.IndexFlat):
                scores, rows = _search_flat(searched, unit, count, scan.allowed)
            else:
                scores, rows = self._search_approximately(searched, unit, count, scan)
        scores, rows = best_first(scores, rows, count, scan.rank)
        if scan.exact or count > self._findable(scan):
            return scores, rows
        short = rows[:, -1] < 0  # the lists or the graph hold too few: no query is told that fewer remain than do
        if short.any():
            scores[short], rows[short] = self.search(unit[short], count, replace(scan, nprobe=None, exact=True))
        return scores, rows

    def _findable(self, scan: Scan) -> int:
        return len(self) if scan.allowed is None else int(np.count_nonzero(scan.allowed))

    def _search_approximately(self, searched: Any, unit: Vectors, count: int, scan: Scan) -> tuple[Scores, Rows]:
        """Candidates of which none left out scores as the last of `count` does, so that ties can be ordered."""
        fetch, scan = min(count + TIE_SLACK, len(self)), self._filled(scan)
        wanted = min((scan.rerank or self.spec.rerank) * count, len(self))
        scores, rows = _search(searched, unit, fetch, replace(scan, rerank=max(1.0, wanted / fetch)))
        tied = np.flatnonzero((scores[:, -1] >= scores[:, count - 1]) & (rows[:, -1] >= 0))
        while len(tied) and fetch < len(self):
            fetch = min(4 * fetch, len(self))
            more = _search(searched, unit[tied], fetch, replace(scan, rerank=max(1.0, wanted / fetch)))
            scores[tied, :count], rows[tied, :count] = best_first(*more, count, scan.rank)
            rows[tied, count:] = -1
            tied = tied[(more[0][:, -1] >= scores[tied, count - 1]) & (more[1][:, -1] >= 0)]
        return scores, rows

    def _chosen(self, scan: Scan) -> tuple[Any, Scan]:
        """The part of the index to search, and how: the stored vectors one by one where that is asked or cheaper."""
        lists = faiss.try_extract_index_ivf(self.faiss_index)
        if scan.nprobe is not None and (lists is None or scan.nprobe < 1):
            raise InvalidSetting(
                f"nprobe = {scan.nprobe}; give 1 or more for an index of inverted lists (IVF); leave nprobe out else"
            )
        exact = scan.exact
        if scan.allowed is not None and not exact:
            count = self._findable(scan)
            exact = count <= SCAN_BELOW
            if lists is not None and not exact:  # the fewer are allowed, the more lists hold the nearest of them
                nprobe = (scan.nprobe or self.spec.nprobe) * len(self) / count
                scan = replace(scan, nprobe=min(int(np.ceil(nprobe)), int(lists.nlist)))
            exact |= lists is None and _is_graph(self.faiss_index) and 10 * count < len(self)
        if not exact:
            return self.faiss_index, scan
        return _stored(self.faiss_index), replace(scan, nprobe=None if lists is None else int(lists.nlist))

    def _filled(self, scan: Scan) -> Scan:
        """The scan, with what the spec says where it says nothing."""
        return replace(
            scan,
            nprobe=scan.nprobe or self.spec.nprobe,
            ef_search=scan.ef_search or self.spec.ef_search,
        )

    def add(self, vectors: Vectors) -> None:
        """Add vectors [n, D]; not while others search it."""
        self.faiss_index.add(unit_rows(vectors, "vector"))

    def reconstruct(self, start: int, stop: int) -> Vectors:
        """[stop - start, D] float32: vectors by row, as they are stored."""
        vectors: Vectors = _stored(self.faiss_index).reconstruct_n(start, stop - start)
        return vectors

    def save(self, path: Path) -> None:
        """Write one Faiss file."""
        write_file(faiss.write_index, self.faiss_index, path)


@contextmanager
def _threads_for(queries: int) -> Iterator[None]:
    """Search for a single query without the threads that Faiss would wake and wait for: they share no work of one.

    On a busy machine they cost milliseconds. OpenMP keeps the number for each calling thread, so others keep theirs.
    """
    before = faiss.omp_get_max_threads()
    if queries > 1 or before == 1:
        yield
        return
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def check_queries(queries: npt.NDArray[Any], width: int, count: int) -> None:
    """Refuse queries of another width, and a search for nothing."""
    if queries.ndim != 2 or queries.shape[1] != width:
        raise CountMismatch(
            f"queries have shape {list(queries.shape)}; this index needs [number, {width}]: "
            "use vectors of the encoder that it was built with"
        )
    if count < 1:
        raise InvalidSetting(f"k = {count}; ask for at least 1 result")


def best_first(scores: Scores, rows: Rows, count: int, rank: Rows | None) -> tuple[Scores, Rows]:
    """The first `count` of each line by score, then by rank; rows -1 last, with score -inf."""
    if (scores[:, :-1] > scores[:, 1:]).all() and (rows >= 0).all():  # as Faiss leaves them, where nothing ties
        return scores[:, :count], rows[:, :count]
    scores = np.where(rows < 0, np.float32(-np.inf), scores)
    ties = rows if rank is None else rank[rows]
    order = np.lexsort((ties, -scores), axis=1)[:, :count]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def selector(allowed: npt.NDArray[np.bool_]) -> Any:
    """What Faiss asks whether a row may be found."""
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def train_index(
    vectors: Vectors,
    spec: IndexSpec,
    *,
    held_out: Rows | None = None,
    stored: bool = False,
    gpus: Copier | None = None,
) -> VectorIndex:
    """Train on a bounded sample and add all vectors [N, D] (may be a memory map), in order.

    held_out: rows kept out of the sample. stored: the vectors are those of an index, which are of length 1 but for
    what it rounded, and are taken as they are. gpus: help with lists (see `gpu_build`). The same vectors give the same
    index. Raises InvalidSetting if Faiss cannot make this spec of these vectors.
    """
    n, width = vectors.shape
    index = _explained(spec, vectors, faiss.index_factory, width, spec.factory, faiss.METRIC_INNER_PRODUCT)
    if bytes(faiss.serialize_index(index)[:4]) not in FOURCCS:
        raise InvalidSetting(
            f"index spec {spec.factory!r} makes a type that is not opened here; choose one of {KNOWN_TYPES}"
        )
    _tune(index)
    if not index.is_trained:
        sample = _training_rows(n, index, held_out)
        unit = unit_rows(vectors[sample], "vector of the training sample")
        _explained(spec, vectors, train_lists, index, unit, gpus)
    with finding_lists(index, gpus):
        for start in track(range(0, n, ADD_BLOCK), "index", unit="block"):
            block = vectors[start : start + ADD_BLOCK]
            _explained(spec, vectors, index.add, block if stored else unit_rows(block, "vector", first=start))
    return VectorIndex(spec, index)


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


def _search_flat(flat: Any, unit: Vectors, count: int, allowed: npt.NDArray[np.bool_] | None) -> tuple[Scores, Rows]:
    """Faiss scores batches and single queries by different sums: fetch past any tie, then score pair by pair."""
    parameters = None if allowed is None else faiss.SearchParameters(sel=selector(allowed))
    total = flat.ntotal
    fetch = count + TIE_SLACK
    while True:
        scores, rows = flat.search(unit, min(fetch, total), params=parameters)
        tied = (scores[:, -1] >= scores[:, count - 1] - PROPOSAL_MARGIN) & (rows[:, -1] >= 0)
        if fetch >= total or not tied.any():
            break
        fetch *= 4
    rescored = np.array(scores)
    flat.compute_distance_subset(
        len(unit), faiss.swig_ptr(unit), rows.shape[1], faiss.swig_ptr(rescored), faiss.swig_ptr(rows)
    )
    return rescored, rows


def _stored(index: Any) -> Any:
    """The part of an index that holds its vectors most truly."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return faiss.downcast_index(index.refine_index)
    return faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index


def _search(index: Any, unit: Vectors, fetch: int, scan: Scan) -> tuple[Scores, Rows]:
    if scan.allowed is None or not isinstance(faiss.downcast_index(index), (faiss.IndexPQ, faiss.IndexPQFastScan)):
        found: tuple[Scores, Rows] = index.search(unit, fetch, params=_search_parameters(index, scan))
        return found
    scores, rows = np.empty((len(unit), fetch), np.float32), np.empty((len(unit), fetch), np.int64)
    for line, query in enumerate(unit):  # these types cannot be told which rows to find
        score, row = index.search(query[None], index.ntotal)
        row = np.where(scan.allowed[row], row, -1)
        best, at = best_first(score, row, fetch, None)
        scores[line], rows[line] = best[0], at[0]
    return scores, rows


def _is_graph(index: Any) -> bool:
    index = faiss.downcast_index(index)
    return isinstance(
        faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index, faiss.IndexHNSW
    )


def _search_parameters(index: Any, scan: Scan) -> Any:
    """Parameters of one call, so that the shared index is never changed; kept, as making them takes as long as a list.

    Those with a selector are not kept: they hold a bit for every row.
    """
    numbers = (_kinds(index), scan.nprobe, scan.rerank, scan.ef_search)
    return _kept_parameters(*numbers) if scan.allowed is None else _parameters(*numbers, selector(scan.allowed))


def _kinds(index: Any) -> tuple[type, ...]:
    """The types of an index and of what it searches inside, outermost first."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return (faiss.IndexRefine, *_kinds(index.base_index))
    if isinstance(index, faiss.IndexPreTransform):
        return (faiss.IndexPreTransform, *_kinds(index.index))
    return (type(index),)


def _parameters(
    kinds: tuple[type, ...], nprobe: int | None, rerank: float | None, ef_search: int | None, found: Any = None
) -> Any:
    kind = kinds[0]
    if kind is faiss.IndexRefine:
        inner = _parameters(kinds[1:], nprobe, rerank, ef_search, found)
        return faiss.IndexRefineSearchParameters(k_factor=rerank, base_index_params=inner)
    if kind is faiss.IndexPreTransform:
        return faiss.SearchParametersPreTransform(index_params=_parameters(kinds[1:], nprobe, rerank, ef_search, found))
    chosen = {} if found is None else {"sel": found}
    if issubclass(kind, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=nprobe, **chosen)
    if issubclass(kind, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=ef_search, **chosen)
    return faiss.SearchParameters(**chosen) if chosen else None


_kept_parameters = lru_cache(maxsize=64)(_parameters)


def _explained(spec: IndexSpec, vectors: Vectors, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except RuntimeError as error:
        raise InvalidSetting(
            f"index spec {spec.factory!r} does not fit {vectors.shape[0]} vectors of width {vectors.shape[1]}: "
            f"Faiss says {reason(error)}; choose another, or leave the spec out"
        ) from error
