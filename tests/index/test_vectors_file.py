"""Anybody's vectors: files of vectors, ids and metadata, and what is wrong with them."""

from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from chextriev.anatomy import Finding
from chextriev.errors import CountMismatch, DuplicateImage, InvalidSetting, InvalidValue, MissingFile, OtherEncoder
from chextriev.index.build import build_index
from chextriev.index.search import open_index
from chextriev.index.spec import HAMMING, IndexSpec
from chextriev.index.vectors_file import VectorFiles, read_source

ENCODER = "e" * 64


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32))
    return path


def table(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


def saved(path, array):
    np.save(path, array)
    return path


def test_vectors_alone_are_named_by_their_rows(vectors, tmp_path):
    source = read_source(VectorFiles(vectors))
    assert source.image_id.tolist() == list(range(6))
    assert source.encoder_digest == ""
    assert isinstance(source.vectors, np.memmap)
    build_index(source, tmp_path / "index")
    (hits,) = open_index(tmp_path / "index").search(source.vectors[2:3], 2, image_ids=[2])
    assert 2 not in [hit.image_id for hit in hits]
    assert len(hits) == 2


def test_ids_and_metadata_are_searched_by(vectors, tmp_path):
    ids = saved(tmp_path / "ids.npy", np.arange(6, dtype=np.int64) + 2**60)
    metadata = table(
        tmp_path / "table.parquet",
        patient_id=[11, 11, 12, 12, 13, None],
        age=[40, None, 20, 90, 50, 60],
        site=["a", "b", None, "a", "b", "a"],
        dose=[0.1, 0.2, None, 0.4, 0.5, 0.6],
        icu=[True, False, True, None, False, True],
        pneumonia=[1, 0, None, 1, -1, 1],
    )
    source = read_source(VectorFiles(vectors, ids, metadata, ENCODER))
    assert source.patient_id.tolist()[4:] == ["13", None]
    assert source.findings[:, Finding.PNEUMONIA].tolist() == [1, 0, -1, 1, -1, 1]
    build_index(source, tmp_path / "index")
    index = open_index(tmp_path / "index")

    def found(*where, **options):
        (hits,) = index.search(source.vectors[:1], 6, where=where, **options)
        return sorted(hit.image_id - 2**60 for hit in hits)

    assert found("site = a") == [0, 3, 5]
    assert found("site = a", "age > 50") == [3, 5]
    assert found("icu = true") == [0, 2, 5]
    assert found("icu != true") == [1, 4]
    assert found("dose < 0.5") == [0, 1, 3]
    assert found("finding = pneumonia", "site = a") == [0, 3, 5]
    assert found(f"image_id = {2**60 + 1}") == [1]
    assert found(patient_ids=["12"]) == [0, 1, 4, 5]
    (hits,) = index.search(source.vectors[2:3], 1)
    assert (hits[0].image_id, hits[0].metadata) == (2**60 + 2, {"site": None, "dose": None, "icu": True})
    index.check_encoder(ENCODER)


def test_an_index_of_vectors_of_nobody_takes_no_queries_of_an_encoder(vectors, tmp_path):
    build_index(read_source(VectorFiles(vectors)), tmp_path / "index")
    with pytest.raises(OtherEncoder, match="eeeeeeeeeeee; the index was built from vectors whose encoder nobody named"):
        open_index(tmp_path / "index").check_encoder(ENCODER)


def test_ids_are_read_from_text_and_from_the_metadata(vectors, tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\ne\nf\n")
    named = table(tmp_path / "named.parquet", image_id=list("abcdef"))
    assert read_source(VectorFiles(vectors, tmp_path / "ids.txt")).image_id.tolist() == list("abcdef")
    assert read_source(VectorFiles(vectors, metadata=named)).image_id.tolist() == list("abcdef")
    assert read_source(VectorFiles(vectors, tmp_path / "ids.txt", named)).image_id.tolist() == list("abcdef")
    other = saved(tmp_path / "other.npy", np.array(list("abcdeg")))
    with pytest.raises(InvalidValue, match="differ; they name the same rows"):
        read_source(VectorFiles(vectors, other, named))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(vectors, tmp_path, dtype):
    path = saved(tmp_path / "other.npy", np.load(vectors).astype(dtype))
    assert read_source(VectorFiles(path)).vectors.dtype == np.float32


def test_bits_make_an_index_of_hash_codes(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (40, 64), dtype=np.uint8)
    source = read_source(VectorFiles(saved(tmp_path / "bits.npy", bits)))
    build_index(source, tmp_path / "index", spec=IndexSpec("BFlat", metric=HAMMING))
    (hits,) = open_index(tmp_path / "index").search(bits[7:8], 40)
    distances = (bits[7] != bits).sum(axis=1)
    wanted = sorted(range(40), key=lambda row: (distances[row], row))
    assert [hit.image_id for hit in hits] == wanted
    assert [hit.distance for hit in hits] == distances[wanted].tolist()
    assert hits[-1].score == pytest.approx(1 - 2 * distances[wanted[-1]] / 64)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.arange(12).reshape(6, 2), "float32 vectors are needed"),
        (np.full((6, 8), 2, np.uint8), "uint8 bits of 0 and 1"),
        (np.zeros(6, np.float32), r"shape \[6\]"),
        (np.zeros((6, 0), np.float32), r"shape \[6, 0\]"),
        (np.array([["a"]]), "float32 vectors are needed"),
    ],
)
def test_what_is_no_vectors_is_refused(tmp_path, array, words):
    with pytest.raises(InvalidValue, match=words):
        read_source(VectorFiles(saved(tmp_path / "wrong.npy", array)))


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        (np.arange(5), CountMismatch, "ids: 5 values beside 6 vectors"),
        (np.arange(6.0), InvalidValue, "one row of integers or text"),
        (np.arange(6).reshape(6, 1), InvalidValue, "one row"),
        (np.full(6, 2**63, np.uint64), InvalidValue, "64-bit integers with a sign"),
        (np.array([1, 2, 3, 3, 4, 5]), DuplicateImage, "image id 3 stands 2 times"),
        (np.array(["a", "b", "", "c", "d", "e"]), InvalidValue, "image id '' in row 2"),
    ],
)
def test_what_is_no_ids_is_refused_and_leaves_nothing(vectors, tmp_path, ids, error, words):
    path = saved(tmp_path / "ids.npy", ids)
    with pytest.raises(error, match=words):
        build_index(read_source(VectorFiles(vectors, path)), tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"age": ["old"] * 6}, InvalidValue, "ages are years, in numbers"),
        ({"pneumonia": [2] * 6}, InvalidValue, "other values than 1 .present., 0 .absent. and -1"),
        ({"pneumonia": ["yes"] * 6}, InvalidValue, "other values than 1"),
        ({"when": np.arange(6).astype("datetime64[D]")}, InvalidValue, "'when' holds datetime64"),
        ({"many": [[1], [2], [3], [4], [5], [6]]}, InvalidValue, "'many' holds object"),
        ({"site": ["a"] * 5}, CountMismatch, "site: 5 values beside 6 vectors"),
        ({"image_id": [1.5] * 6}, InvalidValue, "ids are integers or text"),
    ],
)
def test_metadata_that_cannot_be_filtered_by_is_refused(vectors, tmp_path, columns, error, words):
    with pytest.raises(error, match=words):
        read_source(VectorFiles(vectors, metadata=table(tmp_path / "table.parquet", **columns)))


