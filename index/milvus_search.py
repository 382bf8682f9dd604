"""Search of a Milvus collection: Milvus proposes candidates, and their cosines are computed here, pair by pair.

So the scores are those of every other index, whatever codes Milvus compares, and equal vectors tie and stand by id.
It costs the vectors of the candidates: 4 KiB each at width 1,024.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chextriev.anatomy import Finding
from chextriev.embedding_set import METADATA
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.hits import Hit, ImageId
from chextriev.index.exact import PROPOSAL_MARGIN, Vectors, unit_rows
from chextriev.index.filters import PRESENT
from chextriev.index.milvus_filter import NOTHING, expression, one_of
from chextriev.index.milvus_schema import (
    ID,
    INTEGER,
    MAX_LISTS,
    METRIC,
    TEXT,
    VECTOR,
    Card,
    Column,
    candidates_per_hit,
    index_parameters,
    known,
)
from chextriev.index.milvus_server import Connection
from chextriev.index.retriever import Request, as_held

MOST = 16_384  # results that Milvus gives to a query, and rows to a question
MOST_HITS = 16_000  # of them, so that there is room for the images of the query's own patient
SLACK = 8
PAGE_BYTES = 2**24
ROW_BYTES = 1024  # of a candidate beside its vector, about
IDS_AT_ONCE = 1_000
_FINDINGS = Finding.labels()
_OWN_COLUMNS = {"study_id", "patient_id", *METADATA}


@dataclass(frozen=True, eq=False)
class Collection:
    """A collection, as every call needs it. consistency: how fresh an answer must be, in Milvus's words."""

    connection: Connection
    name: str
    card: Card
    consistency: str = "Strong"

    @property
    def columns(self) -> Mapping[str, Column]:
        """What filters may name."""
        return {"image_id": Column(ID, self.card.ids, 8 if self.card.ids == INTEGER else 0), **self.card.columns}

    def query(self, where: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        """These fields of the rows that meet an expression."""
        rows: list[dict[str, Any]] = self.connection.call(
            "query", self.name, filter=where, output_fields=list(fields), consistency_level=self.consistency
        )
        return rows

    def held(self, ids: Iterable[ImageId], fields: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """The rows of those of these ids that it holds."""
        text = self.card.ids == TEXT
        asked = [each for each in dict.fromkeys(ids) if isinstance(each, str) == text]
        for start in range(0, len(asked), IDS_AT_ONCE):
            yield from self.query(one_of(ID, asked[start : start + IDS_AT_ONCE]), [ID, *fields])


@dataclass(frozen=True, eq=False)
class _Query:
    """One query. vector: [D] float32 of length 1. image, patient: to leave out."""

    vector: Vectors
    image: ImageId | None
    patient: str | None


def search_collection(collection: Collection, request: Request) -> list[list[Hit]]:
    """The hits of each query of a checked request."""
    _check(collection.card, request)
    where = expression(request.filters, collection.columns)
    if where is NOTHING or not len(request):
        return [[] for _ in range(len(request))]
    queries = _queries(collection, request)
    found: dict[int, list[Hit]] = {}
    limit = request.k * candidates_per_hit(collection.card.spec) + SLACK
    while len(found) < len(queries):
        limit = min(MOST, limit)
        open_ones = [place for place in range(len(queries)) if place not in found]
        for place, page in _pages(collection, queries, open_ones, where, limit, request):
            hits = _hits(collection.card, queries[place], page, request.k, full=len(page) == limit < MOST)
            if hits is not None:
                found[place] = hits
        limit *= 4
    return [found[place] for place in range(len(queries))]


def _pages(
    collection: Collection, queries: Sequence[_Query], places: Sequence[int], where: str, limit: int, request: Request
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """What Milvus proposes to the queries at these places, so many at once that the answer stays small."""
    batch = max(1, PAGE_BYTES // (limit * (4 * collection.card.width + ROW_BYTES)))
    for start in range(0, len(places), batch):
        asked = places[start : start + batch]
        vectors = [queries[place].vector for place in asked]
        yield from zip(asked, _propose(collection, vectors, where, limit, request), strict=True)


def _check(card: Card, request: Request) -> None:
    if request.vectors.ndim != 2 or request.vectors.shape[1] != card.width:
        raise CountMismatch(
            f"queries have shape {list(request.vectors.shape)}; this collection needs [number, {card.width}]: "
            "use vectors of the encoder that it was built with"
        )
    if request.regions is not None or request.candidates is not None:
        raise InvalidSetting(
            "Milvus holds no region vectors: regions and candidates need an index on this machine, built by Faiss"
        )
    if request.k > MOST_HITS:
        raise InvalidSetting(f"k = {request.k}; with Milvus at most {MOST_HITS:,} results to a query can be had")
    kind, _ = index_parameters(card.spec, card.width, card.device)
    if request.nprobe is not None and "IVF" not in kind:
        raise InvalidSetting(f"nprobe = {request.nprobe}, but this collection ({kind}) has no lists; leave nprobe out")
    if request.exact and kind not in ("FLAT", "IVF_FLAT"):
        raise InvalidSetting(
            f"Milvus cannot search exactly with {kind}: it has one index to a collection; build another collection"
            " with 'Flat' or 'IVF1024,Flat', or search exactly with an index on this machine"
        )


def _queries(collection: Collection, request: Request) -> list[_Query]:
    """The queries, with the patients looked up that were not given."""
    images = as_held(request.image_ids, integers=collection.card.ids == INTEGER)
    lookup = [
        image
        for image, patient in zip(images, request.patient_ids, strict=True)
        if image is not None and patient is None
    ]
    field = collection.card.columns["patient_id"].field
    patient_of = {row[ID]: row[field] for row in collection.held(lookup, [field])}
    return [
        _Query(vector, image, str(patient if patient is not None else patient_of.get(image, "")) or None)
        for vector, image, patient in zip(unit_rows(request.vectors, "query"), images, request.patient_ids, strict=True)
    ]


def _propose(
    collection: Collection, vectors: Sequence[Vectors], where: str, limit: int, request: Request
) -> list[list[dict[str, Any]]]:
    """The rows that Milvus finds nearest to each vector, at most `limit`, nearest first."""
    lines = collection.connection.call(
        "search",
        collection.name,
        data=list(vectors),
        anns_field=VECTOR,
        limit=limit,
        filter=where,
        output_fields=collection.card.fields,
        search_params={"metric_type": METRIC, "params": _depth(collection.card, limit, request)},
        consistency_level=collection.consistency,
    )
    return [[{ID: hit["id"], **hit["entity"]} for hit in line] for line in lines]


def _depth(card: Card, limit: int, request: Request) -> dict[str, int]:
    """How deep Milvus looks: its own names of nprobe and ef_search."""
    kind, _ = index_parameters(card.spec, card.width, card.device)
    if "IVF" in kind:  # milvus-lite makes 128 lists whatever it is told, so "all lists" is more than it was told
        return {"nprobe": MAX_LISTS if request.exact else min(request.nprobe or card.spec.nprobe, MAX_LISTS)}
    return {"ef": max(card.spec.ef_search, limit)} if kind == "HNSW" else {}


def _hits(card: Card, query: _Query, page: list[dict[str, Any]], k: int, *, full: bool) -> list[Hit] | None:
    """The best of a page; None where it is full and what would follow may be as good."""
    scores, field = _scores(query, page), card.columns["patient_id"].field
    best = sorted(
        (-score, row[ID], place)
        for place, (score, row) in enumerate(zip(scores, page, strict=True))
        if row[ID] != query.image and (query.patient is None or row[field] != query.patient)
    )[:k]
    if full and (len(best) < k or scores[-1] >= -best[-1][0] - PROPOSAL_MARGIN):
        return None
    return [_hit(card, page[place], -score) for score, _, place in best]


def _scores(query: _Query, page: Sequence[Mapping[str, Any]]) -> list[float]:
    """The cosine of each row, as exact search computes it: in float64, rounded to float32."""
    if not page:
        return []
    vectors = np.array([row[VECTOR] for row in page], np.float32)  # [n, D] of length 1
    scores: list[float] = (query.vector.astype(np.float64) * vectors).sum(axis=1).astype(np.float32).tolist()
    return scores


def _hit(card: Card, row: Mapping[str, Any], score: float) -> Hit:
    column = {name: known(row[each.field], each) for name, each in card.columns.items()}
    age = column.get("age")
    return Hit(
        image_id=row[ID],
        study_id=column["study_id"],
        patient_id=column["patient_id"],
        score=score,
        findings=tuple(label for label, field in zip(_FINDINGS, card.findings, strict=True) if row[field] == PRESENT),
        view=column.get("view"),
        sex=column.get("sex"),
        age=int(age) if age is not None and age >= 0 else None,
        metadata={name: value for name, value in column.items() if name not in _OWN_COLUMNS},
    )
