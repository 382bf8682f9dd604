"""The evaluation as it was published, a query at a time, beside the same in arrays; both by protocol `reference`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chextriev.eval.averages import average
from chextriev.eval.candidates import Candidates
from chextriev.eval.metrics import METRICS, Values, score_queries
from chextriev.eval.protocol import REFERENCE
from chextriev.index.exact import exact_search

PUBLISHED = ("ap_over_hits", "precision", "rr")
"""The metrics of the published tables."""

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]


def published_evaluation(vectors: Vectors, labels: Labels, ks: Sequence[int]) -> Values:
    """[C + 2, metrics, ks] float64: each finding, their mean, and their mean weighted by queries.

    As published, it is run anew for each k: all similarities of a query are computed and sorted, rank 0 is dropped, and
    for each finding of the query the hits are walked through.
    """
    return np.stack([_published_at([k], vectors, labels)[..., 0] for k in ks], axis=-1)


def published_evaluation_searched_once(vectors: Vectors, labels: Labels, ks: Sequence[int]) -> Values:
    """The same numbers from one pass over the queries: what the published evaluation could have saved."""
    return _published_at(ks, vectors, labels)


def evaluation_in_arrays(vectors: Vectors, labels: Labels, ks: Sequence[int]) -> Values:
    """The same numbers (of all seven metrics, these three) from one search and arrays."""
    queries = np.flatnonzero((labels == 1).any(axis=1))
    _, rows = exact_search(vectors[queries], vectors, max(ks) + 1)
    _, relevant = Candidates(queries, dropped=rows[:, 0]).count(labels)
    scores = score_queries(rows[:, 1:], labels, queries=queries, relevant=relevant, ks=ks)
    means = average(scores, REFERENCE, positives=np.count_nonzero(labels == 1, axis=0))
    chosen = [list(METRICS).index(name) for name in PUBLISHED]
    return np.concatenate([means.findings, means.macro[None], means.weighted[None]])[:, chosen]


def _published_at(ks: Sequence[int], vectors: Vectors, labels: Labels) -> Values:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    n_findings = labels.shape[1]
    lists: list[list[npt.NDArray[np.bool_]]] = [[] for _ in range(n_findings)]
    for query in range(len(unit)):
        ranked = np.argsort(-(unit @ unit[query]))[1 : max(ks) + 1]
        found = labels[ranked] == 1
        for finding in range(n_findings):
            if labels[query, finding] == 1:
                lists[finding].append(found[:, finding])
    values = np.zeros((n_findings, len(PUBLISHED), len(ks)))
    for finding, hits in enumerate(lists):
        for column, k in enumerate(ks):
            if hits:
                values[finding, :, column] = np.mean([_walk(line[:k]) for line in hits], axis=0)
    weights = [len(hits) for hits in lists]
    return np.concatenate([values, values.mean(axis=0)[None], np.average(values, axis=0, weights=weights)[None]])


def _walk(hits: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """AP over hits, precision and reciprocal rank of one list."""
    precisions: list[float] = []
    first = 0.0
    for place, hit in enumerate(hits):
        if hit:
            precisions.append((len(precisions) + 1) / (place + 1))
            first = first or 1 / (place + 1)
    return (float(np.mean(precisions)) if precisions else 0.0), len(precisions) / len(hits), first
