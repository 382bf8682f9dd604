"""Retrieval metrics of ranked lists, each query of each finding first and averages later.

A query of a finding is a radiograph that has it (label 1); a hit is a neighbour that has it. Unknown (-1) is never a
query and never a hit. All functions are pure and vectorised over the queries of one finding, so memory grows with
queries x ranks and not with findings. Every metric lies in 0..1.

Lists of few ranks have few patterns of hits (1,024 at 10 ranks), and what a list is worth depends on its pattern and
on R alone. With more queries than patterns, each pattern is scored once and every query looks its own up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MOST_TABLED_RANKS = 16
"""Lists of more ranks are scored one by one: their table would outgrow the caches (65,536 patterns, 8 MB a metric)."""


@dataclass(frozen=True, eq=False)
class RankedHits:
    """The lists of Q queries of one finding.

    hits: [Q, K] bool, whether the neighbour at rank 1..K is a hit (False where the list has ended).
    relevant: [Q] int64, how many hits the query's candidates hold in all ("R").
    """

    hits: npt.NDArray[np.bool_]
    relevant: Counts

    def __post_init__(self) -> None:
        if self.hits.ndim != 2 or self.relevant.shape != self.hits.shape[:1]:
            shapes = f"{list(self.hits.shape)} and {list(self.relevant.shape)}"
            raise CountMismatch(f"hits and relevant have shapes {shapes}; [queries, ranks] and [queries] are needed")

    @cached_property
    def patterns(self) -> npt.NDArray[np.bool_]:
        """[P, K] the lists that are scored: all that there can be, or those of the queries where these are fewer."""
        return np.arange(2**self._ranks)[:, None] >> np.arange(self._ranks) & 1 == 1 if self._tabled else self.hits

    @cached_property
    def pattern_of(self) -> Counts:
        """[Q] row in `patterns` of each query."""
        if not self._tabled:
            return np.arange(len(self.hits))
        places = np.exp2(np.arange(self._ranks, dtype=np.float32))
        return (self.hits.astype(np.float32) @ places).astype(np.int64)  # exact in float32 up to 24 ranks

    @cached_property
    def found(self) -> Values:
        """[P, K] hits of each pattern up to each rank."""
        counted: Values = np.cumsum(self.patterns, axis=1, dtype=np.float64)
        return counted

    @cached_property
    def precision_sum(self) -> Values:
        """[P, K] sum of precision@r over the ranks r of the hits of each pattern, up to each rank."""
        summed: Values = np.cumsum(self.patterns * (self.found / np.arange(1.0, self._ranks + 1)), axis=1)
        return summed

    def by_query(self, of_patterns: Values) -> Values:
        """[Q, ks] of what is known of every pattern [P, ks]."""
        return of_patterns.take(self.pattern_of, axis=0)

    def by_relevant(self, of_counts: Values) -> Values:
        """[Q, ks] of what is known of R = 0, 1, ..., K [K + 1, ks], where a larger R counts as K."""
        return of_counts.take(np.minimum(self.relevant, self._ranks), axis=0)

    @property
    def _ranks(self) -> int:
        return int(self.hits.shape[1])

    @property
    def _tabled(self) -> bool:
        return self._ranks <= MOST_TABLED_RANKS and 2**self._ranks < len(self.hits)


def ap_over_hits(ranked: RankedHits, ks: Sequence[int]) -> Values:
    """Average precision, divided by the hits found: the mean of precision@r over the ranks r <= k of the hits.

    AP = sum_r hit_r precision@r / (hits in the top k); 0 without a hit. It rewards a list that stops finding: one hit
    at rank 1 scores 1 whatever follows. It is the AP of the published CheXtriev tables and of torchmetrics' `top_k`;
    trec_eval's `map_cut` divides by R instead, see also `ap_over_min_k_r`.
    Source: https://lightning.ai/docs/torchmetrics/stable/retrieval/map.html

    >>> ranked = RankedHits(np.array([[True, False, True, False, False]]), np.array([4]))
    >>> ap_over_hits(ranked, [1, 3, 5]).round(3).tolist()
    [[1.0, 0.833, 0.833]]
    """
    return ranked.by_query(_at(ranked.precision_sum, ks) / np.maximum(_at(ranked.found, ks), 1))


def ap_over_min_k_r(ranked: RankedHits, ks: Sequence[int]) -> Values:
    """Average precision, divided by the hits that a perfect list of k would hold.

    AP = sum_r hit_r precision@r / min(k, R), r <= k, with R the hits among the candidates; 0 where R is 0. Unlike
    `ap_over_hits` it falls when later ranks miss; unlike AP over R a perfect list scores 1 although k < R.
    Source: Kaggle's "mean average precision at k", https://github.com/benhamner/Metrics (ml_metrics.apk)

    >>> ranked = RankedHits(np.array([[True, False, True, False, False]]), np.array([4]))
    >>> ap_over_min_k_r(ranked, [1, 3, 5]).round(3).tolist()
    [[1.0, 0.556, 0.417]]
    """
    most = ranked.by_relevant(np.maximum(_possible(ranked, ks), 1).astype(np.float64))
    score: Values = ranked.by_query(_at(ranked.precision_sum, ks)) / most
    return score


def ap_over_r(ranked: RankedHits, ks: Sequence[int]) -> Values:
    """Average precision, divided by all hits among the candidates.

    AP = sum_r hit_r precision@r / R, r <= k; 0 where R is 0. It is trec_eval's `map_cut_k`. Unlike `ap_over_min_k_r` a
    perfect list scores only k / R where R is larger, so the values of frequent findings are tiny and those of findings
    of different frequency do not compare.
    Source: C. Manning et al., Introduction to Information Retrieval, chapter 8, and https://github.com/usnistgov/trec_eval

    >>> ranked = RankedHits(np.array([[True, False, True, False, False]]), np.array([4]))
    >>> ap_over_r(ranked, [1, 3, 5]).round(3).tolist()
    [[0.25, 0.417, 0.417]]
    """
    score: Values = ranked.by_query(_at(ranked.precision_sum, ks)) / np.maximum(ranked.relevant, 1)[:, None]
    return score


def precision(ranked: RankedHits, ks: Sequence[int]) -> Values:
    """Hits in the top k, divided by k, also where fewer than k neighbours were found.

    The published CheXtriev code calls this "hit rate" (mHR); it is not `hit_rate`. It is trec_eval's `P_k`.
    Source: https://nlp.stanford.edu/IR-book/html/htmledition/evaluation-of-ranked-retrieval-results-1.html

    >>> ranked = RankedHits(np.array([[True, False, True, False, False]]), np.array([4]))
    >>> precision(ranked, [1, 3, 5]).round(3).tolist()
    [[1.0, 0.667, 0.4]]
    """
    return ranked.by_query(_at(ranked.found, ks) / np.asarray(ks))


def hit_rate(ranked: RankedHits, ks: Sequence[int]) -> Values:
    """1 if the top k hold at least one hit, else 0; also called success@k.

    Not the "mHR" of the published CheXtriev tables, which is `precision`.
    Source: https://lightning.ai/docs/torchmetrics/stable/retrieval/hit_rate.html

    >>> ranked = RankedHits(np.array([[False, False, True, False, False]]), np.array([4]))
    >>> hit_rate(ranked, [1, 3, 5]).tolist()
    [[0.0, 1.0, 1.0]]
    """
    return ranked.by_query((_at(ranked.found, ks) > 0).astype(np.float64))


def rr(ranked: RankedHits, ks: Sequence[int]) -> Values:
    """Reciprocal rank: 1 / rank of the first hit if it stands in the top k, else 0.

    Without the cut at k this is the RR of MRR, which never reaches 0 while a hit exists.
    Source: E. Voorhees, TREC-8 question answering track, https://trec.nist.gov/pubs/trec8/papers/qa_report.pdf

    >>> ranked = RankedHits(np.array([[False, False, True, False, True]]), np.array([4]))
    >>> rr(ranked, [1, 3, 5]).round(3).tolist()
    [[0.0, 0.333, 0.333]]
    """
    first = ranked.patterns.argmax(axis=1)[:, None] + 1  # [P, 1] int64; 1 too where there is no hit, masked below
    return ranked.by_query(np.where(_at(ranked.found, ks) > 0, 1.0 / first, 0.0))


def ndcg(ranked: RankedHits, ks: Sequence[int]) -> Values:
    """Normalised discounted cumulative gain of hits: DCG@k / the DCG@k of a perfect list.

    DCG@k = sum_r hit_r / log2(r + 1), r <= k; a perfect list begins with min(k, R) hits. 0 where R is 0. It is
    trec_eval's `ndcg_cut_k`; scikit-learn's `ndcg_score` gives the same where all candidates are ranked without ties.
    Hits gain 1 each: `chextriev.eval.graded.ndcg_jaccard` grades them by the labels that query and neighbour share.
    Source: K. Järvelin and J. Kekäläinen, ACM Trans. Inf. Syst. 20 (2002)

    >>> ranked = RankedHits(np.array([[True, False, True, False, False]]), np.array([4]))
    >>> ndcg(ranked, [1, 3, 5]).round(3).tolist()
    [[1.0, 0.704, 0.586]]
    """
    discounts = discounts_of(ranked.hits.shape[1])
    perfect = np.concatenate([[1.0], np.cumsum(discounts)])  # of 0 hits, never divided by, and of 1, 2, ...
    gained = ranked.by_query(_at(np.cumsum(ranked.patterns * discounts, axis=1), ks))
    score: Values = gained / ranked.by_relevant(perfect[_possible(ranked, ks)])
    return score


METRICS: Mapping[str, Callable[[RankedHits, Sequence[int]], Values]] = {
    "ap_over_hits": ap_over_hits,
    "ap_over_min_k_r": ap_over_min_k_r,
    "ap_over_r": ap_over_r,
    "precision": precision,
    "hit_rate": hit_rate,
    "rr": rr,
    "ndcg": ndcg,
}
"""Every metric by name; their order is that of the arrays below."""

HIT_RATE = tuple(METRICS).index("hit_rate")


@dataclass(frozen=True, eq=False)
class FindingScores:
    """The metrics of every query of one finding.

    positions: [n] int64, rows of the list of queries. values: [n, metrics, ks] float64.
    """

    positions: Counts
    values: Values


def score_queries(
    neighbours: Counts,
    labels: npt.NDArray[np.int8],
    *,
    queries: Counts,
    relevant: Counts,
    ks: Sequence[int],
) -> list[FindingScores]:
    """Score ranked lists, finding by finding, for all ks in one pass.

    neighbours: [Q, K] gallery rows in rank order; -1 only as filler at the end. labels: [G, C] int8, 1, 0 or -1.
    queries: [Q] gallery row of each query. relevant: [Q, C] hits among the candidates of each query.
    Raises InvalidSetting where a k exceeds K, InvalidValue for rows outside the gallery, CountMismatch for shapes.
    """
    check_lists(neighbours, len(labels), ks)
    if len(queries) != len(neighbours) or relevant.shape != (len(queries), labels.shape[1]):
        wanted = f"[{len(neighbours)}] and [{len(neighbours)}, {labels.shape[1]}]"
        raise CountMismatch(
            f"queries and relevant have shapes {list(queries.shape)} and {list(relevant.shape)}; {wanted} are needed"
        )
    shown = neighbours[:, : max(ks)]
    scores = []
    for column in range(labels.shape[1]):
        has_it = np.append(labels[:, column] == 1, False)  # [G + 1] bool, the last for filler, which is row -1
        positions = np.flatnonzero(has_it[queries])
        ranked = RankedHits(has_it[shown[positions]], relevant[positions, column])
        values = np.stack([metric(ranked, ks) for metric in METRICS.values()], axis=1)
        scores.append(FindingScores(positions, values))
    return scores


def check_lists(neighbours: Counts, gallery_size: int, ks: Sequence[int]) -> None:
    """Refuse lists that are too short for a k, that leave the gallery, or with a gap before a neighbour."""
    if neighbours.ndim != 2:
        raise CountMismatch(f"neighbours have shape {list(neighbours.shape)}; [queries, ranks] is needed")
    if not ks or min(ks) < 1 or max(ks) > neighbours.shape[1]:
        asked = ", ".join(map(str, ks)) or "nothing"
        raise InvalidSetting(
            f"k = {asked} of lists with {neighbours.shape[1]} ranks; each k is 1..{neighbours.shape[1]}"
        )
    outside = (neighbours < -1) | (neighbours >= gallery_size)
    if outside.any():
        query, rank = np.argwhere(outside)[0]
        value = neighbours[query, rank]
        raise InvalidValue(
            f"neighbours, query {query}, rank {rank + 1}: row {value} is outside the gallery of {gallery_size};"
            " rows count from 0, and -1 fills the end of a short list"
        )
    ended = neighbours < 0
    gap = ended[:, :-1] & ~ended[:, 1:] if ended.any() else ended
    if gap.any():
        query, rank = np.argwhere(gap)[0]
        raise InvalidValue(
            f"neighbours, query {query}: -1 at rank {rank + 1} before a neighbour; -1 only fills the end"
        )


def class_sums(scores: Sequence[FindingScores], *, keep_zero_hit_queries: bool = True) -> tuple[Values, Values]:
    """Queries counted [C, ks] and the sums of their metrics [C, metrics, ks], both float64.

    Without keep_zero_hit_queries a query with no hit in the top k is left out: all its metrics are 0, so the sums stay
    and as many queries count as have a hit.
    """
    sums = np.stack([score.values.sum(axis=0) for score in scores])
    all_queries = np.array([float(len(score.positions)) for score in scores])[:, None]
    counts = np.broadcast_to(all_queries, sums[:, HIT_RATE].shape) if keep_zero_hit_queries else sums[:, HIT_RATE]
    return counts, sums


def class_means(scores: Sequence[FindingScores], *, keep_zero_hit_queries: bool = True) -> tuple[Counts, Values]:
    """Queries and mean of each finding: n [C, ks] int64 and means [C, metrics, ks] float64, NaN where n is 0."""
    counts, sums = class_sums(scores, keep_zero_hit_queries=keep_zero_hit_queries)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts[:, None], out=means, where=counts[:, None] > 0)
    return np.rint(counts).astype(np.int64), means


def macro_mean(means: Values) -> tuple[Counts, Values]:
    """Mean over the classes that have queries: how many there are [ks] int64, and means [metrics, ks], NaN if none.

    means: [..., C, metrics, ks] as `class_means` gives them; leading axes are kept.

    >>> classes, macro = macro_mean(np.array([[[0.5]], [[np.nan]], [[0.25]]]))
    >>> classes.tolist(), macro.tolist()
    ([2], [[0.375]])
    """
    defined = ~np.isnan(means)
    classes = defined.sum(axis=-3)  # [..., metrics, ks]; equal for all metrics of a k
    macro = np.full(classes.shape, np.nan)
    np.divide(np.where(defined, means, 0.0).sum(axis=-3), classes, out=macro, where=classes > 0)
    return classes[..., 0, :], macro


def discounts_of(ranks: int) -> Values:
    """[ranks] float64, 1 / log2(r + 1): what a hit at rank r = 1, 2, ... gains in DCG."""
    gains: Values = 1.0 / np.log2(np.arange(2, ranks + 2))
    return gains


def _at(cumulated: Values, ks: Sequence[int]) -> Values:
    """[P, ks] of what is cumulated up to each rank [P, K]."""
    return cumulated[:, np.asarray(ks) - 1]


def _possible(ranked: RankedHits, ks: Sequence[int]) -> Counts:
    """[K + 1, ks] hits in the top k of a perfect list, min(k, R), for R = 0, 1, ..., K."""
    fewer: Counts = np.minimum(np.asarray(ks), np.arange(ranked.hits.shape[1] + 1)[:, None])
    return fewer
