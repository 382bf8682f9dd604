"""Shared memory of this host: regions that both ends map, and a bounded pool of them."""

import mmap
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chextriev.errors import DeadlineExpired, InvalidSetting

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"chextriev-client-(\d+)-(\d+)-(\d+)-[0-9a-f]{32}")
_SMALLEST = 2**20


class Region:
    """Memory that the server maps too. Its file has a random name, is its owner's alone, and is gone once both ends
    have it: a process that is killed leaves none behind.

    register: tells the server its name and size in bytes; called while the file is there.
    """

    def __init__(self, size: int, register: Callable[[str, int], None]) -> None:
        self.name, self.size = new_name(), size
        path = FOLDER / self.name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # else a full /dev/shm would kill the process at its first write
            self.memory = mmap.mmap(descriptor, size)
            register(self.name, size)
        except OSError as error:
            raise InvalidSetting(
                f"shared memory of {size:,} bytes: {error.strerror}; make /dev/shm larger, send less at once, or use"
                " grpc:// in place of shm://"
            ) from None
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def close(self) -> None:
        """Unmap it here; a view that is still held keeps it."""
        with suppress(BufferError):
            self.memory.close()


def new_name() -> str:
    """A random name that says whose it is: process namespace, process, and when that began."""
    return f"chextriev-client-{_namespace()}-{os.getpid()}-{_begun(os.getpid())}-{secrets.token_hex(16)}"


def is_orphan(name: str) -> bool:
    """Whether a client of this container made a region of this name and has ended, however it ended."""
    named = _NAME.fullmatch(name)
    return named is not None and named[1] == _namespace() and str(_begun(int(named[2]))) != named[3]


def reap() -> None:
    """Remove files of clients that were killed between making one and handing it over."""
    for path in FOLDER.glob("chextriev-client-*"):
        if is_orphan(path.name):
            with suppress(OSError):  # another user's, or gone meanwhile
                path.unlink()


def _namespace() -> str:
    return "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))


def _begun(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class RegionPool:
    """At most `count` regions at once, each used by one request at a time and then by another.

    make: a region of so many bytes. drop: called with one that is too small to be used again.
    """

    def __init__(self, count: int, make: Callable[[int], Region], drop: Callable[[Region], None]) -> None:
        self._count, self._free = count, threading.BoundedSemaphore(count)
        self._lock = threading.Lock()
        self._idle: list[Region] = []
        self._make, self._drop = make, drop

    def take(self, size: int, timeout_s: float) -> Region:
        """A region of at least `size` bytes; DeadlineExpired where none became free in time."""
        if not self._free.acquire(timeout=timeout_s):
            raise DeadlineExpired(f"no shared memory became free within {timeout_s:.3g} s; send fewer at once")
        try:
            with self._lock:
                idle = self._idle.pop() if self._idle else None
            if idle is not None and idle.size >= size:
                return idle
            if idle is not None:
                self._drop(idle)
            return self._make(max(_SMALLEST, 1 << (size - 1).bit_length()))
        except BaseException:
            self._free.release()
            raise

    def give_back(self, region: Region) -> None:
        """A region whose request has ended on the server too."""
        with self._lock:
            self._idle.append(region)
        self._free.release()

    def lose(self) -> None:
        """Count out a region that is not to be used again."""
        self._free.release()

    def empty(self, timeout_s: float) -> list[Region]:
        """The idle regions, which leave the pool, once none is in use or this time is over; then it gives no more."""
        end = time.monotonic() + timeout_s
        for _ in range(self._count):
            self._free.acquire(timeout=max(0.0, end - time.monotonic()))
        with self._lock:
            idle, self._idle = self._idle, []
        return idle
