"""Radiographs that an index may hold, and the index that is built of some of them at once."""

from dataclasses import dataclass, replace

import numpy as np

from chextriev.anatomy import N_FINDINGS
from chextriev.embedding_set import EmbeddingSet
from chextriev.encoder import Embeddings
from chextriev.index.build import BuildSettings, build_index
from chextriev.index.search import open_index
from chextriev.index.spec import IndexSpec

ENCODER = "e" * 64
WIDTH, COUNT = 32, 96
SPECS = {
    "flat": IndexSpec("Flat"),
    "half": IndexSpec("SQfp16"),
    "graph": IndexSpec("HNSW8", ef_search=500),
    "lists": IndexSpec("IVF4,PQ8x4fs,Refine(SQfp16)", nprobe=4, rerank=200),
    "codes": IndexSpec("BFlat", metric="hamming"),
    "code lists": IndexSpec("BIVF4", metric="hamming", nprobe=4),
}


@dataclass(frozen=True, eq=False)
class Universe:
    """All radiographs there are; some vectors stand twice, so that ties must be broken by id."""

    everything: EmbeddingSet

    def of(self, rows) -> EmbeddingSet:
        return replace(self.everything.take(np.asarray(rows, np.int64)), digest="")

    def ids(self, rows):
        return self.everything.image_id[np.asarray(rows, np.int64)].tolist()


def universe(*, integers=False, regions=False, seed=0) -> Universe:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((COUNT, WIDTH)).astype(np.float32)
    vectors[1::8] = vectors[::8]
    numbers = rng.permutation(COUNT)
    ids = numbers + 2**53 + 1 if integers else np.array([f"image {number:03d}" for number in numbers], object)
    some = rng.integers(0, 3, (6, COUNT))
    metadata = {
        "view": np.array(["AP", "PA", None], object)[some[0]],
        "sex": np.array(["F", "M", None], object)[some[1]],
        "age": rng.integers(-1, 90, COUNT).astype(np.int16),
        "split": np.full(COUNT, "train", object),
        "hospital": np.array(["north", "south", "île"], object)[some[2]],
        "portable": some[3] == 1,
        "dose": np.where(some[4] == 0, np.nan, rng.random(COUNT)),
        "visit": some[5] + 2,
    }
    vectors_of_regions = rng.standard_normal((COUNT, 18, 16)).astype(np.float16) if regions else None
    return Universe(
        EmbeddingSet(
            vectors=vectors,
            image_id=ids,
            study_id=np.array([f"s{row // 2}" for row in range(COUNT)], object),
            patient_id=np.array([None if row % 11 == 0 else f"p{row // 3}" for row in range(COUNT)], object),
            findings=rng.integers(-1, 2, (COUNT, N_FINDINGS)).astype(np.int8),
            metadata=metadata,
            encoder_digest=ENCODER,
            region_vectors=vectors_of_regions,
        )
    )


def built(embeddings, out, spec=None):
    """The directory of an index of these radiographs."""
    build_index(embeddings, out, settings=BuildSettings(spec))
    return out


def queries(number=6, seed=9):
    return np.random.default_rng(seed).standard_normal((number, WIDTH)).astype(np.float32)


def encoded(embeddings) -> Embeddings:
    """These radiographs as an encoder would return them."""
    nothing, regions = np.zeros((len(embeddings), 0), np.float32), embeddings.region_vectors
    return Embeddings(
        image_ids=tuple(embeddings.image_id.tolist()),
        vectors=embeddings.vectors,
        finding_logits=nothing,
        region_logits=nothing,
        region_vectors=nothing if regions is None else np.asarray(regions[:], np.float32),
        encoder_digest=embeddings.encoder_digest,
    )


SEARCHES = (
    {"k": 5},
    {"k": 2 * COUNT},
    {"k": 5, "exact": True},
    {"k": 2 * COUNT, "exact": True},
    {"k": 7, "where": ["view = PA", "age >= 20"]},
    {"k": 7, "where": "hospital = north, île", "exact": True},
    {"k": 7, "where": ["portable = true", "visit != 3"]},
    {"k": 7, "where": "dose < 0.5"},
    {"k": 7, "where": "finding != pneumonia"},
    {"k": 7, "where": "hospital = nowhere"},
)


def answers(directory, asked):
    """All that the searches find, but the rows; the last ones leave out these radiographs and their patients."""
    index, known = open_index(directory), encoded(asked)
    found = [index.search(queries(), **options) for options in SEARCHES]
    found += [index.search(known, k, exact=exact) for k in (3, 2 * COUNT) for exact in (False, True)]
    return [[[replace(hit, row=-1) for hit in hits] for hits in lines] for lines in found]
