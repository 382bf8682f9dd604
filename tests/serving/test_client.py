"""Both clients on a server in a few lines: what is asked, tried again, cut, ordered and said."""

import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from chextriev.anatomy import Finding
from chextriev.errors import (
    DeadlineExpired,
    InputError,
    InvalidSetting,
    MissingFile,
    Overloaded,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UnknownModel,
    UnreadableImage,
    UntrustedServer,
)
from chextriev.radiograph import Radiograph
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import (
    Client,
    Connection,
    Deadline,
    ModelDescription,
    RetryPolicy,
)
from chextriev.serving.client.sources import REQUEST_BYTES, as_file, cut
from tests.serving.fake_server import AT_ONCE, DIGEST, OUTPUTS, FakeServer, ask_client, both, file
from tests.tiny import boxes


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


@both
@pytest.mark.parametrize(
    ("given", "kind_of_error", "said"),
    [
        (b"\xff\xd8", UnreadableImage, "not a readable JPEG or PNG image, nor DICOM"),
        (bytearray(b"text"), UnreadableImage, "not a readable JPEG or PNG image, nor DICOM"),
        ("no/such.jpg", MissingFile, r"no/such.jpg: .*; give a DICOM, JPEG or PNG file"),
        (7, InvalidSetting, "a int where a radiograph is needed; give the path or the bytes of"),
        (None, InvalidSetting, "a NoneType where a radiograph is needed"),
    ],
)
def test_what_is_no_source_is_named(kind: str, given: Any, kind_of_error: type[InputError], said: str) -> None:
    server = FakeServer()
    with pytest.raises(kind_of_error, match=said):
        ask_client(kind, server, lambda client: client.embed(given))
    assert not server.calls


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
def test_a_deadline_covers_all_requests_of_a_call(kind: str) -> None:
    class Slow(FakeServer):
        def infer(self, call: Any, timeout_s: float) -> Any:
            found = super().infer(call, timeout_s)
            threading.Event().wait(timeout_s)  # until the deadline, whatever the machine does meanwhile
            return found

    server = Slow()
    with pytest.raises(DeadlineExpired, match=r"no answer within 1 s \(total_s\); .* \(request \w+, image"):
        ask_client(kind, server, lambda client: client.embed(list(map(file, range(40))), deadline=Deadline(1)))
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
