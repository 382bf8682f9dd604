"""Exact cosine search in numpy: the answer that every approximate index is measured against.

Needs numpy alone. A BLAS product proposes the candidates; their scores are then computed again pair by pair in
float64, so that a score does not depend on the block or batch it was found in, and equal vectors tie exactly.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue

Vectors = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Groups = tuple[npt.NDArray[Any], npt.NDArray[Any]]

QUERY_BLOCK = 256
BLOCK_BYTES = 16 << 20
PAIR_BYTES = 2 << 20  # of pairs in float64 at once; more fall out of a core's cache, at twice the time
# A float32 product of unit vectors errs by at most about width x 6e-8, and in practice by less than 1e-6 at width 2048.
PROPOSAL_MARGIN = 1e-5


def exact_search(
    queries: Vectors, gallery: Vectors, k: int, *, groups: Groups | None = None
) -> tuple[npt.NDArray[np.float32], Rows]:
    """The k gallery rows of highest cosine for each query, best first; ties go to the lower row.

    queries: [Q, D] float32 of any length but zero. gallery: [G, D] float32, read in blocks, so it may be a memory map.
    groups: ids of the queries [Q] and of the gallery [G]; candidates of the query's own group are left out.
    Returns scores [Q, k] float32 in -1..1 and rows [Q, k] int64; where fewer than k candidates remain, the end of a
    line holds row -1 and score -inf. Raises InvalidValue for zero or non-finite vectors, CountMismatch for shapes.
    """
    _check_shapes(queries, gallery, groups)
    if k < 1:
        raise InvalidSetting(f"k = {k}; ask for at least 1 result")
    unit_queries = unit_rows(queries, "query")
    codes = None if groups is None else _group_codes(groups)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for gallery_slice in _blocks(len(gallery), max(k, BLOCK_BYTES // (4 * max(1, gallery.shape[1])))):
        block = unit_rows(gallery[gallery_slice], "gallery vector", first=gallery_slice.start)
        for query_slice in _blocks(len(queries), QUERY_BLOCK):
            allowed = None
            if codes is not None:
                allowed = codes[0][query_slice, None] != codes[1][None, gallery_slice]  # [q, g] bool
            found = _propose(unit_queries[query_slice], block, scores[query_slice], allowed)
            _merge(scores[query_slice], rows[query_slice], found, gallery_slice.start)
    return scores, rows


def unit_rows(vectors: npt.NDArray[Any], label: str, *, first: int = 0) -> Vectors:
    """The vectors [n, D] divided by their length, float32; a zero or non-finite one is refused by its row."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))  # [n] float64
    unusable = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(unusable):
        row = int(unusable[0])
        what = "is zero" if lengths[row] == 0 else "has a value that is not finite"
        raise InvalidValue(
            f"{label} {first + row} {what} ({len(unusable)} of {len(vectors)} such here); "
            "cosine needs finite vectors that are not zero: leave it out or make it again"
        )
    return np.ascontiguousarray(vectors / lengths[:, None], np.float32)


def _check_shapes(queries: Vectors, gallery: Vectors, groups: Groups | None) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise CountMismatch(
            f"queries have shape {list(queries.shape)}, the gallery {list(gallery.shape)}; "
            "both must be [number, width] with the same width"
        )
    if groups is not None and (len(groups[0]), len(groups[1])) != (len(queries), len(gallery)):
        raise CountMismatch(
            f"groups of {len(groups[0])} queries and {len(groups[1])} gallery rows beside "
            f"{len(queries)} queries and {len(gallery)} gallery rows; give one id to each"
        )


def _group_codes(groups: Groups) -> tuple[Rows, Rows]:
    """The ids as integers, equal where the ids are equal."""
    code_of: dict[Any, int] = {}
    first, second = (np.array([code_of.setdefault(each, len(code_of)) for each in ids], np.int64) for ids in groups)
    return first, second


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _propose(
    queries: Vectors, block: Vectors, best: npt.NDArray[np.float32], allowed: npt.NDArray[np.bool_] | None
) -> tuple[Rows, Rows, npt.NDArray[np.float32]]:
    """The pairs that may enter the best [q, k] scores so far: query [p], row of the block [p], score [p]."""
    product = queries @ block.T  # [q, g] float32
    if allowed is not None:
        product[~allowed] = -np.inf
    k = best.shape[1]
    bar = best[:, -1:] - PROPOSAL_MARGIN  # [q, 1]
    promising = product >= bar
    if len(block) > k and np.count_nonzero(promising) > 2 * promising.shape[0] * k:
        kth = np.partition(product, len(block) - k, axis=1)[:, len(block) - k, None]
        promising = product >= np.maximum(bar, kth - PROPOSAL_MARGIN)
    at_query, at_row = np.divmod(np.flatnonzero(promising & np.isfinite(product)), len(block))
    score = np.empty(len(at_query), np.float32)
    for part in _blocks(len(score), max(1, PAIR_BYTES // (8 * max(1, block.shape[1])))):
        pairs = queries[at_query[part]].astype(np.float64) * block[at_row[part]]  # [p, D] float64
        score[part] = pairs.sum(axis=1)
    return at_query, at_row, score


def _merge(
    best: npt.NDArray[np.float32],
    rows: Rows,
    found: tuple[Rows, Rows, npt.NDArray[np.float32]],
    first_row: int,
) -> None:
    """Put the found pairs into the best [q, k] scores and rows, in place."""
    count, k = best.shape
    old_query, old_rank = np.nonzero(rows >= 0)
    query = np.concatenate([old_query, found[0]])
    row = np.concatenate([rows[old_query, old_rank], found[1] + first_row])
    score = np.concatenate([best[old_query, old_rank], found[2]])
    order = np.lexsort((row, -score, query))
    rank = np.arange(len(order)) - np.searchsorted(query[order], np.arange(count))[query[order]]
    kept = order[rank < k]
    best[query[kept], rank[rank < k]] = score[kept]
    rows[query[kept], rank[rank < k]] = row[kept]
