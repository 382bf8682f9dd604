"""Embeddings to an index: an artefact of kind "index" that answers for its own accuracy.

It holds `index.faiss`, `ids.parquet` (ids, metadata and findings by row) and a manifest whose recipe names the spec
and the digests of the encoder and the embeddings.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from chextriev.artifacts import Manifest, Recipe, digest_of, find_current, publishing, seal
from chextriev.embedding_set import IDS_FILE, EmbeddingSet, read_embeddings, write_ids
from chextriev.errors import DuplicateImage, EmptySplit
from chextriev.index.exact import Rows, exact_search
from chextriev.index.spec import IndexSpec, choose_spec
from chextriev.index.vector_index import VectorIndex, faiss, train_index

KIND = "index"
INDEX_FILE = "index.faiss"
HELD_OUT = 1_000
RECALL_AT = 10


def build_index(embeddings: EmbeddingSet | str | Path, out: str | Path, *, spec: IndexSpec | None = None) -> Manifest:
    """Build and publish an index of embeddings, given as such or by their directory.

    spec: how; chosen from number and width if None. facts: n, width, faiss_version, spec (in words) and, for an
    approximate index, `ann_recall@10` and how many queries measured it. The same embeddings give the same digest.
    """
    source = embeddings if isinstance(embeddings, EmbeddingSet) else read_embeddings(embeddings)
    _check(source)
    n, width = source.vectors.shape
    chosen = spec or choose_spec(n, width)
    recipe = index_recipe(source, chosen)
    with publishing(Path(out), KIND) as scratch:
        held_out = _held_out_rows(n)
        built = train_index(source.vectors, chosen, held_out=held_out)
        facts: dict[str, Any] = {"n": n, "width": width, "faiss_version": faiss.__version__}
        facts["spec"] = chosen.explain(n, width)
        if not chosen.is_exact and n > 1:
            facts |= measure_recall(built, source, held_out)
        built.save(scratch / INDEX_FILE)
        write_ids(source, scratch / IDS_FILE)
        return seal(scratch, KIND, recipe, facts)


def build_or_reuse(
    embeddings: EmbeddingSet, out: str | Path, *, spec: IndexSpec | None = None
) -> tuple[Manifest, bool]:
    """`build_index`, unless `out` holds the index of the same recipe already; and whether it did."""
    current = find_current(Path(out), KIND, index_recipe(embeddings, spec))
    return (current, True) if current is not None else (build_index(embeddings, out, spec=spec), False)


def index_recipe(embeddings: EmbeddingSet, spec: IndexSpec | None = None) -> Recipe:
    """What an index of these embeddings is made of; `artifacts.find_current` compares it to see what is unchanged."""
    n, width = embeddings.vectors.shape
    settings = {
        "spec": asdict(spec or choose_spec(n, width)),
        "n": n,
        "width": width,
        "images": digest_of(embeddings.image_id.tolist()),  # a subset keeps the digest of its whole set
    }
    parents = {"encoder": embeddings.encoder_digest, "embeddings": embeddings.digest or _content_digest(embeddings)}
    return Recipe(settings, parents)


def measure_recall(built: VectorIndex, embeddings: EmbeddingSet, rows: Rows) -> Mapping[str, Any]:
    """Share of the ten nearest by exact search that the index finds, over queries that it was not trained on.

    The queries are these rows of the embeddings; each is left out of its own results.
    """
    queries, everyone = embeddings.vectors[rows], np.arange(len(embeddings))
    k = min(RECALL_AT, len(embeddings) - 1)
    _, wanted = exact_search(queries, embeddings.vectors, k, groups=(rows, everyone))
    _, found = built.search(queries, k + 1)
    found = np.where(found == rows[:, None], -1, found)
    return {f"ann_recall@{RECALL_AT}": round(overlap(found, wanted), 4), "held_out_queries": len(rows)}


def overlap(found: Rows, wanted: Rows) -> float:
    """ann_recall: the mean share of each line of wanted [Q, k] that stands among the first k others of found [Q, >= k].

    A row -1 in found counts as nothing, and does not take a place.
    """
    order = np.argsort(found < 0, axis=1, kind="stable")
    first = np.take_along_axis(found, order, axis=1)[:, : wanted.shape[1]]
    return float((first[:, :, None] == wanted[:, None, :]).any(axis=1).mean())


def _held_out_rows(n: int) -> Rows:
    """At most a thousand rows, and at most a tenth of all."""
    return np.sort(np.random.default_rng(1).permutation(n)[: min(HELD_OUT, max(1, n // 10))])


def _check(embeddings: EmbeddingSet) -> None:
    if not len(embeddings):
        raise EmptySplit("the embeddings hold no radiograph; an index needs at least one")
    ids, counts = np.unique(embeddings.image_id.astype(str), return_counts=True)
    if counts.max() > 1:
        raise DuplicateImage(
            f"embeddings: image id {str(ids[counts.argmax()])!r} stands {counts.max()} times; ids are unique"
        )


def _content_digest(embeddings: EmbeddingSet) -> str:
    """Identity of a set that was never on disk."""
    content = hashlib.sha256(np.ascontiguousarray(embeddings.vectors).data)
    content.update(np.ascontiguousarray(embeddings.findings).data)
    for column in (embeddings.study_id, embeddings.patient_id, *embeddings.metadata.values()):
        content.update(digest_of([str(value) for value in column]).encode())
    return content.hexdigest()
