"""What goes over the wire and what comes back of it: real gRPC and HTTP, to small servers that fail as told."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from chextriev.errors import (
    ChextrievError,
    DeadlineExpired,
    InvalidSetting,
    Overloaded,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UnknownModel,
    UntrustedServer,
)
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import AsyncClient, Client, Connection, Deadline, RetryPolicy, Tls
from tests.serving.fake_server import file
from tests.serving.small_servers import SmallTriton, embedding_answer, served_grpc, served_http
from tests.tiny import boxes

ONCE = Connection(retry=RetryPolicy(tries=1))
AGAIN = Connection(retry=RetryPolicy(tries=50, first_s=0.02, cap_s=0.2))
Ask = Callable[[Any], Any]

both = pytest.mark.parametrize("kind", ["threads", "loop"])


def ask(kind: str, address: str, question: Ask, **settings: Any) -> Any:
    if kind == "threads":
        with Client(address, **settings) as client:
            return question(client)

    async def main() -> Any:
        async with AsyncClient(address, **settings) as client:
            found: Awaitable[Any] = question(client)
            return await found

    return asyncio.run(main())


def embed(client: Any) -> Any:
    return client.embed(file(1))


@both
@pytest.mark.parametrize(
    ("code", "words", "kind_of_error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'a', EmptyBox: image 0: no area", RequestRefused),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model", UnknownModel),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", Overloaded),
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", DeadlineExpired),
        (grpc.StatusCode.UNAVAILABLE, "the model is loading", ServerUnavailable),
        (grpc.StatusCode.INTERNAL, "ValueError: x\n\nAt:\n  /a/model.py(1): execute\n", ServerFailed),
        (grpc.StatusCode.UNKNOWN, 'Traceback (most recent call last):\n  File "/a/model.py"', ServerFailed),
    ],
)
def test_statuses_over_grpc(kind: str, code: grpc.StatusCode, words: str, kind_of_error: type[ServingError]) -> None:
    servicer = SmallTriton(lambda request, context: context.abort(code, words))
    with served_grpc(servicer) as (address, _), pytest.raises(ServingError) as raised:
        ask(kind, address, embed, connection=ONCE)
    (request,) = servicer.requests
    assert type(raised.value) is kind_of_error
    assert raised.value.request == request.id
    assert str(raised.value).endswith(f"(request {request.id}, image secret-1)")
    assert not {"Traceback", "model.py", "At:"} & set(str(raised.value).replace("/", " ").split())


@both
@pytest.mark.parametrize(
    ("status", "body", "kind_of_error"),
    [
        (400, b'{"error": "EmptyBox: image 0: no area"}', RequestRefused),
        (404, b'{"error": "Request for unknown model"}', UnknownModel),
        (503, b'{"error": "Exceeds maximum queue size"}', Overloaded),
        (503, b'{"error": "Request timeout expired"}', DeadlineExpired),
        (502, b"<html>bad gateway</html>", ServerUnavailable),
        (500, b'{"error": "ValueError: x\\n\\nAt:\\n  /a/model.py(1): execute"}', ServerFailed),
        (413, b"", RequestRefused),
        (200, b"", ServerFailed),
        (200, b"{}", ServerFailed),
        (200, b"[1]", ServerFailed),
        (200, b'{"outputs": [{"name": "embedding", "shape": [1, 7], "datatype": "FP32", "data": [1]}]}', ServerFailed),
        (200, b"\xff\xfe", ServerFailed),
    ],
)
def test_statuses_over_http(kind: str, status: int, body: bytes, kind_of_error: type[ServingError]) -> None:
    with served_http(status, body) as address, pytest.raises(ServingError, match=r"image secret-1\)$") as raised:
        ask(kind, address, embed, connection=ONCE)
    assert type(raised.value) is kind_of_error
    assert "model.py" not in str(raised.value)


@both
def test_a_request_says_when_it_expires_and_not_whose_it_is(kind: str) -> None:
    servicer = SmallTriton()
    with served_grpc(servicer) as (address, _):
        ask(kind, address, embed, deadline=Deadline(total_s=700), connection=Connection(headers={"x-key": "abc"}))
    (request,) = servicer.requests
    assert 600e6 < request.parameters["timeout"].int64_param <= 700e6
    assert servicer.metadata[0]["x-key"] == "abc"
    assert b"secret" not in request.SerializeToString()
    assert [(tensor.name, list(tensor.shape), tensor.datatype) for tensor in request.inputs] == [
        ("image", [1, 1], "BYTES"),
        ("boxes", [1, 18, 4], "FP32"),
    ]
    assert request.raw_input_contents[0] == b"\x01\x00\x00\x001"


@both
def test_an_unknown_model_names_those_there_are(kind: str) -> None:
    with (
        served_grpc(SmallTriton()) as (address, _),
        pytest.raises(
            UnknownModel,
            match=r"model: 'chextriev_v9' is not found; was .* with --index .*\?; the server has chextriev_v6 \(req",
        ),
    ):
        ask(kind, address, embed, system="v9")


@both
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_deadline_expires_while_the_server_thinks(kind: str, protocol: str) -> None:
    hold = threading.Event()

    def think(request: Any, context: grpc.ServicerContext) -> Any:
        hold.wait(30)
        return embedding_answer(1)

    with pytest.raises(DeadlineExpired, match=r"give more time .*\(request \w+, image secret-1\)"):
        if protocol == "grpc":
            with served_grpc(SmallTriton(think)) as (address, _):
                try:
                    ask(kind, address, embed, deadline=Deadline(total_s=1))
                finally:
                    hold.set()
        else:
            with served_http(200, b"", hold=hold) as address:
                ask(kind, address, embed, deadline=Deadline(total_s=1))


@both
def test_http_to_the_port_of_grpc_is_told_at_once(kind: str) -> None:
    with (
        served_grpc(SmallTriton()) as (address, _),
        pytest.raises(ServerFailed, match="not as Triton's HTTP does; is this its gRPC port"),
    ):
        ask(kind, f"http://{address}", embed, connection=ONCE)


@both
@pytest.mark.parametrize("scheme", ["grpc", "http", "shm"])
def test_nothing_answers(kind: str, scheme: str) -> None:
    with served_grpc(SmallTriton()) as (address, _):
        pass
    with pytest.raises(ServerUnavailable, match="is a server running there") as raised:
        ask(kind, f"{scheme}://{address}", embed, connection=ONCE)
    assert "secret-1" in str(raised.value)


@both
@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_server_in_the_clear_is_no_trusted_one(kind: str, scheme: str) -> None:
    with served_grpc(SmallTriton()) as (address, _), pytest.raises(UntrustedServer, match="check the address and the"):
        ask(kind, f"{scheme}://{address}", embed, connection=ONCE)


def test_shared_memory_that_the_server_refuses() -> None:
    class Remote(SmallTriton):
        def SystemSharedMemoryRegister(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Unable to open shared memory region: '/chextriev-client'")

    with (
        served_grpc(Remote()) as (address, _),
        pytest.raises(InvalidSetting, match=r"Unable to open .* shm:// needs a server on this host .* use grpc://"),
        Client(f"shm://{address}") as client,
    ):
        client.embed(file(1))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_closing_fails_what_is_on_its_way(protocol: str) -> None:
    hold, begun = threading.Event(), threading.Event()

    def think(request: Any, context: grpc.ServicerContext) -> Any:
        begun.set()
        hold.wait(30)
        return embedding_answer(1)

    class Held(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            begun.set()
            return super().wait(timeout)

    held, raised = Held(), list[ChextrievError]()
    with served_grpc(SmallTriton(think)) as (over_grpc, _), served_http(200, b"", hold=held) as over_http:
        client = Client(over_grpc if protocol == "grpc" else over_http)

        def embed() -> None:
            try:
                client.embed(file(1))
            except ChextrievError as error:
                raised.append(error)

        thread = threading.Thread(target=embed)
        thread.start()
        assert begun.wait(10)
        client.close()
        thread.join(10)
        assert not thread.is_alive()
        hold.set()
    assert "this client is closed" in str(raised[0])


def test_a_client_outlives_its_server() -> None:
    with served_grpc(SmallTriton()) as (address, _):
        client = Client(address, connection=AGAIN)
        client.embed(file(1))
    port = int(address.rpartition(":")[2])
    with pytest.raises(ServerUnavailable), Client(address, connection=ONCE) as other:
        other.embed(file(1))
    with client, served_grpc(SmallTriton(), port):
        assert client.embed(file(1)).image_ids == ("secret-1",)


def test_large_images_over_http_warn_of_nothing() -> None:
    large = RadiographFile("large", bytes(3 * 2**20), boxes())
    with (
        served_http(400, b'{"error": "EmptyImage"}') as address,
        pytest.raises(RequestRefused),
        Client(address) as client,
    ):
        client.embed(large)


def test_certificates_of_a_system_are_used_by_default() -> None:
    with pytest.raises(UntrustedServer, match="no certificates"), Client("https://a", connection=_bad_ca()) as client:
        client.embed(file(1))


def _bad_ca() -> Connection:
    return Connection(tls=Tls(ca=__file__))


def test_answers_arrive_in_any_number() -> None:
    servicer = SmallTriton(lambda request, context: embedding_answer(int(request.inputs[0].shape[0])))
    with served_grpc(servicer) as (address, _), Client(address) as client:
        assert len(client.embed([file(number) for number in range(40)])) == 40
    assert [json.loads(str(list(request.inputs[0].shape)))[0] for request in servicer.requests] == [32, 8]
