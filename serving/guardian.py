"""A small process between us and Triton, so that nothing of a server outlives whoever started it.

It starts `tritonserver`, writes what may be kept of its output to a log that rotates, and ends it when it is told to or
when its parent ends, killed with -9 included; then it removes the server's shared memory. If the guardian itself is
killed, the kernel kills Triton. It is run as a file by an interpreter that looks for no package (`python -I -S`), since
ours takes more memory and time than all of the guardian; so it loads its two neighbours by their path.

On standard input: a line of JSON (`GuardedTask`), then lines `ready` or `note TEXT`, and its end to stop. On standard
output: when the server ended before it was ready, what it said last, without paths. Exit status: 0 where it was
stopped, 3 where the server ended by itself.
"""

import ctypes
import importlib.util
import json
import logging.handlers
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO

ENDED = 3
"""Exit status: the server ended, and nobody had asked it to."""
GRACE_S = 8.0
"""From SIGTERM to SIGKILL: Triton's own limit (`--exit-timeout-secs`), and what it takes to unload."""
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_LINE_LIMIT = 8_192
_LAST_LINES = 40
_NO_FAULT = re.compile(r"\S+ [IW] \d+ \S+\] |[|+]|\s*$")  # information, warnings, tables, empty lines


@dataclass(frozen=True)
class GuardedTask:
    """What a guardian is to run.

    variables: the environment. prefix: of its shared memory. parent: process id of whom it belongs to. models: names
    that the log may hold. private: folders that nothing may name. temporary: whether to remove the folder where the
    parent has ended and cannot.
    """

    command: list[str]
    variables: dict[str, str]
    folder: str
    log: str
    log_bytes: int
    log_files: int
    models: list[str]
    private: list[str]
    temporary: bool
    prefix: str = ""
    parent: int = 0


class Guardian:
    """Watches one Triton."""

    def __init__(self, task: GuardedTask) -> None:
        self._task = task
        self._leftovers, words = _neighbour("leftovers"), _neighbour("server_log")
        self._filter, self._without_paths = words.LineFilter(task.models), words.without_paths
        self._log = logging.handlers.RotatingFileHandler(
            task.log, maxBytes=task.log_bytes, backupCount=task.log_files, encoding="utf-8"
        )
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._folders: set[Path] = set()  # before the server is started, others'; when it is ready, its own

    def run(self, words: IO[str]) -> int:
        """Start the server; the exit status, when it has ended and nothing is left of it."""
        libc = ctypes.CDLL(None)
        libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what Triton leaves when it dies becomes ours to reap
        self._folders = self._leftovers.backend_folders()
        server = self._start(libc)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop(server))
        output = threading.Thread(target=self._keep_output, args=(server.stdout,), daemon=True)
        output.start()
        threading.Thread(target=self._obey, args=(words, server), daemon=True).start()
        threading.Thread(target=self._outlive_nobody, args=(server,), daemon=True).start()
        status = server.wait()
        self._note(f"server ended with status {status}" + ("" if self._stopping.is_set() else ", unasked"))
        self._clean()
        output.join(GRACE_S)
        if not self._ready.is_set():
            print("\n".join(self._last), flush=True)  # noqa: T201 - its parent reads this
        if self._task.temporary and os.getppid() != self._task.parent:
            shutil.rmtree(self._task.folder, ignore_errors=True)
        return 0 if self._stopping.is_set() else ENDED

    def _start(self, libc: ctypes.CDLL) -> "subprocess.Popen[bytes]":
        guardian = os.getpid()

        def prepare() -> None:
            libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold radiographs
            if os.getppid() != guardian:
                os._exit(1)

        return subprocess.Popen(
            self._task.command,
            env=self._task.variables,
            cwd=self._task.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,
        )

    def _stop(self, server: "subprocess.Popen[bytes]") -> None:
        """End the server, by force if it does not heed."""
        if not self._stopping.is_set():
            self._stopping.set()
            server.terminate()
            force = threading.Timer(GRACE_S, server.kill)
            force.daemon = True
            force.start()

    def _obey(self, words: IO[str], server: "subprocess.Popen[bytes]") -> None:
        for line in words:
            word, _, text = line.strip().partition(" ")
            if word == "ready" and not self._ready.is_set():
                self._folders = self._leftovers.backend_folders() - self._folders
                self._ready.set()
            elif word == "note":
                self._note(text)
        self._stop(server)

    def _outlive_nobody(self, server: "subprocess.Popen[bytes]") -> None:
        """Stop when the parent ends, even where a process that it forked holds our standard input open."""
        with suppress(OSError):
            ended = select.poll()
            ended.register(os.pidfd_open(self._task.parent), select.POLLIN)
            if os.getppid() == self._task.parent:
                ended.poll()
            self._stop(server)

    def _keep_output(self, output: IO[bytes]) -> None:
        whole = True
        while line := output.readline(_LINE_LIMIT):
            begins, whole = whole, line.endswith(b"\n")
            if begins:
                self._keep(line.decode(errors="replace").rstrip("\n"))

    def _keep(self, line: str) -> None:
        kept = self._filter.kept(line)
        if kept is not None:
            self._write(kept)
        if not self._ready.is_set() and not _NO_FAULT.match(line):
            self._last.append(self._without_paths(line, *self._task.private))

    def _note(self, text: str) -> None:
        self._write(time.strftime("%Y-%m-%dT%H:%M:%SZ N ", time.gmtime()) + text)

    def _write(self, line: str) -> None:
        self._log.emit(logging.makeLogRecord({"msg": line}))

    def _clean(self) -> None:
        self._leftovers.end_processes(self._task.prefix)
        self._leftovers.remove_memory(self._task.prefix)
        made = self._folders if self._ready.is_set() else self._leftovers.backend_folders() - self._folders
        self._leftovers.remove_empty(made)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _neighbour(name: str) -> ModuleType:
    """A file beside this one, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Run the task that standard input gives."""
    os.umask(0o077)  # what it and Triton write is for their user alone
    task = GuardedTask(**json.loads(sys.stdin.readline()))
    return Guardian(task).run(sys.stdin)


if __name__ == "__main__":
    # Not sys.exit: a thread that waits for a word holds the lock of standard input, which Python wants when it ends.
    os._exit(main())
