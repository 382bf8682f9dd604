"""The server as the image starts it, but on this machine: the entry point, with its paths changed to ours.

gRPC listens on 127.0.0.2, which stands for the address that is published; HTTP and metrics listen on 127.0.0.1, which
stands for the inside of the container.
"""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from chextriev.bundle import open_bundle
from chextriev.serving.doctor.health import ailments
from chextriev.serving.doctor.target import Target
from chextriev.serving.environment import server_environment
from chextriev.serving.repository import build_repository
from chextriev.serving.triton_options import free_ports
from tests.export.tiny_bundle import TinyBundle

DOCKER = Path(__file__).parent.parent.parent / "docker"
OUTSIDE = "127.0.0.2"
START_S = 60.0


@dataclass(frozen=True)
class Production:
    """A server that the entry point started."""

    models: Path
    secrets: Path
    ports: tuple[int, int, int]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def key(self) -> str:
        """Of the restricted interfaces."""
        return (self.secrets / "admin.key").read_text().strip()

    def target(self, **options: object) -> Target:
        """As a client sees it."""
        grpc, http, metrics = self.ports
        ports = {"grpc_port": grpc, "http_port": http, "metrics_port": metrics}
        return Target(OUTSIDE, **{**ports, "ca": self.secrets / "ca.crt", **options})  # type: ignore[arg-type]


@contextmanager
def started(models: Path, folder: Path, *, mutual: bool = False) -> Iterator[Production]:
    """A server of a repository, ready when the health check of the image passes."""
    environment = server_environment()
    secrets, log, ports = folder / "secrets", folder / "triton.log", free_ports((0, 0, 0))
    make = runpy.run_path(str(DOCKER / "make_certificates.py"))["main"]
    make([str(secrets), "--name", OUTSIDE])
    settings = {
        "CHEXTRIEV_TRITON": str(environment.tritonserver),
        "CHEXTRIEV_MODELS": str(models),
        "CHEXTRIEV_SECRETS": str(secrets),
        "CHEXTRIEV_MUTUAL_TLS": str(int(mutual)),
    }
    command = [sys.executable, str(DOCKER / "entrypoint.py"), f"--backend-directory={environment.backends}"]
    command += [f"--{kind}-port={port}" for kind, port in zip(("grpc", "http", "metrics"), ports, strict=True)]
    command += [f"--grpc-address={OUTSIDE}", "--metrics-address=127.0.0.1", "--exit-timeout-secs=1"]
    memory = f"chextriev-production-{os.getpid()}-{ports[0]}-"
    command += [f"--backend-config=python,shm-region-prefix-name={memory}"]
    with environment.held(), log.open("wb") as stream:
        process = subprocess.Popen(
            command, env={**environment.variables(), **settings}, stdout=stream, stderr=stream, cwd=folder
        )
        try:
            await_health(process, models, ports[1], log)
            yield Production(models, secrets, ports, log, process)
        finally:
            process.terminate()
            process.wait(20)
            for left in Path("/dev/shm").glob(f"{memory}*"):  # of models that a test killed
                left.unlink()


def await_health(process: subprocess.Popen[bytes], models: Path, port: int, log: Path) -> None:
    """Return when the server answers; fail with its log if it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while ailments(models, port, timeout_s=5.0):
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
        pytest.fail("the server did not start: " + log.read_text(errors="replace")[-2000:])


@pytest.fixture(scope="session")
def ath_repository(ath: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model repository of a small ATH."""
    out = tmp_path_factory.mktemp("production") / "models"
    build_repository([open_bundle(ath.folder)], out)
    return out


@pytest.fixture(scope="session")
def production(ath_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """A real Triton behind the entry point, that serves a small ATH over TLS."""
    with started(ath_repository, tmp_path_factory.mktemp("production")) as server:
        yield server
