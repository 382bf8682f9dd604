"""nDCG with graded hits: a neighbour gains as much as its findings resemble those of the query."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.eval.candidates import Candidates, LeftOut, blocks
from chextriev.eval.metrics import Counts, Values, discounts_of

BLOCK = 4096
"""Queries at a time; a block holds [queries, combinations of findings]."""


@dataclass(frozen=True, eq=False)
class GradedScores:
    """measured, chance: [Q, ks] float64, of every query and in expectation over all orders of its candidates."""

    measured: Values
    chance: Values


def ndcg_jaccard(
    neighbours: Counts, labels: npt.NDArray[np.int8], candidates: Candidates, ks: Sequence[int]
) -> GradedScores:
    """nDCG@k where a neighbour gains the Jaccard index of its findings and the query's.

    DCG@k = sum_r |A and B_r| / |A or B_r| / log2(r + 1), r <= k, with A the findings of the query and B_r those of the
    neighbour at rank r, over the DCG@k of the best order of the query's candidates; 0 where none shares a finding. One
    value a query, not one a finding: unlike `ndcg` it asks for cases that resemble the whole patient, and a neighbour
    with many further findings gains less. Chance is exact: the mean gain of the candidates at every rank.
    neighbours: [Q, K] gallery rows, -1 fills the end. labels: [G, C] int8; unknown (-1) counts as absent.
    Source: K. Järvelin and J. Kekäläinen, ACM Trans. Inf. Syst. 20 (2002), for the measure; the gain is ours.

    >>> labels = np.array([[1, 1], [1, 1], [1, 0], [0, 0]], np.int8)
    >>> scores = ndcg_jaccard(np.array([[2, 1]]), labels, Candidates(np.array([0]), np.arange(4)), [1, 2])
    >>> scores.measured.round(3).tolist()  # (0.5 + 1 / log2 3) / (1 + 0.5 / log2 3)
    [[0.5, 0.86]]
    """
    patterns, kinds = np.unique(labels == 1, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    sizes, of_queries = np.bincount(kinds, minlength=len(patterns)), kinds[candidates.queries]
    left_out = candidates.left_out(kinds, len(patterns))
    gains = _Gains(patterns, sizes, left_out, max(ks) + left_out.most())
    shape = (len(neighbours), len(ks))
    best, chance = np.zeros(shape), np.zeros(shape)
    for kind in np.unique(of_queries):
        rows = np.flatnonzero(of_queries == kind)
        for part in blocks(len(rows), BLOCK):
            best[rows[part]], chance[rows[part]] = gains.of(rows[part], int(kind), ks)
    found = _found(neighbours, patterns, kinds, of_queries)
    measured = np.cumsum(found * discounts_of(neighbours.shape[1]), axis=1)[:, np.asarray(ks) - 1]
    return GradedScores(_share(measured, best), _share(chance, best))


@dataclass(frozen=True, eq=False)
class _Gains:
    """What queries of one combination of findings can gain. needed: ranks that the best order must fill."""

    patterns: npt.NDArray[np.bool_]
    sizes: Counts
    left_out: LeftOut
    needed: int

    def of(self, queries: Counts, kind: int, ks: Sequence[int]) -> tuple[Values, Values]:
        """DCG of the best order and of a random one, [queries, ks] each."""
        jaccard = _jaccard(self.patterns[kind], self.patterns)
        place, kinds, counts = self.left_out.of(queries)
        candidates = int(self.sizes.sum()) - np.bincount(place, counts, len(queries))
        gain = self.sizes @ jaccard - np.bincount(place, counts * jaccard[kinds], len(queries))
        discounted = np.concatenate([[0.0], np.cumsum(discounts_of(max(ks)))])
        drawn = np.minimum(np.asarray(ks), candidates[:, None]).astype(np.int64)
        chance = gain[:, None] / np.maximum(candidates, 1)[:, None] * discounted[drawn]
        return self._best(jaccard, (place, kinds, counts), len(queries), ks), chance

    def _best(
        self, jaccard: Values, left_out: tuple[Counts, Counts, Counts], n_queries: int, ks: Sequence[int]
    ) -> Values:
        order = np.argsort(-jaccard, kind="stable")
        order = order[: int(np.searchsorted(np.cumsum(self.sizes[order]), self.needed)) + 1]
        column = np.full(len(jaccard), -1)
        column[order] = np.arange(len(order))
        there = np.tile(self.sizes[order], (n_queries, 1))
        place, kinds, counts = left_out
        used = column[kinds] >= 0
        np.subtract.at(there, (place[used], column[kinds[used]]), counts[used])
        filled = np.minimum(np.cumsum(there, axis=1), max(ks))  # [queries, combinations] ranks up to each, best first
        discounted = np.concatenate([[0.0], np.cumsum(discounts_of(max(ks)))])
        best = [np.diff(discounted[np.minimum(filled, k)], axis=1, prepend=0.0) @ jaccard[order] for k in ks]
        return np.stack(best, axis=1)


def _found(neighbours: Counts, patterns: npt.NDArray[np.bool_], kinds: Counts, of_queries: Counts) -> Values:
    """[Q, K] gain of each neighbour, 0 where a list has ended."""
    gained = np.zeros(neighbours.shape)
    for part in blocks(len(neighbours), BLOCK):
        pairs = patterns[of_queries[part]][:, None], patterns[kinds[neighbours[part]]]
        gained[part] = _jaccard(*pairs) * (neighbours[part] >= 0)
    return gained


def _jaccard(some: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> Values:
    """Of the last axis; 0 where both are empty."""
    both, either = (some & others).sum(axis=-1), (some | others).sum(axis=-1)
    share: Values = both / np.maximum(either, 1)
    return share


def _share(values: Values, best: Values) -> Values:
    return np.divide(values, best, out=np.zeros_like(values), where=best > 0)
