"""Scores of radiographs by the codes of their regions: what `region_codes` writes and opens, searched in numpy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.index.exact import Rows, Vectors, unit_rows

CENTRES = 256
"""Vectors that a part may be replaced by: as many as a byte tells apart."""

TERMS = 8
"""Bytes of a code after those of its parts: length and offset, two float32, little-endian."""

SCAN_ROWS = 65_536
"""Scores made at once, which with what they are made of stay in the processor's caches."""

SCAN_QUERIES = 16

Codes = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]
Weights = Mapping[Region, float]


@dataclass(frozen=True, eq=False)
class RegionCodes:
    """The codes of N radiographs; `open_region_codes` makes it. Safe to search from several threads at once.

    codes: [18, parts + 8, rows] uint8. codebooks: [18, parts, 257, D / parts] float32, the last of each part being that
    of the mean. delta: [18, parts + 8, added] uint8.
    """

    codes: Codes
    codebooks: Vectors
    delta: Codes | None = None

    def __len__(self) -> int:
        return sum(block.shape[2] for block in self._blocks)

    @property
    def width(self) -> int:
        """D, the width of a region's vector."""
        return int(self.codebooks.shape[1] * self.codebooks.shape[3])

    @cached_property
    def _blocks(self) -> tuple[Codes, ...]:
        return (self.codes,) if self.delta is None else (self.codes, self.delta)

    def search(
        self,
        queries: npt.NDArray[Any],
        weights: Weights,
        k: int,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        rank: Rows | None = None,
    ) -> tuple[Scores, Rows]:
        """The k radiographs most like each query in these regions: scores [Q, k] float32 and rows [Q, k] int64.

        queries: [Q, 18, D] of any length but zero where asked for; of 19 the last, the whole image, is not looked at.
        weights: positive, by region; the score is their weighted mean of the cosines between the query's vector and the
        one that the radiograph's code stands for, which may err past 1.
        allowed: [N] the rows that may be found. rank: [N] place of a row among equal scores, by default the row itself.
        Where fewer than k remain, the end of a line holds score -inf and row -1. An answer does not depend on the other
        queries. Raises CountMismatch, InvalidSetting and, for zero or non-finite vectors, InvalidValue.
        """
        if k < 1:
            raise InvalidSetting(f"k = {k}; ask for at least 1 result")
        for name, column in (("allowed", allowed), ("rank", rank)):
            if column is not None and column.shape != (len(self),):
                raise CountMismatch(f"{name} has shape {list(column.shape)}; the region codes hold {len(self)} rows")
        tables = self._tables(queries, weights)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for few in slices(len(queries), SCAN_QUERIES):
            for first, block in self._scan({region: table.of(few) for region, table in tables.items()}):
                if allowed is not None:
                    block[:, ~allowed[first : first + block.shape[1]]] = -np.inf
                for query, line in zip(range(few.start, few.stop), block, strict=True):
                    _merge(scores[query], rows[query], line, first, rank)
        return scores, rows

    def scores(self, queries: npt.NDArray[Any], weights: Weights, rows: Rows) -> Scores:
        """The scores [Q, C] float32 that `search` gives the rows [Q, C] of each query; -inf for a row -1."""
        if rows.ndim != 2 or len(rows) != len(queries) or not _within(rows, len(self)):
            raise CountMismatch(
                f"rows of shape {list(rows.shape)} beside {len(queries)} queries; give a line of rows from -1 to"
                f" {len(self) - 1} to each query"
            )
        found = np.full(rows.shape, -np.inf, np.float32)
        tables = self._tables(queries, weights)
        for query, line in enumerate(rows):
            known = np.flatnonzero(line >= 0)
            of_query = {region: table.of(slice(query, query + 1)) for region, table in tables.items()}
            found[query, known] = _sums(of_query, {region: self.of(region, line[known]) for region in tables})[0]
        return found

    def _tables(self, queries: npt.NDArray[Any], weights: Weights) -> "dict[Region, _Table]":
        """What to add for each code, by region in the order of regions."""
        if queries.ndim != 3 or queries.shape[1] not in (N_REGIONS, N_REGIONS + 1) or queries.shape[2] != self.width:
            raise CountMismatch(
                f"queries have shape {list(queries.shape)}; {['number', N_REGIONS, self.width]} is needed: use the"
                " region vectors of the encoder that the index was built with"
            )
        return {
            region: _table(unit_rows(queries[:, region], f"{region.label} of query"), self.codebooks[region], share)
            for region, share in _shares(weights).items()
        }

    def _scan(self, tables: "Mapping[Region, _Table]") -> Iterator[tuple[int, Scores]]:
        """First row and scores [Q, n] of block after block."""
        first, queries = 0, len(next(iter(tables.values())).parts)
        for block in self._blocks:
            for piece in slices(block.shape[2], max(1, SCAN_ROWS // queries)):
                yield first + piece.start, _sums(tables, {region: block[region, :, piece] for region in tables})
            first += block.shape[2]

    def of(self, region: Region, rows: Rows) -> Codes:
        """The codes [parts + 8, n] of a region of these rows."""
        main = self.codes.shape[2]
        if self.delta is None or not len(rows) or rows.max() < main:
            return np.asarray(self.codes[region][:, rows])
        later = rows >= main
        found = np.empty((self.codes.shape[1], len(rows)), np.uint8)
        found[:, ~later] = self.codes[region][:, rows[~later]]
        found[:, later] = self.delta[region][:, rows[later] - main]
        return found


def _within(rows: Rows, count: int) -> bool:
    return not rows.size or bool(rows.min() >= -1 and rows.max() < count)


def _shares(weights: Weights) -> dict[Region, float]:
    """The weights in the order of regions, of sum 1."""
    if not weights or not all(np.isfinite(weight) and weight > 0 for weight in weights.values()):
        given = {region.label: weight for region, weight in weights.items()}
        raise InvalidSetting(f"regions = {given}; give at least one region, each with a positive weight")
    total = sum(weights[region] for region in sorted(weights))
    return {region: weights[region] / total for region in sorted(weights)}


@dataclass(frozen=True, eq=False)
class _Table:
    """What a region adds to the scores of Q queries: their share of the region's cosine.

    parts: [Q, parts, 256] float32, by code. constant: [Q] float32, the same for all codes. share: of the region.
    """

    parts: Scores
    constant: Scores
    share: np.float32

    def of(self, queries: slice) -> "_Table":
        """That of some queries."""
        return _Table(self.parts[queries], self.constant[queries], self.share)


def _table(unit: Vectors, codebook: Vectors, share: float) -> _Table:
    """Of unit vectors [Q, D], one by one, since BLAS sums batches differently.

    A code stands for the vector x = mean + length * direction, so that q.x = q.mean + mean.(x - mean) + length *
    (q - mean).direction; the middle term is the code's offset, and exact.
    """
    centres, mean = codebook[:, :CENTRES], np.ascontiguousarray(codebook[:, CENTRES]).ravel()
    parts = np.empty((len(unit), len(codebook), CENTRES), np.float32)
    constant = np.empty(len(unit), np.float32)
    for number, query in enumerate(unit):
        rest = (query - mean).reshape(len(codebook), -1, 1)
        np.matmul(centres, rest, out=parts[number, :, :, None])
        constant[number] = query.astype(np.float64) @ mean
    return _Table(parts * np.float32(share), constant * np.float32(share), np.float32(share))


def _sums(tables: Mapping[Region, _Table], codes: Mapping[Region, Codes]) -> Scores:
    """Scores [Q, n] float32 of codes [parts + 8, n], each added up in the same order wherever it stands."""
    queries, rows = len(next(iter(tables.values())).parts), next(iter(codes.values())).shape[1]
    total, along, added = (np.zeros((queries, rows), np.float32) for _ in range(3))
    index = np.empty(rows, np.intp)
    for region, table in tables.items():
        along[:] = 0
        for part, numbers in enumerate(codes[region][:-TERMS]):
            index[:] = numbers
            table.parts[:, part].take(index, axis=1, out=added, mode="clip")
            along += added
        length, offset = terms(codes[region])
        along *= length
        along += offset * table.share
        along += table.constant[:, None]
        total += along
    return total


def terms(codes: Codes) -> Scores:
    """Length and offset [2, n] float32 of the codes [parts + 8, n] of a region."""
    return np.ascontiguousarray(codes[-TERMS:].T).view("<f4").T.astype(np.float32, copy=False)


def _merge(best: Scores, rows: Rows, line: Scores, first: int, rank: Rows | None) -> None:
    """Put scores [n] of the rows from `first` on into the best [k] so far, in place."""
    k = len(best)
    bar = best[-1]
    if len(line) > k:
        bar = max(bar, np.partition(line, len(line) - k)[len(line) - k])
    entering = np.flatnonzero((line >= bar) & (line > -np.inf))
    score = np.concatenate([best[rows >= 0], line[entering]])
    row = np.concatenate([rows[rows >= 0], entering + first])
    order = np.lexsort((row if rank is None else rank[row], -score))[:k]
    best[: len(order)], rows[: len(order)] = score[order], row[order]


def slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count`, in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
