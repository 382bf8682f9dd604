"""From the metrics of queries to those of findings, and to macro, weighted and micro averages over findings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chextriev.eval.metrics import Counts, FindingScores, Values, class_means, class_sums
from chextriev.eval.protocol import Protocol


@dataclass(frozen=True, eq=False)
class Means:
    """All averages at all ks; NaN where one is not defined.

    counts: [C, ks] int64, queries of each finding. findings: [C, metrics, ks] float64, mean over these. The averages
    [metrics, ks] float64:

    - macro: every finding counts the same. classes: [ks] int64, over how many findings it goes.
    - weighted: a finding counts as often as radiographs have it.
    - micro: every pair of query and finding counts the same. It equals `weighted` while no query is left out and every
      radiograph that has a finding is a query.
    """

    counts: Counts
    findings: Values
    macro: Values
    weighted: Values
    micro: Values
    classes: Counts


def average(scores: Sequence[FindingScores], protocol: Protocol, positives: Counts | None = None) -> Means:
    """Average the scores of every query by a protocol.

    positives: [C] int64, the weights of `weighted`; without them the queries of each finding, left out or not.
    """
    keep = protocol.keep_zero_hit_queries
    sizes = np.array([len(score.positions) for score in scores])
    counts, findings = class_means(scores, keep_zero_hit_queries=keep)
    if protocol.empty_findings_are_zero:
        findings[sizes == 0] = 0.0
    weights = (sizes if positives is None else positives).astype(np.float64)
    strict = protocol.empty_findings_are_zero
    return Means(
        counts=counts,
        findings=findings,
        macro=weighted_mean(findings, np.ones(len(sizes)), strict=strict),
        weighted=weighted_mean(findings, weights, strict=strict),
        micro=_pooled(*class_sums(scores, keep_zero_hit_queries=keep)),
        classes=np.count_nonzero(~np.isnan(findings[:, 0]), axis=0),
    )


def weighted_mean(findings: Values, weights: Values, *, strict: bool = False) -> Values:
    """Mean [..., metrics, ks] of [..., C, metrics, ks] with weights [C], over the findings that are not NaN.

    strict: one undefined finding of any weight makes the mean undefined.

    >>> weighted_mean(np.array([[[0.5]], [[np.nan]], [[0.25]]]), np.array([1.0, 5.0, 3.0])).tolist()
    [[0.3125]]
    """
    shaped = weights[:, None, None]
    defined = ~np.isnan(findings)
    total = np.where(defined, findings * shaped, 0.0).sum(axis=-3)
    whole = (defined * shaped).sum(axis=-3)
    mean = np.full(total.shape, np.nan)
    np.divide(total, whole, out=mean, where=whole > 0)
    if strict:
        mean[(~defined & (shaped > 0)).any(axis=-3)] = np.nan
    return mean


def _pooled(counts: Values, sums: Values) -> Values:
    """[metrics, ks] over all pairs of query and finding."""
    total, pairs = sums.sum(axis=0), np.broadcast_to(counts.sum(axis=0), sums.shape[1:])
    mean = np.full(total.shape, np.nan)
    np.divide(total, pairs, out=mean, where=pairs > 0)
    return mean
