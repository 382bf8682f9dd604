"""Ranked lists become tables of numbers, each with its chance: the part that `eval run` and `eval lists` share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from chextriev.eval.averages import Means, average
from chextriev.eval.bootstrap import Bounds
from chextriev.eval.candidates import Candidates
from chextriev.eval.chance import expected_scores
from chextriev.eval.evaluation import Averages, Graded, Interval, Measures, ScoresAtK
from chextriev.eval.graded import GradedScores, ndcg_jaccard
from chextriev.eval.metrics import METRICS, Counts, FindingScores, Values, score_queries
from chextriev.eval.protocol import Protocol


@dataclass(frozen=True, eq=False)
class ListScores:
    """What was measured of every query.

    measured, chance: one a finding, of the queries that have it. graded: of all queries. n_candidates: [Q] int64.
    relevant: [Q, C] int64, hits among them. positives: [C] int64, rows of the gallery that have the finding.
    """

    measured: tuple[FindingScores, ...]
    chance: tuple[FindingScores, ...]
    graded: GradedScores
    n_candidates: Counts
    relevant: Counts
    positives: Counts


def score_lists(
    neighbours: Counts, labels: npt.NDArray[np.int8], candidates: Candidates, ks: Sequence[int]
) -> ListScores:
    """Score the lists [Q, K] of the queries of `candidates`; labels: [G, C] int8."""
    n_candidates, relevant = candidates.count(labels)
    measured = score_queries(neighbours, labels, queries=candidates.queries, relevant=relevant, ks=ks)
    return ListScores(
        measured=tuple(measured),
        chance=tuple(expected_scores(measured, n_candidates, relevant, ks)),
        graded=ndcg_jaccard(neighbours, labels, candidates, ks),
        n_candidates=n_candidates,
        relevant=relevant,
        positives=np.count_nonzero(labels == 1, axis=0),
    )


def tables(
    scores: ListScores, protocol: Protocol, names: Sequence[str], bounds: Bounds | None = None
) -> dict[int, ScoresAtK]:
    """All averages at each k; names: of the findings [C].

    The n of chance are the queries whose lists it is the expectation of, dropped or not.
    """
    positives = scores.positives if protocol.empty_findings_are_zero else None
    measured, chance = (average(part, protocol, positives) for part in (scores.measured, scores.chance))
    asked = np.array([len(part.positions) for part in scores.chance])[:, None]
    chance = replace(chance, counts=np.broadcast_to(asked, chance.counts.shape))
    return {
        k: ScoresAtK(
            measured=_averages(measured, column, names),
            chance=_averages(chance, column, names),
            graded=_graded(scores.graded, column),
            interval={} if bounds is None else _intervals(bounds.macro[:, :, column]),
            finding_interval={} if bounds is None else _by_finding(bounds.findings[..., column], names),
        )
        for column, k in enumerate(protocol.ks)
    }


def _averages(means: Means, column: int, names: Sequence[str]) -> Averages:
    counts, n = means.counts[:, column], int(means.counts[:, column].sum())
    return Averages(
        per_finding={
            name: _measures(int(counts[row]), means.findings[row, :, column]) for row, name in enumerate(names)
        },
        macro=_measures(n, means.macro[:, column]),
        weighted=_measures(n, means.weighted[:, column]),
        micro=_measures(n, means.micro[:, column]),
        n_classes=int(means.classes[column]),
    )


def _measures(count: int, values: Values) -> Measures:
    """values: [metrics], NaN where undefined."""
    return Measures(count, **{name: _plain(value) for name, value in zip(METRICS, values, strict=True)})


def _graded(scores: GradedScores, column: int) -> Graded:
    n = len(scores.measured)
    means = (float(part[:, column].mean()) if n else None for part in (scores.measured, scores.chance))
    return Graded(n, *means)


def _by_finding(bounds: Values, names: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """bounds: [2, C, metrics]."""
    return {name: _intervals(bounds[:, row]) for row, name in enumerate(names)}


def _intervals(bounds: Values) -> dict[str, Interval]:
    """bounds: [2, metrics]."""
    return {
        name: None if np.isnan(low) else (float(low), float(high))
        for name, (low, high) in zip(METRICS, bounds.T, strict=True)
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
