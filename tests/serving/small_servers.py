"""Small real servers of Triton's protocols that answer what a test tells them to."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

Answer = Callable[[Any, grpc.ServicerContext], Any]


class SmallTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`chextriev_v6` with an embedding of one number. answer: in place of its own, gets the request and the context."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's name
        if request.name != "chextriev_v6":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        config = model_config_pb2.ModelConfig(name=request.name, max_batch_size=32)
        config.output.add(name="embedding", data_type=model_config_pb2.DataType.TYPE_FP32, dims=[1])
        config.output.add(name="finding_logits", data_type=model_config_pb2.DataType.TYPE_FP32, dims=[9])
        config.parameters["encoder_digest"].string_value = "d" * 64
        return service_pb2.ModelConfigResponse(config=config)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        index = service_pb2.RepositoryIndexResponse()
        index.models.add(name="chextriev_v6", state="READY")
        index.models.add(name="broken", state="UNAVAILABLE")
        return index

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.requests.append(request)
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata()})
        return self._answer(request, context) if self._answer else embedding_answer(1)


def embedding_answer(rows: int) -> Any:
    """Zeros."""
    answer = service_pb2.ModelInferResponse()
    for name, width in (("embedding", 1), ("finding_logits", 9)):
        answer.outputs.add(name=name, datatype="FP32", shape=[rows, width])
        answer.raw_output_contents.append(np.zeros((rows, width), np.float32).tobytes())
    return answer


@contextmanager
def served_grpc(servicer: SmallTriton, port: int = 0) -> Iterator[tuple[str, grpc.Server]]:
    """The address of a server of this, and the server."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{bound}", server
    finally:
        server.stop(None).wait()


@contextmanager
def served_http(status: int, body: bytes, *, hold: threading.Event | None = None) -> Iterator[str]:
    """A server that answers a model's configuration, and every inference with this; hold: only when it is set."""
    config = {
        "name": "chextriev_v6",
        "output": [
            {"name": "embedding", "data_type": "TYPE_FP32", "dims": [1]},
            {"name": "finding_logits", "data_type": "TYPE_FP32", "dims": [9]},
        ],
        "parameters": {"encoder_digest": {"string_value": "d" * 64}},
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, json.dumps(config).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if hold is not None:
                hold.wait(30)
            self._send(status, body)

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        if hold is not None:
            hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
