"""Faiss indexes that Faiss reads, and that no search must see."""

import faiss
import numpy as np
import pytest

from chextriev.errors import DamagedArtifact
from chextriev.index.faiss_files import read_codes, read_vectors
from chextriev.index.search import open_index
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import train_index
from tests.index.growing import COUNT, WIDTH, built, queries, universe

VECTORS = universe().everything.vectors
SHAPE = (COUNT, WIDTH)


def made(factory):
    return train_index(VECTORS, IndexSpec(factory)).faiss_index


def reread(index, path):
    faiss.write_index(index, str(path))
    with path.open("rb") as stream:
        return read_vectors(stream, SHAPE)


@pytest.mark.parametrize(
    "factory",
    [
        *("Flat", "SQ8", "SQfp16", "PQ8x4fs", "PQ7x4fs", "PQ8x4np", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ8x4fs,RFlat"),
        *("IVF4_HNSW8,Flat", "HNSW8", "HNSW8_SQ8", "PCAR16,PQ8x4fs,Refine(SQfp16)", "PCAR16,IVF4,Flat,RFlat"),
    ],
)
def test_what_a_spec_makes_is_opened(factory, tmp_path):
    if factory == "PQ7x4fs":
        with pytest.raises(Exception, match="multiple of the number of subquantizers"):
            made(factory)
        return
    assert reread(made(factory), tmp_path / "index.faiss").ntotal == COUNT


def other_rows(index, rows):
    index.reset()
    index.add_with_ids(VECTORS, np.asarray(rows, np.int64))
    return index


def with_mode(index, **modes):
    for name, value in modes.items():
        setattr(index, name, value)
    return index


FORGED = {
    "a row past the end": (
        lambda: other_rows(made("IVF4,Flat"), np.arange(COUNT) + 1),
        "rows in list . that it has not",
    ),
    "a row before the first": (lambda: other_rows(made("IVF4,SQ8"), np.arange(COUNT) - 1), "that it has not"),
    "a row twice": (lambda: other_rows(made("IVF4,Flat"), np.maximum(np.arange(COUNT), 1)), "no list for row 0"),
    "another way of search": (lambda: with_mode(made("PQ8x4fs"), implem=12), "search mode implem = 12"),
    "other blocks": (lambda: with_mode(made("PQ8x4fs"), ntotal2=1 << 20), "blocks of 8 parts"),
    "codes sorted": (lambda: with_mode(made("PQ8x4np"), search_type=faiss.IndexPQ.ST_polysemous), "search_type"),
    "another type inside": (lambda: refined(numbered()), "a part of type IndexIDMap"),
    "refining again and again": (lambda: refined(made("Flat"), 5), "a part of type IndexRefineFlat,"),
}


def numbered():
    index = faiss.IndexIDMap(faiss.IndexFlatIP(WIDTH))
    index.add_with_ids(VECTORS, np.arange(COUNT))
    return index


def refined(index, times=1):
    for _ in range(times):
        index = faiss.IndexRefine(index, made("Flat"))
    return index


@pytest.mark.parametrize("name", FORGED)
def test_what_no_spec_makes_is_refused(name, tmp_path):
    make, words = FORGED[name]
    with pytest.raises(DamagedArtifact, match=words):
        reread(make(), tmp_path / "index.faiss")


def test_lists_of_hash_codes_name_every_row_once(tmp_path):
    index = faiss.index_binary_factory(WIDTH, "BIVF4")
    codes = np.packbits(VECTORS > 0, axis=1)
    index.train(codes)
    for first, words in ((0, None), (5, "rows in list . that it has not")):
        index.reset()
        index.add_with_ids(codes, np.arange(COUNT) + first)
        faiss.write_index_binary(index, str(tmp_path / "index.faiss"))
        with (tmp_path / "index.faiss").open("rb") as stream:
            if words is None:
                assert read_codes(stream, SHAPE).ntotal == COUNT
            else:
                with pytest.raises(DamagedArtifact, match=words):
                    read_codes(stream, SHAPE)


@pytest.mark.parametrize("factory", ["PQ8x4fs", "PQ8x4np", "PQ8x4fs,RFlat", "PCAR16,PQ8x4fs,RFlat"])
def test_product_codes_can_be_filtered(factory, tmp_path):
    """Faiss cannot be told which rows of these to find."""
    index = open_index(built(universe().everything, tmp_path / "index", IndexSpec(factory)))
    everything = index.search(queries(), COUNT, exact=True)
    found = index.search(queries(), 7, where="view = PA")
    assert found == [[hit for hit in hits if hit.view == "PA"][:7] for hits in everything]
