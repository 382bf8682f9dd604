"""Thousands of malformed requests over gRPC and HTTP: each is answered, and the server stays as it was."""

import http.client
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from chextriev.radiograph_file import RadiographFile
from chextriev.serving.local_server import LocalServer
from chextriev.serving.repository import build_repository
from chextriev.serving.wire import canary, ensemble_name, request_tensors
from tests.serving.served import Served
from tests.serving.stock import stock_client, stock_infer

REQUESTS = (1_000, pytest.param(5_000, marks=pytest.mark.slow))
GROWTH = 64 * 2**20
"""Bytes that the server and its models may grow by, all together."""
NOT_READ = re.compile(rb'^."error":"(Unable to|failed to) parse ')
_DTYPES = ("BYTES", "FP32", "UINT8", "INT64", "FP64", "BOOL", "FP16", "BF16", "", "float32", "\x00", "Å" * 40)
_NAMES = ("image", "boxes", "embedding", "", "image\x00", "../../etc/passwd", "crops", "a" * 5_000)
_SHAPES = ([1, 1], [1, 18, 4], [0, 1], [-1, 1], [2**40, 1], [2**62, 4, 4], [], [1], [1] * 40, [32, 18, 4], [33, 1])


@pytest.fixture(scope="module")
def victim(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server of its own, whose memory nobody else moves."""
    out = tmp_path_factory.mktemp("victim") / "models"
    build_repository([served.bundle], out)
    with LocalServer(out) as server:
        yield server


def memory_of(server: LocalServer) -> int:
    """Bytes of the server's processes that are theirs alone, or their share of what they share (PSS)."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if str(server.repository) in (folder / "cmdline").read_text(errors="replace"):
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # no process, or one that has ended
            continue
    assert total > 0
    return total


def random_image(draw: random.Random, file: RadiographFile) -> bytes:
    """A file with some bytes changed, cut or repeated, or noise."""
    content = bytearray(file.content)
    kind = draw.randrange(5)
    if kind == 0:
        return draw.randbytes(draw.randrange(3_000))
    if kind == 1:
        return bytes(content[: draw.randrange(len(content))])
    for _ in range(draw.randrange(1, 30)):
        content[draw.randrange(len(content) if kind == 2 else 200)] = draw.randrange(256)
    return bytes(content * 2 if kind == 4 else content)


def packed(content: bytes) -> bytes:
    """As Triton writes an element of bytes: its length, then it."""
    return len(content).to_bytes(4, "little") + content


def random_boxes(draw: random.Random, file: RadiographFile) -> np.ndarray[Any, np.dtype[np.float32]]:
    boxes = file.boxes.xyxy.copy()
    for _ in range(draw.randrange(4)):
        value = draw.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -1.0, 5e4, 1e-40])
        boxes[draw.randrange(18), draw.randrange(4)] = value
    return boxes


def grpc_request(draw: random.Random, model: str, file: RadiographFile) -> messages.ModelInferRequest:
    """A request that is well formed but for some things; seldom wholly."""
    request = messages.ModelInferRequest(model_name=model, id=str(draw.random()))
    contents = [packed(random_image(draw, file)), random_boxes(draw, file).tobytes()]
    for name, kind, shape in (("image", "BYTES", [1, 1]), ("boxes", "FP32", [1, 18, 4])):
        spoiled = draw.random() < 0.3
        request.inputs.add(
            name=draw.choice(_NAMES).replace("\x00", "") if spoiled else name,
            datatype=draw.choice(_DTYPES) if spoiled and draw.random() < 0.5 else kind,
            shape=draw.choice(_SHAPES) if spoiled and draw.random() < 0.5 else shape,
        )
    if draw.random() < 0.2:
        contents[draw.randrange(2)] = draw.randbytes(draw.randrange(500))
    if draw.random() < 0.1:
        contents.append(draw.randbytes(9))
    if draw.random() < 0.1:
        contents.pop()
    if draw.random() < 0.1:
        request.model_version = draw.choice(["-1", "0", "999999999999999999999", "x"])
    if draw.random() < 0.1:
        request.outputs.add(name=draw.choice(_NAMES).replace("\x00", ""))
    if draw.random() < 0.1:
        parameter = request.parameters[draw.choice(["timeout", "priority", "sequence_id", "binary_data_output", "x"])]
        parameter.int64_param = draw.choice([-(2**62), -1, 0, 2**62])
    request.raw_input_contents.extend(contents)
    return request


