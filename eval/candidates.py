"""Who may be found by a query, and how many of them are hits."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.eval.metrics import Counts


@dataclass(frozen=True, eq=False)
class Candidates:
    """The gallery of G rows without the rows that a query must not find.

    queries: [Q] int64, gallery row of each query. groups: [G] int64 codes from 0; rows of the query's code are left
    out. dropped: [Q] int64, the one row that is left out instead, -1 for none. Neither: every row is a candidate.
    """

    queries: Counts
    groups: Counts | None = None
    dropped: Counts | None = None

    def count(self, labels: npt.NDArray[np.int8]) -> tuple[Counts, Counts]:
        """Candidates of each query [Q] and the hits among them [Q, C] ("R"); labels: [G, C] int8, 1 is a hit."""
        positive = (labels == 1).astype(np.int64)
        everyone, relevant = (
            np.full(len(self.queries), len(labels)),
            np.tile(positive.sum(axis=0), (len(self.queries), 1)),
        )
        if self.dropped is not None:
            one = self.dropped >= 0
            return everyone - one, relevant - positive[self.dropped] * one[:, None]
        if self.groups is None:
            return everyone, relevant
        codes = self.groups[self.queries]
        own = np.zeros((int(self.groups.max(initial=-1)) + 1, labels.shape[1]), np.int64)
        np.add.at(own, self.groups, positive)
        return everyone - np.bincount(self.groups)[codes], relevant - own[codes]

    def left_out(self, kinds: Counts, n_kinds: int) -> "LeftOut":
        """How many rows of each kind are left out of each query's gallery; kinds: [G] int64 below n_kinds."""
        if self.dropped is not None:
            here = np.arange(len(self.queries))
            return LeftOut(here, here + (self.dropped >= 0), kinds[self.dropped], np.ones(len(here), np.int64))
        if self.groups is None:
            nothing = np.zeros(len(self.queries), np.int64)
            return LeftOut(nothing, nothing, nothing[:0], nothing[:0])
        keys, counts = np.unique(self.groups * n_kinds + kinds, return_counts=True)
        codes = self.groups[self.queries]
        starts, stops = np.searchsorted(keys, codes * n_kinds), np.searchsorted(keys, (codes + 1) * n_kinds)
        return LeftOut(starts, stops, keys % n_kinds, counts)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Rows that are left out, by kind: those of query q are entries starts[q] to stops[q] of kinds and counts."""

    starts: Counts
    stops: Counts
    kinds: Counts
    counts: Counts

    def of(self, queries: Counts) -> tuple[Counts, Counts, Counts]:
        """For these queries, by place in `queries`: place, kind and count of each entry."""
        sizes = self.stops[queries] - self.starts[queries]
        place = np.repeat(np.arange(len(queries)), sizes)
        within = np.arange(len(place)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        entry = self.starts[queries][place] + within
        return place, self.kinds[entry], self.counts[entry]

    def most(self) -> int:
        """The most rows that any query lacks."""
        sums = np.concatenate([[0], np.cumsum(self.counts)])
        return int((sums[self.stops] - sums[self.starts]).max(initial=0))


def blocks(count: int, size: int) -> Iterator[slice]:
    """0..count in slices of at most `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
