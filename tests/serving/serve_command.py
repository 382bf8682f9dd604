"""`chextriev serve` as a process of its own, and what of it is on the machine, read from Linux rather than from us."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("tritonserver", "triton_python_backend_stub")
LISTENING = "0A"
MAPPED = "0000000000000000FFFF0000"  # what an address of version 4 begins with where it stands as one of version 6


@dataclass(frozen=True)
class ServeCommand:
    """A running command that has said that it is ready. ready: what it said."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    repository: Path

    @property
    def ports(self) -> list[int]:
        """Where it listens, as it says."""
        return [int(self.ready[kind].rpartition(":")[2]) for kind in ("grpc", "http", "metrics")]

    @property
    def guardian(self) -> int:
        """Process id of the guardian."""
        (guardian,) = [
            pid
            for pid, words in command_lines()
            if words[-1].endswith("guardian.py") and parent(pid) == self.process.pid
        ]
        return guardian

    @property
    def triton(self) -> int:
        """Process id of Triton."""
        (triton,) = [pid for pid in programs_of(self.repository) if parent(pid) == self.guardian]
        return triton

    @property
    def memory(self) -> list[str]:
        """Names of shared memory that bear its process id."""
        return [path.name for path in Path("/dev/shm").iterdir() if f"-{self.process.pid}-" in path.name]

    def next_event(self) -> dict[str, Any]:
        """What it says next."""
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said


@contextmanager
def serve_command(repository: Path, state: Path) -> Iterator[ServeCommand]:
    """Start it, and kill whatever is left of it at the end."""
    words = [
        sys.executable,
        "-m",
        "chextriev",
        "serve",
        "--repository",
        str(repository),
        "--state",
        str(state),
        "--json",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the command ended before it was ready"
            yield ServeCommand(process, json.loads(line), repository)
        finally:
            process.kill()
            for pid in programs_of(repository):
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)


def programs_of(repository: Path) -> list[int]:
    """Process ids of Triton and its models that were started with this repository."""
    return [
        pid
        for pid, words in command_lines()
        if Path(words[0]).name in PROGRAMS and any(str(repository) in word for word in words)
    ]


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Of every living process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                if words != [""]:
                    yield int(entry.name), words


def parent(pid: int) -> int:
    """Of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def await_end(pids: Iterable[int], *, deadline_s: float) -> None:
    """Return when all have ended; AssertionError after the deadline."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            assert ended.poll(1000 * deadline_s), f"process {pid} still runs after {deadline_s} s"
        finally:
            os.close(descriptor)


def listening(pid: int | None = None) -> set[tuple[str, int]]:
    """(address in hex, port) of every listening TCP socket, or of those of one process."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and (pid is None or fields[9] in _sockets(pid)):
                address, _, port = fields[1].partition(":")
                found.add((address.removeprefix(MAPPED), int(port, 16)))
    return found


def _sockets(pid: int) -> set[str]:
    """Inodes of the sockets of a process."""
    links = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.add(os.readlink(entry))
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
