"""Both clients on a server in a few lines: what is asked, tried again, cut, ordered and said."""

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import asdict
from itertools import count, islice
from typing import Any

import numpy as np
import pytest

from chextriev.anatomy import Finding
from chextriev.bundle import TensorSpec
from chextriev.errors import (
    CountMismatch,
    DeadlineExpired,
    InvalidSetting,
    MissingFile,
    OtherEncoder,
    Overloaded,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UnknownModel,
    UntrustedServer,
)
from chextriev.radiograph import Radiograph
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import (
    AsyncClient,
    Client,
    Connection,
    Deadline,
    Hit,
    ModelDescription,
    RetryPolicy,
    Threaded,
)
from chextriev.serving.client.sources import REQUEST_BYTES, as_file, cut
from tests.serving.fake_server import DIGEST, HITS, OUTPUTS, FakeServer, ask_client, file
from tests.tiny import boxes

AT_ONCE = Connection(retry=RetryPolicy(tries=4, first_s=0))
HIT = Hit("other", "study", None, 0.5, ("pneumonia",), "AP", "F", 61, 7)

both = pytest.mark.parametrize("kind", ["threads", "loop"])


def numbers(parts: list[Any]) -> list[int]:
    return [int(part.vectors[0, 0]) for part in parts]


@both
def test_one_source_or_several(kind: str) -> None:
    server = FakeServer()
    one = ask_client(kind, server, lambda client: client.embed(file(7)))
    several = ask_client(kind, server, lambda client: client.embed([file(1), lambda: file(2), file(3)]))
    assert (one.image_ids, one.encoder_digest, one.vectors.tolist()) == (("secret-7",), DIGEST, [[7, 1]])
    assert several.vectors[:, 0].tolist() == [1, 2, 3]
    assert several.region_logits is None
    assert [call.rows for call in server.calls] == [1, 3]


@both
def test_nothing_gives_nothing(kind: str) -> None:
    server = FakeServer()
    empty = ask_client(kind, server, lambda client: client.embed([]))
    assert (empty.vectors.shape, empty.vectors.dtype, empty.encoder_digest) == ((0, 2), np.float32, DIGEST)
    assert not server.calls


@both
def test_many_are_cut_into_requests_a_server_takes(kind: str) -> None:
    server = FakeServer()
    found = ask_client(kind, server, lambda client: client.embed([file(number) for number in range(70)]))
    assert [call.rows for call in server.calls] == [32, 32, 6]
    assert found.vectors[:, 0].tolist() == list(range(70))
    assert found.image_ids[69] == "secret-69"
    assert len({call.request for call in server.calls}) == 3


