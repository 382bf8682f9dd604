"""How a client reaches its server: address, certificates, keep-alive, headers, retries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from chextriev.errors import InvalidSetting
from chextriev.serving.client.retry import RetryPolicy
from chextriev.serving.client.tls import Tls

if TYPE_CHECKING:
    from chextriev.serving.client.transport import AsyncTransport, Transport

SCHEMES = ("grpc", "grpcs", "http", "https", "shm")


@dataclass(frozen=True)
class KeepAlive:
    """When gRPC asks an idle connection for a sign of life.

    time_s: of silence before it asks; Triton refuses clients that ask more than once in 300 s. timeout_s: until the
    connection counts as broken. without_calls: ask also while no request is on its way.
    """

    time_s: float = 310.0
    timeout_s: float = 20.0
    without_calls: bool = False

    def __post_init__(self) -> None:
        for name, value in (("time_s", self.time_s), ("timeout_s", self.timeout_s)):
            if not 0 < value < 2_000_000:
                raise InvalidSetting(f"{name} is {value}; seconds above 0 are needed")


@dataclass(frozen=True)
class Connection:
    """How a client reaches its server and holds on to it.

    tls: certificates, or None for a connection in the clear (grpcs:// and https:// use the system's authorities).
    headers: sent with every request, as those of a proxy or of Triton's restricted protocols. sockets: requests that
    HTTP and shared memory have on their way at once; gRPC needs one connection for all.
    """

    tls: Tls | None = None
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    headers: Mapping[str, str] = field(default_factory=dict)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    sockets: int = 16

    def __post_init__(self) -> None:
        if self.sockets < 1:
            raise InvalidSetting(f"sockets is {self.sockets}; at least 1 is needed")


def open_transport(address: str, connection: Connection) -> "Transport":
    """The transport for `HOST:PORT` (gRPC), grpc://, grpcs://, shm:// (gRPC and shared memory of this host), http://
    or https://; InvalidSetting for any other address."""
    scheme, place = split_address(address, connection)
    if scheme == "shm":
        from chextriev.serving.client.shared_memory import SharedMemoryTransport

        return SharedMemoryTransport(place, connection)
    if scheme.startswith("http"):
        from chextriev.serving.client.adapters import Blocking
        from chextriev.serving.client.http_transport import AsyncHttpTransport

        return Blocking(address, lambda: AsyncHttpTransport(place, connection, tls=_tls(scheme, connection)))
    from chextriev.serving.client.grpc_transport import GrpcTransport

    return GrpcTransport(place, connection, tls=_tls(scheme, connection))


def open_async_transport(address: str, connection: Connection) -> "AsyncTransport":
    """`open_transport` for an event loop."""
    scheme, place = split_address(address, connection)
    if scheme == "shm":
        from chextriev.serving.client.adapters import Threaded
        from chextriev.serving.client.shared_memory import SharedMemoryTransport

        return Threaded(SharedMemoryTransport(place, connection), threads=connection.sockets)
    if scheme.startswith("http"):
        from chextriev.serving.client.http_transport import AsyncHttpTransport

        return AsyncHttpTransport(place, connection, tls=_tls(scheme, connection))
    from chextriev.serving.client.grpc_transport import AsyncGrpcTransport

    return AsyncGrpcTransport(place, connection, tls=_tls(scheme, connection))


def split_address(address: str, connection: Connection) -> tuple[str, str]:
    """Scheme and `HOST:PORT` (for HTTP also the path of a proxy) of an address."""
    parts = urlsplit(address if "://" in address else f"grpc://{address}")
    if parts.scheme not in SCHEMES or not _has_port(parts):
        raise InvalidSetting(
            f"address {address!r}; give HOST:PORT of the server's gRPC, or one of"
            f" {', '.join(f'{scheme}://HOST:PORT' for scheme in SCHEMES)}"
        )
    if parts.scheme in ("http", "shm") and connection.tls is not None:
        raise InvalidSetting(
            f"address {address!r} with Tls: Triton has no TLS on HTTP, and shared memory needs none; use"
            f" grpc://{parts.hostname}:8001, or https:// to a proxy before the server"
        )
    path = parts.path.rstrip("/") if parts.scheme.startswith("http") else ""
    return parts.scheme, parts.netloc + path


def _has_port(parts: SplitResult) -> bool:
    try:
        plain = not (parts.username or parts.query or parts.fragment)
        return bool(parts.hostname) and plain and (parts.port is not None or parts.scheme.startswith("http"))
    except ValueError:
        return False


def _tls(scheme: str, connection: Connection) -> Tls | None:
    return connection.tls or (Tls() if scheme in ("grpcs", "https") else None)
