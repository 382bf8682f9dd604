"""What becomes of an index specification, of columns and of conditions in Milvus's own words."""

from dataclasses import replace

import numpy as np
import pytest

from chextriev.errors import InvalidSetting, NotAnArtifact
from chextriev.index.filters import read_filters
from chextriev.index.milvus_filter import expression, literal
from chextriev.index.milvus_schema import (
    Column,
    candidates_per_hit,
    card_of,
    default_spec,
    index_parameters,
    read_card,
)
from chextriev.index.spec import IndexSpec


@pytest.mark.parametrize(
    ("factory", "device", "kind", "parameters", "candidates"),
    [
        ("Flat", "cpu", "FLAT", {}, 1),
        ("IVF128,Flat", "cpu", "IVF_FLAT", {"nlist": 128}, 1),
        ("IVF128,PQ16", "cpu", "IVF_PQ", {"nlist": 128, "m": 16, "nbits": 8}, 1),
        ("IVF128,PQ16x8np", "cpu", "IVF_PQ", {"nlist": 128, "m": 16, "nbits": 8}, 1),
        ("IVF128,PQ16x4fs,Refine(SQfp16)", "cpu", "IVF_PQ", {"nlist": 128, "m": 16, "nbits": 4}, 10),
        ("IVF128,PQ16x4,RFlat", "cuda", "GPU_IVF_PQ", {"nlist": 128, "m": 16, "nbits": 4}, 10),
        ("HNSW32", "cpu", "HNSW", {"M": 32, "efConstruction": 200}, 1),
    ],
)
def test_a_spec_is_an_index_type_of_milvus(factory, device, kind, parameters, candidates):
    spec = IndexSpec(factory)
    assert index_parameters(spec, 64, device) == (kind, parameters)
    assert candidates_per_hit(spec) == candidates


@pytest.mark.parametrize(
    ("spec", "device", "words"),
    [
        (IndexSpec("SQ8"), "cpu", "no counterpart in Milvus; choose one like 'Flat'"),
        (IndexSpec("OPQ16,IVF128,PQ16,RFlat"), "cpu", "no counterpart"),
        (IndexSpec("BFlat", metric="hamming"), "cpu", "no counterpart"),
        (IndexSpec("IVF128,PQ12"), "cpu", "64 is not 12 equal parts"),
        (IndexSpec("IVF99999,Flat"), "cpu", "1 to 65,536 lists"),
        (IndexSpec("HNSW1"), "cpu", "HNSW2 to HNSW2048"),
        (IndexSpec("Flat"), "cuda", "on cuda"),
        (IndexSpec("Flat"), "tpu", "choose one of cpu, cuda"),
    ],
)
def test_other_specs_are_refused_in_words(spec, device, words):
    with pytest.raises(InvalidSetting, match=words):
        index_parameters(spec, 64, device)


def test_the_default_spec_can_be_built():
    for n, width, lite in ((300, 64, True), (50_000, 64, True), (50_000, 1024, False), (10**9, 1024, False)):
        index_parameters(default_spec(n, width, lite=lite), width)
    assert default_spec(300, 64).factory == "Flat"
    assert default_spec(10**8, 1024).factory == "IVF32768,PQ256x4,Refine(SQfp16)"
    assert default_spec(50_000, 1021).factory == default_spec(50_000, 64, lite=True).factory == "HNSW32"


COLUMNS = {
    "image_id": Column("id", "text"),
    "ward": Column("ward", "text"),
    "dose uGy": Column("dose_uGy", "number"),
    "portable": Column("portable", "truth"),
    "age": Column("age", "integer", 2),
    "notes": Column("notes", "mixed"),
}


@pytest.mark.parametrize(
    ("where", "written"),
    [
        ("ward = a, b", '(ward in ["a", "b"])'),
        ("ward != a", '(ward not in ["a", ""])'),
        ("image_id = i1", '(id in ["i1"])'),
        ("dose uGy >= 1.5", "(dose_uGy >= 1.5)"),
        ("dose uGy != 1.5", "((dose_uGy < 1.5 or dose_uGy > 1.5))"),
        ("portable = true", "(portable == true)"),
        ("portable != true", "(portable == false)"),
        ("age >= 40.5", "(age >= 0 and age >= 41)"),
        ("age > 40", "(age >= 0 and age >= 41)"),
        ("age < 40", "(age >= 0 and age <= 39)"),
        ("age <= 1e300", "(age >= 0 and age <= 32767)"),
        ("age = 40, 40.5, 1e6", "(age in [40])"),
        ("age != 40.5", "(age >= 0)"),
        ("finding = pneumonia", "(finding_pneumonia == 1)"),
        ("finding != pneumonia, consolidation", "(finding_pneumonia == 0 and finding_consolidation == 0)"),
        ("age > 1e300", None),
        ("age = -1", None),
        ("portable = maybe", None),
        ("", ""),
    ],
)
def test_conditions_become_an_expression(where, written):
    assert expression(read_filters(where or ()), COLUMNS) == written


def test_values_are_escaped():
    assert literal("a\"b\\c\nd\re\tf'g") == '"a\\"b\\\\c\\nd\\re\\tf\'g"'
    assert literal(np.int64(-5)) == "-5"
    with pytest.raises(InvalidSetting, match="UTF-8"):
        literal("\ud800")
    with pytest.raises(InvalidSetting, match="several types"):
        expression(read_filters("notes = a"), COLUMNS)


def test_columns_get_fields_of_their_own(small):
    awkward = {name: np.array(["a"] * 300, object) for name in ("vector", "a b", "a-b", "1st", "Timestamp")}
    awkward["mixed"] = np.array([1, "a", None] * 100, object)
    awkward["small"] = np.arange(300, dtype=np.uint16)
    awkward["day"] = np.array(["2020-01-02", "NaT"] * 150, "datetime64[D]")
    card = card_of(replace(small, metadata=awkward), IndexSpec("Flat"), "cpu")
    fields = [column.field for column in card.columns.values()]
    assert len({*fields, *card.findings, "id", "vector"}) == len(fields) + len(card.findings) + 2
    assert (card.columns["mixed"].kind, card.columns["small"].bytes, card.columns["day"].kind) == ("mixed", 4, "text")
    assert read_card({"chextriev": card.to_json()}, "here") == card


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"schema": 2}',
        '{"schema": 1, "spec": {"factory": "Flat"}, "columns": {}, "encoder": 3}',
    ],
)
def test_a_card_that_is_none_is_not_believed(text):
    with pytest.raises(NotAnArtifact, match="no collection of chextriev"):
        read_card({"chextriev": text}, "here")
