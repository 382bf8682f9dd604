"""Engines of vectors behind one interface, radiographs to put into them, and by numpy what they must find."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from secrets import token_hex

import numpy as np

from chextriev.index import growth
from chextriev.index.build import build_index
from chextriev.index.exact import unit_rows
from chextriev.index.milvus import build_collection, drop_collection, open_collection
from chextriev.index.search import open_index
from chextriev.index.spec import IndexSpec
from tests.index.conftest import embedding_set

MILVUS = "CHEXTRIEV_MILVUS_URI"
SERVER = os.environ.get(MILVUS)
N, WIDTH = 400, 32
K = 10
RECALL = 0.95


class OnDisk:
    """An index of Faiss in a directory."""

    def __init__(self, embeddings, spec, folder):
        self.directory = folder / "index"
        build_index(embeddings, self.directory, spec=spec)
        self.index = open_index(self.directory)

    def add(self, embeddings):
        growth.add(self.directory, embeddings)
        self.index = self.index.reloaded()

    def remove(self, ids):
        growth.remove(self.directory, ids)
        self.index = self.index.reloaded()

    def close(self):
        pass


class InMilvus:
    """A collection of milvus-lite, or of the server at an address."""

    def __init__(self, embeddings, spec, folder, uri=None):
        self.uri, self.name = uri or str(folder / "milvus.db"), f"congruence_{token_hex(4)}"
        build_collection(embeddings, self.uri, self.name, spec)
        self.index = open_collection(self.uri, self.name)
        self.add, self.remove = self.index.add, self.index.remove

    def close(self):
        drop_collection(self.uri, self.name)
        self.index.close()


@dataclass(frozen=True)
class Engine:
    """One way to hold vectors. exact: it compares with every vector. can_be_exact: it does where a search asks."""

    factory: str
    place: Callable
    exact: bool = False
    can_be_exact: bool = True
    lists: bool = False
    tolerance: float = 1e-6
    server: bool = False

    def open(self, embeddings, folder):
        spec = IndexSpec(self.factory, nprobe=64)
        return self.place(embeddings, spec, folder, *([SERVER] if self.server else []))


ENGINES = {
    "faiss-flat": Engine("Flat", OnDisk, exact=True),
    "faiss-ivf-pq": Engine("IVF8,PQ16x4fs,Refine(SQfp16)", OnDisk, lists=True, tolerance=1e-3),
    "milvus-lite-flat": Engine("Flat", InMilvus, exact=True),
    "milvus-lite-ivf": Engine("IVF8,Flat", InMilvus, lists=True),
    "milvus-lite-hnsw": Engine("HNSW16", InMilvus, can_be_exact=False),
    "milvus-flat": Engine("Flat", InMilvus, exact=True, server=True),
    "milvus-hnsw": Engine("HNSW16", InMilvus, can_be_exact=False, server=True),
    "milvus-ivf-pq": Engine("IVF8,PQ16x4,RFlat", InMilvus, can_be_exact=False, lists=True, server=True),
}
TAKING_PART = [name for name, engine in ENGINES.items() if SERVER or not engine.server]


def made_up():
    """400 images of 134 patients; some vectors equal, ids not in the order of rows, and columns of every type."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((N, WIDTH)).astype(np.float32)
    vectors[50:62] = vectors[50]
    made = embedding_set(vectors)
    order = rng.permutation(N)
    metadata = {
        **made.metadata,
        "ward": np.array(["A'1", 'B"2', None, "C\\3", "d or 1 == 1"], object)[rng.integers(0, 5, N)],
        "dose uGy": rng.integers(0, 8, N) / 2,
        "portable": rng.integers(0, 2, N).astype(bool),
        "year": rng.integers(2011, 2017, N),
    }
    metadata["dose uGy"][::7] = np.nan
    return replace(made, image_id=made.image_id[order], metadata=metadata)


def queries_near(embeddings, rows):
    noise = np.random.default_rng(5).standard_normal((len(rows), WIDTH)).astype(np.float32)
    return embeddings.vectors[rows] + np.float32(0.3) * noise


def nearest(embeddings, query, k, allowed=None):
    """Rows and cosines of the k nearest, by cosine, then by id."""
    unit = unit_rows(embeddings.vectors, "vector").astype(np.float64)
    cosine = (unit * unit_rows(query[None], "query").astype(np.float64)).sum(axis=1).astype(np.float32)
    if allowed is not None:
        cosine = np.where(allowed, cosine, -np.inf)
    rows = np.lexsort((embeddings.image_id.astype(str), -cosine))[:k]
    return rows[np.isfinite(cosine[rows])], cosine


def check(engine, embeddings, query, hits, k, allowed=None):
    """What any engine must hold to; returns the share of the right hits that it found."""
    rows, cosine = nearest(embeddings, query, k, allowed)
    row_of = {image: row for row, image in enumerate(embeddings.image_id.tolist())}
    found = [row_of[hit.image_id] for hit in hits]
    assert len(set(found)) == len(found) <= k
    assert allowed is None or allowed[found].all()
    np.testing.assert_allclose([hit.score for hit in hits], cosine[found], atol=engine.tolerance)
    assert [(-hit.score, hit.image_id) for hit in hits] == sorted((-hit.score, hit.image_id) for hit in hits)
    if engine.exact:
        assert found == rows.tolist()
    return len(set(found) & set(rows.tolist())) / max(1, len(rows))
