"""One contract, several engines: numpy says what is right, and Faiss and Milvus must answer it by the same call.

A score is the cosine: to 1e-6 in all of Milvus, which proposes candidates whose cosines are computed here, and in exact
Faiss; to .001 behind Faiss's half-precision re-ranking. Order and number of hits are exact in exact engines;
approximate ones find at least .95 of them among vectors that are not clustered, the hardest case.
"""

import numpy as np
import pytest

from chextriev.anatomy import Finding
from chextriev.errors import (
    CountMismatch,
    InvalidSetting,
    InvalidValue,
    OtherEncoder,
    UnknownColumn,
    UnknownFinding,
)
from chextriev.index.filters import matching, read_filters
from chextriev.index.milvus_server import connect
from tests.index.test_search import encoded
from tests.index.vector_engines import ENGINES, MILVUS, RECALL, SERVER, TAKING_PART, K, N, check, made_up, queries_near


@pytest.fixture(scope="module", params=TAKING_PART)
def engine(request):
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def radiographs():
    return made_up()


@pytest.fixture(scope="module")
def held(engine, radiographs, tmp_path_factory):
    """An index that no test changes."""
    opened = engine.open(radiographs, tmp_path_factory.mktemp("held"))
    yield opened
    opened.close()


def test_a_server_takes_part():
    if not SERVER:
        pytest.skip(f"{MILVUS} is not set: with the address of a Milvus server this suite runs against it, IVF_PQ too")
    server = connect(SERVER)
    assert not server.call("get_server_version").startswith("milvus_lite")
    server.close()


def test_the_nearest_are_found_with_their_cosines(engine, radiographs, held):
    queries = queries_near(radiographs, np.arange(0, N, 10))
    shares = [
        check(engine, radiographs, query, hits, K)
        for query, hits in zip(queries, held.index.search(queries, K), strict=True)
    ]
    assert np.mean(shares) >= (1.0 if engine.exact else RECALL)


def test_a_hit_says_what_is_known_of_its_radiograph(radiographs, held):
    row_of = {image: row for row, image in enumerate(radiographs.image_id.tolist())}
    for hits in held.index.search(radiographs.vectors[:80:4], 3):
        for hit in hits:
            row, other = (
                row_of[hit.image_id],
                {name: c[row_of[hit.image_id]] for name, c in radiographs.metadata.items()},
            )
            assert (hit.study_id, hit.patient_id) == (radiographs.study_id[row], radiographs.patient_id[row])
            assert hit.findings == tuple(f.label for f in Finding if radiographs.findings[row, f] == 1)
            assert (hit.view, hit.sex) == (other["view"], other["sex"])
            assert hit.age == (other["age"] if other["age"] >= 0 else None)
            dose = None if np.isnan(other["dose uGy"]) else other["dose uGy"]
            wanted = {"ward": other["ward"], "dose uGy": dose, "portable": other["portable"], "year": other["year"]}
            assert hit.metadata == wanted


def test_the_image_and_its_patient_are_left_out(engine, radiographs, held):
    rows = np.arange(0, N, 40)
    for row, hits in zip(rows, held.index.search(encoded(radiographs, rows), K), strict=True):
        others = radiographs.patient_id != radiographs.patient_id[row]
        assert check(engine, radiographs, radiographs.vectors[row], hits, K, others) >= 0.8


def test_a_patient_may_be_named(engine, radiographs, held):
    query = radiographs.vectors[[30]]
    known, unknown = radiographs.patient_id[30], "p-elsewhere"
    for patient, image in ((known, "new"), (known, None), (None, radiographs.image_id[30])):
        hits = held.index.search(query, K, image_ids=[image], patient_ids=[patient])[0]
        assert known not in {hit.patient_id for hit in hits}
    for patient, image in ((unknown, "new"), (None, "new"), (None, None)):
        hits = held.index.search(query, K, image_ids=[image], patient_ids=[patient])[0]
        assert hits[0].image_id == radiographs.image_id[30]


@pytest.mark.parametrize(
    "where",
    [
        ["view = PA"],
        ["view != PA"],
        ["sex = F"],
        ["sex != F"],  # and known
        ["age >= 40.5"],
        ["age < 30"],  # and known
        ["age != 40, 41"],
        ["age <= 1e9"],
        ["finding = pneumonia, pulmonary edema/hazy opacity"],
        ["finding != pneumonia, lung opacity"],
        ["ward = A'1"],
        ['ward = B"2, C\\3'],
        ["ward != A'1"],
        ["ward = d or 1 == 1"],
        ["dose uGy <= 1.5"],
        ["dose uGy = 2.5, 3"],
        ["dose uGy != 2.5, 3"],
        ["portable = true"],
        ["portable != true"],
        ["year > 2013", "view = AP", "finding = atelectasis"],
    ],
    ids=str,
)
def test_filters_say_which_may_be_found(engine, radiographs, held, where):
    columns = {"findings": radiographs.findings, "image_id": radiographs.image_id, **radiographs.metadata}
    allowed = matching(read_filters(where), columns)
    assert 0 < allowed.sum() < N
    query = queries_near(radiographs, np.array([7]))[0]
    hits = held.index.search(query[None], K, where=where)[0]
    share = check(engine, radiographs, query, hits, K, allowed)
    assert share >= 0.8
    assert len(hits) == min(K, allowed.sum()) or not engine.exact


