"""The sizes that docs/scaling.md states are those that are computed, and these those of real indexes."""

import sys
from pathlib import Path

import numpy as np

from chextriev.embedding_set import write_ids
from chextriev.index.region_codes import write_region_codes
from chextriev.index.sizes import IDS_FILE, NODES_GB, layouts, parts, scaling_tables
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import train_index
from tests.index.conftest import embedding_set

DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_document_has_the_tables_as_computed():
    text = DOCUMENT.read_text()
    assert scaling_tables() in text
    here = layouts()[0]
    assert f"take {here.memory:,} bytes a radiograph" in text
    for node in NODES_GB:
        assert f"{here.most(node) / 1e6:,.0f} million on a node of {node} GB" in text
        assert here.nodes(here.most(node), node) == 1
        assert here.nodes(here.most(node) + 1000, node) == 2


def test_the_parts_are_those_of_a_real_index(tmp_path):
    width, n = 64, 1_000
    vector, half, code, graph = (part.bytes for part in parts(width)[:4])
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, width)).astype(np.float32)

    def grows_by(factory):
        sizes = []
        for count in (n // 2, n):
            path = tmp_path / "index.faiss"
            train_index(vectors[:count], IndexSpec(factory)).save(path)
            sizes.append(path.stat().st_size)
        return (sizes[1] - sizes[0]) / (n - n // 2)

    assert grows_by("Flat") == vector
    assert grows_by("SQfp16") == half
    np.testing.assert_allclose(grows_by("IVF8,PQ16x4np"), code, rtol=0.01)
    np.testing.assert_allclose(grows_by("HNSW32"), vector + graph, rtol=0.05)


def test_region_codes_are_as_long_as_is_said(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((300, 18, 16)).astype(np.float32)
    write_region_codes(vectors, tmp_path, parts=1)
    assert np.load(tmp_path / "region_codes.npy", mmap_mode="r").nbytes == 300 * parts(16)[4].bytes


def test_ids_take_about_as_much_as_is_said(tmp_path):
    made = embedding_set(np.zeros((5_000, 0), np.float32))
    write_ids(made, tmp_path / "ids.parquet")
    assert (tmp_path / "ids.parquet").stat().st_size / 5_000 < IDS_FILE
    content = 44 + 9 + 9 + 2 + 1 + 5 + 2 + 9  # image, study, patient, view, sex, split, age, findings
    assert sys.getsizeof("x" * 44) + 2 * sys.getsizeof("x" * 9) + content < parts()[5].bytes
