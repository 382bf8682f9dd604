"""What `tritonserver` is told when it starts: loopback alone, models by name, no more of the machine than it needs."""

import socket
from contextlib import ExitStack
from pathlib import Path

from chextriev.errors import ServerNotStarted
from chextriev.serving.environment import ServerEnvironment

LOOPBACK = "127.0.0.1"
ADMIN = "chextriev-admin"
"""Header that opens the restricted protocols; in gRPC it begins with `triton-grpc-protocol-`."""
_RESTRICTED = "model-repository,logging,trace"


def model_names(repository: Path) -> list[str]:
    """Names of the models of a repository; ServerNotStarted where it has none."""
    names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt")) if repository.is_dir() else []
    if not names:
        raise ServerNotStarted(
            f"{repository} holds no model; give a model repository, as `chextriev export repository` writes it"
        )
    return names


def triton_command(
    environment: ServerEnvironment, repository: Path, names: list[str], *, ports: tuple[int, int, int], key: str
) -> list[str]:
    """The command line of `tritonserver`, but for the prefix of its shared memory.

    key: opens what would otherwise let any page in a browser on this machine have it run code: loading a model from
    files in a request.
    """
    kinds = ("grpc", "http", "metrics")
    return [
        str(environment.tritonserver),
        f"--model-repository={repository}",
        f"--backend-directory={environment.backends}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in names),
        *(f"--{kind}-address={LOOPBACK}" for kind in kinds),
        *(f"--{kind}-port={port}" for kind, port in zip(kinds, ports, strict=True)),
        f"--grpc-restricted-protocol={_RESTRICTED}:{ADMIN}={key}",
        f"--http-restricted-api={_RESTRICTED}:{ADMIN}={key}",
        "--strict-readiness=false",
        "--exit-timeout-secs=5",
        "--allow-gpu-metrics=false",
        "--log-format=ISO8601",
    ]


def free_ports(wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """The wanted ports, with one that is free now in place of each 0."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in wanted]
        for opened in sockets:
            opened.bind((LOOPBACK, 0))
        free = [int(opened.getsockname()[1]) for opened in sockets]
    grpc, http, metrics = (port or other for port, other in zip(wanted, free, strict=True))
    return grpc, http, metrics
