"""Triton under its guardian, as the process that started it sees it: started, told something, ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from chextriev.serving import guardian
from chextriev.serving.guardian import GRACE_S, GuardedTask
from chextriev.serving.leftovers import end_processes, remove_memory, server_prefix

_COUNT = count(1)
_STOP_WAIT_S = 3 * GRACE_S


class GuardedServer:
    """One life of a Triton server. prefix: of its shared memory, which tells its processes too."""

    def __init__(self, task: GuardedTask, *, held: Iterable[int] = ()) -> None:
        """Start it; `held` are file descriptors that the guardian is to hold."""
        self.prefix = server_prefix(next(_COUNT))
        option = f"--backend-config=python,shm-region-prefix-name={self.prefix}"
        task = replace(task, command=[*task.command, option], prefix=self.prefix, parent=os.getpid())
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(guardian.__file__).absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            pass_fds=tuple(held),
        )
        self._tell(json.dumps(asdict(task)))

    @property
    def pid(self) -> int:
        """Process id of the guardian."""
        return self._process.pid

    def ended(self, *, within_s: float = 0.0) -> bool:
        """Whether server and guardian have ended; waits at most that long for it."""
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ready(self) -> None:
        """Say that the server has answered: from now on requests may show in its output."""
        self._tell("ready")

    def note(self, text: str) -> None:
        """Write a line of our own to the log."""
        self._tell(f"note {text}")

    def stop(self) -> list[str]:
        """End it and remove what is left, also after a guardian that was killed; its last lines if it was not ready."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        if not self.ended(within_s=_STOP_WAIT_S):
            self._process.kill()
        end_processes(self.prefix)
        remove_memory(self.prefix)
        with self._process as process:
            said = process.stdout.read() if process.stdout else ""
        return said.splitlines()

    def _tell(self, line: str) -> None:
        """Write to the guardian; one that has ended is noticed by `ended`."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
