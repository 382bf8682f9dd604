"""Intervals of the macro averages by a bootstrap that draws patients, since images of one patient are alike.

Source: C. Field and A. Welsh, "Bootstrapping clustered data", J. R. Stat. Soc. B 69 (2007).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.eval.averages import weighted_mean
from chextriev.eval.metrics import HIT_RATE, Counts, FindingScores, Values, macro_mean
from chextriev.eval.protocol import IntervalSpec, Protocol

BLOCK_CELLS = 4_000_000
"""Cells of the [draws, patients] weights held at once (32 MB)."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bound: of the macro averages [2, metrics, ks] and of each finding [2, C, metrics, ks].

    NaN where no draw has a query.
    """

    macro: Values
    findings: Values


def intervals(scores: Sequence[FindingScores], clusters: Counts, protocol: Protocol) -> Bounds:
    """The intervals of all averages, from the same draws.

    clusters: [Q] int64, patient of each query, any integers. A finding that a draw holds no query of keeps its mean of
    the whole sample there: left out, it would make draws without a rare and hard finding look better than the average
    they belong to. The same seed gives the same interval.
    """
    _, patients = np.unique(clusters, return_inverse=True)
    sums, counts = _patient_sums(scores, patients, protocol.keep_zero_hit_queries)
    whole = _means(np.ones((1, len(sums))), sums, counts)
    if protocol.empty_findings_are_zero:
        whole[:, [len(score.positions) == 0 for score in scores]] = 0.0
    means = (_means(weights, sums, counts) for weights in _weights(len(sums), protocol.interval))
    drawn = np.concatenate([np.where(np.isnan(mean), whole, mean) for mean in means])  # [draws, C, metrics, ks]
    level, strict = protocol.interval.level, protocol.empty_findings_are_zero
    macro = weighted_mean(drawn, np.ones(len(scores)), strict=strict)
    findings = [_percentiles(drawn[:, column], level) for column in range(len(scores))]
    return Bounds(_percentiles(macro, level), np.stack(findings, axis=1))


def macro_change(
    before: Sequence[FindingScores], after: Sequence[FindingScores], clusters: Counts, protocol: Protocol
) -> tuple[Values, Values]:
    """Change of each macro average from one system to another on the same queries, and its interval.

    Returns the change [metrics, ks] and its lower and upper bound [2, metrics, ks] float64. Every draw of patients is
    scored by both systems, so that what makes a draw easy or hard cancels out (a paired bootstrap).
    """
    _, patients = np.unique(clusters, return_inverse=True)
    both = [_patient_sums(scores, patients, protocol.keep_zero_hit_queries) for scores in (before, after)]
    whole = [_means(np.ones((1, len(sums))), sums, counts) for sums, counts in both]
    first, second = (macro_mean(means)[1][0] for means in whole)
    draws = []
    for weights in _weights(len(both[0][0]), protocol.interval):
        drawn = [_means(weights, sums, counts) for sums, counts in both]
        ours = [macro_mean(np.where(np.isnan(mean), all_, mean))[1] for mean, all_ in zip(drawn, whole, strict=True)]
        draws.append(ours[1] - ours[0])
    return second - first, _percentiles(np.concatenate(draws), protocol.interval.level)


def mean_intervals(values: Values, clusters: npt.NDArray[Any], interval: IntervalSpec) -> Values:
    """Interval of the mean of each column of values [N, C] float64, patients drawn: lower and upper bound [2, C].

    clusters: [N], the patient of each row. Of differences between two systems the interval is a paired one.
    """
    _, patients = np.unique(clusters, return_inverse=True)
    sums = np.zeros((int(patients.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, patients, values)
    counts = np.bincount(patients).astype(np.float64)
    means = [(weights @ sums) / (weights @ counts)[:, None] for weights in _weights(len(sums), interval)]
    tails = [(1 - interval.level) / 2, (1 + interval.level) / 2]
    bounds: Values = np.quantile(np.concatenate(means), tails, axis=0)
    return bounds


def _patient_sums(scores: Sequence[FindingScores], patients: Counts, keep_zero_hits: bool) -> tuple[Values, Values]:
    """Per patient: sums [P, C, metrics, ks] and the queries they are over [P, C, ks]."""
    shape = (int(patients.max(initial=-1)) + 1, len(scores), *scores[0].values.shape[1:])
    sums = np.zeros(shape)
    counts = np.zeros((*shape[:2], shape[3]))
    for column, score in enumerate(scores):
        who = patients[score.positions]
        np.add.at(sums[:, column], who, score.values)
        np.add.at(counts[:, column], who, 1.0 if keep_zero_hits else score.values[:, HIT_RATE])
    return sums, counts


def _weights(patients: int, interval: IntervalSpec) -> Iterator[npt.NDArray[np.float64]]:
    """How often each patient is drawn, [draws in this block, P], until all draws are made."""
    generator = np.random.default_rng(interval.seed)
    block = max(1, BLOCK_CELLS // max(patients, 1))
    for start in range(0, interval.draws, block):
        draws = min(block, interval.draws - start)
        drawn = generator.integers(patients, size=(draws, patients)) + patients * np.arange(draws)[:, None]
        yield np.bincount(drawn.ravel(), minlength=draws * patients).reshape(draws, patients).astype(np.float64)


def _means(weights: npt.NDArray[np.float64], sums: Values, counts: Values) -> Values:
    """Means of each draw, [draws, C, metrics, ks]; NaN where it holds no query of the finding."""
    drawn_sums = np.tensordot(weights, sums, axes=1)
    drawn_counts = np.tensordot(weights, counts, axes=1)[:, :, None]
    means = np.full_like(drawn_sums, np.nan)
    np.divide(drawn_sums, drawn_counts, out=means, where=drawn_counts > 0)
    return means


def _percentiles(drawn: Values, level: float) -> Values:
    """[2, metrics, ks] over the draws where the average is defined."""
    bounds = np.full((2, *drawn.shape[1:]), np.nan)
    tails = [(1 - level) / 2, (1 + level) / 2]
    for column in range(drawn.shape[2]):
        defined = ~np.isnan(drawn[:, 0, column])
        if defined.any():
            bounds[:, :, column] = np.quantile(drawn[defined, :, column], tails, axis=0)
    return bounds
