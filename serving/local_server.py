"""A real Triton on this machine, on loopback alone, for as long as a `with` block or `chextriev serve` lasts.

It is for a machine whose users trust one another: each of them reaches its ports and reads its key of administration.
A guardian process starts it, and outlives us by as long as it takes to end it; a thread of ours watches and mends it.
"""

import fcntl
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from chextriev.errors import ServerNotStarted
from chextriev.scratch import locked
from chextriev.serving.environment import server_environment
from chextriev.serving.guardian import GRACE_S
from chextriev.serving.leftovers import ServerProcess, reap_servers
from chextriev.serving.plain_path import is_plain
from chextriev.serving.server_lives import LOG_FILE, ServerLives, ServerPlace
from chextriev.serving.server_settings import ServerSettings as ServerSettings
from chextriev.serving.supervisor import ServerEvent, Supervisor
from chextriev.serving.triton_options import LOOPBACK

_LOCK_FILE = "server.lock"
_ENDING_S = GRACE_S + 2.0  # a guardian gives Triton the first, and needs a moment to clear away
_LOOK_S = 0.1


class LocalServer:
    """A Triton server of a model repository; use it in a `with` block, once.

    It is ready when every ensemble that takes an image has answered a canary inference; ServerNotStarted says why it is
    not.
    """

    def __init__(self, repository: str | Path, settings: ServerSettings | None = None) -> None:
        self.repository, self.settings = Path(repository).absolute(), settings or ServerSettings()
        self._stack = ExitStack()

    def __enter__(self) -> "LocalServer":
        with ExitStack() as stack:
            environment = server_environment(self.settings.environment)
            held = [stack.enter_context(environment.held())]
            self._folder = _temporary(stack) if self.settings.state is None else _own(self.settings.state, stack, held)
            reap_servers()
            repository = _plain_path(self.repository, stack)
            self._lives = ServerLives(ServerPlace(repository, environment, self._folder, tuple(held)), self.settings)
            stack.callback(self._lives.end)
            self._lives.start()
            supervisor = Supervisor(self._lives, self.settings)
            supervisor.start()
            stack.callback(supervisor.join)
            stack.callback(self._lives.end)  # a supervisor that waits for an answer gets none, and ends
            stack.callback(supervisor.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def grpc(self) -> str:
        """HOST:PORT of gRPC."""
        return f"{LOOPBACK}:{self._lives.ports[0]}"

    @property
    def http(self) -> str:
        """HOST:PORT of HTTP."""
        return f"{LOOPBACK}:{self._lives.ports[1]}"

    @property
    def metrics(self) -> str:
        """HOST:PORT of the metrics."""
        return f"{LOOPBACK}:{self._lives.ports[2]}"

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that it loaded."""
        return self._lives.models

    @property
    def ensembles(self) -> tuple[str, ...]:
        """Names of those that take a radiograph."""
        return self._lives.ensembles

    @property
    def admin(self) -> dict[str, str]:
        """Headers of gRPC for Triton's restricted protocols: lists of models and loading them, logging, tracing.

        Over HTTP their names lack `triton-grpc-protocol-`. They are closed to others, since any page in a browser on
        this machine could otherwise load a model of its own code.
        """
        return self._lives.admin

    @property
    def log(self) -> Path:
        """Its log, without anything that a request or an image holds."""
        return self._folder / LOG_FILE

    @property
    def events(self) -> tuple[ServerEvent, ...]:
        """What happened to it since it was started, oldest first."""
        return tuple(self._lives.events)

    @property
    def processes(self) -> tuple[ServerProcess, ...]:
        """Its living processes: Triton, and one or more of each model that runs in Python."""
        return tuple(self._lives.processes())

    def wait_event(self, number: int, timeout_s: float | None = None) -> ServerEvent | None:
        """The event of this number, counted from 0, when it happens; None where it does not within the time."""
        return self._lives.wait_event(number, timeout_s)

    def answers_canary(self) -> bool:
        """Whether every ensemble answers now."""
        return self._lives.answers()


def _temporary(stack: ExitStack) -> Path:
    """A folder that is removed at the end; where we are killed, the guardian removes it."""
    made = tempfile.TemporaryDirectory(prefix="chextriev-server-", ignore_cleanup_errors=True)
    return Path(stack.enter_context(made))


def _plain_path(repository: Path, stack: ExitStack) -> Path:
    """The repository, or a link to it, by a path that Triton can pass on."""
    if is_plain(repository) or not repository.is_dir():
        return repository
    link = _temporary(stack) / "models"
    link.symlink_to(repository)
    if not is_plain(link):
        raise ServerNotStarted(
            f"Triton takes no path with spaces; set TMPDIR to another folder than {link.parent.parent}"
        )
    return link


def _own(folder: Path, stack: ExitStack, held: list[int]) -> Path:
    """A folder that no other server uses now, as two could not write one log.

    Whoever starts a server locks a file in it and, with the guardian, the folder: of a starter that was killed the
    guardian may hold the folder for a while, and is waited for.
    """
    folder = folder.absolute()
    folder.mkdir(0o700, parents=True, exist_ok=True)
    lock = folder / _LOCK_FILE
    lock.touch(0o600)
    if not stack.enter_context(locked(lock)):
        raise ServerNotStarted(f"another server uses {folder}; give this one a state folder of its own")
    descriptor = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    deadline = time.monotonic() + _ENDING_S
    while not _locks(descriptor):
        if time.monotonic() > deadline:
            raise ServerNotStarted(f"the last server of {folder} has not ended in {_ENDING_S:g} s; try again later")
        time.sleep(_LOOK_S)
    held.append(descriptor)
    return folder


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
