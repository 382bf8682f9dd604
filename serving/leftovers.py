"""What a server holds of the machine, told by its prefix: processes and shared memory, also those that it left behind.

Every server gets a prefix for its shared memory that names who started it; Triton hands it to the Python process of
each model on the command line. The guardian loads this file by itself: it imports nothing but Python's own library.
"""

import os
import re
import select
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MEMORY = Path("/dev/shm")
TEMPORARY = Path("/tmp")  # Triton's Python backend has no other, whatever TMPDIR says
PROGRAMS = ("tritonserver", "triton_python_backend_stub")
_ENVIRONMENTS = "python_env_*"
_NAME = re.compile(r"(chextriev-(\d+)-(\d+)-(\d+)-\d+-).*", re.DOTALL)
_KILL_WAIT_MS = 5_000
_LISTENING = "0A"  # in /proc/net/tcp


@dataclass(frozen=True)
class ServerProcess:
    """A process of a server. model: the folder's name of the model that a stub runs; None for Triton itself."""

    pid: int
    begun: int  # clock ticks since the machine started: with the pid, its identity
    model: str | None
    memory: str | None  # the name in /dev/shm that a stub shares with Triton


def server_prefix(count: int) -> str:
    """Prefix of the shared memory of this process's server number `count`."""
    return f"chextriev-{_namespace()}-{os.getpid()}-{begun(os.getpid())}-{count}-"


def begun(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def server_processes(prefix: str) -> list[ServerProcess]:
    """The living processes of the server with this prefix."""
    found = (_server_process(int(entry.name), prefix) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which a process of ours listens."""
    sockets = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(entry))
    ports = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in sockets:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def end_processes(prefix: str) -> None:
    """Kill what lives of a server, and wait until it has ended."""
    for process in server_processes(prefix):
        end_process(process)


def end_process(process: ServerProcess) -> None:
    """Kill a process if it lives, wait until it has ended, and remove the memory that it shared with Triton."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if begun(process.pid) == process.begun:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait(descriptor)
        finally:
            os.close(descriptor)
    if process.memory:
        with suppress(OSError):
            (MEMORY / process.memory).unlink(missing_ok=True)


def server_memory(prefix: str) -> list[Path]:
    """The shared memory of a server."""
    return [path for path in MEMORY.iterdir() if path.name.startswith(prefix)] if MEMORY.is_dir() else []


def remove_memory(prefix: str) -> None:
    """Remove the shared memory of a server."""
    for path in server_memory(prefix):
        with suppress(OSError):
            path.unlink()


def backend_folders() -> set[Path]:
    """Folders of ours that Triton's Python backend made in /tmp when it was loaded; a stopped one leaves its own."""
    found = set()
    for path in TEMPORARY.glob(_ENVIRONMENTS):
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                found.add(path)
    return found


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those that hold nothing."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def reap_servers() -> list[str]:
    """End and remove what servers left whose starters have ended, however they ended; the prefixes of these.

    Process ids of another container mean nothing here, so what its servers left is its own.
    """
    dead = sorted({prefix for prefix, alive in _owners() if not alive})
    for prefix in dead:
        end_processes(prefix)
        remove_memory(prefix)
    return dead


def _owners() -> Iterator[tuple[str, bool]]:
    """Prefixes of shared memory of servers started in this container, and whether the starter lives."""
    for path in server_memory("chextriev-"):
        named = _NAME.fullmatch(path.name)
        if named and named[2] == _namespace():
            yield named[1], begun(int(named[3])) == int(named[4])


def _namespace() -> str:
    """The container's process namespace, as a number."""
    return "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))


def _server_process(pid: int, prefix: str) -> ServerProcess | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if Path(words[0]).name not in PROGRAMS or not any(prefix in word for word in words):
        return None
    started = begun(pid)
    if started is None:
        return None
    stub = Path(words[0]).name == PROGRAMS[1]
    memory = next((word for word in words[1:] if word.startswith(prefix)), None)
    return ServerProcess(pid, started, Path(words[1]).parent.parent.name if stub else None, memory)


def _wait(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(_KILL_WAIT_MS)
