"""Evaluate embeddings: search a split with itself, score the lists, set chance and an interval beside each number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import InvalidValue
from chextriev.eval.bootstrap import macro_interval
from chextriev.eval.chance import expected_scores
from chextriev.eval.evaluation import Averages, Evaluation, Interval, Measures, RankedLists, ScoresAtK, Scoring
from chextriev.eval.metrics import METRICS, Counts, FindingScores, Values, class_means, macro_mean, score_queries
from chextriev.eval.protocol import DEFAULT, MIN_QUERIES, Protocol
from chextriev.index.exact import exact_search


@dataclass(frozen=True, eq=False)
class _Population:
    """Radiographs that are searched with themselves.

    queries: [Q] rows with at least one finding. patients: [G] int64. excluded: [G] int64, a row and the rows of equal
    value are not its candidates; None where every row is a candidate.
    """

    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int8]
    queries: Counts
    patients: Counts
    excluded: Counts | None


def evaluate(embeddings: EmbeddingSet, protocol: Protocol = DEFAULT, *, split: str = "test") -> Evaluation:
    """Measure retrieval by exact cosine search, with the split as queries and as gallery.

    Raises EmptySplit if it holds no radiograph, InvalidValue if none has a finding, or where a vector is not finite or
    zero or a patient id is missing (named by image id).
    """
    part = embeddings.of_split(split)
    check_vectors(part)
    whole = _population(part, protocol)
    if not len(whole.queries):
        raise InvalidValue(f"no radiograph of split {split!r} is known to have a finding; there is nothing to ask for")
    scores, neighbours = _search(whole, protocol)
    return Evaluation(
        protocol=protocol,
        split=split,
        overall=_score(whole, neighbours, protocol),
        views={view: _score_view(part.take(rows), protocol) for view, rows in _views(part)},
        lists=RankedLists(part.image_id[whole.queries], _ids(part, neighbours), scores),
        parents={"embeddings": embeddings.digest, "encoder": embeddings.encoder_digest},
    )


def score_split(
    embeddings: EmbeddingSet, protocol: Protocol = DEFAULT
) -> tuple[list[FindingScores], npt.NDArray[np.int64]]:
    """The metrics of every query of these radiographs searched with themselves, and the patient of each query [Q]."""
    check_vectors(embeddings)
    population = _population(embeddings, protocol)
    _, relevant = count_candidates(population.labels, population.queries, population.excluded)
    neighbours = _search(population, protocol)[1]
    scores = score_queries(neighbours, population.labels, queries=population.queries, relevant=relevant, ks=protocol.ks)
    return scores, population.patients[population.queries]


def check_vectors(embeddings: EmbeddingSet) -> None:
    """Refuse vectors that have no cosine: not finite, or zero."""
    finite = np.all(np.isfinite(embeddings.vectors), axis=1)  # [N] bool
    usable: npt.NDArray[np.bool_] = finite & np.any(embeddings.vectors != 0, axis=1)
    if not usable.all():
        row = int(np.flatnonzero(~usable)[0])
        what = "is zero" if finite[row] else "holds values that are not finite"
        raise InvalidValue(
            f"the embedding of image {embeddings.image_id[row]!r} {what} ({np.count_nonzero(~usable)} of"
            f" {len(embeddings)} such); cosine needs finite vectors that are not zero: embed again or leave it out"
        )


def count_candidates(labels: npt.NDArray[np.int8], queries: Counts, excluded: Counts | None) -> tuple[Counts, Counts]:
    """Candidates of each query [Q] and the hits among them [Q, C], after the exclusions.

    labels: [G, C] int8. excluded: [G] int64 codes 0, 1, ...; rows of the query's code are not its candidates.
    """
    positive = (labels == 1).astype(np.int64)
    everyone, relevant = np.full(len(queries), len(labels)), np.tile(positive.sum(axis=0), (len(queries), 1))
    if excluded is None:
        return everyone, relevant
    own = np.zeros((int(excluded.max(initial=-1)) + 1, labels.shape[1]), np.int64)
    np.add.at(own, excluded, positive)
    return everyone - np.bincount(excluded)[excluded[queries]], relevant - own[excluded[queries]]


def _population(part: EmbeddingSet, protocol: Protocol) -> _Population:
    patients = _patient_codes(part)
    alone = np.arange(len(part)) if protocol.exclude_self else None
    excluded = patients if protocol.exclude_same_patient else alone
    queries = np.flatnonzero((part.findings == 1).any(axis=1))
    return _Population(part.vectors, part.findings, queries, patients, excluded)


def _patient_codes(part: EmbeddingSet) -> Counts:
    """[G] int64, equal for the images of one patient."""
    missing = [row for row, patient in enumerate(part.patient_id) if not isinstance(patient, str) or not patient]
    if missing:
        raise InvalidValue(
            f"image {part.image_id[missing[0]]!r} has no patient_id ({len(missing)} of {len(part)} such); it is needed"
            " to leave out images of the same patient: give each patient an id, or each image one of its own"
        )
    codes: Counts = np.unique(part.patient_id.astype(str), return_inverse=True)[1]
    return codes


def _search(population: _Population, protocol: Protocol) -> tuple[npt.NDArray[np.float32], Counts]:
    queries, excluded = population.queries, population.excluded
    groups = None if excluded is None else (excluded[queries], excluded)
    return exact_search(population.vectors[queries], population.vectors, max(protocol.ks), groups=groups)


def _score(population: _Population, neighbours: Counts, protocol: Protocol) -> Scoring:
    queries, ks = population.queries, protocol.ks
    candidates, relevant = count_candidates(population.labels, queries, population.excluded)
    measured = score_queries(neighbours, population.labels, queries=queries, relevant=relevant, ks=ks)
    by_chance = expected_scores(measured, candidates, relevant, ks)
    patients = population.patients[queries]
    return Scoring(
        n_queries=len(queries),
        n_gallery=len(population.labels),
        n_patients=len(np.unique(patients)),
        n_short=int(np.count_nonzero(candidates < max(ks))),
        at_k=_tables(measured, by_chance, macro_interval(measured, patients, protocol), protocol),
    )


def _score_view(part: EmbeddingSet, protocol: Protocol) -> Scoring:
    population = _population(part, protocol)
    if len(population.queries) < MIN_QUERIES:
        n_patients = len(np.unique(population.patients[population.queries]))
        return Scoring(len(population.queries), len(part), n_patients, 0, {})
    return _score(population, _search(population, protocol)[1], protocol)


def _views(part: EmbeddingSet) -> Iterable[tuple[str, Counts]]:
    views = part.metadata["view"]
    return [(view, np.flatnonzero(views == view)) for view in sorted({view for view in views if isinstance(view, str)})]


def _tables(
    measured: Sequence[FindingScores], by_chance: Sequence[FindingScores], bounds: Values, protocol: Protocol
) -> dict[int, ScoresAtK]:
    intervals = [_interval(bounds[:, :, column]) for column in range(len(protocol.ks))]
    tables = zip(_averages(measured, protocol), _averages(by_chance, protocol), intervals, strict=True)
    return {k: ScoresAtK(*table) for k, table in zip(protocol.ks, tables, strict=True)}


def _averages(scores: Sequence[FindingScores], protocol: Protocol) -> list[Averages]:
    """One for each k."""
    counts, means = class_means(scores, keep_zero_hit_queries=protocol.keep_zero_hit_queries)
    classes, macro = macro_mean(means)
    return [
        Averages(
            per_finding={
                finding.label: _measures(counts[finding, column], means[finding, :, column]) for finding in Finding
            },
            macro=_measures(counts[:, column].sum(), macro[:, column]),
            n_classes=int(classes[column]),
        )
        for column in range(len(protocol.ks))
    ]


def _measures(count: np.int64, values: Values) -> Measures:
    """values: [metrics], NaN where undefined."""
    return Measures(int(count), **dict(zip(METRICS, _plain(values), strict=True)))


def _interval(bounds: Values) -> dict[str, Interval]:
    """bounds: [2, metrics]."""
    return {
        name: None if np.isnan(low) else (float(low), float(high))
        for name, (low, high) in zip(METRICS, bounds.T, strict=True)
    }


def _plain(values: Values) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _ids(part: EmbeddingSet, rows: Counts) -> npt.NDArray[np.object_]:
    """[Q, K] image ids; None where a list has ended."""
    ids = part.image_id.astype(object)[rows]
    ids[rows < 0] = None
    return ids
