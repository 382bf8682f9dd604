"""What `tritonserver` is told when it starts: loopback alone, models by name, no more of the machine than it needs."""

import errno
import socket
from contextlib import ExitStack
from pathlib import Path

from chextriev.errors import ServerNotStarted
from chextriev.serving.environment import ServerEnvironment

LOOPBACK = "127.0.0.1"
TAKEN = "already in use"
"""What Triton and we say of a port that is."""
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
    files in a request. Triton takes it on its command line alone, which every user of this machine can read: it keeps
    out browsers and mistakes, not local users.
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
    """The wanted ports, with one that is free now in place of each 0; ServerNotStarted where a wanted one is taken."""
    with ExitStack() as stack:
        bound = [_bind(stack.enter_context(socket.socket()), port) for port in wanted]
    grpc, http, metrics = bound
    return grpc, http, metrics


def port_taken(port: int) -> ServerNotStarted:
    """The error that names the port."""
    return ServerNotStarted(f"port {port} of {LOOPBACK} is {TAKEN}; choose another, or 0 for a free one")


def _bind(opened: socket.socket, port: int) -> int:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Triton does: a closed connection is no obstacle
    try:
        opened.bind((LOOPBACK, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_taken(port) from None
        raise ServerNotStarted(f"port {port} of {LOOPBACK}: {error.strerror}; choose another") from None
    return int(opened.getsockname()[1])
