"""Memory of a server and of the processes that run its models, while it works."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

Pids = Callable[[], Iterable[int]]


def held_bytes(pid: int) -> int:
    """Memory that a process holds, a shared page counted in parts (PSS), so that processes add up; Linux.

    Without that of files, as libraries, whose part depends on who else has them open.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


class MemoryWatch:
    """Samples the memory of some processes together, from the beginning to the end of a `with` block."""

    def __init__(self, pids: Pids, *, every_s: float) -> None:
        self._pids, self._every_s = pids, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory watch", daemon=True)
        self.samples: list[int] = []

    def __enter__(self) -> "MemoryWatch":
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._sample()

    def summary(self) -> dict[str, Any]:
        """In MB (10^6 bytes): medians of the first and of the last fifth of the samples, the growth between, the most.

        Medians, since a sample may fall into a batch that is being worked on.
        """
        fifth = max(1, len(self.samples) // 5)
        first, last = median(self.samples[:fifth]), median(self.samples[-fifth:])
        return {
            "samples": len(self.samples),
            "start_mb": first / 1e6,
            "end_mb": last / 1e6,
            "growth_mb": (last - first) / 1e6,
            "most_mb": max(self.samples) / 1e6,
        }

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self._sample()

    def _sample(self) -> None:
        total = 0
        for pid in self._pids():
            with suppress(ProcessLookupError, FileNotFoundError):  # it ended meanwhile
                total += held_bytes(pid)
        self.samples.append(total)