@pytest.mark.parametrize(
    "where",
    [
        "ward = nobody's",
        'ward = x" or 1 == 1 or ward == "x',
        "ward = '] or id != [",
        "ward = \\",
        "ward = \n",
        "year > 1e300",
        "year = 2012.5",
        "portable = maybe",
        "age < 0",
        "patient_id = \u2028\u00e9{x}",
    ],
)
def test_a_value_is_only_ever_a_value(radiographs, held, where):
    if where == "ward = \n":
        with pytest.raises(InvalidSetting, match="empty value"):
            held.index.search(radiographs.vectors[:1], K, where=where)
    else:
        assert held.index.search(radiographs.vectors[:1], K, where=where) == [[]]


def test_filters_and_exclusion_go_together(engine, radiographs, held):
    rows = np.array([5, 100])
    hits = held.index.search(encoded(radiographs, rows), K, where="view = AP")
    for row, line in zip(rows, hits, strict=True):
        allowed = (radiographs.metadata["view"] == "AP") & (radiographs.patient_id != radiographs.patient_id[row])
        assert check(engine, radiographs, radiographs.vectors[row], line, K, allowed) >= 0.8


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("colour = red", UnknownColumn, "no column 'colour'.*choose one of.*ward"),
        ("finding = flu", UnknownFinding, "flu"),
        ("ward > 3", InvalidSetting, "holds words"),
        ("year = soon", InvalidSetting, "number is needed"),
        ("year", InvalidSetting, "COLUMN OPERATOR VALUE"),
    ],
)
def test_wrong_filters_are_refused_in_words(radiographs, held, where, error, words):
    with pytest.raises(error, match=words):
        held.index.search(radiographs.vectors[:1], K, where=where)


def test_fewer_than_k_is_a_shorter_list(engine, radiographs, held):
    query = queries_near(radiographs, np.array([9]))
    hits = held.index.search(query, N + 100)[0]
    assert len(hits) == N if engine.exact else 0 < len(hits) <= N
    check(engine, radiographs, query[0], hits, N + 100)
    few = held.index.search(query, N, where=["patient_id = p3"])[0]
    assert {hit.patient_id for hit in few} == {"p3"}
    assert len(few) == 3 or not engine.exact


def test_equal_vectors_come_in_the_order_of_their_ids(engine, radiographs, held):
    same = sorted(radiographs.image_id[50:62])
    for k in (3, 12):
        hits = held.index.search(radiographs.vectors[[55]], k)[0]
        assert len({hit.score for hit in hits}) == 1
        assert [hit.image_id for hit in hits] == same[:k] or not engine.exact
        assert {hit.image_id for hit in hits} <= set(same)


def test_an_answer_does_not_depend_on_its_batch(radiographs, held):
    queries = queries_near(radiographs, np.arange(40))
    together = held.index.search(queries, K)
    assert [held.index.search(queries[row : row + 1], K)[0] for row in range(0, 40, 13)] == together[::13]


def test_an_exact_search_may_be_asked_of_any(engine, radiographs, held):
    queries = queries_near(radiographs, np.arange(0, N, 50))
    if not engine.can_be_exact:
        with pytest.raises(InvalidSetting, match="cannot search exactly"):
            held.index.search(queries, K, exact=True)
        return
    for query, hits in zip(queries, held.index.search(queries, K, exact=True), strict=True):
        assert check(engine, radiographs, query, hits, K) == 1.0


def test_only_lists_can_be_probed(engine, radiographs, held):
    queries = queries_near(radiographs, np.arange(40))
    if not engine.lists:
        with pytest.raises(InvalidSetting, match="nprobe = 1"):
            held.index.search(queries, K, nprobe=1)
        return
    shares = [
        np.mean([check(engine, radiographs, q, h, K) for q, h in zip(queries, found, strict=True)])
        for found in (held.index.search(queries, K, nprobe=1), held.index.search(queries, K, nprobe=64))
    ]
    assert shares[0] <= shares[1]


def test_another_encoder_is_refused_by_both_digests(radiographs, held):
    with pytest.raises(OtherEncoder, match=r"encoder aaaaaaaaaaaa.*encoder eeeeeeeeeeee"):
        held.index.search(encoded(radiographs, [0], encoder_digest="a" * 64))
    with pytest.raises(OtherEncoder):
        held.index.check_encoder("b" * 64)
    held.index.check_encoder(radiographs.encoder_digest)


def test_wrong_queries_are_refused_in_words(radiographs, held):
    spoilt = radiographs.vectors[:3].copy()
    spoilt[1, 0] = np.nan
    with pytest.raises(InvalidValue, match="query 1 has a value that is not finite"):
        held.index.search(spoilt)
    with pytest.raises(CountMismatch, match=r"shape \[3, 16\].*needs \[number, 32\]"):
        held.index.search(radiographs.vectors[:3, :16])
    with pytest.raises(CountMismatch, match="2 image_ids beside 3 queries"):
        held.index.search(radiographs.vectors[:3], image_ids=["a", "b"])
    with pytest.raises(InvalidSetting, match="k = 0"):
        held.index.search(radiographs.vectors[:3], 0)
    with pytest.raises(InvalidSetting, match="no option 'depth'"):
        held.index.search(radiographs.vectors[:3], depth=3)
    assert held.index.search(radiographs.vectors[:0]) == []
    assert len(held.index) == N
