"""What an opened index answers, what it leaves out, and what it refuses."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import faiss
import numpy as np
import pytest

from chextriev.anatomy import Finding
from chextriev.artifacts import MANIFEST, publishing, read_manifest, seal
from chextriev.encoder import Embeddings
from chextriev.errors import CountMismatch, DamagedArtifact, InvalidSetting, InvalidValue, NotAnArtifact, OtherEncoder
from chextriev.index.build import build_index
from chextriev.index.exact import exact_search
from chextriev.index.generation import KIND
from chextriev.index.search import find_generation, open_index
from chextriev.index.spec import IndexSpec


def encoded(embeddings, rows, encoder_digest=None):
    """These rows as an encoder would return them."""
    nothing = np.zeros((len(rows), 0), np.float32)
    return Embeddings(
        image_ids=tuple(embeddings.image_id[rows]),
        vectors=np.asarray(embeddings.vectors[rows]),
        finding_logits=nothing,
        region_logits=nothing,
        region_vectors=nothing,
        encoder_digest=encoder_digest or embeddings.encoder_digest,
    )


def test_an_exact_index_equals_exact_search(small, exact_index):
    queries = np.random.default_rng(4).standard_normal((40, 64)).astype(np.float32)
    scores, rows = exact_index.search_rows(queries, 10)
    wanted_scores, wanted_rows = exact_search(queries, small.vectors, 10)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)


def test_hits_carry_what_is_known_of_the_image(small, exact_index):
    for row in range(30):
        ((hit, *_),) = exact_index.search(small.vectors[row : row + 1], 3)
        assert (hit.row, hit.image_id, hit.study_id, hit.patient_id) == (
            row,
            f"i{row:05d}",
            f"s{row // 2}",
            f"p{row // 3}",
        )
        assert hit.score == pytest.approx(1.0, abs=1e-5)
        assert hit.findings == tuple(f.label for f in Finding if small.findings[row, f] == 1)
        assert (hit.view, hit.sex) == (small.metadata["view"][row], small.metadata["sex"][row])
        age = small.metadata["age"][row]
        assert hit.age == (age if age >= 0 else None)


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_the_image_and_its_patient_are_left_out(kind, small, large, exact_index, approximate_index):
    embeddings, index = (small, exact_index) if kind == "exact" else (large, approximate_index)
    rows = np.arange(0, len(embeddings), len(embeddings) // 50)
    found = index.search(encoded(embeddings, rows), 10)
    _, wanted = exact_search(
        embeddings.vectors[rows], embeddings.vectors, 10, groups=(embeddings.patient_id[rows], embeddings.patient_id)
    )
    assert all(len(hits) == 10 for hits in found)
    for row, hits in zip(rows, found, strict=True):
        assert embeddings.patient_id[row] not in {hit.patient_id for hit in hits}
    same = np.mean([len({hit.row for hit in hits} & set(line)) / 10 for hits, line in zip(found, wanted, strict=True)])
    assert same == 1.0 if kind == "exact" else same >= 0.98


def test_a_patient_may_be_named_for_an_image_from_elsewhere(small, exact_index):
    query = small.vectors[[30]]
    hits = exact_index.search(query, 5, image_ids=["new image"], patient_ids=["p10"])[0]
    assert {30, 31, 32}.isdisjoint(hit.row for hit in hits)
    assert exact_index.search(query, 5, image_ids=["new image"], patient_ids=["p9999"])[0][0].row == 30
    assert exact_index.search(query, 5, image_ids=["new image"])[0][0].row == 30
    looked_up = exact_index.search(query, 5, image_ids=["i00030"], patient_ids=[None])[0]
    assert [hit.row for hit in looked_up] == [hit.row for hit in hits]


def test_images_without_a_patient_are_nobodys(small, tmp_path):
    patients = small.patient_id.copy()
    patients[:150] = None
    build_index(replace(small, patient_id=patients, digest=""), tmp_path / "index")
    rows = {hit.row for hit in open_index(tmp_path / "index").search(encoded(small, [5]), 300)[0]}
    assert rows == set(range(300)) - {5}


def test_fewer_than_k_is_a_shorter_list(small, exact_index, approximate_index):
    assert len(exact_index.search(small.vectors[:1], 1_000_000)[0]) == 300
    assert len(exact_index.search(encoded(small, [0]), 300)[0]) == 297
    hits = approximate_index.search(small.vectors[:1], 5_000, nprobe=1)[0]
    assert len({hit.row for hit in hits}) == 5_000  # more than one list holds, so all were looked into


def test_equal_vectors_come_in_the_order_of_rows(small, tmp_path):
    vectors = np.repeat(small.vectors[:3], 100, axis=0)
    build_index(replace(small, vectors=vectors, digest=""), tmp_path / "index")
    index = open_index(tmp_path / "index")
    for queries in (vectors[[150]], vectors[[150] * 64]):  # Faiss sums batches of 20 and more differently
        scores, rows = index.search_rows(queries, 7)
        assert rows.tolist() == [list(range(100, 107))] * len(queries)
        assert len(np.unique(scores)) == 1


def test_an_answer_does_not_depend_on_its_batch(small, large, exact_index, approximate_index):
    for index, embeddings in ((exact_index, small), (approximate_index, large)):
        queries = embeddings.vectors[:100] + np.float32(0.01)
        scores, rows = index.search_rows(queries, 10)
        for query in range(0, 100, 17):
            alone = index.search_rows(queries[query : query + 1], 10)
            np.testing.assert_array_equal(alone[0][0], scores[query])
            np.testing.assert_array_equal(alone[1][0], rows[query])


def test_threads_get_the_answers_of_one(large, approximate_index):
    calls = [(encoded(large, np.arange(start, start + 8)), 3 + start % 5, 1 + start % 32) for start in range(0, 320, 8)]
    alone = [approximate_index.search(queries, k, nprobe=nprobe) for queries, k, nprobe in calls]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda call: approximate_index.search(call[0], call[1], nprobe=call[2]), calls))
    assert together == alone


def test_more_lists_find_more(large, approximate_index):
    rows = np.arange(200)
    _, wanted = exact_search(large.vectors[rows], large.vectors, 10)
    recall = {}
    for nprobe in (1, 64):
        _, found = approximate_index.search_rows(large.vectors[rows], 10, nprobe=nprobe)
        recall[nprobe] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, wanted, strict=True)])
    assert recall[1] < recall[64]
    assert recall[64] >= 0.98


def test_another_encoder_is_refused_by_both_digests(small, exact_index):
    with pytest.raises(OtherEncoder, match=r"encoder aaaaaaaaaaaa,.*encoder eeeeeeeeeeee;"):
        exact_index.search(encoded(small, [0], encoder_digest="a" * 64))
    with pytest.raises(OtherEncoder):
        exact_index.check_encoder("b" * 64)
    exact_index.check_encoder(small.encoder_digest)


def test_wrong_queries_are_refused_in_words(small, exact_index, approximate_index):
    spoilt = small.vectors[:3].copy()
    spoilt[1, 0] = np.nan
    with pytest.raises(InvalidValue, match="query 1 has a value that is not finite"):
        exact_index.search(spoilt)
    with pytest.raises(CountMismatch, match=r"shape \[3, 32\]; this index needs \[number, 64\]"):
        exact_index.search(small.vectors[:3, :32])
    with pytest.raises(CountMismatch, match="shape"):
        exact_index.search(small.vectors[0])
    with pytest.raises(CountMismatch, match="2 image_ids beside 3 queries"):
        exact_index.search(small.vectors[:3], image_ids=["a", "b"])
    with pytest.raises(InvalidSetting, match="k = 0"):
        exact_index.search(small.vectors[:3], 0)
    with pytest.raises(InvalidSetting, match="leave nprobe out"):
        exact_index.search(small.vectors[:3], nprobe=4)
    with pytest.raises(InvalidSetting, match="1 or more"):
        approximate_index.search(small.vectors[:3], nprobe=0)
    assert exact_index.search(small.vectors[:0]) == []


def forged(source, target, change):
    """A copy of the generation of an index, changed, whose manifest agrees with the change."""
    source = find_generation(source)
    manifest = read_manifest(source, KIND)
    with publishing(target, KIND) as scratch:
        for name in manifest.files:
            (scratch / name).write_bytes((source / name).read_bytes())
        recipe = change(scratch, manifest.recipe) or manifest.recipe
        seal(scratch, KIND, recipe, manifest.facts)
    return target


def test_damaged_directories_are_refused(exact_dir, tmp_path):
    def copy(name):
        return forged(exact_dir, tmp_path / name, lambda scratch, recipe: None)

    with pytest.raises(NotAnArtifact):
        open_index(tmp_path / "absent")
    cut = copy("cut")
    (cut / "index.faiss").write_bytes((cut / "index.faiss").read_bytes()[:-100])
    with pytest.raises(DamagedArtifact, match="bytes"):
        open_index(cut)
    flipped = copy("flipped")
    content = bytearray((flipped / "index.faiss").read_bytes())
    content[5000] ^= 1
    (flipped / "index.faiss").write_bytes(content)
    with pytest.raises(DamagedArtifact, match="sha256"):
        open_index(flipped)
    lost = copy("lost")
    (lost / "ids.parquet").unlink()
    with pytest.raises(DamagedArtifact, match="missing"):
        open_index(lost)
    altered = copy("altered")
    text = json.loads((altered / MANIFEST).read_text())
    text["recipe"]["parents"]["encoder"] = "a" * 64
    (altered / MANIFEST).write_text(json.dumps(text))
    with pytest.raises(DamagedArtifact, match="altered"):
        open_index(altered)


def patch(offset, content):
    def change(scratch, recipe):
        old = (scratch / "index.faiss").read_bytes()
        (scratch / "index.faiss").write_bytes(old[:offset] + content + old[offset + len(content) :])

    return change


def other_settings(**settings):
    return lambda scratch, recipe: replace(recipe, settings={**recipe.settings, **settings})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (patch(0, b"IxHE"), "no Faiss file of a type known here"),
        (patch(4, (65).to_bytes(4, "little")), "300 x 65"),
        (patch(8, (10**9).to_bytes(8, "little")), "1000000000 x 64"),
        (patch(33, (1).to_bytes(4, "little")), "metric 1"),
        (patch(37, (2**38).to_bytes(8, "little")), "Faiss cannot read it"),
        (lambda scratch, recipe: (scratch / "index.faiss").write_bytes(b"IxFI") and None, "no Faiss file"),
        (
            lambda scratch, recipe: (scratch / "ids.parquet").write_bytes(b"nothing") and None,
            "not an index of this package",
        ),
        (other_settings(n=299), "has not 299 rows, as its manifest says"),
        (other_settings(width=32), "its manifest 300 x 32"),
        (other_settings(spec={"factory": "Flat", "colour": "red"}), "colour"),
        (other_settings(spec={"factory": "Flat", "nprobe": "many"}), "not an index of this package"),
    ],
)
def test_a_manifest_that_vouches_for_nonsense_is_not_believed(exact_dir, tmp_path, change, words):
    with pytest.raises(DamagedArtifact, match=words):
        open_index(forged(exact_dir, tmp_path / "forged", change))
    assert faiss.get_deserialization_vector_byte_limit() == 1 << 40


def test_ids_are_compared_in_the_type_that_the_index_has(small, tmp_path):
    numbered = replace(small, image_id=np.arange(300, dtype=np.int64) + 2**60, digest="")
    build_index(numbered, tmp_path / "numbered")
    index = open_index(tmp_path / "numbered")
    for own in (2**60 + 7, str(2**60 + 7), np.int64(2**60 + 7)):
        (hits,) = index.search(small.vectors[7:8], 5, image_ids=[own])
        assert "p2" not in [hit.patient_id for hit in hits], own
        assert index.holds(own)
    (hits,) = index.search(small.vectors[7:8], 1, image_ids=["i00007"])
    assert hits[0].image_id == 2**60 + 7
    wards = replace(small, patient_id=np.array([str(row // 3) for row in range(300)], object), digest="")
    build_index(wards, tmp_path / "wards")
    (hits,) = open_index(tmp_path / "wards").search(small.vectors[7:8], 5, patient_ids=[2])
    assert "2" not in [hit.patient_id for hit in hits]


@pytest.mark.parametrize("factory", ["IVF4,Flat", "SQ8", "IVF4,PQ16x4fs,Refine(SQfp16)", "HNSW16"])
def test_ties_are_ordered_by_id_however_many(small, tmp_path, factory):
    same = small.vectors.copy()
    same[100:140] = same[100]
    ids = np.random.default_rng(5).permutation(300).astype(np.int64)
    build_index(replace(small, vectors=same, image_id=ids, digest=""), tmp_path / "index", spec=IndexSpec(factory))
    index = open_index(tmp_path / "index")
    for k in (1, 10, 40):
        (hits,) = index.search(same[100:101], k, exact=True)
        assert [hit.image_id for hit in hits] == sorted(ids[100:140].tolist())[:k]


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,PQ16x4fs,Refine(SQfp16)", "HNSW4", "PQ16np"])
def test_as_many_are_found_as_remain(small, tmp_path, factory):
    """Though few lists are looked into, and a graph may not lead everywhere."""
    build_index(small, tmp_path / "index", spec=IndexSpec(factory, nprobe=1))
    index = open_index(tmp_path / "index")
    assert [len(hits) for hits in index.search(small.vectors[:3], 300)] == [300] * 3
    assert [len(hits) for hits in index.search(small.vectors[:3], 300, image_ids=["i00000", None, "x"])] == [
        297,
        300,
        300,
    ]


def test_queries_in_any_layout_give_the_same(small, exact_index, approximate_index):
    for index in (exact_index, approximate_index):
        found = index.search(np.asfortranarray(small.vectors[:4]), 3)
        assert found == index.search(small.vectors[:4].astype(np.float64), np.int64(3))
        assert found == index.search(small.vectors[:4].tolist(), 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 2.5}, "k = 2.5; give a whole number"),
        ({"k": "3"}, "k = '3'; give a whole number"),
        ({"k": None}, "k = None"),
        ({"k": 2**70}, "k = 1.18e"),
        ({"nprobe": 2.5}, "nprobe = 2.5"),
        ({"candidates": 0}, "candidates = 0"),
        ({"colour": "red"}, "no option 'colour'; choose from candidates"),
        ({"regions": "left lung"}, "regions = 'left lung'; give a weight by region"),
        ({"regions": {"left lung": 1}}, "regions need queries with region vectors"),
    ],
)
def test_options_of_other_types_are_refused_in_words(small, exact_index, options, words):
    with pytest.raises(InvalidSetting, match=words):
        exact_index.search(small.vectors[:1], **options)


def test_queries_that_are_no_numbers_are_refused(exact_index):
    with pytest.raises(InvalidValue, match="queries hold"):
        exact_index.search(np.array([["a"] * 64]))
    with pytest.raises(InvalidValue, match="queries hold complex"):
        exact_index.search(np.ones((1, 64), np.complex64))


def test_what_is_printed_of_an_index_tells_of_no_radiograph(small, exact_index):
    for text in (repr(exact_index), repr(small)):
        assert "i0000" not in text
        assert "p0" not in text
        assert len(text) < 1000


def test_filters_of_large_integers_are_exact(small, tmp_path):
    build_index(replace(small, image_id=np.arange(300, dtype=np.int64) + 2**53, digest=""), tmp_path / "index")
    (hits,) = open_index(tmp_path / "index").search(small.vectors[:1], 9, where=[f"image_id = {2**53 + 5}"])
    assert [hit.image_id for hit in hits] == [2**53 + 5]
    (hits,) = open_index(tmp_path / "index").search(small.vectors[:1], 9, where=[f"image_id > {2**53 + 297}"])
    assert sorted(hit.image_id for hit in hits) == [2**53 + 298, 2**53 + 299]