def test_large_images_share_no_request() -> None:
    large = RadiographFile("large", bytes(REQUEST_BYTES // 2), boxes())
    huge = RadiographFile("huge", bytes(REQUEST_BYTES + 1), boxes())
    sizes = [[one.image_id for one in request] for request in cut([large, large, large, huge, large])]
    assert sizes == [["large", "large"], ["large"], ["huge"], ["large"]]


@both
def test_the_server_is_not_told_whose_image_it_is(kind: str) -> None:
    server = FakeServer()
    ask_client(kind, server, lambda client: client.embed(file(7)))
    (call,) = server.calls
    assert set(call.inputs) == {"image", "boxes"}
    assert "secret" not in repr((call.inputs, call.request, call.model))
    assert len(call.request) == 16
    assert int(call.request, 16) >= 0


@both
def test_findings_are_probabilities_by_name(kind: str) -> None:
    found = ask_client(kind, FakeServer(), lambda client: client.findings(file(7)))
    assert found == dict.fromkeys(Finding.labels(), 0.5)


def test_pixels_travel_without_loss() -> None:
    pixels = np.arange(12000, dtype=np.uint32).reshape(120, 100).astype(np.uint8)
    sent = as_file(Radiograph("a", pixels, boxes()))
    np.testing.assert_array_equal(sent.decode().pixels, pixels)
    with pytest.raises(InvalidSetting, match="a str where a RadiographFile or a Radiograph is needed"):
        as_file("a.jpg")  # type: ignore[arg-type]


@both
@pytest.mark.parametrize(("given", "said"), [(b"\xff\xd8", "bytes"), (bytearray(b"P5"), "bytes"), ("a.jpg", "a str")])
def test_what_is_no_source_is_named(kind: str, given: Any, said: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{said} where a RadiographFile .*image_id, content, boxes"):
        ask_client(kind, FakeServer(), lambda client: client.embed(given))


@both
def test_only_what_is_unavailable_is_asked_again(kind: str) -> None:
    server = FakeServer(ServerUnavailable("gone"), Overloaded("full"), ServerUnavailable("gone"))
    found = ask_client(kind, server, lambda client: client.embed(file(7)), connection=AT_ONCE)
    assert found.vectors[0, 0] == 7
    assert Counter(call.request for call in server.calls).most_common()[0][1] == 4
    assert server.timeouts_s == sorted(server.timeouts_s, reverse=True)


@both
@pytest.mark.parametrize("error", [RequestRefused, UnknownModel, ServerFailed, DeadlineExpired, UntrustedServer])
def test_other_errors_are_raised_at_once(kind: str, error: type[ServingError]) -> None:
    server = FakeServer(error("words of the server"))
    with pytest.raises(error, match="words of the server") as raised:
        ask_client(kind, server, lambda client: client.embed([file(1), file(2)]), connection=AT_ONCE)
    (call,) = server.calls
    assert raised.value.request == call.request
    assert str(raised.value).endswith(f"(request {call.request}, images secret-1, secret-2)")
    assert raised.value.__suppress_context__


@both
def test_a_server_that_stays_away_is_given_up(kind: str) -> None:
    server = FakeServer(*[ServerUnavailable("gone")] * 9)
    with pytest.raises(
        ServerUnavailable, match=r"gone \(request \w+, images secret-0, secret-1, secret-2 and 2 more\)"
    ):
        ask_client(kind, server, lambda client: client.embed(list(map(file, range(5)))), connection=AT_ONCE)
    assert len(server.calls) == 4


@both
def test_a_retry_reads_anew_which_encoder_answers(kind: str) -> None:
    class Restarted(FakeServer):
        def infer(self, call: Any, timeout_s: float) -> Any:
            try:
                return super().infer(call, timeout_s)
            except ServerUnavailable:
                new = ModelDescription("chextriev_v6", OUTPUTS, {"encoder_digest": "e" * 64})
                self.models["chextriev_v6"] = new
                raise

    server = Restarted(ServerUnavailable("gone"))
    found = ask_client(kind, server, lambda client: client.embed(file(7)), connection=AT_ONCE)
    assert found.encoder_digest == "e" * 64
    assert server.described == ["chextriev_v6"] * 2


@both
@pytest.mark.parametrize(("concurrency", "batch"), [(1, 1), (3, 1), (2, 4)])
def test_a_stream_keeps_order_and_bounds(kind: str, concurrency: int, batch: int) -> None:
    server, pulled, seen = FakeServer(), [], []

    def sources() -> Iterator[Callable[[], RadiographFile]]:
        for number in range(40):
            pulled.append(number)
            assert len(pulled) - len(seen) <= (2 * concurrency + 1) * batch
            yield lambda number=number: file(number)

    def consume(client: Any) -> Any:
        stream = client.stream(sources(), concurrency=concurrency, batch=batch)
        return _noting(stream, seen) if kind == "threads" else _noting_async(stream, seen)

    parts = ask_client(kind, server, consume)
    assert [int(number) for part in parts for number in part.vectors[:, 0]] == list(range(40))
    assert server.most_running <= concurrency
    assert {call.rows for call in server.calls} == {batch}


def _noting(stream: Iterator[Any], seen: list[Any]) -> Iterator[Any]:
    for part in stream:
        seen.extend(part.image_ids)
        yield part


async def _noting_async(stream: AsyncIterator[Any], seen: list[Any]) -> AsyncIterator[Any]:
    async for part in stream:
        seen.extend(part.image_ids)
        yield part


@both
def test_a_stream_raises_in_the_place_of_the_refused(kind: str) -> None:
    seen: list[Any] = []

    def consume(client: Any) -> Any:
        stream = client.stream(map(file, [0, 1, 2, -1, 4]), concurrency=2)
        return _noting(stream, seen) if kind == "threads" else _noting_async(stream, seen)

    with pytest.raises(RequestRefused, match=r"every pixel is equal \(request \w+, image secret--1\)"):
        ask_client(kind, FakeServer(), consume)
    assert seen == ["secret-0", "secret-1", "secret-2"]


@both
@pytest.mark.parametrize("batch", [1, 3])
def test_answers_go_on_after_the_refused(kind: str, batch: int) -> None:
    def unreadable() -> RadiographFile:
        return RadiographFile.from_path("nowhere.png", boxes())

    sources = [file(0), file(-1), unreadable, file(3), file(4)]
    found = ask_client(kind, FakeServer(), lambda client: client.answers(sources, concurrency=2, batch=batch))
    assert [answer.position for answer in found] == [0, 1, 2, 3, 4]
    assert [answer.image_id for answer in found] == ["secret-0", "secret--1", None, "secret-3", "secret-4"]
    assert [type(answer.error) for answer in found] == [type(None), RequestRefused, MissingFile, type(None), type(None)]
    assert numbers([answer.embeddings for answer in found if answer.error is None]) == [0, 3, 4]
    assert all(answer.embeddings is None for answer in found if answer.error is not None)


@both
def test_answers_do_not_hide_errors_of_others(kind: str) -> None:
    def broken() -> RadiographFile:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_client(kind, FakeServer(), lambda client: client.answers([file(0), broken]))


def test_a_stream_left_halfway_pulls_no_more() -> None:
    pulled = count()
    with Client(FakeServer()) as client, closing(client.stream(map(file, pulled), concurrency=2)) as stream:
        assert numbers(list(islice(stream, 3))) == [0, 1, 2]
    assert next(pulled) <= 8


def test_an_asynchronous_stream_left_halfway_leaves_no_task() -> None:
    async def live() -> AsyncIterator[RadiographFile]:
        for number in count():
            yield file(number)

    async def main() -> None:
        async with AsyncClient(Threaded(FakeServer())) as client:
            async with aclosing(client.stream(live(), concurrency=2)) as stream:
                assert numbers([await anext(stream), await anext(stream)]) == [0, 1]
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_live_source_holds_back_no_answer() -> None:
    async def main() -> None:
        more = asyncio.Event()

        async def live() -> AsyncIterator[RadiographFile]:
            yield file(0)
            await more.wait()
            yield file(1)

        async with AsyncClient(Threaded(FakeServer())) as client:
            found = []
            async for part in client.stream(live(), concurrency=2):
                found.append(part)
                more.set()
            assert numbers(found) == [0, 1]

    asyncio.run(main())


@both
@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"batch": 0}, {"batch": 33}])
def test_a_stream_needs_sensible_settings(kind: str, settings: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="concurrency is at least 1, batch 1 to 32"):
        ask_client(kind, FakeServer(), lambda client: client.stream([file(0)], **settings))


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


