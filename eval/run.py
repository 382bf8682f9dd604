"""Evaluate embeddings: search a split with itself, score the lists, set chance and an interval beside each number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import CountMismatch, EmptySplit, InvalidValue
from chextriev.eval.bootstrap import intervals
from chextriev.eval.candidates import Candidates
from chextriev.eval.evaluation import Evaluation, RankedLists, Scoring
from chextriev.eval.metrics import Counts, FindingScores
from chextriev.eval.protocol import DEFAULT, Protocol
from chextriev.eval.relevance import Relevance, image_findings
from chextriev.eval.score_tables import ListScores, score_lists, tables
from chextriev.eval.scored import ScoredQueries
from chextriev.eval.strata import stratify, withheld
from chextriev.eval.view_baseline import ViewBaseline, count_views, view_baseline
from chextriev.index.exact import exact_search

ALL = "all"


@dataclass(frozen=True, eq=False)
class _Population:
    """Radiographs that are searched with themselves.

    queries: [Q] rows with at least one finding. patients: [G] int64 codes. groups: [G] int64, a row and the rows of
    equal value are not its candidates; None where every row is one.
    """

    vectors: npt.NDArray[np.float32]
    relevance: Relevance
    queries: Counts
    patients: Counts
    groups: Counts | None


@dataclass(frozen=True, eq=False)
class _Found:
    """Lists [Q, K] and what they are worth."""

    neighbours: Counts
    similarities: npt.NDArray[np.float32]
    candidates: Candidates
    scores: ListScores


def evaluate(
    embeddings: EmbeddingSet,
    protocol: Protocol = DEFAULT,
    *,
    split: str = "test",
    relevance: Relevance | None = None,
    name: str = "",
) -> Evaluation:
    """Measure retrieval by exact cosine search, with the split as queries and as gallery.

    split: "all" is every radiograph, whatever its split. relevance: labels of all these embeddings, row by row; without
    it their nine findings. name: of what is evaluated. Raises EmptySplit if the split holds no radiograph, InvalidValue
    if none has a finding, or where a vector is not finite or zero or a patient id is missing (named by image id).
    """
    chosen = relevance or image_findings(embeddings)
    part, chosen = _of_split(embeddings, chosen, split)
    check_vectors(part)
    whole = _population(part, chosen, protocol)
    if not len(whole.queries):
        raise InvalidValue(f"no radiograph of split {split!r} is known to have a finding; there is nothing to ask for")
    found = _search(whole, protocol)
    ids = part.image_id.astype(str).astype(object)
    scored = _scored_queries(part, whole, found, protocol, name)
    by_view = _by_view(part, chosen)
    return Evaluation(
        protocol=protocol,
        split=split,
        overall=_scoring(whole, found, protocol),
        views={view: _score_view(*_rows(part, chosen, rows), protocol) for view, rows in by_view.shown.items()},
        lists=RankedLists(ids[whole.queries], _ids(ids, found.neighbours), found.similarities),
        scored=scored,
        parents=parents_of(embeddings, chosen),
        views_withheld=by_view.withheld,
        strata=stratify(scored, _columns(part, chosen, whole.queries), protocol),
        view_baseline=_view_baseline(part, whole, found, scored, protocol) if by_view.shown else None,
    )


def parents_of(embeddings: EmbeddingSet, relevance: Relevance | None = None) -> dict[str, str]:
    """Digests of what an evaluation is made of, by name."""
    labels = {"labels": relevance.digest} if relevance is not None and relevance.digest else {}
    return {"embeddings": embeddings.digest, "encoder": embeddings.encoder_digest, **labels}


def score_split(
    embeddings: EmbeddingSet, protocol: Protocol = DEFAULT
) -> tuple[list[FindingScores], npt.NDArray[np.int64]]:
    """The metrics of every query of these radiographs searched with themselves, and the patient of each query [Q]."""
    check_vectors(embeddings)
    population = _population(embeddings, image_findings(embeddings), protocol)
    return list(_search(population, protocol).scores.measured), population.patients[population.queries]


def check_vectors(embeddings: EmbeddingSet) -> None:
    """Refuse vectors that have no cosine: not finite, or zero."""
    finite = np.all(np.isfinite(embeddings.vectors), axis=1)  # [N] bool
    usable: npt.NDArray[np.bool_] = finite & np.any(embeddings.vectors != 0, axis=1)
    if not usable.all():
        row = int(np.flatnonzero(~usable)[0])
        what = "is zero" if finite[row] else "holds values that are not finite"
        raise InvalidValue(
            f"the embedding of image {str(embeddings.image_id[row])!r} {what} ({np.count_nonzero(~usable)} of"
            f" {len(embeddings)} such); cosine needs finite vectors that are not zero: embed again or leave it out"
        )


def _of_split(embeddings: EmbeddingSet, relevance: Relevance, split: str) -> tuple[EmbeddingSet, Relevance]:
    if len(relevance.labels) != len(embeddings):
        raise CountMismatch(f"labels of {len(relevance.labels)} radiographs beside {len(embeddings)} embeddings")
    splits = embeddings.metadata.get("split")
    if split != ALL and splits is None:
        raise InvalidValue(f"the embeddings do not say which radiographs are of split {split!r}; choose split {ALL!r}")
    rows = np.arange(len(embeddings)) if split == ALL or splits is None else np.flatnonzero(splits == split)
    if not len(rows):
        raise EmptySplit(f"the embeddings have no radiograph in split {split!r}; {ALL!r} is every radiograph")
    return embeddings.take(rows), relevance.take(rows)


def _population(part: EmbeddingSet, relevance: Relevance, protocol: Protocol) -> _Population:
    patients = _patient_codes(part)
    alone = np.arange(len(part)) if protocol.exclude_self else None
    groups = patients if protocol.exclude_same_patient else alone
    queries = np.flatnonzero((relevance.labels == 1).any(axis=1))
    return _Population(part.vectors, relevance, queries, patients, groups)


def _patient_codes(part: EmbeddingSet) -> Counts:
    """[G] int64, equal for the images of one patient."""
    missing = [row for row, patient in enumerate(part.patient_id) if not isinstance(patient, str) or not patient]
    if missing:
        raise InvalidValue(
            f"image {str(part.image_id[missing[0]])!r} has no patient_id ({len(missing)} of {len(part)} such); it is"
            " needed to leave out images of the same patient: give each patient an id, or each image one of its own"
        )
    codes: Counts = np.unique(part.patient_id.astype(str), return_inverse=True)[1]
    return codes


def _search(population: _Population, protocol: Protocol) -> _Found:
    queries, groups, vectors = population.queries, population.groups, population.vectors
    own = None if groups is None else (groups[queries], groups)
    more = int(protocol.drop_first)
    similarities, rows = exact_search(vectors[queries], vectors, max(protocol.ks) + more, groups=own)
    candidates = Candidates(queries, groups, dropped=rows[:, 0] if protocol.drop_first else None)
    rows, similarities = rows[:, more:], similarities[:, more:]
    scores = score_lists(rows, population.relevance.labels, candidates, protocol.ks)
    return _Found(rows, similarities, candidates, scores)


def _scoring(population: _Population, found: _Found, protocol: Protocol) -> Scoring:
    patients = population.patients[population.queries]
    bounds = intervals(found.scores.measured, patients, protocol)
    return Scoring(
        n_queries=len(population.queries),
        n_gallery=len(population.vectors),
        n_patients=len(np.unique(patients)),
        n_short=int(np.count_nonzero(found.scores.n_candidates < max(protocol.ks))),
        at_k=tables(found.scores, protocol, population.relevance.names, bounds),
    )


def _score_view(part: EmbeddingSet, relevance: Relevance, protocol: Protocol) -> Scoring:
    population = _population(part, relevance, protocol)
    return _scoring(population, _search(population, protocol), protocol)


def _rows(part: EmbeddingSet, relevance: Relevance, rows: Counts) -> tuple[EmbeddingSet, Relevance]:
    return part.take(rows), relevance.take(rows)


@dataclass(frozen=True, eq=False)
class _ByView:
    """Rows of each view that has queries enough; of the others, what stands for the number of their queries."""

    shown: dict[str, Counts]
    withheld: dict[str, str]


def _by_view(part: EmbeddingSet, relevance: Relevance) -> _ByView:
    views = part.metadata.get("view", np.zeros(0, object))
    asked = (relevance.labels == 1).any(axis=1)
    rows = {view: np.flatnonzero(views == view) for view in sorted({view for view in views if isinstance(view, str)})}
    sizes = {view: int(np.count_nonzero(asked[each])) for view, each in rows.items()}
    hidden = withheld({view: size for view, size in sizes.items() if size})
    return _ByView({view: rows[view] for view, size in sizes.items() if size and view not in hidden}, hidden)


def _columns(part: EmbeddingSet, relevance: Relevance, queries: Counts) -> dict[str, npt.NDArray[Any]]:
    """What `stratify` groups by, of the queries."""
    columns = {name: part.metadata[name][queries] for name in ("view", "sex", "age") if name in part.metadata}
    return columns if relevance.regions is None else {**columns, "region_findings": relevance.regions[queries]}


def _view_baseline(
    part: EmbeddingSet, whole: _Population, found: _Found, scored: ScoredQueries, protocol: Protocol
) -> ViewBaseline:
    counts = count_views(whole.relevance.labels, part.metadata["view"], found.candidates)
    return view_baseline(scored, counts, protocol)


def _scored_queries(
    part: EmbeddingSet, whole: _Population, found: _Found, protocol: Protocol, name: str
) -> ScoredQueries:
    return ScoredQueries(
        name=name,
        query_ids=part.image_id.astype(str).astype(object)[whole.queries],
        patients=part.patient_id[whole.queries],
        findings=whole.relevance.names,
        ks=protocol.ks,
        measured=found.scores.measured,
        chance=found.scores.chance,
        n_candidates=found.scores.n_candidates,
        relevant=found.scores.relevant,
    )


def _ids(ids: npt.NDArray[np.object_], rows: Counts) -> npt.NDArray[np.object_]:
    """[Q, K] image ids; None where a list has ended."""
    found = ids[rows]
    found[rows < 0] = None
    return np.asarray(found)
