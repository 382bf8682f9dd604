"""How a local server runs."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.errors import InvalidSetting


@dataclass(frozen=True)
class ServerSettings:
    """How a local server runs.

    Ports: 0 takes a free one. start_timeout_s: until every ensemble has answered. state: a folder for its log, which
    one server has to itself; None for one that is removed with the server. log_bytes, log_files: where the log rotates,
    and how many older ones are kept. environment: where the server's environment lies, in place of the user's cache.
    watch_s: how often its processes are looked at. canary_s: how long nothing may be answered before a canary is sent;
    canary_timeout_s: until that must be answered.
    """

    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    start_timeout_s: float = 120.0
    state: Path | None = None
    log_bytes: int = 1_000_000
    log_files: int = 5
    environment: Path | None = None
    watch_s: float = 1.0
    canary_s: float = 30.0
    canary_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        ports = [port for port in self.ports if port]
        if not all(0 < port <= 65_535 for port in ports) or len(set(ports)) != len(ports):
            raise InvalidSetting(f"ports {self.ports}; each is its own, 1 to 65535, or 0 for a free one")
        if min(self.start_timeout_s, self.watch_s, self.canary_s, self.canary_timeout_s) <= 0:
            raise InvalidSetting(f"{self!r}: every time is above 0 s")
        if self.log_bytes < 1_000 or self.log_files < 1:
            raise InvalidSetting(f"{self!r}: log_bytes is at least 1000 and log_files at least 1")

    @property
    def ports(self) -> tuple[int, int, int]:
        """Of gRPC, HTTP and the metrics, as they were asked for."""
        return self.grpc_port, self.http_port, self.metrics_port