@both
def test_a_deadline_covers_all_requests_of_a_call(kind: str) -> None:
    class Slow(FakeServer):
        def infer(self, call: Any, timeout_s: float) -> Any:
            found = super().infer(call, timeout_s)
            threading.Event().wait(timeout_s)  # until the deadline, whatever the machine does meanwhile
            return found

    server = Slow()
    with pytest.raises(DeadlineExpired, match=r"no answer within 0\.05 s \(total_s\); .* \(request \w+, image"):
        ask_client(kind, server, lambda client: client.embed(list(map(file, range(40))), deadline=Deadline(0.05)))
    assert len(server.calls) == 1


def test_a_closed_client_says_so_and_closes_once() -> None:
    server = FakeServer()
    client = Client(server)
    client.embed(file(0))
    client.close()
    client.close()
    assert server.closed == 1
    with pytest.raises(InvalidSetting, match="this client is closed; open another one"):
        client.embed(file(0))


def test_closing_ends_the_pause_before_a_retry() -> None:
    asked, server = threading.Event(), FakeServer(*[ServerUnavailable("gone")] * 4)

    class Announcing(FakeServer):
        def infer(self, call: Any, timeout_s: float) -> Any:
            asked.set()
            return server.infer(call, timeout_s)

    pausing = Connection(retry=RetryPolicy(first_s=10_000, cap_s=10_000))
    client = Client(Announcing(), connection=pausing, deadline=Deadline(total_s=1e9))
    raised: list[BaseException] = []

    def embed() -> None:
        try:
            client.embed(file(0))
        except InvalidSetting as error:
            raised.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    assert asked.wait(10)
    client.close()
    thread.join(10)
    assert "closed" in str(raised[0])


def test_threads_share_a_client() -> None:
    server, found = FakeServer(), dict[int, int]()

    def work(number: int) -> None:
        found[number] = int(client.embed(file(number)).vectors[0, 0])

    with Client(server) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: number for number in range(20)}


def test_importing_the_client_is_light() -> None:
    heavy = "torch", "faiss", "pytorch_lightning", "onnx", "onnxruntime", "pyarrow", "tritonclient", "grpc", "aiohttp"
    code = f"import sys, chextriev.serving.client; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    from chextriev.serving import client

    assert all(hasattr(client, name) for name in client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = client.Clint  # type: ignore[attr-defined]
