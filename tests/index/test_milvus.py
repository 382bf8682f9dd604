"""What is Milvus's own: addresses, files and processes, its index types, expressions, and collections of others."""

import logging
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from chextriev.errors import (
    BusyIndex,
    InvalidSetting,
    InvalidValue,
    MissingColumn,
    NotAnArtifact,
    OutputExists,
    RequestRefused,
    ServerUnavailable,
    UnknownCollection,
)
from chextriev.index import milvus_rows, milvus_search
from chextriev.index.milvus import build_collection, drop_collection, open_collection
from chextriev.index.milvus_server import connect
from chextriev.index.spec import IndexSpec
from tests.index.test_search import encoded


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return str(tmp_path_factory.mktemp("lite") / "milvus.db")


@pytest.fixture(scope="module")
def built(small, uri):
    return build_collection(small, uri, "small", IndexSpec("Flat"))


def test_info_says_what_was_built(small, uri, built):
    with open_collection(uri, "small") as index:
        assert index.info() == built
    assert (built["n"], built["width"], built["encoder"]) == (300, 64, small.encoder_digest)
    assert (built["index_type"], built["collection"], built["address"]) == ("FLAT", "small", uri)
    assert built["columns"]["age"] == "integer"


def test_milvus_lite_has_no_product_codes(small, uri):
    with pytest.raises(InvalidSetting, match="milvus-lite has no IVF_PQ; give 'Flat'"):
        build_collection(small, uri, "codes", IndexSpec("IVF8,PQ16x4,RFlat"))


def test_columns_of_any_type_come_back(small, tmp_path):
    metadata = {
        "mixed": np.array([{"a": 1}, "a", None, 3.5, [1]] * 60, object),
        "day": np.array(["2020-01-02", "NaT", "2021-03-04"] * 100, "datetime64[D]"),
    }
    rich, uri = replace(small, metadata=metadata), str(tmp_path / "x.db")
    build_collection(rich, uri, "rich")
    with open_collection(uri, "rich") as index:
        found = {hits[0].image_id: hits[0] for hits in index.search(small.vectors[:5], 1)}
        for row in range(5):
            hit = found[small.image_id[row]]
            day = None if row % 3 == 1 else str(metadata["day"][row])
            assert hit.metadata == {"mixed": metadata["mixed"][row], "day": day}
            assert hit.view is hit.age is None
        assert index.search(small.vectors[:1], 1, where="day = 2021-03-04")[0][0].metadata["day"] == "2021-03-04"


def test_a_name_that_is_taken_is_kept(small, uri, built):
    with pytest.raises(OutputExists, match="has a collection 'small'"):
        build_collection(small, uri, "small")
    with open_collection(uri, "small") as index:
        assert len(index) == 300


@pytest.mark.parametrize("name", ["", "1st", "a-b", "x" * 256, "a b", "é"])
def test_names_that_milvus_does_not_take_are_refused(small, uri, name):
    with pytest.raises(InvalidSetting, match="collection name"):
        build_collection(small, uri, name)


def test_a_collection_can_be_dropped(small, uri, built):
    build_collection(small, uri, "passing")
    drop_collection(uri, "passing")
    with pytest.raises(UnknownCollection, match=r"no collection 'passing' in .*choose one of.*small"):
        open_collection(uri, "passing")


def test_a_build_that_fails_leaves_nothing(small, uri, built):
    wrong = replace(small, vectors=np.concatenate([small.vectors[:299], np.zeros((1, 64), np.float32)]))
    with pytest.raises(InvalidValue, match="vector 299 is zero"):
        build_collection(wrong, uri, "wrong")
    held = connect(uri)
    try:
        assert [name for name in held.call("list_collections") if "wrong" in name] == []
    finally:
        held.close()


def test_text_that_is_too_long_is_refused(small, uri):
    ids = small.image_id.copy()
    ids[3] = "x" * 2000
    with pytest.raises(InvalidValue, match=r"'image_id', row 3.*1,024 bytes"):
        build_collection(replace(small, image_id=ids), uri, "long")


def test_additions_have_the_types_of_the_collection(small, tmp_path):
    typed = {**small.metadata, "portable": np.arange(300) % 2 == 0, "count": np.arange(300, dtype=np.int8) % 7}
    whole, uri = replace(small, metadata=typed), str(tmp_path / "x.db")
    first, rest = whole.take(np.arange(290)), whole.take(np.arange(290, 300))
    build_collection(first, uri, "typed")

    def changed(**columns):
        return replace(rest, metadata={**rest.metadata, **columns})

    with open_collection(uri, "typed") as index:
        with pytest.raises(InvalidValue, match="'count' has integers outside -128 to 127"):
            index.add(changed(count=np.full(10, 300)))
        with pytest.raises(InvalidValue, match="'count' holds values of kind text, the collection integer"):
            index.add(changed(count=np.full(10, "1", object)))
        with pytest.raises(MissingColumn, match="'portable' is true or false"):
            index.add(replace(rest, metadata=small.take(np.arange(290, 300)).metadata))
        assert len(index) == 290
        assert index.add(changed(count=np.full(10, 100))) == 10
        assert len(index) == 300