def test_files_that_are_not_there_or_are_something_else(vectors, tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(MissingFile, match="there is no file"):
        read_source(VectorFiles(tmp_path / "absent.npy"))
    with pytest.raises(MissingFile, match="one a line"):
        read_source(VectorFiles(vectors, tmp_path / "absent.txt"))
    with pytest.raises(MissingFile, match="Parquet"):
        read_source(VectorFiles(vectors, metadata=tmp_path / "absent.parquet"))
    with pytest.raises(InvalidValue, match="not a Parquet table"):
        read_source(VectorFiles(vectors, metadata=tmp_path / "text"))
    with pytest.raises(InvalidSetting, match="64 digits"):
        VectorFiles(vectors, encoder="E")
    with pytest.raises(InvalidSetting, match="ids, metadata and encoder go with one"):
        VectorFiles(tmp_path, ids=vectors)


@pytest.mark.parametrize(("name", "values"), [("age", [70000] * 6), ("row", [1] * 6), ("finding", ["a"] * 6)])
def test_columns_that_would_be_taken_for_something_else_are_refused(vectors, tmp_path, name, values):
    with pytest.raises(InvalidValue, match=f"column '{name}'"):
        read_source(VectorFiles(vectors, metadata=table(tmp_path / "table.parquet", **{name: values})))


def test_an_index_or_a_table_is_no_source(vectors, tmp_path):
    build_index(read_source(VectorFiles(vectors)), tmp_path / "index")
    for path in (tmp_path / "index", table(tmp_path / "table.parquet", site=["a"])):
        with pytest.raises(InvalidValue, match="neither what `chextriev embed` wrote nor"):
            read_source(VectorFiles(path))


def test_an_id_that_is_no_text_is_refused(vectors, tmp_path):
    source = read_source(VectorFiles(vectors))
    ids = np.array(["a", "b", "c", "d", "e", "\ud800"], object)
    with pytest.raises(InvalidValue, match="no text"):
        build_index(replace(source, image_id=ids), tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_byte_order_mark_is_no_part_of_an_id(vectors, tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\ne\nf\n", encoding="utf-8-sig")
    assert read_source(VectorFiles(vectors, tmp_path / "ids.txt")).image_id[0] == "a"
