"""A server that keeps its address while the Triton behind it may be started more than once."""

import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from chextriev.errors import ServerNotStarted
from chextriev.serving.canary import ServerControl, answers_canary
from chextriev.serving.environment import ServerEnvironment
from chextriev.serving.guarded import GuardedServer
from chextriev.serving.guardian import GuardedTask
from chextriev.serving.leftovers import ServerProcess, listening_ports, server_processes
from chextriev.serving.server_log import without_paths
from chextriev.serving.server_settings import ServerSettings
from chextriev.serving.supervisor import ServerEvent
from chextriev.serving.triton_options import ADMIN, LOOPBACK, TAKEN, free_ports, model_names, port_taken, triton_command

LOG_FILE = "server.log"
_ATTEMPTS = 3  # a port that was free may be taken by another before the server has it
_LOOK_S = 0.1
_OPEN_S = 5.0
_FAULT = re.compile(r'\S+ [EF] \d+ \S+\] "(.*?)(?:\\n.*)?"?')  # of an error's lines, the first is enough
_NO_FAULT = re.compile("CUDA|Cuda")  # Triton complains of a missing GPU
_SAID_FAULTS, _SAID_LINES = 3, 6


@dataclass(frozen=True)
class ServerPlace:
    """Where a server finds what it needs. folder: for its log. held: descriptors that lock what it uses."""

    repository: Path
    environment: ServerEnvironment
    folder: Path
    held: tuple[int, ...] = ()


class ServerLives:
    """A server, as its supervisor needs it. Several threads may use it."""

    def __init__(self, place: ServerPlace, settings: ServerSettings) -> None:
        self.ports = (0, 0, 0)
        self.models: tuple[str, ...] = ()
        self.ensembles: tuple[str, ...] = ()
        self.events: list[ServerEvent] = []
        self._place, self._settings = place, settings
        self._names, self._key = model_names(place.repository), secrets.token_hex(16)
        self._news = threading.Condition()
        self._closing, self._change = threading.Event(), threading.Lock()
        self._life: GuardedServer | None = None

    @property
    def control(self) -> ServerControl:
        """What to ask it with."""
        return ServerControl(f"{LOOPBACK}:{self.ports[0]}", self.admin)

    @property
    def admin(self) -> dict[str, str]:
        """Headers of gRPC that open the restricted protocols."""
        return {f"triton-grpc-protocol-{ADMIN}": self._key}

    def start(self) -> None:
        """Start it and wait until it is ready; another free port is tried where one was taken meanwhile."""
        for attempt in range(_ATTEMPTS):
            self.ports = free_ports(self._settings.ports)  # outside: a port that was asked for and is taken stays so
            try:
                self._start()
                break
            except ServerNotStarted as error:
                if TAKEN not in str(error) or attempt == _ATTEMPTS - 1:
                    raise
        self.record("ready", "every ensemble answers")

    def restart(self) -> None:
        """End it and start it again on the same ports; ServerNotStarted where that fails."""
        self._end_life()
        self._start()

    def end(self) -> None:
        """End it for good; a start on its way is given up."""
        self._closing.set()
        self._end_life()

    def ended(self) -> bool:
        """Whether Triton or its guardian has ended."""
        return self._life is None or self._life.ended()

    def answers(self) -> bool:
        """Whether every ensemble answers now."""
        return answers_canary(self.control)

    def processes(self) -> list[ServerProcess]:
        """Its living processes: Triton, and one or more of each model that runs in Python."""
        return server_processes(self._life.prefix) if self._life else []

    def record(self, kind: str, text: str, detail: str = "") -> None:
        """Note an event, without the detail also in the log."""
        with self._news:
            if self._life is not None:
                self._life.note(f"{kind}: {text}")
            self.events.append(ServerEvent(kind, text, time.time(), detail))
            self._news.notify_all()

    def wait_event(self, number: int, timeout_s: float | None = None) -> ServerEvent | None:
        """The event of this number, counted from 0, when it happens; None where it does not within the time."""
        with self._news:
            self._news.wait_for(lambda: len(self.events) > number, timeout_s)
            return self.events[number] if len(self.events) > number else None

    def _start(self) -> None:
        with self._change:
            if self._closing.is_set():
                raise ServerNotStarted("the server is being stopped")
            self._life = life = GuardedServer(self._task(), held=self._place.held)
        deadline = time.monotonic() + self._settings.start_timeout_s
        while not answers_canary(self.control):
            if life.ended(within_s=_LOOK_S):
                raise ServerNotStarted(f"Triton ended before it was ready; {self._last_words()}")
            if time.monotonic() > deadline:
                raise ServerNotStarted(
                    f"no answer within {self._settings.start_timeout_s:g} s; {self._last_words()}; give it more time"
                    " (start_timeout_s)"
                )
        self._check_ports(life)
        life.ready()
        self.models = tuple(sorted(name for name, state in self.control.models().items() if state == "READY"))
        self.ensembles = tuple(sorted(self.control.ensembles()))

    def _end_life(self) -> list[str]:
        with self._change:
            life, self._life = self._life, None
        return life.stop() if life else []

    def _last_words(self) -> str:
        """What Triton complained of."""
        lines = [line for line in self._end_life() if not _NO_FAULT.search(line)]
        faults = [found[1] for found in map(_FAULT.fullmatch, lines) if found]
        said = list(dict.fromkeys(faults))[:_SAID_FAULTS] or lines[-_SAID_LINES:]
        return "it says: " + (without_paths(" | ".join(said)) or "nothing")

    def _check_ports(self, life: GuardedServer) -> None:
        """ServerNotStarted where Triton has not all of its ports: of one that is taken it says nothing itself.

        It opens that of gRPC first, and answers there before the others are open.
        """
        deadline = time.monotonic() + _OPEN_S
        while missing := set(self.ports) - self._listening():
            if life.ended(within_s=_LOOK_S):
                raise ServerNotStarted(f"Triton ended before it was ready; {self._last_words()}")
            if time.monotonic() > deadline:
                self._end_life()
                raise port_taken(min(missing))

    def _listening(self) -> set[int]:
        """Ports on which Triton listens."""
        return {port for process in self.processes() if not process.model for port in listening_ports(process.pid)}

    def _task(self) -> GuardedTask:
        place, settings = self._place, self._settings
        return GuardedTask(
            command=triton_command(place.environment, place.repository, self._names, ports=self.ports, key=self._key),
            variables=place.environment.variables(),
            folder=str(place.folder),
            log=str(place.folder / LOG_FILE),
            log_bytes=settings.log_bytes,
            log_files=settings.log_files,
            models=self._names,
            private=[str(place.repository), str(place.folder), str(place.environment.packages.parent)],
            temporary=settings.state is None,
        )
