"""Both clients search: what an index is asked, what its answer must be, what is refused before."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from chextriev.bundle import TensorSpec
from chextriev.errors import (
    CountMismatch,
    InvalidSetting,
    OtherEncoder,
    ServerFailed,
)
from chextriev.serving.client import (
    ModelDescription,
)
from tests.serving.fake_server import DIGEST, HIT, HITS, OUTPUTS, FakeServer, ask_client, both, file


@both
def test_a_served_index_is_asked_with_the_ids(kind: str) -> None:
    server = FakeServer()
    server.hits = json.dumps([asdict(HIT)]).encode()
    found = ask_client(kind, server, lambda client: client.search(file(7), 3, patient_id="p"), index="served")
    assert found == [HIT]
    asked = server.calls[-1].inputs
    assert {name: array.tolist() for name, array in asked.items()} == {
        "vectors": [[7, 1]],
        "k": [[3]],
        "image_ids": [[b"secret-7"]],
        "patient_ids": [[b"p"]],
    }
    assert (asked["vectors"].dtype, asked["k"].dtype) == (np.float32, np.int32)


@both
def test_many_queries_of_a_served_index(kind: str) -> None:
    server = FakeServer()
    sources = [file(number) for number in range(40)]
    found = ask_client(kind, server, lambda client: client.search_each(sources, 5), index="served")
    assert found == [[]] * 40
    assert [call.rows for call in server.calls if "vectors" in call.inputs] == [32, 8]
    assert server.calls[-1].inputs["patient_ids"].tolist() == [[b""]] * 8


@both
def test_embeddings_are_searched_without_another_request_for_them(kind: str) -> None:
    server = FakeServer()
    queries = ask_client(kind, server, lambda client: client.embed([file(1), file(2)]))
    server.hits = json.dumps([asdict(HIT)]).encode()
    found = ask_client(
        kind, server, lambda client: client.search_embeddings(queries, 3, patient_ids=["p", None]), index="served"
    )
    assert found == [[HIT], [HIT]]
    assert [call.model.name for call in server.calls] == ["chextriev_v6", "index_v6"]
    assert server.calls[-1].inputs["patient_ids"].tolist() == [[b"p"], [b""]]
    server.models["index_v6"] = ModelDescription("index_v6", HITS, {"encoder_digest": "e" * 64})
    with pytest.raises(OtherEncoder, match="index_v6 holds vectors of encoder eeeeeeeeeeee"):
        ask_client(kind, server, lambda client: client.search_embeddings(queries), index="served")
    with pytest.raises(InvalidSetting, match="no index to search"):
        ask_client(kind, server, lambda client: client.search_embeddings(queries))


@both
def test_an_index_of_another_encoder_is_refused_before_anything_is_sent(kind: str) -> None:
    server = FakeServer()
    server.models["index_v6"] = ModelDescription("index_v6", HITS, {"encoder_digest": "e" * 64})
    with pytest.raises(OtherEncoder, match="of encoder dddddddddddd, index_v6 holds vectors of encoder eeeeeeeeeeee"):
        ask_client(kind, server, lambda client: client.search(file(7)), index="served")
    assert not server.calls


@both
@pytest.mark.parametrize("hits", [b"", b"{}", b"[1]", b'[{"image_id": "a"}]', b"\xff", b"[" * 100_000])
def test_hits_that_are_none(kind: str, hits: bytes) -> None:
    server = FakeServer()
    server.hits = hits
    with pytest.raises(ServerFailed, match=r"not 1 lists of hits; .* \(request \w+, image secret-7\)"):
        ask_client(kind, server, lambda client: client.search(file(7)), index="served")


@both
def test_queries_are_checked_before_anything_is_sent(kind: str) -> None:
    server = FakeServer()
    with pytest.raises(InvalidSetting, match="k = 0; ask for 1 to 10,000 results"):
        ask_client(kind, server, lambda client: client.search(file(7), 0), index="served")
    with pytest.raises(CountMismatch, match="1 patient_ids beside 2 queries"):
        ask_client(
            kind, server, lambda client: client.search_each([file(1), file(2)], patient_ids=["p"]), index="served"
        )
    with pytest.raises(InvalidSetting, match="no index to search; open it with index=DIRECTORY, or index='served'"):
        ask_client(kind, server, lambda client: client.search(file(7)))
    assert not server.described


@both
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ModelDescription("chextriev_v6", OUTPUTS, {}), "does not say which encoder it is"),
        (
            ModelDescription("chextriev_v6", OUTPUTS[:1], {"encoder_digest": DIGEST}),
            "gives embedding; an encoder gives",
        ),
        (
            ModelDescription(
                "chextriev_v6", (TensorSpec("embedding", ("B", 3), "float32"), OUTPUTS[1]), {"encoder_digest": DIGEST}
            ),
            r"answers embedding \[1, 2\] float32; its configuration says \[1, 3\] float32",
        ),
    ],
)
def test_a_model_that_is_no_encoder(kind: str, model: ModelDescription, said: str) -> None:
    server = FakeServer()
    server.models["chextriev_v6"] = model
    with pytest.raises(ServerFailed, match=said):
        ask_client(kind, server, lambda client: client.embed(file(7)))
