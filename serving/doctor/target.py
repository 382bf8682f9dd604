"""The deployment under examination, and requests to it that always end."""

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from chextriev.errors import InvalidSetting, MissingFile
from chextriev.optional import require
from chextriev.serving.doctor.plain_http import HttpAnswer, http_request

REFUSED = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"})
"""Codes by which a proxy in front of a server closes an interface."""
SILENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "CANCELLED"})
"""Codes that gRPC gives by itself where no server answered."""
FORBIDDEN = "is not allowed"
"""In the words with which Triton refuses to load a model unless it was started for that."""
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True)
class Target:
    """Where the deployment is and how it is reached.

    ca: the authority that signed the server's certificate, where this machine does not know it; certificate and key:
    the client's own, for mutual TLS. system: the encoder to try; None for every one that is served. timeout_s: the
    deadline of each request.
    """

    host: str
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    system: str | None = None
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.host or any(letter in self.host for letter in "/ @"):
            raise InvalidSetting(f"host {self.host!r}; a name or an address is needed, without scheme, port or path")
        for port in (self.grpc_port, self.http_port, self.metrics_port):
            if not 0 < port <= 65_535:
                raise InvalidSetting(f"port {port}; 1 to 65535")
        if (self.certificate is None) != (self.key is None):
            raise InvalidSetting("a client's certificate and its key go together; give both or neither")
        if not 0 < self.timeout_s <= 600:
            raise InvalidSetting(f"timeout_s is {self.timeout_s}; above 0 and at most 600 s")

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC."""
        return f"[{self.host}]:{self.grpc_port}" if ":" in self.host else f"{self.host}:{self.grpc_port}"


@dataclass(frozen=True)
class Answer:
    """What came of a gRPC request: the name of its status code, the status message, and the message where it is OK."""

    code: str
    words: str = ""
    message: Any = None

    @property
    def restricted(self) -> bool:
        """Whether the interface is closed to us, by Triton or by a proxy."""
        return self.code in REFUSED or (self.code == "UNAVAILABLE" and "is restricted" in self.words)

    @property
    def silent(self) -> bool:
        """Whether no server answered at all."""
        return self.code in SILENT and not self.restricted and not self.forbidden

    @property
    def forbidden(self) -> bool:
        """Whether the server's mode of model control rules the request out."""
        return FORBIDDEN in self.words

    def __str__(self) -> str:
        return self.code if not self.words else f"{self.code}: {shorten(self.words)}"


@dataclass
class Session:
    """A deployment in examination: its gRPC channels, and every message that it refused something with."""

    target: Target
    channels: dict[str, Any] = field(default_factory=dict)
    tls: Answer = Answer("")
    plain: Answer = Answer("")
    refusals: list[str] = field(default_factory=list)
    no_http: HttpAnswer | None = None

    def __enter__(self) -> "Session":
        grpc = require("grpc", extra="client")
        self.channels = {
            "tls": grpc.secure_channel(self.target.address, _credentials(grpc, self.target), options=_UNLIMITED),
            "plain": grpc.insecure_channel(self.target.address, options=_UNLIMITED),
        }
        self.tls, self.plain = self.ask("ServerMetadata", {}, via="tls"), self.ask("ServerMetadata", {}, via="plain")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for channel in self.channels.values():
            channel.close()

    @property
    def best(self) -> Answer:
        """The answer to the first question, over TLS if that works."""
        return self.plain if self.tls.silent and not self.plain.silent else self.tls

    @property
    def reached(self) -> bool:
        """Whether a Triton answers gRPC."""
        return self.best.code == "OK" or (self.best.code == "UNAVAILABLE" and self.best.restricted)

    def ask(self, method: str, fields: dict[str, Any], *, via: str = "", compressed: bool = False) -> Answer:
        """Call a method of Triton's gRPC service with a message of these fields; no answer in time is an answer too."""
        grpc = require("grpc", extra="client")
        messages = require("tritonclient.grpc.service_pb2", extra="client")
        service = require("tritonclient.grpc.service_pb2_grpc", extra="client")
        channel = self.channels[via or ("plain" if self.best is self.plain else "tls")]
        call = getattr(service.GRPCInferenceServiceStub(channel), method)
        request = getattr(messages, f"{method}Request")(**fields)
        squeeze = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        try:
            return Answer("OK", message=call(request, timeout=self.target.timeout_s, compression=squeeze))
        except grpc.RpcError as error:
            answer = Answer(error.code().name, error.details() or "")
        if not answer.silent:
            self.refusals.append(answer.words)
        return answer

    def http(self, verb: str, path: str, body: bytes = b"") -> HttpAnswer:
        """A plain HTTP request; the first that finds no server there answers for all that follow."""
        if self.no_http is not None:
            return self.no_http
        address = (self.target.host, self.target.http_port)
        answer = http_request(address, f"{verb} {path}", body, {}, timeout_s=self.target.timeout_s)
        if answer.status == 0:
            self.no_http = answer
        elif answer.status >= 400:
            self.refusals.append(answer.text)
        return answer


def shorten(words: str, limit: int = 160) -> str:
    """A server's words on one line, cut."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _credentials(grpc: Any, target: Target) -> Any:
    return grpc.ssl_channel_credentials(*(_read(path) for path in (target.ca, target.key, target.certificate)))


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingFile(f"{path}: {error.strerror}; give a PEM file") from None
    if b"-----BEGIN " not in content:
        raise InvalidSetting(f"{path} is not a PEM file")
    return content