def http_body(draw: random.Random, file: RadiographFile) -> tuple[bytes, dict[str, str]]:
    """A body and its headers: JSON with binary data behind it, spoiled in one way or another."""
    image, boxes = packed(random_image(draw, file)), random_boxes(draw, file).tobytes()
    tensors = [
        {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(image)}},
        {"name": "boxes", "shape": [1, 18, 4], "datatype": "FP32", "parameters": {"binary_data_size": len(boxes)}},
    ]
    for tensor in tensors:
        if draw.random() < 0.4:
            key = draw.choice(list(tensor))
            tensor[key] = draw.choice(
                [*_NAMES, *_SHAPES, *_DTYPES, None, -1, 2**63, {}, [[]], {"binary_data_size": -1}]
            )
    header = json.dumps({"inputs": tensors if draw.random() < 0.9 else draw.choice([None, 3, {}, [], "x"])}).encode()
    if draw.random() < 0.2:
        spoiled = bytearray(header)
        spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        header = bytes(spoiled)
    length = len(header) if draw.random() < 0.8 else draw.choice([-1, 0, 1, 2**40, len(header) + len(image)])
    return header + image + boxes, {"Inference-Header-Content-Length": str(length)}


def ask_over_grpc(server: LocalServer, model: str, file: RadiographFile, count: int) -> Counter[str]:
    draw, found = random.Random(0), Counter[str]()
    with grpc.insecure_channel(server.grpc) as channel:
        service = services.GRPCInferenceServiceStub(channel)
        for _ in range(count):
            try:
                service.ModelInfer(grpc_request(draw, model, file), timeout=60)
                found["answered"] += 1
            except grpc.RpcError as error:
                found[error.code().name] += 1  # type: ignore[attr-defined]
    return found


def ask_over_http(server: LocalServer, model: str, file: RadiographFile, count: int) -> Counter[str]:
    draw, found = random.Random(1), Counter[str]()
    connection = http.client.HTTPConnection(server.http, timeout=60)
    for _ in range(count):
        body, headers = http_body(draw, file)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body, headers)
            answer = connection.getresponse()
            words = answer.read()
            unread = answer.status == 500 and NOT_READ.search(words)  # Triton's status for JSON that it cannot read
            found["answered" if answer.status == 200 else "400" if unread else str(answer.status)] += 1
        except (http.client.HTTPException, ConnectionError):  # the server may hang up on what is no request
            connection.close()
            found["hung up"] += 1
    connection.close()
    return found


@pytest.mark.parametrize("count", REQUESTS)
def test_malformed_requests_leave_the_server_as_it_was(served: Served, victim: LocalServer, count: int) -> None:
    model, file = ensemble_name(served.bundle.card.system), served.files[0]
    ask_over_grpc(victim, model, file, 100)  # what a server takes once: buffers, arenas
    ask_over_http(victim, model, file, 100)
    before = memory_of(victim)
    found = {
        "grpc": ask_over_grpc(victim, model, file, count // 2),
        "http": ask_over_http(victim, model, file, count // 2),
    }
    with stock_client("grpc", victim.grpc) as client:
        answer = stock_infer(client, model, request_tensors([canary()])).as_numpy("embedding")
    np.testing.assert_array_equal(answer, served.encoder.encode([canary().decode()]).vectors)
    assert memory_of(victim) - before < GROWTH
    for protocol, counts in found.items():
        assert counts.total() == count // 2
        assert counts["answered"] < count // 4, f"{protocol}: most requests should be malformed: {counts}"
    assert set(found["grpc"]) <= {"answered", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "UNIMPLEMENTED"}, found
    assert set(found["http"]) <= {"answered", "400", "404", "503", "hung up"}, found
