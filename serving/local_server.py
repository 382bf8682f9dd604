"""A real Triton on this machine, on loopback alone, for as long as a `with` block or `chextriev serve` lasts."""

import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from chextriev.errors import InvalidSetting, ServerNotStarted
from chextriev.serving.canary import answers_canary, loaded_models
from chextriev.serving.environment import ServerEnvironment, server_environment

LOOPBACK = "127.0.0.1"
_ATTEMPTS = 3  # a port that was free may be taken by another before the server has it


@dataclass(frozen=True)
class ServerSettings:
    """How the local server runs.

    Ports: 0 takes a free one. start_timeout_s: until every ensemble has answered. environment: where the server's
    environment lies, in place of the user's cache.
    """

    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    start_timeout_s: float = 120.0
    environment: Path | None = None

    def __post_init__(self) -> None:
        for port in (self.grpc_port, self.http_port, self.metrics_port):
            if not 0 <= port <= 65_535:
                raise InvalidSetting(f"port {port}; 1 to 65535, or 0 for a free one")
        if self.start_timeout_s <= 0:
            raise InvalidSetting(f"start_timeout_s is {self.start_timeout_s}; more than 0 s is needed")


class LocalServer:
    """A Triton server of a model repository; use it in a `with` block.

    It is ready when every ensemble has answered a canary inference. ServerNotStarted says why it is not, with the last
    lines of its log.
    """

    def __init__(self, repository: str | Path, settings: ServerSettings | None = None) -> None:
        self.repository, self.settings = Path(repository).absolute(), settings or ServerSettings()
        self.models: tuple[str, ...] = ()
        self.ports = (0, 0, 0)
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def grpc(self) -> str:
        """HOST:PORT of gRPC."""
        return f"{LOOPBACK}:{self.ports[0]}"

    @property
    def http(self) -> str:
        """HOST:PORT of HTTP."""
        return f"{LOOPBACK}:{self.ports[1]}"

    @property
    def metrics(self) -> str:
        """HOST:PORT of the metrics."""
        return f"{LOOPBACK}:{self.ports[2]}"

    def __enter__(self) -> "LocalServer":
        with ExitStack() as stack:
            environment = server_environment(self.settings.environment)
            stack.enter_context(environment.held())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chextriev-server-")))
            names = model_names(self.repository)
            for attempt in range(_ATTEMPTS):
                self.ports = free_ports(self.settings.grpc_port, self.settings.http_port, self.settings.metrics_port)
                try:
                    self._start(environment, names, folder)
                    break
                except ServerNotStarted as error:
                    self._stop()
                    if attempt == _ATTEMPTS - 1 or "in use" not in str(error):
                        raise
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        self._stack.close()

    def _start(self, environment: ServerEnvironment, names: list[str], folder: Path) -> None:
        log = folder / "triton.log"
        prefix = f"chextriev{folder.name.rpartition('-')[2]}-"
        command = [str(environment.tritonserver), *arguments(self.repository, names, self.ports)]
        command += [f"--backend-directory={environment.backends}"]
        command += [f"--backend-config=python,shm-region-prefix-name={prefix}"]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment.variables(), cwd=folder
            )
        deadline = time.monotonic() + self.settings.start_timeout_s
        while not answers_canary(self.grpc):
            try:
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
            raise ServerNotStarted("the server did not start: " + log.read_text(errors="replace")[-2000:])
        self.models = loaded_models(self.grpc)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None


def model_names(repository: Path) -> list[str]:
    """Names of the models of a repository; ServerNotStarted where it is none."""
    names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt")) if repository.is_dir() else []
    if not names:
        raise ServerNotStarted(
            f"{repository} holds no model; give a model repository, as `chextriev export repository` writes"
        )
    return names


def arguments(repository: Path, names: list[str], ports: tuple[int, ...]) -> list[str]:
    """Options of `tritonserver`: loopback alone, the models named, no control by polling and no metrics of a GPU."""
    grpc, http, metrics = ports
    return [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in names),
        *(f"--{kind}-address={LOOPBACK}" for kind in ("grpc", "http", "metrics")),
        f"--grpc-port={grpc}",
        f"--http-port={http}",
        f"--metrics-port={metrics}",
        "--strict-readiness=false",
        "--exit-timeout-secs=5",
        "--allow-gpu-metrics=false",
        "--log-format=ISO8601",
    ]


def free_ports(*wanted: int) -> tuple[int, ...]:
    """The wanted ports, and a free one in place of each 0."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in wanted]
        for opened in sockets:
            opened.bind((LOOPBACK, 0))
        return tuple(port or int(opened.getsockname()[1]) for port, opened in zip(wanted, sockets, strict=True))
