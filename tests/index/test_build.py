"""Embeddings to an index on disk: what it records, when it is the same, what it refuses."""

from dataclasses import replace

import faiss
import numpy as np
import pytest

from chextriev.artifacts import open_artifact
from chextriev.embedding_set import read_ids
from chextriev.errors import DuplicateImage, EmptySplit, InvalidSetting, InvalidValue, OutputExists
from chextriev.index.build import build_index, build_or_reuse
from chextriev.index.generation import KIND
from chextriev.index.search import find_generation
from chextriev.index.spec import IndexSpec
from chextriev.index.store import IndexStore
from chextriev.index.tune import overlap


def test_a_small_index_is_exact_and_records_its_parents(small, exact_dir):
    manifest = open_artifact(find_generation(exact_dir), KIND)
    assert dict(manifest.recipe.parents) == {"encoder": small.encoder_digest, "embeddings": small.digest}
    assert manifest.facts["spec"].startswith("exact search: 300 vectors are fewer than 20,000")
    assert (manifest.facts["n"], manifest.facts["width"]) == (300, 64)
    assert manifest.facts["faiss_version"] == faiss.__version__
    assert "ann_recall@10" not in manifest.facts
    ids = read_ids(find_generation(exact_dir) / "ids.parquet")
    assert ids["image_id"].tolist() == small.image_id.tolist()
    np.testing.assert_array_equal(ids["findings"], small.findings)


def test_a_directory_gives_what_the_set_gives(small_dir, exact_dir, tmp_path):
    assert build_index(small_dir, tmp_path / "index").digest == open_artifact(find_generation(exact_dir), KIND).digest


def test_a_large_index_is_approximate_and_measured(approximate_dir):
    facts = open_artifact(find_generation(approximate_dir), KIND).facts
    assert facts["spec"].startswith("IVF128,PQ16x4fs,Refine(SQfp16)")
    assert facts["held_out_queries"] == 1000
    assert facts["ann_recall@10"] >= 0.98  # what is asked unless somebody says otherwise


def test_the_same_embeddings_give_the_same_digest(large, approximate_dir, tmp_path):
    assert build_index(large, tmp_path / "again").digest == open_artifact(find_generation(approximate_dir), KIND).digest


def test_what_is_current_is_reused_and_what_changed_is_not(small, other_vectors, tmp_path):
    out = tmp_path / "index"
    first = build_index(small, out)
    assert build_or_reuse(small, out) == (first, True)
    for changed, spec in ((small, IndexSpec("HNSW16")), (small.take(np.arange(200)), None), (other_vectors, None)):
        manifest, reused = build_or_reuse(changed, out, spec=spec)
        assert not reused
        assert build_or_reuse(changed, out, spec=spec) == (manifest, True)
    assert [each.number for each in IndexStore(out).generations()] == [1, 2, 3, 4]


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16", "OPQ4_16,IVF4,PQ4x4fs,RFlat", "SQ8", "IVF8,SQ8"])
def test_other_specs_find_their_neighbours(small, tmp_path, factory):
    """300 unclustered vectors are hard for all of them: most neighbours, not all."""
    facts = build_index(small, tmp_path / "index", spec=IndexSpec(factory)).facts
    assert facts["spec"].endswith("as asked")
    assert facts["ann_recall@10"] > 0.6


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("Flaat", "could not parse"),
        ("IVF4096,Flat", "should be at least as large as number of clusters"),
        ("IVF8,PQ7x4fs", "multiple of the number of subquantizers"),
        ("IDMap,Flat", "not opened here"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_and_leaves_nothing(small, tmp_path, factory, words):
    with pytest.raises(InvalidSetting, match=words):
        build_index(small, tmp_path / "index", spec=IndexSpec(factory))
    assert list(tmp_path.iterdir()) == []


def test_unusable_embeddings_are_refused(small, tmp_path):
    spoilt = small.vectors.copy()
    spoilt[17, 3] = np.inf
    with pytest.raises(InvalidValue, match="vector 17 has a value that is not finite"):
        build_index(replace(small, vectors=spoilt), tmp_path / "index")
    with pytest.raises(EmptySplit):
        build_index(small.take(np.arange(0)), tmp_path / "index")
    with pytest.raises(DuplicateImage, match="'i00004' stands 2 times"):
        build_index(small.take(np.array([1, 4, 4])), tmp_path / "index")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "precious.txt").write_text("mine")
    with pytest.raises(OutputExists):
        build_index(small, tmp_path / "index")


def test_overlap_counts_shares_and_skips_holes():
    wanted = np.array([[1, 2], [3, 4]])
    assert overlap(np.array([[2, 1, 9], [-1, 3, 4]]), wanted) == 1.0
    assert overlap(np.array([[1, 9, 2], [-1, -1, 4]]), wanted) == 0.5