def test_small_batches_change_nothing(small, uri, built, tmp_path, monkeypatch):
    with open_collection(uri, "small") as index:
        whole = index.search(encoded(small, np.arange(30)), 5)
    monkeypatch.setattr(milvus_rows, "BATCH_BYTES", 40_000)
    monkeypatch.setattr(milvus_search, "PAGE_BYTES", 60_000)
    monkeypatch.setattr(milvus_search, "IDS_AT_ONCE", 7)
    monkeypatch.setattr(milvus_search, "SLACK", 1)
    other = str(tmp_path / "x.db")
    build_collection(small, other, "small", IndexSpec("Flat"))
    with open_collection(other, "small") as index:
        assert len(index) == 300
        assert index.search(encoded(small, np.arange(30)), 5) == whole


def test_threads_get_the_answers_of_one(small, uri, built):
    calls = [(encoded(small, np.arange(start, start + 4)), 1 + start % 5) for start in range(0, 80, 4)]
    with open_collection(uri, "small") as index:
        alone = [index.search(queries, k) for queries, k in calls]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda call: index.search(*call), calls)) == alone


def test_regions_need_an_index_on_this_machine(small, uri, built):
    queries = replace(encoded(small, [0]), region_vectors=np.ones((1, 18, 64), np.float32))
    with open_collection(uri, "small") as index:
        with pytest.raises(InvalidSetting, match="need an index on this machine"):
            index.search(queries, regions={"left lung": 1.0})
        with pytest.raises(InvalidSetting, match="at most 16,000"):
            index.search(small.vectors[:1], 16_001)


def test_a_collection_of_somebody_else_is_not_opened(small, uri, built):
    held = connect(uri)
    try:
        held.client.create_collection("theirs", dimension=8)
        with pytest.raises(NotAnArtifact, match="'theirs' is no collection of chextriev"):
            open_collection(uri, "theirs")
        held.call("drop_collection", "theirs")
    finally:
        held.close()


@pytest.mark.parametrize("address", ["milvus", "ftp://host", "x.sqlite", ""])
def test_a_uri_that_is_none_is_refused(address):
    with pytest.raises(InvalidSetting, match=r"Milvus uri .*give an address"):
        open_collection(address, "small")


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(UnknownCollection, match=r"none built yet"):
        open_collection(str(tmp_path / "x.db"), "small")
    with pytest.raises(InvalidSetting, match="no folder"):
        connect(str(tmp_path / "nowhere" / "x.db"), create=True)
    assert list(tmp_path.iterdir()) == []


def test_an_address_where_nothing_listens_is_named_without_the_password():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(ServerUnavailable, match=f"answers at http://127.0.0.1:{port};") as error:
            open_collection(f"http://user:secret@127.0.0.1:{port}", "small", timeout_s=2)
    assert "secret" not in str(error.value)


def test_a_server_that_never_answers_is_given_up():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(ServerUnavailable):
            open_collection(f"http://127.0.0.1:{listener.getsockname()[1]}", "small", timeout_s=1)


def test_settings_are_checked(uri, built):
    with pytest.raises(InvalidSetting, match="choose one of Strong, Bounded"):
        open_collection(uri, "small", consistency="weak")
    with pytest.raises(InvalidSetting, match="timeout"):
        open_collection(uri, "small", timeout_s=0)


OTHER = """
import sys
from chextriev.errors import ChextrievError
from chextriev.index.milvus import open_collection
try:
    with open_collection(sys.argv[1], "small") as index:
        print(len(index))
except ChextrievError as error:
    print(type(error).__name__)
"""


def in_another_process(uri):
    done = subprocess.run([sys.executable, "-c", OTHER, uri], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip(), done.stderr


def test_one_process_at_a_time_has_the_file(small, uri, built):
    with open_collection(uri, "small") as first, open_collection(uri, "small") as second:
        first.close()
        assert len(second) == 300
        assert in_another_process(uri)[0] == BusyIndex.__name__
    assert in_another_process(uri) == ("300", "")
    with open_collection(uri, "small") as again:
        assert len(again) == 300


def test_what_the_database_refuses_stays_out_of_the_logs(small, uri, built, caplog, capfd):
    with (
        open_collection(uri, "small") as index,
        caplog.at_level(logging.DEBUG),
        pytest.raises(RequestRefused, match="refuses the request"),
    ):
        index.collection.query('patient_id == "p-secret" and nonsense', ["id"])
    assert "p-secret" not in caplog.text + "".join(capfd.readouterr())
