"""What each metric is worth by chance: its exact expectation over all orders of the candidates, in closed form.

A query has N candidates, R of which are hits; the list holds m = min(k, N) of them, drawn without replacement, so the
number of hits H is hypergeometric. Per query:

- E[precision@k]       = m R / (N k)
- E[hit_rate@k]        = 1 - S(m), where S(i) = prod_{j<i} (N - R - j) / (N - j) is the chance of no hit in i ranks
- E[rr@k]              = sum_{i<=m} (S(i-1) - S(i)) / i
- E[ap_over_min_k_r@k] = R/N sum_{i<=m} (1 + (i-1)(R-1)/(N-1)) / i / min(k, R), as a hit at rank i is preceded by
  (i-1)(R-1)/(N-1) others on average; E[ap_over_r@k] is the same over R
- E[ndcg@k]            = R/N sum_{i<=m} d_i / sum_{i<=min(k,R)} d_i, with the discounts d_i = 1 / log2(i + 1)
- E[ap_over_hits@k]    = (h_m E[min(H, 1)] + (m - h_m)/(m - 1) (E[H] - E[min(H, 1)])) / m, with h_m = 1 + 1/2 + ... +
  1/m: given H >= 1 the hits are spread evenly over m ranks, so a rank i is worth 1/i + (1 - 1/i)(H-1)/(m-1) on
  average, which is linear in H

Averages over queries and findings are then taken as for the metric itself. Source of the distribution:
https://en.wikipedia.org/wiki/Hypergeometric_distribution
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch, InvalidValue
from chextriev.eval.metrics import METRICS, Counts, FindingScores, Values, discounts_of


@dataclass(frozen=True, eq=False)
class RandomRanking:
    """Q queries whose candidates stand in random order.

    candidates: [Q] int64, "N". relevant: [Q] int64, "R", at most N.
    """

    candidates: Counts
    relevant: Counts

    def __post_init__(self) -> None:
        if self.candidates.shape != self.relevant.shape or self.candidates.ndim != 1:
            shapes = f"{list(self.candidates.shape)} and {list(self.relevant.shape)}"
            raise CountMismatch(f"candidates and relevant have shapes {shapes}; both are [queries]")
        if ((self.relevant < 0) | (self.relevant > self.candidates)).any():
            raise InvalidValue("a query has more hits than candidates, or fewer than none; 0 <= relevant <= candidates")


def chance_ap_over_hits(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """Expected `ap_over_hits`, [Q, ks].

    >>> chance_ap_over_hits(RandomRanking(np.array([3]), np.array([1])), [2]).round(3).tolist()  # (1 + 1/2 + 0) / 3
    [[0.5]]
    """
    drawn, any_hit = _drawn(ranking, ks), chance_hit_rate(ranking, ks)
    harmonic = _harmonic(max(ks))[drawn]
    further = (drawn - harmonic) / np.maximum(drawn - 1, 1) * (_expected_hits(ranking, ks) - any_hit)
    score: Values = (harmonic * any_hit + further) / np.maximum(drawn, 1)
    return score


def chance_ap_over_min_k_r(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """Expected `ap_over_min_k_r`, [Q, ks].

    >>> chance_ap_over_min_k_r(RandomRanking(np.array([2]), np.array([2])), [1, 2]).tolist()
    [[1.0, 1.0]]
    """
    possible = np.maximum(np.minimum(np.asarray(ks), ranking.relevant[:, None]), 1)
    gained: Values = _precision_sum(ranking, ks) / possible
    return gained


def chance_ap_over_r(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """Expected `ap_over_r`, [Q, ks].

    >>> chance_ap_over_r(RandomRanking(np.array([2]), np.array([2])), [1, 2]).tolist()
    [[0.5, 1.0]]
    """
    gained: Values = _precision_sum(ranking, ks) / np.maximum(ranking.relevant, 1)[:, None]
    return gained


def chance_precision(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """Expected `precision`, [Q, ks]: the prevalence among the candidates, less where fewer than k remain.

    >>> chance_precision(RandomRanking(np.array([4]), np.array([1])), [2, 8]).tolist()
    [[0.25, 0.125]]
    """
    share: Values = _expected_hits(ranking, ks) / np.asarray(ks)
    return share


def chance_hit_rate(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """Expected `hit_rate`, [Q, ks].

    >>> chance_hit_rate(RandomRanking(np.array([4]), np.array([1])), [1, 2, 4]).tolist()
    [[0.25, 0.5, 1.0]]
    """
    return 1.0 - _no_hit(ranking, max(ks))[:, np.asarray(ks)]


def chance_rr(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """Expected `rr`, [Q, ks].

    >>> chance_rr(RandomRanking(np.array([2]), np.array([1])), [1, 2]).tolist()
    [[0.5, 0.75]]
    """
    first_here = -np.diff(_no_hit(ranking, max(ks)), axis=1)  # [Q, max k], rank i in column i - 1
    summed: Values = np.cumsum(first_here / np.arange(1, max(ks) + 1), axis=1)[:, np.asarray(ks) - 1]
    return summed


def chance_ndcg(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """Expected `ndcg`, [Q, ks].

    >>> chance_ndcg(RandomRanking(np.array([4]), np.array([1])), [1, 4]).round(3).tolist()  # 1 / log2(r + 1) at rank r
    [[0.25, 0.64]]
    """
    gained = np.concatenate([[0.0], np.cumsum(discounts_of(max(ks)))])  # by 0, 1, 2, ... hits in a row
    perfect = gained[np.minimum(np.asarray(ks), ranking.relevant[:, None])]
    expected = _prevalence(ranking) * gained[_drawn(ranking, ks)]
    score: Values = np.divide(expected, perfect, out=np.zeros_like(expected), where=perfect > 0)
    return score


CHANCE: Mapping[str, Callable[[RandomRanking, Sequence[int]], Values]] = {
    "ap_over_hits": chance_ap_over_hits,
    "ap_over_min_k_r": chance_ap_over_min_k_r,
    "ap_over_r": chance_ap_over_r,
    "precision": chance_precision,
    "hit_rate": chance_hit_rate,
    "rr": chance_rr,
    "ndcg": chance_ndcg,
}
"""The expectation of every metric of `chextriev.eval.metrics.METRICS`, by the same name."""


def expected_scores(
    scores: Sequence[FindingScores], candidates: Counts, relevant: Counts, ks: Sequence[int]
) -> list[FindingScores]:
    """The scores of the same queries had their candidates stood in random order.

    candidates: [Q] int64. relevant: [Q, C] int64.
    """
    expected = []
    for column, score in enumerate(scores):
        ranking = RandomRanking(candidates[score.positions], relevant[score.positions, column])
        values = np.stack([CHANCE[name](ranking, ks) for name in METRICS], axis=1)
        expected.append(FindingScores(score.positions, values))
    return expected


def _drawn(ranking: RandomRanking, ks: Sequence[int]) -> Counts:
    """[Q, ks] length m of the list."""
    drawn: Counts = np.minimum(np.asarray(ks), ranking.candidates[:, None])
    return drawn


def _expected_hits(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """[Q, ks] E[H]."""
    return _drawn(ranking, ks) * _prevalence(ranking)


def _prevalence(ranking: RandomRanking) -> Values:
    """[Q, 1] R / N."""
    share: Values = ranking.relevant[:, None] / np.maximum(ranking.candidates, 1)[:, None]
    return share


def _precision_sum(ranking: RandomRanking, ks: Sequence[int]) -> Values:
    """[Q, ks] expected sum of precision@r over the ranks r <= k of the hits."""
    total, relevant = ranking.candidates[:, None], ranking.relevant[:, None]
    ranks = np.arange(1, max(ks) + 1)
    earlier = (ranks - 1) * np.maximum(relevant - 1, 0) / np.maximum(total - 1, 1)
    gains = _prevalence(ranking) * (1 + earlier) / ranks * (ranks <= total)
    summed: Values = np.cumsum(gains, axis=1)[:, np.asarray(ks) - 1]
    return summed


def _no_hit(ranking: RandomRanking, ranks: int) -> Values:
    """[Q, ranks + 1] S(0), ..., S(ranks); constant after the candidates are used up."""
    before = np.arange(ranks)
    left = ranking.candidates[:, None] - before  # [Q, ranks] candidates left before each draw
    misses = np.maximum(left - ranking.relevant[:, None], 0)
    factors = np.where(left > 0, misses / np.maximum(left, 1), 1.0)
    return np.concatenate([np.ones((len(left), 1)), np.cumprod(factors, axis=1)], axis=1)


def _harmonic(count: int) -> npt.NDArray[np.float64]:
    """[count + 1] the harmonic numbers h_0 = 0, h_1 = 1, ..."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, count + 1))])
