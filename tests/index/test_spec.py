"""Which spec is chosen, and which are refused."""

import faiss
import numpy as np
import pytest

from chextriev.errors import InvalidSetting
from chextriev.index.spec import (
    EXACT_BELOW,
    Goal,
    IndexSpec,
    bytes_per_vector,
    choose_spec,
    is_graph,
    n_lists,
    resident_bytes,
    stages,
)


def test_exact_below_twenty_thousand_said_in_words():
    spec = choose_spec(EXACT_BELOW - 1, 1024)
    assert spec.is_exact
    assert "fewer than 20,000" in spec.explain(EXACT_BELOW - 1, 1024)


@pytest.mark.parametrize(
    ("n", "width", "factory", "nprobe"),
    [
        (20_000, 64, "IVF128,PQ16x4fs,Refine(SQfp16)", 32),
        (237_000, 1024, "IVF512,PQ256x4fs,Refine(SQfp16)", 64),
        (1_000_000, 1024, "IVF1024,PQ256x4fs,Refine(SQfp16)", 128),
        (50_000, 45, "IVF256,PQ15x4fs,Refine(SQfp16)", 32),
    ],
)
def test_lists_grow_with_the_square_root(n, width, factory, nprobe):
    spec = choose_spec(n, width)
    assert (spec.factory, spec.nprobe, spec.auto) == (factory, nprobe, True)
    assert factory in spec.explain(n, width)


def test_a_prime_width_takes_lists_without_product_codes_and_says_why():
    spec = choose_spec(50_000, 257)
    assert spec.factory == "IVF256,SQfp16"
    assert "width of 257 does not divide" in spec.explain(50_000, 257)


def test_a_given_spec_is_explained_as_asked():
    assert IndexSpec("Flat").explain(10, 4) == "exact search, as asked"


@pytest.mark.parametrize(
    "settings",
    [
        {"factory": ""},
        {"factory": "Flat; rm"},
        {"factory": "Flat", "metric": "l2"},
        {"factory": "Flat", "nprobe": 0},
        {"factory": "Flat", "rerank": 0},
    ],
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(InvalidSetting):
        IndexSpec(**settings)


def test_transformed_vectors_must_be_scored_again():
    with pytest.raises(InvalidSetting, match="no cosines; add ',RFlat'"):
        IndexSpec("PCA2,Flat")
    assert IndexSpec("PCA2,Flat,RFlat").factory == "PCA2,Flat,RFlat"


def test_every_neighbour_takes_exact_search_at_any_size():
    spec = choose_spec(1_000_000, 1024, Goal(recall=1.0))
    assert spec.is_exact
    assert "every neighbour was asked for" in spec.explain(1_000_000, 1024)


@pytest.mark.parametrize(
    ("n", "bytes_each", "factory"),
    [
        (1_000, 4096, "Flat"),
        (1_000, 2100, "SQfp16"),
        (1_000, 1100, "SQ8"),
        (1_000, 600, "SQ4"),
        (237_000, 2300, "IVF512,PQ256x4fs,Refine(SQfp16)"),
        (237_000, 1300, "IVF512,PQ256x4fs,Refine(SQ8)"),
        (237_000, 700, "IVF512,PQ256x4fs,Refine(SQ4)"),
    ],
)
def test_fewer_bits_where_the_memory_is_small(n, bytes_each, factory):
    spec = choose_spec(n, 1024, Goal(memory_bytes=n * bytes_each))
    assert spec.factory == factory
    assert resident_bytes(spec, n, 1024) <= n * bytes_each
    if factory not in ("Flat", "IVF512,PQ256x4fs,Refine(SQfp16)"):
        assert "the memory allowed" in spec.explain(n, 1024)


def test_a_memory_that_nothing_fits_is_refused_with_what_it_takes():
    with pytest.raises(InvalidSetting, match=r"memory_bytes = 1,000, but 1,000 .* at least 512,000 \(SQ4\)"):
        choose_spec(1_000, 1024, Goal(memory_bytes=1_000))
    with pytest.raises(InvalidSetting, match=r"at least 4,096,000 \(Flat\) for a recall of 1"):
        choose_spec(1_000, 1024, Goal(recall=1, memory_bytes=3_000_000))


@pytest.mark.parametrize(
    "settings", [{"recall": 0}, {"recall": 1.01}, {"recall": float("nan")}, {"k": 0}, {"memory_bytes": 0}]
)
def test_goals_outside_their_range_are_refused(settings):
    with pytest.raises(InvalidSetting, match="index goal"):
        Goal(**settings)


@pytest.mark.parametrize(
    "factory", ["Flat", "SQfp16", "SQ8", "SQ4", "PQ16x4np", "PQ8np", "IVF8,SQfp16", "IVF8,PQ16x4fs,Refine(SQfp16)"]
)
def test_bytes_per_vector_are_those_of_a_faiss_file(factory):
    sizes = []
    for n in (640, 1280):
        index = faiss.index_factory(64, factory, faiss.METRIC_INNER_PRODUCT)
        vectors = np.random.default_rng(0).standard_normal((1280, 64), np.float32)
        index.train(vectors)
        index.add(vectors[:n])
        sizes.append(len(faiss.serialize_index(index)))
    added = (sizes[1] - sizes[0]) / 640
    assert added == pytest.approx(bytes_per_vector(IndexSpec(factory), 64), rel=0.03)


def test_bytes_per_vector_of_a_graph():
    index = faiss.index_factory(64, "HNSW32", faiss.METRIC_INNER_PRODUCT)
    index.add(np.random.default_rng(0).standard_normal((2_000, 64), np.float32))
    assert len(faiss.serialize_index(index)) / 2_000 == pytest.approx(
        bytes_per_vector(IndexSpec("HNSW32"), 64), rel=0.03
    )
    assert bytes_per_vector(IndexSpec("HNSW32,SQ8"), 64) == bytes_per_vector(IndexSpec("HNSW32"), 64) - 3 * 64


def test_a_width_that_a_rotation_changes_counts_where_it_holds():
    assert bytes_per_vector(IndexSpec("OPQ16_32,IVF8,SQ8,RFlat"), 64) == 32 + 8 + 4 * 64


def test_parts_that_are_not_known_are_refused():
    with pytest.raises(InvalidSetting, match="LSH"):
        bytes_per_vector(IndexSpec("LSH"), 64)


def test_factory_strings_are_taken_apart():
    assert stages("IVF8,PQ16x4fs,Refine(SQfp16)") == ["IVF8,PQ16x4fs", "SQfp16"]
    assert stages("OPQ16,PQ16,RFlat") == ["OPQ16,PQ16", "Flat"]
    assert stages("Flat") == ["Flat"]
    assert [n_lists(each) for each in ("Flat", "OPQ16,IVF64,PQ16", "BIVF32", "IVF16_HNSW32,Flat")] == [0, 64, 32, 16]
    assert [is_graph(each) for each in ("HNSW32", "HNSW16,SQ8,RFlat", "IVF16_HNSW32,Flat")] == [True, True, False]
